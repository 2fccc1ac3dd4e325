//! An adapter in front of the `vhost` crate's request handler: it looks at a message before the crate reads it.
//!
//! Three reasons:
//! * **Messages the crate cannot take.** QEMU's virtio-net sends SET_VRING_ENABLE before SET_FEATURES, which the crate rejects, and
//!   SEND_RARP and NET_SET_MTU are unknown to it. These three are read and answered here.
//! * **Half messages.** The crate reads with blocking calls and takes a short body for an error; so it gets a message only when all
//!   of it has arrived.
//! * **Too many descriptors.** On truncated control data the crate tries again, with the bytes already gone: it would wait for ever.
//!
//! A peek shows the bytes that the following read gets, because this thread is the socket's only reader. Descriptors it shows may belong to a
//! later message (the kernel goes on to the next part that has some), so they are only counted against the limit every message has.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use vhost::vhost_user::message::{FrontendReq, MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE};

/// Request, flags, size of the body: three 32-bit numbers in the byte order of the host.
const HEADER_BYTES: usize = 12;
const FLAGS_VERSION_1: u32 = 0x1;
const FLAG_REPLY: u32 = 0x4;
const FLAG_NEED_REPLY: u32 = 0x8;

/// The header of a message that has arrived in full and waits to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

/// What waits in the socket.
#[derive(Debug)]
pub(super) enum Peeked {
    /// Nothing.
    Nothing,
    /// The end of the stream.
    Closed,
    /// The beginning of a message.
    Part,
    /// At least one message.
    Message(Header),
    /// What can be no message.
    Malformed(&'static str),
}

/// A message for this adapter, with its eight bytes of body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnRequest {
    SetVringEnable { index: u32, value: u32 },
    SendRarp([u8; 6]),
    NetSetMtu(u64),
}

