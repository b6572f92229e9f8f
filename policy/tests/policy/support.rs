//! What the tests build their cases from.

use std::path::Path;

use mountwarden_policy::{Accounts, Denial, Peer, Policy, Verdict};
use mountwarden_protocol::{
    AbsPath, Kind, Mount, MountOptions, Operation, Passed, Propagation, TmpfsInodes, TmpfsSize,
    Unmount,
};

/// The accounts of the machine that the tests pretend to be on.
pub(crate) struct Names;

impl Accounts for Names {
    fn uid(&self, user: &str) -> Option<u32> {
        // As a C library would: the name ends at the first NUL.
        match user.split('\0').next().unwrap_or_default() {
            "root" => Some(0),
            "qemu" | "qemu-too" => Some(1000),
            "ceph" => Some(1001),
            "a/b" | "." | ".." => Some(1002),
            "{uid}" => Some(1003),
            "proc" => Some(1004),
            _ => None,
        }
    }

    fn gid(&self, group: &str) -> Option<u32> {
        match group {
            "root" => Some(0),
            "kvm" => Some(36),
            "users" => Some(100),
            _ => None,
        }
    }
}

pub(crate) fn policy(text: &str) -> Policy {
    Policy::parse(Path::new("policy.toml"), text, &Names).unwrap()
}

/// The policy of one grant; `lines` is all of it but the header and the name.
pub(crate) fn grant(lines: &str) -> Policy {
    policy(&format!("version = 1\n[[grant]]\nname = 'g'\n{lines}"))
}

pub(crate) fn peer(uid: u32) -> Peer {
    Peer {
        uid,
        gid: 9000,
        groups: Vec::new(),
    }
}

pub(crate) fn path(text: &str) -> AbsPath {
    AbsPath::new(text).unwrap()
}

pub(crate) fn size(bytes: u64) -> TmpfsSize {
    TmpfsSize::try_from(bytes).unwrap()
}

pub(crate) fn inodes(count: u64) -> TmpfsInodes {
    TmpfsInodes::try_from(count).unwrap()
}

pub(crate) fn mount(kind: Kind, target: &str, options: MountOptions) -> Operation {
    Operation::Mount(Mount {
        kind,
        target: path(target),
        options,
        propagation: Propagation::Private,
        passed: Passed::empty(),
        lease: false,
    })
}

pub(crate) fn bind_kind(source: &str) -> Kind {
    Kind::Bind {
        source: path(source),
        recursive: false,
    }
}

pub(crate) fn bind(source: &str, target: &str) -> Operation {
    mount(bind_kind(source), target, MountOptions::empty())
}

pub(crate) fn recursive_bind(source: &str, target: &str) -> Operation {
    let kind = Kind::Bind {
        source: path(source),
        recursive: true,
    };
    mount(kind, target, MountOptions::empty())
}

pub(crate) fn tmpfs_kind(bytes: Option<u64>, count: Option<u64>) -> Kind {
    Kind::Tmpfs {
        size: bytes.map(size),
        inodes: count.map(inodes),
        mode: None,
    }
}

pub(crate) fn tmpfs(bytes: Option<u64>, count: Option<u64>, target: &str) -> Operation {
    mount(tmpfs_kind(bytes, count), target, MountOptions::empty())
}

pub(crate) fn unmount(target: &str) -> Operation {
    Operation::Unmount(Unmount {
        target: path(target),
        lazy: false,
        id: None,
        passed: false,
    })
}

pub(crate) fn denied(policy: &Policy, peer: &Peer, operation: &Operation) -> Denial {
    match policy.judge(peer, operation) {
        Verdict::Denied(denial) => denial,
        Verdict::Allowed(permit) => panic!("allowed: {permit:?}"),
    }
}
