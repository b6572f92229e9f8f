//! A private place for one case: a namespace, a scratch file system, a policy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_helper::raw::running_abi;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::{Skip, slowly};

/// A user that has a grant of its own, beside the one who runs the tests.
pub(crate) const ALICE: u32 = 4001;
/// Another one.
pub(crate) const BOB: u32 = 4002;

/// The policy of most cases. `@DIR@` is the scratch directory, `@UID@` the user
/// who runs the tests.
pub(crate) const POLICY: &str = r#"
version = 1

[[grant]]
name = "test"
users = [@UID@, 4001, 4002]
target = ["@DIR@/mnt"]
  [grant.bind]
  source = ["@DIR@/src"]
  recursive = true
  [grant.tmpfs]
  max_size = "16MiB"
  max_inodes = 1024
"#;

/// `@SECOND@` in a policy: a deadline that no request needs which is not held up.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The place of one case. All of it ends with the case's namespace.
pub(crate) struct Sandbox {
    dir: PathBuf,
    pub(crate) is_root: bool,
}

impl Sandbox {
    /// Enters a private mount namespace and makes a scratch file system there.
    pub(crate) fn enter() -> Result<Self, Skip> {
        let is_root = geteuid().is_root();
        if is_root {
            unshare(CloneFlags::CLONE_NEWNS)
                .map_err(|errno| Skip(format!("no private mount namespace: {errno}")))?;
        } else {
            enter_user_namespace()?;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let dir = PathBuf::from(std::env::var_os(crate::PLACE).unwrap());
        let none = MsFlags::empty();
        mount(
            Some("scratch"),
            &dir,
            Some("tmpfs"),
            none,
            Some("mode=0755"),
        )
        .unwrap();
        let sandbox = Self {
            dir: dir.join("mw"),
            is_root,
        };
        for name in [
            "",
            "src",
            "src/data",
            "src/other",
            "mnt",
            "mnt/a",
            "mnt/b",
            "bin",
        ] {
            sandbox.make_dir(name);
        }
        sandbox.write("src/data/file", "data");
        sandbox.write("mnt/file", "covered");
        // Copies, because other users may not reach where this was built.
        fs::copy(env!("CARGO_BIN_EXE_mountwardend"), sandbox.helper()).unwrap();
        fs::copy(std::env::current_exe().unwrap(), sandbox.path("bin/e2e")).unwrap();
        symlink("e2e", sandbox.path("bin/mountwarden")).unwrap();
        sandbox.policy(POLICY);
        Ok(sandbox)
    }

    /// A path beneath the scratch directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.dir.clone()
        } else {
            self.dir.join(name)
        }
    }

    /// The helper's program.
    pub(crate) fn helper(&self) -> PathBuf {
        self.path("bin/mountwardend")
    }

    pub(crate) fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes the policy file, placeholders replaced.
    pub(crate) fn policy(&self, text: &str) {
        let text = text
            .replace("@DIR@", self.dir.to_str().unwrap())
            .replace("@UID@", &geteuid().to_string())
            .replace("@SECOND@", &format!("{}s", slowly(SECOND).as_secs()));
        let text = for_this_kernel(text);
        let path = self.write("policy.toml", &text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Skips what takes a device that a file system is mounted from.
    pub(crate) fn needs_devices(&self) -> Result<(), Skip> {
        if self.is_root {
            Ok(())
        } else {
            Err(Skip(
                "only root can make a device, and no other user namespace can mount one".to_owned(),
            ))
        }
    }

    /// Skips what takes several users.
    pub(crate) fn needs_root(&self) -> Result<(), Skip> {
        if self.is_root {
            Ok(())
        } else {
            Err(Skip(
                "it takes several users, and only root can become them".to_owned(),
            ))
        }
    }
}

/// Requires no more of Landlock than this kernel has, as an operator would do.
pub(crate) fn for_this_kernel(policy: String) -> String {
    let abi = running_abi();
    if abi >= 6 || policy.contains("[confinement]") {
        return policy;
    }
    format!("{policy}\n[confinement]\nrequire_landlock_abi = {abi}\n")
}

/// Mounts a tmpfs as the test itself, without the helper.
pub(crate) fn mount_tmpfs(path: &Path) {
    let options = Some("mode=0755");
    mount(Some("test"), path, Some("tmpfs"), MsFlags::empty(), options).unwrap();
}

/// A user namespace in which this user keeps its id and holds all capabilities.
fn enter_user_namespace() -> Result<(), Skip> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|errno| {
        Skip(format!(
            "this system forbids user namespaces to normal users: {errno}"
        ))
    })?;
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).unwrap();
    Ok(())
}
