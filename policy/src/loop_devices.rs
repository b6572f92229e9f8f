//! The loop devices that a grant lets images take.

/// Block devices that show a regular file each (`loop(4)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopDevices {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl LoopDevices {
    /// The number of the last that there can be (`MINORBITS` of the kernel).
    pub(crate) const LAST: u32 = (1 << 20) - 1;

    /// The most of one grant. A mount that finds all in use has tried each.
    pub(crate) const MOST: u32 = 64;

    /// So many, from the first on; `None` where there cannot be so many.
    pub(crate) fn new(first: u32, count: u32) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        (count <= Self::MOST && last <= Self::LAST).then_some(Self { first, count })
    }

    /// Their numbers.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (self.first..).take(usize::try_from(self.count).unwrap_or_default())
    }

    /// The names of their nodes in `/dev`.
    pub fn names(self) -> impl Iterator<Item = String> {
        self.numbers().map(|number| format!("loop{number}"))
    }

    /// Both numbers in one, for a message.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.first) << 32 | u64::from(self.count)
    }

    /// Those of [`to_bits`](Self::to_bits); `None` where that made no such number.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        let first = u32::try_from(bits >> 32).ok()?;
        let count = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Self::new(first, count)
    }
}

#[cfg(test)]
mod tests {
    use super::LoopDevices;

    #[test]
    fn there_are_no_more_than_can_be() {
        for (first, count, is_one) in [
            (0, 1, true),
            (100, 64, true),
            (LoopDevices::LAST, 1, true),
            (LoopDevices::LAST, 2, false),
            (100, 65, false),
            (100, 0, false),
            (u32::MAX, 2, false),
        ] {
            let devices = LoopDevices::new(first, count);
            assert_eq!(devices.is_some(), is_one, "{first} {count}");
            if let Some(devices) = devices {
                assert_eq!(LoopDevices::from_bits(devices.to_bits()), Some(devices));
            }
        }
        let devices = LoopDevices::new(9, 2).unwrap();
        assert!(devices.names().eq(["loop9", "loop10"]));
        assert_eq!(LoopDevices::from_bits(u64::MAX), None);
    }
}
