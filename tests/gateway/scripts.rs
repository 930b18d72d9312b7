//! `tests/scripts/*.mqtt`: conversations with the broker, played on the pure engine with a clock of their own, and, where they
//! need no clock, over TCP.
//!
//! ```text
//! a > CONNECT id=one v=5 clean=1        a sends; `a open` is implied
//! a < CONNACK present=0                 a gets exactly this packet next; fields that are not named do not matter
//! a silent                              a has got nothing else
//! a drop                                the socket is gone
//! a closed                              the broker has closed it
//! time +30s
//! a paused / a reading                  the broker reads nothing more of a, or reads on (seen on the engine only)
//! stored / refused                      the tap has stored (refused) its oldest message
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wellhead::broker::engine::{Engine, Input, Limits, Output, Tap};
use wellhead::broker::net::BoundListener;
use wellhead::broker::{self, Forward};
use wellhead::message::Origin;
use wellhead::mqtt::{
    Ack, Connect, Decoder, Disconnect, Packet, PacketId, Progress, Properties, Publish, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscribeOptions, TopicFilter, TopicName, Unsubscribe, Version, Will, encode,
};

type Fields<'a> = HashMap<&'a str, &'a str>;

fn number<T: std::str::FromStr>(fields: &Fields<'_>, name: &str) -> Option<T> {
    fields.get(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn flag(fields: &Fields<'_>, name: &str) -> bool {
    number::<u8>(fields, name).unwrap_or(0) != 0
}

fn packet_id(fields: &Fields<'_>) -> Option<PacketId> {
    number::<u16>(fields, "id").and_then(PacketId::new)
}

fn qos(fields: &Fields<'_>, name: &str) -> QoS {
    QoS::from_bits(number(fields, name).unwrap_or(0)).unwrap()
}

fn reason(fields: &Fields<'_>) -> ReasonCode {
    ReasonCode(fields.get("rc").map_or(0, |text| u8::from_str_radix(text, 16).unwrap()))
}

fn connect(fields: &Fields<'_>) -> Packet {
    let mut properties = Properties::default();
    if let Some(seconds) = number(fields, "expiry") {
        properties.edit().session_expiry = Some(seconds);
    }
    if let Some(maximum) = number::<u16>(fields, "receive") {
        properties.edit().receive_maximum = NonZeroU16::new(maximum);
    }
    if let Some(maximum) = number::<u32>(fields, "maxpacket") {
        properties.edit().maximum_packet_size = NonZeroU32::new(maximum);
    }
    if let Some(method) = fields.get("auth") {
        properties.edit().authentication_method = Some((*method).into());
    }
    let version = match fields.get("v") {
        Some(&"31") => Version::V31,
        Some(&"5") => Version::V5,
        _ => Version::V311,
    };
    let will = fields.get("will").map(|topic| {
        let mut properties = Properties::default();
        if let Some(delay) = number(fields, "willdelay") {
            properties.edit().will_delay = Some(delay);
        }
        Will {
            topic: TopicName::new((*topic).to_owned()).unwrap(),
            payload: Bytes::from_static(b"gone"),
            qos: qos(fields, "willqos"),
            retain: flag(fields, "willretain"),
            properties,
        }
    });
    let clean_start = number::<u8>(fields, "clean").unwrap_or(1) != 0;
    let client_id = fields.get("id").copied().unwrap_or("").into();
    Packet::Connect(Box::new(Connect {
        version,
        clean_start,
        keep_alive: number(fields, "keepalive").unwrap_or(0),
        client_id,
        will,
        username: None,
        password: None,
        properties,
    }))
}

fn publish(fields: &Fields<'_>) -> Packet {
    let mut properties = Properties::default();
    if let Some(seconds) = number(fields, "expiry") {
        properties.edit().message_expiry = Some(seconds);
    }
    if let Some(value) = fields.get("user") {
        properties.edit().user.push(("key".into(), (*value).into()));
    }
    if let Some(alias) = number::<u16>(fields, "alias") {
        properties.edit().topic_alias = NonZeroU16::new(alias);
    }
    Packet::Publish(Publish {
        dup: flag(fields, "dup"),
        qos: qos(fields, "qos"),
        retain: flag(fields, "retain"),
        topic: fields.get("topic").map(|topic| TopicName::new((*topic).to_owned()).unwrap()),
        packet_id: packet_id(fields),
        properties,
        payload: fields.get("payload").map(|text| Bytes::copy_from_slice(text.as_bytes())).unwrap_or_default(),
    })
}

fn subscribe(fields: &Fields<'_>) -> Packet {
    let handling = match number::<u8>(fields, "rh") {
        Some(1) => RetainHandling::IfNew,
        Some(2) => RetainHandling::Never,
        _ => RetainHandling::Always,
    };
    let options = SubscribeOptions {
        qos: qos(fields, "qos"),
        no_local: flag(fields, "nl"),
        retain_as_published: flag(fields, "rap"),
        retain_handling: handling,
    };
    let filters = fields["filter"].split(',').map(|filter| (TopicFilter::new(filter.to_owned()).unwrap(), options)).collect();
    let mut properties = Properties::default();
    if let Some(id) = number::<u32>(fields, "subid") {
        properties.edit().subscription_identifiers.extend(NonZeroU32::new(id));
    }
    Packet::Subscribe(Subscribe { packet_id: packet_id(fields).unwrap(), filters, properties })
}

fn parse(name: &str, fields: &Fields<'_>) -> Packet {
    let ack = || Ack::new(packet_id(fields).unwrap(), reason(fields));
    match name {
        "CONNECT" => connect(fields),
        "PUBLISH" => publish(fields),
        "PUBACK" => Packet::PubAck(ack()),
        "PUBREC" => Packet::PubRec(ack()),
        "PUBREL" => Packet::PubRel(ack()),
        "PUBCOMP" => Packet::PubComp(ack()),
        "SUBSCRIBE" => subscribe(fields),
        "UNSUBSCRIBE" => Packet::Unsubscribe(Unsubscribe {
            packet_id: packet_id(fields).unwrap(),
            filters: fields["filter"].split(',').map(|filter| TopicFilter::new(filter.to_owned()).unwrap()).collect(),
            properties: Properties::default(),
        }),
        "PINGREQ" => Packet::PingReq,
        "DISCONNECT" => {
            let mut end = Disconnect::new(reason(fields));
            if let Some(seconds) = number(fields, "expiry") {
                end.properties.edit().session_expiry = Some(seconds);
            }
            Packet::Disconnect(end)
        }
        other => panic!("a client does not send {other}"),
    }
}

/// Name and every field of a packet, as scripts write them.
fn render(packet: &Packet) -> String {
    let mut text = packet.name().to_owned();
    match packet {
        Packet::ConnAck(connack) => {
            write!(text, " present={} rc={:02x}", u8::from(connack.session_present), connack.reason.0).unwrap();
            if let Some(id) = &connack.properties.assigned_client_id {
                write!(text, " assigned={id}").unwrap();
            }
        }
        Packet::Publish(publish) => {
            write!(text, " topic={} payload={}", publish.topic.as_ref().unwrap(), String::from_utf8_lossy(&publish.payload)).unwrap();
            write!(text, " qos={} dup={} retain={}", publish.qos as u8, u8::from(publish.dup), u8::from(publish.retain)).unwrap();
            if let Some(id) = publish.packet_id {
                write!(text, " id={id}").unwrap();
            }
            if let Some(seconds) = publish.properties.message_expiry {
                write!(text, " expiry={seconds}").unwrap();
            }
            for (_, value) in &publish.properties.user {
                write!(text, " user={value}").unwrap();
            }
            if publish.properties.will_delay.is_some() {
                text.push_str(" willdelay");
            }
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            write!(text, " id={} rc={:02x}", ack.packet_id, ack.reason.0).unwrap();
        }
        Packet::SubAck(grants) | Packet::UnsubAck(grants) => {
            let codes: Vec<String> = grants.reasons.iter().map(|code| format!("{:02x}", code.0)).collect();
            write!(text, " id={} rc={}", grants.packet_id, codes.join(",")).unwrap();
        }
        Packet::Disconnect(end) => write!(text, " rc={:02x}", end.reason.0).unwrap(),
        _ => {}
    }
    text
}

fn check(got: Option<&str>, expected: &str, place: &str) {
    let got = got.unwrap_or_else(|| panic!("{place}: nothing came, expected {expected}"));
    let tokens: Vec<&str> = got.split(' ').collect();
    for token in expected.split_whitespace() {
        assert!(tokens.contains(&token), "{place}: got `{got}`, expected `{expected}`");
    }
}

struct Step<'a> {
    place: String,
    words: Vec<&'a str>,
}

fn steps<'a>(name: &str, text: &'a str) -> Vec<Step<'a>> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| Step { place: format!("{name}:{number} `{line}`"), words: line.split_whitespace().collect() })
        .collect()
}

