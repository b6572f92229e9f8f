//! The quickstart: a helper in a mount namespace of its own, and a process
//! without any privilege that mounts through it.
//!
//! ```text
//! cargo run --release --example quickstart              a tour that checks each step
//! cargo run --release --example quickstart -- --shell   a shell in that namespace
//! ```
//!
//! It works for root and for any other user, and needs no other program. This
//! one file is all of them: which it is depends on the name it is started by.
//!
//! ```text
//!   quickstart ------ starts ------> mountwardend    in a mount namespace of its own
//!       |                                 ^
//!       '-- starts, without privilege --> quickstart-tour or quickstart-shell
//! ```
//!
//! Nothing is ever mounted in the namespace of the machine.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "they are banned in the helper; the quickstart makes its own file tree and starts it"
)]

mod failure;
mod guest;
mod helper;
mod kernel;
mod page;
mod shell;
mod signals;
mod stage;
mod tour;

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use nix::sys::stat::{Mode, umask};

use crate::failure::{Context, Failure};
use crate::guest::Guest;
use crate::helper::Helper;
use crate::page::Page;
use crate::signals::Signals;
use crate::stage::Stage;

const USAGE: &str = "\
quickstart: mounts as a process without privilege, and shows each step

Usage: quickstart [--shell]

  --shell  A shell in the quickstart's namespace, to try it by hand
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    let result = match name.to_str() {
        Some("mountwardend") => return mountwarden_helper::run(std::env::args_os()),
        Some("mountwarden") => return mountwarden_client::cli::main(),
        Some(guest::JOIN) => signals::unblock().and_then(|()| guest::join(&rest)),
        Some(tour::NAME) => signals::unblock().and_then(|()| tour::run(&rest)),
        Some(shell::NAME) => signals::unblock().and_then(|()| shell::run(&rest)),
        _ => match rest.iter().map(|word| word.to_str()).collect::<Vec<_>>()[..] {
            [] => quickstart(false),
            [Some("--shell")] => quickstart(true),
            [Some("--help" | "-h")] => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprint!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn quickstart(shell: bool) -> Result<(), Failure> {
    // Whatever the user's is: the helper trusts nothing that others can write,
    // and its service user must be able to search what is made here.
    umask(Mode::from_bits_truncate(0o022));
    let signals = Signals::block()?;
    let page = Page::new();
    let guest = Guest::of_starter();
    page.title("mountwarden quickstart")?;
    page.text(
        "A process without any privilege mounts what a policy grants it. The helper that does it",
    )?;
    page.text(
        "holds CAP_SYS_ADMIN and nothing else. All of it is in a mount namespace of its own.",
    )?;

    // Opened before anything else: a descriptor shows the namespace that it was
    // opened in, so through this one the tour sees the mounts of the machine.
    let machine = std::fs::File::open("/proc/self/mountinfo").or_fail("read the mount table")?;
    let mut stage = Stage::set(&guest, &page)?;
    let helper = Helper::start(&mut stage, &guest, &signals)?;
    page.title("The helper")?;
    page.item("started by", guest.describe())?;
    page.item("directory", stage.base().display())?;
    page.item("policy", guest.policy_in_words())?;
    let words = helper::first_words(&stage.logged()?).unwrap_or_default();
    page.item("says", stage.shortened(&words))?;

    let mut command = if shell {
        let mut command = guest.command(&stage, helper.pid(), shell::NAME);
        command.arg(stage.log());
        command
    } else {
        let mut command = guest.command(&stage, helper.pid(), tour::NAME);
        command.stdin(Stdio::from(machine));
        command
    };
    let child = command
        .spawn()
        .or_fail("start the process without privilege")?;
    let ended = signals.wait(child, shell)?;
    if !shell && !ended.success() {
        // The tour has said what went wrong; the helper's side of it is here.
        return Err(stage.failed(&format!("the tour failed ({ended})"), &[]));
    }
    if !shell {
        page.title("What the audit log says")?;
        for line in helper::audit_sample(&stage.logged()?) {
            page.wrapped(&line)?;
        }
    }
    helper.stop(&mut stage)?;
    stage.strike()?;
    let last = if shell {
        "quickstart: the helper has stopped; nothing is left mounted."
    } else {
        "quickstart: everything worked; nothing is left mounted."
    };
    page.end(last)
}
