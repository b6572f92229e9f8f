//! A lost connection: what is asked once more, and what is not.

use mountwarden_client::protocol::{AppliedEntry, Operation, Reply, Request};
use mountwarden_client::{
    Batch, Client, ErrorCode, ErrorKind, ErrorReply, Explanation, Move, Outcome, Tmpfs, Unmount,
};

use crate::support::{
    Fake, Script, Step, answering, id, info, mounted, path, send, unmounted, welcomed,
};

fn short_list() -> Reply {
    Reply::List(mountwarden_client::protocol::ListPage {
        mounts: vec![info(5)],
        next: None,
    })
}

fn explained() -> Reply {
    Reply::Explained(Explanation::Allowed {
        grant: "g".to_owned(),
        attributes: mountwarden_client::MountAttributes::empty(),
        tmpfs: None,
    })
}

fn unavailable() -> Reply {
    Reply::Error(ErrorReply::new(ErrorCode::Unavailable, "nothing was done"))
}

/// Takes the request and closes without an answer, or after half of one.
fn losses(reply: &Reply) -> [Script; 2] {
    let Step::Send(bytes) = send(reply) else {
        unreachable!();
    };
    let half = bytes[..bytes.len().div_euclid(2)].to_vec();
    [
        welcomed([Step::Read]),
        welcomed([Step::Read, Step::Send(half)]),
    ]
}

