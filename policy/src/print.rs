//! From [`Policy`] to text, as it is in force: every key, also where it has its default.

use std::fmt::{self, Display, Write as _};

use mountwarden_protocol::{MountAttributes, Propagation};

use crate::Policy;
use crate::grant::{
    BindTerms, BlockTerms, FuseTerms, Grant, ImageTerms, LocationTerms, NetworkTerms, OverlayTerms,
    Terms, TypeTerms,
};
use crate::idmap::GrantedRange;
use crate::loop_devices::LoopDevices;
use crate::parse::VERSION;
use crate::subjects::{Subjects, User};
use crate::template::Template;

/// Prints a text that reads as the same policy, where names stand for the same accounts.
impl Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = self.limits();
        let milliseconds = |time: std::time::Duration| quoted(&format!("{}ms", time.as_millis()));
        key(f, "version", VERSION)?;
        f.write_str("\n[limits]\n")?;
        key(f, "connections", limits.connections)?;
        key(f, "connections_per_user", limits.connections_per_user)?;
        key(f, "mounts_per_user", limits.mounts_per_user)?;
        key(f, "requests_per_second", limits.requests_per_second)?;
        key(f, "request_timeout", milliseconds(limits.request_timeout))?;
        key(f, "idle_timeout", milliseconds(limits.idle_timeout))?;
        f.write_str("\n[confinement]\n")?;
        key(f, "require_landlock_abi", self.require_landlock_abi)?;
        self.grants.iter().try_for_each(|entry| grant(f, entry))
    }
}

fn grant(f: &mut fmt::Formatter<'_>, Grant { name, terms }: &Grant) -> fmt::Result {
    f.write_str("\n[[grant]]\n")?;
    key(f, "name", quoted(name))?;
    subjects(f, &terms.subjects)?;
    roots(f, "target", &terms.targets)?;
    let force = MountAttributes::names(terms.force).into_iter();
    list(f, "force", force.map(quoted))?;
    key(f, "shared_target", terms.shared_target)?;
    location(f, "passed_target", "target_owner", terms.target)?;
    key(f, "remount", terms.remount)?;
    list(
        f,
        "propagation",
        terms.propagation.iter().copied().map(propagation),
    )?;
    key(f, "detached", terms.detached)?;
    key(f, "move", terms.moves)?;
    kinds(f, terms)
}

fn subjects(f: &mut fmt::Formatter<'_>, subjects: &Subjects) -> fmt::Result {
    let user = |user: &User| match &user.name {
        Some(name) => quoted(name),
        None => user.uid.to_string(),
    };
    list(f, "users", subjects.users.iter().map(user))?;
    list(f, "groups", &subjects.groups)
}

fn propagation(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "\"private\"",
        Propagation::Slave => "\"slave\"",
        Propagation::Shared => "\"shared\"",
    }
}

fn location(
    f: &mut fmt::Formatter<'_>,
    passed: &str,
    owner: &str,
    terms: LocationTerms,
) -> fmt::Result {
    key(f, passed, terms.passed)?;
    if terms.own {
        key(f, owner, "\"peer\"")?;
    }
    Ok(())
}

fn kinds(f: &mut fmt::Formatter<'_>, terms: &Terms) -> fmt::Result {
    terms.bind.iter().try_for_each(|terms| bind(f, terms))?;
    if let Some(terms) = terms.tmpfs {
        f.write_str("\n[grant.tmpfs]\n")?;
        key(f, "max_size", terms.max_size.get())?;
        key(f, "max_inodes", terms.max_inodes.get())?;
    }
    terms.block.iter().try_for_each(|terms| block(f, terms))?;
    terms.fuse.iter().try_for_each(|terms| fuse(f, terms))?;
    let mut overlays = terms.overlay.iter();
    overlays.try_for_each(|terms| overlay(f, terms))?;
    terms.image.iter().try_for_each(|terms| image(f, terms))?;
    let mut networks = terms.network.iter();
    networks.try_for_each(|terms| network(f, terms))
}

