//! What a refused client reads.

use mountwarden_protocol::{
    DenyReason, ErrorCode, ErrorReply, Mount, MountOptions, Operation, Passed,
};

use crate::support::{
    bind, bind_kind, denied, grant, mount, path, peer, policy, recursive_bind, tmpfs, unmount,
};

const POLICY: &str = r#"
version = 1
[[grant]]
name   = "mine"
users  = ["qemu"]
target = ["/run/vms/{uid}"]
  [grant.bind]
  source = ["/srv/images", "/srv/iso"]
  [grant.tmpfs]
  max_size   = "1MiB"
  max_inodes = 10

[[grant]]
name   = "theirs"
users  = ["ceph"]
target = ["/secret/target"]
  [grant.bind]
  source = ["/secret/source"]
"#;

fn passed(operation: Operation, passed: Passed) -> Operation {
    match operation {
        Operation::Mount(mount) => Operation::Mount(Mount { passed, ..mount }),
        other => other,
    }
}

#[test]
fn each_refusal_says_what_and_why_and_what_would_be_allowed() {
    let policy = policy(POLICY);
    let suid = mount(bind_kind("/srv/iso"), "/run/vms/1000/a", MountOptions::SUID);
    let dev = mount(bind_kind("/srv/iso"), "/run/vms/1000/a", MountOptions::DEV);
    for (operation, message) in [
        (
            unmount("/srv/x"),
            "unmounting /srv/x is refused: the target lies beneath none of your granted roots: \
             /run/vms/1000",
        ),
        (
            bind("/srv/iso", "/etc"),
            "mounting at /etc is refused: it is a place that is never mounted over or unmounted, \
             whatever the policy grants",
        ),
        (
            bind("/srv/iso", "/proc/1"),
            "mounting at /proc/1 is refused: it lies in /proc, a place that is never mounted over \
             or unmounted, whatever the policy grants",
        ),
        (
            bind("/srv/x", "/run/vms/1000/a"),
            "binding /srv/x is refused: the source lies in none of the source roots of your grant \
             'mine': /srv/images, /srv/iso",
        ),
        (
            recursive_bind("/srv/iso", "/run/vms/1000/a"),
            "binding /srv/iso with the mounts beneath it is refused: your grant 'mine' allows no \
             recursive bind; ask for one that is not recursive",
        ),
        (
            suid,
            "the option suid at /run/vms/1000/a is refused: your grant 'mine' forces nosuid; ask \
             without suid",
        ),
        (
            dev,
            "the option dev at /run/vms/1000/a is refused: your grant 'mine' forces nodev; ask \
             without dev",
        ),
        (
            tmpfs(Some(1_048_577), None, "/run/vms/1000/a"),
            "a tmpfs of 1048577 bytes at /run/vms/1000/a is refused: your grant 'mine' allows at \
             most 1048576",
        ),
        (
            tmpfs(None, Some(11), "/run/vms/1000/a"),
            "a tmpfs of 11 inodes at /run/vms/1000/a is refused: your grant 'mine' allows at most \
             10",
        ),
        (
            passed(bind("/srv/iso", "/run/vms/1000/a"), Passed::TARGET),
            "mounting at /run/vms/1000/a by a descriptor is refused: your grant 'mine' takes the \
             target's path alone; ask the administrator for passed_target",
        ),
        (
            passed(bind("/srv/iso", "/run/vms/1000/a"), Passed::SOURCE),
            "binding /srv/iso by a descriptor is refused: your grant 'mine' takes the source's \
             path alone; ask the administrator for passed_source",
        ),
        (
            passed(tmpfs(None, None, "/run/vms/1000/a"), Passed::SOURCE),
            "a descriptor for the source of the mount at /run/vms/1000/a is refused: only the \
             source of a bind can be passed",
        ),
    ] {
        assert_eq!(denied(&policy, &peer(1000), &operation).message, message);
    }
}

#[test]
fn a_refusal_is_about_the_source_where_the_rule_is() {
    let policy = policy(POLICY);
    for (operation, subject) in [
        (bind("/srv/x", "/run/vms/1000/a"), "/srv/x"),
        (recursive_bind("/srv/iso", "/run/vms/1000/a"), "/srv/iso"),
        (bind("/srv/iso", "/x"), "/x"),
        (bind("/srv/iso", "/etc"), "/etc"),
        (
            tmpfs(Some(1 << 40), None, "/run/vms/1000/a"),
            "/run/vms/1000/a",
        ),
    ] {
        assert_eq!(denied(&policy, &peer(1000), &operation).path, path(subject));
    }
}