fn fields<'a>(words: &[&'a str]) -> Fields<'a> {
    words.iter().filter_map(|word| word.split_once('=')).collect()
}

fn limits() -> Limits {
    Limits { sys_every: Duration::from_secs(1_000_000), max_queued: 5, receive_maximum: 4, ..Limits::default() }
}

fn taps() -> Vec<Tap> {
    vec![Tap { filters: vec![TopicFilter::new("north/#").unwrap()], not_from: Origin::Uplink(0) }]
}

/// The engine with a virtual clock. Bytes go through the codec both ways, so that versions matter.
struct Bench {
    engine: Engine,
    now: Instant,
    ids: BTreeMap<String, u64>,
    versions: HashMap<u64, Version>,
    inbox: HashMap<u64, VecDeque<String>>,
    closed: HashMap<u64, bool>,
    tapped: VecDeque<u64>,
    paused: HashSet<u64>,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let mut bench = Self {
            engine: Engine::new(limits(), taps(), 7, now),
            now,
            ids: BTreeMap::new(),
            versions: HashMap::new(),
            inbox: HashMap::new(),
            closed: HashMap::new(),
            tapped: VecDeque::new(),
            paused: HashSet::new(),
            next: 0,
        };
        bench.settle();
        bench
    }

    fn settle(&mut self) {
        self.engine.tick(self.now);
        loop {
            let outputs: Vec<Output> = self.engine.take_outputs().collect();
            if outputs.is_empty() {
                return;
            }
            let mut written = HashMap::new();
            for output in outputs {
                match output {
                    Output::Send(id, packet) => {
                        let version = self.versions.get(&id).copied().unwrap_or(Version::V311);
                        let mut bytes = BytesMut::new();
                        encode(&packet, version, &mut bytes);
                        let Ok(Progress::Packet(packet)) = Decoder::client(version, 1 << 20).decode(&mut bytes) else {
                            panic!("the broker sends what cannot be read: {packet:?}");
                        };
                        if matches!(packet, Packet::Publish(_)) {
                            *written.entry(id).or_insert(0) += 1;
                        }
                        self.inbox.entry(id).or_default().push_back(render(&packet));
                    }
                    Output::Close(id) => drop(self.closed.insert(id, true)),
                    Output::Pause(id) => drop(self.paused.insert(id)),
                    Output::Resume(id) => drop(self.paused.remove(&id)),
                    Output::Forward { ticket, .. } => self.tapped.extend(ticket),
                }
            }
            for (id, count) in written {
                self.engine.handle(Input::Written(id, count), self.now);
            }
        }
    }

    fn play(&mut self, step: &Step<'_>) {
        match step.words.as_slice() {
            ["time", amount] => self.wait(humantime::parse_duration(amount.trim_start_matches('+')).unwrap()),
            [answer @ ("stored" | "refused")] => {
                let ticket = self.tapped.pop_front().unwrap_or_else(|| panic!("{}: nothing was forwarded", step.place));
                self.engine.handle(Input::Stored { ticket, accepted: *answer == "stored" }, self.now);
            }
            [client, ">", name, rest @ ..] => {
                let packet = parse(name, &fields(rest));
                let id = self.connection(client, &packet);
                self.engine.handle(Input::Packet(id, packet), self.now);
            }
            [client, "<", ..] => {
                let id = self.ids[*client];
                let got = self.inbox.entry(id).or_default().pop_front();
                check(got.as_deref(), &step.words[2..].join(" "), &step.place);
            }
            [client, state @ ("paused" | "reading")] => {
                assert_eq!(self.paused.contains(&self.ids[*client]), *state == "paused", "{}", step.place);
            }
            [client, "silent"] => {
                let inbox = self.inbox.entry(self.ids[*client]).or_default();
                assert!(inbox.is_empty(), "{}: {inbox:?}", step.place);
            }
            [client, "closed"] => {
                let id = self.ids.remove(*client).unwrap();
                let inbox = self.inbox.entry(id).or_default();
                assert!(inbox.is_empty() && self.closed.contains_key(&id), "{}: {inbox:?}", step.place);
            }
            [client, "drop"] => {
                let id = self.ids.remove(*client).unwrap();
                self.engine.handle(Input::Closed(id), self.now);
            }
            _ => panic!("{}: not a step", step.place),
        }
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.engine.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.settle();
        }
        self.now = end;
    }

    fn connection(&mut self, client: &str, packet: &Packet) -> u64 {
        let id = *self.ids.entry(client.to_owned()).or_insert_with(|| {
            self.next += 1;
            self.engine.handle(Input::Opened(self.next), self.now);
            self.next
        });
        if let Packet::Connect(connect) = packet {
            self.versions.entry(id).or_insert(connect.version);
        }
        id
    }
}

