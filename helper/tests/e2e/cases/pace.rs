//! `requests_per_second`: who asks for more waits, and nobody else does.

use std::time::{Duration, Instant};

use mountwarden_client::protocol::{Operation, Reply, Request};
use mountwarden_client::{Client, ErrorCode, ErrorKind, Tmpfs};
use nix::mount::{MsFlags, mount};

use super::limits::limited;
use crate::Skip;
use crate::daemon::{Daemon, outcome, wait_for};
use crate::kernel::unchanged;
use crate::sandbox::{ALICE, Sandbox};
use crate::wire::{Wire, body};

/// A request whose target is spelled as no helper accepts it.
fn misspelled(sandbox: &Sandbox) -> Vec<u8> {
    let request = Request::Perform(Operation::Mount(
        Tmpfs::new(sandbox.path("mnt/a")).unwrap().into(),
    ));
    let mut bytes = body(&request);
    let at = bytes.windows(4).position(|part| part == b"/mnt").unwrap();
    bytes[at + 1] = b'/';
    bytes
}

type Ask<'a> = &'a dyn Fn(&mut Client);

fn took(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

pub(crate) fn one_users_requests(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "requests_per_second = 40");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let delayed = |client: &mut Client| client.status().unwrap().counters.delayed;
    assert_eq!(delayed(&mut client), 0, "a few requests wait for nothing");
    let inside = || Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let outside = || Tmpfs::new(sandbox.path("src/data")).unwrap();
    // Each takes a fortieth of a second, whichever half answers it.
    let second = Duration::from_secs(1);
    let kinds: [(&str, Ask<'_>); 5] = [
        ("explain", &|client| drop(client.explain(inside()).unwrap())),
        ("list", &|client| drop(client.list().unwrap())),
        ("status", &|client| drop(client.status().unwrap())),
        ("denied", &|client| {
            let error = unchanged(|| client.mount(outside()).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        }),
        ("allowed", &|client| drop(client.mount(inside()).unwrap())),
    ];
    for (what, request) in kinds {
        // What may be left from before is a second's worth.
        let time = took(|| (0..81).for_each(|_| request(&mut client)));
        assert!(time >= second, "{what}: {time:?}");
    }
    let misspelled = misspelled(sandbox);
    let mut wire = Wire::open(&daemon.socket);
    let time = took(|| {
        for _ in 0..81 {
            wire.send_body(&misspelled);
            wire.error(ErrorCode::InvalidRequest);
        }
    });
    assert!(time >= second, "misspelled: {time:?}");
    let before = delayed(&mut client);
    assert!(before > 0);
    if sandbox.is_root {
        // This user would wait; another does not, and so adds nothing.
        let status = || {
            let (code, text, _) = outcome(daemon.cli_as(ALICE).args(["--json", "status"]));
            assert_eq!(code, 0, "{text}");
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            status["counters"]["delayed"].as_u64().unwrap()
        };
        assert_eq!((status(), status()), (before, before));
    }
    Ok(())
}

pub(crate) fn one_budget_for_all_connections(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "requests_per_second = 100");
    let daemon = Daemon::start(sandbox);
    let mut clients: Vec<Client> = (0..4).map(|_| daemon.client()).collect();
    let time = took(|| {
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| {
                    for _ in 0..75 {
                        client.status().unwrap();
                    }
                });
            }
        });
    });
    assert!(time >= Duration::from_secs(2), "{time:?}");
    // A new connection brings no new budget: it counts itself.
    drop(clients);
    let time = took(|| (0..20).for_each(|_| drop(daemon.client())));
    assert!(time >= Duration::from_secs(1), "{time:?}");
    Ok(())
}

pub(crate) fn who_would_wait_too_long(sandbox: &Sandbox) -> Result<(), Skip> {
    limited(sandbox, "requests_per_second = 1\nrequest_timeout = \"1s\"");
    let daemon = Daemon::start(sandbox);
    let mut wire = Wire::open(&daemon.socket);
    let mount = Request::Perform(Operation::Mount(
        Tmpfs::new(sandbox.path("mnt/a")).unwrap().into(),
    ));
    let refused = |reply: Reply| match reply {
        Reply::Error(error) => {
            assert_eq!(error.code, ErrorCode::LimitReached, "{error:?}");
            assert!(error.message.contains("requests_per_second"), "{error:?}");
        }
        other => panic!("not refused: {other:?}"),
    };
    let list = Request::List { after: None };
    for request in [&mount, &list, &Request::Status] {
        unchanged(|| refused(wire.ask(request)));
        // The budget is full again within a second, and is emptied again here.
        wait_for("it is served", || {
            matches!(wire.ask(&Request::Status), Reply::Status(_)).then_some(())
        });
    }
    wire.send_body(&misspelled(sandbox));
    refused(wire.reply());
    assert_eq!(
        daemon.audit(),
        Vec::<serde_json::Value>::new(),
        "no flood of lines"
    );
    // Connections wait too, for as long as a handshake may take.
    let error = (0..10)
        .find_map(|_| Client::connect_to(&daemon.socket).err())
        .or_else(|| {
            std::thread::scope(|scope| {
                let many: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| Client::connect_to(&daemon.socket)))
                    .collect();
                many.into_iter()
                    .find_map(|connecting| connecting.join().unwrap().err())
            })
        })
        .expect("one is refused");
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("requests_per_second"), "{error}");
    let made = wait_for("the mount is made", || match wire.ask(&mount) {
        Reply::Mounted(made) => Some(made),
        reply => {
            refused(reply);
            None
        }
    });
    assert_eq!(daemon.last_audit()["id"], u64::from(made.mount.id));
    Ok(())
}

/// What is linear in the mount table is no way round it, in either half.
pub(crate) fn walks_of_the_table_count(sandbox: &Sandbox) -> Result<(), Skip> {
    let elsewhere = sandbox.make_dir("elsewhere");
    for _ in 0..900 {
        let (from, none) = (Some("/proc/self"), None::<&str>);
        mount(from, &elsewhere, none, MsFlags::MS_BIND, none).unwrap();
    }
    crate::sandbox::mount_tmpfs(&sandbox.make_dir("mnt/0"));
    limited(sandbox, "requests_per_second = 10\nmounts_per_user = 1");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let time = took(|| (0..5).for_each(|_| drop(client.list().unwrap())));
    assert!(time >= Duration::from_secs(3), "lists: {time:?}");
    let time = took(|| {
        for _ in 0..5 {
            let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
            let error = unchanged(|| client.mount(tmpfs).unwrap_err());
            assert!(error.to_string().contains("mounts_per_user"), "{error}");
        }
    });
    assert!(time >= Duration::from_secs(3), "counts: {time:?}");
    Ok(())
}
