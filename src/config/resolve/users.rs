//! Users of the local broker: who they are like, and what they may do.

use std::collections::{HashMap, HashSet};

use super::broker::{needs_certificate, rules};
use super::{Check, at};
use crate::broker::access::{Access, Hash, IdPattern, Rules, User};
use crate::config::document::Step;
use crate::config::file;

pub(super) fn access(check: &mut Check<'_>, file: &file::Broker) -> Access {
    check.users_file(&at!["broker", "users_file"], file.users_file.as_deref());
    let mut names: HashSet<&str> = HashSet::new();
    let by_certificate = file
        .tls
        .as_ref()
        .is_some_and(|tls| tls.login == file::Login::Certificate);
    let models: HashSet<&str> = file
        .users
        .iter()
        .filter_map(|user| user.like.as_deref())
        .collect();
    let inherited = inherited(check, &file.users);
    let mut users = HashMap::new();
    for (index, (user, given)) in file.users.iter().zip(&inherited).enumerate() {
        if user.name.is_empty() || !names.insert(&user.name) {
            check.fault(
                &at!["broker", "users", index, "name"],
                "every user needs a name of their own",
            );
        }
        let (hash, scram) = secrets(check, index, user);
        let has_secret = user.password.is_some() || user.scram.is_some() || by_certificate;
        if !has_secret && !models.contains(user.name.as_str()) {
            check.fault(
                &at!["broker", "users", index],
                "a user needs a password; add what `wellhead passwd` prints",
            );
        }
        let client_ids = client_ids(
            check,
            given.client_ids.as_deref().unwrap_or_default(),
            index,
        );
        let rules = rules(check, &given.rules, &at!["broker", "users", index]);
        // A model alone logs nobody in, and reserves no identifiers.
        if has_secret {
            users.insert(
                user.name.as_str().into(),
                User {
                    hash,
                    scram,
                    client_ids,
                    rules,
                },
            );
        }
    }
    let is_closed = file
        .listen
        .0
        .iter()
        .all(|listen| listen.is_loopback() || needs_certificate(file, listen));
    let anonymous = file
        .anonymous
        .as_ref()
        .map(|typed| rules(check, typed, &at!["broker", "anonymous"]));
    // Somebody without a name is let in where that was said, or where there are neither users nor other machines.
    let has_users = !users.is_empty() || file.users_file.is_some();
    let lets_in = file.allow_anonymous || anonymous.is_some() || (!has_users && is_closed);
    let everything = Rules {
        allows_all: true,
        ..Rules::default()
    };
    Access::new(users, lets_in.then(|| anonymous.unwrap_or(everything)))
}

fn secrets(
    check: &mut Check<'_>,
    index: usize,
    user: &file::User,
) -> (Option<Hash>, Option<crate::broker::scram::Secret>) {
    let place = |key: &'static str| at!["broker", "users", index, key];
    let hash = user
        .password
        .as_ref()
        .and_then(|text| match Hash::new(text) {
            Ok(hash) => Some(hash),
            Err(why) => {
                check.fault(&place("password"), why);
                None
            }
        });
    let scram = user.scram.as_ref().and_then(|text| match text.parse() {
        Ok(secret) => Some(secret),
        Err(why) => {
            check.fault(&place("scram"), why);
            None
        }
    });
    (hash, scram)
}

/// What a user may do and be called, after those it is like.
#[derive(Debug, Clone, Default)]
struct Given {
    client_ids: Option<Vec<String>>,
    rules: file::Rules,
}

impl Given {
    /// What a user says itself, and for the rest what its model has.
    fn over(user: &file::User, model: &Self) -> Self {
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
            rules: file::Rules {
                read: own.read.or_else(|| base.read.clone()),
                write: own.write.or_else(|| base.write.clone()),
                subscribe: own.subscribe.or_else(|| base.subscribe.clone()),
                deny: Some(deny),
            },
        }
    }
}

/// What each user has, by its place. Each user is looked at once, however long the rows of models are.
fn inherited(check: &mut Check<'_>, users: &[file::User]) -> Vec<Given> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, user) in users.iter().enumerate() {
        places.entry(user.name.as_str()).or_insert(index);
    }
    let mut done: Vec<Option<Given>> = vec![None; users.len()];
    for start in 0..users.len() {
        // From this user up to one without a model, or with one that is known.
        let mut row = vec![start];
        let mut members: HashSet<usize> = HashSet::from([start]);
        let mut last = start;
        while let Some((model, at)) = model_of(
            check,
            users,
            (last, &places, done.get(last).is_some_and(Option::is_some)),
        ) {
            if !members.insert(model) {
                circle(check, users, (&row, model), &at);
                break;
            }
            row.push(model);
            last = model;
        }
        let mut model = Given::default();
        for index in row.into_iter().rev() {
            let (Some(user), Some(place)) = (users.get(index), done.get_mut(index)) else {
                continue;
            };
            model = place
                .get_or_insert_with(|| Given::over(user, &model))
                .clone();
        }
    }
    done.into_iter().map(Option::unwrap_or_default).collect()
}

/// The place of the user that another is like, if that is still to be looked at.
fn model_of(
    check: &mut Check<'_>,
    users: &[file::User],
    (index, places, is_done): (usize, &HashMap<&str, usize>, bool),
) -> Option<(usize, [Step; 4])> {
    let name = users.get(index)?.like.as_deref().filter(|_| !is_done)?;
    let at = at!["broker", "users", index, "like"];
    match places.get(name) {
        Some(model) => Some((*model, at)),
        None => {
            let known: Vec<String> = users
                .iter()
                .map(|user| user.name.clone())
                .take(crate::config::fault::MOST_COMPARED)
                .collect();
            check.unknown(&at, "user", name, &known);
            None
        }
    }
}

/// Users that are like each other.
fn circle(
    check: &mut Check<'_>,
    users: &[file::User],
    (row, first): (&[usize], usize),
    at: &[Step],
) {
    let names = row
        .iter()
        .skip_while(|index| **index != first)
        .filter_map(|index| Some(users.get(*index)?.name.as_str()));
    let names: Vec<&str> = names.collect();
    let told = match names.as_slice() {
        [one] => format!("{one} is like itself; name another user, or remove `like`"),
        several => format!(
            "a circle: {} is like {} again; remove one `like`",
            several.join(" is like "),
            several.first().unwrap_or(&"")
        ),
    };
    check.fault(at, told);
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
