//! seccomp filters, built from the tables (`seccomp(2)`).
//!
//! A call that no entry allows ends the process. Filters stack: a session is
//! under the gate's and its own, a mounter under the warden's and its own, so a
//! parent's table holds its child's.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use mountwarden_protocol::Role;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::ConfineError;
use super::entry::{Check, Entry, Value};
use super::tables;
use crate::table::Source;

/// A compiled filter.
pub(crate) struct Filter {
    program: BpfProgram,
    system_calls: u32,
}

/// The filters of all roles. They are compiled once, before the first fork:
/// the addresses in them are the same in every child.
pub(crate) struct Filters {
    pub(crate) gate: Filter,
    pub(crate) session: Filter,
    pub(crate) warden: Filter,
    pub(crate) mounter: Filter,
}

impl Filters {
    pub(crate) fn compile(source: Source) -> Result<Self, ConfineError> {
        let filter = |role| Filter::compile(&tables::of(role, source));
        Ok(Self {
            gate: filter(Role::Gate)?,
            session: filter(Role::Session)?,
            warden: filter(Role::Warden)?,
            mounter: filter(Role::Mounter)?,
        })
    }
}

impl Filter {
    fn compile(entries: &[Entry]) -> Result<Self, ConfineError> {
        let rules = merge(entries)?;
        let system_calls = u32::try_from(rules.len()).unwrap_or(u32::MAX);
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(ConfineError::from)?;
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::KillProcess,
            SeccompAction::Allow,
            arch,
        )
        .map_err(ConfineError::from)?;
        Ok(Self {
            program: filter.try_into().map_err(ConfineError::from)?,
            system_calls,
        })
    }

    /// How many system calls the filter lets through.
    pub(super) fn system_calls(&self) -> u32 {
        self.system_calls
    }

    /// Puts the filter in force on this process, for good.
    pub(super) fn apply(&self) -> Result<(), ConfineError> {
        seccompiler::apply_filter(&self.program).map_err(ConfineError::Install)
    }
}

/// Joins entries for the same call: any of their forms lets it through, and
/// one entry without forms lets it through always.
fn merge(entries: &[Entry]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, ConfineError> {
    let mut merged: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for entry in entries {
        let rules = merged
            .entry(entry.number)
            .or_insert_with(|| Some(Vec::new()));
        if entry.forms.is_empty() {
            *rules = None;
        } else if let Some(rules) = rules {
            for form in &entry.forms {
                let conditions: Result<Vec<_>, _> = form.iter().map(condition).collect();
                rules.push(
                    SeccompRule::new(conditions.map_err(ConfineError::from)?)
                        .map_err(ConfineError::from)?,
                );
            }
        }
    }
    Ok(merged
        .into_iter()
        .map(|(call, rules)| (call, rules.unwrap_or_default()))
        .collect())
}

fn condition(check: &Check) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (value, whole) = check.value.compared();
    let width = if whole {
        SeccompCmpArgLen::Qword
    } else {
        SeccompCmpArgLen::Dword
    };
    let operator = match check.value {
        Value::AtLeast { .. } => SeccompCmpOp::Ge,
        _ => SeccompCmpOp::Eq,
    };
    SeccompCondition::new(check.index, width, operator, value)
}
