//! The helper's state for a person, and the names of capabilities.

use std::fmt::Write as _;

use mountwarden_protocol::escape::Safe;
use mountwarden_protocol::{LandlockReport, RoleReport, Status};

use super::style::{GOOD, HEADING, WARNING};

/// The capabilities of `capabilities(7)`, in the order of their bits.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names of the capabilities in a set; those without a name in one
/// hexadecimal number.
pub(super) fn capabilities(set: u64) -> Vec<String> {
    let mut rest = set;
    let mut names = Vec::new();
    for (bit, name) in CAPABILITIES.iter().enumerate() {
        let mask = 1_u64 << bit;
        if set & mask != 0 {
            names.push((*name).to_owned());
            rest &= !mask;
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

/// The state as lines of text.
pub(super) fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(
        text,
        "{HEADING}mountwarden helper {}{HEADING:#}, protocol {}, up {}",
        Safe(&status.version),
        status.protocol,
        span(status.uptime_seconds)
    )?;
    writeln!(text, "You are uid {}.", status.uid)?;

    for report in &status.roles {
        role(text, report)?;
    }

    let limits = &status.limits;
    writeln!(text, "\n{HEADING}Limits{HEADING:#}")?;
    row(text, "connections", limits.connections)?;
    row(text, "connections per user", limits.connections_per_user)?;
    row(text, "mounts per user", limits.mounts_per_user)?;
    row(text, "requests per second", limits.requests_per_second)?;
    row(
        text,
        "request timeout",
        format!("{} ms", limits.request_timeout_ms),
    )?;
    row(
        text,
        "idle timeout",
        format!("{} ms", limits.idle_timeout_ms),
    )?;

    let counters = &status.counters;
    writeln!(text, "\n{HEADING}Since it started{HEADING:#}")?;
    row(
        text,
        "connections",
        format!(
            "{} ({} open)",
            counters.connections, counters.connections_open
        ),
    )?;
    row(text, "mounted", counters.mounted)?;
    row(text, "already mounted", counters.already_mounted)?;
    row(text, "unmounted", counters.unmounted)?;
    row(text, "denied", counters.denied)?;
    row(text, "failed", counters.failed)?;
    row(text, "delayed", counters.delayed)?;
    row(text, "killed", counters.killed)?;
    row(text, "remounted", counters.remounted)?;
    row(text, "detached", counters.detached)?;
    row(text, "moved", counters.moved)
}

fn role(text: &mut String, report: &RoleReport) -> std::fmt::Result {
    writeln!(
        text,
        "\n{HEADING}{}{HEADING:#} (uid {})",
        report.role, report.uid
    )?;
    row(text, "capabilities", names(report.capabilities))?;
    row(text, "bounding set", names(report.bounding))?;
    row(text, "Landlock", landlock(&report.landlock))?;
    row(
        text,
        "system calls",
        format!("{} allowed", report.system_calls),
    )
}

fn landlock(report: &LandlockReport) -> String {
    if report.abi == 0 {
        return format!("{WARNING}not in force{WARNING:#}");
    }
    let files = match report.readable_roots {
        None => "no filesystem domain".to_owned(),
        Some(0) => "no file can be opened".to_owned(),
        Some(1) => "reads beneath 1 root only".to_owned(),
        Some(count) => format!("reads beneath {count} roots only"),
    };
    format!(
        "ABI {}: {files}; network {}, abstract sockets {}, signals {}",
        report.abi,
        barred(report.network),
        barred(report.abstract_sockets),
        barred(report.signals)
    )
}

fn barred(denied: bool) -> String {
    if denied {
        format!("{GOOD}denied{GOOD:#}")
    } else {
        format!("{WARNING}allowed{WARNING:#}")
    }
}

fn names(set: u64) -> String {
    if set == 0 {
        "none".to_owned()
    } else {
        capabilities(set).join(", ")
    }
}

fn row(text: &mut String, name: &str, value: impl std::fmt::Display) -> std::fmt::Result {
    writeln!(text, "  {name:<21} {value}")
}

/// A time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let (days, hours) = (hours / 24, hours % 24);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{capabilities, span};

    #[test]
    fn capabilities_have_their_names() {
        assert_eq!(capabilities(1 << 21), ["CAP_SYS_ADMIN"]);
        assert_eq!(capabilities(1), ["CAP_CHOWN"]);
        assert_eq!(
            capabilities((1 << 40) | (1 << 41) | (1 << 63)),
            ["CAP_CHECKPOINT_RESTORE", "0x8000020000000000"]
        );
        assert!(capabilities(0).is_empty());
        assert_eq!(capabilities(u64::MAX).len(), 42);
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3 * 3600 + 61, "3 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
