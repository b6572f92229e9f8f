//! The other processes that cases need.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use mountwarden_client::protocol::{Operation, Reply, Request};
use mountwarden_client::{Client, ErrorKind, Tmpfs};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::{Gid, Uid, execv, execve, geteuid, getpid, seteuid, setgid, setgroups, setuid};
use rustix::process::{Resource, Rlimit, prlimit};

use crate::holder;
use crate::keeper;
use crate::sandbox::Sandbox;
use crate::tracer;
use crate::wire::Wire;

/// Names the role that a process plays; its arguments are the role's.
pub(crate) const ROLE: &str = "MOUNTWARDEN_E2E_ROLE";

/// This program as a role.
pub(crate) fn command(sandbox: &Sandbox, role: &str) -> Command {
    as_role(sandbox.path("bin/e2e"), role)
}

fn as_role(program: PathBuf, role: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove(crate::CASE).env(ROLE, role);
    command
}

pub(crate) fn play(role: &str) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match role {
        "namespace" => namespace(&arguments),
        "elsewhere" => elsewhere(),
        "connect" => connect(&arguments),
        "speak" => speak(&arguments),
        "as" => become_and_run(&arguments),
        "activate" => activate(&arguments),
        "block" => block(&arguments),
        "rest" => rest(),
        "join" => join(&arguments),
        "load" => load(&arguments),
        "trace" => tracer::trace(&arguments),
        "held" => tracer::held(),
        "limit" => limit(&arguments),
        "alone" => alone(&arguments),
        "mapped" => mapped(),
        "holder" => holder::play(&arguments),
        "volume" => keeper::use_volume(&arguments),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

/// Another mount namespace, copied from the starter's: says so, waits for a
/// line, and tells how many mounts lie at a path.
fn namespace(arguments: &[String]) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    println!("{}", crate::kernel::at(&PathBuf::from(&arguments[0])).len());
}

/// Another mount namespace, copied from the starter's: mounts there, and tells how
/// many mounts lie at a path. Each line is a word and a path; so is each answer a line.
fn elsewhere() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (word, path) = line.split_once(' ').unwrap();
        let path = PathBuf::from(path);
        match word {
            "mount" => crate::sandbox::mount_tmpfs(&path),
            "count" => {}
            other => panic!("no word {other}"),
        }
        println!("{}", crate::kernel::at(&path).len());
    }
}

/// Connects as one user, gives the connection to a process of another, and
/// ends: `SOCKET UID UID TARGET...`
#[expect(
    clippy::zombie_processes,
    reason = "this process must be gone while the other speaks"
)]
fn connect(arguments: &[String]) {
    let uid = |index: usize| arguments[index].parse::<u32>().unwrap();
    seteuid(Uid::from_raw(uid(1))).unwrap();
    let stream = UnixStream::connect(&arguments[0]).unwrap();
    seteuid(Uid::from_raw(0)).unwrap();
    // It inherits standard output, whose end the case waits for.
    as_role(std::env::current_exe().unwrap(), "speak")
        .args(&arguments[3..])
        .uid(uid(2))
        .gid(uid(2))
        .stdin(OwnedFd::from(stream))
        .spawn()
        .unwrap();
}

/// Speaks over a connection that somebody else made: asks for a tmpfs at each
/// target and prints the answers.
fn speak(targets: &[String]) {
    println!("running as {}", geteuid());
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut wire = Wire(UnixStream::from(socket));
    println!("served as {}", wire.shake());
    for target in targets {
        let mount = Tmpfs::new(target).unwrap().into();
        match wire.ask(&Request::Perform(Operation::Mount(mount))) {
            Reply::Error(error) => println!("{}", error.code),
            Reply::Mounted(_) => println!("mounted"),
            other => println!("{other:?}"),
        }
    }
}

/// Becomes a user with supplementary groups and runs a program:
/// `UID GID GROUP,GROUP... PROGRAM ARGUMENT...`
fn become_and_run(arguments: &[String]) {
    let id = |index: usize| arguments[index].parse::<u32>().unwrap();
    let groups: Vec<Gid> = arguments[2]
        .split(',')
        .map(|group| Gid::from_raw(group.parse().unwrap()))
        .collect();
    setgroups(&groups).unwrap();
    setgid(Gid::from_raw(id(1))).unwrap();
    setuid(Uid::from_raw(id(0))).unwrap();
    exec(&arguments[3..]);
}

