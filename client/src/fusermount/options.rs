//! Mount options, as `-o` lists them.

use std::path::Path;

use mountwarden_protocol::escape::Safe;
use mountwarden_protocol::{FuseSubtype, MountOptions};

use crate::{Error, Fuse};

/// The subtype of a caller that has no name.
const SUBTYPE: &str = "fuse";

/// Asks for one flag.
type Ask = fn(Fuse) -> Fuse;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option that is there or not"
)]
pub(super) struct Options {
    subtype: Option<String>,
    source: Option<String>,
    max_read: Option<u32>,
    /// The source is a device (`blkdev`).
    on_device: bool,
    block_size: Option<u32>,
    allow_other: bool,
    default_permissions: bool,
    pub(super) auto_unmount: bool,
    pub(super) flags: MountOptions,
}

impl Options {
    /// Reads a list.
    ///
    /// # Errors
    /// The first option that cannot be taken, and why.
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = list.trim_start_matches(',');
        while !rest.is_empty() {
            let (option, after) = first(rest);
            options.take(option)?;
            rest = after;
        }
        if options.on_device && options.source.is_none() {
            return Err(refused("blkdev", "it takes the device as fsname="));
        }
        if options.block_size.is_some() && !options.on_device {
            return Err(refused("blksize", "only a device (blkdev) has blocks"));
        }
        Ok(options)
    }

    fn take(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("fsname", name)) => self.source = Some(unescaped(name)),
            Some(("subtype", name)) => self.subtype = Some(unescaped(name)),
            Some(("max_read", bytes)) => {
                let bytes = number(bytes).ok_or_else(|| refused(option, "no number of bytes"))?;
                self.max_read = Some(bytes);
            }
            Some(("blksize", bytes)) => {
                let bytes = number(bytes).ok_or_else(|| refused(option, "no number of bytes"))?;
                self.block_size = Some(bytes);
            }
            // What the kernel is told of these, the helper says.
            Some(("fd" | "rootmode" | "user_id" | "group_id", _)) => {}
            _ => self.take_word(option)?,
        }
        Ok(())
    }

    fn take_word(&mut self, option: &str) -> Result<(), String> {
        match option {
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "auto_unmount" => self.auto_unmount = true,
            "ro" | "rw" => self.flags.set(MountOptions::READ_ONLY, option == "ro"),
            "suid" | "nosuid" => self.flags.set(MountOptions::SUID, option == "suid"),
            "dev" | "nodev" => self.flags.set(MountOptions::DEV, option == "dev"),
            "exec" | "noexec" => self.flags.set(MountOptions::NO_EXEC, option == "noexec"),
            "symfollow" | "nosymfollow" => {
                let not = option == "nosymfollow";
                self.flags.set(MountOptions::NO_SYMFOLLOW, not);
            }
            // As without it. The kernel gives a FUSE file system no access times of its own,
            // whatever the mount says (`S_NOATIME` in `fuse_iget`); nothing asks whether a
            // directory is empty.
            "async" | "atime" | "noatime" | "nodiratime" | "norelatime" | "nostrictatime"
            | "nonempty" => {}
            "sync" | "dirsync" => return Err(refused(option, "the helper mounts nothing so")),
            "blkdev" => self.on_device = true,
            // For other programs that read the list.
            _ if option.starts_with("x-") => {}
            _ => return Err(format!("unknown option '{}'", Safe(option))),
        }
        Ok(())
    }

    /// The request that this is. Without a subtype it is the caller's name, which is what libfuse
    /// gives by itself: after a refusal it asks a second time without one, and lets only that
    /// attempt speak.
    pub(super) fn request(&self, place: &Path, caller: Option<&str>) -> Result<Fuse, Error> {
        let caller = caller.filter(|name| name.parse::<FuseSubtype>().is_ok());
        let subtype = self.subtype.as_deref().or(caller).unwrap_or(SUBTYPE);
        let mut fuse = Fuse::new(subtype, place)?;
        fuse = match &self.source {
            Some(device) if self.on_device => fuse.device(device, self.block_size)?,
            Some(source) => fuse.source(source)?,
            None => fuse,
        };
        if let Some(bytes) = self.max_read {
            fuse = fuse.max_read(bytes);
        }
        if self.allow_other {
            fuse = fuse.allow_other();
        }
        if self.default_permissions {
            fuse = fuse.default_permissions();
        }
        let flags: [(MountOptions, Ask); 5] = [
            (MountOptions::READ_ONLY, Fuse::read_only),
            (MountOptions::SUID, Fuse::suid),
            (MountOptions::DEV, Fuse::dev),
            (MountOptions::NO_EXEC, Fuse::no_exec),
            (MountOptions::NO_SYMFOLLOW, Fuse::no_symfollow),
        ];
        for (flag, with) in flags {
            if self.flags.contains(flag) {
                fuse = with(fuse);
            }
        }
        Ok(fuse)
    }
}

fn refused(option: &str, why: &str) -> String {
    format!("option {} is refused: {why}", Safe(option))
}

/// A number as the kernel reads it (`fs_param_is_u32`): octal after `0`, hexadecimal after `0x`.
fn number(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (lower.as_str(), 10),
    };
    u32::from_str_radix(digits, radix).ok()
}

