//! Command lines of the stand-in for `fusermount3`, which programs write that are not ours.

#[path = "../../client/src/fusermount/arguments.rs"]
mod arguments;
#[path = "../../client/src/fusermount/options.rs"]
mod options;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use mountwarden_protocol::{AbsPath, FuseSource, Kind, Mount, MountOptions};

use self::arguments::Command;
use self::options::Options;

/// The words of a command line, with a zero byte between them.
///
/// They are read as `getopt_long(3)` would read them. Of the mount options each is taken for what
/// it says and for nothing else, the last of its kind counts, and what is asked of the helper
/// then is just that.
///
/// # Panics
/// When that does not hold.
pub fn fusermount(data: &[u8]) {
    let words: Vec<&[u8]> = data.split(|&byte| byte == 0).collect();
    let owned = words.iter().map(|word| OsStr::from_bytes(word).to_owned());
    let parsed = arguments::parse(owned);
    assert_eq!(parsed.as_ref().ok(), read(&words).as_ref(), "{parsed:?}");
    match parsed {
        Ok(Command::Mount { options, .. }) => list(&options.to_string_lossy()),
        Ok(_) => {}
        Err(why) => assert_one_line(&why),
    }
}

fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}

const LONG: &str = "auto-unmount comm-fd= help lazy options= quiet sync-init unmount version";

/// What the manual of `getopt_long(3)` says of the words, and docs/fuse.md of the options.
fn read(words: &[&[u8]]) -> Option<Command> {
    let mut options: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut operands = Vec::new();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            b"--" => operands.extend(words.by_ref()),
            [b'-', b'-', long @ ..] => {
                let mut parts = long.splitn(2, |&byte| byte == b'=');
                let (name, joined) = (parts.next()?, parts.next());
                let fits = |known: &&str| known.trim_end_matches('=').as_bytes().starts_with(name);
                let known: Vec<&str> = LONG.split(' ').filter(fits).collect();
                let [known] = known[..] else { return None };
                let value = match (known.strip_suffix('='), joined) {
                    (Some(_), joined) => joined.or_else(|| words.next())?,
                    (None, None) => b"",
                    (None, Some(_)) => return None,
                };
                options.push((known.trim_end_matches('='), value.to_vec()));
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                short(letters, &mut words, &mut options)?;
            }
            operand => operands.push(operand),
        }
        let ends = ["help", "version", "sync-init"];
        match options.iter().find(|(name, _)| ends.contains(name)) {
            Some(("help", _)) => return Some(Command::Help),
            Some(("version", _)) => return Some(Command::Version),
            Some(_) => return None,
            None => {}
        }
    }
    command(&options, &operands)
}

fn short<'w>(
    mut letters: &[u8],
    words: &mut impl Iterator<Item = &'w [u8]>,
    options: &mut Vec<(&str, Vec<u8>)>,
) -> Option<()> {
    while let [letter, rest @ ..] = letters {
        let (name, value) = match letter {
            b'h' => ("help", &[][..]),
            b'V' => ("version", &[][..]),
            b'u' => ("unmount", &[][..]),
            b'z' => ("lazy", &[][..]),
            b'q' => ("quiet", &[][..]),
            b'o' if rest.is_empty() => ("options", words.next()?),
            b'o' => ("options", rest),
            _ => return None,
        };
        options.push((name, value.to_vec()));
        let is_last = ["help", "version", "options"].contains(&name);
        letters = if is_last { &[] } else { rest };
    }
    Some(())
}

fn command(options: &[(&str, Vec<u8>)], operands: &[&[u8]]) -> Option<Command> {
    let has = |name: &str| options.iter().any(|(given, _)| *given == name);
    let last = |name: &str| {
        let value = options.iter().rfind(|(given, _)| *given == name)?;
        Some(OsString::from_vec(value.1.clone()))
    };
    let [place] = operands else { return None };
    let place = OsStr::from_bytes(place).to_owned();
    let socket = last("comm-fd");
    if has("auto-unmount") {
        return Some(Command::Wait { place, socket });
    }
    let (lazy, quiet) = (has("lazy"), has("quiet"));
    if has("unmount") {
        return Some(Command::Unmount { place, lazy, quiet });
    }
    let options = last("options").unwrap_or_default();
    (!lazy).then_some(Command::Mount {
        place,
        options,
        socket,
    })
}