/// Passes a listening socket as systemd does, well or in some way that does not
/// fit: `SOCKET HOW PROGRAM ARGUMENT...`. One that is `kept` listens already, and
/// is standard input.
fn activate(arguments: &[String]) {
    let how = &arguments[1][..];
    if how == "kept" {
        let kept = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        fcntl(&kept, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        pass(&kept, how, &arguments[2..]);
    }
    let kind = match how {
        "seqpacket" => SockType::SeqPacket,
        _ => SockType::Stream,
    };
    let made = socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
    bind(made.as_raw_fd(), &UnixAddr::new(&arguments[0][..]).unwrap()).unwrap();
    if how != "unlistened" {
        listen(&made, Backlog::MAXCONN).unwrap();
    }
    pass(&made, how, &arguments[2..]);
}

/// Runs a program that finds the socket where systemd would have put it.
fn pass(socket: &OwnedFd, how: &str, program: &[String]) -> ! {
    assert_eq!(socket.as_raw_fd(), 3, "the first free descriptor");
    let count = if how == "two" { "2" } else { "1" };
    let pid = if how == "anothers" {
        "1".to_owned()
    } else {
        getpid().to_string()
    };
    let environment = [
        ("LISTEN_FDS".to_owned(), count.to_owned()),
        ("LISTEN_PID".to_owned(), pid),
    ];
    let environment: Vec<CString> = std::env::vars()
        .chain(environment)
        .map(|(key, value)| CString::new(format!("{key}={value}")).unwrap())
        .collect();
    let program = strings(program);
    let Err(errno) = execve(&program[0], &program, &environment);
    panic!("{errno}");
}

/// Runs a program with every signal blocked: `PROGRAM ARGUMENT...`
fn block(arguments: &[String]) {
    SigSet::all().thread_block().unwrap();
    exec(arguments);
}

/// Waits for the end of its input.
fn rest() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// Joins the user and mount namespace of a process and runs a program there:
/// `PID PROGRAM ARGUMENT...`
fn join(arguments: &[String]) {
    let open = |name: &str| std::fs::File::open(format!("/proc/{}/ns/{name}", arguments[0]));
    let (user, mount) = (open("user").unwrap(), open("mnt").unwrap());
    setns(user, CloneFlags::CLONE_NEWUSER).unwrap();
    setns(mount, CloneFlags::CLONE_NEWNS).unwrap();
    exec(&arguments[1..]);
}

/// Mounts and unmounts a tmpfs until it is killed: `SOCKET TARGET`
fn load(arguments: &[String]) {
    let mut client = loop {
        match Client::connect_to(&arguments[0]) {
            Ok(client) => break client,
            // Those who have left count until their processes have seen it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}"),
        }
    };
    loop {
        let mounted = client.mount(Tmpfs::new(&arguments[1]).unwrap());
        let ended = mounted.and_then(|made| client.unmount(&made));
        if let Err(error) = ended {
            // What one asked for that was killed before may still be done.
            let of_another = ["busy", "changed", "not-mounted", "id-mismatch"];
            assert!(of_another.contains(&error.kind().name()), "{error}");
        }
    }
}

/// Enters a user and a mount namespace of its own, where it is root, and runs a program
/// there: `PROGRAM ARGUMENT...`
fn alone(arguments: &[String]) {
    holder::enter_namespaces_of_ones_own();
    exec(arguments);
}

/// Enters a user namespace, whose maps somebody else writes, says so, and for each line
/// that it reads enters one more.
fn mapped() {
    loop {
        unshare(CloneFlags::CLONE_NEWUSER).unwrap();
        println!("ready");
        if std::io::stdin().read_line(&mut String::new()).unwrap() == 0 {
            return;
        }
    }
}

/// Sets how many descriptors a process of the same user may open: `PID SOFT HARD`
fn limit(arguments: &[String]) {
    let number = |index: usize| arguments[index].parse::<u64>().unwrap();
    let pid = rustix::process::Pid::from_raw(arguments[0].parse().unwrap());
    let limit = Rlimit {
        current: Some(number(1)),
        maximum: Some(number(2)),
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

fn exec(arguments: &[String]) {
    let arguments = strings(arguments);
    let Err(errno) = execv(&arguments[0], &arguments);
    panic!("{errno}");
}

fn strings(arguments: &[String]) -> Vec<CString> {
    arguments
        .iter()
        .map(|argument| CString::new(argument.as_bytes()).unwrap())
        .collect()
}

/// Reads what a role has printed so far, a line at a time.
pub(crate) fn read_line(from: &mut impl Read) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    line
}
