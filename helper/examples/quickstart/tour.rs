//! The tour: what a service without privilege does, each step checked.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;

use mountwarden_client::{
    Bind, Client, DenyReason, Error, LandlockReport, MountAttributes, MountInfo, Mounted,
    Operation, Outcome, RoleReport, Tmpfs, TmpfsSize, Unmount,
};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use crate::failure::{Context, Failure};
use crate::page::Page;
use crate::stage::Layout;

/// The name of the tour's process.
pub(crate) const NAME: &str = "quickstart-tour";

const TEXT: &str = "written by a process without privilege\n";

/// More than the tmpfs holds, and less.
const TOO_MUCH: usize = 9 << 20;
const LITTLE: usize = 1 << 20;

/// Takes the tour. Standard input is the mount table of the machine.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let [base] = arguments else {
        return Err(Failure::new("quickstart-tour is for the quickstart itself"));
    };
    let layout = Layout::new(base);
    let uid = geteuid().as_raw();
    let mut tour = Tour {
        page: Page::new(),
        client: Client::connect_to(layout.socket()).or_fail("connect to the helper")?,
        mounts: layout.mounts(uid),
        uid,
        layout,
    };
    tour.who()?;
    let made = tour.mount()?;
    tour.look()?;
    tour.refused()?;
    tour.confined()?;
    tour.unmount(&made)
}

struct Tour {
    page: Page,
    client: Client,
    uid: u32,
    layout: Layout,
    /// Where this user may mount.
    mounts: PathBuf,
}

impl Tour {
    fn who(&mut self) -> Result<(), Failure> {
        self.page.title("Who asks")?;
        let status =
            std::fs::read_to_string("/proc/self/status").or_fail("read /proc/self/status")?;
        let effective = capabilities(&status, "CapEff:")?;
        let permitted = capabilities(&status, "CapPrm:")?;
        ensure(self.uid != 0, "the tour runs as root")?;
        ensure(
            is_none(effective) && is_none(permitted),
            format!("the tour holds capabilities: {effective} of {permitted}"),
        )?;
        self.page.done(
            "a process without privilege",
            format!("uid {}, CapEff {effective}", self.uid),
        )?;
        let at = self.target("notes")?;
        let bind = MsFlags::MS_BIND;
        let alone = mount(
            Some(&self.layout.data()),
            &at,
            None::<&str>,
            bind,
            None::<&str>,
        );
        ensure(
            alone == Err(Errno::EPERM),
            format!("mount(2) without the helper gave {alone:?} and must give EPERM"),
        )?;
        self.page
            .done("mount(2), without the helper", "EPERM, as it must be")?;
        ensure(
            self.client.uid() == self.uid,
            "the helper takes this process for another user",
        )?;
        self.page.done(
            "connected to the helper",
            format!("the kernel told it that this is uid {}", self.uid),
        )
    }

    fn mount(&mut self) -> Result<[Mounted; 3], Failure> {
        self.page.title("It mounts")?;
        let data = self.layout.data();
        let at = self.target("notes")?;
        let notes = self.client.mount(bind(&data, &at)?);
        let notes = self.made("bind data at", notes)?;
        std::fs::write(at.join("hello.txt"), TEXT).or_fail("write through the bind")?;
        let read = std::fs::read_to_string(data.join("hello.txt")).or_fail("read the source")?;
        ensure(read == TEXT, "what was written is not at the source")?;
        self.page.done(
            "  wrote a file through it",
            "and read it back at the source",
        )?;

        let again = self.client.mount(bind(&data, &at)?).or_fail("ask again")?;
        ensure(
            again.outcome == Outcome::AlreadyMounted && again.mount.id == notes.mount.id,
            "asking again gave another mount",
        )?;
        self.page
            .done("  asked for it again", "already mounted, the same id")?;

        let at = self.target("frozen")?;
        let frozen = self.client.mount(bind(&data, &at)?.read_only());
        let frozen = self.made("bind data, read-only, at", frozen)?;
        let read = std::fs::read_to_string(at.join("hello.txt")).or_fail("read through it")?;
        ensure(read == TEXT, "the read-only bind shows something else")?;
        fails_with(Errno::EROFS, std::fs::write(at.join("more.txt"), "no"))?;
        self.page.done(
            "  read the file; wrote another",
            "EROFS: read-only file system",
        )?;

        let at = self.target("scratch")?;
        let size: TmpfsSize = "8MiB".parse().or_fail("read a size")?;
        let scratch = Tmpfs::new(&at).map(|tmpfs| tmpfs.size(size));
        let scratch = self.client.mount(scratch.or_fail("ask for a tmpfs")?);
        let scratch = self.made("mount a tmpfs of 8 MiB at", scratch)?;
        std::fs::write(at.join("small"), vec![0; LITTLE]).or_fail("write 1 MiB")?;
        fails_with(
            Errno::ENOSPC,
            std::fs::write(at.join("large"), vec![0; TOO_MUCH]),
        )?;
        self.page.done(
            "  wrote 1 MiB; wrote 9 MiB more",
            "ENOSPC: no space left on device",
        )?;
        Ok([notes, frozen, scratch])
    }

