//! Messages on the vhost-user socket.
//!
//! Message bodies are the `vhost` crate's types. Its `Frontend` is not used: it cannot send what QEMU and DPDK send
//! (SET_VRING_ENABLE before SET_FEATURES, NOFD, 32-bit vring bases, SEND_RARP, NET_SET_MTU), nor anything malformed, and
//! it spins for ever on a socket with a receive time-out, so that a backend that hangs would hang the test.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use vhost::vhost_user::message::FrontendReq;

use crate::Error;

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const MAX_FDS: usize = 32;
const MAX_BODY: usize = 4096;

/// A message from the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Request number it answers.
    pub request: u32,
    /// Version and flags.
    pub flags: u32,
    /// Body.
    pub body: Vec<u8>,
}

/// One connection to a backend.
pub struct Channel {
    stream: UnixStream,
    acknowledge: bool,
}

impl Channel {
    /// Takes over a connected stream; no answer within `timeout` is an error.
    pub fn new(stream: UnixStream, timeout: Duration) -> Result<Channel, Error> {
        let set = stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
        set.map_err(Error::io("setting the socket's time-out"))?;
        Ok(Channel { stream, acknowledge: false })
    }

    /// Asks for an acknowledgement of every request that has no reply (needs REPLY_ACK).
    pub fn set_acknowledge(&mut self, on: bool) {
        self.acknowledge = on;
    }

    /// Sends a request without a reply of its own and, where acknowledgements are on, waits for that.
    pub fn tell(&self, request: FrontendReq, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let number = request as u32;
        self.send(number, if self.acknowledge { NEED_REPLY } else { 0 }, body, fds)?;
        if !self.acknowledge {
            return Ok(());
        }
        match self.receive_for(number)?.as_slice().try_into().map(u64::from_le_bytes) {
            Ok(0) => Ok(()),
            Ok(code) => Err(Error::Refused { request: number, code }),
            Err(_) => Err(Error::BadReply { request: number, why: "an acknowledgement has 8 bytes" }),
        }
    }

    /// Sends a request and returns the body of its reply.
    pub fn ask(&self, request: FrontendReq, body: &[u8]) -> Result<Vec<u8>, Error> {
        self.send(request as u32, 0, body, &[])?;
        self.receive_for(request as u32)
    }

    /// Sends a request that is answered with a u64.
    pub fn ask_u64(&self, request: FrontendReq) -> Result<u64, Error> {
        let body = self.ask(request, &[])?;
        let body = body.as_slice().try_into();
        body.map(u64::from_le_bytes).map_err(|_| Error::BadReply { request: request as u32, why: "8 bytes expected" })
    }

    /// Sends any message: `flags` are added to the version. Nothing is checked and no answer is awaited.
    pub fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut message = Vec::with_capacity(12 + body.len());
        for word in [request, VERSION | flags, body.len() as u32] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.extend_from_slice(body);
        self.send_bytes(&message, fds)
    }

    /// Sends any bytes and up to 32 file descriptors.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::Config(format!("{} file descriptors in one message", fds.len())));
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let slices = [IoSlice::new(&bytes[sent..])];
            match rustix::net::sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(closed(e.into(), "sending")),
            }
            control.clear();
        }
        Ok(())
    }

    /// Receives the next message.
    pub fn receive(&self) -> Result<Reply, Error> {
        let mut header = [0; 12];
        self.read(&mut header)?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (request, flags, len) = (word(0), word(4), word(8) as usize);
        if len > MAX_BODY {
            return Err(Error::BadReply { request, why: "longer than 4096 bytes" });
        }
        let mut body = vec![0; len];
        self.read(&mut body)?;
        Ok(Reply { request, flags, body })
    }

    /// Whether the backend has closed the connection, or closes it within `timeout`. Messages that arrive instead are
    /// discarded.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let deadline = std::time::Instant::now() + timeout;
        let mut buffer = [0; 256];
        let old = self.stream.read_timeout().ok().flatten();
        let closed = loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                break false;
            }
            match (&self.stream).read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => break true,
            }
        };
        let _ = self.stream.set_read_timeout(old);
        closed
    }

    /// Closes both directions at once.
    pub fn shutdown(&self) {
        // It may be closed already: that is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn receive_for(&self, request: u32) -> Result<Vec<u8>, Error> {
        let reply = self.receive()?;
        if reply.request != request {
            return Err(Error::BadReply { request, why: "the reply is to another request" });
        }
        if reply.flags & (REPLY | 3) != REPLY | VERSION {
            return Err(Error::BadReply { request, why: "version or reply flag" });
        }
        Ok(reply.body)
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), Error> {
        (&self.stream).read_exact(bytes).map_err(|e| closed(e, "receiving"))
    }
}

fn closed(error: io::Error, what: &'static str) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(what),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Error::Disconnected
        }
        _ => Error::io(what)(error),
    }
}
