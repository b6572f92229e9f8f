//! Attacks by what is said on the socket.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use mountwarden_client::protocol::{Hello, HelloReply, Operation, Reply, Request, frame};
use mountwarden_client::{ErrorCode, Tmpfs, Versions};

use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;
use crate::wire::{Wire, body};

fn mount(sandbox: &Sandbox) -> Request {
    Request::Perform(Operation::Mount(
        Tmpfs::new(sandbox.path("mnt/a")).unwrap().into(),
    ))
}

pub(crate) fn attack_20_bad_frames(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let good = body(&mount(sandbox));
    let with_length = |length: u32, rest: &[u8]| [&length.to_le_bytes(), rest].concat();
    let whole = |body: &[u8]| with_length(u32::try_from(body.len()).unwrap(), body);
    let bomb = {
        // The target's length, at its place, claims more than the frame holds.
        let target = sandbox.path("mnt/a");
        let path = target.as_os_str().as_encoded_bytes();
        let at = good
            .windows(path.len())
            .position(|window| window == path)
            .unwrap();
        let mut bytes = good.clone();
        bytes[at - 8..at].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        bytes
    };
    let mut variant = good.clone();
    variant[0] = 99;
    let frames: [(&str, Vec<u8>); 8] = [
        ("length 0", with_length(0, b"")),
        ("length 4 GiB", with_length(u32::MAX, &good)),
        ("length 64 KiB and one", with_length(65_537, &good)),
        ("a length bomb inside", whole(&bomb)),
        ("trailing bytes", whole(&[&good[..], b"x"].concat())),
        ("cut short", whole(&good[..good.len() - 1])),
        ("an unknown variant", whole(&variant)),
        ("noise", whole(&[0xff; 100])),
    ];
    for (what, bytes) in frames {
        let mut wire = Wire::open(&daemon.socket);
        unchanged(|| {
            wire.0.write_all(&bytes).unwrap();
            wire.error(ErrorCode::MalformedFrame);
            assert!(wire.is_closed(), "{what}: the connection ends");
        });
        wait_for("the audit line", || {
            let audit = daemon.audit();
            let line = audit.last()?;
            (line["event"] == "protocol" && line["code"] == "malformed-frame").then_some(())
        });
    }
    // The option tag of the size: 2 is neither absent nor present.
    let mut wire = Wire::open(&daemon.socket);
    let mut tag = good.clone();
    tag[12] = 2;
    unchanged(|| {
        wire.send_body(&tag);
        wire.error(ErrorCode::MalformedFrame);
    });
    let mut next = Wire::open(&daemon.socket);
    next.send_body(&good);
    assert!(
        matches!(next.reply(), Reply::Mounted(_)),
        "the next client is served"
    );
    Ok(())
}

pub(crate) fn attack_20_unknown_version(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let refused = |hello: &Hello, code: ErrorCode| {
        let mut wire = Wire::connect(&daemon.socket);
        frame::write(&mut wire.0, hello).unwrap();
        let body = frame::read(&mut wire.0).unwrap();
        let HelloReply::Refused(refusal) = frame::decode(&body).unwrap() else {
            panic!("welcome")
        };
        assert_eq!(refusal.error.code, code, "{refusal:?}");
        assert_eq!(refusal.versions, Versions::SUPPORTED);
        assert!(wire.is_closed());
        refusal.error.message
    };
    let newer = Versions {
        oldest: 7,
        newest: 9,
    };
    let message = refused(
        &Hello {
            versions: newer,
            ..Hello::default()
        },
        ErrorCode::UnsupportedVersion,
    );
    assert!(
        message.contains("versions 7 to 9") && message.contains("version 1"),
        "{message}"
    );
    let nobody = Hello {
        magic: *b"HTTP",
        ..Hello::default()
    };
    refused(&nobody, ErrorCode::MalformedFrame);
    let range = Hello {
        versions: Versions {
            oldest: 0,
            newest: 9,
        },
        ..Hello::default()
    };
    let mut wire = Wire::connect(&daemon.socket);
    frame::write(&mut wire.0, &range).unwrap();
    let body = frame::read(&mut wire.0).unwrap();
    let HelloReply::Welcome(welcome) = frame::decode(&body).unwrap() else {
        panic!("refused")
    };
    assert_eq!(welcome.version, 1);
    Ok(())
}

