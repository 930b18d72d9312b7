//! AWS IoT Core and Azure IoT Hub, played as their public documents describe them: what they do not
//! take ends the connection and is noted.
//!
//! Documents: AWS IoT Core developer guide, "MQTT", "Device communication protocols", "Message
//! broker and protocol limits and quotas"; Azure IoT Hub, "Communicate with an IoT hub using the
//! MQTT protocol", "Control access by using Shared Access Signatures".

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use ring::hmac;
use tokio_rustls::rustls::crypto::ring as provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use wellhead::config;
use wellhead::mqtt::{
    Ack, ConnAck, Connect, Decoder, Grants, Packet, Progress, Properties, Publish, QoS, ReasonCode,
    TopicName, Version, encode,
};

use wellhead::outbox;
use wellhead::tasks::{detach, stop_token};
use wellhead::uplink::{self, UplinkChannels};

use super::support::{
    ALARM, Gateway, Pem, Process, gateway_with_uplink, mosquitto_sub, run, wait_for, wellhead,
};

const ALPN: &[u8] = b"x-amzn-mqtt-ca";
const NOT_ALLOWED: &str = "not allowed: ";
const KEY: &[u8] = b"the key of the device in the test";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Aws,
    Azure,
}

/// What a cloud has seen.
#[derive(Default)]
struct Seen {
    connects: Vec<Instant>,
    messages: Vec<(TopicName, Publish)>,
    filters: Vec<String>,
    /// Will and retain flag of accepted connections.
    wills: Vec<Option<bool>>,
    /// What the policy of the thing does not allow.
    refused: Vec<String>,
    /// What it does not take.
    faults: Vec<String>,
}

#[derive(Clone)]
struct Cloud {
    kind: Kind,
    port: u16,
    seen: Arc<Mutex<Seen>>,
    /// Its next messages: topic and payload.
    outbox: Arc<Mutex<Vec<(String, String)>>>,
    cuts: Arc<AtomicBool>,
    /// Whether the policy of the thing has `iot:RetainPublish`.
    may_retain: bool,
}

/// A connection of the device.
struct Session {
    tls: StreamOwned<ServerConnection, TcpStream>,
    aliases: HashMap<u16, TopicName>,
    version: Version,
    is_subscribed: bool,
}

impl Cloud {
    fn start(kind: Kind, pem: &Pem) -> Self {
        Self::start_with(kind, pem, true)
    }

