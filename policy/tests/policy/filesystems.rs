//! Block devices and FUSE: what is granted beside what is nearly so.

use mountwarden_policy::{Kinds, Permit, PermittedFuse, PermittedKind, Policy, Verdict};
use mountwarden_protocol::{
    DenyReason, FuseSource, Kind, Mount, MountAttributes, MountOptions, Operation, Passed,
};

use crate::support::{denied, grant, mount, peer};

const BLOCK: &str = r#"
users = ["qemu"]
target = ["/run/vms"]
  [grant.block]
  device = ["/dev/vg0/vm-{uid}-*", "/dev/disk/by-id/data"]
  filesystems = ["ext4", "xfs"]
  options = ["discard", "errors=remount-ro", "commit=*"]
"#;

const FUSE: &str = r#"
users = ["qemu"]
target = ["/run/vms"]
  [grant.fuse]
  subtypes = ["quobyte", "ssh*"]
  sources = ["registry.example:*/volume"]
"#;

/// Beside block devices that are granted to the kernel's own file systems.
const FUSEBLK: &str = r#"
users = ["qemu"]
target = ["/run/vms"]
  [grant.fuse]
  subtypes = ["ntfs-3g"]
  device = ["/dev/disk/by-id/{uid}-*"]
  [grant.block]
  device = ["/dev/vg0/*"]
  filesystems = ["ext4"]
"#;

fn block(device: &str, filesystem: &str, options: &[&str], how: MountOptions) -> Operation {
    let options: Vec<_> = options
        .iter()
        .map(|option| option.parse().unwrap())
        .collect();
    let kind = Kind::Block {
        device: crate::support::path(device),
        filesystem: filesystem.parse().unwrap(),
        options: options.try_into().unwrap(),
    };
    mount(kind, "/run/vms/a", how)
}

fn fuse(subtype: &str, source: Option<&str>, allow_other: bool) -> Operation {
    let kind = Kind::Fuse {
        subtype: subtype.parse().unwrap(),
        source: source.map_or(FuseSource::Subtype, |source| {
            FuseSource::Named(source.parse().unwrap())
        }),
        allow_other,
        default_permissions: false,
        max_read: None,
    };
    mount(kind, "/run/vms/a", MountOptions::empty())
}

