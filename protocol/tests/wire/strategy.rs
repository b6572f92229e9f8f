//! Arbitrary valid values of every message.

use std::num::NonZeroU32;

use mountwarden_protocol::{
    AbsPath, AppliedEntry, Batch, Counters, DenyReason, Detach, Detached, DeviceNumber, ErrorCode,
    ErrorReply, Explanation, Features, FilesystemOption, FilesystemOptions, FuseSource, Hello,
    HelloReply, ImageType, Kind, LandlockReport, Layers, LeftEntry, Lift, Limits, ListPage, Mount,
    MountAttributes, MountId, MountInfo, MountOptions, Mounted, Move, NotApplied, Operation,
    Outcome, Passed, ProbeAnswer, Probed, Propagation, Refusal, Remount, Reply, Request, Role,
    RoleReport, Secrets, Status, TmpfsInodes, TmpfsLimits, TmpfsMode, TmpfsSize, Unmount,
    Unmounted, UpperLayer, Versions, Welcome,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// Bytes of a component, mostly those that checks are about.
fn component_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => select(b".. ab\\\n\x1b\x7f\xc2\x85\xe2\x80\xae\xff".to_vec()),
        1 => any::<u8>(),
    ]
    .prop_map(|byte| {
        if byte == 0 || byte == b'/' {
            b'_'
        } else {
            byte
        }
    })
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(component_byte(), 1..8),
        1 => vec(component_byte(), 250..=255),
    ]
    .prop_filter("a dot component", |name| {
        name.as_slice() != b"." && name.as_slice() != b".."
    })
}

pub(crate) fn path() -> impl Strategy<Value = AbsPath> {
    vec(component(), 0..6).prop_map(|components| {
        let mut bytes = b"/".to_vec();
        bytes.extend(components.join(&b'/'));
        AbsPath::from_bytes(&bytes).unwrap()
    })
}

fn mount_id() -> impl Strategy<Value = MountId> {
    (1..=u64::MAX).prop_map(|id| MountId::try_from(id).unwrap())
}

/// A count that is often one of its bounds.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        1..=i64::MAX.unsigned_abs(),
        Just(1),
        Just(i64::MAX.unsigned_abs())
    ]
}

fn error_code() -> impl Strategy<Value = ErrorCode> {
    prop_oneof![0..32_u32, any::<u32>()].prop_map(ErrorCode::from)
}

fn deny_reason() -> impl Strategy<Value = DenyReason> {
    prop_oneof![0..32_u32, any::<u32>()].prop_map(DenyReason::from)
}

fn attributes() -> impl Strategy<Value = MountAttributes> {
    any::<u32>().prop_map(MountAttributes::from_bits_truncate)
}

fn versions() -> impl Strategy<Value = Versions> {
    any::<(u32, u32)>().prop_map(|(oldest, newest)| Versions { oldest, newest })
}

fn features() -> impl Strategy<Value = Features> {
    any::<u64>().prop_map(Features::from_bits_retain)
}

pub(crate) fn hello() -> impl Strategy<Value = Hello> {
    (any::<[u8; 4]>(), versions(), features()).prop_map(|(magic, versions, features)| Hello {
        magic,
        versions,
        features,
    })
}

pub(crate) fn error_reply() -> impl Strategy<Value = ErrorReply> {
    (
        error_code(),
        of(deny_reason()),
        any::<String>(),
        any::<Option<i32>>(),
        of(path()),
        of(mount_id()),
    )
        .prop_map(|(code, reason, message, errno, path, mount)| ErrorReply {
            code,
            reason,
            message,
            errno,
            path,
            mount,
        })
}

