//! Volumes: uses across processes, some of which crash.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::Skip;
use crate::keeper::{Keeper, POLICY};
use crate::kernel::{self, unchanged};
use crate::racing::Random;
use crate::roles::read_line;
use crate::sandbox::Sandbox;

/// A process that holds the volume; how many uses it had then.
fn hold(keeper: &Keeper<'_>) -> (Child, String) {
    let mut command = keeper.user(&["hold"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let uses = read_line(child.stdout.as_mut().unwrap());
    (child, uses)
}

/// Lets it go; what came of it.
fn released(mut child: Child) -> String {
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let how = read_line(child.stdout.as_mut().unwrap());
    assert!(child.wait().unwrap().success());
    how
}

fn uses(keeper: &Keeper<'_>) -> u64 {
    let (_, found) = keeper.ask(&["validate", "disk-1"]);
    found["uses"].as_u64().unwrap()
}

pub(crate) fn held_uses_end_with_their_process(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    let (first, one) = hold(&keeper);
    let (second, two) = hold(&keeper);
    assert_eq!((one.as_str(), two.as_str()), ("1", "2"));
    keeper.done(&["connect", "disk-2", "--use", "vm-2"]);
    assert_eq!(uses(&keeper), 3);
    assert_eq!(unchanged(|| released(first)), "StillUsed, 2");
    keeper.done(&["disconnect", "disk-2", "--use", "vm-2"]);
    assert_eq!(released(second), "Unmounted, 0");
    keeper.all_is_gone();
    // Killed, it leaves the mount to whoever comes next, and nothing to count.
    for next in [["connect", "disk-1"], ["disconnect", "disk-1"]] {
        let (mut crashed, _) = hold(&keeper);
        assert_eq!(uses(&keeper), 1);
        crashed.kill().unwrap();
        crashed.wait().unwrap();
        assert_eq!(uses(&keeper), 0);
        let value = keeper.done(&next);
        let connects = next[0] == "connect";
        assert_eq!(value["uses"], usize::from(connects));
        assert_eq!(
            value["outcome"],
            if connects {
                "already-good"
            } else {
                "unmounted"
            }
        );
        if connects {
            keeper.done(&["disconnect", "disk-1"]);
        }
        keeper.all_is_gone();
        assert_eq!(
            fs::read_dir(keeper.records().join("held")).unwrap().count(),
            0
        );
    }
    Ok(())
}

/// They end when somebody says so, or with the machine.
pub(crate) fn named_uses_outlive_a_crash(sandbox: &Sandbox) -> Result<(), Skip> {
    let keeper = Keeper::start(sandbox)?;
    // The command that has connected it is gone, and so could be who has called that.
    keeper.done(&["connect", "disk-1", "--use", "vm-1"]);
    keeper.done(&["connect", "disk-2", "--use", "vm-2"]);
    assert_eq!(uses(&keeper), 2);
    // Its server has crashed: it is still used.
    keeper.kill_server(&keeper.target());
    assert_eq!(uses(&keeper), 2);
    // As after a reboot, which ends each mount, too.
    fs::write(keeper.named("vm-1"), "another boot\n").unwrap();
    assert_eq!(uses(&keeper), 1);
    let ended = keeper.done(&["disconnect", "disk-2", "--use", "vm-2"]);
    assert_eq!(
        (&ended["outcome"], &ended["uses"]),
        (&json!("unmounted"), &json!(0))
    );
    assert!(!keeper.named("vm-1").exists());
    keeper.all_is_gone();
    Ok(())
}

/// All at once, of whom some are killed: nobody finds the volume gone that uses it, and in the end
/// the count is right.
pub(crate) fn two_hundred_processes(sandbox: &Sandbox) -> Result<(), Skip> {
    const ALL: usize = 200;
    const KILLED: usize = 50;
    let limits = "[limits]\nconnections_per_user = 500\nconnections = 1000\n\n[[grant]]";
    let keeper = Keeper::judged_by(sandbox, &POLICY.replacen("[[grant]]", limits, 1))?;
    let mut random = Random::told();
    let name = |number: usize| format!("process-{number}");
    let start = |number: usize, random: &mut Random| {
        let seed = random.next().to_string();
        let mut command = keeper.user(&["rounds", &name(number), &seed, "2"]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut processes: Vec<Child> = (0..ALL).map(|number| start(number, &mut random)).collect();
    let mut killed = BTreeSet::new();
    while killed.len() < KILLED {
        std::thread::sleep(Duration::from_millis(random.next() % 200));
        let number = random.below(ALL);
        // It may have ended already, which is as well.
        if killed.insert(number) {
            processes[number].kill().unwrap();
        }
    }
    for (number, process) in processes.into_iter().enumerate() {
        let output = process.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() || killed.contains(&number),
            "{number}: {error}"
        );
    }
    // A program whose client was killed may still mount: who comes next waits for it.
    let connected = keeper.done(&["connect", "disk-2", "--use", "last"]);
    kernel::only(&keeper.target());
    let left: Vec<usize> = (0..ALL)
        .filter(|&number| keeper.named(&name(number)).exists())
        .collect();
    assert!(
        left.iter().all(|number| killed.contains(number)),
        "{left:?} of {killed:?}"
    );
    println!("{} were killed in the midst of a use", left.len());
    assert_eq!(connected["uses"], left.len() + 1);
    assert_eq!(
        fs::read_dir(keeper.records().join("held")).unwrap().count(),
        0
    );
    for (number, others) in left.iter().zip((0..left.len()).rev()) {
        let ended = keeper.done(&["disconnect", "disk-1", "--use", &name(*number)]);
        assert_eq!(
            (&ended["outcome"], &ended["uses"]),
            (&json!("still-used"), &json!(others + 1))
        );
    }
    let ended = keeper.done(&["disconnect", "disk-2", "--use", "last"]);
    assert_eq!(
        (&ended["outcome"], &ended["uses"]),
        (&json!("unmounted"), &json!(0))
    );
    assert_eq!(
        fs::read_dir(keeper.records().join("named"))
            .unwrap()
            .count(),
        0
    );
    keeper.all_is_gone();
    Ok(())
}
