//! Authentication: by certificate, password or SCRAM before the session, and by SCRAM again within
//! it.
//!
//! Invariants:
//! * Nothing a client sends is done before its login is; packets that come early wait, and few of
//!   them are read.
//! * No client learns whether a user exists.
//! * Too many wrong passwords lock a pair of address and user name, not the address, which others
//!   may share; and no program of this machine, where all share one.

use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use ring::hmac;

use super::lifecycle::{End, Granted, PendingConnect, ScramProof, ServerProof, Stage};
use super::note::Noted;
use super::refusal::Refusal;
use super::{Client, ConnectionId, Engine, Output};
use crate::broker::access::{Hash, Login};
use crate::broker::admission::Address;
use crate::broker::scram::{ClientFirst, METHOD, ScramExchange};
use crate::mqtt::{Connect, Disconnect, Fields, Packet, ReasonCode};

/// Packets that may arrive before the login is done: about what one read of small messages brings.
const MAX_EARLY: usize = 2048;

const FAILED: Refusal = Refusal::new(
    ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    "wrong user name or password",
);
const LOCKED: Refusal = Refusal::new(
    ReasonCode::BANNED,
    "too many wrong passwords for this user name from this address; try again in a minute",
);
const NO_METHOD: Refusal = Refusal::new(
    ReasonCode::BAD_AUTHENTICATION_METHOD,
    "the only method is SCRAM-SHA-256",
);

impl Engine {
    /// A packet of a connection without a session: before CONNACK, a client may send CONNECT, AUTH
    /// and DISCONNECT [MQTT-3.1.2-30].
    pub(super) fn process_before_session(
        &mut self,
        id: ConnectionId,
        packet: Packet,
        now: Instant,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match (&mut connection.stage, packet) {
            (Stage::AwaitsConnect, Packet::Connect(connect)) => {
                self.process_connect(id, *connect, now);
            }
            (Stage::Proving(..), Packet::Auth(auth)) => self.check_proof(id, &auth, now),
            (Stage::Verifying(pending), packet) if pending.early.len() < MAX_EARLY => {
                pending.early.push(packet);
            }
            (_, Packet::Disconnect(_)) => self.close(id, End::Orderly, now),
            _ => {
                let why = "this packet must not come before CONNACK";
                self.note(id, Noted::Refused, ReasonCode::PROTOCOL_ERROR, why);
                self.close(id, End::Lost, now);
            }
        }
    }

    /// Begins the login that a CONNECT asks for: by the method it names, else by certificate or
    /// password.
    pub(super) fn authenticate(&mut self, id: ConnectionId, connect: Connect, now: Instant) {
        if let Some(method) = connect.properties.authentication_method.clone() {
            return self.begin_proof(id, connect, &method, now);
        }
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let certificate = connection.peer.certificate.clone();
        let name = connect.username.as_ref();
        if certificate.is_none() && self.is_locked(id, name, now) {
            return self.refuse_connect(id, LOCKED, now);
        }
        let has_password = connect.password.is_some();
        match self.access.login(certificate.as_ref(), name, has_password) {
            Login::Granted { user } => {
                self.establish_session(id, &connect, Granted { user, proof: None }, now);
            }
            Login::Refused(reason, why) => {
                self.login_failed(id, name, Refusal::new(reason, why), now);
            }
            Login::Verify { user, hash } => self.verify(id, connect, user, hash),
        }
    }

