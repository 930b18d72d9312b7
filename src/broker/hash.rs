//! Hashes of passwords: argon2, and those of mosquitto (`$6$`, salted SHA-512; `$7$`, PBKDF2 with
//! SHA-512). Pure; a check takes long and much memory, so its caller runs it aside, one at a time.
//!
//! Invariants:
//! * The cost of one check is bounded when a hash is read: [`MOST_KIB`] of memory and [`MOST_WORK`]
//!   of memory times passes.
//! * A check of a hash of mosquitto takes no less time than one of argon2: the time of a refusal
//!   does not show which it was.
//! * Checks that share a [`Workspace`] share its memory: a thousand logins take no more than the
//!   one that needs most.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use argon2::password_hash::{Output, PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, pbkdf2};
use subtle::ConstantTimeEq;

/// Compared with the passwords of users who do not exist; there is no password for it.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$d2VsbGhlYWQtbm9ib2R5$vRaNlbvMDmMrRkHcfLQnAe2BpVkUGAkqm2C8jZcKkZA";

/// Memory of one check, in KiB: 64 MiB, what RFC 9106 recommends for machines with little memory.
const MOST_KIB: u32 = 64 << 10;
/// Memory in KiB times passes: four passes over the most memory.
const MOST_WORK: u32 = 4 * MOST_KIB;
/// Bytes of the longest salt of the PHC format.
const LONGEST_SALT: usize = 64;

/// The memory that checks work in. It grows to what the largest hash so far needed and is kept,
/// because an allocator that gets such a block back may keep it beside the next one.
#[derive(Default)]
pub struct Workspace(Vec<Block>);

impl Workspace {
    /// At least `count` blocks of 1 KiB; what is too small goes before its successor is taken.
    fn blocks(&mut self, count: usize) -> &mut [Block] {
        if self.0.len() < count {
            self.0 = Vec::new();
            self.0 = vec![Block::new(); count];
        }
        &mut self.0
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workspace({} KiB)", self.0.len())
    }
}

/// Passes of a `$7$` hash: about as long as the longest check of argon2.
const MOST_ITERATIONS: u32 = 200_000;
const SHA512: usize = 64;

/// A hash of `mosquitto_passwd`.
struct OfMosquitto {
    /// Of PBKDF2; `None` for one pass of SHA-512 over password and salt.
    iterations: Option<NonZeroU32>,
    salt: Vec<u8>,
    digest: Vec<u8>,
}

impl OfMosquitto {
    /// `$6$<salt>$<digest>` or `$7$<iterations>$<salt>$<digest>`, in Base64; `None` for anything
    /// else.
    fn parse(text: &str) -> Option<Self> {
        let (iterations, rest) = match text.strip_prefix("$7$") {
            Some(rest) => {
                let (iterations, rest) = rest.split_once('$')?;
                (Some(iterations.parse().ok()?), rest)
            }
            None => (None, text.strip_prefix("$6$")?),
        };
        let (salt, digest) = rest.split_once('$')?;
        let (salt, digest) = (STANDARD.decode(salt).ok()?, STANDARD.decode(digest).ok()?);
        (!salt.is_empty() && digest.len() == SHA512).then_some(Self {
            iterations,
            salt,
            digest,
        })
    }

    /// Compares in constant time.
    fn matches(&self, password: &[u8]) -> bool {
        match self.iterations {
            Some(iterations) => pbkdf2::verify(
                pbkdf2::PBKDF2_HMAC_SHA512,
                iterations,
                &self.salt,
                password,
                &self.digest,
            )
            .is_ok(),
            None => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                context.finish().as_ref().ct_eq(&self.digest).into()
            }
        }
    }
}

/// The hash of a password (argon2 in the PHC format, or one of mosquitto); not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(Arc<str>);

