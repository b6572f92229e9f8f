//! `mountwarden-fusermount3`, as far as it needs no mount.

use std::process::Command;

use crate::command::run::Ended;

fn fusermount(words: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mountwarden-fusermount3"));
    command.env_remove("_FUSE_COMMFD").args(words);
    command.output().unwrap().into()
}

#[test]
fn says_what_it_stands_for() {
    for words in [&["-V"][..], &["--version", "--nonsense"]] {
        let ended = fusermount(words);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        // What follows is read by programs.
        assert!(
            ended.stdout.starts_with("fusermount3 version: 3."),
            "{ended:?}"
        );
    }
    let help = fusermount(&["-h"]);
    assert_eq!((help.status, help.stderr.as_str()), (1, ""));
    assert!(help.stdout.contains("--auto-unmount"), "{help:?}");
}

#[test]
fn complains_under_its_name() {
    for (words, complaint) in [
        (&["-z", "/"][..], "-z can only be used with -u"),
        (&["/"], "old style mounting not supported"),
        (
            &["-uq", "/\u{1b}/x"],
            "bad mount point /\\u{1b}/x: No such file",
        ),
    ] {
        let ended = fusermount(words);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{ended:?}");
        let name = env!("CARGO_BIN_EXE_mountwarden-fusermount3");
        let begin = format!("{name}: {complaint}");
        assert!(ended.stderr.starts_with(&begin), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1);
    }
}
