//! `[grant.block]`, `[grant.fuse]`, `[grant.overlay]` and `[grant.image]`

use std::fmt::Display;
use std::str::FromStr;

use mountwarden_protocol::{FilesystemOption, Layers, OptionKey};

use super::grant::{flag, roots};
use super::toml_reader::Value;
use crate::error::{Fault, quoted};
use crate::grant::{BlockTerms, FuseTerms, ImageTerms, OverlayTerms};
use crate::subjects::Subjects;
use crate::template::Template;

/// What the helper sets itself, from the grant or from what the kernel says.
const OWN_KEYS: [&str; 10] = [
    "source",
    "ro",
    "rw",
    "fd",
    "rootmode",
    "user_id",
    "group_id",
    "allow_other",
    "default_permissions",
    "subtype",
];

pub(super) fn block(value: &Value<'_>, subjects: &Subjects) -> Result<BlockTerms, Fault> {
    let keys = ["device", "filesystems", "options", "read_only"];
    let table = value.table("[grant.block]", &keys)?;
    Ok(BlockTerms {
        devices: roots(&table.require("device")?, subjects, device)?,
        filesystems: listed(&table.require("filesystems")?, "types of file systems")?,
        options: match table.get("options") {
            Some(value) => value
                .list("a list of options, each \"key\", \"key=value\" or \"key=*\"")?
                .iter()
                .map(option)
                .collect::<Result<_, _>>()?,
            None => vec![],
        },
        read_only: flag(&table, "read_only")?,
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

pub(super) fn fuse(value: &Value<'_>) -> Result<FuseTerms, Fault> {
    let keys = [
        "subtypes",
        "sources",
        "allow_other",
        "default_permissions",
        "read_only",
    ];
    let table = value.table("[grant.fuse]", &keys)?;
    let sources = table.get("sources").map(|sources| patterns(&sources));
    Ok(FuseTerms {
        subtypes: patterns(&table.require("subtypes")?)?,
        sources: sources.transpose()?.unwrap_or_default(),
        allow_other: flag(&table, "allow_other")?,
        default_permissions: flag(&table, "default_permissions")?,
        read_only: flag(&table, "read_only")?,
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
    let table = value.table("[grant.image]", &["file", "filesystems"])?;
    Ok(ImageTerms {
        files: roots(&table.require("file")?, subjects, |_, _| Ok(()))?,
        filesystems: listed(&table.require("filesystems")?, "types of images")?,
    })
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
