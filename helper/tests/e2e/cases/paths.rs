//! Attacks by path.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use mountwarden_client::protocol::{Operation, Reply, Request};
use mountwarden_client::{Bind, DenyReason, Error, ErrorCode, Tmpfs, Unmount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::Skip;
use crate::daemon::Daemon;
use crate::kernel::{self, unchanged};
use crate::sandbox::{POLICY, Sandbox};
use crate::wire::{Wire, body};

fn code(error: &Error) -> ErrorCode {
    error.reply().expect("the helper's word").code
}

pub(crate) fn attack_01_malformed_paths(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let good = Request::Perform(Operation::Mount(Tmpfs::new(&target).unwrap().into()));
    let bytes = body(&good);
    let path = target.as_os_str().as_encoded_bytes();
    let at = bytes
        .windows(path.len())
        .position(|window| window == path)
        .unwrap();
    let with = |path: &[u8]| {
        let length = u64::try_from(path.len()).unwrap().to_le_bytes();
        [
            &bytes[..at - 8],
            &length,
            path,
            &bytes[at + target.as_os_str().len()..],
        ]
        .concat()
    };
    let dir = sandbox.path("mnt");
    let dir = dir.to_str().unwrap();
    let bad: [Vec<u8>; 11] = [
        format!("{dir}/../src").into(),
        format!("{dir}/./a").into(),
        format!("{dir}//a").into(),
        format!("{dir}/a/").into(),
        format!("{dir}/..").into(),
        b"".into(),
        b"mnt/a".into(),
        b".".into(),
        format!("{dir}/a\0b").into(),
        format!("{dir}/{}", "x".repeat(256)).into(),
        format!("{dir}{}", "/x".repeat(2048)).into(),
    ];
    let mut wire = Wire::open(&daemon.socket);
    for path in &bad {
        let error = unchanged(|| {
            wire.send_body(&with(path));
            wire.error(ErrorCode::InvalidRequest)
        });
        assert!(error.message.contains("path"), "{error:?}");
    }
    let longest = format!("{dir}/{}", "x".repeat(255));
    wire.send_body(&with(longest.as_bytes()));
    wire.error(ErrorCode::NotFound);
    wire.send_body(&with(path));
    assert!(
        matches!(wire.reply(), Reply::Mounted(_)),
        "the connection goes on"
    );
    Ok(())
}

/// A granted root is the directory that was there when the connection began:
/// Landlock denies what takes its place, whatever its path.
pub(crate) fn attack_02_replaced_root(sandbox: &Sandbox) -> Result<(), Skip> {
    let policy = POLICY.to_owned()
        + r#"
[[grant]]
name = "another's"
users = [4003]
target = ["@DIR@/theirs"]
  [grant.tmpfs]
  max_size = "1MiB"
"#;
    sandbox.policy(&policy);
    sandbox.make_dir("theirs/a");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let tmpfs = || Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let made = client.mount(tmpfs()).unwrap();
    client.unmount(&made).unwrap();

    let (root, aside) = (sandbox.path("mnt"), sandbox.path("aside"));
    fs::rename(&root, &aside).unwrap();
    // Nobody's directory, and then one that is granted to somebody else.
    for other in ["new", "theirs"] {
        sandbox.make_dir(&format!("{other}/a"));
        fs::rename(sandbox.path(other), &root).unwrap();
        let error = unchanged(|| client.mount(tmpfs()).unwrap_err());
        assert_eq!(
            (code(&error), error.errno()),
            (ErrorCode::Unreachable, Some(13)),
            "{other}: {error}"
        );
        fs::rename(&root, sandbox.path(other)).unwrap();
    }
    fs::rename(&aside, &root).unwrap();
    client.mount(tmpfs()).unwrap();
    Ok(())
}

pub(crate) fn attack_04_magic_links(sandbox: &Sandbox) -> Result<(), Skip> {
    let policy = POLICY.replace("\"@DIR@/src\"", "\"@DIR@/src\", \"/proc\"");
    sandbox.policy(&policy);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let inside = sandbox.path("mnt/a");
    let pid = std::process::id();
    let links = [
        "/proc/self/root".to_owned(),
        "/proc/self/cwd".to_owned(),
        "/proc/self/fd/0".to_owned(),
        "/proc/self/root/etc".to_owned(),
        format!("/proc/{pid}/cwd"),
        format!("/proc/{pid}/root/etc"),
    ];
    for link in &links {
        let error = unchanged(|| client.mount(Bind::new(link, &inside).unwrap()).unwrap_err());
        assert_eq!(code(&error), ErrorCode::WrongType, "{link}: {error}");
        let error = unchanged(|| client.mount(Tmpfs::new(link).unwrap()).unwrap_err());
        assert_eq!(
            error.reason(),
            Some(DenyReason::TargetProtected),
            "{link}: {error}"
        );
    }
    symlink("/proc/self/root/etc", sandbox.path("src/link")).unwrap();
    let through = Bind::new(sandbox.path("src/link"), &inside).unwrap();
    let error = unchanged(|| client.mount(through).unwrap_err());
    assert_eq!(code(&error), ErrorCode::WrongType, "{error}");
    client
        .mount(Bind::new(sandbox.path("src/data"), &inside).unwrap())
        .unwrap();
    Ok(())
}

pub(crate) fn attack_07_wrong_file_types(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&POLICY.replace("\"@DIR@/src\"", "\"@DIR@/src\", \"/proc\", \"/dev\""));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let mode = Mode::from_bits_truncate(0o666);
    mkfifo(&sandbox.path("src/fifo"), mode).unwrap();
    mkfifo(&sandbox.path("mnt/fifo"), mode).unwrap();
    let _listener = UnixListener::bind(sandbox.path("src/socket")).unwrap();
    let target = sandbox.path("mnt/file");
    for source in [
        sandbox.path("src/fifo"),
        sandbox.path("src/socket"),
        "/dev/null".into(),
    ] {
        let bind = Bind::new(&source, &target).unwrap();
        let error = unchanged(|| client.mount(bind).unwrap_err());
        assert_eq!(
            code(&error),
            ErrorCode::WrongType,
            "{}: {error}",
            source.display()
        );
    }
    let on_fifo = Bind::new(sandbox.path("src/data/file"), sandbox.path("mnt/fifo")).unwrap();
    let error = unchanged(|| client.mount(on_fifo).unwrap_err());
    assert_eq!(code(&error), ErrorCode::WrongType, "{error}");
    // A regular file, says procfs; but of a process, and gone with it.
    let process = format!("/proc/{}/environ", std::process::id());
    let error = unchanged(|| {
        client
            .mount(Bind::new(&process, &target).unwrap())
            .unwrap_err()
    });
    assert!(
        matches!(code(&error), ErrorCode::Unreachable | ErrorCode::WrongType),
        "{error}"
    );
    client
        .mount(Bind::new(sandbox.path("src/data/file"), &target).unwrap())
        .unwrap();
    Ok(())
}

