//! A FUSE file system that a client serves on the connection that it was given: one
//! file, `hello`.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request, Session, SessionACL,
};

pub(crate) const HELLO: &str = "hello";
pub(crate) const CONTENT: &str = "from a client\n";

const FILE: INodeNo = INodeNo(2);
const KEPT: Duration = Duration::from_secs(1);

/// Serves until the mount ends or the file system is dead. `file` makes the root itself
/// the file.
pub(crate) fn serve(connection: OwnedFd, file: bool) -> JoinHandle<()> {
    run(
        connection,
        Served {
            file,
            stalls: false,
        },
    )
}

/// As [`serve`], with a file that is longer than what it holds, and that nobody gets to read.
pub(crate) fn serve_and_stall(connection: OwnedFd) -> JoinHandle<()> {
    run(
        connection,
        Served {
            file: false,
            stalls: true,
        },
    )
}

fn run(connection: OwnedFd, served: Served) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let session = Session::from_fd(served, connection, SessionACL::All, Config::default());
        session.unwrap().run().unwrap();
    })
}

struct Served {
    file: bool,
    stalls: bool,
}

impl Served {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_file = inode == FILE || self.file;
        FileAttr {
            ino: inode,
            size: match (is_file, self.stalls) {
                (false, _) => 0,
                (true, false) => u64::try_from(CONTENT.len()).unwrap(),
                (true, true) => 1 << 20,
            },
            blocks: 1,
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
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 512,
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == HELLO {
            reply.entry(&KEPT, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEPT, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.stalls {
            // Dropped, it would answer.
            return std::mem::forget(reply);
        }
        let from = usize::try_from(offset).unwrap().min(CONTENT.len());
        reply.data(&CONTENT.as_bytes()[from..]);
    }
}
