//! What is printed when it worked, and what was asked for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use mountwarden_client::protocol::{
    AppliedEntry, Kind, LeftEntry, Lift, ListPage, Mount, MountOptions, Move, NotApplied,
    Operation, Passed, ProbeAnswer, Probed, Propagation, Remount, Reply, Request, Unmount,
};
use mountwarden_client::{
    AbsPath, DenyReason, DeviceNumber, ErrorCode, ErrorReply, Explanation, MountAttributes,
    MountInfo, Outcome, TmpfsInodes, TmpfsLimits, TmpfsMode, TmpfsSize,
};
use serde_json::json;

use super::run::{answered, scripted};
use crate::support::{answering, id, info, mounted, path, status, unmounted};

const MOUNT: [&str; 3] = ["mount", "tmpfs", "/run/vms/7/scratch"];

fn json_words<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--json"];
    all.extend(words);
    all
}

#[test]
fn a_mount_is_told() {
    for (outcome, name, text) in [
        (
            Outcome::Mounted,
            "mounted",
            "Mounted tmpfs at /run/vms/7/scratch (rw,nosuid,nodev, id 77)\n",
        ),
        (
            Outcome::AlreadyMounted,
            "already-mounted",
            "Already mounted: tmpfs at /run/vms/7/scratch (rw,nosuid,nodev, id 77)\n",
        ),
    ] {
        let ended = answered(&mounted(outcome), &MOUNT);
        assert_eq!(ended.stdout, text);
        assert_eq!(ended.stderr, "");
        assert_eq!(ended.status, 0);

        let ended = answered(&mounted(outcome), &json_words(&MOUNT));
        assert_eq!(ended.status, 0);
        assert_eq!(
            ended.json(),
            json!({
                "result": name, "id": 77, "target": "/run/vms/7/scratch",
                "filesystem": "tmpfs", "root": "/", "flags": ["nosuid", "nodev"], "device": "0:41",
            })
        );
    }
}

#[test]
fn an_unmount_is_told() {
    let words = ["unmount", "/run/vms/7/scratch"];
    let ended = answered(&unmounted(), &words);
    assert_eq!(ended.stdout, "Unmounted /run/vms/7/scratch (id 77)\n");
    assert_eq!(ended.status, 0);
    let ended = answered(&unmounted(), &json_words(&words));
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.json(),
        json!({"result": "unmounted", "id": 77, "target": "/run/vms/7/scratch"})
    );
}

#[test]
fn a_probe_is_told() {
    let reply = |answer| {
        Reply::Probed(Probed {
            target: path("/b"),
            id: (answer != ProbeAnswer::Absent).then(|| id(77)),
            answer,
        })
    };
    let timed_out = Reply::Error(ErrorReply::new(ErrorCode::TimedOut, "too long"));
    for (reply, status, name, text) in [
        (
            reply(ProbeAnswer::Alive),
            0,
            "alive",
            "Alive: the file system at /b (id 77) answers",
        ),
        (
            reply(ProbeAnswer::Stale { errno: 107 }),
            8,
            "stale",
            "Stale: the file system at /b (id 77) fails: Transport endpoint is not connected",
        ),
        (
            timed_out,
            8,
            "hung",
            "Hung: the file system at /b did not answer within ",
        ),
        (
            reply(ProbeAnswer::Private),
            11,
            "private",
            "Private: the file system at /b (id 77) answers the helper's user nothing",
        ),
        (
            reply(ProbeAnswer::Absent),
            5,
            "absent",
            "Absent: nothing is mounted at /b",
        ),
    ] {
        let ended = answered(&reply, &["probe", "/b"]);
        assert_eq!((ended.status, &ended.stderr[..]), (status, ""));
        assert!(ended.stdout.starts_with(text), "{}", ended.stdout);
        let json = answered(&reply, &["--json", "probe", "/b/", "--timeout", "2"]).json();
        assert_eq!(json["result"], name);
        assert_eq!(json["target"], "/b");
        assert_eq!(json["errno"].as_i64(), (name == "stale").then_some(107));
        assert_eq!(json["waited_ms"].is_u64(), name == "hung");
        assert_eq!(json["id"].is_null(), ["hung", "absent"].contains(&name));
    }
}

