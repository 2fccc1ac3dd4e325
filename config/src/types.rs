//! The values of a configuration: each type can only hold what its name says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ValueError;

/// The Ethernet address of one station: neither multicast nor all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The six octets in the order they have on the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for MacAddr {
    type Error = ValueError;

    fn try_from(octets: [u8; 6]) -> Result<Self, ValueError> {
        let mac = Self(octets);
        if octets == [0xff; 6] {
            return Err(ValueError::new(
                format!("\"{mac}\" is the broadcast address"),
                "write a unicast address, such as 52:54:00:00:00:01",
            ));
        }
        // IEEE 802-2014 §8.2.2: the lowest bit of the first octet marks a group address.
        if octets[0] & 1 != 0 {
            return Err(ValueError::new(
                format!("\"{mac}\" is a multicast address"),
                format!("a port needs a unicast address: make the first octet even, such as {:02x}", octets[0] & !1),
            ));
        }
        if octets == [0; 6] {
            return Err(ValueError::new(
                format!("\"{mac}\" names no station"),
                "write a unicast address, such as 52:54:00:00:00:01",
            ));
        }
        Ok(mac)
    }
}

impl FromStr for MacAddr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::try_from(Self::octets_of(text)?)
    }
}

impl MacAddr {
    /// The octets of any address, a group's too, as it is written.
    pub fn octets_of(text: &str) -> Result<[u8; 6], ValueError> {
        let malformed = || {
            ValueError::new(
                format!("{text:?} is not a MAC address"),
                "write six pairs of hexadecimal digits with colons, such as 52:54:00:00:00:01",
            )
        };
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0u8; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Ok(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address that is always behind one port: a station's, or all zeros, which is where a DPDK net_null device says its frames are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Station([u8; 6]);

impl Station {
    const ZERO: &str = "00:00:00:00:00:00";

    /// The six octets in the order they have on the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl From<MacAddr> for Station {
    fn from(mac: MacAddr) -> Self {
        Self(mac.0)
    }
}

impl FromStr for Station {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == Self::ZERO { Ok(Self([0; 6])) } else { text.parse::<MacAddr>().map(Self::from) }
    }
}

impl fmt::Display for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&MacAddr(self.0), f)
    }
}

/// A VLAN, 1 to 4094 (IEEE 802.1Q-2018 §9.6: 0 means "no VLAN", 4095 is reserved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN of ports that say nothing about VLANs.
    pub const DEFAULT: Self = Self(1);
    /// The largest id.
    pub const MAX: Self = Self(4094);

    /// The id as it stands in a tag.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for VlanId {
    type Error = ValueError;

    fn try_from(id: i64) -> Result<Self, ValueError> {
        match u16::try_from(id) {
            Ok(id @ 1..=4094) => Ok(Self(id)),
            _ => Err(ValueError::new(format!("{id} is not a VLAN"), "write a number from 1 to 4094")),
        }
    }
}

impl From<VlanId> for i64 {
    fn from(id: VlanId) -> Self {
        Self::from(id.0)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a port, unique among guests and uplinks together: 1 to 32 of `A-Z a-z 0-9 _ . -`, so that it can be a
/// metrics label, a file name and a word on a command line without quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName(String);

impl PortName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PortName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        // A leading '-' would read as an option in `sidecore guest remove NAME`.
        if text.is_empty() || text.len() > 32 || text.starts_with('-') || !text.bytes().all(allowed) {
            return Err(ValueError::new(
                format!("{text:?} cannot be the name of a port"),
                "use 1 to 32 letters, digits, '_', '.' or '-', and no '-' in front",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl AsRef<str> for PortName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for PortName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a virtual machine is called: 1 to 128 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if !(1..=128).contains(&text.chars().count()) || text.contains(char::is_control) {
            return Err(ValueError::new(
                format!("{text:?} cannot be the name of a virtual machine"),
                "use 1 to 128 characters, and no control characters",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A virtual machine's UUID, in lower case (RFC 9562 §4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmUuid(String);

impl FromStr for VmUuid {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let is_right = |(part, len): (&str, usize)| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
        if text.split('-').count() != 5 || !text.split('-').zip([8, 4, 4, 4, 12]).all(is_right) {
            return Err(ValueError::new(
                format!("{text:?} is not a UUID"),
                "write 32 hexadecimal digits in groups, such as 3e2f0c4e-8a51-4c0f-9d3b-6f2a54e0c1d7",
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for VmUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A CPU as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuId(pub u32);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Permission bits of a socket, written in octal: `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketMode(u32);

impl SocketMode {
    /// Owner and group may connect.
    pub const DEFAULT: Self = Self(0o660);

    /// The bits, for `chmod`.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for SocketMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let octal = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && bits <= 0o777 => Ok(Self(bits)),
            _ => Err(ValueError::new(
                format!("{text:?} is not a socket mode"),
                "write permission bits in octal, in quotes, such as \"0660\" (owner and group) or \"0666\" (everybody)",
            )),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A user or a group: by name, or by the number the kernel knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A name, to be looked up with [`Machine`](crate::Machine).
    Name(String),
    /// A uid or gid.
    Id(u32),
}

/// Who may connect to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAccess {
    /// Permission bits.
    pub mode: SocketMode,
    /// Who owns the socket file; none: the user Sidecore runs as.
    pub owner: Option<Account>,
    /// Its group; none: the group Sidecore runs as.
    pub group: Option<Account>,
}

/// `String` conversions for serde of a type that has `FromStr` and `Display`.
macro_rules! through_text {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}
through_text!(MacAddr, PortName, SocketMode, Station, VmName, VmUuid);
