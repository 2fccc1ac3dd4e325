//! What `guest-traffic` does.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{RoundTrips, Stream};

/// Where the server listens.
const PORT: u16 = 5001;

/// Bytes of a request, and of its answer.
const MESSAGE: usize = 64;

/// Bytes that a stream writes and reads at once.
const CHUNK: usize = 128 << 10;

/// The first byte of a connection says what it is for.
const ASK: u8 = b'a';
const STREAM: u8 = b's';

/// How long a server may take to be there, and either end to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// Round trips whose times are kept: more of them change no percentile.
const MOST_TIMES: usize = 1 << 22;

/// The server's end.
pub fn listen() -> Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", PORT)).with_context(|| format!("port {PORT}"))
}

/// Answers whoever connects, for ever.
pub fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (connection, _) = listener.accept()?;
        std::thread::spawn(move || {
            if let Err(error) = answer(connection) {
                eprintln!("guest-traffic: {error:#}");
            }
        });
    }
}

fn answer(mut connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut purpose = [0];
    connection.read_exact(&mut purpose)?;
    match purpose {
        [ASK] => echo(connection),
        _ => swallow(connection),
    }
}

fn echo(mut connection: TcpStream) -> Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        match connection.read_exact(&mut message) {
            Ok(()) => connection.write_all(&message)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads to the end; then says how much there was, and in how many nanoseconds.
fn swallow(mut connection: TcpStream) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let (mut bytes, begin) = (0, Instant::now());
    loop {
        match connection.read(&mut chunk)? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    let nanos = u64::try_from(begin.elapsed().as_nanos())?;
    connection.write_all(&[bytes.to_le_bytes(), nanos.to_le_bytes()].concat())?;
    Ok(())
}

/// Sends a stream until told to stop.
pub fn stream(address: &str, stop: &AtomicBool) -> Result<Stream> {
    let mut connection = connect(address, PORT, STREAM)?;
    let chunk = vec![0x5c; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        connection.write_all(&chunk)?;
    }
    stream_end(connection)
}

fn stream_end(mut connection: TcpStream) -> Result<Stream> {
    connection.shutdown(Shutdown::Write)?;
    let mut said = [[0; 8]; 2];
    connection.read_exact(said.as_flattened_mut()).context("the receiver says nothing")?;
    let [bytes, nanos] = said.map(u64::from_le_bytes);
    Ok(Stream { bytes, seconds: nanos as f64 / 1e9 })
}

/// Asks again and again, with a pause after each answer, until told to stop.
pub fn ask(address: &str, pause: Duration, stop: &AtomicBool) -> Result<RoundTrips> {
    ask_at(connect(address, PORT, ASK)?, pause, stop)
}

fn ask_at(mut connection: TcpStream, pause: Duration, stop: &AtomicBool) -> Result<RoundTrips> {
    let mut times = Vec::new();
    let mut requests = 0_u64;
    let (mut request, mut answer) = ([0; MESSAGE], [0; MESSAGE]);
    while !stop.load(Ordering::Relaxed) {
        request[..8].copy_from_slice(&requests.to_le_bytes());
        let sent = Instant::now();
        connection.write_all(&request)?;
        connection.read_exact(&mut answer).context("no answer")?;
        let time = sent.elapsed();
        ensure!(answer == request, "the answer to request {requests} is to another one");
        if times.len() < MOST_TIMES {
            times.push(time);
        }
        requests += 1;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    ensure!(!times.is_empty(), "stopped before the first request");
    times.sort_unstable();
    let quantile = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Ok(RoundTrips { requests, p50_us: quantile(0.5), p99_us: quantile(0.99) })
}

/// Connects to a server that may be about to start.
fn connect(address: &str, port: u16, purpose: u8) -> Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    let mut connection = loop {
        match TcpStream::connect((address, port)) {
            Ok(connection) => break connection,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| format!("{address} port {port}")),
        }
    };
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&[purpose])?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server on loopback, for the rest of the process.
    fn server() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || serve(&listener));
        port
    }

    #[test]
    fn requests_are_answered_until_somebody_says_stop() {
        let connection = connect("127.0.0.1", server(), ASK).unwrap();
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        let result = std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask_at(connection, Duration::from_millis(1), &stop));
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            asking.join().unwrap().unwrap()
        });
        let most = begin.elapsed().as_millis() as u64 + 1;
        assert!((1..=most).contains(&result.requests), "a millisecond lies between them: {result:?} in {most} ms");
        assert!(0.0 < result.p50_us && result.p50_us <= result.p99_us, "{result:?}");
    }

    #[test]
    fn a_streams_receiver_says_what_it_got() {
        let mut connection = connect("127.0.0.1", server(), STREAM).unwrap();
        connection.write_all(&vec![1; 1_000_000]).unwrap();
        let said = stream_end(connection).unwrap();
        assert_eq!(said.bytes, 1_000_000);
        assert!(said.mbit_s() > 0.0, "{said:?}");
    }
}
