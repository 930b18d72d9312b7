//! Users and their permissions. Pure: comparing a password with its hash takes long and is left to
//! the caller.
//!
//! Invariants:
//! * A permission needs a rule, and a rule that denies wins.
//! * A client identifier or user name in place of `%c` or `%u` in a rule adds no wildcard and no
//!   level.
//! * A user who does not exist takes as long to refuse as one whose password is wrong.
//! * A client identifier that fits the rule of some user is for the users whose rules fit it best,
//!   and for no others.

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;

pub use super::hash::{Hash, Workspace};
use super::scram::{self, ScramSecret};
use crate::mqtt::{ReasonCode, TopicError, TopicFilter, TopicName};

/// The filter of a rule, which may hold `%c` (client identifier) and `%u` (user name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern(String);

impl TopicPattern {
    /// Checks `text` as a filter.
    pub fn new(text: impl Into<String>) -> Result<Self, TopicError> {
        let text = text.into();
        TopicFilter::new(text.replace("%c", "x").replace("%u", "x"))?;
        Ok(Self(text))
    }

    fn is_personal(&self) -> bool {
        self.0.contains("%c") || self.0.contains("%u")
    }

    fn filter(&self, client_id: &str, user: &str) -> Option<TopicFilter> {
        let harmless = |name: &str| !name.is_empty() && !name.contains(['+', '#', '/']);
        let is_safe = (!self.0.contains("%c") || harmless(client_id))
            && (!self.0.contains("%u") || harmless(user));
        // One after the other would let a user name hold `%c`.
        let parts: Vec<String> = self
            .0
            .split("%u")
            .map(|part| part.replace("%c", client_id))
            .collect();
        TopicFilter::new(parts.join(user)).ok().filter(|_| is_safe)
    }
}

/// The client identifiers of a user: a text with `%u` for the user name; a `#` at its end matches
/// any rest, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPattern {
    text: String,
    is_open: bool,
}

impl IdPattern {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let (start, is_open) = text
            .strip_suffix('#')
            .map_or((text, false), |start| (start, true));
        if text.is_empty() {
            return Err("a client identifier has at least one character");
        }
        if start.contains(['#', '+']) || start.contains("%c") {
            return Err("`#` may only stand at the end, and there is neither `+` nor `%c`");
        }
        Ok(Self {
            text: start.to_owned(),
            is_open,
        })
    }

    /// How well a client identifier fits: the longer the part that is written out, the better.
    /// `None` if it does not.
    fn fit(&self, client_id: &str, user: &str) -> Option<usize> {
        let start = self.text.replace("%u", user);
        match client_id.strip_prefix(start.as_str()) {
            Some("") if !self.is_open => Some(2 * start.len() + 1),
            Some(_) if self.is_open => Some(2 * start.len()),
            _ => None,
        }
    }
}

/// The rules of one user as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// Topics whose messages they get.
    pub read: Vec<TopicPattern>,
    /// Topics they may publish to.
    pub write: Vec<TopicPattern>,
    /// Filters they may subscribe to; without any, those that overlap with what they may read.
    pub subscribe: Vec<TopicPattern>,
    /// Exceptions from `read`.
    pub deny_read: Vec<TopicPattern>,
    /// Exceptions from `write`.
    pub deny_write: Vec<TopicPattern>,
    /// Filters they may not subscribe to, whatever they may read.
    pub deny_subscribe: Vec<TopicPattern>,
    /// Everything that no `deny` forbids; the topics on which instruments are written to need a
    /// rule all the same.
    pub allows_all: bool,
}

/// The permissions of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    read: Vec<TopicFilter>,
    write: Vec<TopicFilter>,
    subscribe: Vec<TopicFilter>,
    deny_read: Vec<TopicFilter>,
    deny_write: Vec<TopicFilter>,
    deny_subscribe: Vec<TopicFilter>,
    allows_all: bool,
    /// `read` holds `#`, and nothing is denied.
    reads_all: bool,
    /// They hold the client identifier: no other session has them.
    is_personal: bool,
    /// Those of `read` and `deny_read` that hold the client identifier.
    own_reads: Vec<TopicFilter>,
}

fn any(filters: &[TopicFilter], topic: &TopicName) -> bool {
    filters.iter().any(|filter| filter.matches(topic))
}

