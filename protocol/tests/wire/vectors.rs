//! One value or more of every variant of every message. Numbers that stand
//! beside each other differ, so that two fields in the wrong order show.

use std::num::NonZeroU32;

use mountwarden_protocol::{
    AbsPath, AppliedEntry, Batch, Counters, DenyReason, Detach, Detached, DeviceNumber, ErrorCode,
    ErrorReply, Explanation, Features, FilesystemOptions, FuseSource, Hello, HelloReply, ImageType,
    Kind, LandlockReport, Layers, LeftEntry, Lift, Limits, ListPage, Mount, MountAttributes,
    MountId, MountInfo, MountOptions, Mounted, Move, NotApplied, Operation, Outcome, Passed,
    ProbeAnswer, Probed, Propagation, Refusal, Remount, Reply, Request, Role, RoleReport, Status,
    TmpfsInodes, TmpfsLimits, TmpfsMode, TmpfsSize, Unmount, Unmounted, UpperLayer, Versions,
    Welcome,
};

#[derive(Debug)]
pub(crate) enum Message {
    Hello(Hello),
    HelloReply(HelloReply),
    Request(Request),
    Reply(Reply),
}

pub(crate) fn all() -> Vec<(&'static str, Message)> {
    let mut all = vec![("hello", Message::Hello(Hello::default()))];
    all.push((
        "hello-newer",
        Message::Hello(Hello {
            versions: Versions {
                oldest: 1,
                newest: 7,
            },
            features: Features::from_bits_retain(0x8000_0000_0000_0005),
            ..Hello::default()
        }),
    ));
    all.extend(
        hello_replies()
            .into_iter()
            .map(|(name, reply)| (name, Message::HelloReply(reply))),
    );
    all.extend(
        requests()
            .into_iter()
            .map(|(name, request)| (name, Message::Request(request))),
    );
    all.extend(
        replies()
            .into_iter()
            .map(|(name, reply)| (name, Message::Reply(reply))),
    );
    all
}

fn path(text: &str) -> AbsPath {
    AbsPath::new(text).unwrap()
}

fn id(number: u64) -> MountId {
    MountId::try_from(number).unwrap()
}

fn hello_replies() -> Vec<(&'static str, HelloReply)> {
    vec![
        (
            "hello-reply-welcome",
            HelloReply::Welcome(Welcome {
                version: 1,
                features: Features::empty(),
                uid: 1000,
            }),
        ),
        (
            "hello-reply-refused-version",
            HelloReply::Refused(Refusal {
                versions: Versions {
                    oldest: 1,
                    newest: 2,
                },
                ..Refusal::new(ErrorReply::new(
                    ErrorCode::UnsupportedVersion,
                    "no version in common",
                ))
            }),
        ),
        (
            "hello-reply-refused-no-grant",
            HelloReply::Refused(Refusal::new(ErrorReply {
                reason: Some(DenyReason::NoGrant),
                ..ErrorReply::new(ErrorCode::Denied, "no grant names the user 1000")
            })),
        ),
    ]
}

fn layers(paths: &[&str]) -> Layers {
    let paths: Vec<_> = paths.iter().map(|text| path(text)).collect();
    paths.try_into().unwrap()
}

fn bind() -> Operation {
    Operation::Mount(Mount {
        kind: Kind::Bind {
            source: path("/srv/images"),
            recursive: false,
        },
        target: path("/run/vms/7"),
        options: MountOptions::READ_ONLY,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    })
}

