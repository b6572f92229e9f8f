//! Ends of single roles, and file systems that do not answer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use mountwarden_client::protocol::{Hello, HelloReply, Operation, Reply, Request, frame};
use mountwarden_client::{Detach, ErrorCode, ErrorKind, Outcome, Tmpfs, Unmount};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::between::{is_in_state, sleeps, wait_for_state};
use super::confinement::only;
use crate::daemon::{Daemon, wait_for};
use crate::kernel::{self, descendants, is_alive, named, unchanged};
use crate::sandbox::{POLICY, SECOND, Sandbox};
use crate::wire::{Wire, body};
use crate::{Skip, fuse, slowly};

pub(crate) fn attack_30_a_killed_role_ends_its_connection(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut daemon = Daemon::start(sandbox);
    let mut kept = daemon.client();
    kept.mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    for name in ["mw-session", "mw-mounter"] {
        let others: Vec<_> = named(daemon.pid(), name);
        let mut client = daemon.client();
        let victim = named(daemon.pid(), name)
            .into_iter()
            .find(|pid| !others.contains(pid))
            .unwrap();
        unchanged(|| {
            kill(victim, Signal::SIGKILL).unwrap();
            wait_for("its other half ends too", || {
                (descendants(daemon.pid()).len() == 4).then_some(())
            });
        });
        // The client connects again by itself, because a list may be repeated.
        assert_eq!(client.list().unwrap().len(), 1);
        drop(client);
        assert_eq!(
            kept.list().unwrap().len(),
            1,
            "the other connection goes on"
        );
        wait_for("the second connection ends", || {
            (descendants(daemon.pid()).len() == 4).then_some(())
        });
    }
    assert!(daemon.runs());
    assert!(
        daemon.log().contains("a mounter of uid"),
        "the warden reports it"
    );
    // Without its gate the helper ends, for the service manager to start it again.
    let gate = only(&daemon, "mw-gate");
    unchanged(|| {
        kill(gate, Signal::SIGKILL).unwrap();
        wait_for("the helper ends", || (!daemon.runs()).then_some(()));
    });
    Ok(())
}

pub(crate) fn attack_30_a_killed_warden_leaves_nothing_behind(
    sandbox: &Sandbox,
) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    client
        .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    assert_eq!(descendants(daemon.pid()).len(), 4);
    // All four end with the warden: `kill` waits for them.
    unchanged(|| daemon.kill());
    assert_eq!(client.list().unwrap_err().kind(), ErrorKind::Unavailable);
    Ok(())
}

/// A session that has no mounter any more when it wants to report a bad frame.
pub(crate) fn attack_30_a_mounter_is_gone_inside_a_frame(sandbox: &Sandbox) -> Result<(), Skip> {
    look_inside(sandbox)?;
    let daemon = Daemon::start(sandbox);
    let mut wire = Wire::open(&daemon.socket);
    let session = only(&daemon, "mw-session");
    unchanged(|| {
        wire.0.write_all(&[1]).unwrap();
        // Between frames it waits for the mounter too; inside one for the client alone.
        wait_for("it reads a frame", || {
            let call = blocked(session)?;
            (call[0] == libc::SYS_ppoll && call[2] == 1).then_some(())
        });
        let mounter = only(&daemon, "mw-mounter");
        kill(mounter, Signal::SIGKILL).unwrap();
        wait_for("it is gone", || (!is_alive(mounter)).then_some(()));
        wire.0.write_all(&[0, 0, 0, 99]).unwrap();
        let error = wire.error(ErrorCode::Unavailable);
        assert!(error.message.contains("nothing was done"), "{error:?}");
        assert!(wire.is_closed());
        wait_for("both halves end", || {
            (descendants(daemon.pid()).len() == 2).then_some(())
        });
    });
    // The warden's line says how the mounter ended; the session has none to add.
    let log = daemon.log();
    assert!(!log.contains(r#""role":"session""#), "{log}");
    daemon.client().list().unwrap();
    Ok(())
}

/// Skips what looks into a process of the helper: what may not be dumped belongs to
/// root in `/proc` (`proc_pid(5)`).
fn look_inside(sandbox: &Sandbox) -> Result<(), Skip> {
    if sandbox.is_root {
        return Ok(());
    }
    let why = "only root can look into a process that may not be dumped";
    Err(Skip(why.to_owned()))
}

/// The call that a process is blocked in: its number, its arguments, the stack and
/// where it will go on (`proc_pid_syscall(5)`).
fn blocked(pid: Pid) -> Option<Vec<i64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(u64::cast_signed),
        None => word.parse().ok(),
    };
    let words: Option<Vec<i64>> = text.split_whitespace().map(number).collect();
    words.filter(|words| words.len() == 9)
}

