//! Checked names and values of file systems: of those on a device, of those that a program
//! serves, and of those on a network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::AbsPath;

/// Why a text is not the name of a file system or not one of its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidFilesystem {
    /// Not a name as `/proc/filesystems` lists them.
    #[error(
        "the type of a file system is 1 to 31 lower-case letters, digits or underscores, as \
         /proc/filesystems has it"
    )]
    Name,
    /// A list of types to try is not a type.
    #[error("the type of a file system is named, never guessed: say which")]
    Auto,
    /// Not a key.
    #[error("the key of an option is 1 to 63 letters, digits or any of _ . + -")]
    Key,
    /// Not a value.
    #[error(
        "the value of an option is 1 to 255 printable ASCII characters without a comma; each \
         option is given on its own"
    )]
    Value,
    /// One key is given twice.
    #[error("an option is given twice")]
    Twice,
    /// More options than a request can hold.
    #[error("there are more than 32 options")]
    TooMany,
    /// Not the subtype of a FUSE file system.
    #[error("a subtype is 1 to 63 letters, digits or any of _ . + -")]
    Subtype,
    /// Not what the mount table can show as a source.
    #[error("the name of a source is 1 to 255 printable ASCII characters without a comma")]
    Source,
    /// Nothing for an overlay to show.
    #[error("an overlay has at least one lower layer")]
    NoLayer,
    /// More layers than a request can hold.
    #[error("there are more than 16 lower layers")]
    TooManyLayers,
    /// Longer paths than a request can hold.
    #[error("the paths of the lower layers are longer than 8192 bytes, all together")]
    LongLayers,
    /// Not a type of images.
    #[error("the type of an image is erofs or squashfs")]
    Image,
    /// A way out of what a pattern describes.
    #[error("the source of a network file system has no component . or .. : name the place itself")]
    Dots,
    /// An option without a value is no secret.
    #[error("a secret is a key and its value")]
    Secret,
    /// Not what every kernel makes of a device.
    #[error("the block size of a FUSE file system is 512, 1024, 2048 or 4096 bytes")]
    BlockSize,
}

/// Defines a text that is checked whenever one is made or decoded.
macro_rules! checked_text {
    ($(#[$outer:meta])* $name:ident, $check:expr) => {
        $(#[$outer])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidFilesystem;
            fn try_from(text: String) -> Result<Self, InvalidFilesystem> {
                let check: fn(&str) -> Result<(), InvalidFilesystem> = $check;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidFilesystem;
            fn from_str(text: &str) -> Result<Self, InvalidFilesystem> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// The type of a file system, as `/proc/filesystems` has it (`filesystems(5)`).
    FilesystemName, |text| match text {
        "auto" => Err(InvalidFilesystem::Auto),
        _ => check(text, 31, InvalidFilesystem::Name, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
        }),
    }
}

checked_text! {
    /// The key of an option of a file system (`fsconfig(2)`).
    OptionKey, |text| check(text, 63, InvalidFilesystem::Key, is_of_name)
}

checked_text! {
    /// The value of an option of a file system. Without a comma: the kernel splits
    /// the options of some file systems there.
    OptionValue, |text| check(text, 255, InvalidFilesystem::Value, is_of_value)
}

checked_text! {
    /// What a FUSE file system is called beyond `fuse.` in the mount table.
    FuseSubtype, |text| check(text, 63, InvalidFilesystem::Subtype, is_of_name)
}

checked_text! {
    /// What the mount table shows as the source of a FUSE file system.
    SourceName, |text| check(text, 255, InvalidFilesystem::Source, is_of_value)
}

/// What a FUSE file system is made from, which the mount table shows as its source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FuseSource {
    /// Nothing; it shows the subtype.
    #[default]
    Subtype,
    /// Nothing; it shows this name.
    Named(SourceName),
    /// A block device, which the kernel keeps for the program (`fuseblk`). The program opens
    /// it by itself, to read and to write.
    Device {
        /// The device, or a symbolic link to it.
        device: AbsPath,
        /// The size of its blocks; `None` for 512 bytes.
        block_size: Option<BlockSize>,
    },
}

/// The size of the blocks of a FUSE file system on a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct BlockSize(u32);

impl BlockSize {
    /// The number of bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }
}

/// Whatever the size of a page is: the kernel takes no larger block.
impl TryFrom<u32> for BlockSize {
    type Error = InvalidFilesystem;

    fn try_from(bytes: u32) -> Result<Self, InvalidFilesystem> {
        match bytes {
            512 | 1024 | 2048 | 4096 => Ok(Self(bytes)),
            _ => Err(InvalidFilesystem::BlockSize),
        }
    }
}

impl From<BlockSize> for u32 {
    fn from(size: BlockSize) -> Self {
        size.0
    }
}

/// The type of a file system that is read from a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ImageType {
    /// `erofs`
    Erofs,
    /// `squashfs`
    Squashfs,
}

impl ImageType {
    /// The name, as `/proc/filesystems` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        }
    }
}