    fn start_with(kind: Kind, pem: &Pem, may_retain: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cloud = Self {
            kind,
            port,
            seen: Arc::default(),
            outbox: Arc::default(),
            cuts: Arc::default(),
            may_retain,
        };
        let (own, config) = (cloud.clone(), server(kind, pem));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (own, config) = (own.clone(), config.clone());
                thread::spawn(move || own.serve(stream, config));
            }
        });
        cloud
    }

    fn fault(&self, what: impl Into<String>) {
        self.seen.lock().unwrap().faults.push(what.into());
    }

    /// The end of a connection, of its own accord or because of what came.
    fn serve(&self, stream: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        while tls.conn.is_handshaking() {
            match tls.conn.complete_io(&mut tls.sock) {
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => {
                    self.fault(format!("TLS: {error}"));
                    return None;
                }
            }
        }
        if tls.conn.server_name() != Some("localhost") {
            self.fault("no server name in the TLS handshake");
            return None;
        }
        if self.kind == Kind::Aws && tls.conn.alpn_protocol() != Some(ALPN) {
            self.fault("another port than 8883 without ALPN");
            return None;
        }
        let mut session = Session {
            tls,
            aliases: HashMap::new(),
            version: Version::V311,
            is_subscribed: false,
        };
        let mut decoder = Decoder::server(1 << 20);
        let mut input = BytesMut::new();
        let mut space = [0; 4096];
        loop {
            while let Progress::Packet(packet) = decoder.decode(&mut input).ok()? {
                if let Packet::Connect(connect) = &packet {
                    session.version = connect.version;
                }
                if let Err(fault) = self.take(&mut session, packet) {
                    if !fault.starts_with(NOT_ALLOWED) {
                        self.fault(fault);
                    }
                    return None;
                }
            }
            if self.cuts.swap(false, SeqCst) {
                return None;
            }
            if session.is_subscribed {
                let messages: Vec<_> = self.outbox.lock().unwrap().drain(..).collect();
                messages
                    .into_iter()
                    .for_each(|(topic, payload)| session.send(&message(&topic, &payload)));
            }
            match session.tls.read(&mut space) {
                Ok(0) => return None,
                Ok(count) => input.extend_from_slice(&space[..count]),
                Err(error) if is_timeout(&error) => {}
                Err(_) => return None,
            }
        }
    }

    fn take(&self, session: &mut Session, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::Connect(connect) => self.connect(session, &connect)?,
            Packet::Publish(publish) => {
                let alias = publish.properties.topic_alias.map(std::num::NonZero::get);
                let topic = publish
                    .topic
                    .clone()
                    .or_else(|| session.aliases.get(&alias?).cloned())
                    .ok_or("an alias without a topic")?;
                session
                    .aliases
                    .extend(alias.map(|alias| (alias, topic.clone())));
                match self.kind {
                    Kind::Aws => {
                        judge_for_aws(&topic, publish.payload.len(), publish.qos)?;
                        self.check_policy(publish.retain, topic.as_str())?;
                    }
                    Kind::Azure => judge_for_azure(&topic, &publish)?,
                }
                let id = publish.packet_id;
                self.seen.lock().unwrap().messages.push((topic, publish));
                if let Some(id) = id {
                    session.send(&Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)));
                }
            }
            Packet::Subscribe(subscribe) => {
                let filters: Vec<String> = subscribe
                    .filters
                    .iter()
                    .map(|(filter, _)| filter.to_string())
                    .collect();
                if filters.len() > 8 {
                    return Err(format!("{} filters in a SUBSCRIBE", filters.len()));
                }
                if self.kind == Kind::Azure && filters != ["devices/x/messages/devicebound/#"] {
                    return Err(format!("{filters:?} are no filters of the hub"));
                }
                let reasons = subscribe
                    .filters
                    .iter()
                    .map(|(_, options)| ReasonCode((options.qos as u8).min(1)))
                    .collect();
                self.seen.lock().unwrap().filters.extend(filters);
                session.is_subscribed = true;
                session.send(&Packet::SubAck(Grants {
                    packet_id: subscribe.packet_id,
                    reasons,
                    properties: Properties::default(),
                }));
            }
            Packet::PingReq => session.send(&Packet::PingResp),
            _ => {}
        }
        Ok(())
    }

    fn connect(&self, session: &mut Session, connect: &Connect) -> Result<(), String> {
        let mut seen = self.seen.lock().unwrap();
        let last = seen.connects.last().copied();
        seen.connects.push(Instant::now());
        let session_present = !connect.clean_start && last.is_some();
        drop(seen);
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            return Err("two CONNECTs within a second".to_owned());
        }
        if connect.client_id != "x" {
            return Err(format!("{} is no thing", connect.client_id));
        }
        let mut properties = Properties::default();
        match self.kind {
            Kind::Aws => {
                if let Some(will) = &connect.will {
                    judge_for_aws(&will.topic, will.payload.len(), will.qos)?;
                    self.check_policy(will.retain, "the will")
                        .inspect_err(|_| {
                            session.send(&Packet::ConnAck(ConnAck {
                                session_present: false,
                                reason: ReasonCode::NOT_AUTHORIZED,
                                properties: Properties::default(),
                            }));
                        })?;
                }
                if !(30..=1200).contains(&connect.keep_alive) {
                    return Err(format!("a keep alive of {} s", connect.keep_alive));
                }
                let fields = properties.edit();
                fields.maximum_qos_is_1 = Some(true);
                fields.receive_maximum = 100.try_into().ok();
                fields.topic_alias_maximum = Some(8);
                fields.maximum_packet_size = 149_504.try_into().ok();
                fields.server_keep_alive = Some(connect.keep_alive);
            }
            Kind::Azure => check_login(connect)?,
        }
        self.seen
            .lock()
            .unwrap()
            .wills
            .push(connect.will.as_ref().map(|will| will.retain));
        session.send(&Packet::ConnAck(ConnAck {
            session_present,
            reason: ReasonCode::SUCCESS,
            properties,
        }));
        Ok(())
    }

    /// What is to be retained needs a permission of its own; without it the connection ends.
    fn check_policy(&self, retain: bool, what: &str) -> Result<(), String> {
        if retain && !self.may_retain {
            self.seen.lock().unwrap().refused.push(what.to_owned());
            return Err(format!("{NOT_ALLOWED}{what}"));
        }
        Ok(())
    }

    fn wait_for_message(&self, payload: &str) -> (String, Publish) {
        wait_for(
            &format!(
                "{payload} in the cloud; faults: {:?}",
                self.seen.lock().unwrap().faults
            ),
            || {
                let seen = self.seen.lock().unwrap();
                let found = seen
                    .messages
                    .iter()
                    .find(|(_, publish)| publish.payload == payload.as_bytes());
                found.map(|(topic, publish)| (topic.to_string(), publish.clone()))
            },
        )
    }

    fn check_faults(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    }
}

