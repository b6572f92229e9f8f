//! The decision table: each refusal stands beside the nearest thing that is
//! allowed, so that neither can pass for the wrong reason.

use mountwarden_policy::{
    MountPermit, Peer, Permit, PermittedKind, Policy, UnmountPermit, Verdict,
};
use mountwarden_protocol::{
    DenyReason, Kind, Mount, MountAttributes, MountId, MountOptions, Operation, Passed,
    Propagation, TmpfsMode, Unmount,
};

use crate::support::{
    bind, bind_kind, denied, grant, inodes, mount, path, peer, policy, recursive_bind, size, tmpfs,
    tmpfs_kind, unmount,
};

const POLICY: &str = r#"
version = 1

[[grant]]
name   = "images"
users  = ["qemu"]
groups = ["kvm"]
target = ["/run/vms/{uid}"]
  [grant.bind]
  source    = ["/srv/images"]
  read_only = true

[[grant]]
name   = "scratch"
users  = ["qemu"]
target = ["/run/vms/{uid}", "/var/scratch"]
force  = ["nosuid", "nodev", "noexec"]
shared_target = true
  [grant.tmpfs]
  max_size   = "64MiB"
  max_inodes = 1000

[[grant]]
name   = "trees"
users  = [1001]
target = ["/srv/trees"]
force  = []
  [grant.bind]
  source    = ["/srv/src"]
  recursive = true
"#;

const DEFAULT: MountAttributes = MountAttributes::NO_SUID.union(MountAttributes::NO_DEV);

fn images(source: &str, target: &str, more: MountAttributes) -> Permit<'static> {
    Permit::Mount(MountPermit {
        grant: "images",
        target: path(target),
        kind: PermittedKind::Bind {
            source: path(source),
            recursive: false,
            owner: None,
        },
        attributes: DEFAULT | MountAttributes::READ_ONLY | more,
        shared_target: false,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        target_owner: None,
        lease: false,
        idmap: None,
    })
}

fn scratch(target: &str, bytes: u64, count: u64) -> Permit<'static> {
    Permit::Mount(MountPermit {
        grant: "scratch",
        target: path(target),
        kind: PermittedKind::Tmpfs {
            size: size(bytes),
            inodes: inodes(count),
            mode: TmpfsMode::OWNER_ONLY,
            uid: 1000,
            gid: 9000,
        },
        attributes: DEFAULT | MountAttributes::NO_EXEC,
        shared_target: true,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        target_owner: None,
        lease: false,
        idmap: None,
    })
}

fn trees(recursive: bool, attributes: MountAttributes) -> Permit<'static> {
    Permit::Mount(MountPermit {
        grant: "trees",
        target: path("/srv/trees/t"),
        kind: PermittedKind::Bind {
            source: path("/srv/src/s"),
            recursive,
            owner: None,
        },
        attributes,
        shared_target: false,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        target_owner: None,
        lease: false,
        idmap: None,
    })
}

