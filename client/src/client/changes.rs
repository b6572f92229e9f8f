//! What changes the mount table.

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_protocol::{
    Detach, Kind, Mount, MountInfo, Mounted, Operation, Reply, Request, Unmounted,
};

use super::{Call, Client, is_last};
use crate::deadline::Deadline;
use crate::passing::path_of;
use crate::{DetachedMount, Error, ErrorKind, Fuse, FuseMount, Move, Passing, Remount, Unmount};

impl Client {
    /// Mounts a [`Bind`](crate::Bind), a [`Tmpfs`](crate::Tmpfs), a
    /// [`Block`](crate::Block), an [`Image`](crate::Image) or an
    /// [`Overlay`](crate::Overlay).
    ///
    /// Asking for what is there already is no error: the reply's
    /// [`outcome`](Mounted::outcome) tells.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) by the policy,
    /// [`Busy`](crate::ErrorKind::Busy) when the target holds a different mount,
    /// and whatever else [`ErrorKind`](crate::ErrorKind) lists.
    pub fn mount(&mut self, mount: impl Into<Mount>) -> Result<Mounted, Error> {
        self.mount_passing(mount, Passing::new())
    }

    /// Mounts, with locations that this process has opened and the helper's user
    /// cannot reach, or with a user namespace by which the mount is ID-mapped.
    ///
    /// A descriptor stays what it was when it was opened. Once a mount covers the
    /// target, the same request with the same descriptor is
    /// [`Busy`](crate::ErrorKind::Busy), and with the path opened anew it is
    /// [`AlreadyMounted`](crate::Outcome::AlreadyMounted). So a request with a passed
    /// target whose reply was lost is not repeated. Nor can it be
    /// [leased](Client#leases).
    ///
    /// # Errors
    /// As for [`Client::mount`], and [`Passing::describe`].
    pub fn mount_passing(
        &mut self,
        mount: impl Into<Mount>,
        passing: Passing<'_>,
    ) -> Result<Mounted, Error> {
        let mount = passing.describe(mount)?;
        if let Kind::Fuse { .. } = mount.kind {
            return Err(Error::other_method("Client::mount_fuse"));
        }
        let lease = mount.lease;
        let request = Request::Perform(Operation::Mount(mount));
        let mut call = self.begin().passing(passing);
        match self.exchange(&request, &mut call)? {
            Reply::Mounted(mounted) => {
                if lease {
                    self.leases.insert(mounted.mount.id);
                }
                Ok(mounted)
            }
            other => Err(self.misfit(&other, "a mount")),
        }
    }

    /// Mounts a [`Fuse`] file system and gives the connection that its program answers
    /// on. Until it does, whoever looks at the target waits.
    ///
    /// A second request is no [`AlreadyMounted`](crate::Outcome::AlreadyMounted): there
    /// is one connection. So after a lost connection it is not repeated either.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Fuse};
    /// let mut client = Client::connect()?;
    /// let made = client.mount_fuse(Fuse::new("sshfs", "/run/vms/7/remote")?)?;
    /// // A program of libfuse takes "/dev/fd/N" for the place, N being its number.
    /// let connection = made.connection;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Client::mount`]; [`Protocol`](crate::ErrorKind::Protocol) also for a
    /// reply without a connection.
    pub fn mount_fuse(&mut self, fuse: Fuse) -> Result<FuseMount, Error> {
        self.mount_fuse_passing(fuse, Passing::new())
    }

    /// As [`Client::mount_fuse`], at a target that this process has opened and the
    /// helper's user cannot reach.
    ///
    /// # Errors
    /// As for [`Client::mount_fuse`], and [`Passing::describe`].
    pub fn mount_fuse_passing(
        &mut self,
        fuse: Fuse,
        passing: Passing<'_>,
    ) -> Result<FuseMount, Error> {
        let mount = passing.describe(fuse)?;
        let lease = mount.lease;
        let request = Request::Perform(Operation::Mount(mount));
        let (reply, descriptors) = self.exchange_for_descriptors(&request, passing)?;
        match (reply, <[OwnedFd; 1]>::try_from(descriptors)) {
            (Reply::Mounted(mounted), Ok([connection])) => {
                if lease {
                    self.leases.insert(mounted.mount.id);
                }
                Ok(FuseMount {
                    mounted,
                    connection,
                })
            }
            (Reply::Mounted(_), Err(_)) => {
                Err(self.broken("a FUSE mount did not come with one connection"))
            }
            (Reply::Error(error), _) => Err(error.into()),
            (other, _) => Err(self.misfit(&other, "a FUSE mount")),
        }
    }