fn batch() -> Batch {
    let scratch = Mount {
        kind: Kind::Tmpfs {
            size: None,
            inodes: None,
            mode: None,
        },
        target: path("/run/vms/7/tmp"),
        options: MountOptions::NO_EXEC,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: true,
    };
    match bind() {
        Operation::Mount(bind) => Batch::try_from(vec![bind, scratch]).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    let mut requests = mounts();
    requests.extend(overlays());
    requests.extend(images());
    requests.extend(other_kinds());
    requests.extend(unmounts());
    requests.extend(remounts());
    requests.extend([
        ("request-explain-mount-bind", Request::Explain(bind())),
        (
            "request-explain-unmount",
            Request::Explain(Operation::Unmount(Unmount {
                target: path("/"),
                lazy: false,
                id: None,
                passed: false,
            })),
        ),
        ("request-list-first", Request::List { after: None }),
        (
            "request-list-after",
            Request::List {
                after: Some(id(u64::MAX)),
            },
        ),
        ("request-status", Request::Status),
        (
            "request-probe",
            Request::Probe {
                target: path("/run/vms/7"),
                timeout_ms: NonZeroU32::new(5000).unwrap(),
            },
        ),
        ("request-apply", Request::Apply(batch())),
    ]);
    requests
}

fn images() -> Vec<(&'static str, Request)> {
    let image = |file, filesystem| {
        Request::Perform(Operation::Mount(Mount {
            kind: Kind::Image {
                file: path(file),
                filesystem,
            },
            target: path("/run/vms/7/base"),
            options: MountOptions::NO_EXEC,
            propagation: Propagation::Private,
            passed: Passed::empty(),
            lease: false,
        }))
    };
    vec![
        (
            "request-perform-mount-image",
            image("/srv/images/base.erofs", ImageType::Erofs),
        ),
        (
            "request-perform-mount-image-squashfs",
            image("/srv/images/base.sqfs", ImageType::Squashfs),
        ),
    ]
}

fn overlays() -> Vec<(&'static str, Request)> {
    vec![
        (
            "request-perform-mount-overlay",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Overlay {
                    lower: layers(&["/srv/layers/a,b:c", "/srv/layers/base"]),
                    upper: Some(UpperLayer {
                        upper: path("/srv/upper/7"),
                        work: path("/srv/work/7"),
                    }),
                },
                target: path("/run/vms/7/root"),
                options: MountOptions::READ_ONLY,
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: false,
            })),
        ),
        (
            "request-explain-mount-overlay",
            Request::Explain(Operation::Mount(Mount {
                kind: Kind::Overlay {
                    lower: layers(&["/srv/layers/base"]),
                    upper: None,
                },
                target: path("/run/vms/7/root"),
                options: MountOptions::empty(),
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: true,
            })),
        ),
    ]
}

/// Kinds of mount that take more of the kernel.
fn other_kinds() -> Vec<(&'static str, Request)> {
    vec![
        (
            "request-perform-mount-block",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Block {
                    device: path("/dev/vg0/data"),
                    filesystem: "ext4".parse().unwrap(),
                    options: options(&["discard", "commit=30"]),
                },
                target: path("/run/vms/7/data"),
                options: MountOptions::READ_ONLY,
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: false,
            })),
        ),
        (
            "request-perform-mount-fuse",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Fuse {
                    subtype: "sshfs".parse().unwrap(),
                    source: FuseSource::Named("build@example.org:/srv".parse().unwrap()),
                    allow_other: true,
                    default_permissions: false,
                    max_read: Some(0x0002_0003),
                },
                target: path("/run/vms/7/remote"),
                options: MountOptions::NO_EXEC,
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: false,
            })),
        ),
        (
            "request-perform-mount-fuse-device",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Fuse {
                    subtype: "ntfs-3g".parse().unwrap(),
                    source: FuseSource::Device {
                        device: path("/dev/vg0/stick"),
                        block_size: Some(4096.try_into().unwrap()),
                    },
                    allow_other: false,
                    default_permissions: true,
                    max_read: None,
                },
                target: path("/run/vms/7/stick"),
                options: MountOptions::READ_ONLY,
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: true,
            })),
        ),
        (
            "request-explain-mount-fuse",
            Request::Explain(Operation::Mount(Mount {
                kind: Kind::Fuse {
                    subtype: "sshfs".parse().unwrap(),
                    source: FuseSource::Subtype,
                    allow_other: false,
                    default_permissions: false,
                    max_read: None,
                },
                target: path("/run/vms/7/remote"),
                options: MountOptions::empty(),
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: false,
            })),
        ),
        (
            "request-perform-mount-network",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Network {
                    source: "files.example.org:/srv/vm".parse().unwrap(),
                    filesystem: "nfs4".parse().unwrap(),
                    options: options(&["addr=192.0.2.7", "soft"]),
                    secrets: options(&["password=hunter2"]).try_into().unwrap(),
                },
                target: path("/run/vms/7/files"),
                options: MountOptions::empty(),
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: false,
            })),
        ),
    ]
}

