//! The mounter: holds `CAP_SYS_ADMIN` for one connection.
//!
//! It reads orders from its session, judges each again with the identity that
//! the kernel attested, checks every descriptor, and mounts. It resolves no
//! path and reads no byte of the client.
#![forbid(unsafe_code)]

mod device;
mod directory;
mod ending;
mod existing;
mod files;
mod filesystem;
pub(crate) mod layout;
mod location;
mod lock;
mod mount;
mod origin;
mod remount;
mod setup;
mod unmount;

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mountwarden_policy::{MountPermit, Permit, Policy, RemountPermit, UnmountPermit, Verdict};
use mountwarden_protocol::{
    AbsPath, ErrorCode, ErrorReply, MountId, MountInfo, Mounted, Operation, Outcome, Reply,
    RoleReport, Unmounted, frame,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use thiserror::Error;

use self::directory::Place;
pub(crate) use self::ending::end_lease;
use self::files::Files;
use self::location::{Location, Purpose};
use self::lock::TargetLock;
use self::mount::Attached;
use self::origin::{Origin, Unchecked};
use self::setup::{Descriptors, confine};
use crate::audit::{By, Record, Subject};
use crate::board::{Board, Count, MountCount};
use crate::budget::Budget;
use crate::confine::{ConfineError, Confined, Filter, Kinds, Mounter};
use crate::failure;
use crate::leases::{Lease, Lessee, NoLease};
use crate::list;
use crate::order::{ChannelError, Order, OrderReply};
use crate::peer::AttestedPeer;
use crate::sys::mount::LSMT_ROOT;
use crate::sys::pinned::Slot;
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
    let inherited = [order, lock, lessees, client].map(AsFd::as_fd);
    let (descriptors, lessees) = Descriptors::place(inherited, context)?;
    let confined = confine(context)?;
    let user = u32::try_from(context.place).map_err(|_| Errno::EOVERFLOW)?;
    let limit = context.policy.limits().connections_per_user;
    let mounter = Worker {
        context,
        descriptors,
        confined,
        lessee: Lessee::new(context.board.leases(), lessees, user, limit),
    };
    mounter.serve()
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
    id: MountId,
    /// The mount, in the slot from which it can be taken back.
    _mount: OwnedFd,
}

