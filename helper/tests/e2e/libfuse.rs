//! `mountwarden-fusermount3` where programs look for `fusermount3`, and what libfuse does to call
//! it.

use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::Skip;
use crate::daemon::Daemon;
use crate::devices::open_fuse_to_all;
use crate::sandbox::{Sandbox, mount_tmpfs};

/// `daemon`, a normal user with an account on every system: some programs look it up.
pub(crate) const DAEMON: u32 = 1;

/// The setuid program of the system.
pub(crate) const REAL: &str = "/usr/bin/fusermount3";

/// A helper with a policy, and the user who has no right but what that grants.
pub(crate) struct Stand<'s> {
    sandbox: &'s Sandbox,
    pub(crate) daemon: Daemon,
    pub(crate) user: u32,
}

impl<'s> Stand<'s> {
    /// `@USER@` in the policy is that user.
    pub(crate) fn start(sandbox: &'s Sandbox, policy: &str) -> Result<Self, Skip> {
        open_fuse_to_all(sandbox)?;
        let user = if sandbox.is_root {
            DAEMON
        } else {
            geteuid().as_raw()
        };
        for name in ["home", "home/own", "home/own/a", "home/own/b"] {
            let place = sandbox.make_dir(name);
            if name != "home" && sandbox.is_root {
                chown(place, Some(user), Some(user)).unwrap();
            }
        }
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(sandbox.path("home/own"), private).unwrap();
        symlink("e2e", sandbox.path("bin/fusermount3")).unwrap();
        sandbox.policy(&policy.replace("@USER@", &user.to_string()));
        let daemon = Daemon::start(sandbox);
        // Some programs clear the environment.
        mount_tmpfs(Path::new("/run"));
        fs::create_dir("/run/mountwarden").unwrap();
        symlink(&daemon.socket, mountwarden_client::DEFAULT_SOCKET).unwrap();
        Ok(Self {
            sandbox,
            daemon,
            user,
        })
    }

    /// Stops the helper and starts it again.
    pub(crate) fn restart(self) -> Self {
        let Self {
            sandbox,
            daemon,
            user,
        } = self;
        assert!(daemon.stop().success());
        Self {
            sandbox,
            daemon: Daemon::start(sandbox),
            user,
        }
    }

    /// Starts the helper again with another policy.
    pub(crate) fn judged_by(self, policy: &str) -> Self {
        let policy = policy.replace("@USER@", &self.user.to_string());
        self.sandbox.policy(&policy);
        self.restart()
    }

    /// Puts it where every program of libfuse finds it.
    pub(crate) fn install(&self) -> Result<(), Skip> {
        let own = self.sandbox.path("bin/e2e");
        for name in ["fusermount3", "fusermount"] {
            let place = PathBuf::from("/usr/bin").join(name);
            if place.is_symlink() {
                continue;
            }
            let nothing = None::<&str>;
            mount(Some(&own), &place, nothing, MsFlags::MS_BIND, nothing)
                .map_err(|errno| Skip(format!("{} is not installed: {errno}", place.display())))?;
        }
        Ok(())
    }

    /// A place in the user's home, which nobody else may enter.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.sandbox.path(&format!("home/own/{name}"))
    }

    /// A program, as the user.
    pub(crate) fn run(&self, program: &str) -> Command {
        as_user(self.sandbox, program, self.user)
    }

    /// The stand-in.
    pub(crate) fn own(&self) -> String {
        self.sandbox.path("bin/fusermount3").display().to_string()
    }

    /// The stand-in, as the user.
    pub(crate) fn fusermount(&self) -> Command {
        self.run(&self.own())
    }

    /// A file or directory for the user to write to.
    pub(crate) fn give(&self, path: &Path) {
        if self.sandbox.is_root {
            chown(path, Some(self.user), Some(self.user)).unwrap();
        }
    }

    /// Runs something as the user, with a text as its input; gives what it prints.
    pub(crate) fn shell(&self, script: &str, file: &Path, input: &str) -> (i32, String) {
        let mut shell = self.run("/bin/sh");
        shell.args(["-c", script, "sh"]).arg(file);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    }
}

/// A program that serves, which does not outlive its case.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    pub(crate) fn wait(mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program with an environment of its own.
pub(crate) fn as_user(sandbox: &Sandbox, program: &str, user: u32) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.env("HOME", sandbox.path("home/own"));
    command.stdin(Stdio::null()).current_dir(sandbox.path(""));
    if sandbox.is_root {
        command.uid(user).gid(user);
    }
    command
}

/// A call as libfuse makes it, with a socket.
pub(crate) struct Call {
    child: Child,
    ours: UnixStream,
}

impl Call {
    pub(crate) fn begin(mut command: Command) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        Self { child, ours }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The connection, if one comes: with one byte, and alone.
    pub(crate) fn received(&self) -> Option<OwnedFd> {
        let mut bytes = [1; 16];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg(
            &self.ours,
            &mut parts,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let mut received = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                received.extend(descriptors);
            }
        }
        match message.unwrap().bytes {
            0 => assert_eq!(received.len(), 0),
            length => assert_eq!((length, bytes[0], received.len()), (1, 0, 1)),
        }
        received.pop()
    }

    /// Waits for its end; gives its status and what it printed.
    pub(crate) fn ended(self) -> (i32, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.child.wait_with_output().unwrap();
        (
            status.code().unwrap(),
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        )
    }

    /// Closes this end of the socket, as the end of a program does.
    pub(crate) fn close(self) -> Child {
        self.child
    }
}

/// Calls a program that mounts nothing or ends when it has mounted.
pub(crate) fn call(command: Command) -> (i32, String, String, Option<OwnedFd>) {
    let call = Call::begin(command);
    let connection = call.received();
    let (status, stdout, stderr) = call.ended();
    (status, stdout, stderr, connection)
}