    fn look(&mut self) -> Result<(), Failure> {
        self.page.title("What is mounted (mountwarden list)")?;
        let listed = self.client.list().or_fail("list the mounts")?;
        ensure(
            listed.len() == 3,
            format!("the helper lists {} mounts, not 3", listed.len()),
        )?;
        let command = Command::new(self.layout.programs().join("mountwarden"))
            .arg("list")
            .env(mountwarden_client::SOCKET_VARIABLE, self.layout.socket())
            .output()
            .or_fail("run mountwarden")?;
        ensure(
            command.status.success(),
            format!("mountwarden list failed ({})", command.status),
        )?;
        for line in String::from_utf8_lossy(&command.stdout).lines() {
            self.page.text(line)?;
        }
        let machine = std::io::read_to_string(std::io::stdin());
        let machine = machine.or_fail("read the mount table of the machine")?;
        ensure(
            !machine.is_empty(),
            "the mount table of the machine is empty",
        )?;
        let base = self.layout.base().display().to_string();
        ensure(
            !machine.contains(&base),
            "a mount of the quickstart is in the machine's own namespace",
        )?;
        self.page
            .done("none of it in the machine's own mount table", "checked")
    }

    fn refused(&mut self) -> Result<(), Failure> {
        self.page.title("What is refused, and why")?;
        let before = table()?;
        let at = self.target("free")?;
        let data = self.layout.data();
        let elsewhere = self.layout.base().join("elsewhere");
        let much: TmpfsSize = "1GiB".parse().or_fail("read a size")?;
        let tmpfs = |at: &Path| Tmpfs::new(at).or_fail("ask for a tmpfs");
        let requests: [(&str, Operation, DenyReason); 5] = [
            (
                "mount a tmpfs outside its places",
                tmpfs(&elsewhere)?.into(),
                DenyReason::TargetNotGranted,
            ),
            (
                "bind /etc",
                bind(Path::new("/etc"), &at)?.into(),
                DenyReason::SourceNotGranted,
            ),
            (
                "bind data and honour set-user-id bits",
                bind(&data, &at)?.suid().into(),
                DenyReason::SuidNotGranted,
            ),
            (
                "mount a tmpfs of 1 GiB",
                tmpfs(&at)?.size(much).into(),
                DenyReason::SizeAboveMaximum,
            ),
            (
                "unmount /usr",
                Unmount::new("/usr").or_fail("ask to unmount")?.into(),
                DenyReason::TargetProtected,
            ),
        ];
        for (what, operation, reason) in requests {
            let refusal = match operation {
                Operation::Mount(mount) => self.client.mount(mount).map(drop),
                Operation::Unmount(unmount) => self.client.unmount(unmount).map(drop),
                Operation::Remount(remount) => self.client.remount(remount).map(drop),
                Operation::Detach(detach) => self.client.detach(detach).map(drop),
                Operation::Move(moved) => self.client.move_mount(moved).map(drop),
            };
            match refusal {
                Err(error) if error.reason() == Some(reason) => {
                    self.page.done(what, format!("denied: {reason}"))?;
                }
                Err(error) => {
                    return Err(Failure::new(format!(
                        "{what}: this must be denied for {reason}, and the answer was: {error}"
                    )));
                }
                Ok(()) => {
                    return Err(Failure::new(format!(
                        "{what}: this must be denied for {reason}, and was DONE"
                    )));
                }
            }
        }
        ensure(
            table()? == before,
            "a refused request changed the mount table",
        )?;
        self.page.done("the mount table is what it was", "checked")
    }

