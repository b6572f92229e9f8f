//! What the machine may lack, and what to do about it. The helper's own line
//! says what failed; this adds what can be read off the machine.

use std::str::FromStr;

use crate::guest::Guest;

/// The first Linux with Landlock ABI 6, which the policy requires.
const OLDEST: (u32, u32) = (6, 12);

/// Settings that keep a user without privilege from making a user namespace:
/// what forbids it, and what allows it.
const SETTINGS: [(&str, u32, &str); 3] = [
    (
        "kernel.unprivileged_userns_clone",
        0,
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "user.max_user_namespaces",
        0,
        "sysctl user.max_user_namespaces=10000",
    ),
    (
        "kernel.apparmor_restrict_unprivileged_userns",
        1,
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// What may keep the helper from serving here.
pub(crate) fn advice(guest: &Guest) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(running) = read::<String>("kernel.osrelease")
        && version(&running).is_some_and(|version| version < OLDEST)
    {
        let (major, minor) = OLDEST;
        advice.push(format!(
            "This is Linux {running}; the helper needs {major}.{minor} or newer (Landlock ABI 6)."
        ));
    }
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm");
    if modules.is_ok_and(|modules| modules.split(',').all(|name| name.trim() != "landlock")) {
        advice.push(
            "Landlock is not switched on: add landlock to lsm= on the kernel's command line."
                .to_owned(),
        );
    }
    if guest.is_of_root() {
        return advice;
    }
    for (name, forbidding, remedy) in SETTINGS {
        if read(name) == Some(forbidding) {
            advice.push(format!(
                "{name} = {forbidding} forbids user namespaces to users other than root: as root, {remedy}"
            ));
        }
    }
    advice.push("Or run it as root, which needs no user namespace.".to_owned());
    advice
}

/// The value of a `sysctl(8)` setting, where there is one.
fn read<T: FromStr>(name: &str) -> Option<T> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let text = std::fs::read_to_string(path).ok()?;
    text.trim().parse().ok()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
