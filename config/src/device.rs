//! How an uplink names its DPDK device.

use std::fmt;
use std::str::FromStr;

use crate::error::ValueError;

/// A DPDK device and its driver's arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    name: String,
    args: Option<String>,
    bus: Bus,
}

/// Where EAL looks for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bus {
    /// A PCI function: bound to vfio-pci, or to its kernel driver where the PMD works beside it.
    Pci,
    /// A virtual device, made by its driver when it is named.
    Virtual,
}

/// What the names of virtual devices begin with: the drivers' own names, and the older aliases DPDK keeps.
const VIRTUAL_PREFIXES: [&str; 3] = ["net_", "eth_", "virtio_user"];

/// Drivers that sit on a kernel interface, and cannot start without being told which.
const KERNEL_INTERFACE_DRIVERS: [&str; 4] = ["net_af_xdp", "net_af_packet", "eth_af_xdp", "eth_af_packet"];

impl Device {
    /// The device's name as DPDK lists it: `0000:03:00.0`, `net_af_xdp0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver's arguments, as written after the first comma.
    pub fn args(&self) -> Option<&str> {
        self.args.as_deref()
    }

    /// Where EAL looks for it.
    pub fn bus(&self) -> Bus {
        self.bus
    }

    /// The driver of a virtual device: its name without the digits at the end.
    pub fn driver(&self) -> Option<&str> {
        match self.bus {
            Bus::Pci => None,
            Bus::Virtual => Some(self.name.trim_end_matches(|c: char| c.is_ascii_digit())),
        }
    }

    /// The value of one of the driver's arguments.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args()?.split(',').find_map(|arg| arg.split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v))
    }

    /// The kernel's network interface that the driver sits on.
    pub fn interface(&self) -> Option<&str> {
        self.driver().filter(|driver| KERNEL_INTERFACE_DRIVERS.contains(driver)).and_then(|_| self.arg("iface"))
    }

    /// The largest MTU the driver can take, where that is known without asking the device.
    pub fn max_mtu(&self) -> Option<u16> {
        // A frame and the driver's headroom share one 4 KiB page of the AF_XDP UMEM.
        matches!(self.driver(), Some("net_af_xdp" | "eth_af_xdp")).then_some(3520)
    }
}

impl FromStr for Device {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, args) = match text.split_once(',') {
            Some((name, args)) => (name, Some(args)),
            None => (text, None),
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) || args == Some("") {
            return Err(ValueError::new(
                format!("{text:?} is not a device"),
                "write the device and its driver's arguments with commas and no spaces: \"net_af_xdp0,iface=eth1\"",
            ));
        }
        let (name, bus) = match pci_address(name) {
            Some(address) => (address, Bus::Pci),
            None if is_virtual(name) => (name.to_owned(), Bus::Virtual),
            None => return Err(unknown_device(name)),
        };
        let device = Self { name, args: args.map(str::to_owned), bus };
        if let Some(driver) = device.driver().filter(|driver| KERNEL_INTERFACE_DRIVERS.contains(driver))
            && device.arg("iface").is_none_or(str::is_empty)
        {
            return Err(ValueError::new(
                format!("{text:?} does not say which network interface {driver} is to use"),
                format!("add it: \"{},iface=eth1\"", device.name),
            ));
        }
        Ok(device)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.args {
            Some(args) => write!(f, ",{args}"),
            None => Ok(()),
        }
    }
}

fn is_virtual(name: &str) -> bool {
    VIRTUAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Reads `03:00.0` or `0000:03:00.0`, and gives the long form that DPDK uses.
fn pci_address(text: &str) -> Option<String> {
    let hex = |part: &str, digits: usize| {
        let fits = part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
    };
    let mut parts = text.rsplit(':');
    let (slot, function) = parts.next()?.split_once('.')?;
    let (slot, function) = (hex(slot, 2)?, hex(function, 1)?);
    let bus = hex(parts.next()?, 2)?;
    let domain = parts.next().map_or(Some(0), |domain| hex(domain, 4))?;
    // A slot has 5 bits and a function 3 (PCI Local Bus 3.0 §3.2.2.3.4).
    (parts.next().is_none() && slot < 32 && function < 8)
        .then(|| format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}"))
}

fn unknown_device(name: &str) -> ValueError {
    let message = format!("{name:?} is neither a PCI address nor a DPDK virtual device");
    if name.contains(':') {
        return ValueError::new(message, "write a PCI address as lspci -D shows it, such as \"0000:03:00.0\"");
    }
    let interface = if name.is_empty() { "eth1" } else { name };
    ValueError::new(
        message,
        format!(
            "for a network interface of the kernel write \"net_af_xdp0,iface={interface}\" or \"net_af_packet0,iface={interface}\""
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_devices() {
        let device: Device = "03:00.1,dv_flow_en=1".parse().unwrap();
        assert_eq!((device.name(), device.bus(), device.arg("dv_flow_en")), ("0000:03:00.1", Bus::Pci, Some("1")));
        assert_eq!(device.to_string(), "0000:03:00.1,dv_flow_en=1");
        for bad in ["0000:03:20.0", "0000:03:00.8", "3:00.0", "0:0000:03:00.0", ":", "00000:03:00.0"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }

    #[test]
    fn virtual_devices() {
        let device: Device = "net_af_xdp0,iface=veth0,start_queue=2".parse().unwrap();
        assert_eq!(
            (device.driver(), device.arg("iface"), device.max_mtu()),
            (Some("net_af_xdp"), Some("veth0"), Some(3520))
        );
        assert_eq!("net_ring0".parse::<Device>().unwrap().driver(), Some("net_ring"));
        assert!("net_af_xdp0".parse::<Device>().unwrap_err().remedy.contains("iface="));
        assert!("eth0".parse::<Device>().unwrap_err().remedy.contains("net_af_xdp0,iface=eth0"));
        assert!("net_null0, copy=1".parse::<Device>().is_err());
    }
}
