//! Attacks on what this version does not have: no request asks for it.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use mountwarden_client::protocol::{Hello, HelloReply, Operation, Reply, Request, frame};
use mountwarden_client::{Bind, ErrorCode, MountId, Tmpfs, Unmount};
use nix::cmsg_space;
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{MsgFlags, recvmsg};

use crate::Skip;
use crate::daemon::Daemon;
use crate::kernel::{self, unchanged};
use crate::sandbox::Sandbox;
use crate::wire::{Wire, body};

/// A device is no source, whatever the path leads to when it is opened: neither
/// one that was there, nor one that a granted file was exchanged for.
pub(crate) fn attack_13_devices_are_no_sources(sandbox: &Sandbox) -> Result<(), Skip> {
    let device = sandbox.path("src/data/file");
    let target = sandbox.write("mnt/over", "covered");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let bind = || Bind::new(&device, &target).unwrap();
    let made = client.mount(bind()).unwrap();
    client.unmount(&made).unwrap();
    for node in ["/dev/null", "/dev/zero"] {
        // A device node at the granted path; only a bind makes one as any user.
        let flags = MsFlags::MS_BIND;
        mount(Some(node), &device, None::<&str>, flags, None::<&str>).unwrap();
        let error = unchanged(|| client.mount(bind()).unwrap_err());
        let code = error.reply().map(|reply| reply.code);
        assert_eq!(code, Some(ErrorCode::WrongType), "{error}");
        let line = daemon.last_audit();
        assert_eq!(
            (&line["code"], &line["result"]),
            (&"wrong-type".into(), &"error".into())
        );
        nix::mount::umount(&device).unwrap();
    }
    client.mount(bind()).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "data");
    Ok(())
}

/// A kind of mount is a number, and there are six: every other is no request.
pub(crate) fn attack_14_other_kinds_are_no_requests(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let good = body(&Request::Perform(Operation::Mount(
        Tmpfs::new(sandbox.path("mnt/a")).unwrap().into(),
    )));
    // Request, operation, kind: four bytes each (`protocol/WIRE.md`).
    assert_eq!(good[8..12], 1_u32.to_le_bytes());
    for kind in [6, 7, 0x7fff_ffff, u32::MAX] {
        let mut other = good.clone();
        other[8..12].copy_from_slice(&kind.to_le_bytes());
        unchanged(|| {
            let mut wire = Wire::open(&daemon.socket);
            wire.send_body(&other);
            wire.error(ErrorCode::MalformedFrame);
            assert!(wire.is_closed());
        });
    }
    let mut wire = Wire::open(&daemon.socket);
    wire.send_body(&good);
    assert!(matches!(wire.reply(), Reply::Mounted(_)));
    assert_eq!(kernel::only(&sandbox.path("mnt/a")).filesystem, "tmpfs");
    Ok(())
}

/// No mount is handed out: no reply brings a descriptor, but to a FUSE mount, which
/// brings its connection (`serving`).
pub(crate) fn attack_35_no_reply_brings_a_descriptor(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let target = sandbox.path("mnt/a");
    let tmpfs = || Operation::Mount(Tmpfs::new(&target).unwrap().into());
    let bind = Bind::new(sandbox.path("src/data"), sandbox.path("mnt/b")).unwrap();
    let unmount = |lazy: bool| {
        let unmount = Unmount::new(&target).unwrap();
        Operation::Unmount(if lazy { unmount.lazy() } else { unmount }.into())
    };
    let other = Unmount::new(&target).unwrap();
    let other = other.id(MountId::try_from(1).unwrap());
    let requests = [
        Request::Perform(tmpfs()),
        Request::Perform(tmpfs()),
        Request::Perform(Operation::Mount(bind.into())),
        Request::Explain(tmpfs()),
        Request::List { after: None },
        Request::Status,
        Request::Perform(Operation::Unmount(other.into())),
        Request::Perform(unmount(false)),
        Request::Perform(unmount(true)),
    ];
    let wire = Wire::connect(&daemon.socket);
    let stream = wire.0.as_raw_fd();
    // Room for descriptors, so that one would come.
    let mut room = cmsg_space!([std::os::fd::RawFd; 8]);
    let mut receive = || {
        let mut bytes = vec![0; 65_540];
        let mut whole = 0;
        loop {
            let mut buffer = [IoSliceMut::new(&mut bytes[whole..])];
            let flags = MsgFlags::empty();
            let got = recvmsg::<()>(stream, &mut buffer, Some(&mut room), flags).unwrap();
            assert_eq!(got.cmsgs().unwrap().count(), 0, "a control message");
            assert!(!got.flags.contains(MsgFlags::MSG_CTRUNC));
            assert_ne!(got.bytes, 0, "the end");
            whole += got.bytes;
            if let Ok(body) = frame::read(&mut &bytes[..whole]) {
                return body;
            }
        }
    };
    frame::write(&mut &wire.0, &Hello::default()).unwrap();
    let hello: HelloReply = frame::decode(&receive()).unwrap();
    assert!(matches!(hello, HelloReply::Welcome(_)), "{hello:?}");
    for request in requests {
        frame::write(&mut &wire.0, &request).unwrap();
        let _: Reply = frame::decode(&receive()).unwrap();
    }
    assert!(kernel::at(&target).is_empty());
    Ok(())
}
