//! Strings whose address is part of a seccomp filter.
//!
//! seccomp cannot read a path, but it can compare a pointer. Every path that
//! a mounter may give to the kernel stands here, in memory that nothing can
//! write, unmap or replace once the filter is in force (`seccomp(2)`).

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::os::fd::RawFd;

use nix::errno::Errno;

/// A string at a fixed address in read-only memory.
#[derive(Clone, Copy)]
pub(crate) struct Pinned(pub(super) &'static CStr);

impl Pinned {
    /// The address, as a filter compares it.
    pub(crate) fn address(self) -> u64 {
        address_of(self.0.as_ptr())
    }

    /// The string, for a person who reviews the filters.
    pub(crate) fn text(self) -> &'static CStr {
        self.0
    }

    pub(super) fn as_ptr(self) -> *const libc::c_char {
        self.0.as_ptr()
    }
}

fn address_of<T>(pointer: *const T) -> u64 {
    // A pointer has at most 64 bits on every target that seccompiler knows.
    u64::try_from(pointer.addr()).unwrap_or(u64::MAX)
}

/// The empty path, which the `*_EMPTY_PATH` flags read as "the descriptor itself".
pub(crate) static EMPTY: Pinned = Pinned(c"");
/// The directory of a process's own descriptors.
pub(crate) static PROC_SELF_FD: Pinned = Pinned(c"/proc/self/fd");
/// The mount table, which is read where `statmount(2)` is missing.
pub(crate) static PROC_SELF_MOUNTINFO: Pinned = Pinned(c"/proc/self/mountinfo");
/// The one file system that a mounter opens by name.
pub(crate) static TMPFS: Pinned = Pinned(c"tmpfs");
/// What the mount table shows as a tmpfs's source.
pub(crate) static MOUNTWARDEN: Pinned = Pinned(c"mountwarden");

/// The options of `tmpfs(5)` that a mounter sets.
pub(crate) static TMPFS_KEYS: [Pinned; 6] = [
    Pinned(c"source"),
    Pinned(c"size"),
    Pinned(c"nr_inodes"),
    Pinned(c"mode"),
    Pinned(c"uid"),
    Pinned(c"gid"),
];

/// A descriptor number that a mounter reserves, so that the name of its link
/// in `/proc/self/fd` can be pinned.
///
/// They follow the numbers of its layout in the order in which an order brings
/// them, and the kernel gives out the lowest number that is free: a descriptor
/// arrives in its slot. A tmpfs has no source, and its context gets that number. With
/// a passed target the first slot holds that once more, and is not used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Directory,
    Target,
    Source,
    Mount,
}

impl Slot {
    pub(crate) const ALL: [Self; 4] = [Self::Directory, Self::Target, Self::Source, Self::Mount];

    /// The descriptor's number.
    pub(crate) fn number(self) -> RawFd {
        match self {
            Self::Directory => 6,
            Self::Target => 7,
            Self::Source => 8,
            Self::Mount => 9,
        }
    }

    /// The link's name.
    pub(crate) fn link(self) -> Pinned {
        static LINKS: [Pinned; 4] = [Pinned(c"6"), Pinned(c"7"), Pinned(c"8"), Pinned(c"9")];
        let [directory, target, source, mount] = LINKS;
        match self {
            Self::Directory => directory,
            Self::Target => target,
            Self::Source => source,
            Self::Mount => mount,
        }
    }
}

/// Every pinned string, for the check that they lie in read-only memory.
pub(crate) fn all() -> impl Iterator<Item = Pinned> {
    let paths = [EMPTY, PROC_SELF_FD, PROC_SELF_MOUNTINFO];
    paths
        .into_iter()
        .chain([TMPFS, MOUNTWARDEN])
        .chain(TMPFS_KEYS)
        .chain(Slot::ALL.map(Slot::link))
}

/// The one writable buffer that holds a name for `umount2` and `statx`.
///
/// The filter fixes its address, so that no other memory is ever read as a
/// name to unmount; what it holds is a single component, relative to a
/// directory that was checked.
pub(super) struct NameBuffer(UnsafeCell<[u8; Self::SIZE]>);

impl NameBuffer {
    /// The longest component and its closing NUL.
    const SIZE: usize = 256;

    pub(super) fn address(&'static self) -> u64 {
        address_of(self.0.get())
    }

    /// Copies `name` into the buffer and gives its address to `call`.
    pub(super) fn with<T>(
        &'static self,
        name: &[u8],
        call: impl FnOnce(*const libc::c_char) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if name.is_empty() || name.len() >= Self::SIZE || name.contains(&0) || name.contains(&b'/')
        {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the helper has no threads, and `call` gets a raw pointer that
        // it hands to one system call, so this is the only reference there is.
        let buffer = unsafe { &mut *self.0.get() };
        buffer.fill(0);
        if let Some(place) = buffer.get_mut(..name.len()) {
            place.copy_from_slice(name);
        }
        call(self.0.get().cast_const().cast())
    }
}

// SAFETY: every role of the helper has one thread, so that the buffer is never
// reached from two.
unsafe impl Sync for NameBuffer {}

pub(super) static NAME: NameBuffer = NameBuffer(UnsafeCell::new([0; NameBuffer::SIZE]));

/// The address of the name buffer, as a filter compares it.
pub(crate) fn name_buffer_address() -> u64 {
    NAME.address()
}