fn served(device: &str, block_size: Option<u32>, how: MountOptions) -> Operation {
    let kind = Kind::Fuse {
        subtype: "ntfs-3g".parse().unwrap(),
        source: FuseSource::Device {
            device: crate::support::path(device),
            block_size: block_size.map(|bytes| bytes.try_into().unwrap()),
        },
        allow_other: false,
        default_permissions: false,
        max_read: None,
    };
    mount(kind, "/run/vms/a", how)
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
fn attack_13_a_device_is_named_or_described() {
    let policy = grant(BLOCK);
    for device in [
        "/dev/vg0/vm-1000-a",
        "/dev/vg0/vm-1000-",
        "/dev/disk/by-id/data",
    ] {
        let (kind, attributes) =
            permitted(&policy, &block(device, "ext4", &[], MountOptions::empty()));
        assert!(
            matches!(kind, PermittedKind::Block { device: of, .. } if of.to_string() == device)
        );
        assert_eq!(attributes, FORCED);
    }
    for device in [
        "/dev/vg0/vm-1001-a",
        "/dev/vg0/vm-1000-a/b",
        "/dev/vg0/vm-1000",
        "/dev/vg1/vm-1000-a",
        "/dev/disk/by-id/data2",
        "/dev/disk/by-id",
    ] {
        let operation = block(device, "ext4", &[], MountOptions::empty());
        let denial = denied(&policy, &peer(1000), &operation);
        assert_eq!(denial.reason, DenyReason::DeviceNotGranted, "{device}");
        assert_eq!(denial.path.to_string(), device);
        assert_eq!(
            denial.message,
            format!(
                "mounting the device {device} is refused: your grant 'g' has only these devices: \
                 /dev/vg0/vm-1000-*, /dev/disk/by-id/data"
            )
        );
    }
}

#[test]
fn attack_14_a_type_is_one_of_the_grants() {
    let policy = grant(BLOCK);
    let device = "/dev/disk/by-id/data";
    for name in ["ext4", "xfs"] {
        permitted(&policy, &block(device, name, &[], MountOptions::empty()));
    }
    for name in ["ext2", "ext", "ext44", "tmpfs", "fuse"] {
        let operation = block(device, name, &["discard"], MountOptions::empty());
        let denial = denied(&policy, &peer(1000), &operation);
        assert_eq!(denial.reason, DenyReason::FilesystemNotGranted, "{name}");
        assert_eq!(
            denial.message,
            format!(
                "mounting {device} as {name} is refused: your grant 'g' has only these types: \
                 ext4, xfs"
            )
        );
    }
}

#[test]
fn attack_15_each_option_is_one_of_the_grants() {
    let policy = grant(BLOCK);
    let device = "/dev/disk/by-id/data";
    let all = ["discard", "errors=remount-ro", "commit=77"];
    for count in 0..=all.len() {
        let (kind, _) = permitted(
            &policy,
            &block(device, "ext4", &all[..count], MountOptions::empty()),
        );
        let PermittedKind::Block { options, .. } = kind else {
            panic!("{kind:?}");
        };
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        assert_eq!(options, all[..count]);
    }
    for option in [
        "nodiscard",
        "discard=1",
        "errors=panic",
        "errors",
        "commit",
        "commits=1",
    ] {
        let options = ["discard", option];
        // A key stands once in a request.
        let options = if option == "discard=1" {
            &options[1..]
        } else {
            &options[..]
        };
        let denial = denied(
            &policy,
            &peer(1000),
            &block(device, "ext4", options, MountOptions::empty()),
        );
        assert_eq!(denial.reason, DenyReason::OptionNotGranted, "{option}");
        assert_eq!(
            denial.message,
            format!(
                "the option {option} for {device} is refused: your grant 'g' has only these \
                 options: discard, errors=remount-ro, commit=*"
            )
        );
    }
    let none = grant(&BLOCK.replace(
        "options = [\"discard\", \"errors=remount-ro\", \"commit=*\"]",
        "",
    ));
    let denial = denied(
        &none,
        &peer(1000),
        &block(device, "ext4", &["discard"], MountOptions::empty()),
    );
    assert!(
        denial.message.ends_with("only these options: none"),
        "{}",
        denial.message
    );
}

#[test]
fn attack_17_suid_and_dev_are_no_options_of_a_device_either() {
    let policy = grant(BLOCK);
    let lenient = grant(&BLOCK.replace("target", "force = []\ntarget"));
    let of = |how| block("/dev/disk/by-id/data", "ext4", &[], how);
    for (how, reason) in [
        (MountOptions::SUID, DenyReason::SuidNotGranted),
        (MountOptions::DEV, DenyReason::DevNotGranted),
    ] {
        assert_eq!(denied(&policy, &peer(1000), &of(how)).reason, reason);
        let (_, attributes) = permitted(&lenient, &of(how));
        assert_eq!(attributes.bits().count_ones(), 1);
    }
}

#[test]
fn a_grant_that_reads_only_makes_every_mount_of_its_kind_so() {
    let read =
        |text: &str, table| grant(&text.replace(table, &format!("{table}\nread_only = true")));
    let block = block("/dev/disk/by-id/data", "ext4", &[], MountOptions::empty());
    let fuse = fuse("quobyte", None, false);
    for (policy, operation) in [
        (read(BLOCK, "[grant.block]"), &block),
        (read(FUSE, "[grant.fuse]"), &fuse),
    ] {
        let (_, attributes) = permitted(&policy, operation);
        assert_eq!(attributes, FORCED | MountAttributes::READ_ONLY);
    }
    assert_eq!(permitted(&grant(BLOCK), &block).1, FORCED);
    assert_eq!(permitted(&grant(FUSE), &fuse).1, FORCED);
}

#[test]
fn attack_17_a_fuse_mount_is_served_by_its_peer() {
    let (kind, _) = permitted(&grant(FUSE), &fuse("sshfs", None, false));
    assert_eq!(
        kind,
        PermittedKind::Fuse(PermittedFuse {
            subtype: "sshfs".parse().unwrap(),
            source: FuseSource::Subtype,
            allow_other: false,
            default_permissions: false,
            max_read: None,
            uid: 1000,
            gid: 9000,
        })
    );
}

#[test]
fn attack_17_what_others_see_of_a_fuse_mount_is_granted() {
    let policy = grant(FUSE);
    let source = "registry.example:7/volume";
    permitted(&policy, &fuse("quobyte", Some(source), false));
    for (operation, reason, message) in [
        (
            fuse("quobytes", None, false),
            DenyReason::SubtypeNotGranted,
            "a FUSE mount of the subtype quobytes at /run/vms/a is refused: your grant 'g' has \
             only these subtypes: quobyte, ssh*",
        ),
        (
            fuse("quobyte", Some("registry.example:7/8/volume"), false),
            DenyReason::SourceNameNotGranted,
            "the source registry.example:7/8/volume for a FUSE mount at /run/vms/a is refused: \
             your grant 'g' has only these sources: registry.example:*/volume; ask without a source",
        ),
        (
            fuse("quobyte", Some(source), true),
            DenyReason::AllowOtherNotGranted,
            "allow_other at /run/vms/a is refused: your grant 'g' allows no other user on a FUSE \
             mount; ask without it",
        ),
    ] {
        let denial = denied(&policy, &peer(1000), &operation);
        assert_eq!((denial.reason, denial.message.as_str()), (reason, message));
        assert_eq!(denial.path.to_string(), "/run/vms/a");
    }
    let open = FUSE.to_owned() + "allow_other = true\ndefault_permissions = true\n";
    let (kind, _) = permitted(&grant(&open), &fuse("quobyte", None, true));
    let PermittedKind::Fuse(fuse) = kind else {
        panic!("{kind:?}");
    };
    assert!(fuse.allow_other && fuse.default_permissions);
}

#[test]
fn attack_13_a_device_is_granted_to_a_program_by_itself() {
    let device = "/dev/disk/by-id/1000-a";
    for (block_size, how, attributes) in [
        (None, MountOptions::empty(), FORCED),
        (
            Some(4096),
            MountOptions::READ_ONLY,
            FORCED | MountAttributes::READ_ONLY,
        ),
    ] {
        let (kind, of) = permitted(&grant(FUSEBLK), &served(device, block_size, how));
        let PermittedKind::Fuse(fuse) = kind else {
            panic!("{kind:?}");
        };
        let block_size = block_size.map(|bytes| bytes.try_into().unwrap());
        let device = crate::support::path(device);
        assert_eq!(fuse.source, FuseSource::Device { device, block_size });
        assert_eq!((of, fuse.uid), (attributes, 1000));
    }
    let refused = "a FUSE mount of the device";
    let only = "has only these devices for programs to serve: /dev/disk/by-id/1000-*";
    let none = "has no devices for programs to serve; ask the administrator for `device` in its \
                [grant.fuse]";
    let without = FUSEBLK.replacen("device =", "sources =", 1);
    for (text, device, why) in [
        (FUSEBLK, "/dev/disk/by-id/1001-a", only),
        (FUSEBLK, "/dev/disk/by-id/1000-a/b", only),
        (FUSEBLK, "/dev/disk/by-id/1000", only),
        (FUSEBLK, "/dev/sda", only),
        // Of the other table.
        (FUSEBLK, "/dev/vg0/a", only),
        (&without, device, none),
        (&without, "/dev/vg0/a", none),
    ] {
        let operation = served(device, None, MountOptions::empty());
        let denial = denied(&grant(text), &peer(1000), &operation);
        assert_eq!(denial.reason, DenyReason::DeviceNotGranted);
        assert_eq!(denial.path.to_string(), device);
        let expected = format!("{refused} {device} is refused: your grant 'g' {why}");
        assert_eq!(denial.message, expected);
    }
    // Nor the other way round.
    let operation = block(device, "ext4", &[], MountOptions::empty());
    let denial = denied(&grant(FUSEBLK), &peer(1000), &operation);
    assert_eq!(denial.reason, DenyReason::DeviceNotGranted);
    for (text, fuseblk) in [(FUSEBLK, true), (&without, false), (FUSE, false)] {
        let kinds = grant(text).places(&peer(1000)).kinds;
        assert_eq!((kinds.fuse, kinds.fuseblk), (true, fuseblk));
    }
}

#[test]
fn a_kind_needs_its_table() {
    for (policy, operation, allows) in [
        (BLOCK, fuse("quobyte", None, false), "block"),
        (
            FUSE,
            block("/dev/disk/by-id/data", "ext4", &[], MountOptions::empty()),
            "fuse",
        ),
    ] {
        let denial = denied(&grant(policy), &peer(1000), &operation);
        assert_eq!(denial.reason, DenyReason::KindNotGranted);
        let end = format!("your grant 'g' allows there only {allows}");
        assert!(denial.message.ends_with(&end), "{}", denial.message);
    }
}

#[test]
fn the_names_that_the_kernel_gets_are_known_beforehand() {
    let policy = grant(BLOCK);
    let names: Vec<_> = policy.kernel_names().into_iter().collect();
    assert_eq!(names, ["commit", "discard", "errors", "ext4", "xfs"]);
    assert!(grant(FUSE).kernel_names().is_empty());
    for (policy, block, fuse) in [(grant(BLOCK), true, false), (grant(FUSE), false, true)] {
        let places = policy.places(&peer(1000));
        assert_eq!((places.kinds.block, places.kinds.fuse), (block, fuse));
        assert_eq!(policy.kinds(), places.kinds);
        let others = policy.places(&peer(1001));
        assert_eq!(others.kinds, Kinds::default());
    }
}

/// A descriptor stands for a location alone: not for a device, and a client brings no
/// connection.
#[test]
fn attack_13_what_they_are_made_from_is_never_passed() {
    let locations = "[grant.bind]\n  source = [\"/srv\"]\n  passed_source = true\n";
    for (terms, operation) in [
        (
            BLOCK,
            block("/dev/vg0/vm-1000-a", "ext4", &[], MountOptions::empty()),
        ),
        (FUSE, fuse("ssh", None, false)),
        (
            FUSEBLK,
            served("/dev/disk/by-id/1000-a", None, MountOptions::empty()),
        ),
    ] {
        let passed = terms.replace("target =", "passed_target = true\ntarget =");
        let policy = grant(&(passed + locations));
        let Operation::Mount(mount) = operation else {
            panic!("{operation:?}")
        };
        for (passed, allowed) in [
            (Passed::empty(), true),
            (Passed::TARGET, true),
            (Passed::SOURCE, false),
            (Passed::TARGET | Passed::SOURCE, false),
        ] {
            let operation = Operation::Mount(Mount {
                passed,
                ..mount.clone()
            });
            if allowed {
                let _ = permitted(&policy, &operation);
            } else {
                let denial = denied(&policy, &peer(1000), &operation);
                assert_eq!(denial.reason, DenyReason::PassedNotGranted);
                assert!(
                    denial.message.contains("only the source of a bind"),
                    "{denial}"
                );
            }
        }
    }
}
