//! Options of file systems, from a request to the calls that the kernel gets.

mod expected;
mod granted;

use std::path::Path;
use std::sync::LazyLock;

use self::expected::Expected;
use self::granted::granted;
use mountwarden_policy::{Accounts, Peer, Permit, Policy, Verdict};
use mountwarden_protocol::{
    AbsPath, FilesystemOption, FilesystemOptions, FuseSource, Kind, Mount, MountOptions, Operation,
    Passed, Propagation, UpperLayer,
};
use mountwarden_recorded::{Given, kernel, make};
use nix::errno::Errno;

/// Beneath `/run/vms` little is granted, with `nosuid` and `nodev`; beneath `/run/open`
/// little is forced but `ro`.
const POLICY: &str = r#"
version = 1
[[grant]]
name = "strict"
users = [1000, 4294967294]
target = ["/run/vms"]
  [grant.tmpfs]
  max_size = "1GiB"
  max_inodes = 4096
  [grant.block]
  device = ["/dev/vg0/*"]
  filesystems = ["ext4", "xfs"]
  options = ["noatime", "commit=5", "data=*"]
  [grant.fuse]
  subtypes = ["sshfs", "vol-*"]
  sources = ["host:*"]
  [grant.overlay]
  layer = ["/srv/layers"]
  upper = ["/srv/upper"]
  [grant.image]
  file = ["/srv/images"]
  filesystems = ["erofs", "squashfs"]
  loop_devices = { first = 100, count = 4 }
  [grant.network]
  source = ["files:/srv/vm-*"]
  filesystems = ["nfs4", "cifs"]
  options = ["addr=192.0.2.7", "soft", "username=*"]
  secrets = ["password", "pass2"]
[[grant]]
name = "open"
users = [1000, 4294967294]
target = ["/run/open"]
force = []
  [grant.tmpfs]
  max_size = 9223372036854775807
  max_inodes = 9223372036854775807
  [grant.block]
  device = ["/dev/vg0/*"]
  filesystems = ["ext4"]
  options = ["data=*"]
  read_only = true
  [grant.fuse]
  subtypes = ["*"]
  sources = ["*"]
  allow_other = true
  default_permissions = true
  read_only = true
  device = ["/dev/vg0/*"]
  [grant.overlay]
  layer = ["/srv/layers"]
  max_layers = 2
  [grant.image]
  file = ["/srv/images"]
  filesystems = ["squashfs"]
  [grant.network]
  source = ["tag"]
  filesystems = ["9p"]
  options = ["trans=virtio"]
  read_only = true
"#;

struct Nobody;

impl Accounts for Nobody {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }

    fn gid(&self, _: &str) -> Option<u32> {
        None
    }
}

static GRANTED: LazyLock<Option<Policy>> =
    LazyLock::new(|| Policy::parse(Path::new("policy.toml"), POLICY, &Nobody).ok());

const ERRNOS: [Errno; 8] = [
    Errno::EOPNOTSUPP,
    Errno::ENOTBLK,
    Errno::EINVAL,
    Errno::ENODEV,
    Errno::EPERM,
    Errno::EBUSY,
    Errno::EROFS,
    Errno::ELOOP,
];

/// What was asked, and how the kernel fares.
struct Asked {
    kind: Kind,
    options: MountOptions,
    strict: bool,
    peer: Peer,
    faults: Vec<(usize, Errno)>,
    given: Given,
    /// The device that the kernel shows.
    shown: (u32, u32),
}

