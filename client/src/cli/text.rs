//! What a person reads. Every text of the helper is escaped on its way here.

use std::fmt::Write as _;

use mountwarden_protocol::escape::{Safe, SafePath};
use mountwarden_protocol::{
    AbsPath, Explanation, MountAttributes, MountInfo, Mounted, Operation, Outcome, Unmounted,
};

use super::style::{BAD, GOOD, HEADING};
use super::{Answer, status};
use crate::{Applied, Error, Health, Probe};

/// A result as lines of text.
pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Mounted(mounted) => mount(mounted),
        Answer::Unmounted(unmounted) => unmount(unmounted),
        Answer::Remounted(mount) => described("Remounted", mount),
        Answer::Moved(mount) => described("Moved", mount),
        Answer::List(mounts) => list(mounts),
        Answer::Explained {
            operation,
            explanation,
        } => explain(operation, explanation),
        Answer::Volume(report) => report.text(),
        Answer::Status(report) => status::text(report),
        Answer::Probed(probe) => probed(probe),
        Answer::Attached { detached, place } => format!(
            "{GOOD}Attached{GOOD:#} at {} ({}, id {})\n",
            SafePath(place),
            flags(detached.attributes),
            detached.id
        ),
        Answer::Applied(mounts) => mounts.iter().map(applied).collect(),
        Answer::ExplainedAll(all) => {
            let each = all.iter();
            each.map(|(operation, explanation)| explain(operation, explanation))
                .collect()
        }
    }
}

fn mount(mounted: &Mounted) -> String {
    described(what(mounted.outcome), &mounted.mount)
}

fn what(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Mounted => "Mounted",
        Outcome::AlreadyMounted => "Already mounted:",
    }
}

fn applied(mount: &Applied) -> String {
    let (what, target) = (what(mount.outcome), shown(&mount.target));
    let (id, flags) = (mount.id, flags(mount.attributes));
    format!("{GOOD}{what}{GOOD:#} {target} ({flags}, id {id})\n")
}

fn described(what: &str, mount: &MountInfo) -> String {
    let MountInfo {
        id,
        target,
        filesystem,
        attributes,
        ..
    } = mount;
    format!(
        "{GOOD}{what}{GOOD:#} {} at {} ({}, id {id})\n",
        Safe(filesystem),
        shown(target),
        flags(*attributes),
    )
}

fn unmount(unmounted: &Unmounted) -> String {
    format!(
        "{GOOD}Unmounted{GOOD:#} {} (id {})\n",
        shown(&unmounted.target),
        unmounted.id
    )
}

fn probed(probe: &Probe) -> String {
    let target = shown(&probe.target);
    let id = probe
        .id
        .map_or_else(String::new, |id| format!(" (id {id})"));
    match probe.health {
        Health::Alive => format!("{GOOD}Alive{GOOD:#}: the file system at {target}{id} answers\n"),
        Health::Stale { errno } => {
            let why = std::io::Error::from_raw_os_error(errno);
            format!("{BAD}Stale{BAD:#}: the file system at {target}{id} fails: {why}\n")
        }
        Health::Hung { waited } => format!(
            "{BAD}Hung{BAD:#}: the file system at {target} did not answer within {:.1} s\n",
            waited.as_secs_f64()
        ),
        Health::Private => format!(
            "Private: the file system at {target}{id} answers the helper's user nothing, dead or alive\n"
        ),
        Health::Absent => format!("Absent: nothing is mounted at {target}\n"),
    }
}

fn list(mounts: &[MountInfo]) -> String {
    if mounts.is_empty() {
        return "No mounts at places that are granted to you.\n".to_owned();
    }
    let mut rows = vec![["ID", "TYPE", "FLAGS", "TARGET", "ROOT"].map(str::to_owned)];
    rows.extend(mounts.iter().map(|mount| {
        [
            mount.id.to_string(),
            Safe(&mount.filesystem).to_string(),
            flags(mount.attributes),
            shown(&mount.target),
            shown(&mount.root),
        ]
    }));
    table(&rows)
}

fn explain(operation: &Operation, explanation: &Explanation) -> String {
    let (grant, attributes, tmpfs) = match explanation {
        Explanation::Denied(reply) => {
            let reason = reply
                .reason
                .map_or_else(|| reply.code.to_string(), |reason| reason.to_string());
            let error = Error::from(reply.clone());
            return format!("{BAD}Denied{BAD:#} ({reason}): {error}\n");
        }
        Explanation::Allowed {
            grant,
            attributes,
            tmpfs,
        } => (Safe(grant), *attributes, tmpfs),
    };
    let mut text = format!("{GOOD}Allowed{GOOD:#} by the grant \"{grant}\"");
    match operation {
        Operation::Mount(_) | Operation::Detach(_) => {
            text.push_str("; the mount would be ");
            text.push_str(&flags(attributes));
        }
        Operation::Remount(_) if !attributes.is_empty() => {
            text.push_str("; the mount would then have ");
            text.push_str(&attributes.names().join(","));
        }
        Operation::Move(_) if !attributes.is_empty() => {
            text.push_str("; the mount must have ");
            text.push_str(&attributes.names().join(","));
        }
        Operation::Remount(_) | Operation::Unmount(_) | Operation::Move(_) => {}
    }
    if let Some(limits) = tmpfs {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            ", with at most {} and {} inodes, mode {}",
            size(limits.size),
            limits.inodes,
            mode(limits.mode)
        );
    }
    text.push('\n');
    text
}

fn flags(attributes: MountAttributes) -> String {
    let mut names = attributes.names();
    if !attributes.contains(MountAttributes::READ_ONLY) {
        names.insert(0, "rw");
    }
    names.join(",")
}

/// Lines whose columns are aligned, the first line being the heading.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        if number == 0 {
            let _ = writeln!(text, "{HEADING}{line}{HEADING:#}");
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn shown(path: &AbsPath) -> String {
    SafePath(path.as_path()).to_string()
}

/// A mode in octal, as `chmod(1)` takes it.
pub(super) fn mode(bits: u32) -> String {
    format!("{bits:04o}")
}

/// Bytes in the largest unit that holds them without a rest.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        let count = bytes >> shift;
        if count > 0 && count << shift == bytes {
            return format!("{count} {unit}");
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::{mode, size};

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1025, "1025 bytes"),
            (64 << 20, "64 MiB"),
            (5 << 40, "5120 GiB"),
            (u64::MAX, "18446744073709551615 bytes"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn modes_have_four_digits() {
        assert_eq!(mode(0o750), "0750");
        assert_eq!(mode(0o1777), "1777");
    }
}
