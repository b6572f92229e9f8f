//! Volumes in the hands of a normal user, who has no right but what a policy grants.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mountwarden_client::AbsPath;
use mountwarden_client::volume::{Deadlines, Export, Program, UseName, Volume};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{outcome, wait_for};
use crate::libfuse::Stand;
use crate::quobyte::{PROGRAM, SERVER};
use crate::racing::Random;
use crate::roles::ROLE;
use crate::sandbox::Sandbox;
use crate::{Skip, kernel, slowly};

pub(crate) const POLICY: &str = r#"
version = 1

[[grant]]
name = "volumes"
users = [@USER@]
target_owner = "peer"
target = ["@DIR@/vol"]
  [grant.fuse]
  subtypes = ["quobyte", "other"]
  sources = ["*@*", "*@*/*"]
  allow_other = true
"#;

/// Two volumes in one export, and one in another. What `@...@` stands for, [`Keeper::file`] says.
pub(crate) const FILE: &str = r#"
base = "@DIR@/vol"

[deadlines]
lock = 30
helper = 30
program = 30
answer = 20

[[volume]]
name = "disk-1"
export = "quobyte://reg1,reg2/volume-1"
quobyte = { @PROGRAM@, config = "@DIR@/one.json" }

[[volume]]
name = "disk-2"
export = "reg1,reg2/volume-1"
quobyte = { @PROGRAM@, config = "@DIR@/one.json" }

[[volume]]
name = "disk-3"
export = "quobyte://reg1,reg2/volume-2"
quobyte = { @PROGRAM@, config = "@DIR@/two.json" }
"#;

/// The SHA-256 of `reg1,reg2/volume-1`, and of the other.
const ONE: &str = "65b9ee7395da694224670b05997b5d92a41420506d032211c7d8a8da40317659";
const TWO: &str = "c4d603114e3c488c7c767e32e22282c7e873a0e3b155c6d7243bc9845f2588be";

pub(crate) struct Keeper<'s> {
    pub(crate) sandbox: &'s Sandbox,
    pub(crate) stand: Stand<'s>,
}

impl<'s> Keeper<'s> {
    /// Both servers are well, and their mounts are for this user alone.
    pub(crate) fn start(sandbox: &'s Sandbox) -> Result<Self, Skip> {
        Self::judged_by(sandbox, POLICY)
    }

    pub(crate) fn judged_by(sandbox: &'s Sandbox, policy: &str) -> Result<Self, Skip> {
        // A helper has to find the base when it starts.
        let directories = ["vol", "data"].map(|name| sandbox.make_dir(name));
        let stand = Stand::start(sandbox, policy)?;
        for path in &directories {
            stand.give(path);
        }
        symlink("e2e", sandbox.path("bin").join(PROGRAM)).unwrap();
        for name in ["disk-1", "disk-2", "disk-3"] {
            stand.give(&sandbox.write(&format!("data/{name}"), name));
        }
        let keeper = Self { sandbox, stand };
        keeper.file(FILE);
        keeper.one(json!({}));
        keeper.two(json!({}));
        Ok(keeper)
    }

    /// Writes the file of volumes. `@PROGRAM@` is the program with the only variable that it
    /// needs: where `fusermount3` lies.
    pub(crate) fn file(&self, text: &str) {
        let dir = self.sandbox.path("").display().to_string();
        let path = format!("environment = {{ PATH = \"{dir}/bin\" }}");
        let program = format!("program = \"{dir}/bin/{PROGRAM}\", {path}");
        let text = text.replace("@PROGRAM@", &program).replace("@DIR@", &dir);
        self.sandbox.write("volumes.toml", &text);
    }

    /// Writes it with other deadlines, in seconds of a machine that is not slow.
    pub(crate) fn within(&self, deadlines: &[(&str, u64)]) {
        let mut text = FILE.to_owned();
        for (name, seconds) in deadlines {
            let seconds = slowly(Duration::from_secs(*seconds)).as_secs();
            text = text.replace(&format!("{name} = "), &format!("{name} = {seconds} # "));
        }
        self.file(&text);
    }

    /// Says how the program of the first export is to be from now on.
    pub(crate) fn one(&self, behaviour: Value) {
        self.configure("one.json", behaviour);
    }

    /// The same for the second.
    pub(crate) fn two(&self, behaviour: Value) {
        self.configure("two.json", behaviour);
    }

    fn configure(&self, name: &str, mut behaviour: Value) {
        behaviour["data"] = self.sandbox.path("data").display().to_string().into();
        let file = self.sandbox.write(name, &behaviour.to_string());
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// A file that the program of an export may write to.
    pub(crate) fn dump(&self, name: &str) -> String {
        let file = self.sandbox.write(&format!("{name}.dump"), "");
        self.stand.give(&file);
        file.display().to_string()
    }

    /// Makes the first volume one of a script, which is called with these arguments.
    pub(crate) fn script(&self, script: &str, arguments: &str) {
        let file = self.sandbox.write("bin/script", script);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let program = format!(
            "program = {{ program = \"{}\", arguments = {arguments}, type = \"fuse.quobyte\" }}",
            file.display()
        );
        let ours = r#"quobyte = { @PROGRAM@, config = "@DIR@/one.json" }"#;
        self.file(&FILE.replacen(ours, &program, 1));
    }

    /// Where the first export is mounted: the base, and the digest of the export without its
    /// scheme.
    pub(crate) fn target(&self) -> PathBuf {
        self.sandbox.path("vol").join(ONE)
    }

    /// The same for the second.
    pub(crate) fn second_target(&self) -> PathBuf {
        self.sandbox.path("vol").join(TWO)
    }

    /// The lock of the first export's mount.
    pub(crate) fn lock(&self) -> PathBuf {
        self.records().join("lock")
    }

    /// A use of it that has a name.
    pub(crate) fn named(&self, name: &str) -> PathBuf {
        self.records().join("named").join(name)
    }

    /// What is written down of its uses.
    pub(crate) fn records(&self) -> PathBuf {
        self.sandbox.path("vol/.mountwarden").join(ONE)
    }

    /// This program as a user of the first volume, as [`use_volume`] says.
    pub(crate) fn user(&self, words: &[&str]) -> Command {
        let program = self.sandbox.path("bin/e2e");
        let mut command = self.stand.run(program.to_str().unwrap());
        command.env(ROLE, "volume").args(words);
        command
    }

    /// The command, as the user.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let program = self.sandbox.path("bin/mountwarden");
        let mut command = self.stand.run(program.to_str().unwrap());
        command.args(["--json", "volume"]).args(words);
        command.arg("--config");
        command.arg(self.sandbox.path("volumes.toml"));
        command
    }

