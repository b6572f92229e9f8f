//! The directory of one run, and the namespace that it is mounted in.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::{NamedTempFile, TempDir};

use crate::failure::{Context, Failure};
use crate::guest::Guest;
use crate::page::Page;

/// Where things are in the directory, for every process of a run.
pub(crate) struct Layout {
    base: PathBuf,
}

impl Layout {
    pub(crate) fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The programs, each a name of the quickstart itself.
    pub(crate) fn programs(&self) -> PathBuf {
        self.base.join("bin")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.base.join("run/helper.sock")
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.base.join("policy.toml")
    }

    /// What the guest may bind.
    pub(crate) fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// Where the guest may mount.
    pub(crate) fn mounts(&self, uid: u32) -> PathBuf {
        self.base.join("mnt").join(uid.to_string())
    }
}

/// The directory of this run, and the helper's log beside it. Dropped, it
/// leaves nothing behind but the log of a run that failed.
pub(crate) struct Stage {
    layout: Layout,
    /// Root's stage is a tmpfs in a namespace of its own: nothing is written to
    /// a disk, and the programs can be executed there whatever /tmp allows.
    mounted: bool,
    /// Taken when it is removed.
    directory: Option<TempDir>,
    log: NamedTempFile,
}

impl Stage {
    /// Makes the directory and everything in it. From here on root is in a
    /// mount namespace of its own; another user's helper will make one.
    pub(crate) fn set(guest: &Guest, page: &Page) -> Result<Self, Failure> {
        let above = choose(guest, page)?;
        let mut log = tempfile::Builder::new();
        log.prefix("mountwarden-").suffix(".log");
        let log = log
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&above)
            .or_fail(&format!("make a file in {}", above.display()))?;
        let directory = tempfile::Builder::new()
            .prefix("mountwarden-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(&above)
            .or_fail(&format!("make a directory in {}", above.display()))?;
        let mut stage = Self {
            layout: Layout::new(directory.path()),
            mounted: false,
            directory: Some(directory),
            log,
        };
        if guest.is_of_root() {
            private_namespace()?;
            mount_scratch(stage.base())?;
            stage.mounted = true;
        }
        stage.fill(guest)?;
        Ok(stage)
    }

