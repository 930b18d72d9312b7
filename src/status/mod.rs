//! Operation of the gateway: control socket, status, service manager, crash loops.

pub mod control;
pub mod open_metrics;
pub mod report;
pub mod restarts;
pub mod service;
pub mod sys_topics;