pub(crate) fn attack_08_protected_targets(sandbox: &Sandbox) -> Result<(), Skip> {
    // As wide as a policy can be: everything in the scratch directory and below
    // the directories that are refused whatever it says.
    sandbox.policy(&POLICY.replace("\"@DIR@/mnt\"", "\"@DIR@\", \"/usr\", \"/etc\""));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let policy = sandbox.path("policy.toml");
    let run = sandbox.path("run");
    let socket = sandbox.path("run/sock");
    let mut targets: Vec<&Path> = ["/", "/etc", "/usr", "/proc", "/sys", "/dev", "/proc/sys"]
        .map(Path::new)
        .to_vec();
    targets.extend([policy.as_path(), run.as_path(), socket.as_path()]);
    for target in targets {
        let tmpfs = Tmpfs::new(target).unwrap();
        let error = unchanged(|| client.mount(tmpfs).unwrap_err());
        assert_eq!(
            error.reason(),
            Some(DenyReason::TargetProtected),
            "{}",
            target.display()
        );
        assert_eq!(daemon.last_audit()["reason"], "target-protected");
    }
    let beside = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    client.mount(beside).unwrap();
    let error = client.unmount(Unmount::new("/usr").unwrap()).unwrap_err();
    assert_eq!(error.reason(), Some(DenyReason::TargetProtected));
    Ok(())
}

