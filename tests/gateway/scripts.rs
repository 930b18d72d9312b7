//! `tests/scripts/*.mqtt`: conversations with the broker, played on the pure engine with a clock
//! and a disk of their own, and, where they need neither, over TCP, TLS, WebSocket and a Unix
//! socket.
//!
//! ```text
//! a > CONNECT id=one v=5 clean=1        a sends; `a open` is implied
//! a < CONNACK present=0                 a gets exactly this packet next; fields that are not named do not matter
//! a silent                              a has got nothing else
//! a drop                                the socket is gone
//! a closed                              the broker has closed it
//! time +30s
//! disk slow / disk fast                 records wait, or are written at once (on the engine only)
//! passwords slow / passwords compared    logins wait, or go on (on the engine only)
//! crash                                 kill -9, and a start from what was durable (on the engine only)
//! checkpoint                            the state is written anew and everything older forgotten (on the engine only)
//! a paused / a reading                  the broker reads nothing more of a, or reads on (seen on the engine only)
//! nothing forwarded                     nothing waits for the outbox (on the engine only)
//! stored / refused / bad-topic          the outbox has stored its oldest message, has no room for it, or can never take its topic
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wellhead::broker::admission::{Admission, AdmissionLimits};
use wellhead::broker::engine::{Input, Peer};
use wellhead::broker::net::{BoundListener, ClientCertificates, Tls, TlsSettings, Where};
use wellhead::broker::{self, Forward, ForwardAnswer};
use wellhead::mqtt::{
    Ack, ConnAck, Connect, Disconnect, Packet, PacketId, Properties, Publish, QoS, ReasonCode,
    RetainHandling, Subscribe, SubscribeOptions, TopicFilter, TopicName, Unsubscribe, Version,
    Will,
};

use super::stage::{Stage, setup};
use super::support::Pem;
use super::support::client::{Incoming, bytes_of};

type Fields<'a> = HashMap<&'a str, &'a str>;

fn number<T: std::str::FromStr>(fields: &Fields<'_>, name: &str) -> Option<T> {
    fields.get(name).map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
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
    ReasonCode(
        fields
            .get("rc")
            .map_or(0, |text| u8::from_str_radix(text, 16).unwrap()),
    )
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
    if let Some(maximum) = number(fields, "aliases") {
        properties.edit().topic_alias_maximum = Some(maximum);
    }
    if let Some(wanted) = number::<u8>(fields, "problem") {
        properties.edit().request_problem_information = Some(wanted != 0);
    }
    if let Some(wanted) = number::<u8>(fields, "response") {
        properties.edit().request_response_information = Some(wanted != 0);
    }
    if let Some(data) = fields.get("authdata") {
        properties.edit().authentication_data = Some(Bytes::copy_from_slice(data.as_bytes()));
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
        if let Some(seconds) = number(fields, "willexpiry") {
            properties.edit().message_expiry = Some(seconds);
        }
        if let Some(value) = fields.get("willuser") {
            properties.edit().user.push(("key".into(), (*value).into()));
        }
        Will {
            topic: TopicName::of_any_depth((*topic).to_owned()).unwrap(),
            payload: Bytes::copy_from_slice(
                fields.get("willpayload").unwrap_or(&"gone").as_bytes(),
            ),
            qos: qos(fields, "willqos"),
            retain: flag(fields, "willretain"),
            properties,
        }
    });
    let clean_start = number::<u8>(fields, "clean").unwrap_or(1) != 0;
    let client_id = fields.get("id").copied().unwrap_or("").into();
    Packet::Connect(Box::new(Connect {
        version,
        is_bridge: flag(fields, "bridge"),
        clean_start,
        keep_alive: number(fields, "keepalive").unwrap_or(0),
        client_id,
        will,
        username: fields.get("user").map(|name| (*name).into()),
        password: fields
            .get("password")
            .map(|text| Bytes::copy_from_slice(text.as_bytes())),
        properties,
    }))
}

