//! A call ends at its deadline, and the connection with it.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use mountwarden_client::protocol::{HelloReply, Reply, frame};
use mountwarden_client::{Client, ErrorKind, Outcome, Tmpfs, Unmount};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{Fake, Step, answering, mounted, send, unmounted, welcome, welcomed};

const SHORT: Duration = Duration::from_millis(150);
/// Long after any deadline here, on however slow a machine.
const FAR: Duration = Duration::from_secs(20);

fn client(socket: &Path) -> Client {
    Client::builder()
        .socket(socket)
        .timeout(SHORT)
        .connect()
        .unwrap()
}

fn half(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().div_euclid(2)].to_vec()
}

#[test]
fn half_a_reply_then_silence_times_out_and_is_never_read_on() {
    let whole = frame::encode(&mounted(Outcome::Mounted)).unwrap();
    let fake = Fake::new(vec![
        welcomed([Step::Read, Step::Send(half(&whole)), Step::Hold]),
        answering(&[unmounted()]),
    ]);
    let mut client = client(fake.path());
    let start = Instant::now();
    let error = client.mount(Tmpfs::new("/a").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("not known"), "{error}");
    assert!(start.elapsed() >= SHORT);
    assert!(start.elapsed() < FAR);

    // The next call speaks on a connection of its own.
    client.unmount(Unmount::new("/a").unwrap()).unwrap();
    let log = fake.finish();
    assert_eq!(log.len(), 2);
    assert_eq!(log[0].len(), 1);
    assert_eq!(log[1].len(), 1);
}

#[test]
fn a_late_reply_is_not_taken_for_the_next_requests() {
    let late = frame::encode(&mounted(Outcome::Mounted)).unwrap();
    let fake = Fake::new(vec![
        welcomed([Step::Read, Step::Trickle(late, SHORT), Step::Hold]),
        answering(&[mounted(Outcome::AlreadyMounted)]),
    ]);
    let mut client = client(fake.path());
    let mount = Tmpfs::new("/a").unwrap();
    let error = client.mount(mount.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let again = client.mount(mount).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
}

/// Each byte comes in time; all of them do not.
#[test]
fn the_deadline_is_for_the_whole_call() {
    let reply = frame::encode(&mounted(Outcome::Mounted)).unwrap();
    let fake = Fake::new(vec![welcomed([
        Step::Read,
        Step::Trickle(reply, SHORT.div_f64(5.0)),
        Step::Hold,
    ])]);
    let mut client = client(fake.path());
    let error = client.mount(Tmpfs::new("/a").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn the_deadline_covers_all_pages_of_a_list() {
    let pages = (1..200).flat_map(|number| {
        let page = Reply::List(mountwarden_client::protocol::ListPage {
            mounts: vec![],
            next: Some(crate::support::id(number)),
        });
        let mut bytes = frame::encode(&page).unwrap();
        let last = bytes.pop().unwrap();
        [
            Step::Read,
            Step::Send(bytes),
            Step::Trickle(vec![last], SHORT.div_f64(5.0)),
        ]
    });
    let fake = Fake::new(vec![welcomed(pages)]);
    let error = client(fake.path()).list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(fake.finish()[0].len() < 50);
}

#[test]
fn the_deadline_spans_the_second_attempt() {
    let fake = Fake::new(vec![welcomed([Step::Read]), vec![Step::Read, Step::Hold]]);
    let mut client = client(fake.path());
    let error = client.mount(Tmpfs::new("/a").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(
        error.to_string().contains("not known"),
        "the first attempt may have been carried out: {error}"
    );
}

#[test]
fn a_silent_handshake_times_out() {
    let fake = Fake::new(vec![vec![Step::Read, Step::Hold]]);
    let error = Client::builder()
        .socket(fake.path())
        .timeout(SHORT)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("nothing was done"), "{error}");
}

#[test]
fn no_time_at_all_times_out_and_endless_time_does_not() {
    let fake = Fake::new(vec![welcomed([])]);
    let builder = Client::builder().socket(fake.path());
    let error = builder
        .clone()
        .timeout(Duration::ZERO)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    builder.timeout(Duration::MAX).connect().unwrap();
}

/// A listener whose backlog is full, and the connections that fill it.
fn full(socket: &Path) -> (UnixListener, Vec<UnixStream>) {
    let address = SockAddr::unix(socket).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let stream = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stream.set_nonblocking(true).unwrap();
        match stream.connect(&address) {
            Ok(()) => waiting.push(OwnedFd::from(stream).into()),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                return (OwnedFd::from(listener).into(), waiting);
            }
        }
    }
}

#[test]
fn a_full_backlog_times_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let _full = full(&socket);
    let start = Instant::now();
    let error = Client::builder()
        .socket(&socket)
        .timeout(SHORT)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() >= SHORT);
    assert!(start.elapsed() < FAR);
}

#[test]
fn a_backlog_that_empties_in_time_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let (listener, waiting) = full(&socket);
    let helper = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        for _ in waiting {
            listener.accept().unwrap();
        }
        let (mut stream, _) = listener.accept().unwrap();
        frame::read(&mut stream).unwrap();
        frame::write(&mut stream, &HelloReply::Welcome(welcome())).unwrap();
    });
    Client::builder()
        .socket(&socket)
        .timeout(FAR)
        .connect()
        .unwrap();
    helper.join().unwrap();
}

#[test]
fn a_helper_that_says_it_timed_out_is_not_asked_on_that_connection_again() {
    let late = Reply::Error(mountwarden_client::ErrorReply::new(
        mountwarden_client::ErrorCode::TimedOut,
        "the request took longer than 30 s",
    ));
    let fake = Fake::new(vec![
        welcomed([Step::Read, send(&late), Step::Hold]),
        answering(&[unmounted()]),
    ]);
    let mut client = client(fake.path());
    let unmount = Unmount::new("/a").unwrap();
    assert_eq!(
        client.unmount(unmount.clone()).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    client.unmount(unmount).unwrap();
}
