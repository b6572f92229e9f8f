//! Strings whose address is part of a seccomp filter.
//!
//! seccomp cannot read a path, but it can compare a pointer. Every path that
//! a mounter may give to the kernel stands here, in memory that nothing can
//! write, unmap or replace once the filter is in force (`seccomp(2)`).

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use mountwarden_protocol::FilesystemName;
use nix::errno::Errno;

/// A string at a fixed address in read-only memory.
#[derive(Clone, Copy, PartialEq, Eq)]
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
/// What a user namespace maps, beneath `/proc`, for a process in it.
pub(crate) static UID_MAP: Pinned = Pinned(c"self/uid_map");
/// As [`UID_MAP`].
pub(crate) static GID_MAP: Pinned = Pinned(c"self/gid_map");
/// A file system that a mounter opens by name, as every mounter may.
pub(crate) static TMPFS: Pinned = Pinned(c"tmpfs");
/// As [`TMPFS`].
pub(crate) static FUSE: Pinned = Pinned(c"fuse");
/// As [`TMPFS`].
pub(crate) static FUSEBLK: Pinned = Pinned(c"fuseblk");
/// Where the locker attaches a directory, in a file system of its own.
pub(crate) static DIRECTORY: Pinned = Pinned(c"directory");
/// Where it attaches a file.
pub(crate) static FILE: Pinned = Pinned(c"file");
/// As [`TMPFS`].
pub(crate) static OVERLAY: Pinned = Pinned(c"overlay");
/// As [`TMPFS`].
pub(crate) static EROFS: Pinned = Pinned(c"erofs");
/// As [`TMPFS`].
pub(crate) static SQUASHFS: Pinned = Pinned(c"squashfs");
/// The types of network file systems. None of them takes its source for a device.
pub(crate) static NETWORK_TYPES: [Pinned; 7] = [
    Pinned(c"nfs"),
    Pinned(c"nfs4"),
    Pinned(c"cifs"),
    Pinned(c"smb3"),
    Pinned(c"9p"),
    Pinned(c"ceph"),
    Pinned(c"virtiofs"),
];
/// What the mount table shows as the source of a tmpfs or an overlay.
pub(crate) static MOUNTWARDEN: Pinned = Pinned(c"mountwarden");

/// The options of `tmpfs(5)` that a mounter sets.
pub(crate) static TMPFS_KEYS: [Pinned; 5] = [
    Pinned(c"size"),
    Pinned(c"nr_inodes"),
    Pinned(c"mode"),
    Pinned(c"uid"),
    Pinned(c"gid"),
];

/// The key of what a file system shows as its source, or is made from.
pub(crate) static SOURCE: Pinned = Pinned(c"source");
/// The device or image that is open in [`Slot::Source`], as a path that leads to it alone
/// (`proc_pid_fd(5)`). The kernel takes a block device only by a path.
pub(crate) static DEVICE: Pinned = Pinned(c"/proc/self/fd/8");
/// The layers of an overlay, which are open in [`Slot::layers`], in the same way.
static LAYERS: [Pinned; 18] = [
    DEVICE,
    Pinned(c"/proc/self/fd/9"),
    Pinned(c"/proc/self/fd/10"),
    Pinned(c"/proc/self/fd/11"),
    Pinned(c"/proc/self/fd/12"),
    Pinned(c"/proc/self/fd/13"),
    Pinned(c"/proc/self/fd/14"),
    Pinned(c"/proc/self/fd/15"),
    Pinned(c"/proc/self/fd/16"),
    Pinned(c"/proc/self/fd/17"),
    Pinned(c"/proc/self/fd/18"),
    Pinned(c"/proc/self/fd/19"),
    Pinned(c"/proc/self/fd/20"),
    Pinned(c"/proc/self/fd/21"),
    Pinned(c"/proc/self/fd/22"),
    Pinned(c"/proc/self/fd/23"),
    Pinned(c"/proc/self/fd/24"),
    Pinned(c"/proc/self/fd/25"),
];
/// The option that keeps a file system from writing to its device.
pub(crate) static READ_ONLY: Pinned = Pinned(c"ro");

