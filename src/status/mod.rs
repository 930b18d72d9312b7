//! What the gateway tells those who look after it.

pub mod control;
pub mod restarts;
pub mod service;
