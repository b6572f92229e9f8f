//! Programs that are not ours, as they are packaged, in the hands of a normal user who has no
//! setuid program: each finds ours in the place of `fusermount3`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User, geteuid};
use serde_json::{Value, json};

use crate::Skip;
use crate::daemon::{outcome, wait_for};
use crate::devices::run;
use crate::kernel::{self, unchanged};
use crate::libfuse::{Program, REAL, Stand};
use crate::sandbox::Sandbox;

const POLICY: &str = r#"
version = 1

[[grant]]
name = "home"
users = [@USER@]
target_owner = "peer"
passed_target = true
target = ["@DIR@/home/own"]
  [grant.fuse]
  subtypes = ["*"]
  sources = ["*", "@DIR@/src/*", "*:@DIR@/src/*"]
"#;

fn start<'s>(sandbox: &'s Sandbox, program: &str) -> Result<Stand<'s>, Skip> {
    if Command::new(program).arg("--version").output().is_err() {
        return Err(Skip(format!("{program} is not installed")));
    }
    let stand = Stand::start(sandbox, POLICY)?;
    stand.install()?;
    stand.give(&sandbox.path("src/data"));
    Ok(stand)
}

/// Who ends it.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Unmount,
    Program,
}

/// Mounts twice, reads, writes where that can be, and ends it in both ways.
fn serves(stand: &Stand<'_>, subtype: &str, writable: bool, words: &[&str]) {
    let place = stand.place("a");
    for end in [End::Unmount, End::Program] {
        let mut serving = Program::start(stand.run(words[0]).args(&words[1..]));
        wait_for("it serves", || {
            let ended = serving.ended();
            let log = stand.daemon.log();
            assert!(ended.is_none(), "{words:?} ended: {ended:?}\n{log}");
            reads(stand, &place).then_some(())
        });
        let line = kernel::only(&place);
        assert_eq!(line.filesystem, subtype, "{line:?}");
        let user = format!("user_id={},", stand.user);
        assert!(line.super_options.contains(&user), "{line:?}");
        assert!(line.options.contains("nosuid,nodev"), "{line:?}");
        if writable {
            writes(stand, &place, "new", "more");
        }
        match end {
            End::Unmount => {
                let (status, _, error) = outcome(stand.run(REAL).arg("-u").arg(&place));
                assert_eq!((status, error.as_str()), (0, ""));
            }
            End::Program => serving.signal(Signal::SIGTERM),
        }
        serving.wait();
        wait_for("it is gone", || kernel::at(&place).is_empty().then_some(()));
    }
    let last = stand.daemon.last_audit();
    assert_eq!(last["event"], "unmount", "{last}");
    // What the helper's user can reach is ended by its path.
    let passed = if geteuid().is_root() {
        json!("target")
    } else {
        Value::Null
    };
    assert_eq!(last["passed"], passed, "{last}");
}

/// Whether the file is there.
fn reads(stand: &Stand<'_>, place: &Path) -> bool {
    stand.shell("cat \"$1/file\"", place, "") == (0, "data".to_owned())
}

/// Writes a file and reads it. The directory is looked at first: without that the kernel takes
/// it for root's, and in a user namespace that has no root nobody writes to that.
fn writes(stand: &Stand<'_>, place: &Path, name: &str, text: &str) {
    let script = format!("stat \"$1\" >&2 && cat > \"$1/{name}\" && cat \"$1/{name}\"");
    let (status, read) = stand.shell(&script, place, text);
    assert_eq!((status, read.as_str()), (0, text));
}

pub(crate) fn squashfuse(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "squashfuse")?;
    let image = sandbox.path("src/image");
    let mut make = Command::new("mksquashfs");
    make.arg(sandbox.path("src/data")).arg(&image);
    run(make.args(["-quiet", "-no-progress"]))?;
    let (image, place) = (text(&image), &stand.place("a"));
    let words = ["squashfuse", "-f", image, text(place)];
    serves(&stand, "fuse.squashfuse", false, &words);
    dies(&stand, &words);
    // In the background, as people start it.
    let (status, _, error) = start_by(&stand, image, place);
    assert_eq!(status, 0, "{error}");
    assert!(reads(&stand, place));
    assert_eq!(outcome(stand.run(REAL).arg("-u").arg(place)).0, 0);

    // A refusal reaches the person, although libfuse lets only its second attempt speak, which
    // asks without a subtype.
    let stand = stand.judged_by(&POLICY.replace("\"*\"]\n  sources", "\"sshfs\"]\n  sources"));
    let (status, _, error) = unchanged(|| start_by(&stand, image, place));
    assert_ne!(status, 0);
    let said = "subtype squashfuse at ";
    assert!(
        error.contains(said) && error.contains("your grant 'home'"),
        "{error}"
    );
    Ok(())
}

fn start_by(stand: &Stand<'_>, image: &str, place: &Path) -> (i32, String, String) {
    outcome(stand.run("squashfuse").arg(image).arg(place))
}