impl Rights {
    fn of(rules: &AccessRules, client_id: &str, user: &str) -> Option<Self> {
        let filters = |patterns: &[TopicPattern]| {
            patterns
                .iter()
                .map(|pattern| pattern.filter(client_id, user))
                .collect::<Option<Vec<_>>>()
        };
        let read = filters(&rules.read)?;
        let reads_all =
            rules.deny_read.is_empty() && read.iter().any(|filter| filter.as_str() == "#");
        Some(Self {
            read,
            write: filters(&rules.write)?,
            subscribe: filters(&rules.subscribe)?,
            deny_read: filters(&rules.deny_read)?,
            deny_write: filters(&rules.deny_write)?,
            deny_subscribe: filters(&rules.deny_subscribe)?,
            allows_all: rules.allows_all,
            reads_all,
            is_personal: is_personal(rules),
            own_reads: rules
                .read
                .iter()
                .chain(&rules.deny_read)
                .filter(|pattern| pattern.0.contains("%c"))
                .map(|pattern| pattern.filter(client_id, user))
                .collect::<Option<_>>()?,
        })
    }

    /// Bytes they take if one session alone has them, about; 0 for rights that all sessions of a
    /// user share.
    pub fn personal_weight(&self) -> usize {
        let lists = [
            &self.read,
            &self.write,
            &self.subscribe,
            &self.deny_read,
            &self.deny_write,
            &self.deny_subscribe,
            &self.own_reads,
        ];
        let weight = |filter: &TopicFilter| 2 * size_of::<TopicFilter>() + filter.as_str().len();
        if self.is_personal {
            lists.into_iter().flatten().map(weight).sum()
        } else {
            0
        }
    }

    /// True if a message of `topic` may be delivered.
    pub fn may_read(&self, topic: &TopicName) -> bool {
        if self.deny_read.is_empty()
            && (self.allows_all || (self.reads_all && !topic.is_reserved()))
        {
            return true;
        }
        (self.allows_all || any(&self.read, topic)) && !any(&self.deny_read, topic)
    }

    /// True if the readable topics of `filter` depend on the client identifier.
    pub fn read_by_client_id(&self, filter: &TopicFilter) -> bool {
        self.own_reads.iter().any(|own| own.overlaps(filter))
    }

    /// True if a message may be published to `topic`. A `guarded` one needs a rule that names it.
    pub fn may_write(&self, topic: &TopicName, guarded: bool) -> bool {
        ((self.allows_all && !guarded) || any(&self.write, topic)) && !any(&self.deny_write, topic)
    }

    /// True if the state of a bridge connection may be published to `topic`: a rule covers it, or
    /// the bridge is the client itself (`is_own`) and everything is allowed.
    pub fn may_write_state(&self, topic: &TopicName, is_own: bool) -> bool {
        (any(&self.write, topic) || (self.allows_all && is_own)) && !any(&self.deny_write, topic)
    }

    /// True if the session may subscribe to `filter`: not denied, within what `subscribe` lists,
    /// and something of it may be read.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        let is_denied = self
            .deny_subscribe
            .iter()
            .chain(&self.deny_read)
            .any(|deny| deny.covers(filter));
        let is_listed = self.subscribe.is_empty()
            || self.subscribe.iter().any(|allowed| allowed.covers(filter));
        let is_readable = self.allows_all || self.read.iter().any(|read| read.overlaps(filter));
        !is_denied && is_listed && is_readable
    }
}

/// One user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    /// Of the password, in the PHC format; without one there is no login by password.
    pub hash: Option<Hash>,
    /// For SCRAM-SHA-256.
    pub scram: Option<ScramSecret>,
    /// The client identifiers they may have; without any, those that fit no other user's.
    pub client_ids: Vec<IdPattern>,
    /// Their permissions.
    pub rules: AccessRules,
}

/// The next step of a login by CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// The login succeeds.
    Granted {
        /// `None` for a client without a name.
        user: Option<ByteString>,
    },
    /// The password must be compared with this hash.
    Verify {
        /// The user; `None` if there is no such user, and the login fails whatever the comparison
        /// says.
        user: Option<ByteString>,
        /// The hash that the password is compared with.
        hash: Hash,
    },
    /// The login fails.
    Refused(ReasonCode, &'static str),
}

