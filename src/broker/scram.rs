//! The server's side of SCRAM-SHA-256 [RFC 5802, RFC 7677], without channel binding. Pure.
//!
//! Invariants: no password is stored, only what RFC 5802 calls StoredKey and ServerKey; proofs are
//! compared in constant time.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

/// The name of the method in MQTT.
pub const METHOD: &str = "SCRAM-SHA-256";
/// Iterations of `wellhead passwd`, and of the made-up secrets of users who do not exist.
pub const ITERATIONS: u32 = 4096;
const KEY: usize = 32;
/// Bytes of a client's first message: what it says is kept until its proof.
const LONGEST_FIRST: usize = 2048;
/// More would keep clients busy for minutes.
const MOST_ITERATIONS: u32 = 1_000_000;

/// The part of a password that the server keeps:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last three in Base64.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramSecret {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; KEY],
    server_key: [u8; KEY],
}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; KEY] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let mut out = [0; KEY];
    out.copy_from_slice(tag.as_ref());
    out
}

fn hash(bytes: &[u8]) -> [u8; KEY] {
    let mut out = [0; KEY];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

impl ScramSecret {
    /// From a password.
    pub fn of_password(password: &[u8], salt: &[u8], iterations: std::num::NonZeroU32) -> Self {
        let mut salted = [0; KEY];
        ring::pbkdf2::derive(
            ring::pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password,
            &mut salted,
        );
        Self {
            iterations: iterations.get(),
            salt: salt.to_vec(),
            stored_key: hash(&mac(&salted, b"Client Key")),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }
}

impl fmt::Display for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored, server) = (
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key),
        );
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl FromStr for ScramSecret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parse = || {
            let (head, keys) = text
                .strip_prefix(METHOD)?
                .strip_prefix('$')?
                .split_once('$')?;
            let (iterations, salt) = head.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let key = |text: &str| <[u8; KEY]>::try_from(STANDARD.decode(text).ok()?).ok();
            Some(Self {
                iterations: iterations
                    .parse()
                    .ok()
                    .filter(|count| (1..=MOST_ITERATIONS).contains(count))?,
                salt: STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?,
                stored_key: key(stored)?,
                server_key: key(server)?,
            })
        };
        parse().ok_or("this is no SCRAM-SHA-256 secret; `wellhead passwd --scram` makes one")
    }
}

/// The seed of made-up secrets, which cannot be guessed without the real ones.
pub fn decoy<'a>(secrets: impl Iterator<Item = &'a ScramSecret>) -> [u8; KEY] {
    // The order of the users is not always the same.
    secrets.fold([0; KEY], |mut sum, secret| {
        sum.iter_mut()
            .zip(secret.server_key)
            .for_each(|(one, other)| *one ^= other);
        sum
    })
}

/// A secret without a password; the same for the same name.
pub fn made_up(name: &str, secret: &[u8]) -> ScramSecret {
    let bytes = mac(secret, name.as_bytes());
    ScramSecret {
        iterations: ITERATIONS,
        salt: bytes[..16].to_vec(),
        stored_key: mac(&bytes, b"nobody has"),
        server_key: mac(&bytes, b"this password"),
    }
}

/// The first message of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst {
    /// The user name.
    pub user: String,
    nonce: String,
    header: String,
    bare: String,
}

impl ClientFirst {
    /// Reads `n,,n=<user>,r=<nonce>`; `None` if it is anything else, or wants what is not offered.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.len() <= LONGEST_FIRST)?;
        let bare = text
            .strip_prefix("n,,")
            .or_else(|| text.strip_prefix("y,,"))?;
        let (user, rest) = bare.strip_prefix("n=")?.split_once(',')?;
        let nonce = rest
            .split(',')
            .next()?
            .strip_prefix("r=")
            .filter(|nonce| !nonce.is_empty() && nonce.len() <= 256)?;
        let header = text.get(..3)?.to_owned();
        Some(Self {
            user: unescape(user)?,
            nonce: nonce.to_owned(),
            header,
            bare: bare.to_owned(),
        })
    }
}

