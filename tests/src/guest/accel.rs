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

/// What came of trying whether stock guests run under KVM.
#[derive(Debug, Clone)]
pub struct Tried {
    /// How guests run from now on.
    pub accel: Accel,
    /// What was tried, and what happened: a sentence without its full stop.
    pub found: String,
}

/// What this process goes by.
static KNOWN: OnceLock<Accel> = OnceLock::new();

impl Accel {
    /// The fastest way that works here. `SIDECORE_ACCEL=kvm|tcg` decides it by hand.
    ///
    /// A /dev/kvm that opens says little: where it is implemented in software, stock kernels do not boot. So one guest is
    /// booted once, and the answer kept in `target/guest` for this kernel of this host.
    pub fn detect(image: &GuestImage) -> Result<Self> {
        if let Some(known) = KNOWN.get() {
            return Ok(*known);
        }
        let accel = match decided_without_trying()? {
            Some(tried) => tried.accel,
            None => match fs::read_to_string(cache_file(image)?).ok().as_deref().and_then(Self::from_name) {
                Some(accel) => accel,
                None => boot(image)?.accel,
            },
        };
        Ok(*KNOWN.get_or_init(|| accel))
    }

    /// The same, tried now, whatever was found before.
    pub fn try_out(image: &GuestImage) -> Result<Tried> {
        let tried = match decided_without_trying()? {
            Some(tried) => tried,
            None => boot(image)?,
        };
        // Guests that were started before this have gone by the same answer, or by one that is kept no longer.
        let _ = KNOWN.set(tried.accel);
        Ok(tried)
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
}

/// Where there is nothing to be tried.
fn decided_without_trying() -> Result<Option<Tried>> {
    if let Ok(name) = std::env::var("SIDECORE_ACCEL") {
        let found = format!("SIDECORE_ACCEL={name}");
        let accel = Accel::from_name(&name).with_context(|| format!("{found}: use kvm or tcg"))?;
        return Ok(Some(Tried { accel, found }));
    }
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    Ok(opened.err().map(|error| Tried { accel: Accel::Tcg, found: format!("/dev/kvm does not open: {error}") }))
}

/// Boots a guest under KVM, and keeps the answer.
fn boot(image: &GuestImage) -> Result<Tried> {
    let what = format!("Linux {} in QEMU with -accel kvm -cpu {}", image.version, Accel::Kvm.cpu());
    let tried = match boot_probe(image, Accel::Kvm, KVM_DEADLINE) {
        Ok(time) => Tried { accel: Accel::Kvm, found: format!("{what} booted in {:.1} s", time.as_secs_f64()) },
        Err(error) => Tried { accel: Accel::Tcg, found: format!("{what} did not boot: {error:#}") },
    };
    fs::write(cache_file(image)?, tried.accel.name())?;
    Ok(tried)
}

/// One answer for each pair of host kernel and guest kernel.
fn cache_file(image: &GuestImage) -> Result<PathBuf> {
    let host = must(&["uname", "-r"])?;
    Ok(Path::new(&paths::target("guest")?).join(format!("accel-{}-{}", host.trim(), image.version)))
}
