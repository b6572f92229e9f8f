//! `mountwardend check`: what is wrong or unwise, before the helper starts.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::files::Trust;
use crate::launch::StartError;
use crate::policy_file::{load, warnings};
use crate::userns;

/// Errors end it; warnings go to standard output.
pub(crate) fn check(path: &Path) -> Result<(), StartError> {
    let trust = Trust {
        overflow: userns::overflow()?,
    };
    let policy = load(path, &trust)?;
    for warning in warnings(&policy) {
        println!("{warning}");
    }
    println!("{}: the policy is valid", path.display());
    Ok(())
}
