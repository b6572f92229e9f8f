//! Batches that are cut short: whoever is killed, and whatever hangs.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use mountwarden_client::protocol::{self, Request};
use mountwarden_client::{Batch, ErrorCode, ErrorKind};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};

use super::batches::{bind, end, tmpfs, tree};
use super::between::wait_for_lock;
use super::confinement::only;
use super::leases::quiet;
use super::limits::limited;
use crate::Skip;
use crate::daemon::{Daemon, wait_for};
use crate::fuse::{self, Server};
use crate::kernel::{self, named, unchanged};
use crate::sandbox::Sandbox;
use crate::wire::Wire;

/// How many mounts of it are made before the one that hangs.
const MADE: usize = 4;

/// A directory whose file system never answers, as a source. While the returned file is
/// open, whoever looks into it waits.
fn hanging(sandbox: &Sandbox) -> Result<File, Skip> {
    let device = fuse::device()?;
    fuse::attach(&device, &sandbox.make_dir("src/hangs"), true)?;
    Ok(device)
}

/// The tree, and last a mount whose source hangs.
fn that_hangs(sandbox: &Sandbox) -> Batch {
    let source = sandbox.path("src/hangs/inside");
    tree(sandbox).mount(bind(source, sandbox.path("mnt/b")))
}

fn request(batch: &Batch) -> Request {
    let mounts = batch.mounts().to_vec();
    Request::Apply(protocol::Batch::try_from(mounts).unwrap())
}

/// Waits until so many mounts are there as never were before.
fn wait_for_mounts(before: usize, more: usize) {
    wait_for("the first mounts are there", || {
        (kernel::table().len() == before + more).then_some(())
    });
}

/// Waits until nobody is connected and nothing is being ended. Then all is taken back.
fn taken_back(daemon: &Daemon, before: &[kernel::Line]) {
    quiet(daemon);
    assert_eq!(kernel::table(), before);
}

pub(crate) fn attack_30_whoever_is_killed(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let _hangs = hanging(sandbox)?;
    let daemon = Daemon::start(sandbox);
    let before = kernel::table();
    for role in ["mw-session", "mw-mounter"] {
        let mut wire = Wire::open(&daemon.socket);
        let victim = only(&daemon, role);
        protocol::frame::write(&mut wire.0, &request(&that_hangs(sandbox))).unwrap();
        wait_for_mounts(before.len(), MADE);
        kill(victim, Signal::SIGKILL).unwrap();
        if role == "mw-mounter" {
            // Its session waits for the source, and would until the deadline, or has ended.
            for session in named(daemon.pid(), "mw-session") {
                let _ = kill(session, Signal::SIGKILL);
            }
        }
        assert!(wire.is_closed(), "nobody says that it was done");
        taken_back(&daemon, &before);
        let lines = daemon.audit();
        assert!(lines.iter().all(|line| line["event"] != "batch"));
        let ends = lines.iter().filter(|line| line["event"] == "lease-end");
        // What went with the mount beneath it has no line of its own.
        let whys: Vec<_> = ends.map(|line| line["why"].clone()).collect();
        assert!(!whys.is_empty());
        assert!(whys.iter().all(|why| why == "its batch was taken back"));
    }
    let mut client = daemon.client();
    let applied = client.apply(tree(sandbox)).unwrap();
    end(&mut client, &applied);
    Ok(())
}

/// At each moment from the request to some time after the reply: all of it or nothing.
pub(crate) fn attack_30_killed_at_any_moment(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let before = kernel::table();
    let mut whole = 0;
    for round in 0..60 {
        let mut wire = Wire::open(&daemon.socket);
        let role = ["mw-session", "mw-mounter"][round % 2];
        let victim = only(&daemon, role);
        protocol::frame::write(&mut wire.0, &request(&tree(sandbox))).unwrap();
        std::thread::sleep(Duration::from_micros(300) * u32::try_from(round / 2).unwrap());
        kill(victim, Signal::SIGKILL).unwrap();
        quiet(&daemon);
        let now = kernel::table();
        if now != before {
            assert_eq!(now.len(), before.len() + MADE, "a part of it: {now:?}");
            assert_eq!(now[..before.len()], before);
            let mut client = daemon.client();
            let applied = client.apply(tree(sandbox)).unwrap();
            end(&mut client, &applied);
            drop(client);
            taken_back(&daemon, &before);
            whole += 1;
        }
    }
    println!("RACE: {whole} of 60 batches were whole");
    Ok(())
}

