//! A client of the gateway's local broker: publishes numbers at QoS 1, notes which were
//! acknowledged, counts readings.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};

use super::ledger::Ledger;
use crate::mqtt::{
    Connect, Decoder, Packet, PacketId, Progress, Properties, Publish, QoS, ReasonCode, Subscribe,
    SubscribeOptions, TopicFilter, TopicName, Version, encode,
};
use crate::tasks::Stop;

const PUBLISH_EVERY: Duration = Duration::from_millis(50);
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
const MAX_PACKET: usize = 1 << 20;
const ONLY_ID: PacketId = NonZeroU16::MIN;

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
        let mut output = BytesMut::new();
        encode(
            &Packet::Connect(Box::new(hello())),
            Version::V5,
            &mut output,
        );
        encode(&Packet::Subscribe(wanted()), Version::V5, &mut output);
        let mut decoder = Decoder::client(Version::V5, MAX_PACKET);
        let mut input = BytesMut::new();
        let mut pace = interval(PUBLISH_EVERY);
        let mut in_flight = false;
        loop {
            stream.write_all_buf(&mut output).await?;
            tokio::select! {
                read = stream.read_buf(&mut input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    while let Ok(Progress::Packet(packet)) = decoder.decode(&mut input) {
                        in_flight &= !self.take(packet);
                    }
                }
                _ = pace.tick(), if !in_flight && !stop.is_stopped() => {
                    encode(&Packet::Publish(number(self.next)), Version::V5, &mut output);
                    in_flight = true;
                }
            }
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

fn hello() -> Connect {
    Connect {
        version: Version::V5,
        is_bridge: false,
        clean_start: true,
        keep_alive: 30,
        client_id: "demo-client".into(),
        will: None,
        username: None,
        password: None,
        properties: Properties::default(),
    }
}

fn wanted() -> Subscribe {
    let filters = ["demo/#", "$SYS/wellhead/uplink/cloud"]
        .into_iter()
        .filter_map(|text| TopicFilter::new(text).ok());
    Subscribe {
        packet_id: ONLY_ID,
        filters: filters
            .map(|filter| (filter, SubscribeOptions::default()))
            .collect(),
        properties: Properties::default(),
    }
}

fn number(n: u64) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TopicName::new("local/number").ok(),
        packet_id: Some(ONLY_ID),
        properties: Properties::default(),
        payload: n.to_string().into(),
    }
}
