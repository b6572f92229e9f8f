//! What the helper asks of a policy beside its judgement.

use mountwarden_policy::Peer;
use mountwarden_protocol::AbsPath;

use crate::support::{peer, policy};

const POLICY: &str = r#"
version = 1
[[grant]]
name   = "a"
users  = ["qemu", "qemu-too"]
target = ["/run/vms/{uid}", "/home/{user}/mnt", "/run/vms/{uid}"]
  [grant.bind]
  source = ["/srv/images", "/srv/vm-{uid}"]

[[grant]]
name   = "b"
groups = [36]
target = ["/run/kvm", "/run/vms/{uid}"]
  [grant.bind]
  source = ["/srv/iso", "/srv/images"]

[[grant]]
name   = "c"
users  = [1001]
target = ["/{uid}"]
  [grant.tmpfs]
  max_size = "1M"
"#;

fn texts<'a>(paths: impl IntoIterator<Item = &'a AbsPath>) -> Vec<String> {
    paths.into_iter().map(ToString::to_string).collect()
}

#[test]
fn places_are_the_roots_of_every_grant_of_the_peer_once_in_order() {
    let policy = policy(POLICY);
    let both = Peer {
        groups: vec![36],
        ..peer(1000)
    };
    let places = policy.places(&both);
    assert_eq!(
        texts(&places.targets),
        [
            "/run/vms/1000",
            "/home/qemu/mnt",
            "/home/qemu-too/mnt",
            "/run/kvm"
        ]
    );
    assert_eq!(
        texts(&places.sources),
        ["/srv/images", "/srv/vm-1000", "/srv/iso"]
    );
    let places = policy.places(&peer(1001));
    assert_eq!(texts(&places.targets), ["/1001"]);
    assert!(places.sources.is_empty());
    let places = policy.places(&peer(5));
    assert!(places.targets.is_empty() && places.sources.is_empty());
}

#[test]
fn static_roots_hold_every_root_of_every_peer() {
    assert_eq!(
        texts(&policy(POLICY).static_roots()),
        [
            "/",
            "/home",
            "/run/kvm",
            "/run/vms",
            "/srv",
            "/srv/images",
            "/srv/iso"
        ]
    );
}
