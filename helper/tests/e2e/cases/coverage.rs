//! The filters hold nothing that is not needed: every entry of their tables, and
//! every form of it, is used by some case.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mountwarden_helper::raw::running_abi;
use serde_json::Value;

use super::confinement::{items, tables};
use super::life::text_can_be_written;
use super::networked;
use crate::devices::Disk;
use crate::sandbox::Sandbox;
use crate::{Skip, fuse, tracer};

/// Cases that trace the helper themselves, or run others; those of other tables, which
/// older kernels have; and one in which libc tries what no role may call.
const UNTRACED: [&str; 4] = [
    "coverage::",
    "escape::",
    "mountinfo::",
    "exhaustion::attack_34_no_memory_left",
];

/// Cases of many rounds. What they use others use too, and when all is used the rest
/// is left out.
const LAST: [&str; 5] = [
    "races::",
    "deaths::",
    "paths::attack_06",
    "mounting::attack_10",
    "mounting::concurrent",
];

/// How many cases run at a time.
const THREADS: usize = 4;

/// Calls of which one libc makes the one and another the other, for the same thing.
const EITHER: [&str; 2] = ["newfstatat", "fstat"];

pub(crate) fn every_entry_is_used(sandbox: &Sandbox) -> Result<(), Skip> {
    if !sandbox.is_root {
        return Err(Skip("only root can trace the helper".to_owned()));
    }
    // Some entries are used by cases alone that take a FUSE server, or a device.
    drop(fuse::device()?);
    Disk::make(sandbox, "disk", "ext4")?;
    // And some by one case alone, which has a role abort.
    text_can_be_written()?;
    if !tracer::is_able() {
        return Err(Skip(
            "the tracer knows the registers of x86_64 alone".to_owned(),
        ));
    }
    if crate::is_slow() {
        return Err(Skip(
            "every case again, a call at a time, takes hours on an emulated processor".to_owned(),
        ));
    }
    if running_abi() < 6 {
        return Err(Skip(
            "some entries are used only where Landlock has ABI 6 (Linux 6.12)".to_owned(),
        ));
    }
    let printed = tables(sandbox);
    let file = sandbox.write("tables.json", &printed.to_string());
    let scratch = sandbox.make_dir("used");
    let mut cases = super::all();
    // Taken from the end.
    cases.sort_by_key(|(case, _)| !LAST.iter().any(|slow| case.starts_with(slow)));
    let cases = Mutex::new(cases);
    let seen: Mutex<BTreeSet<String>> = Mutex::default();
    let done = AtomicBool::new(false);
    let enough = || done.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((case, _)) = { cases.lock().unwrap().pop() } {
                    if !enough() && !UNTRACED.iter().any(|cases| case.starts_with(cases)) {
                        let lines = tracer::trace_case(case, &[&file], &scratch, enough);
                        let mut seen = seen.lock().unwrap();
                        seen.extend(lines.lines().map(str::to_owned));
                        done.store(unused(&printed, &seen).is_empty(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    let unused = unused(&printed, &seen);
    assert!(unused.is_empty(), "no case uses\n{}", unused.join("\n"));
    let stopped: Vec<_> = seen
        .iter()
        .filter(|line| line.starts_with(tracer::FORBIDDEN))
        .collect();
    assert!(
        stopped.is_empty(),
        "a filter stopped calls that are needed: {stopped:?}"
    );
    Ok(())
}

/// What no case used, as a person finds it in the tables.
fn unused(tables: &Value, used: &BTreeSet<String>) -> Vec<String> {
    let mut unused = Vec::new();
    // Without a server, a case gets no further than the name of the type.
    let served = networked::tree(networked::NFS).is_ok();
    for table in items(&tables["roles"]) {
        let role = table["role"].as_str().unwrap();
        let mut either = Vec::new();
        for (index, entry) in items(&table["calls"]).iter().enumerate() {
            if entry["granted"] == "network" && entry["call"] != "fsopen" && !served {
                continue;
            }
            let forms = items(&entry["forms"]);
            for number in 0..forms.len().max(1) {
                let is_used = used.contains(&tracer::key(role, index, number));
                if EITHER.contains(&entry["call"].as_str().unwrap()) {
                    either.push(is_used);
                } else if !is_used {
                    let form = forms.get(number).unwrap_or(&Value::Null);
                    unused.push(format!(
                        "{role}: {} ({}): {form}",
                        entry["call"], entry["why"]
                    ));
                }
            }
        }
        if !either.is_empty() && !either.contains(&true) {
            unused.push(format!("{role}: {}", EITHER.join(" or ")));
        }
    }
    unused
}
