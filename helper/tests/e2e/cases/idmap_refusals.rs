//! ID-mapped mounts that are refused: each for its own reason, beside what is nearest to it
//! and allowed.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use mountwarden_client::protocol::{Operation, Passed, Reply};
use mountwarden_client::{
    Bind, DenyReason, Detach, ErrorCode, ErrorKind, Explanation, Outcome, Passing, Tmpfs,
};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::unistd::{getegid, geteuid};

use super::idmaps::{FIRST, Made, ask, bind, command, granted, mapped, plain, policy};
use super::passed::passing;
use crate::Skip;
use crate::daemon::Daemon;
use crate::kernel::unchanged;
use crate::sandbox::{ALICE, Sandbox};
use crate::wire::Wire;

/// Why a namespace is not taken.
struct Refusal {
    what: &'static str,
    namespace: OwnedFd,
    code: ErrorCode,
    reason: Option<DenyReason>,
    words: String,
}

impl Refusal {
    fn of(
        what: &'static str,
        namespace: impl Into<OwnedFd>,
        code: ErrorCode,
        words: impl Into<String>,
    ) -> Self {
        Self {
            what,
            namespace: namespace.into(),
            code,
            reason: None,
            words: words.into(),
        }
    }

    fn denied(
        what: &'static str,
        namespace: impl Into<OwnedFd>,
        reason: DenyReason,
        words: impl Into<String>,
    ) -> Self {
        Self {
            reason: Some(reason),
            ..Self::of(what, namespace, ErrorCode::Denied, words)
        }
    }
}

/// What is no namespace of this user's at all.
fn strange(sandbox: &Sandbox) -> Vec<Refusal> {
    let open = |path: &str| File::open(path).unwrap();
    let none = "is no namespace";
    let other = "is a namespace of another kind";
    let wrong = ErrorCode::WrongType;
    let memory = rustix::fs::memfd_create("map", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let unopened = rustix::fs::open(
        "/proc/self/ns/user",
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    );
    vec![
        Refusal::of("a file", open("/proc/self/uid_map"), wrong, none),
        Refusal::of(
            "a directory",
            File::open(sandbox.path("")).unwrap(),
            wrong,
            none,
        ),
        Refusal::of("a socket", UnixStream::pair().unwrap().0, wrong, none),
        Refusal::of("memory", memory, wrong, none),
        Refusal::of("mounts", open("/proc/self/ns/mnt"), wrong, other),
        Refusal::of("network", open("/proc/self/ns/net"), wrong, other),
        Refusal::of("processes", open("/proc/self/ns/pid"), wrong, other),
        Refusal::of(
            "unopened",
            unopened.unwrap(),
            ErrorCode::Failed,
            "cannot examine the user namespace",
        ),
        Refusal::denied(
            "the helper's",
            open("/proc/self/ns/user"),
            DenyReason::NamespaceNotOwned,
            "is the one that the helper itself is in",
        ),
    ]
}

/// What is a user namespace that does not fit.
fn unfit(sandbox: &Sandbox) -> Vec<Refusal> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let (own, group) = (format!("{uid} {uid} 1"), format!("{gid} {gid} 1"));
    let unmapped = Made::new(&mut command(sandbox));
    let half = Made::new(&mut command(sandbox));
    half.write("uid_map", &own);
    let mut nested = Made::new(&mut command(sandbox));
    nested.write("uid_map", &own);
    nested.write("gid_map", &group);
    nested.nest();
    let (higher, highest) = (uid + 70_000, gid + 70_000);
    let unsupported = ErrorCode::Unsupported;
    let not_granted = DenyReason::IdmapNotGranted;
    let words = "has no uid_map or no gid_map yet";
    vec![
        Refusal::of("no maps", unmapped.open(), unsupported, words),
        Refusal::of("one map", half.open(), unsupported, words),
        Refusal::of(
            "nested",
            nested.open(),
            unsupported,
            "was not made in the one that the helper is in",
        ),
        Refusal::denied(
            "another user inside",
            mapped(sandbox, &format!("{higher} {uid} 1"), &group),
            not_granted,
            format!("maps the users {higher}:{uid}:1 (inside:outside:count)"),
        ),
        Refusal::denied(
            "another group inside",
            mapped(sandbox, &own, &format!("{highest} {gid} 1")),
            not_granted,
            format!("maps the groups {highest}:{gid}:1 (inside:outside:count)"),
        ),
    ]
}

/// What takes root to make.
fn of_root(sandbox: &Sandbox) -> Vec<Refusal> {
    let others = Made::new(command(sandbox).uid(ALICE).gid(ALICE));
    others.write("uid_map", "0 0 1");
    others.write("gid_map", "0 0 1");
    let many: Vec<String> = (0..32)
        .map(|id| format!("{id} {} 1\n", FIRST + id))
        .collect();
    vec![
        Refusal::denied(
            "another user's",
            others.open(),
            DenyReason::NamespaceNotOwned,
            "was made by another user",
        ),
        Refusal::of(
            "32 ranges",
            mapped(sandbox, &many.concat(), "0 0 1"),
            ErrorCode::Unsupported,
            "maps more than 31 ranges",
        ),
        Refusal::denied(
            "one id more than is granted",
            mapped(sandbox, &format!("0 {FIRST} 65537"), "0 0 1"),
            DenyReason::IdmapNotGranted,
            format!("maps the users 0:{FIRST}:65537 "),
        ),
        Refusal::denied(
            "root's as somebody else's",
            mapped(sandbox, "0 1000 1", "0 0 1"),
            DenyReason::IdmapNotGranted,
            "maps the users 0:1000:1 ",
        ),
    ]
}

