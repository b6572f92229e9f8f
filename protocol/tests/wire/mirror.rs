//! The messages written down a second time, for wincode: another decoder of
//! the same plain scheme, without serde, without the checks of the protocol
//! crate and without a line in common with it. What both read alike is what
//! `WIRE.md` promises to a client in another language.
//!
//! Every number, path and set of bits is as raw as it travels, and the fields
//! stand in the order of the wire.

use mountwarden_protocol as protocol;
use mountwarden_protocol::frame::{self, DecodeError};
use wincode::{SchemaRead, SchemaWrite};

macro_rules! mirror {
    ($($item:item)+) => {
        $(
            #[derive(Debug, Clone, PartialEq, Eq, SchemaRead, SchemaWrite)]
            $item
        )+
    };
}

mirror! {
    pub(crate) struct Versions {
        pub(crate) oldest: u32,
        pub(crate) newest: u32,
    }

    pub(crate) struct Hello {
        pub(crate) magic: [u8; 4],
        pub(crate) versions: Versions,
        pub(crate) features: u64,
    }

    pub(crate) enum HelloReply {
        Welcome(Welcome),
        Refused(Refusal),
    }

    pub(crate) struct Welcome {
        pub(crate) version: u32,
        pub(crate) features: u64,
        pub(crate) uid: u32,
    }

    pub(crate) struct Refusal {
        pub(crate) versions: Versions,
        pub(crate) error: ErrorReply,
    }

    pub(crate) struct ErrorReply {
        pub(crate) code: u32,
        pub(crate) reason: Option<u32>,
        pub(crate) message: String,
        pub(crate) errno: Option<i32>,
        pub(crate) path: Option<Vec<u8>>,
        pub(crate) mount: Option<u64>,
    }

    pub(crate) enum Request {
        Perform(Operation),
        Explain(Operation),
        List { after: Option<u64> },
        Status,
        Probe { target: Vec<u8>, timeout_ms: u32 },
        Apply(Vec<Mount>),
    }

    pub(crate) enum Operation {
        Mount(Mount),
        Unmount(Unmount),
        Remount(Remount),
        Detach(Detach),
        Move(Move),
    }

    pub(crate) struct Mount {
        pub(crate) kind: Kind,
        pub(crate) target: Vec<u8>,
        pub(crate) options: u32,
        pub(crate) propagation: Propagation,
        pub(crate) passed: u32,
        pub(crate) lease: bool,
    }

    pub(crate) enum Propagation {
        Private,
        Slave,
        Shared,
    }

    pub(crate) enum Kind {
        Bind {
            source: Vec<u8>,
            recursive: bool,
        },
        Tmpfs {
            size: Option<u64>,
            inodes: Option<u64>,
            mode: Option<u32>,
        },
        Block {
            device: Vec<u8>,
            filesystem: String,
            options: Vec<FilesystemOption>,
        },
        Fuse {
            subtype: String,
            source: FuseSource,
            allow_other: bool,
            default_permissions: bool,
            max_read: Option<u32>,
        },
        Overlay {
            lower: Vec<Vec<u8>>,
            upper: Option<UpperLayer>,
        },
        Image {
            file: Vec<u8>,
            filesystem: ImageType,
        },
        Network {
            source: String,
            filesystem: String,
            options: Vec<FilesystemOption>,
            secrets: Vec<FilesystemOption>,
        },
    }

    pub(crate) enum FuseSource {
        Subtype,
        Named(String),
        Device {
            device: Vec<u8>,
            block_size: Option<u32>,
        },
    }

    pub(crate) enum ImageType {
        Erofs,
        Squashfs,
    }

    pub(crate) struct UpperLayer {
        pub(crate) upper: Vec<u8>,
        pub(crate) work: Vec<u8>,
    }

    pub(crate) struct FilesystemOption {
        pub(crate) key: String,
        pub(crate) value: Option<String>,
    }

    pub(crate) struct Unmount {
        pub(crate) target: Vec<u8>,
        pub(crate) lazy: bool,
        pub(crate) id: Option<u64>,
        pub(crate) passed: bool,
    }

    pub(crate) struct Remount {
        pub(crate) target: Vec<u8>,
        pub(crate) set: u32,
        pub(crate) lift: Option<Lift>,
        pub(crate) id: Option<u64>,
    }

    pub(crate) struct Detach {
        pub(crate) source: Vec<u8>,
        pub(crate) recursive: bool,
        pub(crate) options: u32,
        pub(crate) idmap: bool,
    }

    pub(crate) struct Move {
        pub(crate) from: Vec<u8>,
        pub(crate) to: Vec<u8>,
        pub(crate) id: Option<u64>,
    }

    pub(crate) struct Lift {
        pub(crate) attributes: u32,
        pub(crate) kind: Kind,
    }

    pub(crate) enum Reply {
        Error(ErrorReply),
        Mounted(Mounted),
        Unmounted(Unmounted),
        List(ListPage),
        Explained(Explanation),
        Status(Status),
        Remounted(MountInfo),
        Probed(Probed),
        Applied(Vec<AppliedEntry>),
        NotApplied(NotApplied),
        Detached(Detached),
        Moved(MountInfo),
    }

    pub(crate) struct AppliedEntry {
        pub(crate) outcome: Outcome,
        pub(crate) id: u64,
        pub(crate) attributes: u32,
    }

    pub(crate) struct NotApplied {
        pub(crate) entry: u32,
        pub(crate) error: ErrorReply,
        pub(crate) left: Vec<LeftEntry>,
    }

    pub(crate) struct LeftEntry {
        pub(crate) entry: u32,
        pub(crate) id: u64,
    }

    pub(crate) struct Detached {
        pub(crate) id: u64,
        pub(crate) attributes: u32,
    }

    pub(crate) struct Probed {
        pub(crate) target: Vec<u8>,
        pub(crate) id: Option<u64>,
        pub(crate) answer: ProbeAnswer,
    }

    pub(crate) enum ProbeAnswer {
        Alive,
        Stale { errno: i32 },
        Private,
        Absent,
    }

    pub(crate) enum Outcome {
        Mounted,
        AlreadyMounted,
    }

    pub(crate) struct Mounted {
        pub(crate) outcome: Outcome,
        pub(crate) mount: MountInfo,
    }

    pub(crate) struct MountInfo {
        pub(crate) id: u64,
        pub(crate) target: Vec<u8>,
        pub(crate) filesystem: String,
        pub(crate) root: Vec<u8>,
        pub(crate) attributes: u32,
        pub(crate) device: (u32, u32),
    }

    pub(crate) struct Unmounted {
        pub(crate) id: u64,
        pub(crate) target: Vec<u8>,
    }

    pub(crate) struct ListPage {
        pub(crate) mounts: Vec<MountInfo>,
        pub(crate) next: Option<u64>,
    }

    pub(crate) enum Explanation {
        Allowed {
            grant: String,
            attributes: u32,
            tmpfs: Option<TmpfsLimits>,
        },
        Denied(ErrorReply),
    }

    pub(crate) struct TmpfsLimits {
        pub(crate) size: u64,
        pub(crate) inodes: u64,
        pub(crate) mode: u32,
    }

    pub(crate) struct Status {
        pub(crate) version: String,
        pub(crate) protocol: u32,
        pub(crate) uid: u32,
        pub(crate) uptime_seconds: u64,
        pub(crate) roles: Vec<RoleReport>,
        pub(crate) limits: Limits,
        pub(crate) counters: Counters,
    }

    pub(crate) enum Role {
        Gate,
        Session,
        Warden,
        Mounter,
        Locker,
    }

    pub(crate) struct RoleReport {
        pub(crate) role: Role,
        pub(crate) uid: u32,
        pub(crate) capabilities: u64,
        pub(crate) bounding: u64,
        pub(crate) landlock: LandlockReport,
        pub(crate) system_calls: u32,
    }

    pub(crate) struct LandlockReport {
        pub(crate) abi: u32,
        pub(crate) readable_roots: Option<u32>,
        pub(crate) network: bool,
        pub(crate) abstract_sockets: bool,
        pub(crate) signals: bool,
    }

    pub(crate) struct Limits {
        pub(crate) connections: u32,
        pub(crate) connections_per_user: u32,
        pub(crate) mounts_per_user: u32,
        pub(crate) requests_per_second: u32,
        pub(crate) request_timeout_ms: u64,
        pub(crate) idle_timeout_ms: u64,
    }

    pub(crate) struct Counters {
        pub(crate) connections_open: u64,
        pub(crate) connections: u64,
        pub(crate) mounted: u64,
        pub(crate) already_mounted: u64,
        pub(crate) unmounted: u64,
        pub(crate) denied: u64,
        pub(crate) failed: u64,
        pub(crate) delayed: u64,
        pub(crate) killed: u64,
        pub(crate) remounted: u64,
        pub(crate) detached: u64,
        pub(crate) moved: u64,
    }
}

