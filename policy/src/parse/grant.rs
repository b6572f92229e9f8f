//! `[[grant]]`

use std::collections::BTreeSet;

use mountwarden_protocol::{MountAttributes, Propagation, TmpfsInodes, TmpfsSize};

use super::filesystems::{block, fuse, image, network, overlay};
use super::subjects::subjects;
use super::toml_reader::{Table, Value};
use crate::Accounts;
use crate::error::{Fault, quoted};
use crate::grant::{BindTerms, Grant, LocationTerms, Terms, TmpfsTerms};
use crate::idmap::{GrantedRange, IdmapTerms};
use crate::subjects::Subjects;
use crate::template::Template;

pub(super) const KEYS: [&str; 19] = [
    "name",
    "users",
    "groups",
    "target",
    "force",
    "shared_target",
    "bind",
    "tmpfs",
    "block",
    "fuse",
    "overlay",
    "image",
    "network",
    "remount",
    "propagation",
    "passed_target",
    "target_owner",
    "detached",
    "move",
];

/// The longest name in bytes: every audit line cites one.
const MAX_NAME: usize = 64;

/// tmpfs takes at least a page for a file that is not empty.
const BYTES_PER_INODE: u64 = 4096;

/// Even the smallest tmpfs holds a few files.
const LEAST_INODES: u64 = 16;

pub(super) fn grant(table: &Table<'_>, accounts: &dyn Accounts) -> Result<Grant, Fault> {
    let name = name(&table.require("name")?)?;
    let subjects = subjects(table, accounts)?;
    let targets = roots(&table.require("target")?, &subjects, target_root)?;
    let force = match table.get("force") {
        Some(value) => force(&value)?,
        None => MountAttributes::NO_SUID | MountAttributes::NO_DEV,
    };
    let shared_target = flag(table, "shared_target")?;
    let remount = flag(table, "remount")?;
    let propagation = match table.get("propagation") {
        Some(value) => propagation(&value)?,
        None => BTreeSet::new(),
    };
    let target = location(table, "passed_target", "target_owner")?;
    let bind = match table.get("bind") {
        Some(value) => Some(bind(&value, &subjects)?),
        None => None,
    };
    let tmpfs = match table.get("tmpfs") {
        Some(value) => Some(tmpfs(&value)?),
        None => None,
    };
    let block = table.get("block").map(|value| block(&value, &subjects));
    let fuse = table.get("fuse").map(|value| fuse(&value, &subjects));
    let image = table.get("image").map(|value| image(&value, &subjects));
    let overlay = table.get("overlay").map(|value| overlay(&value, &subjects));
    let network = table.get("network").map(|value| network(&value));
    let terms = Terms {
        targets,
        force,
        shared_target,
        bind,
        tmpfs,
        block: block.transpose()?,
        fuse: fuse.transpose()?,
        overlay: overlay.transpose()?,
        image: image.transpose()?,
        network: network.transpose()?,
        remount,
        propagation,
        subjects,
        target,
        detached: flag(table, "detached")?,
        moves: flag(table, "move")?,
    };
    if terms.kinds().is_empty() {
        return Err(table.fault(
            "the grant allows no kind of mount; give it a table [grant.bind], [grant.tmpfs], \
             [grant.block], [grant.fuse], [grant.overlay], [grant.image] or [grant.network]",
        ));
    }
    if let (true, Some(value)) = (terms.detached, table.get("detached")) {
        check_detached(&value, &terms)?;
    }
    Ok(Grant { name, terms })
}

/// A grant that hands over what nobody here controls any more must be able to keep its word.
fn check_detached(value: &Value<'_>, terms: &Terms) -> Result<(), Fault> {
    if terms.bind.is_none() {
        return Err(value.fault(
            "detached stands only in a grant with [grant.bind]: no other kind of mount is handed over",
        ));
    }
    if terms.force.contains(MountAttributes::NO_SYMFOLLOW) {
        return Err(value.fault(
            "detached does not go with nosymfollow in force: the kernel does not lock that flag, and \
             whoever is handed the mount can clear it",
        ));
    }
    Ok(())
}

fn name(value: &Value<'_>) -> Result<String, Fault> {
    let name = value.text()?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(value.wrong(format!("1 to {MAX_NAME} bytes without control characters")));
    }
    Ok(name.to_owned())
}

pub(super) fn flag(table: &Table<'_>, key: &'static str) -> Result<bool, Fault> {
    table.get(key).map_or(Ok(false), |value| value.boolean())
}

fn location(
    table: &Table<'_>,
    passed: &'static str,
    owner: &'static str,
) -> Result<LocationTerms, Fault> {
    let own = match table.get(owner) {
        None => false,
        Some(value) if value.as_text() == Some("peer") => true,
        Some(value) => return Err(value.wrong("\"peer\"")),
    };
    Ok(LocationTerms {
        passed: flag(table, passed)?,
        own,
    })
}

fn force(value: &Value<'_>) -> Result<MountAttributes, Fault> {
    let mut attributes = MountAttributes::empty();
    for element in value.list("a list of nosuid, nodev, noexec, nosymfollow and ro")? {
        attributes |= match element.as_text() {
            Some("nosuid") => MountAttributes::NO_SUID,
            Some("nodev") => MountAttributes::NO_DEV,
            Some("noexec") => MountAttributes::NO_EXEC,
            Some("nosymfollow") => MountAttributes::NO_SYMFOLLOW,
            Some("ro") => MountAttributes::READ_ONLY,
            _ => return Err(element.wrong("nosuid, nodev, noexec, nosymfollow or ro")),
        };
    }
    Ok(attributes)
}

