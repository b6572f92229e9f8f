//! The protocol as bytes: golden vectors, a second decoder, `WIRE.md`, and
//! properties of every value and every byte sequence.
#![forbid(unsafe_code)]

#[cfg(test)]
mod boundaries;
#[cfg(test)]
mod document;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hex;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod strategy;
#[cfg(test)]
mod vectors;