/// Every user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    users: HashMap<ByteString, User>,
    /// The rules of clients without a name; `None` if they may not connect.
    anonymous: Option<AccessRules>,
    /// Rights without `%c` and `%u`, by user.
    shared: HashMap<Option<ByteString>, Arc<Rights>>,
    /// The seed for made-up secrets of users who do not exist: the same as long as the users are.
    decoy: [u8; 32],
}

impl Access {
    /// The users, and the rules of clients without a name.
    pub fn new(users: HashMap<ByteString, User>, anonymous: Option<AccessRules>) -> Self {
        let all = users
            .iter()
            .map(|(name, user)| (Some(name.clone()), &user.rules))
            .chain(anonymous.iter().map(|rules| (None, rules)));
        let shared = all
            .filter(|(_, rules)| !is_personal(rules))
            .filter_map(|(name, rules)| Some((name, Arc::new(Rights::of(rules, "", "")?))));
        let decoy = scram::decoy(users.values().filter_map(|user| user.scram.as_ref()));
        Self {
            shared: shared.collect(),
            users,
            anonymous,
            decoy,
        }
    }

    /// Memory that logins take, in bytes, however many come: the area in which one password at a
    /// time is compared, as large as the hash that needs most. Nothing where no user has a
    /// password.
    pub fn login_memory(&self) -> usize {
        let of_users = self
            .users
            .values()
            .filter_map(|user| user.hash.as_ref())
            .map(Hash::memory)
            .max();
        of_users.map_or(0, |most| most.max(Hash::of_nobody().memory()))
    }

    /// Every client may do everything, except write to instruments.
    pub fn open() -> Self {
        Self::new(
            HashMap::new(),
            Some(AccessRules {
                allows_all: true,
                ..AccessRules::default()
            }),
        )
    }

    /// The next step of a login. `certificate` is the name in one that was checked.
    pub fn login(
        &self,
        certificate: Option<&ByteString>,
        username: Option<&ByteString>,
        has_password: bool,
    ) -> Login {
        if let Some(name) = certificate {
            return match self.users.get_key_value(name) {
                Some((name, _)) => Login::Granted {
                    user: Some(name.clone()),
                },
                None => Login::Refused(
                    ReasonCode::NOT_AUTHORIZED,
                    "no user has the name in the certificate",
                ),
            };
        }
        let Some(name) = username.filter(|_| !self.users.is_empty()) else {
            return match self.anonymous {
                Some(_) => Login::Granted { user: None },
                None => Login::Refused(
                    ReasonCode::NOT_AUTHORIZED,
                    "a user name and a password are needed",
                ),
            };
        };
        if !has_password {
            return Login::Refused(
                ReasonCode::BAD_USER_NAME_OR_PASSWORD,
                "a password is needed",
            );
        }
        // The name of the configuration: that of the client would keep its packet in memory.
        match self
            .users
            .get_key_value(name)
            .and_then(|(name, user)| Some((name, user.hash.clone()?)))
        {
            Some((name, hash)) => Login::Verify {
                user: Some(name.clone()),
                hash,
            },
            None => Login::Verify {
                user: None,
                hash: Hash::of_nobody(),
            },
        }
    }

    /// The secret for a SCRAM login: made up if there is no such user, so that no client learns
    /// that.
    pub fn scram(&self, name: &str) -> (Option<ByteString>, ScramSecret) {
        let known = self
            .users
            .get_key_value(name)
            .and_then(|(name, user)| Some((Some(name.clone()), user.scram.clone()?)));
        known.unwrap_or_else(|| (None, scram::made_up(name, &self.decoy)))
    }