/// A file with a batch of two.
fn batch_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[[mount]]\ntarget = \"/a\"\ntmpfs = {}\n\
                [[mount]]\ntarget = \"/a/b\"\nbind = { source = \"/srv\" }\n";
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_batch_is_told() {
    let file = batch_file();
    let name = file.path().to_str().unwrap();
    let entry = |outcome, number| AppliedEntry {
        outcome,
        id: id(number),
        attributes: MountAttributes::NO_DEV,
    };
    let made = entry(Outcome::Mounted, 77);
    let applied = Reply::Applied(vec![made, entry(Outcome::AlreadyMounted, 78)]);
    let ended = answered(&applied, &["apply", name]);
    assert_eq!((ended.status, &ended.stderr[..]), (0, ""));
    assert_eq!(
        ended.stdout,
        "Mounted /a (rw,nodev, id 77)\nAlready mounted: /a/b (rw,nodev, id 78)\n"
    );
    assert_eq!(
        answered(&applied, &["--json", "apply", name]).json(),
        json!({"result": "applied", "mounts": [
            {"result": "mounted", "id": 77, "target": "/a", "flags": ["nodev"]},
            {"result": "already-mounted", "id": 78, "target": "/a/b", "flags": ["nodev"]},
        ]})
    );
    let failed = Reply::NotApplied(NotApplied {
        entry: 1,
        error: ErrorReply::new(ErrorCode::Busy, "taken").at(&path("/a/b")),
        left: vec![LeftEntry {
            entry: 0,
            id: id(77),
        }],
    });
    let ended = answered(&failed, &["apply", name]);
    assert_eq!((ended.status, &ended.stdout[..]), (4, ""));
    assert_eq!(
        ended.stderr,
        "error: mount[1]: /a/b: taken; the mount 77 at /a could not be taken back\n"
    );
    let error = &answered(&failed, &["--json", "apply", name]).json_error()["error"];
    assert_eq!(
        (&error["code"], &error["entry"]),
        (&json!("busy"), &json!(1))
    );
    assert_eq!(error["left"], json!([{"id": 77, "target": "/a"}]));
}

#[test]
fn a_batch_is_explained_mount_by_mount() {
    let file = batch_file();
    let name = file.path().to_str().unwrap();
    let allowed = Reply::Explained(Explanation::Allowed {
        grant: "g".to_owned(),
        attributes: MountAttributes::empty(),
        tmpfs: None,
    });
    let denied = ErrorReply::new(ErrorCode::Denied, "no");
    let denied = Reply::Explained(Explanation::Denied(denied));
    for (last, status, word) in [(&allowed, 0, "allowed"), (&denied, 3, "denied")] {
        let script = || vec![answering(&[allowed.clone(), last.clone()])];
        let (ended, log) = scripted(script(), &["--json", "apply", "--explain", name]);
        assert_eq!((ended.status, &ended.stderr[..]), (status, ""));
        let json = ended.json();
        assert_eq!(
            (&json[0]["result"], &json[1]["result"]),
            (&json!("allowed"), &json!(word))
        );
        let asked = |request: &Request| matches!(request, Request::Explain(Operation::Mount(_)));
        assert!(log[0].len() == 2 && log[0].iter().all(asked), "{log:?}");
        let (ended, _) = scripted(script(), &["apply", "--explain", name]);
        assert_eq!((ended.status, ended.stdout.lines().count()), (status, 2));
    }
}

#[test]
fn a_batch_that_is_not_understood_asks_no_helper() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[mount]]\ntarget = \"/a\"\nro = true\n").unwrap();
    let name = file.path().to_str().unwrap();
    let (ended, log) = scripted(Vec::new(), &["apply", name]);
    assert_eq!((ended.status, &ended.stdout[..]), (9, ""));
    assert!(
        ended.stderr.contains("unknown field `ro`"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("at line 3 column 1"),
        "{}",
        ended.stderr
    );
    let (ended, _) = scripted(Vec::new(), &["apply", "/no/such/file"]);
    assert_eq!(ended.status, 5);
    assert!(
        ended
            .stderr
            .starts_with("error: cannot open \"/no/such/file\" to read it: ")
    );
    assert!(log.is_empty());
}

