//! HTTP, for reading only: `/metrics`, `/status`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use axum::{Json, Router};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tracing::warn;

use crate::control::Mailbox;
use crate::control::protocol::{Answer, Request, Response};
use crate::metrics;
use crate::snapshot::{CoreSnapshot, Snapshot};

/// Connections served at once; others wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may last without a response going out.
const PATIENCE: Duration = Duration::from_secs(15);

/// An I/O core that has not polled for this long hangs: a round takes microseconds.
const CORE_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, mailbox: Mailbox) -> io::Result<()> {
    let listener = BoundedListener { listener, connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    axum::serve(listener, router(mailbox)).await
}

#[derive(Clone)]
struct Reader {
    mailbox: Mailbox,
    watch: Arc<Mutex<CoreWatch>>,
}

fn router(mailbox: Mailbox) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Reader { mailbox, watch: Arc::default() })
}

impl Reader {
    async fn snapshot(&self) -> Result<Box<Snapshot>, HttpResponse> {
        let unavailable = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response();
        match self.mailbox.ask(Request::Status).await {
            Response::Ok(Answer::Status(snapshot)) => Ok(snapshot),
            Response::Ok(_) => Err(unavailable("the switch answered something else".to_owned())),
            Response::Error(text) => Err(unavailable(text)),
        }
    }
}

async fn metrics(State(reader): State<Reader>) -> Result<HttpResponse, HttpResponse> {
    let snapshot = reader.snapshot().await?;
    let text = metrics::render(&snapshot)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn status(State(reader): State<Reader>) -> Result<Json<Snapshot>, HttpResponse> {
    Ok(Json(*reader.snapshot().await?))
}

/// 200 while the control thread answers and every I/O core polls.
async fn healthz(State(reader): State<Reader>) -> Result<String, HttpResponse> {
    let snapshot = reader.snapshot().await?;
    let stuck = reader.watch.lock().unwrap_or_else(PoisonError::into_inner).look(&snapshot.cores, Instant::now());
    if stuck.is_empty() {
        return Ok("ok\n".to_owned());
    }
    let cores = stuck.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    Err((StatusCode::SERVICE_UNAVAILABLE, format!("I/O cores that do not poll: {cores}\n")).into_response())
}

/// 200 once every configured port is there: before that, nobody listens here.
async fn readyz(State(reader): State<Reader>) -> Result<String, HttpResponse> {
    reader.snapshot().await.map(|_| "ready\n".to_owned())
}

/// Tells whether I/O cores poll, from one look to the next.
#[derive(Debug, Default)]
struct CoreWatch {
    /// Rounds of each core when they were last seen to have changed.
    seen: BTreeMap<usize, (u64, Instant)>,
}

impl CoreWatch {
    /// The cores that did not poll between the last looks.
    fn look(&mut self, cores: &[CoreSnapshot], now: Instant) -> Vec<usize> {
        let mut stuck = Vec::new();
        for core in cores {
            let (polls, since) = self.seen.entry(core.core).or_insert((core.polls, now));
            if *polls != core.polls {
                (*polls, *since) = (core.polls, now);
            } else if now.duration_since(*since) >= CORE_PATIENCE {
                stuck.push(core.core);
            }
        }
        stuck
    }
}

/// Accepts a few connections at a time, and gives each a deadline.
struct BoundedListener {
    listener: TcpListener,
    connections: Arc<Semaphore>,
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            // The semaphore is never closed, so there is always a permit in the end.
            let permit = Arc::clone(&self.connections).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return (BoundedStream { stream, deadline: Box::pin(sleep(PATIENCE)), _permit: permit }, peer);
                }
                Err(error) => {
                    warn!("an HTTP connection was not accepted: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing could be written to it for [`PATIENCE`]: a client that sends its request byte by
/// byte, or takes no response, is not waited for.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl BoundedStream {
    /// Lets the deadline interrupt what waits for the peer.
    fn or_deadline<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            return result;
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.deadline.is_elapsed() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.or_deadline(cx, result)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(result, Poll::Ready(Ok(_))) {
            self.deadline.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
        }
        self.or_deadline(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(polls: u64) -> [CoreSnapshot; 1] {
        [CoreSnapshot {
            core: 0,
            cpu: 0,
            busy_cycles: 0,
            idle_cycles: 0,
            polls,
            queue_pairs: 0,
            handed_over: 0,
            received: 0,
            received_cycles: 0,
            oldest_wait_ns: 0,
            learn_refusals: BTreeMap::new(),
            learn_lost: 0,
        }]
    }

    #[test]
    fn a_core_that_stands_still_is_noticed() {
        let mut watch = CoreWatch::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert!(watch.look(&core(1), start).is_empty());
        assert!(watch.look(&core(1), after(900)).is_empty(), "too early to say");
        assert_eq!(watch.look(&core(1), after(1100)), [0]);
        assert!(watch.look(&core(2), after(1200)).is_empty(), "it goes on");
        assert!(watch.look(&core(3), after(9000)).is_empty());
    }
}
