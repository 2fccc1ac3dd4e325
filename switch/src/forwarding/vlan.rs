//! VLAN membership of ports: which VLAN a packet enters in, and how it leaves (IEEE 802.1Q).
//!
//! Only customer tags (0x8100) are the switch's own. A service tag (0x88a8) is payload like any other, as in a bridge
//! that was not told to look at it.

use super::DropReason;

/// The type of a customer VLAN tag.
const CUSTOMER_TAG: [u8; 2] = [0x81, 0x00];

/// A VLAN that packets can be in: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct VlanId(u16);

impl VlanId {
    /// Where untagged packets are when nothing else is configured.
    pub(crate) const DEFAULT: Self = Self(1);

    /// `None` for 0, which means "no VLAN, a priority only", 4095, which is reserved, and anything above.
    pub(crate) const fn new(id: u16) -> Option<Self> {
        if id >= 1 && id <= 4094 { Some(Self(id)) } else { None }
    }

    /// 1 to 4094.
    #[inline]
    pub(crate) const fn get(self) -> u16 {
        self.0
    }
}

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct VlanSet([u64; 64]);

impl VlanSet {
    /// No VLAN.
    pub(crate) const EMPTY: Self = Self([0; 64]);

    /// Every VLAN there can be.
    pub(crate) fn all() -> Self {
        (1..=4094).map(VlanId).collect()
    }

    /// Whether `vlan` is in the set.
    #[inline]
    pub(crate) fn contains(&self, vlan: VlanId) -> bool {
        let word = self.0.get(usize::from(vlan.0 / 64)).copied().unwrap_or(0);
        word >> (vlan.0 % 64) & 1 == 1
    }

    /// Puts `vlan` into the set.
    pub(crate) fn insert(&mut self, vlan: VlanId) {
        if let Some(word) = self.0.get_mut(usize::from(vlan.0 / 64)) {
            *word |= 1 << (vlan.0 % 64);
        }
    }

    /// The VLANs of the set, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = VlanId> + '_ {
        (1..=4094).map(VlanId).filter(|vlan| self.contains(*vlan))
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(vlans: I) -> Self {
        let mut set = Self::EMPTY;
        vlans.into_iter().for_each(|vlan| set.insert(vlan));
        set
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.iter().map(VlanId::get)).finish()
    }
}

/// The control field of a VLAN tag: priority (3 bits), drop eligible (1), VLAN (12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) u16);

impl Tag {
    /// Where it is in a frame: behind the two addresses.
    const OFFSET: usize = 12;

    /// The tag at the front of `frame`, if it has one. A frame that announces a tag and ends before it is a runt, as is
    /// one that ends before its type.
    #[inline]
    pub(crate) fn read(frame: &[u8]) -> Result<Option<Self>, DropReason> {
        let rest = frame.get(Self::OFFSET..).ok_or(DropReason::Runt)?;
        let kind = rest.first_chunk::<2>().ok_or(DropReason::Runt)?;
        if *kind != CUSTOMER_TAG {
            return Ok(None);
        }
        // Behind a tag there is a type again.
        let tag = rest.first_chunk::<6>().ok_or(DropReason::Runt)?;
        Ok(Some(Self(u16::from_be_bytes([tag[2], tag[3]]))))
    }
}

/// A packet that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ingress {
    /// The VLAN it is in.
    pub(crate) vlan: VlanId,
    /// Whether its frame has a tag, which carries this VLAN or none.
    pub(crate) tagged: bool,
    /// Priority and drop eligibility, in the place where a tag has them; zero without a tag.
    priority: u16,
}

impl Ingress {
    /// The tag with which the packet leaves where it leaves tagged: its VLAN, with the priority that it came with.
    #[inline]
    pub(crate) fn tag(self) -> Tag {
        Tag(self.priority | self.vlan.0)
    }
}

/// How a packet leaves through a port that is a member of its VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Egress {
    /// Without a tag.
    Untagged,
    /// With the tag that [`Ingress::tag`] gives.
    Tagged,
}

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortVlans {
    /// VLANs that pass with a tag.
    tagged: VlanSet,
    /// The VLAN that passes without one.
    untagged: Option<VlanId>,
}

impl PortVlans {
    /// A port in one VLAN that knows nothing of tags. It takes untagged and priority-tagged frames (VLAN 0) only: a tag
    /// with any VLAN, its own included, is dropped ("admit only untagged and priority-tagged frames", 802.1Q §6.9), so
    /// that a guest cannot reach another VLAN by tagging; nor with a second tag behind a priority tag (`shape`).
    pub(crate) fn access(vlan: VlanId) -> Self {
        Self { tagged: VlanSet::EMPTY, untagged: Some(vlan) }
    }

    /// A port in the VLANs of `tagged`, with tags, and in `native` without. Untagged and priority-tagged frames are in
    /// `native`, or dropped when there is none. Frames tagged with `native` are taken when `tagged` has it; they leave
    /// untagged all the same.
    pub(crate) fn trunk(tagged: VlanSet, native: Option<VlanId>) -> Self {
        Self { tagged, untagged: native }
    }

