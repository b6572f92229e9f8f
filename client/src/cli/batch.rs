//! The file that `apply` takes: mounts in TOML or JSON.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use mountwarden_protocol::{
    AbsPath, FilesystemName, FilesystemOption, FilesystemOptions, ImageType, Kind, Layers, Mount,
    MountOptions, NetworkSource, Passed, Propagation, Secrets, TmpfsInodes, TmpfsMode, TmpfsSize,
    UpperLayer,
};
use serde::{Deserialize, Deserializer, de};

use super::args;
use crate::{Batch, Error};

/// The end of `apply --help`.
pub(super) const FORMAT: &str = "\
The file has an entry for each mount, in the order in which they are made; a target may
lie on a mount that comes before it. When one cannot be made, those before it are ended
again. With a leased mount among them, the command holds it until it is interrupted.

  [[mount]]
  target = \"/run/vms/7/root\"      # an absolute path without '.' or '..'
  [mount.bind]
  source = \"/srv/images/base\"
  read_only = true                 # as are: recursive, slave

  [[mount]]
  target = \"/run/vms/7/root/tmp\"
  noexec = true                    # as are: nosymfollow, suid, dev, shared, lease
  [mount.tmpfs]
  size = \"64M\"                     # each of these may be left out
  inodes = 1000
  mode = \"0750\"

  [[mount]]
  target = \"/run/vms/7/root/data\"
  [mount.block]
  device = \"/dev/vg0/data\"
  type = \"ext4\"
  options = [\"discard\", \"commit=30\"]
  read_only = true

  [[mount]]
  target = \"/run/vms/7/app\"
  [mount.overlay]
  lower = [\"/srv/layers/app\", \"/srv/layers/base\"]
  read_only = true

  [[mount]]
  target = \"/run/vms/7/base\"
  [mount.image]
  file = \"/srv/images/base.erofs\"
  type = \"erofs\"

  [[mount]]
  target = \"/run/vms/7/images\"
  [mount.network]
  source = \"//files.example/images\"
  type = \"cifs\"
  options = [\"ip=192.0.2.7\"]
  secrets = [\"password=...\"]      # for nobody else to read, as this file is then

In JSON, the same is {\"mount\": [{\"target\": ..., \"bind\": {\"source\": ...}}, ...]}.";

/// More than any batch has that fits into a request.
const LONGEST: u64 = 1 << 20;

/// Reads the batch in a file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Batch, Error> {
    let text = text(path).map_err(|error| Error::cannot_open(path, "read it", error))?;
    let parsed = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| toml_error(&error, &text))
    };
    let file: Document = parsed.map_err(|why| Error::unreadable_file("batch", path, &why))?;
    let mut batch = Batch::new();
    for (number, entry) in file.mount.into_iter().enumerate() {
        let mount = entry.into_mount().map_err(|why| {
            Error::unreadable_file("batch", path, &format!("mount[{number}] {why}"))
        })?;
        batch = batch.mount(mount);
    }
    Ok(batch)
}

pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(LONGEST).read_to_string(&mut text)?
    } else {
        File::open(path)?.take(LONGEST).read_to_string(&mut text)?
    };
    if u64::try_from(read).is_ok_and(|read| read < LONGEST) {
        Ok(text)
    } else {
        Err(io::Error::other("it is longer than any batch"))
    }
}

