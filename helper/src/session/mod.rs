//! The session: speaks with one client.
//!
//! It holds no capability, and its Landlock domain is made from its own peer's
//! grants. It parses what the client sends, judges it, opens the locations, and
//! hands them to its mounter, which believes none of it.
#![forbid(unsafe_code)]

mod batch;
pub(crate) mod layout;
mod locate;
mod probe;
pub(crate) mod roots;
mod stream;

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mountwarden_policy::{MountPermit, Permit, PermittedKind, Places, Policy, Verdict};
use mountwarden_protocol::{
    AbsPath, ErrorCode, ErrorReply, Explanation, Features, Hello, HelloReply, Limits,
    MountAttributes, MountId, Operation, Refusal, Reply, Request, RoleReport, Status, TmpfsLimits,
    Versions, Welcome,
};
use thiserror::Error;

use self::roots::Roots;
use self::stream::{ClientStream, NoMessage};
use crate::confine::{ConfineError, Confined, Domain, Filter, Identity, Plan, Session};
use crate::failure;
use crate::list;
use crate::order::{ChannelError, Order, OrderChannel, OrderReply};
use crate::peer::AttestedPeer;
use crate::sys::{self, process};
use crate::table::{self, Source, Table};

/// What a session gets from the gate.
pub(crate) struct Context<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) peer: &'a AttestedPeer,
    pub(crate) filter: &'a Filter,
    pub(crate) source: Source,
    pub(crate) gate: &'a RoleReport,
}

/// Why a session ends before its client does.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("setting up failed: {0}")]
    Kernel(#[from] nix::errno::Errno),
    #[error("order channel: {0}")]
    Channel(#[from] ChannelError),
    #[error("the mounter was gone before it had the order")]
    NoMounter,
    #[error("the mounter gave an answer to another question")]
    WrongAnswer,
}

/// How long a client may take from connecting to the end of its [`Hello`].
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// How often a request whose target changes under it is tried.
const ATTEMPTS: u32 = 3;

/// Bytes of one page of a list, well below the size of a frame.
const LIST_PAGE: usize = 32 * 1024;

/// Serves one client until it goes.
pub(crate) fn run(context: &Context<'_>, client: &OwnedFd, order: &OwnedFd) -> Result<(), Ended> {
    let [client, order] = sys::socket::place(
        [client.as_fd(), order.as_fd()],
        [layout::CLIENT, layout::ORDER],
    )?;
    let places = context.policy.places(context.peer.identity());
    let granted = places.sources.iter().chain(&places.targets).cloned();
    let (roots, opened) = Roots::open(granted, places.kinds.fuse);
    let confined = confine(context, opened)?;
    // The filter lets neither socket be closed, so that nothing takes its number.
    let mut conversation = ManuallyDrop::new(Conversation {
        context,
        places,
        roots,
        confined,
        client: ClientStream::new(client),
        order: OrderChannel::new(order),
        leases: false,
    });
    if conversation.open()? {
        conversation.serve()?;
    }
    Ok(())
}

fn confine(context: &Context<'_>, roots: Vec<OwnedFd>) -> Result<Confined<Session>, ConfineError> {
    let mut descriptors = vec![layout::CLIENT, layout::ORDER];
    descriptors.extend(roots.iter().map(AsRawFd::as_raw_fd));
    crate::confine::enforce(&Plan {
        descriptors: &descriptors,
        max_descriptors: layout::MAX_DESCRIPTORS,
        identity: Identity::Stay,
        domain: Domain::Reads(roots),
        filter: context.filter,
        dies_with: None,
    })
}

/// One connection.
struct Conversation<'a> {
    context: &'a Context<'a>,
    places: Places,
    roots: Roots,
    confined: Confined<Session>,
    client: ClientStream,
    order: OrderChannel,
    /// Whether it has made a mount that ends with it.
    leases: bool,
}

/// What follows a reply.
enum Then {
    Continue,
    End,
}

