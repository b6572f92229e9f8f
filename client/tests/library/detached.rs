//! A mount that comes with a reply.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use mountwarden_client::protocol::{
    Detach as DetachRequest, HelloReply, MountOptions, Operation, Reply, Request, frame,
};
use mountwarden_client::{Client, Detach, Detached, Error, ErrorKind, MountAttributes};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::support::{id, path, welcome};

fn detached() -> Detached {
    Detached {
        id: id(77),
        attributes: MountAttributes::READ_ONLY | MountAttributes::NO_SUID,
    }
}

/// Answers one request with so many descriptors of a directory, or closes the connection;
/// gives what it was asked.
fn helper(directory: &Path, descriptors: Option<usize>) -> (PathBuf, JoinHandle<Request>) {
    let socket = directory.join("helper.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let file = File::open(directory).unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        frame::read(&mut stream).unwrap();
        frame::write(&mut stream, &HelloReply::Welcome(welcome())).unwrap();
        let asked = frame::decode(&frame::read(&mut stream).unwrap()).unwrap();
        if let Some(count) = descriptors {
            let bytes = frame::encode(&Reply::Detached(detached())).unwrap();
            let files: Vec<BorrowedFd<'_>> = vec![file.as_fd(); count];
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            if count > 0 {
                assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
            }
            let parts = [IoSlice::new(&bytes)];
            sendmsg(&stream, &parts, &mut control, SendFlags::empty()).unwrap();
        }
        asked
    };
    (socket, std::thread::spawn(serve))
}

/// What comes of a request, and what was asked.
fn ask(descriptors: Option<usize>) -> (Result<(Detached, u64), Error>, Request, u64) {
    let directory = tempfile::tempdir().unwrap();
    let inode = directory.path().metadata().unwrap().ino();
    let (socket, helper) = helper(directory.path(), descriptors);
    let mut client = Client::connect_to(socket).unwrap();
    let detach = Detach::new("/srv/images").unwrap().read_only().recursive();
    let made = client.detach(detach).map(|mount| {
        let status = rustix::fs::fstat(&mount).unwrap();
        (mount.detached, status.st_ino)
    });
    (made, helper.join().unwrap(), inode)
}

#[test]
fn the_mount_is_what_came_with_the_reply() {
    let (made, asked, inode) = ask(Some(1));
    assert_eq!(made.unwrap(), (detached(), inode));
    let detach = DetachRequest {
        source: path("/srv/images"),
        recursive: true,
        options: MountOptions::READ_ONLY,
        idmap: false,
    };
    assert_eq!(asked, Request::Perform(Operation::Detach(detach)));
}

#[test]
fn a_reply_with_another_number_of_descriptors_breaks_the_protocol() {
    for count in [0, 2] {
        let (made, ..) = ask(Some(count));
        assert_eq!(made.unwrap_err().kind(), ErrorKind::Protocol, "{count}");
    }
}

/// It may have been handed over, and nobody has it: that is the caller's to know.
#[test]
fn a_lost_request_is_not_repeated() {
    let (made, ..) = ask(None);
    assert_eq!(made.unwrap_err().kind(), ErrorKind::ConnectionLost);
}
