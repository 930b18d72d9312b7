//! wellhead: an edge gateway. It polls serial and Modbus instruments, serves local MQTT clients
//! with a broker of its own, and carries every message to a remote MQTT broker over a link that is
//! slow, billed by the byte and often down.
//!
//! # Data flow
//!
//! ```text
//! wire --Driver--> Reading --report--> Reading --route--+--> broker (encoded at its door) --> local clients
//!                                                       +--> outbox (raw) --> uplink (encoded when sent) --> remote broker ... acknowledged --> settled
//! local client --PUBLISH--> broker --route--> outbox          (acknowledged once it is on disk, or at the remote)
//! remote broker --PUBLISH--> uplink --> broker --> local clients
//! .../set --> broker --route--> report::set --Order--> line --Driver--> wire         (result: .../set/result)
//! ```
//!
//! # The map
//!
//! | row | modules |
//! |---|---|
//! | 0 plain tools | [`backoff`] · [`files`] · [`heartbeat`] · [`leb128`] · [`log`] · [`metrics`] · [`tasks`] · [`time`] · [`units`] |
//! | 1 vocabulary | [`reading`] · [`net`] (addresses, certificates, WebSocket, proxy) · [`mqtt`] (packets, codec, topics) |
//! | 2 | [`payload`] (readings to bytes, and back) |
//! | 3 | [`message`] · [`store`] (the durable journal) |
//! | 4 | [`field`] (southbound) · [`outbox`] (undelivered messages) |
//! | 5 | [`route`] (who gets a message: rules, conditions, mapping) |
//! | 6 | [`report`] (which readings are worth a message) · [`uplink`] (northbound) · [`broker`] (local clients) |
//! | 7 | [`config`] (the YAML file) · [`status`] (control socket, status, service manager) |
//! | 8 | [`gateway`] (the only place that wires modules together) |
//! | 9 | [`cli`] (one file or folder per command) |
//!
//! A module uses modules of lower rows only; neighbours meet as channels, in [`gateway`] alone. The
//! architecture test in `tests/gateway/architecture.rs` enforces it.
//!
//! # Invariants
//!
//! * One owner per fact: [`outbox`] owns what is undelivered, [`broker::engine`] sessions and
//!   retained messages, one task one wire. [`route`] alone compares messages with rules.
//! * State machines do no I/O: [`broker::engine`], `uplink::session`, [`field::schedule`] get the
//!   time as an argument.
//! * A message is acknowledged only when it is where it was promised to be: on disk, or at the
//!   remote broker.
//! * Session state is durable before the packet that depends on it is written.
//! * Every queue is bounded. A full outbox makes the sender wait; the live view of local clients
//!   drops and counts.
//! * Only [`store`] names sled, only `uplink::link` names rumqttc, only [`time`] reads clocks.

pub mod backoff;
pub mod broker;
// The fuzz targets use neither `cli` nor `gateway`; without them they are built sooner.
#[cfg(not(fuzzing))]
pub mod cli;
pub mod config;
pub mod field;
pub mod files;
#[cfg(not(fuzzing))]
pub mod gateway;
pub mod heartbeat;
pub mod leb128;
pub mod log;
pub mod message;
pub mod metrics;
pub mod mqtt;
pub mod net;
pub mod outbox;
pub mod payload;
pub mod reading;
pub mod report;
pub mod route;
pub mod status;
pub mod store;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod time;
pub mod units;
pub mod uplink;