fn bind(recursive: bool, options: MountOptions) -> Operation {
    Operation::Mount(Mount {
        kind: Kind::Bind {
            source: path("/a"),
            recursive,
        },
        target: path("/b"),
        options,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    })
}

fn tmpfs(
    size: Option<TmpfsSize>,
    inodes: Option<TmpfsInodes>,
    mode: Option<TmpfsMode>,
    options: MountOptions,
) -> Operation {
    Operation::Mount(Mount {
        kind: Kind::Tmpfs { size, inodes, mode },
        target: path("/b"),
        options,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    })
}

fn spreading(operation: Operation, propagation: Propagation) -> Operation {
    match operation {
        Operation::Mount(mount) => Operation::Mount(Mount {
            propagation,
            ..mount
        }),
        other => other,
    }
}

fn unmount(lazy: bool, number: Option<u64>) -> Operation {
    Operation::Unmount(Unmount {
        target: path("/b"),
        lazy,
        id: number.map(id),
        passed: false,
    })
}

#[test]
fn a_remount_is_told() {
    let words = ["remount", "/run/vms/7/scratch", "--noexec"];
    let ended = answered(&Reply::Remounted(info(77)), &words);
    assert_eq!(
        ended.stdout,
        "Remounted tmpfs at /run/vms/7/scratch (rw,nosuid,nodev, id 77)\n"
    );
    assert_eq!(ended.status, 0);
    let ended = answered(&Reply::Remounted(info(77)), &json_words(&words));
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.json(),
        json!({
            "result": "remounted", "id": 77, "target": "/run/vms/7/scratch",
            "filesystem": "tmpfs", "root": "/", "flags": ["nosuid", "nodev"], "device": "0:41",
        })
    );
    let ended = answered(&allowed(None), &[&["explain"], &words[..]].concat());
    assert_eq!(
        ended.stdout,
        "Allowed by the grant \"vm images\"; the mount would then have nosuid\n"
    );
}

fn remount(set: MountAttributes, lift: Option<Lift>, number: Option<u64>) -> Operation {
    Operation::Remount(Remount {
        target: path("/b"),
        set,
        lift,
        id: number.map(id),
    })
}

/// Every flag of a remount, each way.
#[test]
fn the_words_become_a_remount() {
    let all = [
        ("--read-only", "--read-write", MountAttributes::READ_ONLY),
        ("--noexec", "--exec", MountAttributes::NO_EXEC),
        (
            "--nosymfollow",
            "--symfollow",
            MountAttributes::NO_SYMFOLLOW,
        ),
        ("--nosuid", "--suid", MountAttributes::NO_SUID),
        ("--nodev", "--dev", MountAttributes::NO_DEV),
    ];
    let none = MountAttributes::empty();
    let of = |attributes, kind: Kind| Some(Lift { attributes, kind });
    let bind = || Kind::Bind {
        source: path("/a"),
        recursive: false,
    };
    let tmpfs = Kind::Tmpfs {
        size: None,
        inodes: None,
        mode: None,
    };
    let mut cases = vec![
        (
            "remount /b/ --read-only --noexec --id 9".to_owned(),
            remount(all[0].2 | all[1].2, None, Some(9)),
        ),
        (
            "remount /b --nosuid --read-write --dev --tmpfs".to_owned(),
            remount(all[3].2, of(all[0].2 | all[4].2, tmpfs), None),
        ),
    ];
    for (set, lifted, attribute) in all {
        cases.push((format!("remount /b {set}"), remount(attribute, None, None)));
        cases.push((
            format!("remount /b {lifted} --source /a/"),
            remount(none, of(attribute, bind()), None),
        ));
    }
    for (words, operation) in cases {
        let words: Vec<&str> = words.split(' ').collect();
        let (ended, log) = scripted(vec![answering(&[Reply::Remounted(info(77))])], &words);
        assert_eq!(ended.status, 0, "{words:?} {ended:?}");
        assert_eq!(log, [[Request::Perform(operation)]], "{words:?}");
    }
}

fn moved(number: Option<u64>) -> Operation {
    Operation::Move(Move {
        from: path("/a"),
        to: path("/b"),
        id: number.map(id),
    })
}

