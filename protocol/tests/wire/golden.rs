//! The bytes of every message, frozen in `tests/golden`. A difference means
//! that clients that are installed no longer understand this helper: that
//! takes a new protocol version, not new files.
//!
//! `MOUNTWARDEN_WRITE_GOLDEN=1 cargo test -p mountwarden-protocol` writes them.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use mountwarden_protocol::frame::{self, DecodeError};
use mountwarden_protocol::{
    Explanation, FuseSource, Hello, HelloReply, ImageType, Kind, Operation, Outcome, ProbeAnswer,
    Propagation, Reply, Request, Role,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::hex;
use super::mirror::Mirrored;
use super::vectors::{self, Message};

const WRITE: &str = "MOUNTWARDEN_WRITE_GOLDEN";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn file(name: &str) -> PathBuf {
    directory().join(name).with_extension("hex")
}

/// The whole frame that the file of this name holds.
pub(crate) fn frame_of(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(file(name)).unwrap_or_else(|error| {
        panic!("{name}.hex is not there ({error}); {WRITE}=1 writes the golden vectors")
    });
    hex::parse(&text)
}

/// Sixteen bytes a line with their ASCII beside them, as `hexdump -C` shows them.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let mut numbers = String::new();
        let mut letters = String::new();
        for &byte in line {
            write!(numbers, "{byte:02x} ").unwrap();
            letters.push(if byte.is_ascii_graphic() || byte == b' ' {
                char::from(byte)
            } else {
                '.'
            });
        }
        writeln!(text, "{numbers:<48} |{letters}|").unwrap();
    }
    text
}

fn text_of(name: &str, message: &Message) -> String {
    let frame = match message {
        Message::Hello(value) => frame::encode(value),
        Message::HelloReply(value) => frame::encode(value),
        Message::Request(value) => frame::encode(value),
        Message::Reply(value) => frame::encode(value),
    }
    .unwrap();
    let (length, body) = frame.split_at(4);
    format!("# {name}: {message:?}\n{}{}", dump(length), dump(body))
}

#[test]
fn golden_vectors_are_what_the_encoder_writes() {
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        for (name, message) in vectors::all() {
            fs::write(file(name), text_of(name, &message)).unwrap();
        }
    }
    for (name, message) in vectors::all() {
        let frozen = frame_of(name);
        let text = text_of(name, &message);
        assert_eq!(frozen, hex::parse(&text), "the bytes of {name} changed");
        assert_eq!(fs::read_to_string(file(name)).unwrap(), text);
    }
}

#[test]
fn golden_vectors_are_all_listed() {
    let listed: BTreeSet<_> = vectors::all().iter().map(|(name, _)| file(name)).collect();
    assert_eq!(
        listed.len(),
        vectors::all().len(),
        "two vectors of one name"
    );
    let present: BTreeSet<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(present, listed);
}

fn read_twice<T: Mirrored + PartialEq + Debug>(name: &str, value: &T) {
    let frame = frame_of(name);
    let body = frame::read(&mut frame.as_slice()).unwrap();
    assert_eq!(&frame::decode::<T>(&body).unwrap(), value, "{name}");
    let (mirror, again) = T::read(&body).unwrap_or_else(|| panic!("wincode refuses {name}"));
    assert_eq!(mirror, T::Mirror::from(value), "{name}");
    assert_eq!(again, body, "{name}");
}

#[test]
fn golden_vectors_decode_to_the_same_value_with_both_decoders() {
    for (name, message) in vectors::all() {
        match message {
            Message::Hello(value) => read_twice(name, &value),
            Message::HelloReply(value) => read_twice(name, &value),
            Message::Request(value) => read_twice(name, &value),
            Message::Reply(value) => read_twice(name, &value),
        }
    }
}

