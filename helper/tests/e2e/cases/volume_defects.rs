//! Volumes: what the driver that they replace did wrong. Each case would fail there.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::libc::{EBUSY, ENOTCONN};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::Skip;
use crate::keeper::{FILE, Keeper};
use crate::kernel::{self, unchanged};
use crate::roles::read_line;
use crate::sandbox::{Sandbox, mount_tmpfs};

/// Its connect and its disconnect asked the dead file system, and failed with what that said.
pub(crate) fn a_dead_server_is_stale_and_repaired(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    keeper.done(&["connect", "disk-1", "--use", "vm-1"]);
    keeper.kill_server(&keeper.target());
    let (status, stale) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
    assert_eq!((status, &stale["state"]), (8, &json!("stale")));
    assert_eq!(
        (&stale["errno"], &stale["uses"]),
        (&json!(ENOTCONN), &json!(1))
    );
    let repaired = keeper.done(&["connect", "disk-2", "--use", "vm-2"]);
    assert_eq!(
        (&repaired["outcome"], &repaired["uses"]),
        (&json!("repaired"), &json!(2))
    );
    let (status, text) = keeper
        .stand
        .shell("cat \"$1\"", &keeper.target().join("disk-1"), "");
    assert_eq!((status, text.as_str()), (0, "disk-1"));
    keeper.kill_server(&keeper.target());
    let left = unchanged(|| keeper.done(&["disconnect", "disk-1", "--use", "vm-1"]));
    assert_eq!(
        (&left["outcome"], &left["uses"]),
        (&json!("still-used"), &json!(1))
    );
    let ended = keeper.done(&["disconnect", "disk-2", "--use", "vm-2"]);
    assert_eq!(
        (&ended["outcome"], &ended["warning"]),
        (&json!("unmounted"), &json!("stale"))
    );
    keeper.all_is_gone();
    Ok(())
}

/// What keeps a mount in use, as the user; it ends with its input.
struct Holder(Child);

impl Holder {
    fn start(keeper: &Keeper<'_>, script: &str, path: &Path) -> Self {
        let mut command = keeper.stand.run("/bin/sh");
        command.args(["-c", &format!("{script} && echo ready && read x"), "sh"]);
        command
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        assert_eq!(read_line(child.stdout.as_mut().unwrap()), "ready");
        Self(child)
    }

    fn open_file(keeper: &Keeper<'_>) -> Self {
        Self::start(keeper, "exec 3<\"$1\"", &keeper.target().join("disk-1"))
    }

