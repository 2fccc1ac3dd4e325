//! What Sidecore's end-to-end tests and its demo are made of: QEMU guests, DPDK guests, the hosts around them, and the
//! switch itself, each as a value that is started, asked, and cleaned up when dropped.
//!
//! Nothing here links the switch: tests drive the built binary from outside, as users do.
//!
//! | module | what it stands for |
//! |---|---|
//! | [`guest`] | a Linux guest: its image, its QEMU process, its console and QMP |
//! | [`host`] | anything a shell command can run on: a guest, or a network namespace |
//! | [`net`] | namespaces and veth pairs |
//! | [`switch`] | the `sidecore` process, its configuration and its status |
//! | [`testpmd`] | DPDK's testpmd as a virtio guest or as a vhost backend |
//! | [`lab`] | the usual set-up: guests, an outside host, the switch |
//! | [`browser`] | a headless Chromium, for the page that the switch serves |
//! | [`http`] | single requests to a server on this machine |
//! | [`circuit`] | packets that testpmd sends round through the switch |
//! | [`tcp`] | TCP between Linux guests: a stream, or requests and their answers |
//! | [`traffic`] | pings, transfers whose SHA-256 is compared, iperf3 |
//! | [`wake`] | how long a CPU may take to wake up |
//! | [`process`], [`hugepages`], [`paths`], [`rules`], [`interrupt`] | processes, memory, places, the rules of a test run, Ctrl-C |
#![forbid(unsafe_code)]

pub mod browser;
pub mod circuit;
pub mod guest;
pub mod host;
pub mod http;
pub mod hugepages;
pub mod interrupt;
pub mod lab;
pub mod net;
pub mod paths;
pub mod process;
pub mod rules;
pub mod switch;
pub mod tcp;
pub mod testpmd;
pub mod traffic;
pub mod wake;
