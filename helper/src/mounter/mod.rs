//! The mounter: holds `CAP_SYS_ADMIN` for one connection.
//!
//! It reads orders from its session, judges each again with the identity that
//! the kernel attested, checks every descriptor, and mounts. It resolves no
//! path and reads no byte of the client.
#![forbid(unsafe_code)]

mod count;
mod device;
mod directory;
mod existing;
mod files;
mod filesystem;
pub(crate) mod layout;
mod location;
mod lock;
mod mount;
mod origin;
mod remount;
mod unmount;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mountwarden_policy::{MountPermit, Permit, Policy, RemountPermit, UnmountPermit, Verdict};
use mountwarden_protocol::{
    AbsPath, DenyReason, ErrorCode, ErrorReply, MountId, MountInfo, Mounted, Operation, Outcome,
    Passed, Reply, RoleReport, Unmounted, frame,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, fchdir};
use thiserror::Error;

use self::directory::{Place, Spot};
use self::files::Files;
use self::location::{Location, Purpose};
use self::lock::TargetLock;
use self::mount::Attached;
use self::origin::{Origin, Unchecked};
use crate::audit::{By, Record, Subject};
use crate::board::{Board, Count, MountCount};
use crate::budget::Budget;
use crate::confine::{ConfineError, Confined, Domain, Filter, Identity, Kinds, Mounter, Plan};
use crate::failure;
use crate::list;
use crate::mountinfo::Mountinfo;
use crate::order::{ChannelError, Order, OrderChannel, OrderReply};
use crate::peer::AttestedPeer;
use crate::sys::pinned::Slot;
use crate::sys::{self, process};
use crate::table::{self, Source, Table};
use crate::{children, session};

/// What a mounter gets from the warden.
pub(crate) struct Context<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) board: Board,
    pub(crate) peer: &'a AttestedPeer,
    /// What the peer's user has on the board.
    pub(crate) mounts: MountCount,
    pub(crate) budget: Budget,
    /// What the peer is granted.
    pub(crate) kinds: Kinds,
    pub(crate) filter: &'a Filter,
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
}

/// Serves one connection until its session is gone.
pub(crate) fn run(
    context: &Context<'_>,
    order: BorrowedFd<'_>,
    lock: BorrowedFd<'_>,
    client: BorrowedFd<'_>,
) -> Result<(), Ended> {
    let client = context.kinds.fuse.then_some(client);
    let descriptors = Descriptors::place(order, lock, client, context.source)?;
    let confined = confine(context)?;
    let mounter = Worker {
        context,
        descriptors,
        confined,
    };
    mounter.serve()
}

/// The descriptors of a mounter, at the numbers that its filter names.
struct Descriptors {
    order: OrderChannel,
    own: OwnedFd,
    lock: OwnedFd,
    /// The client's socket, for a peer that may be sent descriptors.
    client: Option<OwnedFd>,
    table: Table,
}

impl Descriptors {
    fn place(
        order: BorrowedFd<'_>,
        lock: BorrowedFd<'_>,
        client: Option<BorrowedFd<'_>>,
        source: Source,
    ) -> Result<Self, Errno> {
        let client = client
            .map(|client| sys::socket::place([client], [layout::CLIENT]).map(|[client]| client))
            .transpose()?;
        let [order, lock] = sys::socket::place([order, lock], [layout::ORDER, layout::LOCK])?;
        // `/proc/self/fd` of the warden shows the warden's table; this one is ours.
        let own = sys::socket::settle(sys::proc::open_own_descriptors()?, layout::PROC)?;
        fchdir(&own)?;
        let table = match source {
            Source::Calls => Table::Calls,
            Source::Mountinfo => {
                let file = sys::socket::settle(sys::proc::open_own_mountinfo()?, layout::TABLE)?;
                Table::Mountinfo(Mountinfo::new(file))
            }
        };
        Ok(Self {
            order: OrderChannel::new(order),
            own,
            lock,
            client,
            table,
        })
    }
}

fn confine(context: &Context<'_>) -> Result<Confined<Mounter>, ConfineError> {
    let mut descriptors = vec![layout::ORDER, layout::PROC, layout::LOCK];
    if context.source == Source::Mountinfo {
        descriptors.push(layout::TABLE);
    }
    if context.kinds.fuse {
        descriptors.push(layout::CLIENT);
    }
    crate::confine::enforce(&Plan {
        descriptors: &descriptors,
        max_descriptors: layout::MAX_DESCRIPTORS,
        identity: Identity::Stay,
        domain: Domain::MountsNested,
        filter: context.filter,
        dies_with: Some(context.parent),
    })
}

/// How many requests a connection counts as: its two forks and confinements take
/// about as long as so many.
const CONNECTION_WEIGHT: u32 = 10;
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
}

