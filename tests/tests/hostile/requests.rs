//! Frontends whose messages are well-formed and ask for the impossible.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Result, ensure};
use rustix::fs::MemfdFlags;
use synthetic_guest::{Error, Guest, Notify, Session, VringSetup};
use vhost::vhost_user::message::{FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserSingleMemoryRegion};
use vm_memory::ByteValued as _;

use crate::stage::{Stage, plain};

const MIB: u64 = 1 << 20;

/// A refusal that the frontend is told of, or the end of the connection.
fn refused(result: Result<(), Error>) -> Result<()> {
    ensure!(result.as_ref().err().is_some_and(is_refusal), "not refused: {result:?}");
    Ok(())
}

fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::Disconnected)
}

/// A guest that has negotiated and no more.
fn negotiated(stage: &Stage) -> Result<Guest> {
    let mut config = plain(&stage.config, "mallory");
    config.call = Notify::NoFd;
    let guest = Guest::negotiate(config)?;
    guest.session().set_features()?;
    Ok(guest)
}

fn memfd(size: u64) -> Result<File> {
    let file = File::from(rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC)?);
    file.set_len(size)?;
    Ok(file)
}

/// One region: guest address, size, frontend address, offset.
type Slot = (u64, u64, u64, u64);

fn set_table(session: &Session, slots: &[Slot], file: &OwnedFd) -> Result<(), Error> {
    let mut body = VhostUserMemory::new(slots.len() as u32).as_slice().to_vec();
    for (guest, size, frontend, offset) in slots {
        body.extend_from_slice(VhostUserMemoryRegion::new(*guest, *size, *frontend, *offset).as_slice());
    }
    let fds = vec![file.as_fd(); slots.len()];
    session.channel().tell(FrontendReq::SET_MEM_TABLE, &body, &fds)
}

