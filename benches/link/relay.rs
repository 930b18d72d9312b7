//! The link between the two network namespaces, packet by packet: losses, a queue of limited bytes,
//! a rate, a delay with jitter; the order stays. It counts every byte that an operator would bill:
//! IP packets with their headers, in both directions, before anything is lost.
//!
//! Packets come and go as VXLAN datagrams of the kernel on each side, so that neither a kernel
//! module for emulation nor unsafe code is needed.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::profile::LinkProfile;

/// The header of VXLAN and that of Ethernet.
const OUTER: usize = 8 + 14;
/// The receive buffer of a side: more than a sender has on its way.
const BUFFER: usize = 16 << 20;

/// What passed one direction.
#[derive(Debug, Default)]
pub(crate) struct WayCounters {
    /// Bytes of IP packets that were sent into the link.
    bytes: AtomicU64,
    /// Bytes of TCP payload in them, and those of it that had been sent before.
    payload: AtomicU64,
    resent: AtomicU64,
    /// Packets for which the queue had no room.
    dropped: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WayCount {
    pub(crate) bytes: u64,
    pub(crate) payload: u64,
    pub(crate) resent: u64,
    pub(crate) dropped: u64,
}

impl WayCounters {
    fn read(&self) -> WayCount {
        WayCount {
            bytes: self.bytes.load(Relaxed),
            payload: self.payload.load(Relaxed),
            resent: self.resent.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }
}

impl std::ops::Sub for WayCount {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            payload: self.payload - before.payload,
            resent: self.resent - before.resent,
            dropped: self.dropped - before.dropped,
        }
    }
}

/// Both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkMeter {
    up: Arc<WayCounters>,
    down: Arc<WayCounters>,
}

impl LinkMeter {
    /// To the remote.
    pub(crate) fn up(&self) -> WayCount {
        self.up.read()
    }

    /// From the remote.
    pub(crate) fn down(&self) -> WayCount {
        self.down.read()
    }
}

/// Passes packets between two sides for ever, in two threads. To be called in the namespace of the
/// link.
pub(crate) fn start(profile: LinkProfile, gateway: Side, remote: Side) -> LinkMeter {
    let meter = LinkMeter::default();
    let [gateway_socket, remote_socket] = [&gateway, &remote].map(Side::socket);
    let ways = [
        (
            gateway_socket.try_clone().unwrap(),
            remote_socket.try_clone().unwrap(),
            remote.peer,
            profile.up,
            meter.up.clone(),
        ),
        (
            remote_socket,
            gateway_socket,
            gateway.peer,
            profile.down,
            meter.down.clone(),
        ),
    ];
    for (from, to, peer, rate, counters) in ways {
        let way = Way {
            profile,
            bytes_a_second: rate / 8.0,
            random: fastrand::Rng::with_seed(7),
            is_in_burst: false,
            queue: VecDeque::new(),
            queued: 0,
            free_at: Instant::now(),
            last_due: Instant::now(),
            on_way: VecDeque::new(),
            ends: HashMap::new(),
            counters,
        };
        std::thread::spawn(move || way.pass(&from, &to, peer));
    }
    meter
}

/// Where the VXLAN datagrams of a side come from and go to.
pub(crate) struct Side {
    pub(crate) own: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Side {
    fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind(self.own).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).unwrap();
        socket
    }
}

/// One direction.
struct Way {
    profile: LinkProfile,
    bytes_a_second: f64,
    random: fastrand::Rng,
    is_in_burst: bool,
    /// Packets that wait for the link: when each has left, and its bytes.
    queue: VecDeque<(Instant, usize)>,
    queued: usize,
    free_at: Instant,
    last_due: Instant,
    /// Packets that are to arrive.
    on_way: VecDeque<(Instant, Vec<u8>)>,
    /// Where the payload of each connection ends so far, by its ports.
    ends: HashMap<[u8; 4], u32>,
    counters: Arc<WayCounters>,
}

