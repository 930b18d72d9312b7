//! Who somebody is: from CONNECT to the session, by certificate, password or SCRAM; and again, in the middle of a session.
//!
//! Invariants:
//! * Nothing a client sends is done before its login is; what comes early waits, and little of it is read.
//! * Nobody learns whether a user exists.
//! * Too many wrong passwords lock a pair of address and user name, not the address, which others may share; and nobody on this
//!   machine, where all share one.

use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use ring::hmac;

use super::connect::End;
use super::note::{Claimed, Noted};
use super::{ConnectionId, Engine, Output, SessionKey};
use crate::broker::access::Login;
use crate::broker::admission::Address;
use crate::broker::scram::{Exchange, First, METHOD};
use crate::mqtt::{Connect, Disconnect, Packet, ReasonCode};

/// Packets that may arrive before the login is done: about what one read of small messages brings.
const MAX_EARLY: usize = 2048;

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Stage {
    AwaitsConnect,
    /// A password is being compared.
    Verifying(Box<Pending>),
    /// The client must prove that it has the password.
    Proving(Box<Pending>, Box<Proof>),
    Live,
    /// In a session, and proving it again.
    ProvingAgain(Box<Proof>),
}

/// A CONNECT that is not answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) connect: Connect,
    /// Who it is if all goes well; `None` if there is no such user.
    pub(super) user: Option<ByteString>,
    early: Vec<Packet>,
}

/// A SCRAM exchange.
#[derive(Debug)]
pub(super) struct Proof {
    exchange: Exchange,
    /// Who the client says it is.
    name: ByteString,
    /// `None` if there is no such user.
    user: Option<ByteString>,
}

/// A login that was done.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) user: Option<ByteString>,
    /// For CONNACK: the method, and the proof that the server knows the secret.
    pub(super) proof: Option<(ByteString, Bytes)>,
}

const FAILED: (ReasonCode, &str) = (
    ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    "wrong user name or password",
);
const LOCKED: (ReasonCode, &str) = (
    ReasonCode::BANNED,
    "too many wrong passwords for this user name from this address; try again in a minute",
);
const NO_METHOD: (ReasonCode, &str) = (
    ReasonCode::BAD_AUTHENTICATION_METHOD,
    "the only method is SCRAM-SHA-256",
);

impl Engine {
    /// A packet of a connection without a session.
    pub(super) fn first_packets(&mut self, id: ConnectionId, packet: Packet, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match (&mut connection.stage, packet) {
            (Stage::AwaitsConnect, Packet::Connect(connect)) => self.log_in(id, *connect, now),
            (Stage::Proving(..), Packet::Auth(auth)) => self.check_proof(id, &auth, now),
            (Stage::Verifying(pending), packet) if pending.early.len() < MAX_EARLY => {
                pending.early.push(packet);
            }
            // [MQTT-3.1.2-30]: before CONNACK nothing but AUTH and DISCONNECT.
            (_, Packet::Disconnect(_)) => self.close(id, End::Orderly, now),
            _ => {
                self.note(
                    id,
                    Noted::Refused,
                    ReasonCode::PROTOCOL_ERROR,
                    "this packet must not come before CONNACK",
                );
                self.close(id, End::Lost, now);
            }
        }
    }