/// Asks over a connection that is lost and one that is not: one request on each.
fn asked_twice(reply: &Reply, ask: impl Fn(&mut Client)) {
    for loss in losses(reply) {
        let fake = Fake::new(vec![loss, answering(std::slice::from_ref(reply))]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        ask(&mut client);
        let log = fake.finish();
        assert_eq!(log.len(), 2);
        assert_eq!(log[0].len(), 1);
        assert_eq!(log[0], log[1], "the same request twice");
    }
}

#[test]
fn what_is_safe_to_repeat_is_asked_once_more() {
    asked_twice(&short_list(), |client| {
        assert_eq!(client.list().unwrap(), [info(5)]);
    });
    asked_twice(&explained(), |client| {
        client.explain(Tmpfs::new("/a").unwrap()).unwrap();
    });
    asked_twice(&explained(), |client| {
        client.explain(Unmount::new("/a").unwrap()).unwrap();
    });
    asked_twice(&mounted(Outcome::AlreadyMounted), |client| {
        let mounted = client.mount(Tmpfs::new("/a").unwrap()).unwrap();
        assert_eq!(mounted.outcome, Outcome::AlreadyMounted);
    });
}

#[test]
fn an_unmount_that_may_have_been_done_is_not_repeated() {
    for loss in losses(&unmounted()) {
        let fake = Fake::new(vec![loss, answering(&[unmounted()])]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        let error = client.unmount(Unmount::new("/a").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(error.to_string().contains("not known"), "{error}");
        let log = fake.finish();
        assert_eq!(log.len(), 1);
        assert_eq!(log[0].len(), 1);
    }
}

/// Done once, nothing is where it was any more.
#[test]
fn a_move_that_may_have_been_done_is_not_repeated() {
    for loss in losses(&Reply::Moved(info(77))) {
        let fake = Fake::new(vec![loss, answering(&[Reply::Moved(info(77))])]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        let moved = Move::new("/a", "/b").unwrap().id(id(77));
        let error = client.move_mount(moved).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(error.to_string().contains("not known"), "{error}");
        assert_eq!(fake.finish()[0].len(), 1);
    }
}

/// What was made of it may end in a moment: to ask again could find that.
#[test]
fn a_batch_that_may_have_been_done_is_not_repeated() {
    let batch = || Batch::new().mount(Tmpfs::new("/a").unwrap());
    for loss in losses(&Reply::Applied(Vec::new())) {
        let fake = Fake::new(vec![loss, answering(&[unmounted()])]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        let error = client.apply(batch()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(error.to_string().contains("not known"), "{error}");
        assert_eq!(fake.finish()[0].len(), 1);
    }
    let applied = Reply::Applied(vec![AppliedEntry {
        outcome: Outcome::Mounted,
        id: id(77),
        attributes: mountwarden_client::MountAttributes::empty(),
    }]);
    // Nothing was asked of the first helper.
    let fake = Fake::new(vec![welcomed([]), answering(&[applied])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    fake.wait_for_ended(1);
    assert_eq!(client.apply(batch()).unwrap()[0].id, id(77));
    assert_eq!(fake.finish()[1].len(), 1);
}

/// The helper closed the idle connection: the write fails with nothing sent.
#[test]
fn an_unmount_that_was_never_sent_is_sent_on_a_new_connection() {
    let fake = Fake::new(vec![welcomed([]), answering(&[unmounted()])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    fake.wait_for_ended(1);
    client.unmount(Unmount::new("/a").unwrap()).unwrap();
    let log = fake.finish();
    assert_eq!(log.len(), 2);
    assert!(log[0].is_empty());
    assert!(matches!(
        log[1][..],
        [Request::Perform(Operation::Unmount(_))]
    ));
}

/// The mounter was gone before it had the request, and the helper says so.
#[test]
fn an_unmount_that_was_certainly_not_done_is_sent_again() {
    let fake = Fake::new(vec![answering(&[unavailable()]), answering(&[unmounted()])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    client.unmount(Unmount::new("/a").unwrap()).unwrap();
    let log = fake.finish();
    assert_eq!(log[0], log[1]);
}

/// An id names one mount for ever, so the repeated request can end no other.
#[test]
fn an_unmount_by_id_is_asked_once_more() {
    let by_id = || Unmount::new("/a").unwrap().id(id(77));
    let answers = |code| Reply::Error(ErrorReply::new(code, "what happened"));
    asked_twice(&unmounted(), |client| {
        client.unmount(by_id()).unwrap();
    });
    // The first attempt did it.
    asked_twice(&answers(ErrorCode::NotMounted), |client| {
        let unmounted = client.unmount(by_id()).unwrap();
        assert_eq!((unmounted.id, unmounted.target), (id(77), path("/a")));
    });
    // Whether it did is not known: another mount is there.
    asked_twice(&answers(ErrorCode::IdMismatch), |client| {
        let error = client.unmount(by_id()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdMismatch);
    });
    // Not repeated, so not a success.
    let fake = Fake::new(vec![answering(&[answers(ErrorCode::NotMounted)])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    let error = client.unmount(by_id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotMounted);
}

#[test]
fn an_idle_connection_that_ended_does_not_use_up_the_repetition() {
    let fake = Fake::new(vec![
        welcomed([]),
        welcomed([Step::Read]),
        answering(&[short_list()]),
    ]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    fake.wait_for_ended(1);
    assert_eq!(client.list().unwrap(), [info(5)]);
    assert_eq!(fake.finish().len(), 3);

    // Nor does one that ends between the two attempts.
    let fake = Fake::new(vec![
        welcomed([Step::Read]),
        answering(&[unavailable()]),
        answering(&[short_list()]),
    ]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    assert_eq!(client.list().unwrap(), [info(5)]);
    assert_eq!(fake.finish().len(), 3);
}

#[test]
fn nothing_is_asked_a_third_time() {
    let fake = Fake::new(vec![
        welcomed([Step::Read]),
        welcomed([Step::Read]),
        answering(&[short_list()]),
    ]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    let error = client.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    // A new call is a new beginning.
    assert_eq!(client.list().unwrap(), [info(5)]);
    assert_eq!(fake.finish().len(), 3);
}

#[test]
fn a_list_goes_on_where_it_was_lost() {
    let first = Reply::List(mountwarden_client::protocol::ListPage {
        mounts: vec![info(3)],
        next: Some(id(3)),
    });
    let fake = Fake::new(vec![
        welcomed([Step::Read, send(&first), Step::Read]),
        answering(&[short_list()]),
    ]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    assert_eq!(client.list().unwrap(), [info(3), info(5)]);
    let after = Request::List { after: Some(id(3)) };
    let log = fake.finish();
    assert_eq!(log[0], [Request::List { after: None }, after.clone()]);
    assert_eq!(log[1], [after]);
}

#[test]
fn a_mount_whose_helper_is_gone_for_good_may_have_been_done() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let helper = std::thread::spawn(move || {
        use mountwarden_client::protocol::{HelloReply, frame};
        let (mut stream, _) = listener.accept().unwrap();
        frame::read(&mut stream).unwrap();
        frame::write(&mut stream, &HelloReply::Welcome(crate::support::welcome())).unwrap();
        frame::read(&mut stream).unwrap();
        drop(listener);
    });
    let mut client = Client::connect_to(&socket).unwrap();
    let error = client.mount(Tmpfs::new("/a").unwrap()).unwrap_err();
    helper.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
}

/// What the helper answers to a mount, which is a lease, and then the connection ends.
fn leased_then_lost() -> Script {
    let made = send(&mounted(Outcome::Mounted));
    welcomed([Step::Read, made, Step::Read])
}

#[test]
fn a_lost_lease_is_told_once_and_nothing_else_is_asked() {
    let fake = Fake::new(vec![leased_then_lost(), answering(&[short_list()])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    assert!(client.lease_end().is_none());
    client.mount(Tmpfs::new("/a").unwrap().leased()).unwrap();
    assert!(client.lease_end().is_some());
    let error = client.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(error.to_string().contains("(id 77)"), "{error}");
    assert!(client.lease_end().is_none());
    assert_eq!(client.list().unwrap(), [info(5)]);
    assert_eq!(fake.finish()[1].len(), 1, "the second list alone");
}

#[test]
fn without_a_lease_nothing_is_lost() {
    for unmounts in [false, true] {
        let mut steps = vec![Step::Read, send(&mounted(Outcome::Mounted))];
        if unmounts {
            steps.extend([Step::Read, send(&unmounted())]);
        }
        steps.push(Step::Read);
        let fake = Fake::new(vec![welcomed(steps), answering(&[short_list()])]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        let tmpfs = Tmpfs::new("/a").unwrap();
        let tmpfs = if unmounts { tmpfs.leased() } else { tmpfs };
        let made = client.mount(tmpfs).unwrap();
        if unmounts {
            client.unmount(&made).unwrap();
        }
        assert_eq!(
            client.list().unwrap(),
            [info(5)],
            "as if nothing had happened"
        );
        fake.finish();
    }
}

#[test]
fn a_leased_mount_is_not_asked_for_twice() {
    let fake = Fake::new(vec![welcomed([Step::Read])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    let mount = Tmpfs::new("/a").unwrap().leased();
    let error = client.mount(mount).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert_eq!(fake.finish().len(), 1);
}