/// Looks at what has arrived, without reading it and without waiting.
pub(super) fn peek(socket: &UnixStream) -> io::Result<Peeked> {
    let mut header = [0; HEADER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut header)], &mut control, flags) {
        Ok(got) => got,
        Err(rustix::io::Errno::AGAIN) => return Ok(Peeked::Nothing),
        Err(error) => return Err(error.into()),
    };
    // The peek made copies of the descriptors; they are closed here.
    let count = |message| if let RecvAncillaryMessage::ScmRights(files) = message { files.count() } else { 0 };
    let descriptors: usize = control.drain().map(count).sum();
    if got.flags.contains(ReturnFlags::CTRUNC) || descriptors > MAX_ATTACHED_FD_ENTRIES {
        return Ok(Peeked::Malformed("more file descriptors than a message may carry, or than this process may have"));
    }
    if got.bytes == 0 {
        return Ok(Peeked::Closed);
    }
    let arrived = rustix::io::ioctl_fionread(socket)?;
    if got.bytes < HEADER_BYTES {
        // A part with descriptors ends a read; where more follows it, it should have been the whole header.
        let split = arrived > got.bytes as u64;
        return Ok(if split { Peeked::Malformed("file descriptors inside of a header") } else { Peeked::Part });
    }
    let header = Header::parse(&header);
    if header.size as usize > MAX_MSG_SIZE {
        return Ok(Peeked::Malformed("a message longer than any request"));
    }
    Ok(if arrived < HEADER_BYTES as u64 + u64::from(header.size) { Peeked::Part } else { Peeked::Message(header) })
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self {
            request: u32::from_ne_bytes([a, b, c, d]),
            flags: u32::from_ne_bytes([e, f, g, h]),
            size: u32::from_ne_bytes([i, j, k, l]),
        }
    }

    pub(super) fn is(&self, request: FrontendReq) -> bool {
        self.request == u32::from(request)
    }

    pub(super) fn needs_reply(&self) -> bool {
        self.flags & FLAG_NEED_REPLY != 0
    }

    /// Whether the message is one of those that are not for the crate.
    pub(super) fn is_own(&self) -> bool {
        [FrontendReq::SET_VRING_ENABLE, FrontendReq::SEND_RARP, FrontendReq::NET_SET_MTU]
            .into_iter()
            .any(|request| self.is(request))
    }

    /// Reads the message this is the header of; `None` if it is malformed.
    pub(super) fn read_own(&self, socket: &UnixStream) -> io::Result<Option<OwnRequest>> {
        const BODY_BYTES: usize = 8;
        let mut message = [0; HEADER_BYTES + BODY_BYTES];
        if self.size as usize != BODY_BYTES || self.flags & !FLAG_NEED_REPLY != FLAGS_VERSION_1 {
            return Ok(None);
        }
        // Descriptors, which none of these has a use for, go with the read.
        let (bytes, _) = rustix::net::recv(socket, &mut message, RecvFlags::DONTWAIT)?;
        let [.., a, b, c, d, e, f, g, h] = message;
        if bytes < message.len() {
            return Ok(None);
        }
        Ok(if self.is(FrontendReq::SET_VRING_ENABLE) {
            let (index, value) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
            Some(OwnRequest::SetVringEnable { index, value })
        } else if self.is(FrontendReq::SEND_RARP) {
            Some(OwnRequest::SendRarp([a, b, c, d, e, f]))
        } else if self.is(FrontendReq::NET_SET_MTU) {
            Some(OwnRequest::NetSetMtu(u64::from_ne_bytes([a, b, c, d, e, f, g, h])))
        } else {
            None
        })
    }

    /// Answers a message that has no answer of its own: REPLY_ACK's zero for yes, anything else for no.
    pub(super) fn acknowledge(&self, socket: &UnixStream, accepted: bool) -> io::Result<()> {
        let mut reply = Vec::with_capacity(HEADER_BYTES + 8);
        for word in [self.request, FLAGS_VERSION_1 | FLAG_REPLY, 8] {
            reply.extend_from_slice(&word.to_ne_bytes());
        }
        reply.extend_from_slice(&u64::from(!accepted).to_ne_bytes());
        let sent = rustix::net::send(socket, &reply, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        if sent == reply.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn message(request: FrontendReq, flags: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [u32::from(request), flags, body.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_message_is_seen_when_all_of_it_is_there() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        assert!(matches!(peek(&socket), Ok(Peeked::Nothing)));
        let bytes = message(FrontendReq::NET_SET_MTU, 1, &9000u64.to_ne_bytes());
        for (n, byte) in bytes.iter().enumerate() {
            if n > 0 {
                assert!(matches!(peek(&socket), Ok(Peeked::Part)), "after {n} bytes");
            }
            peer.write_all(&[*byte]).unwrap();
        }
        let Ok(Peeked::Message(header)) = peek(&socket) else { panic!("no message") };
        assert!(header.is_own() && !header.needs_reply());
        assert_eq!(header.read_own(&socket).unwrap(), Some(OwnRequest::NetSetMtu(9000)));
        assert!(matches!(peek(&socket), Ok(Peeked::Nothing)));
        drop(peer);
        assert!(matches!(peek(&socket), Ok(Peeked::Closed)));
    }

    #[test]
    fn a_message_too_long_is_not_waited_for() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let mut bytes = message(FrontendReq::SET_MEM_TABLE, 1, &[]);
        bytes[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        peer.write_all(&bytes).unwrap();
        assert!(matches!(peek(&socket), Ok(Peeked::Malformed(_))));
    }

    #[test]
    fn too_many_descriptors_are_malformed() {
        use vmm_sys_util::sock_ctrl_msg::ScmSocket;
        let null = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&null);
        let bytes = message(FrontendReq::GET_FEATURES, 1, &[]);
        for (count, fits) in [(1, true), (32, true), (33, false), (200, false)] {
            let (peer, socket) = UnixStream::pair().unwrap();
            peer.send_with_fds(&[&bytes[..]], &vec![fd; count]).unwrap();
            match peek(&socket).unwrap() {
                Peeked::Message(_) => assert!(fits, "{count}"),
                Peeked::Malformed(_) => assert!(!fits, "{count}"),
                other => panic!("{count}: {other:?}"),
            }
        }
    }

    #[test]
    fn descriptors_of_a_later_message_do_not_matter_to_the_first() {
        use vmm_sys_util::sock_ctrl_msg::ScmSocket;
        let null = std::fs::File::open("/dev/null").unwrap();
        let (mut peer, socket) = UnixStream::pair().unwrap();
        peer.write_all(&message(FrontendReq::SET_VRING_ENABLE, 1, &[0; 8])).unwrap();
        let kick = message(FrontendReq::SET_VRING_KICK, 1, &[0; 8]);
        peer.send_with_fd(&kick[..], std::os::fd::AsRawFd::as_raw_fd(&null)).unwrap();
        let Ok(Peeked::Message(header)) = peek(&socket) else { panic!("no message") };
        let request = header.read_own(&socket).unwrap();
        assert_eq!(request, Some(OwnRequest::SetVringEnable { index: 0, value: 0 }));
        assert!(matches!(peek(&socket), Ok(Peeked::Message(header)) if header.is(FrontendReq::SET_VRING_KICK)));
    }

    #[test]
    fn own_messages_of_a_wrong_form_are_malformed() {
        for (flags, body) in [(1, &[0; 7][..]), (1, &[0; 9]), (1, &[]), (2, &[0; 8]), (5, &[0; 8]), (0x11, &[0; 8])] {
            let (mut peer, socket) = UnixStream::pair().unwrap();
            peer.write_all(&message(FrontendReq::SEND_RARP, flags, body)).unwrap();
            let Ok(Peeked::Message(header)) = peek(&socket) else { panic!("no message") };
            assert_eq!(header.read_own(&socket).unwrap(), None, "flags {flags:#x}, {} bytes", body.len());
        }
    }
}
