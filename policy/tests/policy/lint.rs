//! Warnings: each beside a policy that differs little and gets none.

use mountwarden_policy::Policy;

use crate::support::{grant, path, policy};

fn messages(policy: &Policy) -> Vec<String> {
    policy
        .lint()
        .into_iter()
        .map(|warning| warning.message)
        .collect()
}

fn of_grant(lines: &str) -> Vec<String> {
    messages(&grant(lines))
}

fn of_target(root: &str) -> Vec<String> {
    of_grant(&format!(
        "users = [1000]\ntarget = ['{root}']\n[grant.tmpfs]\nmax_size = 1\n"
    ))
}

fn of_source(root: &str) -> Vec<String> {
    let mut policy = grant(&format!(
        "users = [1000]\ntarget = ['/mnt/t']\n[grant.bind]\nsource = ['{root}']\n"
    ));
    policy.protect(path("/srv/mountwarden/policy.toml"));
    messages(&policy)
}

#[test]
fn a_wise_policy_gets_no_warning() {
    let wise = grant(
        "users = ['qemu']\ngroups = ['kvm']\ntarget = ['/run/vms/{uid}']\n\
         [grant.bind]\nsource = ['/srv/images']\n[grant.tmpfs]\nmax_size = '1M'\n",
    );
    assert_eq!(wise.lint(), []);
}

#[test]
fn a_warning_names_its_grant() {
    let policy = grant("users = [0]\ntarget = ['/mnt/t']\n[grant.tmpfs]\nmax_size = 1\n");
    let lines: Vec<String> = policy.lint().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "grant 'g': names user 0: root mounts without mountwarden, and services that run as \
             root should not come to rely on it"
        ]
    );
}

#[test]
fn one_user_is_not_all_users() {
    let of_limits = |lines: &str| policy(&format!("version = 1\n[limits]\n{lines}")).lint();
    assert_eq!(of_limits("connections = 16\nconnections_per_user = 15"), []);
    assert_eq!(of_limits("connections = 17"), []);
    for lines in ["connections = 16", "connections_per_user = 1024"] {
        let warnings = of_limits(lines);
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        let text = warning.to_string();
        assert!(
            text.starts_with("[limits]: one user may have all "),
            "{text}"
        );
    }
}

#[test]
fn target_roots_in_the_system_are_unwise() {
    let trusted = "a mount there can replace files that the system trusts";
    for (root, warning) in [
        ("/etc", format!("lies in /etc: {trusted}")),
        ("/etc/x/{uid}", format!("lies in /etc: {trusted}")),
        ("/usr/local", format!("lies in /usr: {trusted}")),
        ("/dev/shm", format!("lies in /dev: {trusted}")),
        ("/boot", format!("lies in /boot: {trusted}")),
        ("/bin", format!("lies in /bin: {trusted}")),
        ("/lib64/x", format!("lies in /lib64: {trusted}")),
        ("/root", format!("lies in /root: {trusted}")),
        (
            "/proc/1",
            "lies in /proc, where nothing is ever mounted: it grants nothing".into(),
        ),
        (
            "/sys",
            "lies in /sys, where nothing is ever mounted: it grants nothing".into(),
        ),
        (
            "/tmp/{uid}",
            "lies in /tmp, where every user may create, and wait for, the target".into(),
        ),
        (
            "/{uid}",
            "stands in / itself, where a name that a peer fills in may be any of the system's"
                .into(),
        ),
        (
            "/run",
            "is a directory of many services, and a mount can cover the files of each; grant a \
             directory of its own beneath it"
                .into(),
        ),
    ] {
        assert_eq!(
            of_target(root),
            [format!("the target root {root} {warning}")]
        );
    }
    for root in [
        "/etcetera",
        "/run/{uid}",
        "/run/x",
        "/srv/etc",
        "/var/lib/x",
        "/tmpfs",
    ] {
        assert_eq!(of_target(root), [""; 0], "{root}");
    }
}

