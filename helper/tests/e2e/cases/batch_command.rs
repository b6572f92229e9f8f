//! `apply`: a batch from a file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Skip;
use crate::daemon::{Daemon, outcome};
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;

const TOML: &str = r#"
# The tree, as `tree` has it.
[[mount]]
target = "@DIR@/mnt/a"
bind = { source = "@DIR@/src" }

[[mount]]
target = "@DIR@/mnt/a/other"
[mount.bind]
source = "@DIR@/src"
read_only = true

[[mount]]
target = "@DIR@/mnt/a/other/other"
tmpfs = { size = "1M", inodes = 64, mode = "0750" }
noexec = true
"#;

const JSON: &str = r#"{"mount": [
  {"target": "@DIR@/mnt/a", "bind": {"source": "@DIR@/src"}},
  {"target": "@DIR@/mnt/missing", "tmpfs": {}}
]}"#;

/// The command reads a batch, does it, and says what became of it.
pub(crate) fn applies_a_file(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let file = write(sandbox, "batch.toml", TOML);
    let apply = |words: &[&str], file: &Path| {
        let mut command = daemon.cli();
        outcome(command.args(["--json", "apply"]).args(words).arg(file))
    };
    let (status, out, error) = unchanged(|| apply(&["--explain"], &file));
    assert_eq!((status, &error[..]), (0, ""), "{out}");
    let explained: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(explained[2]["tmpfs"]["size"], 1 << 20, "{out}");
    let (status, out, error) = apply(&[], &file);
    assert_eq!((status, &error[..]), (0, ""), "{out}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["result"], "applied");
    let listed = daemon.client().list().unwrap();
    for (mount, said) in listed.iter().zip(said["mounts"].as_array().unwrap()) {
        assert_eq!(said["result"], "mounted", "{out}");
        assert_eq!(said["id"], u64::from(mount.id));
        assert_eq!(said["target"], mount.target.as_path().to_str().unwrap());
    }
    let last = listed.last().unwrap();
    let line = kernel::only(last.target.as_path());
    assert!(line.options.contains("noexec"), "{line:?}");
    assert!(
        line.super_options
            .contains("size=1024k,nr_inodes=64,mode=750"),
        "{line:?}"
    );
    // From standard input, as JSON, and with one that cannot be made.
    let json = write(sandbox, "batch.json", JSON);
    let mut command = daemon.cli();
    command
        .args(["apply", "-"])
        .stdin(File::open(json).unwrap());
    let (status, out, error) = unchanged(|| outcome(&mut command));
    assert_eq!((status, &out[..]), (5, ""), "{error}");
    assert!(error.starts_with("error: mount[1]: "), "{error}");
    let mut client = daemon.client();
    for mount in listed.iter().rev() {
        client.unmount(mount).unwrap();
    }
    let denied = write(
        sandbox,
        "batch.toml",
        &TOML.replace("mnt/a/other/other", "other"),
    );
    let (status, out, _) = unchanged(|| apply(&["--explain"], &denied));
    let explained: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &explained[2]["result"]), (3, &"denied".into()));
    let (status, _, error) = unchanged(|| apply(&[], &denied));
    let said: Value = serde_json::from_str(&error).unwrap();
    assert_eq!((status, &said["error"]["entry"]), (3, &2.into()), "{error}");
    Ok(())
}

/// With a leased mount in it, the command holds the batch until it is interrupted.
pub(crate) fn holds_leases(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let text = format!("{TOML}lease = true\n");
    let file = write(sandbox, "batch.toml", &text);
    let mut command = daemon.cli();
    command.arg("apply").arg(file).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("Mounted "), "{line}");
    }
    let listed = daemon.client().list().unwrap();
    assert_eq!(listed.len(), 3);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lines.next().unwrap().unwrap().starts_with("Unmounted "));
    let mut client = daemon.client();
    assert_eq!(client.list().unwrap(), listed[..2]);
    client.unmount(&listed[1]).unwrap();
    client.unmount(&listed[0]).unwrap();
    Ok(())
}

fn write(sandbox: &Sandbox, name: &str, text: &str) -> PathBuf {
    let text = text.replace("@DIR@", sandbox.path("").to_str().unwrap());
    let path = sandbox.path(name);
    fs::write(&path, text).unwrap();
    path
}
