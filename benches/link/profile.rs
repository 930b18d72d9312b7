//! The links that are measured: what an operator of each sells, as far as rates, delays, losses and
//! queues are known.

use std::time::Duration;

/// A link; `up` is from the gateway to the remote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkProfile {
    pub(crate) name: &'static str,
    /// Bits a second.
    pub(crate) up: f64,
    pub(crate) down: f64,
    /// Milliseconds in one direction, and their standard deviation.
    pub(crate) delay: f64,
    pub(crate) jitter: f64,
    /// The share of packets that are lost one by one,
    pub(crate) loss: f64,
    /// after which a burst of losses begins, and after which it ends.
    pub(crate) burst: (f64, f64),
    /// Bytes of each queue; what comes while it is full is dropped.
    pub(crate) queue: usize,
    pub(crate) mtu: u32,
    /// How often a reading is taken while others wait.
    pub(crate) live_every: Duration,
}

impl LinkProfile {
    /// There and back again.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_secs_f64(2.0 * self.delay / 1000.0)
    }

    /// Bytes a second to the remote.
    pub(crate) fn bytes_up(&self) -> f64 {
        self.up / 8.0
    }
}

/// A link on which bytes are counted: nothing is lost, and nothing waits for long.
pub(crate) const METER: LinkProfile = LinkProfile {
    name: "meter",
    up: 100e6,
    down: 100e6,
    delay: 300.0,
    jitter: 0.0,
    loss: 0.0,
    burst: (0.0, 1.0),
    queue: 8 << 20,
    mtu: 1500,
    live_every: Duration::from_secs(3),
};

/// Links over satellites and a cellular one.
pub(crate) const PROFILES: [LinkProfile; 4] = [
    LinkProfile {
        name: "geo",
        up: 1e6,
        down: 4e6,
        jitter: 12.0,
        loss: 0.001,
        queue: 128 << 10,
        live_every: Duration::from_millis(500),
        ..METER
    },
    LinkProfile {
        name: "ltem",
        up: 300e3,
        down: 300e3,
        delay: 60.0,
        jitter: 15.0,
        loss: 0.002,
        queue: 64 << 10,
        mtu: 1420,
        live_every: Duration::from_millis(500),
        ..METER
    },
    LinkProfile {
        name: "bgan",
        up: 128e3,
        down: 256e3,
        delay: 450.0,
        jitter: 60.0,
        loss: 0.003,
        burst: (0.0005, 0.2),
        queue: 48 << 10,
        live_every: Duration::from_secs(1),
        ..METER
    },
    LinkProfile {
        name: "certus",
        up: 22e3,
        down: 88e3,
        delay: 350.0,
        jitter: 120.0,
        loss: 0.005,
        burst: (0.001, 0.15),
        queue: 16 << 10,
        mtu: 1400,
        ..METER
    },
];