/// A message that both decoders read: the real type, its mirror, and how a
/// value of the first looks as the second.
pub(crate) trait Mirrored: serde::Serialize + serde::de::DeserializeOwned {
    type Mirror: for<'a> From<&'a Self> + PartialEq + std::fmt::Debug;

    /// What wincode reads from exactly these bytes, and what it writes for that.
    fn read(bytes: &[u8]) -> Option<(Self::Mirror, Vec<u8>)>;
}

macro_rules! mirrored {
    ($($name:ident)+) => {
        $(
            impl Mirrored for protocol::$name {
                type Mirror = $name;

                fn read(bytes: &[u8]) -> Option<($name, Vec<u8>)> {
                    let value: $name = wincode::deserialize_exact(bytes).ok()?;
                    let again = wincode::serialize(&value).ok()?;
                    Some((value, again))
                }
            }
        )+
    };
}

mirrored! { Hello HelloReply Request Reply }

/// What holds for any bytes: what is accepted has one spelling, and wincode
/// reads the same from it; what is refused for its form wincode refuses or
/// spells otherwise, too.
pub(crate) fn agree<T: Mirrored>(bytes: &[u8]) -> Result<T, DecodeError> {
    let decoded = frame::decode::<T>(bytes);
    let mirror = T::read(bytes);
    match (&decoded, &mirror) {
        (Ok(value), Some((mirror, again))) => {
            assert_eq!(mirror, &T::Mirror::from(value));
            assert_eq!(again, bytes);
            let frame = frame::encode(value).unwrap_or_default();
            assert_eq!(frame.get(4..), Some(bytes));
        }
        (Ok(_), None) => assert!(mirror.is_some(), "wincode refuses {bytes:02x?}"),
        (Err(DecodeError::Invalid(_)), _) | (Err(_), None) => {}
        (Err(refused), Some((mirror, again))) => {
            assert_ne!(again, bytes, "{refused}: wincode reads {mirror:?}");
        }
    }
    decoded
}