#[test]
fn a_move_is_told() {
    let words = ["move", "/run/vms/7/next", "/run/vms/7/scratch"];
    let ended = answered(&Reply::Moved(info(77)), &words);
    assert_eq!(
        ended.stdout,
        "Moved tmpfs at /run/vms/7/scratch (rw,nosuid,nodev, id 77)\n"
    );
    assert_eq!(ended.status, 0);
    let ended = answered(&Reply::Moved(info(77)), &json_words(&words));
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.json(),
        json!({
            "result": "moved", "id": 77, "target": "/run/vms/7/scratch",
            "filesystem": "tmpfs", "root": "/", "flags": ["nosuid", "nodev"], "device": "0:41",
        })
    );
    let ended = answered(&allowed(None), &[&["explain"], &words[..]].concat());
    assert_eq!(
        ended.stdout,
        "Allowed by the grant \"vm images\"; the mount must have nosuid\n"
    );
}

/// Every option reaches the helper, and none that was not given.
#[test]
fn the_words_become_the_request() {
    let none = MountOptions::empty();
    let size = TmpfsSize::try_from(64 << 20).unwrap();
    let inodes = TmpfsInodes::try_from(10).unwrap();
    let mode = TmpfsMode::try_from(0o750).unwrap();
    let cases = [
        ("mount bind /a /b", bind(false, none)),
        ("mount bind /a/ /b//", bind(false, none)),
        (
            "mount bind /a /b --read-only",
            bind(false, MountOptions::READ_ONLY),
        ),
        ("mount bind --recursive /a /b", bind(true, none)),
        (
            "mount bind /a /b --noexec",
            bind(false, MountOptions::NO_EXEC),
        ),
        (
            "mount bind /a /b --nosymfollow",
            bind(false, MountOptions::NO_SYMFOLLOW),
        ),
        ("mount bind /a /b --suid", bind(false, MountOptions::SUID)),
        ("mount bind /a /b --dev", bind(false, MountOptions::DEV)),
        (
            "mount bind /a /b --read-only --recursive --noexec --nosymfollow --suid --dev",
            bind(true, MountOptions::all()),
        ),
        (
            "mount bind /a /b --slave",
            spreading(bind(false, none), Propagation::Slave),
        ),
        (
            "mount bind /a /b --shared",
            spreading(bind(false, none), Propagation::Shared),
        ),
        (
            "mount tmpfs /b --shared",
            spreading(tmpfs(None, None, None, none), Propagation::Shared),
        ),
        ("mount tmpfs /b", tmpfs(None, None, None, none)),
        (
            "mount tmpfs /b --size 64M",
            tmpfs(Some(size), None, None, none),
        ),
        (
            "mount tmpfs /b --inodes 10",
            tmpfs(None, Some(inodes), None, none),
        ),
        (
            "mount tmpfs /b --mode 0750",
            tmpfs(None, None, Some(mode), none),
        ),
        (
            "mount tmpfs /b --mode 750",
            tmpfs(None, None, Some(mode), none),
        ),
        (
            "mount tmpfs /b --noexec",
            tmpfs(None, None, None, MountOptions::NO_EXEC),
        ),
        (
            "mount tmpfs /b --nosymfollow",
            tmpfs(None, None, None, MountOptions::NO_SYMFOLLOW),
        ),
        (
            "mount tmpfs /b --suid",
            tmpfs(None, None, None, MountOptions::SUID),
        ),
        (
            "mount tmpfs /b --dev",
            tmpfs(None, None, None, MountOptions::DEV),
        ),
        ("unmount /b", unmount(false, None)),
        ("umount /b/", unmount(false, None)),
        ("unmount /b --lazy", unmount(true, None)),
        ("unmount /b --id 9", unmount(false, Some(9))),
        ("move /a/ /b", moved(None)),
        ("move /a /b --id 9", moved(Some(9))),
    ];
    for (words, operation) in cases {
        let reply = match operation {
            Operation::Mount(_) => mounted(Outcome::Mounted),
            Operation::Unmount(_) => unmounted(),
            Operation::Remount(_) => Reply::Remounted(info(77)),
            Operation::Move(_) => Reply::Moved(info(77)),
            Operation::Detach(_) => panic!("no case here"),
        };
        let words: Vec<&str> = words.split(' ').collect();
        let (ended, log) = scripted(vec![answering(&[reply])], &words);
        assert_eq!(ended.status, 0, "{words:?} {ended:?}");
        assert_eq!(log, [[Request::Perform(operation.clone())]], "{words:?}");

        let explained: Vec<&str> = [&["explain"], &words[..]].concat();
        let (ended, log) = scripted(vec![answering(&[allowed(None)])], &explained);
        assert_eq!(ended.status, 0, "{explained:?} {ended:?}");
        assert_eq!(log, [[Request::Explain(operation)]], "{explained:?}");
    }
}

