//! The check of a packet's source address.

use super::{DropReason, MacAddr};

/// Which source addresses a port may send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceCheck {
    only: Option<MacAddr>,
}

impl SourceCheck {
    /// Any station's address.
    pub(crate) const ANY: Self = Self { only: None };

    /// Only `mac`: a guest with anti-spoofing.
    pub(crate) const fn only(mac: MacAddr) -> Self {
        Self { only: Some(mac) }
    }

    /// The only address there is, if there is only one.
    pub(crate) const fn address(self) -> Option<MacAddr> {
        self.only
    }

    /// Whether a packet with this source may enter.
    #[inline]
    pub(crate) fn check(self, source: MacAddr) -> Result<(), DropReason> {
        if !source.is_station() {
            return Err(DropReason::BadSource);
        }
        match self.only {
            Some(mac) if mac != source => Err(DropReason::SpoofedSource),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let (mine, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let group = MacAddr([3, 0, 0, 0, 0, 1]);
        for (check, source, expected) in [
            (SourceCheck::ANY, other, Ok(())),
            (SourceCheck::ANY, group, Err(DropReason::BadSource)),
            (SourceCheck::ANY, MacAddr([0; 6]), Err(DropReason::BadSource)),
            (SourceCheck::only(mine), mine, Ok(())),
            (SourceCheck::only(mine), other, Err(DropReason::SpoofedSource)),
            (SourceCheck::only(mine), group, Err(DropReason::BadSource)),
            (SourceCheck::only(group), group, Err(DropReason::BadSource)),
        ] {
            assert_eq!(check.check(source), expected);
        }
    }
}
