//! The guests' kernel and initramfs, built from what the system's packages hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::cpio::Archive;
use crate::paths;
use crate::process::run;

/// TCP port on which every guest answers a stream with its SHA-256.
pub const DIGEST_PORT: u16 = 5000;

const BUSYBOX: &str = "/bin/busybox";
const IPERF3: &str = "/usr/bin/iperf3";
const INIT: &str = include_str!("init.sh");

/// Modules that every guest inserts; what these need is found in the modules themselves.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Modules that are there for a test to insert.
const MODULES_ON_DEMAND: [&str; 1] = ["pktgen"];

/// A bootable guest: kernel and initramfs.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The kernel's version.
    pub version: String,
}

impl GuestImage {
    /// The image for the newest Debian cloud kernel found; built when it is not there yet. Kept under `target/guest`.
    pub fn get() -> Result<Self> {
        let (kernel, root, version) = find_kernel()?;
        let modules = root.join("lib/modules").join(&version).join("kernel");
        ensure!(modules.is_dir(), "no modules for {} in {}", kernel.display(), modules.display());

        let key = cache_key(&version)?;
        let initramfs = paths::target("guest")?.join(format!("initramfs-{version}-{key}.cpio"));
        if !initramfs.is_file() {
            let partial = initramfs.with_extension(format!("new{}", std::process::id()));
            fs::write(&partial, build(&modules)?)?;
            // Another test may be doing the same: whoever renames last leaves the same content.
            fs::rename(&partial, &initramfs)?;
            remove_older(&initramfs)?;
        }
        Ok(Self { kernel, initramfs, version })
    }

    /// The same with more programs of this machine in /bin, made at `initramfs`. The kernel unpacks archives that follow each other.
    pub(super) fn with_programs(&self, programs: &[PathBuf], initramfs: &Path) -> Result<Self> {
        if programs.is_empty() {
            return Ok(self.clone());
        }
        let mut more = Archive::default();
        let mut libraries = BTreeSet::new();
        for program in programs {
            let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
            more.file(&format!("bin/{}", name.display()), &read(program)?);
            libraries.extend(shared_libraries(&program.display().to_string())?);
        }
        add_libraries(&mut more, &libraries)?;
        fs::write(initramfs, [read(&self.initramfs)?, more.finish()].concat())?;
        Ok(Self { initramfs: initramfs.to_owned(), ..self.clone() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

fn add_libraries(archive: &mut Archive, libraries: &BTreeSet<String>) -> Result<()> {
    for library in libraries {
        archive.file(library.trim_start_matches('/'), &read(Path::new(library))?);
    }
    Ok(())
}

/// Removes images that were built from something else.
fn remove_older(initramfs: &Path) -> Result<()> {
    let dir = initramfs.parent().context("an image without a folder")?;
    for path in fs::read_dir(dir)?.flatten().map(|entry| entry.path()) {
        if path != initramfs && path.extension().is_some_and(|extension| extension == "cpio") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The newest cloud kernel: installed, or unpacked by scripts/install-deps.sh. With the root of its files and its version.
fn find_kernel() -> Result<(PathBuf, PathBuf, String)> {
    let unpacked = paths::workspace().join("target/guest/kernel");
    let mut found = Vec::new();
    for root in [PathBuf::from("/"), unpacked] {
        let Ok(entries) = fs::read_dir(root.join("boot")) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(version) = name.strip_prefix("vmlinuz-")
                && version.contains("-cloud-")
            {
                found.push((modified(&entry.path()), entry.path(), root.clone(), version.to_owned()));
            }
        }
    }
    found.sort();
    let (_, kernel, root, version) =
        found.pop().context("no Debian cloud kernel found: run scripts/install-deps.sh demo")?;
    Ok((kernel, root, version))
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(std::time::UNIX_EPOCH)
}

/// Changes with everything an image is built from.
fn cache_key(version: &str) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(version);
    hash.update(INIT);
    hash.update(MODULES.join(" "));
    for program in [BUSYBOX, IPERF3] {
        let meta =
            fs::metadata(program).with_context(|| format!("{program} is missing: run scripts/install-deps.sh demo"))?;
        hash.update(format!("{program} {} {:?}", meta.len(), meta.modified()?));
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn build(modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "tmp", "modules", "lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.directory(dir);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.file("init", INIT.replace("DIGEST_PORT", &DIGEST_PORT.to_string()).as_bytes());
    archive.file("bin/busybox", &fs::read(BUSYBOX)?);
    archive.symlink("bin/sh", "busybox");
    archive.file("bin/iperf3", &fs::read(IPERF3)?);
    let mut libraries = shared_libraries(IPERF3)?;
    // A busybox that is not the static one will do as well.
    libraries.extend(shared_libraries(BUSYBOX)?);
    add_libraries(&mut archive, &libraries)?;
    let mut order = String::new();
    let mut files = BTreeMap::new();
    index_modules(modules, &mut files)?;
    for (name, content) in modules_in_order(&files)? {
        archive.file(&format!("modules/{name}.ko"), &content);
        order.push_str(&format!("{name}.ko\n"));
    }
    for name in MODULES_ON_DEMAND {
        let path = files.get(name).with_context(|| format!("kernel module {name} is missing"))?;
        archive.file(&format!("modules/{name}.ko"), &fs::read(path)?);
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// Paths of the shared libraries of a program, the loader included. None for a static one.
fn shared_libraries(program: &str) -> Result<BTreeSet<String>> {
    let listing = run(&["ldd", program], Duration::from_secs(10))?;
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let paths: BTreeSet<String> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect();
    for path in &paths {
        let known = path.starts_with("/lib/x86_64-linux-gnu/") || path.starts_with("/lib64/");
        ensure!(known, "{program} needs {path}, a place the guest image does not have");
    }
    Ok(paths)
}

/// [`MODULES`] and all they depend on, each after what it needs.
fn modules_in_order(files: &BTreeMap<String, PathBuf>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut order = Vec::new();
    for module in MODULES {
        add_module(module, files, &mut order)?;
    }
    Ok(order)
}

fn index_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            index_modules(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add_module(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let Some(path) = files.get(name) else {
        bail!("kernel module {name} (as an uncompressed .ko file) is missing");
    };
    let content = fs::read(path)?;
    for needed in dependencies(&content) {
        add_module(&needed, files, order)?;
    }
    order.push((name.to_owned(), content));
    Ok(())
}

/// The `depends=` entry of a module's .modinfo: there is no modules.dep for a kernel that is only unpacked.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value: Vec<u8> = module[at + KEY.len()..].iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(dependencies(b"xx\0depends=virtio,net-failover\0yy"), ["virtio", "net_failover"]);
        assert!(dependencies(b"xx\0depends=\0yy").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }
}
