//! Users of the local broker: who they are like, and what they may do.

use std::collections::{HashMap, HashSet};

use bytestring::ByteString;

use super::broker_tls::needs_certificate;
use super::{Check, at};
use crate::broker::access::{Access, AccessRules, Hash, IdPattern, TopicPattern, User};
use crate::broker::scram::ScramSecret;
use crate::config::document::PathStep;
use crate::config::file;

/// Every user, and whether clients without a user are let in.
pub(super) fn access(check: &mut Check<'_>, file: &file::BrokerConfig) -> Access {
    check.users_file(&at!["broker", "users_file"], file.users_file.as_deref());
    let users = users(check, file);
    let is_closed = file
        .listen
        .0
        .iter()
        .all(|listen| listen.is_loopback() || needs_certificate(file, listen));
    let anonymous = file
        .anonymous
        .as_ref()
        .map(|typed| rules(check, typed, &at!["broker", "anonymous"]));
    // Clients without a user are let in where the file says so, or where there are neither users
    // nor other machines.
    let has_users = !users.is_empty() || file.users_file.is_some();
    let lets_in = file.allow_anonymous || anonymous.is_some() || (!has_users && is_closed);
    let everything = AccessRules {
        allows_all: true,
        ..AccessRules::default()
    };
    Access::new(users, lets_in.then(|| anonymous.unwrap_or(everything)))
}

/// Users that can log in, by name.
fn users(check: &mut Check<'_>, file: &file::BrokerConfig) -> HashMap<ByteString, User> {
    let mut names: HashSet<&str> = HashSet::new();
    let by_certificate = file
        .tls
        .as_ref()
        .is_some_and(|tls| tls.login == file::LoginMethod::Certificate);
    let models: HashSet<&str> = file
        .users
        .iter()
        .filter_map(|user| user.like.as_deref())
        .collect();
    let inherited = inherited(check, &file.users);
    let mut users = HashMap::new();
    for (index, (user, inherited)) in file.users.iter().zip(&inherited).enumerate() {
        if user.name.is_empty() || !names.insert(&user.name) {
            check.fault(
                &at!["broker", "users", index, "name"],
                "every user needs a name of their own",
            );
        }
        let resolved = resolved(check, index, user, inherited);
        let has_secret = user.password.is_some() || user.scram.is_some() || by_certificate;
        if !has_secret && !models.contains(user.name.as_str()) {
            check.fault(
                &at!["broker", "users", index],
                "a user needs a password; add what `wellhead passwd` prints",
            );
        }
        // A user that is only a model cannot log in, and reserves no identifiers.
        if has_secret {
            users.insert(user.name.as_str().into(), resolved);
        }
    }
    users
}

fn resolved(
    check: &mut Check<'_>,
    index: usize,
    user: &file::UserConfig,
    inherited: &Inherited,
) -> User {
    let hash = user.password.as_ref().and_then(|text| {
        let wrong = |why| check.fault(&at!["broker", "users", index, "password"], why);
        Hash::new(text).map_err(wrong).ok()
    });
    let scram = user.scram.as_ref().and_then(|text| {
        let wrong = |why| check.fault(&at!["broker", "users", index, "scram"], why);
        text.parse::<ScramSecret>().map_err(wrong).ok()
    });
    let client_ids = inherited.client_ids.as_deref().unwrap_or_default();
    User {
        hash,
        scram,
        client_ids: self::client_ids(check, client_ids, index),
        rules: rules(check, &inherited.rules, &at!["broker", "users", index]),
    }
}

/// Rules and identifiers of a user, with those of its model.
#[derive(Debug, Clone, Default)]
struct Inherited {
    client_ids: Option<Vec<String>>,
    rules: file::RulesConfig,
}

impl Inherited {
    /// The settings of a user, and those of its model for the rest.
    fn over(user: &file::UserConfig, model: &Self) -> Self {
        let (own, base) = (user.rules(), &model.rules);
        let (deny, base_deny) = (
            own.deny.unwrap_or_default(),
            base.deny.clone().unwrap_or_default(),
        );
        let deny = file::Deny {
            read: deny.read.or(base_deny.read),
            write: deny.write.or(base_deny.write),
            subscribe: deny.subscribe.or(base_deny.subscribe),
        };
        Self {
            client_ids: user.client_ids.clone().or_else(|| model.client_ids.clone()),
            rules: file::RulesConfig {
                read: own.read.or_else(|| base.read.clone()),
                write: own.write.or_else(|| base.write.clone()),
                subscribe: own.subscribe.or_else(|| base.subscribe.clone()),
                deny: Some(deny),
            },
        }
    }
}

/// Users by name while their models are looked up.
struct Models<'u> {
    users: &'u [file::UserConfig],
    places: HashMap<&'u str, usize>,
}