#[test]
fn a_list_is_a_table() {
    let other = MountInfo {
        id: id(1_234_567),
        target: AbsPath::from_bytes(b"/run/vms/7/odd\n\x1b\xff\\x").unwrap(),
        filesystem: "ext4".to_owned(),
        root: path("/sub"),
        attributes: MountAttributes::all(),
        device: DeviceNumber { major: 8, minor: 1 },
    };
    let page = Reply::List(ListPage {
        mounts: vec![info(77), other],
        next: None,
    });
    let ended = answered(&page, &["list"]);
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.stdout,
        "\
ID       TYPE   FLAGS                               TARGET                         ROOT
77       tmpfs  rw,nosuid,nodev                     /run/vms/7/scratch             /
1234567  ext4   ro,nosuid,nodev,noexec,nosymfollow  /run/vms/7/odd\\n\\u{1b}\\xff\\\\x  /sub
"
    );
    let ended = answered(&page, &["list", "--json"]);
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.json(),
        json!([
            {
                "id": 77, "target": "/run/vms/7/scratch", "filesystem": "tmpfs",
                "root": "/", "flags": ["nosuid", "nodev"], "device": "0:41",
            },
            {
                "id": 1_234_567, "target": "/run/vms/7/odd\n\u{1b}\\xff\\x5cx",
                "filesystem": "ext4", "root": "/sub",
                "flags": ["ro", "nosuid", "nodev", "noexec", "nosymfollow"], "device": "8:1",
            },
        ])
    );
}

#[test]
fn an_empty_list_says_so() {
    let page = Reply::List(ListPage {
        mounts: vec![],
        next: None,
    });
    let ended = answered(&page, &["list"]);
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.stdout,
        "No mounts at places that are granted to you.\n"
    );
    assert_eq!(answered(&page, &["list", "--json"]).json(), json!([]));
}

fn allowed(tmpfs: Option<TmpfsLimits>) -> Reply {
    Reply::Explained(Explanation::Allowed {
        grant: "vm images".to_owned(),
        attributes: MountAttributes::NO_SUID,
        tmpfs,
    })
}

#[test]
fn what_would_be_allowed_is_told_with_its_limits() {
    let limits = TmpfsLimits {
        size: 64 << 20,
        inodes: 16384,
        mode: 0o700,
    };
    let explain = ["explain", "mount", "tmpfs", "/b"];
    let ended = answered(&allowed(Some(limits)), &explain);
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.stdout,
        "Allowed by the grant \"vm images\"; the mount would be rw,nosuid, \
         with at most 64 MiB and 16384 inodes, mode 0700\n"
    );
    assert_eq!(
        answered(&allowed(Some(limits)), &json_words(&explain)).json(),
        json!({
            "result": "allowed", "grant": "vm images", "flags": ["nosuid"],
            "tmpfs": {"size": 67_108_864, "inodes": 16384, "mode": "0700"},
        })
    );

    let unmount = ["explain", "unmount", "/b"];
    assert_eq!(
        answered(&allowed(None), &unmount).stdout,
        "Allowed by the grant \"vm images\"\n"
    );
    assert_eq!(
        answered(&allowed(None), &json_words(&unmount)).json(),
        json!({
            "result": "allowed", "grant": "vm images", "flags": ["nosuid"], "tmpfs": null,
        })
    );
}