fn bind(f: &mut fmt::Formatter<'_>, terms: &BindTerms) -> fmt::Result {
    f.write_str("\n[grant.bind]\n")?;
    roots(f, "source", &terms.sources)?;
    key(f, "read_only", terms.read_only)?;
    key(f, "recursive", terms.recursive)?;
    location(f, "passed_source", "source_owner", terms.source)?;
    let Some(idmap) = &terms.idmap else {
        return Ok(());
    };
    let range = |range: &GrantedRange| match range.outside {
        Some(outside) => format!("\"{}:{outside}:{}\"", range.inside, range.count),
        None => format!("\"{}:peer:{}\"", range.inside, range.count),
    };
    list(f, "idmap.uids", idmap.uids.iter().map(range))?;
    list(f, "idmap.gids", idmap.gids.iter().map(range))
}

fn block(f: &mut fmt::Formatter<'_>, terms: &BlockTerms) -> fmt::Result {
    f.write_str("\n[grant.block]\n")?;
    roots(f, "device", &terms.devices)?;
    types(f, &terms.types)?;
    key(f, "read_only", terms.read_only)
}

fn types(f: &mut fmt::Formatter<'_>, terms: &TypeTerms) -> fmt::Result {
    list(f, "filesystems", terms.filesystems.iter().map(shown))?;
    list(f, "options", terms.options.iter().map(shown))
}

fn fuse(f: &mut fmt::Formatter<'_>, terms: &FuseTerms) -> fmt::Result {
    f.write_str("\n[grant.fuse]\n")?;
    list(f, "subtypes", terms.subtypes.iter().map(shown))?;
    some(f, "sources", terms.sources.iter().map(shown))?;
    key(f, "allow_other", terms.allow_other)?;
    key(f, "default_permissions", terms.default_permissions)?;
    key(f, "read_only", terms.read_only)?;
    some(f, "device", terms.devices.iter().map(root))
}

fn overlay(f: &mut fmt::Formatter<'_>, terms: &OverlayTerms) -> fmt::Result {
    f.write_str("\n[grant.overlay]\n")?;
    roots(f, "layer", &terms.layers)?;
    some(f, "upper", terms.uppers.iter().map(root))?;
    key(f, "max_layers", terms.max_layers)
}

fn image(f: &mut fmt::Formatter<'_>, terms: &ImageTerms) -> fmt::Result {
    f.write_str("\n[grant.image]\n")?;
    roots(f, "file", &terms.files)?;
    list(f, "filesystems", terms.filesystems.iter().map(shown))?;
    match terms.loop_devices {
        Some(LoopDevices { first, count }) => {
            let devices = format_args!("{{ first = {first}, count = {count} }}");
            key(f, "loop_devices", devices)
        }
        None => Ok(()),
    }
}

fn network(f: &mut fmt::Formatter<'_>, terms: &NetworkTerms) -> fmt::Result {
    f.write_str("\n[grant.network]\n")?;
    list(f, "source", terms.sources.iter().map(shown))?;
    types(f, &terms.types)?;
    some(f, "secrets", terms.secrets.iter().map(shown))?;
    key(f, "read_only", terms.read_only)
}

fn key(f: &mut fmt::Formatter<'_>, key: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "{key} = {value}")
}

fn list<T: Display>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> fmt::Result {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    key(f, name, format_args!("[{}]", values.join(", ")))
}

/// A list that may be left out, and may not be empty.
fn some(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    values: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    if values.len() == 0 {
        return Ok(());
    }
    list(f, name, values)
}

fn roots(f: &mut fmt::Formatter<'_>, name: &str, roots: &[Template]) -> fmt::Result {
    list(f, name, roots.iter().map(root))
}

fn root(root: &Template) -> String {
    quoted(&root.text())
}

fn shown(value: impl Display) -> String {
    quoted(&value.to_string())
}

/// A basic string of TOML, which escapes what could end it or break the line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
