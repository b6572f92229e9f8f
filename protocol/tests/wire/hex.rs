//! Bytes that a person can read.

/// The bytes of lines of hex; from `#`, `|` or `;` on, a line holds words for people.
pub(crate) fn parse(text: &str) -> Vec<u8> {
    text.lines()
        .filter_map(|line| line.split(['#', '|', ';']).next())
        .flat_map(str::split_ascii_whitespace)
        .map(|byte| {
            assert_eq!(byte.len(), 2, "{byte:?} is not two hex digits");
            u8::from_str_radix(byte, 16).unwrap()
        })
        .collect()
}
