//! `[grant.block]`, `[grant.fuse]`, `[grant.overlay]`, `[grant.image]` and `[grant.network]`

use std::fmt::Display;
use std::str::FromStr;

use mountwarden_protocol::{FilesystemName, FilesystemOption, Layers, OptionKey};

use super::grant::{flag, roots};
use super::toml_reader::{Table, Value};
use crate::error::{Fault, quoted};
use crate::grant::{
    BlockTerms, FuseTerms, ImageTerms, NETWORK_TYPES, NetworkTerms, OverlayTerms, TypeTerms,
};
use crate::loop_devices::LoopDevices;
use crate::subjects::Subjects;
use crate::template::Template;

/// What the helper sets itself, from the grant or from what the kernel says.
const OWN_KEYS: [&str; 12] = [
    "source",
    "ro",
    "rw",
    "fd",
    "rfdno",
    "wfdno",
    "rootmode",
    "user_id",
    "group_id",
    "allow_other",
    "default_permissions",
    "subtype",
];

/// The options that hold a password or a key (`mount.cifs(8)`, `mount.ceph(8)`).
const SECRET_KEYS: [&str; 5] = ["pass", "pass2", "password", "password2", "secret"];

pub(super) fn block(value: &Value<'_>, subjects: &Subjects) -> Result<BlockTerms, Fault> {
    let keys = ["device", "filesystems", "options", "read_only"];
    let table = value.table("[grant.block]", &keys)?;
    Ok(BlockTerms {
        devices: roots(&table.require("device")?, subjects, device)?,
        types: types(&table, listed)?,
        read_only: flag(&table, "read_only")?,
    })
}

fn types(
    table: &Table<'_>,
    filesystems: fn(&Value<'_>, &str) -> Result<Vec<FilesystemName>, Fault>,
) -> Result<TypeTerms, Fault> {
    let options = match table.get("options") {
        Some(value) => value.list("a list of options, each \"key\", \"key=value\" or \"key=*\"")?,
        None => vec![],
    };
    Ok(TypeTerms {
        filesystems: filesystems(&table.require("filesystems")?, "types of file systems")?,
        options: options.iter().map(option).collect::<Result<_, _>>()?,
    })
}

/// Of a user's name only the administrator of accounts knows what it may hold.
fn device(value: &Value<'_>, device: &Template) -> Result<(), Fault> {
    if device.names_user() {
        return Err(value.fault(
            "{user} does not stand in a device, where a name could be read as a pattern; use {uid}",
        ));
    }
    Ok(())
}

fn option(value: &Value<'_>) -> Result<FilesystemOption, Fault> {
    let text = value.text()?;
    let refused =
        |why: &dyn Display| value.fault(format!("the option {} is refused: {why}", quoted(text)));
    let option: FilesystemOption = text.parse().map_err(|error| refused(&error))?;
    if is_own(&option.key) {
        return Err(refused(
            &"the helper sets it itself, from the grant or from what the kernel says of the peer",
        ));
    }
    Ok(option)
}

fn is_own(key: &OptionKey) -> bool {
    OWN_KEYS.contains(&key.as_str())
}

pub(super) fn fuse(value: &Value<'_>, subjects: &Subjects) -> Result<FuseTerms, Fault> {
    let keys = [
        "subtypes",
        "sources",
        "allow_other",
        "default_permissions",
        "read_only",
        "device",
    ];
    let table = value.table("[grant.fuse]", &keys)?;
    let sources = table.get("sources").map(|sources| patterns(&sources));
    let devices = table
        .get("device")
        .map(|value| roots(&value, subjects, device));
    Ok(FuseTerms {
        subtypes: patterns(&table.require("subtypes")?)?,
        sources: sources.transpose()?.unwrap_or_default(),
        allow_other: flag(&table, "allow_other")?,
        default_permissions: flag(&table, "default_permissions")?,
        read_only: flag(&table, "read_only")?,
        devices: devices.transpose()?.unwrap_or_default(),
    })
}

pub(super) fn overlay(value: &Value<'_>, subjects: &Subjects) -> Result<OverlayTerms, Fault> {
    let table = value.table("[grant.overlay]", &["layer", "upper", "max_layers"])?;
    let paths = |value: &Value<'_>| roots(value, subjects, |_, _| Ok(()));
    let uppers = table.get("upper").map(|value| paths(&value));
    let max_layers = match table.get("max_layers") {
        Some(value) => value
            .as_number()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (1..=Layers::MAX).contains(number))
            .ok_or_else(|| value.wrong(format!("a number, 1 to {}", Layers::MAX)))?,
        None => Layers::MAX,
    };
    Ok(OverlayTerms {
        layers: paths(&table.require("layer")?)?,
        uppers: uppers.transpose()?.unwrap_or_default(),
        max_layers,
    })
}

