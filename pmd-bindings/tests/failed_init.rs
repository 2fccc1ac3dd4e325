//! An EAL that cannot start says why.

mod common;

use pmd_bindings::{Eal, EalConfig, Error};

#[test]
fn a_failed_start_carries_dpdks_text_and_what_it_logged() {
    let config = EalConfig { extra_args: vec!["--no-such-option".into()], ..common::config() };
    let Err(Error::Dpdk(error)) = Eal::init(config) else { panic!("the option must be refused") };
    assert_eq!((error.call, error.code), ("rte_eal_init", 22));
    assert_eq!(error.text, "Invalid argument");
    assert!(error.log.contains("Invalid 'command line' arguments"), "{}", error.log);
    assert!(matches!(Eal::init(common::config()), Err(Error::AlreadyInitialised)));
}
