//! Images: what is granted beside what is nearly so.

use mountwarden_policy::{Permit, PermittedKind, Verdict};
use mountwarden_protocol::{DenyReason, ImageType, Kind, MountAttributes, MountOptions, Operation};

use crate::support::{denied, grant, mount, path, peer};

const IMAGE: &str = r#"
users = ["qemu"]
target = ["/run/vms"]
  [grant.image]
  file = ["/srv/images/{uid}", "/srv/base.erofs"]
  filesystems = ["erofs"]
"#;

fn image(file: &str, filesystem: ImageType) -> Operation {
    let file = path(file);
    let kind = Kind::Image { file, filesystem };
    mount(kind, "/run/vms/a", MountOptions::empty())
}

#[test]
fn an_image_is_only_read() {
    let policy = grant(IMAGE);
    for file in ["/srv/images/1000/a", "/srv/base.erofs"] {
        match policy.judge(&peer(1000), &image(file, ImageType::Erofs)) {
            Verdict::Allowed(Permit::Mount(permit)) => {
                let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
                assert_eq!(permit.attributes, forced | MountAttributes::READ_ONLY);
                assert!(
                    matches!(permit.kind, PermittedKind::Image { file: of, .. } if of == path(file))
                );
            }
            other => panic!("{file}: {other:?}"),
        }
    }
    let places = policy.places(&peer(1000));
    assert_eq!(
        places.sources,
        [path("/srv/images/1000"), path("/srv/base.erofs")]
    );
    assert!(places.kinds.image && !places.kinds.overlay);
}

#[test]
fn attack_14_its_file_and_its_type_are_granted() {
    let policy = grant(IMAGE);
    for file in ["/srv/images/1001/a", "/srv/images", "/srv/base.erofs2"] {
        let denial = denied(&policy, &peer(1000), &image(file, ImageType::Erofs));
        assert_eq!(denial.reason, DenyReason::SourceNotGranted, "{file}");
        assert_eq!(denial.path, path(file));
        assert_eq!(
            denial.message,
            format!(
                "the image {file} is refused: it lies in none of the image roots of your grant \
                 'g': /srv/images/1000, /srv/base.erofs"
            )
        );
    }
    let operation = image("/srv/base.erofs", ImageType::Squashfs);
    let denial = denied(&policy, &peer(1000), &operation);
    assert_eq!(denial.reason, DenyReason::FilesystemNotGranted);
    assert_eq!(
        denial.message,
        "mounting /srv/base.erofs as squashfs is refused: your grant 'g' has only these types of \
         images: erofs"
    );
}

/// Those of the grant that allows it, and of no other.
#[test]
fn attack_13_an_image_takes_a_device_of_its_own_grant() {
    let with = IMAGE.replace(
        "filesystems = [\"erofs\"]",
        "filesystems = [\"squashfs\"]\n  loop_devices = { first = 100, count = 2 }",
    );
    let other = IMAGE.replace("\"erofs\"", "\"erofs\", \"squashfs\"");
    let other = other.replace("/run/vms", "/run/other");
    let policy = grant(&format!("{with}[[grant]]\nname = 'h'\n{other}"));
    for (target, wanted) in [("/run/vms/a", Some(vec![100, 101])), ("/run/other/a", None)] {
        let kind = Kind::Image {
            file: path("/srv/base.erofs"),
            filesystem: ImageType::Squashfs,
        };
        let asked = mount(kind, target, MountOptions::empty());
        let Verdict::Allowed(Permit::Mount(permit)) = policy.judge(&peer(1000), &asked) else {
            panic!("{target}");
        };
        let PermittedKind::Image { loop_devices, .. } = permit.kind else {
            panic!("{permit:?}");
        };
        let numbers = loop_devices.map(|devices| devices.numbers().collect());
        assert_eq!(numbers, wanted);
    }
    let names: Vec<_> = policy.kernel_names().into_iter().collect();
    assert_eq!(names, ["loop100", "loop101"]);
    assert!(policy.kinds().loop_devices && policy.kinds().takes_locker());
    let without = grant(IMAGE).kinds();
    assert!(!without.loop_devices && !without.takes_locker());
}
