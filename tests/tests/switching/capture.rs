//! What `sidecore capture` records: everything that passes its ports, as it passes, and nothing of it at the cost of others.

mod file;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};
use sidecore_tests::paths;
use sidecore_tests::process::{Process, eventually, must, run};
use synthetic_guest::packet::FrameSpec;
use synthetic_guest::{Features, GuestConfig};

use self::file::{Contents, contents};
use crate::frames::{Packet, bytes, one, tagged, tcp, udp};
use crate::rig::{LIMIT, Node, Plan, Rig};

const IN: u32 = 1;
const OUT: u32 = 2;

/// A running `sidecore capture`.
struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Begins one, the only one; when this returns it is in force.
    fn begin(rig: &Rig, name: &str, args: &[&str]) -> Self {
        Self::one_of(1, rig, name, args)
    }

    /// The same where there are so many at once, up to four. Where nothing is to be missed, a core that loses its CPU in the midst of it needs time
    /// left over: each has as much of a core's time as all of them may have.
    fn one_of(captures: u32, rig: &Rig, name: &str, args: &[&str]) -> Self {
        let (file, share) = (rig.dir().join(format!("{name}.pcapng")), (50 / captures).to_string());
        let mut all = vec!["capture", "--write", file.to_str().unwrap(), "--core-share", &share];
        all.extend(args);
        let socket = rig.dir().join("control.sock");
        all.extend(["--control", socket.to_str().unwrap()]);
        let log = rig.dir().join(format!("{name}.log"));
        let mut process = Process::spawn("capture", paths::sidecore().unwrap(), all, &log).unwrap();
        process.wait_for_output("capturing at ", LIMIT).unwrap();
        Self { process, file }
    }

    /// Ends it as Ctrl-C does.
    fn end(mut self) -> Contents {
        self.process.signal(Signal::INT).unwrap();
        let contents = self.ended();
        assert!(self.process.output().contains("ended: its reader ended it; "), "{}", self.process.output());
        contents
    }

    /// It ends by itself.
    fn ended(&mut self) -> Contents {
        let (status, _) = self.process.wait(LIMIT).unwrap();
        assert!(status.success(), "{}", self.process.output());
        contents(&std::fs::read(&self.file).unwrap())
    }
}

/// Captures that run, as the switch says.
fn running(rig: &Rig) -> usize {
    rig.json()["captures"]["running"].as_array().unwrap().len()
}

/// A capture of `a` whose reader is this test.
fn by_hand(rig: &Rig) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(rig.dir().join("control.sock")).unwrap();
    let request = json!({"command": "capture", "ports": ["a"], "core_share_percent": 50, "rate_pps": 4_000_000_000u32});
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut stream = BufReader::with_capacity(64, stream);
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"ok\":\"capturing\"}\n");
    stream
}

