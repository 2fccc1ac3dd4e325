//! Which packets a capture is about: a classic BPF program, as libpcap compiles it from tcpdump's language.
//!
//! A program is checked before it is used: it has an end, every instruction is known, and jumps go forward and stay inside. So one run takes no
//! more steps than the program has instructions, whatever is in the packet.

use super::error::FilterError;

/// Instructions in a program, at most. Linux takes 4096; here a core executes them beside its work, at worst twice for each packet.
const PROGRAM_MAX: usize = 512;
/// Words of memory that a program has.
const MEMORY: usize = 16;

/// A program that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter(Box<[Op]>);

/// What a program says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Match,
    NoMatch,
    /// It depends on bytes of the packet that were not shown.
    NeedsMore,
}

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// A: so many bytes of the packet from `k` on, or from X + `k`.
    Load {
        bytes: u8,
        indexed: bool,
        k: u32,
    },
    /// X: the length of the IPv4 header at `k`.
    LoadHeaderLen(u32),
    /// A, or X: a value.
    Set(Register, u32),
    /// A, or X: the packet's length.
    SetLen(Register),
    /// A, or X: a word of memory, which is below [`MEMORY`].
    Recall(Register, u8),
    Keep(Register, u8),
    /// A: A and a value.
    Compute(Math, Operand),
    Negate,
    Jump(u32),
    /// Past so many instructions where A compares to a value, or where it does not.
    Branch {
        test: Test,
        with: Operand,
        yes: u8,
        no: u8,
    },
    Return(Answer),
    CopyToX,
    CopyToA,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    A,
    X,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    K(u32),
    X,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    K(u32),
    A,
    X,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Math {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equal,
    Greater,
    NotLess,
    AnyBit,
}

impl Filter {
    /// Checks a program whose instructions are given as `tcpdump -ddd` prints them: code, jump if true, jump if false, k.
    pub(super) fn parse<S: AsRef<str>>(lines: &[S]) -> Result<Self, FilterError> {
        if lines.is_empty() || lines.len() > PROGRAM_MAX {
            return Err(FilterError::Length { is: lines.len(), most: PROGRAM_MAX });
        }
        let decoded = lines.iter().enumerate().map(|(at, line)| decode(line.as_ref(), at));
        let ops: Box<[Op]> = decoded.collect::<Result<_, _>>()?;
        let outside = |at: usize, by: u32| at as u64 + 1 + u64::from(by) >= ops.len() as u64;
        for (at, op) in ops.iter().enumerate() {
            let leaves = match *op {
                Op::Jump(by) => outside(at, by),
                Op::Branch { yes, no, .. } => outside(at, yes.into()) || outside(at, no.into()),
                _ => false,
            };
            if leaves {
                // Backwards is written as a negative number.
                let is_loop = matches!(*op, Op::Jump(by) if by.cast_signed() < 0);
                return Err(if is_loop { FilterError::Loop { at } } else { FilterError::Jump { at } });
            }
        }
        match ops.last() {
            Some(Op::Return(_)) => Ok(Self(ops)),
            _ => Err(FilterError::NoEnd),
        }
    }

