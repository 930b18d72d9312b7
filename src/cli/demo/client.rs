//! A client of the gateway's local broker: publishes numbers at QoS 1, notes which were
//! acknowledged, counts readings.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};

use super::ledger::Ledger;
use crate::mqtt::{
    ClientLogin, MqttClient, Packet, ReasonCode, SubscribeOptions, TopicFilter, TopicName,
};
use crate::tasks::Stop;

const PUBLISH_EVERY: Duration = Duration::from_millis(50);
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
const MAX_PACKET: usize = 1 << 20;

/// One number is in flight at a time; a number that was not acknowledged is published again.
pub(super) struct LocalClient {
    port: u16,
    ledger: Arc<Ledger>,
    next: u64,
}

impl LocalClient {
    pub(super) fn new(port: u16, ledger: Arc<Ledger>) -> Self {
        Self {
            port,
            ledger,
            next: 1,
        }
    }

    /// Until the stop order it publishes; afterwards it only listens.
    pub(super) async fn run(mut self, stop: Stop) -> Result<(), String> {
        loop {
            // The gateway is killed in the middle of this: whatever goes wrong, the client connects
            // again.
            let _ = self.connection(&stop).await;
            sleep(RECONNECT_AFTER).await;
        }
    }

    async fn connection(&mut self, stop: &Stop) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let login = ClientLogin {
            client_id: "demo-client".into(),
            keep_alive: 30,
            ..ClientLogin::default()
        };
        let mut packets = MqttClient::connect(login, MAX_PACKET);
        packets.subscribe(&wanted(), SubscribeOptions::default());
        let mut pace = interval(PUBLISH_EVERY);
        let mut in_flight = false;
        loop {
            stream.write_all_buf(&mut packets.output).await?;
            tokio::select! {
                read = stream.read_buf(&mut packets.input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    while let Ok(Some(packet)) = packets.next_packet() {
                        in_flight &= !self.take(packet);
                    }
                }
                _ = pace.tick(), if !in_flight && !stop.is_stopped() => {
                    self.publish_next(&mut packets);
                    in_flight = true;
                }
            }
        }
    }

    fn publish_next(&self, packets: &mut MqttClient) {
        if let Ok(topic) = TopicName::new("local/number") {
            packets.publish(topic, self.next.to_string().into(), false);
        }
    }

    /// True if the number in flight is acknowledged or refused.
    fn take(&mut self, packet: Packet) -> bool {
        match packet {
            Packet::PubAck(ack) => {
                if ack.reason == ReasonCode::SUCCESS {
                    self.ledger.promised(self.next);
                    self.next += 1;
                }
                true
            }
            Packet::Publish(publish) => {
                let topic = publish.topic.as_ref().map_or("", TopicName::as_str);
                match waiting(&publish.payload).filter(|_| topic.starts_with("$SYS/")) {
                    Some(count) => self.ledger.waiting(count),
                    None => self.ledger.reading(),
                }
                false
            }
            _ => false,
        }
    }
}

fn waiting(status: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(status)
        .ok()?
        .get("waiting")?
        .as_u64()
}

fn wanted() -> Vec<TopicFilter> {
    ["demo/#", "$SYS/wellhead/uplink/cloud"]
        .into_iter()
        .filter_map(|text| TopicFilter::new(text).ok())
        .collect()
}
