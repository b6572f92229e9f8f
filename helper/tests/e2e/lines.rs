//! What `docs/audit.md` says of the log's lines.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/audit.md");

/// A field that is documented.
pub(crate) struct Field {
    kind: &'static str,
    words: Vec<&'static str>,
}

/// The fields of an audit line.
pub(crate) fn fields() -> BTreeMap<&'static str, Field> {
    table("| field | type |")
}

/// The rows of the table with this head: a name in backticks, a type, and prose.
fn table(head: &str) -> BTreeMap<&'static str, Field> {
    let (_, rows) = DOCUMENT.split_once(head).expect(head);
    rows.lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let words = cells[3].split('`').skip(1).step_by(2).collect();
            let field = Field {
                kind: cells[1],
                words,
            };
            (cells[0].trim_matches('`'), field)
        })
        .collect()
}

/// Holds a line to the document.
pub(crate) fn check(line: &Value) {
    let fields = if line["event"] == "helper" {
        table("| field of a helper line | type |")
    } else {
        fields()
    };
    for (name, value) in line.as_object().expect("an object") {
        let field = fields
            .get(&name[..])
            .unwrap_or_else(|| panic!("docs/audit.md has no field {name}: {line}"));
        let fits = match field.kind {
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "list of strings" => value
                .as_array()
                .is_some_and(|values| values.iter().all(Value::is_string)),
            "word" => value
                .as_str()
                .is_some_and(|word| field.words.contains(&word)),
            other => panic!("docs/audit.md has no type {other}"),
        };
        assert!(fits, "docs/audit.md says otherwise of {name}: {line}");
    }
}

const BEGIN: &str = "<!-- examples: begin -->\n";
const END: &str = "<!-- examples: end -->\n";

/// The examples as they stand, or, with `MOUNTWARDEN_WRITE_DOCS=1`, as they are
/// to stand from now on.
pub(crate) fn compare_examples(examples: &str) {
    let (before, rest) = DOCUMENT.split_once(BEGIN).expect(BEGIN);
    let (now, after) = rest.split_once(END).expect(END);
    if std::env::var_os("MOUNTWARDEN_WRITE_DOCS").is_some_and(|value| value == "1") {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/audit.md");
        std::fs::write(file, [before, BEGIN, examples, END, after].concat()).unwrap();
    } else {
        assert_eq!(now, examples, "the examples in docs/audit.md are old");
    }
}