/// What the client gets with the reply.
struct Handed {
    descriptor: OwnedFd,
    /// The mount, in the slot from which it can be taken back.
    _mount: OwnedFd,
}

/// A confined mounter.
struct Worker<'a> {
    context: &'a Context<'a>,
    descriptors: Descriptors,
    confined: Confined<Mounter>,
}

impl Worker<'_> {
    fn serve(&self) -> Result<(), Ended> {
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
            let weight = match order {
                Order::Admit { weight } => weight,
                _ => 1,
            };
            let reply = match self.admit(weight, request_timeout)? {
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
    fn obey(&self, order: Order, files: Vec<OwnedFd>) -> Result<OrderReply, Ended> {
        match order {
            Order::Perform(operation) => self.perform(&operation, files),
            Order::Note { operation, error } if files.is_empty() => {
                self.note(operation.as_ref(), &error)?;
                Ok(OrderReply::Taken)
            }
            Order::Admit { .. } if files.is_empty() => Ok(OrderReply::Taken),
            Order::Status if files.is_empty() => Ok(OrderReply::Status {
                roles: vec![self.context.warden.clone(), self.confined.report().clone()],
                counters: self.context.board.counters(),
                uptime_seconds: self.context.started.elapsed().as_secs(),
            }),
            Order::List { after } if files.is_empty() => Ok(OrderReply::Done(self.list(after))),
            Order::Note { .. } | Order::Admit { .. } | Order::Status | Order::List { .. } => Err(
                Ended::Violation("descriptors came with an order that takes none"),
            ),
        }
    }

    /// Judges an operation, does it, and writes down both.
    fn perform(&self, operation: &Operation, files: Vec<OwnedFd>) -> Result<OrderReply, Ended> {
        let begun = Instant::now();
        let verdict = self
            .context
            .policy
            .judge(self.context.peer.identity(), operation);
        let grant = verdict.grant();
        let mut handed = None;
        let reply = match verdict {
            Verdict::Denied(denial) => Reply::Error(denial.into()),
            Verdict::Allowed(Permit::Mount(permit)) => {
                let made = self.mount(&permit, files)?.map(|made| {
                    handed = made.handed;
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
        };
        self.context.board.add(count_of(&reply));
        let record = Record {
            peer: Some(self.context.peer),
            by: By::Mounter,
            subject: Subject::Operation(operation),
            grant,
            outcome: Ok(&reply),
            took: Some(begun.elapsed()),
        };
        record.write().map_err(Ended::Audit)?;
        match handed {
            Some(handed) => self.hand_over(operation, &reply, &handed),
            None => Ok(OrderReply::Done(reply)),
        }
    }

    /// Sends the client its reply and a descriptor. The session could not: what it sends
    /// to a client carries nothing. A mount whose server cannot begin is taken back.
    fn hand_over(
        &self,
        operation: &Operation,
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
        let target = operation.target();
        let message = format!(
            "the mount at {target} was ended again, because its client could not be sent the \
             descriptor that serves it"
        );
        let gone = ErrorReply::new(ErrorCode::Unavailable, message).at(target);
        let error = mount::roll_back(gone, target);
        self.context.mounts.release();
        self.note(Some(operation), &error)?;
        Ok(OrderReply::Done(Reply::Error(error)))
    }

    fn mount(
        &self,
        permit: &MountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<Made, ErrorReply>, Ended> {
        let files = Files::of(Some(&permit.kind), &permit.target, permit.passed, files)?;
        Ok(self.locked_mount(permit, files))
    }

    fn locked_mount(&self, permit: &MountPermit<'_>, files: Files<'_>) -> Result<Made, ErrorReply> {
        let Files {
            directory,
            target,
            origin,
        } = files;
        let (table, path) = (&self.descriptors.table, &permit.target);
        let passed = permit.passed.contains(Passed::TARGET);
        let _lock = self.lock(if passed { &target } else { &directory }, path, passed)?;
        let spot = if passed {
            Spot::Passed { _slot: directory }
        } else {
            Spot::Named(Box::new(self.place(directory, path)?))
        };
        let (target, origin) = self.locations(&spot, path, target, origin)?;
        if target.status.is_mount_root {
            let mounted = existing::same(table, permit, &origin, &target)?;
            let handed = None;
            return Ok(Made { mounted, handed });
        }
        if let Origin::Device(_) | Origin::Connection(_) = origin {
            // The context takes its number.
            drop(spot);
        }
        target.check_owner(permit.target_owner, DenyReason::TargetNotOwned)?;
        let reserved = self.reserve(&target)?;
        let Attached { mounted, mount } = mount::mount(table, permit, &origin, &target)?;
        reserved.keep();
        let handed = match origin {
            Origin::Connection(descriptor) => Some(Handed {
                descriptor,
                _mount: mount,
            }),
            _ => None,
        };
        Ok(Made { mounted, handed })
    }

    fn unmount(
        &self,
        permit: &UnmountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<Unmounted, ErrorReply>, Ended> {
        let mut files = files.into_iter();
        match (permit.passed, files.next(), files.next(), files.next()) {
            (false, Some(directory), None, None) => Ok(self.locked_unmount(permit, directory)),
            (true, Some(_), Some(root), None) => Ok(self.locked_unmount_of(permit, root)),
            (false, ..) => Err(Ended::Violation("an unmount takes one descriptor")),
            (true, ..) => Err(Ended::Violation("a passed unmount takes its target twice")),
        }
    }

    fn locked_unmount(
        &self,
        permit: &UnmountPermit<'_>,
        directory: OwnedFd,
    ) -> Result<Unmounted, ErrorReply> {
        let _lock = self.lock(&directory, &permit.target, false)?;
        let place = self.place(directory, &permit.target)?;
        let unmounted = unmount::unmount(&self.descriptors.table, permit, &place)?;
        self.context.mounts.release();
        Ok(unmounted)
    }

    fn locked_unmount_of(
        &self,
        permit: &UnmountPermit<'_>,
        root: OwnedFd,
    ) -> Result<Unmounted, ErrorReply> {
        let _lock = self.lock(&root, &permit.target, true)?;
        let unmounted = unmount::unmount_passed(&self.descriptors.table, permit, root)?;
        self.context.mounts.release();
        Ok(unmounted)
    }

    fn remount(
        &self,
        permit: &RemountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<MountInfo, ErrorReply>, Ended> {
        let kind = permit.lift.as_ref().map(|lift| &lift.kind);
        let files = Files::of(kind, &permit.target, Passed::empty(), files)?;
        Ok(self.locked_remount(permit, files))
    }

    fn locked_remount(
        &self,
        permit: &RemountPermit<'_>,
        files: Files<'_>,
    ) -> Result<MountInfo, ErrorReply> {
        let path = &permit.target;
        let _lock = self.lock(&files.directory, path, false)?;
        let place = self.place(files.directory, path)?;
        let id = place.mounted(permit.id)?;
        let spot = Spot::Named(Box::new(place));
        let (target, origin) = self.locations(&spot, path, files.target, files.origin)?;
        let table = &self.descriptors.table;
        remount::remount(table, permit, id, &origin, &target)
    }

    fn place<'a>(&'a self, directory: OwnedFd, path: &'a AbsPath) -> Result<Place<'a>, ErrorReply> {
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        Place::check(table, own, directory, path)
    }

    /// The target, which is what lies at its path, and what is mounted there.
    fn locations(
        &self,
        spot: &Spot<'_>,
        path: &AbsPath,
        target: OwnedFd,
        origin: Unchecked<'_>,
    ) -> Result<(Location, Origin), ErrorReply> {
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        let passed = matches!(spot, Spot::Passed { .. });
        let purpose = Purpose::UseOrCompare { passed };
        let target = Location::check(table, own, Slot::Target, target, path, purpose)?;
        let origin = origin.check(table, own)?;
        spot.check(table, &target)?;
        Ok((target, origin))
    }

    /// Waits until no other mounter works at the place. All else is looked at
    /// afterwards: the wait may be long.
    ///
    /// `file` is the directory above the target or, where it was `passed`, the target.
    fn lock(
        &self,
        file: &OwnedFd,
        target: &AbsPath,
        passed: bool,
    ) -> Result<TargetLock<'_>, ErrorReply> {
        let name = target.split().map_or(&[][..], |(_, name)| name);
        let Descriptors { table, lock, .. } = &self.descriptors;
        table
            .status(file.as_fd())
            .and_then(|status| {
                let root = (passed && status.is_mount_root)
                    .then(|| table.status_of_mount(status.mount).ok())
                    .flatten();
                let mount = root.map_or(status.mount, |mount| mount.parent);
                TargetLock::take(lock.as_fd(), mount, (!passed).then_some(&status), name)
            })
            .map_err(|errno| failure::kernel("cannot lock", target, errno))
    }

    fn list(&self, after: Option<MountId>) -> Reply {
        let targets = self.targets_of_peer();
        let page = list::page(&self.descriptors.table, &targets, after, LIST_PAGE);
        page.map_or_else(Reply::Error, Reply::List)
    }

    /// Writes down a request that ended in the session.
    fn note(&self, operation: Option<&Operation>, error: &ErrorReply) -> Result<(), Ended> {
        self.context.board.add(Count::Failed);
        let record = Record {
            peer: Some(self.context.peer),
            by: By::Session,
            subject: operation.map_or(Subject::Protocol, Subject::Operation),
            grant: None,
            outcome: Err(error),
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
        Reply::Error(error) if error.code == ErrorCode::Denied => Count::Denied,
        _ => Count::Failed,
    }
}
