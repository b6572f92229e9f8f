//! Questions that change nothing.

use std::path::Path;

use mountwarden_client::{
    Bind, Client, DenyReason, ErrorCode, Explanation, MountAttributes, Role, Tmpfs, TmpfsSize,
    Unmount,
};
use mountwarden_helper::raw::running_abi;

use crate::Skip;
use crate::daemon::Daemon;
use crate::kernel::{self, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};

pub(crate) fn list_is_the_peers_own(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    assert!(client.list().unwrap().is_empty());
    let a = client.mount(Bind::new(sandbox.path("src/data"), sandbox.path("mnt/a")).unwrap());
    let b = client.mount(Tmpfs::new(sandbox.path("mnt/b")).unwrap());
    mount_tmpfs(&sandbox.make_dir("elsewhere"));
    mount_tmpfs(&sandbox.make_dir("mntbeside"));
    let mut made = [a.unwrap().mount, b.unwrap().mount];
    // Without unique ids the second may have got a freed, smaller one.
    made.sort_by_key(|mount| mount.id);
    assert_eq!(client.list().unwrap(), made);
    assert_eq!(
        daemon.client().list().unwrap().len(),
        2,
        "from another connection too"
    );
    Ok(())
}

pub(crate) fn list_goes_over_pages(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let deep = (0..10).fold("mnt".to_owned(), |path, _| path + "/" + &"d".repeat(100));
    let count = 200;
    for number in 0..count {
        mount_tmpfs(&sandbox.make_dir(&format!("{deep}/{number}")));
    }
    let listed = unchanged(|| daemon.client().list().unwrap());
    assert_eq!(listed.len(), count);
    assert!(listed.windows(2).all(|pair| pair[0].id < pair[1].id));
    Ok(())
}

/// A mount whose path is longer than any request could name, which whoever makes
/// or renames directories can bring about, spoils neither the list nor the count
/// of mounts.
pub(crate) fn a_path_too_long_to_name(sandbox: &Sandbox) -> Result<(), Skip> {
    let limit = "[limits]\nmounts_per_user = 2\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limit, 1));
    std::env::set_current_dir(sandbox.make_dir("mnt/long")).unwrap();
    let name = "d".repeat(250);
    // Each is mounted where it is longer than a path, and than two.
    for _ in 0..2 {
        for _ in 0..17 {
            std::fs::create_dir(&name).unwrap();
            std::env::set_current_dir(&name).unwrap();
        }
        std::fs::create_dir("mount").unwrap();
        mount_tmpfs(Path::new("mount"));
    }
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let made = client.mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap());
    let made = made.unwrap();
    assert_eq!(client.list().unwrap(), std::slice::from_ref(&made.mount));
    client.unmount(&made).unwrap();
    Ok(())
}