/// `,`, `:` and the like are bytes of a name, never separators.
pub(crate) fn attack_15_separators_are_bytes(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    for name in [
        "x,suid",
        "x:y",
        "x=1,size=1g",
        "x\\054suid",
        "x y",
        "-o suid",
        "x\"y'",
    ] {
        let source = sandbox.make_dir(&format!("src/{name}"));
        let target = sandbox.make_dir(&format!("mnt/{name}"));
        let made = client.mount(Bind::new(&source, &target).unwrap()).unwrap();
        assert_eq!(made.mount.target.as_path(), target);
        let line = kernel::only(&target);
        assert!(
            line.options.contains("nosuid") && line.root.ends_with(name),
            "{line:?}"
        );
        client.unmount(&made).unwrap();
    }
    Ok(())
}

pub(crate) fn attack_33_control_bytes(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let names: [&[u8]; 4] = [
        b"line\nbreak\",\"uid\":0,\"x\":\"",
        b"\x1b[2Jansi\x07",
        b"not \xff utf-8 \xe2\x80\xae",
        "\u{202e}txt.exe\r".as_bytes(),
    ];
    for name in names {
        use std::os::unix::ffi::OsStrExt;
        let target = sandbox.path("mnt").join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&target).unwrap();
        let before = daemon.log().lines().count();
        let made = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
        client.unmount(&made).unwrap();
        let error = client.unmount(Unmount::new(&target).unwrap()).unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
        let log = daemon.log();
        let lines: Vec<&str> = log.lines().skip(before).collect();
        assert_eq!(lines.len(), 3, "one line each: {lines:?}");
        for line in lines {
            assert!(
                line.is_ascii() && !line.contains(|c: char| c.is_control()),
                "{line:?}"
            );
            let audit: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(audit["uid"], nix::unistd::geteuid().as_raw());
            let text = audit["target"].as_str().unwrap();
            let valid = std::str::from_utf8(name).map(|name| text.ends_with(name));
            assert!(valid.unwrap_or(text.contains("\\xff")), "{text:?}");
        }
    }
    Ok(())
}

pub(crate) fn unreachable_and_missing(sandbox: &Sandbox) -> Result<(), Skip> {
    use std::os::unix::fs::PermissionsExt;
    sandbox.policy(&POLICY.replace("\"@DIR@/mnt\"", "\"@DIR@/mnt\", \"@DIR@/later\""));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let missing = Tmpfs::new(sandbox.path("mnt/missing")).unwrap();
    let error = unchanged(|| client.mount(missing).unwrap_err());
    assert_eq!(
        (code(&error), error.errno()),
        (ErrorCode::NotFound, Some(2))
    );
    assert_eq!(error.path(), Some(sandbox.path("mnt/missing").as_path()));

    sandbox.make_dir("later/a");
    let later = || Tmpfs::new(sandbox.path("later/a")).unwrap();
    let error = unchanged(|| client.mount(later()).unwrap_err());
    assert_eq!(code(&error), ErrorCode::NotFound);
    assert!(
        error.to_string().contains("when this connection began"),
        "{error}"
    );

    if sandbox.is_root {
        let private = sandbox.make_dir("mnt/private");
        sandbox.make_dir("mnt/private/a");
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        let inside = Tmpfs::new(private.join("a")).unwrap();
        let error = unchanged(|| client.mount(inside).unwrap_err());
        assert_eq!(
            (code(&error), error.errno()),
            (ErrorCode::Unreachable, Some(13))
        );
        fs::set_permissions(&private, fs::Permissions::from_mode(0o755)).unwrap();
        client
            .mount(Tmpfs::new(private.join("a")).unwrap())
            .unwrap();
    }
    Ok(())
}