fn mounts() -> Vec<(&'static str, Request)> {
    let tmpfs = |size, inodes, mode| {
        Request::Perform(Operation::Mount(Mount {
            kind: Kind::Tmpfs { size, inodes, mode },
            target: path("/run/vms/scratch"),
            options: MountOptions::empty(),
            propagation: Propagation::Shared,
            passed: Passed::empty(),
            lease: false,
        }))
    };
    vec![
        ("request-perform-mount-bind", Request::Perform(bind())),
        (
            "request-perform-mount-bind-recursive",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Bind {
                    source: AbsPath::from_bytes(b"/srv/not \xffutf-8").unwrap(),
                    recursive: true,
                },
                target: path("/run/vms/\u{e9}"),
                options: MountOptions::all(),
                propagation: Propagation::Slave,
                passed: Passed::empty(),
                lease: false,
            })),
        ),
        (
            "request-perform-mount-leased",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Bind {
                    source: path("/srv/images"),
                    recursive: false,
                },
                target: path("/run/vms/7"),
                options: MountOptions::empty(),
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: true,
            })),
        ),
        ("request-perform-mount-tmpfs", tmpfs(None, None, None)),
        (
            "request-perform-mount-tmpfs-limited",
            tmpfs(
                Some(TmpfsSize::try_from(256 << 20).unwrap()),
                Some(TmpfsInodes::try_from(4096).unwrap()),
                Some(TmpfsMode::try_from(0o1777).unwrap()),
            ),
        ),
        (
            "request-perform-mount-bind-passed",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Bind {
                    source: path("/srv/images"),
                    recursive: false,
                },
                target: path("/home/ann/vm"),
                options: MountOptions::empty(),
                propagation: Propagation::Private,
                passed: Passed::TARGET | Passed::SOURCE,
                lease: false,
            })),
        ),
    ]
}

fn unmounts() -> Vec<(&'static str, Request)> {
    vec![
        (
            "request-perform-unmount",
            Request::Perform(Operation::Unmount(Unmount {
                target: path("/run/vms/7"),
                lazy: false,
                id: None,
                passed: false,
            })),
        ),
        (
            "request-perform-unmount-lazy-by-id",
            Request::Perform(Operation::Unmount(Unmount {
                target: path("/run/vms/7"),
                lazy: true,
                id: Some(id(0x1_0000_0101)),
                passed: false,
            })),
        ),
        (
            "request-perform-unmount-passed",
            Request::Perform(Operation::Unmount(Unmount {
                target: path("/home/ann/vm"),
                lazy: true,
                id: None,
                passed: true,
            })),
        ),
    ]
}

fn remounts() -> Vec<(&'static str, Request)> {
    vec![
        (
            "request-perform-remount",
            Request::Perform(Operation::Remount(Remount {
                target: path("/run/vms/7"),
                set: MountAttributes::READ_ONLY | MountAttributes::NO_EXEC,
                lift: None,
                id: None,
            })),
        ),
        (
            "request-perform-remount-lift-by-id",
            Request::Perform(Operation::Remount(Remount {
                target: path("/run/vms/7"),
                set: MountAttributes::NO_SYMFOLLOW,
                lift: Some(Lift {
                    attributes: MountAttributes::READ_ONLY,
                    kind: Kind::Bind {
                        source: path("/srv/images"),
                        recursive: false,
                    },
                }),
                id: Some(id(0x1_0000_0102)),
            })),
        ),
        (
            "request-perform-detach",
            Request::Perform(Operation::Detach(Detach {
                source: path("/srv/images"),
                recursive: true,
                options: MountOptions::READ_ONLY,
                idmap: false,
            })),
        ),
        (
            "request-perform-detach-idmapped",
            Request::Perform(Operation::Detach(Detach {
                source: path("/srv/images"),
                recursive: false,
                options: MountOptions::NO_EXEC,
                idmap: true,
            })),
        ),
        (
            "request-perform-mount-bind-idmapped",
            Request::Perform(Operation::Mount(Mount {
                kind: Kind::Bind {
                    source: path("/srv/images"),
                    recursive: false,
                },
                target: path("/run/vms/7/images"),
                options: MountOptions::READ_ONLY,
                propagation: Propagation::Private,
                passed: Passed::ID_MAP,
                lease: false,
            })),
        ),
        ("request-perform-move", moving(None)),
        ("request-perform-move-by-id", moving(Some(0x1_0000_0102))),
    ]
}

