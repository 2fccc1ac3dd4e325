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
