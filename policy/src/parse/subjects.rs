//! `users` and `groups` of a grant.

use std::collections::BTreeSet;

use super::toml_reader::{Table, Value};
use crate::Accounts;
use crate::error::{Fault, quoted};
use crate::subjects::{Subjects, User};

/// The last number that is an account: the one above means "no change" to the kernel.
const LAST_ID: u32 = u32::MAX - 1;

pub(super) fn subjects(table: &Table<'_>, accounts: &dyn Accounts) -> Result<Subjects, Fault> {
    let mut subjects = Subjects {
        users: Vec::new(),
        groups: BTreeSet::new(),
    };
    if let Some(users) = table.get("users") {
        for user in users.list("a list of user names and numbers")? {
            subjects.users.push(User {
                uid: account(&user, "user", |name| accounts.uid(name))?,
                name: user.as_text().map(ToOwned::to_owned),
            });
        }
    }
    if let Some(groups) = table.get("groups") {
        for group in groups.list("a list of group names and numbers")? {
            subjects
                .groups
                .insert(account(&group, "group", |name| accounts.gid(name))?);
        }
    }
    if subjects.users.is_empty() && subjects.groups.is_empty() {
        return Err(table.fault(
            "the grant is for nobody; name at least one user in users or one group in groups",
        ));
    }
    Ok(subjects)
}

/// The number of the account that an element names.
fn account(
    value: &Value<'_>,
    what: &str,
    lookup: impl Fn(&str) -> Option<u32>,
) -> Result<u32, Fault> {
    let Some(name) = value.as_text() else {
        return value
            .number_within(0..=LAST_ID)
            .map_err(|_| value.wrong(format!("a {what} name or a number from 0 to {LAST_ID}")));
    };
    // A name with a control character is not looked up: a NUL would end it early
    // in a C library.
    let number = if name.chars().any(char::is_control) {
        None
    } else {
        lookup(name)
    };
    number.ok_or_else(|| {
        let hint = if name.parse::<u32>().is_ok() {
            "; write a number without quotes"
        } else {
            ", and a grant must not come to mean whoever gets that name later; create it first or \
             remove it here"
        };
        value.fault(format!("there is no {what} {}{hint}", quoted(name)))
    })
}
