//! What takes more than one call to try.

use std::process::{Child, Stdio};

use mountwarden_client::Tmpfs;
use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::attempts::{Expected, int};
use super::forms::Pinned;
use super::{Role, Scene, THEMES, Victims};
use crate::kernel::{self, unchanged};
use crate::puppet::{Outcome, Puppet};
use crate::sandbox::Sandbox;
use crate::{Skip, roles};

const SIGSYS: Outcome = Outcome::Killed(Signal::SIGSYS);
const DENIED: Outcome = Outcome::Returned(Err(Errno::EACCES));

/// The number that a call returns.
fn number(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Returned(Ok(number)) => number,
        other => panic!("{other:?}"),
    }
}

/// A process of the helper's user that nothing confines.
struct Bystander {
    child: Child,
    puppet: Puppet,
}

impl Bystander {
    fn start(sandbox: &Sandbox) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = roles::command(sandbox, "rest");
        command.stdin(Stdio::piped());
        if sandbox.is_root {
            command.uid(65534).gid(65534);
        }
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let puppet = Puppet::seize(pid);
        Self { child, puppet }
    }

    fn end(self) {
        let Self { mut child, puppet } = self;
        puppet.release();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "it went on as before");
    }
}

/// Every call that ends a role returns in a process that is not confined: it is the
/// filters that end them, and not the way in which they are made.
pub(super) fn nothing_stops_a_bystander(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let mut bystander = Bystander::start(sandbox);
    for theme in THEMES {
        let list = theme(&mut bystander.puppet.fork(), &scene, Role::Bystander);
        for (index, attempt) in list.iter().enumerate() {
            if matches!(attempt.expected, Expected::Killed | Expected::Works) {
                let mut puppet = bystander.puppet.fork();
                let attempt = &theme(&mut puppet, &scene, Role::Bystander)[index];
                let outcome = puppet.syscall(attempt.number, &attempt.arguments);
                assert!(
                    matches!(outcome, Outcome::Returned(_)),
                    "{}: {outcome:?}",
                    attempt.what
                );
            }
        }
    }
    bystander.end();
    scene.others_are_served();
    Ok(())
}

/// To have the same user is not enough to trace a role or to read its memory.
pub(super) fn attack_27_reaches_no_role(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let mut bystander = Bystander::start(sandbox);
    let other = Bystander::start(sandbox);
    let puppet = &mut bystander.puppet;
    let mut reach = |process: Pid, wanted: Option<Errno>, unreadable: Option<Errno>| {
        let pid = int(process.as_raw());
        let room = puppet.place(&[0; 16]);
        let local = puppet.words(&[room, 8]);
        let remote = puppet.words(&[other.puppet.rest(), 8]);
        let memory = puppet.text(format!("/proc/{process}/mem"));
        let pidfd = number(puppet.syscall(libc::SYS_pidfd_open, &[pid]));
        let mut check = |what: &str, call: c_long, arguments: &[u64], wanted: Option<Errno>| {
            let outcome = puppet.syscall(call, arguments);
            let met = match wanted {
                Some(errno) => outcome == Outcome::Returned(Err(errno)),
                None => matches!(outcome, Outcome::Returned(Ok(_))),
            };
            assert!(met, "{what} of {process}: {outcome:?}");
        };
        let vector = [pid, local, 1, remote, 1];
        check("read", libc::SYS_process_vm_readv, &vector, wanted);
        check("write", libc::SYS_process_vm_writev, &vector, wanted);
        check("descriptor", libc::SYS_pidfd_getfd, &[pidfd, 0], wanted);
        check("open", libc::SYS_open, &[memory, 2], unreadable);
        if wanted.is_some() {
            // `PTRACE_SEIZE`; the other bystander is traced already.
            check("trace", libc::SYS_ptrace, &[0x4206, pid], wanted);
        }
    };
    for process in scene.processes.into_iter().chain([scene.locker]) {
        reach(process, Some(Errno::EPERM), Some(Errno::EACCES));
    }
    reach(other.puppet.pid(), None, None);
    bystander.end();
    other.end();
    scene.others_are_served();
    Ok(())
}

/// The entry of 32-bit programs, which numbers its calls in another way, and text that
/// the owner of the process wrote.
pub(super) fn attack_28_has_no_other_entry(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    // `getpid`, there.
    const GETPID: u64 = 20;
    let mut scene = Scene::start(sandbox);
    let mut bystander = Bystander::start(sandbox);
    let mut child = bystander.puppet.fork();
    let wanted = match child.syscall_of_32_bits(GETPID) {
        Some(Outcome::Returned(Ok(_))) => SIGSYS,
        // This kernel has no such entry.
        Some(Outcome::Killed(Signal::SIGSEGV)) => Outcome::Killed(Signal::SIGSEGV),
        other => panic!("{other:?}"),
    };
    drop(child);
    bystander.end();
    unchanged(|| {
        let mut victims = Victims::of(&scene, role);
        let (mut puppet, _wire) = victims.next(&scene);
        assert_eq!(puppet.syscall_of_32_bits(GETPID), Some(wanted));
        let (mut puppet, _wire) = victims.next(&scene);
        let text = puppet.place(&[0x0f, 0x05]);
        assert_eq!(puppet.execute(text), Outcome::Killed(Signal::SIGSEGV));
        victims.release();
    });
    scene.others_are_served();
    Ok(())
}

