//! Memory regions as a frontend sends them: which files may be guest memory, and how many there may be.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vhost::vhost_user::message::{MAX_ATTACHED_FD_ENTRIES, VhostUserMemoryRegion};

use super::error::Refusal;
use crate::address::{FrontendAddr, GuestPhysAddr};
use crate::memory::{GuestMemory, MemorySlot};

/// The most regions at a time. The crate takes 32 in one SET_MEM_TABLE; ADD_MEM_REG brings them one by one, and QEMU asks for as many
/// slots as the guest may have DIMMs.
pub(super) const MAX_SLOTS: usize = 64;
const _: () = assert!(MAX_SLOTS >= MAX_ATTACHED_FD_ENTRIES);
/// What a region's place, size and offset are whole multiples of. All frontends map pages; with smaller regions, a
/// buffer could be in any number of parts.
const PAGE_BYTES: u64 = 4096;

/// Checks a region and pairs it with its file.
pub(super) fn slot(region: &VhostUserMemoryRegion, file: File) -> Result<MemorySlot, Refusal> {
    check_backing(&file)?;
    let is_whole = |number: &u64| number.is_multiple_of(PAGE_BYTES);
    if ![region.guest_phys_addr, region.memory_size, region.user_addr, region.mmap_offset].iter().all(is_whole) {
        return Err(Refusal::PartsOfPages(region.guest_phys_addr));
    }
    // Touching what is past the end of a file raises SIGBUS: that is survived, but need not be begun.
    let length = file.metadata()?.len();
    if region.mmap_offset.checked_add(region.memory_size).is_none_or(|end| end > length) {
        return Err(Refusal::PastEndOfFile { length });
    }
    Ok(MemorySlot {
        guest: GuestPhysAddr(region.guest_phys_addr),
        frontend: FrontendAddr(region.user_addr),
        size: region.memory_size,
        mmap_offset: region.mmap_offset,
        file,
    })
}

/// `memory` with one slot more.
pub(super) fn add(memory: Option<&Arc<GuestMemory>>, slot: MemorySlot) -> Result<Arc<GuestMemory>, Refusal> {
    Ok(match memory {
        // QEMU 7.2 adds each region once for every queue pair: the second time there is nothing to do.
        Some(memory) if memory.has_slot(slot.guest, slot.frontend, slot.size) => Arc::clone(memory),
        Some(memory) if memory.slots() >= MAX_SLOTS => return Err(Refusal::TooManySlots(MAX_SLOTS)),
        Some(memory) => memory.with_slot(slot)?,
        None => GuestMemory::map(vec![slot])?,
    })
}

/// A page fault in guest memory is taken by an I/O core, so the memory must be in files whose pages are memory already:
/// a FUSE or network file system could keep the core waiting for ever, and with it every other port, and one on a disk
/// for as long as the disk takes to read or write.
///
/// Nothing here asks the file system itself, which could be just as silent. Seals exist on tmpfs and hugetlbfs files only (memfds
/// among them); for any other file the kernel's own records say what it is on.
fn check_backing(file: &File) -> Result<(), Refusal> {
    if rustix::fs::fcntl_get_seals(file).is_ok() {
        return Ok(());
    }
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = info
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .ok_or_else(|| io::Error::other("the kernel does not say where the file is"))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    match file_system(&mounts, mount.trim()) {
        Some(name) if IN_MEMORY.contains(&name) => Ok(()),
        Some(name) => Err(Refusal::MemoryBacking(format!("a file on {name}, which may keep a core waiting"))),
        None => Err(Refusal::MemoryBacking("a file that is on no known file system".to_owned())),
    }
}

/// File systems whose pages are memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "hugetlbfs"];

/// The type of the mount with this id in the text of `/proc/self/mountinfo` (proc(5): it follows the lone hyphen).
fn file_system<'a>(mountinfo: &'a str, id: &str) -> Option<&'a str> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id))?;
    line.split_once(" - ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;

    use super::*;

    #[test]
    fn a_region_must_be_inside_its_file() {
        let memfd = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        memfd.set_len(8192).unwrap();
        let last = u64::MAX - 4095;
        for (size, offset, fits) in [(8192, 0, true), (4096, 4096, true), (8192, 4096, false), (last, 8192, false)] {
            let region = VhostUserMemoryRegion::new(0, size, 0, offset);
            assert_eq!(slot(&region, memfd.try_clone().unwrap()).is_ok(), fits, "{size} from {offset}");
        }
    }

    #[test]
    fn a_region_is_whole_pages_wherever_it_is_seen() {
        let memfd = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        memfd.set_len(1 << 20).unwrap();
        let pages = [1 << 20, 8192, 1 << 30, 4096];
        for odd in 0..4 {
            for by in [0, 1, 2048] {
                let [guest, size, frontend, offset] =
                    std::array::from_fn(|nth| pages[nth] + u64::from(nth == odd) * by);
                let region = VhostUserMemoryRegion::new(guest, size, frontend, offset);
                let taken = slot(&region, memfd.try_clone().unwrap());
                assert_eq!(matches!(taken, Err(Refusal::PartsOfPages(_))), by > 0, "{odd} {by}");
            }
        }
    }

    #[test]
    fn a_file_on_a_disk_is_refused_with_what_to_use_instead() {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let is_memory = rustix::fs::fstatfs(&file).unwrap().f_type == libc::TMPFS_MAGIC;
        assert_eq!(check_backing(&file).is_ok(), is_memory);
        let refusal = check_backing(&File::open("/proc/self/status").unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("a file on proc") && refusal.contains("memory-backend-memfd"), "{refusal}");
    }

    #[test]
    fn memfds_are_memory_and_devices_are_not() {
        let memfd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        assert!(check_backing(&File::from(memfd)).is_ok());
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(check_backing(&File::from(read)).is_err());
        assert!(check_backing(&File::open("/proc/self/status").unwrap()).is_err());
    }

    #[test]
    fn mountinfo_is_read_with_and_without_optional_fields() {
        let text = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                    30 22 0:40 / /mnt/x rw - fuse.sshfs me@there rw\n";
        assert_eq!(file_system(text, "22"), Some("ext4"));
        assert_eq!(file_system(text, "30"), Some("fuse.sshfs"));
        assert_eq!(file_system(text, "3"), None);
    }
}
