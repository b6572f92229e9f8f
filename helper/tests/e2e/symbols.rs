//! Where the helper's program keeps what an attacker would look for.

use std::fs;
use std::path::Path;

use object::{Object, ObjectSymbol};

/// The names in a program that was not stripped, with their addresses in the file.
pub(crate) struct Symbols(Vec<(String, u64)>);

impl Symbols {
    pub(crate) fn read(program: &Path) -> Self {
        let bytes = fs::read(program).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let symbols = file.symbols();
        Self(
            symbols
                .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
                .filter(|(name, _)| {
                    ["mountwarden_helper", "9panicking"]
                        .iter()
                        .any(|of| name.contains(of))
                })
                .collect(),
        )
    }

    /// The address of the one symbol whose mangled path holds `path`, such as
    /// `6pinned5EMPTY`.
    pub(crate) fn address(&self, path: &str) -> u64 {
        let found: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| name.contains(path))
            .collect();
        match found[..] {
            [(_, address)] => *address,
            _ => panic!("one symbol with {path}: {found:?}"),
        }
    }
}
