//! Volumes: who waits for whom, how long, and what is left of who is killed meanwhile.

use std::fs::{self, File};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Skip;
use crate::daemon::wait_for;
use crate::keeper::{FILE, Keeper, POLICY};
use crate::kernel::{self, named, unchanged};
use crate::quobyte::PROGRAM;
use crate::sandbox::Sandbox;

/// A command that goes on meanwhile.
fn begin(keeper: &Keeper<'_>, words: &[&str]) -> Child {
    let mut command = keeper.command(words);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// What it printed, when it has done well.
fn ended(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn killed(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until a program of the first export runs, which waits itself.
fn program(keeper: &Keeper<'_>) -> Pid {
    let target = keeper.target().display().to_string();
    wait_for("the program runs", || {
        let programs = keeper.processes(&format!("--disable-xattrs\0reg1,reg2/volume-1\0{target}"));
        // Not the launcher, whose words have the program's in them.
        programs.into_iter().find(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = words.split(|&byte| byte == 0).next().unwrap_or_default();
            name.ends_with(PROGRAM.as_bytes())
        })
    })
}

/// It had one lock for all volumes, in one process alone, and mounted while it held that.
pub(crate) fn a_lock_for_each_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    keeper.within(&[("lock", 1)]);
    keeper.done(&["disconnect", "disk-1"]);
    let lock = File::open(keeper.lock()).unwrap();
    lock.lock().unwrap();
    for words in [
        ["connect", "disk-1"],
        ["connect", "disk-2"],
        ["disconnect", "disk-1"],
    ] {
        let (status, error) = keeper.refused(&words);
        assert_eq!(
            (status, &error["code"]),
            (7, &json!("timed-out")),
            "{error}"
        );
        let path = keeper.lock().display().to_string();
        assert!(
            error["message"].as_str().unwrap().contains(&path),
            "{error}"
        );
    }
    // Who looks needs no lock, and the other export has its own.
    assert_eq!(keeper.state("disk-1"), "absent");
    keeper.done(&["connect", "disk-3"]);
    keeper.done(&["disconnect", "disk-3"]);
    drop(lock);
    keeper.file(FILE);
    assert_eq!(keeper.done(&["connect", "disk-1"])["uses"], 1);
    keeper.done(&["disconnect", "disk-1"]);
    keeper.all_is_gone();
    Ok(())
}

/// A program or a server that hangs keeps nobody waiting who works on another mount.
pub(crate) fn a_hang_leaves_others_alone(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let go = sandbox.path("go");
    keeper.one(json!({ "wait": go }));
    let waiting = begin(&keeper, &["connect", "disk-1"]);
    program(&keeper);
    for words in [
        ["connect", "disk-3"],
        ["validate", "disk-3"],
        ["disconnect", "disk-3"],
    ] {
        keeper.done(&words);
    }
    fs::write(&go, "").unwrap();
    assert_eq!(ended(waiting)["outcome"], "mounted");
    let server = keeper.server(&keeper.target());
    kill(server, Signal::SIGSTOP).unwrap();
    let waiting = begin(&keeper, &["connect", "disk-2"]);
    for words in [
        ["connect", "disk-3"],
        ["validate", "disk-3"],
        ["disconnect", "disk-3"],
    ] {
        keeper.done(&words);
    }
    kill(server, Signal::SIGCONT).unwrap();
    assert_eq!(ended(waiting)["outcome"], "already-good");
    keeper.done(&["connect", "disk-3"]);
    kill(server, Signal::SIGSTOP).unwrap();
    keeper.within(&[("answer", 5)]);
    let list = unchanged(|| keeper.done(&["list"]));
    let fares = [0, 1, 2].map(|index| list["volumes"][index]["state"].clone());
    assert_eq!(fares, ["hung", "hung", "good"]);
    Ok(())
}

/// Whoever asks a server that takes questions and answers none is in its hands until it ends. That
/// keeps the mount busy, and nobody else waiting: not even who may have few connections to the
/// helper.
pub(crate) fn a_server_that_keeps_who_asks(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nconnections_per_user = 2\n\n[[grant]]";
    let keeper = Keeper::judged_by(sandbox, &POLICY.replacen("[[grant]]", limits, 1))?;
    let connect = ["connect", "disk-1"];
    for allow_other in [false, true] {
        keeper.one(json!({ "stalls": true, "allow_other": allow_other }));
        keeper.within(&[("answer", 1)]);
        let (status, value) = keeper.ask(&connect);
        let error = &value["error"];
        assert_eq!((status, &error["code"]), (8, &json!("hung")), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("the mount is still there"), "{message}");
        for _ in 0..3 {
            let (status, found) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
            assert_eq!((status, &found["state"]), (8, &json!("hung")), "{found}");
            assert_eq!(found["uses"], 0);
        }
        let left = unchanged(|| keeper.done(&["disconnect", "disk-1"]));
        assert_eq!(
            (&left["outcome"], &left["warning"]),
            (&json!("left"), &json!("hung"))
        );
        keeper.file(FILE);
        keeper.done(&["connect", "disk-3"]);
        keeper.done(&["disconnect", "disk-3"]);
        keeper.kill_server(&keeper.target());
        keeper.one(json!({ "allow_other": allow_other }));
        let repaired = keeper.done(&connect);
        assert_eq!(
            (&repaired["outcome"], &repaired["uses"]),
            (&json!("repaired"), &json!(1))
        );
        keeper.done(&["disconnect", "disk-1"]);
        keeper.all_is_gone();
    }
    Ok(())
}

/// It waited for ever, for each of these.
pub(crate) fn every_step_has_a_deadline(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let connect = ["connect", "disk-1"];
    // The lock: above. The program:
    keeper.within(&[("program", 1)]);
    keeper.one(json!({ "hang": "before" }));
    let (status, error) = keeper.refused(&connect);
    assert_eq!(
        (status, &error["code"]),
        (7, &json!("timed-out")),
        "{error}"
    );
    let (_, found) = keeper.ask(&["validate", "disk-1"]);
    assert_eq!(
        (&found["state"], &found["uses"]),
        (&json!("absent"), &json!(0))
    );
    keeper.all_is_gone();
    // One that has mounted, and does not say so.
    keeper.within(&[("program", 5)]);
    keeper.one(json!({ "hang": "after" }));
    assert_eq!(keeper.done(&connect)["outcome"], "mounted");
    keeper.done(&["disconnect", "disk-1"]);
    keeper.all_is_gone();
    // The file system.
    for allow_other in [false, true] {
        keeper.one(json!({ "allow_other": allow_other }));
        keeper.file(FILE);
        keeper.done(&connect);
        keeper.within(&[("answer", 1)]);
        kill(keeper.server(&keeper.target()), Signal::SIGSTOP).unwrap();
        let (status, found) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
        assert_eq!((status, &found["state"]), (8, &json!("hung")), "{found}");
        let (status, error) = keeper.refused(&["connect", "disk-2", "--use", "vm-2"]);
        assert_eq!((status, &error["code"]), (8, &json!("hung")), "{error}");
        let (_, found) = keeper.ask(&["validate", "disk-1"]);
        assert_eq!(found["uses"], 1, "{found}");
        let server = keeper.server(&keeper.target());
        let ended = keeper.done(&["disconnect", "disk-1"]);
        assert_eq!(
            (&ended["outcome"], &ended["warning"]),
            (&json!("unmounted"), &json!("hung"))
        );
        kill(server, Signal::SIGCONT).unwrap();
        keeper.all_is_gone();
    }
    // The helper.
    keeper.file(FILE);
    keeper.done(&connect);
    keeper.within(&[("helper", 1), ("program", 1)]);
    let gate = named(keeper.stand.daemon.pid(), "mw-gate")[0];
    kill(gate, Signal::SIGSTOP).unwrap();
    for words in [["disconnect", "disk-1"], ["connect", "disk-3"]] {
        let (status, error) = keeper.refused(&words);
        assert_eq!(
            (status, &error["code"]),
            (7, &json!("timed-out")),
            "{words:?}: {error}"
        );
    }
    // Who is there already is found without it.
    keeper.file(FILE);
    assert_eq!(keeper.done(&connect)["outcome"], "already-good");
    kill(gate, Signal::SIGCONT).unwrap();
    // The server that was too late is answered now, and finds that nobody waits for it.
    wait_for("the late server is gone", || {
        keeper
            .servers(&keeper.second_target())
            .is_empty()
            .then_some(())
    });
    let ended = keeper.done(&["disconnect", "disk-1"]);
    assert_eq!(
        (&ended["outcome"], &ended["uses"]),
        (&json!("unmounted"), &json!(0))
    );
    keeper.all_is_gone();
    Ok(())
}

/// While its program mounts: the program's launcher has the lock, so that nobody meets what is
/// half done, and what comes of it is whole.
pub(crate) fn killed_while_its_program_mounts(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let go = sandbox.path("go");
    keeper.one(json!({ "wait": go }));
    let connecting = begin(&keeper, &["connect", "disk-1", "--use", "vm-1"]);
    program(&keeper);
    killed(connecting);
    keeper.within(&[("lock", 1)]);
    for words in [["connect", "disk-2"], ["disconnect", "disk-1"]] {
        let (status, error) = keeper.refused(&words);
        assert_eq!(
            (status, &error["code"]),
            (7, &json!("timed-out")),
            "{error}"
        );
    }
    keeper.file(FILE);
    let second = begin(&keeper, &["connect", "disk-2", "--use", "vm-2"]);
    fs::write(&go, "").unwrap();
    let connected = ended(second);
    assert_eq!(
        (&connected["outcome"], &connected["uses"]),
        (&json!("already-good"), &json!(2))
    );
    kernel::only(&keeper.target());
    keeper.server(&keeper.target());
    keeper.done(&["disconnect", "disk-2", "--use", "vm-2"]);
    let last = keeper.done(&["disconnect", "disk-1", "--use", "vm-1"]);
    assert_eq!(last["outcome"], "unmounted");
    keeper.all_is_gone();
    Ok(())
}

/// While it waits for others.
pub(crate) fn killed_while_it_waits(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    keeper.done(&["connect", "disk-1", "--use", "vm-1"]);
    let target = keeper.target();
    let looked = |name: &str| {
        let (_, found) = keeper.ask(&["validate", name]);
        (found["state"].clone(), found["uses"].clone())
    };
    // For the lock.
    let lock = File::open(keeper.lock()).unwrap();
    lock.lock().unwrap();
    for words in [["connect", "disk-2"], ["disconnect", "disk-1"]] {
        let waiting = begin(&keeper, &words);
        wait_for("it has the lock open", || {
            let open = fs::read_dir(format!("/proc/{}/fd", waiting.id())).ok()?;
            let mut shown = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            shown.any(|path| path == keeper.lock()).then_some(())
        });
        killed(waiting);
    }
    drop(lock);
    assert_eq!(looked("disk-1"), (json!("good"), json!(1)));
    // For the file system, which it is about to unmount, or to connect to.
    for words in [
        ["disconnect", "disk-1", "--use", "vm-1"],
        ["connect", "disk-2", "--use", "vm-2"],
    ] {
        let server = keeper.server(&target);
        kill(server, Signal::SIGSTOP).unwrap();
        let waiting = begin(&keeper, &words);
        // A use is written down before anything else is done, and ends after all else.
        wait_for("it has the lock and a use", || {
            let lock = File::open(keeper.lock()).unwrap();
            let used = fs::read_to_string(keeper.named(words[3])).unwrap_or_default();
            (lock.try_lock().is_err() && !used.is_empty()).then_some(())
        });
        unchanged(|| killed(waiting));
        kill(server, Signal::SIGCONT).unwrap();
        wait_for("nobody asks the file system any more", || {
            (keeper.processes(target.to_str().unwrap()) == [server]).then_some(())
        });
    }
    assert_eq!(looked("disk-1"), (json!("good"), json!(2)));
    keeper.done(&["disconnect", "disk-1", "--use", "vm-1"]);
    // For the helper.
    let gate = named(keeper.stand.daemon.pid(), "mw-gate")[0];
    kill(gate, Signal::SIGSTOP).unwrap();
    let waiting = begin(&keeper, &["disconnect", "disk-2", "--use", "vm-2"]);
    wait_for("it has the lock", || {
        let lock = File::open(keeper.lock()).unwrap();
        lock.try_lock().is_err().then_some(())
    });
    killed(waiting);
    kill(gate, Signal::SIGCONT).unwrap();
    let last = keeper.done(&["disconnect", "disk-2", "--use", "vm-2"]);
    assert_eq!(
        (&last["outcome"], &last["uses"]),
        (&json!("unmounted"), &json!(0))
    );
    keeper.all_is_gone();
    Ok(())
}
