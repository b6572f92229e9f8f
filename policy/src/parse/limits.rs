//! `[limits]`

use std::time::Duration;

use super::toml_reader::{Table, Value};
use crate::Limits;
use crate::error::Fault;

const KEYS: [&str; 6] = [
    "connections",
    "connections_per_user",
    "mounts_per_user",
    "requests_per_second",
    "request_timeout",
    "idle_timeout",
];

pub(super) fn limits(value: &Value<'_>) -> Result<Limits, Fault> {
    let table = value.table("[limits]", &KEYS)?;
    let default = Limits::default();
    let connections = match table.get("connections") {
        Some(value) => value.number_within(Limits::CONNECTIONS)?,
        None => default.connections,
    };
    Ok(Limits {
        connections,
        connections_per_user: match table.get("connections_per_user") {
            Some(value) => connections_per_user(&value, connections)?,
            // A small `connections` alone must not make the default illegal.
            None => default.connections_per_user.min(connections),
        },
        mounts_per_user: match table.get("mounts_per_user") {
            Some(value) => value.number_within(Limits::MOUNTS)?,
            None => default.mounts_per_user,
        },
        requests_per_second: match table.get("requests_per_second") {
            Some(value) => value.number_within(Limits::REQUESTS)?,
            None => default.requests_per_second,
        },
        request_timeout: timeout(&table, "request_timeout", default.request_timeout)?,
        idle_timeout: timeout(&table, "idle_timeout", default.idle_timeout)?,
    })
}

fn connections_per_user(value: &Value<'_>, connections: u32) -> Result<u32, Fault> {
    let number = value.number_within(Limits::CONNECTIONS)?;
    if number > connections {
        return Err(value.fault(format!(
            "connections_per_user is {number}, which is above connections ({connections}); one \
             user cannot have more than all together"
        )));
    }
    Ok(number)
}

fn timeout(table: &Table<'_>, key: &'static str, default: Duration) -> Result<Duration, Fault> {
    let Some(value) = table.get(key) else {
        return Ok(default);
    };
    value
        .as_text()
        .and_then(duration)
        .filter(|duration| Limits::TIMEOUT.contains(duration))
        .ok_or_else(|| {
            value.wrong("a duration from \"1ms\" to \"24h\": a whole number and ms, s, m or h")
        })
}

fn duration(text: &str) -> Option<Duration> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at_checked(end)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(milliseconds).map(Duration::from_millis)
}
