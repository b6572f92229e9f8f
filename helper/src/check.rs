//! `mountwardend check`: what is wrong or unwise, before the helper starts.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::files::Trust;
use crate::launch::StartError;
use crate::policy_file::{load, warnings};
use crate::userns;

/// Errors end it; warnings go to standard output. With `print` so does the policy, of which they
/// are comments.
pub(crate) fn check(path: &Path, print: bool) -> Result<(), StartError> {
    let trust = Trust {
        overflow: userns::overflow()?,
    };
    let policy = load(path, &trust)?;
    let comment = if print { "# " } else { "" };
    for warning in warnings(&policy) {
        println!("{comment}{warning}");
    }
    if print {
        print!("{policy}");
    } else {
        println!("{}: the policy is valid", path.display());
    }
    Ok(())
}
