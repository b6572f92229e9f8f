//! A FUSE file system that says of its one directory that an overlay should look for it
//! elsewhere (`Documentation/filesystems/overlayfs.rst`, `redirect_dir`).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, ReplyAttr,
    ReplyEntry, ReplyXattr, Request, Session, SessionACL,
};

pub(crate) const NAME: &str = "here";
const ELSEWHERE: &[u8] = b"/elsewhere";
const DIRECTORY: INodeNo = INodeNo(2);
const KEPT: Duration = Duration::from_secs(1);

/// Serves until the mount ends.
pub(crate) fn serve(connection: OwnedFd) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let session = Session::from_fd(Misleading, connection, SessionACL::All, Config::default());
        session.unwrap().run().unwrap();
    })
}

struct Misleading;

fn directory(inode: INodeNo) -> FileAttr {
    FileAttr {
        ino: inode,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

impl Filesystem for Misleading {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&KEPT, &directory(DIRECTORY), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEPT, &directory(inode));
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match name.to_str() {
            Some("trusted.overlay.redirect") if inode == DIRECTORY && size == 0 => {
                reply.size(u32::try_from(ELSEWHERE.len()).unwrap());
            }
            Some("trusted.overlay.redirect") if inode == DIRECTORY => reply.data(ELSEWHERE),
            _ => reply.error(Errno::ENODATA),
        }
    }
}
