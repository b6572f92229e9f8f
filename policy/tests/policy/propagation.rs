//! How mounts on a mount spread: private, unless the grant allows more.

use mountwarden_policy::{Permit, Policy, Verdict};
use mountwarden_protocol::{AbsPath, DenyReason, Operation, Propagation};

use crate::support::{bind, denied, grant, path, peer, tmpfs};

const ALL: [Propagation; 3] = [
    Propagation::Private,
    Propagation::Slave,
    Propagation::Shared,
];

fn granting(words: &str) -> Policy {
    let mut policy = grant(&format!(
        "users = [1000]\ntarget = ['/run/vms']\npropagation = [{words}]\n\
         [grant.bind]\nsource = ['/srv', '/etc', '/usr/share', '/proc']\n\
         [grant.tmpfs]\nmax_size = 4096\n"
    ));
    policy.protect(path("/srv/mountwarden/policy.toml"));
    policy
}

fn with(mut operation: Operation, propagation: Propagation) -> Operation {
    if let Operation::Mount(mount) = &mut operation {
        mount.propagation = propagation;
    }
    operation
}

fn allowed(policy: &Policy, operation: &Operation) -> Propagation {
    match policy.judge(&peer(1000), operation) {
        Verdict::Allowed(Permit::Mount(permit)) => permit.propagation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn attack_11_only_what_the_grant_lists() {
    for (words, listed) in [
        ("", &[][..]),
        ("'slave'", &[Propagation::Slave]),
        ("'shared'", &[Propagation::Shared]),
        (
            "'shared', 'slave', 'slave'",
            &[Propagation::Slave, Propagation::Shared],
        ),
    ] {
        let policy = granting(words);
        for asked in ALL {
            for operation in [
                bind("/srv/images", "/run/vms/a"),
                tmpfs(None, None, "/run/vms/a"),
            ] {
                let operation = with(operation, asked);
                if asked == Propagation::Private || listed.contains(&asked) {
                    assert_eq!(allowed(&policy, &operation), asked);
                } else {
                    let denial = denied(&policy, &peer(1000), &operation);
                    assert_eq!(denial.reason, DenyReason::PropagationNotGranted);
                    assert_eq!(denial.path, path("/run/vms/a"));
                }
            }
        }
    }
}

/// What is mounted on a shared bind covers its source too.
#[test]
fn attack_08_a_shared_bind_of_what_is_never_covered() {
    let policy = granting("'slave', 'shared'");
    for source in [
        "/etc",
        "/proc",
        "/proc/self",
        "/srv",
        "/srv/mountwarden",
        "/srv/mountwarden/policy.toml",
    ] {
        for asked in [Propagation::Private, Propagation::Slave] {
            let operation = with(bind(source, "/run/vms/a"), asked);
            assert_eq!(allowed(&policy, &operation), asked, "{source}");
        }
        let shared = with(bind(source, "/run/vms/a"), Propagation::Shared);
        let denial = denied(&policy, &peer(1000), &shared);
        assert_eq!(denial.reason, DenyReason::TargetProtected, "{source}");
        assert_eq!(denial.path, AbsPath::new(source).unwrap());
    }
    for source in ["/etc/x", "/usr/share", "/srv/images", "/srv/mountwarden2"] {
        let shared = with(bind(source, "/run/vms/a"), Propagation::Shared);
        assert_eq!(allowed(&policy, &shared), Propagation::Shared, "{source}");
    }
}
