//! Moves: both places are one grant's, and the mount has what all of that grant have.

use mountwarden_policy::{MovePermit, Permit, Verdict};
use mountwarden_protocol::{DenyReason, MountAttributes, MountId, Move, Operation};

use crate::support::{denied, path, peer, policy};

const POLICY: &str = r#"
version = 1

[[grant]]
name         = "fixed"
users        = ["qemu"]
target       = ["/run/vms", "/srv/fixed"]
  [grant.bind]
  source = ["/srv"]

[[grant]]
name         = "images"
users        = ["qemu"]
target       = ["/run/vms"]
force        = ["nosuid"]
move         = true
target_owner = "peer"
  [grant.bind]
  source    = ["/srv/images"]
  read_only = true
  [grant.image]
  file        = ["/srv/images"]
  filesystems = ["erofs"]
  [grant.overlay]
  layer = ["/srv/images"]

[[grant]]
name   = "scratch"
users  = ["qemu"]
target = ["/var/scratch", "/etc/vms"]
move   = true
  [grant.bind]
  source    = ["/srv/images"]
  read_only = true
  [grant.tmpfs]
  max_size = "64MiB"
"#;

fn moving(from: &str, to: &str) -> Operation {
    Operation::Move(Move {
        from: path(from),
        to: path(to),
        id: MountId::try_from(77).ok(),
    })
}

fn permit(
    grant: &'static str,
    [from, to]: [&str; 2],
    attributes: MountAttributes,
    target_owner: Option<u32>,
) -> Verdict<'static> {
    Verdict::Allowed(Permit::Move(MovePermit {
        grant,
        from: path(from),
        to: path(to),
        id: MountId::try_from(77).ok(),
        attributes,
        target_owner,
    }))
}

/// Where each kind of the grant is read-only, so is what is moved; where one is not, nothing
/// tells of which kind a mount is.
#[test]
fn attack_16_what_all_of_the_grant_have_is_asked_of_it() {
    let policy = policy(POLICY);
    let (no_suid, no_dev) = (MountAttributes::NO_SUID, MountAttributes::NO_DEV);
    let places = ["/run/vms/a", "/run/vms/b/c"];
    let allowed = permit(
        "images",
        places,
        no_suid | MountAttributes::READ_ONLY,
        Some(1000),
    );
    assert_eq!(
        policy.judge(&peer(1000), &moving(places[0], places[1])),
        allowed
    );
    let places = ["/var/scratch/a", "/etc/vms/b"];
    let allowed = permit("scratch", places, no_suid | no_dev, None);
    assert_eq!(
        policy.judge(&peer(1000), &moving(places[0], places[1])),
        allowed
    );
}

#[test]
fn both_places_are_one_grants() {
    let policy = policy(POLICY);
    for (uid, from, to, reason, at) in [
        (
            1000,
            "/srv/fixed/a",
            "/srv/fixed/b",
            DenyReason::MoveNotGranted,
            "/srv/fixed/b",
        ),
        (
            1000,
            "/srv/fixed/a",
            "/run/vms/a",
            DenyReason::MoveNotGranted,
            "/srv/fixed/a",
        ),
        (
            1000,
            "/var/scratch/a",
            "/run/vms/a",
            DenyReason::MoveNotGranted,
            "/var/scratch/a",
        ),
        (
            1000,
            "/run/vms",
            "/run/vms/a",
            DenyReason::MoveNotGranted,
            "/run/vms",
        ),
        (
            1000,
            "/run/vms/a",
            "/run/vms",
            DenyReason::TargetNotGranted,
            "/run/vms",
        ),
        (
            1000,
            "/run/vms/a",
            "/home/a",
            DenyReason::TargetNotGranted,
            "/home/a",
        ),
        (
            1000,
            "/run/vms/a",
            "/etc",
            DenyReason::TargetProtected,
            "/etc",
        ),
        (
            1000,
            "/usr",
            "/run/vms/a",
            DenyReason::TargetProtected,
            "/usr",
        ),
        (
            1001,
            "/run/vms/a",
            "/run/vms/b",
            DenyReason::NoGrant,
            "/run/vms/b",
        ),
    ] {
        let denial = denied(&policy, &peer(uid), &moving(from, to));
        assert_eq!(
            (denial.reason, denial.path),
            (reason, path(at)),
            "{from} to {to}"
        );
    }
}

#[test]
fn a_refusal_says_what_would_be_allowed() {
    let policy = policy(POLICY);
    let message = |from, to| denied(&policy, &peer(1000), &moving(from, to)).message;
    assert_eq!(
        message("/srv/fixed/a", "/srv/fixed/b"),
        "moving /srv/fixed/a to /srv/fixed/b is refused: your grant 'fixed' does not allow to move \
         a mount; unmount it, and mount it at the other place"
    );
    assert_eq!(
        message("/run/vms/a", "/var/scratch/a"),
        "moving /run/vms/a is refused: of a grant that allows to move mounts, both places lie \
         beneath its roots; of 'scratch' these are /var/scratch, /etc/vms"
    );
    assert_eq!(
        message("/run/vms/a", "/home/a"),
        "moving a mount to /home/a is refused: the target lies beneath none of your granted roots: \
         /run/vms, /srv/fixed, /var/scratch, /etc/vms"
    );
    assert_eq!(
        message("/proc/self", "/run/vms/a"),
        "moving /proc/self is refused: it lies in /proc, a place that is never mounted over or \
         unmounted, whatever the policy grants"
    );
}
