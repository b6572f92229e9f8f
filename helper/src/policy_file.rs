//! The policy on disk: read once, at the start.
#![forbid(unsafe_code)]

use std::path::Path;

use mountwarden_policy::{Policy, PolicyError};
use mountwarden_protocol::AbsPath;
use thiserror::Error;

use crate::accounts::SystemAccounts;
use crate::files::{FileError, Trust};
use crate::session::roots::Roots;

/// More than any policy has; the parser refuses this much itself.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// Why there is no policy.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error("policy: {0}")]
    File(#[from] FileError),
    #[error("policy: {0}")]
    Policy(#[from] PolicyError),
    #[error("{0}")]
    Root(String),
}

/// Reads the policy from a file that only trusted users can change.
pub(crate) fn load(path: &Path, trust: &Trust) -> Result<Policy, LoadError> {
    let place = AbsPath::new(path).map_err(|_| FileError::NotAbsolute(path.to_owned()))?;
    let text = trust.read(path, MAX_BYTES)?;
    let mut policy = Policy::parse(path, &text, &SystemAccounts)?;
    policy.protect(place);
    symlinked_roots(&policy)?;
    Ok(policy)
}

/// A root that is reached through a symbolic link is never what is mounted on.
fn symlinked_roots(policy: &Policy) -> Result<(), LoadError> {
    for root in policy.static_roots() {
        if let Err(nix::errno::Errno::ELOOP) = Roots::try_open(&root) {
            return Err(LoadError::Root(format!(
                "policy: the root {root} is reached through a symbolic link: write the path that \
                 it leads to"
            )));
        }
    }
    Ok(())
}

/// What is legal and unwise, from the policy alone and from the file tree.
pub(crate) fn warnings(policy: &Policy) -> Vec<String> {
    let mut warnings: Vec<String> = policy
        .lint()
        .iter()
        .map(|warning| format!("warning: {warning}"))
        .collect();
    for root in policy.static_roots() {
        match Roots::try_open(&root) {
            Err(errno) => warnings.push(format!(
                "warning: the root {root} cannot be opened ({}): requests beneath it fail until it \
                 can and the helper is started again",
                errno.desc()
            )),
            Ok(file) => match nix::sys::stat::fstat(&file) {
                Ok(status) if status.st_mode & 0o022 != 0 && status.st_mode & 0o1000 == 0 => {
                    warnings.push(format!(
                        "warning: the root {root} is writable by others than its owner (mode {:o}): \
                         they can rename what a request means",
                        status.st_mode & 0o7777
                    ));
                }
                _ => {}
            },
        }
    }
    warnings
}