#[test]
fn source_roots_that_hold_what_decides_are_unwise() {
    for (root, warning) in [
        ("/", "/ is the whole file tree"),
        (
            "/etc",
            "/etc is a place that no mount may cover: it holds the system",
        ),
        ("/srv", "/srv holds /srv/mountwarden/policy.toml"),
        (
            "/srv/mountwarden",
            "/srv/mountwarden holds /srv/mountwarden/policy.toml",
        ),
        (
            "/proc/1",
            "/proc/1 lies in /proc: it shows files of the kernel, not of a disk",
        ),
        (
            "/dev",
            "/dev lies in /dev: it shows files of the kernel, not of a disk",
        ),
    ] {
        assert_eq!(of_source(root), [format!("the source root {warning}")]);
    }
    for root in ["/srv/mountwarden2", "/srv/{uid}", "/etc/x", "/home"] {
        assert_eq!(of_source(root), [""; 0], "{root}");
    }
}

#[test]
fn a_source_root_is_expanded_before_it_is_compared() {
    let mut policy = grant(
        "users = ['qemu']\ntarget = ['/mnt/t']\n[grant.bind]\nsource = ['/run/{uid}/{user}']\n",
    );
    policy.protect(path("/run/1000/qemu/socket"));
    assert_eq!(
        messages(&policy),
        ["the source root /run/1000/qemu holds /run/1000/qemu/socket"]
    );
}

#[test]
fn flags_that_are_not_forced_are_unwise() {
    for (force, count) in [
        ("'nosuid', 'nodev'", 0),
        ("'nodev'", 1),
        ("'nosuid'", 1),
        ("", 2),
        ("'ro', 'noexec'", 2),
    ] {
        let warnings = of_grant(&format!(
            "users = [1]\ntarget = ['/mnt/t']\nforce = [{force}]\n[grant.tmpfs]\nmax_size = 1\n"
        ));
        assert_eq!(warnings.len(), count, "{force}: {warnings:?}");
        assert!(warnings.iter().all(|w| w.starts_with("force lacks no")));
    }
}

#[test]
fn devices_by_the_order_in_which_they_are_found_are_unwise() {
    let of_device = |device: &str| {
        of_grant(&format!(
            "users = ['qemu']\ntarget = ['/run/vms/{{uid}}']\n[grant.block]\n\
             device = ['{device}']\nfilesystems = ['ext4']"
        ))
    };
    for device in ["/dev/*", "/dev/sd*", "/dev/s*a", "/dev/nvme*", "/dev/dm-*"] {
        assert_eq!(
            of_device(device),
            [format!(
                "the device pattern {device} stands for whole disks, the system's own among them; \
                 name the devices of this grant"
            )]
        );
    }
    for device in [
        "/dev/sdb1",
        "/dev/nvme1n1p2",
        "/dev/dm-3",
        "/dev/vdz",
        "/dev/mmcblk1p1",
    ] {
        assert_eq!(
            of_device(device),
            [format!(
                "the device {device} has its name by the order in which the kernel finds devices, \
                 and may be another after the next start; name it as in /dev/disk/by-id or \
                 /dev/mapper"
            )]
        );
    }
    for device in [
        "/dev/vg0/*",
        "/dev/mapper/vm-*",
        "/dev/disk/by-id/*",
        "/dev/nbd0",
        "/dev/data",
    ] {
        assert_eq!(of_device(device), [""; 0], "{device}");
    }
}

#[test]
fn a_fuse_mount_for_others_without_the_kernels_checks_is_unwise() {
    let of_fuse = |more: &str| {
        of_grant(&format!(
            "users = ['qemu']\ntarget = ['/run/vms/{{uid}}']\n[grant.fuse]\n\
             subtypes = ['sshfs']\n{more}"
        ))
    };
    assert_eq!(
        of_fuse("allow_other = true"),
        [
            "allow_other without default_permissions lets a peer's program decide what other users \
          may do on its file system, and see what they do there"
        ]
    );
    for more in [
        "",
        "default_permissions = true",
        "allow_other = true\ndefault_permissions = true",
    ] {
        assert_eq!(of_fuse(more), [""; 0], "{more}");
    }
}

#[test]
fn a_device_that_is_served_to_others_is_unwise() {
    let of_fuse = |more: &str| {
        of_grant(&format!(
            "users = ['qemu']\ntarget = ['/run/vms/{{uid}}']\n[grant.fuse]\n\
             subtypes = ['ntfs-3g']\ndefault_permissions = true\n{more}"
        ))
    };
    assert_eq!(
        of_fuse("device = ['/dev/disk/by-id/a']\nallow_other = true"),
        [
            "device and allow_other in [grant.fuse] let a peer's program hold up the processes of \
             other users, in waits that not even SIGKILL ends; grant them apart"
        ]
    );
    assert_eq!(
        of_fuse("device = ['/dev/sd*']"),
        [
            "the device pattern /dev/sd* stands for whole disks, the system's own among them; name \
             the devices of this grant"
        ]
    );
    for more in ["allow_other = true", "device = ['/dev/disk/by-id/a']"] {
        assert_eq!(of_fuse(more), [""; 0], "{more}");
    }
}

