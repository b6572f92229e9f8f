//! A command line that is not understood.

use serde_json::Value;

use super::run::{at, command};
use crate::support::Fake;

const WRONG: &[&[&str]] = &[
    &[],
    &["mount"],
    &["mount", "bind", "/a"],
    &["mount", "tmpfs", "/a", "--read-only"],
    &["mount", "tmpfs", "/a", "--slave"],
    &["mount", "bind", "/a", "/b", "--slave", "--shared"],
    &["mount", "tmpfs", "/a", "--size", "0"],
    &["mount", "tmpfs", "/a", "--size", "-1"],
    &["mount", "tmpfs", "/a", "--size=-1"],
    &["mount", "tmpfs", "/a", "--size", "64X"],
    &["mount", "tmpfs", "/a", "--size", "9223372036854775808"],
    &["mount", "tmpfs", "/a", "--size", "18446744073709551615"],
    &["mount", "tmpfs", "/a", "--inodes", "0"],
    &["mount", "tmpfs", "/a", "--inodes", "18446744073709551616"],
    &["mount", "tmpfs", "/a", "--mode", "8"],
    &["mount", "tmpfs", "/a", "--mode", "4755"],
    &["mount", "tmpfs", "/a", "--mode", "+755"],
    &["mount", "tmpfs", "/a", "--mode", ""],
    &[
        "mount",
        "fuse",
        "/a",
        "--subtype",
        "x",
        "--lease",
        "--",
        "y",
    ],
    &["mount", "overlay", "/a"],
    &["mount", "overlay", "/a", "--lower", "/b", "--upper", "/c"],
    &["mount", "overlay", "/a", "--lower", "/b", "--work", "/c"],
    &["mount", "image", "/a", "/b"],
    &[
        "mount",
        "image",
        "/a",
        "/b",
        "--type",
        "erofs",
        "--read-only",
    ],
    &["volume"],
    &["volume", "connect", "a"],
    &["volume", "connect", "--config", "/a"],
    &["volume", "validate", "--config", "/a", "b", "--use", "c"],
    &["volume", "list", "--config", "/a", "b"],
    &["volume", "launch", "--within-ms", "1"],
    &["unmount"],
    &["unmount", "/a", "--id", "0"],
    &["unmount", "/a", "--id", "x"],
    &["remount"],
    &["remount", "/a"],
    &["remount", "/a", "--id", "1"],
    &["remount", "/a", "--tmpfs"],
    &["remount", "/a", "--read-write"],
    &["remount", "/a", "--read-only", "--suid"],
    &["remount", "/a", "--exec", "--source", "/b", "--tmpfs"],
    &["remount", "/a", "--exec", "--noexec", "--tmpfs"],
    &["move"],
    &["move", "/a"],
    &["move", "/a", "/b", "/c"],
    &["move", "/a", "/b", "--id", "0"],
    &["apply"],
    &["apply", "/a", "/b"],
    &["explain"],
    &["explain", "list"],
    &["list", "/a"],
    &["list", "--timeout", "0"],
    &["list", "--timeout", "-1"],
    &["list", "--timeout", "nan"],
    &["list", "--timeout", "inf"],
    &["frobnicate"],
];

#[test]
fn it_is_2_and_no_helper_is_asked() {
    let fake = Fake::new(vec![]);
    for words in WRONG {
        let ended = at(fake.path(), words);
        assert_eq!(ended.status, 2, "{words:?} {ended:?}");
        assert_eq!(ended.stdout, "", "{words:?}");
        assert_ne!(ended.stderr, "", "{words:?}");
        let ended = at(fake.path(), &[&["--json"], *words].concat());
        assert_eq!(ended.status, 2, "{words:?}");
        let error = &ended.json_error()["error"];
        assert_eq!(error["code"], "usage", "{words:?}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{words:?}");
        for key in ["reason", "errno", "path", "mount"] {
            assert_eq!(error.get(key), Some(&Value::Null), "{words:?} {key}");
        }
    }
    assert!(fake.finish().is_empty());
}

#[test]
fn the_message_names_the_word() {
    let output = command()
        .args(["--json", "mount", "tmpfs", "/a", "--size", "64X"])
        .output()
        .unwrap();
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        error["error"]["message"],
        "invalid value '64X' for '--size <SIZE>': a size is a number of bytes, or a number \
         with K, M, G or T (KiB, MiB, GiB, TiB)"
    );
}

#[test]
fn help_and_version_are_no_failures() {
    for words in [["--help"].as_slice(), &["--json", "--help"], &["-V"]] {
        let output = command().args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("mountwarden"), "{text}");
    }
    let output = command().arg("--help").output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("Exit status:")
    );
}
