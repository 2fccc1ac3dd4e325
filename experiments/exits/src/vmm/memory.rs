//! The guest's memory: this process's mappings at the addresses they have here, behind guest-physical addresses of their own.

use synthetic_guest::Ram;

use super::Error;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

/// Guest-physical address of the page tables.
const TABLES: u64 = 0x10_0000;
/// Guest-physical address of the first mapping that is not guest memory; rising from there.
const MAPPINGS: u64 = 0x4_0000_0000;

/// Page table entry bits. Accessed and dirty are set from the beginning, so that no processor has to.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// Guest-physical memory and what backs it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) guest: u64,
    pub(super) host: u64,
    pub(super) len: u64,
}

/// Page tables, and the memory slots that they lead to.
pub(super) struct AddressSpace {
    tables: PageTables,
    slots: Vec<Slot>,
}

impl AddressSpace {
    /// All readable mappings of this process but for the page `hole`, and `mmio` pages at guest-physical addresses equal to
    /// their virtual ones.
    pub(super) fn new(rams: &[&Ram], mmio: &[u64], hole: u64) -> Result<Self, Error> {
        let mappings = mappings()?;
        let mut slots: Vec<Slot> = rams
            .iter()
            .flat_map(|ram| ram.regions())
            .map(|region| Slot { guest: region.guest, host: region.host(), len: region.size })
            .collect();
        let rams = slots.len();
        let mut tables = PageTables::new();
        let mut next = MAPPINGS;
        for mapping in &mappings {
            let len = mapping.end - mapping.start;
            let ram = slots[..rams].iter().find(|slot| (slot.host..slot.host + slot.len).contains(&mapping.start));
            let guest = match ram {
                Some(slot) if mapping.end <= slot.host + slot.len => slot.guest + (mapping.start - slot.host),
                Some(_) => return Err(Error::AddressSpace("guest memory shares a mapping with something else".into())),
                None => {
                    slots.push(Slot { guest: next, host: mapping.start, len });
                    next += len;
                    next - len
                }
            };
            tables.map(mapping.start, guest, len / PAGE, mapping.writable);
        }
        tables.unmap(hole);
        for page in mmio {
            if mappings.iter().any(|mapping| (mapping.start..mapping.end).contains(page)) {
                return Err(Error::AddressSpace(format!("{page:#x} is taken")));
            }
            tables.map(*page, *page, 1, true);
        }
        slots.push(tables.slot());
        Ok(AddressSpace { tables, slots })
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Guest-physical address of the first page table.
    pub(super) fn root(&self) -> u64 {
        debug_assert_eq!(self.slots.last(), Some(&self.tables.slot()), "the tables have not moved");
        TABLES
    }
}

/// A mapping of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
}

fn mappings() -> Result<Vec<Mapping>, Error> {
    let text = std::fs::read_to_string("/proc/self/maps").map_err(Error::io("/proc/self/maps"))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// A line of /proc/self/maps, unless it cannot be read or is the kernel's: a clock page, or a file of KVM itself.
fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    if !permissions.starts_with('r') || name.starts_with("[v") || name.starts_with("anon_inode:") {
        return None;
    }
    let address = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Mapping { start: address(start)?, end: address(end)?, writable: permissions[1..].starts_with('w') })
}

/// Four levels of page tables (AMD64 manual, volume 2, §5.3), in guest-physical order.
struct PageTables(Vec<Table>);

#[repr(C, align(4096))]
struct Table([u64; 512]);

impl PageTables {
    fn new() -> Self {
        PageTables(vec![Table([0; 512])])
    }

    fn map(&mut self, start: u64, guest: u64, pages: u64, writable: bool) {
        let writable = if writable { WRITABLE } else { 0 };
        for page in 0..pages {
            let address = start + page * PAGE;
            let table = self.lowest(address);
            let entry = (guest + page * PAGE) | PRESENT | USER | ACCESSED | DIRTY | writable;
            self.0[table].0[index(address, 0)] = entry;
        }
    }

    fn unmap(&mut self, page: u64) {
        let table = self.lowest(page);
        self.0[table].0[index(page, 0)] = 0;
    }

