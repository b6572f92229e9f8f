//! What holds for every value and for every byte sequence.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{self, Read};

use mountwarden_protocol::frame::{self, DecodeError, MAX_FRAME, ReadError};
use mountwarden_protocol::{Hello, HelloReply, Reply, Request};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::mirror::{Mirrored, agree};
use super::vectors::{self, Message};
use super::{golden, strategy};

/// A stream that gives as many bytes at a time as it is told, over and over,
/// and is interrupted between.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: Vec<usize>,
    next: usize,
    interrupted: bool,
}

impl<'a> Pieces<'a> {
    fn new(bytes: &'a [u8], sizes: Vec<usize>) -> Self {
        Self {
            bytes,
            sizes,
            next: 0,
            interrupted: false,
        }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let sizes = &self.sizes;
        let size = sizes.iter().cycle().nth(self.next).copied().unwrap_or(1);
        self.next = self.next.wrapping_add(1);
        let size = size.clamp(1, buffer.len().max(1)).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(size);
        buffer.get_mut(..size).unwrap().copy_from_slice(now);
        self.bytes = later;
        Ok(size)
    }
}

fn round_trips<T: Mirrored + PartialEq + Debug>(value: &T, sizes: Vec<usize>) -> TestCaseResult {
    let frame = frame::encode(value).unwrap();
    let body = frame::read(&mut frame.as_slice()).unwrap();
    prop_assert_eq!(&frame::decode::<T>(&body).unwrap(), value);

    let mut stream = Pieces::new(&frame, sizes);
    prop_assert_eq!(&frame::read(&mut stream).unwrap(), &body);
    prop_assert!(matches!(frame::read(&mut stream), Err(ReadError::Closed)));

    let (mirror, again) = T::read(&body).unwrap();
    prop_assert_eq!(mirror, T::Mirror::from(value));
    prop_assert_eq!(again, body);
    Ok(())
}

fn no_prefix_decodes<T: Mirrored + Debug>(body: &[u8]) {
    for (end, _) in body.iter().enumerate() {
        let prefix = body.get(..end).unwrap();
        match frame::decode::<T>(prefix) {
            Err(DecodeError::Malformed(_)) => {}
            other => panic!("{end} of {} bytes: {other:?}", body.len()),
        }
    }
}

fn nothing_may_follow<T: Mirrored + Debug>(body: &[u8], after: &[u8]) {
    let longer = [body, after].concat();
    match frame::decode::<T>(&longer) {
        Err(DecodeError::TrailingBytes(count)) => assert_eq!(count, after.len()),
        other => panic!("{} more bytes: {other:?}", after.len()),
    }
}

/// The bytes of a vector with some of them changed: nearly valid, which
/// uniformly random bytes never are.
fn nearly_valid() -> impl Strategy<Value = Vec<u8>> {
    let bodies: Vec<Vec<u8>> = vectors::all()
        .iter()
        .map(|(name, _)| golden::frame_of(name).split_off(4))
        .collect();
    let change = (
        any::<prop::sample::Index>(),
        prop_oneof![0..4_u8, any::<u8>()],
    );
    (prop::sample::select(bodies), vec(change, 1..4)).prop_map(|(mut body, changes)| {
        for (place, byte) in changes {
            *place.get_mut(&mut body) = byte;
        }
        body
    })
}

