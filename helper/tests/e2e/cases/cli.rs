//! The command line client against the real helper.

use serde_json::{Value, json};

use crate::Skip;
use crate::daemon::{Daemon, outcome};
use crate::kernel::{self, unchanged};
use crate::sandbox::{POLICY, Sandbox};

fn run(daemon: &Daemon, arguments: &[&str]) -> (i32, String, String) {
    outcome(daemon.cli().args(arguments))
}

pub(crate) fn exit_statuses_and_sentences(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let (data, other, a) = (path("src/data"), path("src/other"), path("mnt/a"));
    let missing = path("mnt/missing");
    for (arguments, status, word) in [
        (vec!["mount", "bind", &data, &a], 0, "Mounted"),
        (vec!["mount", "bind", &data, &a], 0, "Already mounted"),
        (vec!["mount", "bind", &other, &a], 4, "different mount"),
        (vec!["mount", "bind", "/etc", &a], 3, "/etc"),
        (vec!["mount", "bind", &data, &missing], 5, "No such file"),
        (vec!["mount", "bind", &data, "relative"], 9, "relative"),
        (vec!["mount", "bind", &data], 2, "TARGET"),
        (vec!["unmount", &a, "--id", "1"], 5, "not 1"),
        (vec!["unmount", &a], 0, "Unmounted"),
        (vec!["unmount", &a], 5, "nothing is mounted"),
        (vec!["list"], 0, ""),
        (vec!["status"], 0, "CAP_SYS_ADMIN"),
        (vec!["explain", "mount", "bind", &data, &a], 0, "test"),
        (
            vec!["explain", "mount", "bind", "/etc", &a],
            3,
            "source-not-granted",
        ),
    ] {
        let (code, out, err) = run(&daemon, &arguments);
        assert_eq!(code, status, "{arguments:?}: {out}{err}");
        assert!(
            format!("{out}{err}").contains(word),
            "{arguments:?}: {out}{err}"
        );
        assert!(
            !out.contains('\x1b') && !err.contains('\x1b'),
            "colour without a terminal"
        );
    }
    daemon.stop();
    let (code, _, err) = outcome(
        std::process::Command::new(sandbox.path("bin/mountwarden"))
            .arg("--socket")
            .arg(sandbox.path("run/sock"))
            .arg("list")
            .env_remove(crate::CASE),
    );
    assert_eq!(code, 6, "{err}");
    Ok(())
}

pub(crate) fn json_shapes(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let a = sandbox.path("mnt/a");
    let a = a.to_str().unwrap();
    let json = |arguments: &[&str]| -> (i32, Value) {
        let (status, out, err) = run(&daemon, &[&["--json"], arguments].concat());
        let text = if status == 0 || err.is_empty() {
            out
        } else {
            err
        };
        assert_eq!(text.lines().count(), 1, "one object: {text}");
        (status, serde_json::from_str(&text).expect(&text))
    };
    let (status, made) = json(&["mount", "tmpfs", a, "--size", "1M", "--noexec"]);
    assert_eq!(status, 0);
    assert_eq!(made["result"], "mounted");
    assert_eq!(made["target"], a);
    assert_eq!(made["flags"], json!(["nosuid", "nodev", "noexec"]));
    let id = made["id"].as_u64().unwrap();
    assert!(kernel::only(a.as_ref()).options.contains("noexec"));
    let (_, again) = json(&["mount", "tmpfs", a, "--size", "1M", "--noexec"]);
    assert_eq!(
        (&again["result"], &again["id"]),
        (&json!("already-mounted"), &json!(id))
    );
    let (_, list) = json(&["list"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["id"], id);
    let (status, error) = unchanged(|| json(&["mount", "bind", "/etc", a]));
    assert_eq!(status, 3);
    assert_eq!(error["error"]["code"], "denied");
    assert_eq!(error["error"]["reason"], "source-not-granted");
    assert_eq!(error["error"]["path"], "/etc");
    assert_eq!(error["error"]["errno"], Value::Null);
    let (_, gone) = json(&["unmount", a]);
    assert_eq!(
        (&gone["result"], &gone["id"]),
        (&json!("unmounted"), &json!(id))
    );
    let (status, error) = json(&["unmount", a]);
    assert_eq!(
        (status, &error["error"]["code"]),
        (5, &json!("not-mounted"))
    );
    let (_, status) = json(&["status"]);
    assert_eq!(status["counters"]["mounted"], 1);
    Ok(())
}

pub(crate) fn every_form_explains(sandbox: &Sandbox) -> Result<(), Skip> {
    let more =
        "remount = true\nmove = true\ndetached = true\npropagation = [\"shared\"]\ntarget = ";
    let kinds = "  [grant.overlay]\n  layer = [\"@DIR@/src\"]\n  [grant.image]\n  \
                 file = [\"@DIR@/src\"]\n  filesystems = [\"erofs\"]\n";
    sandbox.policy(&(POLICY.replace("target = ", more) + kinds));
    let daemon = Daemon::start(sandbox);
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let (data, a, b) = (path("src/data"), path("mnt/a"), path("mnt/b"));
    unchanged(|| {
        for (arguments, status) in [
            (
                vec![
                    "mount",
                    "bind",
                    &data,
                    &a,
                    "--read-only",
                    "--recursive",
                    "--noexec",
                ],
                0,
            ),
            (
                vec![
                    "mount", "tmpfs", &a, "--size", "16M", "--inodes", "5", "--mode", "0750",
                ],
                0,
            ),
            (vec!["mount", "tmpfs", &a, "--size", "17M"], 3),
            (vec!["mount", "overlay", &a, "--lower", &data], 0),
            (
                vec![
                    "mount", "overlay", &a, "--lower", &data, "--upper", &data, "--work", &data,
                ],
                3,
            ),
            (vec!["mount", "image", &data, &a, "--type", "erofs"], 0),
            (vec!["mount", "image", &data, &a, "--type", "squashfs"], 3),
            (vec!["unmount", &a, "--lazy", "--id", "5"], 0),
            (vec!["mount", "bind", &data, &a, "--pass-target"], 3),
            (vec!["mount", "bind", &data, &a, "--pass-source"], 3),
            (vec!["mount", "tmpfs", &a, "--pass-target"], 3),
            (vec!["unmount", &a, "--lazy", "--pass"], 3),
            (vec!["unmount", &a, "--pass"], 2),
            (vec!["unmount", "/usr"], 3),
            (vec!["mount", "bind", &data, &a, "--slave"], 3),
            (vec!["mount", "tmpfs", &a, "--shared"], 0),
            (vec!["remount", &a, "--read-only"], 0),
            (vec!["remount", &a, "--exec", "--source", &data], 0),
            (vec!["remount", &a, "--suid", "--tmpfs"], 3),
            (vec!["move", &a, &b, "--id", "5"], 0),
            (vec!["move", &data, &b], 3),
            (vec!["move", &a], 2),
            (
                vec![
                    "attach",
                    &data,
                    &a,
                    "--read-only",
                    "--recursive",
                    "--noexec",
                ],
                0,
            ),
            (vec!["attach", &data, &a, "--suid"], 3),
            (vec!["attach", &data, &a, "--dev"], 3),
            (vec!["attach", &data], 2),
        ] {
            let all = [vec!["explain"], arguments].concat();
            let (code, out, err) = run(&daemon, &all);
            assert_eq!(code, status, "{all:?}: {out}{err}");
        }
    });
    Ok(())
}
