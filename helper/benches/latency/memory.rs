//! The memory of the helper's processes, each shared page counted in parts (PSS
//! in `proc_pid_smaps(5)`).

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use crate::pairs::Pair;
use crate::report;
use crate::server::{Place, Server};
use crate::{Outcome, Rounds};

const KIB_PER_MIB: f64 = 1024.0;

/// The connections of the largest count.
const MANY: usize = 16;

pub(crate) fn run(place: &Place, server: &Server, _: Rounds) -> Outcome<()> {
    report::section("Memory (PSS)");
    settle();
    let Some(idle) = Held::by(server)? else {
        println!("  SKIPPED: the kernel does not let this user read it (CAP_SYS_PTRACE)");
        return Ok(());
    };
    let mut pairs = vec![Pair::new(place, server)?];
    for pair in &mut pairs {
        pair.bind()?;
    }
    settle();
    let one = Held::by(server)?.unwrap_or_default();
    while pairs.len() < MANY {
        let mut pair = Pair::new(place, server)?;
        pair.bind()?;
        pairs.push(pair);
    }
    settle();
    let many = Held::by(server)?.unwrap_or_default();
    idle.print("no connection");
    one.print("1 connection, after a pair");
    many.print(&format!("{MANY} connections, after a pair each"));
    report::target(
        "gate + warden idle, in MiB",
        idle.lasting() / KIB_PER_MIB,
        4.0,
    );
    report::target(
        "session + mounter of one, in MiB",
        one.of_connections() / KIB_PER_MIB,
        1.0,
    );
    let others = u32::try_from(pairs.len().saturating_sub(1))?;
    let each = (many.all() - one.all()) / f64::from(others);
    report::target("each further connection, in MiB", each / KIB_PER_MIB, 1.0);
    Ok(())
}

/// Waits until processes that start or end have done so.
fn settle() {
    std::thread::sleep(Duration::from_millis(200));
}

/// KiB by role.
#[derive(Default)]
pub(crate) struct Held {
    gate: f64,
    warden: f64,
    sessions: f64,
    mounters: f64,
}

impl Held {
    /// What each role of the helper holds; `None` where that may not be read.
    pub(crate) fn by(server: &Server) -> Outcome<Option<Self>> {
        let mut held = Self::default();
        for process in family(server)? {
            let path = format!("/proc/{}/smaps_rollup", process.pid);
            let rollup = match fs::read_to_string(path) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
                // It has ended since it was found.
                Err(_) if !process.lasts() => continue,
                other => other?,
            };
            let pss = field(&rollup, "Pss:").ok_or("smaps_rollup has no PSS")?;
            let pss = f64::from(u32::try_from(pss)?);
            match process.name.as_str() {
                "mw-gate" => held.gate += pss,
                "mw-warden" => held.warden += pss,
                "mw-session" => held.sessions += pss,
                "mw-mounter" => held.mounters += pss,
                other => return Err(format!("the helper has a process {other:?}").into()),
            }
        }
        Ok(Some(held))
    }

    pub(crate) fn lasting(&self) -> f64 {
        self.gate + self.warden
    }

    fn of_connections(&self) -> f64 {
        self.sessions + self.mounters
    }

    fn all(&self) -> f64 {
        self.lasting() + self.of_connections()
    }

    fn print(&self, when: &str) {
        println!(
            "  {when:<36} gate {} + warden {} + sessions {} + mounters {} = {} KiB",
            self.gate,
            self.warden,
            self.sessions,
            self.mounters,
            self.all()
        );
    }
}

/// A process, as `/proc/PID/status` tells.
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    name: String,
}

impl Process {
    /// Whether it serves no one connection.
    pub(crate) fn lasts(&self) -> bool {
        ["mw-gate", "mw-warden"].contains(&self.name.as_str())
    }
}

/// The processes of the helper.
pub(crate) fn family(server: &Server) -> Outcome<Vec<Process>> {
    let mut processes = processes()?;
    let mut family = vec![server.pid()];
    // Twice: a session's parent may come after it.
    for _ in 0..2 {
        let children = processes.iter().filter(|it| family.contains(&it.parent));
        let children: Vec<u32> = children.map(|it| it.pid).collect();
        family.extend(children);
    }
    processes.retain(|it| family.contains(&it.pid));
    Ok(processes)
}

fn processes() -> Outcome<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        // One that has ended since the directory was read is none of ours.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
        let parent = field(&status, "PPid:").and_then(|it| u32::try_from(it).ok());
        if let (Some(name), Some(parent)) = (name, parent) {
            found.push(Process {
                pid,
                parent,
                name: name.trim().to_owned(),
            });
        }
    }
    Ok(found)
}

/// The number after a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
