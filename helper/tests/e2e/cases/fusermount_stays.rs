//! `auto_unmount`: who stays, and what it ends.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Skip;
use crate::daemon::{outcome, wait_for};
use crate::kernel;
use crate::libfuse::{Call, Stand};
use crate::sandbox::Sandbox;
use crate::served::{self, CONTENT, HELLO};

const POLICY: &str = r#"
version = 1

[[grant]]
name = "home"
users = [@USER@]
target_owner = "peer"
passed_target = true
target = ["@DIR@/home/own"]
  [grant.fuse]
  subtypes = ["hello"]

[[grant]]
name = "by path"
users = [@USER@]
target = ["@DIR@/mnt"]
  [grant.fuse]
  subtypes = ["hello"]
  allow_other = true
"#;

/// A mount that is to end with its program.
fn begin(stand: &Stand<'_>, options: &str, place: &Path) -> (Call, OwnedFd) {
    let mut command = stand.fusermount();
    let options = format!("subtype=hello,auto_unmount{options}");
    command.args(["-o", &options, "--"]).arg(place);
    let call = Call::begin(command);
    let connection = call.received().expect("a connection");
    (call, connection)
}

/// In a home that the helper cannot enter, and elsewhere.
pub(crate) fn until_the_program_has_died(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    for place in [stand.place("a"), sandbox.path("mnt/a")] {
        let (call, connection) = begin(&stand, "", &place);
        // It has let go of all that its caller would wait for, but the socket.
        let waiting = Pid::from_raw(call.id().try_into().unwrap());
        wait_for("it waits", || {
            let links = descriptors(waiting);
            let expected = links.iter().filter(|link| *link == "/dev/null").count();
            (expected == 3 && links.len() == 4).then_some(())
        });
        // Nor does a signal to its caller's group end it.
        kill(waiting, Signal::SIGTERM).unwrap();
        assert_eq!(kernel::at(&place).len(), 1);
        drop(connection);
        assert!(call.close().wait().unwrap().success());
        assert!(kernel::at(&place).is_empty());
        assert_eq!(stand.daemon.last_audit()["event"], "unmount");
    }
    Ok(())
}

/// What a process has open.
fn descriptors(pid: Pid) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|link| link.display().to_string())
        .collect()
}

fn unmount(stand: &Stand<'_>, place: &Path) {
    let (status, _, error) = outcome(stand.fusermount().arg("-uz").arg(place));
    assert_eq!((status, error.as_str()), (0, ""));
}

/// A mount that was made there since then is not touched, dead or not.
pub(crate) fn only_that_mount_ends(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let stand = Stand::start(sandbox, POLICY)?;
    for place in [stand.place("a"), sandbox.path("mnt/a")] {
        let (first, connection) = begin(&stand, "", &place);
        unmount(&stand, &place);
        drop(connection);
        let (second, connection) = begin(&stand, "", &place);
        drop(connection);
        let before = stand.daemon.audit().len();
        let ended = kernel::unchanged(|| first.close().wait().unwrap());
        assert!(ended.success());
        assert_eq!(stand.daemon.audit().len(), before);
        assert!(second.close().wait().unwrap().success());
        assert!(kernel::at(&place).is_empty());
    }
    Ok(())
}

/// A program may close the socket and go on, as one does that closes all it does not know.
pub(crate) fn a_living_file_system_stays(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let place = sandbox.path("mnt/a");
    let (call, connection) = begin(&stand, ",allow_other", &place);
    let server = served::serve(connection, false);
    let ended = kernel::unchanged(|| call.close().wait().unwrap());
    assert!(ended.success());
    assert_eq!(fs::read_to_string(place.join(HELLO)).unwrap(), CONTENT);
    unmount(&stand, &place);
    server.join().unwrap();
    Ok(())
}

/// Who kills it, or stops the helper, takes no file system away from its program.
pub(crate) fn killed_itself(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let place = sandbox.path("mnt/a");
    let (call, connection) = begin(&stand, ",allow_other", &place);
    let server = served::serve(connection, false);
    let stand = kernel::unchanged(|| {
        let stand = stand.restart();
        assert_eq!(fs::read_to_string(place.join(HELLO)).unwrap(), CONTENT);
        kill(
            Pid::from_raw(call.id().try_into().unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        call.close().wait().unwrap();
        stand
    });
    assert_eq!(fs::read_to_string(place.join(HELLO)).unwrap(), CONTENT);
    unmount(&stand, &place);
    server.join().unwrap();

    // One that has waited through a restart asks the new helper.
    let (call, connection) = begin(&stand, "", &place);
    let _stand = stand.restart();
    drop(connection);
    assert!(call.close().wait().unwrap().success());
    assert!(kernel::at(&place).is_empty());
    Ok(())
}

/// `--auto-unmount`, for what the program has mounted itself.
pub(crate) fn without_mounting(sandbox: &Sandbox) -> Result<(), Skip> {
    let stand = Stand::start(sandbox, POLICY)?;
    let place = stand.place("a");
    let wait = || {
        let mut command = stand.fusermount();
        command.args(["--auto-unmount", "--"]).arg(&place);
        Call::begin(command)
    };
    let (status, _, error) = kernel::unchanged(|| wait().ended());
    assert_eq!(status, 1);
    assert!(error.contains("is not the root of a mount"), "{error}");

    let (mounting, connection) = begin(&stand, "", &place);
    kill(
        Pid::from_raw(mounting.id().try_into().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let waiting = wait();
    wait_for("it waits", || {
        let links = descriptors(Pid::from_raw(waiting.id().try_into().unwrap()));
        (links.iter().filter(|link| *link == "/dev/null").count() == 3).then_some(())
    });
    drop(connection);
    assert_eq!(kernel::at(&place).len(), 1);
    assert!(waiting.close().wait().unwrap().success());
    assert!(kernel::at(&place).is_empty());
    mounting.close().wait().unwrap();
    Ok(())
}
