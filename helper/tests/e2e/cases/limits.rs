//! Limits: reached, said, and recovered from.

use std::path::Path;

use mountwarden_client::{Client, ErrorKind, Tmpfs};

use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::kernel::{self, unchanged};
use crate::sandbox::{ALICE, BOB, POLICY, Sandbox, mount_tmpfs};

pub(super) fn limited(sandbox: &Sandbox, limit: &str) {
    sandbox.policy(&POLICY.replacen("[[grant]]", &format!("[limits]\n{limit}\n[[grant]]"), 1));
}

pub(crate) fn connections_per_user(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "connections_per_user = 3");
    let daemon = Daemon::start(sandbox);
    let mut open: Vec<Client> = (0..3).map(|_| daemon.client()).collect();
    let error = Client::connect_to(&daemon.socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(
        error.to_string().contains("connections_per_user"),
        "{error}"
    );
    for client in &mut open {
        client.list().unwrap();
    }
    if sandbox.is_root {
        assert_eq!(
            outcome(daemon.cli_as(ALICE).arg("list")).0,
            0,
            "another user is served"
        );
    }
    open.pop();
    wait_for("the place is free again", || {
        Client::connect_to(&daemon.socket).ok()
    });
    Ok(())
}

pub(crate) fn connections_of_all(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "connections = 2\nconnections_per_user = 2");
    let daemon = Daemon::start(sandbox);
    let open: Vec<Client> = (0..2).map(|_| daemon.client()).collect();
    let error = Client::connect_to(&daemon.socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    if sandbox.is_root {
        let (status, _, text) = outcome(daemon.cli_as(ALICE).arg("list"));
        assert_eq!(status, 10, "{text}");
    }
    drop(open);
    wait_for("the places are free again", || {
        Client::connect_to(&daemon.socket).ok()
    });
    Ok(())
}

/// A user's place is given to another once it is free, without its count.
pub(crate) fn a_place_is_one_users(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let policy = POLICY
        .replace("@UID@, 4001, 4002", "4001, 4002, 4003")
        .replace("mnt\"", "mnt/{uid}\"");
    let limits = "connections = 2\nconnections_per_user = 2\nmounts_per_user = 2";
    sandbox.policy(&policy.replacen("[[grant]]", &format!("[limits]\n{limits}\n[[grant]]"), 1));
    let place = |uid: u32, number: u32| {
        sandbox.make_dir(&format!("mnt/{uid}"));
        sandbox.make_dir(&format!("mnt/{uid}/{number}"))
    };
    let daemon = Daemon::start(sandbox);
    let run = |uid: u32, arguments: &[&str], at: &Path| {
        // The connection before this one has given back its place.
        wait_for("no connection is open", || {
            (kernel::descendants(daemon.pid()).len() == 2).then_some(())
        });
        outcome(daemon.cli_as(uid).args(arguments).arg(at))
    };
    // Alice: one mount, made and ended, so her count is known.
    assert_eq!(run(ALICE, &["mount", "tmpfs"], &place(ALICE, 1)).0, 0);
    assert_eq!(run(ALICE, &["unmount"], &place(ALICE, 1)).0, 0);
    // Bob: two that the helper has not made.
    mount_tmpfs(&place(BOB, 1));
    mount_tmpfs(&place(BOB, 2));
    let (status, _, text) = unchanged(|| run(BOB, &["mount", "tmpfs"], &place(BOB, 3)));
    assert_eq!(status, 10, "{text}");
    assert!(text.contains("mounts_per_user"), "{text}");
    // A third user is served although there are only two places.
    assert_eq!(run(4003, &["mount", "tmpfs"], &place(4003, 1)).0, 0);
    assert_eq!(run(ALICE, &["mount", "tmpfs"], &place(ALICE, 1)).0, 0);
    Ok(())
}

pub(crate) fn mounts_per_user(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "mounts_per_user = 3");
    let place = |number: u32| sandbox.make_dir(&format!("mnt/{number}"));
    let tmpfs = |number: u32| Tmpfs::new(place(number)).unwrap();
    // One that is there before the helper starts counts too.
    mount_tmpfs(&place(0));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    client.mount(tmpfs(1)).unwrap();
    let second = client.mount(tmpfs(2)).unwrap();
    for _ in 0..2 {
        let error = unchanged(|| client.mount(tmpfs(3)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("mounts_per_user"), "{error}");
        client
            .mount(tmpfs(1))
            .expect("what is there already takes no place");
    }
    let mut other = daemon.client();
    assert_eq!(
        other.mount(tmpfs(3)).unwrap_err().kind(),
        ErrorKind::LimitReached
    );
    other.unmount(&second).unwrap();
    client.mount(tmpfs(3)).unwrap();
    // One that ends without the helper is noticed when it matters.
    nix::mount::umount(&place(0)).unwrap();
    client.mount(tmpfs(4)).unwrap();
    assert_eq!(client.list().unwrap().len(), 3);
    assert_eq!(kernel::at(&place(4)).len(), 1);
    Ok(())
}