    /// Runs over a packet of `len` bytes, of which the first are shown.
    pub(super) fn run(&self, shown: &[u8], len: usize) -> Verdict {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY]);
        let mut next = 0;
        // Jumps go forward: every step gets nearer to the end.
        while let Some(op) = self.0.get(next) {
            next += 1;
            match *op {
                Op::Load { bytes, indexed, k } => {
                    let at = u64::from(k) + if indexed { u64::from(x) } else { 0 };
                    match load(shown, len, at, bytes.into()) {
                        Ok(value) => a = value,
                        Err(verdict) => return verdict,
                    }
                }
                Op::LoadHeaderLen(k) => match load(shown, len, k.into(), 1) {
                    Ok(value) => x = 4 * (value & 0xf),
                    Err(verdict) => return verdict,
                },
                Op::Set(Register::A, value) => a = value,
                Op::Set(Register::X, value) => x = value,
                Op::SetLen(Register::A) => a = len as u32,
                Op::SetLen(Register::X) => x = len as u32,
                Op::Recall(Register::A, word) => a = memory[usize::from(word) % MEMORY],
                Op::Recall(Register::X, word) => x = memory[usize::from(word) % MEMORY],
                Op::Keep(Register::A, word) => memory[usize::from(word) % MEMORY] = a,
                Op::Keep(Register::X, word) => memory[usize::from(word) % MEMORY] = x,
                Op::Compute(math, with) => match math.of(a, with.value(x)) {
                    Some(value) => a = value,
                    None => return Verdict::NoMatch,
                },
                Op::Negate => a = a.wrapping_neg(),
                Op::Jump(by) => next += by as usize,
                Op::Branch { test, with, yes, no } => {
                    next += usize::from(if test.holds(a, with.value(x)) { yes } else { no });
                }
                Op::Return(answer) => {
                    let kept = match answer {
                        Answer::K(value) => value,
                        Answer::A => a,
                        Answer::X => x,
                    };
                    return if kept > 0 { Verdict::Match } else { Verdict::NoMatch };
                }
                Op::CopyToX => x = a,
                Op::CopyToA => a = x,
            }
        }
        Verdict::NoMatch
    }
}

impl Operand {
    fn value(self, x: u32) -> u32 {
        match self {
            Self::K(value) => value,
            Self::X => x,
        }
    }
}

impl Math {
    /// `None`: a division by zero, which ends the program.
    fn of(self, a: u32, b: u32) -> Option<u32> {
        Some(match self {
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Div => a.checked_div(b)?,
            Self::Mod => a.checked_rem(b)?,
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
            Self::ShiftLeft => a.checked_shl(b).unwrap_or(0),
            Self::ShiftRight => a.checked_shr(b).unwrap_or(0),
        })
    }
}

impl Test {
    fn holds(self, a: u32, b: u32) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Greater => a > b,
            Self::NotLess => a >= b,
            Self::AnyBit => a & b != 0,
        }
    }
}