impl Session {
    fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, self.version, &mut bytes);
        // Who is gone gets nothing.
        let _ = self.tls.write_all(&bytes).and_then(|()| self.tls.flush());
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn message(topic: &str, payload: &str) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(TopicName::new(topic.to_owned()).unwrap()),
        packet_id: 77.try_into().ok(),
        properties: Properties::default(),
        payload: Bytes::from(payload.to_owned()),
    })
}

fn server(kind: Kind, pem: &Pem) -> Arc<ServerConfig> {
    let provider = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match kind {
        Kind::Azure => builder.with_no_client_auth(),
        Kind::Aws => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(pem.path("ca.pem")).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = vec![CertificateDer::from_pem_file(pem.path("server.pem")).unwrap()];
    let mut config = builder
        .with_single_cert(
            chain,
            PrivateKeyDer::from_pem_file(pem.path("server.key")).unwrap(),
        )
        .unwrap();
    if kind == Kind::Aws {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Arc::new(config)
}

fn judge_for_aws(topic: &TopicName, size: usize, qos: QoS) -> Result<(), String> {
    let text = topic.as_str();
    if qos == QoS::ExactlyOnce {
        return Err(format!("QoS 2 on {text}"));
    }
    if text.matches('/').count() > 7 || text.len() > 256 || size > 128 * 1024 {
        return Err(format!("{text} is too long, too deep or too large"));
    }
    Ok(())
}

fn judge_for_azure(topic: &TopicName, publish: &Publish) -> Result<(), String> {
    if publish.qos == QoS::ExactlyOnce || publish.retain {
        return Err(format!("QoS 2 or a retained message on {topic}"));
    }
    if !topic.as_str().starts_with("devices/x/messages/events/")
        || publish.payload.len() > 256 * 1024
    {
        return Err(format!(
            "{topic} is no topic of the hub, or the message is too large"
        ));
    }
    Ok(())
}

/// User name and shared access signature of the device `x` of the hub `localhost`.
fn check_login(connect: &Connect) -> Result<(), String> {
    if connect.version != Version::V311 || connect.keep_alive > 1177 {
        return Err(format!(
            "{:?} with a keep alive of {} s",
            connect.version, connect.keep_alive
        ));
    }
    let is_wrong = |will: &wellhead::mqtt::Will| {
        will.retain
            || !will
                .topic
                .as_str()
                .starts_with("devices/x/messages/events/topic=x%2Fgateway%2Fstate")
    };
    // The connection that ends an old session has none.
    if connect.will.as_ref().map_or(!connect.clean_start, is_wrong) {
        return Err(format!("the will {:?}", connect.will));
    }
    let user = connect
        .username
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    if user != "localhost/x/?api-version=2021-04-12" {
        return Err(format!("the user {user}"));
    }
    let password =
        String::from_utf8(connect.password.clone().unwrap_or_default().to_vec()).unwrap();
    let parts = password
        .strip_prefix("SharedAccessSignature ")
        .ok_or("no signature")?;
    let part = |name: &str| {
        parts
            .split('&')
            .find_map(|part| part.strip_prefix(&format!("{name}=")))
            .unwrap_or_default()
            .to_owned()
    };
    let until: u64 = part("se").parse().map_err(|_| "no end of the token")?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    if until <= now || part("sr") != "localhost%2Fdevices%2Fx" {
        return Err(format!(
            "a token that is over, or for something else: {parts}"
        ));
    }
    let signature = part("sig")
        .replace("%2B", "+")
        .replace("%2F", "/")
        .replace("%3D", "=");
    let text = format!("localhost%2Fdevices%2Fx\n{until}");
    hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, KEY),
        text.as_bytes(),
        &BASE64.decode(signature).unwrap(),
    )
    .map_err(|_| "a wrong signature".to_owned())
}

