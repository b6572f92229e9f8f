//! Attacks by identity.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::daemon::{Daemon, outcome};
use crate::kernel::unchanged;
use crate::sandbox::{ALICE, BOB, Sandbox};
use crate::{Skip, roles};

const TWO_USERS: &str = r#"
version = 1
[[grant]]
name = "each their own"
users = [4001, 4002]
target = ["@DIR@/mnt/{uid}"]
  [grant.tmpfs]
  max_size = "1MiB"
[[grant]]
name = "a group"
groups = [5001]
target = ["@DIR@/mnt/group"]
  [grant.tmpfs]
  max_size = "1MiB"
"#;

fn two_users(sandbox: &Sandbox) {
    for place in ["4001/x", "4002/x", "group/x"] {
        sandbox.make_dir(&format!("mnt/{place}"));
        let (parent, _) = place.split_once('/').unwrap();
        sandbox.make_dir(&format!("mnt/{parent}"));
    }
    sandbox.policy(TWO_USERS);
}

/// Alice's process connects and ends; Bob's process holds the connection, and
/// it is still Alice's. A pid, which by then may be anybody's, plays no part.
pub(crate) fn attack_24_identity_is_of_the_connection(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    two_users(sandbox);
    let daemon = Daemon::start(sandbox);
    let mut command = roles::command(sandbox, "connect");
    command
        .arg(&daemon.socket)
        .args([ALICE.to_string(), BOB.to_string()]);
    command
        .arg(sandbox.path("mnt/4002/x"))
        .arg(sandbox.path("mnt/4001/x"));
    let (status, said, errors) = outcome(&mut command);
    assert_eq!(status, 0, "{errors}");
    assert_eq!(said, "running as 4002\nserved as 4001\ndenied\nmounted\n");
    assert_eq!(daemon.last_audit()["uid"], ALICE);
    Ok(())
}

pub(crate) fn attack_25_groups_at_connect(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    two_users(sandbox);
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/group/x");
    let mount_as = |groups: &[u32]| {
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        let mut command = roles::command(sandbox, "as");
        command.args(["4003", "4003", &groups.join(",")]);
        command.arg(sandbox.path("bin/mountwarden"));
        command
            .arg("--socket")
            .arg(&daemon.socket)
            .args(["mount", "tmpfs"])
            .arg(&target);
        command.env_remove(crate::CASE);
        outcome(&mut command)
    };
    let (status, _, error) = unchanged(|| mount_as(&[5002]));
    assert_eq!(status, 3, "{error}");
    assert_eq!(daemon.last_audit()["reason"], "no-grant");
    let (status, _, error) = mount_as(&[5001]);
    assert_eq!(status, 0, "a supplementary group is enough: {error}");
    assert_eq!(daemon.last_audit()["uid"], 4003);
    // As many as a user of a large directory service has, that one the last.
    let many: Vec<u32> = (4900..=5001).collect();
    let (status, said, error) = mount_as(&many);
    assert_eq!(status, 0, "{error}");
    assert!(said.contains("Already mounted"), "{said}");
    Ok(())
}

/// A helper in a user namespace that has only Alice; its directory.
fn in_alices_namespace(sandbox: &Sandbox, policy: &str) -> (Daemon, PathBuf) {
    let own = sandbox.make_dir("own");
    for name in ["own/user/x", "own/group/x", "own/run"] {
        sandbox.make_dir(name);
    }
    sandbox.policy(
        &policy
            .replace("@DIR@/mnt/{uid}", "@DIR@/own/user")
            .replace("@DIR@/mnt/group", "@DIR@/own/group"),
    );
    for name in ["own", "own/run", "policy.toml"] {
        std::os::unix::fs::chown(sandbox.path(name), Some(ALICE), Some(ALICE)).unwrap();
    }
    let mut helper = Command::new(sandbox.helper());
    helper.args(["serve", "--userns", "--policy"]);
    helper.arg(sandbox.path("policy.toml"));
    helper.arg("--socket").arg(own.join("run/sock"));
    helper.uid(ALICE).gid(ALICE).stdin(Stdio::null());
    (Daemon::start_with(sandbox, helper), own)
}

/// In the helper's user namespace, a user without a mapping has the number that
/// stands for all of them, and is refused whatever is granted to that number.
pub(crate) fn attack_24_unmapped_users_are_nobody(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let policy = TWO_USERS.replace("4001, 4002", "4001, 65534");
    let (daemon, own) = in_alices_namespace(sandbox, &policy);
    let explain = |uid: u32| {
        let mut command = daemon.cli_as(uid);
        command.arg("--socket").arg(own.join("run/sock"));
        command.args(["explain", "mount", "tmpfs"]);
        outcome(command.arg(own.join("user/x")))
    };
    let (status, said, error) = explain(ALICE);
    assert_eq!(status, 0, "{said}{error}");
    let (status, said, error) = explain(BOB);
    assert_eq!(status, 3, "{said}{error}");
    let why = "the client's user has no name in the helper's user namespace";
    assert!(error.contains(why), "{said}{error}");
    Ok(())
}

/// In the helper's user namespace, a group without a mapping has the number that
/// stands for all of them (`user_namespaces(7)`), and is nobody's group.
pub(crate) fn attack_25_unmapped_groups_are_nobodys(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    let policy = TWO_USERS
        .replace("4001, 4002", "4001")
        .replace("5001", "65534");
    let (_daemon, own) = in_alices_namespace(sandbox, &policy);
    let explain = |target: &str| {
        let mut command = roles::command(sandbox, "as");
        command.args(["4001", "4001", "5001"]);
        command.arg(sandbox.path("bin/mountwarden"));
        command.arg("--socket").arg(own.join("run/sock"));
        command.args(["explain", "mount", "tmpfs"]);
        outcome(command.arg(own.join(target)).env_remove(crate::CASE))
    };
    let (status, said, error) = explain("user/x");
    assert_eq!(status, 0, "{said}{error}");
    let (status, said, error) = explain("group/x");
    assert_eq!(status, 3, "{said}{error}");
    assert!(
        format!("{said}{error}").contains("target-not-granted"),
        "{said}{error}"
    );
    Ok(())
}

pub(crate) fn attack_26_other_users_grants(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    two_users(sandbox);
    let daemon = Daemon::start(sandbox);
    let run = |uid: u32, arguments: &[&str], place: u32| {
        let mut command = daemon.cli_as(uid);
        command
            .args(arguments)
            .arg(sandbox.path(&format!("mnt/{place}/x")));
        outcome(&mut command)
    };
    assert_eq!(run(ALICE, &["mount", "tmpfs"], ALICE).0, 0);
    unchanged(|| {
        assert_eq!(
            run(BOB, &["mount", "tmpfs"], ALICE).0,
            3,
            "Bob mounts at Alice's"
        );
        assert_eq!(run(BOB, &["unmount"], ALICE).0, 3, "Bob unmounts Alice's");
        let (status, list, _) = outcome(daemon.cli_as(BOB).args(["--json", "list"]));
        assert_eq!((status, list.trim()), (0, "[]"), "Bob does not see Alice's");
    });
    assert_eq!(run(ALICE, &["unmount"], ALICE).0, 0);
    Ok(())
}