/// The first option of a list and the rest. A backslash takes the meaning from the next
/// character in the two that are names, and nowhere else.
fn first(list: &str) -> (&str, &str) {
    let is_name = ["fsname=", "subtype="]
        .iter()
        .any(|key| list.starts_with(key));
    let mut escaped = false;
    for (at, letter) in list.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if is_name => escaped = true,
            ',' => {
                let (option, rest) = list.split_at_checked(at).unwrap_or((list, ""));
                return (option, rest.strip_prefix(',').unwrap_or_default());
            }
            _ => {}
        }
    }
    (list, "")
}

/// A value without its escapes; a backslash at the end stands for itself.
fn unescaped(value: &str) -> String {
    let mut text = String::new();
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        let meant = match letter {
            '\\' => letters.next().unwrap_or('\\'),
            other => other,
        };
        text.push(meant);
    }
    text
}

#[cfg(test)]
mod tests {
    use mountwarden_protocol::{AbsPath, FuseSource, Kind, Mount};

    use super::*;

    fn options(list: &str) -> Options {
        Options::parse(list).unwrap()
    }

    #[test]
    fn what_each_stands_for() {
        let named = |source: &str, subtype: &str| Options {
            source: Some(source.to_owned()),
            subtype: Some(subtype.to_owned()),
            ..Options::default()
        };
        let flags = |flags| Options {
            flags,
            ..Options::default()
        };
        for (list, expected) in [
            ("", Options::default()),
            (",rw,nosuid,nodev,exec,async,symfollow,", Options::default()),
            (
                "nonempty,fd=3,rootmode=40000,user_id=0,group_id=0,x-a=b",
                Options::default(),
            ),
            (
                "atime,noatime,nodiratime,norelatime,nostrictatime",
                Options::default(),
            ),
            ("fsname=a@b:/c,subtype=s", named("a@b:/c", "s")),
            (r"subtype=a\,b,fsname=c\\d\e", named(r"c\de", "a,b")),
            (r"fsname=x,subtype=s,fsname=y\", named(r"y\", "s")),
            (
                "ro,noexec",
                flags(MountOptions::READ_ONLY | MountOptions::NO_EXEC),
            ),
            (
                "ro,rw,suid,dev",
                flags(MountOptions::SUID | MountOptions::DEV),
            ),
            ("noexec,exec,nosymfollow", flags(MountOptions::NO_SYMFOLLOW)),
        ] {
            assert_eq!(options(list), expected, "{list}");
        }
        let all = options("allow_other,default_permissions,auto_unmount,max_read=4096");
        assert!(all.allow_other && all.default_permissions && all.auto_unmount);
        assert_eq!(all.max_read, Some(4096));
        for (text, number) in [("0", 0), ("010", 8), ("0X1f", 31)] {
            assert_eq!(options(&format!("max_read={text}")).max_read, Some(number));
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        for (list, words) in [
            ("bogus", "unknown option 'bogus'"),
            ("ro=1", "unknown option 'ro=1'"),
            ("fd", "unknown option 'fd'"),
            ("allow_root", "unknown option 'allow_root'"),
            ("ro,,rw", "unknown option ''"),
            (r"ro\,rw", r"unknown option 'ro\'"),
            ("sync", "option sync is refused"),
            ("dirsync", "option dirsync is refused"),
            ("blkdev", "option blkdev is refused: it takes the device"),
            ("fsname=/dev/a,blksize=512", "option blksize is refused"),
            (
                "fsname=/dev/a,blkdev,blksize=x",
                "option blksize=x is refused",
            ),
            ("max_read=x", "option max_read=x is refused"),
            ("max_read=", "option max_read= is refused"),
            ("max_read=08", "option max_read=08 is refused"),
            ("max_read=0x", "option max_read=0x is refused"),
            ("max_read", "unknown option 'max_read'"),
        ] {
            let error = Options::parse(list).unwrap_err();
            assert!(error.starts_with(words), "{list}: {error}");
        }
    }

    #[test]
    fn the_request() {
        let all = "fsname=s,subtype=t,max_read=1,allow_other,default_permissions,ro,suid,dev,noexec,nosymfollow";
        let mount = |list, caller| -> Mount {
            options(list)
                .request(Path::new("/m"), caller)
                .unwrap()
                .into()
        };
        let full = mount(all, Some("caller"));
        assert_eq!(full.options, MountOptions::all());
        let kind = Kind::Fuse {
            subtype: "t".parse().unwrap(),
            source: FuseSource::Named("s".parse().unwrap()),
            allow_other: true,
            default_permissions: true,
            max_read: Some(1),
        };
        assert_eq!(full.kind, kind);
        for (caller, expected) in [
            (Some("sshfs"), "sshfs"),
            (Some("a b"), "fuse"),
            (None, "fuse"),
        ] {
            let Kind::Fuse {
                subtype, source, ..
            } = mount("", caller).kind
            else {
                panic!("no FUSE file system");
            };
            assert_eq!((subtype.as_str(), source), (expected, FuseSource::Subtype));
        }
        let on_device = mount("fsname=/dev/a,blkdev,blksize=4096,subtype=t", None);
        let Kind::Fuse { source, .. } = on_device.kind else {
            panic!("no FUSE file system");
        };
        let expected = FuseSource::Device {
            device: AbsPath::new("/dev/a").unwrap(),
            block_size: Some(4096.try_into().unwrap()),
        };
        assert_eq!(source, expected);
        for list in [
            "fsname=",
            "subtype=",
            r"fsname=a\,b",
            "fsname=\u{e9}",
            "fsname=a,blkdev",
            "fsname=/a,blkdev,blksize=3",
        ] {
            options(list).request(Path::new("/m"), None).unwrap_err();
        }
    }
}
