//! How a connection is opened and refused.

use mountwarden_client::protocol::{HelloReply, Refusal, Reply, Versions, Welcome, frame};
use mountwarden_client::{Client, ErrorCode, ErrorKind, ErrorReply};

use crate::support::{Fake, Step, UID, at_limit, send_hello, welcome, welcomed};

#[test]
fn a_welcome_tells_who_the_kernel_says_we_are() {
    let fake = Fake::new(vec![welcomed([])]);
    let client = Client::connect_to(fake.path()).unwrap();
    assert_eq!(client.uid(), UID);
    assert_eq!(client.protocol_version(), 1);
    assert_eq!(client.socket(), fake.path());
    assert_eq!(fake.finish(), [[]]);
}

#[test]
fn a_client_can_move_to_another_thread() {
    fn sendable<T: Send + 'static>() {}
    sendable::<Client>();
    sendable::<mountwarden_client::Error>();
}

#[test]
fn a_refusal_at_a_limit_is_told_after_the_hello() {
    let fake = Fake::new(vec![vec![Step::Read, send_hello(&at_limit())]]);
    let error = Client::connect_to(fake.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("16 connections"), "{error}");
    assert_eq!(error.reply().unwrap().code, ErrorCode::LimitReached);
    assert_eq!(
        fake.finish().len(),
        1,
        "a helper that stays is not asked again"
    );
}

/// The gate reads nothing: it refuses and closes, perhaps before the hello.
#[test]
fn a_refusal_is_read_even_when_the_hello_cannot_be_written() {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;

    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let refusal = frame::encode(&at_limit()).unwrap();
    let gate = std::thread::spawn(move || {
        for _ in 0..200 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&refusal).unwrap();
        }
    });
    for _ in 0..200 {
        let error = Client::connect_to(&socket).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    }
    gate.join().unwrap();
}

#[test]
fn a_version_refusal_names_both_sides() {
    let helper = Versions {
        oldest: 2,
        newest: 3,
    };
    let refusal = Refusal {
        versions: helper,
        error: ErrorReply::new(ErrorCode::UnsupportedVersion, "no"),
    };
    let fake = Fake::new(vec![vec![
        Step::Read,
        send_hello(&HelloReply::Refused(refusal)),
    ]]);
    let error = Client::connect_to(fake.path()).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::UnsupportedVersion {
            client: Versions::SUPPORTED,
            helper
        }
    );
    let message = error.to_string();
    assert!(message.contains("version 1"), "{message}");
    assert!(message.contains("versions 2 to 3"), "{message}");
}

#[test]
fn a_version_that_was_not_offered_is_a_broken_protocol() {
    let fake = Fake::new(vec![vec![
        Step::Read,
        send_hello(&HelloReply::Welcome(Welcome {
            version: 2,
            ..welcome()
        })),
        Step::Hold,
    ]]);
    let error = Client::connect_to(fake.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[test]
fn a_request_reply_is_no_hello_reply() {
    let page = Reply::Unmounted(mountwarden_client::Unmounted {
        id: crate::support::id(1),
        target: crate::support::path("/a"),
    });
    let fake = Fake::new(vec![vec![
        Step::Read,
        crate::support::send(&page),
        Step::Hold,
    ]]);
    let error = Client::connect_to(fake.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

fn stopping() -> HelloReply {
    HelloReply::Refused(Refusal::new(ErrorReply::new(
        ErrorCode::Unavailable,
        "the helper stops",
    )))
}

#[test]
fn a_helper_that_always_closes_at_once_is_unavailable() {
    let fake = Fake::new(vec![vec![Step::Read]]);
    let error = Client::connect_to(fake.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("nothing was done"), "{error}");
    assert_eq!(fake.finish().len(), 6, "it is not asked for ever");
}

#[test]
fn a_connection_is_tried_again_when_the_helper_goes_before_its_welcome() {
    let fake = Fake::new(vec![
        vec![],
        vec![Step::Read],
        vec![Step::Read, send_hello(&stopping())],
        welcomed([]),
    ]);
    let client = Client::connect_to(fake.path()).unwrap();
    assert_eq!(client.uid(), UID);
    assert_eq!(fake.finish().len(), 4);
}

#[test]
fn a_helper_that_always_stops_says_so_in_the_end() {
    let refusing = || vec![Step::Read, send_hello(&stopping())];
    let fake = Fake::new(std::iter::repeat_with(refusing).take(6).collect());
    let error = Client::connect_to(fake.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.to_string(), "the helper stops");
}

#[test]
fn no_further_connection_is_tried_beyond_the_deadline() {
    let fake = Fake::new(vec![vec![Step::Read]]);
    let short = Client::builder().timeout(std::time::Duration::from_millis(20));
    short.socket(fake.path()).connect().unwrap_err();
    assert!(fake.finish().len() < 6);
}

#[test]
fn a_missing_socket_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("absent.sock");
    let error = Client::connect_to(&socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.path(), Some(socket.as_path()));
    assert_eq!(error.errno(), Some(2));
    let message = error.to_string();
    assert!(message.contains("absent.sock"), "{message}");
    assert!(message.contains("mountwardend"), "{message}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_socket_that_nobody_listens_on_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = Client::connect_to(&socket).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("nothing listens"), "{error}");
}

#[test]
fn a_socket_path_beyond_the_kernels_length_is_unavailable() {
    let error = Client::connect_to(format!("/{}", "x".repeat(200))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_refusal_on_reconnect_is_told() {
    let fake = Fake::new(vec![
        welcomed([]),
        vec![Step::Read, send_hello(&at_limit())],
    ]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    let error = client.status().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
}
