//! Runs a case under `ptrace(2)`, and tells which entries of the filters' tables
//! its helpers used.
//!
//! Filters stack, and a call is judged by all that are in force: those that the
//! process installed and those that its ancestors did. A filter's role is the name
//! of the process that installs it. The tracer stops every process before and after
//! each call, which a case may notice; whether it passes does not matter here.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cases::confinement::items;
use crate::kernel::status_field;
use crate::roles;
use crate::source_lines::Lines;

/// Begins the line of a call that a filter stops: a role, and the call's number.
pub(crate) const FORBIDDEN: &str = "forbidden";

/// Begins the last line: the case's exit status.
pub(crate) const ENDED: &str = "ended";

/// Begins the line of a line of the program: a role, a file and a number.
pub(crate) const LINE: &str = "line";

/// What a case has not used by then it will not use: the rest are repetitions.
const LIMIT: Duration = Duration::from_secs(30);

/// What a traced process may do next.
#[derive(Clone)]
enum Watch {
    /// It is not the helper: only its children matter.
    Children,
    /// It is the helper, under the filters of these roles.
    Calls(Vec<String>),
}

/// A call, as it was about to be made.
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) arguments: [u64; 6],
}

/// One way in which a role's filter lets a call through.
struct Form {
    role: String,
    key: String,
    checks: Vec<Value>,
}

/// The tracer of one case.
struct Tracer {
    /// The forms of all tables, by the number of the call.
    forms: HashMap<u64, Vec<Form>>,
    output: File,
    watched: HashMap<Pid, Watch>,
    /// New processes that were seen before their parents told of them.
    early: BTreeSet<Pid>,
    /// Processes that a signal has stopped.
    stopped: BTreeSet<Pid>,
    used: BTreeSet<String>,
    /// Calls that no form allows, by who was about to make them: the kernel tells whether
    /// a filter stopped them, or the process was killed while it was looked at.
    doubtful: HashMap<Pid, Vec<String>>,
    /// The program's lines, where they are asked for too.
    lines: Option<Lines>,
}

/// The name of one form of an entry, as tracer and case exchange it.
pub(crate) fn key(role: &str, entry: usize, form: usize) -> String {
    format!("{role} {entry} {form}")
}

/// `TABLES OUTPUT [PROGRAM]`: runs the case that the environment names and writes a
/// line for whatever is used for the first time; with the helper's program also for
/// each of its lines that runs in a role, under the role's own filter.
pub(crate) fn trace(arguments: &[String]) {
    let tables = fs::read_to_string(&arguments[0]).unwrap();
    let mut tracer = Tracer {
        forms: forms(&serde_json::from_str(&tables).unwrap()),
        output: File::create(&arguments[1]).unwrap(),
        watched: HashMap::new(),
        early: BTreeSet::new(),
        stopped: BTreeSet::new(),
        used: BTreeSet::new(),
        doubtful: HashMap::new(),
        lines: arguments.get(2).map(|program| Lines::of(program.as_ref())),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command
        .env(roles::ROLE, "held")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let case = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let options = ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(case, options).unwrap();
    tracer.watched.insert(case, Watch::Children);
    drop(child.stdin.take());
    tracer.run(case);
    // It was waited for already; what else it started is killed with this process.
    let _ = child.try_wait();
}

/// Waits until the tracer has it, then becomes the case.
pub(crate) fn held() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let error = command.env_remove(roles::ROLE).stdin(Stdio::null()).exec();
    panic!("{error}");
}

impl Tracer {
    /// Until the case has ended.
    fn run(&mut self, case: Pid) {
        loop {
            self.wake_continued();
            let polls = if self.stopped.is_empty() {
                WaitPidFlag::empty()
            } else {
                std::thread::sleep(Duration::from_millis(1));
                WaitPidFlag::WNOHANG
            };
            let status = waitpid(None, Some(WaitPidFlag::__WALL | polls)).unwrap();
            self.handle(status);
            if let WaitStatus::Exited(pid, code) = status
                && pid == case
            {
                self.note(format!("{ENDED} {code}"));
                return;
            }
        }
    }

