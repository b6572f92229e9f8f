//! What a table of system calls is made of.
#![forbid(unsafe_code)]

use std::fmt;

use seccompiler::SeccompCmpOp;

use crate::sys::pinned::{self, Pinned};

/// One system call of a table.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) number: i64,
    /// Why the role needs it.
    pub(super) why: &'static str,
    /// Any of these must hold; with none of them, every argument is allowed.
    pub(super) forms: Vec<Vec<Check>>,
    /// The kinds of mount, of which the peer must be granted one; `None` for all peers.
    pub(super) granted: Option<&'static str>,
}

/// What one argument must be.
#[derive(Clone, Copy)]
pub(super) struct Check {
    /// Which argument, from 0.
    pub(super) index: u8,
    pub(super) name: &'static str,
    pub(super) value: Value,
}

/// A value, as the filter compares it and as a reviewer reads it.
#[derive(Clone, Copy)]
pub(super) enum Value {
    /// The argument's low 32 bits, which is all that the kernel reads of an `int`.
    Int { bits: u32, means: &'static str },
    /// The argument's low 32 bits are that or more.
    AtLeast { bits: u32 },
    /// The whole argument.
    Long { bits: u64, means: &'static str },
    /// The address of a string that nothing can change.
    Pinned(Pinned),
    /// The address of the one buffer that holds a name.
    NameBuffer,
    /// The address of one of the names that the policy brought, which nothing can change.
    PolicyName,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int { means, .. } | Self::Long { means, .. } => f.write_str(means),
            Self::AtLeast { bits } => write!(f, "{bits} or more"),
            Self::Pinned(string) => write!(f, "pinned {:?}", string.text()),
            Self::NameBuffer => f.write_str("the name buffer"),
            Self::PolicyName => f.write_str("a pinned name of the policy"),
        }
    }
}

/// An `int`, in C's sense.
pub(super) trait Int {
    fn bits(self) -> u32;
}

impl Int for i32 {
    fn bits(self) -> u32 {
        self.cast_unsigned()
    }
}

impl Int for u32 {
    fn bits(self) -> u32 {
        self
    }
}

/// `call!(SYS_name, "reason")` for any arguments, or with forms:
/// `call!(SYS_name, "reason", [check, check], [check])`.
macro_rules! call {
    ($number:ident, $why:literal $(, [$($check:expr),+])*) => {
        Entry {
            name: stringify!($number),
            number: $number,
            why: $why,
            forms: vec![$(vec![$($check),+]),*],
            granted: None,
        }
    };
}

/// `is!(2, flags = AT_EMPTY_PATH | AT_RECURSIVE)`: an `int`, by the kernel's names.
macro_rules! is {
    ($index:literal, $name:ident = $($constant:ident)|+) => {
        Check {
            index: $index,
            name: stringify!($name),
            value: Value::Int {
                bits: 0 $(| Int::bits($constant))+,
                means: stringify!($($constant)|+),
            },
        }
    };
}

pub(super) use {call, is};

/// An `int` whose number has no name in libc.
pub(super) fn int(index: u8, name: &'static str, bits: u32, means: &'static str) -> Check {
    let value = Value::Int { bits, means };
    Check { index, name, value }
}

/// A descriptor with a fixed number.
pub(super) fn fd(index: u8, number: i32, means: &'static str) -> Check {
    int(index, "fd", number.bits(), means)
}

/// A descriptor with that number or a higher one.
pub(super) fn fd_from(index: u8, number: i32) -> Check {
    let bits = number.bits();
    Check {
        index,
        name: "fd",
        value: Value::AtLeast { bits },
    }
}

pub(super) fn no_flags(index: u8) -> Check {
    int(index, "flags", 0, "0")
}

/// A `long`, or a size.
pub(super) fn long(index: u8, name: &'static str, bits: u64, means: &'static str) -> Check {
    let value = Value::Long { bits, means };
    Check { index, name, value }
}

pub(super) fn null(index: u8, name: &'static str) -> Check {
    long(index, name, 0, "NULL")
}

pub(super) fn pinned(index: u8, name: &'static str, string: Pinned) -> Check {
    let value = Value::Pinned(string);
    Check { index, name, value }
}

pub(super) fn name_buffer(index: u8) -> Check {
    Check {
        index,
        name: "path",
        value: Value::NameBuffer,
    }
}

pub(super) fn policy_name(index: u8, name: &'static str) -> Check {
    let value = Value::PolicyName;
    Check { index, name, value }
}

/// A comparison that a filter makes of one argument.
pub(super) enum Comparison {
    /// Of its low 32 bits.
    Low(SeccompCmpOp, u64),
    /// Of all of it.
    Whole(SeccompCmpOp, u64),
}

impl Value {
    /// What the filter compares: all of these hold.
    pub(super) fn comparisons(self) -> Vec<Comparison> {
        let whole = |value| vec![Comparison::Whole(SeccompCmpOp::Eq, value)];
        match self {
            Self::Int { bits, .. } => vec![Comparison::Low(SeccompCmpOp::Eq, bits.into())],
            Self::AtLeast { bits } => vec![Comparison::Low(SeccompCmpOp::Ge, bits.into())],
            Self::Long { bits, .. } => whole(bits),
            Self::Pinned(string) => whole(string.address()),
            Self::NameBuffer => whole(pinned::name_buffer_address()),
            Self::PolicyName => {
                let (first, last, apart) = pinned::names_range();
                let within = apart.saturating_sub(1);
                vec![
                    Comparison::Whole(SeccompCmpOp::Ge, first),
                    Comparison::Whole(SeccompCmpOp::Le, last),
                    Comparison::Whole(SeccompCmpOp::MaskedEq(within), 0),
                ]
            }
        }
    }
}
