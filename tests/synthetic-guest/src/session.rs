//! A vhost-user session, seen from the frontend: reaching the backend, negotiation, memory table, rings.

use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserSingleMemoryRegion, VhostUserVringAddr,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::memory::{Ram, Region};
use crate::{Channel, Error, Features};

/// Body of SET_VRING_KICK and SET_VRING_CALL without a file descriptor.
const NOFD: u64 = 1 << 8;

/// Which end of the socket the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// The guest connects to the backend's socket.
    #[default]
    Client,
    /// The guest listens, the backend connects.
    Server,
}

/// In which order messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// Negotiation, memory, then each ring, then SET_VRING_ENABLE of all of them.
    #[default]
    Plain,
    /// QEMU's: calls before anything else, SET_VRING_ENABLE before SET_FEATURES, base before addresses, kick before call.
    Qemu,
}

/// Whether a notification has an eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Notify {
    /// An eventfd.
    #[default]
    Fd,
    /// None: the other side polls.
    NoFd,
}

/// How to reach a backend and what to say to it.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The socket.
    pub socket: PathBuf,
    /// Client or server.
    pub role: Role,
    /// Order of messages.
    pub order: Order,
    /// Feature bits that the guest accepts: those of them that the backend offers are negotiated.
    pub features: Features,
    /// Feature bits without which there is no point in going on.
    pub required: Features,
    /// Protocol features accepted; `None` leaves protocol features alone, as old frontends do: rings are then enabled
    /// without a SET_VRING_ENABLE.
    pub protocol: Option<Protocol>,
    /// Ask for an acknowledgement of each message, if REPLY_ACK is negotiated.
    pub acknowledge: bool,
    /// Send regions one by one with ADD_MEM_REG, if CONFIGURE_MEM_SLOTS is negotiated.
    pub add_regions: bool,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for an answer.
    pub reply_timeout: Duration,
}

impl SessionConfig {
    /// Client mode, VERSION_1 only, the usual protocol features.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        SessionConfig {
            socket: socket.into(),
            role: Role::default(),
            order: Order::default(),
            features: Features::VERSION_1,
            required: Features::NONE,
            protocol: Some(Protocol::MQ | Protocol::REPLY_ACK | Protocol::RESET_DEVICE | Protocol::CONFIGURE_MEM_SLOTS),
            acknowledge: true,
            add_regions: false,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(20),
        }
    }
}

/// What a negotiation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// All that the backend offers.
    pub offered: Features,
    /// What both sides take, without PROTOCOL_FEATURES.
    pub features: Features,
    /// Protocol features both sides take; `None` when they were left alone or not offered.
    pub protocol: Option<Protocol>,
    /// Queue pairs that the backend supports (1 when it does not say).
    pub max_queue_pairs: u64,
}

/// A ring as the backend is told of it. Addresses are the frontend's.
#[derive(Clone, Copy, Debug)]
pub struct VringSetup<'a> {
    /// Ring number: 2n is RX, 2n + 1 is TX of queue pair n.
    pub index: u32,
    /// Entries.
    pub size: u32,
    /// Descriptor table or packed ring.
    pub descriptors: u64,
    /// Avail ring or driver event structure.
    pub driver: u64,
    /// Used ring or device event structure.
    pub device: u64,
    /// Where to start.
    pub base: u32,
    /// Kick eventfd, or NOFD.
    pub kick: Option<BorrowedFd<'a>>,
    /// Call eventfd, or NOFD.
    pub call: Option<BorrowedFd<'a>>,
}

/// The socket a guest in server mode listens on; removed when dropped.
pub(crate) struct ListeningSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ListeningSocket {
    pub(crate) fn bind(path: &PathBuf) -> Result<Self, Error> {
        // What a killed run has left behind; anything else makes `bind` fail.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(|source| Error::Socket { path: path.clone(), source })?;
        Ok(ListeningSocket { listener, path: path.clone() })
    }

