//! The limits of the broker.

use std::time::Duration;

use serde::Deserialize;

/// The message that is dropped when the queue of a session is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueueFull {
    /// The new one is dropped, as mosquitto does.
    #[default]
    DropNewest,
    /// The oldest that was not sent goes.
    DropOldest,
}

/// The limits of the broker. Every default protects a machine with 512 MB.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerLimits {
    /// Largest packet accepted, in bytes; CONNACK names it to MQTT 5 clients.
    pub max_packet: usize,
    /// Largest CONNECT, in bytes.
    pub max_connect: usize,
    /// Sessions, connected or not.
    pub max_sessions: usize,
    /// Bytes one session may hold besides messages: names, subscriptions, will, topic aliases,
    /// unfinished QoS 2 messages.
    pub max_session_bytes: usize,
    /// The same for all sessions of one user, or of one address without a name: the bytes that they
    /// hold beyond a few kB each.
    pub max_user_bytes: usize,
    /// The same for all sessions.
    pub max_sessions_bytes: usize,
    /// Messages that may wait for one session.
    pub max_queued: usize,
    /// Bytes that may wait for one session: payloads, topics and what it takes to keep them.
    pub max_queued_bytes: usize,
    /// Bytes of all messages that wait for sessions or are in flight to them.
    pub max_queued_total: usize,
    /// The message that is dropped when a queue is full.
    pub queue_full: QueueFull,
    /// Subscriptions of one session.
    pub max_subscriptions: usize,
    /// Retained messages in all.
    pub max_retained: usize,
    /// Bytes of all retained messages.
    pub max_retained_bytes: usize,
    /// Unacknowledged QoS 1 and 2 messages in flight from one client, which is read more slowly
    /// beyond it; an MQTT 5 client is disconnected far beyond it.
    pub receive_maximum: u16,
    /// The same to one client, unless it wants fewer. Beside the first one they weigh at most
    /// `max_queued_bytes`.
    pub send_window: u16,
    /// Topic aliases of one MQTT 5 client, in each direction.
    pub topic_aliases: u16,
    /// Bytes that may wait to be written to one connection before messages wait in the session's
    /// queue.
    pub output_bytes: usize,
    /// Time from the opening of a connection to the end of its login.
    pub connect_within: Duration,
    /// Longest keep alive; it binds MQTT 5 clients only.
    pub max_keep_alive: Option<Duration>,
    /// Longest time a session outlives its connection.
    pub max_session_expiry: Option<Duration>,
    /// Wrong passwords for one user name from one address within a minute; then that user is
    /// refused there for a minute.
    pub failed_logins: u32,
    /// Interval of the `$SYS` topics; zero for none.
    pub sys_every: Duration,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            max_packet: 1 << 20,
            max_connect: 64 << 10,
            max_sessions: 2_000,
            max_session_bytes: 1 << 20,
            max_user_bytes: 8 << 20,
            max_sessions_bytes: 24 << 20,
            max_queued: 10_000,
            max_queued_bytes: 4 << 20,
            max_queued_total: 64 << 20,
            queue_full: QueueFull::DropNewest,
            max_subscriptions: 1_000,
            max_retained: 10_000,
            max_retained_bytes: 32 << 20,
            receive_maximum: 64,
            send_window: 512,
            topic_aliases: 16,
            output_bytes: 64 << 10,
            connect_within: Duration::from_secs(10),
            max_keep_alive: None,
            max_session_expiry: None,
            failed_logins: 10,
            sys_every: Duration::from_secs(10),
        }
    }
}
