//! What a session in the hands of an attacker may not do with the right descriptors.

use std::path::PathBuf;

use mountwarden_client::protocol::Operation;
use mountwarden_client::{Bind, DenyReason, Tmpfs, TmpfsInodes, TmpfsSize, Unmount};

use crate::Skip;
use crate::daemon::Daemon;
use crate::honest::{Honest, borrowed, directory, mounted, unmounted};
use crate::hostile::HostileSession;
use crate::kernel;
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};

/// There is nothing in an order that says who asks: whatever is granted to others,
/// also by `{uid}`, is denied to the user whom the kernel named.
pub(crate) fn attack_26_what_others_are_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    let uid = nix::unistd::geteuid();
    let own = POLICY
        .replace(", 4001, 4002", "")
        .replace("/mnt", "/mnt/{uid}");
    let others = own
        .replace("@UID@", "4001")
        .replace("\"test\"", "\"alice\"");
    let others = others
        .replace("mnt/{uid}", "mnt/alice")
        .replace("/src", "/alice");
    sandbox.policy(&format!("{own}{}", others.replace("version = 1", "")));
    for name in [
        "mnt/alice/x",
        "mnt/4001/x",
        "alice/data",
        &format!("mnt/{uid}/x"),
    ] {
        sandbox.make_dir(name);
    }
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let place = |name: &str| sandbox.path(name);
    mount_tmpfs(&place("mnt/alice/x"));
    let (ours, data) = (place(&format!("mnt/{uid}/x")), place("src/data"));
    let target = DenyReason::TargetNotGranted;
    let denied = [
        (Honest::tmpfs(&place("mnt/alice/x")), target),
        (Honest::tmpfs(&place("mnt/4001/x")), target),
        (Honest::bind(&data, &place("mnt/alice/x")), target),
        (
            Honest::bind(&place("alice/data"), &ours),
            DenyReason::SourceNotGranted,
        ),
        (
            Honest::unmount(&place("mnt/alice/x"), |unmount| unmount),
            target,
        ),
        (
            Honest::unmount(&place("mnt/alice/x"), Unmount::lazy),
            target,
        ),
    ];
    for (order, reason) in denied {
        let files = order.files();
        let error = hostile.refused(&daemon, &order.operation, &borrowed(&files))?;
        assert_eq!(error.reason, Some(reason), "{error:?}");
        assert_eq!(daemon.last_audit()["uid"], uid.as_raw());
    }
    mounted(Honest::bind(&data, &ours).perform(&hostile));
    unmounted(Honest::unmount(&ours, |unmount| unmount).perform(&hostile));
    mounted(Honest::tmpfs(&ours).perform(&hostile));
    Ok(())
}

/// Nor is there anything in it that makes a mount freer than its grant.
pub(crate) fn attack_26_never_freer_than_the_grant(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(
        &POLICY
            .replace("\"@DIR@/mnt\"", "\"@DIR@\", \"/usr\", \"/etc\"")
            .replace("recursive = true", "read_only = true"),
    );
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let (a, b, data) = ["mnt/a", "mnt/b", "src/data"]
        .map(|name| sandbox.path(name))
        .into();
    let tmpfs = |change: fn(Tmpfs) -> Tmpfs| Operation::from(change(Tmpfs::new(&a).unwrap()));
    let bind = |change: fn(Bind) -> Bind| Operation::from(change(Bind::new(&data, &b).unwrap()));
    let most = i64::MAX.unsigned_abs();
    let size = |size: u64| {
        let size = TmpfsSize::try_from(size).unwrap();
        Operation::from(Tmpfs::new(&a).unwrap().size(size))
    };
    let inodes = |inodes: u64| {
        let inodes = TmpfsInodes::try_from(inodes).unwrap();
        Operation::from(Tmpfs::new(&a).unwrap().inodes(inodes))
    };
    let mut denied = vec![
        (tmpfs(Tmpfs::suid), DenyReason::SuidNotGranted),
        (tmpfs(Tmpfs::dev), DenyReason::DevNotGranted),
        (bind(Bind::suid), DenyReason::SuidNotGranted),
        (bind(Bind::dev), DenyReason::DevNotGranted),
        (bind(Bind::recursive), DenyReason::RecursiveNotGranted),
        (size((16 << 20) + 1), DenyReason::SizeAboveMaximum),
        (size(most), DenyReason::SizeAboveMaximum),
        (inodes(1025), DenyReason::InodesAboveMaximum),
        (inodes(most), DenyReason::InodesAboveMaximum),
    ];
    let protected = ["policy.toml", "run", "run/sock"].map(|name| sandbox.path(name));
    let built_in = ["/", "/etc", "/proc", "/proc/self", "/sys", "/dev", "/usr"].map(PathBuf::from);
    for place in protected.iter().chain(&built_in) {
        let reason = DenyReason::TargetProtected;
        denied.push((Tmpfs::new(place).unwrap().into(), reason));
        denied.push((Bind::new(&data, place).unwrap().into(), reason));
        denied.push((Unmount::new(place).unwrap().lazy().into(), reason));
    }
    let files = [sandbox.path("mnt"), a.clone(), data.clone()].map(directory);
    for (operation, reason) in denied {
        let error = hostile.refused(&daemon, &operation, &borrowed(&files))?;
        assert_eq!(error.reason, Some(reason), "{operation:?}: {error:?}");
    }
    // The nearest that is allowed, with the flags that it must have.
    let made = mounted(
        hostile
            .channel
            .perform(&size(16 << 20), &borrowed(&files[..2])),
    );
    let forced = kernel::NOSUID | kernel::NODEV;
    let bits = |id| kernel::statmount(id).attributes & kernel::RESTRICTIONS;
    assert_eq!(bits(made.mount.id), forced);
    let made = mounted(Honest::bind(&data, &b).perform(&hostile));
    assert_eq!(bits(made.mount.id), forced | kernel::RDONLY);
    Ok(())
}
