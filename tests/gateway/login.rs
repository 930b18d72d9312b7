//! Enhanced authentication: a SCRAM-SHA-256 client of our own against the engine.

use bytes::Bytes;
use ring::{digest, hmac, pbkdf2};
use wellhead::broker::engine::{Noted, Peer};
use wellhead::mqtt::{Connect, Disconnect, Packet, Properties, Publish, ReasonCode, Version};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::stage::{Stage, setup};

const METHOD: &str = "SCRAM-SHA-256";

/// RFC 5802, the client's side.
struct Scram {
    first: String,
    nonce: &'static str,
}

impl Scram {
    fn begin(nonce: &'static str) -> Self {
        Self {
            first: format!("n=anna,r={nonce}"),
            nonce,
        }
    }

    fn first(&self) -> Bytes {
        format!("n,,{}", self.first).into()
    }

    /// The last message, and what the server must answer to it.
    fn finish(&self, challenge: &[u8], password: &str) -> (Bytes, String) {
        let challenge = std::str::from_utf8(challenge).unwrap();
        let fields: Vec<&str> = challenge.split(',').map(|field| &field[2..]).collect();
        let [nonce, salt, iterations] = fields[..] else {
            panic!("{challenge}")
        };
        assert!(
            nonce.starts_with(self.nonce) && nonce.len() > self.nonce.len() + 16,
            "{challenge}"
        );
        let rounds = iterations.parse::<u32>().unwrap().try_into().unwrap();
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            rounds,
            &STANDARD.decode(salt).unwrap(),
            password.as_bytes(),
            &mut salted,
        );
        let mac =
            |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = mac(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let bare = format!("c=biws,r={nonce}");
        let said = format!("{},{challenge},{bare}", self.first);
        let signature = mac(stored.as_ref(), said.as_bytes());
        let proof: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(one, other)| one ^ other)
            .collect();
        let server = mac(mac(&salted, b"Server Key").as_ref(), said.as_bytes());
        (
            format!("{bare},p={}", STANDARD.encode(proof)).into(),
            format!("v={}", STANDARD.encode(server)),
        )
    }
}

fn properties(data: Bytes) -> Properties {
    let mut properties = Properties::default();
    properties.edit().authentication_method = Some(METHOD.into());
    properties.edit().authentication_data = Some(data);
    properties
}

fn auth(reason: ReasonCode, data: Bytes) -> Packet {
    Packet::Auth(Disconnect {
        reason,
        properties: properties(data),
    })
}

fn connect(data: Bytes) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: Version::V5,
        is_bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: "pump".into(),
        will: None,
        username: None,
        password: None,
        properties: properties(data),
    }))
}

