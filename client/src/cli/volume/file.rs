//! The file of volumes, in TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::Propagation;
use serde::Deserialize;

use crate::cli::batch;
use crate::volume::{Deadlines, Export, Program, Scope, Volume};
use crate::{AbsPath, Error};

/// The end of `volume --help`.
pub(crate) const FORMAT: &str = "\
The file:

  base = \"/var/lib/machines/mnt\"   # a directory of this user's: each export is mounted in one
                                   # beneath it, which is named by the export's digest

  [deadlines]                      # in seconds; each may be left out
  lock = 60                        # for another process that works on the same mount
  helper = 60                      # for each request to the helper
  program = 60                     # for the program to go to the background
  answer = 10                      # for the file system to answer

  [[volume]]
  name = \"disk-7\"                  # the volume in the export, and what commands call it
  export = \"quobyte://registry1,registry2/images\"
  [volume.quobyte]
  program = \"/usr/bin/mount.quobyte\"
  config = \"/etc/quobyte/client.cfg\"
  scope = \"user\"                   # where systemd runs: in a scope of the user's manager, of the
                                   # system's, or in \"none\"

  [[volume]]
  name = \"home\"
  export = \"host:/srv/home\"
  [volume.program]                 # any FUSE program that goes to the background
  program = \"/usr/bin/sshfs\"
  arguments = [\"-o\", \"reconnect\"]  # with {export} and {target}; else -- EXPORT TARGET follow
  environment = { LANG = \"C.UTF-8\" }
  type = \"fuse.sshfs\"              # what its mounts show: one of the two is enough
  source = \"host:\"                 # how their source begins

  [[volume]]
  name = \"data\"
  [volume.block]                   # or bind, image, network, as in the file of `apply`
  device = \"/dev/vg0/data\"
  type = \"ext4\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    base: PathBuf,
    #[serde(default)]
    deadlines: Seconds,
    #[serde(default)]
    volume: Vec<toml::Table>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Seconds {
    lock: Option<u32>,
    helper: Option<u32>,
    program: Option<u32>,
    answer: Option<u32>,
}

impl Seconds {
    fn deadlines(&self, limit: Duration) -> Deadlines {
        let standard = Deadlines::default();
        let or = |seconds: Option<u32>, standard| {
            let given = seconds.map(|seconds| Duration::from_secs(seconds.into()));
            given.unwrap_or(standard).min(limit)
        };
        Deadlines {
            lock: or(self.lock, standard.lock),
            helper: or(self.helper, standard.helper),
            program: or(self.program, standard.program),
            answer: or(self.answer, standard.answer),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    program: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(rename = "type")]
    filesystem: Option<String>,
    source: Option<String>,
    #[serde(default)]
    scope: Where,
}

/// Where a program runs on a machine that systemd runs.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Where {
    #[default]
    User,
    System,
    None,
}

impl From<Where> for Scope {
    fn from(place: Where) -> Self {
        match place {
            Where::User => Self::User,
            Where::System => Self::System,
            Where::None => Self::None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quobyte {
    program: PathBuf,
    config: Option<PathBuf>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    scope: Where,
}

/// The volumes in a file, in its order. No deadline of theirs is longer than `limit`.
pub(super) fn read(path: &Path, limit: Option<Duration>) -> Result<Vec<Volume>, Error> {
    let text = batch::text(path).map_err(|error| Error::cannot_open(path, "read it", error))?;
    parse(&text, limit.unwrap_or(Duration::MAX))
        .map_err(|why| Error::unreadable_file("list of volumes", path, &why))
}

fn parse(text: &str, limit: Duration) -> Result<Vec<Volume>, String> {
    let document: Document =
        toml::from_str(text).map_err(|error| batch::toml_error(&error, text))?;
    let deadlines = document.deadlines.deadlines(limit);
    let mut volumes: Vec<Volume> = Vec::new();
    for (number, entry) in document.volume.into_iter().enumerate() {
        let volume = volume(&document.base, entry)
            .map_err(|why| format!("volume[{number}]: {}", why.replace('\n', " ").trim()))?;
        if volumes.iter().any(|other| other.name() == volume.name()) {
            return Err(format!("volume[{number}]: the name is another one's"));
        }
        volumes.push(volume.deadlines(deadlines));
    }
    Ok(volumes)
}

fn volume(base: &Path, mut entry: toml::Table) -> Result<Volume, String> {
    let name: String = take(&mut entry, "name")?.ok_or("it has no name")?;
    let export: Option<String> = take(&mut entry, "export")?;
    let served: Option<Served> = take(&mut entry, "program")?;
    let quobyte: Option<Quobyte> = take(&mut entry, "quobyte")?;
    let program = match (served, quobyte) {
        (None, None) => {
            if export.is_some() {
                return Err("the export of a mount of the helper's own is its source".to_owned());
            }
            return own_kind(base, &name, entry);
        }
        (Some(served), None) => served.program(),
        (None, Some(quobyte)) => quobyte.program(),
        (Some(_), Some(_)) => return Err("it is of two kinds".to_owned()),
    };
    if let Some(key) = entry.keys().next() {
        return Err(format!("unknown key '{key}' beside a program"));
    }
    let export = export.ok_or("it has no export")?;
    let made =
        Export::new(&export).and_then(|export| Volume::served(base, &name, export, program?));
    made.map_err(|error| error.to_string())
}

/// A value of the table, which is not in it any more.
fn take<T: serde::de::DeserializeOwned>(
    entry: &mut toml::Table,
    key: &str,
) -> Result<Option<T>, String> {
    let value = entry.remove(key).map(toml::Value::try_into).transpose();
    value.map_err(|error| format!("{key}: {}", error.message()))
}

/// What `apply` could mount.
fn own_kind(base: &Path, name: &str, mut entry: toml::Table) -> Result<Volume, String> {
    if entry.insert("target".to_owned(), "/".into()).is_some() {
        return Err("unknown key 'target': the export decides where it is mounted".to_owned());
    }
    let entry: batch::Entry = entry
        .try_into()
        .map_err(|error: toml::de::Error| error.message().to_owned())?;
    let mount = entry.into_mount()?;
    if mount.lease || mount.propagation != Propagation::Private {
        return Err("a volume is not leased, and its mount is private".to_owned());
    }
    Volume::mounted(base, name, mount.kind, mount.options).map_err(|error| error.to_string())
}

impl Served {
    fn program(self) -> Result<Program, Error> {
        let mut program = with_variables(Program::new(&self.program)?, self.environment);
        for argument in self.arguments {
            program = program.argument(argument);
        }
        if let Some(filesystem) = self.filesystem {
            program = program.shows_type(filesystem);
        }
        if let Some(source) = self.source {
            program = program.shows_source(source);
        }
        Ok(program.scope(self.scope.into()))
    }
}

impl Quobyte {
    fn program(self) -> Result<Program, Error> {
        let config = self.config.map(|path| {
            AbsPath::new(&path).map_err(|error| Error::invalid_path("config", &path, error))
        });
        let program = Program::quobyte(&self.program, config.transpose()?.as_ref())?;
        Ok(with_variables(program, self.environment).scope(self.scope.into()))
    }
}

fn with_variables(program: Program, environment: BTreeMap<String, String>) -> Program {
    let variables = environment.into_iter();
    variables.fold(program, |program, (name, value)| {
        program.variable(name, value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
base = "/var/mnt"
[deadlines]
answer = 3

[[volume]]
name = "a"
export = "quobyte://reg/vol"
quobyte = { program = "/usr/bin/mount.quobyte", config = "/etc/q.cfg" }

[[volume]]
name = "b"
export = "host:/x"
program = { program = "/usr/bin/sshfs", arguments = ["-o", "x"], environment = { A = "b" }, type = "fuse.sshfs" }

[[volume]]
name = "c"
noexec = true
block = { device = "/dev/x", type = "ext4", read_only = true }
"#;

    #[test]
    fn each_kind() {
        let volumes = parse(WHOLE, Duration::MAX).unwrap();
        let names: Vec<&str> = volumes.iter().map(Volume::name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let digest = Export::new("reg/vol").unwrap().digest();
        let target = format!("/var/mnt/{digest}");
        assert_eq!(volumes[0].target().to_string(), target);
        assert_eq!(volumes[0].device(), Path::new(&target).join("a"));
        let digest = Export::new("/dev/x").unwrap().digest();
        assert_eq!(
            volumes[2].target().to_string(),
            format!("/var/mnt/{digest}")
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let begin = "base = \"/m\"\n[[volume]]\nname = \"a\"\n";
        let program = "program = { program = \"/p\", type = \"t\" }\n";
        for (text, why) in [
            (
                format!("{begin}export = \"x\"\nquobyte = {{ program = \"/p\", scope = \"x\" }}"),
                "unknown variant `x`, expected one of `user`",
            ),
            ("volume = []".to_owned(), "missing field `base`"),
            (
                "base = \"/m\"\nbases = 1".to_owned(),
                "unknown field `bases`",
            ),
            (
                "base = \"/m\"\n[deadlines]\nlock = -1".to_owned(),
                "at line 3 column 8",
            ),
            (
                "base = \"m\"\n[[volume]]\nname = \"a\"\nbind = { source = \"/s\" }".to_owned(),
                "the base \"m/",
            ),
            (
                "base = \"/m\"\n[[volume]]\n".to_owned(),
                "volume[0]: it has no name",
            ),
            (format!("{begin}{program}"), "volume[0]: it has no export"),
            (
                format!("{begin}{program}export = \"-x\""),
                "could take it for an option",
            ),
            (
                format!("{begin}{program}export = \"x\"\nnoexec = true"),
                "unknown key 'noexec'",
            ),
            (
                format!("{begin}{program}quobyte = {{ program = \"/p\" }}"),
                "of two kinds",
            ),
            (
                format!("{begin}export = \"x\"\nprogram = {{ program = \"p\", type = \"t\" }}"),
                "the program \"p\" is refused",
            ),
            (
                format!("{begin}export = \"x\"\nprogram = {{ program = \"/p\" }}"),
                "needs the type of its mounts",
            ),
            (
                format!("{begin}export = \"x\"\nprogram = {{ path = \"/p\" }}"),
                "program: unknown field `path`",
            ),
            (
                format!("{begin}export = \"x\"\nbind = {{ source = \"/s\" }}"),
                "is its source",
            ),
            (
                format!("{begin}target = \"/x\"\nbind = {{ source = \"/s\" }}"),
                "unknown key 'target'",
            ),
            (
                format!("{begin}lease = true\nbind = {{ source = \"/s\" }}"),
                "is not leased",
            ),
            (format!("{begin}tmpfs = {{}}"), "a volume is a bind"),
            (
                format!(
                    "{begin}bind = {{ source = \"/s\" }}\n[[volume]]\nname = \"a\"\nbind = {{ source = \"/t\" }}"
                ),
                "volume[1]: the name is another one's",
            ),
            (
                "base = \"/m\"\n[[volume]]\nname = \"a/b\"\nbind = { source = \"/s\" }".to_owned(),
                "holds no '/'",
            ),
            (
                "base = \"/m\"\n[[volume]]\nname = \"..\"\nbind = { source = \"/s\" }".to_owned(),
                "the name \"/m/",
            ),
        ] {
            let error = parse(&text, Duration::MAX).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
