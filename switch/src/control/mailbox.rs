//! The way to the thread that owns the switch.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, TrySendError};

use tokio::sync::oneshot;

use super::protocol::{CaptureRequest, Request, Response};
use super::server::respond;

/// What the control thread is woken by.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody asks, and waits for the response.
    Request(Request, oneshot::Sender<Response>),
    /// Somebody wants a capture, and waits for it on the connection.
    Capture(CaptureRequest, UnixStream),
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// Sends requests to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox(SyncSender<Message>);

impl Mailbox {
    pub(crate) fn new(sender: SyncSender<Message>) -> Self {
        Self(sender)
    }

    /// Sends a request and waits for its response. The number of those who may wait is bounded by the channel.
    pub(crate) async fn ask(&self, request: Request) -> Response {
        let (reply, response) = oneshot::channel();
        match self.0.try_send(Message::Request(request, reply)) {
            Ok(()) => response.await.unwrap_or_else(|_| stopping()),
            Err(TrySendError::Full(_)) => busy(),
            Err(TrySendError::Disconnected(_)) => stopping(),
        }
    }

    /// Has a capture sent to a connection, or the reason why there is none.
    pub(crate) fn capture(&self, request: CaptureRequest, stream: UnixStream) {
        match self.0.try_send(Message::Capture(request, stream)) {
            Err(TrySendError::Full(Message::Capture(_, stream))) => respond(&stream, &busy()),
            Err(TrySendError::Disconnected(Message::Capture(_, stream))) => respond(&stream, &stopping()),
            _ => {}
        }
    }
}

fn busy() -> Response {
    Response::Error("too many requests are waiting already; try again in a moment".to_owned())
}

fn stopping() -> Response {
    Response::Error("the switch is stopping; start it again with `sidecore run`".to_owned())
}
