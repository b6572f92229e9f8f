//! `WIRE.md` is read and believed: every golden vector is decoded by its tables
//! alone, and its examples and numbers are compared with the code.

use std::collections::BTreeMap;

use mountwarden_protocol::frame::{self, MAX_FRAME};
use mountwarden_protocol::{
    DenyReason, ErrorCode, Hello, MAX_COMPONENT, MAX_PATH, MountAttributes, MountOptions, Passed,
    VERSION,
};

use super::vectors::{self, Message};
use super::{golden, hex};

const DOCUMENT: &str = include_str!("../../WIRE.md");

/// The rows of the table under a heading, without its first two lines.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let heading = format!("### {heading}");
    DOCUMENT
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn unquoted(name: &str) -> &str {
    name.trim_matches('`')
}

/// What a type of the document consists of.
enum Shape {
    Fields(Vec<(&'static str, &'static str)>),
    Variants(Vec<(&'static str, Vec<(&'static str, &'static str)>)>),
    Alias(&'static str),
}

/// Reads values as the tables of the document describe them.
struct Reader<'a> {
    shapes: BTreeMap<&'static str, Shape>,
    bytes: &'a [u8],
    /// The names of fields (with a colon) and variants, as they were met.
    names: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut shapes = BTreeMap::new();
        for row in table("Numbers and bytes with rules") {
            shapes.insert(unquoted(row[0]), Shape::Alias(unquoted(row[1])));
        }
        let headings = DOCUMENT
            .lines()
            .filter_map(|line| line.strip_prefix("### "));
        for heading in headings.filter(|heading| heading.starts_with(char::is_uppercase)) {
            let rows = table(heading);
            let shape = match rows.first().map(Vec::len) {
                Some(4) => Shape::Variants(rows.iter().map(|row| variant(row)).collect()),
                Some(3) if rows[0][1].starts_with('`') && !rows[0][0].starts_with('`') => {
                    Shape::Fields(rows.iter().map(|row| (row[0], unquoted(row[1]))).collect())
                }
                _ => continue,
            };
            shapes.insert(heading, shape);
        }
        Self {
            shapes,
            bytes,
            names: Vec::new(),
        }
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (now, later) = self.bytes.split_at(count);
        self.bytes = later;
        now
    }

    fn number(&mut self, size: usize) -> usize {
        self.take(size)
            .iter()
            .rev()
            .fold(0, |number, &byte| (number << 8) | usize::from(byte))
    }

    fn read(&mut self, name: &str) {
        if let Some(inner) = inner("option", name) {
            match self.number(1) {
                0 => {}
                1 => self.read(inner),
                tag => panic!("an option byte of {tag}"),
            }
            return;
        }
        if let Some(inner) = inner("list", name) {
            for _ in 0..self.number(8) {
                self.read(inner);
            }
            return;
        }
        match name {
            "bool" => assert!(self.number(1) < 2),
            "u32" | "i32" | "[u8; 4]" => drop(self.take(4)),
            "u64" => drop(self.take(8)),
            "bytes" => {
                let count = self.number(8);
                self.take(count);
            }
            "string" => {
                let count = self.number(8);
                assert!(std::str::from_utf8(self.take(count)).is_ok());
            }
            _ => self.read_named(name),
        }
    }

    fn read_named(&mut self, name: &str) {
        let fields = match self.shapes.get(name) {
            Some(Shape::Alias(plain)) => return self.read(plain),
            Some(Shape::Fields(fields)) => fields.clone(),
            Some(Shape::Variants(variants)) => {
                let variants = variants.clone();
                let index = self.number(4);
                let (variant, fields) = &variants[index];
                self.names.push((*variant).to_owned());
                fields.clone()
            }
            None => panic!("WIRE.md does not describe `{name}`"),
        };
        for (field, kind) in fields {
            if !field.is_empty() {
                self.names.push(format!("{field}:"));
            }
            self.read(kind);
        }
    }
}

/// `T` of `option<T>`.
fn inner<'a>(outer: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(outer)?
        .strip_prefix('<')?
        .strip_suffix('>')
}

/// A variant and what it holds: nothing, one type, or named fields.
fn variant(row: &[&'static str]) -> (&'static str, Vec<(&'static str, &'static str)>) {
    let fields = match row[2] {
        "-" => Vec::new(),
        holds => holds
            .split(", ")
            .map(|part| match part.split_once(": ") {
                Some((field, kind)) => (field, unquoted(kind)),
                None => ("", unquoted(part)),
            })
            .collect(),
    };
    (row[1], fields)
}

/// The names in the Debug form of a value, in order: fields with their colon.
fn names_of(debug: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut quoted = false;
    let mut characters = debug.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => drop(characters.next()),
            '"' => quoted = !quoted,
            _ if quoted => {}
            _ if character.is_alphanumeric() || character == '_' => name.push(character),
            _ => {
                let end = if character == ':' { ":" } else { "" };
                names.push(format!("{}{end}", std::mem::take(&mut name)));
            }
        }
    }
    names
}