/// The data of an AUTH that asks to go on.
fn challenge(packet: Option<Packet>) -> Bytes {
    match packet {
        Some(Packet::Auth(auth)) if auth.reason == ReasonCode::CONTINUE_AUTHENTICATION => {
            assert_eq!(
                auth.properties.authentication_method.as_deref(),
                Some(METHOD)
            );
            auth.properties.authentication_data.clone().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn log_in(stage: &mut Stage, password: &str) -> (u64, Option<Packet>, String) {
    let id = stage.open(Peer::default());
    let scram = Scram::begin("fyko+d2lbbFgONRv9qkxdawL");
    stage.send(id, &connect(scram.first()));
    let challenge = challenge(stage.next_packet(id));
    let (last, answer) = scram.finish(&challenge, password);
    stage.send(id, &auth(ReasonCode::CONTINUE_AUTHENTICATION, last));
    (id, stage.next_packet(id), answer)
}

#[test]
fn a_proof_lets_in_and_the_server_proves_itself_too() {
    let mut stage = Stage::new(setup());
    let (_, packet, answer) = log_in(&mut stage, "secret");
    let Some(Packet::ConnAck(connack)) = packet else {
        panic!("{packet:?}")
    };
    assert_eq!(connack.reason, ReasonCode::SUCCESS);
    assert_eq!(
        connack.properties.authentication_method.as_deref(),
        Some(METHOD)
    );
    assert_eq!(
        connack.properties.authentication_data.as_deref(),
        Some(answer.as_bytes())
    );

    let (id, packet, _) = log_in(&mut stage, "Secret");
    assert!(
        matches!(packet, Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::BAD_USER_NAME_OR_PASSWORD)
    );
    assert!(stage.is_closed(id));
}

#[test]
fn a_session_is_authenticated_again_and_ends_with_a_wrong_proof() {
    let mut stage = Stage::new(setup());
    let (id, _, _) = log_in(&mut stage, "secret");
    for (password, is_right) in [("secret", true), ("wrong", false)] {
        let scram = Scram::begin("another-nonce-of-the-client");
        stage.send(id, &auth(ReasonCode::RE_AUTHENTICATE, scram.first()));
        let challenge = challenge(stage.next_packet(id));
        // Other packets go on meanwhile.
        stage.send(id, &Packet::PingReq);
        assert_eq!(stage.next_packet(id), Some(Packet::PingResp));
        let (last, answer) = scram.finish(&challenge, password);
        stage.send(id, &auth(ReasonCode::CONTINUE_AUTHENTICATION, last));
        match stage.next_packet(id) {
            Some(Packet::Auth(done)) if is_right => {
                assert_eq!(done.reason, ReasonCode::SUCCESS);
                assert_eq!(
                    done.properties.authentication_data.as_deref(),
                    Some(answer.as_bytes())
                );
            }
            Some(Packet::Disconnect(end)) if !is_right => {
                assert_eq!(end.reason, ReasonCode::NOT_AUTHORIZED);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(stage.is_closed(id));
}

/// The reason in the CONNACK that a login by password gets.
fn by_password(stage: &mut Stage, address: &str, user: &str, password: &str) -> ReasonCode {
    let id = stage.open(Peer {
        address: Some(address.parse().unwrap()),
        certificate: None,
    });
    let connect = Connect {
        username: Some(user.into()),
        password: Some(password.to_owned().into()),
        ..plain()
    };
    stage.send(id, &Packet::Connect(Box::new(connect)));
    let Some(Packet::ConnAck(connack)) = stage.next_packet(id) else {
        panic!("no CONNACK")
    };
    stage.drop_connection(id);
    connack.reason
}

fn plain() -> Connect {
    Connect {
        version: Version::V5,
        is_bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: "pump".into(),
        will: None,
        username: None,
        password: None,
        properties: Properties::default(),
    }
}

#[test]
fn wrong_passwords_lock_one_user_at_one_address_for_a_minute() {
    let mut stage = Stage::new(setup());
    let here = "2001:db8::1";
    for _ in 0..10 {
        assert_eq!(
            by_password(&mut stage, here, "anna", "wrong"),
            ReasonCode::BAD_USER_NAME_OR_PASSWORD
        );
        assert_eq!(
            by_password(&mut stage, here, "nobody", "wrong"),
            ReasonCode::BAD_USER_NAME_OR_PASSWORD
        );
    }
    assert_eq!(
        by_password(&mut stage, here, "anna", "secret"),
        ReasonCode::BANNED
    );
    assert_eq!(
        by_password(&mut stage, here, "nobody", "secret"),
        ReasonCode::BANNED,
        "nobody learns who exists"
    );
    assert_eq!(
        by_password(&mut stage, here, "berta", "wrong"),
        ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        "another user name"
    );
    assert_eq!(
        by_password(&mut stage, "2001:db8::2", "anna", "secret"),
        ReasonCode::SUCCESS,
        "a neighbour in the same /64"
    );
    stage.wait(std::time::Duration::from_secs(61));
    assert_eq!(
        by_password(&mut stage, here, "anna", "secret"),
        ReasonCode::SUCCESS
    );
}

#[test]
fn no_program_of_this_machine_locks_the_others() {
    let mut stage = Stage::new(setup());
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        for _ in 0..50 {
            assert_eq!(
                by_password(&mut stage, address, "anna", "wrong"),
                ReasonCode::BAD_USER_NAME_OR_PASSWORD
            );
        }
        assert_eq!(
            by_password(&mut stage, address, "anna", "secret"),
            ReasonCode::SUCCESS,
            "{address}"
        );
    }
}

#[test]
fn wrong_proofs_lock_as_wrong_passwords_do() {
    let mut stage = Stage::new(setup());
    let peer = || Peer {
        address: Some("192.0.2.1".parse().unwrap()),
        certificate: None,
    };
    let mut first = || {
        let id = stage.open(peer());
        let scram = Scram::begin("fyko+d2lbbFgONRv9qkxdawL");
        stage.send(id, &connect(scram.first()));
        match stage.next_packet(id) {
            Some(Packet::Auth(_)) => {
                stage.send(
                    id,
                    &auth(
                        ReasonCode::CONTINUE_AUTHENTICATION,
                        "c=biws,r=x,p=AAAA".into(),
                    ),
                );
                stage.next_packet(id)
            }
            other => other,
        }
    };
    let reason = |packet| {
        if let Some(Packet::ConnAck(connack)) = packet {
            connack.reason
        } else {
            panic!("{packet:?}")
        }
    };
    for _ in 0..10 {
        assert_eq!(reason(first()), ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    }
    assert_eq!(reason(first()), ReasonCode::BANNED);
}

#[test]
fn a_login_that_waits_too_long_is_told_that_the_broker_is_busy() {
    let mut stage = Stage::new(setup());
    stage.is_verifier_slow = true;
    let id = stage.open(Peer::default());
    stage.send(
        id,
        &Packet::Connect(Box::new(Connect {
            username: Some("anna".into()),
            password: Some("secret".into()),
            ..plain()
        })),
    );
    stage.wait(std::time::Duration::from_secs(11));
    assert!(
        matches!(stage.next_packet(id), Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::SERVER_BUSY)
    );
    assert!(stage.is_closed(id));
}

/// What is noted last of a client that the broker disconnects.
fn noted(act: impl FnOnce(&mut Stage, u64)) -> (Noted, Option<String>, Option<ReasonCode>) {
    let mut stage = Stage::new(setup());
    let id = stage.open(Peer {
        address: Some("192.0.2.1".parse().unwrap()),
        certificate: None,
    });
    let connect = Connect {
        username: Some("anna".into()),
        password: Some("secret".into()),
        keep_alive: 10,
        ..plain()
    };
    stage.send(id, &Packet::Connect(Box::new(connect)));
    let connected = stage.notes.last().unwrap();
    assert_eq!(
        (
            connected.what,
            connected.user.as_deref(),
            connected.client_id.as_deref()
        ),
        (Noted::Connected, Some("anna"), Some("pump"))
    );
    act(&mut stage, id);
    let last = stage.notes.last().unwrap();
    assert_eq!(
        (last.address, last.user.as_deref()),
        (Some("192.0.2.1".parse().unwrap()), Some("anna"))
    );
    (
        last.what,
        last.client_id.as_ref().map(ToString::to_string),
        last.reason,
    )
}

#[test]
fn every_end_of_a_session_is_noted_with_its_reason() {
    let dropped = |reason| (Noted::Dropped, Some("pump".to_owned()), Some(reason));
    let alias = |stage: &mut Stage, id| {
        let mut properties = Properties::default();
        properties.edit().topic_alias = Some(999.try_into().unwrap());
        let topic = Some(wellhead::mqtt::TopicName::new("plant/a").unwrap());
        let (qos, payload) = (wellhead::mqtt::QoS::AtMostOnce, Bytes::new());
        stage.send(
            id,
            &Packet::Publish(Publish {
                dup: false,
                qos,
                retain: false,
                topic,
                packet_id: None,
                properties,
                payload,
            }),
        );
    };
    assert_eq!(noted(alias), dropped(ReasonCode::TOPIC_ALIAS_INVALID));
    assert_eq!(
        noted(|stage, id| stage.send(id, &Packet::Connect(Box::new(plain())))),
        dropped(ReasonCode::PROTOCOL_ERROR)
    );
    assert_eq!(
        noted(|stage, _| stage.wait(std::time::Duration::from_secs(16))),
        dropped(ReasonCode::KEEP_ALIVE_TIMEOUT)
    );
    let left = (Noted::Disconnected, Some("pump".to_owned()), None);
    assert_eq!(
        noted(|stage, id| stage.send(
            id,
            &Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS))
        )),
        left
    );
    assert_eq!(noted(Stage::drop_connection), left);
}
