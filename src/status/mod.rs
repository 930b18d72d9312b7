//! What the gateway tells those who look after it.

pub mod restarts;
pub mod service;
