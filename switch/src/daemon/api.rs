//! The thread that serves the control socket and HTTP.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tracing::error;

use crate::control::{self, Mailbox};
use crate::http;

/// The running thread.
pub(crate) struct Api {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// Starts to serve. The listeners are non-blocking.
pub(crate) fn start(control: UnixListener, http: Option<TcpListener>, mailbox: Mailbox) -> io::Result<Api> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (control, http) = {
        let _context = runtime.enter();
        let http = http.map(tokio::net::TcpListener::from_std).transpose()?;
        (tokio::net::UnixListener::from_std(control)?, http)
    };
    let (stop, stopped) = oneshot::channel();
    let serve = async move {
        if let Some(http) = http {
            let mailbox = mailbox.clone();
            tokio::spawn(async move {
                if let Err(error) = http::serve(http, mailbox).await {
                    error!("HTTP is no longer served: {error}");
                }
            });
        }
        tokio::select! {
            () = control::serve(control, mailbox) => {}
            _ = stopped => {}
        }
    };
    let thread = thread::Builder::new().name("api".to_owned()).spawn(move || runtime.block_on(serve))?;
    Ok(Api { thread, stop })
}

impl Api {
    /// Closes every connection.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the control socket's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    use crate::control::Message;
    use crate::control::protocol::{Answer, Request, Response};

    /// The thread under test, and a control thread that knows one answer.
    struct Served {
        _directory: TempDir,
        path: PathBuf,
        http: SocketAddr,
        api: Option<Api>,
        state: Arc<AtomicU8>,
    }

    /// How the switch is that the control thread tells of.
    const FINE: u8 = 0;
    const A_CORE_HANGS: u8 = 1;
    const CONTROL_HANGS: u8 = 2;

    impl Served {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("control.sock");
            let control = UnixListener::bind(&path).unwrap();
            let http = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = http.local_addr().unwrap();
            control.set_nonblocking(true).unwrap();
            http.set_nonblocking(true).unwrap();
            let (sender, messages) = mpsc::sync_channel(8);
            let state = Arc::new(AtomicU8::new(FINE));
            let now = Arc::clone(&state);
            thread::spawn(move || {
                let (mut polls, mut waiting) = (0, Vec::new());
                for message in messages {
                    let Message::Request(request, reply) = message else { return };
                    let now = now.load(Ordering::Relaxed);
                    if now == CONTROL_HANGS {
                        waiting.push(reply);
                        continue;
                    }
                    polls += u64::from(now == FINE);
                    let answer = match request {
                        Request::Status => {
                            let mut snapshot = crate::metrics::tests::snapshot();
                            snapshot.cores[0].polls = polls;
                            Answer::Status(Box::new(snapshot))
                        }
                        _ => Answer::Fdb(Vec::new()),
                    };
                    let _ = reply.send(Response::Ok(answer));
                }
            });
            let api = start(control, Some(http), Mailbox::new(sender)).unwrap();
            Self { _directory: directory, path, http: address, api: Some(api), state }
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(&self.path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }

        fn get(&self, path: &str) -> String {
            self.get_as(path, "*/*")
        }

        fn get_as(&self, path: &str, accept: &str) -> String {
            let mut stream = TcpStream::connect(self.http).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.api.take().unwrap().stop();
        }
    }

    #[test]
    fn one_connection_can_ask_several_times() {
        let served = Served::new();
        let mut stream = served.connect();
        stream.write_all(b"{\"command\":\"fdb_show\"}\nnonsense\n{\"command\":\"fdb_show\"}\n").unwrap();
        let lines: Vec<_> = BufReader::new(stream).lines().take(3).map(Result::unwrap).collect();
        assert_eq!((lines[0].as_str(), lines[2].as_str()), (r#"{"ok":{"fdb":[]}}"#, r#"{"ok":{"fdb":[]}}"#));
        assert!(lines[1].starts_with(r#"{"error":"not a request: "#), "{}", lines[1]);
    }

    #[test]
    fn a_request_without_an_end_is_not_collected() {
        let served = Served::new();
        let mut stream = served.connect();
        // The switch may close before it has taken everything.
        let _ = stream.write_all(&vec![b' '; 1 << 20]);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("a request has at most 65536 bytes"), "{line}");
    }

    #[test]
    fn silent_clients_are_not_waited_for() {
        let served = Served::new();
        let mut silent: Vec<_> = (0..20).map(|_| served.connect()).collect();
        silent[0].write_all(b"{\"comm").unwrap();
        let start = Instant::now();
        let mut stream = served.connect();
        stream.write_all(b"{\"command\":\"fdb_show\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"ok\":{\"fdb\":[]}}\n");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(silent[0].read(&mut [0; 8]).unwrap(), 0, "its connection was closed");
    }

    #[test]
    fn http_reads() {
        let served = Served::new();
        let metrics = served.get("/metrics");
        assert!(
            metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("\nsidecore_uptime_seconds 1.5\n"),
            "{metrics}"
        );
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        let open = served.get_as("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
        assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
        assert!(open.contains("vary: Accept") && open.ends_with("# EOF\n"), "{open}");
        assert!(served.get("/status").contains("\"version\":\"0.1.0\""));
        assert!(served.get("/healthz").ends_with("\r\n\r\nok\n"));
        assert!(served.get("/readyz").ends_with("\r\n\r\nready\n"));
        assert!(served.get("/reload").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn health_is_the_truth() {
        let served = Served::new();
        assert!(served.get("/healthz").starts_with("HTTP/1.1 200 "));
        served.state.store(A_CORE_HANGS, Ordering::Relaxed);
        let stuck = served.get("/healthz");
        assert!(stuck.starts_with("HTTP/1.1 503 ") && stuck.ends_with("\nI/O cores that do not poll: 0\n"), "{stuck}");
        assert!(served.get("/readyz").starts_with("HTTP/1.1 200 "), "its ports are there all the same");
        served.state.store(FINE, Ordering::Relaxed);
        assert!(served.get("/healthz").starts_with("HTTP/1.1 200 "), "it goes on");
        served.state.store(CONTROL_HANGS, Ordering::Relaxed);
        for path in ["/healthz", "/readyz"] {
            let hangs = served.get(path);
            assert!(
                hangs.starts_with("HTTP/1.1 503 ") && hangs.contains("the control thread does not answer"),
                "{hangs}"
            );
        }
    }
}