#[test]
fn an_overlay_of_the_whole_tree_or_with_an_upper_layer_is_unwise() {
    let of_overlay = |lines: &str| {
        of_grant(&format!(
            "users = ['qemu']\ntarget = ['/run/vms/{{uid}}']\n[grant.overlay]\n{lines}"
        ))
    };
    assert_eq!(of_overlay("layer = ['/srv/layers']"), [""; 0]);
    assert_eq!(
        of_overlay("layer = ['/']"),
        ["the layer root / is the whole file tree"]
    );
    assert_eq!(
        of_overlay("layer = ['/srv/layers']\nupper = ['/sys/x']"),
        [
            "upper grants nothing yet: no kernel that is known gives an upper layer to a helper \
             that holds CAP_SYS_ADMIN alone",
            "the upper root /sys/x lies in /sys: it shows files of the kernel, not of a disk",
        ]
    );
}

#[test]
fn accounts_that_mean_more_than_one_service_are_unwise() {
    for (subjects, beginnings) in [
        ("users = ['root']", vec!["names user 0: "]),
        ("groups = [0]", vec!["names group 0: "]),
        ("users = [65534]", vec!["names user 65534: "]),
        ("users = [65533]\ngroups = [1]", vec![]),
        (
            "users = [0]\ngroups = ['root']",
            vec!["names user 0: ", "names group 0: "],
        ),
    ] {
        let warnings = of_grant(&format!(
            "{subjects}\ntarget = ['/mnt/{{uid}}']\n[grant.tmpfs]\nmax_size = 1\n"
        ));
        assert_eq!(warnings.len(), beginnings.len(), "{warnings:?}");
        for (warning, beginning) in warnings.iter().zip(beginnings) {
            assert!(warning.starts_with(beginning), "{warning}");
        }
    }
}

#[test]
fn a_target_root_of_several_users_is_unwise() {
    let shared = "the target root /mnt/t is the same for several users, who can unmount each \
                  other's mounts; put {uid} into it";
    for (subjects, root, warnings) in [
        ("users = [1, 2]", "/mnt/t", vec![shared]),
        ("groups = [1]", "/mnt/t", vec![shared]),
        ("users = ['qemu', 1000]", "/mnt/t", vec![]),
        ("users = [1, 2]", "/mnt/{uid}", vec![]),
        ("users = ['qemu', 'ceph']", "/mnt/{user}", vec![]),
    ] {
        assert_eq!(
            of_grant(&format!(
                "{subjects}\ntarget = ['{root}']\n[grant.tmpfs]\nmax_size = 1\n"
            )),
            warnings,
            "{subjects} {root}"
        );
    }
}

fn two_grants(first: &str, second: &str) -> Vec<String> {
    messages(&policy(&format!(
        "version = 1\n[[grant]]\nname = 'a'\n{first}\n[grant.tmpfs]\nmax_size = 1\n\
         [[grant]]\nname = 'b'\n{second}\n[grant.tmpfs]\nmax_size = 1\n"
    )))
}

#[test]
fn target_roots_of_two_grants_for_different_users_should_not_meet() {
    for (one, other, meet) in [
        ("/mnt/t", "/mnt/t", true),
        ("/mnt/t", "/mnt/t/deep", true),
        ("/mnt/t/deep", "/mnt/t", true),
        ("/mnt/t", "/mnt/t/{uid}", true),
        ("/mnt/{uid}", "/mnt", true),
        ("/mnt/{uid}", "/mnt/{uid}", false),
        ("/mnt/t", "/mnt/t2", false),
    ] {
        let warnings = two_grants(
            &format!("users = [1]\ntarget = ['{one}']"),
            &format!("users = [2]\ntarget = ['{other}']"),
        );
        let expected = format!(
            "the target root {other} overlaps one of grant 'a', which is for others: they can \
             unmount each other's mounts"
        );
        assert_eq!(warnings, vec![expected; usize::from(meet)], "{one} {other}");
    }
}

