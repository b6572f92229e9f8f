//! The start: everything that needs a path, a name or a privilege is done here,
//! before the two halves part and confine themselves.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use caps::{CapSet, Capability};
use mountwarden_policy::Policy;
use mountwarden_protocol::{AbsPath, Role};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigmaskHow;
use nix::sys::signal::sigprocmask;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{User, geteuid, getpid};
use thiserror::Error;

use crate::board::Board;
use crate::confine::{self, ConfineError, Filters, Identity};
use crate::files::{FileError, Trust};
use crate::leases::{self, Lessor};
use crate::listener::{ListenError, Listener};
use crate::locker::{Locker, LockerError};
use crate::peer::Attestor;
use crate::policy_file::{self, LoadError};
use crate::reports::{self, Reports};
use crate::sys::{self, pinned, process::Forked};
use crate::systemd::{self, Notifier};
use crate::table::Source;
use crate::userns::{self, UsernsError};
use crate::warden::{self, Keeper};
use crate::{audit, children, gate};

/// What `serve` was asked.
pub(crate) struct Serve {
    pub(crate) policy: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) user: String,
    pub(crate) userns: bool,
}

/// Why the helper does not start, or ended.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(
        "it was started with rights beyond its caller's (set-user-ID or file capabilities), which it \
         never serves with: remove them, and start it as root or from a unit"
    )]
    RaisedRights,
    #[error(
        "it needs CAP_SYS_ADMIN: start it as root, from a unit with \
         AmbientCapabilities=CAP_SYS_ADMIN, or with --userns"
    )]
    NoCapability,
    #[error(
        "there is no user {0:?} to become: make it (a system user without a home), or name another with --user"
    )]
    NoUser(String),
    #[error("it does not serve as root: name another user with --user")]
    RootUser,
    #[error(
        "Landlock ABI {running} is what this kernel gives and the policy requires {required}: use a \
         newer kernel (ABI 6 is Linux 6.12), or lower `require_landlock_abi` and read what is lost"
    )]
    Landlock { running: u32, required: u32 },
    #[error(
        "Landlock is not switched on in this kernel: add `landlock` to its list of security modules \
         (`lsm=` on its command line); without it the helper does not serve"
    )]
    NoLandlock,
    #[error(
        "`connections` in the policy takes {needed} descriptors and the hard limit is {limit}: raise \
         it (LimitNOFILE= in the unit), or lower `connections`"
    )]
    Descriptors { needed: u64, limit: u64 },
    #[error("the strings that its filters name are not in read-only memory")]
    NotPinned,
    #[error("{step}: {errno}")]
    Step { step: &'static str, errno: Errno },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Policy(#[from] LoadError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Userns(#[from] UsernsError),
    #[error("cannot reach the service manager: {0}")]
    Notify(std::io::Error),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error(transparent)]
    Locker(#[from] LockerError),
    #[error(transparent)]
    Warden(#[from] warden::Ended),
}

fn step<T>(step: &'static str, result: Result<T, Errno>) -> Result<T, StartError> {
    result.map_err(|errno| StartError::Step { step, errno })
}

/// `mountwardend serve`.
pub(crate) fn serve(options: &Serve, arguments: &[OsString]) -> Result<(), StartError> {
    if sys::process::started_with_raised_rights() {
        return Err(StartError::RaisedRights);
    }
    if options.userns {
        match userns::enter(arguments)? {}
    }
    let identity = identity(&options.user)?;
    let overflow = userns::overflow()?;
    let trust = Trust { overflow };
    let mut policy = policy_file::load(&options.policy, &trust)?;
    let names = policy.kernel_names();
    let names = names.iter().map(|name| &**name);
    step("pin the names of the policy", pinned::pin_names(names))?;
    let source = require_kernel(&policy)?;
    confine::require_droppable_bounding_set()?;
    raise_descriptor_limit(&policy)?;
    let listener = Listener::open(&options.socket, &trust)?;
    if let Some(path) = listener.path.clone() {
        policy.protect(path);
    }
    let watchdog = step("read WATCHDOG_USEC", systemd::watchdog())?;
    let attestor = step(
        "read the socket's address",
        Attestor::new(&listener.socket, overflow),
    )?;
    let warnings = policy_file::warnings(&policy);
    for warning in warnings.into_iter().chain(systemd::namespace_warning()) {
        step("write the log", audit::log(Role::Warden, &warning))?;
    }
    part(&policy, &attestor, listener, identity, source, watchdog)
}

/// Which answers about mounts this kernel has.
pub(crate) fn mount_table_source() -> Result<Source, StartError> {
    step("look at the mount table", Source::of_kernel())
}

/// Forks the gate and goes on as the warden.
fn part(
    policy: &Policy,
    attestor: &Attestor,
    listener: Listener,
    identity: Identity,
    source: Source,
    watchdog: Option<Duration>,
) -> Result<(), StartError> {
    step("set signals", sys::process::default_signals())?;
    step(
        "set signals",
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&children::heard()), None),
    )?;
    step("set up the heap", sys::process::heap_without_mmap())?;
    children::begin(Role::Warden, c"mw-warden");
    let notifier = Notifier::connect().map_err(StartError::Notify)?;
    let filters = Filters::compile(source, policy.kinds())?;
    // To compile them took many times what they are.
    sys::process::trim_heap();
    let kinds = policy.kinds();
    let locker = kinds
        .takes_locker()
        .then(|| Locker::start(&filters.locker, identity, kinds))
        .transpose()?;
    let (ours, theirs) = step(
        "make a channel between the halves",
        socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        ),
    )?;
    let (heard, said) = step("make a socket for reports", reports::pair())?;
    let signals = step("hear signals", children::listen())?;
    let parent = getpid();
    let gate = match step("fork the gate", sys::process::fork())? {
        Forked::Child => {
            drop((ours, heard));
            if reports::divert(&said).is_err() {
                // What it would have to say could not be said as the gate.
                sys::process::exit(1);
            }
            drop(said);
            children::begin(Role::Gate, c"mw-gate");
            let context = gate::Context {
                policy,
                attestor,
                filters: &filters,
                listener: &listener.socket,
                warden: &theirs,
                signals: &signals,
                identity,
                source,
                parent,
                watchdog,
            };
            children::finish(Role::Gate, gate::run(context));
        }
        Forked::Parent(pid) => pid,
    };
    // What confinement would close under its owner.
    drop((theirs, said, listener.socket));
    let reports = Reports::new(heard, gate);
    // Mapped after the fork: the gate has no part in it.
    let users = usize::try_from(policy.limits().connections).unwrap_or(usize::MAX);
    let board = step("share counters", Board::new(users))?;
    let lock = step(
        "make a lock file",
        memfd_create(c"target locks", MFdFlags::MFD_CLOEXEC),
    )?;
    let (lessor, lessees) = step("make a channel for leases", leases::channel())?;
    let context = warden::Context {
        policy,
        attestor,
        filters: &filters,
        board,
        signals: &signals,
        lock: &lock,
        lessees: &lessees,
        identity,
        source,
        gate,
        reports: &reports,
        locker: locker.as_ref(),
    };
    // Not a return: what std does at the end of `main` is in no filter.
    let lessor = Lessor::new(board.leases(), lessor);
    let ended = guard(context, lessor, ours, listener.path.as_ref(), &notifier);
    // What the others said last, such as why they did not start.
    let written = step("write the log", reports.write(reports::ALL));
    children::finish(Role::Warden, ended.and(written.map(drop)))
}