fn path(path: &protocol::AbsPath) -> Vec<u8> {
    path.as_bytes().to_vec()
}

impl From<protocol::Versions> for Versions {
    fn from(from: protocol::Versions) -> Self {
        Self {
            oldest: from.oldest,
            newest: from.newest,
        }
    }
}

impl From<&protocol::Hello> for Hello {
    fn from(from: &protocol::Hello) -> Self {
        Self {
            magic: from.magic,
            versions: from.versions.into(),
            features: from.features.bits(),
        }
    }
}

impl From<&protocol::HelloReply> for HelloReply {
    fn from(from: &protocol::HelloReply) -> Self {
        match from {
            protocol::HelloReply::Welcome(welcome) => Self::Welcome(Welcome {
                version: welcome.version,
                features: welcome.features.bits(),
                uid: welcome.uid,
            }),
            protocol::HelloReply::Refused(refusal) => Self::Refused(Refusal {
                versions: refusal.versions.into(),
                error: (&refusal.error).into(),
            }),
        }
    }
}

impl From<&protocol::ErrorReply> for ErrorReply {
    fn from(from: &protocol::ErrorReply) -> Self {
        Self {
            code: from.code.into(),
            reason: from.reason.map(u32::from),
            message: from.message.clone(),
            errno: from.errno,
            path: from.path.as_ref().map(path),
            mount: from.mount.map(u64::from),
        }
    }
}

impl From<&protocol::Request> for Request {
    fn from(from: &protocol::Request) -> Self {
        match from {
            protocol::Request::Perform(operation) => Self::Perform(operation.into()),
            protocol::Request::Explain(operation) => Self::Explain(operation.into()),
            protocol::Request::List { after } => Self::List {
                after: after.map(u64::from),
            },
            protocol::Request::Status => Self::Status,
            protocol::Request::Probe { target, timeout_ms } => Self::Probe {
                target: path(target),
                timeout_ms: timeout_ms.get(),
            },
            protocol::Request::Apply(batch) => Self::Apply(batch.iter().map(Mount::from).collect()),
        }
    }
}

impl From<&protocol::Mount> for Mount {
    fn from(mount: &protocol::Mount) -> Self {
        Self {
            kind: (&mount.kind).into(),
            target: path(&mount.target),
            options: mount.options.bits(),
            propagation: match mount.propagation {
                protocol::Propagation::Private => Propagation::Private,
                protocol::Propagation::Slave => Propagation::Slave,
                protocol::Propagation::Shared => Propagation::Shared,
            },
            passed: mount.passed.bits(),
            lease: mount.lease,
        }
    }
}

