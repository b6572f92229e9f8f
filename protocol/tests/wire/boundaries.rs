//! Values at the edge of a frame, and bytes just beyond an edge.

use std::time::{Duration, Instant};

use mountwarden_protocol::frame::{self, DecodeError, MAX_FRAME};
use mountwarden_protocol::{
    AbsPath, DeviceNumber, ErrorCode, ErrorReply, Hello, HelloReply, InvalidBatch,
    InvalidFilesystem, InvalidOption, InvalidPath, Kind, ListPage, Mount, MountAttributes, MountId,
    MountInfo, MountOptions, Passed, Propagation, Reply, Request, TmpfsInodes, TmpfsMode,
    TmpfsSize, Versions,
};

use super::golden;

fn malformed<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(body: &[u8]) {
    match frame::decode::<T>(body) {
        Err(DecodeError::Malformed(why)) => {
            // Prose, not the Debug form of another crate's error.
            assert!(!why.contains(['{', '}']), "{why}");
        }
        other => panic!("{body:02x?}: {other:?}"),
    }
}

fn invalid<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(
    body: &[u8],
    why: &dyn std::fmt::Display,
) {
    match frame::decode::<T>(body) {
        Err(DecodeError::Invalid(text)) => assert_eq!(text, why.to_string()),
        other => panic!("{body:02x?}: {other:?}"),
    }
}

fn body_of(name: &str) -> Vec<u8> {
    golden::frame_of(name).split_off(4)
}

/// The body of a vector with one stretch of it replaced.
fn patched(name: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut body = body_of(name);
    body.get_mut(at..)
        .and_then(|rest| rest.get_mut(..bytes.len()))
        .unwrap()
        .copy_from_slice(bytes);
    body
}

#[test]
fn a_message_of_exactly_a_whole_frame_goes_both_ways() {
    let fixed = body_of("reply-error").len() - "nothing is mounted there".len();
    let text = |size: usize| {
        // `new` would shorten it.
        let mut error = ErrorReply::new(ErrorCode::NotMounted, "");
        error.message = "m".repeat(size - fixed);
        Reply::Error(error)
    };
    for size in [MAX_FRAME - 1, MAX_FRAME] {
        let reply = text(size);
        let frame = frame::encode(&reply).unwrap();
        assert_eq!(frame.len(), size + 4);
        let body = frame::read(&mut frame.as_slice()).unwrap();
        assert_eq!(frame::decode::<Reply>(&body).unwrap(), reply);
    }
    assert!(frame::encode(&text(MAX_FRAME + 1)).is_err());
    assert!(frame::encode(&text(10 * MAX_FRAME)).is_err());
}

#[test]
fn a_message_for_a_person_is_cut_between_characters() {
    for (text, kept) in [
        ("x".repeat(2048), 2048),
        ("x".repeat(2049), 2047),
        ("€".repeat(1000), 2043),
    ] {
        let error = ErrorReply::new(ErrorCode::NotMounted, text.clone());
        assert_eq!(error.message.len(), kept);
        assert_eq!(error.message == text, text.len() <= ErrorReply::MAX_MESSAGE);
        assert_eq!(error.message.contains("..."), error.message != text);
    }
}

#[test]
fn a_frame_full_of_the_smallest_mounts_goes_both_ways() {
    // In memory such a list is several times its size on the wire: a limit that
    // counted memory would refuse it.
    let mount = MountInfo {
        id: MountId::try_from(1).unwrap(),
        target: AbsPath::new("/").unwrap(),
        filesystem: String::new(),
        root: AbsPath::new("/").unwrap(),
        attributes: MountAttributes::empty(),
        device: DeviceNumber { major: 0, minor: 0 },
    };
    let reply = |count| {
        Reply::List(ListPage {
            mounts: vec![mount.clone(); count],
            next: MountId::try_from(9).ok(),
        })
    };
    let empty = frame::encode(&reply(0)).unwrap().len();
    let each = frame::encode(&reply(1)).unwrap().len() - empty;
    let most = (MAX_FRAME + 4 - empty) / each;
    let full = reply(most);
    let frame = frame::encode(&full).unwrap();
    assert!(frame.len() > MAX_FRAME + 4 - each);
    let body = frame::read(&mut frame.as_slice()).unwrap();
    assert_eq!(frame::decode::<Reply>(&body).unwrap(), full);
    assert!(frame::encode(&reply(most + 1)).is_err());
}