    fn confined(&mut self) -> Result<(), Failure> {
        self.page.title("What confines the helper's processes")?;
        let status = self.client.status().or_fail("ask for the status")?;
        self.page.text(row([
            "role",
            "uid",
            "capabilities",
            "file tree",
            "Landlock also denies",
            "system calls",
        ]))?;
        for report in &status.roles {
            let RoleReport {
                role,
                uid,
                capabilities,
                landlock,
                ..
            } = report;
            let capabilities = match *capabilities {
                0 => "none",
                SYS_ADMIN => "CAP_SYS_ADMIN",
                other => {
                    return Err(Failure::new(format!(
                        "the {role} holds capabilities that it must not: {other:#x}"
                    )));
                }
            };
            let files = match landlock.readable_roots {
                // Such a domain could not mount; seccomp leaves this one path.
                None => "only /proc/self/fd".to_owned(),
                Some(count) => format!("reads {count} roots"),
            };
            self.page.text(row([
                &role.to_string(),
                &uid.to_string(),
                capabilities,
                &files,
                &denied(landlock),
                &report.system_calls.to_string(),
            ]))?;
        }
        Ok(())
    }

    fn unmount(&mut self, made: &[Mounted]) -> Result<(), Failure> {
        self.page.title("It unmounts")?;
        for mounted in made {
            self.client.unmount(mounted).or_fail("unmount")?;
        }
        self.page.done(
            "unmount all three",
            "each by its id, so that no other is hit",
        )?;
        let listed = self.client.list().or_fail("list the mounts")?;
        let base = self.mounts.display().to_string();
        ensure(
            listed.is_empty() && !table()?.contains(&base),
            "something is left mounted",
        )?;
        let kept = std::fs::read_to_string(self.layout.data().join("hello.txt"));
        ensure(
            kept.or_fail("read the source")? == TEXT,
            "the file at the source has changed",
        )?;
        self.page.done(
            "nothing is mounted there any more",
            "the file is still at its source",
        )
    }

    /// Makes a directory to mount at, where it is not there yet.
    fn target(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.mounts.join(name);
        std::fs::create_dir_all(&path).or_fail("make a directory to mount at")?;
        Ok(path)
    }

    /// Shows a mount that must have been made now, with what is forced on it.
    fn made(&self, what: &str, result: Result<Mounted, Error>) -> Result<Mounted, Failure> {
        let mounted = result.or_fail(what)?;
        let MountInfo {
            id,
            target,
            attributes,
            ..
        } = &mounted.mount;
        ensure(
            mounted.outcome == Outcome::Mounted,
            format!("{what}: it was mounted before"),
        )?;
        ensure(
            attributes.contains(MountAttributes::NO_SUID | MountAttributes::NO_DEV),
            format!("{what}: the mount lacks nosuid or nodev"),
        )?;
        let name = self.short(target.as_path());
        let flags = attributes.names().join(",");
        self.page
            .done(&format!("{what} {name}"), format!("id {id}, {flags}"))?;
        Ok(mounted)
    }

    fn short<'p>(&self, path: &'p Path) -> std::path::Display<'p> {
        path.strip_prefix(self.layout.base())
            .unwrap_or(path)
            .display()
    }
}

/// The bit of `CAP_SYS_ADMIN` (`capabilities(7)`).
const SYS_ADMIN: u64 = 1 << 21;

fn row([role, uid, capabilities, files, landlock, calls]: [&str; 6]) -> String {
    format!("{role:<9}{uid:<7}{capabilities:<15}{files:<20}{landlock:<33}{calls}")
}

fn denied(landlock: &LandlockReport) -> String {
    [
        (landlock.network, "TCP"),
        (landlock.abstract_sockets, "abstract sockets"),
        (landlock.signals, "signals"),
    ]
    .into_iter()
    .filter_map(|(denied, name)| denied.then_some(name))
    .collect::<Vec<_>>()
    .join(", ")
}

fn bind(source: &Path, target: &Path) -> Result<Bind, Failure> {
    Bind::new(source, target).or_fail("ask for a bind")
}

/// The mounts of this namespace, from the kernel itself.
fn table() -> Result<String, Failure> {
    std::fs::read_to_string("/proc/self/mountinfo").or_fail("read the mount table")
}

/// A capability set, from the text of `/proc/self/status` (`proc_pid_status(5)`).
fn capabilities<'s>(status: &'s str, name: &str) -> Result<&'s str, Failure> {
    let found = status.lines().find_map(|line| line.strip_prefix(name));
    found
        .map(str::trim)
        .ok_or_else(|| Failure::new(format!("/proc/self/status has no {name}")))
}

fn is_none(set: &str) -> bool {
    !set.is_empty() && set.chars().all(|digit| digit == '0')
}

fn fails_with(wanted: Errno, result: std::io::Result<()>) -> Result<(), Failure> {
    let seen = result.err().and_then(|error| error.raw_os_error());
    ensure(
        seen.map(Errno::from_raw) == Some(wanted),
        format!("a write must fail with {wanted}, and gave {seen:?}"),
    )
}

fn ensure(holds: bool, otherwise: impl Display) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::new(otherwise.to_string()))
    }
}
