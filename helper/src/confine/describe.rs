//! `mountwardend confinement`: what each role may do, for a person who reviews
//! it, or as JSON.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use mountwarden_protocol::Role;

use super::capabilities::Holding;
use super::entry::{Check, Entry, Value};
use super::{landlock, limits, tables};
use crate::table::Source;
use crate::{locker, mounter, session};

const ROLES: [Role; 5] = [
    Role::Gate,
    Role::Session,
    Role::Warden,
    Role::Mounter,
    Role::Locker,
];

/// What does not follow from another file of this module.
struct Facts {
    is: &'static str,
    user: &'static str,
    descriptors: &'static str,
    max_descriptors: String,
}

fn facts(role: Role, source: Source) -> Facts {
    let (is, descriptors, max_descriptors) = match role {
        Role::Gate => (
            "one process; accepts connections and forks a session for each; reads no client's byte",
            "the listening socket, the channel to the warden, a signalfd, each client's socket; the warden's socket for reports in place of the standard ones",
            "`connections` of the policy and 64".to_owned(),
        ),
        Role::Session => (
            "one process a connection; reads what the client says, judges it, opens the locations",
            "the client's socket, the order channel; the warden's socket for reports in place of the standard ones",
            session::layout::MAX_DESCRIPTORS.to_string(),
        ),
        Role::Warden => (
            "one process; knows who each peer is and forks a mounter for each; opens no path",
            "the channel to the gate, the other half's reports, a signalfd, the lock file, both ends of the channel about leases, a directory for each lease and each mount of a batch under way, the service manager's socket",
            "`connections` of the policy and 576".to_owned(),
        ),
        Role::Mounter => (
            "one process a connection; judges each order again, checks its descriptors, mounts",
            match source {
                Source::Calls => {
                    "the order channel, its own /proc/self/fd, the lock file, the channel about leases"
                }
                Source::Mountinfo => {
                    "the order channel, its own /proc/self/fd and mountinfo, the lock file, the channel about leases"
                }
            },
            mounter::layout::MAX_DESCRIPTORS.to_string(),
        ),
        Role::Locker => (
            "one process, where the policy grants detached or ID-mapped mounts, and a child of it for each; locks the flags of a mount that is handed over; finds out what a user namespace maps; opens no path but its own two maps",
            "where mounters ask, the user namespace of the mounts, the helper's own, /proc; of a request, the mount or the user namespace, where to answer, and what is made or looked at",
            locker::layout::MAX_DESCRIPTORS.to_string(),
        ),
    };
    Facts {
        is,
        user: "the service's, never root",
        descriptors,
        max_descriptors,
    }
}

fn capability(role: Role) -> Option<&'static str> {
    match Holding::of(role) {
        Holding::Nothing => None,
        Holding::SysAdmin => Some("CAP_SYS_ADMIN"),
    }
}

/// How many different system calls a table has.
fn system_calls(entries: &[Entry]) -> usize {
    let numbers: BTreeSet<i64> = entries.iter().map(|entry| entry.number).collect();
    numbers.len()
}

fn call_name(entry: &Entry) -> String {
    entry.name.trim_start_matches("SYS_").to_lowercase()
}

/// For a person.
pub(crate) fn text(source: Source) -> String {
    let mut text = format!(
        "What confines each role of mountwardend {}, on this kernel.\nMount table from {source}.\n",
        env!("CARGO_PKG_VERSION")
    );
    // Writing to a string cannot fail.
    let _ = text_of_roles(&mut text, source);
    text
}

