//! VM exits per packet, by KVM's own count: `make exits`.
//!
//! A minimal virtual machine runs one program, an ordinary Rust function of this binary, in ring 3. The program drives two
//! virtio-net devices, both ports of a switch, with the ring driver that the synthetic guests use. So nothing but what the
//! rings ask for can make it exit: a kick is a store to an MMIO address (ioeventfd), a call is an interrupt (irqfd).
//! For x86-64 only.
//!
//! Where stock guests run under KVM, the same is counted of Linux guests, whose exits QEMU tells (QMP `query-stats`).
//!
//! | module | what it is |
//! |---|---|
//! | [`vmm`] | the virtual machine, and KVM's counters. The only module with `unsafe` |
//! | [`program`] | what the guest does: round trips, a stream, nothing |
//! | [`machine`] | where the program runs: the virtual machine, or a thread where there is no KVM |
//! | [`scene`] | a switch and the guest's two devices |
//! | [`measure`] | a row of the table |
//! | [`linux`] | the same for Linux guests |
//! | [`report`] | the table, the JSON, and whether the figures are to be believed |
#![deny(unsafe_code)]

pub mod linux;
pub mod machine;
pub mod measure;
pub mod program;
pub mod report;
pub mod scene;
#[allow(unsafe_code)]
pub mod vmm;
