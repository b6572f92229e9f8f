//! A mount namespace of its own.

use std::fmt::Display;
use std::fs;
use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::Outcome;

/// How the process got its mount namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// As root.
    Root,
    /// Inside a user namespace, where the user keeps its own number.
    User,
}

impl Namespace {
    /// Enters it. Only a process with one thread may enter a user namespace.
    pub(crate) fn enter() -> Result<Self, String> {
        let (uid, gid) = (geteuid(), getegid());
        let (namespace, flags) = if uid.is_root() {
            (Self::Root, CloneFlags::CLONE_NEWNS)
        } else {
            let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
            (Self::User, both)
        };
        unshare(flags).map_err(failed("this system allows no mount namespace"))?;
        if namespace == Self::User {
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("{uid} {uid} 1")),
                ("gid_map", format!("{gid} {gid} 1")),
            ] {
                fs::write(format!("/proc/self/{file}"), text).map_err(failed(file))?;
            }
        }
        // The namespace is a copy: without this, its mounts reach the host's.
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .map_err(failed("cannot make every mount private"))?;
        Ok(namespace)
    }

    /// Starts a program that is to hold what the helper needs. A user's
    /// capabilities pass to it only as ambient ones, which are raised for this
    /// alone.
    pub(crate) fn start<T>(self, start: impl FnOnce() -> io::Result<T>) -> Outcome<T> {
        let mut keep = CapsHashSet::new();
        if self == Self::User {
            keep.extend([Capability::CAP_SYS_ADMIN, Capability::CAP_SETPCAP]);
            caps::set(None, CapSet::Inheritable, &keep)?;
            caps::set(None, CapSet::Ambient, &keep)?;
        }
        let started = start();
        if self == Self::User {
            caps::clear(None, CapSet::Ambient)?;
            caps::clear(None, CapSet::Inheritable)?;
        }
        Ok(started?)
    }
}

fn failed<E: Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}