/// The message on one line, with the place as `serde_json` words it.
pub(super) fn toml_error(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', " ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = before.matches('\n').count().saturating_add(1);
    let start = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
    let column = before
        .get(start..)
        .map_or(0, |rest| rest.chars().count())
        .saturating_add(1);
    format!("{message} at line {line} column {column}")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    mount: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub(super) struct Entry {
    #[serde(deserialize_with = "path")]
    target: AbsPath,
    bind: Option<Bind>,
    tmpfs: Option<Tmpfs>,
    block: Option<Block>,
    overlay: Option<Overlay>,
    image: Option<Image>,
    network: Option<Network>,
    #[serde(default)]
    noexec: bool,
    #[serde(default)]
    nosymfollow: bool,
    #[serde(default)]
    suid: bool,
    #[serde(default)]
    dev: bool,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    lease: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bind {
    #[serde(deserialize_with = "path")]
    source: AbsPath,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    slave: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tmpfs {
    #[serde(default, deserialize_with = "size")]
    size: Option<TmpfsSize>,
    #[serde(default, deserialize_with = "inodes")]
    inodes: Option<TmpfsInodes>,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<TmpfsMode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    #[serde(deserialize_with = "path")]
    device: AbsPath,
    #[serde(rename = "type", deserialize_with = "parsed")]
    filesystem: FilesystemName,
    #[serde(default, deserialize_with = "options")]
    options: FilesystemOptions,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Overlay {
    #[serde(deserialize_with = "layers")]
    lower: Layers,
    #[serde(default)]
    upper: Option<Upper>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upper {
    #[serde(rename = "dir", deserialize_with = "path")]
    upper: AbsPath,
    #[serde(deserialize_with = "path")]
    work: AbsPath,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(deserialize_with = "path")]
    file: AbsPath,
    #[serde(rename = "type", deserialize_with = "parsed")]
    filesystem: ImageType,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(deserialize_with = "parsed")]
    source: NetworkSource,
    #[serde(rename = "type", deserialize_with = "parsed")]
    filesystem: FilesystemName,
    #[serde(default, deserialize_with = "options")]
    options: FilesystemOptions,
    #[serde(default, deserialize_with = "secrets")]
    secrets: Secrets,
    #[serde(default)]
    read_only: bool,
}

/// Each kind, and whether it is to be read alone.
impl Bind {
    fn kind(self) -> (Kind, bool) {
        let (source, recursive) = (self.source, self.recursive);
        (Kind::Bind { source, recursive }, self.read_only)
    }
}

impl Tmpfs {
    fn kind(self) -> (Kind, bool) {
        let Self { size, inodes, mode } = self;
        (Kind::Tmpfs { size, inodes, mode }, false)
    }
}

impl Block {
    fn kind(self) -> (Kind, bool) {
        let kind = Kind::Block {
            device: self.device,
            filesystem: self.filesystem,
            options: self.options,
        };
        (kind, self.read_only)
    }
}

impl Overlay {
    fn kind(self) -> (Kind, bool) {
        let lower = self.lower;
        let upper = self
            .upper
            .map(|Upper { upper, work }| UpperLayer { upper, work });
        (Kind::Overlay { lower, upper }, self.read_only)
    }
}

impl Image {
    fn kind(self) -> (Kind, bool) {
        let (file, filesystem) = (self.file, self.filesystem);
        (Kind::Image { file, filesystem }, false)
    }
}

impl Network {
    fn kind(self) -> (Kind, bool) {
        let kind = Kind::Network {
            source: self.source,
            filesystem: self.filesystem,
            options: self.options,
            secrets: self.secrets,
        };
        (kind, self.read_only)
    }
}

impl Entry {
    pub(super) fn into_mount(self) -> Result<Mount, &'static str> {
        let slave = self.bind.as_ref().is_some_and(|bind| bind.slave);
        let kinds = [
            self.bind.map(Bind::kind),
            self.tmpfs.map(Tmpfs::kind),
            self.block.map(Block::kind),
            self.overlay.map(Overlay::kind),
            self.image.map(Image::kind),
            self.network.map(Network::kind),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let (Some((kind, read_only)), None) = (kinds.next(), kinds.next()) else {
            return Err("needs one of bind, tmpfs, block, overlay, image and network, and no more");
        };
        let propagation = match (slave, self.shared) {
            (true, true) => return Err("cannot be a slave and shared"),
            (true, false) => Propagation::Slave,
            (false, true) => Propagation::Shared,
            (false, false) => Propagation::Private,
        };
        let options = [
            (read_only, MountOptions::READ_ONLY),
            (self.noexec, MountOptions::NO_EXEC),
            (self.nosymfollow, MountOptions::NO_SYMFOLLOW),
            (self.suid, MountOptions::SUID),
            (self.dev, MountOptions::DEV),
        ];
        let asked = options
            .into_iter()
            .filter_map(|(asked, option)| asked.then_some(option));
        Ok(Mount {
            kind,
            target: self.target,
            options: asked.collect(),
            propagation,
            passed: Passed::empty(),
            lease: self.lease,
        })
    }
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<AbsPath, D::Error> {
    let text = String::deserialize(from)?;
    AbsPath::new(args::trimmed(text.as_ref())).map_err(de::Error::custom)
}

fn parsed<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    String::deserialize(from)?
        .parse()
        .map_err(de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TmpfsSize>, D::Error> {
    parsed(from).map(Some)
}

fn inodes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TmpfsInodes>, D::Error> {
    let count = TmpfsInodes::try_from(u64::deserialize(from)?);
    count.map(Some).map_err(de::Error::custom)
}

fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TmpfsMode>, D::Error> {
    let mode = args::mode(&String::deserialize(from)?);
    mode.map(Some).map_err(de::Error::custom)
}

fn options<'de, D: Deserializer<'de>>(from: D) -> Result<FilesystemOptions, D::Error> {
    let options: Result<Vec<FilesystemOption>, _> = Vec::<String>::deserialize(from)?
        .iter()
        .map(|option| option.parse())
        .collect();
    let options = options.and_then(FilesystemOptions::try_from);
    options.map_err(de::Error::custom)
}

fn layers<'de, D: Deserializer<'de>>(from: D) -> Result<Layers, D::Error> {
    let layers: Result<Vec<AbsPath>, _> = Vec::<String>::deserialize(from)?
        .iter()
        .map(|layer| AbsPath::new(args::trimmed(layer.as_ref())))
        .collect();
    layers
        .map_err(de::Error::custom)?
        .try_into()
        .map_err(de::Error::custom)
}

fn secrets<'de, D: Deserializer<'de>>(from: D) -> Result<Secrets, D::Error> {
    options(from)?.try_into().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(text: &str) -> Result<Vec<Mount>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let name = file.path().display().to_string();
        read(file.path())
            .map(|batch| batch.mounts().to_vec())
            .map_err(|error| error.to_string().replace(&name, "FILE"))
    }

    const TOML: &str = r#"
[[mount]]
target = "/m/a/"
bind = { source = "/srv", read_only = true, recursive = true, slave = true }
noexec = true

[[mount]]
target = "/m/b"
nosymfollow = true
shared = true
lease = true
[mount.tmpfs]
size = "64M"
inodes = 7
mode = "0750"

[[mount]]
target = "/m/c"
suid = true
dev = true
block = { device = "/dev/x", type = "ext4", options = ["discard", "commit=5"], read_only = true }

[[mount]]
target = "/m/d"
network = { source = "//s/x", type = "cifs", options = ["soft"], secrets = ["password=a"] }
"#;
    const JSON: &str = r#"
{"mount": [
  {"target": "/m/a", "noexec": true,
   "bind": {"source": "/srv", "read_only": true, "recursive": true, "slave": true}},
  {"target": "/m/b", "nosymfollow": true, "shared": true, "lease": true,
   "tmpfs": {"size": "64M", "inodes": 7, "mode": "0750"}},
  {"target": "/m/c", "suid": true, "dev": true,
   "block": {"device": "/dev/x", "type": "ext4", "read_only": true,
             "options": ["discard", "commit=5"]}},
  {"target": "/m/d",
   "network": {"source": "//s/x", "type": "cifs", "options": ["soft"], "secrets": ["password=a"]}}
]}"#;

    #[test]
    fn toml_and_json_say_the_same() {
        let (mounts, json) = (mounts(TOML).unwrap(), mounts(JSON));
        assert_eq!(Ok(&mounts), json.as_ref());
        let path = |text: &str| AbsPath::new(text).unwrap();
        let [bind, tmpfs, block, network] = &mounts[..] else {
            panic!("{mounts:?}")
        };
        assert_eq!(
            *bind,
            Mount {
                kind: Kind::Bind {
                    source: path("/srv"),
                    recursive: true
                },
                target: path("/m/a"),
                options: MountOptions::READ_ONLY | MountOptions::NO_EXEC,
                propagation: Propagation::Slave,
                passed: Passed::empty(),
                lease: false,
            }
        );
        assert_eq!(
            *tmpfs,
            Mount {
                kind: Kind::Tmpfs {
                    size: Some(TmpfsSize::try_from(64 << 20).unwrap()),
                    inodes: Some(TmpfsInodes::try_from(7).unwrap()),
                    mode: Some(TmpfsMode::try_from(0o750).unwrap()),
                },
                target: path("/m/b"),
                options: MountOptions::NO_SYMFOLLOW,
                propagation: Propagation::Shared,
                passed: Passed::empty(),
                lease: true,
            }
        );
        let Kind::Block {
            device,
            filesystem,
            options,
        } = &block.kind
        else {
            panic!("{block:?}")
        };
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        assert_eq!((device, filesystem.as_str()), (&path("/dev/x"), "ext4"));
        assert_eq!(options, ["discard", "commit=5"]);
        let given = MountOptions::READ_ONLY | MountOptions::SUID | MountOptions::DEV;
        assert_eq!(block.options, given);
        let Kind::Network { secrets, .. } = &network.kind else {
            panic!("{network:?}")
        };
        let secrets: Vec<_> = secrets.iter().map(ToString::to_string).collect();
        assert_eq!(secrets, ["password=a"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let begin = "[[mount]]\ntarget = \"/m\"\n";
        for (text, why) in [
            (
                format!("{begin}bind = {{ source = \"/s\" }}\nro = true"),
                "unknown field `ro`",
            ),
            (
                format!("{begin}tmpfs = {{ source = \"/s\" }}"),
                "unknown field `source`, expected one of `size`, `inodes`, `mode` at line 3 column 11",
            ),
            (
                format!("{begin}tmpfs = {{ size = \"0\" }}"),
                "at line 3 column 18",
            ),
            (
                format!("{begin}tmpfs = {{ mode = \"999\" }}"),
                "an octal number",
            ),
            (
                format!("{begin}bind = {{ source = \"../s\" }}"),
                "at line 3 column 19",
            ),
            (
                format!("{begin}block = {{ device = \"/d\", type = \"auto\" }}"),
                "never guessed",
            ),
            (
                begin.to_owned(),
                "mount[0] needs one of bind, tmpfs, block, overlay, image and network",
            ),
            (
                format!("{begin}tmpfs = {{}}\nbind = {{ source = \"/s\" }}"),
                "mount[0] needs one of bind, tmpfs, block, overlay, image and network",
            ),
            (
                format!("{begin}shared = true\nbind = {{ source = \"/s\", slave = true }}"),
                "mount[0] cannot be a slave and shared",
            ),
            ("[[mounts]]".to_owned(), "unknown field `mounts`"),
            (
                "{\"mount\": [\n {\"target\": \"/m\", \"size\": 1}]}".to_owned(),
                "unknown field `size`",
            ),
            ("{\"mount\": [\n {]}".to_owned(), "at line 2 column 3"),
        ] {
            let error = mounts(&text).unwrap_err();
            assert!(error.starts_with("the batch in \"FILE\" "), "{error}");
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