/// A number in network order. Past the packet's end there is nothing, and the program ends with that.
fn load(shown: &[u8], len: usize, at: u64, bytes: usize) -> Result<u32, Verdict> {
    let end = at.saturating_add(bytes as u64);
    if end > len as u64 {
        return Err(Verdict::NoMatch);
    }
    let from = shown.get(at as usize..end as usize).ok_or(Verdict::NeedsMore)?;
    Ok(from.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

fn decode(line: &str, at: usize) -> Result<Op, FilterError> {
    let malformed = || FilterError::Malformed { at, text: line.to_owned() };
    let mut numbers = line.split_ascii_whitespace();
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let (Some(code), Some(yes), Some(no), Some(k), None) = (number(), number(), number(), number(), number()) else {
        return Err(malformed());
    };
    let short = |by: u32| u8::try_from(by).map_err(|_| malformed());
    let unknown = FilterError::Unknown { at, code };
    // Class in the lowest three bits; then the size and mode of loads, or operation and source.
    let (class, above) = (code & 0x07, code & !0x07);
    let word = || u8::try_from(k).ok().filter(|word| usize::from(*word) < MEMORY);
    let with = if above & 0x08 == 0 { Operand::K(k) } else { Operand::X };
    Ok(match (class, above) {
        (0, 0x00) => Op::Set(Register::A, k),
        (0, 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50) => {
            let bytes = match above & 0x18 {
                0x00 => 4,
                0x08 => 2,
                _ => 1,
            };
            Op::Load { bytes, indexed: above & 0x40 != 0, k }
        }
        (0, 0x60) => Op::Recall(Register::A, word().ok_or(unknown)?),
        (0, 0x80) => Op::SetLen(Register::A),
        (1, 0x00) => Op::Set(Register::X, k),
        (1, 0x60) => Op::Recall(Register::X, word().ok_or(unknown)?),
        (1, 0x80) => Op::SetLen(Register::X),
        (1, 0xb0) => Op::LoadHeaderLen(k),
        (2, 0x00) => Op::Keep(Register::A, word().ok_or(unknown)?),
        (3, 0x00) => Op::Keep(Register::X, word().ok_or(unknown)?),
        (4, 0x80) => Op::Negate,
        (4, _) => Op::Compute(math(above & !0x08, with).ok_or(unknown)?, with),
        (5, 0x00) => Op::Jump(k),
        (5, _) => Op::Branch { test: test(above & !0x08).ok_or(unknown)?, with, yes: short(yes)?, no: short(no)? },
        (6, 0x00) => Op::Return(Answer::K(k)),
        (6, 0x08) => Op::Return(Answer::X),
        (6, 0x10) => Op::Return(Answer::A),
        (7, 0x00) => Op::CopyToX,
        (7, 0x80) => Op::CopyToA,
        _ => return Err(unknown),
    })
}

fn math(operation: u32, with: Operand) -> Option<Math> {
    let math = match operation {
        0x00 => Math::Add,
        0x10 => Math::Sub,
        0x20 => Math::Mul,
        0x30 => Math::Div,
        0x40 => Math::Or,
        0x50 => Math::And,
        0x60 => Math::ShiftLeft,
        0x70 => Math::ShiftRight,
        0x90 => Math::Mod,
        0xa0 => Math::Xor,
        _ => return None,
    };
    // What could never do anything is a mistake of whoever wrote it.
    let senseless = match (math, with) {
        (Math::Div | Math::Mod, Operand::K(k)) => k == 0,
        (Math::ShiftLeft | Math::ShiftRight, Operand::K(k)) => k >= 32,
        _ => false,
    };
    (!senseless).then_some(math)
}

fn test(operation: u32) -> Option<Test> {
    Some(match operation {
        0x10 => Test::Equal,
        0x20 => Test::Greater,
        0x30 => Test::NotLess,
        0x40 => Test::AnyBit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap::{BpfProgram, Capture, Linktype};
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    fn libpcap(expression: &str) -> BpfProgram {
        Capture::dead(Linktype::ETHERNET).unwrap().compile(expression, true).unwrap()
    }

    fn ours(program: &BpfProgram) -> Filter {
        let lines: Vec<String> = program.get_instructions().iter().map(ToString::to_string).collect();
        Filter::parse(&lines).unwrap()
    }

    /// What operators write, and what makes libpcap use the rarer instructions.
    const EXPRESSIONS: [&str; 15] = [
        "ip",
        "not ip6 and not arp",
        "ether host 02:00:00:00:00:01",
        "host 10.0.0.1 and tcp port 80",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
        "vlan 5 and udp portrange 100-200",
        "ip6 proto 17 or (ip and ip[6:2] & 0x1fff = 0)",
        "ip[2:2] + 14 != len",
        "ip[0] * 3 / 2 % 5 > 1 or ip[1] ^ 3 = 2",
        "len - ether[12] < 30",
        "greater 100",
        "broadcast or multicast",
        "icmp6 and ip6[40] < 5",
        "ether[-1 + 6] = 1 or (1 << ip[0]) > ip[5:4]",
    ];

    /// Frames that come near to what the expressions ask for.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let types = prop::sample::select(vec![[8, 0], [0x81, 0], [0x86, 0xdd], [8, 6]]);
        let body = prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..120);
        let destinations = prop::sample::select(vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 3], [0xff; 6]]);
        let versions = prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60]);
        (destinations, types, body, versions, prop::sample::select(vec![6u8, 17, 1, 58])).prop_map(
            |(destination, ethertype, body, version, protocol)| {
                let mut frame = destination.to_vec();
                frame.extend([2, 0, 0, 0, 0, 2]);
                frame.extend(ethertype);
                frame.extend(body);
                let next_header = if version == 0x60 { protocol } else { 0 };
                for (at, byte) in [(14, version), (23, protocol), (20, next_header), (21, 0)] {
                    if let Some(there) = frame.get_mut(at) {
                        *there = byte;
                    }
                }
                frame
            },
        )
    }

    proptest! {
        #[test]
        fn says_what_libpcap_says(frame in frames(), which in 0..EXPRESSIONS.len(), shown in 0usize..150) {
            let program = libpcap(EXPRESSIONS[which]);
            let filter = ours(&program);
            let expected = if program.filter(&frame) { Verdict::Match } else { Verdict::NoMatch };
            prop_assert_eq!(filter.run(&frame, frame.len()), expected, "{}", EXPRESSIONS[which]);
            // Of a part of the packet it says the same, or that it cannot know.
            let part = filter.run(&frame[..shown.min(frame.len())], frame.len());
            prop_assert!(part == expected || part == Verdict::NeedsMore, "{part:?}");
        }

        #[test]
        fn no_program_does_harm(
            lines in prop::collection::vec((0u32..256, 0u32..20, 0u32..20, prop_oneof![0u32..40, any::<u32>()]), 1..30),
            frame in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut text: Vec<String> = lines.iter().map(|(code, yes, no, k)| format!("{code} {yes} {no} {k}")).collect();
            text.push("6 0 0 1".to_owned());
            if let Ok(filter) = Filter::parse(&text) {
                filter.run(&frame, 2 * frame.len());
            }
        }
    }

    /// The comparison above says something.
    #[test]
    fn most_expressions_match_some_of_the_frames() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let frames: Vec<Vec<u8>> = (0..5000).map(|_| frames().new_tree(&mut runner).unwrap().current()).collect();
        let tells_apart = |expression: &&str| {
            let filter = ours(&libpcap(expression));
            let matches = frames.iter().filter(|f| filter.run(f, f.len()) == Verdict::Match).count();
            0 < matches && matches < frames.len()
        };
        let do_not: Vec<_> = EXPRESSIONS.iter().filter(|expression| !tells_apart(expression)).copied().collect();
        // No such address, request or port comes up.
        let rare = [
            "host 10.0.0.1 and tcp port 80",
            "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
            "vlan 5 and udp portrange 100-200",
        ];
        assert_eq!(do_not, rare);
    }

    #[test]
    fn bad_programs_are_refused() {
        let parse = |text: &str| Filter::parse(&text.split(',').collect::<Vec<_>>()).unwrap_err().to_string();
        // libpcap makes loops of some expressions.
        let chain = libpcap("ip6 protochain 6");
        let lines: Vec<String> = chain.get_instructions().iter().map(ToString::to_string).collect();
        let error = Filter::parse(&lines).unwrap_err();
        assert!(matches!(error, FilterError::Loop { .. }) && error.to_string().contains("tcpdump -r"), "{error}");
        assert!(Filter::parse::<&str>(&[]).is_err());
        let long = Filter::parse(&vec!["6 0 0 1"; PROGRAM_MAX + 1]).unwrap_err().to_string();
        assert!(long.contains("1 to 512 instructions, not 513"), "{long}");
        assert_eq!(Filter::parse(&vec!["6 0 0 1"; PROGRAM_MAX]).unwrap().0.len(), PROGRAM_MAX);
        for (text, part) in [
            ("6 0 0", "instruction 0 is \"6 0 0\""),
            ("6 0 0 1 2", "instruction 0 is"),
            ("6 0 0 -1", "instruction 0 is"),
            ("21 256 0 1,6 0 0 0", "instruction 0 is"),
            ("255 0 0 0,6 0 0 1", "instruction 0 has the unknown code 255"),
            ("5 0 0 1,6 0 0 1", "instruction 0 jumps"),
            ("5 0 0 4294967295,6 0 0 1", "a loop, as `protochain` makes one, at its instruction 0"),
            ("21 0 1 1,6 0 0 1", "instruction 0 jumps"),
            ("0 0 0 1", "does not end with a return: write all"),
            ("96 0 0 16,6 0 0 1", "unknown code 96"),
            ("52 0 0 0,6 0 0 1", "unknown code 52"),
        ] {
            assert!(parse(text).contains(part), "{text}: {}", parse(text));
        }
    }
}