    /// Gets a mount that is attached nowhere, for a mount namespace of this process's own.
    ///
    /// Who holds it can attach it, in any namespace where they may, and pass it on. Its
    /// flags stay in all of them. It lasts until nobody has it any more, whatever becomes
    /// of this client, and the helper can neither list nor end it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Detach};
    /// let images = Client::connect()?.detach(Detach::new("/srv/images")?.read_only())?;
    /// // In a process that has entered a user and a mount namespace of its own:
    /// images.attach("/mnt")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Client::mount`]; [`Protocol`](crate::ErrorKind::Protocol) also for a
    /// reply without a mount. After a lost connection it is not repeated.
    pub fn detach(&mut self, detach: impl Into<Detach>) -> Result<DetachedMount, Error> {
        let detach = Detach {
            idmap: false,
            ..detach.into()
        };
        self.finish_detach(detach, Passing::new())
    }

    /// As [`Client::detach`], ID-mapped by a user namespace that this process has opened: see
    /// [`Passing::idmap`]. It keeps its map wherever it is attached.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use mountwarden_client::{Client, Detach};
    /// let container = std::fs::File::open("/proc/4711/ns/user")?;
    /// let images = Detach::new("/srv/images")?.read_only();
    /// let images = Client::connect()?.detach_mapped(images, &container)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Client::detach`].
    pub fn detach_mapped(
        &mut self,
        detach: impl Into<Detach>,
        namespace: &impl AsFd,
    ) -> Result<DetachedMount, Error> {
        let detach = Detach {
            idmap: true,
            ..detach.into()
        };
        self.finish_detach(detach, Passing::new().idmap(namespace))
    }

    fn finish_detach(
        &mut self,
        detach: Detach,
        passing: Passing<'_>,
    ) -> Result<DetachedMount, Error> {
        let request = Request::Perform(Operation::Detach(detach));
        let (reply, descriptors) = self.exchange_for_descriptors(&request, passing)?;
        match (reply, <[OwnedFd; 1]>::try_from(descriptors)) {
            (Reply::Detached(detached), Ok([mount])) => Ok(DetachedMount { detached, mount }),
            (Reply::Detached(_), Err(_)) => {
                Err(self.broken("a detached mount did not come with one descriptor"))
            }
            (Reply::Error(error), _) => Err(error.into()),
            (other, _) => Err(self.misfit(&other, "a detached mount")),
        }
    }

    /// Exchanges a request for a reply, which may be an error, and what comes with it.
    fn exchange_for_descriptors(
        &mut self,
        request: &Request,
        passing: Passing<'_>,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let descriptors = passing.descriptors();
        self.check_leases(false)?;
        let deadline = Deadline::after(self.timeout);
        let exchanged = self.connected(deadline).and_then(|connection| {
            connection.exchange_for_descriptors(request, descriptors, deadline)
        });
        if matches!(&exchanged, Err(failure) if failure.is_of_going_helper()) {
            self.check_leases(false)?;
        }
        let (connection, reply, descriptors) =
            exchanged.map_err(|failure| Error::of(failure, &self.socket, self.timeout))?;
        if !is_last(&reply) {
            self.connection = Some(connection);
        }
        Ok((reply, descriptors))
    }