/// Rules and identifiers of each user, by its place. Each user is looked at once, however long the
/// chains of models are.
fn inherited(check: &mut Check<'_>, users: &[file::UserConfig]) -> Vec<Inherited> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, user) in users.iter().enumerate() {
        places.entry(user.name.as_str()).or_insert(index);
    }
    let models = Models { users, places };
    let mut done: Vec<Option<Inherited>> = vec![None; users.len()];
    for start in 0..users.len() {
        // From this user up to one without a model, or with one that is known.
        let mut row = vec![start];
        let mut members: HashSet<usize> = HashSet::from([start]);
        let mut last = start;
        while done.get(last).is_some_and(Option::is_none)
            && let Some(model) = models.model_of(check, last)
        {
            if !members.insert(model) {
                models.circle(check, &row, model);
                break;
            }
            row.push(model);
            last = model;
        }
        let mut model = Inherited::default();
        for index in row.into_iter().rev() {
            let (Some(user), Some(place)) = (users.get(index), done.get_mut(index)) else {
                continue;
            };
            model = place
                .get_or_insert_with(|| Inherited::over(user, &model))
                .clone();
        }
    }
    done.into_iter().map(Option::unwrap_or_default).collect()
}

impl Models<'_> {
    /// The place of the model of a user; an unknown one is a fault.
    fn model_of(&self, check: &mut Check<'_>, index: usize) -> Option<usize> {
        let name = self.users.get(index)?.like.as_deref()?;
        let model = self.places.get(name).copied();
        if model.is_none() {
            let known: Vec<String> = self
                .users
                .iter()
                .map(|user| user.name.clone())
                .take(crate::config::suggestion::MOST_COMPARED)
                .collect();
            let at = at!["broker", "users", index, "like"];
            check.unknown(&at, "user", name, &known);
        }
        model
    }

    /// Notes that the last user of a row is like one before it.
    fn circle(&self, check: &mut Check<'_>, row: &[usize], first: usize) {
        let names = row
            .iter()
            .skip_while(|index| **index != first)
            .filter_map(|index| Some(self.users.get(*index)?.name.as_str()));
        let names: Vec<&str> = names.collect();
        let message = match names.as_slice() {
            [one] => format!("{one} is like itself; name another user, or remove `like`"),
            several => format!(
                "a circle: {} is like {} again; remove one `like`",
                several.join(" is like "),
                several.first().unwrap_or(&"")
            ),
        };
        let last = row.last().copied().unwrap_or(first);
        check.fault(&at!["broker", "users", last, "like"], message);
    }
}

fn client_ids(check: &mut Check<'_>, typed: &[String], index: usize) -> Vec<IdPattern> {
    let mut patterns = Vec::new();
    for (place, text) in typed.iter().enumerate() {
        match IdPattern::new(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => {
                check.fault(
                    &at!["broker", "users", index, "client_ids", place],
                    format!("`{text}`: {why}; write one such as hmi-%u-#"),
                );
            }
        }
    }
    patterns
}

/// Without any list everything is allowed; with one, what the lists name.
fn rules(check: &mut Check<'_>, typed: &file::RulesConfig, at: &[PathStep]) -> AccessRules {
    let lists = [
        ("read", &typed.read),
        ("write", &typed.write),
        ("subscribe", &typed.subscribe),
    ];
    let allows_all = lists.iter().all(|(_, list)| list.is_none());
    let [read, write, subscribe] =
        lists.map(|(key, list)| patterns(check, list.as_deref().unwrap_or_default(), at, &[key]));
    let deny = typed.deny.clone().unwrap_or_default();
    AccessRules {
        read,
        write,
        subscribe,
        deny_read: patterns(
            check,
            deny.read.as_deref().unwrap_or_default(),
            at,
            &["deny", "read"],
        ),
        deny_write: patterns(
            check,
            deny.write.as_deref().unwrap_or_default(),
            at,
            &["deny", "write"],
        ),
        deny_subscribe: patterns(
            check,
            deny.subscribe.as_deref().unwrap_or_default(),
            at,
            &["deny", "subscribe"],
        ),
        allows_all,
    }
}

fn patterns(
    check: &mut Check<'_>,
    texts: &[String],
    at: &[PathStep],
    keys: &[&'static str],
) -> Vec<TopicPattern> {
    let mut patterns = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match TopicPattern::new(text.as_str()) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                let mut path = at.to_vec();
                path.extend(keys.iter().map(|key| PathStep::from(*key)));
                path.push(PathStep::from(index));
                check.fault(
                    &path,
                    format!("`{text}`: {error}; write a filter such as plant/+/flow or dev/%u/#"),
                );
            }
        }
    }
    patterns
}