impl Way {
    fn pass(mut self, from: &UdpSocket, to: &UdpSocket, peer: SocketAddr) {
        let mut space = vec![0; 65_536];
        loop {
            let now = Instant::now();
            while self.on_way.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, packet)) = self.on_way.pop_front() {
                    // A namespace that is gone takes nothing.
                    let _ = to.send_to(&packet, peer);
                }
            }
            let next = self.on_way.front().map(|(due, _)| due.duration_since(now));
            let wait = next
                .unwrap_or(Duration::from_secs(1))
                .max(Duration::from_micros(100));
            from.set_read_timeout(Some(wait)).unwrap();
            if let Ok((count, _)) = from.recv_from(&mut space) {
                self.take(&mut space[..count]);
            }
        }
    }

    fn take(&mut self, datagram: &mut [u8]) {
        let now = Instant::now();
        if datagram.len() < OUTER + 20 || datagram[OUTER] >> 4 != 4 {
            return;
        }
        let ip = &mut datagram[OUTER..];
        let size = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        complete_checksum(ip);
        self.count(ip);
        if self.loses() {
            return;
        }
        while self.queue.front().is_some_and(|(left, _)| *left <= now) {
            self.queued -= self.queue.pop_front().map_or(0, |(_, size)| size);
        }
        if self.queued + size > self.profile.queue {
            self.counters.dropped.fetch_add(1, Relaxed);
            return;
        }
        let takes = Duration::from_secs_f64(size as f64 / self.bytes_a_second);
        self.free_at = self.free_at.max(now) + takes;
        self.queue.push_back((self.free_at, size));
        self.queued += size;
        let due = self.free_at + self.delay();
        self.last_due = self.last_due.max(due);
        self.on_way.push_back((self.last_due, datagram.to_vec()));
    }

    fn loses(&mut self) -> bool {
        let (begins, ends) = self.profile.burst;
        let changes = if self.is_in_burst { ends } else { begins };
        self.is_in_burst ^= self.random.f64() < changes;
        self.is_in_burst || self.random.f64() < self.profile.loss
    }

    /// With jitter, which never makes it shorter than half.
    fn delay(&mut self) -> Duration {
        // About a normal distribution: the sum of twelve others.
        let normal: f64 = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
        let delay = self.profile.delay + normal * self.profile.jitter;
        Duration::from_secs_f64(delay.max(self.profile.delay / 2.0) / 1000.0)
    }

    fn count(&mut self, ip: &[u8]) {
        let size = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        self.counters.bytes.fetch_add(size as u64, Relaxed);
        let head = usize::from(ip[0] & 15) * 4;
        let Some(tcp) = ip
            .get(head..size)
            .filter(|tcp| ip[9] == 6 && tcp.len() >= 20)
        else {
            return;
        };
        let payload = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        let begin = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let ports = [tcp[0], tcp[1], tcp[2], tcp[3]];
        if tcp[13] & 2 != 0 {
            self.ends.remove(&ports);
        }
        if payload == 0 {
            return;
        }
        let end = begin.wrapping_add(payload as u32);
        let known = self.ends.entry(ports).or_insert(begin);
        let again = (known.wrapping_sub(begin) as i32).clamp(0, payload as i32);
        if end.wrapping_sub(*known) as i32 > 0 {
            *known = end;
        }
        self.counters.payload.fetch_add(payload as u64, Relaxed);
        self.counters.resent.fetch_add(again as u64, Relaxed);
    }
}

/// The kernel leaves the checksum of TCP to the network card, and here is none.
fn complete_checksum(ip: &mut [u8]) {
    let size = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let head = usize::from(ip[0] & 15) * 4;
    if ip[9] != 6 || size > ip.len() || size < head + 20 {
        return;
    }
    ip[head + 16..head + 18].fill(0);
    let words = |bytes: &[u8]| -> u64 {
        let pairs = bytes.chunks(2);
        let word =
            |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
        pairs.map(word).sum()
    };
    let mut sum = words(&ip[12..20]) + 6 + (size - head) as u64 + words(&ip[head..size]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    ip[head + 16..head + 18].copy_from_slice(&checksum.to_be_bytes());
}
