//! A gate in the hands of an attacker, which tells the warden of connections.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;

use mountwarden_client::protocol::{HelloReply, Reply, frame};
use mountwarden_client::{DenyReason, ErrorCode, Tmpfs};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::unistd::{Uid, seteuid};

use crate::daemon::{Daemon, outcome, wait_for};
use crate::honest::{borrowed, directory, mounted};
use crate::hostile::{Channel, HostileGate, Quiet, descriptors, others_are_served, send};
use crate::kernel::{descendants, named, unchanged};
use crate::sandbox::{ALICE, POLICY, Sandbox};
use crate::wire::Wire;
use crate::{Skip, roles};

const NO_CONNECTION: &str = "the socket is no connection to this helper's address";

/// Waits until the log has so many lines of this kind.
fn wait_for_lines(daemon: &Daemon, words: &str, count: usize) {
    wait_for(&format!("{count} lines: {words}"), || {
        (daemon.log().matches(words).count() == count).then_some(())
    });
}

/// Connects as another user.
fn as_user<T>(uid: u32, work: impl FnOnce() -> T) -> T {
    seteuid(Uid::from_raw(uid)).unwrap();
    let result = work();
    seteuid(Uid::from_raw(0)).unwrap();
    result
}

/// A connection with other descriptors than its two is dropped with a line, and
/// leaves none behind. What else the message says is never read.
pub(crate) fn attack_22_connections_with_other_descriptors(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let gate = HostileGate::take(&daemon)?;
    let (client, accepted) = gate.accept(&daemon);
    let dropped = "a connection came without its two descriptors and was dropped";
    for (number, count) in [0, 1, 3, 4, 253].into_iter().enumerate() {
        unchanged(|| {
            gate.present(&vec![accepted.as_fd(); count]);
            wait_for_lines(&daemon, dropped, number + 1);
        });
    }
    let none = [&b"x"[..], b"ready", &[0xff; 4000]];
    for bytes in none {
        let (ours, theirs) = Channel::pair();
        send(&gate.channel, bytes, &[accepted.as_fd(), theirs.as_fd()]).unwrap();
        drop(theirs);
        assert!(ours.receive().is_some(), "a mounter");
    }
    drop((client, accepted));
    quiet.again(&daemon)
}

/// A message without a byte is the end of the channel: the helper ends, as when the
/// gate does.
pub(crate) fn attack_23_the_gate_says_nothing(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut daemon = Daemon::start(sandbox);
    let gate = HostileGate::take(&daemon)?;
    let (_client, accepted) = gate.accept(&daemon);
    let channel = gate.connect(&accepted).unwrap();
    unchanged(|| {
        send(&gate.channel, b"", &[]).unwrap();
        wait_for("the helper ends", || (!daemon.runs()).then_some(()));
    });
    assert!(channel.receive().is_none(), "its mounters too");
    let line = "the gate ended: it closed its channel";
    assert!(daemon.log().contains(line), "{}", daemon.log());
    Ok(())
}