    fn accept(&self, timeout: Duration) -> Result<UnixStream, Error> {
        let limit = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(Error::Timeout("the backend to connect")),
            Ok(_) => self.listener.accept().map(|a| a.0).map_err(Error::io("accepting the backend")),
            Err(e) => Err(Error::io("waiting for the backend")(e.into())),
        }
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn connect(path: &PathBuf, timeout: Duration) -> Result<UnixStream, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(source) if Instant::now() >= deadline => return Err(Error::Socket { path: path.clone(), source }),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A connection to a backend after negotiation.
pub struct Session {
    channel: Channel,
    negotiated: Negotiated,
    order: Order,
    add_regions: bool,
}

impl Session {
    /// Reaches the backend (through `listener` in server mode) and negotiates. `early_calls`, for [`Order::Qemu`], are
    /// the call eventfds of all rings in their order.
    pub(crate) fn open(
        config: &SessionConfig,
        listener: Option<&ListeningSocket>,
        early_calls: &[BorrowedFd<'_>],
    ) -> Result<Session, Error> {
        let stream = match listener {
            Some(listener) => listener.accept(config.connect_timeout)?,
            None => connect(&config.socket, config.connect_timeout)?,
        };
        let mut channel = Channel::new(stream, config.reply_timeout)?;
        let negotiated = negotiate(&mut channel, config)?;
        if config.order == Order::Qemu {
            for (index, call) in early_calls.iter().enumerate() {
                channel.tell(FrontendReq::SET_VRING_CALL, &(index as u64).to_le_bytes(), &[*call])?;
            }
        }
        let add_regions = config.add_regions && negotiated.has(Protocol::CONFIGURE_MEM_SLOTS);
        Ok(Session { channel, negotiated, order: config.order, add_regions })
    }

    /// What was negotiated.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// The socket, for messages that this type does not know, and for malformed ones.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// SET_FEATURES with what was negotiated.
    pub fn set_features(&self) -> Result<(), Error> {
        let mut features = self.negotiated.features;
        if self.negotiated.protocol.is_some() {
            features = features | Features::PROTOCOL_FEATURES;
        }
        self.channel.tell(FrontendReq::SET_FEATURES, &features.0.to_le_bytes(), &[])
    }

    /// Sends the memory table, in one message or slot by slot.
    pub fn set_memory(&self, ram: &Ram) -> Result<(), Error> {
        if self.add_regions {
            return ram.regions().iter().try_for_each(|region| self.add_region(region));
        }
        let regions = ram.regions();
        let mut body = VhostUserMemory::new(regions.len() as u32).as_slice().to_vec();
        for r in regions {
            body.extend_from_slice(VhostUserMemoryRegion::new(r.guest, r.size, r.frontend, r.offset).as_slice());
        }
        let fds: Vec<_> = regions.iter().map(Region::file).collect();
        self.channel.tell(FrontendReq::SET_MEM_TABLE, &body, &fds)
    }

    /// ADD_MEM_REG.
    pub fn add_region(&self, r: &Region) -> Result<(), Error> {
        let body = VhostUserSingleMemoryRegion::new(r.guest, r.size, r.frontend, r.offset);
        self.channel.tell(FrontendReq::ADD_MEM_REG, body.as_slice(), &[r.file()])
    }

    /// REM_MEM_REG.
    pub fn remove_region(&self, r: &Region) -> Result<(), Error> {
        let body = VhostUserSingleMemoryRegion::new(r.guest, r.size, r.frontend, r.offset);
        self.channel.tell(FrontendReq::REM_MEM_REG, body.as_slice(), &[])
    }

    /// Everything that makes a ring known to the backend, in the configured order.
    pub fn start_ring(&self, setup: &VringSetup<'_>) -> Result<(), Error> {
        self.set_state(FrontendReq::SET_VRING_NUM, setup.index, setup.size)?;
        if self.order == Order::Qemu {
            self.set_state(FrontendReq::SET_VRING_BASE, setup.index, setup.base)?;
            self.set_addresses(setup)?;
            self.set_notifier(FrontendReq::SET_VRING_KICK, setup.index, setup.kick)?;
            return self.set_notifier(FrontendReq::SET_VRING_CALL, setup.index, setup.call);
        }
        self.set_addresses(setup)?;
        self.set_state(FrontendReq::SET_VRING_BASE, setup.index, setup.base)?;
        self.set_notifier(FrontendReq::SET_VRING_CALL, setup.index, setup.call)?;
        self.set_notifier(FrontendReq::SET_VRING_KICK, setup.index, setup.kick)
    }

    /// SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE: (ring, number).
    pub fn set_state(&self, request: FrontendReq, index: u32, value: u32) -> Result<(), Error> {
        self.channel.tell(request, VhostUserVringState::new(index, value).as_slice(), &[])
    }

    /// SET_VRING_ADDR.
    pub fn set_addresses(&self, setup: &VringSetup<'_>) -> Result<(), Error> {
        let flags = VhostUserVringAddrFlags::empty();
        let body = VhostUserVringAddr::new(setup.index, flags, setup.descriptors, setup.device, setup.driver, 0);
        self.channel.tell(FrontendReq::SET_VRING_ADDR, body.as_slice(), &[])
    }

    /// SET_VRING_KICK or SET_VRING_CALL with an eventfd or NOFD.
    pub fn set_notifier(&self, request: FrontendReq, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        match fd {
            Some(fd) => self.channel.tell(request, &u64::from(index).to_le_bytes(), &[fd]),
            None => self.channel.tell(request, &(u64::from(index) | NOFD).to_le_bytes(), &[]),
        }
    }

    /// SET_VRING_ENABLE. Nothing is sent when protocol features are not negotiated: rings are enabled then anyway.
    pub fn enable(&self, index: u32, on: bool) -> Result<(), Error> {
        if self.negotiated.protocol.is_none() {
            return Ok(());
        }
        self.set_state(FrontendReq::SET_VRING_ENABLE, index, u32::from(on))
    }

    /// GET_VRING_BASE: stops the ring and returns where it stood.
    pub fn stop_ring(&self, index: u32) -> Result<u32, Error> {
        let request = FrontendReq::GET_VRING_BASE;
        let body = self.channel.ask(request, VhostUserVringState::new(index, 0).as_slice())?;
        match <[u8; 8]>::try_from(body.as_slice()) {
            Ok([i0, i1, i2, i3, b0, b1, b2, b3]) if u32::from_le_bytes([i0, i1, i2, i3]) == index => {
                Ok(u32::from_le_bytes([b0, b1, b2, b3]))
            }
            _ => Err(Error::BadReply { request: request as u32, why: "not the state of the ring asked for" }),
        }
    }

    /// SEND_RARP: the guest has moved here and is at `mac`. (No acknowledgement is defined for it.)
    pub fn send_rarp(&self, mac: [u8; 6]) -> Result<(), Error> {
        let mut body = [0; 8];
        body[..6].copy_from_slice(&mac);
        self.channel.tell(FrontendReq::SEND_RARP, &body, &[])
    }

    /// NET_SET_MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        self.channel.tell(FrontendReq::NET_SET_MTU, &u64::from(mtu).to_le_bytes(), &[])
    }

