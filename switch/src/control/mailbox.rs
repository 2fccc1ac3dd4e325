//! The way to the thread that owns the switch.

use std::sync::mpsc::{SyncSender, TrySendError};

use tokio::sync::oneshot;

use super::protocol::{Request, Response};

/// What the control thread is woken by.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody asks, and waits for the response.
    Request(Request, oneshot::Sender<Response>),
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
            Err(TrySendError::Full(_)) => {
                Response::Error("too many requests are waiting already; try again in a moment".to_owned())
            }
            Err(TrySendError::Disconnected(_)) => stopping(),
        }
    }
}

fn stopping() -> Response {
    Response::Error("the switch is stopping; start it again with `sidecore run`".to_owned())
}
