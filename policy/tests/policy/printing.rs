//! A policy as it is in force, printed and read again.

use std::path::Path;

use mountwarden_policy::{Accounts, Policy};

use crate::support::{grant, policy};

/// Each key that there is, with a value that is not its default.
const FULL: &str = r#"
version = 1

[limits]
connections = 7
connections_per_user = 3
mounts_per_user = 5
requests_per_second = 9
request_timeout = "1500ms"
idle_timeout = "2h"

[confinement]
require_landlock_abi = 4

[[grant]]
name = 'odd "name" \ of é'
users = ["qemu", "ceph"]
target = ["/run/{user}", "/mnt/\n\"x\\\u0085"]
force = ["ro", "nosuid", "nodev", "noexec"]
shared_target = true
passed_target = true
target_owner = "peer"
remount = true
propagation = ["slave", "shared"]
detached = true
move = true
  [grant.bind]
  source = ["/srv", "/home/{user}"]
  read_only = true
  recursive = true
  passed_source = true
  source_owner = "peer"
  idmap.uids = ["0:100000:65536", "100000:peer:1"]
  idmap.gids = ["0:0:1"]
  [grant.tmpfs]
  max_size = "3G"
  max_inodes = 17
  [grant.block]
  device = ["/dev/vg-{uid}/*"]
  filesystems = ["ext4", "xfs"]
  options = ["noquota", "data=ordered", "commit=*"]
  read_only = true
  [grant.fuse]
  subtypes = ["sshfs", "x*"]
  sources = ["*"]
  allow_other = true
  default_permissions = true
  read_only = true
  device = ["/dev/sd?1"]
  [grant.overlay]
  layer = ["/srv/layers"]
  upper = ["/srv/upper/{uid}"]
  max_layers = 5
  [grant.image]
  file = ["/srv/images"]
  filesystems = ["erofs", "squashfs"]
  loop_devices = { first = 100, count = 8 }
  [grant.network]
  source = ["server:/export/*"]
  filesystems = ["nfs4", "cifs"]
  options = ["vers=4.2"]
  secrets = ["password"]
  read_only = true

[[grant]]
name = "of groups"
users = [1001]
groups = ["kvm", 100]
target = ["/run/vms/{uid}"]
  [grant.tmpfs]
  max_size = 1
"#;

#[test]
fn what_is_printed_reads_as_the_same() {
    for text in [FULL, "version = 1"] {
        let read = policy(text);
        let printed = read.to_string();
        assert_eq!(policy(&printed), read, "{printed}");
        // Nothing is left that a reading could add.
        assert_eq!(policy(&printed).to_string(), printed);
    }
}

#[test]
fn defaults_are_printed() {
    let least = "users = [1]\ntarget = ['/m']\ntmpfs = { max_size = 65536 }\n";
    let printed = grant(least).to_string();
    for line in [
        "connections = 1024",
        "idle_timeout = \"600000ms\"",
        "require_landlock_abi = 6",
        "users = [1]",
        "groups = []",
        "force = [\"nosuid\", \"nodev\"]",
        "shared_target = false",
        "propagation = []",
        "max_size = 65536",
        "max_inodes = 16",
    ] {
        assert!(
            printed.lines().any(|known| known == line),
            "{line}: {printed}"
        );
    }
    assert!(!printed.contains("target_owner"), "{printed}");
}

#[test]
fn the_packaged_policy_is_printed() {
    struct Anybody;
    impl Accounts for Anybody {
        fn uid(&self, _: &str) -> Option<u32> {
            Some(1000)
        }
        fn gid(&self, _: &str) -> Option<u32> {
            Some(1000)
        }
    }
    let text = include_str!("../../../packaging/policy.toml");
    let read = |text: &str| Policy::parse(Path::new("policy.toml"), text, &Anybody).unwrap();
    assert_eq!(read(&read(text).to_string()), read(text));
}
