//! Operation of the gateway: control socket, status, service manager, crash loops.

pub mod control;
pub mod report;
pub mod restarts;
pub mod service;
