//! Whom the files on an ID-mapped mount belong to, and what of that is granted.

use std::fmt;

use mountwarden_protocol::{AbsPath, DenyReason};

use crate::denial::{Denial, listing};

/// How many ids there are: the last number is none (`user_namespaces(7)`).
const IDS: u64 = 0xffff_ffff;

/// One range of a map: what belongs to an id inside belongs, seen through the mount, to the
/// id at the same place outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id on the file system.
    pub inside: u32,
    /// The first id that the mount shows.
    pub outside: u32,
    /// How many there are.
    pub count: u32,
}

impl IdRange {
    /// Whether this range maps all that the other does, to the same.
    fn holds(self, other: Self) -> bool {
        let end = |range: Self| u64::from(range.inside).saturating_add(range.count.into());
        other.inside.checked_sub(self.inside) == other.outside.checked_sub(self.outside)
            && other.inside >= self.inside
            && end(other) <= end(self)
    }

    /// Reads a map as the kernel writes it, a range a line.
    fn read_map(text: &str) -> Option<Vec<Self>> {
        let range = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let range = Self {
                inside: numbers.next()?.ok()?,
                outside: numbers.next()?.ok()?,
                count: numbers.next()?.ok()?,
            };
            numbers.next().is_none().then_some(range)
        };
        let ranges: Vec<Self> = text.lines().map(range).collect::<Option<_>>()?;
        (!ranges.is_empty()).then_some(ranges)
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            inside,
            outside,
            count,
        } = self;
        write!(f, "{inside}:{outside}:{count}")
    }
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// Reads `/proc/PID/uid_map` and `/proc/PID/gid_map`, with zero bytes after each; `None`
    /// for anything else, or where one of them is empty.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let (uids, gids) = std::str::from_utf8(text).ok()?.split_once('\0')?;
        Some(Self {
            uids: IdRange::read_map(uids)?,
            gids: IdRange::read_map(gids.trim_matches('\0'))?,
        })
    }
}

/// What a namespace may map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermittedIdmap {
    /// Who must have made the namespace: the peer.
    pub owner: u32,
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl PermittedIdmap {
    /// Whether every range of a namespace's maps lies within a granted one, for a mount of
    /// `source` by the grant of that name.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self, maps: &IdMaps, source: &AbsPath, grant: &str) -> Result<(), Denial> {
        let kinds = [
            ("users", &maps.uids, &self.uids),
            ("groups", &maps.gids, &self.gids),
        ];
        for (what, ranges, granted) in kinds {
            let refused = |range: &&IdRange| !granted.iter().any(|own| own.holds(**range));
            if let Some(range) = ranges.iter().find(refused) {
                let message = format!(
                    "an ID-mapped mount of {source} is refused: the user namespace maps the {what} \
                     {range} (inside:outside:count), and your grant '{grant}' allows only {}",
                    listing(granted)
                );
                return Err(Denial {
                    reason: DenyReason::IdmapNotGranted,
                    path: source.clone(),
                    message,
                });
            }
        }
        Ok(())
    }
}

/// `idmap` of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdmapTerms {
    pub(crate) uids: Vec<GrantedRange>,
    pub(crate) gids: Vec<GrantedRange>,
}

/// A range as a grant says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrantedRange {
    pub(crate) inside: u32,
    /// `None` for the peer's own.
    pub(crate) outside: Option<u32>,
    pub(crate) count: u32,
}

impl GrantedRange {
    /// Reads `INSIDE:OUTSIDE:COUNT`; otherwise says what it must be.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "INSIDE:OUTSIDE:COUNT, three numbers as in a user namespace's uid_map, \
                            or INSIDE:peer:1";
        const TOO_FAR: &str = "1 or more ids, of which both the first and the last are below \
                               4294967295";
        let parts: Vec<&str> = text.split(':').collect();
        let [inside, outside, count] = parts.as_slice() else {
            return Err(FORM);
        };
        let number = |text: &str| match text.parse::<u64>() {
            // A sign is no digit.
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => Err(FORM),
        };
        let (first, ids) = (number(inside)?, number(count)?);
        let shown = match *outside {
            "peer" if ids == 1 => None,
            "peer" => return Err("INSIDE:peer:1: the peer's own id is one"),
            outside => Some(number(outside)?),
        };
        let fits = |first: u64| first.checked_add(ids).is_some_and(|end| end <= IDS);
        if ids == 0 || !fits(first) || !shown.is_none_or(fits) {
            return Err(TOO_FAR);
        }
        let narrow = |number: u64| u32::try_from(number).map_err(|_| TOO_FAR);
        Ok(Self {
            inside: narrow(first)?,
            outside: shown.map(narrow).transpose()?,
            count: narrow(ids)?,
        })
    }

    fn of(self, peer: u32) -> IdRange {
        IdRange {
            inside: self.inside,
            outside: self.outside.unwrap_or(peer),
            count: self.count,
        }
    }
}

