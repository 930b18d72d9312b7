//! `wellhead outbox`: shows, exports or deletes messages queued for remote brokers.
//!
//! `show` and `export` read the files without opening their databases, so that they disturb no
//! gateway; `purge` takes the folder, or asks the gateway that has it.

mod export;
mod purge;
mod queues;
mod show;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{Failure, chosen};
use crate::config;
use crate::log::Printable;
use crate::outbox::{Filter, Selection};
use crate::units::Span;

#[derive(Debug, Subcommand)]
pub(super) enum OutboxCommand {
    /// Show queued messages by uplink and lane; works while the gateway runs
    #[command(
        after_help = "Examples:\n  wellhead outbox show\n  wellhead outbox show --json | jq .waiting"
    )]
    Show {
        #[command(flatten)]
        location: OutboxLocation,
        /// Print JSON, one object per line
        #[arg(long)]
        json: bool,
    },
    /// Write queued messages as JSON, one object per line; works while the gateway runs
    Export {
        #[command(flatten)]
        location: OutboxLocation,
        /// Only this queue
        #[arg(long, value_enum)]
        queue: Option<QueueName>,
        #[command(flatten)]
        only: Only,
        /// Write to this file [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete queued messages for good; works while the gateway runs
    #[command(
        after_help = "Examples:\n  wellhead outbox purge --queue dead --yes\n  wellhead outbox purge --uplink cloud --number 17..20 --yes\n  wellhead outbox purge --topic 'plant/#' --older-than 2d --yes"
    )]
    Purge {
        #[command(flatten)]
        location: OutboxLocation,
        /// Only this queue
        #[arg(long, value_enum)]
        queue: Option<QueueName>,
        #[command(flatten)]
        only: Only,
        /// Actually delete; without this only print what would be deleted
        #[arg(long)]
        yes: bool,
    },
}

/// Where the outboxes are.
#[derive(Debug, Args)]
pub(super) struct OutboxLocation {
    /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    file: Option<PathBuf>,
    /// The outbox folder, instead of a YAML file
    #[arg(long, conflicts_with = "file")]
    folder: Option<PathBuf>,
    /// Only this uplink
    #[arg(long, value_name = "NAME")]
    uplink: Option<String>,
}

/// Conditions that a message must all meet.
#[derive(Debug, Args)]
pub(super) struct Only {
    /// Only these numbers, as `export` shows them in `seq`: 17, or 17..20; can be given several
    /// times
    #[arg(long, value_name = "NUMBER", value_parser = numbers)]
    number: Vec<(u64, u64)>,
    /// Only topics that match; + and # as in a subscription
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<Filter>,
    /// Only messages older than this, such as 2d
    #[arg(long, value_name = "AGE")]
    older_than: Option<Span>,
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::try_from(text.to_owned())
}

/// A number, or the first and the last one of a span.
fn numbers(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("write a number such as 17, or a span such as 17..20".to_owned()),
    }
}

impl From<Only> for Selection {
    fn from(only: Only) -> Self {
        let older_than_ms = only
            .older_than
            .map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX));
        Self {
            numbers: only.number,
            topic: only.topic,
            older_than_ms,
        }
    }
}

/// The queues of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum QueueName {
    Alarm,
    Live,
    Backlog,
    /// Messages that the remote refused for good
    Dead,
}

impl QueueName {
    fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Live => "live",
            Self::Backlog => "backlog",
            Self::Dead => "dead",
        }
    }
}

pub(super) fn outbox(command: OutboxCommand) -> Result<(), Failure> {
    match command {
        OutboxCommand::Show { location, json } => show::show(&location, json),
        OutboxCommand::Export {
            location,
            queue,
            only,
            output,
        } => export::export(&location, queue, &only.into(), output.as_deref()),
        OutboxCommand::Purge {
            location,
            queue,
            only,
            yes: false,
        } => purge::preview(&location, queue, &only.into()),
        OutboxCommand::Purge {
            location,
            queue,
            only,
            yes: true,
        } => purge::purge(&location, queue, &only.into()),
    }
}

impl OutboxLocation {
    /// The folder of the gateway's state.
    fn root(&self) -> Result<PathBuf, Failure> {
        match &self.folder {
            Some(folder) => Ok(folder.clone()),
            None => Ok(config::load(&chosen(self.file.clone())?)?.folder),
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(what: &'static str, total: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what);
    // The template is fixed; without it the bar has the library's own.
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn put(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    out.write_all(text.as_bytes()).map_err(Failure::runtime)
}

fn put_json(out: &mut impl Write, row: &impl Serialize) -> Result<(), Failure> {
    let text = Printable::json(&serde_json::to_string(row).map_err(Failure::runtime)?);
    put(out, &text)?;
    put(out, "\n")
}