#[test]
fn a_grant_that_says_the_same_as_an_earlier_one_is_unwise() {
    let one = "users = [1]\ntarget = ['/mnt/t']";
    assert_eq!(
        two_grants(one, one),
        ["says the same as the earlier grant 'a' and never decides anything"]
    );
    assert_eq!(
        two_grants(one, &format!("{one}\nshared_target = true")),
        [""; 0]
    );
}

#[test]
fn a_recursive_bind_of_its_own_targets_is_unwise() {
    for (source, target, recursive, unwise) in [
        ("/mnt/t", "/mnt/t", true, true),
        ("/mnt", "/mnt/t", true, true),
        ("/mnt/t/s", "/mnt/t", true, true),
        ("/mnt/{uid}", "/mnt/1/t", true, true),
        ("/mnt", "/mnt/t", false, false),
        ("/mnt/s", "/mnt/t", true, false),
    ] {
        let warnings = of_grant(&format!(
            "users = [1]\ntarget = ['{target}']\n\
             [grant.bind]\nsource = ['{source}']\nrecursive = {recursive}\n"
        ));
        assert_eq!(warnings.len(), usize::from(unwise), "{warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|w| w.contains("the grant is recursive"))
        );
    }
}

#[test]
fn a_shared_propagation_is_warned_of() {
    let with = |words: &str| {
        of_grant(&format!(
            "users = [1000]\ntarget = ['/mnt/t']\npropagation = [{words}]\n\
             [grant.bind]\nsource = ['/srv/images']\n"
        ))
    };
    for (words, count) in [
        ("", 0),
        ("'slave'", 0),
        ("'shared'", 1),
        ("'slave', 'shared'", 1),
    ] {
        let warnings = with(words);
        assert_eq!(warnings.len(), count, "{words}: {warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|text| text.contains("at its source too"))
        );
    }
}

#[test]
fn descriptors_of_what_is_anybodys_are_unwise() {
    let target = "passed_target without target_owner: a peer that is handed a descriptor of \
                  another user's directory can mount over it";
    let source = "passed_source without source_owner: a peer that is handed a descriptor of \
                  another user's file can show it to everyone who reaches the target";
    for (passed, owned, unwise) in [
        (false, false, &[][..]),
        (false, true, &[]),
        (true, true, &[]),
        (true, false, &[target, source]),
    ] {
        let owner = |of: &str| {
            if owned {
                format!("{of}_owner = 'peer'\n")
            } else {
                String::new()
            }
        };
        let warnings = of_grant(&format!(
            "users = [1]\ntarget = ['/mnt/t']\npassed_target = {passed}\n{}\
             [grant.bind]\nsource = ['/srv/s']\npassed_source = {passed}\n{}",
            owner("target"),
            owner("source")
        ));
        assert_eq!(warnings, unwise);
    }
}

#[test]
fn what_is_handed_over_writable_stays_so() {
    for (force, read_only, unwise) in [
        ("'nosuid', 'nodev'", false, true),
        ("'nosuid', 'nodev'", true, false),
        ("'nosuid', 'nodev', 'ro'", false, false),
    ] {
        let warnings = of_grant(&format!(
            "users = [1]\ntarget = ['/mnt/t']\nforce = [{force}]\ndetached = true\n\
             [grant.bind]\nsource = ['/srv/s']\nread_only = {read_only}\n"
        ));
        let words = "also after this grant has gone";
        assert_eq!(warnings.iter().any(|text| text.contains(words)), unwise);
        assert_eq!(warnings.len(), usize::from(unwise), "{warnings:?}");
    }
}

