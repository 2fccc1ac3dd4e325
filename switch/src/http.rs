//! HTTP, for reading only: `/metrics`, `/status`, `/healthz`, `/readyz`, and the page at `/`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use axum::{Json, Router};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tracing::warn;

use crate::control::Mailbox;
use crate::control::protocol::{Answer, Request, Response};
use crate::metrics::{self, Format};
use crate::page;
use crate::snapshot::{CoreSnapshot, Snapshot};

/// Connections served at once; others wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may last without a response going out.
const PATIENCE: Duration = Duration::from_secs(15);

/// From then on responses prolong it no more, so that nobody holds a place for good.
const LIFETIME: Duration = Duration::from_secs(60);

/// An I/O core that has not polled for this long hangs: a round takes microseconds.
const CORE_PATIENCE: Duration = Duration::from_secs(1);

/// The control thread answers within this, or something hangs that it waits for.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// Between looks whether the cores go on.
const LOOK: Duration = Duration::from_millis(20);

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
        .merge(page::routes())
        .with_state(Reader { mailbox, watch: Arc::default() })
}

impl Reader {
    async fn snapshot(&self) -> Result<Box<Snapshot>, HttpResponse> {
        let unavailable = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response();
        let Ok(answer) = timeout(ANSWER_PATIENCE, self.mailbox.ask(Request::Status)).await else {
            return Err(unavailable("the control thread does not answer".to_owned()));
        };
        match answer {
            Response::Ok(Answer::Status(snapshot)) => Ok(snapshot),
            Response::Ok(_) => Err(unavailable("the switch answered something else".to_owned())),
            Response::Error(text) => Err(unavailable(text)),
        }
    }
}

async fn metrics(State(reader): State<Reader>, headers: HeaderMap) -> Result<HttpResponse, HttpResponse> {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let text = metrics::render(&*reader.snapshot().await?, format);
    Ok(([(CONTENT_TYPE, format.content_type()), (VARY, "Accept")], text).into_response())
}

async fn status(State(reader): State<Reader>) -> Result<Json<Snapshot>, HttpResponse> {
    Ok(Json(*reader.snapshot().await?))
}

/// 200 while the control thread answers and every I/O core polls or sleeps. Looks until that is known: a second at most.
async fn healthz(State(reader): State<Reader>) -> Result<String, HttpResponse> {
    loop {
        let snapshot = reader.snapshot().await?;
        let seen = reader.watch.lock().unwrap_or_else(PoisonError::into_inner).look(&snapshot.cores, Instant::now());
        match seen {
            Seen::GoingOn => return Ok("ok\n".to_owned()),
            Seen::Unknown => sleep(LOOK).await,
            Seen::Stuck(cores) => {
                let cores = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                let text = format!("I/O cores that do not poll: {cores}\n");
                return Err((StatusCode::SERVICE_UNAVAILABLE, text).into_response());
            }
        }
    }
}

/// 200 once every configured port is there: before that, nobody listens here.
async fn readyz(State(reader): State<Reader>) -> Result<String, HttpResponse> {
    reader.snapshot().await.map(|_| "ready\n".to_owned())
}

/// Tells whether I/O cores go on, from one look to the next.
#[derive(Debug, Default)]
struct CoreWatch {
    /// Rounds of each core when they were last seen to have changed.
    seen: BTreeMap<usize, (u64, Instant)>,
}

/// How I/O cores are.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// All of them polled since the last look, if not just now, or sleep.
    GoingOn,
    /// These did neither, for so long that they hang.
    Stuck(Vec<usize>),
    /// It is too early to say.
    Unknown,
}

impl CoreWatch {
    fn look(&mut self, cores: &[CoreSnapshot], now: Instant) -> Seen {
        let (mut stuck, mut unknown) = (Vec::new(), false);
        for core in cores {
            let known = self.seen.get(&core.core).copied();
            match known {
                Some((polls, since)) if polls == core.polls && !core.asleep => {
                    if now.duration_since(since) >= CORE_PATIENCE { stuck.push(core.core) } else { unknown = true }
                }
                _ => {
                    unknown |= known.is_none();
                    self.seen.insert(core.core, (core.polls, now));
                }
            }
        }
        match (stuck.is_empty(), unknown) {
            (false, _) => Seen::Stuck(stuck),
            (true, true) => Seen::Unknown,
            (true, false) => Seen::GoingOn,
        }
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
                Ok((stream, peer)) => return (BoundedStream::new(stream, permit), peer),
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
    ends: tokio::time::Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

impl BoundedStream {
    fn new(stream: TcpStream, permit: Option<OwnedSemaphorePermit>) -> Self {
        let ends = tokio::time::Instant::now() + LIFETIME;
        Self { stream, deadline: Box::pin(sleep(PATIENCE)), ends, _permit: permit }
    }

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
        let now = tokio::time::Instant::now();
        if matches!(result, Poll::Ready(Ok(_))) && now < self.ends {
            self.deadline.as_mut().reset(now + PATIENCE);
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
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn core(polls: u64, asleep: bool) -> [CoreSnapshot; 1] {
        [CoreSnapshot { polls, asleep, ..CoreSnapshot::default() }]
    }

    #[test]
    fn responses_prolong_a_connection_until_its_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap());
            let mut stream = BoundedStream::new(peer.await.unwrap(), None);
            let mut deadlines = [stream.deadline.deadline(); 3];
            for deadline in &mut deadlines[1..] {
                sleep(Duration::from_millis(2)).await;
                stream.write_all(b"a response").await.unwrap();
                *deadline = stream.deadline.deadline();
                stream.ends = tokio::time::Instant::now();
            }
            assert!(deadlines[0] < deadlines[1] && deadlines[1] == deadlines[2], "{deadlines:?}");
        });
    }

    #[test]
    fn a_core_that_stands_still_is_noticed() {
        let mut watch = CoreWatch::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut look = |polls, ms| watch.look(&core(polls, false), after(ms));
        assert_eq!(look(1, 0), Seen::Unknown, "nothing to compare it with");
        assert_eq!(look(2, 10), Seen::GoingOn);
        assert_eq!(look(2, 900), Seen::Unknown, "too early to say");
        assert_eq!(look(2, 1010), Seen::Stuck(vec![0]));
        assert_eq!(look(3, 1200), Seen::GoingOn, "it goes on");
        assert_eq!(look(4, 9000), Seen::GoingOn);
    }

    #[test]
    fn a_core_that_sleeps_does_not_hang() {
        let mut watch = CoreWatch::default();
        let start = Instant::now();
        let mut look = |asleep, s| watch.look(&core(1, asleep), start + Duration::from_secs(s));
        assert_eq!([look(true, 0), look(true, 60)], [Seen::Unknown, Seen::GoingOn]);
        assert_eq!(look(false, 60), Seen::Unknown, "it has just been seen asleep");
        assert_eq!(look(false, 61), Seen::Stuck(vec![0]), "it is awake, and does nothing");
    }
}
