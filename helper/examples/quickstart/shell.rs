//! `--shell`: the quickstart's namespace, to try by hand.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use crate::failure::{Context, Failure};
use crate::guest::become_it;
use crate::page::Page;
use crate::stage::Layout;

/// The name of the process that becomes the shell.
pub(crate) const NAME: &str = "quickstart-shell";

/// Says what there is to try, and becomes the user's shell.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let [base, log] = arguments else {
        return Err(Failure::new(
            "quickstart-shell is for the quickstart itself",
        ));
    };
    let uid = geteuid().as_raw();
    let layout = Layout::new(base);
    let (data, mounts) = (layout.data(), layout.mounts(uid));
    let notes = mounts.join("notes");
    std::fs::create_dir_all(&notes).or_fail("make a directory to mount at")?;
    let (data, mounts, notes) = (data.display(), mounts.display(), notes.display());
    let log = Path::new(log).display();
    let page = Page::new();
    page.title("A shell")?;
    page.text(format!(
        "You are uid {uid}, without privilege, and may mount beneath {mounts}. Try:

  mountwarden mount bind {data} {notes}
  mountwarden explain mount bind /etc {notes}
  mountwarden list
  mountwarden status

The audit log is {log}. When you leave this shell,
everything is unmounted and removed.
"
    ))?;
    let chosen = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    if let Some(shell) = chosen {
        // A shell that root has chosen may be one that its guest cannot run.
        let _ = become_it(&mut Command::new(shell));
    }
    become_it(&mut Command::new("/bin/sh")).map(|never| match never {})
}