    fn fill(&self, guest: &Guest) -> Result<(), Failure> {
        let layout = &self.layout;
        let (data, mounts) = (layout.data(), layout.mounts(guest.uid()));
        for path in [&layout.programs(), &data, &mounts] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .or_fail(&format!("make {}", path.display()))?;
        }
        for path in [&data, &mounts] {
            guest.give(path)?;
        }
        let own = std::env::current_exe().or_fail("find this program's own file")?;
        let program = layout.programs().join("quickstart");
        if self.mounted {
            // A copy: the build directory may be one that only root can search.
            std::fs::copy(&own, &program)
                .and_then(|_| std::fs::set_permissions(&program, Permissions::from_mode(0o755)))
                .or_fail(&format!("copy {}", own.display()))?;
        } else {
            symlink(&own, &program).or_fail("name this program")?;
        }
        for name in ["mountwardend", "mountwarden"] {
            symlink("quickstart", layout.programs().join(name)).or_fail("name this program")?;
        }
        std::fs::write(layout.policy(), guest.policy(layout)).or_fail("write the policy")
    }

    pub(crate) fn base(&self) -> &Path {
        self.layout.base()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A text in which the paths of the stage begin at its directory.
    pub(crate) fn shortened(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.base().display()), "")
    }

    /// The file that has what the helper logs.
    pub(crate) fn log(&self) -> &Path {
        self.log.path()
    }

    /// The same file, for the helper to write to.
    pub(crate) fn log_for_helper(&self) -> Result<Stdio, Failure> {
        let file = self.log.as_file().try_clone();
        file.map(Stdio::from).or_fail("open the helper's log")
    }

    /// What the helper has logged so far.
    pub(crate) fn logged(&self) -> Result<String, Failure> {
        std::fs::read_to_string(self.log()).or_fail("read the helper's log")
    }

    /// A failure with the end of the log, which is kept. `advice` is said first.
    pub(crate) fn failed(&mut self, message: &str, advice: &[String]) -> Failure {
        let logged = self.logged().unwrap_or_default();
        let lines: Vec<&str> = logged.lines().collect();
        let end = lines.len().saturating_sub(LAST_LINES);
        self.log.disable_cleanup(true);
        Failure::new(message)
            .with(advice.iter().cloned())
            .with([format!("the helper's log ({}) ends:", self.log().display())])
            .with(lines.iter().skip(end).map(|line| format!("  {line}")))
    }

    /// Unmounts and removes everything, and says so when that fails.
    pub(crate) fn strike(mut self) -> Result<(), Failure> {
        self.unmount()
            .or_fail("unmount the quickstart's directory")?;
        match self.directory.take() {
            Some(directory) => directory.close().or_fail("remove the directory"),
            None => Ok(()),
        }
    }

    fn unmount(&mut self) -> Result<(), Errno> {
        if std::mem::take(&mut self.mounted) {
            umount2(self.base(), MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.unmount().is_err()
            && let Some(directory) = self.directory.take()
        {
            // What cannot be unmounted is not removed through the mount; the
            // namespace, and the mount with it, ends with this process.
            let _ = directory.keep();
        }
    }
}

/// How many lines of the log a failure shows.
const LAST_LINES: usize = 8;

/// The length of the longest path that a Unix socket can have (`unix(7)`), less
/// what is appended to the directory above the stage.
const LONGEST: usize = 107 - "/mountwarden-XXXXXX/run/helper.sock".len();

/// The temporary directory, or /tmp where the other would not do.
fn choose(guest: &Guest, page: &Page) -> Result<PathBuf, Failure> {
    let wanted = std::env::temp_dir();
    let Err(why) = usable(&wanted, guest) else {
        return wanted
            .canonicalize()
            .or_fail("find the temporary directory");
    };
    let why = format!("{} will not do: {why}", wanted.display());
    let fallback = Path::new("/tmp");
    if wanted == fallback {
        return Err(Failure::new(why).with([
            "Set TMPDIR to a directory that is yours, and below directories that only you or root \
             can write."
                .to_owned(),
        ]));
    }
    if let Err(also) = usable(fallback, guest) {
        return Err(Failure::new(why).with([format!("nor will /tmp: {also}")]));
    }
    page.text(format!("({why}; this run uses /tmp.)"))?;
    fallback.canonicalize().or_fail("find /tmp")
}

/// Whether the helper will trust a directory, and its users can get there. The
/// helper makes the same checks; here they come early enough to go elsewhere.
fn usable(directory: &Path, guest: &Guest) -> Result<(), String> {
    let path = directory
        .canonicalize()
        .map_err(|error| error.to_string())?;
    let text = path.to_str().unwrap_or_default();
    // It is written into a policy, where some characters have a meaning.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err("its path has characters that the quickstart does not quote".to_owned());
    }
    if text.len() > LONGEST {
        return Err("its path is too long for a socket".to_owned());
    }
    for above in path.ancestors() {
        let at = above.display();
        let status = above.metadata().map_err(|error| format!("{at}: {error}"))?;
        if status.uid() != 0 && status.uid() != guest.starter() {
            return Err(format!("{at} belongs to uid {}", status.uid()));
        }
        if status.mode() & 0o022 != 0 && status.mode() & 0o1000 == 0 {
            return Err(format!("others may rename what is in {at}"));
        }
        if guest.is_of_root() && status.mode() & 0o001 == 0 {
            return Err(format!("only its owner can get through {at}"));
        }
    }
    Ok(())
}

/// Leaves the machine's mount namespace, for good.
fn private_namespace() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| {
        Failure::new(format!(
            "this root cannot make a mount namespace: {}",
            errno.desc()
        ))
        .with([
            "It lacks CAP_SYS_ADMIN, or a filter forbids unshare(2), as in most containers."
                .to_owned(),
            "Run the quickstart as a normal user, or in a container with --privileged.".to_owned(),
        ])
    })?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .or_fail("make the namespace's mounts private")
}

fn mount_scratch(at: &Path) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // No more than the program takes is used; a debug build is large.
    let options = Some("mode=0755,size=1g");
    mount(Some("quickstart"), at, Some("tmpfs"), flags, options).or_fail("mount a tmpfs")
}