    /// The VLAN of a packet that comes in with `tag`.
    #[inline]
    pub(crate) fn ingress(&self, tag: Option<Tag>) -> Result<Ingress, DropReason> {
        const VLAN: u16 = 0x0fff;
        let field = tag.map_or(0, |tag| tag.0);
        let vlan = match field & VLAN {
            0 => self.untagged,
            id => VlanId::new(id).filter(|vlan| self.tagged.contains(*vlan)),
        };
        let vlan = vlan.ok_or(DropReason::VlanNotAllowed)?;
        Ok(Ingress { vlan, tagged: tag.is_some(), priority: field & !VLAN })
    }

    /// Whether any VLAN passes with a tag.
    pub(crate) fn has_tagged(&self) -> bool {
        self.tagged != VlanSet::EMPTY
    }

    /// How a packet in `vlan` leaves; `None` when the port is not a member.
    #[inline]
    pub(crate) fn egress(&self, vlan: VlanId) -> Option<Egress> {
        if self.untagged == Some(vlan) {
            Some(Egress::Untagged)
        } else {
            self.tagged.contains(vlan).then_some(Egress::Tagged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vlan(id: u16) -> VlanId {
        VlanId::new(id).expect("a VLAN")
    }

    fn trunk() -> PortVlans {
        PortVlans::trunk([vlan(10), vlan(20)].into_iter().collect(), Some(vlan(1)))
    }

    #[test]
    fn access_ports() {
        let port = PortVlans::access(vlan(10));
        assert_eq!(port.ingress(None).expect("untagged").vlan, vlan(10));
        let priority = port.ingress(Some(Tag(0xa000))).expect("priority-tagged");
        assert_eq!((priority.vlan, priority.tagged, priority.tag()), (vlan(10), true, Tag(0xa00a)));
        for id in [1, 10, 11, 4094, 4095] {
            assert_eq!(port.ingress(Some(Tag(id))), Err(DropReason::VlanNotAllowed));
        }
        assert_eq!(port.egress(vlan(10)), Some(Egress::Untagged));
        assert_eq!(port.egress(vlan(11)), None);
    }

    #[test]
    fn trunk_ports() {
        let port = trunk();
        assert_eq!(
            port.ingress(Some(Tag(0x6014))).map(|packet| (packet.vlan, packet.tag())),
            Ok((vlan(20), Tag(0x6014)))
        );
        assert_eq!(port.ingress(None).map(|packet| packet.vlan), Ok(vlan(1)));
        assert_eq!(port.ingress(Some(Tag(0))).map(|packet| packet.vlan), Ok(vlan(1)));
        assert_eq!(port.ingress(Some(Tag(1))), Err(DropReason::VlanNotAllowed));
        assert_eq!(port.ingress(Some(Tag(11))), Err(DropReason::VlanNotAllowed));
        assert_eq!(port.egress(vlan(1)), Some(Egress::Untagged));
        assert_eq!(port.egress(vlan(20)), Some(Egress::Tagged));
        assert_eq!(port.egress(vlan(21)), None);
        let strict = PortVlans::trunk([vlan(10)].into_iter().collect(), None);
        assert_eq!(strict.ingress(None), Err(DropReason::VlanNotAllowed));
        assert_eq!(strict.ingress(Some(Tag(0xe000))), Err(DropReason::VlanNotAllowed));
    }

    #[test]
    fn all_vlans_with_a_native_one() {
        let port = PortVlans::trunk(VlanSet::all(), Some(VlanId::DEFAULT));
        assert_eq!(VlanSet::all().iter().count(), 4094);
        assert_eq!(port.ingress(Some(Tag(1))).map(|packet| packet.vlan), Ok(vlan(1)));
        assert_eq!(port.ingress(Some(Tag(4095))), Err(DropReason::VlanNotAllowed));
        assert_eq!(port.egress(vlan(4094)), Some(Egress::Tagged));
    }

    #[test]
    fn tags_in_frames() {
        let mut frame = vec![2; 12];
        assert_eq!(Tag::read(&frame[..11]), Err(DropReason::Runt));
        assert_eq!(Tag::read(&frame), Err(DropReason::Runt));
        frame.extend([0x81, 0x00, 0x20, 0x05]);
        assert_eq!(Tag::read(&frame), Err(DropReason::Runt));
        frame.extend([8, 0]);
        assert_eq!(Tag::read(&frame), Ok(Some(Tag(0x2005))));
        frame[12] = 0x88;
        assert_eq!(Tag::read(&frame), Ok(None));
    }

    proptest! {
           #[test]
           fn what_may_enter_may_leave(ids in prop::collection::vec(1u16..4095, 0..20), native in prop::option::of(1u16..4095), field: u16) {
               let port = PortVlans::trunk(ids.iter().copied().map(vlan).collect(), native.map(vlan));
               let id = field & 0xfff;
               match port.ingress(Some(Tag(field))) {
                   Ok(packet) => {
                       prop_assert!(port.egress(packet.vlan).is_some());
                       prop_assert_eq!(packet.tag().0 >> 12, field >> 12);
                       prop_assert!(id == 0 || (packet.vlan == vlan(id) && ids.contains(&id)));
                   }
                   Err(_) => {
    let outside = if id == 0 { native.is_none() } else { !ids.contains(&id) };
    prop_assert!(outside);
    }
               }
           }
       }
}
