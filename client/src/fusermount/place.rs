//! The mount point, as it is asked for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use mountwarden_protocol::escape::SafePath;

/// The absolute path of a mount point, whose last component may be a link or a dead mount, and
/// is not asked.
///
/// # Errors
/// Where what is above it cannot be resolved.
pub(super) fn resolve(asked: &OsStr) -> Result<PathBuf, String> {
    if asked.is_empty() {
        return Err("invalid mountpoint ''".to_owned());
    }
    let (above, last) = split(asked.as_bytes());
    let above = fs::canonicalize(OsStr::from_bytes(above))
        .map_err(|error| format!("bad mount point {}: {error}", SafePath(Path::new(asked))))?;
    Ok(match last {
        Some(last) => above.join(OsStr::from_bytes(last)),
        None => above,
    })
}

/// What is resolved, and the last component.
fn split(asked: &[u8]) -> (&[u8], Option<&[u8]>) {
    let end = asked.iter().rposition(|&byte| byte != b'/');
    let Some((path, _)) = end.and_then(|end| asked.split_at_checked(end.saturating_add(1))) else {
        return (b"/", None);
    };
    let slash = path.iter().rposition(|&byte| byte == b'/');
    let (above, last) = match slash.and_then(|slash| path.split_at_checked(slash)) {
        None => (&b"."[..], path),
        Some((b"", last)) => (&b"/"[..], last),
        Some((above, last)) => (above, last),
    };
    match last.strip_prefix(b"/").unwrap_or(last) {
        b"." | b".." => (path, None),
        last => (above, Some(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_component_is_left_as_it_is() {
        for (asked, above, last) in [
            ("/a/b", "/a", Some("b")),
            ("/a/b//", "/a", Some("b")),
            ("/a", "/", Some("a")),
            ("a", ".", Some("a")),
            ("./a", ".", Some("a")),
            ("a/.", "a/.", None),
            ("a/..", "a/..", None),
            (".", ".", None),
            ("//", "/", None),
        ] {
            let expected = (above.as_bytes(), last.map(str::as_bytes));
            assert_eq!(split(asked.as_bytes()), expected, "{asked}");
        }
    }
}
