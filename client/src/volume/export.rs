//! What is exported, and the directory that its mount has.

use std::fmt;
use std::fmt::Write as _;

use mountwarden_protocol::escape::Safe;
use sha2::{Digest as _, Sha256};

use crate::Error;

/// What a volume's mount shows, such as `registry1,registry2/volume`: one export has one mount,
/// however many volumes lie in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export(String);

impl Export {
    /// An export, without the scheme that may stand before it (`quobyte://`).
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) where nothing is left; where it
    /// holds a control character; and where it begins with `-`, which a program could take for
    /// an option.
    pub fn new(text: &str) -> Result<Self, Error> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => rest,
            _ => text,
        };
        let why = if rest.is_empty() {
            "nothing follows its scheme"
        } else if rest.starts_with('-') {
            "a program could take it for an option"
        } else if rest.contains(char::is_control) {
            "it holds a control character"
        } else {
            return Ok(Self(rest.to_owned()));
        };
        let message = format!("the export \"{}\" is refused: {why}", Safe(text));
        Err(Error::invalid_request(message))
    }

    /// The export, without a scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its directory: the SHA-256 of the export in 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(&self.0) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl Export {
    /// The name of a program's scope, but for the number that the launcher gives it.
    pub(super) fn scope(&self) -> String {
        let digest = self.digest();
        format!(
            "mountwarden-volume-{}",
            digest.get(..16).unwrap_or_default()
        )
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether it can be the scheme of a URI (RFC 3986, 3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_stripped() {
        for (text, export) in [
            ("quobyte://a,b/volume", "a,b/volume"),
            ("a,b/volume", "a,b/volume"),
            ("/srv/x://y", "/srv/x://y"),
            ("nfs4+tls://host:/x", "host:/x"),
        ] {
            assert_eq!(Export::new(text).unwrap().as_str(), export);
        }
    }

    #[test]
    fn what_a_program_would_misread_is_refused() {
        for (text, why) in [
            ("", "nothing follows"),
            ("quobyte://", "nothing follows"),
            ("-o,x", "an option"),
            ("quobyte://-c", "an option"),
            ("a\nb", "a control character"),
        ] {
            let error = Export::new(text).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    /// Another one would leave every mount behind that is there.
    #[test]
    fn the_digest_stays_what_it_is() {
        let export = Export::new("quobyte://registry/volume").unwrap();
        assert_eq!(
            export.digest(),
            "8274d265201b76a61f6e582cac727beba6ca09f5fbceaf6b97d9d947c997e71b"
        );
    }
}