    /// Has a password compared, which takes long: meanwhile the connection is not read.
    fn verify(&mut self, id: ConnectionId, connect: Connect, user: Option<ByteString>, hash: Hash) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        self.outputs.push(Output::Pause(id));
        self.outputs.push(Output::Verify {
            connection: id,
            address: connection.peer.address,
            user: user.clone(),
            hash,
            password: connect.password.clone().unwrap_or_default(),
        });
        connection.stage = Stage::Verifying(Box::new(PendingConnect::new(connect, user)));
        connection.is_paused = true;
    }

    fn login_failed(
        &mut self,
        id: ConnectionId,
        name: Option<&ByteString>,
        refusal: Refusal,
        now: Instant,
    ) {
        self.note(id, Noted::LoginFailed, refusal.reason, refusal.why);
        self.count_failed(id, name, now);
        self.answer_connect(id, refusal, now);
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

    /// The key that wrong passwords are counted by; `None` without a user name, and for programs of
    /// this machine.
    fn lock_key(&self, id: ConnectionId, name: Option<&ByteString>) -> Option<(Address, [u8; 8])> {
        let address = self.connections.get(&id)?.peer.address?.to_canonical();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let tag = hmac::sign(&key, name?.as_bytes());
        let name = tag.as_ref().first_chunk().copied()?;
        (!address.is_loopback()).then_some((address, name))
    }

    /// A password was compared: the login succeeds, or fails. Packets that came early are processed
    /// in their order.
    pub(super) fn verified(&mut self, id: ConnectionId, is_right: bool, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Stage::Verifying(pending) = std::mem::replace(&mut connection.stage, Stage::Live)
        else {
            return;
        };
        let PendingConnect {
            connect,
            user,
            early,
        } = *pending;
        if !is_right || user.is_none() {
            return self.login_failed(id, connect.username.as_ref(), FAILED, now);
        }
        connection.is_paused = false;
        self.outputs.push(Output::Resume(id));
        self.establish_session(id, &connect, Granted { user, proof: None }, now);
        for packet in early {
            self.process_packet(id, packet, now);
        }
    }

    /// Enhanced authentication begins: the challenge of the server goes out with AUTH
    /// [MQTT-4.12.0-2].
    fn begin_proof(
        &mut self,
        id: ConnectionId,
        connect: Connect,
        method: &ByteString,
        now: Instant,
    ) {
        let data = authentication_data(&connect.properties);
        let Some((proof, answer)) = self.challenge(method, &data) else {
            let is_known = **method == *METHOD;
            let refusal = if is_known { FAILED } else { NO_METHOD };
            return self.login_failed(id, None, refusal, now);
        };
        if let Some(claimed) = self
            .connections
            .get_mut(&id)
            .and_then(|connection| connection.claimed.as_mut())
        {
            claimed.user = Some(proof.name.clone());
        }
        if self.is_locked(id, Some(&proof.name), now) {
            return self.refuse_connect(id, LOCKED, now);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let pending = PendingConnect::new(connect, None);
        connection.stage = Stage::Proving(Box::new(pending), Box::new(proof));
        self.send(id, &auth(ReasonCode::CONTINUE_AUTHENTICATION, answer), 0);
    }

    /// The server's first message; `None` if the client's makes no sense.
    fn challenge(&mut self, method: &ByteString, data: &[u8]) -> Option<(ScramProof, String)> {
        let first = ClientFirst::parse(data).filter(|_| **method == *METHOD)?;
        let (user, secret) = self.access.scram(&first.user);
        let nonce = self.unpredictable();
        let (exchange, answer) = ScramExchange::begin(&first, secret, &nonce);
        let proof = ScramProof {
            exchange,
            name: first.user.into(),
            user,
        };
        Some((proof, answer))
    }

    /// A text that cannot be guessed and does not repeat.
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

    /// AUTH before the session: the proof of the client.
    fn check_proof(&mut self, id: ConnectionId, auth: &Disconnect, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Stage::Proving(pending, proof) = std::mem::replace(&mut connection.stage, Stage::Live)
        else {
            return;
        };
        let data = continued(auth).unwrap_or_default();
        match proof.exchange.finish(&data).zip(proof.user) {
            Some((last, user)) => {
                let granted = Granted {
                    user: Some(user),
                    proof: Some(ServerProof {
                        method: ByteString::from_static(METHOD),
                        data: last.into(),
                    }),
                };
                self.establish_session(id, &pending.connect, granted, now);
            }
            None => self.login_failed(id, Some(&proof.name), FAILED, now),
        }
    }

    /// AUTH in a session: only for clients that used a method in CONNECT, and with the same one
    /// [MQTT-4.12.1-1].
    pub(super) fn process_auth(&mut self, client: Client, packet: &Disconnect, now: Instant) {
        let id = client.connection;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let method = packet.properties.authentication_method.clone();
        let is_allowed = connection.proved && method.as_deref() == Some(METHOD);
        if !is_allowed {
            let why = "AUTH without the method that CONNECT named";
            return self.refuse_because(id, Refusal::protocol_error(why), now);
        }
        let stage = std::mem::replace(&mut connection.stage, Stage::Live);
        match (stage, packet.reason) {
            (Stage::Live, ReasonCode::RE_AUTHENTICATE) => self.begin_proof_again(id, packet, now),
            (Stage::ProvingAgain(proof), ReasonCode::CONTINUE_AUTHENTICATION) => {
                self.check_proof_again(client, *proof, packet, now);
            }
            _ => self.refuse_because(id, Refusal::protocol_error("unexpected AUTH"), now),
        }
    }

    fn begin_proof_again(&mut self, id: ConnectionId, packet: &Disconnect, now: Instant) {
        let data = authentication_data(&packet.properties);
        let Some((proof, answer)) = self.challenge(&ByteString::from_static(METHOD), &data) else {
            return self.re_authentication_failed(id, None, now);
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::ProvingAgain(Box::new(proof));
        }
        self.send(id, &auth(ReasonCode::CONTINUE_AUTHENTICATION, answer), 0);
    }

    /// The session stays with its user.
    fn check_proof_again(
        &mut self,
        client: Client,
        proof: ScramProof,
        packet: &Disconnect,
        now: Instant,
    ) {
        let id = client.connection;
        let session = self.sessions.get(client.session);
        let user = session.and_then(|session| session.user.clone());
        let data = continued(packet).unwrap_or_default();
        match proof.exchange.finish(&data).filter(|_| proof.user == user) {
            Some(last) => drop(self.send(id, &auth(ReasonCode::SUCCESS, last), 0)),
            None => self.re_authentication_failed(id, Some(&proof.name), now),
        }
    }

    fn re_authentication_failed(
        &mut self,
        id: ConnectionId,
        name: Option<&ByteString>,
        now: Instant,
    ) {
        let refusal = Refusal::new(ReasonCode::NOT_AUTHORIZED, "the proof is wrong");
        let why = "re-authentication failed: the proof is wrong";
        self.note(id, Noted::LoginFailed, refusal.reason, why);
        self.count_failed(id, name, now);
        self.refuse_because(id, refusal, now); // [MQTT-4.12.1-2]
    }
}

fn authentication_data(properties: &Fields) -> Bytes {
    properties.authentication_data.clone().unwrap_or_default()
}

/// The data with which a client continues its login [MQTT-4.12.0-3]; `None` if AUTH says something
/// else.
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
