//! The helper's process: started, waited for, stopped.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::failure::{Context, Failure};
use crate::guest::Guest;
use crate::kernel;
use crate::signals::Signals;
use crate::stage::Stage;

/// How long the helper may take until it serves; it takes milliseconds.
const START: Duration = Duration::from_secs(15);

/// How long it may take to stop: more than it gives its own children.
const STOP: Duration = Duration::from_secs(12);

const PAUSE: Duration = Duration::from_millis(5);

/// A helper that serves. Dropped, it is stopped.
pub(crate) struct Helper {
    child: Child,
    stopped: bool,
}

impl Helper {
    /// Starts the helper, and waits until it says that it serves.
    pub(crate) fn start(
        stage: &mut Stage,
        guest: &Guest,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let layout = stage.layout();
        let mut command = Command::new(layout.programs().join("mountwardend"));
        command.arg("serve");
        command.arg("--policy").arg(layout.policy());
        command.arg("--socket").arg(layout.socket());
        if guest.is_of_root() {
            command.args(["--user", "nobody"]);
        } else {
            command.arg("--userns");
        }
        let child = command
            // It may be a service's environment, whose sockets are not for it.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stage.log_for_helper()?)
            // Ctrl-C is for the quickstart, which then stops the helper in order.
            .process_group(0)
            .spawn()
            .or_fail("start the helper")?;
        let mut helper = Self {
            child,
            stopped: false,
        };
        helper.wait_until_it_serves(stage, guest, signals)?;
        Ok(helper)
    }

    fn wait_until_it_serves(
        &mut self,
        stage: &mut Stage,
        guest: &Guest,
        signals: &Signals,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        while first_words(&stage.logged()?).is_none() {
            if let Some(status) = self.child.try_wait().or_fail("wait for the helper")? {
                self.stopped = true;
                let message = format!("the helper did not start ({status})");
                return Err(stage.failed(&message, &kernel::advice(guest)));
            }
            if begun.elapsed() > START {
                let message = format!("the helper did not serve within {START:?}");
                return Err(stage.failed(&message, &kernel::advice(guest)));
            }
            signals.rest(PAUSE)?;
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as a service manager would, and checks that it ended well.
    pub(crate) fn stop(mut self, stage: &mut Stage) -> Result<(), Failure> {
        match self.end() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(stage.failed(&format!("the helper ended badly ({status})"), &[])),
            Err(error) => Err(error).or_fail("stop the helper"),
        }
    }

    fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.stopped = true;
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It has not been waited for, so its number is still its own.
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(PAUSE);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if !self.stopped {
            // Its namespace, and with it every mount there, ends with it.
            let _ = self.end();
        }
    }
}

/// What the helper said when it began to serve.
pub(crate) fn first_words(log: &str) -> Option<String> {
    records(log).find_map(|(record, _)| {
        let text = record.get("message")?.as_str()?;
        text.contains(" serves on ").then(|| text.to_owned())
    })
}

/// The latest lines of the audit log about a mount that was made and about a
/// request that was denied.
pub(crate) fn audit_sample(log: &str) -> Vec<String> {
    ["mounted", "denied"]
        .into_iter()
        .filter_map(|result| {
            records(log)
                .rfind(|(record, _)| record.get("result").and_then(Value::as_str) == Some(result))
                .map(|(_, line)| line.to_owned())
        })
        .collect()
}

/// The lines of the log that are records; those of a helper that does not start
/// are plain text.
fn records(log: &str) -> impl DoubleEndedIterator<Item = (Value, &str)> {
    log.lines()
        .filter_map(|line| Some((serde_json::from_str(line).ok()?, line)))
}