/// Nine bytes: the kind; mount options; bits; a place and an errno, twice; a user's group
/// and the size of blocks. Then lines: two values of the kind, and options or layers. A
/// line with `!` before it is a secret.
fn asked(data: &[u8]) -> Option<Asked> {
    let (&[kind, options, bits, at, errno, then, other, group, size], text) =
        data.split_first_chunk()?;
    let fault = |at: u8, errno: u8| {
        let errno = ERRNOS.get(usize::from(errno & 7))?;
        (at != u8::MAX).then_some((usize::from(at), *errno))
    };
    let bit = |number: u8| bits & (1 << number) != 0;
    let mut lines = std::str::from_utf8(text).ok()?.split('\n');
    let (first, second) = (lines.next()?, lines.next()?);
    let rest: Vec<&str> = lines.collect();
    let (secret, plain): (Vec<_>, Vec<_>) = rest.iter().partition(|line| line.starts_with('!'));
    let plain = || set(plain.iter().copied().copied());
    let kind = match kind % 6 {
        0 => Kind::Tmpfs {
            size: first.parse().ok(),
            inodes: second
                .parse::<u64>()
                .ok()
                .and_then(|count| count.try_into().ok()),
            mode: rest
                .first()
                .and_then(|mode| u32::from_str_radix(mode, 8).ok()?.try_into().ok()),
        },
        1 => Kind::Block {
            filesystem: first.parse().ok()?,
            device: AbsPath::new(second).ok()?,
            options: plain()?,
        },
        2 => Kind::Fuse {
            subtype: first.parse().ok()?,
            source: match second.strip_prefix('/') {
                Some(_) => FuseSource::Device {
                    device: AbsPath::new(second).ok()?,
                    block_size: (512_u32 << (size % 8)).try_into().ok(),
                },
                None if second.is_empty() => FuseSource::Subtype,
                None => FuseSource::Named(second.parse().ok()?),
            },
            allow_other: bit(3),
            default_permissions: bit(4),
            max_read: rest.first().and_then(|bytes| bytes.parse().ok()),
        },
        3 => {
            let lower: Option<Vec<AbsPath>> =
                rest.iter().map(|path| AbsPath::new(*path).ok()).collect();
            let upper = (!first.is_empty()).then(|| {
                let (upper, work) = (AbsPath::new(first).ok()?, AbsPath::new(second).ok()?);
                Some(UpperLayer { upper, work })
            });
            Kind::Overlay {
                lower: lower?.try_into().ok()?,
                upper: match upper {
                    None => None,
                    Some(upper) => Some(upper?),
                },
            }
        }
        4 => Kind::Image {
            filesystem: first.parse().ok()?,
            file: AbsPath::new(second).ok()?,
        },
        _ => Kind::Network {
            filesystem: first.parse().ok()?,
            source: second.parse().ok()?,
            options: plain()?,
            secrets: set(secret.iter().filter_map(|line| line.strip_prefix('!')))?
                .try_into()
                .ok()?,
        },
    };
    let device = (8, 1);
    Some(Asked {
        kind,
        options: MountOptions::from_bits(u32::from(options & 31))?,
        strict: !bit(0),
        peer: Peer {
            uid: if bit(1) { 4_294_967_294 } else { 1000 },
            gid: u32::from(group) << 24 | 7,
            groups: vec![],
        },
        faults: [fault(at, errno), fault(then, other)]
            .into_iter()
            .flatten()
            .collect(),
        given: Given {
            device,
            target_mode: if bit(2) { 0o100_644 } else { 0o40_755 },
        },
        shown: match (bit(5), bit(6)) {
            (false, _) => device,
            (true, false) => (0, 50),
            (true, true) => (8, 2),
        },
    })
}

fn set<'a>(lines: impl Iterator<Item = &'a str>) -> Option<FilesystemOptions> {
    let options: Option<Vec<FilesystemOption>> = lines.map(|line| line.parse().ok()).collect();
    options?.try_into().ok()
}

/// What reaches the kernel is what the request says and the policy grants, written down
/// here anew from their documents: each option is a call of its own, then the file system
/// is made, then its mount, which has the attributes that are forced; and not one call
/// more, whichever fails. What is not granted makes no call. Every descriptor is closed
/// but that of the mount. No secret is in an error.
///
/// # Panics
/// When that does not hold.
#[expect(
    clippy::expect_used,
    clippy::panic,
    reason = "what does not hold ends a fuzz target"
)]
pub fn options(data: &[u8]) {
    let Some(asked) = asked(data) else {
        return;
    };
    let policy = GRANTED.as_ref().expect("the policy is one");
    let target = if asked.strict {
        "/run/vms/a"
    } else {
        "/run/open/a"
    };
    let operation = Operation::Mount(Mount {
        kind: asked.kind.clone(),
        target: AbsPath::new(target).expect("a path"),
        options: asked.options,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    });
    let permit = match policy.judge(&asked.peer, &operation) {
        Verdict::Allowed(Permit::Mount(permit)) => permit,
        Verdict::Allowed(_) => panic!("another permit than was asked for"),
        Verdict::Denied(_) => {
            assert!(!granted(&asked), "denied what is granted: {operation:?}");
            return;
        }
    };
    assert!(
        granted(&asked),
        "allowed what is not granted: {operation:?}"
    );

    kernel::begin(&asked.faults, asked.shown);
    let made = make(policy, &permit, asked.given).expect("no bind was asked for");
    let mut expected = Expected {
        calls: vec![],
        faults: &asked.faults,
    };
    let outcome = expected.mount(&asked);
    assert_eq!(kernel::calls(), expected.calls, "{operation:?}");
    assert_eq!(made.is_ok(), outcome.is_ok(), "{operation:?}");
    assert_eq!(kernel::open(), usize::from(made.is_ok()), "{operation:?}");
    if let (Err(error), Kind::Network { secrets, .. }) = (&made, &asked.kind) {
        let mut shown = operation_without_secrets(&asked);
        shown.push_str(ERROR_WORDS);
        for value in secrets.iter().filter_map(|secret| secret.value.as_ref()) {
            let value = value.as_str();
            let told = value.len() > 8 && error.message.contains(value) && !shown.contains(value);
            assert!(!told, "a secret is in an error");
        }
    }
}

/// What an error about a network file system says in any case.
const ERROR_WORDS: &str = "cannot mount  as : this kernel has no such file system; load its \
    module, which the helper cannot; cannot make the file system for /run/vms/a";

fn operation_without_secrets(asked: &Asked) -> String {
    let Kind::Network {
        source, filesystem, ..
    } = &asked.kind
    else {
        return String::new();
    };
    let mut text = format!("{source} as {filesystem}: ");
    for errno in ERRNOS {
        text.push_str(errno.desc());
    }
    text
}
