//! Whose files a bind may show as whose.

use mountwarden_policy::{IdMaps, Permit, PermittedIdmap, Verdict};
use mountwarden_protocol::{DenyReason, Detach, Mount, MountOptions, Operation, Passed};

use crate::support::{bind, denied, path, peer, policy, tmpfs};

const POLICY: &str = r#"
version = 1

[[grant]]
name     = "mapped"
users    = ["qemu", "ceph"]
target   = ["/run/vms"]
detached = true
  [grant.bind]
  source = ["/srv"]
  idmap  = { uids = ["0:100000:65536", "70000:peer:1"], gids = ["0:200000:10", "20:peer:1"] }
  [grant.tmpfs]
  max_size = 1

[[grant]]
name     = "plain"
users    = [1002]
target   = ["/run/vms"]
detached = true
  [grant.bind]
  source = ["/srv"]
"#;

fn mapped(operation: Operation) -> Operation {
    let Operation::Mount(mount) = operation else {
        panic!("{operation:?}")
    };
    Operation::Mount(Mount {
        passed: Passed::ID_MAP,
        ..mount
    })
}

fn detach(idmap: bool) -> Operation {
    Operation::Detach(Detach {
        source: path("/srv/a"),
        recursive: false,
        options: MountOptions::empty(),
        idmap,
    })
}

fn idmap(uid: u32, operation: &Operation) -> Option<PermittedIdmap> {
    match policy(POLICY).judge(&peer(uid), operation) {
        Verdict::Allowed(Permit::Mount(permit)) => permit.idmap,
        Verdict::Allowed(Permit::Detach(permit)) => permit.idmap,
        verdict => panic!("{verdict:?}"),
    }
}

/// What `uid_map` and `gid_map` hold, for the peer 1000 and its group 9000.
fn check(uids: &str, gids: &str) -> Result<(), String> {
    let maps = IdMaps::read(format!("{uids}\0{gids}\0").as_bytes()).expect("maps");
    let permitted = idmap(1000, &mapped(bind("/srv/a", "/run/vms/a"))).expect("a permit");
    let checked = permitted.check(&maps, &path("/srv/a"), "mapped");
    checked.map_err(|denial| {
        assert_eq!(denial.reason, DenyReason::IdmapNotGranted);
        assert_eq!(denial.path, path("/srv/a"));
        denial.message
    })
}

#[test]
fn attack_36_only_a_grant_with_the_key_maps() {
    let bound = || bind("/srv/a", "/run/vms/a");
    for operation in [mapped(bound()), detach(true)] {
        let of = |uid| idmap(uid, &operation).expect("a permit");
        assert_eq!((of(1000).owner, of(1001).owner), (1000, 1001));
        assert_eq!(of(1000).uids[1].outside, 1000);
        assert_eq!(of(1001).uids[1].outside, 1001);
        assert_eq!(of(1000).gids[1].outside, 9000);
        let denial = denied(&policy(POLICY), &peer(1002), &operation);
        assert_eq!(denial.reason, DenyReason::IdmapNotGranted);
        assert_eq!(denial.path, path("/srv/a"));
        assert_eq!(
            denial.message,
            "an ID-mapped mount of /srv/a is refused: your grant 'plain' maps no ids; ask the \
             administrator for idmap"
        );
    }
    for (uid, operation) in [
        (1000, bound()),
        (1000, detach(false)),
        (1002, bound()),
        (1002, detach(false)),
    ] {
        assert_eq!(idmap(uid, &operation), None);
    }
    let other = mapped(tmpfs(None, None, "/run/vms/a"));
    let denial = denied(&policy(POLICY), &peer(1000), &other);
    assert_eq!(denial.reason, DenyReason::IdmapNotGranted);
    assert!(denial.message.contains("only a bind"), "{denial}");
    let kinds = |uid| policy(POLICY).places(&peer(uid)).kinds.idmap;
    assert!(kinds(1000) && !kinds(1002) && policy(POLICY).kinds().idmap);
}

/// Anybody may write `0 1000 1` for a namespace of their own: root's files would be theirs.
#[test]
fn attack_36_each_range_lies_within_a_granted_one() {
    let gids = "0 200000 10\n";
    for uids in [
        "0 100000 65536\n",
        "0 100000 1\n1000 101000 1\n",
        "0 100000 10\n70000 1000 1\n",
    ] {
        assert_eq!(check(uids, gids), Ok(()), "{uids}");
    }
    for (uids, range) in [
        ("0 1000 1\n", "0:1000:1"),
        ("0 100000 1\n1 1000 1\n", "1:1000:1"),
        ("0 100000 65537\n", "0:100000:65537"),
        ("0 100001 1\n", "0:100001:1"),
        ("1 100000 1\n", "1:100000:1"),
        ("70000 1001 1\n", "70000:1001:1"),
        ("0 0 1\n", "0:0:1"),
        ("0 0 4294967295\n", "0:0:4294967295"),
    ] {
        assert_eq!(
            check(uids, gids),
            Err(format!(
                "an ID-mapped mount of /srv/a is refused: the user namespace maps the users {range} \
                 (inside:outside:count), and your grant 'mapped' allows only 0:100000:65536, \
                 70000:1000:1"
            ))
        );
    }
    let refused = check("0 100000 1\n", "0 200000 1\n1 9000 1\n").unwrap_err();
    assert!(refused.contains("the groups 1:9000:1 "), "{refused}");
    assert_eq!(check("0 100000 1\n", "20 9000 1\n"), Ok(()));
}
