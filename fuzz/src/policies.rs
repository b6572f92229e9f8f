//! Texts that an administrator may write, or an attacker may have changed.

use std::path::Path;

use mountwarden_policy::{Accounts, Peer, Permit, Policy, PolicyError, Verdict};
use mountwarden_protocol::{
    AbsPath, Detach, Kind, Lift, Mount, MountAttributes, MountOptions, Move, Operation, Passed,
    Propagation, Remount, Unmount,
};

struct Known;

impl Accounts for Known {
    fn uid(&self, user: &str) -> Option<u32> {
        match user {
            "root" => Some(0),
            "qemu" => Some(107),
            "peer" => Some(1000),
            _ => None,
        }
    }

    fn gid(&self, group: &str) -> Option<u32> {
        match group {
            "kvm" => Some(36),
            "peer" => Some(1000),
            _ => None,
        }
    }
}

const TARGETS: [&str; 13] = [
    "/run/vms/7",
    "/run/vms/1000/a",
    "/run/vms/peer/a",
    "/srv/images",
    "/mnt/a",
    "/mnt/b",
    "/a",
    "/",
    "/etc",
    "/usr",
    "/proc/self",
    "/sys/fs",
    "/dev",
];

/// A place that the helper protects, as it does the policy's own file.
const PROTECTED: &str = "/mnt/a/policy.toml";

/// Of [`TARGETS`], those that no policy can grant.
const NEVER: [&str; 7] = [
    "/",
    "/etc",
    "/usr",
    "/proc/self",
    "/sys/fs",
    "/dev",
    "/mnt/a",
];

/// A text is a policy or is refused at a place inside it. A policy reads the same when it is
/// printed and read again. It answers every question; it never allows a protected target, nor one outside the roots that
/// it says the peer has.
///
/// # Panics
/// When that does not hold.
pub fn policy_parse(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut policy = match Policy::parse(Path::new("policy.toml"), text, &Known) {
        Ok(policy) => policy,
        Err(error) => return refused(text, &error),
    };
    let printed = policy.to_string();
    let again = Policy::parse(Path::new("printed.toml"), &printed, &Known);
    assert!(
        again.as_ref().is_ok_and(|again| *again == policy),
        "{again:?} was printed as {printed}"
    );
    if let Ok(place) = AbsPath::new(PROTECTED) {
        policy.protect(place);
    }
    for warning in policy.lint() {
        assert_one_line(&warning.to_string());
    }
    let roots = policy.static_roots();
    for (uid, gid) in [(0, 0), (107, 36), (1000, 1000), (4_000_000_000, 5)] {
        let peer = Peer {
            uid,
            gid,
            groups: vec![27],
        };
        let places = policy.places(&peer);
        for root in places.targets.iter().chain(&places.sources) {
            let within = |prefix: &AbsPath| root == prefix || root.is_beneath(prefix);
            assert!(roots.iter().any(within), "{root} has no static root");
        }
        for operation in operations() {
            let Verdict::Allowed(permit) = policy.judge(&peer, &operation) else {
                continue;
            };
            let target = match &permit {
                Permit::Mount(permit) => {
                    assert!(
                        !NEVER
                            .iter()
                            .any(|never| permit.target.as_path() == Path::new(never)),
                        "{} is granted",
                        permit.target
                    );
                    &permit.target
                }
                Permit::Unmount(permit) => &permit.target,
                Permit::Detach(permit) => {
                    assert_eq!(Some(&permit.source), operation.source());
                    assert!(places.kinds.detached && operation.target().is_none());
                    let source = &permit.source;
                    let granted = |root: &AbsPath| source == root || source.is_beneath(root);
                    assert!(places.sources.iter().any(granted), "{source} is no source");
                    continue;
                }
                Permit::Move(permit) => {
                    assert_eq!(Some(&permit.from), operation.source());
                    let beneath = |root| permit.from.is_beneath(root);
                    assert!(places.targets.iter().any(beneath), "{}", permit.from);
                    &permit.to
                }
                Permit::Remount(permit) => {
                    let lifted = permit.lift.as_ref().map(|lift| lift.attributes);
                    assert!(lifted.is_none_or(|lifted| !lifted.intersects(permit.set)));
                    &permit.target
                }
            };
            assert_eq!(Some(target), operation.target());
            assert!(
                places.targets.iter().any(|root| target.is_beneath(root)),
                "{target} is granted outside every root"
            );
        }
    }
}

fn operations() -> impl Iterator<Item = Operation> {
    TARGETS
        .into_iter()
        .filter_map(|target| AbsPath::new(target).ok())
        .flat_map(|target| {
            let unmount = Operation::Unmount(Unmount {
                target: target.clone(),
                lazy: true,
                id: None,
                passed: false,
            });
            let kinds = TARGETS
                .into_iter()
                .filter_map(|source| AbsPath::new(source).ok())
                .map(|source| Kind::Bind {
                    source,
                    recursive: true,
                })
                .chain([Kind::Tmpfs {
                    size: None,
                    inodes: None,
                    mode: None,
                }]);
            let operations: Vec<_> = kinds
                .flat_map(|kind| {
                    let lift = Some(Lift {
                        attributes: MountAttributes::NO_SUID,
                        kind: kind.clone(),
                    });
                    let remount = Operation::Remount(Remount {
                        target: target.clone(),
                        set: MountAttributes::empty(),
                        lift,
                        id: None,
                    });
                    let mount = Operation::Mount(Mount {
                        kind,
                        target: target.clone(),
                        options: MountOptions::READ_ONLY,
                        propagation: Propagation::Shared,
                        passed: Passed::TARGET | Passed::SOURCE,
                        lease: false,
                    });
                    [mount, remount]
                })
                .collect();
            let moves = TARGETS
                .into_iter()
                .filter_map(|from| AbsPath::new(from).ok())
                .map(|from| {
                    Operation::Move(Move {
                        from,
                        to: target.clone(),
                        id: None,
                    })
                });
            let moves: Vec<_> = moves.collect();
            let detach = Operation::Detach(Detach {
                source: target,
                recursive: true,
                options: MountOptions::READ_ONLY,
                idmap: true,
            });
            let others = moves.into_iter().chain([unmount, detach]);
            operations.into_iter().chain(others)
        })
}

fn refused(text: &str, error: &PolicyError) {
    // A text that ends in a newline has an empty line after it, and a text that
    // is cut short is wrong one place after its last character.
    let line = error
        .line
        .checked_sub(1)
        .and_then(|above| text.split('\n').nth(above));
    let width = line.map(|line| line.chars().count());
    assert!(
        width.is_some_and(|width| (1..=width.saturating_add(1)).contains(&error.column)),
        "{error}: outside the text"
    );
    assert!(!error.message.is_empty());
    assert_one_line(&error.to_string());
}

fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
