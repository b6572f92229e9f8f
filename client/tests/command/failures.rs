//! What is printed when it did not work, and each exit status.

use mountwarden_client::protocol::{HelloReply, Refusal, Reply, Versions};
use mountwarden_client::{DenyReason, ErrorCode, ErrorReply};
use serde_json::json;

use super::run::{answered, at, command, scripted};
use crate::support::{Fake, Step, answering, at_limit, id, path, send_hello, unmounted, welcomed};

const MOUNT: [&str; 4] = ["--json", "mount", "tmpfs", "/b"];
const UNMOUNT: [&str; 2] = ["unmount", "/b"];

/// Every code of the protocol, and the status that it ends with.
const STATUSES: [(ErrorCode, i32); 19] = [
    (ErrorCode::InvalidRequest, 9),
    (ErrorCode::MalformedFrame, 1),
    (ErrorCode::UnsupportedVersion, 1),
    (ErrorCode::Unsupported, 1),
    (ErrorCode::Denied, 3),
    (ErrorCode::Busy, 4),
    (ErrorCode::NotMounted, 5),
    (ErrorCode::IdMismatch, 5),
    (ErrorCode::NotFound, 5),
    (ErrorCode::Unreachable, 1),
    (ErrorCode::WrongType, 1),
    (ErrorCode::Changed, 1),
    (ErrorCode::Stale, 8),
    (ErrorCode::Hung, 8),
    (ErrorCode::TimedOut, 7),
    (ErrorCode::LimitReached, 10),
    (ErrorCode::Unavailable, 6),
    (ErrorCode::Failed, 1),
    (ErrorCode::Other(900), 1),
];

#[test]
fn each_code_has_its_exit_status_and_its_name() {
    for &code in ErrorCode::ALL {
        assert!(STATUSES.iter().any(|&(known, _)| known == code), "{code}");
    }
    for (code, status) in STATUSES {
        let reply = Reply::Error(ErrorReply::new(code, "what happened").at(&path("/b")));
        let ended = answered(&reply, &MOUNT);
        assert_eq!(ended.status, status, "{code}");
        assert_eq!(
            ended.json_error(),
            json!({"error": {
                "code": code.to_string(), "reason": null, "message": "/b: what happened",
                "errno": null, "path": "/b", "mount": null,
            }})
        );
        let ended = answered(&reply, &UNMOUNT);
        assert_eq!(ended.status, status, "{code}");
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr, "error: /b: what happened\n");
    }
}

#[test]
fn an_error_has_all_that_the_helper_said() {
    let mut reply = ErrorReply::new(ErrorCode::Denied, "/b lies beneath no root of yours")
        .at(&path("/b"))
        .errno(1)
        .mount(id(9));
    reply.reason = Some(DenyReason::TargetNotGranted);
    assert_eq!(
        answered(&Reply::Error(reply), &MOUNT).json_error(),
        json!({"error": {
            "code": "denied", "reason": "target-not-granted",
            "message": "/b lies beneath no root of yours", "errno": 1, "path": "/b", "mount": 9,
        }})
    );
}

#[test]
fn a_missing_helper_is_6_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let ended = at(&socket, &["--json", "status"]);
    assert_eq!(ended.status, 6);
    let error = &ended.json_error()["error"];
    assert_eq!(error["code"], "unavailable");
    assert_eq!(error["errno"], 2);
    assert_eq!(error["path"], socket.to_str().unwrap());
    let ended = at(&socket, &["status"]);
    assert_eq!(ended.status, 6);
    assert!(
        ended.stderr.starts_with("error: no helper at "),
        "{ended:?}"
    );
}

