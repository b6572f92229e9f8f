//! How several grants, and several names of one user, combine.

use mountwarden_policy::Peer;
use mountwarden_protocol::DenyReason;

use crate::support::{bind, denied, grant, path, peer, policy, tmpfs, unmount};

const SEVERAL: &str = r#"
version = 1
[[grant]]
name = "elsewhere"
users = [1000]
target = ["/elsewhere"]
[grant.tmpfs]
max_size = 1000

[[grant]]
name = "small"
users = [1000]
target = ["/t"]
[grant.tmpfs]
max_size = 1000

[[grant]]
name = "medium"
groups = ["users"]
target = ["/t"]
[grant.tmpfs]
max_size = 2000

[[grant]]
name = "bind"
users = [1000]
target = ["/t"]
[grant.bind]
source = ["/s"]

[[grant]]
name = "last"
users = [1000]
target = ["/t/deep"]
[grant.tmpfs]
max_size = 9000
max_inodes = 1
"#;

#[test]
fn of_several_grants_the_first_that_allows_wins() {
    let policy = policy(SEVERAL);
    let both = Peer {
        groups: vec![100],
        ..peer(1000)
    };
    for (bytes, target, grant) in [
        (1000, "/t/x", "small"),
        (1001, "/t/x", "medium"),
        (2000, "/t/deep/x", "medium"),
        (1, "/elsewhere/x", "elsewhere"),
    ] {
        let verdict = policy.judge(&both, &tmpfs(Some(bytes), None, target));
        assert_eq!(verdict.grant(), Some(grant), "{bytes} at {target}");
    }
    let verdict = policy.judge(&both, &tmpfs(Some(2001), Some(1), "/t/deep/x"));
    assert_eq!(verdict.grant(), Some("last"));
}

#[test]
fn of_several_refusals_the_one_that_came_nearest_is_told() {
    let policy = policy(SEVERAL);
    let peer = peer(1000);
    // The first among equals: "small" and "last" both refuse the size.
    let denial = denied(&policy, &peer, &tmpfs(Some(9001), Some(1), "/t/deep/x"));
    assert_eq!(denial.reason, DenyReason::SizeAboveMaximum);
    assert!(denial.message.contains("'small'"), "{denial}");
    // "last" lets the size pass and stops at the inodes.
    let denial = denied(&policy, &peer, &tmpfs(Some(9000), Some(2), "/t/deep/x"));
    assert_eq!(denial.reason, DenyReason::InodesAboveMaximum);
    assert!(denial.message.contains("'last'"), "{denial}");
    // "bind" stops at the source, the others at the kind.
    let denial = denied(&policy, &peer, &bind("/x", "/t/deep/x"));
    assert_eq!(denial.reason, DenyReason::SourceNotGranted);
    assert_eq!(denial.path, path("/x"));
    // Only the target of "elsewhere" fits.
    let denial = denied(&policy, &peer, &bind("/s", "/elsewhere/x"));
    assert_eq!(denial.reason, DenyReason::KindNotGranted);
}

#[test]
fn a_user_name_stands_in_a_root_for_each_name_that_the_grant_uses() {
    let policy = grant(
        "users = ['qemu', 'ceph', 'qemu-too']\ntarget = ['/t/{user}/{user}']\n\
         [grant.tmpfs]\nmax_size = 1\n",
    );
    for (uid, target, allowed) in [
        (1000, "/t/qemu/qemu/x", true),
        (1000, "/t/qemu-too/qemu-too/x", true),
        (1000, "/t/qemu/qemu-too/x", false),
        (1000, "/t/ceph/ceph/x", false),
        (1001, "/t/ceph/ceph/x", true),
        (1001, "/t/qemu/qemu/x", false),
    ] {
        let verdict = policy.judge(&peer(uid), &unmount(target));
        assert_eq!(verdict.grant().is_some(), allowed, "{uid} at {target}");
    }
}