#[test]
fn roots_files_that_others_write_are_unwise() {
    for (uids, gids, read_only, what) in [
        ("0:100000:65536", "1:1:1", false, &["users"][..]),
        ("1:1:1", "0:peer:1", false, &["groups"]),
        ("0:peer:1", "0:peer:1", false, &["users", "groups"]),
        ("0:peer:1", "0:peer:1", true, &[]),
        ("1:0:1", "1:0:1", false, &[]),
    ] {
        let warnings = of_grant(&format!(
            "users = [1]\ntarget = ['/mnt/t']\n[grant.bind]\nsource = ['/srv/s']\n\
             read_only = {read_only}\nidmap = {{ uids = ['{uids}'], gids = ['{gids}'] }}\n"
        ));
        let expected = what.iter().map(|what| {
            format!(
                "idmap maps 0 of the {what} without read_only: whoever is mapped to it can leave \
                 root's files behind on the source, also programs that run as root; let nobody \
                 else reach the source"
            )
        });
        assert_eq!(warnings, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_server_that_a_peer_may_choose_is_unwise() {
    let of_network = |source: &str, option: &str| {
        of_grant(&format!(
            "users = ['qemu']\ntarget = ['/run/vms/{{uid}}']\n[grant.network]\n\
             source = ['{source}']\nfilesystems = ['nfs4']\noptions = ['{option}']"
        ))
    };
    for (source, option, warning) in [
        (
            "s:/a",
            "addr=*",
            "the option addr=* lets a peer choose the server, whatever its source says; give the \
             address",
        ),
        (
            "s:/a",
            "uid=*",
            "the option uid=* lets a peer say who owns the files; give the number",
        ),
        (
            "*:/a",
            "soft",
            "the source pattern stands for every server there is, and the kernel will parse what \
             they answer; name the servers of this grant",
        ),
    ] {
        assert_eq!(of_network(source, option), [warning]);
    }
    for (source, option) in [("s:/a", "addr=192.0.2.7"), ("s*:/a", "timeo=*")] {
        assert_eq!(of_network(source, option), [""; 0]);
    }
}

/// What is moved must be read-only only where every kind of the grant is.
#[test]
fn a_move_beside_kinds_that_differ_is_warned_of() {
    let of = |more: &str, kinds: &str| {
        of_grant(&format!(
            "users = [1]\ntarget = ['/mnt/t']\n{more}\n[grant.bind]\nsource = ['/srv/a']\n\
             read_only = true\n{kinds}"
        ))
    };
    let tmpfs = "[grant.tmpfs]\nmax_size = 1\n";
    let warned = of("move = true", tmpfs);
    assert_eq!(
        warned,
        [
            "move with kinds of which only some are read-only: a mount that somebody else made \
             beneath the target roots can be moved there although it can be written through; put \
             ro into force, or grant the kinds apart"
        ]
    );
    let forced = "move = true\nforce = ['nosuid', 'nodev', 'ro']";
    for (more, kinds) in [("move = true", ""), ("", tmpfs), (forced, tmpfs)] {
        assert!(of(more, kinds).is_empty(), "{more} {kinds}");
    }
}

#[test]
fn a_loop_device_of_images_is_nobodys_to_mount() {
    let of = |device: &str| {
        let text = format!(
            "version = 1\n[[grant]]\nname = 'a'\nusers = [1000]\ntarget = ['/mnt/a']\n[grant.block]\n\
             device = ['{device}']\nfilesystems = ['ext4']\n[[grant]]\nname = 'b'\nusers = [1001]\n\
             target = ['/mnt/b']\n[grant.image]\nfile = ['/srv/images']\nfilesystems = ['squashfs']\n\
             loop_devices = {{ first = 8, count = 3 }}\n"
        );
        messages(&policy(&text))
    };
    assert_eq!(of("/dev/mapper/a"), Vec::<String>::new());
    for device in ["/dev/loop10", "/dev/loop*"] {
        let wanted = format!(
            "the device pattern {device} stands for loop devices of the grant 'b', whose images \
             could be mounted by it"
        );
        assert!(of(device).contains(&wanted), "{:?}", of(device));
    }
    assert!(!of("/dev/loop11").iter().any(|line| line.contains("images")));
}

#[test]
fn squashfs_takes_a_device() {
    let of = |rest: &str| {
        of_grant(&format!(
            "users = [1000]\ntarget = ['/mnt/t']\n[grant.image]\nfile = ['/srv/images']\n{rest}"
        ))
    };
    let devices = "filesystems = ['squashfs']\nloop_devices = { first = 100, count = 8 }";
    for wise in ["filesystems = ['erofs']", devices] {
        assert_eq!(of(wise), Vec::<String>::new());
    }
    assert_eq!(
        of("filesystems = ['erofs', 'squashfs']"),
        [
            "squashfs grants nothing: no kernel that is known reads it from a file; give the grant \
             loop_devices"
        ]
    );
}
