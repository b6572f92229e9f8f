//! Where the output goes and what it may hold.

use std::ffi::OsString;
use std::process::Stdio;

use mountwarden_client::protocol::Reply;
use mountwarden_client::{ErrorCode, ErrorReply, Outcome};

use super::run::{answered, command};
use crate::support::{Fake, answering, mounted, status};

/// A standard output that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    for words in [
        ["status"].as_slice(),
        &["--json", "status"],
        &["--help"],
        &["--version"],
    ] {
        let fake = Fake::new(vec![answering(&[Reply::Status(Box::new(status()))])]);
        let output = command()
            .arg("--socket")
            .arg(fake.path())
            .args(words)
            .stdout(closed())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{words:?}");
        assert_eq!(output.status.code(), Some(0), "{words:?}");
    }
}

#[test]
fn a_closed_standard_error_is_no_panic() {
    for words in [["--json", "frobnicate"].as_slice(), &["frobnicate"]] {
        let status = command().args(words).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_told() {
    let fake = Fake::new(vec![answering(&[mounted(Outcome::Mounted)])]);
    let output = command()
        .arg("--socket")
        .arg(fake.path())
        .args(["mount", "tmpfs", "/b"])
        .stdout(std::fs::File::create("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: it was done, but"), "{said}");
}

#[test]
fn what_the_helper_says_cannot_steer_a_terminal() {
    let evil = "\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\n";
    let mut state = status();
    state.version = evil.to_owned();
    let replies = [
        (Reply::Error(ErrorReply::new(ErrorCode::Failed, evil)), 1),
        (Reply::Status(Box::new(state)), 0),
    ];
    for (reply, expected) in replies {
        for words in [["status"].as_slice(), &["--json", "status"]] {
            let ended = answered(&reply, words);
            assert_eq!(ended.status, expected);
            let said = ended.stdout + &ended.stderr;
            let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
            assert!(!said.contains(steers), "{said:?}");
            // The message's own newline did not end the line.
            assert!(!said.contains("\n,") && !said.contains("\n\n,"), "{said:?}");
        }
    }
}

/// Colour is for a terminal; a pipe is none.
#[test]
fn colour_is_only_where_it_is_wanted() {
    let run = |variable: Option<(&str, &str)>| {
        let fake = Fake::new(vec![answering(&[mounted(Outcome::Mounted)])]);
        let mut command = command();
        command.arg("--socket").arg(fake.path());
        command
            .args(["mount", "tmpfs", "/b"])
            .env_remove("NO_COLOR");
        command.envs(variable);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(!run(None).contains('\u{1b}'));
    assert!(run(Some(("CLICOLOR_FORCE", "1"))).contains('\u{1b}'));
    assert!(!run(Some(("NO_COLOR", "1"))).contains('\u{1b}'));
}

#[test]
fn the_command_can_be_a_part_of_another_program() {
    let words = ["mountwarden", "--version"].map(OsString::from);
    let status = mountwarden_client::cli::run(words);
    assert_eq!(
        format!("{status:?}"),
        format!("{:?}", std::process::ExitCode::SUCCESS)
    );
}