/// A client over a real socket.
struct Client {
    stream: TcpStream,
    version: Version,
    buffer: BytesMut,
}

const QUIET: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(20);

impl Client {
    /// The next packet; `None` if the broker closed the connection.
    async fn next(&mut self, patience: Duration) -> Option<Option<String>> {
        loop {
            if let Ok(Progress::Packet(packet)) = Decoder::client(self.version, 1 << 20).decode(&mut self.buffer) {
                return Some(Some(render(&packet)));
            }
            match tokio::time::timeout(patience, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return None,
                Ok(Ok(0) | Err(_)) => return Some(None),
                Ok(Ok(_)) => {}
            }
        }
    }
}

async fn play_over_tcp(steps: &[Step<'_>]) {
    let engine = Engine::new(limits(), taps(), 7, Instant::now());
    let (queue, mut forwards) = tokio::sync::mpsc::channel::<Forward>(64);
    let parts = broker::broker(engine, vec![queue]);
    let listener = BoundListener::bind(&"mqtt://127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address();
    let (switch, stop) = wellhead::tasks::stop_token();
    let handle = parts.broker.clone();
    let listening = tokio::spawn(listener.run(handle, std::sync::Arc::new(tokio::sync::Semaphore::new(100)), 1 << 20, stop.clone()));
    let driving = tokio::spawn(parts.driver.run(stop));
    let mut clients: HashMap<String, Client> = HashMap::new();
    for step in steps {
        match step.words.as_slice() {
            [answer @ ("stored" | "refused")] => {
                let forward = tokio::time::timeout(PATIENCE, forwards.recv()).await.unwrap().unwrap();
                parts.broker.stored(forward.ticket.unwrap(), *answer == "stored").await;
            }
            [name, ">", kind, rest @ ..] => {
                let packet = parse(kind, &fields(rest));
                if !clients.contains_key(*name) {
                    let stream = TcpStream::connect(address).await.unwrap();
                    clients.insert((*name).to_owned(), Client { stream, version: Version::V311, buffer: BytesMut::new() });
                }
                let client = clients.get_mut(*name).unwrap();
                if let Packet::Connect(connect) = &packet {
                    client.version = connect.version;
                }
                let mut bytes = BytesMut::new();
                encode(&packet, client.version, &mut bytes);
                client.stream.write_all(&bytes).await.unwrap();
                // Lets what one client does happen before what the next one does.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            [name, "<", ..] => {
                let got = clients.get_mut(*name).unwrap().next(PATIENCE).await.flatten();
                check(got.as_deref(), &step.words[2..].join(" "), &step.place);
            }
            [_, "paused" | "reading"] => {}
            [name, "silent"] => assert_eq!(clients.get_mut(*name).unwrap().next(QUIET).await, None, "{}", step.place),
            [name, "closed"] => assert_eq!(clients.remove(*name).unwrap().next(PATIENCE).await, Some(None), "{}", step.place),
            [name, "drop"] => {
                drop(clients.remove(*name));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            _ => panic!("{}: not a step", step.place),
        }
    }
    drop(clients);
    switch.stop();
    drop(parts.broker);
    tokio::time::timeout(PATIENCE, async { (listening.await, driving.await) })
        .await
        .expect("the broker stops when nobody is left")
        .0
        .unwrap();
}

fn scripts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut found: Vec<(String, String)> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() > 10, "{} scripts", found.len());
    found
}

#[test]
fn every_script_holds_on_the_engine() {
    for (name, text) in scripts() {
        let mut bench = Bench::new();
        for step in steps(&name, &text) {
            bench.play(&step);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_without_a_clock_holds_over_tcp() {
    let mut played = 0;
    for (name, text) in scripts() {
        let steps = steps(&name, &text);
        if !steps.iter().any(|step| step.words[0] == "time") {
            tokio::time::timeout(Duration::from_secs(60), play_over_tcp(&steps)).await.unwrap_or_else(|_| panic!("{name} hangs"));
            played += 1;
        }
    }
    assert!(played > 8, "{played} scripts played");
}