fn propagation(value: &Value<'_>) -> Result<BTreeSet<Propagation>, Fault> {
    value
        .list("a list of slave and shared")?
        .iter()
        .map(|element| match element.as_text() {
            Some("slave") => Ok(Propagation::Slave),
            Some("shared") => Ok(Propagation::Shared),
            _ => Err(element.wrong("slave or shared")),
        })
        .collect()
}

fn bind(value: &Value<'_>, subjects: &Subjects) -> Result<BindTerms, Fault> {
    let table = value.table(
        "[grant.bind]",
        &[
            "source",
            "read_only",
            "recursive",
            "passed_source",
            "source_owner",
            "idmap",
        ],
    )?;
    let idmap = table.get("idmap").map(|value| idmap(&value));
    Ok(BindTerms {
        sources: roots(&table.require("source")?, subjects, |_, _| Ok(()))?,
        read_only: flag(&table, "read_only")?,
        recursive: flag(&table, "recursive")?,
        source: location(&table, "passed_source", "source_owner")?,
        idmap: idmap.transpose()?,
    })
}

fn idmap(value: &Value<'_>) -> Result<IdmapTerms, Fault> {
    let table = value.table("[grant.bind.idmap]", &["uids", "gids"])?;
    Ok(IdmapTerms {
        uids: ranges(&table.require("uids")?)?,
        gids: ranges(&table.require("gids")?)?,
    })
}

fn ranges(value: &Value<'_>) -> Result<Vec<GrantedRange>, Fault> {
    let what = "a list of at least one range of ids, INSIDE:OUTSIDE:COUNT";
    let elements = value.list(what)?;
    if elements.is_empty() {
        return Err(value.wrong(what));
    }
    elements
        .iter()
        .map(|element| GrantedRange::parse(element.text()?).map_err(|what| element.wrong(what)))
        .collect()
}

fn tmpfs(value: &Value<'_>) -> Result<TmpfsTerms, Fault> {
    let table = value.table("[grant.tmpfs]", &["max_size", "max_inodes"])?;
    let size = table.require("max_size")?;
    let max_size = match (size.as_text(), size.as_number()) {
        (Some(text), _) => text.parse().ok(),
        (None, Some(number)) => TmpfsSize::try_from(number).ok(),
        (None, None) => None,
    }
    .ok_or_else(|| {
        size.wrong(
            "1 byte or more and below 2^63: a number of bytes, or a string with K, M, G or T \
             (KiB, MiB, GiB, TiB) after the number",
        )
    })?;
    let max_inodes = match table.get("max_inodes") {
        Some(value) => value
            .as_number()
            .and_then(|number| TmpfsInodes::try_from(number).ok())
            .ok_or_else(|| value.wrong("a number, 1 or more and below 2^63"))?,
        None => inodes_for(max_size).ok_or_else(|| size.wrong("below 2^63"))?,
    };
    Ok(TmpfsTerms {
        max_size,
        max_inodes,
    })
}

/// The default of `max_inodes`.
fn inodes_for(size: TmpfsSize) -> Option<TmpfsInodes> {
    let inodes = size.get().checked_div(BYTES_PER_INODE)?.max(LEAST_INODES);
    TmpfsInodes::try_from(inodes).ok()
}

/// Reads a list of roots; `check` is what one of them must be beyond a path.
pub(super) fn roots(
    value: &Value<'_>,
    subjects: &Subjects,
    check: impl Fn(&Value<'_>, &Template) -> Result<(), Fault>,
) -> Result<Vec<Template>, Fault> {
    let elements = value.list("a list of absolute paths")?;
    if elements.is_empty() {
        return Err(value.wrong("a list of at least one absolute path"));
    }
    elements
        .iter()
        .map(|element| {
            let root = root(element, subjects)?;
            check(element, &root)?;
            Ok(root)
        })
        .collect()
}

fn root(value: &Value<'_>, subjects: &Subjects) -> Result<Template, Fault> {
    let text = value.text()?;
    let names: Vec<&str> = subjects
        .users
        .iter()
        .filter_map(|user| user.name.as_deref())
        .collect();
    let refused = |why: &str| value.fault(format!("the root {} is refused: {why}", quoted(text)));
    let template = Template::parse(text).map_err(|error| refused(&error.to_string()))?;
    if template.names_user() {
        if !subjects.groups.is_empty() || names.len() < subjects.users.len() {
            return Err(refused(
                "{user} stands only in a grant for users that are given by name, because a \
                 peer's name must be known when the policy is read; use {uid}",
            ));
        }
        if let Some(name) = names.iter().find(|name| !is_component(name)) {
            return Err(refused(&format!(
                "the user name {} is not one plain component of a path; use {{uid}}",
                quoted(name)
            )));
        }
    }
    template
        .check(&names)
        .map_err(|error| refused(&error.to_string()))?;
    Ok(template)
}

/// Whether a name can stand for a directory entry of its own.
fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

fn target_root(value: &Value<'_>, root: &Template) -> Result<(), Fault> {
    if root.is_constant() && root.constant_prefix().is_root() {
        return Err(value.fault(
            "the target root \"/\" is refused: it would grant every directory of the system; name \
             the directory that mounts go beneath",
        ));
    }
    Ok(())
}