pub(crate) fn hello_reply() -> impl Strategy<Value = HelloReply> {
    prop_oneof![
        (any::<u32>(), features(), any::<u32>()).prop_map(|(version, features, uid)| {
            HelloReply::Welcome(Welcome {
                version,
                features,
                uid,
            })
        }),
        (versions(), error_reply())
            .prop_map(|(versions, error)| HelloReply::Refused(Refusal { versions, error })),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (path(), any::<bool>()).prop_map(|(source, recursive)| Kind::Bind { source, recursive }),
        (of(count()), of(count()), of(0..=0o1777_u32)).prop_map(|(size, inodes, mode)| {
            Kind::Tmpfs {
                size: size.map(|size| TmpfsSize::try_from(size).unwrap()),
                inodes: inodes.map(|inodes| TmpfsInodes::try_from(inodes).unwrap()),
                mode: mode.map(|mode| TmpfsMode::try_from(mode).unwrap()),
            }
        }),
        (path(), "[a-z0-9_]{1,31}", filesystem_options()).prop_map(
            |(device, filesystem, options)| Kind::Block {
                device,
                filesystem: filesystem.parse().unwrap(),
                options,
            }
        ),
        (
            "[a-zA-Z0-9_.+-]{1,63}",
            fuse_source(),
            any::<(bool, bool)>(),
            of(any::<u32>()),
        )
            .prop_map(|(subtype, source, flags, max_read)| Kind::Fuse {
                subtype: subtype.parse().unwrap(),
                source,
                allow_other: flags.0,
                default_permissions: flags.1,
                max_read,
            }),
        (layers(), of((path(), path()))).prop_map(|(lower, upper)| Kind::Overlay {
            lower,
            upper: upper.map(|(upper, work)| UpperLayer { upper, work }),
        }),
        (path(), any::<bool>()).prop_map(|(file, is_erofs)| Kind::Image {
            file,
            filesystem: if is_erofs {
                ImageType::Erofs
            } else {
                ImageType::Squashfs
            },
        }),
        (
            "[a-z0-9]{1,60}:(/[a-z0-9]{1,9}){0,9}",
            "[a-z0-9_]{1,31}",
            filesystem_options(),
            secrets(),
        )
            .prop_map(|(source, filesystem, options, secrets)| Kind::Network {
                source: source.parse().unwrap(),
                filesystem: filesystem.parse().unwrap(),
                options,
                secrets,
            }),
    ]
}

fn fuse_source() -> impl Strategy<Value = FuseSource> {
    prop_oneof![
        Just(FuseSource::Subtype),
        "[ -+\\--~]{1,255}".prop_map(|name| FuseSource::Named(name.parse().unwrap())),
        (path(), of(select(vec![512_u32, 1024, 2048, 4096]))).prop_map(|(device, bytes)| {
            FuseSource::Device {
                device,
                block_size: bytes.map(|bytes| bytes.try_into().unwrap()),
            }
        }),
    ]
}

fn layers() -> impl Strategy<Value = Layers> {
    vec(path(), 1..=Layers::MAX).prop_filter_map("too long together", |paths| paths.try_into().ok())
}

fn secrets() -> impl Strategy<Value = Secrets> {
    let option = ("[a-zA-Z0-9_.+-]{1,63}", "[ -+\\--~]{1,255}");
    prop::collection::btree_map(option.0, option.1, 0..4).prop_map(|options| {
        let option = |(key, value): (String, String)| FilesystemOption {
            key: key.parse().unwrap(),
            value: Some(value.parse().unwrap()),
        };
        let options: Vec<_> = options.into_iter().map(option).collect();
        FilesystemOptions::try_from(options)
            .unwrap()
            .try_into()
            .unwrap()
    })
}

fn filesystem_options() -> impl Strategy<Value = FilesystemOptions> {
    let option = ("[a-zA-Z0-9_.+-]{1,63}", of("[ -+\\--~]{1,255}"));
    prop::collection::btree_map(option.0, option.1, 0..=FilesystemOptions::MAX).prop_map(
        |options| {
            let option = |(key, value): (String, Option<String>)| FilesystemOption {
                key: key.parse().unwrap(),
                value: value.map(|value| value.parse().unwrap()),
            };
            let options: Vec<_> = options.into_iter().map(option).collect();
            options.try_into().unwrap()
        },
    )
}

