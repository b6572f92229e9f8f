//! Volumes on mounts of the helper's own.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use super::images::{OnDisk, image};
use crate::Skip;
use crate::devices::Disk;
use crate::keeper::Keeper;
use crate::kernel::{self, unchanged};
use crate::sandbox::{Sandbox, mount_tmpfs};

const POLICY: &str = r#"
version = 1

[[grant]]
name = "volumes"
users = [@USER@]
target_owner = "peer"
target = ["@DIR@/vol"]
  [grant.bind]
  source = ["@DIR@/src"]
  [grant.block]
  device = ["@DEVICE@"]
  filesystems = ["ext4"]
  [grant.image]
  file = ["@DIR@/images"]
  filesystems = ["erofs"]
"#;

/// A volume of the name `file`, which is a file in it.
fn keeper<'s>(sandbox: &'s Sandbox, device: &Path, kind: &str) -> Result<Keeper<'s>, Skip> {
    let policy = POLICY.replace("@DEVICE@", device.to_str().unwrap());
    let keeper = Keeper::judged_by(sandbox, &policy)?;
    let volume = format!("[[volume]]\nname = \"file\"\nnoexec = true\n{kind}\n");
    keeper.file(&format!("base = \"@DIR@/vol\"\n{volume}"));
    Ok(keeper)
}

/// From absent to absent. Gives the place.
fn lives(keeper: &Keeper<'_>, kind: &str, content: &str) {
    let (connect, disconnect) = (["connect", "file"], ["disconnect", "file"]);
    let (status, absent) = unchanged(|| keeper.ask(&["validate", "file"]));
    assert_eq!(
        (status, &absent["state"]),
        (5, &json!("absent")),
        "{absent}"
    );
    let made = keeper.done(&connect);
    assert_eq!(
        (&made["outcome"], &made["uses"]),
        (&json!("mounted"), &json!(1))
    );
    let target = Path::new(made["target"].as_str().unwrap());
    let line = kernel::only(target);
    assert_eq!(line.filesystem, kind);
    assert!(line.options.contains("nosuid,nodev,noexec"), "{line:?}");
    let device = Path::new(made["device"].as_str().unwrap());
    assert_eq!(std::fs::read_to_string(device).unwrap(), content);
    let again = unchanged(|| keeper.done(&["connect", "file", "--use", "vm-2"]));
    assert_eq!(
        (&again["outcome"], &again["uses"]),
        (&json!("already-good"), &json!(2))
    );
    assert_eq!(again["id"], made["id"]);
    let good = unchanged(|| keeper.done(&["validate", "file"]));
    assert_eq!(
        (&good["state"], &good["type"]),
        (&json!("good"), &json!(kind))
    );
    let left = unchanged(|| keeper.done(&["disconnect", "file", "--use", "vm-2"]));
    assert_eq!(
        (&left["outcome"], &left["uses"]),
        (&json!("still-used"), &json!(1))
    );
    let ended = keeper.done(&disconnect);
    assert_eq!(
        (&ended["outcome"], &ended["warning"]),
        (&json!("unmounted"), &Value::Null)
    );
    assert_eq!(kernel::at(target), []);
    // What another has put there.
    mount_tmpfs(target);
    for words in [connect, disconnect] {
        let (status, error) = keeper.refused(&words);
        assert_eq!((status, &error["code"]), (4, &json!("foreign")), "{error}");
    }
    umount2(target, MntFlags::empty()).unwrap();
}

/// What a bind is told by is what it shows.
pub(crate) fn a_bind(sandbox: &Sandbox) -> Result<(), Skip> {
    let kind = r#"bind = { source = "@DIR@/src/data" }"#;
    let keeper = keeper(sandbox, Path::new("/dev/null"), kind)?;
    lives(&keeper, "tmpfs", "data");
    let made = keeper.done(&["connect", "file"]);
    let target = Path::new(made["target"].as_str().unwrap());
    keeper.done(&["disconnect", "file"]);
    let (other, nothing) = (sandbox.path("src/other"), None::<&str>);
    mount(Some(&other), target, nothing, MsFlags::MS_BIND, nothing).unwrap();
    let (status, error) = keeper.refused(&["connect", "file"]);
    assert_eq!((status, &error["code"]), (4, &json!("foreign")), "{error}");
    umount2(target, MntFlags::empty()).unwrap();
    // What is not granted is the helper's answer, with its reason.
    keeper.file(
        "base = \"@DIR@/vol\"\n[[volume]]\nname = \"passwd\"\nbind = { source = \"/etc\" }\n",
    );
    let (status, error) = keeper.refused(&["connect", "passwd"]);
    assert_eq!(
        (status, &error["reason"]),
        (3, &json!("source-not-granted")),
        "{error}"
    );
    let (_, found) = keeper.ask(&["validate", "passwd"]);
    assert_eq!(found["uses"], 0);
    Ok(())
}

pub(crate) fn a_device(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_devices()?;
    let disk = Disk::make(sandbox, "disk", "ext4")?;
    let place = sandbox.make_dir("filled");
    let nothing = None::<&str>;
    mount(
        Some(disk.path()),
        &place,
        Some("ext4"),
        MsFlags::empty(),
        nothing,
    )
    .unwrap();
    std::fs::write(place.join("file"), "on a disk").unwrap();
    umount2(&place, MntFlags::empty()).unwrap();
    let device = disk.path().display().to_string();
    let kind = format!("block = {{ device = \"{device}\", type = \"ext4\" }}");
    let keeper = keeper(sandbox, disk.path(), &kind)?;
    lives(&keeper, "ext4", "on a disk");
    // Another disk of the same type.
    let made = keeper.done(&["connect", "file"]);
    let target = Path::new(made["target"].as_str().unwrap());
    keeper.done(&["disconnect", "file"]);
    let other = Disk::make(sandbox, "other", "ext4")?;
    mount(
        Some(other.path()),
        target,
        Some("ext4"),
        MsFlags::empty(),
        nothing,
    )
    .unwrap();
    let (status, error) = keeper.refused(&["connect", "file"]);
    assert_eq!((status, &error["code"]), (4, &json!("foreign")), "{error}");
    umount2(target, MntFlags::empty()).unwrap();
    Ok(())
}

pub(crate) fn an_image(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs(6, 12, "erofs in a file")?;
    let _disk = OnDisk::make(sandbox)?;
    let image = image(sandbox, "a.erofs", "erofs")?;
    let image = image.display().to_string();
    let kind = format!("image = {{ file = \"{image}\", type = \"erofs\" }}");
    let keeper = keeper(sandbox, Path::new("/dev/null"), &kind)?;
    lives(&keeper, "erofs", "in an image");
    Ok(())
}
