//! Network file systems: what is granted beside what is nearly so.

use mountwarden_policy::{NETWORK_TYPES, Permit, PermittedKind, Verdict};
use mountwarden_protocol::{
    DenyReason, FilesystemOptions, Kind, MountAttributes, MountOptions, Operation,
};

use crate::support::{denied, grant, mount, peer};

const NETWORK: &str = r#"
users = ["qemu"]
target = ["/run/vms"]
  [grant.network]
  source = ["files.example:/srv/vm-*", "//files.example/images"]
  filesystems = ["nfs4", "cifs"]
  options = ["addr=192.0.2.7", "soft", "username=*"]
  secrets = ["password"]
"#;

fn options(texts: &[&str]) -> FilesystemOptions {
    let options: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
    options.try_into().unwrap()
}

fn network(source: &str, filesystem: &str, own: &[&str], secrets: &[&str]) -> Operation {
    let kind = Kind::Network {
        source: source.parse().unwrap(),
        filesystem: filesystem.parse().unwrap(),
        options: options(own),
        secrets: options(secrets).try_into().unwrap(),
    };
    mount(kind, "/run/vms/a", MountOptions::empty())
}

const FORCED: MountAttributes = MountAttributes::NO_SUID.union(MountAttributes::NO_DEV);

#[test]
fn what_is_granted_is_permitted_as_it_was_asked() {
    let policy = grant(NETWORK);
    let secrets = ["password=hunter2"];
    for (source, filesystem, own, secrets) in [
        (
            "files.example:/srv/vm-7",
            "nfs4",
            &["addr=192.0.2.7"][..],
            &[][..],
        ),
        ("files.example:/srv/vm-", "nfs4", &["soft"], &[]),
        (
            "//files.example/images",
            "cifs",
            &["username=ann"],
            &secrets,
        ),
    ] {
        let operation = network(source, filesystem, own, secrets);
        let Verdict::Allowed(Permit::Mount(permit)) = policy.judge(&peer(1000), &operation) else {
            panic!("{operation:?}");
        };
        assert_eq!(permit.attributes, FORCED);
        let permitted = PermittedKind::Network {
            source: source.parse().unwrap(),
            filesystem: filesystem.parse().unwrap(),
            options: options(own),
            secrets: options(secrets).try_into().unwrap(),
        };
        assert_eq!(permit.kind, permitted);
    }
    let read_only = grant(&(NETWORK.to_owned() + "read_only = true\n"));
    let operation = network("//files.example/images", "cifs", &[], &[]);
    let Verdict::Allowed(Permit::Mount(permit)) = read_only.judge(&peer(1000), &operation) else {
        panic!();
    };
    assert_eq!(permit.attributes, FORCED | MountAttributes::READ_ONLY);
}

#[test]
fn attack_14_what_is_not_granted_is_refused_with_what_is() {
    let policy = grant(NETWORK);
    let images = "//files.example/images";
    for (operation, reason, message) in [
        (
            network("files.example:/srv/vm-7/etc", "nfs4", &[], &[]),
            DenyReason::SourceNotGranted,
            "mounting files.example:/srv/vm-7/etc is refused: your grant 'g' has only these \
             sources: files.example:/srv/vm-*, //files.example/images",
        ),
        (
            network("other.example:/srv/vm-7", "nfs4", &[], &[]),
            DenyReason::SourceNotGranted,
            "mounting other.example:/srv/vm-7 is refused: your grant 'g' has only these sources: \
             files.example:/srv/vm-*, //files.example/images",
        ),
        (
            network(images, "smb3", &["soft"], &[]),
            DenyReason::FilesystemNotGranted,
            "mounting //files.example/images as smb3 is refused: your grant 'g' has only these \
             types: nfs4, cifs",
        ),
        (
            network(images, "cifs", &["addr=192.0.2.8"], &["password=hunter2"]),
            DenyReason::OptionNotGranted,
            "the option addr=192.0.2.8 for //files.example/images is refused: your grant 'g' has \
             only these options: addr=192.0.2.7, soft, username=*",
        ),
        (
            network(images, "cifs", &["soft"], &["password2=hunter2"]),
            DenyReason::OptionNotGranted,
            "the secret password2 for //files.example/images is refused: your grant 'g' has only \
             these secrets: password",
        ),
        (
            network(images, "cifs", &["password=hunter2"], &[]),
            DenyReason::OptionNotGranted,
            "the option password=hunter2 for //files.example/images is refused: your grant 'g' has \
             only these options: addr=192.0.2.7, soft, username=*",
        ),
    ] {
        let denial = denied(&policy, &peer(1000), &operation);
        assert_eq!((denial.reason, &denial.message[..]), (reason, message));
        assert_eq!(denial.path.to_string(), "/run/vms/a");
    }
}

#[test]
fn the_table_is_read_and_checked() {
    let policy = grant(NETWORK);
    let names: Vec<_> = policy.kernel_names().into_iter().collect();
    let expected = ["addr", "cifs", "nfs4", "password", "soft", "username"];
    assert_eq!(names, expected);
    assert!(policy.kinds().network && policy.places(&peer(1000)).kinds.network);
    assert!(!policy.places(&peer(1001)).kinds.network);
    for name in NETWORK_TYPES {
        grant(&NETWORK.replace("nfs4", name));
    }
}