impl FromStr for ImageType {
    type Err = InvalidFilesystem;

    fn from_str(text: &str) -> Result<Self, InvalidFilesystem> {
        [Self::Erofs, Self::Squashfs]
            .into_iter()
            .find(|of| of.name() == text)
            .ok_or(InvalidFilesystem::Image)
    }
}

impl fmt::Display for ImageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

checked_text! {
    /// What a network file system is mounted from, as its server or the machine below
    /// names it: `server:/export`, `//server/share`, a tag. Servers read `/` and `\` as
    /// separators, and follow `..`.
    NetworkSource, |text| {
        check(text, 255, InvalidFilesystem::Source, is_of_value)?;
        let mut components = text.split(['/', '\\', ':']);
        if components.any(|component| matches!(component, "." | "..")) {
            return Err(InvalidFilesystem::Dots);
        }
        Ok(())
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte)
}

fn is_of_value(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && byte != b','
}

fn check(
    text: &str,
    longest: usize,
    error: InvalidFilesystem,
    allowed: fn(u8) -> bool,
) -> Result<(), InvalidFilesystem> {
    if (1..=longest).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(error)
    }
}

/// One option of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemOption {
    /// What is set.
    pub key: OptionKey,
    /// To what; `None` for an option that stands for itself.
    pub value: Option<OptionValue>,
}

/// Reads `noatime` or `commit=5`.
impl FromStr for FilesystemOption {
    type Err = InvalidFilesystem;

    fn from_str(text: &str) -> Result<Self, InvalidFilesystem> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.parse()?)),
            None => (text, None),
        };
        let key = key.parse()?;
        Ok(Self { key, value })
    }
}

impl fmt::Display for FilesystemOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => self.key.fmt(f),
        }
    }
}

/// The options of a file system, in the order in which the kernel gets them; each
/// key once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<FilesystemOption>", into = "Vec<FilesystemOption>")]
pub struct FilesystemOptions(Vec<FilesystemOption>);

impl FilesystemOptions {
    /// The most that there are.
    pub const MAX: usize = 32;

    /// Each option, in order.
    pub fn iter(&self) -> impl Iterator<Item = &FilesystemOption> {
        self.0.iter()
    }
}

impl TryFrom<Vec<FilesystemOption>> for FilesystemOptions {
    type Error = InvalidFilesystem;

    fn try_from(options: Vec<FilesystemOption>) -> Result<Self, InvalidFilesystem> {
        if options.len() > Self::MAX {
            return Err(InvalidFilesystem::TooMany);
        }
        let mut keys: Vec<&OptionKey> = options.iter().map(|option| &option.key).collect();
        keys.sort_unstable();
        if keys.is_sorted_by(|a, b| a < b) {
            Ok(Self(options))
        } else {
            Err(InvalidFilesystem::Twice)
        }
    }
}

impl From<FilesystemOptions> for Vec<FilesystemOption> {
    fn from(options: FilesystemOptions) -> Self {
        options.0
    }
}

/// Options whose values are nobody's but the kernel's: nothing here shows them.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "FilesystemOptions", into = "FilesystemOptions")]
pub struct Secrets(FilesystemOptions);

impl Secrets {
    /// Each with its value, in order.
    pub fn iter(&self) -> impl Iterator<Item = &FilesystemOption> {
        self.0.iter()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &OptionKey> {
        self.iter().map(|option| &option.key)
    }
}

/// A secret as it may be shown.
struct Hidden<'a>(&'a OptionKey);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesystemOption")
            .field("key", self.0)
            .field("value", &format_args!("hidden"))
            .finish()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().map(Hidden)).finish()
    }
}

impl TryFrom<FilesystemOptions> for Secrets {
    type Error = InvalidFilesystem;

    fn try_from(options: FilesystemOptions) -> Result<Self, InvalidFilesystem> {
        if options.iter().any(|option| option.value.is_none()) {
            return Err(InvalidFilesystem::Secret);
        }
        Ok(Self(options))
    }
}