impl Hash {
    /// Reads what [`Hash::of_password`] wrote, or another program. Refuses a hash whose check would
    /// take too much memory or time.
    pub fn new(text: &str) -> Result<Self, String> {
        if let Some(found) = OfMosquitto::parse(text) {
            return match found.iterations {
                Some(iterations) if iterations.get() > MOST_ITERATIONS => Err(format!(
                    "checking this hash takes {iterations} passes, more than a gateway has to spare; make one with at most {MOST_ITERATIONS}, or with `wellhead passwd`"
                )),
                _ => Ok(Self(text.into())),
            };
        }
        let hash = PasswordHash::new(text)
            .ok()
            .filter(|hash| hash.hash.is_some() && hash.salt.is_some());
        let known = hash
            .as_ref()
            .filter(|hash| Algorithm::try_from(hash.algorithm).is_ok());
        let Some(params) = known.and_then(|hash| Params::try_from(hash).ok()) else {
            return Err("this is not the hash of a password; `wellhead passwd` makes one, and it begins with $argon2id$".to_owned());
        };
        let (memory, passes) = (params.m_cost(), params.t_cost());
        if memory > MOST_KIB || memory.saturating_mul(passes) > MOST_WORK {
            return Err(format!(
                "checking this hash takes {memory} KiB of memory and {passes} passes, more than a gateway has to spare (64 MiB and \
                 4 passes, or less memory and more passes); make one with `wellhead passwd`"
            ));
        }
        Ok(Self(text.into()))
    }

    /// Memory that its check takes, in bytes.
    pub fn memory(&self) -> usize {
        let text = if OfMosquitto::parse(&self.0).is_some() {
            NOBODY
        } else {
            &self.0
        };
        let params = PasswordHash::new(text)
            .ok()
            .and_then(|hash| Params::try_from(&hash).ok());
        params.map_or(0, |params| params.block_count() * Block::SIZE)
    }

    /// That of users who do not exist.
    pub(super) fn of_nobody() -> Self {
        Self(NOBODY.into())
    }

    /// Takes a moment and 19 MiB, and is meant to. `salt` must be new; at most 64 bytes.
    pub fn of_password(
        password: &[u8],
        salt: &[u8],
    ) -> Result<String, argon2::password_hash::Error> {
        let salt = SaltString::encode_b64(salt)?;
        Ok(Argon2::default()
            .hash_password(password, &salt)?
            .to_string())
    }

    /// Compares in constant time; takes as long as hashing. The memory for it is that of
    /// `workspace`.
    pub fn matches(&self, password: &[u8], workspace: &mut Workspace) -> bool {
        if let Some(found) = OfMosquitto::parse(&self.0) {
            let is_right = found.matches(password);
            // As long as for a user who does not exist; no password fits it.
            let is_nobody = Self::of_nobody().matches(password, workspace);
            return is_right && !is_nobody;
        }
        self.hashed(password, workspace)
            .is_some_and(|(expected, found)| expected == found)
    }