/// How many variants an enumeration has, as its own decoder tells.
fn variants<T: Serialize + DeserializeOwned + Debug>() -> u32 {
    (0..64)
        .find(
            |index: &u32| match frame::decode::<T>(&index.to_le_bytes()) {
                Err(DecodeError::Malformed(why)) => why.contains("variant index"),
                _ => false,
            },
        )
        .unwrap()
}

/// How many of the texts some vector holds: all of them.
fn seen(prefixes: &[&str]) -> u32 {
    let texts: Vec<String> = vectors::all()
        .iter()
        .map(|(_, message)| format!("{message:?}"))
        .collect();
    for prefix in prefixes {
        assert!(
            texts.iter().any(|text| text.contains(prefix)),
            "no vector holds {prefix}"
        );
    }
    u32::try_from(prefixes.len()).unwrap()
}

#[test]
fn golden_vectors_hold_every_variant_of_a_request() {
    assert_eq!(
        variants::<HelloReply>(),
        seen(&["HelloReply(Welcome(", "HelloReply(Refused("])
    );
    assert_eq!(
        variants::<Request>(),
        seen(&[
            "Request(Perform(",
            "Request(Explain(",
            "Request(List {",
            "Request(Status)",
            "Request(Probe {",
            "Request(Apply(",
        ])
    );
    assert_eq!(
        variants::<Operation>(),
        seen(&[
            "Perform(Mount(",
            "Perform(Unmount(",
            "Perform(Remount(",
            "Perform(Detach(",
            "Perform(Move("
        ])
    );
    assert_eq!(
        variants::<Propagation>(),
        seen(&[
            "propagation: Private",
            "propagation: Slave",
            "propagation: Shared"
        ])
    );
    assert_eq!(
        variants::<Kind>(),
        seen(&[
            "kind: Bind {",
            "kind: Tmpfs {",
            "kind: Block {",
            "kind: Fuse {",
            "kind: Overlay {",
            "kind: Image {",
            "kind: Network {"
        ])
    );
    assert_eq!(
        variants::<FuseSource>(),
        seen(&["source: Subtype", "source: Named(", "source: Device {"])
    );
    assert_eq!(
        variants::<ImageType>(),
        seen(&["filesystem: Erofs", "filesystem: Squashfs"])
    );
}

#[test]
fn golden_vectors_hold_every_variant_of_a_reply() {
    assert_eq!(
        variants::<Reply>(),
        seen(&[
            "Reply(Error(",
            "Reply(Mounted(",
            "Reply(Unmounted(",
            "Reply(List(",
            "Reply(Explained(",
            "Reply(Status(",
            "Reply(Remounted(",
            "Reply(Probed(",
            "Reply(Applied(",
            "Reply(NotApplied(",
            "Reply(Detached(",
            "Reply(Moved("
        ])
    );
    assert_eq!(
        variants::<ProbeAnswer>(),
        seen(&[
            "answer: Alive",
            "answer: Stale {",
            "answer: Private",
            "answer: Absent"
        ])
    );
    assert_eq!(
        variants::<Outcome>(),
        seen(&["outcome: Mounted", "outcome: AlreadyMounted"])
    );
    assert_eq!(
        variants::<Explanation>(),
        seen(&["Explained(Allowed {", "Explained(Denied("])
    );
    assert_eq!(
        variants::<Role>(),
        seen(&[
            "role: Gate",
            "role: Session",
            "role: Warden",
            "role: Mounter",
            "role: Locker"
        ])
    );
}

#[test]
fn the_first_bytes_of_every_connection_never_change() {
    // Not from a file and not from an encoder: a helper of any version must
    // read these from a client of any other.
    let hello = [
        20, 0, 0, 0, b'M', b'W', b'D', b'N', 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(frame::encode(&Hello::default()).unwrap(), hello);
    let newer = frame_of("hello-newer");
    let read: Hello = frame::decode(newer.get(4..).unwrap()).unwrap();
    assert_eq!(read.features.bits(), 0x8000_0000_0000_0005);
    assert_eq!(read.versions.newest, 7);
}