    /// RESET_DEVICE.
    pub fn reset_device(&self) -> Result<(), Error> {
        self.channel.tell(FrontendReq::RESET_DEVICE, &[], &[])
    }

    /// RESET_OWNER, deprecated but sent by old frontends.
    pub fn reset_owner(&self) -> Result<(), Error> {
        self.channel.tell(FrontendReq::RESET_OWNER, &[], &[])
    }

    /// SET_STATUS: the device status byte as the driver writes it.
    pub fn set_status(&self, status: u8) -> Result<(), Error> {
        self.channel.tell(FrontendReq::SET_STATUS, &u64::from(status).to_le_bytes(), &[])
    }
}

impl Negotiated {
    /// Whether all protocol features of `wanted` are negotiated.
    pub fn has(&self, wanted: Protocol) -> bool {
        self.protocol.is_some_and(|p| p.contains(wanted))
    }
}

fn negotiate(channel: &mut Channel, config: &SessionConfig) -> Result<Negotiated, Error> {
    if config.order == Order::Plain {
        channel.tell(FrontendReq::SET_OWNER, &[], &[])?;
    }
    let mut offered = Features(channel.ask_u64(FrontendReq::GET_FEATURES)?);
    let mut protocol = None;
    let mut max_queue_pairs = 1;
    if let Some(wanted) = config.protocol.filter(|_| offered.contains(Features::PROTOCOL_FEATURES)) {
        let bits = channel.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES)? & wanted.bits();
        let agreed = Protocol::from_bits_retain(bits);
        channel.tell(FrontendReq::SET_PROTOCOL_FEATURES, &agreed.bits().to_le_bytes(), &[])?;
        channel.set_acknowledge(config.acknowledge && agreed.contains(Protocol::REPLY_ACK));
        if agreed.contains(Protocol::MQ) {
            max_queue_pairs = channel.ask_u64(FrontendReq::GET_QUEUE_NUM)?;
        }
        if agreed.contains(Protocol::CONFIGURE_MEM_SLOTS) {
            channel.ask_u64(FrontendReq::GET_MAX_MEM_SLOTS)?;
        }
        protocol = Some(agreed);
    }
    if config.order == Order::Qemu {
        channel.tell(FrontendReq::SET_OWNER, &[], &[])?;
        offered = Features(channel.ask_u64(FrontendReq::GET_FEATURES)?);
    }
    let missing = config.required.without(offered);
    if missing != Features::NONE {
        return Err(Error::NotOffered(format!("{missing:?} (it offers {offered:?})")));
    }
    let features = (config.features & offered).without(Features::PROTOCOL_FEATURES);
    Ok(Negotiated { offered, features, protocol, max_queue_pairs })
}
