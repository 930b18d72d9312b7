//! What the gateway tells those who look after it, and what they ask of it.

pub mod control;
pub mod report;
pub mod restarts;
pub mod service;
