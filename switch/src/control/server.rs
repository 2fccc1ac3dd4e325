//! The control socket's other side: reads requests, passes them on, writes responses. A client that is slow, silent or
//! endless costs one of a few connections for a few seconds, and nothing else.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Mailbox;
use super::protocol::{MAX_REQUEST, Request, Response};

/// Connections served at once; others wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// How long a client may take to send a request, and to take its response.
const DEADLINE: Duration = Duration::from_secs(2);
/// The first of these where half of the connections are taken.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// Serves the socket until the task is dropped.
pub(crate) async fn serve(listener: UnixListener, mailbox: Mailbox) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (mailbox, connections) = (mailbox.clone(), Arc::clone(&connections));
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, &mailbox, &connections).await {
                        debug!("control connection closed: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // No descriptors, most likely: they come back when connections end.
                warn!("a control connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, mailbox: &Mailbox, connections: &Semaphore) -> io::Result<()> {
    // A client says what it wants as soon as it is connected. Where many do not, those that do must not wait for them.
    let patience = if connections.available_permits() < MAX_CONNECTIONS / 2 { IMPATIENCE } else { DEADLINE };
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut read).take(MAX_REQUEST as u64);
        timeout(patience, bounded.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let complete = line.ends_with(b"\n");
        let response = if complete || line.len() < MAX_REQUEST {
            match serde_json::from_slice::<Request>(&line) {
                // What was read of the rest would be lost, and it would have ended the capture.
                Ok(Request::Capture(_)) if !read.buffer().is_empty() => Response::Error(
                    "whatever follows a capture's request ends the capture: send nothing after it".to_owned(),
                ),
                Ok(Request::Capture(request)) => {
                    // The connection is the capture's from now on, and none of those that are served here.
                    let stream = read.into_inner().reunite(write).map_err(io::Error::other)?.into_std()?;
                    mailbox.capture(request, stream);
                    return Ok(());
                }
                Ok(request) => mailbox.ask(request).await,
                Err(error) => Response::Error(format!(
                    "not a request: {error}; send one JSON object a line, such as {{\"command\":\"status\"}}"
                )),
            }
        } else {
            Response::Error(format!("a request has at most {MAX_REQUEST} bytes; send less"))
        };
        timeout(DEADLINE, write.write_all(&line_of(&response)?)).await??;
        if !complete {
            // End of the client's side, or a line whose rest is not worth reading.
            return Ok(());
        }
    }
}

/// A response as it is sent.
pub(crate) fn line_of(response: &Response) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(response)?;
    text.push(b'\n');
    Ok(text)
}

/// Answers on a connection that is not served here any more. There is room for a line in it, since it has got nothing yet.
pub(super) fn respond(mut stream: &std::os::unix::net::UnixStream, response: &Response) {
    let sent = line_of(response).and_then(|line| stream.write_all(&line));
    if let Err(error) = sent {
        debug!("control connection closed: {error}");
    }
}
