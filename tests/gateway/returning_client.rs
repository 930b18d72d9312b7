//! A client that keeps its session and connects again whenever it is not connected. What it owes is
//! in its [`FarSide`], which outlives every connection.

use std::time::Duration;

use wellhead::mqtt::{Packet, Properties, QoS, ReasonCode, Version};

use super::far_side::{FarSide, connect, connect_as};
use super::support::client::Client;

pub struct ReturningClient {
    name: &'static str,
    pub version: Version,
    pub port: u16,
    pub client: Option<Client>,
    was_here: bool,
    pub far: FarSide,
}

impl ReturningClient {
    pub fn new(name: &'static str, port: u16) -> Self {
        Self::new_as(name, Version::V5, port)
    }

    pub fn new_as(name: &'static str, version: Version, port: u16) -> Self {
        Self {
            name,
            version,
            port,
            client: None,
            was_here: false,
            far: FarSide::default(),
        }
    }

    /// True if there is a connection with a session now.
    pub fn is_connected(&mut self) -> bool {
        self.client.is_some() || self.dial().is_some()
    }

    fn hello(&self) -> Packet {
        match self.version {
            Version::V5 => connect(self.name),
            Version::V31 | Version::V311 => {
                connect_as(self.name, self.version, Properties::default())
            }
        }
    }

    fn dial(&mut self) -> Option<()> {
        let Packet::Connect(hello) = self.hello() else {
            unreachable!("that is CONNECT")
        };
        let (client, answer) = Client::connect(self.port, *hello).ok()?;
        assert_eq!(answer.reason, ReasonCode::SUCCESS);
        assert!(
            answer.session_present || !self.was_here,
            "{} has lost its session",
            self.name
        );
        self.was_here = true;
        self.client = Some(client);
        for packet in self.far.resume() {
            self.send(&packet);
        }
        Some(())
    }

    /// Takes its session over with a second connection; what is on its way over the first is lost.
    pub fn take_over(&mut self) {
        let first = self.client.take();
        self.dial();
        drop(first);
    }

    /// Subscribes, and waits for the grant.
    pub fn subscribe(&mut self, filter: &str) {
        assert!(self.is_connected(), "{} cannot connect", self.name);
        let client = self.client.as_mut().unwrap();
        let granted = client.subscribe(&[filter], QoS::ExactlyOnce);
        assert_eq!(granted, [ReasonCode::GRANTED_QOS_2]);
    }

    pub fn send(&mut self, packet: &Packet) {
        if let Some(client) = &mut self.client {
            client.send(packet);
        }
    }

    /// Takes what is there, and answers.
    pub fn turn(&mut self) {
        if !self.is_connected() {
            return;
        }
        let Some(client) = &mut self.client else {
            return;
        };
        match client.take_in() {
            Ok(true) => {}
            Ok(false) => std::thread::sleep(Duration::from_micros(100)),
            Err(_) => return self.client = None,
        }
        while let Some(packet) = self.client.as_mut().and_then(Client::next_packet) {
            if let Some(answer) = self.far.take(packet) {
                self.send(&answer);
            }
        }
    }
}
