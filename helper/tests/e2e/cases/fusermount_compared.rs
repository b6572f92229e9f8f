//! `mountwarden-fusermount3` and the program that it stands in for, side by side.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::fusermount::POLICY;
use crate::Skip;
use crate::daemon::outcome;
use crate::kernel::{self, unchanged};
use crate::libfuse::{REAL, Stand, as_user, call};
use crate::sandbox::Sandbox;

/// Says what is wrong, and ends with the same status, wherever the other does.
pub(crate) fn what_is_asked_wrongly(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let real = real(sandbox)?;
    let place = |name: &str| stand.place(name).display().to_string();
    let (a, missing) = (place("a"), place("missing"));
    let link = place("link");
    symlink(&a, &link).unwrap();
    let nothing: [&str; 0] = [];
    for words in [
        &nothing[..],
        &["-h"],
        &["--help"],
        &["-V"],
        &["--version"],
        &["-Vx"],
        &["-xV"],
        &["-V", "--bogus"],
        &["--bogus", "-V"],
        &["--vers"],
        &["-x", &a],
        &["--bogus", &a],
        &["--quiet=1", &a],
        &["-z", &a],
        &["-o"],
        &["-u"],
        &["-q"],
        &[&a, &a],
        &["-u", &a, &a],
        &["-u", &a],
        &["-uz", &a],
        &["-uq", &a],
        &["-u", "-q", "-z", "--", &a],
        &["--unmount", "--quiet", "--lazy", "--", &a],
        &["--unm", &a],
        &["-u", &missing],
        &["-uq", &missing],
        &["-u", "/no/such/place"],
        &["-uq", "/no/such/place"],
        &["-u", ""],
        &["-uq", ""],
        &["-u", "/proc"],
        &["-u", &link],
        &["--", "-u"],
        &[&a],
        &["-q", &a],
        &["--options", "ro", &a],
        &["--auto-unmount", &a],
        &["--comm-fd=99", &a],
    ] {
        let run = |program: &str| {
            let mut command = as_user(sandbox, program, stand.user);
            outcome(command.args(words))
        };
        compare(&run, &real, &stand, words);
    }
    // Where there is no such socket. The real one mounts before it looks.
    for number in ["99", "x", "", "-1"] {
        let mut command = stand.fusermount();
        command.env("_FUSE_COMMFD", number).arg(&a);
        let (status, out, error) = unchanged(|| outcome(&mut command));
        assert_eq!((status, out.as_str()), (1, ""), "{number}");
        assert!(error.contains("fusermount3: "), "{error}");
    }
    Ok(())
}

/// What cannot be mounted, for either.
pub(crate) fn what_is_not_mounted(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let real = real(sandbox)?;
    let place = |name: &str| stand.place(name).display().to_string();
    let (a, missing, link) = (place("a"), place("missing"), place("link"));
    symlink(&a, &link).unwrap();
    for words in [
        &["-o", "ro,,rw", &a][..],
        &["-o", "bogus", &a],
        &["-qo", "bogus", &a],
        &["-o=ro", &a],
        &["-o", "fd", &a],
        &["-o", "ro=1", &a],
        &["-o", "blkdev", &a],
        &["-o", "blksize=512", &a],
        &["-o", "max_read", &a],
        &["-o", "max_read=", &a],
        &["-o", "max_read=x", &a],
        &["-o", "max_read=08", &a],
        &["-o", "allow_other", &a],
        &["-o", "allow_root", &a],
        &["-o", "user=x", &a],
        &["-o", "context=x", &a],
        &["-o", "fsname=", &a],
        &["-o", "subtype=", &a],
        &[&missing],
        &[&link],
        &["/dev/null"],
        &["/proc"],
        &["/usr"],
        &["/no/such/place"],
    ] {
        let run = |program: &str| {
            let mut command = as_user(sandbox, program, stand.user);
            command.args(words);
            let (status, out, error, connection) = call(command);
            assert!(connection.is_none(), "{words:?}");
            (status, out, error)
        };
        compare(&run, &real, &stand, words);
    }
    Ok(())
}

/// The real program, where it may do what it is for.
fn real(sandbox: &Sandbox) -> Result<String, Skip> {
    sandbox.needs_root()?;
    if !Path::new(REAL).exists() {
        return Err(Skip(format!("{REAL} is not installed")));
    }
    Ok(REAL.to_owned())
}

fn compare(
    run: &dyn Fn(&str) -> (i32, String, String),
    real: &str,
    stand: &Stand<'_>,
    words: &[&str],
) {
    let (status, out, error) = unchanged(|| run(real));
    let own = stand.own();
    let (own_status, own_out, own_error) = unchanged(|| run(&own));
    let both =
        format!("{words:?}: {status} {out:?} {error:?}, {own_status} {own_out:?} {own_error:?}");
    assert_eq!(own_status, status, "{both}");
    assert_eq!(own_out.is_empty(), out.is_empty(), "{both}");
    assert_eq!(own_error.is_empty(), error.is_empty(), "{both}");
    assert!(
        own_error.is_empty() || own_error.starts_with(&own),
        "{both}"
    );
}

/// What both mount, the kernel shows alike.
pub(crate) fn what_is_mounted(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let real = real(sandbox)?;
    let place = stand.place("a");
    for list in [
        "",
        ",max_read=8192",
        ",default_permissions,ro",
        ",rw,noexec,nosuid,nodev,async",
        ",ro,rw",
        ",suid",
        ",dev,atime",
        ",nonempty,fd=9,rootmode=1,user_id=0,group_id=0",
    ] {
        let options = format!("subtype=hello,fsname=plain{list}");
        let mounted = |program: &str| {
            let mut command = as_user(sandbox, program, stand.user);
            command.args(["-o", &options, "--"]).arg(&place);
            let (status, out, error, connection) = call(command);
            let line = kernel::only(&place);
            drop(connection.unwrap());
            umount2(&place, MntFlags::MNT_DETACH).unwrap();
            // `ro` is the mount's; there is one of the file system.
            let (_, others) = line.super_options.split_once(',').unwrap();
            let shown = (
                line.filesystem,
                line.source,
                line.options,
                others.to_owned(),
            );
            (status, out.is_empty(), error.is_empty(), shown)
        };
        let (theirs, ours) = (mounted(&real), mounted(&stand.own()));
        assert_eq!(ours, theirs, "{options}");
    }
    Ok(())
}
