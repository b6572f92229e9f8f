//! Places that no mount covers, each beside a place that a mount may cover.

use mountwarden_protocol::DenyReason;

use crate::support::{denied, grant, path, peer, tmpfs, unmount};

#[test]
fn attack_08_protected_places_are_refused_whatever_is_granted() {
    let mut policy = grant(
        "users = [1000]\n\
         target = ['/etc', '/proc', '/sys', '/dev', '/run', '/usr']\n\
         [grant.tmpfs]\nmax_size = 1\n",
    );
    policy.protect(path("/etc/mountwarden/policy.toml"));
    policy.protect(path("/run/mountwarden/socket"));
    for (refused, nearest) in [
        (
            "/etc/mountwarden/policy.toml",
            "/etc/mountwarden/policy.tom",
        ),
        ("/etc/mountwarden", "/etc/mountwarde"),
        ("/run/mountwarden/socket", "/run/mountwarden/socket/x"),
        ("/run/mountwarden", "/run/mountwarden2"),
        ("/run", "/run/mount"),
        ("/proc/1/root", "/run/proc"),
        ("/sys/fs/cgroup", "/dev/cgroup"),
        ("/", "/usr/x"),
        ("/proc", "/etc/proc"),
        ("/sys", "/etc/sys"),
        ("/dev", "/dev/x"),
        ("/etc", "/etc/x"),
        ("/usr", "/usr/local"),
        ("/bin", "/usr/bin"),
        ("/sbin", "/usr/sbin"),
        ("/lib", "/usr/lib"),
        ("/lib32", "/usr/lib32"),
        ("/lib64", "/usr/lib64"),
        ("/libx32", "/usr/libx32"),
        ("/boot", "/usr/boot"),
    ] {
        for operation in [tmpfs(None, None, refused), unmount(refused)] {
            let denial = denied(&policy, &peer(1000), &operation);
            assert_eq!(denial.reason, DenyReason::TargetProtected, "{refused}");
            assert_eq!(denial.path, path(refused));
        }
        for operation in [tmpfs(None, None, nearest), unmount(nearest)] {
            let verdict = policy.judge(&peer(1000), &operation);
            assert_eq!(verdict.grant(), Some("g"), "{nearest}");
        }
    }
}

#[test]
fn attack_08_names_that_only_begin_like_a_protected_place_are_not_protected() {
    let policy = grant("users = [1000]\ntarget = ['/t']\n[grant.tmpfs]\nmax_size = 1\n");
    for target in [
        "/etcetera",
        "/procs/1",
        "/sysroot/a",
        "/devel",
        "/home",
        "/run",
    ] {
        let denial = denied(&policy, &peer(1000), &unmount(target));
        assert_eq!(denial.reason, DenyReason::TargetNotGranted, "{target}");
    }
}

#[test]
fn attack_08_a_user_called_like_a_system_directory_gets_no_system_directory() {
    let policy = grant("users = ['proc']\ntarget = ['/{user}']\n[grant.tmpfs]\nmax_size = 1\n");
    let denial = denied(&policy, &peer(1004), &tmpfs(None, None, "/proc/x"));
    assert_eq!(denial.reason, DenyReason::TargetProtected);
}