/// Whatever is no connection that a client made to the helper's own address is
/// refused: it would say who made it, or nothing.
pub(crate) fn attack_26_sockets_that_are_no_client(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let gate = HostileGate::take(&daemon)?;
    let elsewhere = sandbox.path("elsewhere");
    let listener = UnixListener::bind(&elsewhere).unwrap();
    let connected = UnixStream::connect(&elsewhere).unwrap();
    let (accepted_elsewhere, _) = listener.accept().unwrap();
    let (clients_end, accepted) = gate.accept(&daemon);
    let no_connection: Vec<(&str, OwnedFd)> = vec![
        ("a socketpair", UnixStream::pair().unwrap().0.into()),
        ("a pair of messages", crate::hostile::seqpacket_pair().0),
        (
            "a pair of datagrams",
            UnixDatagram::pair().unwrap().0.into(),
        ),
        ("the helper's listener", gate.listener.try_clone().unwrap()),
        ("another listener", listener.into()),
        ("connected elsewhere", connected.into()),
        ("accepted elsewhere", accepted_elsewhere.into()),
        (
            "the client's own end",
            clients_end.try_clone().unwrap().into(),
        ),
        ("the gate's own channel", gate.channel.try_clone().unwrap()),
        ("TCP", TcpListener::bind("127.0.0.1:0").unwrap().into()),
        ("UDP", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
    ];
    for (what, file) in &no_connection {
        let error = unchanged(|| gate.refused(file, ErrorCode::Denied));
        assert_eq!(error.message, NO_CONNECTION, "{what}");
    }
    let (read, write) = std::io::pipe().unwrap();
    let no_sockets: [OwnedFd; 4] = [
        read.into(),
        write.into(),
        File::open("/dev/null").unwrap().into(),
        directory(sandbox.path("src")),
    ];
    for file in &no_sockets {
        let error = unchanged(|| gate.refused(file, ErrorCode::Denied));
        let unknown = "the kernel does not say who the client is: ENOTSOCK";
        assert!(error.message.starts_with(unknown), "{error:?}");
    }
    // A client's connection, as often as the gate likes: always that client's.
    let first = gate.connect(&accepted).unwrap();
    let second = gate.connect(&accepted).unwrap();
    assert_eq!(named(daemon.pid(), "mw-mounter").len(), 2);
    drop((first, second, no_connection, accepted));
    quiet.again(&daemon)
}

/// What std calls a listener accepts any kind of Unix socket.
fn accept(listener: &OwnedFd) -> OwnedFd {
    let listener = UnixListener::from(listener.try_clone().unwrap());
    listener.accept().unwrap().0.into()
}

fn unix(kind: SockType) -> OwnedFd {
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

fn bound(kind: SockType, path: &Path) -> OwnedFd {
    let socket = unix(kind);
    bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

/// An address is a name, and in another mount namespace anybody can bind a socket
/// to the helper's. Each of these has it, and is refused all the same.
pub(crate) fn attack_26_sockets_with_the_helpers_name(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let gate = HostileGate::take(&daemon)?;
    let name = daemon.socket.clone();
    let aside = sandbox.path("run/aside");
    fs::rename(&name, &aside).unwrap();
    // The name is free once more; who binds it is asked whose it is.
    let again = || fs::remove_file(&name).unwrap();
    let refuse = |what: &str, file: &OwnedFd, message: &str| {
        let error = unchanged(|| gate.refused(file, ErrorCode::Denied));
        assert!(error.message.starts_with(message), "{what}: {error:?}");
    };

    let messages = bound(SockType::SeqPacket, &name);
    listen(&messages, Backlog::MAXCONN).unwrap();
    let client = unix(SockType::SeqPacket);
    connect(client.as_raw_fd(), &UnixAddr::new(&name).unwrap()).unwrap();
    let accepted = accept(&messages);
    refuse("accepted, but of messages", &accepted, NO_CONNECTION);
    again();
    refuse(
        "of datagrams",
        &bound(SockType::Datagram, &name),
        NO_CONNECTION,
    );
    again();
    let stream = bound(SockType::Stream, &name);
    let nobody = "the kernel does not say who the client is: ENOTCONN";
    refuse("connected to nobody", &stream, nobody);
    // The end that connects tells who listens: Alice, where there is an Alice.
    let elsewhere = sandbox.path("elsewhere");
    let listener = bound(SockType::Stream, &elsewhere);
    let listening = || listen(&listener, Backlog::MAXCONN).unwrap();
    if sandbox.is_root {
        as_user(ALICE, listening);
    } else {
        listening();
    }
    connect(stream.as_raw_fd(), &UnixAddr::new(&elsewhere).unwrap()).unwrap();
    let peer = getsockopt(&stream, PeerCredentials).unwrap().uid();
    assert_eq!(peer == ALICE, sandbox.is_root);
    let has_address = "the client's socket has an address of its own";
    refuse("the end that connects", &stream, has_address);
    again();

    // An accepted one is whoever connected, wherever that was: this much is left to
    // a gate.
    let stream = bound(SockType::Stream, &name);
    listen(&stream, Backlog::MAXCONN).unwrap();
    let _client = UnixStream::connect(&name).unwrap();
    drop(gate.connect(&accept(&stream)).unwrap());
    again();

    fs::rename(&aside, &name).unwrap();
    let (_client, accepted) = gate.accept(&daemon);
    gate.connect(&accepted).unwrap();
    // So is a client that has bound its socket, which ours never do.
    let own = bound(SockType::Stream, &sandbox.path("own"));
    connect(own.as_raw_fd(), &UnixAddr::new(&name).unwrap()).unwrap();
    refuse("bound", &accept(&gate.listener), has_address);
    Ok(())
}

/// Who speaks on an order channel is the gate's choice; for whom is the kernel's.
pub(crate) fn attack_26_a_mounter_is_its_clients(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    sandbox.policy(&POLICY.replace("@UID@, 4001, 4002", "4001"));
    let daemon = Daemon::start(sandbox);
    let gate = HostileGate::take(&daemon)?;
    let (_own, root) = gate.accept(&daemon);
    let (_hers, alice) = as_user(ALICE, || gate.accept(&daemon));
    let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap().into();
    let files = [sandbox.path("mnt"), sandbox.path("mnt/a")].map(directory);
    let reply = unchanged(|| {
        gate.connect(&root)
            .unwrap()
            .perform(&tmpfs, &borrowed(&files))
    });
    let Reply::Error(error) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(error.reason, Some(DenyReason::NoGrant));
    assert_eq!(daemon.last_audit()["uid"], 0);
    mounted(
        gate.connect(&alice)
            .unwrap()
            .perform(&tmpfs, &borrowed(&files)),
    );
    assert_eq!(daemon.last_audit()["uid"], ALICE);
    Ok(())
}

/// The limits on connections are the warden's too.
pub(crate) fn attack_26_limits_without_the_gate(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nconnections = 3\nconnections_per_user = 2\n[[grant]]";
    sandbox.policy(&POLICY.replacen("[[grant]]", limits, 1));
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let gate = HostileGate::take(&daemon)?;
    let (client, accepted) = gate.accept(&daemon);
    let mut open: Vec<Channel> = (0..2).map(|_| gate.connect(&accepted).unwrap()).collect();
    let of_user = "you have 2 connections, which is the most that `connections_per_user` allows: \
                   close one";
    for _ in 0..2000 {
        let error = gate.refused(&accepted, ErrorCode::LimitReached);
        assert_eq!(error.message, of_user);
    }
    if sandbox.is_root {
        let (_hers, alice) = as_user(ALICE, || gate.accept(&daemon));
        open.push(gate.connect(&alice).unwrap());
        for file in [&alice, &accepted] {
            let error = gate.refused(file, ErrorCode::LimitReached);
            let of_all = "all 3 connections that the helper's `connections` allows are in use";
            assert!(error.message.starts_with(of_all), "{error:?}");
        }
    }
    assert_eq!(named(daemon.pid(), "mw-mounter").len(), open.len());
    drop(open.remove(0));
    let again = wait_for("a place is free", || gate.connect(&accepted).ok());
    drop((open, again, client, accepted));
    quiet.again(&daemon)
}

/// In the place of an order channel: its mounter ends, with the reason, and costs
/// nobody else anything.
pub(crate) fn attack_26_order_channels_that_are_none(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let gate = HostileGate::take(&daemon)?;
    let (client, accepted) = gate.accept(&daemon);
    let (read, write) = std::io::pipe().unwrap();
    let no_socket = "order channel: the channel failed: ENOTSOCK";
    let closed = "order channel: the other half closed the channel";
    let wrong: [(OwnedFd, &str); 7] = [
        (read.into(), no_socket),
        (write.into(), no_socket),
        (File::open("/dev/null").unwrap().into(), no_socket),
        (directory(sandbox.path("src")), no_socket),
        (Channel::pair().1, closed),
        (UnixStream::pair().unwrap().0.into(), closed),
        (
            unix(SockType::SeqPacket),
            "order channel: the channel failed: ENOTCONN",
        ),
    ];
    for (number, (file, why)) in wrong.into_iter().enumerate() {
        let lines = daemon.log().matches(why).count();
        unchanged(|| {
            gate.present(&[accepted.as_fd(), file.as_fd()]);
            wait_for_lines(&daemon, why, lines + 1);
            let ended = "ended: it left with status 1; its own line in the log says why";
            wait_for_lines(&daemon, ended, number + 1);
        });
    }
    // A stream has no messages: two at once are not two orders.
    let (ours, theirs) = UnixStream::pair().unwrap();
    gate.present(&[accepted.as_fd(), theirs.as_fd()]);
    drop(theirs);
    let stream = Channel(ours.into());
    assert!(stream.receive().is_some(), "it is ready");
    let mnt = directory(sandbox.path("mnt"));
    stream.send_bytes(&[0; 40], &[mnt.as_fd()]).unwrap();
    assert!(stream.receive().is_none());
    wait_for_lines(&daemon, "a frame has 1 to 65536 bytes, not 0", 1);
    gate.connect(&accepted).unwrap();
    drop((client, accepted));
    quiet.again(&daemon)
}

/// Whoever is refused is told, or not: a channel that is full does not hold up the
/// warden, which still serves others, and stops when it is told to.
pub(crate) fn attack_26_the_warden_waits_for_nobody(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let gate = HostileGate::take(&daemon)?;
    let (_full, theirs) = Channel::pair();
    while send(&theirs, &[0; 4096], &[]).is_ok() {}
    assert_eq!(send(&theirs, b"x", &[]), Err(Errno::EAGAIN));
    let nobody = UnixStream::pair().unwrap().0;
    gate.present(&[nobody.as_fd(), theirs.as_fd()]);
    let (_client, accepted) = gate.accept(&daemon);
    gate.connect(&accepted).unwrap();
    let gate = super::confinement::only(&daemon, "mw-gate");
    kill(gate, Signal::SIGCONT).unwrap();
    others_are_served(&daemon);
    assert_eq!(daemon.stop().code(), Some(0));
    Ok(())
}

/// Where the warden has room for one descriptor of two, the kernel gives it that
/// one: it goes again, and so does the connection, with an answer.
pub(crate) fn attack_34_no_room_for_descriptors(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let quiet = Quiet::of(&daemon)?;
    let used = descriptors(daemon.pid())?;
    let mut free = (0..64).filter(|number| !used.contains_key(number));
    let second_free = free.nth(1).unwrap();
    let limit = |number: i32| {
        let mut limit = roles::command(sandbox, "limit");
        let warden = daemon.pid().to_string();
        limit.args([&warden, &number.to_string(), "64"]);
        if sandbox.is_root {
            limit.uid(65534).gid(65534);
        }
        let (status, _, error) = outcome(&mut limit);
        assert_eq!(status, 0, "{error}");
    };
    for round in 1..=3 {
        limit(second_free);
        // The client library would connect again, and so make more lines than one.
        let mut client = Wire::connect(&daemon.socket);
        let refused = frame::read(&mut client.0).unwrap();
        match frame::decode(&refused).unwrap() {
            HelloReply::Refused(refusal) => assert_eq!(refusal.error.code, ErrorCode::Unavailable),
            HelloReply::Welcome(welcome) => panic!("{welcome:?}"),
        }
        let dropped = "a connection came without its two descriptors and was dropped";
        wait_for_lines(&daemon, dropped, round);
        limit(64);
        others_are_served(&daemon);
        wait_for("nobody is connected", || {
            (descendants(daemon.pid()).len() == 2).then_some(())
        });
    }
    drop(used);
    quiet.again(&daemon)
}