fn publish(port: u16, arguments: &[&str]) {
    let (code, _, error) = run(Command::new("mosquitto_pub")
        .args(["-p", &port.to_string()])
        .args(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

fn gateway(folder: &Path, uplink: &str) -> Gateway {
    let send = "send: [ { filter: 'alarm/#', class: alarm }, { filter: 'a/#', prefix: plant/ } ]";
    gateway_with_uplink(folder, "x", &format!("    {send}\n    {uplink}\n{ALARM}"))
}

/// The status of the uplink.
fn status(local: u16) -> String {
    run(Command::new("mosquitto_sub").args([
        "-p",
        &local.to_string(),
        "-t",
        "$SYS/wellhead/uplink/cloud",
        "-C",
        "1",
        "-W",
        "5",
    ]))
    .1
}

fn wait_until_nothing_waits(local: u16) {
    wait_for("nothing waits", || {
        status(local)
            .contains("\"waiting\":0,\"dead\":0,\"lost\":0")
            .then_some(())
    });
}

/// After a cut the next connection is not too soon, and what was sent meanwhile arrives.
fn cut_and_go_on(cloud: &Cloud, local: u16) {
    cloud.cuts.store(true, SeqCst);
    wait_for("the cut", || (!cloud.cuts.load(SeqCst)).then_some(()));
    publish(local, &["-q", "1", "-t", "a/x", "-m", "after the cut"]);
    cloud.wait_for_message("after the cut");
    wait_until_nothing_waits(local);
    cloud.check_faults();
}

#[test]
fn aws_iot_core_gets_what_it_takes_and_as_often_as_it_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let cloud = Cloud::start(Kind::Aws, &pem);
    let filters: Vec<String> = (0..19)
        .map(|number| format!("{{ filter: 'cmd/{number}/#', qos: 2 }}"))
        .collect();
    let uplink = format!(
        "profile: aws-iot\n    to: mqtts://localhost:{}\n    {}\n    receive: [ {} ]",
        cloud.port,
        pem.yaml(),
        filters.join(", ")
    );
    let gateway = gateway(folder.path(), &uplink);
    let local = gateway.port();
    publish(local, &["-q", "2", "-t", "alarm/x", "-m", "alarm"]);
    publish(local, &["-q", "1", "-r", "-t", "a/x", "-m", "kept"]);
    let (topic, alarm) = cloud.wait_for_message("alarm");
    assert_eq!((topic.as_str(), alarm.qos), ("alarm/x", QoS::AtLeastOnce));
    let (topic, kept) = cloud.wait_for_message("kept");
    assert!(topic == "plant/a/x" && kept.retain, "{topic}: {kept:?}");
    wait_for("all filters", || {
        (cloud.seen.lock().unwrap().filters.len() == 19).then_some(())
    });
    cut_and_go_on(&cloud, local);
    // A topic that it would close the connection for stays here.
    publish(local, &["-q", "1", "-t", "a/2/3/4/5/6/7/8", "-m", "deep"]);
    publish(local, &["-q", "1", "-t", "a/behind", "-m", "behind"]);
    cloud.wait_for_message("behind");
    wait_for("a dead letter", || {
        status(local).contains("\"dead\":1").then_some(())
    });
    cloud.check_faults();
    assert_eq!(
        gateway.process.events("uplink.remote_limited", &[]),
        Vec::<String>::new(),
        "`check` has said so"
    );
}

#[test]
fn aws_iot_core_gets_at_most_a_hundred_messages_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let cloud = Cloud::start(Kind::Aws, &pem);
    let lines = folder.path().join("lines");
    fs::write(
        &lines,
        (1..=300)
            .map(|number| format!("{number}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let gateway = gateway(
        folder.path(),
        &format!(
            "profile: aws-iot\n    to: mqtts://localhost:{}\n    {}",
            cloud.port,
            pem.yaml()
        ),
    );
    let local = gateway.port();
    let began = Instant::now();
    let (code, ..) = run(Command::new("sh").args([
        "-c",
        &format!(
            "mosquitto_pub -p {local} -q 1 -t a/x -l < {}",
            lines.display()
        ),
    ]));
    assert_eq!(code, Some(0));
    cloud.wait_for_message("300");
    // A hundred may go in the first second.
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "300 messages in {:?}",
        began.elapsed()
    );
    wait_until_nothing_waits(local);
    cloud.check_faults();
}

#[test]
fn an_aws_policy_without_retained_messages_leaves_will_state_and_messages_without_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let cloud = Cloud::start_with(Kind::Aws, &pem, false);
    let gateway = gateway(
        folder.path(),
        &format!(
            "profile: aws-iot\n    to: mqtts://localhost:{}\n    {}",
            cloud.port,
            pem.yaml()
        ),
    );
    let local = gateway.port();
    publish(local, &["-q", "1", "-r", "-t", "a/x", "-m", "kept"]);
    let (_, kept) = cloud.wait_for_message("kept");
    assert!(!kept.retain, "{kept:?}");
    wait_until_nothing_waits(local);
    gateway
        .process
        .wait_for_event("uplink.presence_limited", &[]);
    let seen = cloud.seen.lock().unwrap();
    assert_eq!(
        seen.refused,
        ["the will", "the will"],
        "once more to be sure, and nothing else cost a connection"
    );
    // The connection that ends an old session has no will.
    assert_eq!(seen.wills, [None, Some(false), Some(false)]);
    let is_online = |(topic, publish): &&(TopicName, Publish)| {
        topic.as_str() == "x/gateway/state" && publish.payload.starts_with(b"{\"state\":\"online\"")
    };
    let (_, state) = seen.messages.iter().find(is_online).expect("the state");
    assert!(!state.retain && state.qos == QoS::AtLeastOnce, "{state:?}");
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
}

#[test]
fn azure_iot_hub_gets_tokens_and_one_topic_with_everything_in_its_bag() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let cloud = Cloud::start(Kind::Azure, &pem);
    fs::write(folder.path().join("device.key"), BASE64.encode(KEY)).unwrap();
    let uplink = format!(
        "profile: azure-iot-hub\n    to: mqtts://localhost:{}\n    ca: {}\n    password_file: device.key\n    receive: [ {{ filter: 'cmd/#', qos: 2 }} ]",
        cloud.port,
        pem.path("ca.pem")
    );
    let gateway = gateway(folder.path(), &uplink);
    let local = gateway.port();
    publish(local, &["-q", "2", "-t", "alarm/x", "-m", "alarm"]);
    publish(local, &["-q", "1", "-r", "-t", "a/b c", "-m", "{\"v\":1}"]);
    let (topic, alarm) = cloud.wait_for_message("alarm");
    assert!(
        topic.starts_with("devices/x/messages/events/topic=alarm%2Fx&$.mid="),
        "{topic}"
    );
    assert_eq!(alarm.qos, QoS::AtLeastOnce);
    let (topic, _) = cloud.wait_for_message("{\"v\":1}");
    assert!(
        topic.starts_with("devices/x/messages/events/topic=plant%2Fa%2Fb%20c&$.mid="),
        "{topic}"
    );
    assert!(
        topic.ends_with("&$.ct=application%2Fjson&$.ce=utf-8"),
        "{topic}"
    );

    let mut command = mosquitto_sub();
    command.args([
        "-d",
        "-V",
        "5",
        "-p",
        &local.to_string(),
        "-t",
        "cmd/#",
        "-C",
        "1",
        "-F",
        "got %t %p %P",
    ]);
    let mut reader = Process::start(&mut command, &folder.path().join("reader"));
    reader.wait_for_output("Subscribed");
    let inbox = "devices/x/messages/devicebound/%24.mid=1&%24.to=%2Fdevices%2Fx";
    let messages = [
        format!("{inbox}&topic=other%2Fx"),
        inbox.to_owned(),
        format!("{inbox}&topic=cmd%2Fpump%2Fset&who=me"),
    ];
    cloud
        .outbox
        .lock()
        .unwrap()
        .extend(messages.map(|topic| (topic, "on".to_owned())));
    assert!(reader.wait().success());
    assert!(
        reader.output().contains("got cmd/pump/set on who:me"),
        "{}",
        reader.output()
    );
    let remedy = "--props topic=";
    let unusable = gateway.process.events("uplink.message_unusable", &[remedy]);
    assert!(!unusable.is_empty(), "{}", gateway.process.output());
    cut_and_go_on(&cloud, local);
}