#[test]
fn memory_that_cannot_be() {
    let mut stage = Stage::start().unwrap();
    let top = u64::MAX - MIB + 1;
    let tables: [(&str, &[Slot]); 12] = [
        ("no bytes", &[(0, 0, 0, 0)]),
        ("overlapping", &[(0, MIB, 0, 0), (MIB / 2, MIB, 8 * MIB, MIB)]),
        ("the same twice", &[(0, MIB, 0, 0), (0, MIB, 0, 0)]),
        ("overlapping for the frontend", &[(0, MIB, 0, 0), (8 * MIB, MIB, MIB / 2, MIB)]),
        ("past the end of addresses", &[(top + 1, MIB, 0, 0)]),
        ("past the end of the frontend's addresses", &[(0, MIB, top + 1, 0)]),
        ("past the end of the file", &[(0, 3 * MIB, 0, 0)]),
        ("an offset past the end of the file", &[(0, MIB, 0, 2 * MIB)]),
        ("an offset that wraps", &[(0, MIB, 0, u64::MAX - 4095)]),
        ("everything there is", &[(0, u64::MAX, 0, 0)]),
        ("half of everything", &[(0, 1 << 63, 0, 0)]),
        ("thirty-three regions", &[(0, 4096, 0, 0); 33]),
    ];
    for (name, slots) in tables {
        let attack = |stage: &mut Stage| -> Result<()> {
            let guest = negotiated(stage)?;
            let file = OwnedFd::from(memfd(2 * MIB)?);
            if slots.len() > 32 {
                // More than the library sends descriptors for: one by one, then.
                for (n, _) in slots.iter().enumerate().map(|(n, slot)| (n as u64, slot)).take(64) {
                    let body = VhostUserSingleMemoryRegion::new(n * MIB, 4096, n * MIB, 0);
                    guest.session().channel().tell(FrontendReq::ADD_MEM_REG, body.as_slice(), &[file.as_fd()])?;
                }
                let body = VhostUserSingleMemoryRegion::new(MIB / 2, MIB, 99 * MIB, 0);
                let add = guest.session().channel().tell(FrontendReq::ADD_MEM_REG, body.as_slice(), &[file.as_fd()]);
                return refused(add);
            }
            refused(set_table(guest.session(), slots, &file))
        };
        stage.attack(&format!("memory: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn memory_that_is_no_memory() {
    let mut stage = Stage::start().unwrap();
    let slot = [(0, 4096, 0, 0)];
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let directory = OwnedFd::from(File::open("/").unwrap());
    let null = OwnedFd::from(File::open("/dev/null").unwrap());
    let proc = OwnedFd::from(File::open("/proc/self/mem").unwrap());
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let writable = memfd(MIB).unwrap();
    let read_only = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writable))).unwrap();
    let sealed = rustix::fs::memfd_create("hostile", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&sealed, MIB).unwrap();
    rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
    for (name, file) in [
        ("a pipe", pipe),
        ("a directory", directory),
        ("a device", null),
        ("a process's memory", proc),
        ("an eventfd", event),
        ("a memfd that may only be read", read_only.into()),
        ("a memfd sealed against writing", sealed),
    ] {
        let attack = |stage: &mut Stage| refused(set_table(negotiated(stage)?.session(), &slot, &file));
        stage.attack(&format!("memory in {name}"), attack).unwrap();
    }
    let attack = |stage: &mut Stage| -> Result<()> {
        // A terabyte with nothing in it is no crime, and costs nothing.
        let guest = negotiated(stage)?;
        let file = OwnedFd::from(memfd(1 << 40)?);
        set_table(guest.session(), &[(0, 1 << 40, 0, 0)], &file)?;
        Ok(())
    };
    stage.attack("a terabyte of nothing", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn ring_numbers_sizes_and_bases_that_cannot_be() {
    let mut stage = Stage::start().unwrap();
    use FrontendReq as R;
    let requests = [
        ("a ring of 0 entries", R::SET_VRING_NUM, 0, 0),
        ("a split ring of 3 entries", R::SET_VRING_NUM, 0, 3),
        ("a ring of 65,536 entries", R::SET_VRING_NUM, 0, 65_536),
        ("a ring of four billion entries", R::SET_VRING_NUM, 0, u32::MAX),
        ("ring 16 of 16", R::SET_VRING_NUM, 16, 256),
        ("ring four billion", R::SET_VRING_BASE, u32::MAX, 0),
        ("a ring enabled by 7", R::SET_VRING_ENABLE, 0, 7),
        ("ring 999 enabled", R::SET_VRING_ENABLE, 999, 1),
    ];
    for (name, request, index, value) in requests {
        let attack = |stage: &mut Stage| refused(negotiated(stage)?.session().set_state(request, index, value));
        stage.attack(name, attack).unwrap();
    }
    let attack = |stage: &mut Stage| -> Result<()> {
        let guest = negotiated(stage)?;
        let channel = guest.session().channel();
        refused(channel.tell(R::SET_FEATURES, &u64::MAX.to_ne_bytes(), &[]))?;
        refused(channel.tell(R::SET_PROTOCOL_FEATURES, &u64::MAX.to_ne_bytes(), &[]))
    };
    stage.attack("every feature there could be", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let guest = negotiated(stage)?;
        for mtu in [0, 67, 65_536, u64::MAX] {
            refused(guest.session().channel().tell(R::NET_SET_MTU, &mtu.to_ne_bytes(), &[]))?;
        }
        for mac in [[0; 8], [0xff; 8], [1, 0, 0, 0, 0, 0, 0, 0]] {
            refused(guest.session().channel().tell(R::SEND_RARP, &mac, &[]))?;
        }
        Ok(())
    };
    stage.attack("MTUs and addresses that cannot be", attack).unwrap();
    stage.finish().unwrap();
}

/// Starts both rings of a pair where `place` says, of three good places for each.
fn start_at(stage: &Stage, packed: bool, place: impl Fn(&Guest, [u64; 3]) -> ([u64; 3], u32)) -> Result<Guest> {
    let mut config = plain(&stage.config, "mallory");
    if packed {
        config.session.features = config.session.features | synthetic_guest::Features::RING_PACKED;
    }
    let mut guest = Guest::negotiate(config)?;
    guest.session().set_features()?;
    guest.session().set_memory(guest.ram())?;
    for index in 0..2 {
        let pair = guest.pair(0);
        let ring = if index == 0 { pair.rx.ring() } else { pair.tx.ring() };
        let good = ring.parts().map(|part| part.frontend());
        let ([descriptors, driver, device], base) = place(&guest, good);
        let setup = VringSetup { index, size: 256, descriptors, driver, device, base, kick: None, call: None };
        guest.session().start_ring(&setup)?;
    }
    guest.enable_all(true)?;
    Ok(guest)
}

#[test]
fn rings_where_no_ring_can_be() {
    type Place = fn(&Guest, [u64; 3]) -> ([u64; 3], u32);
    let nowhere: [(&str, bool, Place); 9] = [
        ("at 0", false, |_, _| ([0; 3], 0)),
        ("at the end of addresses", false, |_, [d, a, _]| ([d, a, u64::MAX - 3], 0)),
        ("across the end of memory", false, |g, [_, a, u]| {
            let last = &g.ram().regions()[0];
            ([last.frontend + last.size - 16, a, u], 0)
        }),
        ("misaligned descriptors", false, |_, [d, a, u]| ([d + 8, a, u], 0)),
        ("a misaligned available ring", false, |_, [d, a, u]| ([d, a + 1, u], 0)),
        ("a misaligned used ring", false, |_, [d, a, u]| ([d, a, u + 2], 0)),
        ("at guest addresses", false, |g, _| ([g.ram().regions()[0].guest; 3], 0)),
        ("packed, misaligned events", true, |_, [d, a, u]| ([d, a + 2, u + 1], 0x8000)),
        ("packed, a base beyond the ring", true, |_, good| (good, 0x8000 | 256)),
    ];
    let mut stage = Stage::start().unwrap();
    for (name, packed, place) in nowhere {
        let attack = |stage: &mut Stage| -> Result<()> {
            let _guest = match start_at(stage, packed, place) {
                // Some are seen at once to be no addresses at all.
                Err(error) if error.downcast_ref::<Error>().is_some_and(is_refusal) => return Ok(()),
                other => other?,
            };
            // The frontend may set the addresses anew; until then the rings stand still.
            stage.wait_for("mallory", "a refusal", |port| !port.error.is_empty())?;
            let eve = stage.port("eve")?;
            stage.eve_sends(10, 60)?;
            stage.dropped("eve", &eve, "receiver_not_ready", 10)
        };
        stage.attack(&format!("rings {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn rings_on_top_of_each_other() {
    type Place = fn(&Guest, [u64; 3]) -> ([u64; 3], u32);
    let places: [(&str, bool, Place); 4] = [
        ("all three parts at one place", false, |_, [d, _, _]| ([d; 3], 0)),
        ("used ring over descriptors, available ring in buffers", false, |g, [d, _, _]| {
            ([d, g.ram().regions()[0].frontend + 0x8000, d], 0)
        }),
        ("a base nobody expects", false, |_, good| (good, 54_321)),
        ("packed, all at one place", true, |_, [d, _, _]| ([d; 3], 0x8000)),
    ];
    let mut stage = Stage::start().unwrap();
    for (name, packed, place) in places {
        let attack = |stage: &mut Stage| -> Result<()> {
            let guest = start_at(stage, packed, place)?;
            stage.eve_sends(300, 60)?;
            // What comes of it is the guest's own business, as long as it ends when the guest does.
            ensure!(["running", "stopped"].contains(&stage.port("mallory")?.state.as_str()));
            drop(guest);
            Ok(())
        };
        stage.attack(&format!("rings: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}