/// What libc calls when it gives up is in every filter: the role ends by SIGABRT, not
/// by its filter. Such an end takes a fault, so the case makes one: the next thing
/// that the process does is to call `abort(3)`.
pub(crate) fn an_abort_is_no_seccomp_kill(sandbox: &Sandbox) -> Result<(), Skip> {
    look_inside(sandbox)?;
    text_can_be_written()?;
    if !cfg!(target_arch = "x86_64") {
        return Err(Skip("it writes machine code for x86_64".to_owned()));
    }
    let mut daemon = Daemon::start(sandbox);
    for (role, says) in [
        ("mw-session", "a session of uid"),
        ("mw-mounter", "a mounter of uid"),
    ] {
        let mut wire = Wire::open(&daemon.socket);
        let pid = only(&daemon, role);
        unchanged(|| {
            make_abort(pid, libc::SYS_ppoll);
            frame::write(&mut wire.0, &Request::Status).unwrap();
            wait_for("both halves end", || {
                (descendants(daemon.pid()).len() == 2).then_some(())
            });
        });
        let line = wait_for("its end is logged", || {
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains(says));
            line.map(str::to_owned)
        });
        assert!(line.contains("killed by SIGABRT"), "{line}");
    }
    assert!(daemon.runs());
    daemon.client().list().unwrap();
    daemon.stop();
    the_locker_aborts(sandbox);
    Ok(())
}

/// There is one, and so the helper ends with it.
fn the_locker_aborts(sandbox: &Sandbox) {
    super::detached::granted(sandbox, "");
    let mut daemon = Daemon::start(sandbox);
    let detach = Detach::new(sandbox.path("src/data")).unwrap();
    unchanged(|| {
        make_abort(only(&daemon, "mw-locker"), libc::SYS_recvmsg);
        daemon.client().detach(detach).unwrap_err();
        assert_eq!(daemon.end().code(), Some(1));
    });
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("the locker ended"));
    assert!(line.unwrap().contains("killed by SIGABRT"), "{log}");
}

/// Skips what writes to the text of a process: since Linux 6.12 a kernel may be built to
/// let nobody do that but a tracer (`PROC_MEM_FORCE_PTRACE`), or nobody at all.
pub(crate) fn text_can_be_written() -> Result<(), Skip> {
    let memory = fs::File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .unwrap();
    let place = u64::try_from(fn_address(libc::abort)).unwrap();
    let mut byte = [0];
    memory.read_exact_at(&mut byte, place).unwrap();
    memory.write_all_at(&byte, place).map_err(|error| {
        Skip(format!(
            "this kernel lets no text be written through /proc: {error}"
        ))
    })
}

/// Writes a call of `abort` to where a blocked process will go on.
fn make_abort(pid: Pid, waits_in: libc::c_long) {
    let libc_of = |pid: &str| {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let line = maps.lines().find(|line| line.contains("/libc.so")).unwrap();
        u64::from_str_radix(line.split_once('-').unwrap().0, 16).unwrap()
    };
    let ours = u64::try_from(fn_address(libc::abort)).unwrap();
    let abort = ours - libc_of("self") + libc_of(&pid.to_string());
    let next = wait_for("it waits for work", || {
        let call = blocked(pid)?;
        (call[0] == waits_in).then_some(call[8])
    });
    // movabs rax, abort; and rsp, -16; call rax
    let (load, call) = ([0x48, 0xb8], [0x48, 0x83, 0xe4, 0xf0, 0xff, 0xd0]);
    let code = [&load[..], &abort.to_le_bytes(), &call].concat();
    let memory = fs::File::options()
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .unwrap();
    memory.write_all_at(&code, next.cast_unsigned()).unwrap();
}

#[expect(
    clippy::as_conversions,
    reason = "the only way to a function's address"
)]
fn fn_address(function: unsafe extern "C" fn() -> !) -> usize {
    (function as *const ()).addr()
}

/// A stop waits ten seconds for requests, and then for nobody.
pub(crate) fn attack_30_what_does_not_stop_is_killed(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let _client = daemon.client();
    let processes = descendants(daemon.pid());
    // Stopped, it cannot take the SIGTERM that it is sent.
    let mounter = only(&daemon, "mw-mounter");
    kill(mounter, Signal::SIGSTOP).unwrap();
    wait_for_state(mounter, 'T');
    let log = sandbox.path("log");
    let status = unchanged(|| daemon.stop());
    assert_eq!(status.code(), Some(0));
    let log = fs::read_to_string(log).unwrap();
    assert!(
        log.contains("what did not end in time was killed; mounts stay"),
        "{log}"
    );
    wait_for("every role has ended", || {
        (!processes.iter().any(|&pid| is_alive(pid))).then_some(())
    });
    Ok(())
}

