//! What an attacker who owns a role would try.

use nix::errno::Errno;
use nix::libc::{c_int, c_long};

use crate::puppet::Outcome;

/// One system call, and what must become of it.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) what: String,
    pub(super) number: c_long,
    pub(super) arguments: Vec<u64>,
    pub(super) expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The filter ends the process with SIGSYS.
    Killed,
    /// The kernel refuses.
    Fails(Errno),
    /// The nearest thing that is allowed.
    Works,
    /// The filter lets it through; what the kernel then says is another matter.
    Passes,
}

impl Expected {
    pub(super) fn is(self, outcome: Outcome) -> bool {
        match self {
            Self::Killed => outcome == Outcome::Killed(nix::sys::signal::Signal::SIGSYS),
            Self::Fails(errno) => outcome == Outcome::Returned(Err(errno)),
            Self::Works => matches!(outcome, Outcome::Returned(Ok(_))),
            Self::Passes => matches!(outcome, Outcome::Returned(_)),
        }
    }
}

pub(super) fn killed(what: impl Into<String>, number: c_long, arguments: &[u64]) -> Attempt {
    Attempt {
        what: what.into(),
        number,
        arguments: arguments.to_vec(),
        expected: Expected::Killed,
    }
}

pub(super) fn fails(
    what: impl Into<String>,
    number: c_long,
    arguments: &[u64],
    errno: Errno,
) -> Attempt {
    Attempt {
        expected: Expected::Fails(errno),
        ..killed(what, number, arguments)
    }
}

pub(super) fn works(what: impl Into<String>, number: c_long, arguments: &[u64]) -> Attempt {
    Attempt {
        expected: Expected::Works,
        ..killed(what, number, arguments)
    }
}

pub(super) fn passes(what: impl Into<String>, number: c_long, arguments: &[u64]) -> Attempt {
    Attempt {
        expected: Expected::Passes,
        ..killed(what, number, arguments)
    }
}

/// An `int` as a register holds it.
pub(super) fn int(number: c_int) -> u64 {
    i64::from(number).cast_unsigned()
}