#[test]
fn the_environment_names_the_socket_and_the_option_wins() {
    let fake = Fake::new(vec![answering(&[unmounted()]), answering(&[unmounted()])]);
    let by_environment = command()
        .env("MOUNTWARDEN_SOCKET", fake.path())
        .args(UNMOUNT)
        .output()
        .unwrap();
    assert_eq!(by_environment.status.code(), Some(0));
    let by_option = command()
        .env("MOUNTWARDEN_SOCKET", "/nonexistent")
        .args(UNMOUNT)
        .arg("--socket")
        .arg(fake.path())
        .output()
        .unwrap();
    assert_eq!(by_option.status.code(), Some(0));
    let neither = command()
        .env("MOUNTWARDEN_SOCKET", "/nonexistent")
        .args(UNMOUNT)
        .output()
        .unwrap();
    assert_eq!(neither.status.code(), Some(6));
    assert_eq!(fake.finish().len(), 2);
}

#[test]
fn a_refusal_at_a_limit_is_10() {
    let script = vec![Step::Read, send_hello(&at_limit())];
    let (ended, _) = scripted(vec![script], &MOUNT);
    assert_eq!(ended.status, 10);
    assert_eq!(ended.json_error()["error"]["code"], "limit-reached");
}

#[test]
fn no_version_in_common_is_6_and_names_both() {
    let refusal = Refusal {
        versions: Versions {
            oldest: 7,
            newest: 9,
        },
        error: ErrorReply::new(ErrorCode::UnsupportedVersion, "no"),
    };
    let script = vec![Step::Read, send_hello(&HelloReply::Refused(refusal))];
    let (ended, _) = scripted(vec![script], &MOUNT);
    assert_eq!(ended.status, 6);
    let error = &ended.json_error()["error"];
    assert_eq!(error["code"], "unsupported-version");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("version 1,"), "{message}");
    assert!(message.contains("versions 7 to 9"), "{message}");
}

#[test]
fn silence_is_7() {
    let script = welcomed([Step::Read, Step::Hold]);
    let (ended, _) = scripted(vec![script], &["--timeout", "0.2", "--json", "list"]);
    assert_eq!(ended.status, 7);
    assert_eq!(ended.json_error()["error"]["code"], "timed-out");
}

#[test]
fn a_lost_unmount_is_6_and_not_repeated() {
    let scripts = vec![welcomed([Step::Read]), answering(&[unmounted()])];
    let (ended, log) = scripted(scripts, &["--json", "unmount", "/b"]);
    assert_eq!(ended.status, 6);
    assert_eq!(ended.json_error()["error"]["code"], "connection-lost");
    assert_eq!(log.len(), 1);
}

#[test]
fn a_wrong_reply_is_1() {
    let ended = answered(&unmounted(), &MOUNT);
    assert_eq!(ended.status, 1);
    assert_eq!(ended.json_error()["error"]["code"], "protocol");
}

/// Before any helper is asked.
#[test]
fn a_path_that_no_helper_accepts_is_9() {
    let fake = Fake::new(vec![]);
    for (words, path) in [
        (vec!["unmount", ""], ""),
        (vec!["unmount", "a"], "a"),
        (vec!["unmount", "/a/../b"], "/a/../b"),
        (vec!["unmount", "/a//b"], "/a//b"),
        (vec!["mount", "tmpfs", "./a"], "./a"),
        (vec!["mount", "bind", "a", "/b"], "a"),
        (vec!["explain", "mount", "bind", "/b", "a/"], "a"),
    ] {
        let ended = at(fake.path(), &[&["--json"], &words[..]].concat());
        assert_eq!(ended.status, 9, "{words:?}");
        let error = &ended.json_error()["error"];
        assert_eq!(error["code"], "invalid-request");
        assert_eq!(error["path"], path);
    }
    assert!(fake.finish().is_empty());
}

#[test]
fn a_relative_path_is_answered_with_what_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let run = |path: &str| {
        let output = command()
            .current_dir(directory.path())
            .args(["unmount", path])
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let whole = directory.path().canonicalize().unwrap().join("x/y");
    let said = run("x/y/");
    assert!(
        said.contains(&format!("write \"{}\"", whole.display())),
        "{said}"
    );
    let said = run("../y");
    assert!(said.contains("realpath"), "{said}");
}
