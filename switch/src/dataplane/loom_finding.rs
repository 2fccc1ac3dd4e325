//! What loom finds wrong with a model.

use std::panic::{UnwindSafe, catch_unwind};

/// The words of the assertion that failed in some interleaving; none where every one was right. A check that loom itself gives up, since it would
/// take too long, say, ends in other words than the model's.
pub(super) fn finding(check: impl FnOnce() + UnwindSafe) -> String {
    let Err(panic) = catch_unwind(check) else { return String::new() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[test]
fn what_is_found_is_what_the_assertion_says() {
    assert_eq!(finding(|| ()), "");
    assert_eq!(finding(|| panic!("words")), "words");
    assert!(finding(|| assert_eq!(1, 2, "no {}", "words")).contains("no words"));
}