/// A confined mounter.
struct Worker<'a> {
    context: &'a Context<'a>,
    descriptors: Descriptors,
    confined: Confined<Mounter>,
    lessee: Lessee,
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
                let subject = operation.as_ref();
                self.note(
                    subject.map_or(Subject::Protocol, Subject::Operation),
                    &error,
                )?;
                Ok(OrderReply::Taken)
            }
            Order::NoteProbe { target, error } if files.is_empty() => {
                self.note(Subject::Probe(&target), &error)?;
                Ok(OrderReply::Taken)
            }
            Order::Admit { .. } if files.is_empty() => Ok(OrderReply::Taken),
            Order::Status if files.is_empty() => Ok(OrderReply::Status {
                roles: vec![self.context.warden.clone(), self.confined.report().clone()],
                counters: self.context.board.counters(),
                uptime_seconds: self.context.started.elapsed().as_secs(),
            }),
            Order::List { after } if files.is_empty() => Ok(OrderReply::Done(self.list(after))),
            _ => Err(Ended::Violation(
                "descriptors came with an order that takes none",
            )),
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
        self.lessee.give_back(handed.id.into());
        self.context.mounts.release();
        self.note(Subject::Operation(operation), &error)?;
        Ok(OrderReply::Done(Reply::Error(error)))
    }

    fn mount(
        &self,
        permit: &MountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<Made, ErrorReply>, Ended> {
        let files = Files::of(Some(&permit.kind), &permit.target, files)?;
        Ok(self.locked_mount(permit, files))
    }

    fn locked_mount(&self, permit: &MountPermit<'_>, files: Files<'_>) -> Result<Made, ErrorReply> {
        let _lock = self.lock(&files.directory, &permit.target)?;
        let table = &self.descriptors.table;
        let place = self.place(files.directory, &permit.target)?;
        let (target, origin) = self.locations(&place, files.target, files.origin)?;
        if target.status.is_mount_root {
            let mounted = existing::same(table, permit, &origin, &target)?;
            let handed = None;
            return Ok(Made { mounted, handed });
        }
        let lease = self.lease(permit, &place)?;
        if let Origin::Device(_) | Origin::Connection(_) = origin {
            // The context takes its number.
            drop(place);
        }
        let reserved = self.reserve(&target)?;
        let Attached { mounted, mount } = mount::mount(table, permit, &origin, &target, lease)?;
        reserved.keep();
        let handed = match origin {
            Origin::Connection(descriptor) => Some(Handed {
                descriptor,
                id: mounted.mount.id,
                _mount: mount,
            }),
            _ => None,
        };
        Ok(Made { mounted, handed })
    }

    /// Has the warden hold where the mount will be, if it is to end with this connection.
    fn lease(
        &self,
        permit: &MountPermit<'_>,
        place: &Place<'_>,
    ) -> Result<Option<Lease<'_>>, ErrorReply> {
        let path = &permit.target;
        if !permit.lease {
            return Ok(None);
        }
        if self.context.source == Source::Mountinfo {
            let message = format!(
                "a mount at {path} cannot end with its connection here: this kernel's mounts have \
                 no unique ids (Linux 6.8), and another mount could be ended in its stead"
            );
            return Err(ErrorReply::new(ErrorCode::Unsupported, message).at(path));
        }
        let lease = self.lessee.take(place.directory());
        lease.map(Some).map_err(|refused| match refused {
            NoLease::Kernel(errno) => failure::kernel("cannot lease", path, errno),
            refused => ErrorReply::new(ErrorCode::LimitReached, refused.to_string()).at(path),
        })
    }

    fn unmount(
        &self,
        permit: &UnmountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<Unmounted, ErrorReply>, Ended> {
        let mut files = files.into_iter();
        let (Some(directory), None) = (files.next(), files.next()) else {
            return Err(Ended::Violation("an unmount takes one descriptor"));
        };
        let unmounted = self.locked_unmount(permit, directory);
        if let Ok(unmounted) = &unmounted {
            self.lessee.give_back(unmounted.id.into());
        }
        Ok(unmounted)
    }

    fn locked_unmount(
        &self,
        permit: &UnmountPermit<'_>,
        directory: OwnedFd,
    ) -> Result<Unmounted, ErrorReply> {
        let _lock = self.lock(&directory, &permit.target)?;
        let place = self.place(directory, &permit.target)?;
        let unmounted = unmount::unmount(&self.descriptors.table, &place, permit.id, permit.lazy)?;
        self.context.mounts.release();
        Ok(unmounted)
    }

    fn remount(
        &self,
        permit: &RemountPermit<'_>,
        files: Vec<OwnedFd>,
    ) -> Result<Result<MountInfo, ErrorReply>, Ended> {
        let kind = permit.lift.as_ref().map(|lift| &lift.kind);
        let files = Files::of(kind, &permit.target, files)?;
        Ok(self.locked_remount(permit, files))
    }

    fn locked_remount(
        &self,
        permit: &RemountPermit<'_>,
        files: Files<'_>,
    ) -> Result<MountInfo, ErrorReply> {
        let _lock = self.lock(&files.directory, &permit.target)?;
        let place = self.place(files.directory, &permit.target)?;
        let id = place.mounted(permit.id)?;
        let (target, origin) = self.locations(&place, files.target, files.origin)?;
        let table = &self.descriptors.table;
        remount::remount(table, permit, id, &origin, &target)
    }

    fn place<'a>(&'a self, directory: OwnedFd, path: &'a AbsPath) -> Result<Place<'a>, ErrorReply> {
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        Place::check(table, own, directory, path)
    }

    /// The target, which is where the name of `place` leads, and what is mounted there.
    fn locations(
        &self,
        place: &Place<'_>,
        target: OwnedFd,
        origin: Unchecked<'_>,
    ) -> Result<(Location, Origin), ErrorReply> {
        let (table, own) = (&self.descriptors.table, self.descriptors.own.as_fd());
        let compare = Purpose::UseOrCompare;
        let target = Location::check(table, own, Slot::Target, target, place.path(), compare)?;
        let origin = origin.check(table, own)?;
        mount::still_there(place, &target)?;
        Ok((target, origin))
    }

    /// Waits until no other mounter works at the place. All else is looked at
    /// afterwards: the wait may be long.
    fn lock(&self, directory: &OwnedFd, target: &AbsPath) -> Result<TargetLock<'_>, ErrorReply> {
        let name = target.split().map_or(&[][..], |(_, name)| name);
        let table = &self.descriptors.table;
        table
            .status(directory.as_fd())
            .and_then(|status| TargetLock::take(self.descriptors.lock.as_fd(), &status, name))
            .map_err(|errno| failure::kernel("cannot lock", target, errno))
    }

    /// Takes a place in the user's number of mounts.
    fn reserve(&self, target: &Location) -> Result<crate::board::Reserved<'_>, ErrorReply> {
        let limit = self.context.policy.limits().mounts_per_user;
        let reserved = self.context.mounts.reserve(limit, || self.mounts_of_peer());
        match reserved {
            Ok(Some(place)) => Ok(place),
            Ok(None) => Err(ErrorReply::new(
                ErrorCode::LimitReached,
                format!(
                    "{limit} mounts lie beneath your granted roots, which is the most that \
                     `mounts_per_user` allows: unmount one before you mount at {}",
                    target.path
                ),
            )
            .at(&target.path)),
            Err(errno) => Err(failure::kernel(
                "cannot count mounts for",
                &target.path,
                errno,
            )),
        }
    }

    fn targets_of_peer(&self) -> Vec<AbsPath> {
        let context = self.context;
        context.policy.places(context.peer.identity()).targets
    }

    /// Counts in the kernel's table: linear in the number of all mounts, so it
    /// is done once for each user, and again when the limit seems reached.
    fn mounts_of_peer(&self) -> Result<u64, Errno> {
        let roots = self.targets_of_peer();
        let mut count: u64 = 0;
        self.descriptors.table.walk(LSMT_ROOT, 0, |mount| {
            let point = AbsPath::from_bytes(&mount.point).ok();
            if point.is_some_and(|point| roots.iter().any(|root| point.is_beneath(root))) {
                count = count.saturating_add(1);
            }
            ControlFlow::Continue(())
        })?;
        Ok(count)
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
