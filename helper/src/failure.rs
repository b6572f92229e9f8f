//! From the kernel's errno to the protocol's error codes.
#![forbid(unsafe_code)]

use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply};
use nix::errno::Errno;

/// What a failed system call means for the client, with a message that names
/// the path, what was tried, and the errno.
pub(crate) fn kernel(what: &str, path: &AbsPath, errno: Errno) -> ErrorReply {
    let (code, advice) = meaning(errno);
    let reason = errno.desc();
    let number = number(errno);
    ErrorReply::new(code, format!("{what} {path}: {reason}{advice}"))
        .at(path)
        .errno(number)
}

fn meaning(errno: Errno) -> (ErrorCode, &'static str) {
    match errno {
        Errno::ENOENT => (ErrorCode::NotFound, ""),
        Errno::EACCES | Errno::EPERM => (
            ErrorCode::Unreachable,
            "; the helper's own user must be able to read it and to search every directory above",
        ),
        Errno::ELOOP => (
            ErrorCode::WrongType,
            "; a component is a symbolic link, which is never followed",
        ),
        Errno::ENOTDIR => (ErrorCode::WrongType, "; a component is not a directory"),
        Errno::ENXIO | Errno::ENODEV => (ErrorCode::WrongType, ""),
        Errno::ENAMETOOLONG => (ErrorCode::InvalidRequest, ""),
        Errno::EBUSY => (ErrorCode::Busy, ""),
        Errno::ENOTCONN | Errno::ESTALE | Errno::EIO | Errno::EHOSTDOWN | Errno::ECONNABORTED => (
            ErrorCode::Stale,
            "; the file system's server is gone: unmount it, lazily if need be",
        ),
        Errno::ETIMEDOUT | Errno::EHOSTUNREACH => (ErrorCode::Hung, ""),
        Errno::ENOSPC => (
            ErrorCode::LimitReached,
            "; the kernel lets a namespace hold no more mounts (`fs.mount-max`)",
        ),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN => (
            ErrorCode::LimitReached,
            "; a limit of the kernel is reached",
        ),
        Errno::ENOSYS | Errno::EOPNOTSUPP => (ErrorCode::Unsupported, "; this kernel lacks it"),
        _ => (ErrorCode::Failed, ""),
    }
}

/// The number of an errno.
pub(crate) fn number(errno: Errno) -> i32 {
    std::io::Error::from(errno)
        .raw_os_error()
        .unwrap_or_default()
}
