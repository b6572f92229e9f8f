//! Frames: a `u32` length in little-endian order, then one value.
//!
//! A value is encoded with fixed-size little-endian integers, so that its
//! bytes are the same in every implementation of that plain scheme. It is
//! accepted only if it is canonical: encoding it again gives the same bytes,
//! and nothing follows it.

use std::io::{self, Read, Write};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::error::DecodeError as BincodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The most bytes that a frame's value has.
pub const MAX_FRAME: usize = 64 * 1024;

/// The bytes of the length before each value.
const LENGTH: usize = size_of::<u32>();

/// The bytes of all but the longest messages.
const USUAL: usize = 512;

/// Bounds what a decoder claims before it has read it: without it, a
/// twelve-byte message can ask for all of memory.
const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_FRAME>> = bincode::config::standard()
    .with_fixed_int_encoding()
    .with_limit::<MAX_FRAME>();

/// Why a value cannot be sent.
#[derive(Debug, Error)]
#[error("the message does not fit in a frame of {MAX_FRAME} bytes")]
pub struct TooLarge;

/// Why the bytes of a frame are not a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Bytes that are not of this type: cut short, an unknown variant, a length
    /// beyond the frame.
    #[error("the frame does not hold a message of the expected type: {0}")]
    Malformed(String),
    /// The right form with a value that is never valid, such as a relative path.
    #[error("{0}")]
    Invalid(String),
    /// Bytes after the value.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
    /// A second spelling of a value that has one.
    #[error("the message is not in its canonical encoding")]
    NotCanonical,
}

/// Why no frame was read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer closed the connection between two frames.
    #[error("the connection was closed")]
    Closed,
    /// The length is 0 or above [`MAX_FRAME`].
    #[error("a frame has 1 to {MAX_FRAME} bytes, not {0}")]
    Length(u32),
    /// The connection failed or ended inside a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Encodes a value as a whole frame, its length in front.
///
/// # Errors
/// [`TooLarge`] for a value of more than [`MAX_FRAME`] bytes.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, TooLarge> {
    // Room for most messages, so that the buffer does not grow in steps.
    let mut frame = Vec::with_capacity(USUAL);
    frame.resize(LENGTH, 0);
    bincode::serde::encode_into_writer(value, &mut Sink(&mut frame), CONFIG)
        .map_err(|_| TooLarge)?;
    let length = frame.len().saturating_sub(LENGTH);
    let prefix = u32::try_from(length).map_err(|_| TooLarge)?;
    if let Some(place) = frame.first_chunk_mut::<LENGTH>() {
        *place = prefix.to_le_bytes();
    }
    Ok(frame)
}

/// Decodes the bytes of a frame, without the length.
///
/// # Errors
/// Any byte sequence that [`encode`] does not produce for a value of this type.
pub fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) =
        bincode::serde::decode_from_slice::<T, _>(bytes, CONFIG).map_err(refusal)?;
    let trailing = bytes.len().saturating_sub(used);
    if trailing > 0 {
        return Err(DecodeError::TrailingBytes(trailing));
    }
    let mut rest = Same(bytes);
    match bincode::serde::encode_into_writer(&value, &mut rest, CONFIG) {
        Ok(()) if rest.0.is_empty() => Ok(value),
        _ => Err(DecodeError::NotCanonical),
    }
}

/// What a decoder's error means to the peer that sent the bytes.
fn refusal(error: BincodeError) -> DecodeError {
    DecodeError::Malformed(match error {
        // serde reports an unknown variant through the same door as a type's own
        // check, and only the words differ; no check of ours begins with these.
        BincodeError::OtherString(message) if message.starts_with("invalid value: ") => message,
        BincodeError::OtherString(message) => return DecodeError::Invalid(message),
        BincodeError::UnexpectedEnd { .. } => "it is cut short".to_owned(),
        BincodeError::LimitExceeded => "a length in it exceeds the frame".to_owned(),
        BincodeError::Utf8 { .. } => "a string in it is not UTF-8".to_owned(),
        BincodeError::InvalidBooleanValue(byte) => format!("a boolean in it is {byte}"),
        BincodeError::UnexpectedVariant { found, .. } => {
            format!("the tag of an option in it is {found}")
        }
        other => other.to_string(),
    })
}

/// Reads one frame and gives its bytes without the length.
///
/// # Errors
/// [`ReadError::Closed`] only where the stream ends between two frames.
pub fn read(stream: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    let mut prefix = [0; LENGTH];
    let first = loop {
        match stream.read(&mut prefix) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Err(ReadError::Closed);
    }
    if let Some(rest) = prefix.get_mut(first..) {
        stream.read_exact(rest)?;
    }
    let length = u32::from_le_bytes(prefix);
    let size = usize::try_from(length).map_err(|_| ReadError::Length(length))?;
    if size == 0 || size > MAX_FRAME {
        return Err(ReadError::Length(length));
    }
    let mut body = vec![0; size];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Encodes a value and writes its frame with one call.
///
/// # Errors
/// What the stream reports; [`io::ErrorKind::InvalidInput`] for a value that
/// does not fit in a frame.
pub fn write<T: Serialize>(stream: &mut impl Write, value: &T) -> io::Result<()> {
    let frame =
        encode(value).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    stream.write_all(&frame)
}

/// What an encoder must write next for its output to equal given bytes.
struct Same<'a>(&'a [u8]);

impl bincode::enc::write::Writer for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0 = self
            .0
            .strip_prefix(bytes)
            .ok_or(bincode::error::EncodeError::UnexpectedEnd)?;
        Ok(())
    }
}

/// A growing frame that refuses to grow beyond [`MAX_FRAME`].
struct Sink<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        let room = MAX_FRAME
            .saturating_add(LENGTH)
            .saturating_sub(self.0.len());
        if bytes.len() > room {
            return Err(bincode::error::EncodeError::UnexpectedEnd);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}
