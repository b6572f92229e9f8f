//! Ways to the other roles.

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::attempts::{Attempt, fails, int, killed, works};
use super::{Role, Scene};
use crate::puppet::Puppet;

fn pid(process: Pid) -> u64 {
    int(process.as_raw())
}

/// Other roles' memory, descriptors and settings.
pub(super) fn attack_27_touches_no_other_role(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let room = puppet.place(&[0; 64]);
    let local = puppet.words(&[room, 8]);
    let remote = puppet.words(&[puppet.rest(), 8]);
    let nofile = u64::from(libc::RLIMIT_NOFILE);
    let mut attempts = Vec::new();
    for process in scene.processes.into_iter().chain([scene.locker]) {
        let other = pid(process);
        let mut all = vec![
            killed("PTRACE_ATTACH", libc::SYS_ptrace, &[16, other]),
            killed("PTRACE_SEIZE", libc::SYS_ptrace, &[0x4206, other]),
            killed("PTRACE_PEEKDATA", libc::SYS_ptrace, &[2, other, room, room]),
            killed("pidfd_open", libc::SYS_pidfd_open, &[other]),
            killed(
                "process_vm_readv",
                libc::SYS_process_vm_readv,
                &[other, local, 1, remote, 1],
            ),
            killed(
                "process_vm_writev",
                libc::SYS_process_vm_writev,
                &[other, local, 1, remote, 1],
            ),
            killed("kcmp", libc::SYS_kcmp, &[other, other, 0, 3, 3]),
            killed("prlimit64", libc::SYS_prlimit64, &[other, nofile, 0, room]),
            killed("setpriority", libc::SYS_setpriority, &[0, other, 0]),
            killed(
                "sched_setaffinity",
                libc::SYS_sched_setaffinity,
                &[other, 0, room],
            ),
            killed(
                "sched_setscheduler",
                libc::SYS_sched_setscheduler,
                &[other, 0, room],
            ),
            killed("ioprio_set", libc::SYS_ioprio_set, &[1, other]),
            killed("setpgid", libc::SYS_setpgid, &[other]),
            killed("move_pages", libc::SYS_move_pages, &[other]),
            killed(
                "get_robust_list",
                libc::SYS_get_robust_list,
                &[other, room, room],
            ),
        ];
        for attempt in &mut all {
            attempt.what = format!("{} of {process}", attempt.what);
        }
        attempts.extend(all);
    }
    attempts.push(killed("PTRACE_TRACEME", libc::SYS_ptrace, &[0]));
    attempts.push(killed("pidfd_getfd", libc::SYS_pidfd_getfd, &[3, 3]));
    attempts.push(killed(
        "process_madvise",
        libc::SYS_process_madvise,
        &[3, local, 1],
    ));
    attempts.push(killed("process_mrelease", libc::SYS_process_mrelease, &[3]));
    // Signals by I/O, which a filter of `kill` would not see.
    let owner = [3, int(libc::F_SETOWN), pid(scene.processes[2])];
    attempts.push(killed("F_SETOWN", libc::SYS_fcntl, &owner));
    attempts.push(killed("F_SETSIG", libc::SYS_fcntl, &[3, 10, 9]));
    if matches!(role, Role::Gate | Role::Warden) {
        attempts.push(works(
            "its own limit",
            libc::SYS_prlimit64,
            &[0, nofile, 0, room],
        ));
    }
    attempts
}

/// Signals to every other role. Landlock says who is reached from ABI 6 on.
pub(super) fn attack_27_signals_no_other_role(
    puppet: &mut Puppet,
    scene: &Scene<'_>,
    role: Role,
) -> Vec<Attempt> {
    let [gate, session, warden, mounter] = scene.processes;
    let room = puppet.place(&[0; 128]);
    let mut attempts = Vec::new();
    // Its children are within its own domain.
    let out_of_reach = match role {
        Role::Gate => vec![warden, mounter],
        Role::Warden => vec![gate, session],
        Role::Session | Role::Mounter | Role::Locker | Role::Bystander => {
            vec![gate, session, warden, mounter]
        }
    };
    for process in out_of_reach {
        let other = pid(process);
        let abort = int(libc::SIGABRT);
        attempts.push(fails(
            format!("tgkill {process}"),
            libc::SYS_tgkill,
            &[other, other, abort],
            Errno::EPERM,
        ));
        for signal in [0, libc::SIGKILL, libc::SIGTERM] {
            let what = format!("kill {process} with {signal}");
            let arguments = [other, int(signal)];
            let may_try = match role {
                Role::Warden => true,
                Role::Locker => signal == libc::SIGKILL,
                _ => false,
            };
            attempts.push(if may_try {
                fails(what, libc::SYS_kill, &arguments, Errno::EPERM)
            } else {
                killed(what, libc::SYS_kill, &arguments)
            });
        }
    }
    let own = pid(puppet.pid());
    for signal in [libc::SIGSTOP, libc::SIGSYS, libc::SIGALRM] {
        let signal = int(signal);
        attempts.push(killed("kill", libc::SYS_kill, &[pid(mounter), signal]));
        attempts.push(killed("tgkill", libc::SYS_tgkill, &[own, own, signal]));
    }
    attempts.extend([
        killed("tkill", libc::SYS_tkill, &[own, 6]),
        killed(
            "rt_sigqueueinfo",
            libc::SYS_rt_sigqueueinfo,
            &[own, 6, room],
        ),
        killed(
            "rt_tgsigqueueinfo",
            libc::SYS_rt_tgsigqueueinfo,
            &[own, own, 6, room],
        ),
        killed(
            "pidfd_send_signal",
            libc::SYS_pidfd_send_signal,
            &[3, 6, room],
        ),
        killed("rt_sigaction", libc::SYS_rt_sigaction, &[14, room, 0, 8]),
        killed("sigaltstack", libc::SYS_sigaltstack, &[0, room]),
        killed("signalfd4", libc::SYS_signalfd4, &[u64::MAX, room, 8]),
        killed("alarm", libc::SYS_alarm, &[0]),
        killed("timer_create", libc::SYS_timer_create, &[0, 0, room]),
        killed("timerfd_create", libc::SYS_timerfd_create, &[0]),
        killed("pause", libc::SYS_pause, &[]),
    ]);
    if role == Role::Warden {
        attempts.push(works(
            "kill its mounter with 0",
            libc::SYS_kill,
            &[pid(mounter), 0],
        ));
    }
    attempts
}