    fn handle(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                self.executed(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceEvent(pid, signal, libc::PTRACE_EVENT_STOP) => {
                if signal != Signal::SIGTRAP {
                    self.stopped.insert(pid);
                } else if self.watched.contains_key(&pid) {
                    self.go_on(pid, None);
                } else {
                    self.early.insert(pid);
                }
            }
            WaitStatus::PtraceEvent(pid, ..) => {
                self.forked(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceSyscall(pid) => {
                self.called(pid);
                self.go_on(pid, None);
            }
            WaitStatus::Stopped(pid, Signal::SIGTRAP) if self.hit(pid) => self.go_on(pid, None),
            WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                let doubtful = self.doubtful.remove(&pid).unwrap_or_default();
                if let WaitStatus::Signaled(_, Signal::SIGSYS, _) = status {
                    for line in doubtful {
                        self.note(line);
                    }
                }
                self.watched.remove(&pid);
                self.stopped.remove(&pid);
            }
            _ => {}
        }
    }

    /// A process that was killed meanwhile is not there to go on.
    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let _ = match self.watched.get(&pid) {
            Some(Watch::Calls(_)) => ptrace::syscall(pid, signal),
            _ => ptrace::cont(pid, signal),
        };
    }

    /// A stopped process that is traced sleeps until its tracer wakes it; the signal
    /// that should is pending then.
    fn wake_continued(&mut self) {
        let continued = |pid: &Pid| {
            let pending =
                status_field(*pid, "ShdPnd").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
            pending.is_none_or(|mask| mask & (1 << (libc::SIGCONT - 1)) != 0)
        };
        let (awake, asleep) = self.stopped.iter().copied().partition(continued);
        self.stopped = asleep;
        let awake: BTreeSet<Pid> = awake;
        for pid in awake {
            self.go_on(pid, None);
        }
    }

    fn forked(&mut self, parent: Pid) {
        let (Ok(child), Some(watch)) = (ptrace::getevent(parent), self.watched.get(&parent)) else {
            return;
        };
        let child = Pid::from_raw(i32::try_from(child).unwrap());
        self.watched.insert(child, watch.clone());
        if self.early.remove(&child) {
            self.go_on(child, None);
        }
    }

    fn executed(&mut self, pid: Pid) {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program.file_name() == Some("mountwardend".as_ref()) {
            self.watched.insert(pid, Watch::Calls(Vec::new()));
            arch::without_vdso(pid);
        }
    }

    fn called(&mut self, pid: Pid) {
        let (Ok(info), Some(call)) = (ptrace::syscall_info(pid), arch::call(pid)) else {
            return;
        };
        let installs = call.number == u64::try_from(libc::SYS_seccomp).unwrap();
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            self.judge(pid, &call);
            if let (true, Some(Watch::Calls(filters))) = (installs, self.watched.get_mut(&pid)) {
                filters.push(role_of(pid));
            }
        } else if let (true, Some(lines)) = (installs, &mut self.lines) {
            lines.arm(pid);
        }
    }

    /// Matches a call with the filters that it is under.
    fn judge(&mut self, pid: Pid, call: &Call) {
        let Some(Watch::Calls(filters)) = self.watched.get(&pid) else {
            return;
        };
        let mut doubtful = Vec::new();
        for role in filters.clone() {
            let forms = self.forms.get(&call.number).into_iter().flatten();
            let seen: Vec<String> = forms
                .filter(|form| form.role == role)
                .filter(|form| form.checks.iter().all(|check| holds(check, pid, call)))
                .map(|form| form.key.clone())
                .collect();
            if seen.is_empty() {
                doubtful.push(format!("{FORBIDDEN} {role} {}", call.number));
            }
            for line in seen {
                self.note(line);
            }
        }
        self.doubtful.insert(pid, doubtful);
    }

    /// Whether a process stopped at the beginning of a line. What a child does before
    /// its own filter is nobody's.
    fn hit(&mut self, pid: Pid) -> bool {
        let Some(line) = self.lines.as_mut().and_then(|lines| lines.hit(pid)) else {
            return false;
        };
        let line = line.to_owned();
        if let Some(Watch::Calls(filters)) = self.watched.get(&pid)
            && filters.last() == Some(&role_of(pid))
        {
            self.note(format!("{LINE} {} {line}", role_of(pid)));
        }
        true
    }

    fn note(&mut self, line: String) {
        if !self.used.contains(&line) {
            writeln!(self.output, "{line}").unwrap();
            self.used.insert(line);
        }
    }
}

/// The role that a process is named after.
fn role_of(pid: Pid) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_start_matches("mw-").trim_end().to_owned()
}

