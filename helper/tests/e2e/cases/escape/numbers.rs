//! Every number that is a system call, or could become one, beside a role's table.

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::libc::c_long;
use nix::sys::signal::Signal;

use super::{Role, Scene, Victims};
use crate::Skip;
use crate::cases::confinement::items;
use crate::kernel::unchanged;
use crate::puppet::Outcome;
use crate::sandbox::Sandbox;

/// Above every number that Linux has, with room for those to come.
const HIGHEST: c_long = 550;
/// `__X32_SYSCALL_BIT`, which makes another call of every number.
const X32: c_long = 0x4000_0000;
const URETPROBE: c_long = 335;
const UPROBE: c_long = 336;

pub(super) fn attack_28_keeps_to_its_table(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    let mut scene = Scene::start(sandbox);
    let name = role.name();
    let listed = listed(&scene, role);
    let numbers = (0..=HIGHEST)
        .filter(|number| !listed.contains(number))
        .chain((0..=HIGHEST).map(|number| number | X32))
        .chain([-1, c_long::from(i32::MIN), c_long::from(i32::MAX)]);
    unchanged(|| {
        let mut victims = Victims::of(&scene, role);
        for number in numbers {
            let (mut puppet, _wire) = victims.next(&scene);
            let outcome = puppet.syscall(number, &[]);
            let stopped = match outcome {
                Outcome::Killed(Signal::SIGSYS) => true,
                // Newer kernels ask no filter about these two, which end or refuse
                // whoever is not the kernel's own probe; 7.3 says so by another error.
                Outcome::Killed(Signal::SIGILL) => number == URETPROBE,
                Outcome::Returned(Err(Errno::ENXIO | Errno::EPROTO)) => number == UPROBE,
                _ => false,
            };
            assert!(
                stopped,
                "{name}: {number} is not in its table, and {outcome:?}"
            );
        }
        victims.release();
    });
    scene.others_are_served();
    Ok(())
}

/// The numbers that the table of a role lists, as the program prints it.
fn listed(scene: &Scene<'_>, role: Role) -> BTreeSet<c_long> {
    let table = scene.table(role);
    let calls = items(&table["calls"]).iter();
    let numbers: BTreeSet<c_long> = calls
        .map(|entry| entry["number"].as_i64().unwrap())
        .collect();
    assert_eq!(table["system_calls"], numbers.len());
    numbers
}
