//! What the builders send, and what they refuse to build.

use std::num::NonZeroU32;
use std::time::Duration;

use mountwarden_client::protocol::{
    AppliedEntry, ImageType, Kind, LeftEntry, Lift, Mount, MountOptions, Move as MoveRequest,
    NotApplied, Operation, Passed, ProbeAnswer, Probed, Propagation, Remount as RemountRequest,
    Reply, Request, Unmount as UnmountRequest, UpperLayer,
};
use mountwarden_client::{
    Batch, Bind, Client, DenyReason, ErrorCode, ErrorKind, ErrorReply, Health, Image, InvalidPath,
    MountAttributes, Move, Outcome, Overlay, Remount, Tmpfs, TmpfsInodes, TmpfsMode, TmpfsSize,
    Unmount,
};

use crate::support::{Fake, Step, answering, id, info, mounted, path, send, unmounted, welcomed};

/// The request that each call sent.
fn sent(replies: &[Reply], ask: impl Fn(&mut Client)) -> Vec<Request> {
    let fake = Fake::new(vec![answering(replies)]);
    let mut client = Client::connect_to(fake.path()).unwrap();
    ask(&mut client);
    fake.finish().swap_remove(0)
}

#[test]
fn a_lease_is_asked_for_by_name() {
    for (mount, lease) in [
        (Bind::new("/a", "/b").unwrap().leased().into(), true),
        (Tmpfs::new("/b").unwrap().leased().into(), true),
        (Tmpfs::new("/b").unwrap().into(), false),
    ] {
        let mount: Mount = mount;
        assert_eq!(mount.lease, lease);
        let requests = sent(&[mounted(Outcome::Mounted)], |client| {
            client.mount(mount.clone()).unwrap();
        });
        let operation = Operation::Mount(mount);
        assert_eq!(requests, [Request::Perform(operation)]);
    }
}

#[test]
fn a_probe_has_a_connection_of_its_own() {
    let probed = Reply::Probed(Probed {
        target: path("/b"),
        id: Some(id(77)),
        answer: ProbeAnswer::Alive,
    });
    for (within, timeout_ms) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(1500), 1500),
        (Duration::MAX, u32::MAX),
    ] {
        let fake = Fake::new(vec![
            welcomed([Step::Read, send(&mounted(Outcome::Mounted))]),
            answering(std::slice::from_ref(&probed)),
        ]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        client.mount(Tmpfs::new("/a").unwrap().leased()).unwrap();
        let probe = client.probe("/b", within).unwrap();
        assert_eq!((probe.health, probe.id), (Health::Alive, Some(id(77))));
        assert!(client.lease_end().is_some());
        drop(client);
        let asked = Request::Probe {
            target: path("/b"),
            timeout_ms: NonZeroU32::new(timeout_ms).unwrap(),
        };
        assert_eq!(fake.finish()[1], [asked]);
    }
}

fn entry(number: u64, outcome: Outcome) -> AppliedEntry {
    AppliedEntry {
        outcome,
        id: id(number),
        attributes: MountAttributes::READ_ONLY,
    }
}

fn batch() -> Batch {
    Batch::new()
        .mount(Tmpfs::new("/a").unwrap().leased())
        .mount(Bind::new("/srv", "/a/b").unwrap())
}

#[test]
fn a_batch_is_one_request_and_each_mount_has_its_answer() {
    let there = entry(78, Outcome::AlreadyMounted);
    let reply = Reply::Applied(vec![entry(77, Outcome::Mounted), there]);
    let requests = sent(&[reply], |client| {
        let applied = client.apply(batch()).unwrap();
        let seen: Vec<_> = applied
            .iter()
            .map(|mount| (mount.outcome, mount.id, mount.target.to_string()))
            .collect();
        assert_eq!(
            seen,
            [
                (Outcome::Mounted, id(77), "/a".to_owned()),
                (Outcome::AlreadyMounted, id(78), "/a/b".to_owned()),
            ]
        );
        assert_eq!(applied[0].attributes, MountAttributes::READ_ONLY);
        assert!(client.lease_end().is_some(), "the first is leased");
    });
    let mounts = batch().mounts().to_vec();
    assert_eq!(requests, [Request::Apply(mounts.try_into().unwrap())]);
}

