//! The calls that a role's table allows in some forms only: each form, and what lies next
//! to it.

use std::collections::{BTreeMap, BTreeSet};

use nix::libc::{self, c_long};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Role, Scene, Victims};
use crate::Skip;
use crate::cases::confinement::items;
use crate::kernel::unchanged;
use crate::puppet::{Outcome, Puppet};
use crate::sandbox::Sandbox;

/// The addresses that the filters of warden and mounter name.
pub(super) struct Pinned {
    strings: BTreeMap<String, u64>,
    pub(super) name: u64,
    /// Where the names of the policy begin: 256, one every 64 bytes.
    policy_names: u64,
}

impl Pinned {
    /// Skips what takes the strings' addresses.
    pub(super) fn are_named() -> Result<(), Skip> {
        if cfg!(debug_assertions) {
            Ok(())
        } else {
            Err(Skip(
                "an optimised build keeps no symbols of the pinned strings".to_owned(),
            ))
        }
    }

    /// The address of the name buffer.
    pub(super) fn name(puppet: &Puppet, scene: &Scene<'_>) -> u64 {
        puppet.base(&scene.sandbox.helper()) + scene.symbols().address("6pinned4NAME")
    }

    pub(super) fn of(puppet: &Puppet, scene: &Scene<'_>) -> Self {
        let symbols = scene.symbols();
        let base = puppet.base(&scene.sandbox.helper());
        let strings = [
            ("6pinned5EMPTY", 1),
            ("6pinned12PROC_SELF_FD", 1),
            ("6pinned19PROC_SELF_MOUNTINFO", 1),
            ("6pinned5TMPFS", 1),
            ("6pinned9DIRECTORY", 1),
            ("6pinned4FILE", 1),
            ("6pinned7UID_MAP", 1),
            ("6pinned7GID_MAP", 1),
            ("6pinned11MOUNTWARDEN", 1),
            ("6pinned10TMPFS_KEYS", 5),
            ("6pinned4FUSE", 1),
            ("6pinned13NETWORK_TYPES", 7),
            ("6pinned6SOURCE", 1),
            ("6pinned6DEVICE", 1),
            ("6pinned9READ_ONLY", 1),
            ("6pinned7FUSE_FD", 1),
            ("6pinned7FUSEBLK", 1),
            ("6pinned10BLOCK_SIZE", 1),
            ("6pinned9FUSE_KEYS", 5),
            ("6pinned10FUSE_FLAGS", 2),
            ("6pinned5LINKS", 20),
            ("6pinned6LAYERS", 18),
            ("6pinned7OVERLAY", 1),
            ("6pinned5EROFS", 1),
            ("6pinned8SQUASHFS", 1),
            ("6pinned9UPPER_DIR", 1),
            ("6pinned8WORK_DIR", 1),
            ("6pinned9LOWER_DIR", 1),
            // Pairs.
            ("6pinned14OVERLAY_LIMITS", 4),
        ]
        .into_iter()
        .flat_map(|(path, count)| {
            let first = base + symbols.address(path);
            // A `&CStr` is its address and its length.
            (0..count).map(move |index| first + 16 * index)
        })
        .map(|at| {
            let (address, length) = (puppet.word(at), puppet.word(at + 8));
            let mut text = puppet.read(address, usize::try_from(length).unwrap());
            assert_eq!(text.pop(), Some(0));
            (String::from_utf8(text).unwrap(), address)
        })
        .collect();
        Self {
            strings,
            name: Self::name(puppet, scene),
            policy_names: base + symbols.address("6pinned10NAME_PAGES"),
        }
    }

    pub(super) fn address(&self, text: &str) -> u64 {
        self.strings[text]
    }
}

type Arguments = [u64; 6];

/// No descriptor, no process and no address that a role has: what a form leaves open
/// does no harm.
const NOTHING: u64 = 0x7fff_ff00;

/// What one argument must be.
struct Check {
    argument: usize,
    value: u64,
    /// The bits that the filter compares.
    compared: u64,
    /// Where more than that value will do, the least.
    least: Option<u64>,
    /// Where any name of the policy will do, the first.
    names: Option<u64>,
}

impl Check {
    fn of(check: &Value, pinned: &Pinned) -> Self {
        let least = check["at_least"].as_u64();
        let (value, compared) = if let Some(bits) = check["int"].as_u64() {
            (bits, u32::MAX.into())
        } else if least.is_some() {
            (NOTHING, u32::MAX.into())
        } else if let Some(bits) = check["long"].as_u64() {
            (bits, u64::MAX)
        } else if let Some(text) = check["pinned"].as_str() {
            (pinned.address(text), u64::MAX)
        } else if check["policy_name"] == true {
            // The first stays empty.
            (pinned.policy_names + 64, u64::MAX)
        } else {
            assert_eq!(check["name_buffer"], true, "{check}");
            (pinned.name, u64::MAX)
        };
        let names = (check["policy_name"] == true).then_some(pinned.policy_names);
        Self {
            argument: usize::try_from(check["argument"].as_u64().unwrap()).unwrap(),
            value,
            compared,
            least,
            names,
        }
    }

