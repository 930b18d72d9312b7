//! stub
pub mod backoff; pub mod metrics; pub mod mqtt; pub mod reading; pub mod tasks; pub mod time; pub mod units;
pub mod message; pub mod store; pub mod outbox; pub mod broker; pub mod field; pub mod payload; pub mod report; pub mod uplink; pub mod config; pub mod gateway; pub mod cli;
