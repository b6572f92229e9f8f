//! What a process has from its caller, without asking for it.

use std::fs;
use std::io;

/// Closes every descriptor but the standard ones and `keep`.
///
/// # Errors
/// Where they cannot be listed.
pub(crate) fn close_all_but(keep: Option<i32>) -> io::Result<()> {
    let numbers: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers {
        if number > 2 && Some(number) != keep {
            // The one by which they were listed is closed already.
            let _ = nix::unistd::close(number);
        }
    }
    Ok(())
}
