//! KVM's own counters of a virtual processor (Linux, Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).

use std::collections::BTreeMap;
use std::ffi::c_ulong;
use std::fs::File;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileExt as _;

use kvm_bindings::{KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_MASK, KVMIO};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;

use super::Error;

const KVM_GET_STATS_FD: c_ulong = (KVMIO as c_ulong) << 8 | 0xce;

/// Bytes of the file's header and of a descriptor before its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;

/// More than any KVM has: what the header says is checked before memory is taken for it.
const MOST_COUNTERS: u32 = 4096;
const LONGEST_NAME: u32 = 4096;

/// Counts since the processor was made, by KVM's name for them: `exits`, and causes such as `irq_exits`.
pub type Counters = BTreeMap<String, u64>;

/// The counters' file.
pub(super) struct VcpuStats {
    file: File,
    /// Name and place in the file.
    counters: Vec<(String, u64)>,
}

impl VcpuStats {
    pub(super) fn open(vcpu: &VcpuFd) -> Result<Self, Error> {
        // SAFETY: this request takes no argument, so the kernel touches none of our memory.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD) };
        if fd < 0 {
            return Err(Error::kvm("counters (KVM_GET_STATS_FD, Linux 5.14)")(vmm_sys_util::errno::Error::last()));
        }
        // SAFETY: the descriptor was just made for us, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(fd) };
        let header = read::<HEADER>(&file, 0)?;
        let field = |n: usize| u32_at(&header, 4 * n);
        let (name_size, count, descriptors, data) = (field(1), field(2), field(4), field(5));
        if name_size > LONGEST_NAME || count > MOST_COUNTERS {
            return Err(Error::Stats(format!("{count} of them, with names of {name_size} bytes")));
        }
        let mut table = vec![0; count as usize * (DESCRIPTOR + name_size as usize)];
        file.read_exact_at(&mut table, u64::from(descriptors)).map_err(Error::io("KVM's counters"))?;
        let counters = parse(&table, name_size as usize, u64::from(data));
        let stats = VcpuStats { file, counters };
        match stats.read()?.contains_key("exits") {
            true => Ok(stats),
            false => Err(Error::Stats("none is called exits".into())),
        }
    }

    pub(super) fn read(&self) -> Result<Counters, Error> {
        let value = |at| read::<8>(&self.file, at).map(u64::from_le_bytes);
        self.counters.iter().map(|(name, at)| Ok((name.clone(), value(*at)?))).collect()
    }
}

/// The single cumulative counters of a table of descriptors; histograms and present values are left out.
fn parse(table: &[u8], name_size: usize, data: u64) -> Vec<(String, u64)> {
    let descriptors = table.chunks_exact(DESCRIPTOR + name_size);
    descriptors
        .filter(|descriptor| {
            let size = u16::from_le_bytes([descriptor[6], descriptor[7]]);
            u32_at(descriptor, 0) & KVM_STATS_TYPE_MASK == KVM_STATS_TYPE_CUMULATIVE && size == 1
        })
        .map(|descriptor| {
            let name = descriptor[DESCRIPTOR..].split(|byte| *byte == 0).next().unwrap_or_default();
            (String::from_utf8_lossy(name).into_owned(), data + u64::from(u32_at(descriptor, 8)))
        })
        .collect()
}

/// The file cannot be sought in: every read names its place.
fn read<const N: usize>(file: &File, at: u64) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).map_err(Error::io("KVM's counters"))?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(flags: u32, size: u16, offset: u32, name: &str) -> Vec<u8> {
        let mut bytes = flags.to_le_bytes().to_vec();
        bytes.extend(0i16.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(name.bytes());
        bytes.resize(DESCRIPTOR + 8, 0);
        bytes
    }

    #[test]
    fn single_counters_are_found_at_their_places() {
        let table = [
            descriptor(0, 1, 0, "exits"),
            descriptor(kvm_bindings::KVM_STATS_TYPE_LOG_HIST, 1, 8, "hist"),
            descriptor(0, 20, 16, "many"),
            descriptor(kvm_bindings::KVM_STATS_TYPE_INSTANT, 1, 176, "now"),
            descriptor(0, 1, 184, "longname"),
        ]
        .concat();
        let expected = [("exits".to_owned(), 1000), ("longname".to_owned(), 1184)];
        assert_eq!(parse(&table, 8, 1000), expected);
    }
}