fn moving(number: Option<u64>) -> Request {
    Request::Perform(Operation::Move(Move {
        from: path("/run/vms/7"),
        to: path("/run/vms/8"),
        id: number.map(id),
    }))
}

fn mount_info(number: u64, target: &str) -> MountInfo {
    MountInfo {
        id: id(number),
        target: path(target),
        filesystem: "ext4".to_owned(),
        root: path("/images"),
        attributes: MountAttributes::NO_SUID | MountAttributes::NO_DEV,
        device: DeviceNumber { major: 8, minor: 1 },
    }
}

fn replies() -> Vec<(&'static str, Reply)> {
    let mut replies = errors();
    replies.extend(explanations());
    replies.extend([
        (
            "reply-mounted",
            Reply::Mounted(Mounted {
                outcome: Outcome::Mounted,
                mount: mount_info(0x1_0000_0102, "/run/vms/7"),
            }),
        ),
        (
            "reply-mounted-already",
            Reply::Mounted(Mounted {
                outcome: Outcome::AlreadyMounted,
                mount: MountInfo {
                    attributes: MountAttributes::all(),
                    ..mount_info(0x1_0000_0102, "/run/vms/7")
                },
            }),
        ),
        (
            "reply-unmounted",
            Reply::Unmounted(Unmounted {
                id: id(0x1_0000_0102),
                target: path("/run/vms/7"),
            }),
        ),
        (
            "reply-list-empty",
            Reply::List(ListPage {
                mounts: Vec::new(),
                next: None,
            }),
        ),
        (
            "reply-list",
            Reply::List(ListPage {
                mounts: vec![mount_info(17, "/run/vms/7"), mount_info(18, "/run/vms/8")],
                next: Some(id(18)),
            }),
        ),
        ("reply-status", Reply::Status(Box::new(status()))),
        (
            "reply-remounted",
            Reply::Remounted(mount_info(0x1_0000_0102, "/run/vms/7")),
        ),
        ("reply-probed-alive", probed(77, ProbeAnswer::Alive)),
        (
            "reply-probed-stale",
            probed(77, ProbeAnswer::Stale { errno: 107 }),
        ),
        ("reply-probed-private", probed(77, ProbeAnswer::Private)),
        ("reply-probed-absent", probed(0, ProbeAnswer::Absent)),
        (
            "reply-detached",
            Reply::Detached(Detached {
                id: id(0x1_0000_0102),
                attributes: MountAttributes::READ_ONLY | MountAttributes::NO_SUID,
            }),
        ),
        (
            "reply-moved",
            Reply::Moved(mount_info(0x1_0000_0102, "/run/vms/8")),
        ),
    ]);
    replies.extend(applied());
    replies
}

fn applied() -> Vec<(&'static str, Reply)> {
    let entry = |outcome, number, attributes| AppliedEntry {
        outcome,
        id: id(number),
        attributes,
    };
    vec![
        (
            "reply-applied",
            Reply::Applied(vec![
                entry(Outcome::AlreadyMounted, 77, MountAttributes::READ_ONLY),
                entry(Outcome::Mounted, 78, MountAttributes::all()),
            ]),
        ),
        (
            "reply-not-applied",
            Reply::NotApplied(NotApplied {
                entry: 2,
                error: ErrorReply::new(ErrorCode::NotFound, "not there"),
                left: vec![LeftEntry {
                    entry: 1,
                    id: id(78),
                }],
            }),
        ),
    ]
}

