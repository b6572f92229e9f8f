//! File systems of servers, or of the machine below.

use std::path::Path;

use mountwarden_protocol::{
    FilesystemName, FilesystemOptions, InvalidFilesystem, Kind, Mount, MountOptions, NetworkSource,
    Propagation, Secrets,
};

use crate::Error;
use crate::filesystem::{read, with};
use crate::operation::{Common, common_options};

/// A network file system.
///
/// Unless more is asked for: writable, `nosuid` and `nodev`, and with the options that
/// its type has by itself. No name of a server is resolved on the way: where the type
/// takes an address (`addr` of NFS, `ip` of CIFS), it is an option.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::Network;
///
/// let images = Network::new("//files.example/images", "cifs", "/run/vms/7/images")?
///     .option("ip", Some("192.0.2.7"))?
///     .secret("password", "hunter2")?;
/// assert!(!format!("{images:?}").contains("hunter2"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount is given it"]
pub struct Network {
    source: NetworkSource,
    filesystem: FilesystemName,
    own: FilesystemOptions,
    secrets: Secrets,
    common: Common,
}

impl Network {
    /// `source`, in the words of its type (`server:/export`, `//server/share`, a tag), at
    /// `target`, an existing directory.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new), for what is no type of file system, and for a
    /// source with a component `.` or `..`.
    pub fn new(source: &str, filesystem: &str, target: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            source: read("source", source)?,
            filesystem: read("type", filesystem)?,
            own: FilesystemOptions::default(),
            secrets: Secrets::default(),
            common: Common::at(target.as_ref())?,
        })
    }

    /// Nothing can be written through the mount, and the file system does not write to
    /// its server (`ro`).
    pub fn read_only(mut self) -> Self {
        self.common.options.insert(MountOptions::READ_ONLY);
        self
    }

    /// One option of the file system itself. Denied unless the grant allows it.
    ///
    /// # Errors
    /// As for [`Block::option`](crate::Block::option).
    pub fn option(mut self, key: &str, value: Option<&str>) -> Result<Self, Error> {
        self.own = with(self.own, key, value)?;
        Ok(self)
    }

    /// An option whose value nobody is to see, such as a password: no log, no reply and
    /// no [`Debug`] shows it. Denied unless the grant allows its key.
    ///
    /// # Errors
    /// As for [`Network::option`].
    pub fn secret(mut self, key: &str, value: &str) -> Result<Self, Error> {
        let secrets = with(self.secrets.into(), key, Some(value))?;
        self.secrets = secrets
            .try_into()
            .map_err(|error: InvalidFilesystem| Error::invalid_value("secret", error))?;
        Ok(self)
    }

    common_options!();
}

impl From<Network> for Mount {
    fn from(network: Network) -> Self {
        network.common.mount(Kind::Network {
            source: network.source,
            filesystem: network.filesystem,
            options: network.own,
            secrets: network.secrets,
        })
    }
}