pub(crate) fn attack_21_slow_and_silent_clients(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nrequest_timeout = \"1s\"\nidle_timeout = \"2s\"\n[[grant]]";
    sandbox.policy(&crate::sandbox::POLICY.replacen("[[grant]]", limits, 1));
    let daemon = Daemon::start(sandbox);
    let mut silent = Wire::open(&daemon.socket);
    let mut never_greeted = Wire::connect(&daemon.socket);
    let mut half_greeted = Wire::connect(&daemon.socket);
    let hello = frame::encode(&Hello::default()).unwrap();
    half_greeted.0.write_all(&hello[..hello.len() / 2]).unwrap();
    let mut slow = Wire::open(&daemon.socket);
    let started = Instant::now();
    let frame = frame::encode(&mount(sandbox)).unwrap();
    for byte in &frame[..frame.len() - 1] {
        // The helper closes while this is still writing.
        if slow.0.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(matches!(daemon.client().list(), Ok(list) if list.is_empty()));
    }
    assert!(
        started.elapsed() < crate::slowly(Duration::from_secs(5)),
        "cut off early"
    );
    // A frame must be whole in time.
    slow.error(ErrorCode::TimedOut);
    assert!(slow.is_closed());
    assert!(silent.is_closed(), "silent beyond `idle_timeout`");
    assert!(never_greeted.is_closed(), "no handshake in time");
    let bytes = frame::read(&mut half_greeted.0).unwrap();
    let HelloReply::Refused(refusal) = frame::decode(&bytes).unwrap() else {
        panic!("welcome")
    };
    assert_eq!(refusal.error.code, ErrorCode::TimedOut, "half a handshake");
    assert!(half_greeted.is_closed());
    assert!(started.elapsed() >= Duration::from_secs(2));
    daemon.client().list().unwrap();
    Ok(())
}

pub(crate) fn attack_22_unexpected_descriptors(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let open_files = || -> usize {
        kernel::descendants(daemon.pid())
            .iter()
            .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok())
            .map(Iterator::count)
            .sum()
    };
    drop(daemon.client());
    let quiet = wait_for("the first client's processes are gone", || {
        (kernel::descendants(daemon.pid()).len() == 2).then(open_files)
    });
    let file = File::open(sandbox.path("src")).unwrap();
    let good = frame::encode(&mount(sandbox)).unwrap();
    for count in [1, 2, 3, 253] {
        let descriptors: Vec<BorrowedFd<'_>> = vec![file.as_fd(); count];
        let mut wire = Wire::open(&daemon.socket);
        unchanged(|| {
            wire.send_with(&good, &descriptors).unwrap();
            let error = wire.error(ErrorCode::MalformedFrame);
            assert!(error.message.contains("descriptors"), "{error:?}");
            assert!(wire.is_closed());
        });
    }
    wait_for("the helper's descriptors are what they were", || {
        (kernel::descendants(daemon.pid()).len() == 2 && open_files() == quiet).then_some(())
    });
    let mut wire = Wire::open(&daemon.socket);
    wire.0.write_all(&good).unwrap();
    assert!(
        matches!(wire.reply(), Reply::Mounted(_)),
        "the same bytes without descriptors"
    );
    Ok(())
}

pub(crate) fn attack_23_out_of_state(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    // A request before the handshake.
    let mut early = Wire::connect(&daemon.socket);
    unchanged(|| {
        early.send_body(&body(&mount(sandbox)));
        let bytes = frame::read(&mut early.0).unwrap();
        let HelloReply::Refused(refusal) = frame::decode(&bytes).unwrap() else {
            panic!("welcome")
        };
        assert_eq!(refusal.error.code, ErrorCode::MalformedFrame);
        assert!(early.is_closed());
    });
    // A second handshake.
    let mut late = Wire::open(&daemon.socket);
    frame::write(&mut late.0, &Hello::default()).unwrap();
    late.error(ErrorCode::MalformedFrame);
    assert!(late.is_closed());
    // Two requests at once are two answers in order.
    let mut both = Wire::open(&daemon.socket);
    let list = frame::encode(&Request::List { after: None }).unwrap();
    let status = frame::encode(&Request::Status).unwrap();
    both.0.write_all(&[list, status].concat()).unwrap();
    assert!(matches!(both.reply(), Reply::List(_)));
    assert!(matches!(both.reply(), Reply::Status(_)));
    Ok(())
}
