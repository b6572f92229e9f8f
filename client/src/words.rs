//! Arguments of programs in which something is filled in.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// The word with a value in each place for it. What a value holds is not looked at again.
pub(crate) fn filled(word: &OsStr, values: &[(&str, &OsStr)]) -> OsString {
    let mut filled = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let found = values.iter().find_map(|(place, value)| {
            let after = rest.strip_prefix(place.as_bytes())?;
            Some((value, after))
        });
        rest = if let Some((value, after)) = found {
            filled.extend_from_slice(value.as_bytes());
            after
        } else {
            filled.push(byte);
            after
        };
    }
    OsString::from_vec(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_each_place_for_them() {
        let values = [("{fd}", OsStr::new("7")), ("{x}", OsStr::new("{fd}"))];
        for (word, is) in [
            ("/dev/fd/{fd}", "/dev/fd/7"),
            ("{fd}{fd}", "77"),
            ("-o{fd}x", "-o7x"),
            ("{x}", "{fd}"),
            ("{f}", "{f}"),
            ("", ""),
        ] {
            assert_eq!(filled(OsStr::new(word), &values), is);
        }
    }
}