/// The life of the warden.
fn guard(
    context: warden::Context<'_>,
    lessor: Lessor,
    gate: OwnedFd,
    socket: Option<&AbsPath>,
    notifier: &Notifier,
) -> Result<(), StartError> {
    let (policy, source) = (context.policy, context.source);
    let mut extra = vec![gate.as_raw_fd()];
    extra.extend(notifier.descriptor());
    let keeper = Keeper::confine(context, lessor, &extra)?;
    warden::wait_for_gate(&gate)?;
    announce(policy, source, socket, notifier)?;
    let ended = keeper.serve(gate, notifier);
    step("tell the service manager", notifier.offer("STOPPING=1"))?;
    Ok(ended?)
}

/// The start-up line: what serves where, and what confines it.
fn announce(
    policy: &Policy,
    source: Source,
    socket: Option<&AbsPath>,
    notifier: &Notifier,
) -> Result<(), StartError> {
    let socket = socket.map_or_else(|| "the passed socket".to_owned(), AbsPath::to_string);
    let line = format!(
        "mountwardend {} serves on {socket}; Landlock ABI {} in force (the policy requires {}); \
         mount table from {source}",
        env!("CARGO_PKG_VERSION"),
        confine::running_abi(),
        policy.require_landlock_abi(),
    );
    step("write the log", audit::log(Role::Warden, &line))?;
    step("tell the service manager", notifier.send("READY=1"))
}

/// Who the helper becomes.
fn identity(user: &str) -> Result<Identity, StartError> {
    if !geteuid().is_root() {
        let held = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN)?;
        return if held {
            Ok(Identity::Stay)
        } else {
            Err(StartError::NoCapability)
        };
    }
    let found = step("look up the service user", User::from_name(user))?;
    let found = found.ok_or_else(|| StartError::NoUser(user.to_owned()))?;
    if found.uid.is_root() {
        return Err(StartError::RootUser);
    }
    Ok(Identity::Become {
        uid: found.uid,
        gid: found.gid,
    })
}

/// Refuses to start where the kernel could not keep what the design promises.
fn require_kernel(policy: &Policy) -> Result<Source, StartError> {
    let (running, required) = (confine::running_abi(), policy.require_landlock_abi());
    if running == 0 {
        return Err(StartError::NoLandlock);
    }
    if running < required {
        return Err(StartError::Landlock { running, required });
    }
    let source = mount_table_source()?;
    let maps = crate::files::read_proc(Path::new("/proc/self/maps"))?;
    if pinned::all().all(|string| is_read_only(&maps, string.address())) {
        Ok(source)
    } else {
        Err(StartError::NotPinned)
    }
}

/// Whether an address lies in a mapping without `w` (`proc_pid_maps(5)`).
fn is_read_only(maps: &str, address: u64) -> bool {
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            return false;
        };
        let bounds = range.split_once('-').and_then(|(from, to)| {
            Some((
                u64::from_str_radix(from, 16).ok()?,
                u64::from_str_radix(to, 16).ok()?,
            ))
        });
        bounds.is_some_and(|(from, to)| (from..to).contains(&address))
            && rights.starts_with('r')
            && !rights.contains('w')
    })
}

/// The warden needs most: for leases, as many as connections, and for batches. See that they fit.
fn raise_descriptor_limit(policy: &Policy) -> Result<(), StartError> {
    let needed = warden::max_descriptors(policy);
    let (_, hard) = step(
        "read the descriptor limit",
        getrlimit(Resource::RLIMIT_NOFILE),
    )?;
    if hard < needed {
        return Err(StartError::Descriptors {
            needed,
            limit: hard,
        });
    }
    step(
        "set the descriptor limit",
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard),
    )
}
