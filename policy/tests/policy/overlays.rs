//! Overlays: what is granted beside what is nearly so.

use mountwarden_policy::{Permit, PermittedKind, Policy, Verdict};
use mountwarden_protocol::{
    DenyReason, Kind, Lift, MountAttributes, MountOptions, Operation, Remount, UpperLayer,
};

use crate::support::{denied, grant, mount, path, peer};

const OVERLAY: &str = r#"
users = ["qemu"]
target = ["/run/vms"]
remount = true
  [grant.overlay]
  layer = ["/srv/layers", "/srv/own/{uid}"]
  max_layers = 3
"#;

fn kind(layers: &[&str], upper: Option<[&str; 2]>) -> Kind {
    let layers: Vec<_> = layers.iter().map(|layer| path(layer)).collect();
    Kind::Overlay {
        lower: layers.try_into().unwrap(),
        upper: upper.map(|[upper, work]| UpperLayer {
            upper: path(upper),
            work: path(work),
        }),
    }
}

fn overlay(layers: &[&str], upper: Option<[&str; 2]>) -> Operation {
    mount(kind(layers, upper), "/run/vms/a", MountOptions::empty())
}

/// What is permitted, with its attributes.
fn permitted(policy: &Policy, operation: &Operation) -> (PermittedKind, MountAttributes) {
    match policy.judge(&peer(1000), operation) {
        Verdict::Allowed(Permit::Mount(permit)) => (permit.kind, permit.attributes),
        other => panic!("{operation:?}: {other:?}"),
    }
}

const FORCED: MountAttributes = MountAttributes::NO_SUID.union(MountAttributes::NO_DEV);

#[test]
fn each_layer_is_granted_and_their_order_is_kept() {
    let policy = grant(OVERLAY);
    let layers = ["/srv/own/1000/x,y:z", "/srv/layers", "/srv/layers/a/b"];
    let (kind, attributes) = permitted(&policy, &overlay(&layers, None));
    let PermittedKind::Overlay(permitted) = kind else {
        panic!("{kind:?}")
    };
    assert!(permitted.directories().map(ToString::to_string).eq(layers));
    assert_eq!(permitted.upper, None);
    assert_eq!(attributes, FORCED | MountAttributes::READ_ONLY);
    for layer in ["/srv/layer", "/srv", "/srv/own/1001/x", "/srv/layers2"] {
        for layers in [
            [layer, "/srv/layers/a"],
            ["/srv/layers/a", layer],
            [layer, "/x"],
        ] {
            let denial = denied(&policy, &peer(1000), &overlay(&layers, None));
            assert_eq!(denial.reason, DenyReason::SourceNotGranted, "{layers:?}");
            assert_eq!(denial.path, path(layer));
            assert_eq!(
                denial.message,
                format!(
                    "the layer {layer} is refused: it lies in none of the layer roots of your \
                     grant 'g': /srv/layers, /srv/own/1000"
                )
            );
        }
    }
}

#[test]
fn attack_18_no_more_layers_than_granted() {
    let policy = grant(OVERLAY);
    let layer = "/srv/layers/a";
    permitted(&policy, &overlay(&[layer; 3], None));
    let denial = denied(&policy, &peer(1000), &overlay(&[layer; 4], None));
    assert_eq!(denial.reason, DenyReason::LayersAboveMaximum);
    assert_eq!(
        denial.message,
        "an overlay of so many layers at /run/vms/a is refused: your grant 'g' allows at most 3"
    );
    let all = grant(&OVERLAY.replace("max_layers = 3", ""));
    permitted(&all, &overlay(&[layer; 16], None));
}