/// The options of a FUSE file system that have a value, in the order in which a
/// mounter sets them (`mount.fuse3(8)`).
pub(crate) static FUSE_KEYS: [Pinned; 5] = [
    Pinned(c"subtype"),
    Pinned(c"rootmode"),
    Pinned(c"user_id"),
    Pinned(c"group_id"),
    Pinned(c"max_read"),
];
/// The option that names the connection, by the number of its slot.
pub(crate) static FUSE_FD: Pinned = Pinned(c"fd");
/// The size of the blocks of a FUSE file system on a device.
pub(crate) static BLOCK_SIZE: Pinned = Pinned(c"blksize");
/// The options of a FUSE file system that stand for themselves.
pub(crate) static FUSE_FLAGS: [Pinned; 2] =
    [Pinned(c"allow_other"), Pinned(c"default_permissions")];

/// The options of an overlay that name a layer: its upper one, the directory that the
/// kernel needs for that, and a further lower one (`Documentation/filesystems/overlayfs.rst`).
pub(crate) static UPPER_DIR: Pinned = Pinned(c"upperdir");
pub(crate) static WORK_DIR: Pinned = Pinned(c"workdir");
pub(crate) static LOWER_DIR: Pinned = Pinned(c"lowerdir+");
/// What an overlay believes of its layers' extended attributes, which a FUSE server can
/// make up: never that a name is found elsewhere in the layers beneath.
pub(crate) static OVERLAY_LIMITS: [(Pinned, Pinned); 2] = [
    (Pinned(c"redirect_dir"), Pinned(c"nofollow")),
    (Pinned(c"metacopy"), Pinned(c"off")),
];

/// A descriptor number that a mounter reserves, so that the name of its link
/// in `/proc/self/fd` can be pinned.
///
/// They follow the numbers of its layout in the order in which an order brings
/// them, and the kernel gives out the lowest number that is free: a descriptor
/// arrives in its slot. A tmpfs has no source, nor has a network file system, and its
/// context gets that number; any other context gets that of the directory, which has been
/// closed by then. A link, or the loop device of an image, has been closed before there is a mount, and
/// so have all layers but the first. A FUSE connection has the slot of a source, or the one after the link
/// where it comes with a device. With a passed target the first slot holds that once more, and is not used.
/// That of the mount holds the source once more where a user namespace follows, and is freed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Directory,
    Target,
    Source,
    Link,
    Mount,
    Connection,
    Layer(Layer),
}

/// The slot of a directory that an overlay is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layer {
    number: RawFd,
    link: Pinned,
    /// The path that leads to it.
    pub(crate) path: Pinned,
}

impl Slot {
    /// The descriptor's number.
    pub(crate) const fn number(self) -> RawFd {
        match self {
            Self::Directory => 6,
            Self::Target => 7,
            Self::Source => 8,
            Self::Link | Self::Mount => 9,
            Self::Connection => 10,
            Self::Layer(layer) => layer.number,
        }
    }

    /// The link's name.
    pub(crate) fn link(self) -> Pinned {
        let [directory, target, source, mount, connection, ..] = LINKS;
        match self {
            Self::Directory => directory,
            Self::Target => target,
            Self::Source => source,
            Self::Link | Self::Mount => mount,
            Self::Connection => connection,
            Self::Layer(layer) => layer.link,
        }
    }

    /// The path that leads to what is open in [`Slot::Link`].
    pub(crate) fn link_path() -> Pinned {
        let [_, path, ..] = LAYERS;
        path
    }

    /// Those of the directories that an overlay is made from: that of a source, and on.
    pub(crate) fn layers() -> impl Iterator<Item = Layer> {
        let [_, _, links @ ..] = LINKS;
        (Self::Source.number()..)
            .zip(links.into_iter().zip(LAYERS))
            .map(|(number, (link, path))| Layer { number, link, path })
    }
}

/// The names of the slots' links, from the first slot on.
static LINKS: [Pinned; 20] = [
    Pinned(c"6"),
    Pinned(c"7"),
    Pinned(c"8"),
    Pinned(c"9"),
    Pinned(c"10"),
    Pinned(c"11"),
    Pinned(c"12"),
    Pinned(c"13"),
    Pinned(c"14"),
    Pinned(c"15"),
    Pinned(c"16"),
    Pinned(c"17"),
    Pinned(c"18"),
    Pinned(c"19"),
    Pinned(c"20"),
    Pinned(c"21"),
    Pinned(c"22"),
    Pinned(c"23"),
    Pinned(c"24"),
    Pinned(c"25"),
];

