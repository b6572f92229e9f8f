//! Volumes: what the driver that they replace did well.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::Skip;
use crate::keeper::{FILE, Keeper};
use crate::kernel::{self, unchanged};
use crate::sandbox::{Sandbox, mount_tmpfs};

/// With mounts for the user alone, which the helper cannot ask, and with mounts for all.
const ACCESS: [bool; 2] = [false, true];

/// From a list of volumes to the mount's end.
pub(crate) fn the_whole_life(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let target = keeper.target();
    for allow_other in ACCESS {
        keeper.one(json!({ "allow_other": allow_other }));
        let (status, absent) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
        assert_eq!((status, &absent["state"]), (5, &json!("absent")));
        let made = keeper.done(&["connect", "disk-1", "--use", "vm-1"]);
        assert_eq!(made["outcome"], "mounted");
        assert_eq!(
            (&made["volume"], &made["uses"]),
            (&json!("disk-1"), &json!(1))
        );
        let line = kernel::only(&target);
        assert_eq!(line.filesystem, "fuse.quobyte");
        assert_eq!(line.source, "quobyte@reg1|reg2/volume-1");
        assert!(
            line.super_options
                .contains(&format!("user_id={},", keeper.stand.user))
        );
        assert_eq!(line.super_options.contains("allow_other"), allow_other);
        let device = made["device"].as_str().unwrap();
        assert_eq!(read_and_write(&keeper, device, "more"), "more");
        let good = unchanged(|| keeper.done(&["validate", "disk-1"]));
        assert_eq!(good["state"], "good");
        assert_eq!(
            (&good["type"], &good["source"]),
            (&json!(line.filesystem), &json!(line.source))
        );
        assert_eq!((&good["id"], &good["uses"]), (&made["id"], &json!(1)));
        let list = unchanged(|| keeper.done(&["list"]));
        let fares = [0, 1, 2].map(|index| list["volumes"][index]["state"].clone());
        assert_eq!(fares, ["good", "good", "absent"]);
        assert_eq!(list["volumes"][0], good);
        let ended = keeper.done(&["disconnect", "disk-1", "--use", "vm-1"]);
        assert_eq!(
            (&ended["outcome"], &ended["uses"]),
            (&json!("unmounted"), &json!(0))
        );
        assert_eq!(ended["id"], made["id"]);
        assert_eq!(ended["warning"], Value::Null);
        keeper.all_is_gone();
        assert!(target.is_dir());
        // What was written is in the volume, and not in the directory beneath.
        assert_eq!(
            fs::read_to_string(sandbox.path("data/disk-1")).unwrap(),
            "more"
        );
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
    Ok(())
}

/// As the user, in the volume.
fn read_and_write(keeper: &Keeper<'_>, device: &str, text: &str) -> String {
    let script = "stat \"$1\" >&2 && cat > \"$1\" && cat \"$1\"";
    let (status, read) = keeper.stand.shell(script, device.as_ref(), text);
    assert_eq!(status, 0);
    read
}

/// 1: the place of a mount is the base and the digest of the export without its scheme, and the
/// device's is that and the volume's name.
pub(crate) fn an_export_has_one_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let target = keeper.target();
    let first = keeper.done(&["connect", "disk-1"]);
    let second = unchanged(|| keeper.done(&["connect", "disk-2", "--use", "vm-2"]));
    let third = keeper.done(&["connect", "disk-3"]);
    for (made, target, name) in [
        (&first, &target, "disk-1"),
        (&second, &target, "disk-2"),
        (&third, &keeper.second_target(), "disk-3"),
    ] {
        let device = target.join(name);
        assert_eq!(made["target"], target.to_str().unwrap());
        assert_eq!(made["device"], device.to_str().unwrap());
        let (status, text) = keeper.stand.shell("cat \"$1\"", &device, "");
        assert_eq!((status, text.as_str()), (0, name));
    }
    assert_eq!(
        (&first["outcome"], &first["uses"]),
        (&json!("mounted"), &json!(1))
    );
    assert_eq!(
        (&second["outcome"], &second["uses"]),
        (&json!("already-good"), &json!(2))
    );
    assert_eq!(first["id"], second["id"]);
    assert_eq!(third["outcome"], "mounted");
    kernel::only(&target);
    kernel::only(&keeper.second_target());
    Ok(())
}

