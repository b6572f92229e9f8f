//! What a program says on its standard error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use mountwarden_protocol::escape::Safe;
use rustix::fs::{MemfdFlags, SealFlags};

/// How much of it is kept, in bytes.
const SAID: u64 = 4096;

/// Standard error of a program, in memory. It grows to [`SAID`] bytes and not beyond, also when
/// the program goes on to write for years; a pipe would end it with a signal then.
pub(super) struct Said(File);

impl Said {
    pub(super) fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("stderr", flags)?;
        rustix::fs::ftruncate(&file, SAID)?;
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self(file.into()))
    }

    pub(super) fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    pub(super) fn text(&self) -> String {
        let mut bytes = Vec::new();
        let mut part = [0; 512];
        while let Ok(read @ 1..) = self
            .0
            .read_at(&mut part, bytes.len().try_into().unwrap_or(SAID))
        {
            bytes.extend_from_slice(part.get(..read).unwrap_or_default());
        }
        let end = bytes.iter().rposition(|&byte| byte != 0);
        bytes.truncate(end.map_or(0, |end| end.saturating_add(1)));
        let text = String::from_utf8_lossy(&bytes);
        Safe(text.trim_end()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_said_is_bounded_and_escaped() {
        let said = Said::new().unwrap();
        let mut file = said.file().unwrap();
        file.write_all(b"a\x1b[31m\n").unwrap();
        assert!(!said.text().contains(['\x1b', '\n']));
        let mut written = 0;
        while let Ok(more) = file.write(&[b'x'; 1000]) {
            written += more;
        }
        assert!(written < 4096);
        assert!(said.text().ends_with('x'));
    }
}
