//! What can be done with a mount that was handed over, and to have one handed over.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mountwarden_client::protocol::{Operation, Passed, Request};
use mountwarden_client::{Bind, Detach, ErrorCode};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::detached::{Holder, granted, open_source};
use super::mounting::share;
use super::passed::passing;
use crate::Skip;
use crate::daemon::Daemon;
use crate::honest::{borrowed, directory};
use crate::hostile::{HostileSession, Order, OrderReply, others_are_served, send, seqpacket_pair};
use crate::kernel::{self, unchanged};
use crate::sandbox::{POLICY, Sandbox, mount_tmpfs};
use crate::wire::Wire;

/// The flags that the kernel can lock.
const LOCKED: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// Where a holder tries to clear them.
const PLACES: [&str; 4] = ["detached", "attached", "copy", "copy attached"];

pub(crate) fn attack_35_flags_cannot_be_cleared(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    open_source(sandbox);
    let daemon = Daemon::start(sandbox);
    for source in ["src/data", "src/data/file"] {
        let holder = Holder::of(sandbox, &daemon, source, &["ro", "noexec"]);
        assert_eq!(holder.tried("flags"), "ro,nosuid,nodev,noexec");
        for place in PLACES {
            for flag in LOCKED {
                let attempt = format!("clear {flag} {place}");
                assert_eq!(holder.tried(&attempt), "EPERM", "{source}: {attempt}");
            }
        }
        for flag in LOCKED {
            let attempt = format!("remount without {flag}");
            assert_eq!(holder.tried(&attempt), "EPERM", "{source}: {attempt}");
        }
        assert_eq!(holder.tried("remount its file system"), "EPERM", "{source}");
        assert_eq!(holder.tried("write"), "EROFS", "{source}");
        assert_eq!(holder.tried("write after all"), "EROFS", "{source}");
        if source == "src/data" {
            assert_eq!(holder.tried("open for writing detached"), "EROFS");
        }
    }
    // What is not locked is what was not asked for.
    let holder = Holder::of(sandbox, &daemon, "src/data", &[]);
    assert_eq!(holder.tried("clear noexec attached"), "done");
    assert_eq!(holder.tried("clear nosuid attached"), "EPERM");
    assert_eq!(holder.tried("open for writing detached"), "done");
    Ok(())
}

/// The kernel has no lock for it: so no grant that forces it hands anything over.
pub(crate) fn attack_35_a_flag_that_is_not_locked(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    open_source(sandbox);
    let daemon = Daemon::start(sandbox);
    let holder = Holder::of(sandbox, &daemon, "src/data", &["nosymfollow"]);
    assert_eq!(holder.tried("flags"), "nosuid,nodev,nosymfollow");
    assert_eq!(holder.tried("clear nosymfollow attached"), "done");
    Ok(())
}

/// The mounts of a recursive one have the same flags, and hide what they hid.
pub(crate) fn attack_35_mounts_beneath_stay(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    open_source(sandbox);
    mount_tmpfs(&sandbox.path("src/data/beneath"));
    let daemon = Daemon::start(sandbox);
    let asked = ["ro", "noexec", "recursive"];
    let holder = Holder::of(sandbox, &daemon, "src/data", &asked);
    for flag in LOCKED {
        assert_eq!(holder.tried(&format!("clear {flag} beneath")), "EPERM");
    }
    for attempt in ["umount beneath", "move beneath", "clone without beneath"] {
        assert_eq!(holder.tried(attempt), "EINVAL", "{attempt}");
    }
    Ok(())
}

