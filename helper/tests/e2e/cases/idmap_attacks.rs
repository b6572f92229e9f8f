//! User namespaces in the hands of who made them, of a session, and of a mounter.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::thread;

use mountwarden_client::protocol::{Operation, Reply};
use mountwarden_client::{DenyReason, Detach, ErrorCode, Passing};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{Pid, getegid, geteuid};

use super::confinement::only;
use super::idmaps::{Made, ask, bind, granted, mapped, plain};
use crate::daemon::{Daemon, wait_for};
use crate::honest::{borrowed, directory};
use crate::hostile::{HostileSession, Order, descriptors, others_are_served, send, seqpacket_pair};
use crate::kernel::unchanged;
use crate::sandbox::{ALICE, Sandbox};
use crate::{Skip, roles};

fn order(sandbox: &Sandbox, namespace: &File) -> Operation {
    let passing = Passing::new().idmap(namespace);
    Operation::Mount(passing.describe(bind(sandbox)).unwrap())
}

/// What an order of a bind brings, with what fills a slot.
fn files(sandbox: &Sandbox) -> Vec<OwnedFd> {
    let places = ["mnt", "mnt/a", "src/data", "src/data"];
    places.map(|place| directory(sandbox.path(place))).into()
}

/// A session that was taken over passes a namespace of somebody else, or none.
pub(crate) fn attack_26_another_namespace(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    let namespace = plain(sandbox);
    let order = order(sandbox, &namespace);
    let places = files(sandbox);
    let hostile = HostileSession::take(&daemon)?;
    let with = |namespace: &File| -> Vec<OwnedFd> {
        let mut all = files(sandbox);
        all.push(namespace.try_clone().unwrap().into());
        all
    };
    let own = File::open("/proc/self/ns/user").unwrap();
    let error = hostile.refused(&daemon, &order, &borrowed(&with(&own)))?;
    assert_eq!(
        error.reason,
        Some(DenyReason::NamespaceNotOwned),
        "{error:?}"
    );
    if sandbox.is_root {
        let others = Made::new(roles::command(sandbox, "mapped").uid(ALICE).gid(ALICE));
        others.write("uid_map", "0 0 1");
        others.write("gid_map", "0 0 1");
        let error = hostile.refused(&daemon, &order, &borrowed(&with(&others.open())))?;
        assert_eq!(
            error.reason,
            Some(DenyReason::NamespaceNotOwned),
            "{error:?}"
        );
    }
    let uid = geteuid().as_raw() + 70_000;
    let group = getegid();
    let group = format!("{group} {group} 1");
    let beyond = mapped(sandbox, &format!("{uid} {} 1", geteuid()), &group);
    let error = hostile.refused(&daemon, &order, &borrowed(&with(&beyond)))?;
    assert_eq!(error.reason, Some(DenyReason::IdmapNotGranted), "{error:?}");
    let reply = hostile
        .channel
        .perform(&order, &borrowed(&with(&namespace)));
    assert!(matches!(reply, Reply::Mounted(_)), "{reply:?}");
    // Without one, or with two.
    let one: BorrowedFd<'_> = namespace.as_fd();
    let places = borrowed(&places);
    for files in [
        vec![],
        places[..3].to_vec(),
        places.clone(),
        [&places[..], &[one, one]].concat(),
    ] {
        let hostile = HostileSession::take(&daemon)?;
        unchanged(|| hostile.channel.send(&Order::Perform(order.clone()), &files));
        hostile.ended(&daemon, &["the session broke the order protocol"]);
    }
    others_are_served(&daemon);
    Ok(())
}

/// Nobody maps without asking: what brings a namespace and does not say so ends there.
pub(crate) fn attack_22_a_namespace_that_nobody_asked_for(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "detached = true")?;
    let daemon = Daemon::start(sandbox);
    let mut all = files(sandbox);
    all.push(plain(sandbox).into());
    let detach = Detach::new(sandbox.path("src/data")).unwrap();
    for operation in [bind(sandbox).into(), detach.into()] {
        let hostile = HostileSession::take(&daemon)?;
        let order = Order::Perform(operation);
        unchanged(|| hostile.channel.send(&order, &borrowed(&all)));
        hostile.ended(&daemon, &["the session broke the order protocol"]);
    }
    Ok(())
}

