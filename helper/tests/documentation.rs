//! What the documents say of tests, files and one another is so.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test fails by panicking, and reads the repository"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Set to 1, it makes the test write the lists of `docs/attacks.md` instead of
/// comparing them.
const WRITE: &str = "MOUNTWARDEN_WRITE_DOCS";

/// How many attacks the catalogue has.
const ATTACKS: usize = 36;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files beneath a directory whose names end in `.rs` or `.md`, by their
/// paths in the repository.
fn files(directory: &str, ending: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root().join(directory)).expect(directory) {
        let entry = entry.expect("an entry");
        let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            found.extend(files(&name, ending));
        } else if name.ends_with(ending) {
            let text = fs::read_to_string(entry.path()).expect(&name);
            found.insert(name, text);
        }
    }
    found
}

/// The names of the functions of each source file.
fn functions() -> BTreeMap<String, Vec<String>> {
    ["protocol", "policy", "helper", "client", "fuzz/tests"]
        .into_iter()
        .flat_map(|directory| files(directory, ".rs"))
        .map(|(file, text)| {
            let names = text.lines().filter_map(|line| {
                let code = line.trim_start();
                let code = ["pub(crate) ", "pub(super) "]
                    .iter()
                    .find_map(|visible| code.strip_prefix(visible))
                    .unwrap_or(code);
                let (name, _) = code.strip_prefix("fn ")?.split_once(['(', '<'])?;
                Some(name.to_owned())
            });
            (file, names.collect())
        })
        .collect()
}

/// The documents, the `README.md` of each part among them.
fn documents() -> BTreeMap<String, String> {
    let mut all = files("docs", ".md");
    for name in [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ] {
        let text = fs::read_to_string(root().join(name)).expect(name);
        all.insert(name.to_owned(), text);
    }
    all
}

fn number_of(test: &str) -> Option<u32> {
    test.strip_prefix("attack_")?.get(..2)?.parse().ok()
}

/// The tests that bear the number of an attack, a line for each file.
fn tests_of(attack: u32, functions: &BTreeMap<String, Vec<String>>) -> String {
    let mut list = String::new();
    for (file, names) in functions {
        let mut tests: Vec<String> = names
            .iter()
            .filter(|name| number_of(name) == Some(attack))
            .map(|name| format!("`{name}`"))
            .collect();
        tests.sort();
        if !tests.is_empty() {
            writeln!(list, "- `{file}`: {}", tests.join(", ")).expect("text");
        }
    }
    list
}

#[test]
fn every_attack_lists_its_tests() {
    let functions = functions();
    let file = root().join("docs/attacks.md");
    let before = fs::read_to_string(&file).expect("docs/attacks.md");
    let (head, sections) = before.split_once("\n## ").expect("sections");
    let mut after = head.to_owned();
    for (section, attack) in sections.split("\n## ").zip(1_u32..) {
        assert!(
            section.starts_with(&format!("{attack}. ")),
            "section {attack} of docs/attacks.md is {section}"
        );
        let tests = tests_of(attack, &functions);
        assert!(
            !tests.is_empty(),
            "attack {attack}: no test bears its number"
        );
        let (said, _) = section.split_once("\nTests:\n").unwrap_or((section, ""));
        let said = said.trim_end();
        write!(after, "\n## {said}\n\nTests:\n\n{tests}").expect("text");
    }
    assert_eq!(sections.split("\n## ").count(), ATTACKS);
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        fs::write(file, after).expect("docs/attacks.md is written");
    } else {
        assert!(
            before == after,
            "docs/attacks.md has old lists: {WRITE}=1 cargo test -p mountwarden-helper --test \
             documentation"
        );
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn tests_and_files_that_are_named_exist() {
    let functions = functions();
    let case = |module: &str| format!("helper/tests/e2e/cases/{module}.rs");
    let mut named = 0;
    for (document, text) in documents() {
        for word in quoted(&text) {
            let known = if let Some((module, name)) = word.split_once("::")
                && let Some(names) = functions.get(&case(module))
            {
                names.iter().any(|known| known == name)
            } else if number_of(word).is_some() {
                functions.values().flatten().any(|known| known == word)
            } else if word.contains('/') && Path::new(word).extension() == Some("rs".as_ref()) {
                functions.contains_key(word)
            } else {
                continue;
            };
            assert!(known, "{document} names {word}, which is not there");
            named += 1;
        }
    }
    assert!(named > 100, "{named} names were found");
}

/// The name that a heading has in a link.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    for (document, text) in documents() {
        let here = root().join(&document);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.starts_with("https:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() {
                here.clone()
            } else {
                here.with_file_name("").join(file)
            };
            assert!(file.exists(), "{document}: {link} leads nowhere");
            if !heading.is_empty() {
                let target = fs::read_to_string(&file).expect(link);
                let found = target
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(found, "{document}: {link} leads to no heading");
            }
        }
    }
}