proptest! {
    #[test]
    fn every_hello_round_trips(value in strategy::hello(), sizes in vec(1..9_usize, 1..9)) {
        round_trips(&value, sizes)?;
    }

    #[test]
    fn every_hello_reply_round_trips(
        value in strategy::hello_reply(), sizes in vec(1..9_usize, 1..9)
    ) {
        round_trips(&value, sizes)?;
    }

    #[test]
    fn every_request_round_trips(value in strategy::request(), sizes in vec(1..9_usize, 1..9)) {
        round_trips(&value, sizes)?;
    }

    #[test]
    fn every_reply_round_trips(value in strategy::reply(), sizes in vec(1..9_usize, 1..9)) {
        round_trips(&value, sizes)?;
    }

    #[test]
    fn attack_20_any_bytes_are_refused_or_canonical(bytes in vec(any::<u8>(), 0..200)) {
        let _ = agree::<Hello>(&bytes);
        let _ = agree::<HelloReply>(&bytes);
        let _ = agree::<Request>(&bytes);
        let _ = agree::<Reply>(&bytes);
    }

    #[test]
    fn attack_20_nearly_valid_bytes_are_refused_or_canonical(bytes in nearly_valid()) {
        let _ = agree::<Hello>(&bytes);
        let _ = agree::<HelloReply>(&bytes);
        let _ = agree::<Request>(&bytes);
        let _ = agree::<Reply>(&bytes);
    }

    #[test]
    fn attack_20_every_prefix_of_a_request_is_refused(value in strategy::request()) {
        no_prefix_decodes::<Request>(frame::encode(&value).unwrap().get(4..).unwrap());
    }

    #[test]
    fn attack_20_bytes_after_a_request_are_refused(
        value in strategy::request(), after in vec(any::<u8>(), 1..20)
    ) {
        nothing_may_follow::<Request>(frame::encode(&value).unwrap().get(4..).unwrap(), &after);
    }

    #[test]
    fn any_stream_reads_alike_wherever_it_is_cut(
        bytes in vec(prop_oneof![3 => Just(0_u8), 1 => 0..9_u8], 0..64),
        sizes in vec(1..9_usize, 1..9)
    ) {
        let mut whole = bytes.as_slice();
        let mut pieces = Pieces::new(&bytes, sizes);
        loop {
            let expected = frame::read(&mut whole);
            match (frame::read(&mut pieces), expected) {
                (Ok(left), Ok(right)) => prop_assert_eq!(left, right),
                (Err(left), Err(right)) => {
                    prop_assert_eq!(left.to_string(), right.to_string());
                    break;
                }
                (left, right) => panic!("{left:?} and {right:?}"),
            }
        }
    }

    #[test]
    fn attack_20_every_length_out_of_bounds_is_refused(
        length in prop_oneof![
            Just(0), Just(65_537), Just(1 << 31), Just(u32::MAX), 65_537..=u32::MAX
        ]
    ) {
        let mut stream = io::Cursor::new(length.to_le_bytes().to_vec()).chain(Endless);
        match frame::read(&mut stream) {
            Err(ReadError::Length(refused)) => prop_assert_eq!(refused, length),
            other => panic!("{other:?}"),
        }
    }
}

/// A peer that goes on sending: reading what it claims would never end.
struct Endless;

impl Read for Endless {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("a byte was read after a length that is out of bounds")
    }
}

#[test]
fn attack_20_a_second_spelling_is_refused_whatever_the_type() {
    // No message has a second spelling today, and the rule holds for one that
    // will: a set that is written out of order, or with an element twice.
    let set = |elements: [u8; 2]| [&2_u64.to_le_bytes()[..], &elements].concat();
    assert!(frame::decode::<BTreeSet<u8>>(&set([1, 2])).is_ok());
    for elements in [[2, 1], [1, 1]] {
        assert_eq!(
            frame::decode::<BTreeSet<u8>>(&set(elements)),
            Err(DecodeError::NotCanonical)
        );
    }
}

#[test]
fn attack_20_every_prefix_of_every_vector_is_refused() {
    for (name, message) in vectors::all() {
        let body = golden::frame_of(name).split_off(4);
        match message {
            Message::Hello(_) => no_prefix_decodes::<Hello>(&body),
            Message::HelloReply(_) => no_prefix_decodes::<HelloReply>(&body),
            Message::Request(_) => no_prefix_decodes::<Request>(&body),
            Message::Reply(_) => no_prefix_decodes::<Reply>(&body),
        }
    }
}

#[test]
fn attack_20_bytes_after_every_vector_are_refused() {
    for (name, message) in vectors::all() {
        let body = golden::frame_of(name).split_off(4);
        for after in [&[0][..], &[0xff; 4], &body] {
            match message {
                Message::Hello(_) => nothing_may_follow::<Hello>(&body, after),
                Message::HelloReply(_) => nothing_may_follow::<HelloReply>(&body, after),
                Message::Request(_) => nothing_may_follow::<Request>(&body, after),
                Message::Reply(_) => nothing_may_follow::<Reply>(&body, after),
            }
        }
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_not_a_close() {
    let frame = golden::frame_of("hello");
    assert!(matches!(
        frame::read(&mut io::empty()),
        Err(ReadError::Closed)
    ));
    for (end, _) in frame.iter().enumerate().skip(1) {
        match frame::read(&mut frame.get(..end).unwrap()) {
            Err(ReadError::Io(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            other => panic!("after {end} bytes: {other:?}"),
        }
    }
}

#[test]
fn the_longest_frame_is_read_and_one_byte_more_is_not() {
    let frame = |size: usize| {
        let mut frame = u32::try_from(size).unwrap().to_le_bytes().to_vec();
        frame.resize(size.checked_add(4).unwrap(), 7);
        frame
    };
    let body = frame::read(&mut frame(MAX_FRAME).as_slice()).unwrap();
    assert_eq!(body, vec![7; MAX_FRAME]);
    assert!(matches!(
        frame::read(&mut frame(65_537).as_slice()),
        Err(ReadError::Length(65_537))
    ));
    assert_eq!(frame::read(&mut frame(1).as_slice()).unwrap(), [7]);
}
