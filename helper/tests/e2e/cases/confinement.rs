//! What confines the helper's processes, asked of the kernel from outside.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::daemon::{Daemon, command, outcome, wait_for};
use crate::kernel::{descendants, named, status_field};
use crate::sandbox::Sandbox;
use crate::{Skip, roles};

/// `CAP_SYS_ADMIN` in `capabilities(7)`.
const SYS_ADMIN: &str = "0000000000200000";
const NONE: &str = "0000000000000000";

fn group_of_nobody() -> String {
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    nobody.gid.to_string()
}

pub(crate) fn processes_are_confined(sandbox: &Sandbox) -> Result<(), Skip> {
    super::detached::granted(sandbox, "");
    let mut start = command(sandbox);
    if sandbox.is_root {
        // With a supplementary group that nobody asked for.
        let helper = start;
        start = roles::command(sandbox, "as");
        start.args(["0", "0", "5001"]);
        start.arg(helper.get_program()).args(helper.get_args());
    }
    // With a descriptor that nobody asked for either.
    let (mut read, leaked) = std::io::pipe().unwrap();
    fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let daemon = Daemon::start_with(sandbox, start);
    drop(leaked);
    let mut end = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut end, PollTimeout::from(5_000_u16)).unwrap();
    assert_eq!(ended, 1, "it is open in the helper");
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
    let client = daemon.client();
    for (name, capabilities) in [
        ("mw-gate", NONE),
        ("mw-session", NONE),
        ("mw-warden", SYS_ADMIN),
        ("mw-mounter", SYS_ADMIN),
        ("mw-locker", SYS_ADMIN),
    ] {
        let found = named(daemon.pid(), name);
        let [pid] = found[..] else {
            panic!("one {name}: {found:?}")
        };
        let field = |field: &str| status_field(pid, field).unwrap();
        let (uid, group) = if sandbox.is_root {
            ("65534", &group_of_nobody()[..])
        } else {
            (
                &geteuid().to_string()[..],
                &nix::unistd::getegid().to_string()[..],
            )
        };
        assert_eq!(
            field("Uid").split_whitespace().collect::<Vec<_>>(),
            [uid; 4],
            "{name}"
        );
        for (set, wanted) in [
            ("CapInh", NONE),
            ("CapPrm", capabilities),
            ("CapEff", capabilities),
            ("CapBnd", capabilities),
            ("CapAmb", NONE),
        ] {
            assert_eq!(field(set), wanted, "{name} {set}");
        }
        assert_eq!(
            field("Gid").split_whitespace().collect::<Vec<_>>(),
            [group; 4],
            "{name}"
        );
        // What nobody may dump or trace belongs to root (`proc_pid(5)`).
        let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
        assert_ne!(owner.to_string(), uid, "{name} can be dumped");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        for (limit, most) in [
            ("Max core file size", 0),
            ("Max locked memory", 0),
            ("Max data size", 64 << 20),
            (
                "Max open files",
                if ["mw-gate", "mw-warden"].contains(&name) {
                    4096
                } else {
                    64
                },
            ),
        ] {
            let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
            let numbers: Vec<u64> = line[limit.len()..]
                .split_whitespace()
                .take(2)
                .map(|word| word.parse().unwrap_or(u64::MAX))
                .collect();
            assert!(numbers.iter().all(|&n| n <= most), "{name}: {line}");
        }
        assert_eq!(field("NoNewPrivs"), "1", "{name}");
        assert_eq!(field("Seccomp"), "2", "{name}");
        assert_eq!(field("Threads"), "1", "{name}");
        if sandbox.is_root {
            assert_eq!(field("Groups"), "", "{name}");
        }
    }
    assert_eq!(descendants(daemon.pid()).len(), 5, "no other process");
    drop(client);
    wait_for("the connection's processes end", || {
        (descendants(daemon.pid()).len() == 3).then_some(())
    });
    Ok(())
}

/// A process of the same user, without capabilities, can do nothing to them.
pub(crate) fn attack_27_not_to_be_traced_or_read(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let daemon = Daemon::start(sandbox);
    let _client = daemon.client();
    for pid in descendants(daemon.pid()) {
        for name in ["mem", "environ", "maps", "fd", "root", "ns/mnt"] {
            let path = format!("/proc/{pid}/{name}");
            let (status, _, error) = as_service_user(&["/bin/ls", &format!("{path}/")]);
            let (read, _, _) = as_service_user(&["/bin/cat", &path]);
            assert!(status != 0 && read != 0, "{path}: {error}");
        }
    }
    // The nearest thing that is allowed: the same on a process that is not confined.
    let (status, _, error) = as_service_user(&["/bin/cat", "/proc/self/maps"]);
    assert_eq!(status, 0, "{error}");
    Ok(())
}

