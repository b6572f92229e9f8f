//! Paths against a second, slower reading of the same rules.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mountwarden_protocol::frame::{self, DecodeError};
use mountwarden_protocol::{
    AbsPath, InvalidPath, MAX_COMPONENT, MAX_PATH, Operation, Request, Unmount,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::strategy;

/// The rules as a person would say them, one component after the other.
fn is_valid(bytes: &[u8]) -> bool {
    if bytes == b"/" {
        return true;
    }
    let mut components = bytes.split(|&byte| byte == b'/');
    let starts_at_the_root = components.next().is_some_and(<[u8]>::is_empty);
    let mut any = false;
    for component in components {
        any = true;
        let plain = !component.is_empty() && component != b"." && component != b"..";
        if !plain || component.contains(&0) || component.len() > 255 {
            return false;
        }
    }
    starts_at_the_root && any && bytes.len() <= 4095
}

fn as_std(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Reads what [`AbsPath`] prints back into bytes.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend(character.to_string().bytes());
            continue;
        }
        match rest.next().unwrap() {
            '\\' => bytes.push(b'\\'),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'x' => {
                let digits: String = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            'u' => {
                assert_eq!(rest.next(), Some('{'));
                let digits: String = rest.by_ref().take_while(|&digit| digit != '}').collect();
                let number = u32::from_str_radix(&digits, 16).unwrap();
                bytes.extend(char::from_u32(number).unwrap().to_string().bytes());
            }
            other => panic!("\\{other} in {text:?}"),
        }
    }
    bytes
}