    /// The hash, and what it would be for this password; `None` cannot happen to a hash that
    /// [`Hash::new`] took.
    fn hashed(&self, password: &[u8], workspace: &mut Workspace) -> Option<(Output, Output)> {
        let hash = PasswordHash::new(&self.0).ok()?;
        let (expected, salt) = hash.hash.zip(hash.salt)?;
        let version = hash
            .version
            .map_or(Ok(Version::default()), Version::try_from)
            .ok()?;
        let params = Params::try_from(&hash).ok()?;
        let blocks = workspace.blocks(params.block_count());
        let argon2 = Argon2::new(Algorithm::try_from(hash.algorithm).ok()?, version, params);
        let mut space = [0; LONGEST_SALT];
        let salt = salt.decode_b64(&mut space).ok()?;
        // `Output` compares in constant time.
        let fill = |out: &mut [u8]| {
            Ok(argon2.hash_password_into_with_memory(password, salt, out, blocks)?)
        };
        let found = Output::init_with(expected.len(), fill).ok()?;
        Some((expected, found))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_MOSQUITTO: [&str; 2] = [
        "$6$yf5AItJs/ZOD2+6C$wsz/i/4Xj38/D9rj/td76lrlL1olq72RwlOpgD6Gq/oq/mzjv2Ss1Dg4Gpsb307EjyGtBG5JJDbCBJ4/BphUcw==",
        "$7$101$7YL06+TYs3kdytrZ$uCjWhCVQqz2Vg4JVHpxCC15FbRGkVw9S9dRqhEwG60R0j8FyX1gzdK/D6hzqo25d0ibsssPRYrtIHcudtq4pOg==",
    ];

    #[test]
    fn passwords_are_compared_with_their_hash() {
        let text = Hash::of_password(b"secret", b"sixteen bytes...").unwrap();
        let hash = Hash::new(&text).unwrap();
        let mut workspace = Workspace::default();
        for (password, is_right) in [
            ("secret", true),
            ("Secret", false),
            ("", false),
            ("secret", true),
        ] {
            assert_eq!(
                hash.matches(password.as_bytes(), &mut workspace),
                is_right,
                "{password}"
            );
        }
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && format!("{hash:?}") == "***"
        );
        assert!(!Hash::of_nobody().matches(b"secret", &mut workspace));
        assert_eq!(
            (hash.memory(), Hash::of_nobody().memory()),
            (19456 << 10, 19456 << 10)
        );
        assert_eq!(
            format!("{workspace:?}"),
            "Workspace(19456 KiB)",
            "one area for all"
        );
        for wrong in [
            "secret",
            "$argon2id$",
            "$5$rounds=5000$salt$hash",
            "",
            "$argon2x$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow",
        ] {
            assert!(Hash::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_parameters_and_kinds_are_checked_in_the_same_memory() {
        use argon2::password_hash::SaltString;
        let salt = SaltString::encode_b64(b"salt of the test").unwrap();
        let mut workspace = Workspace::default();
        for (kind, version, memory, passes, lanes) in [
            (Algorithm::Argon2id, Version::V0x13, 64, 1, 1),
            (Algorithm::Argon2i, Version::V0x13, 256, 3, 4),
            (Algorithm::Argon2d, Version::V0x10, 32, 2, 2),
        ] {
            let params = Params::new(memory, passes, lanes, Some(24)).unwrap();
            let text = Argon2::new(kind, version, params)
                .hash_password(b"secret", &salt)
                .unwrap()
                .to_string();
            let hash = Hash::new(&text).unwrap();
            assert!(
                hash.matches(b"secret", &mut workspace) && !hash.matches(b"wrong", &mut workspace),
                "{text}"
            );
        }
        assert_eq!(format!("{workspace:?}"), "Workspace(256 KiB)");
    }

    /// Made with `mosquitto_passwd -H sha512` and `-H sha512-pbkdf2` of mosquitto 2.0.11.
    #[test]
    fn hashes_of_mosquitto_are_checked_and_broken_ones_refused() {
        let mut workspace = Workspace::default();
        for text in OF_MOSQUITTO {
            let hash = Hash::new(text).unwrap();
            assert!(hash.matches(b"secret", &mut workspace), "{text}");
            assert!(
                !hash.matches(b"Secret", &mut workspace) && !hash.matches(b"", &mut workspace),
                "{text}"
            );
            assert_eq!(
                (hash.memory(), format!("{hash:?}").as_str()),
                (19456 << 10, "***")
            );
            for broken in [
                text.replacen('$', "", 1),
                text.replace("$6$", "$5$").replace("$7$", "$8$"),
                format!("{text}A"),
                text[..40].to_owned(),
            ] {
                assert!(Hash::new(&broken).is_err(), "{broken}");
            }
        }
        let [_, pbkdf2] = OF_MOSQUITTO;
        for passes in ["0", "-1", "200001", "4294967296", "x", ""] {
            assert!(
                Hash::new(&pbkdf2.replace("$101$", &format!("${passes}$"))).is_err(),
                "{passes}"
            );
        }
    }

    #[test]
    fn a_hash_that_costs_too_much_is_refused_with_the_remedy() {
        let with = |parameters: &str| {
            Hash::new(&format!(
                "$argon2id$v=19${parameters}$c2FsdHNhbHQ$+RsCrdHrAKGEJIDLM0Esow"
            ))
        };
        for fits in ["m=65536,t=4,p=4", "m=19456,t=2,p=1", "m=7168,t=5,p=1"] {
            assert!(with(fits).is_ok(), "{fits}");
        }
        for excessive in [
            "m=65537,t=1,p=1",
            "m=65536,t=5,p=1",
            "m=1048576,t=1,p=4",
            "m=8,t=4294967295,p=1",
        ] {
            assert!(
                with(excessive).unwrap_err().contains("wellhead passwd"),
                "{excessive}"
            );
        }
    }
}
