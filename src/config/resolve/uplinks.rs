//! The outbox, and every uplink with its rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::routes::{self, LocalTopics};
use super::uplink_settings::{self, DEFAULT_SAVE};
use super::{Check, at, cloud, presence};
use crate::config::{Tariff, UplinkSetup, file};
use crate::outbox;
use crate::route::MOST_UPLINKS;

const DEFAULT_FOLDER: &str = "/var/lib/wellhead";
const DEFAULT_SIZE: u64 = 1_000_000_000;
const SMALLEST_SIZE: u64 = 16_000_000;

pub(super) fn outbox(check: &mut Check<'_>) -> (PathBuf, outbox::Settings) {
    let file = &check.file.outbox;
    let folder = check
        .folder
        .join(file.folder.as_deref().unwrap_or(Path::new(DEFAULT_FOLDER)));
    let size = file.keep.size.map_or(DEFAULT_SIZE, |size| size.0);
    if size < SMALLEST_SIZE {
        check.fault(
            &at!["outbox", "keep", "size"],
            "an outbox needs at least 16MB",
        );
    }
    let save_every = file.save.every.map_or(DEFAULT_SAVE, |span| span.0);
    if save_every > Duration::from_secs(60) {
        check.fault(
            &at!["outbox", "save", "every"],
            "local clients would wait that long for every acknowledgement; write at most 60s, such as 50ms",
        );
    }
    let age = file.keep.age.map(|span| span.0);
    if age.is_some_and(|age| age < Duration::from_secs(60)) {
        check.fault(
            &at!["outbox", "keep", "age"],
            "messages would be dropped on the way; write at least 1m, such as 30d",
        );
    }
    (
        folder,
        outbox::Settings {
            save_every,
            total_bytes: size,
            age,
            when_full: file.when_full,
        },
    )
}

pub(super) fn uplinks(
    check: &mut Check<'_>,
    has_broker: bool,
    local: &LocalTopics,
) -> Vec<UplinkSetup> {
    let file = check.file;
    check_list(check);
    let mut resolved = Vec::new();
    let has_broker = has_broker || check.document.has("broker");
    for (index, uplink) in file.uplinks.iter().enumerate().take(MOST_UPLINKS) {
        check_name(check, index, uplink);
        if !uplink.receive.is_empty() && !has_broker {
            check.fault(
                &at!["uplinks", index, "receive"],
                "what comes in needs a local broker to go to; add `broker:` or remove `receive`",
            );
        }
        let routes = routes::routes(check, index, local);
        let commands = routes::commands(check, index, &routes, local);
        if !commands.is_empty() && !has_broker {
            check.fault(
                &at!["uplinks", index, "commands"],
                "commands go through the local broker; add `broker:` or remove `commands`",
            );
        }
        let Some(mut settings) = uplink_settings::settings(check, index, resolved.len(), uplink)
        else {
            continue;
        };
        settings.presence = presence::presence(check, index, uplink, &routes.send, &resolved);
        cloud::apply(check, index, uplink, &mut settings);
        if uplink.enabled {
            settings.receive.extend(commands.iter().cloned());
            resolved.push(UplinkSetup {
                settings,
                routes: Arc::new(routes),
                commands,
                own: Vec::new(),
                tariff: tariff(uplink),
            });
        }
    }
    resolved
}

/// Names are unique, and there are not too many.
fn check_list(check: &mut Check<'_>) {
    let file = check.file;
    check.unique(
        "uplinks",
        file.uplinks
            .iter()
            .map(|uplink| uplink.name.as_str())
            .enumerate(),
    );
    if file.uplinks.len() > MOST_UPLINKS {
        let path = at!["uplinks", MOST_UPLINKS, "name"];
        check.fault(
            &path,
            format!("a gateway has at most {MOST_UPLINKS} uplinks; remove those from this one on, or give them to another gateway"),
        );
    }
}

fn check_name(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) {
    if uplink.name.contains(['/', '\\']) || uplink.name.starts_with('.') {
        check.fault(
            &at!["uplinks", index, "name"],
            "the name becomes a folder and a topic level; write letters, digits and dashes",
        );
    }
}

fn tariff(uplink: &file::UplinkConfig) -> Tariff {
    uplink
        .tariff
        .clone()
        .map_or_else(Tariff::default, |typed| Tariff {
            per_month: typed.per_month.map(|size| size.0),
            price: typed.price,
        })
}
