//! Clients of the control socket and of HTTP that do not behave.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::stage::Stage;

/// How long a client may have to wait for its answer while others misbehave.
const ANSWER: Duration = Duration::from_secs(5);

/// Sends a line and returns what comes back until the end or the first line's end.
fn line(stage: &Stage, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(stage.config.control_socket())?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    // It may be answered, and closed, before all of it is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn refused(stage: &Stage, request: &Value, words: &str) -> Result<()> {
    let answer = stage.ask(request)?;
    let error = answer["error"].as_str().with_context(|| format!("{request} was not refused: {answer}"))?;
    ensure!(error.contains(words), "{request}: {error:?} does not say {words:?}");
    ensure!(!error.chars().any(|c| c.is_control() && c != '\n'), "control characters in {error:?}");
    Ok(())
}

#[test]
fn requests_that_are_none() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let deep = [b"[".repeat(60_000), b"\n".to_vec()].concat();
        for bytes in [
            &b"\n"[..],
            b"garbage\n",
            b"\0\0\0\0\n",
            b"\xff\xfe\xfd\n",
            b"null\n",
            b"[]\n",
            b"{}\n",
            b"{\"command\":7}\n",
            b"{\"command\":\"status\",\"more\":1}\n",
            b"{\"command\":\"status\"",
            b"{\"command\":\"guest_remove\",\"name\":[]}\n",
            b"{\"command\":\"guest_add\"}\n",
            b"{\"command\":\"guest_add\",\"guest\":7}\n",
            b"{\"command\":\"guest_add\",\"guest\":{\"name\":{},\"socket\":[]}}\n",
            b"{\"command\":\"guest_add\",\"guest\":{\"name\":\"a\",\"socket\":\"/tmp/a\",\"queue_pairs\":1e300}}\n",
            &deep,
        ] {
            let answer = line(stage, bytes)?;
            ensure!(
                answer.contains("\"error\""),
                "{:?}: {answer:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
            );
        }
        let answer = line(stage, &vec![b'x'; 10 << 20])?;
        ensure!(answer.contains("at most 65536 bytes"), "{answer:?}");
        ensure!(line(stage, b"")?.is_empty());
        Ok(())
    };
    stage.attack("requests that are none", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn guests_that_cannot_be_added() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let control = stage.config.control_socket();
        let dir = control.parent().context("no folder")?;
        let precious = dir.join("precious");
        std::fs::write(&precious, "precious")?;
        let link = dir.join("link");
        std::os::unix::fs::symlink(&precious, &link)?;
        let path = |name: &str| dir.join(name).display().to_string();
        let foreign = std::os::unix::net::UnixListener::bind(path("foreign"))?;
        let add = |name: &str, socket: &str| json!({"command": "guest_add", "guest": {"name": name, "socket": socket}});
        for (request, words) in [
            (add("x", &path("precious")), "not a socket"),
            (add("x", &path("link")), "not a socket"),
            (add("x", &dir.display().to_string()), "not a socket"),
            (add("x", &path("left.sock")), "is taken by the guest left"),
            (add("x", &path("./left.sock")), ""),
            (add("x", &path("foreign")), "in use"),
            (add("x", &control.display().to_string()), "control"),
            (add("x", &path("no/such/folder")), "folder"),
            (add("x", &path(&"x".repeat(200))), "107"),
            (add("x", "relative"), "absolute"),
            (add("x", ""), ""),
            (add("x", "/dev/null"), "not a socket"),
            (add("x", "/tmp/a\u{0}b"), ""),
            (add("left", &path("new")), "is taken"),
            (add("", &path("new")), "name"),
            (add("a\nb", &path("new")), "name"),
            (add("\u{1b}[31m", &path("new")), "name"),
            (add("../../etc", &path("new")), "name"),
            (add("-rf", &path("new")), "name"),
            (add(&"n".repeat(33), &path("new")), "name"),
            (json!({"command": "guest_remove", "name": "\u{1b}]0;x\u{7}"}), "there is no guest"),
            (json!({"command": "guest_remove", "name": "x".repeat(60_000)}), "there is no guest"),
            (json!({"command": "uplink_add", "uplink": {"name": "u", "device": "net_nothing0"}}), ""),
            (json!({"command": "uplink_add", "uplink": {"name": "u", "device": "net_af_packet0,iface=nowhere0"}}), ""),
        ] {
            refused(stage, &request, words)?;
        }
        drop(foreign);
        ensure!(std::fs::read_to_string(&precious)? == "precious", "a file was harmed");
        ensure!(link.is_symlink() && !dir.join("new").exists());
        Ok(())
    };
    stage.attack("guests that cannot be added", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn clients_that_are_slow_or_many() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut slow = Vec::new();
        for _ in 0..100 {
            let mut stream = UnixStream::connect(stage.config.control_socket())?;
            stream.write_all(b"{\"command\":")?;
            slow.push(stream);
        }
        let start = Instant::now();
        stage.switch.must(&["status"])?;
        println!("an answer after {:.1?}", start.elapsed());
        ensure!(start.elapsed() < ANSWER, "an answer took {:?}", start.elapsed());
        drop(slow);
        Ok(())
    };
    stage.attack("a hundred slow clients", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        for _ in 0..200 {
            let mut stream = UnixStream::connect(stage.config.control_socket())?;
            stream.write_all(b"{\"command\":\"status\"}\n{\"command\":\"fdb_show\"}\n{\"comm")?;
        }
        stage.switch.must(&["status"]).map(drop)
    };
    stage.attack("clients that do not wait for their answers", attack).unwrap();
    stage.finish().unwrap();
}

/// One HTTP request, everything that comes back.
fn http(port: u16, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn http_clients_that_do_not_behave() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut stage = Stage::start_with(|config| config.key(&format!("http_listen = \"127.0.0.1:{port}\""))).unwrap();
    let attack = |_: &mut Stage| -> Result<()> {
        let get =
            |path: &str| http(port, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
        ensure!(get("/healthz")?.starts_with("HTTP/1.1 200"));
        for path in ["/../../etc/passwd", "//", "/metrics/../status/x", "/%00", "/status%2f", "*"] {
            let answer = get(path)?;
            ensure!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        }
        for request in [
            &b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"[..],
            b"DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\0\0\0\0\r\n\r\n",
            &[b"GET /", &b"x".repeat(1 << 20)[..], b" HTTP/1.1\r\n\r\n"].concat(),
            &[&b"GET /status HTTP/1.1\r\nX: "[..], &b"x".repeat(1 << 20), b"\r\n\r\n"].concat(),
        ] {
            let answer = http(port, request)?;
            ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        ensure!(get("/metrics")?.contains("sidecore_port_state"));
        Ok(())
    };
    stage.attack("HTTP requests that are none", attack).unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        // No more than the kernel queues: others would wait in their own connect.
        let slow: Vec<TcpStream> = (0..120).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
        for mut stream in &slow {
            stream.write_all(b"GET /metrics HT")?;
        }
        // The control socket has nothing to do with it.
        let start = Instant::now();
        stage.switch.must(&["status"])?;
        ensure!(start.elapsed() < ANSWER, "an answer took {:?}", start.elapsed());
        drop(slow);
        let start = Instant::now();
        let answer = http(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "after {:?}: {answer}", start.elapsed());
        Ok(())
    };
    stage.attack("slow HTTP clients", attack).unwrap();
    stage.finish().unwrap();
}