/// As after 23 hours, but that the token is valid for five seconds.
#[test]
fn a_token_of_azure_is_replaced_before_it_ends_and_that_is_no_outage() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let cloud = Cloud::start(Kind::Azure, &pem);
    let key = BASE64.encode(KEY);
    let (port, ca) = (cloud.port, pem.path("ca.pem"));
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks:\n  - {{ name: cloud, profile: azure-iot-hub, to: 'mqtts://localhost:{port}', ca: {ca}, password: {key}, send: [ {{ filter: '#' }} ] }}\n"
    );
    let config = config::parse("gateway.yaml", &yaml, folder.path()).unwrap();
    let mut settings = config.uplinks[0].settings.clone();
    let Some(uplink::cloud::Cloud::AzureIotHub(device)) = &mut settings.cloud else {
        panic!("{settings:?}")
    };
    device.token_life = Duration::from_secs(5);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (outbox, closed) = outbox::open("cloud", &config.folder, config.outbox).unwrap();
        let (switch, stop) = stop_token();
        let (is_up, mut up) = tokio::sync::watch::channel(false);
        let ends = UplinkChannels {
            status: None,
            inbound: None,
            is_up,
            routes: tokio::sync::watch::channel(Arc::default()).1,
            primary: None,
        };
        let uplink = uplink::prepare(settings, outbox.clone(), ends).unwrap();
        detach(uplink.run(stop.clone(), stop, Duration::ZERO));
        up.wait_for(|up| *up).await.unwrap();
        // The first connection ends an old session.
        tokio::task::spawn_blocking(move || {
            wait_for("another token", || {
                (cloud.seen.lock().unwrap().wills.len() == 3).then_some(())
            });
        })
        .await
        .unwrap();
        assert!(
            *up.borrow() && !up.has_changed().unwrap(),
            "the link was shown as down"
        );
        switch.stop();
        drop(outbox);
        let _ = closed.await;
    });
}

