//! The tests of the policy crate, through its public interface.

#[cfg(test)]
mod decisions;
mod detached;
#[cfg(test)]
mod filesystems;
#[cfg(test)]
mod idmaps;
#[cfg(test)]
mod images;
mod limits;
#[cfg(test)]
mod lint;
#[cfg(test)]
mod messages;
mod moves;
#[cfg(test)]
mod network;
#[cfg(test)]
mod overlays;
#[cfg(test)]
mod places;
#[cfg(test)]
mod positions;
#[cfg(test)]
mod printing;
#[cfg(test)]
mod propagation;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod protected;
#[cfg(test)]
mod remounts;
#[cfg(test)]
mod several;
#[cfg(test)]
mod support;
