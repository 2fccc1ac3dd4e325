//! Linux guests in QEMU: a Debian cloud kernel, a busybox initramfs, and a shell on the serial line.

mod accel;
mod console;
mod cpio;
mod image;
mod options;
mod qemu;
mod qmp;
mod stats;

pub use accel::{Accel, Tried};
pub use image::{DIGEST_PORT, GuestImage};
pub use options::{GuestOptions, SocketMode, VirtioOptions};
pub use qemu::{GUEST_INTERFACE, QemuGuest};
pub use qmp::Qmp;
pub use stats::{Counters, VcpuStats};