fn unescape(name: &str) -> Option<String> {
    let rest = name.replace("=2C", "").replace("=3D", "");
    (!rest.contains('=') && !name.is_empty()).then(|| name.replace("=2C", ",").replace("=3D", "="))
}

/// An exchange that waits for the proof of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramExchange {
    secret: ScramSecret,
    nonce: String,
    header: String,
    /// The first messages of both sides.
    said: String,
}

impl ScramExchange {
    /// Answers the client's first message; `nonce` must be printable, unpredictable and new.
    pub fn begin(first: &ClientFirst, secret: ScramSecret, nonce: &str) -> (Self, String) {
        let nonce = format!("{}{nonce}", first.nonce);
        let answer = format!(
            "r={nonce},s={},i={}",
            STANDARD.encode(&secret.salt),
            secret.iterations
        );
        let said = format!("{},{answer}", first.bare);
        (
            Self {
                secret,
                nonce,
                header: first.header.clone(),
                said,
            },
            answer,
        )
    }

    /// Checks the client's last message; the server's last one if the proof is right.
    pub fn finish(&self, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let expected = format!("c={},r={}", STANDARD.encode(&self.header), self.nonce);
        let proof = STANDARD
            .decode(proof)
            .ok()
            .filter(|proof| proof.len() == KEY)?;
        let said = format!("{},{without_proof}", self.said);
        let signature = mac(&self.secret.stored_key, said.as_bytes());
        let client_key: Vec<u8> = proof
            .iter()
            .zip(signature)
            .map(|(one, other)| one ^ other)
            .collect();
        let is_right = bool::from(hash(&client_key).ct_eq(&self.secret.stored_key))
            && without_proof == expected;
        is_right.then(|| {
            format!(
                "v={}",
                STANDARD.encode(mac(&self.secret.server_key, said.as_bytes()))
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, 3.
    #[test]
    fn the_example_of_the_standard_works() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let secret = ScramSecret::of_password(b"pencil", &salt, 4096.try_into().unwrap());
        assert_eq!(secret.to_string().parse::<ScramSecret>().unwrap(), secret);
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(first.user, "user");
        let (exchange, answer) =
            ScramExchange::begin(&first, secret, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(
            answer,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(
            exchange.finish(last).as_deref(),
            Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
        for wrong in [
            &last[..last.len() - 3],
            b"",
            b"c=biws,r=x,p=",
            b"c=eSws,r=rOprNGfwEbeRWgbNEkqO,p=AAAA",
        ] {
            assert_eq!(exchange.finish(wrong), None);
        }
    }

    #[test]
    fn what_is_no_first_message_is_refused() {
        for wrong in [
            "",
            "n,,",
            "n,,n=,r=x",
            "n,,n=a=b,r=x",
            "p=tls-unique,,n=a,r=x",
            "n,a=b,n=a,r=x",
            "n,,m=1,n=a,r=x",
            "n,,n=a",
        ] {
            assert_eq!(ClientFirst::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(
            ClientFirst::parse(format!("n,,n={},r=x", "a".repeat(LONGEST_FIRST)).as_bytes()),
            None
        );
        assert_eq!(
            ClientFirst::parse(b"n,,n=a=2Cb=3D,r=x").unwrap().user,
            "a,b="
        );
    }

    #[test]
    fn a_secret_that_is_none_is_refused() {
        let keys = STANDARD.encode([7; KEY]);
        let with = |iterations: u32| {
            format!("SCRAM-SHA-256${iterations}:c2FsdA==${keys}:{keys}").parse::<ScramSecret>()
        };
        assert!(
            with(MOST_ITERATIONS).is_ok() && with(MOST_ITERATIONS + 1).is_err() && with(0).is_err()
        );
        for wrong in [
            "",
            "SCRAM-SHA-256$0:c2FsdA==$a:b",
            "SCRAM-SHA-256$4096:c2FsdA==$short:short",
            "$argon2id$x",
        ] {
            assert!(wrong.parse::<ScramSecret>().is_err(), "{wrong}");
        }
    }
}