#[test]
fn a_kind_that_is_missing_is_told_beside_those_that_are_there() {
    let policy = policy(POLICY);
    assert_eq!(
        denied(&policy, &peer(1001), &tmpfs(None, None, "/secret/target/x")).message,
        "a tmpfs mount at /secret/target/x is refused: your grant 'theirs' allows there only bind"
    );
}

#[test]
fn a_place_above_a_protected_one_is_told_with_it() {
    let mut policy = policy(POLICY);
    policy.protect(path("/run/vms/1000/x/socket"));
    assert_eq!(
        denied(&policy, &peer(1000), &unmount("/run/vms/1000/x")).message,
        "unmounting /run/vms/1000/x is refused: it holds /run/vms/1000/x/socket, a place that is \
         never mounted over or unmounted, whatever the policy grants"
    );
}

#[test]
fn a_stranger_is_told_nothing_of_the_policy() {
    let policy = policy(POLICY);
    assert_eq!(
        denied(&policy, &peer(7), &bind("/srv/iso", "/run/vms/7/a")).message,
        "mounting at /run/vms/7/a is refused: no grant of the policy names user 7 or a group that \
         it was in when it connected; ask the administrator for one"
    );
}

#[test]
fn a_refusal_shows_nobody_elses_grants() {
    let policy = policy(POLICY);
    for operation in [
        unmount("/x"),
        bind("/x", "/x"),
        bind("/x", "/run/vms/1000/a"),
        recursive_bind("/srv/iso", "/run/vms/1000/a"),
        tmpfs(Some(1 << 40), None, "/run/vms/1000/a"),
    ] {
        for uid in [1000, 7] {
            let message = denied(&policy, &peer(uid), &operation).message;
            assert!(!message.contains("secret"), "{message}");
            assert!(!message.contains("theirs"), "{message}");
        }
    }
}

#[test]
fn a_long_list_of_roots_is_cut() {
    let roots: Vec<String> = (0..1000).map(|n| format!("'/srv/root-{n}'")).collect();
    let policy = grant(&format!(
        "users = [1]\ntarget = [{}]\n[grant.tmpfs]\nmax_size = 1\n",
        roots.join(", ")
    ));
    let message = denied(&policy, &peer(1), &unmount("/x")).message;
    assert!(message.ends_with(" more"), "{message}");
    assert!(message.len() < 600, "{}", message.len());
}

#[test]
fn one_root_that_is_very_long_is_cut() {
    let root = format!("/{}", ["a"; 1000].join("/"));
    let policy = grant(&format!(
        "users = [1]\ntarget = ['{root}']\n[grant.tmpfs]\nmax_size = 1\n"
    ));
    let message = denied(&policy, &peer(1), &unmount("/x")).message;
    assert!(message.ends_with("..."), "{message}");
    assert!(message.len() < 400, "{}", message.len());
}

#[test]
fn a_refusal_becomes_a_reply_that_fits_in_a_frame() {
    let policy = policy(POLICY);
    // The path whose escaped form is longest.
    let component = "\u{1b}".repeat(255);
    let longest = format!("/{}", [component.as_str(); 15].join("/"));
    let denial = denied(&policy, &peer(1000), &bind(&longest, "/run/vms/1000/a"));
    assert_eq!(denial.reason, DenyReason::SourceNotGranted);
    assert_eq!(denial.path, path(&longest));
    let message = denial.message.clone();
    assert!(message.contains(&path(&longest).to_string()));
    assert!(!message.chars().any(char::is_control));
    let reply = ErrorReply::from(denial);
    assert_eq!(reply.code, ErrorCode::Denied);
    assert_eq!(reply.reason, Some(DenyReason::SourceNotGranted));
    assert_eq!(reply.path, Some(path(&longest)));
    // The middle of the path gives way, not what was refused and why.
    assert!(reply.message.starts_with("binding /"));
    assert_eq!(
        reply.message.get(reply.message.len() - 100..),
        message.get(message.len() - 100..)
    );
    assert!(reply.message.len() <= ErrorReply::MAX_MESSAGE);
    assert!(mountwarden_protocol::frame::encode(&reply).is_ok());
}