    /// Unmounts an [`Unmount`], an [`AbsPath`](crate::AbsPath), or exactly the
    /// mount that a `&Mounted` or `&MountInfo` describes.
    ///
    /// # Errors
    /// [`NotMounted`](crate::ErrorKind::NotMounted) when nothing is there,
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch) when another mount is,
    /// [`Busy`](crate::ErrorKind::Busy) when it is in use,
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost) when the helper went
    /// away with the request, and whatever else [`ErrorKind`](crate::ErrorKind)
    /// lists.
    pub fn unmount(&mut self, unmount: impl Into<Unmount>) -> Result<Unmounted, Error> {
        self.finish_unmount(unmount.into().into(), self.begin())
    }

    /// Unmounts the mount whose root this process has opened, where the helper's user
    /// cannot reach it. The descriptor itself keeps the mount in use, so that only a
    /// [`lazy`](Unmount::lazy) unmount can be done. It may be opened with `O_PATH`,
    /// as the root of a mount whose server is dead must be.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use mountwarden_client::{Client, Unmount};
    /// let root = std::fs::File::open("/home/ann/shared")?;
    /// let unmount = Unmount::new("/home/ann/shared")?.lazy();
    /// Client::connect()?.unmount_passing(unmount, &root)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Client::unmount`];
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for one that is not lazy.
    pub fn unmount_passing(
        &mut self,
        unmount: impl Into<Unmount>,
        root: &impl AsFd,
    ) -> Result<Unmounted, Error> {
        let unmount = mountwarden_protocol::Unmount {
            target: path_of("target", root.as_fd())?,
            passed: true,
            ..unmount.into().into()
        };
        let call = self.begin().passing(Passing::new().target(root));
        self.finish_unmount(unmount, call)
    }

    fn finish_unmount(
        &mut self,
        unmount: mountwarden_protocol::Unmount,
        mut call: Call<'_>,
    ) -> Result<Unmounted, Error> {
        let request = Request::Perform(Operation::Unmount(unmount.clone()));
        match (self.exchange(&request, &mut call), unmount.id) {
            (Ok(Reply::Unmounted(unmounted)), _) => {
                self.leases.remove(&unmounted.id);
                Ok(unmounted)
            }
            (Ok(other), _) => Err(self.misfit(&other, "an unmount")),
            // The reply to the first attempt was lost, and ids are never used again.
            (Err(error), Some(id)) if call.sent && error.kind() == ErrorKind::NotMounted => {
                Ok(Unmounted {
                    id,
                    target: unmount.target,
                })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Changes the attributes of a mount that is there, and gives it as it is then.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Remount};
    /// let mut client = Client::connect()?;
    /// let sealed = client.remount(Remount::new("/run/vms/7/images")?.read_only())?;
    /// println!("{}", sealed.attributes.names().join(","));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) by the policy,
    /// [`NotMounted`](crate::ErrorKind::NotMounted) when nothing is there,
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch) when another mount is,
    /// [`Busy`](crate::ErrorKind::Busy) when it is in use or not what is lifted from,
    /// and whatever else [`ErrorKind`](crate::ErrorKind) lists.
    pub fn remount(&mut self, remount: impl Into<Remount>) -> Result<MountInfo, Error> {
        let remount: mountwarden_protocol::Remount = remount.into().into();
        match self.call(&Request::Perform(Operation::Remount(remount)))? {
            Reply::Remounted(mount) => Ok(mount),
            other => Err(self.misfit(&other, "a remount")),
        }
    }

    /// Attaches a mount elsewhere, and gives it as it is then. Where this fails, it is where it
    /// was; the error says so where that could not be.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{Client, Move};
    /// let mut client = Client::connect()?;
    /// let moved = client.move_mount(Move::new("/run/vms/7/next", "/run/vms/7/data")?)?;
    /// println!("{} is at {}", moved.id, moved.target);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) by the policy,
    /// [`NotMounted`](crate::ErrorKind::NotMounted) when nothing is there,
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch) when another mount is,
    /// [`Busy`](crate::ErrorKind::Busy) when the target holds a mount, or the one that is to be
    /// moved has others on it or is leased,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) from and to a shared mount,
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost) when the helper went away with the
    /// request, and whatever else [`ErrorKind`](crate::ErrorKind) lists.
    pub fn move_mount(&mut self, moved: impl Into<Move>) -> Result<MountInfo, Error> {
        let moved: mountwarden_protocol::Move = moved.into().into();
        match self.call(&Request::Perform(Operation::Move(moved)))? {
            Reply::Moved(mount) => Ok(mount),
            other => Err(self.misfit(&other, "a move")),
        }
    }
}