    fn holds(&self, arguments: &Arguments) -> bool {
        let given = arguments[self.argument] & self.compared;
        match (self.least, self.names) {
            (Some(least), _) => given >= least,
            (None, Some(first)) => {
                let beyond = given.checked_sub(first);
                beyond.is_some_and(|beyond| beyond < 256 * 64 && beyond.is_multiple_of(64))
            }
            (None, None) => given == self.value & self.compared,
        }
    }
}

/// One call and its allowed forms.
struct Call {
    name: String,
    number: c_long,
    forms: Vec<Vec<Check>>,
}

impl Call {
    fn allows(&self, arguments: &Arguments) -> bool {
        let mut forms = self.forms.iter();
        forms.any(|form| form.iter().all(|check| check.holds(arguments)))
    }

    /// Each form, and each with garbage where the kernel reads an `int`.
    fn allowed(&self) -> Vec<Arguments> {
        let garbage = |garbage: u64| {
            self.forms.iter().map(move |form| {
                let mut arguments = [NOTHING; 6];
                for check in form {
                    arguments[check.argument] = check.value | (garbage & !check.compared);
                }
                arguments
            })
        };
        garbage(0).chain(garbage(0xdead_beef << 32)).collect()
    }

    /// What differs from a form in one argument and is no other form: by a bit, and by the
    /// address of another string, both once for each value that a form compares with.
    fn refused(&self, pinned: &Pinned, elsewhere: u64, bits: &[u32]) -> Vec<Arguments> {
        let mut refused = Vec::new();
        let mut seen = BTreeSet::new();
        for (form, &allowed) in self.forms.iter().zip(&self.allowed()) {
            for check in form {
                let is_new = seen.insert((check.argument, check.value));
                let bits = if is_new { bits } else { &[] };
                let others = bits.iter().map(|bit| check.value ^ 1 << bit);
                let is_pointer = is_new && check.compared == u64::MAX;
                let pointers = pinned.strings.values().copied();
                let pointers = pointers
                    .chain([pinned.name, elsewhere])
                    .filter(|_| is_pointer);
                let below = check.least.map(|least| least - 1);
                // Before, after and within the names.
                let beside = check.names.into_iter();
                let beside = beside.flat_map(|first| [first - 64, first + 256 * 64, first + 65]);
                for value in others
                    .chain([0, u64::MAX])
                    .chain(below)
                    .chain(beside)
                    .chain(pointers)
                {
                    let mut arguments = allowed;
                    arguments[check.argument] = value;
                    if !self.allows(&arguments) && !refused.contains(&arguments) {
                        refused.push(arguments);
                    }
                }
            }
        }
        refused
    }
}

/// The calls of a role that its table allows in some forms only.
fn calls(scene: &Scene<'_>, role: Role, pinned: &Pinned) -> Vec<Call> {
    let mut calls: BTreeMap<c_long, Call> = BTreeMap::new();
    let mut free = Vec::new();
    let table = scene.table(role);
    for entry in items(&table["calls"]) {
        let number = entry["number"].as_i64().unwrap();
        let forms = items(&entry["forms"]);
        if forms.is_empty() {
            free.push(number);
        }
        let call = calls.entry(number).or_insert_with(|| Call {
            name: entry["call"].as_str().unwrap().to_owned(),
            number,
            forms: Vec::new(),
        });
        call.forms.extend(forms.iter().map(|form| {
            let checks = items(form).iter();
            checks.map(|check| Check::of(check, pinned)).collect()
        }));
    }
    calls.retain(|number, _| !free.contains(number));
    assert!(calls.len() > 5);
    calls.into_values().collect()
}

pub(super) fn attack_29_passes_no_other_form(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    Pinned::are_named()?;
    let mut scene = Scene::start(sandbox);
    // A fork is cheap, a connection is not.
    let bits: Vec<u32> = match role {
        Role::Gate | Role::Warden | Role::Locker => (0..u64::BITS).collect(),
        _ => vec![0, 15, 33],
    };
    unchanged(|| {
        let mut victims = Victims::of(&scene, role);
        let (mut puppet, wire) = victims.next(&scene);
        // Every process of the helper has them at the same addresses.
        let pinned = Pinned::of(&puppet, &scene);
        let elsewhere = puppet.place(&[0; 64]);
        let calls = calls(&scene, role, &pinned);
        for call in &calls {
            for arguments in call.allowed() {
                // A mounter's context has that number; the warden has a socket there, and
                // would wait for what nobody sends.
                if role == Role::Warden && call.number == libc::SYS_read && arguments[0] != NOTHING
                {
                    continue;
                }
                let outcome = puppet.syscall(call.number, &arguments);
                let passes = matches!(outcome, Outcome::Returned(_));
                assert!(passes, "{} {arguments:x?}: {outcome:?}", call.name);
            }
        }
        drop((puppet, wire));
        for call in &calls {
            for arguments in call.refused(&pinned, elsewhere, &bits) {
                let (mut puppet, _wire) = victims.next(&scene);
                let outcome = puppet.syscall(call.number, &arguments);
                let killed = outcome == Outcome::Killed(Signal::SIGSYS);
                assert!(killed, "{} {arguments:x?}: {outcome:?}", call.name);
            }
        }
        victims.release();
    });
    scene.others_are_served();
    Ok(())
}