/// 2: good is left as it is, stale is ended and made again, absent is made.
pub(crate) fn connecting_makes_it_good(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let connect = ["connect", "disk-1", "--use", "vm-1"];
    for allow_other in ACCESS {
        keeper.one(json!({ "allow_other": allow_other }));
        let made = keeper.done(&connect);
        assert_eq!(made["outcome"], "mounted");
        let server = keeper.server(&keeper.target());
        let again = unchanged(|| keeper.done(&connect));
        assert_eq!(again["outcome"], "already-good");
        assert_eq!((&again["id"], &again["uses"]), (&made["id"], &json!(1)));
        assert_eq!(keeper.server(&keeper.target()), server);
        keeper.kill_server(&keeper.target());
        assert_eq!(keeper.state("disk-1"), "stale");
        let repaired = keeper.done(&connect);
        assert_eq!(
            (&repaired["outcome"], &repaired["uses"]),
            (&json!("repaired"), &json!(1))
        );
        kernel::only(&keeper.target());
        if kernel::has_unique_ids() {
            assert_ne!(repaired["id"], made["id"]);
        }
        assert_eq!(keeper.state("disk-1"), "good");
        keeper.done(&["disconnect", "disk-1", "--use", "vm-1"]);
        keeper.all_is_gone();
    }
    Ok(())
}

/// 3: either the type or the beginning of the source tells the volume's mount from others, and
/// whoever serves it has a deadline for an answer.
pub(crate) fn validating_looks_at_the_mount(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    for allow_other in ACCESS {
        for (kind, source, state, status) in [
            ("quobyte", "quobyte@reg2/volume-1", "good", 0),
            ("other", "quobyte@elsewhere/volume-1", "good", 0),
            ("quobyte", "other@reg1", "good", 0),
            ("other", "other@reg1", "foreign", 4),
            ("other", "x-quobyte@reg1/volume-1", "foreign", 4),
        ] {
            keeper.one(json!({ "type": kind, "source": source, "allow_other": allow_other }));
            let (connected, error) = keeper.ask(&["connect", "disk-1"]);
            assert_eq!(connected, status, "{error}");
            let (found, value) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
            assert_eq!((found, &value["state"]), (status, &json!(state)), "{value}");
            assert_eq!(value["source"], source);
            assert_eq!(value["type"], format!("fuse.{kind}"));
            if state == "good" {
                let server = keeper.server(&keeper.target());
                kill(server, Signal::SIGSTOP).unwrap();
                keeper.within(&[("answer", 1)]);
                let (found, value) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
                assert_eq!((found, &value["state"]), (8, &json!("hung")), "{value}");
                kill(server, Signal::SIGCONT).unwrap();
                keeper.file(FILE);
                assert_eq!(keeper.state("disk-1"), "good");
                keeper.kill_server(&keeper.target());
                let (found, value) = unchanged(|| keeper.ask(&["validate", "disk-1"]));
                assert_eq!((found, &value["state"]), (8, &json!("stale")), "{value}");
                assert_eq!(value["errno"], libc::ENOTCONN);
                keeper.done(&["disconnect", "disk-1"]);
            } else {
                let mut end = keeper.stand.fusermount();
                assert!(
                    end.arg("-u")
                        .arg(keeper.target())
                        .status()
                        .unwrap()
                        .success()
                );
            }
            keeper.all_is_gone();
        }
    }
    Ok(())
}

