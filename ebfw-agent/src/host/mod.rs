//! The host: cgroups, network namespaces, sockets, privileges and the lock. The border to `/sys`, `/proc` and netlink.
//!
//! Nothing here decides anything: what it reads goes to [`crate::workload`], what it does was decided elsewhere.

pub mod cgroup;
pub(crate) mod inbox;
pub(crate) mod interrupted;
pub mod layout;
pub mod lock;
pub mod netns;
pub mod privileges;
pub mod resolvers;
pub(crate) mod signals;
pub mod sockets;
pub mod tree;
