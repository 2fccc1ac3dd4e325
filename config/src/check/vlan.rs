//! VLANs of a port.

use std::collections::BTreeSet;

use crate::check::Section;
use crate::error::ValueError;
use crate::raw::{RawTrunk, RawVlan};
use crate::types::VlanId;
use crate::vlan::{Tagged, Vlan};

const EXAMPLES: &str = "write { access = 10 }, { trunk = [10, 20], native = 1 } or { trunk = \"all\" }";

/// None if absent or wrong; what is wrong is reported under the section's key `vlan`.
pub(super) fn vlan(section: &mut Section<'_, '_>, raw: Option<&RawVlan>) -> Option<Vlan> {
    let raw = raw?;
    let mut inner = Section::new(section.key.name("vlan"), section.report);
    let access = raw.access.and_then(|id| inner.accept("access", VlanId::try_from(id)));
    let native = raw.native.and_then(|id| inner.accept("native", VlanId::try_from(id)));
    let tagged = raw.trunk.as_ref().and_then(|trunk| tagged(&mut inner, trunk));
    match (raw.access, &raw.trunk) {
        (Some(_), Some(_)) => inner.problem("access", "a port is an access port or a trunk, not both", EXAMPLES),
        (None, None) => {
            let error = ValueError::new("neither access nor trunk is given", EXAMPLES);
            inner.report.add(&inner.key, error);
        }
        (Some(_), None) if raw.native.is_some() => {
            inner.problem("native", "an access port has no native VLAN", "remove native: access says it all");
        }
        _ => {}
    }
    if let (Some(Tagged::Only(ids)), Some(native)) = (&tagged, native)
        && ids.contains(&native)
    {
        let message =
            format!("VLAN {native} is also in the list of trunk, so its packets would be tagged and untagged");
        inner.problem("native", message, format!("remove {native} from one of the two"));
    }
    match (access, tagged) {
        (Some(id), None) => inner.finish(Vlan::Access(id)),
        (None, Some(tagged)) => inner.finish(Vlan::Trunk { tagged, native }),
        _ => None,
    }
}

/// Addresses of a port that names no VLAN would be fixed in none: whoever wrote these keys counts on them.
pub(super) fn refuse_nowhere(section: &mut Section<'_, '_>, vlan: &Vlan, given: &[(&str, bool)]) {
    if !vlan.named().is_empty() {
        return;
    }
    for (name, _) in given.iter().filter(|(_, given)| *given) {
        let message = "with trunk = \"all\" and no native VLAN there is no VLAN in which the address would be fixed";
        section.problem(name, message, "list the VLANs in trunk, or set native");
    }
}

fn tagged(section: &mut Section<'_, '_>, raw: &RawTrunk) -> Option<Tagged> {
    let RawTrunk::Only(raw_ids) = raw else { return Some(Tagged::All) };
    if raw_ids.is_empty() {
        section.problem("trunk", "a trunk without VLANs carries nothing", EXAMPLES);
    }
    let key = section.key.name("trunk");
    let mut ids = BTreeSet::new();
    for (index, id) in raw_ids.iter().enumerate() {
        match VlanId::try_from(*id) {
            Ok(id) => {
                ids.insert(id);
            }
            Err(error) => section.report.add(&key.index(index), error),
        }
    }
    (ids.len() == raw_ids.len() || !ids.is_empty()).then_some(Tagged::Only(ids))
}