    fn log_in(&mut self, id: ConnectionId, connect: Connect, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.limit_answers(&connect);
        let user = connection
            .peer
            .certificate
            .clone()
            .or_else(|| connect.username.clone());
        connection.claimed = Some(Box::new(Claimed {
            user,
            client_id: connect.client_id.clone(),
        }));
        if let Err((reason, why)) = check_connect(&connect) {
            self.refuse_connect(id, reason, why, now);
            return;
        }
        if let Some(method) = connect.properties.authentication_method.clone() {
            self.begin_proof(id, connect, &method, now);
            return;
        }
        let certificate = connection.peer.certificate.clone();
        if certificate.is_none() && self.is_locked(id, connect.username.as_ref(), now) {
            self.refuse_connect(id, LOCKED.0, LOCKED.1, now);
            return;
        }
        match self.access.login(
            certificate.as_ref(),
            connect.username.as_ref(),
            connect.password.is_some(),
        ) {
            Login::Granted { user } => self.enter(id, &connect, Granted { user, proof: None }, now),
            Login::Refused(reason, why) => {
                self.login_failed(id, connect.username.as_ref(), (reason, why), now);
            }
            Login::Verify { user, hash } => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                let (password, claimed) =
                    (connect.password.clone().unwrap_or_default(), user.clone());
                connection.stage = Stage::Verifying(Box::new(Pending {
                    connect,
                    user,
                    early: Vec::new(),
                }));
                connection.is_paused = true;
                let address = connection.peer.address;
                self.outputs.push(Output::Pause(id));
                self.outputs.push(Output::Verify {
                    connection: id,
                    address,
                    user: claimed,
                    hash,
                    password,
                });
            }
        }
    }

    fn login_failed(
        &mut self,
        id: ConnectionId,
        name: Option<&ByteString>,
        (reason, why): (ReasonCode, &'static str),
        now: Instant,
    ) {
        self.note(id, Noted::LoginFailed, reason, why);
        self.count_failed(id, name, now);
        self.answer_connect(id, reason, why, now);
    }

    fn count_failed(&mut self, id: ConnectionId, name: Option<&ByteString>, now: Instant) {
        self.traffic.failed_logins += 1;
        let address = self
            .connections
            .get(&id)
            .and_then(|connection| connection.peer.address);
        self.outputs.push(Output::LoginFailed(address));
        let locks = self
            .lock_key(id, name)
            .is_some_and(|key| self.lockout.count(key, now));
        if locks {
            self.note(id, Noted::UserLocked, ReasonCode::BANNED, "");
        }
    }

    /// True while this user name is refused at the address of a connection.
    fn is_locked(&self, id: ConnectionId, name: Option<&ByteString>, now: Instant) -> bool {
        self.lock_key(id, name)
            .is_some_and(|key| self.lockout.is_locked(&key, now))
    }

    /// What wrong passwords are counted by; `None` without a user name, and for programs of this machine.
    fn lock_key(&self, id: ConnectionId, name: Option<&ByteString>) -> Option<(Address, [u8; 8])> {
        let address = self.connections.get(&id)?.peer.address?.to_canonical();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let tag = hmac::sign(&key, name?.as_bytes());
        let name = tag.as_ref().first_chunk().copied()?;
        (!address.is_loopback()).then_some((address, name))
    }

    /// The password is right, or not.
    pub(super) fn verified(&mut self, id: ConnectionId, is_right: bool, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Stage::Verifying(pending) = std::mem::replace(&mut connection.stage, Stage::Live)
        else {
            return;
        };
        let Pending {
            connect,
            user,
            early,
        } = *pending;
        if !is_right || user.is_none() {
            self.login_failed(id, connect.username.as_ref(), FAILED, now);
            return;
        }
        connection.is_paused = false;
        self.outputs.push(Output::Resume(id));
        self.enter(id, &connect, Granted { user, proof: None }, now);
        for packet in early {
            self.packet(id, packet, now);
        }
    }

    fn begin_proof(
        &mut self,
        id: ConnectionId,
        connect: Connect,
        method: &ByteString,
        now: Instant,
    ) {
        let data = connect
            .properties
            .authentication_data
            .clone()
            .unwrap_or_default();
        let Some((proof, answer)) = self.challenge(method, &data) else {
            let refusal = if **method == *METHOD {
                FAILED
            } else {
                NO_METHOD
            };
            self.login_failed(id, None, refusal, now);
            return;
        };
        if let Some(claimed) = self
            .connections
            .get_mut(&id)
            .and_then(|connection| connection.claimed.as_mut())
        {
            claimed.user = Some(proof.name.clone());
        }
        if self.is_locked(id, Some(&proof.name), now) {
            self.refuse_connect(id, LOCKED.0, LOCKED.1, now);
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let pending = Pending {
            connect,
            user: None,
            early: Vec::new(),
        };
        connection.stage = Stage::Proving(Box::new(pending), Box::new(proof));
        self.send(id, &auth(ReasonCode::CONTINUE_AUTHENTICATION, answer), 0);
    }

    /// The server's first message; `None` if the client's makes no sense.
    fn challenge(&mut self, method: &ByteString, data: &[u8]) -> Option<(Proof, String)> {
        let first = First::parse(data).filter(|_| **method == *METHOD)?;
        let (user, secret) = self.access.scram(&first.user);
        let nonce = self.unpredictable();
        let (exchange, answer) = Exchange::begin(&first, secret, &nonce);
        Some((
            Proof {
                exchange,
                name: first.user.into(),
                user,
            },
            answer,
        ))
    }

    /// A text that nobody can guess and that comes once.
    pub(super) fn unpredictable(&mut self) -> String {
        self.generated_ids += 1;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let tag = hmac::sign(&key, &self.generated_ids.to_be_bytes());
        tag.as_ref()
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn check_proof(&mut self, id: ConnectionId, auth: &Disconnect, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Stage::Proving(pending, proof) = std::mem::replace(&mut connection.stage, Stage::Live)
        else {
            return;
        };
        let data = continued(auth).unwrap_or_default();
        let Proof {
            exchange,
            name,
            user,
        } = *proof;
        match exchange.finish(&data).zip(user) {
            Some((last, user)) => {
                let proof = Some((ByteString::from_static(METHOD), last.into()));
                self.enter(
                    id,
                    &pending.connect,
                    Granted {
                        user: Some(user),
                        proof,
                    },
                    now,
                );
            }
            None => self.login_failed(id, Some(&name), FAILED, now),
        }
    }

    /// AUTH in a session: only for clients that used a method in CONNECT, and with the same one [MQTT-4.12.1-1].
    pub(super) fn authenticate_again(
        &mut self,
        id: ConnectionId,
        session: SessionKey,
        packet: &Disconnect,
        now: Instant,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let method = packet.properties.authentication_method.clone();
        let is_allowed = connection.proved && method.as_deref() == Some(METHOD);
        if !is_allowed {
            self.refuse_because(
                id,
                ReasonCode::PROTOCOL_ERROR,
                "AUTH without the method that CONNECT named",
                now,
            );
            return;
        }
        match (
            std::mem::replace(&mut connection.stage, Stage::Live),
            packet.reason,
        ) {
            (Stage::Live, ReasonCode::RE_AUTHENTICATE) => {
                let data = packet
                    .properties
                    .authentication_data
                    .clone()
                    .unwrap_or_default();
                match self.challenge(&ByteString::from_static(METHOD), &data) {
                    Some((proof, answer)) => {
                        if let Some(connection) = self.connections.get_mut(&id) {
                            connection.stage = Stage::ProvingAgain(Box::new(proof));
                        }
                        self.send(id, &auth(ReasonCode::CONTINUE_AUTHENTICATION, answer), 0);
                    }
                    None => self.re_authentication_failed(id, None, now),
                }
            }
            (Stage::ProvingAgain(proof), ReasonCode::CONTINUE_AUTHENTICATION) => {
                let data = continued(packet).unwrap_or_default();
                let user = self
                    .sessions
                    .get(session)
                    .and_then(|session| session.user.clone());
                // The session stays with the user whose it is.
                match proof.exchange.finish(&data).filter(|_| proof.user == user) {
                    Some(last) => drop(self.send(id, &auth(ReasonCode::SUCCESS, last), 0)),
                    None => self.re_authentication_failed(id, Some(&proof.name), now),
                }
            }
            _ => self.refuse_because(id, ReasonCode::PROTOCOL_ERROR, "unexpected AUTH", now),
        }
    }

    fn re_authentication_failed(
        &mut self,
        id: ConnectionId,
        name: Option<&ByteString>,
        now: Instant,
    ) {
        self.note(
            id,
            Noted::LoginFailed,
            ReasonCode::NOT_AUTHORIZED,
            "re-authentication failed: the proof is wrong",
        );
        self.count_failed(id, name, now);
        self.refuse_because(id, ReasonCode::NOT_AUTHORIZED, "the proof is wrong", now); // [MQTT-4.12.1-2]
    }
}

fn check_connect(connect: &Connect) -> Result<(), (ReasonCode, &'static str)> {
    use crate::mqtt::Version;
    let nameless_but_kept = connect.version == Version::V31
        || (connect.version == Version::V311 && !connect.clean_start);
    if connect.client_id.is_empty() && nameless_but_kept {
        let why = "a persistent session needs a client identifier";
        return Err((ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why)); // [MQTT-3.1.3-8]
    }
    if connect
        .will
        .as_ref()
        .is_some_and(|will| will.topic.is_too_deep())
    {
        return Err((
            ReasonCode::TOPIC_NAME_INVALID,
            "the topic of a will may have at most 201 levels",
        ));
    }
    if connect
        .will
        .as_ref()
        .is_some_and(|will| will.topic.as_str().starts_with("$CONTROL"))
    {
        return Err((
            ReasonCode::TOPIC_NAME_INVALID,
            "a will must not be published to $CONTROL",
        ));
    }
    Ok(())
}

/// What the client goes on with [MQTT-4.12.0-3]; nothing if it is something else.
fn continued(auth: &Disconnect) -> Option<Bytes> {
    let is_same = auth.properties.authentication_method.as_deref() == Some(METHOD);
    let data = auth.properties.authentication_data.clone();
    data.filter(|_| is_same && auth.reason == ReasonCode::CONTINUE_AUTHENTICATION)
}

fn auth(reason: ReasonCode, data: String) -> Packet {
    let mut packet = Disconnect::new(reason);
    let fields = packet.properties.edit();
    fields.authentication_method = Some(ByteString::from_static(METHOD));
    fields.authentication_data = Some(data.into());
    Packet::Auth(packet)
}