pub(crate) fn attack_36_refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "detached = true")?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let mut all = strange(sandbox);
    all.extend(unfit(sandbox));
    if sandbox.is_root {
        all.extend(of_root(sandbox));
    }
    for refusal in all {
        let Refusal { what, words, .. } = &refusal;
        let mounted = unchanged(|| ask(&mut client, bind(sandbox), &refusal.namespace));
        let line = daemon.last_audit();
        let detach = Detach::new(sandbox.path("src/data")).unwrap();
        let detached = unchanged(|| client.detach_mapped(detach, &refusal.namespace));
        for error in [mounted.unwrap_err(), detached.unwrap_err()] {
            let reply = error.reply().expect(what);
            assert_eq!(
                (reply.code, reply.reason),
                (refusal.code, refusal.reason),
                "{what}: {error}"
            );
            assert!(reply.message.contains(words), "{what}: {error}");
        }
        assert_eq!(line["code"], refusal.code.name(), "{what}: {line}");
        assert_eq!(
            line["reason"].as_str(),
            refusal.reason.map(DenyReason::name),
            "{line}"
        );
        assert_eq!(line["passed"], "idmap", "{what}: {line}");
    }
    // The nearest to all of them.
    ask(&mut client, bind(sandbox), &plain(sandbox)).unwrap();
    Ok(())
}

/// Who has no such grant, and what is not bound.
pub(crate) fn only_where_granted(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let plainly = "\n[[grant]]\nname = \"plain\"\nusers = [@UID@]\ntarget = [\"@DIR@/plain\"]\n  \
                   [grant.bind]\n  source = [\"@DIR@/src\"]\n";
    sandbox.policy(&format!("{}{plainly}", policy("")));
    let target = sandbox.make_dir("plain/a");
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let namespace = plain(sandbox);
    let bound = Bind::new(sandbox.path("src/data"), target).unwrap();
    let passing_it = Passing::new().idmap(&namespace);
    let asked: Operation = Operation::Mount(passing_it.describe(bound.clone()).unwrap());
    let Explanation::Denied(why) = client.explain(asked).unwrap() else {
        panic!("allowed")
    };
    let error = unchanged(|| ask(&mut client, bound.clone(), &namespace)).unwrap_err();
    assert_eq!(error.reply(), Some(&why));
    assert_eq!(error.reason(), Some(DenyReason::IdmapNotGranted), "{error}");
    client.mount(bound).unwrap();
    // Other kinds, which the library cannot ask for.
    let mut wire = Wire::open(&daemon.socket);
    let tmpfs = Tmpfs::new(sandbox.path("mnt/a")).unwrap();
    let error = unchanged(|| {
        wire.send_request(
            &passing(tmpfs.clone(), Passed::ID_MAP),
            &[namespace.as_fd()],
        );
        wire.error(ErrorCode::Denied)
    });
    assert_eq!(error.reason, Some(DenyReason::IdmapNotGranted), "{error:?}");
    assert!(error.message.contains("only a bind"), "{error:?}");
    wire.send_request(&passing(tmpfs, Passed::empty()), &[]);
    assert!(matches!(wire.reply(), Reply::Mounted(_)));
    Ok(())
}

/// A file system that maps no ids, and one that does already.
pub(crate) fn what_the_kernel_does_not_map(sandbox: &Sandbox) -> Result<(), Skip> {
    granted(sandbox, "")?;
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let namespace = plain(sandbox);
    let plain_one = sandbox.path("src/other");
    let none = None::<&str>;
    mount(
        Some("ram"),
        &plain_one,
        Some("ramfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    let of = |source: &str| Bind::new(sandbox.path(source), sandbox.path("mnt/a")).unwrap();
    let error = unchanged(|| ask(&mut client, of("src/other"), &namespace)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    assert!(
        error.to_string().contains("maps no ids on this kernel"),
        "{error}"
    );
    assert_eq!(daemon.last_audit()["result"], "error");
    // All of a recursive one, or nothing.
    let all = Bind::new(sandbox.path("src"), sandbox.path("mnt/b")).unwrap();
    let error = unchanged(|| ask(&mut client, all.clone().recursive(), &namespace)).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    let made = ask(&mut client, all, &namespace).unwrap();
    client.unmount(&made).unwrap();
    // One that is mapped already.
    let there = sandbox.make_dir("src/mapped");
    let first = ask(&mut client, of("src/data"), &namespace).unwrap();
    mount(
        Some(&sandbox.path("mnt/a")),
        &there,
        none,
        MsFlags::MS_BIND,
        none,
    )
    .unwrap();
    client.unmount(&first).unwrap();
    let error = unchanged(|| ask(&mut client, of("src/mapped"), &namespace)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("ID-mapped already"), "{error}");
    // Without another map it is what its source is, each time.
    for outcome in [Outcome::Mounted, Outcome::AlreadyMounted] {
        assert_eq!(client.mount(of("src/mapped")).unwrap().outcome, outcome);
    }
    Ok(())
}