fn errors() -> Vec<(&'static str, Reply)> {
    vec![
        (
            "reply-error",
            Reply::Error(ErrorReply::new(
                ErrorCode::NotMounted,
                "nothing is mounted there",
            )),
        ),
        (
            "reply-error-denied",
            Reply::Error(ErrorReply {
                reason: Some(DenyReason::TargetNotGranted),
                ..ErrorReply::new(ErrorCode::Denied, "/etc is beneath no granted root")
                    .at(&path("/etc"))
            }),
        ),
        (
            "reply-error-busy",
            Reply::Error(
                ErrorReply::new(ErrorCode::Busy, "another mount is there")
                    .at(&path("/run/vms/7"))
                    .errno(16)
                    .mount(id(42)),
            ),
        ),
        (
            "reply-error-newer-code",
            Reply::Error(ErrorReply {
                reason: Some(DenyReason::Other(70_001)),
                errno: Some(-1),
                ..ErrorReply::new(ErrorCode::Other(u32::MAX), "what no build knows yet")
            }),
        ),
    ]
}

fn explanations() -> Vec<(&'static str, Reply)> {
    vec![
        (
            "reply-explained-allowed",
            Reply::Explained(Explanation::Allowed {
                grant: "vm images".to_owned(),
                attributes: MountAttributes::READ_ONLY | MountAttributes::NO_SUID,
                tmpfs: None,
            }),
        ),
        (
            "reply-explained-allowed-tmpfs",
            Reply::Explained(Explanation::Allowed {
                grant: "scratch".to_owned(),
                attributes: MountAttributes::NO_SUID,
                tmpfs: Some(TmpfsLimits {
                    size: 256 << 20,
                    inodes: 4096,
                    mode: 0o700,
                }),
            }),
        ),
        (
            "reply-explained-denied",
            Reply::Explained(Explanation::Denied(ErrorReply {
                reason: Some(DenyReason::RecursiveNotGranted),
                ..ErrorReply::new(ErrorCode::Denied, "the grant allows no recursive bind")
            })),
        ),
    ]
}

fn probed(id: u64, answer: ProbeAnswer) -> Reply {
    Reply::Probed(Probed {
        target: path("/run/vms/7"),
        id: MountId::try_from(id).ok(),
        answer,
    })
}

fn status() -> Status {
    let report = |role, capabilities, readable_roots| RoleReport {
        role,
        uid: 990,
        capabilities,
        bounding: capabilities,
        landlock: LandlockReport {
            abi: 7,
            readable_roots,
            network: true,
            abstract_sockets: true,
            signals: false,
        },
        system_calls: 31,
    };
    let admin = 1 << 21;
    Status {
        version: "0.1.0".to_owned(),
        protocol: 1,
        uid: 1000,
        uptime_seconds: 86_400,
        roles: vec![
            report(Role::Gate, 0, Some(0)),
            report(Role::Session, 0, Some(3)),
            report(Role::Warden, admin, None),
            report(Role::Mounter, admin, None),
            report(Role::Locker, admin, None),
        ],
        limits: Limits {
            connections: 256,
            connections_per_user: 16,
            mounts_per_user: 1000,
            requests_per_second: 500,
            request_timeout_ms: 30_000,
            idle_timeout_ms: 600_000,
        },
        counters: Counters {
            connections_open: 1,
            connections: 2,
            mounted: 3,
            already_mounted: 4,
            unmounted: 5,
            denied: 6,
            failed: 7,
            delayed: 8,
            killed: 9,
            remounted: 10,
            detached: 11,
            moved: 12,
        },
    }
}

fn options(texts: &[&str]) -> FilesystemOptions {
    let options: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
    options.try_into().unwrap()
}