impl From<protocol::Outcome> for Outcome {
    fn from(outcome: protocol::Outcome) -> Self {
        match outcome {
            protocol::Outcome::Mounted => Self::Mounted,
            protocol::Outcome::AlreadyMounted => Self::AlreadyMounted,
        }
    }
}

impl From<&protocol::Operation> for Operation {
    fn from(from: &protocol::Operation) -> Self {
        match from {
            protocol::Operation::Mount(mount) => Self::Mount(mount.into()),
            protocol::Operation::Unmount(unmount) => Self::Unmount(Unmount {
                target: path(&unmount.target),
                lazy: unmount.lazy,
                id: unmount.id.map(u64::from),
                passed: unmount.passed,
            }),
            protocol::Operation::Remount(remount) => Self::Remount(Remount {
                target: path(&remount.target),
                set: remount.set.bits(),
                lift: remount.lift.as_ref().map(|lift| Lift {
                    attributes: lift.attributes.bits(),
                    kind: (&lift.kind).into(),
                }),
                id: remount.id.map(u64::from),
            }),
            protocol::Operation::Detach(detach) => Self::Detach(Detach {
                source: path(&detach.source),
                recursive: detach.recursive,
                options: detach.options.bits(),
                idmap: detach.idmap,
            }),
            protocol::Operation::Move(moved) => Self::Move(Move {
                from: path(&moved.from),
                to: path(&moved.to),
                id: moved.id.map(u64::from),
            }),
        }
    }
}

impl From<&protocol::Kind> for Kind {
    fn from(from: &protocol::Kind) -> Self {
        match from {
            protocol::Kind::Bind { source, recursive } => Self::Bind {
                source: path(source),
                recursive: *recursive,
            },
            protocol::Kind::Tmpfs { size, inodes, mode } => Self::Tmpfs {
                size: size.map(u64::from),
                inodes: inodes.map(u64::from),
                mode: mode.map(u32::from),
            },
            protocol::Kind::Block {
                device,
                filesystem,
                options,
            } => Self::Block {
                device: path(device),
                filesystem: filesystem.to_string(),
                options: options.iter().map(FilesystemOption::from).collect(),
            },
            protocol::Kind::Fuse {
                subtype,
                source,
                allow_other,
                default_permissions,
                max_read,
            } => Self::Fuse {
                subtype: subtype.to_string(),
                source: match source {
                    protocol::FuseSource::Subtype => FuseSource::Subtype,
                    protocol::FuseSource::Named(name) => FuseSource::Named(name.to_string()),
                    protocol::FuseSource::Device { device, block_size } => FuseSource::Device {
                        device: path(device),
                        block_size: block_size.map(u32::from),
                    },
                },
                allow_other: *allow_other,
                default_permissions: *default_permissions,
                max_read: *max_read,
            },
            protocol::Kind::Overlay { lower, upper } => Self::Overlay {
                lower: lower.iter().map(path).collect(),
                upper: upper.as_ref().map(|layer| UpperLayer {
                    upper: path(&layer.upper),
                    work: path(&layer.work),
                }),
            },
            protocol::Kind::Image { file, filesystem } => Self::Image {
                file: path(file),
                filesystem: match filesystem {
                    protocol::ImageType::Erofs => ImageType::Erofs,
                    protocol::ImageType::Squashfs => ImageType::Squashfs,
                },
            },
            protocol::Kind::Network {
                source,
                filesystem,
                options,
                secrets,
            } => Self::Network {
                source: source.to_string(),
                filesystem: filesystem.to_string(),
                options: options.iter().map(FilesystemOption::from).collect(),
                secrets: secrets.iter().map(FilesystemOption::from).collect(),
            },
        }
    }
}

impl From<&protocol::FilesystemOption> for FilesystemOption {
    fn from(from: &protocol::FilesystemOption) -> Self {
        Self {
            key: from.key.to_string(),
            value: from.value.clone().map(String::from),
        }
    }
}

