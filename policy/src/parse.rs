//! From text to [`Policy`].

mod filesystems;
mod grant;
mod limits;
mod subjects;
mod toml_reader;

use std::collections::BTreeSet;

use toml::de::DeTable;

use crate::error::{Fault, quoted};
use crate::grant::Grant;
use crate::protected::Protected;
use crate::{Accounts, Limits, Policy};
use toml_reader::{Table, Value};

/// The longest policy in bytes; a text that is longer is no policy.
const MAX_TEXT: usize = 1024 * 1024;

/// The most names of types and options: the helper has a place for so many, which
/// nothing can write once the policy was read.
const MAX_NAMES: usize = 255;

/// The version of the format.
pub(crate) const VERSION: u64 = 1;

/// The ABI that knows every restriction that the helper puts on itself.
const DEFAULT_LANDLOCK_ABI: u32 = 6;

pub(crate) fn policy(text: &str, accounts: &dyn Accounts) -> Result<Policy, Fault> {
    if text.len() > MAX_TEXT {
        return Err(Fault::new(
            0,
            format!(
                "the policy has {} bytes and may have {MAX_TEXT}; split it into fewer, wider grants",
                text.len()
            ),
        ));
    }
    let document = DeTable::parse(text)
        .map_err(|error| Fault::new(error.span().map_or(0, |span| span.start), error.message()))?;
    let top = Table::top(document.get_ref());
    let version = top.require("version")?;
    if version.number()? != VERSION {
        return Err(version.fault(format!("version must be {VERSION}, the only one there is")));
    }
    let top = top.only(&["version", "limits", "confinement", "grant"])?;
    let policy = Policy {
        limits: match top.get("limits") {
            Some(value) => limits::limits(&value)?,
            None => Limits::default(),
        },
        require_landlock_abi: match top.get("confinement") {
            Some(value) => landlock_abi(&value)?,
            None => DEFAULT_LANDLOCK_ABI,
        },
        grants: match top.get("grant") {
            Some(value) => grants(&value, accounts)?,
            None => Vec::new(),
        },
        protected: Protected::built_in(),
    };
    let names = policy.kernel_names().len();
    if names > MAX_NAMES {
        return Err(top.fault(format!(
            "the grants name {names} types of file systems, keys of their options and loop \
             devices, and may name {MAX_NAMES}"
        )));
    }
    Ok(policy)
}

fn landlock_abi(value: &Value<'_>) -> Result<u32, Fault> {
    let table = value.table("[confinement]", &["require_landlock_abi"])?;
    match table.get("require_landlock_abi") {
        Some(value) => value.number_within(1..=100),
        None => Ok(DEFAULT_LANDLOCK_ABI),
    }
}

fn grants(value: &Value<'_>, accounts: &dyn Accounts) -> Result<Vec<Grant>, Fault> {
    let mut names = BTreeSet::new();
    let mut grants = Vec::new();
    for table in value.tables("[[grant]]", &grant::KEYS)? {
        let grant = grant::grant(&table, accounts)?;
        if !names.insert(grant.name.clone()) {
            return Err(table.require("name")?.fault(format!(
                "the name {} is taken by an earlier grant; each grant has a name of its own, \
                 because denials and audit lines cite it",
                quoted(&grant.name)
            )));
        }
        grants.push(grant);
    }
    Ok(grants)
}
