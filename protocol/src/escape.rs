//! Text that a terminal or a log can be shown, whoever wrote it.

use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Prints a text with everything escaped that could steer a terminal, break
/// the line or change the order in which it is read.
#[derive(Debug, Clone, Copy)]
pub struct Safe<'a>(pub &'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if steers(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Prints a path, as [`AbsPath`](crate::AbsPath) prints itself: also backslashes
/// and bytes that are not UTF-8 are escaped, so that no two paths print alike.
#[derive(Debug, Clone, Copy)]
pub struct SafePath<'a>(pub &'a Path);

impl fmt::Display for SafePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for part in chunk.valid().split_inclusive('\\') {
                match part.strip_suffix('\\') {
                    Some(part) => write!(f, "{}\\\\", Safe(part))?,
                    None => Safe(part).fmt(f)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whether a character steers a terminal, ends a line, changes the direction of
/// the text around it or shows nothing.
#[must_use]
pub fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_is_escaped_to_its_last_byte() {
        let path = Path::new(OsStr::from_bytes(b"/a\xff\x1b/\xc2\x9b\\x41"));
        assert_eq!(SafePath(path).to_string(), "/a\\xff\\u{1b}/\\u{9b}\\\\x41");
        let path = crate::AbsPath::new(path).unwrap();
        assert_eq!(SafePath(path.as_path()).to_string(), path.to_string());
    }

    #[test]
    fn what_steers_a_terminal_is_escaped_and_the_rest_is_not() {
        let text = "é\u{1b}[2J\n\u{9b}\u{7f}\u{202e}ab";
        assert_eq!(
            Safe(text).to_string(),
            "é\\u{1b}[2J\\n\\u{9b}\\u{7f}\\u{202e}ab"
        );
    }
}
