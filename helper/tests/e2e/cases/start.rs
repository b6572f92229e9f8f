//! How the helper starts, and when it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caps::Capability;
use mountwarden_client::protocol::{Operation, Request};
use mountwarden_client::{ErrorCode, Tmpfs};
use nix::sys::resource::{Resource, setrlimit};

use crate::daemon::{Daemon, START, command, outcome, wait_for, with_ambient};
use crate::kernel::unchanged;
use crate::sandbox::{ALICE, BOB, POLICY, Sandbox, for_this_kernel};
use crate::wire::{Wire, body};
use crate::{Skip, fuse, roles};

/// Starts the helper, which must not start; gives what it says.
pub(super) fn refused(sandbox: &Sandbox, held: &[Capability], mut command: Command) -> String {
    let said = sandbox.path("refused");
    command.stderr(fs::File::create(&said).unwrap());
    let status = unchanged(|| {
        let mut child = with_ambient(sandbox, held, || command.spawn().unwrap());
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            if Instant::now() > end || fs::read_to_string(&said).unwrap().contains(" serves on ") {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it serves");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let error = fs::read_to_string(&said).unwrap();
    assert_eq!(status, Some(1), "{error}");
    assert!(error.starts_with("mountwardend: "), "{error}");
    error
}

pub(crate) fn with_a_passed_socket(sandbox: &Sandbox) -> Result<(), Skip> {
    let notify = UnixDatagram::bind(sandbox.path("notify")).unwrap();
    notify
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    fs::set_permissions(sandbox.path("notify"), fs::Permissions::from_mode(0o777)).unwrap();
    sandbox.make_dir("run");
    let helper = command(sandbox);
    let mut activated = roles::command(sandbox, "activate");
    activated.arg(sandbox.path("run/sock")).arg("well");
    activated.arg(helper.get_program()).args(helper.get_args());
    activated
        .env("NOTIFY_SOCKET", sandbox.path("notify"))
        .env_remove(crate::CASE);
    let daemon = Daemon::start_with(sandbox, activated);
    let heard = || {
        let mut buffer = [0; 64];
        let length = notify.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(heard(), "READY=1");
    fs::set_permissions(sandbox.path("run/sock"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut client = daemon.client();
    client
        .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(heard(), "STOPPING=1");
    Ok(())
}

/// What is passed and is no listening stream socket, or is not the only one, is
/// refused; what was passed to another process is not this one's.
pub(crate) fn passed_sockets_that_do_not_fit(sandbox: &Sandbox) -> Result<(), Skip> {
    let activated = |how: &str| {
        sandbox.make_dir("run");
        let helper = command(sandbox);
        let mut activated = roles::command(sandbox, "activate");
        activated.arg(sandbox.path(&format!("run/{how}"))).arg(how);
        activated.arg(helper.get_program()).args(helper.get_args());
        activated.env_remove(crate::CASE);
        activated
    };
    for how in ["unlistened", "seqpacket", "two"] {
        let error = refused(sandbox, &START, activated(how));
        assert!(
            error.contains("pass exactly one listening stream socket"),
            "{how}: {error}"
        );
    }
    let daemon = Daemon::start_with(sandbox, activated("anothers"));
    daemon.client().list().unwrap();
    Ok(())
}

/// Each connection takes a descriptor of the gate, and one of the warden for a lease, beside
/// those for batches; a limit that is too low for the policy is said at the start.
pub(crate) fn attack_34_too_few_descriptors(sandbox: &Sandbox) -> Result<(), Skip> {
    let limited = |connections: u32| {
        let limits = format!("[limits]\nconnections = {connections}\n[[grant]]");
        sandbox.policy(&POLICY.replacen("[[grant]]", &limits, 1));
    };
    // Of this process, which is the case's own.
    setrlimit(Resource::RLIMIT_NOFILE, 700, 700).unwrap();
    limited(200);
    let error = refused(sandbox, &START, command(sandbox));
    assert!(
        error.contains("takes 776 descriptors and the hard limit is 700"),
        "{error}"
    );
    limited(124);
    Daemon::start(sandbox).client().list().unwrap();
    Ok(())
}

/// Whatever signals the program that starts it ignores or blocks: requests end
/// in time, and so does the helper.
pub(crate) fn signals_of_the_starter_do_not_matter(sandbox: &Sandbox) -> Result<(), Skip> {
    let device = fuse::device()?;
    let limits = "[limits]\nrequest_timeout = \"1s\"\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
    let hung = sandbox.make_dir("mnt/hung");
    fuse::attach(&device, &hung, true)?;
    for how in ["ignored", "blocked"] {
        let helper = command(sandbox);
        let mut start = if how == "ignored" {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "trap '' ALRM TERM HUP; exec \"$@\"", "sh"]);
            shell
        } else {
            roles::command(sandbox, "block")
        };
        start.arg(helper.get_program()).args(helper.get_args());
        let daemon = Daemon::start_with(sandbox, start);
        let beneath = Tmpfs::new(hung.join("beneath")).unwrap();
        let mut wire = Wire::open(&daemon.socket);
        wire.send_body(&body(&Request::Perform(Operation::Mount(beneath.into()))));
        wire.error(ErrorCode::TimedOut);
        assert_eq!(daemon.stop().code(), Some(0), "{how}");
    }
    Ok(())
}

pub(crate) fn in_a_user_namespace(sandbox: &Sandbox) -> Result<(), Skip> {
    let uid = if sandbox.is_root {
        ALICE
    } else {
        nix::unistd::geteuid().as_raw()
    };
    let base = if sandbox.is_root {
        sandbox.make_dir("own")
    } else {
        sandbox.path("")
    };
    let own = |name: &str| base.join(name);
    for name in ["src", "mnt", "mnt/a"] {
        fs::create_dir_all(own(name)).unwrap();
    }
    let policy = POLICY
        .replace("@DIR@", base.to_str().unwrap())
        .replace("@UID@", &uid.to_string());
    fs::write(own("policy.toml"), for_this_kernel(policy)).unwrap();
    fs::create_dir_all(own("run")).unwrap();
    for name in ["", "src", "mnt", "mnt/a", "policy.toml", "run"] {
        std::os::unix::fs::chown(own(name), Some(uid), Some(uid)).unwrap();
    }
    let mut helper = Command::new(sandbox.helper());
    helper
        .args(["serve", "--userns", "--policy"])
        .arg(own("policy.toml"));
    helper
        .arg("--socket")
        .arg(own("run/sock"))
        .stdin(Stdio::null());
    if sandbox.is_root {
        helper.uid(uid).gid(uid);
        let (status, _, error) =
            outcome(Command::new(sandbox.helper()).args(["serve", "--userns"]));
        assert_eq!(status, 1);
        assert!(error.contains("users other than root"), "{error}");
    }
    let daemon = Daemon::start_with(sandbox, helper);
    let target = own("mnt/a");
    let inside = |arguments: &[&str]| {
        let mut join = roles::command(sandbox, "join");
        if sandbox.is_root {
            join.uid(uid).gid(uid);
        }
        join.arg(daemon.pid().to_string())
            .arg(sandbox.path("bin/mountwarden"));
        join.arg("--socket")
            .arg(own("run/sock"))
            .args(arguments)
            .env_remove(crate::CASE);
        outcome(&mut join)
    };
    let target = target.to_str().unwrap();
    let (status, _, error) = unchanged(|| inside(&["mount", "tmpfs", target]));
    assert_eq!(
        status, 0,
        "mounted in the helper's namespace, not in this one: {error}"
    );
    let (status, list, error) = inside(&["--json", "list"]);
    assert_eq!(status, 0, "{error}");
    assert!(list.contains(target), "{list}");
    let (status, _, error) = inside(&["unmount", target]);
    assert_eq!(status, 0, "{error}");
    if sandbox.is_root {
        // A user without a mapping has no name there, whatever the policy says.
        let mut stranger = Command::new(sandbox.path("bin/mountwarden"));
        stranger.uid(BOB).gid(BOB).env_remove(crate::CASE);
        let (status, _, error) = outcome(stranger.arg("--socket").arg(own("run/sock")).arg("list"));
        assert_eq!(status, 3, "{error}");
    }
    Ok(())
}

pub(crate) fn attack_raised_rights_are_refused(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let copy = sandbox.helper();

    let run = |mode: u32| {
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&copy);
        command
            .args(["serve", "--policy", "/nowhere"])
            .uid(ALICE)
            .gid(ALICE);
        refused(sandbox, &START, command)
    };
    assert!(run(0o4755).contains("rights beyond its caller's"));
    assert!(run(0o755).contains("needs CAP_SYS_ADMIN"));
    Ok(())
}

pub(crate) fn more_capabilities_than_it_can_drop(sandbox: &Sandbox) -> Result<(), Skip> {
    if sandbox.is_root {
        return Err(Skip(
            "root can drop every capability; a normal user runs this".to_owned(),
        ));
    }
    let error = refused(sandbox, &[Capability::CAP_SYS_ADMIN], command(sandbox));
    assert!(
        error.contains("bounding set") && error.contains("CAP_SETPCAP"),
        "{error}"
    );
    drop(Daemon::start(sandbox));
    Ok(())
}

pub(crate) fn without_a_capability(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut unprivileged = command(sandbox);
    if sandbox.is_root {
        unprivileged.uid(ALICE).gid(ALICE);
    }
    let error = refused(sandbox, &[], unprivileged);
    assert!(error.contains("needs CAP_SYS_ADMIN"), "{error}");
    if sandbox.is_root {
        let mut as_root = Command::new(sandbox.helper());
        as_root.args(["serve", "--user", "root"]);
        assert!(refused(sandbox, &START, as_root).contains("does not serve as root"));
        let mut nobody = Command::new(sandbox.helper());
        nobody.args(["serve", "--user", "no-such-user"]);
        assert!(refused(sandbox, &START, nobody).contains("no user \"no-such-user\""));
    }
    Ok(())
}

pub(crate) fn untrusted_files(sandbox: &Sandbox) -> Result<(), Skip> {
    let chmod = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let policy = sandbox.path("policy.toml");
    let run = sandbox.make_dir("run");
    let bad = |path: &Path, mode: u32, good: u32| {
        chmod(path, mode);
        let error = refused(sandbox, &START, command(sandbox));
        assert!(error.contains("can be changed by others"), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        chmod(path, good);
    };
    bad(&policy, 0o666, 0o644);
    bad(&policy, 0o664, 0o644);
    bad(&policy, 0o646, 0o644);
    bad(&run, 0o777, 0o755);
    bad(&run, 0o1777, 0o755);
    bad(&run, 0o775, 0o755);
    bad(&sandbox.path(""), 0o777, 0o755);

    // Further above, where a sticky directory will do: nobody renames another's
    // file in it.
    let below = sandbox.make_dir("etc").join("policy.toml");
    fs::copy(&policy, &below).unwrap();
    let elsewhere = || {
        let mut command = command(sandbox);
        command.arg("--policy").arg(&below);
        command
    };
    chmod(&sandbox.path(""), 0o777);
    let error = refused(sandbox, &START, elsewhere());
    assert!(error.contains("unless it is sticky"), "{error}");
    chmod(&sandbox.path(""), 0o1777);
    drop(Daemon::start_with(sandbox, elsewhere()));
    chmod(&sandbox.path(""), 0o755);

    let real = sandbox.path("real.toml");
    fs::rename(&policy, &real).unwrap();
    std::os::unix::fs::symlink(&real, &policy).unwrap();
    let error = refused(sandbox, &START, command(sandbox));
    assert!(
        error.contains("policy.toml: ELOOP"),
        "a symbolic link: {error}"
    );
    fs::remove_file(&policy).unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
    nix::unistd::mkfifo(&policy, mode).unwrap();
    let error = refused(sandbox, &START, command(sandbox));
    assert!(
        error.contains("policy.toml is not a regular file"),
        "{error}"
    );
    fs::remove_file(&policy).unwrap();
    fs::rename(&real, &policy).unwrap();
    // A directory on the way that is a symbolic link.
    std::os::unix::fs::symlink(sandbox.path(""), sandbox.path("way")).unwrap();
    let mut through = command(sandbox);
    through.arg("--policy").arg(sandbox.path("way/policy.toml"));
    let error = refused(sandbox, &START, through);
    assert!(error.contains("way: ENOTDIR"), "{error}");
    if sandbox.is_root {
        std::os::unix::fs::chown(&policy, Some(ALICE), None).unwrap();
        let error = refused(sandbox, &START, command(sandbox));
        assert!(
            error.contains(&format!("belongs to uid {ALICE}")),
            "{error}"
        );
        std::os::unix::fs::chown(&policy, Some(0), None).unwrap();
    }
    drop(Daemon::start(sandbox));
    Ok(())
}

pub(crate) fn bad_policies(sandbox: &Sandbox) -> Result<(), Skip> {
    let path = sandbox.path("policy.toml");
    let check = || {
        let mut check = Command::new(sandbox.helper());
        check.arg("check").arg("--policy").arg(&path);
        outcome(&mut check)
    };
    for (text, at, word) in [
        ("version = 2\n", "1:11", "version"),
        ("version = 1\nnonsense = 3\n", "2:1", "nonsense"),
        (
            &POLICY.replace("[@UID@, 4001, 4002]", "[\"no-such-user\"]"),
            "6:10",
            "no-such-user",
        ),
        (&POLICY.replace("@DIR@/mnt", "mnt"), "7:11", "mnt"),
    ] {
        sandbox.policy(text);
        let error = refused(sandbox, &START, command(sandbox));
        assert!(error.contains(&format!("policy.toml:{at}: ")), "{error}");
        assert!(error.contains(word), "{error}");
        let (status, _, said) = check();
        assert_eq!(
            (status, &said),
            (1, &error),
            "`check` says beforehand what `serve` says"
        );
    }
    std::os::unix::fs::symlink(sandbox.path("mnt"), sandbox.path("link")).unwrap();
    sandbox.policy(&POLICY.replace("@DIR@/mnt", "@DIR@/link/a"));
    assert!(refused(sandbox, &START, command(sandbox)).contains("symbolic link"));

    sandbox.policy(&POLICY.replacen(
        "[[grant]]",
        "[confinement]\nrequire_landlock_abi = 100\n[[grant]]",
        1,
    ));
    let error = refused(sandbox, &START, command(sandbox));
    assert!(
        error.contains("Landlock ABI") && error.contains("requires 100"),
        "{error}"
    );

    sandbox.policy(&POLICY.replace("target = ", "force = []\ntarget = "));
    let (status, warnings, _) = check();
    assert_eq!(status, 0);
    assert!(
        warnings.contains("nosuid") && warnings.contains("the policy is valid"),
        "{warnings}"
    );
    let mut print = Command::new(sandbox.helper());
    print.args(["check", "--print", "--policy"]).arg(&path);
    let (status, printed, _) = outcome(&mut print);
    assert!(
        status == 0 && printed.contains("# warning: ") && printed.contains("\nforce = []\n"),
        "{printed}"
    );
    // It serves as well.
    sandbox.policy(&printed);
    assert_eq!(check().0, 0, "{printed}");
    drop(Daemon::start(sandbox));
    Ok(())
}

pub(crate) fn stale_socket_is_replaced(sandbox: &Sandbox) -> Result<(), Skip> {
    Daemon::start(sandbox).kill();
    assert!(
        sandbox.path("run/sock").exists(),
        "a killed helper leaves its socket"
    );
    let daemon = Daemon::start(sandbox);
    daemon.client().list().unwrap();
    Ok(())
}

pub(crate) fn a_second_helper_is_refused(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let error = refused(sandbox, &START, command(sandbox));
    assert!(error.contains("another helper listens there"), "{error}");
    wait_for("the first goes on", || daemon.client().list().ok());
    Ok(())
}
