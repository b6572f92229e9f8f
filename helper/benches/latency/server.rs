//! The helper, on a file tree of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mountwarden_client::Client;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::Outcome;
use crate::flood;
use crate::namespace::Namespace;

/// How long the helper may take to serve.
const START: Duration = Duration::from_secs(10);

/// A tmpfs with the places that the policy names.
pub(crate) struct Place {
    root: PathBuf,
    // Removed last, when the tmpfs is off it.
    _directory: TempDir,
}

/// Of the namespace in which root is itself.
const MAPS: &str = "idmap = { uids = [\"0:0:1\"], gids = [\"0:0:1\"] }";

impl Place {
    pub(crate) fn make() -> Outcome<Self> {
        // The policy takes no root that is reached through a symbolic link.
        let above = std::env::temp_dir().canonicalize()?;
        let directory = TempDir::with_prefix_in("mountwarden-bench-", above)?;
        let root = directory.path().to_owned();
        mount(
            Some("tmpfs"),
            &root,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=755"),
        )?;
        let place = Self {
            root,
            _directory: directory,
        };
        for name in [
            "run",
            "source",
            "target",
            "target/ours",
            "target/raw",
            "outside",
            "noisy",
            "noisy/hung",
        ] {
            fs::create_dir(place.at(name))?;
        }
        Ok(place)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn policy(&self, limits: Limits) -> String {
        let source = self.at("source");
        let grant = |name: &str, uid: u32, target: &str| {
            format!(
                "[[grant]]\n\
                 name = \"{name}\"\n\
                 users = [{uid}]\n\
                 target = [\"{}\"]\n\
                 [grant.bind]\n\
                 source = [\"{}\"]\n\
                 [grant.tmpfs]\n\
                 max_size = \"1MiB\"\n",
                self.at(target).display(),
                source.display(),
            )
        };
        let figures = match limits {
            // No limit may be what is measured.
            Limits::None | Limits::NoneAllKinds => {
                "connections_per_user = 1024\n\
                 mounts_per_user = 1000000\n\
                 requests_per_second = 1000000\n"
            }
            // So that a flood of what hangs ends soon after its process.
            Limits::Default => "request_timeout = \"10s\"\n",
        };
        let ours = grant("bench", geteuid().as_raw(), "target");
        let ours = match limits {
            Limits::NoneAllKinds => ours
                .replacen("target = ", "detached = true\nmove = true\ntarget = ", 1)
                .replace("[grant.bind]", &format!("[grant.bind]\n{MAPS}")),
            _ => ours,
        };
        let noisy = grant("noisy", flood::UID, "noisy");
        let more = match limits {
            Limits::NoneAllKinds => format!(
                "[grant.block]\n\
                 device = [\"/dev/loop*\"]\n\
                 filesystems = [\"ext4\"]\n\
                 [grant.fuse]\n\
                 subtypes = [\"none\"]\n\
                 device = [\"/dev/loop*\"]\n\
                 [grant.overlay]\n\
                 layer = [\"{0}\"]\n\
                 [grant.image]\n\
                 file = [\"{0}\"]\n\
                 filesystems = [\"erofs\", \"squashfs\"]\n\
                 loop_devices = {{ first = 440, count = 1 }}\n\
                 [grant.network]\n\
                 source = [\"127.0.0.1:/\", \"files\"]\n\
                 filesystems = [\"nfs4\", \"virtiofs\"]\n\
                 options = [\"addr=127.0.0.1\", \"vers=4.2\"]\n",
                source.display()
            ),
            _ => String::new(),
        };
        // What the kernel has is in force all the same.
        let confinement = "[confinement]\nrequire_landlock_abi = 1\n";
        format!("version = 1\n{confinement}[limits]\n{figures}{ours}{more}{noisy}")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(errno) = umount2(&self.root, MntFlags::MNT_DETACH) {
            println!("{} stays behind: {errno}", self.root.display());
        }
    }
}

/// The limits that a helper holds its users to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    None,
    /// As `None`, of a user who is granted every kind of mount. A mounter's filter is as
    /// long as its peer's grants are many.
    NoneAllKinds,
    Default,
}

/// A helper that runs.
pub(crate) struct Server {
    pub(crate) socket: PathBuf,
    warden: Child,
}

impl Server {
    pub(crate) fn start(place: &Place, namespace: Namespace, limits: Limits) -> Outcome<Self> {
        let (policy, log) = (place.at("policy.toml"), place.at("log"));
        // Not in the root: what lies above the socket's directory must not be /tmp.
        let socket = place.at(match limits {
            Limits::None => "run/socket",
            Limits::NoneAllKinds => "run/kinds",
            Limits::Default => "run/limited",
        });
        fs::write(&policy, place.policy(limits))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_mountwardend"));
        command.arg("serve");
        command.arg("--policy").arg(policy);
        command.arg("--socket").arg(&socket);
        command.args(["--user", "nobody"]);
        command.stdin(Stdio::null());
        command.stderr(File::create(&log)?);
        let mut server = Self {
            warden: namespace.start(|| command.spawn())?,
            socket,
        };
        server.wait(&log)?;
        Ok(server)
    }

    /// The warden's process, which is the one that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.warden.id()
    }

    fn stop(&mut self) -> Outcome<()> {
        if self.warden.try_wait()?.is_none() {
            let pid = i32::try_from(self.warden.id())?;
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
            self.warden.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self, log: &Path) -> Outcome<()> {
        let begun = Instant::now();
        loop {
            let Err(error) = Client::connect_to(&self.socket) else {
                return Ok(());
            };
            if self.warden.try_wait()?.is_some() || begun.elapsed() > START {
                let log = fs::read_to_string(log)?;
                return Err(format!("the helper does not serve: {error}; its log:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            println!("the helper may still run: {error}");
        }
    }
}