/// A client that is gone before all are there gets nothing.
pub(crate) fn attack_30_a_client_that_has_gone(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let daemon = Daemon::start(sandbox);
    let leaf = sandbox.path("mnt/held/leaf");
    let batch = tree(sandbox).mount(tmpfs(&leaf));
    let last = batch.clone().mount(tmpfs(sandbox.path("mnt/b")));
    for batch in [batch, last] {
        let server = Server::start(&sandbox.make_dir("mnt/held"))?;
        let before = kernel::table();
        let mut wire = Wire::open(&daemon.socket);
        let mounter = only(&daemon, "mw-mounter");
        server.hold(|hold| {
            protocol::frame::write(&mut wire.0, &request(&batch)).unwrap();
            wait_for_lock(mounter);
            wait_for_mounts(before.len(), MADE);
            drop(wire);
            hold.let_go();
        });
        taken_back(&daemon, &before);
        assert!(daemon.audit().iter().all(|line| line["result"] != "kept"));
        drop(server);
        umount2(&sandbox.path("mnt/held"), MntFlags::MNT_DETACH).unwrap();
    }
    Ok(())
}

/// The batch has one deadline, that of a request.
pub(crate) fn attack_31_a_source_that_hangs(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let _hangs = hanging(sandbox)?;
    limited(sandbox, "request_timeout = \"@SECOND@\"");
    let daemon = Daemon::start(sandbox);
    let before = kernel::table();
    let mut client = daemon.client();
    let error = client.apply(that_hangs(sandbox)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(error.reply().unwrap().code, ErrorCode::TimedOut);
    taken_back(&daemon, &before);
    let applied = client.apply(tree(sandbox)).unwrap();
    end(&mut client, &applied);
    Ok(())
}

pub(crate) fn a_stop_takes_it_back(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let _hangs = hanging(sandbox)?;
    unchanged(|| {
        for stop in [true, false] {
            let mut daemon = Daemon::start(sandbox);
            let before = kernel::table().len();
            let mut wire = Wire::open(&daemon.socket);
            protocol::frame::write(&mut wire.0, &request(&that_hangs(sandbox))).unwrap();
            wait_for_mounts(before, MADE);
            if stop {
                assert!(daemon.stop().success());
            } else {
                kill(only(&daemon, "mw-gate"), Signal::SIGKILL).unwrap();
                assert_eq!(daemon.end().code(), Some(1));
            }
            assert_eq!(kernel::table().len(), before, "before the helper has ended");
        }
    });
    Ok(())
}

/// A helper that is killed as a whole takes nothing back. Who has the places granted can end
/// what is there, or apply the batch again.
pub(crate) fn a_killed_helper_leaves_a_part(sandbox: &Sandbox) -> Result<(), Skip> {
    kernel::needs_unique_ids()?;
    let hangs = hanging(sandbox)?;
    let daemon = Daemon::start(sandbox);
    let before = kernel::table().len();
    let mut wire = Wire::open(&daemon.socket);
    protocol::frame::write(&mut wire.0, &request(&that_hangs(sandbox))).unwrap();
    wait_for_mounts(before, MADE);
    daemon.kill_all();
    assert_eq!(kernel::table().len(), before + MADE);
    drop(hangs);
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    assert_eq!(client.list().unwrap().len(), MADE);
    let applied = client.apply(tree(sandbox)).unwrap();
    end(&mut client, &applied);
    let is_free = |place: &Path| kernel::at(place).is_empty();
    assert!(is_free(&sandbox.path("mnt/a")));
    Ok(())
}