    fn directory(keeper: &Keeper<'_>) -> Self {
        Self::start(keeper, "cd \"$1\"", &keeper.target())
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// It looked for the sentence that `umount` printed in its day, in English.
pub(crate) fn busy_is_an_error_number(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    for hold in [Holder::open_file, Holder::directory] {
        keeper.done(&["connect", "disk-1"]);
        let holder = hold(&keeper);
        let (status, error) = keeper.refused(&["disconnect", "disk-1"]);
        assert_eq!((status, &error["code"]), (4, &json!("busy")), "{error}");
        assert_eq!(error["errno"], EBUSY, "{error}");
        let (_, found) = keeper.ask(&["validate", "disk-1"]);
        assert_eq!(
            (&found["state"], &found["uses"]),
            (&json!("good"), &json!(1))
        );
        holder.end();
        let ended = keeper.done(&["disconnect", "disk-1"]);
        assert_eq!(
            (&ended["outcome"], &ended["uses"]),
            (&json!("unmounted"), &json!(0))
        );
        keeper.all_is_gone();
    }
    Ok(())
}

/// Whoever disconnected one volume unmounted the export under all others.
pub(crate) fn the_last_use_unmounts(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let uses = |words: &[&str], outcome: &str, uses: usize| {
        let value = keeper.done(words);
        let found = (&value["outcome"], &value["uses"]);
        assert_eq!(found, (&json!(outcome), &json!(uses)), "{words:?}: {value}");
    };
    uses(&["connect", "disk-1", "--use", "vm-1"], "mounted", 1);
    uses(&["connect", "disk-1", "--use", "vm-1"], "already-good", 1);
    uses(&["connect", "disk-2", "--use", "vm-2"], "already-good", 2);
    uses(&["connect", "disk-1", "--use", "vm-3"], "already-good", 3);
    unchanged(|| {
        uses(&["disconnect", "disk-1", "--use", "vm-1"], "still-used", 2);
        // It counts no more, and nothing else does instead.
        uses(&["disconnect", "disk-1", "--use", "vm-1"], "still-used", 2);
        uses(&["disconnect", "disk-1"], "still-used", 2);
        uses(&["disconnect", "disk-1", "--use", "vm-3"], "still-used", 1);
    });
    let (status, text) = keeper
        .stand
        .shell("cat \"$1\"", &keeper.target().join("disk-2"), "");
    assert_eq!((status, text.as_str()), (0, "disk-2"));
    uses(&["disconnect", "disk-2", "--use", "vm-2"], "unmounted", 0);
    keeper.all_is_gone();
    Ok(())
}

/// It looked at what it had mounted, wrote into its log what was wrong, and said that all is well.
pub(crate) fn what_is_not_good_is_not_connected(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let connect = ["connect", "disk-1"];
    for allow_other in [false, true] {
        // A program may mount somewhat later than it goes to the background.
        keeper.within(&[("program", 5)]);
        for (behaviour, status, code) in [
            (json!({ "dies": true }), 8, "stale"),
            (json!({ "nothing": true }), 1, "program-failed"),
        ] {
            let mut whole = behaviour.clone();
            whole["allow_other"] = allow_other.into();
            keeper.one(whole);
            let (found, value) = keeper.ask(&connect);
            let error = &value["error"];
            assert_eq!(
                (found, &error["code"]),
                (status, &json!(code)),
                "{behaviour}: {value}"
            );
            assert_eq!(kernel::at(&keeper.target()), [], "{behaviour}: {value}");
            let (_, found) = keeper.ask(&["validate", "disk-1"]);
            assert_eq!(
                (&found["state"], &found["uses"]),
                (&json!("absent"), &json!(0))
            );
            keeper.all_is_gone();
        }
        keeper.one(json!({ "allow_other": allow_other }));
        keeper.done(&connect);
        keeper.done(&["disconnect", "disk-1"]);
    }
    Ok(())
}

/// It mounted once more, on top.
pub(crate) fn nothing_is_covered(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let (connect, target) = (["connect", "disk-1"], keeper.target());
    keeper.done(&connect);
    keeper.done(&["disconnect", "disk-1"]);
    mount_tmpfs(&target);
    for words in [connect, ["disconnect", "disk-1"]] {
        let (status, error) = keeper.refused(&words);
        assert_eq!((status, &error["code"]), (4, &json!("foreign")), "{error}");
    }
    let (status, found) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
    assert_eq!((status, &found["state"]), (4, &json!("foreign")));
    assert_eq!(
        (&found["type"], &found["uses"]),
        (&json!("tmpfs"), &json!(0))
    );
    umount2(&target, MntFlags::empty()).unwrap();
    for hold in [Holder::open_file, Holder::directory] {
        keeper.done(&connect);
        let holder = hold(&keeper);
        keeper.kill_server(&target);
        let (status, error) = keeper.refused(&["connect", "disk-2", "--use", "vm-2"]);
        assert_eq!((status, &error["code"]), (4, &json!("busy")), "{error}");
        let left = unchanged(|| keeper.done(&["disconnect", "disk-1"]));
        assert_eq!(
            (&left["outcome"], &left["warning"]),
            (&json!("left"), &json!("stale"))
        );
        assert_eq!(left["uses"], 0);
        let (status, error) = keeper.refused(&connect);
        assert_eq!((status, &error["code"]), (4, &json!("busy")), "{error}");
        holder.end();
        let repaired = keeper.done(&connect);
        assert_eq!(
            (&repaired["outcome"], &repaired["uses"]),
            (&json!("repaired"), &json!(1))
        );
        kernel::only(&target);
        keeper.done(&["disconnect", "disk-1"]);
        keeper.all_is_gone();
    }
    Ok(())
}

/// Puts a mount on top of what is at another place.
fn move_mount(from: &Path, to: &Path) {
    let nothing = None::<&str>;
    mount(Some(from), to, nothing, MsFlags::MS_MOVE, nothing).unwrap();
}

/// It took the first line of the table for what the path leads to, which is the last.
pub(crate) fn one_mount_is_judged_by_its_own_marks(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let (target, connect) = (keeper.target(), ["connect", "disk-1"]);
    let made = keeper.done(&connect);
    mount_tmpfs(&target);
    let (status, error) = keeper.refused(&connect);
    assert_eq!((status, &error["code"]), (4, &json!("foreign")), "{error}");
    umount2(&target, MntFlags::empty()).unwrap();
    // A living one on top of a dead one: good, and alone ended.
    keeper.kill_server(&target);
    let second = keeper.done(&["connect", "disk-3"]);
    move_mount(&keeper.second_target(), &target);
    let (status, good) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
    assert_eq!((status, &good["state"]), (0, &json!("good")), "{good}");
    let top = if kernel::has_unique_ids() {
        &second["id"]
    } else {
        &good["id"]
    };
    assert_eq!(&good["id"], top);
    let ended = keeper.done(&["disconnect", "disk-1"]);
    assert_eq!(
        (&ended["outcome"], &ended["id"]),
        (&json!("unmounted"), top)
    );
    assert_eq!(ended["warning"], Value::Null);
    let (status, stale) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
    assert_eq!(
        (status, &stale["state"], &stale["id"]),
        (8, &json!("stale"), &made["id"])
    );
    // Two dead ones: both are ended before one is made.
    keeper.done(&["disconnect", "disk-3"]);
    keeper.done(&["connect", "disk-3"]);
    move_mount(&keeper.second_target(), &target);
    for server in keeper.servers(&keeper.second_target()) {
        nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let repaired = keeper.done(&connect);
    assert_eq!(repaired["outcome"], "repaired");
    assert_eq!(kernel::only(&target).source, "quobyte@reg1|reg2/volume-1");
    // A dead one on top of another file system: that alone is ended, and the rest is not ours.
    keeper.done(&["disconnect", "disk-1"]);
    mount_tmpfs(&target);
    keeper.done(&["disconnect", "disk-3"]);
    keeper.done(&["connect", "disk-3"]);
    let server = keeper.server(&keeper.second_target());
    move_mount(&keeper.second_target(), &target);
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
    let (status, value) = keeper.ask(&connect);
    assert_eq!(
        (status, &value["error"]["code"]),
        (4, &json!("foreign")),
        "{value}"
    );
    assert_eq!(kernel::only(&target).filesystem, "tmpfs");
    Ok(())
}

/// What a program must not get, and gets from nobody.
struct Strange {
    command: Command,
    _open: File,
}

impl Strange {
    /// The command in a process that has more than it should pass on.
    fn new(keeper: &Keeper<'_>, words: &[&str]) -> Self {
        let open = File::open(keeper.sandbox.path("policy.toml")).unwrap();
        rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
        assert!(open.as_raw_fd() > 2);
        let mut command = keeper.command(words);
        command
            .env("LD_PRELOAD", "/no/such")
            .env("SECRET", "s3cret");
        command
            .env("PATH", keeper.sandbox.path("src"))
            .env("LANG", "tlh");
        command.current_dir(keeper.sandbox.path("src"));
        Self {
            command,
            _open: open,
        }
    }
}

/// The program was found by `PATH`, took an export for an option where that looked like one, and
/// had all that the service had: its variables, its descriptors, its directory.
pub(crate) fn nothing_is_inherited(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let dump = keeper.dump("one");
    keeper.one(json!({ "dump": dump }));
    let socket = keeper.stand.daemon.socket.clone();
    let path = sandbox.path("bin").display().to_string();
    for (variable, environment) in [
        (None, json!({ "PATH": path })),
        (
            Some(&socket),
            json!({ "PATH": path, "MOUNTWARDEN_SOCKET": socket }),
        ),
    ] {
        let mut strange = Strange::new(&keeper, &["connect", "disk-1"]);
        if let Some(variable) = variable {
            strange.command.env("MOUNTWARDEN_SOCKET", variable);
        }
        let (status, value) = crate::keeper::answer(&mut strange.command);
        assert_eq!(status, 0, "{value}");
        let started: Value = serde_json::from_reader(File::open(&dump).unwrap()).unwrap();
        assert_eq!(started["environment"], environment);
        assert_eq!(started["directory"], "/");
        let nothing = "/dev/null";
        let expected = json!({ "0": nothing, "1": nothing, "2": "/memfd:stderr (deleted)" });
        assert_eq!(started["descriptors"], expected);
        keeper.done(&["disconnect", "disk-1"]);
    }
    for (from, to, words) in [
        (
            "quobyte://reg1,reg2/volume-1",
            "quobyte://--help",
            "an option",
        ),
        ("quobyte://reg1,reg2/volume-1", "-c/etc/passwd", "an option"),
        ("@PROGRAM@", "program = \"mount.quobyte\"", "program"),
        ("@DIR@/one.json", "one.json", "config"),
    ] {
        keeper.file(&FILE.replacen(from, to, 1));
        let mut command = keeper.command(&["connect", "disk-1"]);
        command.env("PATH", sandbox.path("bin"));
        let (status, value) = unchanged(|| crate::keeper::answer(&mut command));
        assert_eq!(status, 9, "{to}: {value}");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    keeper.all_is_gone();
    Ok(())
}

/// All that the program printed went into the log, and was searched for words.
pub(crate) fn what_a_program_says_is_kept_apart(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let secret = "password=s3cret \u{1b}[31m\nDevice or resource busy\n";
    for (behaviour, exited, signal) in [
        (
            json!({ "fail": 7, "say": secret, "flood": 1 << 20 }),
            json!(7),
            json!(null),
        ),
        (
            json!({ "killed": 15, "say": secret }),
            json!(null),
            json!(15),
        ),
    ] {
        keeper.one(behaviour);
        let (status, error) = keeper.refused(&["connect", "disk-1"]);
        assert_eq!(
            (status, &error["code"]),
            (1, &json!("program-failed")),
            "{error}"
        );
        let program = &error["program"];
        assert_eq!((&program["exited"], &program["signal"]), (&exited, &signal));
        let said = program["said"].as_str().unwrap();
        assert!(said.starts_with("password=s3cret "), "{said}");
        assert!(!said.contains(char::is_control), "{said}");
        assert!(said.len() < 4 * 4096, "{} bytes", said.len());
        let message = error["message"].as_str().unwrap();
        assert!(!message.contains("s3cret"), "{message}");
        assert!(!keeper.stand.daemon.log().contains("s3cret"));
        let (_, found) = keeper.ask(&["validate", "disk-1"]);
        assert_eq!(
            (&found["state"], &found["uses"]),
            (&json!("absent"), &json!(0))
        );
    }
    // What it says does not matter where it does its work.
    keeper.one(json!({ "say": "error: Device or resource busy\n", "flood": 1 << 20 }));
    keeper.done(&["connect", "disk-1"]);
    keeper.file(&FILE.replacen("@PROGRAM@", "program = \"/no/such/program\"", 1));
    keeper.done(&["disconnect", "disk-1"]);
    let (status, error) = keeper.refused(&["connect", "disk-1"]);
    assert_eq!(status, 1, "{error}");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("/no/such/program"),
        "{error}"
    );
    keeper.all_is_gone();
    Ok(())
}
