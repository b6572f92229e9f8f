//! Requests that want the same place at once.
//!
//! As in `between`, the kernel's own lock of the target is held by a file system
//! that the case serves.

use std::fs;
use std::path::Path;

use mountwarden_client::protocol::Reply;
use mountwarden_client::{ErrorCode, Outcome, Tmpfs};
use nix::unistd::Pid;

use super::between::{
    attempts, is_in_state, mounted, request, sleeps, wait_for_lock, wait_for_state,
};
use super::confinement::only;
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::fuse::Server;
use crate::kernel;
use crate::sandbox::{POLICY, Sandbox};
use crate::wire::Wire;

/// Two connections want the same at once: the second looks only after the first
/// has finished, and finds what it made.
pub(crate) fn attack_12_one_at_a_time(sandbox: &Sandbox) -> Result<(), Skip> {
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&leaf).unwrap());
    let mut first = Wire::open(&daemon.socket);
    let first_mounter = only(&daemon, "mw-mounter");
    let mut second = Wire::open(&daemon.socket);
    let replies = server.hold(|hold| {
        first.send_body(&crate::wire::body(&tmpfs));
        wait_for_lock(first_mounter);
        let second_mounter = other_mounter(&daemon, first_mounter);
        wait_for_state(second_mounter, 'S');
        let before = sleeps(second_mounter);
        second.send_body(&crate::wire::body(&tmpfs));
        wait_for("the second mounter waits for the first", || {
            (sleeps(second_mounter) > before && is_in_state(second_mounter, 'S')).then_some(())
        });
        hold.let_go();
        [first.reply(), second.reply()].map(mounted)
    });
    assert_eq!(
        replies.each_ref().map(|made| made.outcome),
        [Outcome::Mounted, Outcome::AlreadyMounted]
    );
    assert_eq!(replies[0].mount, replies[1].mount);
    // The second's target was opened before the first was there: tried again, and
    // never attached. Each mounter writes its lines after it gave back the lock.
    let attempts = attempts(&daemon);
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    let changed: Vec<_> = attempts
        .iter()
        .filter(|line| line["code"] == "changed")
        .collect();
    let [changed] = changed[..] else {
        panic!("{attempts:?}")
    };
    let message = changed["message"].as_str().unwrap();
    assert!(message.contains("what is mounted at"), "{message}");
    Ok(())
}

/// Two connections want something at one place, under two names: the directory
/// above it was renamed when the first was past its checks. The second waits for
/// the first, and never meets what that has to take back.
pub(crate) fn attack_03_one_at_a_time_under_two_names(sandbox: &Sandbox) -> Result<(), Skip> {
    let server = Server::start(&sandbox.make_dir("mnt/one/held"))?;
    let (one, two) = (sandbox.path("mnt/one"), sandbox.path("mnt/two"));
    let daemon = Daemon::start(sandbox);
    let tmpfs = |above: &Path| request(Tmpfs::new(above.join("held/leaf")).unwrap());
    let mut first = Wire::open(&daemon.socket);
    let first_mounter = only(&daemon, "mw-mounter");
    let mut second = Wire::open(&daemon.socket);
    let replies = server.hold(|hold| {
        first.send_body(&crate::wire::body(&tmpfs(&one)));
        wait_for_lock(first_mounter);
        fs::rename(&one, &two).unwrap();
        let second_mounter = other_mounter(&daemon, first_mounter);
        wait_for_state(second_mounter, 'S');
        let before = sleeps(second_mounter);
        second.send_body(&crate::wire::body(&tmpfs(&two)));
        wait_for("the second mounter waits for the first", || {
            (sleeps(second_mounter) > before && is_in_state(second_mounter, 'S')).then_some(())
        });
        hold.let_go();
        [first.reply(), second.reply()]
    });
    let [first, second] = replies;
    assert!(
        matches!(&first, Reply::Error(error) if error.code == ErrorCode::NotFound),
        "{first:?}"
    );
    let made = mounted(second);
    assert_eq!(made.outcome, Outcome::Mounted);
    let attempts = attempts(&daemon);
    // Each mounter writes its lines after it gave back the lock.
    let changed = attempts.iter().filter(|line| line["code"] == "changed");
    assert_eq!((attempts.len(), changed.count()), (2, 1), "{attempts:?}");
    let status = kernel::statmount(made.mount.id);
    assert_eq!(
        status.point,
        two.join("held/leaf").as_os_str().as_encoded_bytes()
    );
    Ok(())
}

/// The mounter of the only other connection.
pub(super) fn other_mounter(daemon: &Daemon, than: Pid) -> Pid {
    let all = kernel::named(daemon.pid(), "mw-mounter");
    let mut others = all.into_iter().filter(|&pid| pid != than);
    others.next().expect("another mounter")
}

/// A request that waits for another's has its deadline too, in both halves.
pub(crate) fn attack_31_a_wait_for_another_times_out(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nrequest_timeout = \"@SECOND@\"\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
    let server = Server::start(&sandbox.make_dir("mnt/held"))?;
    let leaf = sandbox.path("mnt/held/leaf");
    let daemon = Daemon::start(sandbox);
    let tmpfs = request(Tmpfs::new(&leaf).unwrap());
    let mut first = Wire::open(&daemon.socket);
    let first_mounter = only(&daemon, "mw-mounter");
    let mut second = Wire::open(&daemon.socket);
    server.hold(|hold| {
        first.send_body(&crate::wire::body(&tmpfs));
        wait_for_lock(first_mounter);
        let second_mounter = other_mounter(&daemon, first_mounter);
        second.send_body(&crate::wire::body(&tmpfs));
        first.error(ErrorCode::TimedOut);
        second.error(ErrorCode::TimedOut);
        wait_for("the one that waited is ended", || {
            (!kernel::is_alive(second_mounter)).then_some(())
        });
        wait_for("the warden reports it", || {
            daemon
                .log()
                .contains("took longer than `request_timeout`")
                .then_some(())
        });
        // Others are served as before.
        let other = request(Tmpfs::new(sandbox.path("mnt/a")).unwrap());
        mounted(Wire::open(&daemon.socket).ask(&other));
        hold.let_go();
    });
    wait_for("the connections' processes end", || {
        (kernel::descendants(daemon.pid()).len() == 2).then_some(())
    });
    // The first was past its checks: its mount is there, whole, or is not.
    for line in kernel::at(&leaf) {
        assert!(line.options.contains("nosuid,nodev"), "{line:?}");
    }
    assert!(kernel::at(&leaf).len() <= 1);
    Ok(())
}