fn list(text: &str) {
    let options = match Options::parse(text) {
        Ok(options) => options,
        Err(why) => return assert_one_line(&why),
    };
    let Ok(fuse) = options.request(Path::new("/mnt/place"), Some("caller")) else {
        return;
    };
    let given = split(text);
    let mount = Mount::from(fuse);
    let last = |words: [&str; 2]| {
        given
            .iter()
            .rfind(|option| words.contains(&option.as_str()))
    };
    for (flag, words) in [
        (MountOptions::READ_ONLY, ["ro", "rw"]),
        (MountOptions::SUID, ["suid", "nosuid"]),
        (MountOptions::DEV, ["dev", "nodev"]),
        (MountOptions::NO_EXEC, ["noexec", "exec"]),
        (MountOptions::NO_SYMFOLLOW, ["nosymfollow", "symfollow"]),
    ] {
        let is_asked = last(words).is_some_and(|option| option == words[0]);
        assert_eq!(
            mount.options.contains(flag),
            is_asked,
            "{text:?}: {words:?}"
        );
    }
    assert!(mount.passed.is_empty() && !mount.lease, "{mount:?}");
    assert_eq!(mount.target.to_string(), "/mnt/place");
    let has = |word: &str| given.iter().any(|option| option == word);
    let value = |key: &str| {
        let mut pairs = given.iter().filter_map(|option| option.split_once('='));
        let pair = pairs.rfind(|(known, _)| *known == key);
        pair.map(|(_, value)| value.to_owned())
    };
    let source = match value("fsname").map(|name| plain(&name)) {
        None => Some(FuseSource::Subtype),
        Some(device) if has("blkdev") => device_of(device, value("blksize")),
        Some(name) => name.parse().ok().map(FuseSource::Named),
    };
    let subtype = value("subtype").map_or("caller".to_owned(), |name| plain(&name));
    let expected = source.zip(subtype.parse().ok());
    let expected = expected.map(|(source, subtype)| Kind::Fuse {
        subtype,
        source,
        allow_other: has("allow_other"),
        default_permissions: has("default_permissions"),
        max_read: value("max_read").and_then(|bytes| number(&bytes)),
    });
    assert_eq!(Some(mount.kind), expected, "{text:?}");
}

fn device_of(device: String, size: Option<String>) -> Option<FuseSource> {
    let block_size = match size {
        Some(size) => Some(number(&size)?.try_into().ok()?),
        None => None,
    };
    let device = AbsPath::new(device).ok()?;
    Some(FuseSource::Device { device, block_size })
}

/// The options of a list, in which a comma after a backslash ends no name.
fn split(text: &str) -> Vec<String> {
    let (mut options, mut option) = (Vec::new(), String::new());
    let mut is_escaped = false;
    for letter in text.chars() {
        let is_name = option.starts_with("fsname=") || option.starts_with("subtype=");
        if letter == ',' && !is_escaped {
            options.push(std::mem::take(&mut option));
        } else {
            option.push(letter);
        }
        is_escaped = letter == '\\' && is_name && !is_escaped;
    }
    options.push(option);
    options
}

/// A name, of which a backslash takes the meaning from what follows.
fn plain(name: &str) -> String {
    let mut is_escaped = false;
    let mut text = String::new();
    for letter in name.chars() {
        is_escaped = letter == '\\' && !is_escaped;
        if !is_escaped {
            text.push(letter);
        }
    }
    if is_escaped {
        text.push('\\');
    }
    text
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..), 16),
        [b'0', _, ..] => (text.get(1..), 8),
        _ => (Some(text), 10),
    };
    u32::from_str_radix(digits?, radix).ok()
}