fn propagation() -> impl Strategy<Value = Propagation> {
    select(vec![
        Propagation::Private,
        Propagation::Slave,
        Propagation::Shared,
    ])
}

fn lift() -> impl Strategy<Value = Lift> {
    (attributes(), kind()).prop_map(|(attributes, kind)| Lift { attributes, kind })
}

fn mount() -> impl Strategy<Value = Mount> {
    let bits = any::<[u32; 2]>();
    (kind(), path(), bits, propagation(), any::<bool>()).prop_map(
        |(kind, target, [options, passed], propagation, lease)| Mount {
            kind,
            target,
            options: MountOptions::from_bits_truncate(options),
            propagation,
            passed: Passed::from_bits_truncate(passed),
            lease,
        },
    )
}

/// What of these mounts a batch may hold.
fn batch() -> impl Strategy<Value = Batch> {
    let tmpfs = (path(), any::<bool>()).prop_map(|(target, lease)| Mount {
        kind: Kind::Tmpfs {
            size: None,
            inodes: None,
            mode: None,
        },
        target,
        options: MountOptions::empty(),
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease,
    });
    (tmpfs, vec(mount(), 0..8)).prop_map(|(first, others)| {
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in others.into_iter().chain([first]) {
            let mount = Mount {
                passed: Passed::empty(),
                ..mount
            };
            let taken = mounts.iter().any(|other| other.target == mount.target);
            if !taken && Batch::check(&mount, 0).is_ok() {
                mounts.push(mount);
            }
        }
        mounts.try_into().unwrap()
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        mount().prop_map(Operation::Mount),
        (path(), any::<[bool; 2]>(), of(mount_id())).prop_map(|(target, [lazy, passed], id)| {
            Operation::Unmount(Unmount {
                target,
                lazy,
                id,
                passed,
            })
        }),
        (path(), attributes(), of(lift()), of(mount_id())).prop_map(|(target, set, lift, id)| {
            Operation::Remount(Remount {
                target,
                set,
                lift,
                id,
            })
        }),
        (path(), any::<(bool, u32, bool)>()).prop_map(|(source, (recursive, options, idmap))| {
            Operation::Detach(Detach {
                source,
                recursive,
                options: MountOptions::from_bits_truncate(options),
                idmap,
            })
        }),
        (path(), path(), of(mount_id())).prop_map(|(from, to, id)| Operation::Move(Move {
            from,
            to,
            id
        })),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => operation().prop_map(Request::Perform),
        2 => operation().prop_map(Request::Explain),
        1 => of(mount_id()).prop_map(|after| Request::List { after }),
        1 => Just(Request::Status),
        1 => (path(), any::<NonZeroU32>())
            .prop_map(|(target, timeout_ms)| Request::Probe { target, timeout_ms }),
        1 => batch().prop_map(Request::Apply),
    ]
}

fn mount_info() -> impl Strategy<Value = MountInfo> {
    let device = any::<(u32, u32)>().prop_map(|(major, minor)| DeviceNumber { major, minor });
    (
        mount_id(),
        path(),
        any::<String>(),
        path(),
        attributes(),
        device,
    )
        .prop_map(
            |(id, target, filesystem, root, attributes, device)| MountInfo {
                id,
                target,
                filesystem,
                root,
                attributes,
                device,
            },
        )
}

fn explanation() -> impl Strategy<Value = Explanation> {
    let limits = of(
        any::<(u64, u64, u32)>().prop_map(|(size, inodes, mode)| TmpfsLimits {
            size,
            inodes,
            mode,
        }),
    );
    prop_oneof![
        (any::<String>(), attributes(), limits).prop_map(|(grant, attributes, tmpfs)| {
            Explanation::Allowed {
                grant,
                attributes,
                tmpfs,
            }
        }),
        error_reply().prop_map(Explanation::Denied),
    ]
}

fn role_report() -> impl Strategy<Value = RoleReport> {
    let landlock = any::<(u32, Option<u32>, bool, bool, bool)>().prop_map(
        |(abi, readable_roots, network, abstract_sockets, signals)| LandlockReport {
            abi,
            readable_roots,
            network,
            abstract_sockets,
            signals,
        },
    );
    let role = select(vec![
        Role::Gate,
        Role::Session,
        Role::Warden,
        Role::Mounter,
        Role::Locker,
    ]);
    (role, any::<(u32, u64, u64, u32)>(), landlock).prop_map(
        |(role, (uid, capabilities, bounding, system_calls), landlock)| RoleReport {
            role,
            uid,
            capabilities,
            bounding,
            landlock,
            system_calls,
        },
    )
}

fn status() -> impl Strategy<Value = Status> {
    let limits = any::<([u32; 4], u64, u64)>().prop_map(
        |(
            [
                connections,
                connections_per_user,
                mounts_per_user,
                requests_per_second,
            ],
            request,
            idle,
        )| Limits {
            connections,
            connections_per_user,
            mounts_per_user,
            requests_per_second,
            request_timeout_ms: request,
            idle_timeout_ms: idle,
        },
    );
    let counters = any::<[u64; 12]>().prop_map(|numbers| {
        let [
            connections_open,
            connections,
            mounted,
            already_mounted,
            unmounted,
            denied,
            failed,
            delayed,
            killed,
            remounted,
            detached,
            moved,
        ] = numbers;
        Counters {
            connections_open,
            connections,
            mounted,
            already_mounted,
            unmounted,
            denied,
            failed,
            delayed,
            killed,
            remounted,
            detached,
            moved,
        }
    });
    (
        any::<(String, u32, u32, u64)>(),
        vec(role_report(), 0..6),
        limits,
        counters,
    )
        .prop_map(|(about, roles, limits, counters)| {
            let (version, protocol, uid, uptime_seconds) = about;
            Status {
                version,
                protocol,
                uid,
                uptime_seconds,
                roles,
                limits,
                counters,
            }
        })
}

fn probe_answer() -> impl Strategy<Value = ProbeAnswer> {
    prop_oneof![
        Just(ProbeAnswer::Alive),
        any::<i32>().prop_map(|errno| ProbeAnswer::Stale { errno }),
        Just(ProbeAnswer::Private),
        Just(ProbeAnswer::Absent),
    ]
}

fn applied_entry() -> impl Strategy<Value = AppliedEntry> {
    let outcome = select(vec![Outcome::Mounted, Outcome::AlreadyMounted]);
    (outcome, mount_id(), attributes()).prop_map(|(outcome, id, attributes)| AppliedEntry {
        outcome,
        id,
        attributes,
    })
}

fn left_entry() -> impl Strategy<Value = LeftEntry> {
    (any::<u32>(), mount_id()).prop_map(|(entry, id)| LeftEntry { entry, id })
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    let outcome = select(vec![Outcome::Mounted, Outcome::AlreadyMounted]);
    prop_oneof![
        error_reply().prop_map(Reply::Error),
        (outcome, mount_info())
            .prop_map(|(outcome, mount)| Reply::Mounted(Mounted { outcome, mount })),
        (mount_id(), path()).prop_map(|(id, target)| Reply::Unmounted(Unmounted { id, target })),
        (vec(mount_info(), 0..5), of(mount_id()))
            .prop_map(|(mounts, next)| Reply::List(ListPage { mounts, next })),
        explanation().prop_map(Reply::Explained),
        status().prop_map(|status| Reply::Status(Box::new(status))),
        mount_info().prop_map(Reply::Remounted),
        (path(), of(mount_id()), probe_answer())
            .prop_map(|(target, id, answer)| Reply::Probed(Probed { target, id, answer })),
        vec(applied_entry(), 0..5).prop_map(Reply::Applied),
        (any::<u32>(), error_reply(), vec(left_entry(), 0..5)).prop_map(|(entry, error, left)| {
            Reply::NotApplied(NotApplied { entry, error, left })
        }),
        (mount_id(), attributes())
            .prop_map(|(id, attributes)| Reply::Detached(Detached { id, attributes })),
        mount_info().prop_map(Reply::Moved),
    ]
}
