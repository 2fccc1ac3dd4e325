//! An `[[uplink]]` section, or an uplink added at run time.

use crate::check::vlan::{refuse_nowhere, vlan};
use crate::check::{Section, Surroundings};
use crate::device::Device;
use crate::model::{MAX_IO_CORES, UplinkConfig};
use crate::raw::RawUplink;
use crate::report::{Key, Report};
use crate::vlan::Vlan;

/// None if anything in it is wrong; that is reported.
pub(crate) fn uplink(
    raw: &RawUplink,
    key: Key,
    around: &Surroundings<'_>,
    report: &mut Report<'_>,
) -> Option<UplinkConfig> {
    let mut section = Section::new(key, report);
    let name = section.parse("name", &raw.name);
    let device: Option<Device> = section.parse("device", &raw.device);
    let queues = queues(&mut section, raw.queues, around);
    let stations = section.stations(raw.stations.as_deref());
    let mtu = section.number("mtu", raw.mtu, 68..=65_535);
    if let (Some(device), Some(mtu)) = (&device, mtu)
        && let Some(max) = device.max_mtu().filter(|max| mtu > *max)
    {
        let driver = device.driver().unwrap_or(device.name());
        let message = format!("{mtu} is more than {driver} can take, since a packet must fit one page");
        section.problem("mtu", message, format!("write at most {max}, or use net_af_packet"));
    }
    let vlan = vlan(&mut section, raw.vlan.as_ref()).unwrap_or(Vlan::UPLINK_DEFAULT);
    refuse_nowhere(&mut section, &vlan, &[("stations", !stations.is_empty())]);
    let (name, device) = (name?, device?);
    section.finish(UplinkConfig { name, device, queues, stations, mtu, vlan })
}

fn queues(section: &mut Section<'_, '_>, raw: Option<i64>, around: &Surroundings<'_>) -> Option<u16> {
    let queues: u16 = section.number("queues", raw, 1..=MAX_IO_CORES as i64)?;
    if let Some(cores) = around.io_cores.filter(|cores| usize::from(queues) > *cores) {
        let there = if cores == 1 { "there is" } else { "there are" };
        let message = format!("{queues} queues are more than the I/O cores that could serve them: {there} {cores}");
        section.problem("queues", message, format!("write at most {cores}, or list more CPUs in switch.io_cores"));
    }
    Some(queues)
}