/// What a mounter that was taken over could ask the locker about namespaces: what they
/// map, of those that it is sent.
pub(crate) fn attack_26_what_a_locker_is_asked(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    let _client = daemon.client();
    let held = descriptors(only(&daemon, "mw-mounter"))?;
    let locker = &held[&29];
    let (answers, answer) = seqpacket_pair();
    let ask = |number: u64, owner: u64, what: u64, file: &OwnedFd| {
        let message = [number, owner, what].map(u64::to_le_bytes).concat();
        send(locker, &message, &[file.as_fd(), answer.as_fd()]).unwrap();
        let mut buffer = [0; 4096];
        let length = recv(answers.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        let (words, _) = buffer.as_chunks::<8>();
        assert_eq!(u64::from_le_bytes(words[0]), number);
        (u64::from_le_bytes(words[1]), buffer[16..length].to_vec())
    };
    let uid = geteuid().as_raw();
    let namespace: OwnedFd = plain(sandbox).into();
    unchanged(|| {
        let (why, maps) = ask(1, uid.into(), 1, &namespace);
        let maps = String::from_utf8(maps).unwrap();
        let numbers: Vec<&str> = maps.split_whitespace().take(2).collect();
        assert_eq!((why, numbers), (0, vec![&uid.to_string()[..]; 2]), "{maps}");
        assert_eq!(ask(2, u64::from(uid) + 1, 1, &namespace), (203, vec![]));
        assert_eq!(ask(3, u64::MAX, 1, &namespace), (203, vec![]));
        let file: OwnedFd = directory(sandbox.path(""));
        assert_eq!(ask(4, uid.into(), 1, &file), (200, vec![]));
        // To lock a mount is not granted, and of nothing else there is any.
        for what in [0, 2, u64::MAX] {
            let message = [5, 0, what].map(u64::to_le_bytes).concat();
            send(locker, &message, &[file.as_fd(), answer.as_fd()]).unwrap();
        }
        assert_eq!(ask(7, uid.into(), 1, &file), (200, vec![]));
    });
    others_are_served(&daemon);
    Ok(())
}

/// Those that are there in a moment in which others end.
fn grandchildren(of: Pid) -> impl Iterator<Item = Pid> {
    let children = |pid: Pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let text = text.unwrap_or_default();
        let pids: Vec<Pid> = text
            .split_whitespace()
            .map(|number| Pid::from_raw(number.parse().unwrap()))
            .collect();
        pids
    };
    children(of).into_iter().flat_map(children)
}

/// Who made a namespace may stop the process that is in it. Then it is killed, and whoever
/// else asks has an answer meanwhile.
pub(crate) fn attack_31_who_enters_is_stopped(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    let locker = only(&daemon, "mw-locker");
    let namespace = plain(sandbox);
    let theirs = fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
    let is_in_it =
        |pid: &Pid| fs::read_link(format!("/proc/{pid}/ns/user")).ok().as_ref() == Some(&theirs);
    let mut client = daemon.client();
    let mut other = daemon.client();
    let mut attempts = 0;
    loop {
        let (asked, stopped) = thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&mut client, bind(sandbox), &namespace));
            let mut stopped = false;
            while !asked.is_finished() && !stopped {
                if let Some(pid) = grandchildren(locker).find(is_in_it) {
                    stopped = kill(pid, Signal::SIGSTOP).is_ok();
                }
            }
            if stopped {
                let place = sandbox.path("mnt/b");
                let elsewhere = mountwarden_client::Bind::new(sandbox.path("src/data"), place);
                let made = ask(&mut other, elsewhere.unwrap(), &namespace).unwrap();
                other.unmount(&made).unwrap();
            }
            (asked.join().unwrap(), stopped)
        });
        match asked {
            Ok(made) => drop(client.unmount(&made).unwrap()),
            Err(error) => {
                assert!(stopped, "{error}");
                assert_eq!(error.errno(), Some(libc::EINTR), "{error}");
                assert_eq!(error.reply().unwrap().code, ErrorCode::Failed);
                break;
            }
        }
        attempts += 1;
        if attempts == 2000 {
            return Err(Skip("none was stopped in time in 2000 rounds".to_owned()));
        }
    }
    // Nothing is left of it.
    wait_for("the children end", || {
        (grandchildren(locker).count() == 0).then_some(())
    });
    let made = ask(&mut client, bind(sandbox), &namespace).unwrap();
    client.unmount(&made).unwrap();
    Ok(())
}