pub(super) fn image(value: &Value<'_>, subjects: &Subjects) -> Result<ImageTerms, Fault> {
    let table = value.table("[grant.image]", &["file", "filesystems", "loop_devices"])?;
    let devices = table.get("loop_devices").map(|value| loop_devices(&value));
    Ok(ImageTerms {
        files: roots(&table.require("file")?, subjects, |_, _| Ok(()))?,
        filesystems: listed(&table.require("filesystems")?, "types of images")?,
        loop_devices: devices.transpose()?,
    })
}

fn loop_devices(value: &Value<'_>) -> Result<LoopDevices, Fault> {
    let table = value.table("loop_devices", &["first", "count"])?;
    let first = table
        .require("first")?
        .number_within(0..=LoopDevices::LAST)?;
    let count = table.require("count")?;
    let number = count.number_within(1..=LoopDevices::MOST)?;
    LoopDevices::new(first, number).ok_or_else(|| {
        count.fault(format!(
            "the last of {number} loop devices from {first} on is beyond {}",
            LoopDevices::LAST
        ))
    })
}

pub(super) fn network(value: &Value<'_>) -> Result<NetworkTerms, Fault> {
    let keys = ["source", "filesystems", "options", "secrets", "read_only"];
    let table = value.table("[grant.network]", &keys)?;
    let sources = table.require("source")?;
    Ok(NetworkTerms {
        sources: patterns(&sources)?,
        types: no_secrets(types(&table, network_types)?, &table)?,
        secrets: match table.get("secrets") {
            Some(value) => secrets(&value)?,
            None => vec![],
        },
        read_only: flag(&table, "read_only")?,
    })
}

/// Of any other type, the source could be a device, or whatever else it makes of a text.
fn network_types(value: &Value<'_>, what: &str) -> Result<Vec<FilesystemName>, Fault> {
    let filesystems = listed(value, what)?;
    for element in value.list(what)? {
        let name = element.text()?;
        if !NETWORK_TYPES.contains(&name) {
            return Err(element.fault(format!(
                "{} is refused: no type of network file system is called so; there are {}",
                quoted(name),
                NETWORK_TYPES.join(", ")
            )));
        }
    }
    Ok(filesystems)
}

/// A refusal lists the options, and an audit line has them.
fn no_secrets(types: TypeTerms, table: &Table<'_>) -> Result<TypeTerms, Fault> {
    let secret = |option: &&FilesystemOption| SECRET_KEYS.contains(&option.key.as_str());
    match types.options.iter().find(secret) {
        None => Ok(types),
        Some(option) => Err(table.fault(format!(
            "{} is a secret, which options are not: put its key into secrets, for the peer to \
             bring the value",
            quoted(option.key.as_str())
        ))),
    }
}

fn secrets(value: &Value<'_>) -> Result<Vec<OptionKey>, Fault> {
    let what = "keys of options";
    let keys = listed(value, what)?;
    for element in value.list(what)? {
        let key = element.text()?;
        if OWN_KEYS.contains(&key) {
            return Err(element.fault(format!(
                "the secret {} is refused: the helper sets it itself",
                quoted(key)
            )));
        }
    }
    Ok(keys)
}

fn patterns(value: &Value<'_>) -> Result<Vec<String>, Fault> {
    let what = "a list of at least one pattern, in which * stands for any characters but /";
    let elements = value.list(what)?;
    if elements.is_empty() {
        return Err(value.wrong(what));
    }
    let text = |element: &Value<'_>| match element.text()? {
        text if text.is_empty() || text.chars().any(char::is_control) => {
            Err(element.wrong("a pattern, not empty and without control characters"))
        }
        text => Ok(text.to_owned()),
    };
    elements.iter().map(text).collect()
}

/// A list of at least one checked text.
fn listed<T: FromStr<Err: Display>>(value: &Value<'_>, what: &str) -> Result<Vec<T>, Fault> {
    let what = format!("a list of at least one of the {what}");
    let elements = value.list(&what)?;
    if elements.is_empty() {
        return Err(value.wrong(what));
    }
    elements
        .iter()
        .map(|element| {
            let text = element.text()?;
            text.parse()
                .map_err(|error| element.fault(format!("{} is refused: {error}", quoted(text))))
        })
        .collect()
}
