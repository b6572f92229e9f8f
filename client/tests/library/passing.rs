//! Descriptors beside a request: which come, in which order, and when again.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use mountwarden_client::protocol::{
    HelloReply, Kind, Mount, Operation, Passed, Reply, Request, frame,
};
use mountwarden_client::{
    Bind, Client, ErrorCode, ErrorKind, ErrorReply, Outcome, Passing, Tmpfs, Unmount,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::support::{id, mounted, path, unmounted, welcome};

/// A request and the files that came with its first byte, by their inodes.
type Heard = (Request, Vec<u64>);

/// Answers one request on each connection, or closes it.
fn helper(directory: &Path, replies: Vec<Option<Reply>>) -> (PathBuf, JoinHandle<Vec<Heard>>) {
    let socket = directory.join("helper.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = move || {
        let mut heard = Vec::new();
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            frame::read(&mut stream).unwrap();
            frame::write(&mut stream, &HelloReply::Welcome(welcome())).unwrap();
            heard.push(hear(&stream));
            if let Some(reply) = reply {
                frame::write(&mut stream, &reply).unwrap();
            }
        }
        heard
    };
    (socket, std::thread::spawn(serve))
}

fn hear(stream: &UnixStream) -> Heard {
    let mut buffer = [0; 4096];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let mut vectors = [IoSliceMut::new(&mut buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(stream, &mut vectors, &mut control, flags)
        .unwrap()
        .bytes;
    let mut inodes = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            inodes.extend(descriptors.map(|file| rustix::fs::fstat(file).unwrap().st_ino));
        }
    }
    (frame::decode(&buffer[4..length]).unwrap(), inodes)
}

/// A directory with two in it.
fn places() -> (tempfile::TempDir, [PathBuf; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(directory.path()).unwrap();
    let places = ["target", "source"].map(|name| real.join(name));
    for place in &places {
        fs::create_dir(place).unwrap();
    }
    (directory, places)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn done() -> Reply {
    mounted(Outcome::Mounted)
}

fn going() -> Reply {
    Reply::Error(ErrorReply::new(ErrorCode::Unavailable, "it stops"))
}

#[test]
fn descriptors_come_in_order_with_their_own_paths_and_again_with_a_new_connection() {
    let (directory, [target, source]) = places();
    let (socket, thread) = helper(directory.path(), vec![Some(going()), Some(done())]);
    let [to, from] = [&target, &source].map(|place| File::open(place).unwrap());
    let mut client = Client::connect_to(socket).unwrap();
    let bind = Bind::new("/other/source", "/other/target")
        .unwrap()
        .read_only();
    let passing = Passing::new().source(&from).target(&to);
    client.mount_passing(bind, passing).unwrap();
    let heard = thread.join().unwrap();
    let inodes = [inode(&target), inode(&source)];
    for (request, came) in &heard {
        assert_eq!(came, &inodes);
        assert_eq!(request.descriptors(), 2);
        let Request::Perform(Operation::Mount(mount)) = request else {
            panic!("{request:?}")
        };
        assert_eq!(mount.target.as_path(), target);
        assert_eq!(mount.passed, Passed::TARGET | Passed::SOURCE);
        assert!(matches!(&mount.kind, Kind::Bind { source: path, .. } if path.as_path() == source));
    }
    assert_eq!((heard.len(), &heard[0]), (2, &heard[1]));
}

#[test]
fn what_a_passed_target_may_have_covered_by_now_is_not_asked_again() {
    let (directory, [target, source]) = places();
    let [to, from] = [&target, &source].map(|place| File::open(place).unwrap());
    let (socket, thread) = helper(directory.path(), vec![None]);
    let mut client = Client::connect_to(socket).unwrap();
    let tmpfs = Tmpfs::new(&target).unwrap();
    let error = client
        .mount_passing(tmpfs, Passing::new().target(&to))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
    assert_eq!(thread.join().unwrap().len(), 1);
    // A source is the same the second time.
    let other = tempfile::tempdir().unwrap();
    let (socket, thread) = helper(other.path(), vec![None, Some(done())]);
    let mut client = Client::connect_to(socket).unwrap();
    let bind = Bind::new(&source, &target).unwrap();
    client
        .mount_passing(bind, Passing::new().source(&from))
        .unwrap();
    let heard = thread.join().unwrap();
    assert_eq!((heard.len(), &heard[0].1), (2, &vec![inode(&source)]));
}

#[test]
fn an_unmount_passes_the_root() {
    let (directory, [target, _]) = places();
    let (socket, thread) = helper(directory.path(), vec![Some(unmounted())]);
    let root = File::open(&target).unwrap();
    let mut client = Client::connect_to(socket).unwrap();
    let unmount = Unmount::new("/other").unwrap().lazy().id(id(77));
    client.unmount_passing(unmount, &root).unwrap();
    let [(request, came)] = &thread.join().unwrap()[..] else {
        panic!("one request")
    };
    assert_eq!(came, &[inode(&target)]);
    let Request::Perform(Operation::Unmount(unmount)) = request else {
        panic!("{request:?}")
    };
    assert!(unmount.passed && unmount.lazy);
    assert_eq!(
        (unmount.target.as_path(), unmount.id),
        (target.as_path(), Some(id(77)))
    );
}

#[test]
fn what_has_no_path_is_not_sent() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let tmpfs = || Tmpfs::new("/mnt/a").unwrap();
    let error = Passing::new()
        .target(&socket)
        .describe(tmpfs())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    // Bits without descriptors are not sent either.
    let claimed = Mount {
        passed: Passed::all(),
        ..tmpfs().into()
    };
    let sent = Passing::new().describe(claimed).unwrap();
    assert_eq!(
        (sent.passed, sent.target),
        (Passed::empty(), path("/mnt/a"))
    );
}

#[test]
fn a_user_namespace_comes_last() {
    let (directory, [target, source]) = places();
    let [to, from] = [&target, &source].map(|place| File::open(place).unwrap());
    let namespace = File::open("/proc/self/ns/user").unwrap();
    let inode = namespace.metadata().unwrap().ino();
    for passing in [
        Passing::new().idmap(&namespace),
        Passing::new().idmap(&namespace).source(&from).target(&to),
    ] {
        let (socket, thread) = helper(directory.path(), vec![Some(done())]);
        let mut client = Client::connect_to(&socket).unwrap();
        let bind = Bind::new(&source, &target).unwrap();
        client.mount_passing(bind, passing).unwrap();
        let heard = thread.join().unwrap();
        let [(request, came)] = &heard[..] else {
            panic!("one request")
        };
        assert_eq!(
            (request.descriptors(), came.last()),
            (came.len(), Some(&inode))
        );
        let Request::Perform(Operation::Mount(mount)) = request else {
            panic!("{request:?}")
        };
        assert!(mount.passed.contains(Passed::ID_MAP));
        fs::remove_file(socket).unwrap();
    }
}
