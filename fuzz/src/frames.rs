//! Bytes as a client or a helper may send them.

use std::io::{self, Read};

use mountwarden_protocol::{Hello, HelloReply, Operation, Reply, Request, frame as wire};

use crate::mirror::agree;

/// A stream that gives at most `size` bytes at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.size.min(buffer.len());
        let count = self
            .bytes
            .read(buffer.get_mut(..size).unwrap_or_default())?;
        Ok(count)
    }
}

/// The first byte says how many bytes arrive at a time, the others are a stream.
///
/// The stream gives the same frames however it is cut. For each frame and each
/// type of message: it is refused, or it is the only encoding of its value, and
/// a second decoder reads the same from it.
///
/// # Panics
/// When that does not hold.
pub fn frame(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let mut whole = stream;
    let mut pieces = Pieces {
        bytes: stream,
        size: usize::from(size.max(1)),
    };
    loop {
        let (body, cut) = (wire::read(&mut whole), wire::read(&mut pieces));
        match (body, cut) {
            (Ok(body), Ok(cut)) => {
                assert_eq!(body, cut, "a frame depends on how it arrives");
                assert!((1..=wire::MAX_FRAME).contains(&body.len()));
                message(&body);
            }
            (Err(error), Err(cut)) => {
                assert_eq!(error.to_string(), cut.to_string());
                return;
            }
            (body, cut) => {
                assert_eq!(
                    body.is_ok(),
                    cut.is_ok(),
                    "a frame depends on how it arrives"
                );
            }
        }
    }
}

fn message(body: &[u8]) {
    let _ = agree::<Hello>(body);
    let _ = agree::<HelloReply>(body);
    let _ = agree::<Reply>(body);
    match agree::<Request>(body) {
        Ok(Request::Perform(operation) | Request::Explain(operation)) => paths(&operation),
        Ok(Request::Apply(batch)) => {
            for mount in batch.iter() {
                paths(&Operation::Mount(mount.clone()));
            }
        }
        _ => {}
    }
}

fn paths(operation: &Operation) {
    for path in operation.source().into_iter().chain(operation.target()) {
        assert!(path.as_path().is_absolute());
        assert!(
            !path
                .as_path()
                .components()
                .any(|part| part.as_os_str() == ".."),
            "{path:?}"
        );
        assert!(!path.to_string().contains(char::is_control), "{path:?}");
        if let Some((parent, name)) = path.split() {
            assert!(path.is_beneath(&parent) && !name.is_empty(), "{path:?}");
        }
    }
}
