//! The mounter: holds `CAP_SYS_ADMIN` for one connection.
//!
//! It reads orders from its session, judges each again with the identity that
//! the kernel attested, checks every descriptor, and mounts. It resolves no
//! path and reads no byte of the client.
#![forbid(unsafe_code)]

mod batch;
mod count;
mod detached;
mod device;
mod directory;
mod ending;
mod existing;
mod files;
mod filesystem;
mod idmap;
pub(crate) mod layout;
mod location;
mod lock;
mod mount;
mod moving;
mod origin;
mod remount;
mod setup;
mod unmount;
mod work;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mountwarden_policy::{IdMaps, Kinds, Permit, Policy, Verdict};
use mountwarden_protocol::{
    ErrorCode, ErrorReply, Kind, MountId, MountInfo, Mounted, Operation, Outcome, Passed, Reply,
    RoleReport, frame,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use thiserror::Error;

pub(crate) use self::ending::end_lease;
use self::setup::{Descriptors, confine};
use crate::audit::{By, Record, Subject};
use crate::board::{Board, Count, MountCount};
use crate::budget::Budget;
use crate::confine::{ConfineError, Confined, Filter, Mounter};
use crate::leases::Lessee;
use crate::list;
use crate::locker::Locker;
use crate::order::{ChannelError, Order, OrderReply};
use crate::peer::AttestedPeer;
use crate::sys::{self, process};
use crate::table::{self, Source};
use crate::{children, session};

/// What a mounter gets from the warden.
pub(crate) struct Context<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) board: Board,
    pub(crate) peer: &'a AttestedPeer,
    /// The place of the peer's user on the board.
    pub(crate) place: usize,
    /// What the peer's user has on the board.
    pub(crate) mounts: MountCount,
    pub(crate) budget: Budget,
    /// What the peer is granted.
    pub(crate) kinds: Kinds,
    pub(crate) filter: &'a Filter,
    pub(crate) locker: Option<&'a Locker>,
    pub(crate) source: Source,
    pub(crate) warden: &'a RoleReport,
    /// The warden's process.
    pub(crate) parent: Pid,
    pub(crate) started: Instant,
}

