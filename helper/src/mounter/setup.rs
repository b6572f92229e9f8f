//! What a mounter does first: its descriptors at their numbers, and its confinement.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::{Pid, fchdir};

use super::{Context, layout};
use crate::confine::{ConfineError, Confined, Domain, Filter, Identity, Mounter, Plan};
use crate::locker::Locking;
use crate::mountinfo::Mountinfo;
use crate::order::OrderChannel;
use crate::sys;
use crate::table::{Source, Table};

/// The descriptors of a mounter, at the numbers that its filter names.
pub(super) struct Descriptors {
    pub(super) order: OrderChannel,
    pub(super) own: OwnedFd,
    pub(super) lock: OwnedFd,
    /// The client's socket, for a peer that may be sent descriptors.
    pub(super) client: Option<OwnedFd>,
    /// The way to the locker, for a peer that is granted what takes another namespace.
    pub(super) locking: Option<Locking>,
    pub(super) table: Table,
}

impl Descriptors {
    pub(super) fn place(
        inherited: [BorrowedFd<'_>; 5],
        context: &Context<'_>,
    ) -> Result<(Self, OwnedFd), Errno> {
        let numbers = [
            layout::ORDER,
            layout::LOCK,
            layout::LEASES,
            layout::CLIENT,
            layout::LOCKER,
        ];
        let [order, lock, lessees, client, locker] = sys::socket::place(inherited, numbers)?;
        let kinds = context.kinds;
        let locking = kinds
            .takes_locker()
            .then(|| Locking::new(locker))
            .transpose()?;
        let own = enter_own_descriptors()?;
        let table = match context.source {
            Source::Calls => Table::Calls,
            Source::Mountinfo => {
                let file = sys::socket::settle(sys::proc::open_own_mountinfo()?, layout::TABLE)?;
                Table::Mountinfo(Mountinfo::new(file))
            }
        };
        let order = OrderChannel::new(order);
        let descriptors = Self {
            order,
            own,
            lock,
            client: kinds.hands_over().then_some(client),
            locking,
            table,
        };
        Ok((descriptors, lessees))
    }
}

/// Opens this process's own `/proc/self/fd`, in which it works: the warden's shows the
/// warden's table.
pub(super) fn enter_own_descriptors() -> Result<OwnedFd, Errno> {
    let own = sys::socket::settle(sys::proc::open_own_descriptors()?, layout::PROC)?;
    fchdir(&own)?;
    Ok(own)
}

pub(super) fn confine(context: &Context<'_>) -> Result<Confined<Mounter>, ConfineError> {
    let own = [layout::ORDER, layout::PROC, layout::LOCK, layout::LEASES];
    let table = (context.source == Source::Mountinfo).then_some(layout::TABLE);
    let client = context.kinds.hands_over().then_some(layout::CLIENT);
    let locking = context.kinds.takes_locker();
    let locking = locking.then_some(Locking::NUMBERS);
    let mut descriptors: Vec<_> = own.into_iter().chain(table).chain(client).collect();
    descriptors.extend(locking.into_iter().flatten());
    confine_with(&descriptors, context.filter, context.parent)
}

pub(super) fn confine_with(
    descriptors: &[RawFd],
    filter: &Filter,
    parent: Pid,
) -> Result<Confined<Mounter>, ConfineError> {
    crate::confine::enforce(&Plan {
        descriptors,
        max_descriptors: layout::MAX_DESCRIPTORS,
        identity: Identity::Stay,
        domain: Domain::MountsNested,
        filter,
        dies_with: Some(parent),
    })
}