/// Where the mounter ended before it had a request, the client is told that
/// nothing was done; where it may have worked on it, the connection just ends.
pub(crate) fn attack_30_what_a_lost_mounter_had(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let mount = Request::Perform(Operation::Mount(tmpfs.into()));
    let stopped = |name: &str| {
        let pid = only(&daemon, name);
        kill(pid, Signal::SIGSTOP).unwrap();
        wait_for_state(pid, 'T');
        pid
    };
    let lose_mounter = |session| {
        let mounter = only(&daemon, "mw-mounter");
        kill(mounter, Signal::SIGKILL).unwrap();
        wait_for("it is gone", || (!is_alive(mounter)).then_some(()));
        kill(session, Signal::SIGCONT).unwrap();
    };
    let no_connection = || {
        wait_for("the connection ends", || {
            (descendants(daemon.pid()).len() == 2).then_some(())
        });
    };
    unchanged(|| {
        let mut wire = Wire::open(&daemon.socket);
        let session = stopped("mw-session");
        wire.send_body(&body(&mount));
        lose_mounter(session);
        let error = wire.error(ErrorCode::Unavailable);
        assert!(error.message.contains("nothing was done"), "{error:?}");
        assert!(wire.is_closed());
        no_connection();

        // The same before the handshake.
        let mut wire = Wire::connect(&daemon.socket);
        wait_for("both halves", || {
            (named(daemon.pid(), "mw-session").len() == 1
                && named(daemon.pid(), "mw-mounter").len() == 1)
                .then_some(())
        });
        let session = stopped("mw-session");
        frame::write(&mut wire.0, &Hello::default()).unwrap();
        lose_mounter(session);
        let reply = frame::read(&mut wire.0).unwrap();
        match frame::decode(&reply).unwrap() {
            HelloReply::Refused(refusal) => assert_eq!(refusal.error.code, ErrorCode::Unavailable),
            HelloReply::Welcome(welcome) => panic!("{welcome:?}"),
        }
        no_connection();

        // The order is on its way to a mounter that stands still.
        let mut wire = Wire::open(&daemon.socket);
        let mounter = stopped("mw-mounter");
        let session = only(&daemon, "mw-session");
        wait_for_state(session, 'S');
        let before = sleeps(session);
        wire.send_body(&body(&mount));
        wait_for("the session sent its order", || {
            (sleeps(session) > before && is_in_state(session, 'S')).then_some(())
        });
        kill(mounter, Signal::SIGKILL).unwrap();
        assert!(wire.is_closed(), "nobody can say");
        no_connection();
    });
    let mut wire = Wire::open(&daemon.socket);
    assert!(matches!(wire.ask(&mount), Reply::Mounted(_)));
    Ok(())
}

pub(crate) fn attack_31_a_hung_file_system(sandbox: &Sandbox) -> Result<(), Skip> {
    let device = fuse::device()?;
    // Long enough for the other client's requests on a machine that is busy.
    let time = slowly(SECOND * 5);
    let limits = format!(
        "[limits]\nrequest_timeout = \"{}s\"\n[[grant]]",
        time.as_secs()
    );
    sandbox.policy(&POLICY.replacen("[[grant]]", &limits, 1));
    let hung = sandbox.make_dir("mnt/hung");
    // A FUSE server that never answers: this process, which does not read.
    fuse::attach(&device, &hung, true)?;
    let daemon = Daemon::start(sandbox);
    let mut other = daemon.client();
    let begun = Instant::now();
    let blocked = thread::scope(|scope| {
        let beneath = Tmpfs::new(hung.join("beneath")).unwrap();
        let blocked = scope.spawn(|| daemon.client().mount(beneath));
        while !blocked.is_finished() {
            // Served meanwhile, on another connection.
            let made = other
                .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
                .unwrap();
            other.unmount(&made).unwrap();
        }
        blocked.join().unwrap()
    });
    assert_eq!(blocked.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(begun.elapsed() >= time);
    assert!(
        daemon.log().contains("killed by SIGALRM"),
        "the gate reports it"
    );
    // Found, listed and unmounted without asking the server.
    let error = unchanged(|| other.mount(Tmpfs::new(&hung).unwrap()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(other.list().unwrap().len(), 1);
    other.unmount(Unmount::new(&hung).unwrap().lazy()).unwrap();
    assert!(kernel::at(&hung).is_empty());
    Ok(())
}

/// The deadline of a request ends with it: a connection may be idle for longer.
pub(crate) fn a_deadline_ends_with_its_request(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nrequest_timeout = \"@SECOND@\"\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
    let daemon = Daemon::start(sandbox);
    // It does not connect again by itself, as the library does.
    let mut wire = Wire::open(&daemon.socket);
    let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let mount = Request::Perform(Operation::Mount(tmpfs.into()));
    for wanted in [Outcome::Mounted, Outcome::AlreadyMounted] {
        let reply = wire.ask(&mount);
        assert!(
            matches!(&reply, Reply::Mounted(made) if made.outcome == wanted),
            "{reply:?}"
        );
        thread::sleep(slowly(SECOND) + Duration::from_millis(300));
    }
    assert!(matches!(wire.ask(&Request::Status), Reply::Status(_)));
    Ok(())
}