#[test]
fn attack_20_a_length_bomb_inside_a_value_is_refused_at_once() {
    // A byte string and a string are bounded before they are allocated; a list
    // is allocated for what it claims up to a mebibyte (serde's own bound).
    let bombs = [0x1_0000, 1 << 20, 1 << 32, 1 << 47, 1 << 62, u64::MAX];
    let start = Instant::now();
    for bomb in bombs {
        let bomb: u64 = bomb;
        let length = bomb.to_le_bytes();
        malformed::<Request>(&patched("request-perform-mount-bind", 12, &length));
        malformed::<Request>(&patched("request-perform-unmount", 8, &length));
        malformed::<Reply>(&patched("reply-error", 9, &length));
        malformed::<Reply>(&patched("reply-list", 4, &length));
        malformed::<HelloReply>(&patched("hello-reply-refused-version", 17, &length));
        malformed::<Request>(&patched("request-apply", 4, &length));
        // The length alone, as short as a bomb can be.
        malformed::<Request>(&[&[0, 0, 0, 0, 1, 0, 0, 0][..], &length].concat());
        malformed::<Reply>(&[&[3, 0, 0, 0][..], &length].concat());
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn attack_20_unknown_variants_and_tags_are_malformed() {
    for index in [6_u32, 255, 256, 1 << 31, u32::MAX] {
        let index = index.to_le_bytes();
        malformed::<HelloReply>(&patched("hello-reply-welcome", 0, &index));
        malformed::<Request>(&patched("request-status", 0, &index));
        malformed::<Request>(&patched("request-perform-unmount", 4, &index));
        malformed::<Request>(&patched("request-perform-mount-bind", 8, &index));
        malformed::<Reply>(&patched("reply-error", 0, &index));
        malformed::<Reply>(&patched("reply-mounted", 4, &index));
        malformed::<Reply>(&patched("reply-explained-allowed", 4, &index));
        malformed::<Reply>(&patched("reply-status", 37, &index));
    }
    malformed::<Request>(&[4, 0, 0, 0]);
    malformed::<HelloReply>(&[2, 0, 0, 0]);
    for tag in [2, 0x80, 0xff] {
        malformed::<Request>(&patched("request-list-first", 4, &[tag]));
        malformed::<Reply>(&patched("reply-error", 8, &[tag]));
    }
}

#[test]
fn attack_20_a_second_spelling_of_a_boolean_is_malformed() {
    for byte in [2, 0x7f, 0x80, 0xff] {
        malformed::<Request>(&patched("request-perform-mount-bind", 31, &[byte]));
        malformed::<Request>(&patched("request-perform-unmount", 26, &[byte]));
    }
}

#[test]
fn attack_20_text_that_is_not_utf_8_is_malformed() {
    for bytes in [&[0xff][..], &[0xc0, 0x80], &[0xed, 0xa0, 0x80]] {
        malformed::<Reply>(&patched("reply-error", 17, bytes));
        malformed::<Reply>(&patched("reply-explained-allowed", 16, bytes));
    }
}

#[test]
fn attack_01_a_bad_path_is_invalid_and_says_what_is_wrong() {
    // The source, `/srv/images`, begins at byte 20.
    for (at, bytes, why) in [
        (20, &b"s"[..], InvalidPath::Relative),
        (20, b"//", InvalidPath::EmptyComponent),
        (20, b"/../", InvalidPath::Dots),
        (20, b"/./", InvalidPath::Dots),
        (30, b"/", InvalidPath::EmptyComponent),
        (25, b"\0", InvalidPath::Nul),
    ] {
        invalid::<Request>(&patched("request-perform-mount-bind", at, bytes), &why);
    }
    // `/..v/images`: two dots begin a name, they are not one.
    let near = patched("request-perform-mount-bind", 20, b"/..");
    assert!(frame::decode::<Request>(&near).is_ok());
    let empty = [&[0, 0, 0, 0, 1, 0, 0, 0][..], &[0; 8], &[0, 0, 0]].concat();
    invalid::<Request>(&empty, &InvalidPath::Empty);
}

#[test]
fn attack_18_sizes_and_counts_out_of_range_are_invalid() {
    let vector = "request-perform-mount-tmpfs-limited";
    for bad in [0, 1 << 63, u64::MAX] {
        let bytes = bad.to_le_bytes();
        invalid::<Request>(&patched(vector, 13, &bytes), &InvalidOption::Size(bad));
        invalid::<Request>(&patched(vector, 22, &bytes), &InvalidOption::Inodes(bad));
        assert!(TmpfsSize::try_from(bad).is_err());
        assert!(TmpfsInodes::try_from(bad).is_err());
    }
    for good in [1, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1] {
        let good: u64 = good;
        let bytes = good.to_le_bytes();
        assert!(frame::decode::<Request>(&patched(vector, 13, &bytes)).is_ok());
        assert!(frame::decode::<Request>(&patched(vector, 22, &bytes)).is_ok());
        assert_eq!(TmpfsSize::try_from(good).unwrap().get(), good);
        assert_eq!(TmpfsInodes::try_from(good).unwrap().get(), good);
    }
    for bad in [0o2000_u32, 0o4000, 0o7777, 0o10000, 1 << 31, u32::MAX] {
        let bytes = bad.to_le_bytes();
        invalid::<Request>(&patched(vector, 31, &bytes), &InvalidOption::Mode(bad));
    }
    for good in [0_u32, 0o700, 0o777, 0o1000, 0o1777] {
        let bytes = good.to_le_bytes();
        assert!(frame::decode::<Request>(&patched(vector, 31, &bytes)).is_ok());
        assert_eq!(TmpfsMode::try_from(good).unwrap().bits(), good);
    }
    let zero = patched("request-list-after", 5, &[0; 8]);
    invalid::<Request>(&zero, &InvalidOption::Id);
    let timeout = body_of("request-probe").len() - 4;
    for (milliseconds, valid) in [(0_u32, false), (1, true), (u32::MAX, true)] {
        let probe = patched("request-probe", timeout, &milliseconds.to_le_bytes());
        assert_eq!(frame::decode::<Request>(&probe).is_ok(), valid);
    }
}

#[test]
fn attack_18_block_sizes_that_no_device_has_are_invalid() {
    let device = "request-perform-mount-fuse-device";
    // What follows it: two flags, no number, and the rest of the mount.
    let after = 2 + 1 + (8 + "/run/vms/7/stick".len()) + 4 + 4 + 4 + 1;
    let place = body_of(device).len() - after - 4;
    for bad in [0_u32, 1, 256, 511, 513, 4095, 8192, 1 << 31, u32::MAX] {
        let body = patched(device, place, &bad.to_le_bytes());
        invalid::<Request>(&body, &InvalidFilesystem::BlockSize);
    }
    for good in [512_u32, 1024, 2048, 4096] {
        let body = patched(device, place, &good.to_le_bytes());
        assert!(frame::decode::<Request>(&body).is_ok());
    }
}

#[test]
fn attack_17_bits_that_nobody_defined_are_invalid() {
    // The propagation, what is passed, and the lease follow.
    let passed = body_of("request-perform-mount-bind").len() - 5;
    let options = passed - 8;
    // The number of the file system follows.
    let attributes = body_of("reply-mounted").len() - 12;
    for bit in 0..32 {
        let bits = 1_u32 << bit;
        let request = patched("request-perform-mount-bind", options, &bits.to_le_bytes());
        let reply = patched("reply-mounted", attributes, &bits.to_le_bytes());
        if bit < 5 {
            assert!(frame::decode::<Request>(&request).is_ok());
            assert!(frame::decode::<Reply>(&reply).is_ok());
        } else {
            invalid::<Request>(&request, &InvalidOption::Bits(bits));
            invalid::<Reply>(&reply, &InvalidOption::Bits(bits));
        }
        let request = patched("request-perform-mount-bind", passed, &bits.to_le_bytes());
        if bit < 3 {
            assert!(frame::decode::<Request>(&request).is_ok());
        } else {
            invalid::<Request>(&request, &InvalidOption::Bits(bits));
        }
    }
    assert_eq!(MountOptions::all().bits(), 0b1_1111);
    assert_eq!(MountAttributes::all().bits(), 0b1_1111);
    assert_eq!(Passed::all().bits(), 0b111);
}

#[test]
fn attack_17_a_probe_without_time_is_invalid() {
    let timeout = body_of("request-probe").len() - 4;
    let request = |time: u32| patched("request-probe", timeout, &time.to_le_bytes());
    assert!(frame::decode::<Request>(&request(1)).is_ok());
    invalid::<Request>(&request(0), &InvalidOption::Timeout);
}

#[test]
fn attack_18_sizes_as_text_never_overflow() {
    for (text, bytes) in [
        ("1", 1),
        ("4096", 4096),
        ("3K", 3 << 10),
        ("3KiB", 3 << 10),
        ("64M", 64 << 20),
        ("64MiB", 64 << 20),
        ("2G", 2 << 30),
        ("2GiB", 2 << 30),
        ("1TiB", 1 << 40),
        ("8388607T", 8_388_607 << 40),
        ("9223372036854775807", (1 << 63) - 1),
    ] {
        assert_eq!(text.parse::<TmpfsSize>().unwrap().get(), bytes, "{text}");
    }
    for text in [
        "",
        "0",
        "0K",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 M",
        "M",
        "1.5G",
        "1k",
        "1MB",
        "0x10",
        "1e3",
        "8388608T",
        "16777216T",
        "16777217T",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
        "\u{661}",
        "1\u{661}",
    ] {
        assert!(text.parse::<TmpfsSize>().is_err(), "{text:?}");
    }
}

/// What is passed brings one descriptor each, and nothing else brings any.
#[test]
fn attack_22_a_request_says_how_many_descriptors_it_brings() {
    for (name, count) in [
        ("request-perform-mount-bind-passed", 2),
        ("request-perform-unmount-passed", 1),
        ("request-perform-mount-bind-idmapped", 1),
        ("request-perform-detach-idmapped", 1),
        ("request-perform-detach", 0),
        ("request-perform-mount-bind", 0),
        ("request-perform-unmount", 0),
        ("request-list-first", 0),
        ("request-status", 0),
        ("request-probe", 0),
        ("request-apply", 0),
    ] {
        let request = frame::decode::<Request>(&body_of(name)).unwrap();
        assert_eq!(request.descriptors(), count, "{name}");
        if let Request::Perform(operation) = request {
            assert_eq!(Request::Explain(operation).descriptors(), 0, "{name}");
        }
    }
    for bits in 0..8_u32 {
        let at = body_of("request-perform-mount-bind-passed").len() - 5;
        let body = patched("request-perform-mount-bind-passed", at, &bits.to_le_bytes());
        let request = frame::decode::<Request>(&body).unwrap();
        assert_eq!(
            request.descriptors(),
            usize::try_from(bits.count_ones()).unwrap()
        );
    }
}

#[test]
fn mounts_that_are_no_batch_are_invalid() {
    let mount = |number: usize| Mount {
        kind: Kind::Tmpfs {
            size: None,
            inodes: None,
            mode: None,
        },
        target: AbsPath::new(format!("/m/{number}")).unwrap(),
        options: MountOptions::empty(),
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    };
    let passed = Mount {
        passed: Passed::TARGET,
        ..mount(1)
    };
    // Request 5: Apply.
    let apply = |mounts: Vec<Mount>| frame::encode(&(5_u32, mounts)).unwrap().split_off(4);
    for (mounts, why) in [
        (Vec::new(), InvalidBatch::Empty),
        ((0..65).map(mount).collect(), InvalidBatch::TooMany),
        (
            vec![mount(0), mount(1), mount(0)],
            InvalidBatch::SameTarget { entry: 2 },
        ),
        (vec![mount(0), passed], InvalidBatch::Passed { entry: 1 }),
    ] {
        invalid::<Request>(&apply(mounts), &why);
    }
    let most = frame::decode::<Request>(&apply((0..64).map(mount).collect()));
    assert!(matches!(most, Ok(Request::Apply(_))), "{most:?}");
}

#[test]
fn every_message_type_refuses_an_empty_value() {
    malformed::<Hello>(&[]);
    malformed::<HelloReply>(&[]);
    malformed::<Request>(&[]);
    malformed::<Reply>(&[]);
}

#[test]
fn the_newest_common_version_is_in_both_ranges_or_there_is_none() {
    let ends = [0, 1, 2, 3, u32::MAX];
    let ranges = || {
        ends.into_iter()
            .flat_map(|oldest| ends.map(|newest| Versions { oldest, newest }))
    };
    let holds = |range: Versions, version| (range.oldest..=range.newest).contains(&version);
    for left in ranges() {
        for right in ranges() {
            // Every bound of an intersection is a bound of one of the two.
            let newest = ends
                .into_iter()
                .filter(|&version| holds(left, version) && holds(right, version))
                .max();
            assert_eq!(left.newest_common(right), newest, "{left:?} {right:?}");
        }
    }
}