impl From<Secrets> for FilesystemOptions {
    fn from(secrets: Secrets) -> Self {
        secrets.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(text: &str) -> Result<String, InvalidFilesystem> {
        text.parse::<FilesystemOption>().map(|o| o.to_string())
    }

    #[test]
    fn attack_14_a_type_is_a_plain_name_and_never_guessed() {
        for text in ["ext4", "xfs", "9p", "a_b", "fuseblk"] {
            assert_eq!(text.parse::<FilesystemName>().unwrap().as_str(), text);
        }
        let longest = "a".repeat(31);
        assert!(longest.parse::<FilesystemName>().is_ok());
        for text in [
            "",
            "ext4,xfs",
            "EXT4",
            "no-such",
            "fuse.sshfs",
            "a\0",
            "\u{e9}",
            "/ext4",
        ] {
            let refused = text.parse::<FilesystemName>().unwrap_err();
            assert_eq!(refused, InvalidFilesystem::Name, "{text}");
        }
        let refused = (longest + "a").parse::<FilesystemName>().unwrap_err();
        assert_eq!(refused, InvalidFilesystem::Name);
        let refused = "auto".parse::<FilesystemName>().unwrap_err();
        assert_eq!(refused, InvalidFilesystem::Auto);
    }

    #[test]
    fn attack_14_an_image_is_of_one_of_two_types() {
        for text in ["erofs", "squashfs"] {
            assert_eq!(text.parse::<ImageType>().unwrap().to_string(), text);
        }
        for text in ["", "auto", "ext4", "EROFS", "erofs "] {
            let refused = text.parse::<ImageType>().unwrap_err();
            assert_eq!(refused, InvalidFilesystem::Image, "{text}");
        }
    }

    #[test]
    fn attack_18_a_block_is_of_one_of_four_sizes() {
        let sizes = (0..=70_000).chain([u32::MAX / 2 + 1, u32::MAX]);
        let valid = sizes.filter_map(|bytes| BlockSize::try_from(bytes).ok());
        let valid: Vec<u32> = valid.map(BlockSize::bytes).collect();
        assert_eq!(valid, [512, 1024, 2048, 4096]);
        let refused = BlockSize::try_from(0).unwrap_err();
        assert_eq!(refused, InvalidFilesystem::BlockSize);
    }

    #[test]
    fn attack_15_an_option_is_one_key_and_one_value() {
        for text in [
            "discard",
            "commit=5",
            "data=ordered",
            "x=a=b",
            "a.b+c-d_e=x:y z",
        ] {
            assert_eq!(option(text).unwrap(), text);
        }
        for (text, error) in [
            ("", InvalidFilesystem::Key),
            ("=5", InvalidFilesystem::Key),
            ("a b", InvalidFilesystem::Key),
            ("a,b", InvalidFilesystem::Key),
            ("commit=", InvalidFilesystem::Value),
            ("commit=5,suid", InvalidFilesystem::Value),
            ("commit=5\n", InvalidFilesystem::Value),
            ("commit=\u{7f}", InvalidFilesystem::Value),
        ] {
            assert_eq!(option(text), Err(error), "{text:?}");
        }
        let longest = format!("{}={}", "k".repeat(63), "v".repeat(255));
        assert!(option(&longest).is_ok());
        assert_eq!(option(&format!("k{longest}")), Err(InvalidFilesystem::Key));
        assert_eq!(
            option(&format!("{longest}v")),
            Err(InvalidFilesystem::Value)
        );
    }

    #[test]
    fn options_come_in_order_each_once_and_not_too_many() {
        let options = |texts: &[String]| {
            let options: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
            FilesystemOptions::try_from(options).map(|o| o.iter().count())
        };
        let numbered = |count: usize| (0..count).map(|n| format!("k{n}")).collect::<Vec<_>>();
        assert_eq!(options(&numbered(0)), Ok(0));
        assert_eq!(options(&numbered(32)), Ok(32));
        assert_eq!(options(&numbered(33)), Err(InvalidFilesystem::TooMany));
        let twice = ["b".to_owned(), "a=1".to_owned(), "a=2".to_owned()];
        assert_eq!(options(&twice), Err(InvalidFilesystem::Twice));
    }

    #[test]
    fn attack_01_a_network_source_leads_nowhere_else() {
        for text in [
            "server:/export/vm",
            "//server/share",
            "[fe80::1]:/a/..b/c..",
            "tag",
        ] {
            assert!(text.parse::<NetworkSource>().is_ok(), "{text}");
        }
        for text in [
            "server:/export/../etc",
            "server:..",
            "server:/export/.",
            "..",
            "//server/share\\..\\other",
        ] {
            let refused = text.parse::<NetworkSource>();
            assert_eq!(refused, Err(InvalidFilesystem::Dots), "{text}");
        }
        for text in ["", "a,b", "a\n", "server:/\u{e9}"] {
            let refused = text.parse::<NetworkSource>();
            assert_eq!(refused, Err(InvalidFilesystem::Source), "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let options = |text: &str| FilesystemOptions::try_from(vec![text.parse().unwrap()]);
        let secrets = Secrets::try_from(options("password=hunter2").unwrap()).unwrap();
        let shown = r#"[FilesystemOption { key: OptionKey("password"), value: hidden }]"#;
        assert_eq!(format!("{secrets:?}"), shown);
        let refused = Secrets::try_from(options("password").unwrap());
        assert_eq!(refused, Err(InvalidFilesystem::Secret));
    }
}