    /// The table with the entry of a page.
    fn lowest(&mut self, page: u64) -> usize {
        [3, 2, 1].into_iter().fold(0, |table, level| self.below(table, index(page, level)))
    }

    /// The table that an entry of another one leads to, made if need be.
    fn below(&mut self, table: usize, entry: usize) -> usize {
        if self.0[table].0[entry] == 0 {
            let new = TABLES + self.0.len() as u64 * PAGE;
            self.0[table].0[entry] = new | PRESENT | WRITABLE | USER | ACCESSED;
            self.0.push(Table([0; 512]));
        }
        (((self.0[table].0[entry] & !(PAGE - 1)) - TABLES) / PAGE) as usize
    }

    fn slot(&self) -> Slot {
        Slot { guest: TABLES, host: self.0.as_ptr().expose_provenance() as u64, len: self.0.len() as u64 * PAGE }
    }
}

fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize & 511
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_from_their_lines() {
        let text = parse("55d0a000-55d0c000 r-xp 00001000 fe:00 1234                   /usr/bin/exits");
        assert_eq!(text, Some(Mapping { start: 0x55d0_a000, end: 0x55d0_c000, writable: false }));
        let heap = parse("7f00-8f00 rw-p 00000000 00:00 0 ");
        assert_eq!(heap, Some(Mapping { start: 0x7f00, end: 0x8f00, writable: true }));
        assert_eq!(parse("1000-2000 ---p 00000000 00:00 0"), None);
        assert_eq!(parse("7ffd1000-7ffd3000 r-xp 00000000 00:00 0      [vdso]"), None);
        assert_eq!(parse("7ffd1000-7ffd4000 rw-s 00000000 00:0e 9  anon_inode:kvm-vcpu:0"), None);
    }

    /// What a processor finds for a virtual address.
    fn walk(tables: &PageTables, address: u64) -> u64 {
        (1..4).rev().fold(0, |table, level| {
            let entry = tables.0[table].0[index(address, level)];
            assert_eq!(entry & (PRESENT | USER), PRESENT | USER);
            ((entry & !0xfff) - TABLES) as usize / 4096
        }) as u64
            * 512
            + index(address, 0) as u64
    }

    #[test]
    fn every_page_leads_to_its_own_place() {
        let mut tables = PageTables::new();
        // Across the end of a lowest and of a second-lowest table.
        let start = (1 << 30) - 2 * PAGE;
        tables.map(start, 0x1_0000_0000, 4, true);
        tables.map(0x7fff_ffff_f000, 0x2_0000_0000, 1, false);
        let entry = |tables: &PageTables, address| {
            let place = walk(tables, address) as usize;
            tables.0[place / 512].0[place % 512]
        };
        for page in 0..4 {
            assert_eq!(entry(&tables, start + page * PAGE) & !0xfff, 0x1_0000_0000 + page * PAGE);
        }
        assert_eq!(entry(&tables, start) & WRITABLE, WRITABLE);
        tables.unmap(start + PAGE);
        assert_eq!((entry(&tables, start + PAGE), entry(&tables, start + 2 * PAGE) & PRESENT), (0, PRESENT));
        assert_eq!(entry(&tables, 0x7fff_ffff_f000), 0x2_0000_0000 | PRESENT | USER | ACCESSED | DIRTY);
        assert_eq!(tables.slot().len, 4096 * tables.0.len() as u64);
        assert!(tables.slot().host.is_multiple_of(PAGE));
    }

    #[test]
    fn this_process_is_all_there() {
        let space = AddressSpace::new(&[], &[0xd000_0000], 0).unwrap();
        let here = std::ptr::from_ref(&space).addr() as u64;
        assert!(space.slots().iter().any(|slot| (slot.host..slot.host + slot.len).contains(&here)));
        let mut slots = space.slots().to_vec();
        slots.sort_by_key(|slot| slot.guest);
        assert!(slots.windows(2).all(|pair| pair[0].guest + pair[0].len <= pair[1].guest));
    }
}