    /// Whether a user may have a client identifier.
    pub fn may_have(&self, user: Option<&ByteString>, client_id: &str) -> Result<(), &'static str> {
        let own = user.and_then(|user| self.fit(user, client_id));
        if own.is_none()
            && user
                .and_then(|user| self.users.get(user))
                .is_some_and(|user| !user.client_ids.is_empty())
        {
            return Err("the client identifier does not fit the `client_ids` of this user");
        }
        let best = self
            .users
            .keys()
            .filter_map(|user| self.fit(user, client_id))
            .max();
        if own < best {
            Err("the client identifier is reserved for another user by `client_ids`")
        } else {
            Ok(())
        }
    }

    /// True if a rule says that a client identifier is this user's.
    pub fn owns(&self, user: Option<&ByteString>, client_id: &str) -> bool {
        user.is_some_and(|user| self.fit(user, client_id).is_some())
            && self.may_have(user, client_id).is_ok()
    }

    fn fit(&self, name: &ByteString, client_id: &str) -> Option<usize> {
        self.users
            .get(name)?
            .client_ids
            .iter()
            .filter_map(|pattern| pattern.fit(client_id, name))
            .max()
    }

    /// The rights of a session; `None` if there is no such user any more, or its client identifier
    /// must not be put into a rule.
    pub fn rights(&self, user: Option<&ByteString>, client_id: &str) -> Option<Arc<Rights>> {
        if let Some(shared) = self.shared.get(&user.cloned()) {
            return Some(shared.clone());
        }
        let (rules, name) = match user {
            Some(name) => (&self.users.get(name)?.rules, &**name),
            None => (self.anonymous.as_ref()?, ""),
        };
        Rights::of(rules, client_id, name).map(Arc::new)
    }
}

