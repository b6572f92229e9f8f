//! Attack 21: clients that keep the helper waiting.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use mountwarden_client::protocol::{Hello, HelloReply, Reply, Request, frame};
use mountwarden_client::{Client, ErrorCode, Tmpfs};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::limits::limited;
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::kernel::{self, descendants};
use crate::sandbox::{ALICE, Sandbox};
use crate::wire::Wire;

/// What the helper holds: processes, descriptors, KiB of gate and warden. The last
/// two only where this user may ask.
#[derive(Debug, PartialEq, Eq, PartialOrd)]
struct Held {
    processes: usize,
    descriptors: usize,
    memory: u64,
}

fn held(daemon: &Daemon) -> Held {
    let family = descendants(daemon.pid());
    let lasting = ["mw-gate", "mw-warden"].map(|name| kernel::named(daemon.pid(), name));
    let open = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Held {
        processes: family.len(),
        descriptors: lasting.iter().flatten().copied().map(open).sum(),
        memory: lasting.iter().flatten().map(|&pid| pss(pid)).sum(),
    }
}

fn pss(pid: nix::unistd::Pid) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Waits until the helper holds what it held before; its memory may have grown by
/// the pages that a heap keeps.
fn returns_to(daemon: &Daemon, before: &Held) {
    wait_for("the helper holds no more than before", || {
        let now = held(daemon);
        let same = now.processes == before.processes && now.descriptors == before.descriptors;
        (same && now.memory <= before.memory + 1024).then_some(())
    });
}

fn quiet(daemon: &Daemon) -> Held {
    drop(daemon.client());
    wait_for("no connection is open", || {
        (descendants(daemon.pid()).len() == 2).then(|| held(daemon))
    })
}

/// Others, if there are others here, are served.
fn serves_others(sandbox: &Sandbox, daemon: &Daemon) {
    if sandbox.is_root {
        let (status, _, text) = outcome(daemon.cli_as(ALICE).arg("list"));
        assert_eq!(status, 0, "{text}");
    }
}

pub(crate) fn attack_21_ten_thousand_silent_connections(sandbox: &Sandbox) -> Result<(), Skip> {
    const MANY: u64 = 10_000;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if most < MANY + 500 {
        return Err(Skip(format!(
            "it takes {MANY} descriptors, and a process may have {most}"
        )));
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let daemon = Daemon::start(sandbox);
    let before = quiet(&daemon);
    let mut client = daemon.client();
    let silent: Vec<UnixStream> = (0..MANY)
        .map(|_| UnixStream::connect(&daemon.socket).unwrap())
        .collect();
    serves_others(sandbox, &daemon);
    client.list().unwrap();
    // The user's 16, of which this test has one.
    assert!(descendants(daemon.pid()).len() <= 2 + 2 * 17);
    drop(client);
    drop(silent);
    returns_to(&daemon, &before);
    daemon.client().list().unwrap();
    Ok(())
}

pub(crate) fn attack_21_a_frame_that_stalls(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "request_timeout = \"1s\"");
    let daemon = Daemon::start(sandbox);
    let before = quiet(&daemon);
    let whole = frame::encode(&Request::Status).unwrap();
    // Within the length, after it, within the value.
    for sent in [1, 4, whole.len() - 1] {
        let mut wire = Wire::open(&daemon.socket);
        wire.0.write_all(&whole[..sent]).unwrap();
        serves_others(sandbox, &daemon);
        wire.error(ErrorCode::TimedOut);
        assert!(wire.is_closed());
    }
    let mut wire = Wire::open(&daemon.socket);
    wire.0.write_all(&whole[..4]).unwrap();
    wire.0.write_all(&whole[4..]).unwrap();
    assert!(matches!(wire.reply(), Reply::Status(_)), "whole in time");
    drop(wire);
    returns_to(&daemon, &before);
    Ok(())
}

pub(crate) fn attack_21_a_client_that_never_reads(sandbox: &Sandbox) -> Result<(), Skip> {
    // Neither of them is what ends it.
    limited(
        sandbox,
        "requests_per_second = 1000000\nrequest_timeout = \"10m\"",
    );
    let daemon = Daemon::start(sandbox);
    let before = quiet(&daemon);
    let mut client = daemon.client();
    let mut deaf = Wire::open(&daemon.socket);
    let session = kernel::named(daemon.pid(), "mw-session");
    assert_eq!(session.len(), 2);
    deaf.0.set_nonblocking(true).unwrap();
    let request = frame::encode(&Request::Status).unwrap();
    // Until neither half of the connection takes another byte.
    let mut full = 0;
    wait_for("its session writes to a full socket", || {
        full = match deaf.0.write_all(&request) {
            Ok(()) => 0,
            Err(_) => full + 1,
        };
        client.list().unwrap();
        (full > 50).then_some(())
    });
    serves_others(sandbox, &daemon);
    // Nothing is read, and still its two processes end.
    wait_for("the connection ends", || {
        client.list().unwrap();
        (descendants(daemon.pid()).len() == 4).then_some(())
    });
    drop((client, deaf));
    returns_to(&daemon, &before);
    Ok(())
}

fn half_close(socket: &Path, bytes: &[u8]) -> Wire {
    let mut wire = Wire::open(socket);
    wire.0.write_all(bytes).unwrap();
    wire.0.shutdown(Shutdown::Write).unwrap();
    wire
}

pub(crate) fn attack_21_half_closed(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = Daemon::start(sandbox);
    let before = quiet(&daemon);
    let whole = frame::encode(&Request::Status).unwrap();
    // What was asked is answered.
    let mut wire = half_close(&daemon.socket, &whole);
    assert!(matches!(wire.reply(), Reply::Status(_)));
    assert!(wire.is_closed());
    // Half a question is none.
    let mut wire = half_close(&daemon.socket, &whole[..whole.len() - 1]);
    wire.error(ErrorCode::MalformedFrame);
    assert!(wire.is_closed());
    assert!(half_close(&daemon.socket, b"").is_closed());
    // Before the handshake, too.
    let mut wire = Wire::connect(&daemon.socket);
    wire.0.shutdown(Shutdown::Write).unwrap();
    assert!(wire.is_closed());
    // A client that hears nothing is asked nothing more.
    let mut wire = Wire::connect(&daemon.socket);
    frame::write(&mut wire.0, &Hello::default()).unwrap();
    let welcome = frame::decode(&frame::read(&mut wire.0).unwrap()).unwrap();
    assert!(matches!(welcome, HelloReply::Welcome(_)));
    wire.0.shutdown(Shutdown::Read).unwrap();
    wire.0.write_all(&whole).unwrap();
    wait_for("its connection ends", || {
        (descendants(daemon.pid()).len() == 2).then_some(())
    });
    returns_to(&daemon, &before);
    let mut client: Client = daemon.client();
    client
        .mount(Tmpfs::new(sandbox.path("mnt/a")).unwrap())
        .unwrap();
    Ok(())
}
