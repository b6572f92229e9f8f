//! What a session or a mounter in the hands of an attacker says on the order channel,
//! and how.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use mountwarden_client::protocol::{Operation, Reply, Request, frame};
use mountwarden_client::{
    Bind, DenyReason, ErrorCode, ErrorReply, MountId, Outcome, Tmpfs, TmpfsInodes, TmpfsMode,
    TmpfsSize, Unmount,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::geteuid;

use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::honest::{borrowed, directory, mounted};
use crate::hostile::{
    HostileGate, HostileMounter, HostileSession, Order, OrderReply, Quiet, encoded,
    others_are_served,
};
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;
use crate::wire::Wire;

/// The longest message of the channel.
const MAX_MESSAGE: usize = 32 * 1024;

/// The bytes of a message in which `from` stands once, with `to` in its place.
fn patched(order: &Order, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(order);
    let places: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(from))
        .collect();
    let [at] = places[..] else {
        panic!("{from:?} is at {places:?} of {bytes:?}")
    };
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// Each of these messages ends the mounter, with the reason in the log.
fn all_end_it(daemon: &Daemon, messages: &[(Vec<u8>, &str)]) -> Result<(), Skip> {
    for (bytes, words) in messages {
        let hostile = HostileSession::take(daemon)?;
        unchanged(|| {
            hostile.channel.send_bytes(bytes, &[]).unwrap();
            let channel = "order channel: a message does not follow the protocol: ";
            hostile.ended(daemon, &[channel, words]);
        });
    }
    Ok(())
}

pub(crate) fn attack_20_bytes_that_are_no_order(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let target = sandbox.path("mnt/a");
    let order = Order::Perform(Tmpfs::new(&target).unwrap().into());
    let good = encoded(&order);
    let resized = |length: usize, rest: &[u8]| {
        let length = u32::try_from(length).unwrap().to_le_bytes();
        [&length[..], rest].concat()
    };
    let body = &good[4..];
    let path = target.as_os_str().as_encoded_bytes();
    let length = u64::try_from(path.len()).unwrap().to_le_bytes();
    let bomb = (1_u64 << 60).to_le_bytes();
    let long = [&resized(MAX_MESSAGE, body)[..], &vec![0; MAX_MESSAGE]].concat();
    let error = ErrorReply::new(ErrorCode::Denied, "no");
    let done = OrderReply::Done(Reply::Error(error.clone()));
    let mut unknown = good.clone();
    unknown[4] = 99;
    all_end_it(
        &daemon,
        &[
            (long, "bytes or descriptors of it did not fit"),
            (good[..3].to_vec(), "failed to fill whole buffer"),
            (
                good[..good.len() - 1].to_vec(),
                "failed to fill whole buffer",
            ),
            (resized(0, b""), "a frame has 1 to 65536 bytes, not 0"),
            (
                resized(65_537, body),
                "a frame has 1 to 65536 bytes, not 65537",
            ),
            ([&good[..], &good].concat(), "bytes follow it"),
            ([&good[..], b"x"].concat(), "bytes follow it"),
            (
                resized(body.len() + 1, &[body, b"x"].concat()),
                "1 bytes follow the message",
            ),
            (
                resized(body.len() - 1, &body[..body.len() - 1]),
                "it is cut short",
            ),
            (
                patched(&order, &[&length[..], path].concat(), &bomb),
                "a length in it exceeds the frame",
            ),
            (unknown, "invalid value: integer `99`"),
            // What a mounter says, said to it.
            (encoded(&OrderReply::Ready), "it is cut short"),
            (
                encoded(&OrderReply::Refused(error)),
                "the tag of an option in it is 5",
            ),
            (encoded(&done), "bytes follow the message"),
        ],
    )?;
    // The longest that there can be, and the order itself.
    let hostile = HostileSession::take(&daemon)?;
    let note = |length: usize| {
        let mut error = ErrorReply::new(ErrorCode::NotFound, "");
        error.message = "n".repeat(length);
        encoded(&Order::Note {
            operation: None,
            error,
            entry: None,
        })
    };
    let longest = note(MAX_MESSAGE - note(0).len());
    assert_eq!(longest.len(), MAX_MESSAGE);
    hostile.channel.send_bytes(&longest, &[]).unwrap();
    hostile.channel.taken();
    let files = [sandbox.path("mnt"), target].map(directory);
    hostile
        .channel
        .send_bytes(&good, &borrowed(&files))
        .unwrap();
    assert!(matches!(
        hostile.channel.receive(),
        Some(OrderReply::Done(_))
    ));
    assert_eq!(daemon.audit().len(), 2);
    drop(hostile);
    quiet.again(&daemon)
}

/// Bytes that are no answer, and answers to what was not asked, end the session, with
/// the reason in the log.
pub(crate) fn attack_20_answers_that_are_none(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let error = ErrorReply::new(ErrorCode::Denied, "no");
    let ready = encoded(&OrderReply::Ready);
    let mut unknown = ready.clone();
    unknown[4] = 99;
    let another = "the mounter gave an answer to another question";
    let answers = [
        (ready.clone(), another),
        (encoded(&OrderReply::Refused(error)), another),
        (encoded(&OrderReply::Taken), another),
        (ready[..3].to_vec(), "failed to fill whole buffer"),
        ([&ready[..], b"x"].concat(), "bytes follow it"),
        (unknown, "invalid value: integer `99`"),
    ];
    for (answer, why) in answers {
        let mark = daemon.log().len();
        let mut client = Wire::open(&daemon.socket);
        let hostile = HostileMounter::take(&daemon)?;
        unchanged(|| {
            hostile.channel.send_bytes(&answer, &[]).unwrap();
            frame::write(&mut client.0, &Request::Status).unwrap();
            assert!(client.is_closed());
        });
        let gate = "\"role\":\"gate\"";
        let session = "\"role\":\"session\"";
        let left = "it left with status 1; its own line in the log says why";
        for (role, words) in [(session, why), (gate, left)] {
            wait_for(&format!("a line: {words}"), || {
                let log = daemon.log();
                let mut lines = log[mark..].lines();
                lines
                    .any(|line| line.contains(role) && line.contains(words))
                    .then_some(())
            });
        }
        drop(hostile);
        quiet.again(&daemon)?;
    }
    others_are_served(&daemon);
    Ok(())
}

/// Values that no client library could send do not even decode.
pub(crate) fn attack_18_values_that_are_never_valid(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let number = 0x0102_0304_0506_0708_u64;
    let bytes = number.to_le_bytes();
    let tmpfs = |change: &dyn Fn(Tmpfs) -> Tmpfs| {
        Order::Perform(change(Tmpfs::new(&target).unwrap()).into())
    };
    let size = tmpfs(&|mount| mount.size(TmpfsSize::try_from(number).unwrap()));
    let inodes = tmpfs(&|mount| mount.inodes(TmpfsInodes::try_from(number).unwrap()));
    let mode = tmpfs(&|mount| mount.mode(TmpfsMode::try_from(0o123).unwrap()));
    let unmount = Unmount::new(&target).unwrap();
    let by_id = Order::Perform(
        unmount
            .clone()
            .id(MountId::try_from(number).unwrap())
            .into(),
    );
    let lazy = Order::Perform(unmount.lazy().into());
    let zero = 0_u64.to_le_bytes();
    let beyond = (1_u64 << 63).to_le_bytes();
    let most = u64::MAX.to_le_bytes();
    let plain = tmpfs(&|mount| mount);
    // The options, the propagation, what is passed.
    let [options, passed] = [12, 4].map(|before_end| {
        let mut bytes = encoded(&plain);
        let at = bytes.len() - before_end;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    });
    all_end_it(
        &daemon,
        &[
            (
                patched(&size, &bytes, &zero),
                "a tmpfs size must be 1 byte or more",
            ),
            (
                patched(&size, &bytes, &beyond),
                "a tmpfs size must be 1 byte or more",
            ),
            (
                patched(&size, &bytes, &most),
                "a tmpfs size must be 1 byte or more",
            ),
            (
                patched(&inodes, &bytes, &zero),
                "a tmpfs inode count must be 1 or more",
            ),
            (
                patched(&inodes, &bytes, &most),
                "a tmpfs inode count must be 1 or more",
            ),
            (
                patched(&mode, &[1, 0o123, 0, 0, 0], &[1, 0xff, 0x0f, 0, 0]),
                "a tmpfs mode must be permission bits",
            ),
            (
                patched(&mode, &[1, 0o123, 0, 0, 0], &[2]),
                "the tag of an option in it is 2",
            ),
            (options, "hold a bit that is not defined"),
            (passed, "hold a bit that is not defined"),
            (patched(&by_id, &bytes, &zero), "0 is not a mount id"),
            (
                patched(&lazy, b"/mnt/a\x01", b"/mnt/a\x02"),
                "a boolean in it is 2",
            ),
            (patched(&plain, b"/mnt/a", b"/../aa"), "'..'"),
            (patched(&plain, b"/mnt/a", b"/mnt//"), "'//'"),
            (patched(&plain, b"/mnt/a", b"/mnt\0a"), "NUL"),
        ],
    )?;
    others_are_served(&daemon);
    Ok(())
}

/// Noise, from a seed. A mounter without a session is enough for it.
pub(crate) fn attack_20_noise(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let gate = HostileGate::take(&daemon)?;
    let (client, accepted) = gate.accept(&daemon);
    let order = encoded(&Order::Perform(
        Tmpfs::new(sandbox.path("mnt/a")).unwrap().into(),
    ));
    // `xorshift64`, from Marsaglia's "Xorshift RNGs".
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let status = encoded(&Order::Status);
    let mut lost = 0;
    unchanged(|| {
        let mut channel = gate.connect(&accepted).unwrap();
        for round in 0..400 {
            let mut bytes = order.clone();
            if round % 4 == 0 {
                let length = 1 + random(MAX_MESSAGE);
                bytes = (0..length).map(|_| random(256).to_le_bytes()[0]).collect();
            } else {
                for _ in 0..=random(3) {
                    let at = random(bytes.len());
                    bytes[at] = random(256).to_le_bytes()[0];
                }
            }
            channel.send_bytes(&bytes, &[]).unwrap();
            // An order may have come out, which brings no descriptors: it is denied,
            // or a violation. Then this is answered too, or the channel is closed.
            let _ = channel.send_bytes(&status, &[]);
            loop {
                match channel.receive() {
                    Some(OrderReply::Status { .. }) => break,
                    Some(OrderReply::Done(Reply::Error(_))) => {}
                    Some(other) => panic!("{other:?}"),
                    None => {
                        lost += 1;
                        channel = gate.connect(&accepted).unwrap();
                        break;
                    }
                }
            }
        }
    });
    assert!(lost > 100, "noise is no order: {lost}");
    drop((client, accepted));
    quiet.again(&daemon)
}

/// The same order once more is judged and checked once more.
pub(crate) fn attack_23_replays(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let [mnt, a, data] = ["mnt", "mnt/a", "src/data"].map(|name| sandbox.path(name));
    let bind: Operation = Bind::new(&data, &a).unwrap().into();
    let files = [&mnt, &a, &data].map(directory);
    let all = borrowed(&files);
    let above = &all[..1];
    let perform = |operation: &Operation, files| hostile.channel.perform(operation, files);
    let code = |reply: Reply| match reply {
        Reply::Error(error) => error.code,
        other => panic!("not an error: {other:?}"),
    };
    let unmount: Operation = Unmount::new(&a).unwrap().into();
    let first = mounted(perform(&bind, &all));
    for _ in 0..3 {
        assert_eq!(unchanged(|| code(perform(&bind, &all))), ErrorCode::Changed);
    }
    assert!(matches!(perform(&unmount, above), Reply::Unmounted(_)));
    for _ in 0..3 {
        let code = unchanged(|| code(perform(&unmount, above)));
        assert_eq!(code, ErrorCode::NotMounted);
    }
    let second = mounted(perform(&bind, &all));
    assert_eq!(second.outcome, Outcome::Mounted);
    // Without statmount, the second may have got the first one's number.
    if kernel::needs_unique_ids().is_ok() || second.mount.id != first.mount.id {
        let old = Unmount::new(&a).unwrap().id(first.mount.id).lazy().into();
        let code = unchanged(|| code(perform(&old, above)));
        assert_eq!(code, ErrorCode::IdMismatch);
    }
    assert!(matches!(perform(&unmount, above), Reply::Unmounted(_)));

    // A number that is closed and used again while the order is on its way: what
    // was sent counts, not the number.
    kill(hostile.mounter, Signal::SIGSTOP).unwrap();
    hostile.channel.send(&Order::Perform(bind), &all);
    drop(files);
    let others: Vec<OwnedFd> = (0..8).map(|_| directory(sandbox.path("src"))).collect();
    kill(hostile.mounter, Signal::SIGCONT).unwrap();
    let Some(OrderReply::Done(reply)) = hostile.channel.receive() else {
        panic!("no end")
    };
    drop(others);
    assert_eq!(mounted(reply).mount.target.as_path(), a);
    Ok(())
}

/// The end comes in the middle: what was asked for before it is done whole, and
/// written down.
pub(crate) fn attack_23_ends_in_the_middle(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let target = sandbox.path("mnt/a");
    let tmpfs = Order::Perform(Tmpfs::new(&target).unwrap().into());
    let files = [sandbox.path("mnt"), target.clone()].map(directory);
    let mut hostile = HostileSession::take(&daemon)?;
    kill(hostile.mounter, Signal::SIGSTOP).unwrap();
    hostile.channel.send(&tmpfs, &borrowed(&files));
    hostile.die();
    kill(hostile.mounter, Signal::SIGCONT).unwrap();
    hostile.ended(
        &daemon,
        &["order channel: the other half closed the channel"],
    );
    assert_eq!(daemon.last_audit()["result"], "mounted");
    assert!(kernel::only(&target).options.contains("nosuid,nodev"));

    // Nothing more to come, while the replies are still read; and the reverse.
    let shut = |hostile: &HostileSession, how| {
        let channel = hostile.channel.0.try_clone().unwrap();
        UnixStream::from(channel).shutdown(how).unwrap();
    };
    let hostile = HostileSession::take(&daemon)?;
    hostile.channel.send(&Order::Status, &[]);
    shut(&hostile, Shutdown::Write);
    assert!(matches!(
        hostile.channel.receive(),
        Some(OrderReply::Status { .. })
    ));
    assert!(hostile.channel.receive().is_none());
    assert_eq!(hostile.channel.send_bytes(b"x", &[]), Err(Errno::EPIPE));
    hostile.ended_quietly(&daemon);
    let hostile = HostileSession::take(&daemon)?;
    shut(&hostile, Shutdown::Read);
    hostile.channel.send(&Order::Status, &[]);
    hostile.ended(
        &daemon,
        &["order channel: the other half closed the channel"],
    );
    // Descriptors and no message: that is the end too.
    let hostile = HostileSession::take(&daemon)?;
    hostile.channel.send_bytes(b"", &borrowed(&files)).unwrap();
    hostile.ended_quietly(&daemon);
    drop(files);
    quiet.again(&daemon)
}

/// A note is the session's word, and is marked so: it forges no line of a mounter's
/// and none of another user's, claims no success, and stays one line.
pub(crate) fn attack_33_notes(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let forged =
        "x\"}\n{\"event\":\"mount-bind\",\"by\":\"mounter\",\"uid\":4001,\"result\":\"mounted\"}";
    let messages = [
        forged.to_owned(),
        "\x1b[2J\u{202e}\r\0\u{7f}".to_owned(),
        "\u{1}".repeat(10 * 1024),
        "m".repeat(10 * 1024),
        "\u{1f5ff}".repeat(1000),
        String::new(),
    ];
    let operations: [Option<Operation>; 4] = [
        None,
        Some(Tmpfs::new("/etc").unwrap().into()),
        Some(
            Bind::new("/src/\n\u{1b}[0m", "/mnt/4001/\"")
                .unwrap()
                .into(),
        ),
        Some(Unmount::new("/mnt/4001/x").unwrap().into()),
    ];
    let codes = [
        (ErrorCode::Denied, Some(DenyReason::Other(0))),
        (ErrorCode::Other(0), None),
        (ErrorCode::NotFound, Some(DenyReason::NoGrant)),
    ];
    let mut sent = 0;
    for message in &messages {
        for operation in &operations {
            for (code, reason) in codes {
                let mut error = ErrorReply::new(code, "");
                error.message.clone_from(message);
                error.reason = reason;
                error.errno = Some(-1);
                let operation = operation.clone();
                let entry = None;
                let note = Order::Note {
                    operation,
                    error,
                    entry,
                };
                hostile.channel.send(&note, &[]);
                hostile.channel.taken();
                sent += 1;
            }
        }
    }
    let log = daemon.log();
    assert!(log.chars().all(|c| c == '\n' || (' '..='~').contains(&c)));
    let lines = daemon.audit();
    assert_eq!(lines.len(), sent, "a line each");
    for line in lines {
        assert_eq!(line["by"], "session", "{line}");
        assert_eq!(line["uid"], geteuid().as_raw(), "{line}");
        let result = line["result"].as_str().unwrap();
        assert!(["denied", "error"].contains(&result), "{line}");
        assert!(
            line.get("grant").is_none() && line.get("id").is_none(),
            "{line}"
        );
    }
    assert!(log.lines().all(|line| line.len() < 4096));
    // What the mounter does itself is marked as its own.
    let error = hostile.refused(&daemon, &Unmount::new("/mnt/x").unwrap().into(), &[])?;
    assert_eq!(error.reason, Some(DenyReason::TargetNotGranted));
    Ok(())
}