fn publish(fields: &Fields<'_>) -> Packet {
    let mut properties = Properties::default();
    if let Some(seconds) = number(fields, "expiry") {
        properties.edit().message_expiry = Some(seconds);
    }
    for value in fields
        .get("user")
        .into_iter()
        .flat_map(|values| values.split(','))
    {
        properties.edit().user.push(("key".into(), value.into()));
    }
    if let Some(text) = number::<u8>(fields, "text") {
        properties.edit().payload_is_text = Some(text != 0);
    }
    if let Some(kind) = fields.get("content") {
        properties.edit().content_type = Some((*kind).into());
    }
    if let Some(topic) = fields.get("answer") {
        properties.edit().response_topic =
            Some(TopicName::of_any_depth((*topic).to_owned()).unwrap());
    }
    if let Some(data) = fields.get("correlation") {
        properties.edit().correlation_data = Some(Bytes::copy_from_slice(data.as_bytes()));
    }
    if let Some(id) = number::<u32>(fields, "subid") {
        properties
            .edit()
            .subscription_identifiers
            .extend(NonZeroU32::new(id));
    }
    if let Some(alias) = number::<u16>(fields, "alias") {
        properties.edit().topic_alias = NonZeroU16::new(alias);
    }
    Packet::Publish(Publish {
        dup: flag(fields, "dup"),
        qos: qos(fields, "qos"),
        retain: flag(fields, "retain"),
        topic: fields
            .get("topic")
            .map(|topic| TopicName::of_any_depth((*topic).to_owned()).unwrap()),
        packet_id: packet_id(fields),
        properties,
        payload: fields
            .get("payload")
            .map(|text| Bytes::copy_from_slice(text.as_bytes()))
            .unwrap_or_default(),
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
    let filters = fields["filter"]
        .split(',')
        .map(|filter| {
            (
                TopicFilter::of_any_depth(filter.to_owned()).unwrap(),
                options,
            )
        })
        .collect();
    let mut properties = Properties::default();
    if let Some(id) = number::<u32>(fields, "subid") {
        properties
            .edit()
            .subscription_identifiers
            .extend(NonZeroU32::new(id));
    }
    Packet::Subscribe(Subscribe {
        packet_id: packet_id(fields).unwrap(),
        filters,
        properties,
    })
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
            filters: fields["filter"]
                .split(',')
                .map(|filter| TopicFilter::of_any_depth(filter.to_owned()).unwrap())
                .collect(),
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
        "AUTH" => {
            let mut auth = Disconnect::new(reason(fields));
            if let Some(method) = fields.get("auth") {
                auth.properties.edit().authentication_method = Some((*method).into());
            }
            if let Some(data) = fields.get("authdata") {
                auth.properties.edit().authentication_data =
                    Some(Bytes::copy_from_slice(data.as_bytes()));
            }
            Packet::Auth(auth)
        }
        "PINGRESP" => Packet::PingResp,
        other => panic!("a client does not send {other}"),
    }
}

fn render_connack(connack: &ConnAck, text: &mut String) {
    let properties = &connack.properties;
    if let Some(id) = &properties.assigned_client_id {
        let begin = id.split('-').next().unwrap();
        write!(text, " assigned={begin}").unwrap();
    }
    for (name, value) in [
        ("keepalive", properties.server_keep_alive.map(u32::from)),
        ("expiry", properties.session_expiry),
        (
            "receive",
            properties.receive_maximum.map(|value| value.get().into()),
        ),
        (
            "maxpacket",
            properties.maximum_packet_size.map(NonZeroU32::get),
        ),
        ("aliases", properties.topic_alias_maximum.map(u32::from)),
        ("why", properties.reason_string.as_ref().map(|_| 1)),
    ] {
        if let Some(value) = value {
            write!(text, " {name}={value}").unwrap();
        }
    }
    if let Some(information) = &properties.response_information {
        write!(text, " response={information}").unwrap();
    }
}

/// Name and every field of a packet, as scripts write them.
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn render(packet: &Packet) -> String {
    let mut text = packet.name().to_owned();
    match packet {
        Packet::ConnAck(connack) => {
            write!(
                text,
                " present={} rc={:02x}",
                u8::from(connack.session_present),
                connack.reason.0
            )
            .unwrap();
            render_connack(connack, &mut text);
        }
        Packet::Publish(publish) => {
            let topic = publish.topic.as_ref().map_or("-", |topic| topic.as_str());
            write!(
                text,
                " topic={topic} payload={}",
                String::from_utf8_lossy(&publish.payload)
            )
            .unwrap();
            write!(
                text,
                " qos={} dup={} retain={}",
                publish.qos as u8,
                u8::from(publish.dup),
                u8::from(publish.retain)
            )
            .unwrap();
            if let Some(id) = publish.packet_id {
                write!(text, " id={id}").unwrap();
            }
            if let Some(seconds) = publish.properties.message_expiry {
                write!(text, " expiry={seconds}").unwrap();
            }
            let properties = &publish.properties;
            let users: Vec<&str> = properties.user.iter().map(|(_, value)| &**value).collect();
            if !users.is_empty() {
                write!(text, " user={}", users.join(",")).unwrap();
            }
            let ids: Vec<String> = properties
                .subscription_identifiers
                .iter()
                .map(ToString::to_string)
                .collect();
            write!(
                text,
                " subid={}",
                if ids.is_empty() {
                    "-".to_owned()
                } else {
                    ids.join(",")
                }
            )
            .unwrap();
            write!(
                text,
                " alias={}",
                properties.topic_alias.map_or(0, NonZeroU16::get)
            )
            .unwrap();
            if let Some(is_text) = properties.payload_is_text {
                write!(text, " text={}", u8::from(is_text)).unwrap();
            }
            if let Some(kind) = &properties.content_type {
                write!(text, " content={kind}").unwrap();
            }
            if let Some(topic) = &properties.response_topic {
                write!(text, " answer={topic}").unwrap();
            }
            if let Some(data) = &properties.correlation_data {
                write!(text, " correlation={}", String::from_utf8_lossy(data)).unwrap();
            }
            if publish.properties.will_delay.is_some() {
                text.push_str(" willdelay");
            }
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            let why = u8::from(ack.properties.reason_string.is_some());
            write!(
                text,
                " id={} rc={:02x} why={why}",
                ack.packet_id, ack.reason.0
            )
            .unwrap();
        }
        Packet::SubAck(grants) | Packet::UnsubAck(grants) => {
            let codes: Vec<String> = grants
                .reasons
                .iter()
                .map(|code| format!("{:02x}", code.0))
                .collect();
            let why = u8::from(grants.properties.reason_string.is_some());
            write!(
                text,
                " id={} rc={} why={why}",
                grants.packet_id,
                codes.join(",")
            )
            .unwrap();
        }
        Packet::Disconnect(end) | Packet::Auth(end) => {
            write!(text, " rc={:02x}", end.reason.0).unwrap();
        }
        _ => {}
    }
    text
}

fn check(got: Option<&str>, expected: &str, place: &str) {
    let got = got.unwrap_or_else(|| panic!("{place}: nothing came, expected {expected}"));
    let tokens: Vec<&str> = got.split(' ').collect();
    for token in expected.split_whitespace() {
        assert!(
            tokens.contains(&token),
            "{place}: got `{got}`, expected `{expected}`"
        );
    }
}

struct Step<'a> {
    place: String,
    words: Vec<&'a str>,
}

