//! A FUSE file system on a device, as a client serves it: one file, `data`, which is the
//! beginning of the device.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, Session,
    SessionACL, WriteFlags,
};
use nix::mount::{MntFlags, umount2};
use nix::unistd::{getegid, geteuid};

pub(crate) const DATA: &str = "data";
pub(crate) const SIZE: usize = 4096;

const FILE: INodeNo = INodeNo(2);
const KEPT: Duration = Duration::from_secs(1);

/// Serves what is mounted at `target` until the kernel says that it lets go of the device,
/// or the file system is dead.
pub(crate) fn serve(connection: OwnedFd, device: &Path, target: &Path) -> Serving {
    let session = begin(connection, device);
    Serving {
        target: target.to_owned(),
        thread: Some(std::thread::spawn(move || session.run().unwrap())),
    }
}

/// A program that serves.
pub(crate) struct Serving {
    target: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Waits for its end.
    pub(crate) fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

/// When a case fails. The last mount would end with this process, which the kernel would
/// have wait for the program's answer: its own.
impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = umount2(&self.target, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
            let _ = thread.join();
        }
    }
}

/// Says that it serves. What is not run answers nothing from then on.
pub(crate) fn begin(connection: OwnedFd, device: &Path) -> Session<Stick> {
    let writing = File::options().read(true).write(true).open(device);
    let stick = Stick {
        device: writing.or_else(|_| File::open(device)).unwrap(),
    };
    Session::from_fd(stick, connection, SessionACL::All, Config::default()).unwrap()
}

pub(crate) struct Stick {
    device: File,
}

fn attributes(inode: INodeNo) -> FileAttr {
    let is_file = inode == FILE;
    FileAttr {
        ino: inode,
        size: u64::try_from(if is_file { SIZE } else { 0 }).unwrap(),
        blocks: 8,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_file {
            FileType::RegularFile
        } else {
            FileType::Directory
        },
        perm: if is_file { 0o644 } else { 0o755 },
        nlink: 1,
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        rdev: 0,
        flags: 0,
        // The kernel's own word.
        blksize: 0,
    }
}

impl Filesystem for Stick {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some(DATA) => reply.entry(&KEPT, &attributes(FILE), Generation(0)),
            // A directory to mount on.
            Some("leaf") => reply.entry(&KEPT, &attributes(INodeNo(3)), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEPT, &attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = usize::try_from(offset).unwrap().min(SIZE);
        let length = usize::try_from(size).unwrap().min(SIZE - start);
        let mut buffer = vec![0; length];
        match self.device.read_exact_at(&mut buffer, offset) {
            Ok(()) => reply.data(&buffer),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.device.write_all_at(data, offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.device.sync_all() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }
}