fn text_of_roles(text: &mut String, source: Source) -> std::fmt::Result {
    for role in ROLES {
        let facts = facts(role, source);
        let entries = tables::of(role, source, tables::ALL_KINDS);
        writeln!(text, "\n{role}: {}", facts.is)?;
        writeln!(text, "  user          {}", facts.user)?;
        let held = capability(role).unwrap_or("none");
        writeln!(text, "  capabilities  {held}")?;
        writeln!(text, "  Landlock      {}", landlock::rule(role))?;
        for (abi, rights) in landlock::denied(role) {
            writeln!(
                text,
                "                denied otherwise, from ABI {abi} on: {}",
                rights.join(", ")
            )?;
        }
        let max = facts.max_descriptors;
        writeln!(text, "  limits        descriptors: {max}")?;
        for (name, limit) in limits::FIXED.map(|(_, name, limit)| (name, limit)) {
            writeln!(text, "                {name}: {limit} bytes")?;
        }
        writeln!(text, "  descriptors   {}", facts.descriptors)?;
        writeln!(text, "  system calls  {}", system_calls(&entries))?;
        for entry in &entries {
            let granted = entry
                .granted
                .map(|kinds| format!(" [where granted: {kinds}]"));
            let granted = granted.unwrap_or_default();
            writeln!(text, "    {:<24} {}{granted}", call_name(entry), entry.why)?;
            for form in &entry.forms {
                let checks: Vec<String> = form
                    .iter()
                    .map(|check| format!("{} = {}", check.name, check.value))
                    .collect();
                writeln!(text, "      if {}", checks.join(", "))?;
            }
        }
    }
    Ok(())
}

/// For a program: one object.
pub(crate) fn json(source: Source) -> String {
    let version = string(env!("CARGO_PKG_VERSION"));
    let abi = landlock::running_abi().to_string();
    let roles = array(ROLES, |role| json_of_role(role, source));
    object([
        ("version", version),
        ("landlock_abi", abi),
        ("mount_table", string(&source.to_string())),
        ("roles", roles),
    ])
}

fn json_of_role(role: Role, source: Source) -> String {
    let facts = facts(role, source);
    let entries = tables::of(role, source, tables::ALL_KINDS);
    object([
        ("role", string(&role.to_string())),
        ("is", string(facts.is)),
        ("user", string(facts.user)),
        ("capabilities", array(capability(role), string)),
        (
            "landlock",
            object([
                ("rule", string(landlock::rule(role))),
                (
                    "denied",
                    array(landlock::denied(role), |(abi, rights)| {
                        let rights = array(rights, |right| string(&right));
                        object([("abi", abi.to_string()), ("rights", rights)])
                    }),
                ),
            ]),
        ),
        ("max_descriptors", string(&facts.max_descriptors)),
        (
            "limits",
            object(limits::FIXED.map(|(_, name, limit)| (name, limit.to_string()))),
        ),
        ("descriptors", string(facts.descriptors)),
        ("system_calls", system_calls(&entries).to_string()),
        ("calls", array(&entries, json_of_entry)),
    ])
}

fn json_of_entry(entry: &Entry) -> String {
    object([
        ("call", string(&call_name(entry))),
        ("number", entry.number.to_string()),
        ("why", string(entry.why)),
        ("granted", entry.granted.map_or("null".to_owned(), string)),
        (
            "forms",
            array(&entry.forms, |form| array(form, json_of_check)),
        ),
    ])
}

/// The address of a string means nothing to another process, so that the string
/// itself stands for it.
fn json_of_check(check: &Check) -> String {
    let (kind, value) = match check.value {
        Value::Int { bits, .. } => ("int", bits.to_string()),
        Value::AtLeast { bits } => ("at_least", bits.to_string()),
        Value::Long { bits, .. } => ("long", bits.to_string()),
        Value::Pinned(text) => ("pinned", string(&text.text().to_string_lossy())),
        Value::NameBuffer => ("name_buffer", "true".to_owned()),
        Value::PolicyName => ("policy_name", "true".to_owned()),
    };
    object([
        ("argument", check.index.to_string()),
        ("name", string(check.name)),
        ("means", string(&check.value.to_string())),
        (kind, value),
    ])
}

fn object<const N: usize>(fields: [(&str, String); N]) -> String {
    let fields = fields.map(|(key, value)| format!("{}:{value}", string(key)));
    format!("{{{}}}", fields.join(","))
}

fn array<T>(items: impl IntoIterator<Item = T>, write: impl Fn(T) -> String) -> String {
    let items: Vec<String> = items.into_iter().map(write).collect();
    format!("[{}]", items.join(","))
}

/// What is written here is printable ASCII: names and sentences of this program.
fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