#[test]
fn every_vector_is_decoded_by_the_tables_of_the_document() {
    for (name, message) in vectors::all() {
        let body = golden::frame_of(name).split_off(4);
        let mut reader = Reader::new(&body);
        reader.read(match message {
            Message::Hello(_) => "Hello",
            Message::HelloReply(_) => "HelloReply",
            Message::Request(_) => "Request",
            Message::Reply(_) => "Reply",
        });
        assert!(reader.bytes.is_empty(), "{name}: bytes are left");

        let is_field = |name: &&String| name.ends_with(':');
        let in_code = names_of(&format!("{message:?}"));
        assert!(
            reader
                .names
                .iter()
                .filter(is_field)
                .eq(in_code.iter().filter(is_field)),
            "{name}: {:?} and {in_code:?}",
            reader.names
        );
        let mut rest = in_code.iter();
        for told in &reader.names {
            assert!(rest.any(|name| name == told), "{name}: {told} is not there");
        }
    }
}

#[test]
fn every_type_of_the_document_is_read_by_some_vector() {
    let mut described: Vec<_> = Reader::new(&[])
        .shapes
        .into_values()
        .flat_map(|shape| match shape {
            Shape::Alias(_) => Vec::new(),
            Shape::Fields(fields) => fields
                .iter()
                .map(|(field, _)| format!("{field}:"))
                .collect(),
            Shape::Variants(variants) => variants
                .iter()
                .map(|(variant, _)| (*variant).to_owned())
                .collect(),
        })
        .collect();
    for (_, message) in vectors::all() {
        let names = names_of(&format!("{message:?}"));
        described.retain(|name| !names.contains(name));
    }
    assert_eq!(described, Vec::<String>::new());
}

#[test]
fn the_examples_of_the_document_are_what_the_encoder_writes() {
    let mut examples = 0;
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else {
            continue;
        };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let (_, message) = vectors::all()
            .into_iter()
            .find(|(vector, _)| *vector == name)
            .unwrap_or_else(|| panic!("{name} is no golden vector"));
        let frame = match message {
            Message::Hello(value) => frame::encode(&value),
            Message::HelloReply(value) => frame::encode(&value),
            Message::Request(value) => frame::encode(&value),
            Message::Reply(value) => frame::encode(&value),
        }
        .unwrap();
        assert_eq!(hex::parse(&block.join("\n")), frame, "{name}");
        examples += 1;
    }
    assert!(examples >= 5, "{examples} examples");
}

fn numbers(heading: &str) -> Vec<(u32, String)> {
    table(heading)
        .iter()
        .map(|row| (row[0].parse().unwrap(), row[1].to_owned()))
        .collect()
}

#[test]
fn the_failures_of_the_document_are_those_of_the_code() {
    let codes: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|&code| (u32::from(code), code.name().to_owned()))
        .collect();
    assert_eq!(numbers("error-code"), codes);
    let reasons: Vec<_> = DenyReason::ALL
        .iter()
        .map(|&reason| (u32::from(reason), reason.name().to_owned()))
        .collect();
    assert_eq!(numbers("deny-reason"), reasons);
    for number in (0..64).chain([u32::MAX]) {
        // A number means one thing in both directions, also one without a name.
        assert_eq!(u32::from(ErrorCode::from(number)), number);
        assert_eq!(u32::from(DenyReason::from(number)), number);
    }
}

#[test]
fn the_bits_of_the_document_are_those_of_the_code() {
    let options: Vec<_> = MountOptions::all()
        .iter_names()
        .map(|(name, flag)| (flag.bits().trailing_zeros(), name.to_owned()))
        .collect();
    assert_eq!(numbers("options"), options);
    let passed: Vec<_> = Passed::all()
        .iter_names()
        .map(|(name, flag)| (flag.bits().trailing_zeros(), name.to_owned()))
        .collect();
    assert_eq!(numbers("passed"), passed);
    let attributes: Vec<_> = MountAttributes::all()
        .iter_names()
        .map(|(name, flag)| (flag.bits().trailing_zeros(), name.to_owned()))
        .collect();
    assert_eq!(numbers("attributes"), attributes);
    for (row, name) in table("attributes")
        .iter()
        .zip(MountAttributes::all().names())
    {
        assert_eq!(unquoted(row[2]), name);
    }
}

#[test]
fn the_limits_of_the_document_are_those_of_the_code() {
    let magic: String = Hello::MAGIC.map(|byte| format!("{byte:02x} ")).concat();
    for text in [
        format!("unsigned little-endian integer, 1 to {MAX_FRAME}"),
        format!("A length of 0 or above {MAX_FRAME} "),
        format!("1 to {MAX_PATH} bytes in all"),
        format!("components of 1 to {MAX_COMPONENT} bytes"),
        format!("protocol version {VERSION}\n"),
        format!("This page is version {VERSION}."),
        format!("| `{}`, \"MWDN\" |", magic.trim_end()),
    ] {
        assert!(DOCUMENT.contains(&text), "WIRE.md does not say {text:?}");
    }
}