fn steps<'a>(name: &str, text: &'a str) -> Vec<Step<'a>> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| Step {
            place: format!("{name}:{number} `{line}`"),
            words: line.split_whitespace().collect(),
        })
        .collect()
}

fn fields<'a>(words: &[&'a str]) -> Fields<'a> {
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .collect()
}

/// The engine with a virtual clock.
struct Bench {
    stage: Stage,
    ids: BTreeMap<String, u64>,
}

/// The answer of an outbox by its word in a script.
fn forward_answer(word: &str) -> ForwardAnswer {
    match word {
        "stored" => ForwardAnswer::Stored,
        "refused" => ForwardAnswer::Full,
        _ => ForwardAnswer::BadTopic,
    }
}

impl Bench {
    #[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
    fn play(&mut self, step: &Step<'_>) {
        match step.words.as_slice() {
            ["time", amount] => self
                .stage
                .wait(humantime::parse_duration(amount.trim_start_matches('+')).unwrap()),
            ["disk", "slow"] => self.stage.is_disk_slow = true,
            ["disk", "fast"] => {
                self.stage.is_disk_slow = false;
                self.stage.commit();
            }
            ["passwords", "slow"] => self.stage.is_verifier_slow = true,
            ["passwords", "compared"] => {
                self.stage.is_verifier_slow = false;
                self.stage.verify();
            }
            ["crash"] => {
                self.stage.crash();
                self.ids.clear();
            }
            ["checkpoint"] => self.stage.checkpoint(),
            ["nothing", "forwarded"] => assert!(
                self.stage.forwarded.is_empty(),
                "{}: {:?}",
                step.place,
                self.stage.forwarded
            ),
            [answer @ ("stored" | "refused" | "bad-topic")] => {
                let ticket = self
                    .stage
                    .forwarded
                    .pop_front()
                    .and_then(|(_, ticket)| ticket);
                let ticket =
                    ticket.unwrap_or_else(|| panic!("{}: nothing was forwarded", step.place));
                let answer = forward_answer(answer);
                self.stage.input(Input::Stored { ticket, answer });
            }
            [client, ">", name, rest @ ..] => {
                let packet = parse(name, &fields(rest));
                let id = match self.ids.get(*client) {
                    Some(id) => *id,
                    None => self.stage.open(Peer::default()),
                };
                self.ids.insert((*client).to_owned(), id);
                self.stage.send(id, &packet);
            }
            [client, "<", ..] => {
                let got = self
                    .stage
                    .next_packet(self.ids[*client])
                    .map(|packet| render(&packet));
                check(got.as_deref(), &step.words[2..].join(" "), &step.place);
            }
            [client, state @ ("paused" | "reading")] => {
                assert_eq!(
                    self.stage.paused.contains(&self.ids[*client]),
                    *state == "paused",
                    "{}",
                    step.place
                );
            }
            [client, "silent"] => {
                let next = self.stage.next_packet(self.ids[*client]);
                assert!(next.is_none(), "{}: {next:?}", step.place);
            }
            [client, "closed"] => {
                let id = self.ids.remove(*client).unwrap();
                let next = self.stage.next_packet(id);
                assert!(
                    next.is_none() && self.stage.is_closed(id),
                    "{}: {next:?}",
                    step.place
                );
            }
            [client, "drop"] => self
                .stage
                .drop_connection(self.ids.remove(*client).unwrap()),
            _ => panic!("{}: not a step", step.place),
        }
        self.stage.settle();
    }
}