impl IdmapTerms {
    pub(crate) fn permitted(&self, uid: u32, gid: u32) -> PermittedIdmap {
        let of = |ranges: &[GrantedRange], id| ranges.iter().map(|range| range.of(id)).collect();
        PermittedIdmap {
            owner: uid,
            uids: of(&self.uids, uid),
            gids: of(&self.gids, gid),
        }
    }

    /// What of root's the map shows as somebody else's: users, groups.
    pub(crate) fn of_root(&self) -> impl Iterator<Item = &'static str> {
        [("users", &self.uids), ("groups", &self.gids)]
            .into_iter()
            .filter(|(_, ranges)| ranges.iter().any(|range| range.inside == 0))
            .map(|(what, _)| what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{GrantedRange, IdMaps, IdRange};

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn a_range_holds_what_lies_in_it_at_the_same_offset() {
        let granted = range(1000, 100_000, 10);
        for (other, held) in [
            (range(1000, 100_000, 10), true),
            (range(1000, 100_000, 1), true),
            (range(1009, 100_009, 1), true),
            (range(1003, 100_003, 7), true),
            (range(1003, 100_003, 8), false),
            (range(1000, 100_000, 11), false),
            (range(999, 99_999, 2), false),
            (range(1000, 100_001, 1), false),
            (range(1001, 100_000, 1), false),
            (range(0, 1000, 1), false),
            (range(1000, 100_000, u32::MAX), false),
        ] {
            assert_eq!(granted.holds(other), held, "{other}");
        }
        let all = range(0, 0, u32::MAX);
        assert!(all.holds(range(u32::MAX - 1, u32::MAX - 1, 1)));
        assert!(!all.holds(range(0, 1, 1)));
    }

    proptest! {
        /// The rule as it is written: every id is mapped, and to the same.
        #[test]
        fn attack_36_a_range_holds_another_where_it_maps_each_id_alike(
            (inside, outside, count) in (0..8_u32, 0..8_u32, 1..8_u32),
            (first, shown, ids) in (0..12_u32, 0..12_u32, 1..8_u32),
        ) {
            let (granted, asked) = (range(inside, outside, count), range(first, shown, ids));
            let maps = |range: IdRange, id: u32| {
                let place = id.checked_sub(range.inside)?;
                (place < range.count).then(|| range.outside.saturating_add(place))
            };
            let alike = (first..first.saturating_add(ids)).all(|id| maps(granted, id) == maps(asked, id));
            prop_assert_eq!(granted.holds(asked), alike);
        }
    }

    #[test]
    fn maps_are_read_as_the_kernel_writes_them() {
        let text = b"         0       1000          1\n         1     100000      65536\n\0\0\
                     0 1000 1\n\0\0";
        let maps = IdMaps::read(text).expect("maps");
        assert_eq!(maps.uids, [range(0, 1000, 1), range(1, 100_000, 65_536)]);
        assert_eq!(maps.gids, [range(0, 1000, 1)]);
        for text in [
            "",
            "0 0 1",
            "0 0 1\n\0",
            "\x000 0 1\n",
            "0 0\n\x000 0 1\n",
            "0 0 1 1\n\x000 0 1\n",
            "0 0 1\n\n\x000 0 1\n",
            "0 0 4294967296\n\x000 0 1\n",
            "0 0 -1\n\x000 0 1\n",
            "0 0 1\n\x000 0 1\n\x000 0 1\n",
        ] {
            assert_eq!(IdMaps::read(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_granted_range_fits_into_the_ids_that_there_are() {
        for (text, read) in [
            ("0:100000:65536", Some((0, Some(100_000), 65_536))),
            ("0:0:4294967295", Some((0, Some(0), u32::MAX))),
            ("4294967294:1:1", Some((u32::MAX - 1, Some(1), 1))),
            ("1000:peer:1", Some((1000, None, 1))),
            ("1000:peer:2", None),
            ("0:1:4294967295", None),
            ("4294967295:1:1", None),
            ("0:18446744073709551615:1", None),
            ("0:18446744073709551616:1", None),
            ("0:1:0", None),
            ("0:1", None),
            ("0:1:1:1", None),
            ("", None),
            ("+0:1:1", None),
            ("-1:1:1", None),
            (" 0:1:1", None),
            ("peer:1:1", None),
            ("0:Peer:1", None),
        ] {
            let range = GrantedRange::parse(text).ok();
            let range = range.map(|range| (range.inside, range.outside, range.count));
            assert_eq!(range, read, "{text:?}");
        }
    }
}
