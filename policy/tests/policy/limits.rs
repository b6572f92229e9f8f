//! `[limits]` and `[confinement]`.

use std::time::Duration;

use mountwarden_policy::Limits;

use crate::support::policy;

#[test]
fn without_the_tables_the_defaults_hold() {
    for text in ["version = 1", "version = 1\n[limits]\n[confinement]\n"] {
        let policy = policy(text);
        assert_eq!(
            policy.limits(),
            &Limits {
                connections: 1024,
                connections_per_user: 16,
                mounts_per_user: 1000,
                requests_per_second: 1000,
                request_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_mins(10),
            }
        );
        assert_eq!(policy.require_landlock_abi(), 6);
    }
}

#[test]
fn every_key_is_read() {
    let policy = policy(
        "version = 1\n[limits]\nconnections = 65536\nconnections_per_user = 65536\n\
         mounts_per_user = 1\nrequests_per_second = 1000000\nrequest_timeout = \"1ms\"\nidle_timeout = \"24h\"\n\
         [confinement]\nrequire_landlock_abi = 7\n",
    );
    assert_eq!(
        policy.limits(),
        &Limits {
            connections: 65536,
            connections_per_user: 65536,
            mounts_per_user: 1,
            requests_per_second: 1_000_000,
            request_timeout: Duration::from_millis(1),
            idle_timeout: Duration::from_hours(24),
        }
    );
    assert_eq!(policy.require_landlock_abi(), 7);
}

#[test]
fn durations_have_one_unit() {
    for (text, expected) in [
        ("500ms", Duration::from_millis(500)),
        ("30s", Duration::from_secs(30)),
        ("10m", Duration::from_mins(10)),
        ("2h", Duration::from_hours(2)),
        ("1440m", Duration::from_hours(24)),
    ] {
        let policy = policy(&format!("version = 1\nlimits.idle_timeout = '{text}'"));
        assert_eq!(policy.limits().idle_timeout, expected, "{text}");
    }
}

#[test]
fn few_connections_lower_the_default_for_one_user() {
    let policy = policy("version = 1\n[limits]\nconnections = 4\n");
    assert_eq!(policy.limits().connections_per_user, 4);
}