#[test]
fn a_failed_batch_says_which_mount_it_was_and_what_is_left() {
    let failed = |entry, left: &[(u32, u64)]| {
        let left = left.iter().map(|&(entry, number)| LeftEntry {
            entry,
            id: id(number),
        });
        Reply::NotApplied(NotApplied {
            entry,
            error: ErrorReply::new(ErrorCode::Busy, "/a/b is taken").mount(id(9)),
            left: left.collect(),
        })
    };
    let error_of = |reply: Reply| {
        let fake = Fake::new(vec![answering(&[reply])]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        client.apply(batch()).unwrap_err()
    };
    let error = error_of(failed(1, &[]));
    assert_eq!(
        (error.kind(), error.mount()),
        (ErrorKind::Busy, Some(id(9)))
    );
    let failure = error.batch().unwrap();
    assert_eq!((failure.entry, &failure.left[..]), (1, &[][..]));
    let text = "mount[1]: /a/b is taken; nothing of the batch was done";
    assert_eq!(error.to_string(), text);
    let error = error_of(failed(1, &[(0, 77)]));
    let left = &error.batch().unwrap().left[0];
    assert_eq!(
        (left.id, left.target.to_string()),
        (id(77), "/a".to_owned())
    );
    let text = "mount[1]: /a/b is taken; the mount 77 at /a could not be taken back";
    assert_eq!(error.to_string(), text);
    // Of mounts that were never asked for.
    for reply in [
        failed(2, &[]),
        failed(1, &[(2, 77)]),
        Reply::Applied(vec![entry(77, Outcome::Mounted)]),
        mounted(Outcome::Mounted),
    ] {
        assert_eq!(error_of(reply).kind(), ErrorKind::Protocol);
    }
}

#[test]
fn a_batch_that_fits_no_frame_is_not_sent() {
    let long = "/".to_owned() + &["x"; 250].concat() + "/";
    let mount = |number| Tmpfs::new(format!("{}{number}", long.repeat(8).replace("//", "/")));
    let batch = (0..40).fold(Batch::new(), |batch, number| {
        batch.mount(mount(number).unwrap())
    });
    let requests = sent(&[], |client| {
        let error = client.apply(batch.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("too long"), "{error}");
    });
    assert_eq!(requests, []);
}

fn mount_request(kind: Kind, options: MountOptions) -> Request {
    Request::Perform(Operation::Mount(Mount {
        kind,
        target: path("/b"),
        options,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    }))
}

#[test]
fn a_bind_says_what_was_asked_and_no_more() {
    let source = || path("/a");
    let plain = || Bind::new("/a", "/b").unwrap();
    let cases = [
        (plain(), false, MountOptions::empty()),
        (plain().read_only(), false, MountOptions::READ_ONLY),
        (plain().recursive(), true, MountOptions::empty()),
        (plain().no_exec(), false, MountOptions::NO_EXEC),
        (plain().no_symfollow(), false, MountOptions::NO_SYMFOLLOW),
        (plain().suid(), false, MountOptions::SUID),
        (plain().dev(), false, MountOptions::DEV),
    ];
    for (bind, recursive, options) in cases {
        let requests = sent(&[mounted(Outcome::Mounted)], |client| {
            client.mount(bind.clone()).unwrap();
        });
        let kind = Kind::Bind {
            source: source(),
            recursive,
        };
        assert_eq!(requests, [mount_request(kind, options)]);
    }
}

#[test]
fn an_overlay_says_what_was_asked_and_no_more() {
    let lower = [path("/a,b:c"), path("/d")];
    let plain = || Overlay::new(["/a,b:c", "/d"], "/b").unwrap();
    let written = UpperLayer {
        upper: path("/u"),
        work: path("/w"),
    };
    for (overlay, upper, options) in [
        (plain(), None, MountOptions::empty()),
        (plain().no_exec(), None, MountOptions::NO_EXEC),
        (
            plain().upper("/u", "/w").unwrap().read_only(),
            Some(written),
            MountOptions::READ_ONLY,
        ),
    ] {
        let requests = sent(&[mounted(Outcome::Mounted)], |client| {
            client.mount(overlay.clone()).unwrap();
        });
        let kind = Kind::Overlay {
            lower: lower.to_vec().try_into().unwrap(),
            upper,
        };
        assert_eq!(requests, [mount_request(kind, options)]);
    }
    for (error, words) in [
        (Overlay::new([""; 0], "/b"), "at least one lower layer"),
        (Overlay::new(["/a"; 17], "/b"), "more than 16 lower layers"),
        (Overlay::new(["a"], "/b"), "layer"),
        (plain().upper("/u", "w"), "work directory"),
    ] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn an_image_says_what_was_asked_and_no_more() {
    for (name, filesystem) in [
        ("erofs", ImageType::Erofs),
        ("squashfs", ImageType::Squashfs),
    ] {
        let image = Image::new("/a", name, "/b").unwrap().no_symfollow();
        let requests = sent(&[mounted(Outcome::Mounted)], |client| {
            client.mount(image.clone()).unwrap();
        });
        let file = path("/a");
        let kind = Kind::Image { file, filesystem };
        let options = MountOptions::NO_SYMFOLLOW;
        assert_eq!(requests, [mount_request(kind, options)]);
    }
    let error = Image::new("/a", "ext4", "/b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("erofs or squashfs"), "{error}");
}

#[test]
fn a_tmpfs_says_what_was_asked_and_no_more() {
    let size = TmpfsSize::try_from(4096).unwrap();
    let inodes = TmpfsInodes::try_from(9).unwrap();
    let mode = TmpfsMode::try_from(0o750).unwrap();
    let full = Tmpfs::new("/b")
        .unwrap()
        .size(size)
        .inodes(inodes)
        .mode(mode)
        .no_exec();
    let requests = sent(
        &[mounted(Outcome::Mounted), mounted(Outcome::AlreadyMounted)],
        |client| {
            client.mount(full.clone()).unwrap();
            client.mount(Tmpfs::new("/b").unwrap()).unwrap();
        },
    );
    let first = Kind::Tmpfs {
        size: Some(size),
        inodes: Some(inodes),
        mode: Some(mode),
    };
    let second = Kind::Tmpfs {
        size: None,
        inodes: None,
        mode: None,
    };
    assert_eq!(
        requests,
        [
            mount_request(first, MountOptions::NO_EXEC),
            mount_request(second, MountOptions::empty())
        ]
    );
}

#[test]
fn an_unmount_takes_what_was_reported() {
    let requests = sent(&[unmounted(), unmounted(), unmounted()], |client| {
        let lazy = Unmount::new("/b").unwrap().lazy().id(id(3));
        client.unmount(lazy).unwrap();
        let target = path("/b");
        client.unmount(&target).unwrap();
        client.unmount(&info(9)).unwrap();
    });
    let request = |target, lazy, number: Option<u64>| {
        Request::Perform(Operation::Unmount(UnmountRequest {
            target: path(target),
            lazy,
            id: number.map(id),
            passed: false,
        }))
    };
    assert_eq!(
        requests,
        [
            request("/b", true, Some(3)),
            request("/b", false, None),
            request("/run/vms/7/scratch", false, Some(9)),
        ]
    );
}

/// Only what is named is set or lifted, and what is lifted says of what.
#[test]
fn a_remount_says_what_was_asked_and_no_more() {
    let plain = || Remount::new("/b").unwrap();
    let (ro, noexec) = (MountAttributes::READ_ONLY, MountAttributes::NO_EXEC);
    let bind = Kind::Bind {
        source: path("/a"),
        recursive: false,
    };
    let tmpfs = Kind::Tmpfs {
        size: None,
        inodes: None,
        mode: None,
    };
    let cases = [
        (plain(), MountAttributes::empty(), None, None),
        (plain().read_only().no_exec(), ro | noexec, None, None),
        (plain().set(noexec).id(id(3)), noexec, None, Some(3)),
        (
            plain().no_exec().lift_from_bind(ro, "/a").unwrap(),
            noexec,
            Some((ro, bind)),
            None,
        ),
        (
            plain().lift_from_tmpfs(ro | noexec),
            MountAttributes::empty(),
            Some((ro | noexec, tmpfs)),
            None,
        ),
    ];
    for (remount, set, lift, number) in cases {
        let requests = sent(&[Reply::Remounted(info(7))], |client| {
            assert_eq!(client.remount(remount.clone()).unwrap(), info(7));
        });
        let wanted = Operation::Remount(RemountRequest {
            target: path("/b"),
            set,
            lift: lift.map(|(attributes, kind)| Lift { attributes, kind }),
            id: number.map(id),
        });
        assert_eq!(requests, [Request::Perform(wanted)]);
    }
    let error = plain().lift_from_bind(ro, "a/..").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}

#[test]
fn a_move_says_what_was_asked_and_no_more() {
    let plain = || Move::new("/a", "/b").unwrap();
    for (moved, number) in [(plain(), None), (plain().id(id(3)), Some(3))] {
        let requests = sent(&[Reply::Moved(info(7))], |client| {
            assert_eq!(client.move_mount(moved.clone()).unwrap(), info(7));
        });
        let wanted = Operation::Move(MoveRequest {
            from: path("/a"),
            to: path("/b"),
            id: number.map(id),
        });
        assert_eq!(requests, [Request::Perform(wanted)]);
    }
    for (from, to) in [("a", "/b"), ("/a", "/b/..")] {
        let error = Move::new(from, to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}

#[test]
fn a_path_that_no_helper_accepts_is_not_built() {
    for (text, why) in [
        ("", InvalidPath::Empty),
        ("a", InvalidPath::Relative),
        ("/a/../b", InvalidPath::Dots),
        ("/a/.", InvalidPath::Dots),
        ("/a/", InvalidPath::EmptyComponent),
        ("/a\0b", InvalidPath::Nul),
    ] {
        for error in [
            Bind::new("/a", text).unwrap_err(),
            Bind::new(text, "/a").unwrap_err(),
            Tmpfs::new(text).unwrap_err(),
            Unmount::new(text).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert_eq!(error.path().unwrap().as_os_str(), text);
            let source = std::error::Error::source(&error).unwrap();
            assert_eq!(source.downcast_ref(), Some(&why));
            assert!(error.to_string().contains(&why.to_string()), "{error}");
        }
    }
    assert!(
        Bind::new("x", "/a")
            .unwrap_err()
            .to_string()
            .contains("source")
    );
}

#[test]
fn every_code_has_its_kind_and_keeps_its_report() {
    for &code in ErrorCode::ALL {
        let reply = ErrorReply::new(code, "what happened")
            .at(&path("/b"))
            .errno(16)
            .mount(id(4));
        // What is unavailable is asked for once more.
        let script = || answering(&[Reply::Error(reply.clone())]);
        let fake = Fake::new(vec![script(), script()]);
        let mut client = Client::connect_to(fake.path()).unwrap();
        let error = client.mount(Tmpfs::new("/b").unwrap()).unwrap_err();
        let expected = match code {
            ErrorCode::MalformedFrame | ErrorCode::UnsupportedVersion => "protocol",
            named => named.name(),
        };
        assert_eq!(error.kind().name(), expected);
        assert_eq!(error.reply(), Some(&reply));
        assert_eq!(error.path().unwrap(), std::path::Path::new("/b"));
        assert_eq!(error.errno(), Some(16));
        assert_eq!(error.mount(), Some(id(4)));
        assert_eq!(error.to_string(), "/b: what happened");
    }
}

#[test]
fn a_denial_keeps_its_reason_and_the_connection() {
    let mut reply = ErrorReply::new(ErrorCode::Denied, "/b lies beneath no root of yours");
    reply.reason = Some(DenyReason::TargetNotGranted);
    reply.path = Some(path("/b"));
    let requests = sent(
        &[Reply::Error(reply), mounted(Outcome::Mounted)],
        |client| {
            let error = client.mount(Tmpfs::new("/b").unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert_eq!(error.reason(), Some(DenyReason::TargetNotGranted));
            assert_eq!(error.to_string(), "/b lies beneath no root of yours");
            client.mount(Tmpfs::new("/b").unwrap()).unwrap();
        },
    );
    assert_eq!(requests.len(), 2, "both on one connection");
}