/// Packets that were written or missed.
fn accounted(rig: &Rig) -> u64 {
    let captures = rig.json()["captures"].clone();
    let missed = captures["missed"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    captures["packets"].as_u64().unwrap() + missed
}

fn wait_for_end(rig: &Rig) {
    eventually("end of the capture", LIMIT, || Ok((running(rig) == 0).then_some(()))).unwrap();
}

/// Two guests that know each other.
fn two(plan: Plan) -> (Rig, Node, Node) {
    let rig = plan.start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    b.send(&[one(2, 1)]);
    a.send(&[one(1, 2)]);
    assert_eq!((a.receive(1).len(), b.receive(1).len()), (1, 1));
    rig.settle();
    (rig, a, b)
}

/// Sends in portions that the receiver takes one after the other.
fn send(from: &mut Node, to: &mut Node, packets: &[Packet]) {
    for portion in packets.chunks(100) {
        from.send(portion);
        assert_eq!(to.receive(portion.len()).len(), portion.len());
    }
}

#[test]
fn what_matches_is_recorded_at_both_ports() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let capture = Capture::begin(&rig, "udp", &["a", "b", "--filter", "udp and less 1000"]);
    let status = rig.switch.must(&["status"]).unwrap();
    assert!(status.contains("Capture 0, from and to a, b, filter \"udp and less 1000\""), "{status}");
    let wanted: Vec<Packet> = [60, 61, 300].into_iter().flat_map(|len| udp(1, 2, len, 100)).collect();
    let long = udp(1, 2, 1200, 50);
    let other = vec![Packet::new(FrameSpec { checksum: synthetic_guest::packet::Checksum::Full, ..tcp(4, 200) }); 50];
    for packets in [&wanted[..150], &long, &wanted[150..], &other] {
        send(&mut a, &mut b, packets);
    }
    let back = udp(2, 1, 100, 70);
    send(&mut b, &mut a, &back);
    let contents = capture.end();
    assert_eq!(contents.frames("a", IN), bytes(&wanted));
    assert_eq!(contents.frames("b", OUT), bytes(&wanted));
    assert_eq!(contents.frames("b", IN), bytes(&back));
    assert_eq!(contents.frames("a", OUT), bytes(&back));
    let expected = BTreeMap::from([("a".to_owned(), [470, 370, 0]), ("b".to_owned(), [470, 370, 0])]);
    assert_eq!(contents.counts, expected);
    assert!(contents.comments[0].starts_with("a: 370 packets captured, 100 did not match the filter, 0 missed"));
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    assert!(contents.packets.iter().all(|p| (before..after).contains(&p.ns) && p.len == p.bytes.len()));
    let file = rig.dir().join("udp.pcapng");
    let text = must(&["tcpdump", "-n", "-e", "-r", file.to_str().unwrap()]).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains(" > ")).count(), 740, "{text}");
    assert_eq!(rig.json()["captures"]["packets"], 740);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn frames_are_recorded_as_their_port_sees_them() {
    let plan = Plan::new().guest("a", &["vlan = { access = 7 }"]).guest("b", &["vlan = { trunk = [7] }"]);
    let rig = plan.start();
    let taking = |config: &mut GuestConfig| {
        config.session.features = Features::VERSION_1 | Features::MRG_RXBUF | Features::OFFLOADS;
        config.tx_ring = 64;
        config.tx_frame_len = 65_535 + 14;
    };
    let (mut a, mut b) = (rig.guest_with("a", taking), rig.guest_with("b", |_| ()));
    let capture = Capture::begin(&rig, "vlan", &["a", "b", "--snaplen", "2000"]);
    let plain = one(1, 2);
    let large = Packet::new(FrameSpec { gso_size: Some(1440), ..tcp(4, 9000) });
    a.send(&[plain.clone(), large.clone()]);
    // Of the large one, a receiver without offloads gets segments.
    assert_eq!(b.receive(8).len(), 8);
    let contents = capture.end();
    assert_eq!(contents.frames("a", IN), [plain.bytes.clone(), large.bytes[..2000].to_vec()]);
    let with_tag = |packet: &Packet| tagged(&packet.bytes, 7);
    assert_eq!(contents.frames("b", OUT), [with_tag(&plain), with_tag(&large)[..2000].to_vec()]);
    let lens: Vec<usize> = contents.packets.iter().map(|packet| packet.len).collect();
    assert_eq!(lens.iter().sum::<usize>(), 2 * (60 + large.bytes.len()) + 2 * 4, "{lens:?}");
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn only_what_was_delivered_is_recorded_as_such() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let capture = Capture::begin(&rig, "full", &["a", "b"]);
    // A ring of 256 entries, from which nobody takes.
    let sent = udp(1, 2, 60, 1000);
    a.send(&sent);
    let arrived = b.frames();
    assert!(arrived.len() < 1000);
    let contents = capture.end();
    assert_eq!(contents.frames("a", IN), bytes(&sent));
    assert_eq!(contents.frames("b", OUT), arrived);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_capture_goes_where_its_queue_pairs_go() {
    let (rig, mut a, mut b) = two(Plan::three_still_cores().guests(&["a", "b"]));
    let capture = Capture::begin(&rig, "moves", &["a", "b"]);
    let sent = udp(1, 2, 200, 1200);
    for (round, portion) in sent.chunks(100).enumerate() {
        a.send(portion);
        rig.switch.move_guest("a", None, round % 3).unwrap();
        rig.switch.move_guest("b", None, round / 2 % 3).unwrap();
        assert_eq!(b.receive(100).len(), 100);
    }
    rig.settle();
    let contents = capture.end();
    assert_eq!(contents.frames("a", IN), bytes(&sent));
    assert_eq!(contents.frames("b", OUT), bytes(&sent));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn guests_with_threads_of_their_own_are_captured() {
    let trap = ["mode = \"trap\""];
    let (rig, mut a, mut b) = two(Plan::new().asks().guest("a", &trap).guest("b", &[]));
    let capture = Capture::begin(&rig, "trap", &["a", "b"]);
    // A thread that is made while the capture runs has no part in it, and does no harm.
    let socket = rig.dir().join("late.sock");
    rig.switch.must(&["guest", "add", "late", "--socket", socket.to_str().unwrap(), "--mode", "trap"]).unwrap();
    let (sent, back) = (udp(2, 1, 60, 300), udp(1, 2, 60, 300));
    send(&mut b, &mut a, &sent);
    send(&mut a, &mut b, &back);
    let contents = capture.end();
    assert_eq!((contents.frames("b", IN), contents.frames("a", OUT)), (bytes(&sent), bytes(&sent)));
    assert_eq!((contents.frames("a", IN), contents.frames("b", OUT)), (bytes(&back), bytes(&back)));
    rig.finish_but(&mut [&mut a, &mut b], &["own I/O thread"]);
}

#[test]
fn uplinks_are_captured() {
    let plan = Plan::new().guest("a", &["vlan = { access = 10 }"]).guest("peer", &["vlan = { access = 20 }"]);
    let rig = plan.guest("b", &["vlan = { access = 20 }"]).start();
    let device = format!("net_virtio_user0,path={},queue_size=256", rig.config("peer").session.socket.display());
    rig.switch.must(&["uplink", "add", "wan", "--device", &device, "--vlan", "10"]).unwrap();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    b.send(&[one(2, 1)]);
    a.send(&[one(1, 2)]);
    assert_eq!((a.receive(1).len(), b.receive(1).len()), (1, 1));
    let capture = Capture::one_of(2, &rig, "uplink", &["wan", "--direction", "to"]);
    let second = Capture::one_of(2, &rig, "uplink-from", &["wan", "--direction", "from"]);
    let (sent, back) = (udp(1, 2, 300, 100), udp(2, 1, 301, 50));
    send(&mut a, &mut b, &sent);
    send(&mut b, &mut a, &back);
    let (to, from) = (capture.end(), second.end());
    assert_eq!((to.frames("wan", OUT), to.frames("wan", IN)), (bytes(&sent), Vec::new()));
    assert_eq!((from.frames("wan", IN), from.frames("wan", OUT)), (bytes(&back), Vec::new()));
}

#[test]
fn limits_end_a_capture() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let mut count = Capture::one_of(3, &rig, "count", &["a", "-c", "130"]);
    let mut size = Capture::one_of(3, &rig, "size", &["b", "--size", "64K"]);
    let mut rate = Capture::one_of(3, &rig, "rate", &["a", "--rate", "10", "--duration", "3s"]);
    let sent = udp(1, 2, 1000, 200);
    send(&mut a, &mut b, &sent);
    assert_eq!(count.ended().frames("a", IN), bytes(&sent[..130]));
    assert!(count.process.output().contains("ended: it has as many packets as were asked for"));
    let contents = size.ended();
    let len = std::fs::metadata(&size.file).unwrap().len();
    assert!((60 << 10..=64 << 10).contains(&len), "{len}");
    assert_eq!(contents.frames("b", OUT), bytes(&sent[..contents.packets.len()]));
    assert!(size.process.output().contains("ended: it is as large as it may be"));
    let contents = rate.ended();
    let [seen, written, missed] = contents.counts["a"];
    // One at once, then ten a second.
    assert!(seen == 200 && (1..=35).contains(&written) && written + missed == seen, "{:?}", contents.counts);
    assert!(rate.process.output().contains("ended: its time is over"));
    assert_eq!(rig.json()["captures"]["missed"]["rate"], missed);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_port_that_goes_and_a_switch_that_stops_end_it() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let mut gone = Capture::one_of(2, &rig, "gone", &["a"]);
    let mut stopped = Capture::one_of(2, &rig, "stopped", &["b"]);
    let sent = udp(1, 2, 60, 20);
    send(&mut a, &mut b, &sent);
    rig.switch.must(&["guest", "remove", "a"]).unwrap();
    assert_eq!(gone.ended().frames("a", IN), bytes(&sent));
    assert!(gone.process.output().contains("ended: port a was removed"), "{}", gone.process.output());
    eventually("end of one", LIMIT, || Ok((running(&rig) == 1).then_some(()))).unwrap();
    rig.switch.signal(Signal::TERM).unwrap();
    assert_eq!(stopped.ended().frames("b", OUT), bytes(&sent));
    assert!(stopped.process.output().contains("ended: the switch was stopped"), "{}", stopped.process.output());
    let log = rig.switch.log();
    assert!(log.contains("capture of a begins") && log.contains("capture of a ended: port a was removed"), "{log}");
    rig.has_stopped();
}

#[test]
fn a_reader_that_reads_nothing_misses_packets_and_nobody_else_does() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let stream = by_hand(&rig);
    // 60 MB: more than a ring and a socket hold.
    let packets = udp(1, 2, 1500, 100);
    (0..400).for_each(|_| send(&mut a, &mut b, &packets));
    let missed = |rig: &Rig| rig.json()["captures"]["missed"]["slow_reader"].as_u64().unwrap();
    assert!(missed(&rig) > 1000, "{}", rig.json()["captures"]);
    assert!(accounted(&rig) < 40_000, "some are in the ring: {}", rig.json()["captures"]);
    assert_eq!(rig.drops("a"), Default::default());
    // It goes without a word.
    drop(stream);
    wait_for_end(&rig);
    assert_eq!(accounted(&rig), 40_000, "what was never sent was missed: {}", rig.json()["captures"]);
    let before = missed(&rig);
    send(&mut a, &mut b, &packets);
    assert_eq!(missed(&rig), before);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_reader_that_takes_its_time_at_the_end_does_not_keep_the_place() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let mut stream = by_hand(&rig);
    // More than the ring and the socket hold.
    let packets = udp(1, 2, 1500, 100);
    (0..60).for_each(|_| send(&mut a, &mut b, &packets));
    stream.get_ref().shutdown(Shutdown::Write).unwrap();
    // It would have all that is left in some 14 s.
    eventually("end of the capture", LIMIT, || {
        let _ = stream.get_mut().read(&mut [0; 32 << 10])?;
        std::thread::sleep(Duration::from_millis(100));
        Ok((running(&rig) == 0).then_some(()))
    })
    .unwrap();
    assert_eq!(accounted(&rig), 6000, "what was never sent was missed: {}", rig.json()["captures"]);
    let log = rig.switch.log();
    assert!(log.contains("its reader ended it; whoever read it has not got all of it"), "{log}");
    Capture::begin(&rig, "next", &["a"]).end();
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_reader_that_is_killed_leaves_a_file_and_nothing_else() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let mut capture = Capture::begin(&rig, "killed", &["a"]);
    let sent = udp(1, 2, 500, 100);
    send(&mut a, &mut b, &sent);
    let last = bytes(&sent[99..]).remove(0);
    eventually("the packets in the file", LIMIT, || Ok(ends_with(&std::fs::read(&capture.file)?, &last).then_some(())))
        .unwrap();
    capture.process.kill().unwrap();
    wait_for_end(&rig);
    let file = contents(&std::fs::read(&capture.file).unwrap());
    assert_eq!(file.frames("a", IN), bytes(&sent));
    assert!(file.comments.is_empty());
    send(&mut a, &mut b, &sent);
    rig.finish(&mut [&mut a, &mut b]);
}

