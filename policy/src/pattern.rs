//! Patterns, in which `*` stands for any run of characters.

/// Whether `text` is what `pattern` describes. A `*` never stands for a `/`, so that
/// a pattern of paths says how deep they lie.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    // The earliest place of each part leaves the most for those that follow.
    for part in parts {
        let Some((skipped, after)) = rest.split_once(part) else {
            return false;
        };
        if skipped.contains('/') {
            return false;
        }
        rest = after;
    }
    rest.strip_suffix(last)
        .is_some_and(|skipped| !skipped.contains('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_run_within_a_component() {
        for (pattern, text) in [
            ("/dev/sda1", "/dev/sda1"),
            ("/dev/vg0/*", "/dev/vg0/a"),
            ("/dev/vg0/*", "/dev/vg0/"),
            ("/dev/vg*/vm-*-data", "/dev/vg1/vm-7-8-data"),
            ("/dev/*/b/*", "/dev/a/b/c"),
            ("*", "sshfs"),
            ("a*a", "aa"),
            ("**", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("/dev/sda1", "/dev/sda"),
            ("/dev/sda1", "/dev/sda12"),
            ("/dev/vg0/*", "/dev/vg0/a/b"),
            ("/dev/*", "/dev/vg0/a"),
            ("/dev/*/b", "/dev/a/c/b"),
            ("/dev/*/b/*", "/dev/a/b/c/d"),
            ("a*a", "a"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    /// One character at a time, trying every run.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', pattern @ ..], text) => {
                oracle(pattern, text)
                    || matches!(text, [c, text @ ..] if *c != b'/' && oracle_star(pattern, text))
            }
            ([p, pattern @ ..], [t, text @ ..]) => p == t && oracle(pattern, text),
            (_, []) => false,
        }
    }

    fn oracle_star(pattern: &[u8], text: &[u8]) -> bool {
        oracle(pattern, text)
            || matches!(text, [c, text @ ..] if *c != b'/' && oracle_star(pattern, text))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn it_agrees_with_trying_everything(pattern in "[ab/*]{0,8}", text in "[ab/]{0,8}") {
            prop_assert_eq!(
                matches(&pattern, &text),
                oracle(pattern.as_bytes(), text.as_bytes()),
            );
        }
    }
}
