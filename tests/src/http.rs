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

impl Response {
    /// The status, such as 200.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
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

/// Reads a page, whatever its status, from servers that say how long it is and from those that do not. `headers` are whole lines.
pub fn ask(port: u16, path: &str, headers: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("port {port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // 1.0: nothing comes in chunks, and the connection ends with the answer.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{headers}\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| path.to_owned())?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{path}: no answer but {text:?}"))?;
    Ok(Response { head: head.to_ascii_lowercase(), body: body.to_owned() })
}

/// A text as part of a query: everything but letters and digits by its bytes.
#[must_use]
pub fn encoded(text: &str) -> String {
    let byte =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
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