/// Landlock does not check `O_PATH`. What was opened so leads to nothing in the role.
pub(super) fn attack_28_an_unopened_path_leads_nowhere(
    sandbox: &Sandbox,
    role: Role,
) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    unchanged(|| {
        let mut victims = Victims::of(&scene, role);
        for call in [
            libc::SYS_fchdir,
            libc::SYS_getdents64,
            libc::SYS_pread64,
            libc::SYS_readlinkat,
            libc::SYS_execveat,
        ] {
            let (mut puppet, _wire) = victims.next(&scene);
            let etc = puppet.text("/etc");
            let unopened = puppet.words(&[int(libc::O_PATH), 0, 0]);
            let here = int(libc::AT_FDCWD);
            let descriptor = number(puppet.syscall(libc::SYS_openat2, &[here, etc, unopened, 24]));
            let read = puppet.words(&[0, 0, 0]);
            for (from, path) in [
                (descriptor, "passwd".to_owned()),
                (descriptor, ".".to_owned()),
                (here, format!("/proc/self/fd/{descriptor}")),
            ] {
                let name = puppet.text(path);
                let opened = puppet.syscall(libc::SYS_openat2, &[from, name, read, 24]);
                assert_eq!(opened, DENIED);
            }
            let room = puppet.place(&[0; 64]);
            let used = puppet.syscall(call, &[descriptor, room, 64, 0]);
            assert_eq!(used, SIGSYS, "{call}");
        }
        victims.release();
    });
    scene.others_are_served();
    Ok(())
}

/// Domains stack: one that allows everything takes nothing back.
pub(super) fn attack_28_another_domain_only_narrows(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let mut victims = Victims::of(&scene, Role::Gate);
    let (mut puppet, _) = victims.next(&scene);
    let here = int(libc::AT_FDCWD);
    let root = puppet.text("/");
    let (read, unopened) = (
        puppet.words(&[0; 3]),
        puppet.words(&[int(libc::O_PATH), 0, 0]),
    );
    let beneath = number(puppet.syscall(libc::SYS_openat2, &[here, root, unopened, 24]));
    // `LANDLOCK_ACCESS_FS_READ_FILE | READ_DIR`, beneath everything.
    let rights = puppet.words(&[0xc]);
    let rule = puppet.words(&[0xc, beneath]);
    let ruleset = number(puppet.syscall(libc::SYS_landlock_create_ruleset, &[rights, 8, 0]));
    for (call, arguments) in [
        (libc::SYS_landlock_add_rule, [ruleset, 1, rule, 0]),
        (libc::SYS_landlock_restrict_self, [ruleset, 0, 0, 0]),
    ] {
        number(puppet.syscall(call, &arguments));
    }
    let opened = puppet.syscall(libc::SYS_openat2, &[here, root, read, 24]);
    assert_eq!(opened, DENIED);
    drop(puppet);
    victims.release();
    scene.others_are_served();
    Ok(())
}

/// What `docs/architecture.md` says that a mounter could still do, so that it stays true:
/// the one buffer for names is its own to fill, with a whole path too.
pub(super) fn could_still_use_the_name_buffer(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let target = sandbox.path("mnt/a");
    scene.kept.mount(Tmpfs::new(&target).unwrap()).unwrap();
    let (wire, _, mounter) = scene.connect();
    let mut puppet = Puppet::seize(mounter);
    let name = Pinned::name(&puppet, &scene);
    puppet.write(name, format!("{}\0", target.display()).as_bytes());
    let room = puppet.place(&[0; 256]);
    // `AT_SYMLINK_NOFOLLOW`, `AT_STATX_DONT_SYNC`, `AT_NO_AUTOMOUNT`.
    let look = [int(libc::AT_FDCWD), name, 0x100 | 0x4000 | 0x800, 0, room];
    number(puppet.syscall(libc::SYS_statx, &look));
    let unmount = [name, int(libc::UMOUNT_NOFOLLOW)];
    number(puppet.syscall(libc::SYS_umount2, &unmount));
    assert_eq!(kernel::at(&target), []);
    puppet.release();
    drop(wire);
    scene.others_are_served();
    Ok(())
}

/// A role that was held and let go serves as before: the attempts leave no trace.
pub(super) fn a_released_role_goes_on(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    for pid in scene.processes.into_iter().chain([scene.locker]) {
        let mut puppet = Puppet::seize(pid);
        let own = puppet.syscall(libc::SYS_getpid, &[]);
        assert_eq!(own, Outcome::Returned(Ok(int(pid.as_raw()))));
        puppet.release();
        scene.others_are_served();
    }
    Ok(())
}
