//! A load over raw sockets, in one thread: publishers, each with some messages in flight, and
//! subscribers, which may be at another broker. It notes what comes twice, late or never.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use wellhead::mqtt::{Connect, QoS, ReasonCode, Version};

use crate::client::{Client, hello};

/// Messages in flight from one publisher.
const WINDOW: u64 = 10;
const PAYLOAD: usize = 64;

#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) qos: u8,
}

/// One connection of the load.
pub(crate) struct Connection {
    client: Client,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: u64,
    acked: u64,
    delivered: u64,
    /// Of a subscriber: the next number of each publisher.
    expected: Vec<u64>,
    next_id: u16,
}

pub(crate) fn connect(port: u16, id: &str) -> Connection {
    // rumqttd refuses a keep alive of 0.
    let hello = Connect {
        keep_alive: 240,
        ..hello(Version::V311, id)
    };
    Connection {
        client: Client::accepted(port, hello),
        input: Vec::new(),
        output: Vec::new(),
        sent: 0,
        acked: 0,
        delivered: 0,
        expected: Vec::new(),
        next_id: 0,
    }
}

pub(crate) fn subscribe(connection: &mut Connection, filter: &str, qos: u8) {
    let granted = connection
        .client
        .subscribe(&[filter], QoS::from_bits(qos).unwrap());
    assert_eq!(granted, [ReasonCode(qos)]);
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) deliveries: u64,
    pub(crate) reordered: u64,
}

pub(crate) struct Load {
    case: Case,
    clients: Vec<Connection>,
    epoll: std::os::fd::OwnedFd,
    pub(crate) counts: Counts,
}

impl Load {
    /// Subscribers at one port, publishers at another one.
    pub(crate) fn new(publish_at: u16, subscribe_at: u16, case: Case) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut clients = Vec::new();
        for index in 0..case.subscribers {
            let mut client = connect(subscribe_at, &format!("s{index}"));
            client.expected = vec![0; case.publishers];
            subscribe(&mut client, "bench/+/load", case.qos);
            clients.push(client);
        }
        clients.extend((0..case.publishers).map(|index| connect(publish_at, &format!("p{index}"))));
        for (index, client) in clients.iter().enumerate() {
            client.client.stream.set_nonblocking(true).unwrap();
            epoll::add(
                &epoll,
                &client.client.stream,
                epoll::EventData::new_u64(index as u64),
                epoll::EventFlags::IN,
            )
            .unwrap();
        }
        Self {
            case,
            clients,
            epoll,
            counts: Counts::default(),
        }
    }

    fn publish(&mut self) {
        let case = self.case;
        for index in 0..case.publishers {
            let delivered = self.clients[..case.subscribers]
                .iter()
                .map(|subscriber| subscriber.expected[index])
                .min()
                .unwrap();
            let client = &mut self.clients[case.subscribers + index];
            let done = if case.qos == 0 {
                delivered
            } else {
                delivered.min(client.acked)
            };
            while client.sent - done < WINDOW {
                put_publish(client, index, case.qos);
            }
        }
    }

    fn flush(&mut self) {
        for client in self
            .clients
            .iter_mut()
            .filter(|client| !client.output.is_empty())
        {
            match client.client.stream.write(&client.output) {
                Ok(count) => drop(client.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn turn(&mut self, space: &mut [u8]) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let wait = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&wait),
        )
        .unwrap();
        for event in events {
            let index = event.data.u64() as usize;
            let client = &mut self.clients[index];
            match client.client.stream.read(space) {
                Ok(0) => panic!("the broker closed a connection"),
                Ok(count) => client.input.extend_from_slice(&space[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            take_packets(client, &mut self.counts);
        }
    }

    pub(crate) fn run(&mut self, time: Duration, space: &mut [u8]) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.publish();
            self.flush();
            self.turn(space);
        }
    }

    /// Waits for what is on its way; returns what never came.
    pub(crate) fn drain(&mut self, space: &mut [u8]) -> u64 {
        let end = Instant::now() + Duration::from_secs(5);
        let sent: u64 = self.clients[self.case.subscribers..]
            .iter()
            .map(|client| client.sent)
            .sum();
        let wanted = sent * self.case.subscribers as u64;
        loop {
            let came: u64 = self.clients[..self.case.subscribers]
                .iter()
                .map(|client| client.delivered)
                .sum();
            if came >= wanted || Instant::now() > end {
                return wanted.saturating_sub(came);
            }
            self.flush();
            self.turn(space);
        }
    }
}

fn put_publish(client: &mut Connection, index: usize, qos: u8) {
    let topic = format!("bench/{index:03}/load");
    let id = if qos > 0 { 2 } else { 0 };
    client.output.extend([
        0x30 | qos << 1,
        (2 + topic.len() + id + PAYLOAD) as u8,
        0,
        topic.len() as u8,
    ]);
    client.output.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        client.next_id = client.next_id.checked_add(1).unwrap_or(1);
        client.output.extend(client.next_id.to_be_bytes());
    }
    let mut payload = [b'x'; PAYLOAD];
    payload[..2].copy_from_slice(&(index as u16).to_be_bytes());
    payload[2..10].copy_from_slice(&client.sent.to_be_bytes());
    client.output.extend_from_slice(&payload);
    client.sent += 1;
}

fn take_packets(client: &mut Connection, counts: &mut Counts) {
    let input = std::mem::take(&mut client.input);
    let mut rest = &input[..];
    while let [first, length, body @ ..] = rest {
        // Nothing here is longer than 127 bytes.
        let Some((packet, behind)) = body.split_at_checked(usize::from(*length)) else {
            break;
        };
        rest = behind;
        match first >> 4 {
            3 => took_publish(client, *first, packet, counts),
            4 | 7 => client.acked += 1,
            5 => client.output.extend([0x62, 2, packet[0], packet[1]]),
            6 => client.output.extend([0x70, 2, packet[0], packet[1]]),
            other => panic!("packet type {other}"),
        }
    }
    client.input = rest.to_vec();
}

fn took_publish(client: &mut Connection, first: u8, packet: &[u8], counts: &mut Counts) {
    let topic = usize::from(packet[1]);
    let mut body = &packet[2 + topic..];
    match (first >> 1) & 3 {
        0 => {}
        qos => {
            client
                .output
                .extend([if qos == 1 { 0x40 } else { 0x50 }, 2, body[0], body[1]]);
            body = &body[2..];
        }
    }
    let publisher = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let number = u64::from_be_bytes(body[2..10].try_into().unwrap());
    if number != client.expected[publisher] {
        counts.reordered += 1;
    }
    client.expected[publisher] = number + 1;
    client.delivered += 1;
    counts.deliveries += 1;
}