/// The forms of the tables that `mountwardend confinement --json` printed.
fn forms(tables: &Value) -> HashMap<u64, Vec<Form>> {
    let mut forms: HashMap<u64, Vec<Form>> = HashMap::new();
    for table in items(&tables["roles"]) {
        let role = table["role"].as_str().unwrap();
        for (index, entry) in items(&table["calls"]).iter().enumerate() {
            let of_call = forms.entry(entry["number"].as_u64().unwrap()).or_default();
            let any_arguments = [Value::Array(Vec::new())];
            let of_entry = match items(&entry["forms"]) {
                [] => &any_arguments,
                forms => forms,
            };
            for (number, checks) in of_entry.iter().enumerate() {
                of_call.push(Form {
                    role: role.to_owned(),
                    key: key(role, index, number),
                    checks: items(checks).to_vec(),
                });
            }
        }
    }
    forms
}

/// Whether an argument is what a check says. The address of a string differs from
/// process to process, so what it holds is compared.
fn holds(check: &Value, pid: Pid, call: &Call) -> bool {
    let index = usize::try_from(check["argument"].as_u64().unwrap()).unwrap();
    let value = call.arguments[index];
    if let Some(bits) = check["int"].as_u64() {
        value & u64::from(u32::MAX) == bits
    } else if let Some(bits) = check["at_least"].as_u64() {
        value & u64::from(u32::MAX) >= bits
    } else if let Some(bits) = check["long"].as_u64() {
        value == bits
    } else if let Some(text) = check["pinned"].as_str() {
        let wanted = [text.as_bytes(), b"\0"].concat();
        wanted
            .chunks(8)
            .zip((value..).step_by(8))
            .all(|(bytes, at)| {
                peek(pid, at).is_some_and(|word| word.to_ne_bytes().starts_with(bytes))
            })
    } else {
        value != 0
    }
}

/// A word of a stopped process's memory.
fn peek(pid: Pid, address: u64) -> Option<u64> {
    ptrace::read(pid, pointer(address))
        .ok()
        .map(i64::cast_unsigned)
}

fn pointer(address: u64) -> ptrace::AddressType {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap())
}

/// Whether this machine can trace its helpers.
pub(crate) fn is_able() -> bool {
    cfg!(target_arch = "x86_64")
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use super::{Call, Pid, peek, pointer, ptrace};

    pub(super) fn call(pid: Pid) -> Option<Call> {
        let registers = ptrace::getregs(pid).ok()?;
        Some(Call {
            number: registers.orig_rax,
            arguments: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
        })
    }

    /// Takes the vDSO from a program that has just been started, as if the kernel
    /// had a clock that cannot be read without a call (`vdso(7)`): its entry in the
    /// auxiliary vector, above the environment on the stack, becomes one to ignore.
    pub(super) fn without_vdso(pid: Pid) {
        const AT_IGNORE: i64 = 1;
        const AT_SYSINFO_EHDR: u64 = 33;
        let mut at = ptrace::getregs(pid).unwrap().rsp;
        // The ends of the arguments and of the environment.
        for _ in 0..2 {
            at += 8;
            while peek(pid, at) != Some(0) {
                at += 8;
            }
        }
        at += 8;
        while let Some(kind) = peek(pid, at).filter(|&kind| kind != 0) {
            if kind == AT_SYSINFO_EHDR {
                ptrace::write(pid, pointer(at), AT_IGNORE).unwrap();
            }
            at += 16;
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use super::{Call, Pid};

    pub(super) fn call(_: Pid) -> Option<Call> {
        None
    }

    pub(super) fn without_vdso(_: Pid) {}
}

/// Runs a case under the tracer until it ends or `enough` says so, and gives what
/// the tracer wrote. What the case says stands beside it.
pub(crate) fn trace_case(
    case: &str,
    arguments: &[&Path],
    scratch: &Path,
    enough: impl Fn() -> bool,
) -> String {
    let place = tempfile::Builder::new()
        .prefix("mountwarden-")
        .tempdir_in("/tmp")
        .unwrap();
    let output = scratch.join(case);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([arguments[0], &output])
        .args(&arguments[1..])
        .env(roles::ROLE, "trace")
        .env(crate::CASE, case)
        .env(crate::PLACE, place.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(output.with_extension("said")).unwrap())
        .spawn()
        .unwrap();
    let end = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if enough() || Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::read_to_string(output).unwrap_or_default()
}