/// 4: nothing or a dead mount is as good as disconnected, and worth a warning. The directory
/// stays, the same one.
pub(crate) fn disconnecting_what_is_not_good(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let disconnect = ["disconnect", "disk-1"];
    let ended = unchanged(|| keeper.done(&disconnect));
    assert_eq!(
        (&ended["outcome"], &ended["warning"]),
        (&json!("absent"), &json!("absent"))
    );
    keeper.done(&["connect", "disk-1"]);
    keeper.done(&disconnect);
    let inode = fs::metadata(keeper.target()).unwrap().ino();
    keeper.done(&["connect", "disk-1"]);
    keeper.kill_server(&keeper.target());
    let ended = keeper.done(&disconnect);
    assert_eq!(
        (&ended["outcome"], &ended["warning"]),
        (&json!("unmounted"), &json!("stale"))
    );
    assert_eq!(ended["uses"], 0);
    keeper.all_is_gone();
    // Ended by somebody else.
    keeper.done(&["connect", "disk-1"]);
    let mut end = keeper.stand.fusermount();
    assert!(
        end.arg("-u")
            .arg(keeper.target())
            .status()
            .unwrap()
            .success()
    );
    let ended = unchanged(|| keeper.done(&disconnect));
    assert_eq!(
        (&ended["outcome"], &ended["warning"]),
        (&json!("absent"), &json!("absent"))
    );
    assert_eq!(ended["uses"], 0);
    keeper.all_is_gone();
    assert_eq!(fs::metadata(keeper.target()).unwrap().ino(), inode);
    // What is not the volume's is nobody's to disconnect.
    mount_tmpfs(&keeper.target());
    let (status, error) = keeper.refused(&disconnect);
    assert_eq!((status, &error["code"]), (4, &json!("foreign")));
    Ok(())
}

/// 5: where no systemd runs, the program runs all the same: where it was started.
pub(crate) fn without_systemd(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let dump = keeper.dump("one");
    keeper.one(json!({ "dump": dump }));
    keeper.done(&["connect", "disk-1"]);
    let started: Value = serde_json::from_reader(File::open(&dump).unwrap()).unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_eq!(started["cgroup"], own);
    Ok(())
}

/// 6: what the program is called with, to the word.
pub(crate) fn arguments_are_configured(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let dump = keeper.dump("one");
    keeper.one(json!({ "dump": dump }));
    let path = |name: &str| sandbox.path(name).display().to_string();
    let (program, target) = (
        path("bin/mount.quobyte"),
        keeper.target().display().to_string(),
    );
    let export = "reg1,reg2/volume-1";
    keeper.done(&["connect", "disk-1"]);
    let started: Value = serde_json::from_reader(File::open(&dump).unwrap()).unwrap();
    let config = path("one.json");
    let words = [&program, "--disable-xattrs", export, &target, "-c", &config];
    assert_eq!(started["arguments"], json!(words));
    keeper.done(&["disconnect", "disk-1"]);
    // Without a configuration, of which the program knows nothing then.
    keeper.file(&FILE.replace(r#", config = "@DIR@/one.json""#, ""));
    keeper.done(&["connect", "disk-1"]);
    let server = keeper.server(&keeper.target());
    let words = fs::read_to_string(format!("/proc/{server}/cmdline")).unwrap();
    let expected = ["quobyte-server", "--disable-xattrs", export, &target, ""];
    assert_eq!(words, expected.join("\0"));
    keeper.done(&["disconnect", "disk-1"]);
    // Any other program. It is none, so that nothing comes of it but its words.
    let script = "#!/bin/sh\nprintf '%s|' \"$@\" >&2\nexit 3\n";
    for (arguments, words) in [
        ("[]", format!("--|{export}|{target}|")),
        (
            r#"["-o", "a b,c", "$(x)"]"#,
            format!("-o|a b,c|$(x)|--|{export}|{target}|"),
        ),
        (
            r#"["--at={target}", "{export}"]"#,
            format!("--at={target}|{export}|"),
        ),
    ] {
        keeper.script(script, arguments);
        let (status, error) = keeper.refused(&["connect", "disk-1"]);
        assert_eq!(
            (status, &error["code"]),
            (1, &json!("program-failed")),
            "{error}"
        );
        assert_eq!(error["program"]["said"], words);
    }
    Ok(())
}
