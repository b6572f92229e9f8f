//! The command line, read as `getopt_long(3)` reads it: in order, so that what comes after
//! `-h` or `-V` does not matter; options also after the operand; long ones cut short.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use mountwarden_protocol::escape::Safe;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Version,
    Mount {
        place: OsString,
        options: OsString,
        socket: Option<OsString>,
    },
    Unmount {
        place: OsString,
        lazy: bool,
        quiet: bool,
    },
    /// Unmount when the socket ends.
    Wait {
        place: OsString,
        socket: Option<OsString>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    AutoUnmount,
    CommFd,
    Help,
    Lazy,
    Options,
    Quiet,
    SyncInit,
    Unmount,
    Version,
}

const LONG: [(&str, Flag); 9] = [
    ("auto-unmount", Flag::AutoUnmount),
    ("comm-fd", Flag::CommFd),
    ("help", Flag::Help),
    ("lazy", Flag::Lazy),
    ("options", Flag::Options),
    ("quiet", Flag::Quiet),
    ("sync-init", Flag::SyncInit),
    ("unmount", Flag::Unmount),
    ("version", Flag::Version),
];

const SHORT: [(u8, Flag); 6] = [
    (b'h', Flag::Help),
    (b'V', Flag::Version),
    (b'o', Flag::Options),
    (b'u', Flag::Unmount),
    (b'z', Flag::Lazy),
    (b'q', Flag::Quiet),
];

impl Flag {
    fn takes_a_value(self) -> bool {
        matches!(self, Self::Options | Self::CommFd)
    }
}

/// Reads the words after the program's name.
///
/// # Errors
/// What is wrong with them.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut words = words.into_iter();
    let (mut given, mut operands) = (Given::default(), Vec::new());
    while let Some(word) = words.next() {
        let mut flags = Vec::new();
        match word.as_bytes() {
            b"--" => operands.extend(words.by_ref()),
            [b'-', b'-', long @ ..] => flags.push(read_long(long, &mut words)?),
            [b'-', letters @ ..] if !letters.is_empty() => {
                flags = read_short(letters, &mut words)?;
            }
            _ => operands.push(word),
        }
        for flag in flags {
            match flag {
                (Flag::Help, _) => return Ok(Command::Help),
                (Flag::Version, _) => return Ok(Command::Version),
                (flag, value) => given.take(flag, value)?,
            }
        }
    }
    given.into_command(operands)
}

type Read = (Flag, OsString);

fn read_long(word: &[u8], words: &mut impl Iterator<Item = OsString>) -> Result<Read, String> {
    let mut parts = word.splitn(2, |&byte| byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next());
    let shown = String::from_utf8_lossy(name);
    let shown = Safe(&shown);
    let mut fitting = LONG
        .iter()
        .filter(|(long, _)| long.as_bytes().starts_with(name));
    let (Some(&(long, flag)), None) = (fitting.next(), fitting.next()) else {
        return Err(format!("unrecognized option '--{shown}'"));
    };
    match (flag.takes_a_value(), value) {
        (true, Some(value)) => Ok((flag, OsStr::from_bytes(value).to_owned())),
        (true, None) => match words.next() {
            Some(value) => Ok((flag, value)),
            None => Err(format!("option '--{long}' requires an argument")),
        },
        (false, None) => Ok((flag, OsString::new())),
        (false, Some(_)) => Err(format!("option '--{long}' doesn't allow an argument")),
    }
}

/// Letters in one word, of which `o` takes the rest or the next word.
///
/// # Errors
/// For the first letter that is none, unless help or version stands before it.
fn read_short(
    letters: &[u8],
    words: &mut impl Iterator<Item = OsString>,
) -> Result<Vec<Read>, String> {
    let mut found = Vec::new();
    let mut rest = letters;
    while let [letter, after @ ..] = rest {
        rest = after;
        let Some(&(_, flag)) = SHORT.iter().find(|(short, _)| short == letter) else {
            let shown = char::from(*letter).to_string();
            return Err(format!("invalid option -- '{}'", Safe(&shown)));
        };
        let mut value = OsString::new();
        if flag.takes_a_value() {
            value = match rest {
                [] => words.next().ok_or("option requires an argument -- 'o'")?,
                joined => OsStr::from_bytes(joined).to_owned(),
            };
            rest = &[];
        }
        found.push((flag, value));
        if matches!(flag, Flag::Help | Flag::Version) {
            break;
        }
    }
    Ok(found)
}

/// What was given so far.
#[derive(Default)]
struct Given {
    flags: Vec<Flag>,
    options: OsString,
    socket: Option<OsString>,
}

