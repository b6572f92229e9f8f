//! End-to-end tests: the real helper, real clients, real mounts.
//!
//! Each case runs in a process of its own, which enters a private mount
//! namespace before anything else (as a normal user: in a user namespace too),
//! so nothing is ever mounted in the namespace that the tests were started in.
//! The program is also the processes that the cases need: it is started again
//! under the name of a case or of a role.
#![forbid(unsafe_code)]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unnecessary_wraps,
    clippy::unwrap_used,
    reason = "a case fails by panicking, works on paths, and has the signature of all cases"
)]

mod cases;
mod daemon;
mod devices;
mod fuse;
mod holder;
mod honest;
mod hostile;
mod keeper;
mod kernel;
mod libfuse;
mod lines;
mod misleading;
mod oddities;
#[cfg(target_arch = "x86_64")]
mod puppet;
mod quobyte;
mod racing;
mod roles;
mod sandbox;
mod served;
mod source_lines;
mod stick;
#[cfg(target_arch = "x86_64")]
mod symbols;
mod tracer;
mod wire;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::sandbox::Sandbox;

/// Names the case that a process is.
const CASE: &str = "MOUNTWARDEN_E2E_CASE";
/// Names the directory that a case covers with its scratch file system.
const PLACE: &str = "MOUNTWARDEN_E2E_PLACE";
/// The exit status of a case that this machine cannot run.
const SKIPPED: u8 = 77;
/// No case takes a tenth of this on an idle machine.
const TIMEOUT: Duration = Duration::from_mins(10);
/// How many times longer than on an idle machine things may take; for emulated ones.
const SLOWNESS: &str = "MOUNTWARDEN_E2E_SLOWNESS";

/// Why a case cannot run here.
pub(crate) struct Skip(pub(crate) String);

/// What a case does.
pub(crate) type Case = fn(&Sandbox) -> Result<(), Skip>;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match std::path::Path::new(&name)
        .file_name()
        .and_then(OsStr::to_str)
    {
        Some("mountwarden") => return mountwarden_client::cli::main(),
        Some("fusermount" | "fusermount3") => return mountwarden_client::fusermount::main(),
        Some(name @ (quobyte::PROGRAM | quobyte::SERVER)) => return quobyte::main(name),
        _ => {}
    }
    if let Some(role) = std::env::var_os(roles::ROLE) {
        return roles::play(&role.to_string_lossy());
    }
    if let Some(case) = std::env::var_os(CASE) {
        return run_case(&case.to_string_lossy());
    }
    let trials = cases::all()
        .into_iter()
        .map(|(name, _)| Trial::ignorable_test(name, move || supervise(name)))
        .collect();
    let mut arguments = Arguments::from_args();
    // Cases measure nothing, but each starts a helper: a few at a time is enough.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn slowness() -> u32 {
    std::env::var(SLOWNESS).map_or(1, |text| text.parse().expect(SLOWNESS))
}

/// A time that things may take here.
pub(crate) fn slowly(time: Duration) -> Duration {
    time * slowness()
}

/// Whether the processor is an emulated one.
pub(crate) fn is_slow() -> bool {
    slowness() >= 10
}

/// Runs one case in this process.
fn run_case(wanted: &str) -> ExitCode {
    let Some((_, case)) = cases::all().into_iter().find(|(name, _)| *name == wanted) else {
        eprintln!("there is no case {wanted}");
        return ExitCode::FAILURE;
    };
    let result = Sandbox::enter().and_then(|sandbox| case(&sandbox));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Skip(reason)) => {
            println!("SKIPPED: {reason}");
            ExitCode::from(SKIPPED)
        }
    }
}

/// Runs one case in a process of its own and says how it went.
fn supervise(name: &'static str) -> Result<Completion, Failed> {
    let program = std::env::current_exe()?;
    let output = tempfile::tempfile()?;
    // Not in `TMPDIR`, which may be one user's alone.
    let place = tempfile::Builder::new()
        .prefix("mountwarden-")
        .tempdir_in("/tmp")?;
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
    let mut child = Command::new(program)
        .env(CASE, name)
        .env(PLACE, place.path())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    let timeout = slowly(TIMEOUT) + racing::seconds().unwrap_or_default();
    let end = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Err(format!("took more than {timeout:?}\n{}", read(output)?).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = read(output)?;
    if status.success() {
        for told in text.lines().filter_map(|line| line.strip_prefix("RACE: ")) {
            eprintln!("{name}: {told}");
        }
        return Ok(Completion::Completed);
    }
    if status.code() == Some(i32::from(SKIPPED)) {
        let reason = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("SKIPPED: "));
        let reason = reason.unwrap_or("no reason given").to_owned();
        eprintln!("SKIPPED {name}: {reason}");
        return Ok(Completion::ignored_with(reason));
    }
    Err(format!("{status}\n{text}").into())
}

fn read(mut output: std::fs::File) -> std::io::Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
