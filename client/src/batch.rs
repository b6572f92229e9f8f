//! Several mounts at once: all of them, or none.

use mountwarden_protocol::{
    self as protocol, AbsPath, AppliedEntry, InvalidBatch, LeftEntry, Mount, MountAttributes,
    MountId, NotApplied, Outcome, Reply, Request,
};

use crate::{Client, Error, Unmount};

/// Mounts that [`Client::apply`] makes in this order, all of them or none. A target may
/// lie on a mount that comes before it.
///
/// ```no_run
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{Batch, Bind, Client, Tmpfs};
///
/// let batch = Batch::new()
///     .mount(Tmpfs::new("/run/vms/7/root")?)
///     .mount(Bind::new("/srv/images/base", "/run/vms/7/base")?.read_only());
/// for mount in Client::connect()?.apply(batch)? {
///     println!("{} has the id {}", mount.target, mount.id);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "it does nothing until Client::apply is given it"]
pub struct Batch(Vec<Mount>);

impl Batch {
    /// The most mounts that a batch holds.
    pub const MAX: usize = protocol::Batch::MAX;

    /// One without mounts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more mount, after those that are there.
    pub fn mount(mut self, mount: impl Into<Mount>) -> Self {
        self.0.push(mount.into());
        self
    }

    /// The mounts, in order.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.0
    }
}

/// A mount of a batch that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether this batch made it.
    pub outcome: Outcome,
    /// Its unique id.
    pub id: MountId,
    /// Where it is attached.
    pub target: AbsPath,
    /// Its attributes, as the kernel reports them.
    pub attributes: MountAttributes,
}

impl From<&Applied> for Unmount {
    fn from(mount: &Applied) -> Self {
        Self::from(&mount.target).id(mount.id)
    }
}

/// Why a batch was not done, as [`Error::batch`] has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchFailure {
    /// The mount that could not be made, counted from 0.
    pub entry: usize,
    /// What is still there of those before it.
    pub left: Vec<Left>,
}

/// A mount of a batch that could not be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its unique id.
    pub id: MountId,
    /// Where it is attached.
    pub target: AbsPath,
}

impl Client {
    /// Makes all mounts of a batch, or none: when one cannot be made, those that were made
    /// before it are ended again, by their ids, before this returns. They also end when
    /// this process, its connection or either of the helper's processes for it ends before all are
    /// there. Meanwhile others see some of the mounts.
    ///
    /// What is there already stays as it is, whatever becomes of the batch. The batch has
    /// one deadline, that of a request; its mounts count as a request each.
    ///
    /// A batch that may have been done is not repeated: what was made of it may just be being
    /// taken back.
    ///
    /// # Errors
    /// As for [`Client::mount`], with [`Error::batch`] for which mount it was; denied, before
    /// any mount is made, when the policy allows one of them not.
    /// [`Unsupported`](crate::ErrorKind::Unsupported) before Linux 6.8, and
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for no mounts, more than
    /// [`Batch::MAX`], two at the same target, or a [`Fuse`](crate::Fuse).
    pub fn apply(&mut self, batch: Batch) -> Result<Vec<Applied>, Error> {
        let targets: Vec<_> = batch.0.iter().map(|mount| mount.target.clone()).collect();
        let leased: Vec<_> = batch.0.iter().map(|mount| mount.lease).collect();
        let checked = protocol::Batch::try_from(batch.0);
        let request = Request::Apply(checked.map_err(Error::invalid_batch)?);
        if protocol::frame::encode(&request).is_err() {
            return Err(Error::batch_too_long());
        }
        let entries = match self.call(&request)? {
            Reply::Applied(entries) if entries.len() == targets.len() => entries,
            Reply::NotApplied(failed) => return Err(self.not_applied(failed, &targets)),
            other => return Err(self.misfit(&other, "a batch")),
        };
        let ids = entries.iter().zip(leased);
        let leased = ids.filter_map(|(entry, leased)| leased.then_some(entry.id));
        self.leases.extend(leased);
        let whole = |(entry, target): (AppliedEntry, AbsPath)| Applied {
            outcome: entry.outcome,
            id: entry.id,
            target,
            attributes: entry.attributes,
        };
        Ok(entries.into_iter().zip(targets).map(whole).collect())
    }

    fn not_applied(&mut self, failed: NotApplied, targets: &[AbsPath]) -> Error {
        let at = |entry: u32| targets.get(usize::try_from(entry).ok()?).cloned();
        let left = |left: LeftEntry| {
            let target = at(left.entry)?;
            let id = left.id;
            Some(Left { id, target })
        };
        let left: Option<Vec<_>> = failed.left.into_iter().map(left).collect();
        let (Some(left), Ok(entry), Some(_)) =
            (left, usize::try_from(failed.entry), at(failed.entry))
        else {
            return self.broken("it named a mount that the batch does not have");
        };
        Error::from(failed.error).of_batch(BatchFailure { entry, left })
    }
}

impl Error {
    fn invalid_batch(error: InvalidBatch) -> Self {
        Self::invalid_request(format!("the batch is refused: {error}")).caused_by(error)
    }

    fn batch_too_long() -> Self {
        Self::invalid_request("the batch is too long for one request: apply it in parts")
    }
}