fn gone(grant: &'static str, target: &str) -> Permit<'static> {
    Permit::Unmount(UnmountPermit {
        grant,
        target: path(target),
        lazy: false,
        id: None,
        passed: false,
    })
}

fn member(gid: u32, groups: &[u32]) -> Peer {
    Peer {
        uid: 2000,
        gid,
        groups: groups.to_vec(),
    }
}

/// One rule: what it refuses, and the nearest that it lets through.
struct Row {
    what: &'static str,
    refused: (Peer, Operation),
    reason: DenyReason,
    allowed: (Peer, Operation),
    permit: Permit<'static>,
}

fn check(policy: &Policy, row: &Row) {
    let (peer, operation) = &row.refused;
    let denial = denied(policy, peer, operation);
    assert_eq!(denial.reason, row.reason, "{}: {denial}", row.what);
    let (peer, operation) = &row.allowed;
    assert_eq!(
        policy.judge(peer, operation),
        Verdict::Allowed(row.permit.clone()),
        "{}",
        row.what
    );
}

fn check_all(rows: &[Row]) {
    let policy = policy(POLICY);
    for row in rows {
        check(&policy, row);
    }
}

fn plain(permit: Permit<'static>, good: Operation, reason: DenyReason, bad: Operation) -> Row {
    Row {
        what: "a request of uid 1000",
        refused: (peer(1000), bad),
        reason,
        allowed: (peer(1000), good),
        permit,
    }
}

#[test]
fn a_peer_without_a_grant_gets_nothing() {
    let operation = bind("/srv/images/a", "/run/vms/1000/a");
    let permit = images("/srv/images/a", "/run/vms/1000/a", MountAttributes::empty());
    check_all(&[
        Row {
            what: "a user that no grant names",
            refused: (peer(1002), operation.clone()),
            reason: DenyReason::NoGrant,
            allowed: (peer(1000), operation),
            permit,
        },
        Row {
            what: "an unmount of a user that no grant names",
            refused: (peer(1002), unmount("/run/vms/1000/a")),
            reason: DenyReason::NoGrant,
            allowed: (peer(1000), unmount("/run/vms/1000/a")),
            permit: gone("images", "/run/vms/1000/a"),
        },
    ]);
}

#[test]
fn a_peer_without_a_grant_does_not_learn_what_is_protected() {
    let policy = policy(POLICY);
    let denial = denied(&policy, &peer(1002), &unmount("/proc"));
    assert_eq!(denial.reason, DenyReason::NoGrant);
    let denial = denied(&policy, &peer(1000), &unmount("/proc"));
    assert_eq!(denial.reason, DenyReason::TargetProtected);
}

#[test]
fn attack_25_groups_are_the_peers_own_at_connect() {
    let operation = bind("/srv/images/a", "/run/vms/2000/a");
    let permit = images("/srv/images/a", "/run/vms/2000/a", MountAttributes::empty());
    let row = |what, refused, allowed| Row {
        what,
        refused: (refused, operation.clone()),
        reason: DenyReason::NoGrant,
        allowed: (allowed, operation.clone()),
        permit: permit.clone(),
    };
    check_all(&[
        row("primary group", member(35, &[]), member(36, &[])),
        row(
            "supplementary group",
            member(1, &[2, 37]),
            member(1, &[2, 36]),
        ),
        row("both", member(1, &[1]), member(36, &[36])),
    ]);
    // A user's number is no group's, and a group's no user's.
    let policy = policy(POLICY);
    for stranger in [member(1000, &[1000, 1001]), peer(36)] {
        let denial = denied(&policy, &stranger, &operation);
        assert_eq!(denial.reason, DenyReason::NoGrant, "{stranger:?}");
    }
}

#[test]
fn a_target_lies_strictly_beneath_a_root() {
    let row = |bad: &str, good: &str| {
        plain(
            scratch(good, 1, 1),
            tmpfs(Some(1), Some(1), good),
            DenyReason::TargetNotGranted,
            tmpfs(Some(1), Some(1), bad),
        )
    };
    check_all(&[
        row("/run/vms/1000", "/run/vms/1000/x"),
        row("/run/vms", "/run/vms/1000/x/y"),
        row("/run/vms/10001/x", "/run/vms/1000/1"),
        row("/run/vms/100/x", "/run/vms/1000/x"),
        row("/run/vms/1001/x", "/run/vms/1000/x"),
        row("/run/vms/{uid}/x", "/run/vms/1000/{uid}"),
        row("/var/scratch", "/var/scratch/x"),
        row("/var/scratchy/x", "/var/scratch/y"),
        row("/var", "/var/scratch/run"),
        row("/x/run/vms/1000/x", "/run/vms/1000/x"),
    ]);
}

#[test]
fn an_unmount_needs_the_target_alone() {
    let row = |grant, bad: &str, good: &str| {
        plain(
            gone(grant, good),
            unmount(good),
            DenyReason::TargetNotGranted,
            unmount(bad),
        )
    };
    check_all(&[
        row("images", "/run/vms/1000", "/run/vms/1000/x"),
        row("scratch", "/var/scratch", "/var/scratch/x"),
        row("scratch", "/srv/trees/t", "/var/scratch/trees"),
    ]);
}

#[test]
fn an_unmount_keeps_how_it_was_asked() {
    let policy = policy(POLICY);
    let id = MountId::try_from(77).ok();
    let operation = Operation::Unmount(Unmount {
        target: path("/var/scratch/x"),
        lazy: true,
        id,
        passed: false,
    });
    let permit = Permit::Unmount(UnmountPermit {
        grant: "scratch",
        target: path("/var/scratch/x"),
        lazy: true,
        id,
        passed: false,
    });
    let verdict = policy.judge(&peer(1000), &operation);
    assert_eq!(verdict.grant(), Some("scratch"));
    assert_eq!(verdict, Verdict::Allowed(permit));
}

#[test]
fn a_kind_needs_its_table() {
    check_all(&[
        plain(
            images("/srv/images/a", "/run/vms/1000/a", MountAttributes::empty()),
            bind("/srv/images/a", "/run/vms/1000/a"),
            DenyReason::KindNotGranted,
            bind("/srv/images/a", "/var/scratch/a"),
        ),
        Row {
            what: "a tmpfs where only binds are granted",
            refused: (peer(1001), tmpfs(None, None, "/srv/trees/t")),
            reason: DenyReason::KindNotGranted,
            allowed: (peer(1001), bind("/srv/src/s", "/srv/trees/t")),
            permit: trees(false, DEFAULT),
        },
    ]);
}

#[test]
fn a_source_lies_at_or_beneath_a_root() {
    let row = |bad: &str, good: &str| {
        plain(
            images(good, "/run/vms/1000/a", MountAttributes::empty()),
            bind(good, "/run/vms/1000/a"),
            DenyReason::SourceNotGranted,
            bind(bad, "/run/vms/1000/a"),
        )
    };
    check_all(&[
        row("/srv", "/srv/images"),
        row("/", "/srv/images"),
        row("/srv/images2", "/srv/images/2"),
        row("/srv/image", "/srv/images/a/b"),
        row("/srv/src/s", "/srv/images/src"),
        row("/run/vms/1000/a", "/srv/images/run"),
    ]);
}

#[test]
fn attack_09_a_recursive_bind_is_refused_unless_granted() {
    check_all(&[
        plain(
            images("/srv/images/a", "/run/vms/1000/a", MountAttributes::empty()),
            bind("/srv/images/a", "/run/vms/1000/a"),
            DenyReason::RecursiveNotGranted,
            recursive_bind("/srv/images/a", "/run/vms/1000/a"),
        ),
        Row {
            what: "the same recursive bind where it is granted",
            refused: (peer(1000), recursive_bind("/srv/images", "/run/vms/1000/t")),
            reason: DenyReason::RecursiveNotGranted,
            allowed: (peer(1001), recursive_bind("/srv/src/s", "/srv/trees/t")),
            permit: trees(true, DEFAULT),
        },
    ]);
}

#[test]
fn attack_17_suid_and_dev_are_refused_where_the_grant_forces_otherwise() {
    let asking = |options| mount(bind_kind("/srv/images/a"), "/run/vms/1000/a", options);
    let free = |options| mount(bind_kind("/srv/src/s"), "/srv/trees/t", options);
    let row = |reason, options, attributes| Row {
        what: "suid or dev",
        refused: (peer(1000), asking(options)),
        reason,
        allowed: (peer(1001), free(options)),
        permit: trees(false, attributes),
    };
    let (suid, dev) = (MountOptions::SUID, MountOptions::DEV);
    check_all(&[
        row(DenyReason::SuidNotGranted, suid, MountAttributes::NO_DEV),
        row(DenyReason::DevNotGranted, dev, MountAttributes::NO_SUID),
        row(
            DenyReason::SuidNotGranted,
            suid | dev,
            MountAttributes::empty(),
        ),
        plain(
            images("/srv/images/a", "/run/vms/1000/a", MountAttributes::NO_EXEC),
            asking(MountOptions::NO_EXEC),
            DenyReason::SuidNotGranted,
            asking(MountOptions::NO_EXEC | suid),
        ),
    ]);
}

#[test]
fn attack_17_a_tmpfs_gets_no_suid_either() {
    let asking = |options| mount(tmpfs_kind(Some(1), Some(1)), "/var/scratch/t", options);
    let row = |reason, options| {
        plain(
            scratch("/var/scratch/t", 1, 1),
            asking(MountOptions::empty()),
            reason,
            asking(options),
        )
    };
    check_all(&[
        row(DenyReason::SuidNotGranted, MountOptions::SUID),
        row(DenyReason::DevNotGranted, MountOptions::DEV),
    ]);
}

#[test]
fn one_forced_flag_does_not_stand_for_the_other() {
    let nosuid =
        grant("users = [1]\ntarget = ['/t']\nforce = ['nosuid']\n[grant.bind]\nsource = ['/s']\n");
    let asking = |options| mount(bind_kind("/s"), "/t/x", options);
    let denial = denied(&nosuid, &peer(1), &asking(MountOptions::SUID));
    assert_eq!(denial.reason, DenyReason::SuidNotGranted);
    let Verdict::Allowed(Permit::Mount(permit)) =
        nosuid.judge(&peer(1), &asking(MountOptions::DEV))
    else {
        panic!("dev is not forced away");
    };
    assert_eq!(permit.attributes, MountAttributes::NO_SUID);
    assert_eq!(permit.grant(), "g");
}

#[test]
fn attack_18_sizes_and_counts_stay_within_the_grant() {
    const MAX: u64 = 64 << 20;
    let row = |reason, bad: (u64, u64), good: (u64, u64)| {
        plain(
            scratch("/var/scratch/t", good.0, good.1),
            tmpfs(Some(good.0), Some(good.1), "/var/scratch/t"),
            reason,
            tmpfs(Some(bad.0), Some(bad.1), "/var/scratch/t"),
        )
    };
    let last = i64::MAX.unsigned_abs();
    check_all(&[
        row(DenyReason::SizeAboveMaximum, (MAX | 1, 1), (MAX, 1)),
        row(DenyReason::SizeAboveMaximum, (1 << 31, 1), (1, 1)),
        row(DenyReason::SizeAboveMaximum, (last, 1), (MAX, 1000)),
        row(DenyReason::SizeAboveMaximum, (last, last), (1, 1000)),
        row(DenyReason::InodesAboveMaximum, (1, 1001), (1, 1000)),
        row(DenyReason::InodesAboveMaximum, (MAX, 1 << 31), (MAX, 1)),
        row(DenyReason::InodesAboveMaximum, (1, last), (1, 1)),
    ]);
}

#[test]
fn attack_18_the_largest_tmpfs_can_be_granted() {
    let last = i64::MAX.unsigned_abs();
    let policy = grant(&format!(
        "users = [1000]\ntarget = ['/t']\n[grant.tmpfs]\nmax_size = {last}\nmax_inodes = {last}\n"
    ));
    for asked in [None, Some(1), Some(last)] {
        let verdict = policy.judge(&peer(1000), &tmpfs(asked, asked, "/t/x"));
        let Verdict::Allowed(Permit::Mount(permit)) = verdict else {
            panic!("{asked:?}: {verdict:?}");
        };
        let PermittedKind::Tmpfs {
            size: got_size,
            inodes: got_inodes,
            ..
        } = permit.kind
        else {
            panic!("not a tmpfs");
        };
        assert_eq!(got_size.get(), asked.unwrap_or(last));
        assert_eq!(got_inodes.get(), asked.unwrap_or(last));
    }
}

#[test]
fn a_tmpfs_that_asks_for_nothing_gets_the_maximum_and_is_private() {
    let policy = policy(POLICY);
    assert_eq!(
        policy.judge(&peer(1000), &tmpfs(None, None, "/var/scratch/t")),
        Verdict::Allowed(scratch("/var/scratch/t", 64 << 20, 1000))
    );
}

#[test]
fn a_tmpfs_gets_the_mode_it_asks_for() {
    let kind = Kind::Tmpfs {
        size: None,
        inodes: None,
        mode: TmpfsMode::try_from(0o1777).ok(),
    };
    let policy = policy(POLICY);
    let operation = mount(kind, "/var/scratch/t", MountOptions::empty());
    let Verdict::Allowed(Permit::Mount(MountPermit {
        kind: PermittedKind::Tmpfs { mode, .. },
        ..
    })) = policy.judge(&peer(1000), &operation)
    else {
        panic!("refused");
    };
    assert_eq!(mode.bits(), 0o1777);
}

#[test]
fn max_inodes_is_one_for_each_page_unless_given() {
    for (max_size, expected) in [("'1MiB'", 256), ("1", 16), ("65536", 16), ("69632", 17)] {
        let policy = grant(&format!(
            "users = [1000]\ntarget = ['/t']\n[grant.tmpfs]\nmax_size = {max_size}\n"
        ));
        let verdict = policy.judge(&peer(1000), &tmpfs(None, None, "/t/x"));
        let Verdict::Allowed(Permit::Mount(MountPermit {
            kind: PermittedKind::Tmpfs { inodes, .. },
            ..
        })) = verdict
        else {
            panic!("{max_size}: {verdict:?}");
        };
        assert_eq!(inodes.get(), expected, "{max_size}");
    }
}

#[test]
fn requested_restrictions_are_added() {
    let policy = policy(POLICY);
    let all = MountOptions::READ_ONLY | MountOptions::NO_EXEC | MountOptions::NO_SYMFOLLOW;
    for (options, attributes) in [
        (MountOptions::empty(), MountAttributes::empty()),
        (MountOptions::READ_ONLY, MountAttributes::READ_ONLY),
        (MountOptions::NO_EXEC, MountAttributes::NO_EXEC),
        (MountOptions::NO_SYMFOLLOW, MountAttributes::NO_SYMFOLLOW),
        (
            all,
            MountAttributes::READ_ONLY | MountAttributes::NO_EXEC | MountAttributes::NO_SYMFOLLOW,
        ),
    ] {
        let operation = mount(bind_kind("/srv/src/s"), "/srv/trees/t", options);
        assert_eq!(
            policy.judge(&peer(1001), &operation),
            Verdict::Allowed(trees(false, DEFAULT | attributes)),
            "{options:?}"
        );
    }
}

#[test]
fn every_forced_flag_is_forced() {
    for (word, attribute) in [
        ("nosuid", MountAttributes::NO_SUID),
        ("nodev", MountAttributes::NO_DEV),
        ("noexec", MountAttributes::NO_EXEC),
        ("nosymfollow", MountAttributes::NO_SYMFOLLOW),
        ("ro", MountAttributes::READ_ONLY),
    ] {
        let policy = grant(&format!(
            "users = [1]\ntarget = ['/t']\nforce = ['{word}']\n[grant.tmpfs]\nmax_size = 1\n"
        ));
        let verdict = policy.judge(&peer(1), &tmpfs(None, None, "/t/x"));
        let Verdict::Allowed(Permit::Mount(permit)) = verdict else {
            panic!("{word}: {verdict:?}");
        };
        assert_eq!(permit.attributes, DEFAULT | attribute, "{word}");
    }
}

#[test]
fn a_policy_without_grants_denies() {
    let policy = policy("version = 1\n");
    let denial = denied(&policy, &peer(0), &unmount("/mnt"));
    assert_eq!(denial.reason, DenyReason::NoGrant);
}

const HOMES: &str = r#"
version = 1

[[grant]]
name   = "paths"
users  = ["qemu"]
target = ["/home/a"]
  [grant.bind]
  source = ["/srv/images"]
  [grant.tmpfs]
  max_size = "1MiB"

[[grant]]
name   = "homes"
users  = ["qemu"]
target = ["/home/b"]
passed_target = true
target_owner  = "peer"
  [grant.bind]
  source = ["/srv/images"]
  passed_source = true
  source_owner  = "peer"
  [grant.tmpfs]
  max_size = "1MiB"

[[grant]]
name   = "targets"
users  = ["qemu"]
target = ["/home/c"]
passed_target = true
  [grant.bind]
  source = ["/srv/images"]
"#;

fn passing(operation: Operation, locations: Passed) -> Operation {
    match operation {
        Operation::Mount(mount) => Operation::Mount(Mount {
            passed: locations,
            ..mount
        }),
        Operation::Unmount(unmount) => Operation::Unmount(Unmount {
            passed: locations.contains(Passed::TARGET),
            ..unmount
        }),
        other @ (Operation::Remount(_) | Operation::Detach(_) | Operation::Move(_)) => other,
    }
}

/// A descriptor is taken only where the grant says so, for that location.
#[test]
fn a_passed_location_needs_its_key() {
    let policy = policy(HOMES);
    let verdict = |operation| policy.judge(&peer(1000), &operation);
    let bound = |target| bind("/srv/images/a", target);
    let both = Passed::TARGET | Passed::SOURCE;
    for (operation, locations, grant) in [
        (bound("/home/a/x"), Passed::empty(), Some("paths")),
        (bound("/home/a/x"), Passed::TARGET, None),
        (bound("/home/a/x"), Passed::SOURCE, None),
        (bound("/home/b/x"), Passed::empty(), Some("homes")),
        (bound("/home/b/x"), both, Some("homes")),
        (bound("/home/c/x"), Passed::TARGET, Some("targets")),
        (bound("/home/c/x"), Passed::SOURCE, None),
        (bound("/home/c/x"), both, None),
        (tmpfs(None, None, "/home/a/x"), Passed::TARGET, None),
        (
            tmpfs(None, None, "/home/b/x"),
            Passed::TARGET,
            Some("homes"),
        ),
        (tmpfs(None, None, "/home/b/x"), Passed::SOURCE, None),
        (unmount("/home/a/x"), Passed::empty(), Some("paths")),
        (unmount("/home/a/x"), Passed::TARGET, None),
        (unmount("/home/b/x"), Passed::TARGET, Some("homes")),
    ] {
        let operation = passing(operation, locations);
        let verdict = verdict(operation.clone());
        assert_eq!(verdict.grant(), grant, "{operation:?}");
        if let Verdict::Denied(denial) = verdict {
            assert_eq!(denial.reason, DenyReason::PassedNotGranted, "{denial}");
        }
    }
    // A descriptor opens no root.
    let beyond = passing(bound("/home/d/x"), both);
    let denial = denied(&policy, &peer(1000), &beyond);
    assert_eq!(denial.reason, DenyReason::TargetNotGranted);
    let beyond = passing(bind("/srv/other", "/home/b/x"), both);
    let denial = denied(&policy, &peer(1000), &beyond);
    assert_eq!(denial.reason, DenyReason::SourceNotGranted);
}

/// The owner is the peer's own number, whether its locations are passed or not.
#[test]
fn an_owner_that_the_grant_asks_for_is_in_the_permit() {
    let policy = policy(HOMES);
    for (target, owner) in [
        ("/home/a/x", None),
        ("/home/b/x", Some(1000)),
        ("/home/c/x", None),
    ] {
        let verdict = policy.judge(&peer(1000), &bind("/srv/images", target));
        let Verdict::Allowed(Permit::Mount(permit)) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(permit.target_owner, owner, "{target}");
        let kind = PermittedKind::Bind {
            source: path("/srv/images"),
            recursive: false,
            owner,
        };
        assert_eq!(permit.kind, kind, "{target}");
    }
}
