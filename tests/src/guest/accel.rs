//! Whether this machine's KVM can run a stock kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

use super::image::GuestImage;
use super::qemu::boot_probe;
use crate::paths;
use crate::process::must;

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By translation, in software.
    Tcg,
}

/// Time for a guest to boot under KVM: hardware needs about a second.
const KVM_DEADLINE: Duration = Duration::from_secs(8);

impl Accel {
    /// The fastest way that works here. `SIDECORE_ACCEL=kvm|tcg` decides it by hand.
    ///
    /// A /dev/kvm that opens says little: where it is implemented in software, stock kernels do not boot. So one guest is
    /// booted once, and the answer kept in `target/guest` for this kernel of this host.
    pub fn detect(image: &GuestImage) -> Result<Self> {
        static KNOWN: OnceLock<Accel> = OnceLock::new();
        if let Some(known) = KNOWN.get() {
            return Ok(*known);
        }
        let accel = Self::find(image)?;
        Ok(*KNOWN.get_or_init(|| accel))
    }

    /// QEMU's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's CPU model for it.
    pub(super) fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            // Five-level page tables cost TCG a second of boot time.
            Self::Tcg => "max,la57=off",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Kvm, Self::Tcg].into_iter().find(|accel| accel.name() == name.trim())
    }

    fn find(image: &GuestImage) -> Result<Self> {
        if let Ok(name) = std::env::var("SIDECORE_ACCEL") {
            return Self::from_name(&name).with_context(|| format!("SIDECORE_ACCEL={name}: use kvm or tcg"));
        }
        let usable = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if !usable {
            return Ok(Self::Tcg);
        }
        let cache = cache_file(image)?;
        if let Some(accel) = fs::read_to_string(&cache).ok().as_deref().and_then(Self::from_name) {
            return Ok(accel);
        }
        let accel = match boot_probe(image, Self::Kvm, KVM_DEADLINE) {
            Ok(()) => Self::Kvm,
            Err(_) => Self::Tcg,
        };
        fs::write(&cache, accel.name())?;
        Ok(accel)
    }
}

/// One answer for each pair of host kernel and guest kernel.
fn cache_file(image: &GuestImage) -> Result<PathBuf> {
    let host = must(&["uname", "-r"])?;
    Ok(Path::new(&paths::target("guest")?).join(format!("accel-{}-{}", host.trim(), image.version)))
}