/// A program that is killed leaves no dead mount behind, where it has asked for that.
fn dies(stand: &Stand<'_>, words: &[&str]) {
    let place = stand.place("a");
    let mut command = stand.run(words[0]);
    command.args(["-o", "auto_unmount"]).args(&words[1..]);
    let serving = Program::start(&mut command);
    wait_for("it serves", || reads(stand, &place).then_some(()));
    serving.signal(Signal::SIGKILL);
    serving.wait();
    wait_for("it is gone", || kernel::at(&place).is_empty().then_some(()));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn sshfs(sandbox: &Sandbox) -> Result<(), Skip> {
    let server = "/usr/lib/openssh/sftp-server";
    if !Path::new(server).exists() {
        return Err(Skip(format!("{server} is not installed")));
    }
    let stand = start(sandbox, "sshfs")?;
    if let Ok(None) = User::from_uid(Uid::from_raw(stand.user)) {
        let why = "the SFTP server looks up its user, who has no account here";
        return Err(Skip(why.to_owned()));
    }
    // The "connection" is a pipe.
    let script = sandbox.write("sftp", &format!("#!/bin/sh\nexec {server}\n"));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("ssh_command={}", script.display());
    let source = format!("host:{}", sandbox.path("src/data").display());
    let place = stand.place("a");
    let words = ["sshfs", "-f", "-o", &command, &source, text(&place)];
    serves(&stand, "fuse.sshfs", true, &words);
    dies(&stand, &words);
    Ok(())
}

pub(crate) fn fuse_overlayfs(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "fuse-overlayfs")?;
    for name in ["src/upper", "src/work"] {
        stand.give(&sandbox.make_dir(name));
    }
    let path = |name: &str| sandbox.path(name).display().to_string();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        path("src/data"),
        path("src/upper"),
        path("src/work")
    );
    let place = stand.place("a");
    let words = ["fuse-overlayfs", "-f", "-o", &layers, text(&place)];
    serves(&stand, "fuse.fuse-overlayfs", true, &words);
    Ok(())
}

pub(crate) fn gocryptfs(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "gocryptfs")?;
    let cipher = sandbox.make_dir("src/cipher");
    stand.give(&cipher);
    let mut init = stand.run("gocryptfs");
    init.args(["-init", "-q", "-scryptn", "10", "-extpass", "echo secret"]);
    let (status, _, error) = outcome(init.arg(&cipher));
    assert_eq!(status, 0, "{error}");
    let place = stand.place("a");
    let words = [
        "gocryptfs",
        "-fg",
        "-q",
        "-extpass",
        "echo secret",
        text(&cipher),
        text(&place),
    ];
    // What is encrypted is first written.
    let first = Program::start(stand.run(words[0]).args(&words[1..]));
    wait_for("it serves", || kernel::at(&place).first().map(drop));
    writes(&stand, &place, "file", "data");
    assert_eq!(outcome(stand.run(REAL).arg("-u").arg(&place)).0, 0);
    first.wait();
    serves(&stand, "fuse.gocryptfs", true, &words);
    Ok(())
}

pub(crate) fn bindfs(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "bindfs")?;
    let (source, place) = (sandbox.path("src/data"), stand.place("a"));
    let words = [
        "bindfs",
        "-f",
        "--no-allow-other",
        text(&source),
        text(&place),
    ];
    serves(&stand, "fuse.bindfs", true, &words);
    Ok(())
}

/// By libfuse 2.
pub(crate) fn fuse2fs(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "fuse2fs")?;
    let image = sandbox.path("src/image");
    let owner = format!("root_owner={0}:{0}", stand.user);
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext2", "-E", &owner, "-d"]);
    run(make.arg(sandbox.path("src/data")).arg(&image).arg("1M"))?;
    stand.give(&image);
    let place = stand.place("a");
    let words = ["fuse2fs", "-f", text(&image), text(&place)];
    serves(&stand, "fuse.ext4", true, &words);
    Ok(())
}

/// By libfuse 2; it writes the archive when it ends.
pub(crate) fn archivemount(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "archivemount")?;
    let archive = sandbox.path("src/data/archive.tar");
    let mut make = Command::new("tar");
    make.arg("-cf").arg(&archive).arg("-C");
    run(make.arg(sandbox.path("src/data")).arg("file"))?;
    stand.give(&archive);
    let place = stand.place("a");
    let words = ["archivemount", "-f", text(&archive), text(&place)];
    serves(&stand, "fuse.archivemount", true, &words);
    dies(&stand, &words);
    Ok(())
}

pub(crate) fn rclone(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = start(sandbox, "rclone")?;
    let source = format!(":local:{}", sandbox.path("src/data").display());
    let place = stand.place("a");
    let words = ["rclone", "mount", "--config", "", &source, text(&place)];
    serves(&stand, "fuse.rclone", true, &words);
    Ok(())
}