/// Why a mounter ends before its session does.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("setting up failed: {0}")]
    Kernel(#[from] Errno),
    #[error("order channel: {0}")]
    Channel(#[from] ChannelError),
    #[error("the session broke the order protocol: {0}")]
    Violation(&'static str),
    #[error("the audit log cannot be written: {0}")]
    Audit(Errno),
    #[error("a leased mount is still there, as the audit line says")]
    Lease,
}

/// Serves one connection until its session is gone.
pub(crate) fn run(
    context: &Context<'_>,
    order: &OwnedFd,
    lock: &OwnedFd,
    lessees: &OwnedFd,
    client: &OwnedFd,
) -> Result<(), Ended> {
    let locker = context.locker.map_or(lock.as_fd(), AsFd::as_fd);
    let inherited = [
        order.as_fd(),
        lock.as_fd(),
        lessees.as_fd(),
        client.as_fd(),
        locker,
    ];
    let (descriptors, lessees) = Descriptors::place(inherited, context)?;
    let confined = confine(context)?;
    let user = u32::try_from(context.place).map_err(|_| Errno::EOVERFLOW)?;
    let limit = context.policy.limits().connections_per_user;
    let mut mounter = Worker {
        context,
        descriptors,
        confined,
        lessee: Lessee::new(context.board.leases(), lessees, user, limit),
        batch: Vec::new(),
    };
    mounter.serve()
}

/// How many requests a connection counts as: its two forks and confinements take
/// about as long as so many.
const CONNECTION_WEIGHT: u32 = 10;
/// As [`CONNECTION_WEIGHT`], of what takes the locker: for the forks, and the namespaces
/// of its child, for which others wait.
const LOCKER_WEIGHT: u32 = 5;
/// Bytes of one page of a list. One mount alone may take more, and still fits into
/// a message.
const LIST_PAGE: usize = 6 * 1024;

/// What came of the wait for a turn.
enum Admission {
    Granted,
    Refused(ErrorReply),
    /// There is nobody to work for any more.
    SessionGone,
}

/// What came of a request to mount.
struct Made {
    mounted: Mounted,
    handed: Option<Handed>,
    /// What it maps, where it was made ID-mapped.
    maps: Option<IdMaps>,
}

/// What the client gets with the reply.
struct Handed {
    descriptor: OwnedFd,
    /// What was attached for it: a mount, in the slot from which it can be taken back.
    attached: Option<(MountId, OwnedFd)>,
}

/// A confined mounter.
struct Worker<'a> {
    context: &'a Context<'a>,
    descriptors: Descriptors,
    confined: Confined<Mounter>,
    lessee: Lessee,
    /// What the batch has mounted that is under way.
    batch: Vec<MountInfo>,
}

impl Worker<'_> {
    fn serve(&mut self) -> Result<(), Ended> {
        let first = match self.admit(CONNECTION_WEIGHT, session::HANDSHAKE)? {
            Admission::Granted => OrderReply::Ready,
            Admission::Refused(error) => OrderReply::Refused(error),
            Admission::SessionGone => return Ok(()),
        };
        self.descriptors.order.send(&first, &[])?;
        if let OrderReply::Refused(_) = first {
            return Ok(());
        }
        let request_timeout = self.context.policy.limits().request_timeout;
        loop {
            self.wait()?;
            process::deadline(request_timeout)?;
            let (order, files) = match self.descriptors.order.receive() {
                Err(ChannelError::Closed) => return Ok(()),
                other => other?,
            };
            let admission = match order {
                Order::Admit { weight } => self.admit(weight, request_timeout)?,
                // Each of its mounts has waited for its turn.
                Order::Keep | Order::TakeBack if !self.batch.is_empty() => Admission::Granted,
                Order::Perform(ref operation) if self.takes_locker(operation) => {
                    self.admit(LOCKER_WEIGHT, request_timeout)?
                }
                _ => self.admit(1, request_timeout)?,
            };
            let reply = match admission {
                Admission::Granted => self.obey(order, files)?,
                Admission::Refused(error) => OrderReply::Done(Reply::Error(error)),
                Admission::SessionGone => return Ok(()),
            };
            // An attach has taken the deadline back, and a session that was taken over
            // may not read.
            process::deadline(request_timeout)?;
            self.descriptors.order.send(&reply, &[])?;
            self.context
                .budget
                .charge(self.context.started.elapsed(), table::take_weight());
            process::deadline(Duration::ZERO)?;
        }
    }

    fn takes_locker(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Detach(_) => true,
            Operation::Mount(mount) => match mount.kind {
                Kind::Image { .. } => self.context.kinds.loop_devices,
                _ => mount.passed.contains(Passed::ID_MAP),
            },
            Operation::Unmount(_) | Operation::Remount(_) | Operation::Move(_) => false,
        }
    }

    /// Waits for an order. Only here can SIGTERM end this process: a stop of
    /// the helper never cuts a mount in two.
    fn wait(&self) -> Result<(), Errno> {
        let mut order = [PollFd::new(
            self.descriptors.order.as_fd(),
            PollFlags::POLLIN,
        )];
        let nothing_blocked = SigSet::empty();
        match nix::poll::ppoll(&mut order, None, Some(nothing_blocked)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Waits for the user's turn, or says why there will be none. Half of `time`
    /// stays for the work.
    fn admit(&self, weight: u32, time: Duration) -> Result<Admission, Errno> {
        let now = self.context.started.elapsed();
        let turn = self
            .context
            .budget
            .take(now, weight, time.checked_div(2).unwrap_or_default());
        if !turn.wait.is_zero() {
            self.context.board.add(Count::Delayed);
            if self.session_goes_within(turn.wait)? {
                return Ok(Admission::SessionGone);
            }
        }
        Ok(if turn.comes {
            Admission::Granted
        } else {
            let rate = self.context.policy.limits().requests_per_second;
            Admission::Refused(ErrorReply::new(
                ErrorCode::LimitReached,
                children::too_fast(rate),
            ))
        })
    }

    /// Rests; true as soon as its session has gone. Here too SIGTERM ends this process.
    fn session_goes_within(&self, time: Duration) -> Result<bool, Errno> {
        let mut order = [PollFd::new(
            self.descriptors.order.as_fd(),
            PollFlags::empty(),
        )];
        let time = Some(TimeSpec::from_duration(time));
        let events = nix::poll::ppoll(&mut order, time, Some(SigSet::empty()))?;
        Ok(events > 0)
    }

    /// The orders, each with the descriptors that it must bring.
    fn obey(&mut self, order: Order, files: Vec<OwnedFd>) -> Result<OrderReply, Ended> {
        match order {
            Order::Perform(operation) => self.perform(&operation, None, files),
            Order::Note {
                operation,
                error,
                entry,
            } if files.is_empty() => {
                let operation = operation.as_ref();
                let subject = operation.map(|operation| Subject::of(operation, entry));
                self.note(subject.unwrap_or(Subject::Protocol), &error)?;
                Ok(OrderReply::Taken)
            }
            Order::NoteProbe { target, error } if files.is_empty() => {
                self.note(Subject::Probe(&target), &error)?;
                Ok(OrderReply::Taken)
            }
            Order::Admit { .. } if files.is_empty() => Ok(OrderReply::Taken),
            Order::Status if files.is_empty() => Ok(OrderReply::Status {
                roles: self.roles(),
                counters: self.context.board.counters(),
                uptime_seconds: self.context.started.elapsed().as_secs(),
            }),
            Order::List { after } if files.is_empty() => Ok(OrderReply::Done(self.list(after))),
            Order::Entry { operation, number } => self.entry(&operation, number, files),
            Order::Keep if files.is_empty() => self.keep(),
            Order::TakeBack if files.is_empty() => self.take_back(),
            Order::MoveBack => Err(Ended::Violation("nothing is to be moved back")),
            _ => Err(Ended::Violation(
                "descriptors came with an order that takes none",
            )),
        }
    }

    /// What confines the privileged half.
    fn roles(&self) -> Vec<RoleReport> {
        let locker = self.context.locker.map(|locker| &locker.report);
        [self.context.warden, self.confined.report()]
            .into_iter()
            .chain(locker)
            .cloned()
            .collect()
    }

    /// Judges an operation, does it, and writes down both.
    fn perform(
        &self,
        operation: &Operation,
        entry: Option<u32>,
        files: Vec<OwnedFd>,
    ) -> Result<OrderReply, Ended> {
        let begun = Instant::now();
        let verdict = self
            .context
            .policy
            .judge(self.context.peer.identity(), operation);
        let grant = verdict.grant();
        let (mut handed, mut maps) = (None, None);
        let reply = match verdict {
            Verdict::Denied(denial) => Reply::Error(denial.into()),
            Verdict::Allowed(Permit::Mount(permit)) => {
                let made = self.mount(&permit, entry.is_some(), files)?.map(|made| {
                    (handed, maps) = (made.handed, made.maps);
                    made.mounted
                });
                answer(made, Reply::Mounted)
            }
            Verdict::Allowed(Permit::Unmount(permit)) => {
                answer(self.unmount(&permit, files)?, Reply::Unmounted)
            }
            Verdict::Allowed(Permit::Remount(permit)) => {
                answer(self.remount(&permit, files)?, Reply::Remounted)
            }
            Verdict::Allowed(Permit::Detach(permit)) => {
                let made = self.detach(&permit, files)?.map(|(detached, made, of)| {
                    (handed, maps) = (Some(made), of);
                    detached
                });
                answer(made, Reply::Detached)
            }
            Verdict::Allowed(Permit::Move(permit)) => {
                answer(self.relocate(&permit, files)?, Reply::Moved)
            }
        };
        self.context.board.add(count_of(&reply));
        let record = Record {
            peer: Some(self.context.peer),
            by: By::Mounter,
            subject: Subject::of(operation, entry),
            grant,
            outcome: Ok(&reply),
            maps: maps.as_ref(),
            took: Some(begun.elapsed()),
        };
        record.write().map_err(Ended::Audit)?;
        match handed {
            Some(handed) => self.hand_over(operation, grant, begun, &reply, &handed),
            None => Ok(OrderReply::Done(reply)),
        }
    }

    /// Sends the client its reply and a descriptor. The session could not: what it sends
    /// to a client carries nothing. A mount whose server cannot begin is taken back; one
    /// that is attached nowhere ends by itself.
    fn hand_over(
        &self,
        operation: &Operation,
        grant: Option<&str>,
        begun: Instant,
        reply: &Reply,
        handed: &Handed,
    ) -> Result<OrderReply, Ended> {
        let client = self.descriptors.client.as_ref().ok_or(Errno::ENOTCONN)?;
        let bytes =
            frame::encode(reply).map_err(|error| ChannelError::Violation(error.to_string()))?;
        let descriptors = [handed.descriptor.as_fd()];
        match sys::socket::send(client.as_fd(), &bytes, &descriptors, MsgFlags::empty()) {
            Ok(sent) if sent == bytes.len() => return Ok(OrderReply::Answered),
            _ => {}
        }
        let path = operation.path();
        let message = format!(
            "the mount of {path} was ended again, because its client could not be sent the \
             descriptor of it"
        );
        let mut error = ErrorReply::new(ErrorCode::Unavailable, message).at(path);
        if let Some((id, _)) = &handed.attached {
            error = mount::roll_back(error, path);
            self.lessee.give_back((*id).into());
            self.context.mounts.release();
        }
        self.context.board.add(Count::Failed);
        let record = Record {
            peer: Some(self.context.peer),
            by: By::Mounter,
            subject: Subject::Operation(operation),
            grant,
            outcome: Err(&error),
            maps: None,
            took: Some(begun.elapsed()),
        };
        record.write().map_err(Ended::Audit)?;
        Ok(OrderReply::Done(Reply::Error(error)))
    }

    fn list(&self, after: Option<MountId>) -> Reply {
        let targets = self.targets_of_peer();
        let page = list::page(&self.descriptors.table, &targets, after, LIST_PAGE);
        page.map_or_else(Reply::Error, Reply::List)
    }

    /// Writes down a request that ended in the session.
    fn note(&self, subject: Subject<'_>, error: &ErrorReply) -> Result<(), Ended> {
        self.context.board.add(Count::Failed);
        let record = Record {
            peer: Some(self.context.peer),
            by: By::Session,
            subject,
            grant: None,
            outcome: Err(error),
            maps: None,
            took: None,
        };
        record.write().map_err(Ended::Audit)
    }
}

fn answer<T>(result: Result<T, ErrorReply>, reply: impl FnOnce(T) -> Reply) -> Reply {
    result.map_or_else(Reply::Error, reply)
}

fn count_of(reply: &Reply) -> Count {
    match reply {
        Reply::Mounted(mounted) if mounted.outcome == Outcome::AlreadyMounted => {
            Count::AlreadyMounted
        }
        Reply::Mounted(_) => Count::Mounted,
        Reply::Unmounted(_) => Count::Unmounted,
        Reply::Remounted(_) => Count::Remounted,
        Reply::Detached(_) => Count::Detached,
        Reply::Moved(_) => Count::Moved,
        Reply::Error(error) if error.code == ErrorCode::Denied => Count::Denied,
        _ => Count::Failed,
    }
}