/// A client over a real socket, whatever lies between.
struct Client {
    stream: Box<dyn Stream>,
    version: Version,
    incoming: Incoming,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

const QUIET: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(20);

impl Client {
    /// The next packet; `None` if the broker closed the connection.
    async fn next(&mut self, patience: Duration) -> Option<Option<String>> {
        loop {
            if let Some(packet) = self.incoming.next_packet() {
                return Some(Some(render(&packet)));
            }
            let mut space = [0; 4096];
            match tokio::time::timeout(patience, self.stream.read(&mut space)).await {
                Err(_) => return None,
                Ok(Ok(0) | Err(_)) => return Some(None),
                Ok(Ok(count)) => self.incoming.extend(&space[..count]),
            }
        }
    }
}

/// A broker on a real socket, and how to reach it.
struct Site {
    scheme: &'static str,
    at: Where,
    connector: TlsConnector,
}

impl Site {
    async fn dial(&self) -> Box<dyn Stream> {
        let address = match &self.at {
            Where::Path(path) => return Box::new(UnixStream::connect(path).await.unwrap()),
            Where::Address(address) => *address,
        };
        let tcp = TcpStream::connect(address).await.unwrap();
        let stream: Box<dyn Stream> = if matches!(self.scheme, "mqtts" | "wss") {
            Box::new(
                self.connector
                    .connect("localhost".try_into().unwrap(), tcp)
                    .await
                    .unwrap(),
            )
        } else {
            Box::new(tcp)
        };
        if !matches!(self.scheme, "ws" | "wss") {
            return stream;
        }
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let (socket, _) = tokio_tungstenite::client_async(request, stream)
            .await
            .unwrap();
        Box::new(wellhead::net::websocket::bytes_of(socket))
    }
}

fn connector(pem: &Pem) -> TlsConnector {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(pem.path("ca.pem")).unwrap())
        .unwrap();
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    TlsConnector::from(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn forward_to(sender: tokio::sync::mpsc::Sender<Forward>) -> broker::ForwardSender {
    broker::ForwardSender {
        sender,
        dropped: Arc::default(),
        handovers: None,
    }
}

#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
async fn play_over(scheme: &'static str, pem: &Pem, folder: &Path, steps: &[Step<'_>]) {
    let listen = if scheme == "unix" {
        format!("unix://{}/mqtt.sock", folder.display())
    } else {
        format!("{scheme}://127.0.0.1:0")
    };
    let (queue, mut forwards) = tokio::sync::mpsc::channel::<Forward>(64);
    let (write_queue, mut writes) = tokio::sync::mpsc::channel::<Forward>(64);
    let limits = setup().limits;
    let opened = broker::durable::open(
        &tempfile::tempdir_in(folder).unwrap().keep(),
        setup(),
        Vec::new(),
        Duration::ZERO,
    )
    .unwrap();
    let admission = Admission::new(AdmissionLimits {
        rate: 10_000,
        ..AdmissionLimits::default()
    });
    let parts = broker::broker(
        broker::EngineSource::Disk(Box::new(opened)),
        admission,
        broker::ForwardSenders {
            uplinks: vec![forward_to(queue)],
            writes: forward_to(write_queue),
        },
    )
    .unwrap();
    let writing = parts.broker.clone();
    tokio::spawn(async move {
        while let Some(write) = writes.recv().await {
            if let Some(ticket) = write.ticket {
                writing.stored(ticket, ForwardAnswer::Stored);
            }
        }
    });
    let listener = BoundListener::bind(&listen.parse().unwrap()).await.unwrap();
    let site = Site {
        scheme,
        at: listener.at().clone(),
        connector: connector(pem),
    };
    let settings = TlsSettings {
        cert: pem.path("server.pem").into(),
        key: pem.path("server.key").into(),
        client_ca: None,
        crl: None,
        client_certificates: ClientCertificates::None,
        certificate_is_login: false,
    };
    let tls = Some(Arc::new(Tls::new(settings).unwrap()));
    let (switch, stop) = wellhead::tasks::stop_token();
    let (handle, listener_stop) = (parts.broker.clone(), stop.clone());
    let listening = tokio::spawn(async move {
        listener
            .run(handle, tls, &limits, listener_stop)
            .await
            .unwrap();
    });
    let driving = tokio::spawn(parts.driver.run(stop));
    let mut clients: HashMap<String, Client> = HashMap::new();
    for step in steps {
        match step.words.as_slice() {
            [answer @ ("stored" | "refused" | "bad-topic")] => {
                let forward = tokio::time::timeout(PATIENCE, forwards.recv())
                    .await
                    .unwrap()
                    .unwrap();
                parts
                    .broker
                    .stored(forward.ticket.unwrap(), forward_answer(answer));
            }
            [name, ">", kind, rest @ ..] => {
                let packet = parse(kind, &fields(rest));
                if !clients.contains_key(*name) {
                    let client = Client {
                        stream: site.dial().await,
                        version: Version::V311,
                        incoming: Incoming::client(Version::V311),
                    };
                    clients.insert((*name).to_owned(), client);
                }
                let client = clients.get_mut(*name).unwrap();
                if let Packet::Connect(connect) = &packet {
                    client.version = connect.version;
                    client.incoming = Incoming::client(connect.version);
                }
                client
                    .stream
                    .write_all(&bytes_of(&packet, client.version))
                    .await
                    .unwrap();
                client.stream.flush().await.unwrap();
                // Lets what one client does happen before what the next one does.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            [name, "<", ..] => {
                let got = clients
                    .get_mut(*name)
                    .unwrap()
                    .next(PATIENCE)
                    .await
                    .flatten();
                check(got.as_deref(), &step.words[2..].join(" "), &step.place);
            }
            [_, "paused" | "reading"] => {}
            [name, "silent"] => assert_eq!(
                clients.get_mut(*name).unwrap().next(QUIET).await,
                None,
                "{}",
                step.place
            ),
            [name, "closed"] => assert_eq!(
                clients.remove(*name).unwrap().next(PATIENCE).await,
                Some(None),
                "{}",
                step.place
            ),
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
    let stopped = tokio::time::timeout(PATIENCE, async { (listening.await, driving.await) }).await;
    stopped
        .expect("the broker stops when nobody is left")
        .0
        .unwrap();
    tokio::time::timeout(PATIENCE, parts.closed.unwrap())
        .await
        .unwrap()
        .unwrap();
}

fn scripts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut found: Vec<(String, String)> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    found.sort();
    assert!(found.len() > 10, "{} scripts", found.len());
    found
}

#[test]
fn every_script_holds_on_the_engine() {
    let mut failed = Vec::new();
    for (name, text) in scripts() {
        let played = std::panic::catch_unwind(|| {
            let mut bench = Bench {
                stage: Stage::new(setup()),
                ids: BTreeMap::new(),
            };
            for step in steps(&name, &text) {
                bench.play(&step);
            }
        });
        failed.extend(played.err().map(|_| name));
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// What only the engine can play: its clock and its disk are the script's.
const NEEDS_STAGE: [&str; 6] = [
    "time",
    "disk",
    "passwords",
    "crash",
    "checkpoint",
    "nothing",
];

async fn play_all_over(scheme: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let mut played = 0;
    for (name, text) in scripts() {
        let steps = steps(&name, &text);
        if !steps
            .iter()
            .any(|step| NEEDS_STAGE.contains(&step.words[0]))
        {
            let play = play_over(scheme, &pem, folder.path(), &steps);
            tokio::time::timeout(Duration::from_secs(60), play)
                .await
                .unwrap_or_else(|_| panic!("{name} hangs over {scheme}"));
            played += 1;
        }
    }
    assert!(played > 15, "{played} scripts played");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_without_a_clock_holds_over_tcp() {
    play_all_over("mqtt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_without_a_clock_holds_over_tls() {
    play_all_over("mqtts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_without_a_clock_holds_over_web_socket() {
    play_all_over("ws").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_without_a_clock_holds_over_secure_web_socket() {
    play_all_over("wss").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_without_a_clock_holds_over_a_unix_socket() {
    play_all_over("unix").await;
}
