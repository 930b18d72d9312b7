//! Limits of the local broker.

use std::time::Duration;

use super::{Check, at};
use crate::broker::engine::BrokerLimits;
use crate::config::file;
use crate::units::Size;

const SMALLEST_PACKET: usize = 1000;
const LARGEST_PACKET: usize = 64 << 20;
const SMALLEST_SESSION: usize = 16_000;
/// Room for one session in the default size of all sessions.
const BYTES_PER_SESSION: usize = 12 << 10;
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);
const SHORTEST_SYS: Duration = Duration::from_millis(100);

fn bytes(size: Option<Size>, usual: usize) -> usize {
    size.map_or(usual, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
}

/// Limits on what sessions may hold, in bytes.
struct SessionSizes {
    session: usize,
    user: usize,
    all: usize,
}

/// The usual sizes follow what is typed: more sessions get more, and a smaller size is never above
/// a larger one.
fn session_sizes(
    check: &mut Check<'_>,
    file: &file::BrokerConfig,
    max_sessions: usize,
) -> SessionSizes {
    let usual = BrokerLimits::default();
    let typed = |size: Option<Size>| bytes(size, 0);
    let least = typed(file.max_user_size).max(typed(file.max_session_size));
    let all = bytes(
        file.max_sessions_size,
        usual
            .max_sessions_bytes
            .max(max_sessions.saturating_mul(BYTES_PER_SESSION))
            .max(least),
    );
    let user = bytes(
        file.max_user_size,
        usual
            .max_user_bytes
            .max(all / 3)
            .max(typed(file.max_session_size))
            .min(all),
    );
    let session = bytes(file.max_session_size, usual.max_session_bytes.min(user));
    for (key, size, more, most) in [
        ("max_session_size", session, "max_user_size", user),
        ("max_user_size", user, "max_sessions_size", all),
    ] {
        if size > most {
            check.fault(
                &at!["broker", key],
                format!("this is more than `{more}`; write at most as much, or raise `{more}`"),
            );
        }
    }
    for (key, size) in [
        ("max_session_size", session),
        ("max_user_size", user),
        ("max_sessions_size", all),
    ] {
        if size < SMALLEST_SESSION {
            check.fault(
                &at!["broker", key],
                "too small for a session; write at least 16kB, such as 1MiB",
            );
        }
    }
    SessionSizes { session, user, all }
}

/// As typed, with defaults for the rest; values that no client could live with are faults.
pub(super) fn limits(check: &mut Check<'_>, file: &file::BrokerConfig) -> BrokerLimits {
    let limits = filled_in(check, file);
    check_limits(check, &limits);
    limits
}

fn filled_in(check: &mut Check<'_>, file: &file::BrokerConfig) -> BrokerLimits {
    let usual = BrokerLimits::default();
    let max_sessions = file
        .max_sessions
        .unwrap_or(usual.max_sessions.max(file.max_connections.unwrap_or(0)));
    let sizes = session_sizes(check, file, max_sessions);
    BrokerLimits {
        max_packet: bytes(file.max_packet, usual.max_packet),
        max_connect: bytes(file.max_connect, usual.max_connect),
        max_sessions,
        max_session_bytes: sizes.session,
        max_user_bytes: sizes.user,
        max_sessions_bytes: sizes.all,
        max_queued: file.max_queued.unwrap_or(usual.max_queued),
        max_queued_bytes: bytes(file.max_queued_size, usual.max_queued_bytes),
        max_queued_total: bytes(file.max_queued_total, usual.max_queued_total),
        queue_full: file.when_queue_full,
        max_subscriptions: file.max_subscriptions.unwrap_or(usual.max_subscriptions),
        max_retained: file.max_retained.unwrap_or(usual.max_retained),
        max_retained_bytes: bytes(file.max_retained_size, usual.max_retained_bytes),
        receive_maximum: file.max_in_flight.unwrap_or(usual.receive_maximum),
        send_window: send_window(file, usual.send_window),
        topic_aliases: file.topic_aliases.unwrap_or(usual.topic_aliases),
        connect_within: file
            .connect_within
            .map_or(usual.connect_within, |span| span.0),
        max_keep_alive: file.max_keep_alive.map(|span| span.0),
        failed_logins: file.failed_logins.unwrap_or(usual.failed_logins),
        max_session_expiry: file.max_session_expiry.map(|span| span.0),
        sys_every: sys_every(file).unwrap_or(usual.sys_every),
        ..usual
    }
}

/// Without a value of its own, `max_in_flight` binds both directions.
fn send_window(file: &file::BrokerConfig, usual: u16) -> u16 {
    let both = file.max_in_flight.map(|both| both.max(1));
    file.send_window.or(both).unwrap_or(usual)
}

/// How often the broker publishes its `$SYS` topics; 0 for never.
fn sys_every(file: &file::BrokerConfig) -> Option<Duration> {
    let typed = file.sys_every?.0;
    Some(if typed.is_zero() {
        typed
    } else {
        typed.max(SHORTEST_SYS)
    })
}

fn check_limits(check: &mut Check<'_>, limits: &BrokerLimits) {
    for (key, size) in [
        ("max_packet", limits.max_packet),
        ("max_connect", limits.max_connect),
    ] {
        if !(SMALLEST_PACKET..=LARGEST_PACKET).contains(&size) {
            check.fault(&at!["broker", key], "write a size from 1kB to 64MB");
        }
    }
    let numbers = [
        ("max_sessions", limits.max_sessions),
        ("max_queued", limits.max_queued),
        ("max_queued_size", limits.max_queued_bytes),
        ("max_queued_total", limits.max_queued_total),
        ("max_subscriptions", limits.max_subscriptions),
        ("max_in_flight", usize::from(limits.receive_maximum)),
        ("send_window", usize::from(limits.send_window)),
    ];
    for (key, number) in numbers {
        if number == 0 {
            check.fault(
                &at!["broker", key],
                "type 1 or more; leave the key out for the default",
            );
        }
    }
    if limits.connect_within < Duration::from_secs(1) {
        check.fault(
            &at!["broker", "connect_within"],
            "nobody can log in that fast; write at least 1s, such as 10s",
        );
    }
    if limits
        .max_keep_alive
        .is_some_and(|span| span < SHORTEST_KEEP_ALIVE)
    {
        check.fault(
            &at!["broker", "max_keep_alive"],
            "write at least 5s, such as 10m",
        );
    }
}
