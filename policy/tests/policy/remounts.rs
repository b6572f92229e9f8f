//! Remounts: what may be lifted is what a mount could have been made without.

use mountwarden_policy::{Permit, PermittedKind, PermittedLift, RemountPermit, Verdict};
use mountwarden_protocol::{
    DenyReason, Kind, Lift, MountAttributes, MountId, Operation, Remount, TmpfsMode,
};

use crate::support::{
    bind_kind, denied, inodes, path, peer, policy, recursive_bind, size, tmpfs_kind,
};

const POLICY: &str = r#"
version = 1

[[grant]]
name    = "images"
users   = ["qemu"]
target  = ["/run/vms"]
force   = ["nosuid"]
remount = true
  [grant.bind]
  source    = ["/srv/images"]
  read_only = true

[[grant]]
name   = "fixed"
users  = ["qemu"]
target = ["/run/vms", "/srv/fixed"]
force  = []
  [grant.bind]
  source = ["/srv"]
  [grant.tmpfs]
  max_size = "64MiB"

[[grant]]
name    = "scratch"
users   = ["qemu"]
target  = ["/var/scratch"]
remount = true
  [grant.tmpfs]
  max_size   = "64MiB"
  max_inodes = 1000
"#;

const RO: MountAttributes = MountAttributes::READ_ONLY;
const NO_EXEC: MountAttributes = MountAttributes::NO_EXEC;
const NO_SUID: MountAttributes = MountAttributes::NO_SUID;
const NO_DEV: MountAttributes = MountAttributes::NO_DEV;

fn remount(target: &str, set: MountAttributes, lift: Option<(MountAttributes, Kind)>) -> Operation {
    Operation::Remount(Remount {
        target: path(target),
        set,
        lift: lift.map(|(attributes, kind)| Lift { attributes, kind }),
        id: MountId::try_from(77).ok(),
    })
}

fn permit(
    grant: &'static str,
    target: &str,
    set: MountAttributes,
    lift: Option<(MountAttributes, PermittedKind)>,
) -> Permit<'static> {
    Permit::Remount(RemountPermit {
        grant,
        target: path(target),
        set,
        lift: lift.map(|(attributes, kind)| PermittedLift { attributes, kind }),
        id: MountId::try_from(77).ok(),
    })
}

#[test]
fn a_restriction_needs_the_target_and_the_grants_word() {
    let policy = policy(POLICY);
    for (target, reason) in [
        ("/srv/fixed/a", DenyReason::RemountNotGranted),
        ("/run/vms", DenyReason::TargetNotGranted),
        ("/proc/self", DenyReason::TargetProtected),
    ] {
        let denial = denied(&policy, &peer(1000), &remount(target, RO, None));
        assert_eq!((denial.reason, denial.path), (reason, path(target)));
    }
    let none = denied(&policy, &peer(1002), &remount("/run/vms/a", RO, None));
    assert_eq!(none.reason, DenyReason::NoGrant);
    for set in [
        RO,
        NO_EXEC,
        MountAttributes::all(),
        MountAttributes::empty(),
    ] {
        let verdict = policy.judge(&peer(1000), &remount("/run/vms/a", set, None));
        let permit = permit("images", "/run/vms/a", set | NO_SUID, None);
        assert_eq!(verdict, Verdict::Allowed(permit));
    }
}

#[test]
fn attack_16_what_is_forced_is_not_lifted() {
    let policy = policy(POLICY);
    let bind = || bind_kind("/srv/images/a");
    let tmpfs = || tmpfs_kind(None, None);
    for (target, lift) in [
        ("/run/vms/a", (RO, bind())),
        ("/run/vms/a", (NO_SUID, bind())),
        ("/run/vms/a", (NO_SUID | NO_DEV, bind())),
        ("/var/scratch/a", (NO_SUID, tmpfs())),
        ("/var/scratch/a", (NO_DEV, tmpfs())),
        ("/var/scratch/a", (MountAttributes::all(), tmpfs())),
    ] {
        for set in [MountAttributes::empty(), MountAttributes::all()] {
            let operation = remount(target, set, Some(lift.clone()));
            let denial = denied(&policy, &peer(1000), &operation);
            assert_eq!(denial.reason, DenyReason::AttributeForced, "{operation:?}");
            assert_eq!(denial.path, path(target));
        }
    }
    let denial = denied(
        &policy,
        &peer(1000),
        &remount(
            "/run/vms/a",
            NO_EXEC,
            Some((MountAttributes::all(), bind())),
        ),
    );
    assert_eq!(
        denial.message,
        "lifting ro and nosuid at /run/vms/a is refused: your grant 'images' forces that"
    );

    // The nearest: `nodev` is not in that grant's list, and `ro` is forced on binds alone.
    let operation = remount("/run/vms/a", NO_EXEC, Some((NO_DEV, bind())));
    let kind = PermittedKind::Bind {
        source: path("/srv/images/a"),
        recursive: false,
    };
    let forced = NO_EXEC | NO_SUID | RO;
    let allowed = permit("images", "/run/vms/a", forced, Some((NO_DEV, kind)));
    assert_eq!(
        policy.judge(&peer(1000), &operation),
        Verdict::Allowed(allowed)
    );
    let operation = remount(
        "/var/scratch/a",
        MountAttributes::empty(),
        Some((RO | NO_EXEC, tmpfs())),
    );
    let kind = PermittedKind::Tmpfs {
        size: size(64 << 20),
        inodes: inodes(1000),
        mode: TmpfsMode::OWNER_ONLY,
        uid: 1000,
        gid: 9000,
    };
    let lift = Some((RO | NO_EXEC, kind));
    let allowed = permit("scratch", "/var/scratch/a", NO_SUID | NO_DEV, lift);
    assert_eq!(
        policy.judge(&peer(1000), &operation),
        Verdict::Allowed(allowed)
    );
}

/// Grants are not added up: what "fixed" allows to mount, "images" does not lift.
#[test]
fn attack_16_what_could_not_be_mounted_is_not_lifted() {
    let policy = policy(POLICY);
    let tree = match recursive_bind("/srv/images/a", "/run/vms/a") {
        Operation::Mount(mount) => mount.kind,
        other => panic!("{other:?}"),
    };
    for (target, kind, reason) in [
        (
            "/run/vms/a",
            bind_kind("/srv/other"),
            DenyReason::SourceNotGranted,
        ),
        ("/run/vms/a", tree, DenyReason::RecursiveNotGranted),
        (
            "/run/vms/a",
            tmpfs_kind(None, None),
            DenyReason::KindNotGranted,
        ),
        (
            "/srv/fixed/a",
            bind_kind("/srv/other"),
            DenyReason::RemountNotGranted,
        ),
        (
            "/var/scratch/a",
            bind_kind("/srv/other"),
            DenyReason::KindNotGranted,
        ),
        (
            "/var/scratch/a",
            tmpfs_kind(Some(65 << 20), None),
            DenyReason::SizeAboveMaximum,
        ),
        (
            "/var/scratch/a",
            tmpfs_kind(None, Some(1001)),
            DenyReason::InodesAboveMaximum,
        ),
    ] {
        let operation = remount(target, MountAttributes::empty(), Some((NO_EXEC, kind)));
        let denial = denied(&policy, &peer(1000), &operation);
        assert_eq!(denial.reason, reason, "{denial}");
    }
}
