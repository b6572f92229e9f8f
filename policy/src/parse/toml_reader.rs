//! Reads tables and values of a parsed document, and says where one is not
//! what it should be. It walks the document itself rather than deserialize it:
//! every message then has the place and the key, and no table can be written
//! as a list of its values.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Fault, quoted};

/// A table.
pub(super) struct Table<'t> {
    /// As the policy writes it: `[limits]`.
    name: &'static str,
    offset: usize,
    entries: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    /// The whole document, of any version: its keys are not checked yet.
    pub(super) fn top(entries: &'t DeTable<'t>) -> Self {
        Self {
            name: "the policy",
            offset: 0,
            entries,
        }
    }

    /// Refuses every other key.
    pub(super) fn only(self, known: &[&'static str]) -> Result<Self, Fault> {
        // The map sorts its keys; the first in the file is what a reader looks for.
        let unknown = self
            .entries
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        match unknown {
            None => Ok(self),
            Some(key) => Err(Fault::new(
                key.span().start,
                format!(
                    "unknown key {} in {}; the keys are {}",
                    quoted(key.get_ref()),
                    self.name,
                    known.join(", ")
                ),
            )),
        }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Value<'t>> {
        self.entries.get(key).map(|value| Value::new(key, value))
    }

    pub(super) fn require(&self, key: &'static str) -> Result<Value<'t>, Fault> {
        self.get(key).ok_or_else(|| {
            self.fault(format!(
                "{} lacks the key {key}, which is required",
                self.name
            ))
        })
    }

    /// Something wrong with the table as a whole.
    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.offset, message)
    }
}

/// The value of a key, or one element of a list that is.
pub(super) struct Value<'t> {
    key: &'static str,
    in_list: bool,
    offset: usize,
    inner: &'t DeValue<'t>,
}

impl<'t> Value<'t> {
    fn new(key: &'static str, value: &'t Spanned<DeValue<'t>>) -> Self {
        Self {
            key,
            in_list: false,
            offset: value.span().start,
            inner: value.get_ref(),
        }
    }

    /// Something wrong with the value.
    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.offset, message)
    }

    /// The value is not of the type that the key has.
    pub(super) fn wrong(&self, expected: impl Display) -> Fault {
        let place = if self.in_list { "an element of " } else { "" };
        self.fault(format!(
            "{place}{} must be {expected}, not {}",
            self.key,
            described(self.inner)
        ))
    }

    /// The string, if the value is one.
    pub(super) fn as_text(&self) -> Option<&'t str> {
        self.inner.as_str()
    }

    /// The number, if the value is an integer that a `u64` holds.
    pub(super) fn as_number(&self) -> Option<u64> {
        let integer = self.inner.as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    pub(super) fn text(&self) -> Result<&'t str, Fault> {
        self.as_text().ok_or_else(|| self.wrong("a string"))
    }

    pub(super) fn number(&self) -> Result<u64, Fault> {
        self.as_number().ok_or_else(|| self.wrong("a number"))
    }

    pub(super) fn number_within(&self, range: RangeInclusive<u32>) -> Result<u32, Fault> {
        self.as_number()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                self.wrong(format!(
                    "a number from {} to {}",
                    range.start(),
                    range.end()
                ))
            })
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        self.inner
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    /// The elements of the list that the value is; `what` says what it must be.
    pub(super) fn list(&self, what: &str) -> Result<Vec<Value<'t>>, Fault> {
        let array = self.inner.as_array().ok_or_else(|| self.wrong(what))?;
        Ok(array
            .iter()
            .map(|element| Value {
                in_list: true,
                ..Value::new(self.key, element)
            })
            .collect())
    }

    pub(super) fn table(
        &self,
        name: &'static str,
        known: &[&'static str],
    ) -> Result<Table<'t>, Fault> {
        let entries = self
            .inner
            .as_table()
            .ok_or_else(|| self.wrong(format!("the table {name}")))?;
        Table {
            name,
            offset: self.offset,
            entries,
        }
        .only(known)
    }

    /// Every table of an array of tables.
    pub(super) fn tables(
        &self,
        name: &'static str,
        known: &[&'static str],
    ) -> Result<Vec<Table<'t>>, Fault> {
        self.list(&format!("tables that each have the header {name}"))?
            .iter()
            .map(|element| element.table(name, known))
            .collect()
    }
}

/// A value in a few words; only a short one is cited.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => number.to_string().chars().take(64).collect(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Float(_) => "a number with a fraction".to_owned(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(array) if array.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
