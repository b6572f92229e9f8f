//! Volumes, whose file systems are programs that outlive the service that started them.

mod init_system;
mod manager;

pub use init_system::InitSystem;
pub use manager::{Manager, ManagerState};
