//! A helper that does what a script says: what a real helper cannot be made to do.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mountwarden_client::protocol::{
    Features, Hello, HelloReply, Refusal, Reply, Request, VERSION, Welcome, frame,
};
use mountwarden_client::{
    AbsPath, Counters, DeviceNumber, ErrorCode, ErrorReply, LandlockReport, Limits,
    MountAttributes, MountId, MountInfo, Mounted, Outcome, Role, RoleReport, Status, Unmounted,
};
use tempfile::TempDir;

/// The user that every scripted welcome names.
pub(crate) const UID: u32 = 1234;

/// How long the helper waits for a client that has gone wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the helper does next on a connection; after the last step it closes it.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Reads a frame; the first of a connection is the hello, others are recorded.
    Read,
    /// Writes bytes.
    Send(Vec<u8>),
    /// Writes bytes one at a time, a pause before each.
    Trickle(Vec<u8>, Duration),
    /// Says nothing more, and keeps the connection until the test ends.
    Hold,
}

/// One connection's steps.
pub(crate) type Script = Vec<Step>;

/// A scripted helper at a socket of its own.
pub(crate) struct Fake {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Vec<Request>>>,
    _directory: TempDir,
}

impl Fake {
    /// A helper that serves one connection for each script, in order.
    pub(crate) fn new(scripts: Vec<Script>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("helper.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let thread = std::thread::spawn(move || serve(&listener, scripts, &stopped, &count));
        Self {
            path,
            stop,
            ended,
            thread,
            _directory: directory,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until so many connections have come to the end of their scripts.
    pub(crate) fn wait_for_ended(&self, connections: usize) {
        while self.ended.load(Ordering::SeqCst) < connections {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The requests of each connection that was accepted.
    pub(crate) fn finish(self) -> Vec<Vec<Request>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Serves each connection by a thread of its own.
fn serve(
    listener: &UnixListener,
    scripts: Vec<Script>,
    stop: &AtomicBool,
    ended: &Arc<AtomicUsize>,
) -> Vec<Vec<Request>> {
    let mut sessions = Vec::new();
    let mut scripts = scripts.into_iter();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // A connection beyond the script is recorded and closed.
                let script = scripts.next().unwrap_or_default();
                let ended = Arc::clone(ended);
                sessions.push(std::thread::spawn(move || {
                    let mut requests = Vec::new();
                    let held = act(&stream, script, &mut requests).then_some(stream);
                    ended.fetch_add(1, Ordering::SeqCst);
                    (requests, held)
                }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    let ended = sessions.into_iter().map(|session| session.join().unwrap());
    ended.map(|(requests, _held)| requests).collect()
}

/// Whether the connection is to be kept.
fn act(mut stream: &UnixStream, script: Script, requests: &mut Vec<Request>) -> bool {
    stream.set_nonblocking(false).unwrap();
    // Only a test that fails comes to this.
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeted = false;
    for step in script {
        match step {
            Step::Read => {
                let Ok(bytes) = frame::read(&mut stream) else {
                    return false;
                };
                if greeted {
                    requests.push(frame::decode(&bytes).unwrap());
                } else {
                    let hello: Hello = frame::decode(&bytes).unwrap();
                    assert_eq!(hello, Hello::default());
                    greeted = true;
                }
            }
            Step::Send(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return false;
                }
            }
            Step::Trickle(bytes, pause) => {
                for byte in bytes {
                    std::thread::sleep(pause);
                    if stream.write_all(&[byte]).is_err() {
                        return false;
                    }
                }
            }
            Step::Hold => return true,
        }
    }
    false
}

/// A script that welcomes the client and then takes these steps.
pub(crate) fn welcomed(steps: impl IntoIterator<Item = Step>) -> Script {
    [Step::Read, send_hello(&HelloReply::Welcome(welcome()))]
        .into_iter()
        .chain(steps)
        .collect()
}

/// A script that welcomes the client and answers requests with these replies.
pub(crate) fn answering(replies: &[Reply]) -> Script {
    welcomed(replies.iter().flat_map(|reply| [Step::Read, send(reply)]))
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: VERSION,
        features: Features::empty(),
        uid: UID,
    }
}

pub(crate) fn send(reply: &Reply) -> Step {
    Step::Send(frame::encode(reply).unwrap())
}

pub(crate) fn send_hello(reply: &HelloReply) -> Step {
    Step::Send(frame::encode(reply).unwrap())
}

/// The refusal that a helper at its limit writes.
pub(crate) fn at_limit() -> HelloReply {
    HelloReply::Refused(Refusal::new(ErrorReply::new(
        ErrorCode::LimitReached,
        "16 connections of user 1234 are open, and no more are allowed: close one",
    )))
}

pub(crate) fn path(text: &str) -> AbsPath {
    AbsPath::new(text).unwrap()
}

pub(crate) fn id(number: u64) -> MountId {
    MountId::try_from(number).unwrap()
}

pub(crate) fn info(number: u64) -> MountInfo {
    MountInfo {
        id: id(number),
        target: path("/run/vms/7/scratch"),
        filesystem: "tmpfs".to_owned(),
        root: path("/"),
        attributes: MountAttributes::NO_SUID | MountAttributes::NO_DEV,
        device: DeviceNumber {
            major: 0,
            minor: 41,
        },
    }
}

pub(crate) fn mounted(outcome: Outcome) -> Reply {
    Reply::Mounted(Mounted {
        outcome,
        mount: info(77),
    })
}

pub(crate) fn unmounted() -> Reply {
    Reply::Unmounted(Unmounted {
        id: id(77),
        target: path("/run/vms/7/scratch"),
    })
}

/// A status with every sort of value in it.
pub(crate) fn status() -> Status {
    let landlock = LandlockReport {
        abi: 7,
        readable_roots: None,
        network: true,
        abstract_sockets: true,
        signals: true,
    };
    let role = |role, capabilities, readable_roots| RoleReport {
        role,
        uid: 998,
        capabilities,
        bounding: 0,
        landlock: LandlockReport {
            readable_roots,
            ..landlock
        },
        system_calls: 31,
    };
    Status {
        version: "0.1.0".to_owned(),
        protocol: 1,
        uid: UID,
        uptime_seconds: 3723,
        roles: vec![
            role(Role::Session, 0, Some(2)),
            role(Role::Mounter, 1 << 21, None),
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