#[test]
fn a_state_never_goes_to_a_rule_and_whole_topics_are_counted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/good");
    let text = fs::read_to_string(folder.join("warn-clouds.yaml")).unwrap();
    let mut gateway = config::parse("gateway.yaml", &text, &folder).unwrap();
    assert_eq!(
        gateway.uplinks[0]
            .settings
            .presence
            .as_ref()
            .unwrap()
            .topic
            .as_str(),
        "x/gateway/state"
    );
    let day = |gateway: &config::Gateway| {
        config::traffic(&gateway.lines, &gateway.points, &gateway.uplinks[1])
    };
    let whole = day(&gateway);
    gateway.uplinks[1].settings.cloud = None;
    let (bag, messages) = (whole.most - day(&gateway).most, whole.most_messages);
    assert!(
        messages > 1000.0 && bag > 90.0 * messages,
        "{bag} bytes for the bags of {messages} messages"
    );
}

#[test]
fn init_writes_uplinks_to_clouds_that_check_takes() {
    for (given, profile, key) in [
        ("aws-iot", "profile: aws-iot", "cert:"),
        ("azure-iot-hub", "profile: azure-iot-hub", "password_file:"),
        (
            "mqtts://a1-ats.iot.eu-west-1.amazonaws.com",
            "profile: aws-iot",
            "to: mqtts://a1-ats.iot.eu-west-1.amazonaws.com\n",
        ),
        (
            "mqtts://plant.azure-devices.net",
            "profile: azure-iot-hub",
            "to: mqtts://plant.azure-devices.net\n",
        ),
        (
            "mqtts://plant.azure-devices.cn",
            "profile: azure-iot-hub",
            "to: mqtts://plant.azure-devices.cn\n",
        ),
        (
            "mqtts://a1.ats.iot.cn-north-1.amazonaws.com.cn",
            "profile: aws-iot",
            "to: mqtts://a1.ats.iot.cn-north-1.amazonaws.com.cn\n",
        ),
        (
            "mqtts://b-1234-1.mq.eu-west-1.amazonaws.com:8883",
            "# password_file: cloud.password",
            "mqtts://b-1234-1.mq.eu-west-1.amazonaws.com:8883",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        let (code, _, error) = run(wellhead()
            .args(["init", "--site", "x", "--uplink", given, "--yes"])
            .arg(&file));
        assert_eq!(code, Some(0), "{error}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(profile) && text.contains(key), "{text}");
        let (code, out, error) = run(wellhead().arg("check").arg(&file));
        assert_eq!(code, Some(0), "{out}{error}");
    }
}
