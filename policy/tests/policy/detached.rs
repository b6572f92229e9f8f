//! Mounts that are handed over: what their sources are decides, and no target.

use mountwarden_policy::{DetachPermit, Kinds, Permit, Verdict};
use mountwarden_protocol::{DenyReason, Detach, MountAttributes, MountOptions, Operation};

use crate::support::{denied, path, peer, policy};

const POLICY: &str = r#"
version = 1

[[grant]]
name     = "images"
users    = ["qemu"]
target   = ["/run/vms"]
detached = true
  [grant.bind]
  source       = ["/srv/images/{uid}", "/etc"]
  read_only    = true
  source_owner = "peer"

[[grant]]
name   = "attached"
users  = ["qemu", "ceph"]
target = ["/run/vms"]
force  = []
  [grant.bind]
  source    = ["/srv"]
  recursive = true
"#;

fn detach(source: &str, recursive: bool, options: MountOptions) -> Operation {
    Operation::Detach(Detach {
        source: path(source),
        recursive,
        options,
        idmap: false,
    })
}

#[test]
fn attack_35_forced_attributes_come_with_it() {
    let policy = policy(POLICY);
    // `/etc` is never covered; what it shows is for the grant to say.
    for source in ["/srv/images/1000", "/srv/images/1000/a", "/etc"] {
        let asked = detach(source, false, MountOptions::NO_EXEC);
        let forced = MountAttributes::READ_ONLY | MountAttributes::NO_SUID;
        let permit = DetachPermit {
            grant: "images",
            source: path(source),
            recursive: false,
            owner: Some(1000),
            attributes: forced | MountAttributes::NO_DEV | MountAttributes::NO_EXEC,
            idmap: None,
        };
        let verdict = policy.judge(&peer(1000), &asked);
        assert_eq!(verdict, Verdict::Allowed(Permit::Detach(permit)));
        assert_eq!(asked.target(), None);
    }
}

#[test]
fn a_grant_without_the_key_hands_nothing_over() {
    let policy = policy(POLICY);
    let none = MountOptions::empty();
    for (uid, source, recursive, options, reason) in [
        (
            1000,
            "/srv/other",
            false,
            none,
            DenyReason::SourceNotGranted,
        ),
        (
            1000,
            "/srv/images/1001",
            false,
            none,
            DenyReason::SourceNotGranted,
        ),
        (
            1000,
            "/srv/images/1000",
            true,
            none,
            DenyReason::RecursiveNotGranted,
        ),
        (
            1000,
            "/etc",
            false,
            MountOptions::SUID,
            DenyReason::SuidNotGranted,
        ),
        (
            1000,
            "/etc",
            false,
            MountOptions::DEV,
            DenyReason::DevNotGranted,
        ),
        (
            1001,
            "/srv/images",
            false,
            none,
            DenyReason::DetachedNotGranted,
        ),
        (1002, "/srv/images", false, none, DenyReason::NoGrant),
    ] {
        let denial = denied(&policy, &peer(uid), &detach(source, recursive, options));
        assert_eq!((denial.reason, denial.path), (reason, path(source)));
    }
    let kinds = |uid| policy.places(&peer(uid)).kinds.detached;
    assert!(kinds(1000) && !kinds(1001));
    let (granted, only) = (
        policy.kinds(),
        Kinds {
            detached: true,
            ..Kinds::default()
        },
    );
    assert_eq!(granted, only);
}