pub(crate) fn explain_changes_nothing(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&POLICY.replace("recursive = true", "read_only = true"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    // It touches no path, so the target need not exist.
    let target = sandbox.path("mnt/missing");
    let bind = || Bind::new(sandbox.path("src/data"), &target).unwrap();
    let allowed = unchanged(|| client.explain(bind()).unwrap());
    let Explanation::Allowed {
        grant,
        attributes,
        tmpfs: None,
    } = allowed
    else {
        panic!("{allowed:?}")
    };
    assert_eq!(grant, "test");
    let forced = MountAttributes::READ_ONLY | MountAttributes::NO_SUID | MountAttributes::NO_DEV;
    assert_eq!(attributes, forced);

    let size = TmpfsSize::try_from(4096).unwrap();
    let allowed = unchanged(|| {
        client
            .explain(Tmpfs::new(&target).unwrap().size(size))
            .unwrap()
    });
    let Explanation::Allowed {
        tmpfs: Some(limits),
        ..
    } = allowed
    else {
        panic!("{allowed:?}")
    };
    assert_eq!(
        (limits.size, limits.inodes, limits.mode),
        (4096, 1024, 0o700)
    );

    let denied = client.explain(Bind::new("/etc", &target).unwrap()).unwrap();
    let Explanation::Denied(error) = denied else {
        panic!("{denied:?}")
    };
    assert_eq!(error.reason, Some(DenyReason::SourceNotGranted));
    let said = client
        .mount(Bind::new("/etc", &target).unwrap())
        .unwrap_err();
    assert_eq!(
        said.reply(),
        Some(&error),
        "the operation itself says the same"
    );

    let unmount = client.explain(Unmount::new(&target).unwrap()).unwrap();
    assert!(matches!(unmount, Explanation::Allowed { .. }));
    let unmount = client.explain(Unmount::new("/srv").unwrap()).unwrap();
    assert!(matches!(unmount, Explanation::Denied(_)));
    Ok(())
}

/// What is denied is denied without a look: the answer is the same whether the
/// path exists or not.
pub(crate) fn a_denial_tells_nothing_of_what_exists(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    sandbox.make_dir("private/there");
    mount_tmpfs(&sandbox.make_dir("private/mount"));
    let answer = |client: &mut Client, name: &str| {
        let path = sandbox.path("private").join(name);
        let mut said = Vec::new();
        let bind = || Bind::new(&path, sandbox.path("mnt/a")).unwrap();
        said.push(client.mount(bind()).unwrap_err());
        said.push(client.mount(Tmpfs::new(&path).unwrap()).unwrap_err());
        said.push(client.unmount(Unmount::new(&path).unwrap()).unwrap_err());
        said.iter()
            .map(|error| {
                let reply = error.reply().expect("the helper's word");
                let message = reply.message.replace(path.to_str().unwrap(), "PATH");
                (reply.code, reply.reason, reply.errno, reply.mount, message)
            })
            .collect::<Vec<_>>()
    };
    let missing = unchanged(|| answer(&mut client, "missing"));
    assert!(missing.iter().all(|(code, ..)| *code == ErrorCode::Denied));
    for name in ["there", "mount"] {
        assert_eq!(unchanged(|| answer(&mut client, name)), missing, "{name}");
    }
    Ok(())
}

pub(crate) fn status_says_what_confines(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let made = client
        .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    client
        .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    client
        .mount(Bind::new("/etc", sandbox.path("mnt/b")).unwrap())
        .unwrap_err();
    client.unmount(&made).unwrap();
    let status = client.status().unwrap();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    let roles: Vec<Role> = status.roles.iter().map(|report| report.role).collect();
    assert_eq!(
        roles,
        [Role::Gate, Role::Session, Role::Warden, Role::Mounter]
    );
    let abi = running_abi();
    for report in &status.roles {
        let mounts = matches!(report.role, Role::Warden | Role::Mounter);
        assert_eq!(
            report.capabilities,
            if mounts { 1 << 21 } else { 0 },
            "{report:?}"
        );
        assert_eq!(
            report.landlock.readable_roots.is_none(),
            mounts,
            "{report:?}"
        );
        let landlock = report.landlock;
        // What each ABI brought; before 4, every domain forbids mounting.
        let in_force = if mounts && abi < 4 { 0 } else { abi };
        assert_eq!(landlock.abi, in_force, "{report:?}");
        assert_eq!(landlock.network, abi >= 4, "{report:?}");
        assert_eq!(
            (landlock.signals, landlock.abstract_sockets),
            (abi >= 6, abi >= 6),
            "{report:?}"
        );
        assert!(report.system_calls > 0);
    }
    let counters = status.counters;
    assert_eq!(
        (
            counters.mounted,
            counters.already_mounted,
            counters.unmounted,
            counters.denied
        ),
        (1, 1, 1, 1)
    );
    assert_eq!((counters.connections, counters.connections_open), (1, 1));
    assert_eq!(status.limits.connections_per_user, 16);
    assert!(kernel::at(&sandbox.path("mnt/a")).is_empty());
    Ok(())
}