/// Short byte sequences in which every rule is broken now and then.
fn path_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        &b"/"[..],
        b"/",
        b"/",
        b"a",
        b"bc",
        b".",
        b"..",
        b"\0",
        b"\xff",
        b" ",
        &[b'x'; 255],
        &[b'y'; 256],
    ]);
    prop_oneof![
        8 => vec(piece, 0..10).prop_map(|pieces| pieces.concat()),
        1 => vec(any::<u8>(), 0..40),
        1 => (4080..4110_usize).prop_map(|size| b"/a".iter().copied().cycle().take(size).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn attack_01_exactly_the_plain_absolute_paths_are_accepted(bytes in path_like()) {
        let checked = AbsPath::from_bytes(&bytes);
        prop_assert_eq!(checked.is_ok(), is_valid(&bytes), "{:?}", checked);
        if let Ok(path) = checked {
            prop_assert_eq!(path.as_bytes(), bytes.as_slice());
            // The library agrees that there is nothing to normalise.
            let rebuilt: std::path::PathBuf = path.as_path().components().collect();
            prop_assert_eq!(rebuilt.as_os_str().as_bytes(), bytes.as_slice());
            prop_assert!(path.as_path().is_absolute());
        }
    }

    #[test]
    fn attack_01_a_path_on_the_wire_is_checked_as_any_other(bytes in path_like()) {
        // Request::Perform, Operation::Unmount, then the target.
        let mut body = vec![0, 0, 0, 0, 1, 0, 0, 0];
        body.extend(u64::try_from(bytes.len()).unwrap().to_le_bytes());
        body.extend(&bytes);
        body.extend([0, 0, 0]);
        match (frame::decode::<Request>(&body), AbsPath::from_bytes(&bytes)) {
            (Ok(request), Ok(target)) => prop_assert_eq!(
                request,
                Request::Perform(Operation::Unmount(Unmount { target, lazy: false, id: None, passed: false }))
            ),
            (Err(DecodeError::Invalid(text)), Err(reason)) => {
                prop_assert_eq!(text, reason.to_string());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn beneath_is_what_the_standard_library_calls_beneath(
        path in strategy::path(), other in strategy::path(), more in strategy::path()
    ) {
        let oracle = |path: &AbsPath, root: &AbsPath| {
            as_std(path.as_bytes()).starts_with(as_std(root.as_bytes())) && path != root
        };
        prop_assert_eq!(path.is_beneath(&other), oracle(&path, &other));
        prop_assert!(!path.is_beneath(&path));
        let below = [path.as_bytes(), more.as_bytes()].concat();
        if let Ok(below) = AbsPath::from_bytes(&below) {
            prop_assert_eq!(below.is_beneath(&path), oracle(&below, &path));
        }
        let longer = [path.as_bytes(), b"x"].concat();
        if let Ok(longer) = AbsPath::from_bytes(&longer) {
            prop_assert_eq!(longer.is_beneath(&path), path.is_root());
        }
    }

    #[test]
    fn split_is_undone_by_joining(path in strategy::path()) {
        match path.split() {
            None => prop_assert!(path.is_root()),
            Some((parent, name)) => {
                prop_assert_eq!(parent.as_path().join(OsStr::from_bytes(name)), path.as_path());
                prop_assert_eq!(path.as_path().parent(), Some(parent.as_path()));
                prop_assert_eq!(path.as_path().file_name(), Some(OsStr::from_bytes(name)));
                prop_assert!(path.is_beneath(&parent));
                prop_assert!(AbsPath::from_bytes(parent.as_bytes()).is_ok());
            }
        }
    }

    #[test]
    fn attack_33_a_printed_path_is_one_line_and_tells_its_bytes(path in strategy::path()) {
        let text = path.to_string();
        prop_assert!(!text.contains(char::is_control), "{:?}", text);
        prop_assert_eq!(unescape(&text), path.as_bytes());
    }
}

#[test]
fn attack_01_each_broken_rule_has_its_name() {
    let long = "x".repeat(256);
    for (path, reason) in [
        ("", InvalidPath::Empty),
        ("a", InvalidPath::Relative),
        ("./a", InvalidPath::Relative),
        ("../a", InvalidPath::Relative),
        (" /a", InvalidPath::Relative),
        ("/a\0", InvalidPath::Nul),
        ("\0", InvalidPath::Relative),
        ("/a\0/../b", InvalidPath::Nul),
        ("/.", InvalidPath::Dots),
        ("/..", InvalidPath::Dots),
        ("/a/../b", InvalidPath::Dots),
        ("/a/./b", InvalidPath::Dots),
        ("/a/..", InvalidPath::Dots),
        ("//", InvalidPath::EmptyComponent),
        ("//a", InvalidPath::EmptyComponent),
        ("/a//b", InvalidPath::EmptyComponent),
        ("/a/", InvalidPath::EmptyComponent),
        (&format!("/{long}"), InvalidPath::ComponentTooLong),
        (&format!("/a/{long}/b"), InvalidPath::ComponentTooLong),
        (&"/a".repeat(2048), InvalidPath::TooLong),
    ] {
        assert_eq!(AbsPath::new(path), Err(reason), "{path:?}");
    }
}

#[test]
fn the_nearest_valid_paths_are_accepted() {
    let component = "x".repeat(MAX_COMPONENT);
    let longest = format!("{}/", format!("/{}", "y".repeat(254)).repeat(16));
    let longest = format!("{longest}{}", "z".repeat(MAX_PATH - longest.len()));
    assert_eq!(longest.len(), MAX_PATH);
    for path in [
        "/",
        "/a",
        "/...",
        "/..a",
        "/.a",
        "/a..",
        "/a.",
        "/ ",
        "/-",
        "/a/b",
        "/\u{202e}",
        &format!("/{component}"),
        &longest[..4094],
        &longest,
    ] {
        assert_eq!(AbsPath::new(path).unwrap().as_bytes(), path.as_bytes());
    }
    assert_eq!(
        AbsPath::new(format!("{longest}z")),
        Err(InvalidPath::TooLong)
    );
}

#[test]
fn attack_33_what_could_mislead_a_reader_is_escaped() {
    for (path, printed) in [
        ("/a\nb", r"/a\nb"),
        ("/a\\nb", r"/a\\nb"),
        ("/\x1b[2J", r"/\u{1b}[2J"),
        ("/\u{7f}", r"/\u{7f}"),
        ("/\u{9b}2J", r"/\u{9b}2J"),
        ("/\u{85}", r"/\u{85}"),
        ("/\u{2028}\u{2029}", r"/\u{2028}\u{2029}"),
        ("/gpj.\u{202e}exe", r"/gpj.\u{202e}exe"),
        (
            "/\u{2066}\u{2069}\u{200f}\u{61c}",
            r"/\u{2066}\u{2069}\u{200f}\u{61c}",
        ),
        ("/a\u{200b}\u{feff}\u{ad}", r"/a\u{200b}\u{feff}\u{ad}"),
        ("/\u{e0041}", r"/\u{e0041}"),
        (
            "/caf\u{e9} 'x' \"y\" \u{65e5}",
            "/caf\u{e9} 'x' \"y\" \u{65e5}",
        ),
    ] {
        assert_eq!(AbsPath::new(path).unwrap().to_string(), printed);
    }
    let bytes = AbsPath::from_bytes(b"/\xff\x80a").unwrap();
    assert_eq!(bytes.to_string(), r"/\xff\x80a");
}

#[test]
fn no_character_that_can_be_printed_raw_is_a_control_or_changes_direction() {
    for character in ('\u{1}'..=char::MAX).filter(|&character| character != '/') {
        let text = AbsPath::new(format!("/a{character}")).unwrap().to_string();
        let raw = text.ends_with(character) && character != '\\';
        let directional = matches!(
            u32::from(character),
            0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069
        );
        assert!(
            !raw || !(character.is_control() || directional),
            "{character:?}"
        );
    }
}