/// Neither what its holder mounts on it, nor what is mounted on its source.
pub(crate) fn attack_11_nothing_spreads(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    open_source(sandbox);
    share(&sandbox.path("src"));
    let daemon = Daemon::start(sandbox);
    for asked in [&[][..], &["recursive"]] {
        let holder = unchanged(|| {
            let holder = Holder::of(sandbox, &daemon, "src/data", asked);
            assert_eq!(holder.tried("mount on it"), "done");
            holder
        });
        let later = sandbox.path("src/data/later");
        mount_tmpfs(&later);
        std::fs::write(later.join("seen"), "").unwrap();
        assert!(!holder.sees_later(), "{asked:?}");
        nix::mount::umount2(&later, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
    Ok(())
}

/// Its link reads as a granted path, and it lies in no namespace.
pub(crate) fn attack_05_it_is_no_source(sandbox: &Sandbox) -> Result<(), Skip> {
    let policy = POLICY.replace("recursive = true", "passed_source = true");
    sandbox.policy(&policy.replace("target = ", "detached = true\ntarget = "));
    let daemon = Daemon::start(sandbox);
    let source = sandbox.path("src/data");
    let detach = Detach::new(&source).unwrap();
    let handed = daemon.client().detach(detach).unwrap();
    let bind = Bind::new(&source, sandbox.path("mnt/a")).unwrap();
    let request = passing(bind, Passed::SOURCE);
    let mut wire = Wire::open(&daemon.socket);
    let opened = rustix::fs::openat(
        &handed.mount,
        ".",
        rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let error = unchanged(|| {
        wire.send_request(&request, &[opened.as_fd()]);
        wire.error(ErrorCode::Changed)
    });
    let words = "is not in the helper's mount namespace";
    assert!(error.message.contains(words), "{error:?}");
    // The directory itself is taken.
    wire.send_request(&request, &[directory(&source).as_fd()]);
    let reply = wire.reply();
    assert!(
        matches!(reply, mountwarden_client::protocol::Reply::Mounted(_)),
        "{reply:?}"
    );
    Ok(())
}

fn order(sandbox: &Sandbox) -> Operation {
    Operation::from(Detach::new(sandbox.path("src/data")).unwrap())
}

pub(crate) fn attack_22_orders_that_do_not_fit(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let source: Vec<OwnedFd> = (0..4)
        .map(|_| directory(sandbox.path("src/data")))
        .collect();
    for count in [0, 1, 2, 4] {
        let hostile = HostileSession::take(&daemon)?;
        let files = borrowed(&source[..count]);
        unchanged(|| {
            hostile
                .channel
                .send(&Order::Perform(order(sandbox)), &files);
        });
        hostile.ended(&daemon, &["takes its source three times"]);
    }
    // In the source's place, what is something else.
    let hostile = HostileSession::take(&daemon)?;
    let other = directory(sandbox.path("src/other"));
    let files = [source[0].as_fd(), source[1].as_fd(), other.as_fd()];
    let error = hostile.refused(&daemon, &order(sandbox), &files)?;
    assert_eq!(error.code, ErrorCode::Changed, "{error:?}");
    others_are_served(&daemon);
    Ok(())
}

/// A session that was taken over learns that its client has the reply, and no more.
pub(crate) fn attack_26_only_the_client_gets_it(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let source: Vec<OwnedFd> = (0..3)
        .map(|_| directory(sandbox.path("src/data")))
        .collect();
    unchanged(|| {
        let order = Order::Perform(order(sandbox));
        hostile.channel.send(&order, &borrowed(&source));
        let mut room = nix::cmsg_space!([i32; 4]);
        let mut bytes = [0; 1024];
        let mut buffer = [std::io::IoSliceMut::new(&mut bytes)];
        let got = nix::sys::socket::recvmsg::<()>(
            hostile.channel.0.as_raw_fd(),
            &mut buffer,
            Some(&mut room),
            MsgFlags::empty(),
        )
        .unwrap();
        assert_eq!(got.cmsgs().unwrap().count(), 0, "a control message");
        let length = got.bytes;
        let reply: OrderReply =
            mountwarden_client::protocol::frame::decode(&bytes[4..length]).unwrap();
        assert!(matches!(reply, OrderReply::Answered), "{reply:?}");
    });
    assert_eq!(daemon.last_audit()["result"], "detached");
    Ok(())
}

/// What could not be sent is gone, and the log says so.
pub(crate) fn attack_26_a_client_that_is_gone(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let locker = super::confinement::only(&daemon, "mw-locker");
    nix::sys::signal::kill(locker, nix::sys::signal::Signal::SIGSTOP).unwrap();
    super::between::wait_for_state(locker, 'T');
    let mut wire = Wire::open(&daemon.socket);
    let mounter = super::confinement::only(&daemon, "mw-mounter");
    wire.send_body(&crate::wire::body(&Request::Perform(order(sandbox))));
    // Until it waits for the locker, of whose answers one must come.
    crate::daemon::wait_for("the mounter asked", || {
        let files = crate::hostile::descriptors(mounter).ok()?;
        files.contains_key(&9).then_some(())
    });
    wire.0.shutdown(std::net::Shutdown::Both).unwrap();
    drop(wire);
    nix::sys::signal::kill(locker, nix::sys::signal::Signal::SIGCONT).unwrap();
    let line = crate::daemon::wait_for("the second line", || {
        let lines = daemon.audit();
        let last = lines.last()?.clone();
        (last["code"] == "unavailable").then_some(last)
    });
    assert!(
        line["message"]
            .as_str()
            .unwrap()
            .contains("was ended again"),
        "{line}"
    );
    others_are_served(&daemon);
    Ok(())
}

/// What a mounter that was taken over could ask of the locker: nothing that it does not
/// have already, and nobody else notices.
pub(crate) fn attack_26_what_a_locker_is_sent(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "");
    let daemon = Daemon::start(sandbox);
    let _client = daemon.client();
    let mounter = super::confinement::only(&daemon, "mw-mounter");
    let held = crate::hostile::descriptors(mounter)?;
    let locker = &held[&29];
    let (answers, answer) = seqpacket_pair();
    let path = sandbox.path("src/data");
    let detached = || mountwarden_helper::raw::clone_tree(directory(&path).as_fd(), false).unwrap();
    let ask = |number: u64, attributes: u64, mount: &OwnedFd| {
        let message = [number, attributes].map(u64::to_le_bytes).concat();
        send(locker, &message, &[mount.as_fd(), answer.as_fd()]).unwrap();
        let mut words = [0; 16];
        recv(answers.as_raw_fd(), &mut words, MsgFlags::empty()).unwrap();
        let (words, _) = words.as_chunks::<8>();
        (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
    };
    let errno = |errno: i32| u64::from(errno.unsigned_abs());
    unchanged(|| {
        // One that is attached, a file, a socket.
        let attached = File::open(&path).unwrap().into();
        assert_eq!(ask(1, 0, &attached), (1, errno(libc::EINVAL)));
        let file = File::open(path.join("file")).unwrap().into();
        assert_eq!(ask(2, 0, &file), (2, errno(libc::EINVAL)));
        let (_other, socket) = seqpacket_pair();
        assert_eq!(ask(3, 0, &socket), (3, errno(libc::EINVAL)));
        // One that is not as it should be is not given away.
        assert_eq!(
            ask(4, kernel::RDONLY, &detached()),
            (4, errno(libc::EPROTO))
        );
        let sealed = detached();
        let flags = kernel::RDONLY;
        mountwarden_helper::raw::restrict(sealed.as_fd(), flags, 0, false).unwrap();
        assert_eq!(ask(5, kernel::RDONLY, &sealed), (5, 0));
        // Messages of another form.
        send(locker, b"", &[]).ok();
        send(locker, b"x", &[]).unwrap();
        send(locker, &[0; 16], &[sealed.as_fd()]).unwrap();
        // What a namespace maps is not granted, and its calls are in no filter here.
        let message = [6_u64, 0, 1].map(u64::to_le_bytes).concat();
        send(locker, &message, &[sealed.as_fd(), answer.as_fd()]).unwrap();
        send(
            locker,
            &[0; 64],
            &[sealed.as_fd(), answer.as_fd(), sealed.as_fd()],
        )
        .unwrap();
    });
    let detach = Detach::new(&path).unwrap();
    daemon.client().detach(detach).unwrap();
    Ok(())
}