impl Conversation<'_> {
    /// The handshake; false when the connection ends here.
    fn open(&mut self) -> Result<bool, Ended> {
        if let Err(error) = self.mounter_ready()? {
            self.refuse(Refusal::new(error));
            return Ok(false);
        }
        let received = self
            .client
            .receive(self.order.as_fd(), Some(HANDSHAKE), HANDSHAKE, |_| 0);
        let hello: Hello = match received {
            Ok((hello, _)) => hello,
            Err(NoMessage::Gone) => return Ok(false),
            Err(NoMessage::NoMounter) => {
                self.refuse(Refusal::new(no_mounter()));
                return Ok(false);
            }
            Err(NoMessage::Bad(error)) => {
                let error = self.note(None, None, error)?;
                self.refuse(Refusal::new(error));
                return Ok(false);
            }
        };
        if hello.magic != Hello::MAGIC {
            let error = ErrorReply::new(
                ErrorCode::MalformedFrame,
                "this is not a mountwarden client",
            );
            let error = self.note(None, None, error)?;
            self.refuse(Refusal::new(error));
            return Ok(false);
        }
        let Some(version) = Versions::SUPPORTED.newest_common(hello.versions) else {
            let mut refusal = Refusal::unsupported_version(hello.versions);
            refusal.error = self.note(None, None, refusal.error)?;
            self.refuse(refusal);
            return Ok(false);
        };
        let welcome = Welcome {
            version,
            features: hello.features & Features::empty(),
            uid: self.context.peer.identity().uid,
        };
        Ok(self.client.send(&HelloReply::Welcome(welcome)).is_ok())
    }

    /// Waits for the other half of this connection, or the reason that there is none.
    fn mounter_ready(&self) -> Result<Result<(), ErrorReply>, Ended> {
        let unavailable = |why| Ok(Err(ErrorReply::new(ErrorCode::Unavailable, why)));
        if !self.order.wait(HANDSHAKE)? {
            return unavailable("the helper is too busy to give this connection a mounter");
        }
        match self.answer() {
            Ok(OrderReply::Ready) => Ok(Ok(())),
            Ok(OrderReply::Refused(error)) => Ok(Err(error)),
            Ok(_) => Err(Ended::WrongAnswer),
            Err(Ended::Channel(ChannelError::Closed)) => {
                unavailable("this connection's mounter could not start; the helper's log says why")
            }
            Err(error) => Err(error),
        }
    }

    /// Says why there is no connection. A client that does not listen any more
    /// misses nothing that matters to anyone else.
    fn refuse(&mut self, refusal: Refusal) {
        let _ = self.client.send(&HelloReply::Refused(refusal));
    }

    fn serve(&mut self) -> Result<(), Ended> {
        let limits = *self.context.policy.limits();
        loop {
            // A lease is kept by a connection on which nothing needs to be said.
            let idle = (!self.leases).then_some(limits.idle_timeout);
            let request = self.client.receive(
                self.order.as_fd(),
                idle,
                limits.request_timeout,
                Request::descriptors,
            );
            process::deadline(limits.request_timeout)?;
            let outcome = match request {
                Ok((request, passed)) => self
                    .handle(request, passed)
                    .map(|reply| (reply, Then::Continue)),
                Err(NoMessage::Gone) => return Ok(()),
                Err(NoMessage::NoMounter) => Err(Ended::NoMounter),
                Err(NoMessage::Bad(error)) => {
                    // A value that is never valid came in a frame that is whole, so
                    // the next frame can be found; after any other it cannot.
                    let then = if error.code == ErrorCode::InvalidRequest {
                        Then::Continue
                    } else {
                        Then::End
                    };
                    self.note(None, None, error)
                        .map(|error| (Some(Reply::Error(error)), then))
                }
            };
            let (reply, then) = match outcome {
                Ok(answered) => answered,
                Err(Ended::NoMounter) => (Some(Reply::Error(no_mounter())), Then::End),
                // It ended with the order: a close without a reply says that
                // nobody knows whether it was done.
                Err(Ended::Channel(ChannelError::Closed)) => return Ok(()),
                Err(ended) => return Err(ended),
            };
            let sent = reply.map_or(Ok(()), |reply| self.client.send(&reply));
            process::deadline(Duration::ZERO)?;
            if sent.is_err() || matches!(then, Then::End) {
                return Ok(());
            }
        }
    }

    /// The reply, where the client has not got it from the mounter.
    fn handle(&mut self, request: Request, passed: Vec<OwnedFd>) -> Result<Option<Reply>, Ended> {
        match request {
            Request::Perform(operation) => return self.perform(&operation, None, passed),
            Request::Explain(operation) => {
                self.admitted(Reply::Explained(self.explain(&operation)))
            }
            Request::List { after } => self.list(after),
            Request::Status => self.status(),
            Request::Probe { target, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms.get().into());
                self.probe(&target, timeout)
            }
            Request::Apply(batch) => self.apply(batch).map_err(|ended| match ended {
                // What was mounted before the mounter ended is only being taken back.
                Ended::NoMounter => ChannelError::Closed.into(),
                other => other,
            }),
        }
        .map(Some)
    }

    /// Asks a file system, for no longer than `timeout`: then this process ends.
    fn probe(&self, target: &AbsPath, timeout: Duration) -> Result<Reply, Ended> {
        let context = self.context;
        let limit = context.policy.limits().request_timeout;
        let allowed = context.policy.judge_probe(context.peer.identity(), target);
        let probed = allowed.map_err(ErrorReply::from).and_then(|_| {
            let armed = process::deadline(timeout.min(limit));
            armed.map_err(|errno| failure::kernel("cannot probe", target, errno))?;
            probe::probe(target, &self.roots, context.source)
        });
        process::deadline(limit)?;
        match probed {
            Ok(probed) => self.admitted(Reply::Probed(probed)),
            Err(error) => {
                let target = target.clone();
                let order = Order::NoteProbe {
                    target,
                    error: error.clone(),
                };
                self.noted(&order, error).map(Reply::Error)
            }
        }
    }

    /// Opens the locations and lets the mounter act. A target that changed
    /// between the two is looked at again: most often another connection was
    /// mounting the same thing. What was passed is the client's to look at again.
    /// `None` when the client has its reply.
    fn perform(
        &mut self,
        operation: &Operation,
        entry: Option<u32>,
        passed: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Ended> {
        let attempts = if passed.is_empty() { ATTEMPTS } else { 1 };
        let mut reply = self.attempt(operation, entry, passed)?;
        for _ in 1..attempts {
            match &reply {
                Some(Reply::Error(error)) if error.code == ErrorCode::Changed => {}
                _ => break,
            }
            reply = self.attempt(operation, entry, Vec::new())?;
        }
        if let (Operation::Mount(mount), None | Some(Reply::Mounted(_))) = (operation, &reply) {
            self.leases |= mount.lease && entry.is_none();
        }
        Ok(reply)
    }

    fn attempt(
        &mut self,
        operation: &Operation,
        entry: Option<u32>,
        passed: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Ended> {
        let verdict = self
            .context
            .policy
            .judge(self.context.peer.identity(), operation);
        let files = match verdict {
            Verdict::Allowed(permit) => match locate::open(&permit, &self.roots, &passed) {
                Ok(files) => files,
                Err(error) => {
                    return Ok(Some(Reply::Error(self.note(
                        Some(operation),
                        entry,
                        error,
                    )?)));
                }
            },
            // The mounter judges again, denies and writes it down; no path is touched.
            Verdict::Denied(_) => Vec::new(),
        };
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let operation = operation.clone();
        let order = match entry {
            None => Order::Perform(operation),
            Some(number) => Order::Entry { operation, number },
        };
        self.give(&order, &borrowed)?;
        // Before the answer: a descriptor that is open here keeps a mount busy.
        drop(files);
        drop(passed);
        match self.answer()? {
            OrderReply::Done(reply) => Ok(Some(reply)),
            OrderReply::Answered => Ok(None),
            OrderReply::Uncovered(place) => self.open_again(&place).map(Some),
            _ => Err(Ended::WrongAnswer),
        }
    }

    /// Opens a place that a mount was moved from, so that it can be moved back. If that fails,
    /// nothing comes with the order, and the mounter says what follows.
    fn open_again(&self, place: &AbsPath) -> Result<Reply, Ended> {
        let file = locate::location(place, &self.roots).ok();
        let borrowed: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        self.give(&Order::MoveBack, &borrowed)?;
        match self.answer()? {
            OrderReply::Done(reply) => Ok(reply),
            _ => Err(Ended::WrongAnswer),
        }
    }

    fn explain(&self, operation: &Operation) -> Explanation {
        let peer = self.context.peer.identity();
        let permit = match self.context.policy.judge(peer, operation) {
            Verdict::Denied(denial) => return Explanation::Denied(denial.into()),
            Verdict::Allowed(permit) => permit,
        };
        let (attributes, tmpfs) = match &permit {
            Permit::Unmount(_) => (MountAttributes::empty(), None),
            Permit::Remount(permit) => (permit.set, None),
            Permit::Detach(permit) => (permit.attributes, None),
            Permit::Move(permit) => (permit.attributes, None),
            Permit::Mount(permit) => (permit.attributes, tmpfs_limits(permit)),
        };
        Explanation::Allowed {
            grant: permit.grant().to_owned(),
            attributes,
            tmpfs,
        }
    }

    /// Reads the mount table where there are calls for it. Only a mounter has the
    /// file: with `pread` a session could read all that is granted to its peer.
    fn list(&self, after: Option<MountId>) -> Result<Reply, Ended> {
        match self.context.source {
            Source::Calls => {
                let page = list::page(&Table::Calls, &self.places.targets, after, LIST_PAGE);
                self.admitted(page.map_or_else(Reply::Error, Reply::List))
            }
            Source::Mountinfo => {
                self.give(&Order::List { after }, &[])?;
                match self.answer()? {
                    OrderReply::Done(reply) => Ok(reply),
                    _ => Err(Ended::WrongAnswer),
                }
            }
        }
    }

    fn status(&mut self) -> Result<Reply, Ended> {
        self.give(&Order::Status, &[])?;
        let (mut privileged, counters, uptime_seconds) = match self.answer()? {
            OrderReply::Status {
                roles,
                counters,
                uptime_seconds,
            } => (roles, counters, uptime_seconds),
            OrderReply::Done(refused) => return Ok(refused),
            _ => return Err(Ended::WrongAnswer),
        };
        let mut roles = vec![self.context.gate.clone(), self.confined.report().clone()];
        roles.append(&mut privileged);
        Ok(Reply::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: mountwarden_protocol::VERSION,
            uid: self.context.peer.identity().uid,
            uptime_seconds,
            roles,
            limits: reported(self.context.policy.limits()),
            counters,
        })))
    }

    /// Has an error written down; gives what the client is told.
    fn note(
        &self,
        operation: Option<&Operation>,
        entry: Option<u32>,
        error: ErrorReply,
    ) -> Result<ErrorReply, Ended> {
        let order = Order::Note {
            operation: operation.cloned(),
            error: error.clone(),
            entry,
        };
        self.noted(&order, error)
    }

    fn noted(&self, order: &Order, error: ErrorReply) -> Result<ErrorReply, Ended> {
        self.give(order, &[])?;
        match self.answer()? {
            OrderReply::Taken => Ok(error),
            OrderReply::Done(Reply::Error(refused)) => Ok(refused),
            _ => Err(Ended::WrongAnswer),
        }
    }

    /// Waits until a reply that was made here may be sent; gives what is sent.
    fn admitted(&self, reply: Reply) -> Result<Reply, Ended> {
        let weight = table::take_weight().saturating_add(1);
        self.give(&Order::Admit { weight }, &[])?;
        match self.answer()? {
            OrderReply::Taken => Ok(reply),
            OrderReply::Done(refused) => Ok(refused),
            _ => Err(Ended::WrongAnswer),
        }
    }

    fn give(&self, order: &Order, files: &[BorrowedFd<'_>]) -> Result<(), Ended> {
        match self.order.send(order, files) {
            Err(ChannelError::Closed) => Err(Ended::NoMounter),
            other => Ok(other?),
        }
    }

    fn answer(&self) -> Result<OrderReply, Ended> {
        Ok(self.order.receive()?.0)
    }
}

fn no_mounter() -> ErrorReply {
    ErrorReply::new(
        ErrorCode::Unavailable,
        "this connection's mounter ended before it had the request, and nothing was done: the \
         helper stops, or its log says why. Connect again",
    )
}

fn tmpfs_limits(permit: &MountPermit<'_>) -> Option<TmpfsLimits> {
    match permit.kind {
        PermittedKind::Tmpfs {
            size, inodes, mode, ..
        } => Some(TmpfsLimits {
            size: size.get(),
            inodes: inodes.get(),
            mode: mode.bits(),
        }),
        _ => None,
    }
}

fn reported(limits: &mountwarden_policy::Limits) -> Limits {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Limits {
        connections: limits.connections,
        connections_per_user: limits.connections_per_user,
        mounts_per_user: limits.mounts_per_user,
        requests_per_second: limits.requests_per_second,
        request_timeout_ms: milliseconds(limits.request_timeout),
        idle_timeout_ms: milliseconds(limits.idle_timeout),
    }
}