/// Every pinned string, for the check that they lie in read-only memory.
pub(crate) fn all() -> impl Iterator<Item = Pinned> {
    let paths = [EMPTY, PROC_SELF_FD, PROC_SELF_MOUNTINFO, DIRECTORY, FILE];
    paths
        .into_iter()
        .chain([UID_MAP, GID_MAP])
        .chain([TMPFS, MOUNTWARDEN, FUSE, SOURCE, DEVICE, READ_ONLY, FUSE_FD])
        .chain([FUSEBLK, BLOCK_SIZE])
        .chain(NETWORK_TYPES)
        .chain(TMPFS_KEYS)
        .chain(FUSE_KEYS)
        .chain(FUSE_FLAGS)
        .chain([OVERLAY, EROFS, SQUASHFS, UPPER_DIR, WORK_DIR, LOWER_DIR])
        .chain(OVERLAY_LIMITS.into_iter().flat_map(<[Pinned; 2]>::from))
        .chain(LAYERS)
        .chain(LINKS)
        .chain(names())
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

/// The names that the policy brings: types of file systems, and keys of their options.
///
/// They are written once, when the policy has been read, into pages of their own that
/// nothing can write from then on. Each starts at a multiple of [`NamePages::EACH`], so
/// that a filter can tell a whole name from the tail of one.
#[repr(C, align(4096))]
struct NamePages(UnsafeCell<[[u8; Self::EACH]; Self::COUNT]>);

impl NamePages {
    /// The bytes of a name, its closing NUL included.
    const EACH: usize = 64;
    /// Of four pages.
    const COUNT: usize = 256;
}

// SAFETY: it is written by the one thread of a process that has no children yet, and
// only read after that.
unsafe impl Sync for NamePages {}

static NAME_PAGES: NamePages = NamePages(UnsafeCell::new([[0; NamePages::EACH]; NamePages::COUNT]));
/// How many of them are names; not zero once they are pinned.
static NAMES_PINNED: AtomicUsize = AtomicUsize::new(0);

/// Pins the names of the policy: once, before the first fork.
///
/// # Errors
/// `E2BIG` for too many or too long a name, `EALREADY` the second time, and what
/// `mprotect(2)` reports.
pub(crate) fn pin_names<'n>(names: impl Iterator<Item = &'n str>) -> Result<(), Errno> {
    if NAMES_PINNED.load(Ordering::Relaxed) != 0 {
        return Err(Errno::EALREADY);
    }
    // The first stays empty: no option has an empty key.
    let mut count: usize = 1;
    for name in names {
        // SAFETY: the process has one thread, nothing refers to the pages yet, and they
        // are still writable, since the count is zero.
        let pages = unsafe { &mut *NAME_PAGES.0.get() };
        let place = pages
            .get_mut(count)
            .and_then(|each| each.get_mut(..name.len()));
        match place {
            Some(place) if name.len() < NamePages::EACH => place.copy_from_slice(name.as_bytes()),
            _ => return Err(Errno::E2BIG),
        }
        count = count.saturating_add(1);
    }
    // SAFETY: the pages are this static's alone, aligned and of whole pages.
    let protected = unsafe {
        libc::mprotect(
            NAME_PAGES.0.get().cast(),
            size_of::<NamePages>(),
            libc::PROT_READ,
        )
    };
    Errno::result(protected)?;
    NAMES_PINNED.store(count, Ordering::Relaxed);
    Ok(())
}

/// The pinned form of a type of network file system; `None` for another type.
pub(crate) fn network_type(wanted: &FilesystemName) -> Option<Pinned> {
    let is_wanted = |name: &Pinned| name.0.to_bytes() == wanted.as_str().as_bytes();
    NETWORK_TYPES.into_iter().find(is_wanted)
}

/// The pinned form of a name; `None` where the policy does not have it.
pub(crate) fn name(wanted: &str) -> Option<Pinned> {
    names().find(|name| name.0.to_bytes() == wanted.as_bytes())
}

fn names() -> impl Iterator<Item = Pinned> {
    let count = NAMES_PINNED.load(Ordering::Relaxed);
    // SAFETY: nothing writes to the pages once the count is not zero, and with a count
    // of zero nothing of them is kept.
    let pages: &'static [_] = unsafe { &*NAME_PAGES.0.get() };
    let pinned = pages.get(..count).unwrap_or_default();
    pinned
        .iter()
        .filter_map(|each| CStr::from_bytes_until_nul(each).ok().map(Pinned))
}

/// Where the names of the policy begin, where the last may begin, and how far apart
/// they are, as a filter compares it.
pub(crate) fn names_range() -> (u64, u64, u64) {
    let first = address_of(NAME_PAGES.0.get());
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let before_last = size_of::<NamePages>().saturating_sub(NamePages::EACH);
    let last = first.saturating_add(bytes(before_last));
    (first, last, bytes(NamePages::EACH))
}