#[test]
fn what_would_be_denied_is_an_answer_with_status_3() {
    let mut reply = ErrorReply::new(ErrorCode::Denied, "/b lies beneath no root of yours");
    reply.reason = Some(DenyReason::TargetNotGranted);
    reply.path = Some(path("/b"));
    let reply = Reply::Explained(Explanation::Denied(reply));
    let words = ["explain", "unmount", "/b"];
    let ended = answered(&reply, &words);
    assert_eq!(ended.status, 3);
    assert_eq!(ended.stderr, "");
    assert_eq!(
        ended.stdout,
        "Denied (target-not-granted): /b lies beneath no root of yours\n"
    );
    let ended = answered(&reply, &json_words(&words));
    assert_eq!(ended.status, 3);
    assert_eq!(
        ended.json(),
        json!({
            "result": "denied", "code": "denied", "reason": "target-not-granted",
            "message": "/b lies beneath no root of yours", "errno": null, "path": "/b",
            "mount": null,
        })
    );
}

#[test]
fn the_status_tells_what_confines_the_helper() {
    let reply = Reply::Status(Box::new(status()));
    let ended = answered(&reply, &["status"]);
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.stdout,
        "\
mountwarden helper 0.1.0, protocol 1, up 1 h 2 min
You are uid 1234.

session (uid 998)
  capabilities          none
  bounding set          none
  Landlock              ABI 7: reads beneath 2 roots only; network denied, abstract sockets denied, signals denied
  system calls          31 allowed

mounter (uid 998)
  capabilities          CAP_SYS_ADMIN
  bounding set          none
  Landlock              ABI 7: no filesystem domain; network denied, abstract sockets denied, signals denied
  system calls          31 allowed

Limits
  connections           256
  connections per user  16
  mounts per user       1000
  requests per second   500
  request timeout       30000 ms
  idle timeout          600000 ms

Since it started
  connections           2 (1 open)
  mounted               3
  already mounted       4
  unmounted             5
  denied                6
  failed                7
  delayed               8
  killed                9
  remounted             10
  detached              11
  moved                 12
"
    );
    let landlock = |roots| {
        json!({
            "abi": 7, "readable_roots": roots, "network": true, "abstract_sockets": true,
            "signals": true,
        })
    };
    assert_eq!(
        answered(&reply, &["--json", "status"]).json(),
        json!({
            "version": "0.1.0", "protocol": 1, "uid": 1234, "uptime_seconds": 3723,
            "roles": [
                {
                    "role": "session", "uid": 998, "capabilities": [], "bounding": [],
                    "landlock": landlock(json!(2)), "system_calls": 31,
                },
                {
                    "role": "mounter", "uid": 998, "capabilities": ["CAP_SYS_ADMIN"],
                    "bounding": [], "landlock": landlock(json!(null)), "system_calls": 31,
                },
            ],
            "limits": {
                "connections": 256, "connections_per_user": 16, "mounts_per_user": 1000,
                "requests_per_second": 500,
                "request_timeout_ms": 30000, "idle_timeout_ms": 600_000,
            },
            "counters": {
                "connections_open": 1, "connections": 2, "mounted": 3, "already_mounted": 4,
                "unmounted": 5, "denied": 6, "failed": 7, "delayed": 8, "killed": 9,
                "remounted": 10,
                "detached": 11,
                "moved": 12,
            },
        })
    );
}

#[test]
fn a_confinement_that_is_missing_is_not_hidden() {
    let mut status = status();
    let landlock = &mut status.roles[0].landlock;
    landlock.network = false;
    status.roles[1].landlock.abi = 0;
    let text = answered(&Reply::Status(Box::new(status)), &["status"]).stdout;
    assert!(text.contains("network allowed"), "{text}");
    assert!(
        text.contains("Landlock              not in force"),
        "{text}"
    );
}

#[test]
fn a_path_that_is_not_utf_8_is_sent_as_it_is() {
    let bytes = b"/b/\xff";
    let words: [OsString; 2] = ["unmount".into(), OsStr::from_bytes(bytes).to_owned()];
    let (ended, log) = scripted(vec![answering(&[unmounted()])], &words);
    assert_eq!(ended.status, 0);
    assert_eq!(
        log,
        [[Request::Perform(Operation::Unmount(Unmount {
            target: AbsPath::from_bytes(bytes).unwrap(),
            lazy: false,
            id: None,
            passed: false,
        }))]]
    );
}