fn is_personal(rules: &AccessRules) -> bool {
    let lists = [
        &rules.read,
        &rules.write,
        &rules.subscribe,
        &rules.deny_read,
        &rules.deny_write,
        &rules.deny_subscribe,
    ];
    lists
        .iter()
        .any(|list| list.iter().any(TopicPattern::is_personal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<TopicPattern> {
        texts
            .iter()
            .map(|text| TopicPattern::new(*text).unwrap())
            .collect()
    }

    fn rights(rules: &AccessRules) -> Rights {
        Rights::of(rules, "pump", "anna").unwrap()
    }

    fn topic(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn what_no_rule_allows_is_forbidden_and_deny_wins() {
        let rules = AccessRules {
            read: patterns(&["plant/#"]),
            deny_read: patterns(&["plant/secret/#"]),
            ..AccessRules::default()
        };
        let rights = rights(&rules);
        assert!(
            rights.may_read(&topic("plant/a"))
                && !rights.may_read(&topic("plant/secret/a"))
                && !rights.may_read(&topic("other"))
        );
        assert!(!rights.may_write(&topic("plant/a"), false));
        let may = |filter: &str| rights.may_subscribe(&TopicFilter::new(filter).unwrap());
        assert!(may("#") && may("plant/+") && may("$share/group/plant/#"));
        assert!(
            !may("plant/secret/+") && !may("plant/secret/#") && !may("other/#") && !may("$SYS/#")
        );
    }

    #[test]
    fn somebody_who_may_do_everything_needs_a_rule_for_instruments() {
        let rules = AccessRules {
            allows_all: true,
            ..AccessRules::default()
        };
        assert!(
            rights(&rules).may_write(&topic("a/set"), false)
                && !rights(&rules).may_write(&topic("a/set"), true)
        );
        let named = AccessRules {
            write: patterns(&["+/set"]),
            ..rules
        };
        assert!(rights(&named).may_write(&topic("a/set"), true));
    }

    #[test]
    fn the_state_of_a_bridge_needs_a_rule_or_is_that_of_the_client_itself() {
        let state = topic("$SYS/broker/connection/pump/state");
        let may = |rules: &AccessRules| {
            [true, false].map(|is_own| rights(rules).may_write_state(&state, is_own))
        };
        let open = AccessRules {
            allows_all: true,
            ..AccessRules::default()
        };
        assert_eq!(may(&open), [true, false]);
        let denied = AccessRules {
            deny_write: patterns(&["$SYS/#"]),
            ..open
        };
        assert_eq!(may(&denied), [false, false]);
        assert_eq!(
            may(&AccessRules {
                write: patterns(&["#"]),
                ..AccessRules::default()
            }),
            [false, false],
            "a wildcard does not cover $ topics"
        );
        for rule in [
            "$SYS/broker/connection/pump/state",
            "$SYS/broker/connection/%c/state",
            "$SYS/#",
        ] {
            assert_eq!(
                may(&AccessRules {
                    write: patterns(&[rule]),
                    ..AccessRules::default()
                }),
                [true, true],
                "{rule}"
            );
        }
    }

    #[test]
    fn what_may_be_read_depends_on_the_client_identifier_only_where_a_rule_holds_it() {
        let rules = AccessRules {
            read: patterns(&["plant/#", "dev/%c/#", "user/%u/#"]),
            deny_read: patterns(&["log/%c"]),
            ..AccessRules::default()
        };
        let by_client_id =
            |filter: &str| rights(&rules).read_by_client_id(&TopicFilter::new(filter).unwrap());
        assert!(
            by_client_id("$share/group/dev/+/flow") && by_client_id("#") && by_client_id("log/+")
        );
        assert!(!by_client_id("$share/group/plant/#") && !by_client_id("user/#"));
    }

    #[test]
    fn names_in_rules_add_nothing_but_themselves() {
        let rules = AccessRules {
            write: patterns(&["dev/%c/%u"]),
            ..AccessRules::default()
        };
        assert!(rights(&rules).may_write(&topic("dev/pump/anna"), false));
        for (client_id, user) in [
            ("#", "anna"),
            ("a/b", "anna"),
            ("+", "anna"),
            ("pump", "+"),
            ("", "anna"),
        ] {
            assert_eq!(
                Rights::of(&rules, client_id, user),
                None,
                "{client_id} {user}"
            );
        }
        let tricky = Rights::of(&rules, "pump", "%c").unwrap();
        assert!(
            tricky.may_write(&topic("dev/pump/%c"), false)
                && !tricky.may_write(&topic("dev/pump/pump"), false)
        );
    }

    #[test]
    fn a_client_identifier_is_for_whom_its_rule_fits_best() {
        let user = |patterns: &[&str]| User {
            client_ids: patterns
                .iter()
                .map(|text| IdPattern::new(text).unwrap())
                .collect(),
            ..User::default()
        };
        let users = [
            ("anna", user(&["hmi-%u-#", "panel"])),
            ("anna-b", user(&["hmi-%u-#"])),
            ("carl", user(&[])),
        ];
        let access = Access::new(
            users
                .into_iter()
                .map(|(name, user)| (name.into(), user))
                .collect(),
            Some(AccessRules::default()),
        );
        for (user, client_id, may, owns) in [
            (Some("anna"), "hmi-anna-1", true, true),
            (Some("anna"), "hmi-anna-", true, true),
            (Some("anna"), "panel", true, true),
            (Some("anna"), "panel-2", false, false),
            (Some("anna"), "hmi-anna-b-1", false, false),
            (Some("anna-b"), "hmi-anna-b-1", true, true),
            (Some("carl"), "hmi-anna-1", false, false),
            (Some("carl"), "panel", false, false),
            (Some("carl"), "anything", true, false),
            (None, "panel", false, false),
            (None, "anything", true, false),
        ] {
            let user = user.map(ByteString::from);
            assert_eq!(
                access.may_have(user.as_ref(), client_id).is_ok(),
                may,
                "{user:?} {client_id}"
            );
            assert_eq!(
                access.owns(user.as_ref(), client_id),
                owns,
                "{user:?} {client_id}"
            );
        }
        for wrong in ["", "a#b", "a+", "%c", "+"] {
            assert!(IdPattern::new(wrong).is_err(), "{wrong}");
        }
        let everything = IdPattern::new("#").unwrap();
        assert!(everything.fit("x", "anna").is_some());
        // A user name is no pattern.
        assert_eq!(IdPattern::new("x-%u").unwrap().fit("x-anything", "#"), None);
    }

    #[test]
    fn nobody_learns_who_exists() {
        let user = User {
            hash: Some(Hash::of_nobody()),
            ..User::default()
        };
        let access = Access::new(HashMap::from([("anna".into(), user)]), None);
        assert!(matches!(
            access.login(None, Some(&"anna".into()), true),
            Login::Verify { user: Some(_), .. }
        ));
        assert!(matches!(
            access.login(None, Some(&"berta".into()), true),
            Login::Verify { user: None, .. }
        ));
        assert!(matches!(
            access.login(None, None, false),
            Login::Refused(ReasonCode::NOT_AUTHORIZED, _)
        ));
        let (name, one) = access.scram("berta");
        assert_eq!((name, one.salt()), (None, access.scram("berta").1.salt()));
    }
}