impl Given {
    fn take(&mut self, flag: Flag, value: OsString) -> Result<(), String> {
        match flag {
            Flag::Options => self.options = value,
            Flag::CommFd => self.socket = Some(value),
            Flag::SyncInit => {
                let why = "--sync-init is refused: the helper hands the connection over when it \
                           has mounted, not before";
                return Err(why.to_owned());
            }
            flag => self.flags.push(flag),
        }
        Ok(())
    }

    fn into_command(self, operands: Vec<OsString>) -> Result<Command, String> {
        let [unmount, wait, lazy, quiet] =
            [Flag::Unmount, Flag::AutoUnmount, Flag::Lazy, Flag::Quiet]
                .map(|flag| self.flags.contains(&flag));
        if lazy && !unmount && !wait {
            return Err("-z can only be used with -u".to_owned());
        }
        let [place] = <[OsString; 1]>::try_from(operands).map_err(|operands| {
            if operands.is_empty() {
                "missing mountpoint argument"
            } else {
                "extra arguments after the mountpoint"
            }
        })?;
        let Self {
            options, socket, ..
        } = self;
        Ok(match (wait, unmount) {
            (true, _) => Command::Wait { place, socket },
            (false, true) => Command::Unmount { place, lazy, quiet },
            (false, false) => Command::Mount {
                place,
                options,
                socket,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Command, String> {
        parse(words.iter().map(OsString::from))
    }

    fn mount(place: &str, options: &str) -> Command {
        Command::Mount {
            place: place.into(),
            options: options.into(),
            socket: None,
        }
    }

    fn unmount(place: &str, lazy: bool, quiet: bool) -> Command {
        Command::Unmount {
            place: place.into(),
            lazy,
            quiet,
        }
    }

    #[test]
    fn as_libfuse_and_people_write_it() {
        for (words, command) in [
            (
                &["-o", "ro,fsname=x", "--", "-m"][..],
                mount("-m", "ro,fsname=x"),
            ),
            (&["m"], mount("m", "")),
            (&["m", "-o", "ro"], mount("m", "ro")),
            (&["-oro", "m"], mount("m", "ro")),
            (&["-o=ro", "m"], mount("m", "=ro")),
            (&["-o", "ro", "-onoexec", "m"], mount("m", "noexec")),
            (&["-o", "-u", "m"], mount("m", "-u")),
            (&["--options=a=b", "-"], mount("-", "a=b")),
            (&["--opt", "ro", "m"], mount("m", "ro")),
            (&["-u", "-q", "-z", "--", "m"], unmount("m", true, true)),
            (
                &["--unmount", "--quiet", "--lazy", "--", "m"],
                unmount("m", true, true),
            ),
            (&["-uz", "m"], unmount("m", true, false)),
            (&["m", "-qu"], unmount("m", false, true)),
            (&["-z", "-u", ""], unmount("", true, false)),
            (&["-h", "--nonsense"], Command::Help),
            (&["-uVx"], Command::Version),
            (&["--vers", "m", "m"], Command::Version),
        ] {
            assert_eq!(parsed(words), Ok(command), "{words:?}");
        }
        let socket = Some("5".into());
        let place = || OsString::from("m");
        let wait = Command::Wait {
            place: place(),
            socket: socket.clone(),
        };
        assert_eq!(
            parsed(&["--auto-unmount", "--comm-fd=5", "-z", "m"]),
            Ok(wait)
        );
        let mount = Command::Mount {
            place: place(),
            options: "".into(),
            socket,
        };
        assert_eq!(parsed(&["--comm-fd", "5", "m"]), Ok(mount));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (words, message) in [
            (&[][..], "missing mountpoint argument"),
            (&["-u"], "missing mountpoint argument"),
            (&["a", "b"], "extra arguments after the mountpoint"),
            (&["-z", "m"], "-z can only be used with -u"),
            (&["-xV"], "invalid option -- 'x'"),
            (&["-u\n"], "invalid option -- '\\n'"),
            (&["m", "-o"], "option requires an argument -- 'o'"),
            (&["--comm-fd"], "option '--comm-fd' requires an argument"),
            (
                &["--quiet=1", "m"],
                "option '--quiet' doesn't allow an argument",
            ),
            (&["--bogus", "--version"], "unrecognized option '--bogus'"),
            (&["--=1", "m"], "unrecognized option '--'"),
        ] {
            assert_eq!(parsed(words), Err(message.to_owned()), "{words:?}");
        }
        assert!(
            parsed(&["--sync-init", "m"])
                .unwrap_err()
                .contains("--sync-init")
        );
    }
}
