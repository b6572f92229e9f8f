//! seccomp filters, built from the tables (`seccomp(2)`).
//!
//! A call that no entry allows ends the process. Filters stack: a session is
//! under the gate's and its own, a mounter under the warden's and its own, so a
//! parent's table holds its child's.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use mountwarden_policy::Kinds;
use mountwarden_protocol::Role;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::ConfineError;
use super::entry::{Check, Comparison, Entry};
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
    pub(crate) locker: Filter,
    /// One for each set of kinds that a peer can be granted by the policy.
    mounters: Vec<(Kinds, Filter)>,
}

impl Filters {
    /// `granted` is what the policy grants to anybody: no process has the calls of a kind
    /// that nobody is granted, and each call of a mounter passes the warden's filter too.
    pub(crate) fn compile(source: Source, granted: Kinds) -> Result<Self, ConfineError> {
        let filter = |role| Filter::compile(&tables::of(role, source, granted));
        let mounter = |kinds| {
            let filter = Filter::compile(&tables::of(Role::Mounter, source, kinds))?;
            Ok((kinds, filter))
        };
        Ok(Self {
            gate: filter(Role::Gate)?,
            session: filter(Role::Session)?,
            warden: filter(Role::Warden)?,
            locker: filter(Role::Locker)?,
            mounters: tables::sets_of(granted)
                .map(mounter)
                .collect::<Result<_, ConfineError>>()?,
        })
    }

    /// The filter of a mounter whose peer is granted these kinds.
    pub(crate) fn mounter(&self, kinds: Kinds) -> Option<&Filter> {
        let mut filters = self.mounters.iter();
        filters.find_map(|(of, filter)| (*of == kinds).then_some(filter))
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
                let conditions: Result<Vec<_>, _> = form.iter().flat_map(conditions).collect();
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

/// The comparisons of one check, each of which must hold.
fn conditions(check: &Check) -> Vec<Result<SeccompCondition, BackendError>> {
    let condition = |comparison| {
        let (width, operator, value) = match comparison {
            Comparison::Low(operator, value) => (SeccompCmpArgLen::Dword, operator, value),
            Comparison::Whole(operator, value) => (SeccompCmpArgLen::Qword, operator, value),
        };
        SeccompCondition::new(check.index, width, operator, value)
    };
    check
        .value
        .comparisons()
        .into_iter()
        .map(condition)
        .collect()
}
