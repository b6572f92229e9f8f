//! Every number that is a system call, or could become one, beside a role's table.

use std::collections::BTreeSet;
use std::process::Command;

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::signal::Signal;

use super::{Role, Scene, Victims};
use crate::Skip;
use crate::daemon::outcome;
use crate::kernel::unchanged;
use crate::puppet::Outcome;
use crate::sandbox::Sandbox;

/// Above every number that Linux has, with room for those to come.
const HIGHEST: c_long = 550;
/// `__X32_SYSCALL_BIT`, which makes another call of every number.
const X32: c_long = 0x4000_0000;
const URETPROBE: c_long = 335;
const UPROBE: c_long = 336;

pub(super) fn keeps_to_its_table(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let name = role.name();
    let listed = table(sandbox, name);
    let numbers = (0..=HIGHEST)
        .filter(|number| !listed.contains(number))
        .chain((0..=HIGHEST).map(|number| number | X32))
        .chain([-1, c_long::from(i32::MIN), c_long::from(i32::MAX)]);
    unchanged(|| {
        let mut victims = Victims::of(&scene, role);
        for number in numbers {
            let (mut puppet, _wire) = victims.next(&scene);
            let outcome = puppet.syscall(number, &[]);
            let stopped = match outcome {
                Outcome::Killed(Signal::SIGSYS) => true,
                // Newer kernels ask no filter about these two, which end or refuse
                // whoever is not the kernel's own probe.
                Outcome::Killed(Signal::SIGILL) => number == URETPROBE,
                Outcome::Returned(Err(Errno::ENXIO)) => number == UPROBE,
                _ => false,
            };
            assert!(
                stopped,
                "{name}: {number} is not in its table, and {outcome:?}"
            );
        }
        victims.release();
    });
    scene.others_are_served();
    Ok(())
}

/// The numbers that the table of a role lists, as the program prints it.
fn table(sandbox: &Sandbox, role: &str) -> BTreeSet<c_long> {
    let (status, text, _) = outcome(Command::new(sandbox.helper()).arg("confinement"));
    assert_eq!(status, 0);
    let calls: BTreeSet<c_long> = text
        .lines()
        .skip_while(|line| *line != role)
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| number_of(line.split_whitespace().next().unwrap()))
        .collect();
    assert!(calls.len() > 10, "{text}");
    calls
}

macro_rules! numbers {
    ($name:ident: $($call:ident $number:ident)+) => {
        match $name {
            $(stringify!($call) => libc::$number,)+
            "statmount" => 457,
            "listmount" => 458,
            other => panic!("which number has {other}?"),
        }
    };
}

fn number_of(name: &str) -> c_long {
    numbers! { name:
        accept4 SYS_accept4 brk SYS_brk capget SYS_capget clock_gettime SYS_clock_gettime
        clone SYS_clone close SYS_close close_range SYS_close_range dup3 SYS_dup3
        exit_group SYS_exit_group fchdir SYS_fchdir fcntl SYS_fcntl fsconfig SYS_fsconfig
        fsmount SYS_fsmount fsopen SYS_fsopen fstat SYS_fstat fstatfs SYS_fstatfs
        geteuid SYS_geteuid getpid SYS_getpid getppid SYS_getppid
        getsockname SYS_getsockname getsockopt SYS_getsockopt gettid SYS_gettid
        kill SYS_kill landlock_add_rule SYS_landlock_add_rule
        landlock_create_ruleset SYS_landlock_create_ruleset
        landlock_restrict_self SYS_landlock_restrict_self
        mount_setattr SYS_mount_setattr move_mount SYS_move_mount newfstatat SYS_newfstatat
        open_tree SYS_open_tree openat SYS_openat openat2 SYS_openat2 ppoll SYS_ppoll
        prctl SYS_prctl prlimit64 SYS_prlimit64 read SYS_read readlinkat SYS_readlinkat
        recvmsg SYS_recvmsg rt_sigprocmask SYS_rt_sigprocmask seccomp SYS_seccomp
        sendmsg SYS_sendmsg set_robust_list SYS_set_robust_list setitimer SYS_setitimer
        setsockopt SYS_setsockopt socketpair SYS_socketpair statx SYS_statx
        tgkill SYS_tgkill umount2 SYS_umount2 wait4 SYS_wait4 write SYS_write
    }
}