fn as_service_user(arguments: &[&str]) -> (i32, String, String) {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).uid(65534).gid(65534);
    outcome(&mut command)
}

/// What `mountwardend confinement --json` prints.
pub(crate) fn tables(sandbox: &Sandbox) -> Value {
    let printed = outcome(Command::new(sandbox.helper()).args(["confinement", "--json"]));
    assert_eq!((printed.0, &printed.2[..]), (0, ""));
    serde_json::from_str(&printed.1).expect(&printed.1)
}

/// The items of a JSON array.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value}"))
}

pub(crate) fn attack_28_tables_are_printed(sandbox: &Sandbox) -> Result<(), Skip> {
    let tables = tables(sandbox);
    let calls = |role: &str| -> BTreeSet<String> {
        let mut roles = items(&tables["roles"]).iter();
        let found = roles.find(|table| table["role"] == role).unwrap();
        let calls = items(&found["calls"]).iter();
        calls
            .map(|entry| entry["call"].as_str().unwrap().to_owned())
            .collect()
    };
    for role in ["gate", "session"] {
        for call in [
            "move_mount",
            "umount2",
            "open_tree",
            "fsmount",
            "mount_setattr",
        ] {
            assert!(!calls(role).contains(call), "{role} may {call}");
        }
    }
    for role in ["gate", "session", "warden", "mounter", "locker"] {
        for call in [
            "execve", "ptrace", "socket", "bpf", "mount", "open", "mmap", "mprotect",
        ] {
            assert!(!calls(role).contains(call), "{role} may {call}");
        }
    }
    for (role, only) in [
        ("mounter", &["open_tree"][..]),
        // Its own maps, which are pinned beneath one descriptor.
        ("locker", &["open_tree", "openat"]),
    ] {
        let opens = calls(role)
            .into_iter()
            .filter(|call| call.starts_with("open"));
        assert_eq!(opens.collect::<Vec<_>>(), only, "{role}");
    }
    for role in ["gate", "session", "warden", "mounter"] {
        for call in ["unshare", "setns"] {
            assert!(!calls(role).contains(call), "{role} may {call}");
        }
    }
    assert!(calls("mounter").len() <= 30, "{:?}", calls("mounter"));

    // A person reads the same, and the running helper reports as many.
    let (status, text, _) = outcome(Command::new(sandbox.helper()).arg("confinement"));
    assert_eq!(status, 0);
    super::detached::granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let reported = daemon.client().status().unwrap().roles;
    assert_eq!(items(&tables["roles"]).len(), reported.len());
    for (table, report) in items(&tables["roles"]).iter().zip(reported) {
        let role = table["role"].as_str().unwrap();
        assert_eq!(role, report.role.to_string());
        // Of what takes a grant, the policy has detached mounts alone.
        let is_granted = |of: &Value| of.as_str().is_none_or(|of| of.contains("detached"));
        let of_all: BTreeSet<_> = items(&table["calls"])
            .iter()
            .filter(|entry| is_granted(&entry["granted"]))
            .map(|entry| entry["call"].as_str().unwrap())
            .collect();
        assert_eq!(
            of_all.len().to_string(),
            report.system_calls.to_string(),
            "{role}"
        );
        assert_eq!(
            calls(role).len().to_string(),
            table["system_calls"].to_string()
        );
        // A role to which the kernel can deny nothing has no domain.
        let abi = if items(&table["landlock"]["denied"]).is_empty() {
            &Value::from(0)
        } else {
            &tables["landlock_abi"]
        };
        assert_eq!(abi, &report.landlock.abi, "{role}");
        let holds = u64::from(!items(&table["capabilities"]).is_empty()) << 21;
        assert_eq!(holds, report.capabilities, "{role}");
        assert!(text.contains(&format!("\n{role}: {}\n", table["is"].as_str().unwrap())));
        for entry in items(&table["calls"]) {
            let (call, why) = (
                entry["call"].as_str().unwrap(),
                entry["why"].as_str().unwrap(),
            );
            assert!(text.contains(&format!("\n    {call:<24} {why}")), "{call}");
        }
    }
    let pinned = "if fd = AT_FDCWD, path = pinned \"/proc/self/fd\", flags = O_PATH | O_DIRECTORY | O_CLOEXEC\n";
    assert_eq!(text.matches(pinned).count(), 1, "{text}");
    Ok(())
}

/// Reads the pid of a role's only process.
pub(crate) fn only(daemon: &Daemon, name: &str) -> Pid {
    let found = named(daemon.pid(), name);
    let [pid] = found[..] else {
        panic!("one {name}: {found:?}")
    };
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    pid
}
