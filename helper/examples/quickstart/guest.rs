//! The process without privilege: who it is, what it may, how it gets into the
//! helper's namespace.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

use crate::failure::{Context, Failure};
use crate::stage::{Layout, Stage};

/// The name of the process that enters the helper's namespaces.
pub(crate) const JOIN: &str = "quickstart-join";

/// The user that root's guest is: a number that systems give to no account, and
/// not the helper's.
const NOBODY_ELSE: u32 = 65533;

/// Why root may be unable to give a file away.
const ONE_USER: &str = "Is this the root of a user namespace that has few users? Run the quickstart \
                        as the user outside of it.";

/// What of root's environment its guest gets to see.
const KEPT: [&str; 6] = ["TERM", "LANG", "LC_ALL", "NO_COLOR", "COLORTERM", "SHELL"];

const POLICY: &str = r#"version = 1

[limits]
connections = 64                  # few, for machines with a low limit of open files

[[grant]]
name   = "quickstart"
users  = [@UID@]
target = ["@BASE@/mnt/{uid}"]     # mounts go beneath this; nosuid and nodev are forced

  [grant.bind]
  source = ["@BASE@/data"]

  [grant.tmpfs]
  max_size = "64MiB"
"#;

/// Whom the helper serves here.
pub(crate) struct Guest {
    starter: u32,
}

impl Guest {
    pub(crate) fn of_starter() -> Self {
        Self {
            starter: geteuid().as_raw(),
        }
    }

    pub(crate) fn starter(&self) -> u32 {
        self.starter
    }

    pub(crate) fn is_of_root(&self) -> bool {
        self.starter == 0
    }

    /// Another user's guest is that user: its privilege is only ever in the
    /// user namespace, and an exec there takes it away.
    pub(crate) fn uid(&self) -> u32 {
        if self.is_of_root() {
            NOBODY_ELSE
        } else {
            self.starter
        }
    }

    pub(crate) fn describe(&self) -> String {
        if self.is_of_root() {
            "root, to serve as the user nobody in a mount namespace".to_owned()
        } else {
            format!(
                "uid {}, to serve in a user namespace and a mount namespace",
                self.starter
            )
        }
    }

    pub(crate) fn policy_in_words(&self) -> String {
        let uid = self.uid();
        format!("uid {uid} may bind data and mount a tmpfs up to 64 MiB, beneath mnt/{uid}")
    }

    pub(crate) fn policy(&self, layout: &Layout) -> String {
        POLICY
            .replace("@UID@", &self.uid().to_string())
            .replace("@BASE@", &layout.base().display().to_string())
    }

    /// Makes a directory the guest's own.
    pub(crate) fn give(&self, path: &Path) -> Result<(), Failure> {
        if self.is_of_root() {
            let id = Some(NOBODY_ELSE);
            chown(path, id, id)
                .or_fail(&format!("give {} to uid {NOBODY_ELSE}", path.display()))
                .map_err(|failure| failure.with([ONE_USER.to_owned()]))?;
        }
        Ok(())
    }

    /// The command of the guest's process called `name`, with the stage as its
    /// first argument.
    pub(crate) fn command(&self, stage: &Stage, helper: u32, name: &str) -> Command {
        let layout = stage.layout();
        let programs = layout.programs();
        let mut command = Command::new(programs.join("quickstart"));
        let mut path = OsString::from(&programs);
        path.push(":");
        if self.is_of_root() {
            // std also leaves root's groups when it changes the user.
            command.arg0(name).uid(NOBODY_ELSE).gid(NOBODY_ELSE);
            command.env_clear().env("HOME", layout.mounts(NOBODY_ELSE));
            command.envs(
                KEPT.iter()
                    .filter_map(|key| Some((key, std::env::var_os(key)?))),
            );
            path.push("/usr/local/bin:/usr/bin:/bin");
        } else {
            command.arg0(JOIN).arg(helper.to_string()).arg(name);
            path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        }
        command
            .arg(layout.base())
            .env("PATH", path)
            .env(mountwarden_client::SOCKET_VARIABLE, layout.socket())
            .current_dir(layout.base());
        command
    }
}

/// Enters the namespaces of the process that the first argument names, and
/// becomes what the second one names.
///
/// Entering a user namespace takes a process of one thread, and gives it every
/// capability there; the exec takes them all, because its user is not root.
pub(crate) fn join(arguments: &[OsString]) -> Result<(), Failure> {
    let [helper, name, rest @ ..] = arguments else {
        return Err(Failure::new("quickstart-join is for the quickstart itself"));
    };
    let namespaces = Path::new("/proc").join(helper).join("ns");
    let open = |kind| File::open(namespaces.join(kind)).or_fail("find the helper's namespaces");
    let (user, mounts) = (open("user")?, open("mnt")?);
    setns(user, CloneFlags::CLONE_NEWUSER).or_fail("enter the helper's user namespace")?;
    setns(mounts, CloneFlags::CLONE_NEWNS).or_fail("enter the helper's mount namespace")?;
    if let Some(base) = rest.first() {
        // A new mount namespace puts its process into the root directory.
        std::env::set_current_dir(base).or_fail("enter the quickstart's directory")?;
    }
    let mut next = Command::new("/proc/self/exe");
    become_it(next.arg0(name).args(rest)).map(|never| match never {})
}

/// Runs another program in this process.
pub(crate) fn become_it(command: &mut Command) -> Result<Infallible, Failure> {
    Err(command.exec()).or_fail(&format!("run {}", command.get_program().display()))
}
