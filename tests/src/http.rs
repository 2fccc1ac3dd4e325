//! Single HTTP requests to a server on this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug)]
pub struct Response {
    /// The status line and the headers, in small letters.
    pub head: String,
    /// The rest.
    pub body: String,
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Reads a page that must be there.
pub fn get(port: u16, path: &str) -> Result<Response> {
    let response = request(port, "GET", path, "")?;
    ensure!(response.head.starts_with("http/1.1 200 "), "{path}: {}{}", response.head, response.body);
    Ok(response)
}

/// Makes a request with a JSON body, or none, and returns the answer, whatever it is.
pub fn request(port: u16, method: &str, path: &str, body: &str) -> Result<Response> {
    exchange(port, method, path, body).with_context(|| format!("{method} http://127.0.0.1:{port}{path}"))
}

fn exchange(port: u16, method: &str, path: &str, body: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), None);
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the response ends in its head: {head}");
        line.make_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse()?);
        }
        head.push_str(&line);
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length.context("a response without a length")?];
    reader.read_exact(&mut body)?;
    Ok(Response { head, body: String::from_utf8(body)? })
}
