//! What a hostile user does to the helper, in a process of its own.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use mountwarden_client::protocol::{Hello, HelloReply, Request, frame};
use mountwarden_client::{Bind, Client, Operation, Tmpfs};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::Outcome;
use crate::server::{Place, Server};

/// This program again, as the hostile user.
const FLOOD: &str = "--flood";

/// The hostile user; nobody's number on most machines.
pub(crate) const UID: u32 = 64_001;

/// One user's connections by default, and more, so that some are refused.
pub(crate) const THREADS: usize = 20;

/// Connections of the silent.
pub(crate) const SILENT: usize = 10_000;

/// The one that competes for the processors as any program may.
const BUSY: &str = "cores busy, helper left alone";

/// What one thread does over and over. An error is what it wanted.
type Attack = fn(&Target) -> Outcome<()>;

/// Each by its name.
pub(crate) const ATTACKS: [(&str, Attack); 13] = [
    (BUSY, spin),
    ("the same, at lowest priority", spin),
    ("10,000 silent connections", silent),
    ("connect, close", connect),
    ("bad frames", bad_frame),
    ("one byte a second", trickle),
    ("253 descriptors a message", descriptors),
    ("a hung file system", hung),
    ("explain", explain),
    ("list", list),
    ("list among 10,000 mounts", list),
    ("denied mounts", denied),
    ("mounts and unmounts", pairs),
];

/// Where it is done.
pub(crate) struct Target {
    socket: PathBuf,
    root: PathBuf,
    thread: usize,
}

/// Runs as the hostile user when this program was started for that.
pub(crate) fn is_flood(arguments: &[String]) -> bool {
    let [flood, name, socket, root] = arguments else {
        return false;
    };
    let attack = ATTACKS.iter().find(|(known, _)| known == name);
    let (true, Some(&(_, attack))) = (flood == FLOOD, attack) else {
        return false;
    };
    if name != BUSY && !yields() {
        return true;
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let target = Target {
                socket: PathBuf::from(socket),
                root: PathBuf::from(root),
                thread,
            };
            scope.spawn(move || {
                loop {
                    let _ = attack(&target);
                }
            });
        }
    });
    true
}

/// Leaves the processors to everybody else (`SCHED_IDLE` in `sched(7)`), so that
/// what is measured is the helper's work for the flood and not the flood's own.
fn yields() -> bool {
    let pid = std::process::id().to_string();
    let status = Command::new("chrt")
        .args(["--idle", "--pid", "0", &pid])
        .status();
    status.is_ok_and(|status| status.success())
}

/// A hostile process; it ends with this value.
pub(crate) struct Flood(Child);

impl Flood {
    /// Starts it.
    pub(crate) fn start(name: &str, place: &Place, server: &Server) -> Outcome<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([FLOOD, name]);
        command.arg(&server.socket).arg(place.at("noisy"));
        command.uid(UID).gid(UID).stdin(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Flood {
    /// Ends it; one that has ended by itself was none.
    pub(crate) fn end(&mut self) -> Outcome<()> {
        if let Some(status) = self.0.try_wait()? {
            return Err(format!("the flood ended by itself ({status}): is chrt missing?").into());
        }
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill() {
            println!("a flood may still run: {error}");
        }
    }
}

impl Target {
    /// A connection after its handshake.
    fn greet(&self) -> Outcome<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        frame::write(&mut stream, &Hello::default())?;
        match frame::decode(&frame::read(&mut stream)?)? {
            HelloReply::Welcome(_) => Ok(stream),
            HelloReply::Refused(refusal) => Err(refusal.error.message.into()),
        }
    }

    fn own(&self) -> PathBuf {
        self.root.join(self.thread.to_string())
    }

    fn source(&self) -> Outcome<PathBuf> {
        let above = self.root.parent().ok_or("no directory above")?;
        Ok(above.join("source"))
    }
}

fn spin(_: &Target) -> Outcome<()> {
    // The time is read without the kernel (`vdso(7)`).
    UNIX_EPOCH.elapsed()?;
    Ok(())
}

fn silent(target: &Target) -> Outcome<()> {
    let mut kept = Vec::new();
    for _ in 0..SILENT / THREADS {
        let stream = UnixStream::connect(&target.socket)?;
        kept.push(stream);
    }
    let mut greeted = Vec::new();
    // Refused ones are over; those that were served stay as long as they may.
    for mut stream in kept {
        if frame::write(&mut stream, &Hello::default()).is_ok() {
            greeted.push(stream);
        }
    }
    std::thread::sleep(Duration::from_mins(10));
    Ok(())
}

fn connect(target: &Target) -> Outcome<()> {
    UnixStream::connect(&target.socket)?;
    Ok(())
}

fn bad_frame(target: &Target) -> Outcome<()> {
    let mut stream = target.greet()?;
    stream.write_all(&[0xff; 100])?;
    frame::read(&mut stream)?;
    Ok(())
}

fn trickle(target: &Target) -> Outcome<()> {
    let mut stream = target.greet()?;
    for byte in frame::encode(&Request::Status)?.iter().cycle() {
        stream.write_all(&[*byte])?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn descriptors(target: &Target) -> Outcome<()> {
    let mut stream = target.greet()?;
    let file = File::open("/")?;
    let numbers: Vec<RawFd> = vec![file.as_raw_fd(); 253];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let bytes = frame::encode(&Request::Status)?;
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    frame::read(&mut stream)?;
    Ok(())
}

fn hung(target: &Target) -> Outcome<()> {
    let mut client = Client::connect_to(&target.socket)?;
    client.mount(Tmpfs::new(target.root.join("hung/beneath"))?)?;
    Ok(())
}

/// The same request for as long as the connection serves.
fn over_and_over(target: &Target, ask: impl Fn(&mut Client) -> Outcome<()>) -> Outcome<()> {
    let mut client = Client::connect_to(&target.socket)?;
    loop {
        ask(&mut client)?;
    }
}

fn explain(target: &Target) -> Outcome<()> {
    let operation = Operation::from(Bind::new(target.source()?, target.own())?);
    over_and_over(target, |client| {
        client.explain(operation.clone())?;
        Ok(())
    })
}

fn list(target: &Target) -> Outcome<()> {
    over_and_over(target, |client| {
        client.list()?;
        Ok(())
    })
}

fn denied(target: &Target) -> Outcome<()> {
    let outside = Path::new("/mnt/nowhere");
    over_and_over(target, |client| {
        // The denial is what is asked for.
        let _ = client.mount(Tmpfs::new(outside)?);
        Ok(())
    })
}

fn pairs(target: &Target) -> Outcome<()> {
    over_and_over(target, |client| {
        let mounted = client.mount(Bind::new(target.source()?, target.own())?)?;
        client.unmount(&mounted)?;
        Ok(())
    })
}