/// Whether the last block of a file is whole, and is that of this frame. A block ends with its length, in the byte order that the file was begun with.
fn ends_with(file: &[u8], frame: &[u8]) -> bool {
    let len = file.last_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
    let block = file.len().checked_sub(len).map_or(&[][..], |begin| &file[begin..]);
    block.windows(frame.len()).any(|part| part == frame)
}

#[test]
fn a_pipe_can_be_read_and_closed() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let (sidecore, dir) = (paths::sidecore().unwrap(), rig.dir().to_owned());
    let pipe = |args: &str, reader: &str| {
        let control = dir.join("control.sock");
        let script = format!(
            "{} capture a -w - --core-share 50 {args} --control {} | {reader}",
            sidecore.display(),
            control.display()
        );
        Process::spawn("pipe", "sh", ["-c", &script], &dir.join("pipe.log")).unwrap()
    };
    let sent = udp(1, 2, 60, 30);
    let mut text = pipe("--direction from -c 31", "tcpdump -n -l -r -");
    text.wait_for_output("capturing at ", LIMIT).unwrap();
    send(&mut a, &mut b, &sent);
    let lines = |text: &str| text.lines().filter(|line| line.contains(" IP ")).count();
    text.wait_until("30 lines", LIMIT, |text| Ok((lines(&text.output()) == 30).then_some(()))).unwrap();
    send(&mut a, &mut b, &sent[..1]);
    assert!(text.wait(LIMIT).unwrap().0.success(), "{}", text.output());
    // A reader that has seen enough.
    let mut first = pipe("", "head -c 40 > /dev/null");
    first.wait_for_output("capturing at ", LIMIT).unwrap();
    eventually("end of the capture", LIMIT, || {
        send(&mut a, &mut b, &sent);
        first.exited()
    })
    .unwrap();
    assert!(first.output().contains("ended: its reader ended it"), "{}", first.output());
    wait_for_end(&rig);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn what_cannot_begin_says_why_and_leaves_nothing() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let file = rig.dir().join("never.pcapng");
    let there = rig.dir().join("there.pcapng");
    std::fs::write(&there, "precious").unwrap();
    let (name, there_name) = (file.to_str().unwrap(), there.to_str().unwrap());
    let refused = |args: &[&str], why: &str| {
        let output = rig.switch.cli(&[&["capture"][..], args].concat()).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{args:?}: {text}");
        assert!(!file.exists(), "{args:?}");
    };
    refused(&["c", "-w", name], "there is no port \"c\"");
    refused(&["a", "a", "-w", name], "each named once");
    refused(&["a", "-w", name, "--filter", "tcp prot 5"], "\"tcp prot 5\" is not understood");
    refused(&["a", "-w", name, "--filter", "ip6 protochain 6"], "capture more, and select from it with `tcpdump -r`");
    refused(&["a", "-w", name, "--size", "1K"], "--size <SIZE>': a file has 64 KiB at least");
    refused(&["a", "-w", name, "--size", "many"], "64K, 100M, 2G");
    refused(&["a", "-w", name, "--core-share", "51"], "--core-share <PERCENT>': 51 is not in 1..=50");
    refused(&["a", "-w", name, "--snaplen", "13"], "--snaplen <BYTES>': 13 is not in 14..");
    refused(&["a", "-w", name, "--rate", "0"], "--rate <N>': 0 is not in 1..");
    refused(&["a", "-w", name, "-c", "0"], "--packets <N>': 0 is not in 1..");
    refused(&["a", "-w", there_name], "is there already");
    refused(&["a", "-w", "/nowhere/x.pcapng"], "cannot be written");
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "precious");
    assert_eq!(running(&rig), 0);
    let most: Vec<Capture> = (0..4).map(|n| Capture::one_of(4, &rig, &format!("many{n}"), &["a"])).collect();
    refused(&["a", "-w", name], "4 captures run already");
    most.into_iter().for_each(|capture| drop(capture.end()));
    wait_for_end(&rig);
    let half = Capture::begin(&rig, "half", &["b"]);
    refused(&["a", "-w", name], "may take 50 % of an I/O core's time");
    half.end();
    for (request, why) in [
        (json!({"filter": {"expression": "", "program": ["1"]}}), "instruction 0 is"),
        (json!({"core_share_percent": 51}), "core_share_percent must be 1 to 50, not 51"),
        (json!({"bytes": 1024}), "bytes must be at least 65536"),
        (json!({"snaplen": 13}), "snaplen must be at least 14"),
    ] {
        let mut whole = json!({"command": "capture", "ports": ["a"]});
        whole.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
        let error = rig.switch.ask(&whole).unwrap_err().to_string();
        assert!(error.contains(why), "{request}: {error}");
    }
    let mut stream = UnixStream::connect(rig.dir().join("control.sock")).unwrap();
    let request = json!({"command": "capture", "ports": ["a"]});
    stream.write_all(format!("{request}\n{{\"command\":\"status\"}}\n").as_bytes()).unwrap();
    let mut answers = BufReader::new(stream).lines();
    let mut next = || answers.next().unwrap().unwrap();
    assert!(next().contains("send nothing after it"));
    assert!(next().starts_with("{\"ok\":"), "the connection goes on");
    let metrics: Value = rig.json()["captures"].clone();
    assert_eq!(metrics["begun"], 5, "{metrics}");
    assert!(run(&["ls", name], Duration::from_secs(5)).is_ok_and(|output| !output.status.success()));
    rig.finish_but(&mut [&mut a, &mut b], &["request refused"]);
}

#[test]
fn a_switch_that_may_open_no_more_files_says_so() {
    let (rig, mut a, mut b) = two(Plan::new().guests(&["a", "b"]));
    let pid = Pid::from_raw(rig.json()["pid"].as_i64().unwrap() as i32);
    let mut stream = BufReader::new(UnixStream::connect(rig.dir().join("control.sock")).unwrap());
    let mut ask = |request: &Value| {
        let mut answer = String::new();
        stream.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        stream.read_line(&mut answer).unwrap();
        answer
    };
    // The connection is there: none can be made below.
    assert!(ask(&json!({"command": "status"})).starts_with("{\"ok\":"));
    let limit = |current| prlimit(pid, Resource::Nofile, current).unwrap();
    let before = limit(Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) });
    let answer = ask(&json!({"command": "capture", "ports": ["a"]}));
    limit(before);
    assert!(answer.contains("too many files are open") && answer.contains("LimitNOFILE="), "{answer}");
    Capture::begin(&rig, "next", &["a"]).end();
    rig.finish_but(&mut [&mut a, &mut b], &["request refused"]);
}
