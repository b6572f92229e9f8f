//! A helper that lies.

use mountwarden_client::protocol::{ListPage, Reply, frame};
use mountwarden_client::{
    Client, Error, ErrorCode, ErrorKind, ErrorReply, Explanation, MountAttributes, MountInfo,
    Outcome, Tmpfs, Unmount,
};

use crate::support::{Fake, Step, answering, id, info, mounted, unmounted, welcomed};

type Ask = fn(&mut Client) -> Result<(), Error>;

const ASKS: [Ask; 5] = [
    |client| client.mount(Tmpfs::new("/a")?).map(drop),
    |client| client.unmount(Unmount::new("/a")?).map(drop),
    |client| client.list().map(drop),
    |client| client.explain(Tmpfs::new("/a")?).map(drop),
    |client| client.status().map(drop),
];

fn replies() -> [Reply; 5] {
    [
        mounted(Outcome::Mounted),
        unmounted(),
        Reply::List(ListPage {
            mounts: vec![],
            next: None,
        }),
        Reply::Explained(Explanation::Allowed {
            grant: "g".to_owned(),
            attributes: MountAttributes::empty(),
            tmpfs: None,
        }),
        Reply::Status(Box::new(crate::support::status())),
    ]
}

#[test]
fn every_request_takes_its_own_reply_and_no_other() {
    for (number, ask) in ASKS.iter().enumerate() {
        for (other, reply) in replies().into_iter().enumerate() {
            let fake = Fake::new(vec![
                answering(std::slice::from_ref(&reply)),
                answering(&[replies()[number].clone()]),
            ]);
            let mut client = Client::connect_to(fake.path()).unwrap();
            let result = ask(&mut client);
            if number == other {
                result.unwrap();
            } else {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Protocol, "{reply:?}");
                ask(&mut client).unwrap();
                assert_eq!(fake.finish().len(), 2, "the liar is not asked again");
            }
        }
    }
}

/// Bytes that are no reply end in an error, at once and without a second try.
#[test]
fn bytes_that_are_no_reply_break_the_protocol() {
    let oversized = (frame::MAX_FRAME + 1).try_into().unwrap();
    let mut trailing = frame::encode(&unmounted()).unwrap();
    trailing.push(0);
    let length = u32::try_from(trailing.len() - 4).unwrap();
    trailing[..4].copy_from_slice(&length.to_le_bytes());
    let cases = [
        u32::to_le_bytes(0).to_vec(),
        u32::to_le_bytes(oversized).to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        [&4_u32.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        // A list that claims 2^60 mounts.
        [
            &12_u32.to_le_bytes()[..],
            &3_u32.to_le_bytes(),
            &(1_u64 << 60).to_le_bytes(),
        ]
        .concat(),
        trailing,
        // A whole reply, and the beginning of something that nobody asked for.
        [frame::encode(&unmounted()).unwrap(), vec![0]].concat(),
    ];
    for bytes in cases {
        for ask in ASKS {
            let fake = Fake::new(vec![
                welcomed([Step::Read, Step::Send(bytes.clone()), Step::Hold]),
                welcomed([Step::Hold]),
            ]);
            let mut client = Client::connect_to(fake.path()).unwrap();
            let error = ask(&mut client).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{bytes:?}: {error}");
            let path = fake.path().display().to_string();
            assert!(error.to_string().contains(&path), "{error}");
            assert_eq!(fake.finish().len(), 1);
        }
    }
}

fn page(ids: &[u64], next: Option<u64>) -> Reply {
    Reply::List(ListPage {
        mounts: ids.iter().copied().map(info).collect(),
        next: next.map(id),
    })
}

fn listed(pages: &[Reply]) -> Result<Vec<MountInfo>, ErrorKind> {
    let fake = Fake::new(vec![answering(pages)]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    client.list().map_err(|error| error.kind())
}

#[test]
fn a_list_that_does_not_advance_is_refused() {
    for pages in [
        vec![page(&[1, 2], Some(2)), page(&[1, 2], Some(2))],
        vec![page(&[1, 2], Some(2)), page(&[2], None)],
        vec![page(&[2, 1], None)],
        vec![page(&[1, 1], None)],
        vec![page(&[1, 5], Some(4))],
        vec![page(&[], Some(4)), page(&[], Some(4))],
        vec![page(&[], Some(4)), page(&[3], None)],
    ] {
        assert_eq!(listed(&pages), Err(ErrorKind::Protocol), "{pages:?}");
    }
}

#[test]
fn a_list_that_advances_is_read_to_its_end() {
    let all = listed(&[
        page(&[1, 2], Some(2)),
        page(&[], Some(7)),
        page(&[8, 9], Some(9)),
        page(&[], None),
    ]);
    assert_eq!(all, Ok([1, 2, 8, 9].map(info).to_vec()));
}

#[test]
fn a_message_cannot_steer_a_terminal() {
    let reply = Reply::Error(ErrorReply::new(
        ErrorCode::Failed,
        "a\u{1b}[2J\u{9b}\nb\u{202e}",
    ));
    let fake = Fake::new(vec![answering(&[reply])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    let error = client.status().unwrap_err();
    assert_eq!(error.to_string(), "a\\u{1b}[2J\\u{9b}\\nb\\u{202e}");
}

#[test]
fn a_code_of_a_newer_helper_is_a_failure_with_its_message() {
    let reply = Reply::Error(ErrorReply::new(ErrorCode::Other(900), "the moon is wrong"));
    let fake = Fake::new(vec![answering(&[reply])]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    let error = client.status().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert_eq!(error.reply().unwrap().code, ErrorCode::Other(900));
    assert_eq!(error.to_string(), "the moon is wrong");
}
