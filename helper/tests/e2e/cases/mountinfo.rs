//! The mount table where the kernel has no call to ask it: the same cases, in a
//! process tree that `statmount(2)` and `listmount(2)` are hidden from, as an older
//! kernel or a container's filter does; and both sources side by side.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use mountwarden_client::{ErrorKind, Tmpfs};
use mountwarden_helper::raw::{self, Ids, MountStatus};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::Skip;
use crate::daemon::{Daemon, outcome};
use crate::kernel::{self, RESTRICTIONS};
use crate::sandbox::{Sandbox, mount_tmpfs};

/// Hides both calls from this process and all that it starts.
fn hide_calls() {
    // `statmount` and `listmount`, for which libc has no names yet.
    let calls = [457, 458].map(|call| (call, Vec::new()));
    let filter = SeccompFilter::new(
        BTreeMap::from(calls),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        TargetArch::try_from(std::env::consts::ARCH).unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    assert_eq!(raw::status_of_mount(0), Err(Errno::ENOSYS));
}

/// The same cases, without the calls. Where the kernel lacks them, the cases
/// themselves are these.
macro_rules! again {
    ($($module:ident::$name:ident)+) => { $(
        pub(crate) fn $name(sandbox: &Sandbox) -> Result<(), Skip> {
            kernel::needs_unique_ids()?;
            hide_calls();
            super::$module::$name(sandbox)
        }
    )+ };
}

again! {
    mounting::bind_directory
    mounting::bind_file
    mounting::attack_09_recursive_only_where_granted
    mounting::attack_11_private_unless_granted
    mounting::attack_12_busy_for_another_mount
    mounting::attack_19_flags_are_the_kernels
    mounting::already_mounted_is_the_same_mount
    mounting::concurrent_requests_make_one_mount
    tmpfs::has_its_limits_and_owner
    unmounting::busy_then_lazy
    unmounting::by_id
    remounting::attack_16_what_others_put_there_stays
    remounting::attack_31_dead_and_hung_file_systems
    moving::it_keeps_all_but_its_place
    moving::refusals
    moving_attacks::attack_03_target_renamed_while_moving
    propagating::attack_11_a_slave_receives_and_does_not_send
    propagating::shared_goes_both_ways
    unmounting::topmost_of_a_stack
    asking::list_is_the_peers_own
    asking::list_goes_over_pages
    asking::status_says_what_confines
    paths::attack_33_control_bytes
    between::attack_05_source_mount_detached
    between::attack_03_target_renamed_while_attaching
    between::attack_11_shared_while_attaching
    between::attack_31_a_private_file_system
    identity::attack_26_other_users_grants
    passed::beneath_a_private_directory
    probes::alive_and_absent
    passed::attack_12_covered_since_it_was_opened
    contending::attack_12_one_at_a_time
    limits::mounts_per_user
    pace::walks_of_the_table_count
    restart::attack_32_restart_with_live_mounts
    confinement::processes_are_confined
    confinement::attack_28_tables_are_printed
    hostile_orders::attack_05_every_descriptor_in_every_place
    detached::a_directory_and_a_file
    detached_attacks::attack_35_flags_cannot_be_cleared
    idmaps::owners_are_mapped
    idmaps::the_same_again_is_busy
}

/// It says so when it starts, and each half's tables hold just what it needs.
/// Without unique ids another mount could be ended in its stead.
pub(crate) fn a_lease_takes_unique_ids(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    hide_calls();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let tmpfs = || Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let error = kernel::unchanged(|| client.mount(tmpfs().leased()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("no unique ids"), "{error}");
    client.mount(tmpfs()).unwrap();
    Ok(())
}

pub(crate) fn says_what_serves(sandbox: &Sandbox) -> Result<(), Skip> {
    let tables = || {
        let mut command = std::process::Command::new(sandbox.helper());
        let (status, text, _) = outcome(command.args(["confinement", "--json"]));
        assert_eq!(status, 0);
        let data: serde_json::Value = serde_json::from_str(&text).unwrap();
        let roles: Vec<String> = data["roles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|role| role["calls"].to_string())
            .collect();
        let roles: [String; 5] = roles.try_into().unwrap();
        roles.map(|calls| {
            [
                r#""call":"statmount""#,
                r#""call":"listmount""#,
                r#""call":"pread64""#,
                r#""pinned":"/proc/self/mountinfo""#,
            ]
            .map(|text| calls.contains(text))
        })
    };
    if kernel::needs_unique_ids().is_ok() {
        let (none, calls) = ([false; 4], [true, true, false, false]);
        assert_eq!(tables(), [calls, calls, calls, calls, none]);
        let daemon = Daemon::start(sandbox);
        assert!(daemon.log().contains("mount table from statmount"));
        drop(daemon);
    }
    hide_calls();
    // A session that could read would read what is granted to its peer.
    let (warden, mounter) = ([false, false, true, true], [false, false, true, false]);
    let none = [false; 4];
    assert_eq!(tables(), [none, none, warden, mounter, none]);
    let daemon = Daemon::start(sandbox);
    assert!(daemon.log().contains("mount table from mountinfo"));
    Ok(())
}

/// A path that is no text, or longer than any request, spoils nobody's answers.
pub(crate) fn odd_paths_are_nobody_elses_trouble(sandbox: &Sandbox) -> Result<(), Skip> {
    hide_calls();
    let odd = sandbox
        .make_dir("mnt/odd")
        .join(OsStr::from_bytes(b"\xff\xfe \n\\040\t#"));
    fs::create_dir(&odd).unwrap();
    mount_tmpfs(&odd);
    mount_far_below(&sandbox.path("mnt"));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let made = client.mount(Tmpfs::new(&target).unwrap()).unwrap();
    let listed = client.list().unwrap();
    assert!(listed.contains(&made.mount), "{listed:?}");
    assert!(listed.iter().any(|mount| mount.target.as_path() == odd));
    client.unmount(&made).unwrap();
    Ok(())
}

/// Puts a mount beneath `above` at a path that is longer than `PATH_MAX`: the tree
/// grows at its top, where every path is short.
fn mount_far_below(above: &Path) {
    let (top, next) = (above.join("top"), above.join("next"));
    fs::create_dir_all(top.join("leaf")).unwrap();
    mount_tmpfs(&top.join("leaf"));
    for _ in 0..20 {
        fs::create_dir(&next).unwrap();
        fs::rename(&top, next.join("n".repeat(250))).unwrap();
        fs::rename(&next, &top).unwrap();
    }
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let longest = table.split(|&byte| byte == b'\n').map(<[u8]>::len).max();
    assert!(longest.unwrap() > 5000);
}

/// Names of every byte that a name may have, a thousand in all.
fn odd_names() -> Vec<Vec<u8>> {
    let bytes = || (1..=255).filter(|&byte| byte != b'/');
    let pairs = |after: &[u8]| {
        bytes()
            .map(|byte| [b"x", &[byte], after].concat())
            .collect()
    };
    let mut names: Vec<Vec<u8>> = pairs(b"");
    names.append(&mut pairs(b"\\040"));
    names.append(&mut pairs(b" - tmpfs"));
    names.append(&mut pairs(b"\n1 1 0:1 - rw"));
    names
}

/// Both sources say the same of a thousand mounts at odd places.
pub(crate) fn agrees_with_statmount(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let base = sandbox.make_dir("odd");
    let flags = [
        MsFlags::empty(),
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID,
        MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    ];
    let spread = [
        MsFlags::MS_PRIVATE,
        MsFlags::MS_SHARED,
        MsFlags::MS_UNBINDABLE,
    ];
    let file = kernel::mountinfo();
    for (index, name) in odd_names().iter().enumerate() {
        let place = base.join(OsStr::from_bytes(name));
        fs::create_dir(&place).unwrap();
        let none = None::<&str>;
        if index % 2 == 0 {
            mount(Some("t"), &place, Some("tmpfs"), flags[index % 4], none).unwrap();
        } else {
            // What it shows of its file system has an odd name too.
            mount(Some(&place), &place, none, MsFlags::MS_BIND, none).unwrap();
        }
        mount(none, &place, none, spread[index % 3], none).unwrap();
        let opened = File::open(&place).unwrap();
        let id = |ids| raw::status(opened.as_fd(), ids).unwrap().mount;
        let by_call = raw::status_of_mount(id(Ids::Unique)).unwrap();
        let by_file = file.status_of_mount(id(Ids::Short)).unwrap();
        assert_eq!(by_call.short_id, by_file.id);
        assert_eq!(told(&by_file), told(&by_call), "{}", place.display());
        assert_eq!(by_file.point, place.as_os_str().as_bytes());
    }
    Ok(())
}

/// What both sources tell of a mount.
fn told(mount: &MountStatus) -> MountStatus {
    MountStatus {
        id: 0,
        parent: 0,
        attributes: mount.attributes & RESTRICTIONS,
        ..mount.clone()
    }
}

/// While others mount and unmount without an end, a mount that stays is found each
/// time, and is in each list once.
pub(crate) fn holds_while_the_table_changes(sandbox: &Sandbox) -> Result<(), Skip> {
    let stays: Vec<_> = (0..60)
        .map(|n| {
            let place = sandbox.make_dir(&format!("stays/{n}"));
            mount_tmpfs(&place);
            let opened = File::open(&place).unwrap();
            let id = raw::status(opened.as_fd(), Ids::Short).unwrap().mount;
            (id, place)
        })
        .collect();
    let changing: Vec<_> = (0..20)
        .map(|n| sandbox.make_dir(&format!("changing/{n}-{}", "x".repeat(200))))
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for place in &changing {
                    mount_tmpfs(place);
                }
                for place in &changing {
                    umount2(place, MntFlags::MNT_DETACH).unwrap();
                }
            }
        });
        let _stop = Stop(&done);
        let file = kernel::mountinfo();
        for round in 0..500 {
            let (id, place) = &stays[round % stays.len()];
            let status = file.status_of_mount(*id).unwrap();
            assert_eq!(status.point, place.as_os_str().as_bytes());
            let mut seen = Vec::new();
            let visit = |mount: &MountStatus| {
                seen.push(mount.id);
                ControlFlow::Continue(())
            };
            file.walk(u64::MAX, 0, visit).unwrap();
            for (id, place) in &stays {
                let count = seen.iter().filter(|&seen| seen == id).count();
                assert_eq!(count, 1, "{}", place.display());
            }
        }
    });
    Ok(())
}

/// The id of a mount that was unmounted is soon another mount's, elsewhere: that is
/// not taken for a mount that is there still.
pub(crate) fn an_id_is_given_away(sandbox: &Sandbox) -> Result<(), Skip> {
    hide_calls();
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let elsewhere = sandbox.make_dir("elsewhere");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                mount_tmpfs(&elsewhere);
                umount2(&elsewhere, MntFlags::MNT_DETACH).unwrap();
            }
        });
        let _stop = Stop(&done);
        for _ in 0..300 {
            let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
            let made = client.mount(tmpfs).unwrap();
            client.unmount(&made).unwrap();
        }
    });
    Ok(())
}

/// Tells a thread to end when this ends, also by a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