#[test]
fn an_upper_layer_and_its_work_directory_are_granted() {
    let policy = grant(&OVERLAY.replace(
        "max_layers",
        "upper = [\"/srv/upper/{uid}\", \"/srv/work\"]\nmax_layers",
    ));
    let (upper, work) = ("/srv/upper/1000/u", "/srv/work/w");
    let (kind, attributes) = permitted(&policy, &overlay(&["/srv/layers"], Some([upper, work])));
    let PermittedKind::Overlay(permitted) = kind else {
        panic!("{kind:?}")
    };
    let directories = [upper, work, "/srv/layers"];
    assert!(
        permitted
            .directories()
            .map(ToString::to_string)
            .eq(directories)
    );
    assert_eq!(attributes, FORCED);
    for (pair, refused) in [
        ([upper, "/srv/upper/1001/w"], "/srv/upper/1001/w"),
        (["/srv/layers/u", work], "/srv/layers/u"),
        (["/x", "/y"], "/x"),
    ] {
        let operation = overlay(&["/srv/layers"], Some(pair));
        let denial = denied(&policy, &peer(1000), &operation);
        assert_eq!(denial.reason, DenyReason::UpperNotGranted);
        assert_eq!(denial.path, path(refused));
        assert_eq!(
            denial.message,
            format!(
                "the upper layer {refused} is refused: what is written to lies, as its work \
                 directory does, in one of these roots of your grant 'g': /srv/upper/1000, \
                 /srv/work"
            )
        );
    }
    // Only where the grant has any.
    let operation = overlay(&["/srv/layers"], Some(["/srv/layers/u", "/srv/layers/w"]));
    let denial = denied(&grant(OVERLAY), &peer(1000), &operation);
    assert_eq!(denial.reason, DenyReason::UpperNotGranted);
    assert!(denial.message.ends_with("'g': none"), "{}", denial.message);
}

#[test]
fn layers_are_no_sources_and_sources_no_layers() {
    let both = grant(
        "users = [1000]\ntarget = ['/run/vms']\n[grant.bind]\nsource = ['/srv/a']\n\
         [grant.overlay]\nlayer = ['/srv/b']\n",
    );
    let bind = |source| {
        mount(
            crate::support::bind_kind(source),
            "/run/vms/a",
            MountOptions::empty(),
        )
    };
    permitted(&both, &bind("/srv/a"));
    permitted(&both, &overlay(&["/srv/b"], None));
    for operation in [bind("/srv/b"), overlay(&["/srv/a"], None)] {
        let denial = denied(&both, &peer(1000), &operation);
        assert_eq!(denial.reason, DenyReason::SourceNotGranted);
    }
    let places = both.places(&peer(1000));
    assert_eq!(places.sources, [path("/srv/a"), path("/srv/b")]);
    assert!(places.kinds.overlay && !places.kinds.fuse && !places.kinds.block);
    let roots: Vec<_> = both.static_roots().into_iter().collect();
    assert_eq!(roots, [path("/run/vms"), path("/srv/a"), path("/srv/b")]);
    let denial = denied(&both, &peer(1000), &overlay_passed());
    assert_eq!(denial.reason, DenyReason::PassedNotGranted);
}

fn overlay_passed() -> Operation {
    let Operation::Mount(mut mount) = overlay(&["/srv/b"], None) else {
        unreachable!()
    };
    mount.passed = mountwarden_protocol::Passed::SOURCE;
    Operation::Mount(mount)
}

#[test]
fn attack_16_what_is_only_read_stays_so() {
    let policy = grant(OVERLAY);
    let lift = |attributes| {
        Operation::Remount(Remount {
            target: path("/run/vms/a"),
            set: MountAttributes::empty(),
            lift: Some(Lift {
                attributes,
                kind: kind(&["/srv/layers"], None),
            }),
            id: None,
        })
    };
    let denial = denied(&policy, &peer(1000), &lift(MountAttributes::READ_ONLY));
    assert_eq!(denial.reason, DenyReason::AttributeForced);
    let allowed = policy.judge(&peer(1000), &lift(MountAttributes::NO_EXEC));
    assert!(matches!(allowed, Verdict::Allowed(Permit::Remount(_))));
}