impl From<&protocol::Reply> for Reply {
    fn from(from: &protocol::Reply) -> Self {
        match from {
            protocol::Reply::Error(error) => Self::Error(error.into()),
            protocol::Reply::Mounted(mounted) => Self::Mounted(Mounted {
                outcome: mounted.outcome.into(),
                mount: (&mounted.mount).into(),
            }),
            protocol::Reply::Unmounted(unmounted) => Self::Unmounted(Unmounted {
                id: unmounted.id.into(),
                target: path(&unmounted.target),
            }),
            protocol::Reply::List(page) => Self::List(ListPage {
                mounts: page.mounts.iter().map(MountInfo::from).collect(),
                next: page.next.map(u64::from),
            }),
            protocol::Reply::Explained(explanation) => Self::Explained(explanation.into()),
            protocol::Reply::Status(status) => Self::Status((&**status).into()),
            protocol::Reply::Remounted(mount) => Self::Remounted(mount.into()),
            protocol::Reply::Probed(probed) => Self::Probed(Probed {
                target: path(&probed.target),
                id: probed.id.map(u64::from),
                answer: match probed.answer {
                    protocol::ProbeAnswer::Alive => ProbeAnswer::Alive,
                    protocol::ProbeAnswer::Stale { errno } => ProbeAnswer::Stale { errno },
                    protocol::ProbeAnswer::Private => ProbeAnswer::Private,
                    protocol::ProbeAnswer::Absent => ProbeAnswer::Absent,
                },
            }),
            protocol::Reply::Applied(entries) => {
                let entry = |entry: &protocol::AppliedEntry| AppliedEntry {
                    outcome: entry.outcome.into(),
                    id: entry.id.into(),
                    attributes: entry.attributes.bits(),
                };
                Self::Applied(entries.iter().map(entry).collect())
            }
            protocol::Reply::NotApplied(failed) => {
                let left = |left: &protocol::LeftEntry| LeftEntry {
                    entry: left.entry,
                    id: left.id.into(),
                };
                Self::NotApplied(NotApplied {
                    entry: failed.entry,
                    error: (&failed.error).into(),
                    left: failed.left.iter().map(left).collect(),
                })
            }
            protocol::Reply::Detached(detached) => Self::Detached(Detached {
                id: detached.id.into(),
                attributes: detached.attributes.bits(),
            }),
            protocol::Reply::Moved(mount) => Self::Moved(mount.into()),
        }
    }
}

impl From<&protocol::MountInfo> for MountInfo {
    fn from(from: &protocol::MountInfo) -> Self {
        Self {
            id: from.id.into(),
            target: path(&from.target),
            filesystem: from.filesystem.clone(),
            root: path(&from.root),
            attributes: from.attributes.bits(),
            device: (from.device.major, from.device.minor),
        }
    }
}

impl From<&protocol::Explanation> for Explanation {
    fn from(from: &protocol::Explanation) -> Self {
        match from {
            protocol::Explanation::Allowed {
                grant,
                attributes,
                tmpfs,
            } => Self::Allowed {
                grant: grant.clone(),
                attributes: attributes.bits(),
                tmpfs: tmpfs.map(|limits| TmpfsLimits {
                    size: limits.size,
                    inodes: limits.inodes,
                    mode: limits.mode,
                }),
            },
            protocol::Explanation::Denied(error) => Self::Denied(error.into()),
        }
    }
}

impl From<&protocol::Status> for Status {
    fn from(from: &protocol::Status) -> Self {
        Self {
            version: from.version.clone(),
            protocol: from.protocol,
            uid: from.uid,
            uptime_seconds: from.uptime_seconds,
            roles: from.roles.iter().map(RoleReport::from).collect(),
            limits: Limits {
                connections: from.limits.connections,
                connections_per_user: from.limits.connections_per_user,
                mounts_per_user: from.limits.mounts_per_user,
                requests_per_second: from.limits.requests_per_second,
                request_timeout_ms: from.limits.request_timeout_ms,
                idle_timeout_ms: from.limits.idle_timeout_ms,
            },
            counters: Counters {
                connections_open: from.counters.connections_open,
                connections: from.counters.connections,
                mounted: from.counters.mounted,
                already_mounted: from.counters.already_mounted,
                unmounted: from.counters.unmounted,
                denied: from.counters.denied,
                failed: from.counters.failed,
                delayed: from.counters.delayed,
                killed: from.counters.killed,
                remounted: from.counters.remounted,
                detached: from.counters.detached,
                moved: from.counters.moved,
            },
        }
    }
}

impl From<&protocol::RoleReport> for RoleReport {
    fn from(from: &protocol::RoleReport) -> Self {
        Self {
            role: match from.role {
                protocol::Role::Gate => Role::Gate,
                protocol::Role::Session => Role::Session,
                protocol::Role::Warden => Role::Warden,
                protocol::Role::Mounter => Role::Mounter,
                protocol::Role::Locker => Role::Locker,
            },
            uid: from.uid,
            capabilities: from.capabilities,
            bounding: from.bounding,
            landlock: LandlockReport {
                abi: from.landlock.abi,
                readable_roots: from.landlock.readable_roots,
                network: from.landlock.network,
                abstract_sockets: from.landlock.abstract_sockets,
                signals: from.landlock.signals,
            },
            system_calls: from.system_calls,
        }
    }
}