    /// Gives the status and the one object that is printed.
    pub(crate) fn ask(&self, words: &[&str]) -> (i32, Value) {
        answer(&mut self.command(words))
    }

    /// What must go well.
    pub(crate) fn done(&self, words: &[&str]) -> Value {
        let (status, value) = self.ask(words);
        assert_eq!(status, 0, "{words:?}: {value}");
        value
    }

    /// What must fail; the mount table stays as it is.
    pub(crate) fn refused(&self, words: &[&str]) -> (i32, Value) {
        let (status, value) = kernel::unchanged(|| self.ask(words));
        assert_ne!(status, 0, "{words:?}: {value}");
        (status, value["error"].clone())
    }

    /// How a volume fares.
    pub(crate) fn state(&self, name: &str) -> String {
        let (_, value) = self.ask(&["validate", name]);
        let state = value["state"].as_str();
        state.unwrap_or_else(|| panic!("{value}")).to_owned()
    }

    /// The processes whose command line holds a text, of those that work on these volumes.
    pub(crate) fn processes(&self, text: &str) -> Vec<Pid> {
        let base = self.sandbox.path("vol").display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            // It may have ended meanwhile. A zombie has none.
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            if words.contains(&base) && words.contains(text) {
                let name = path.file_name().unwrap().to_str().unwrap();
                found.push(Pid::from_raw(name.parse().unwrap()));
            }
        }
        found
    }

    /// The servers of a mount.
    pub(crate) fn servers(&self, target: &Path) -> Vec<Pid> {
        let mut servers = self.processes(target.to_str().unwrap());
        let all = self.processes(SERVER);
        servers.retain(|pid| all.contains(pid));
        servers
    }

    /// The one server of a mount.
    pub(crate) fn server(&self, target: &Path) -> Pid {
        let servers = self.servers(target);
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers[0]
    }

    /// Kills a server and waits until the kernel has noticed.
    pub(crate) fn kill_server(&self, target: &Path) {
        let server = self.server(target);
        kill(server, Signal::SIGKILL).unwrap();
        wait_for("the server is gone", || {
            (!kernel::is_alive(server)).then_some(())
        });
    }

    /// Nothing is mounted, and nothing runs.
    pub(crate) fn all_is_gone(&self) {
        for target in [self.target(), self.second_target()] {
            assert_eq!(kernel::at(&target), []);
        }
        wait_for("nothing runs", || {
            self.processes("").is_empty().then_some(())
        });
    }
}

/// None of the programs outlives its case, which would keep the case's mounts, too.
impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        for pid in self.processes("") {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Uses the volume `disk-1` by the library. Says when it holds it, and ends with its input:
/// `hold`. Or connects it by name or holds it, over and over, and reads what is in it each
/// time: `rounds NAME SEED COUNT`.
pub(crate) fn use_volume(arguments: &[String]) {
    let place = std::env::current_dir().unwrap();
    let program = Program::quobyte(
        place.join("bin").join(PROGRAM),
        Some(&AbsPath::new(place.join("one.json")).unwrap()),
    );
    let program = program.unwrap().variable("PATH", place.join("bin"));
    let export = Export::new("quobyte://reg1,reg2/volume-1").unwrap();
    let volume = Volume::served(place.join("vol"), "disk-1", export, program).unwrap();
    let long = slowly(Duration::from_mins(5));
    let volume = volume
        .launcher(place.join("bin/mountwarden"))
        .deadlines(Deadlines {
            lock: long,
            helper: long,
            program: long,
            answer: long,
        });
    if arguments[0] == "hold" {
        let held = volume.hold().unwrap();
        println!("{}", held.connected().uses);
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let released = held.release().unwrap();
        println!("{:?}, {}", released.how, released.uses);
        return;
    }
    let name = UseName::new(&arguments[1]).unwrap();
    let mut random = Random::of(arguments[2].parse().unwrap());
    for _ in 0..arguments[3].parse().unwrap() {
        let read = || fs::read_to_string(volume.device()).unwrap();
        if random.below(3) == 0 {
            let held = volume.hold().unwrap();
            assert_eq!(read(), "disk-1");
            held.release().unwrap();
        } else {
            volume.connect(&name).unwrap();
            assert_eq!(read(), "disk-1");
            volume.disconnect(&name).unwrap();
        }
    }
}

/// Runs a command that prints one object, on standard error if it fails.
pub(crate) fn answer(command: &mut Command) -> (i32, Value) {
    let (status, out, error) = outcome(command);
    let text = if out.is_empty() { error } else { out };
    let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
    (status, value)
}
