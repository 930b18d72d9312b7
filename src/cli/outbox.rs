//! `wellhead outbox`: what waits for remote brokers, looked at, written out, or removed.
//!
//! `show` and `export` read the files without opening their databases, so that they disturb nobody; `purge` takes the folder, or asks
//! the gateway that has it.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use serde::Serialize;

use super::line::call;
use super::reload::gateway_in;
use super::{Failure, chosen};
use crate::config;
use crate::log::Printable;
use crate::outbox::{Content, Filter, Outgoing, QUEUES, Selection};
use crate::reading::Timestamp;
use crate::status::control::{Reply, Request};
use crate::store::{self, Entry, Inspection};
use crate::time::{moment, rfc3339};
use crate::units::Span;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Show queued messages by uplink and lane; works while the gateway runs
    #[command(
        after_help = "Examples:\n  wellhead outbox show\n  wellhead outbox show --json | jq .waiting"
    )]
    Show {
        #[command(flatten)]
        place: Place,
        /// Print JSON, one object per line
        #[arg(long)]
        json: bool,
    },
    /// Write queued messages as JSON, one object per line; works while the gateway runs
    Export {
        #[command(flatten)]
        place: Place,
        /// Only this queue
        #[arg(long, value_enum)]
        queue: Option<Queue>,
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
        place: Place,
        /// Only this queue
        #[arg(long, value_enum)]
        queue: Option<Queue>,
        #[command(flatten)]
        only: Only,
        /// Actually delete; without this only print what would be deleted
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    file: Option<PathBuf>,
    /// The outbox folder, instead of a YAML file
    #[arg(long, conflicts_with = "file")]
    folder: Option<PathBuf>,
    /// Only this uplink
    #[arg(long, value_name = "NAME")]
    uplink: Option<String>,
}

/// Which messages; what is given must all apply.
#[derive(Debug, Args)]
pub(super) struct Only {
    /// Only these numbers, as `export` shows them in `seq`: 17, or 17..20; can be given several times
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Queue {
    Alarm,
    Live,
    Backlog,
    /// Messages that the remote refused for good
    Dead,
}

impl Queue {
    fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Live => "live",
            Self::Backlog => "backlog",
            Self::Dead => "dead",
        }
    }
}

/// One queue of one uplink that is there.
struct Found {
    uplink: String,
    queue: &'static str,
    /// Of the uplink's store.
    folder: PathBuf,
    inspection: Inspection,
}

/// A line of `show`.
#[derive(Serialize)]
struct Row<'a> {
    uplink: &'a str,
    queue: &'static str,
    waiting: u64,
    bytes: u64,
    /// When the oldest was handed over.
    oldest: Option<String>,
    newest: Option<String>,
    quarantined: usize,
    running: bool,
}

/// A line of `export`.
#[derive(Serialize)]
struct Line<'a> {
    uplink: &'a str,
    queue: &'static str,
    seq: u64,
    topic: String,
    qos: u8,
    retain: bool,
    enqueued: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user_properties: Vec<(String, String)>,
    /// Of a dead letter: the lane it was in, when it was given up, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buried: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// A payload that is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// Any other payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

pub(super) fn outbox(action: Action) -> Result<(), Failure> {
    match action {
        Action::Show { place, json } => show(&place, json),
        Action::Export {
            place,
            queue,
            only,
            output,
        } => export(&place, queue, &only.into(), output.as_deref()),
        Action::Purge {
            place,
            queue,
            only,
            yes,
        } => purge(&place, queue, &only.into(), yes),
    }
}

impl Place {
    /// The folder of the gateway's state.
    fn root(&self) -> Result<PathBuf, Failure> {
        match &self.folder {
            Some(folder) => Ok(folder.clone()),
            None => Ok(config::load(&chosen(self.file.clone())?)?.folder),
        }
    }

    /// The queues that are there, in order.
    fn find(self: &Place, only: Option<Queue>) -> Result<Vec<Found>, Failure> {
        let root = self.root()?.join("outbox");
        let absent = |path: &Path| {
            Failure::runtime(format!(
                "{} holds no outbox; name the YAML file or the folder of `outbox.folder`",
                path.display()
            ))
        };
        let mut uplinks: Vec<(String, PathBuf)> = fs::read_dir(&root)
            .map_err(|error| match error.kind() {
                ErrorKind::PermissionDenied => Failure::runtime(format!(
                    "{} cannot be read by this user; run the same command with sudo",
                    root.display()
                )),
                _ => absent(&root),
            })?
            .filter_map(|entry| {
                entry.ok().map(|entry| {
                    (
                        entry.file_name().to_string_lossy().into_owned(),
                        entry.path(),
                    )
                })
            })
            .filter(|(name, _)| self.uplink.as_ref().is_none_or(|wanted| wanted == name))
            .collect();
        uplinks.sort();
        if let Some(wanted) = self.uplink.as_ref().filter(|_| uplinks.is_empty()) {
            return Err(Failure::runtime(format!(
                "there is no uplink \"{wanted}\" in {}",
                root.display()
            )));
        }
        let mut found = Vec::new();
        for (uplink, folder) in uplinks {
            for queue in QUEUES
                .into_iter()
                .filter(|queue| only.is_none_or(|only| only.name() == *queue))
            {
                if folder.join(queue).join("LOCK").exists() {
                    let inspection =
                        Inspection::of(&folder.join(queue)).map_err(Failure::runtime)?;
                    found.push(Found {
                        uplink: uplink.clone(),
                        queue,
                        folder: folder.clone(),
                        inspection,
                    });
                }
            }
        }
        Ok(found)
    }
}

impl Found {
    fn waiting(&self) -> u64 {
        self.inspection
            .record
            .cursor
            .unsettled_in(1, self.inspection.record.written)
    }

    /// The numbers of the entries that are meant.
    fn meant(&self, selection: &Selection) -> Result<Vec<u64>, Failure> {
        let mut numbers = Vec::new();
        for index in 0..self.inspection.partitions() {
            let entries = self.inspection.read(index).map_err(Failure::runtime)?;
            numbers.extend(
                entries
                    .iter()
                    .filter(|entry| is_meant(entry, selection))
                    .map(|entry| entry.seq),
            );
        }
        Ok(numbers)
    }

    fn row(&self) -> Result<Row<'_>, Failure> {
        let time = |entry: &Entry| match Content::decode(entry.bytes.clone()) {
            Ok(Content::Message(message)) => Some(rfc3339(message.enqueued.unix_ms)),
            Ok(Content::Dead(dead)) => Some(rfc3339(dead.buried.unix_ms)),
            Err(_) => None,
        };
        let (mut oldest, mut newest) = (None, None);
        for index in 0..self.inspection.partitions() {
            oldest = self
                .inspection
                .read(index)
                .map_err(Failure::runtime)?
                .first()
                .and_then(time);
            if oldest.is_some() {
                break;
            }
        }
        for index in (0..self.inspection.partitions()).rev() {
            newest = self
                .inspection
                .read(index)
                .map_err(Failure::runtime)?
                .last()
                .and_then(time);
            if newest.is_some() {
                break;
            }
        }
        Ok(Row {
            uplink: &self.uplink,
            queue: self.queue,
            waiting: self.waiting(),
            bytes: self.inspection.bytes(),
            oldest,
            newest,
            quarantined: self.inspection.quarantined(),
            running: self.inspection.is_in_use,
        })
    }
}

fn show(place: &Place, json: bool) -> Result<(), Failure> {
    let found = place.find(None)?;
    let mut out = std::io::stdout().lock();
    if !json {
        put(
            &mut out,
            &format!(
                "{:<16} {:<8} {:>12} {:>10}  {:<24}  {:<24}\n",
                "uplink", "queue", "waiting", "on disk", "oldest", "newest"
            ),
        )?;
    }
    for queue in &found {
        let row = queue.row()?;
        if json {
            put_json(&mut out, &row)?;
            continue;
        }
        let size = bytesize::ByteSize(row.bytes).to_string();
        let (oldest, newest) = (
            row.oldest.as_deref().unwrap_or("-"),
            row.newest.as_deref().unwrap_or("-"),
        );
        let mut remarks = String::new();
        if row.running {
            remarks.push_str("  running: what is in memory is not counted");
        }
        if row.quarantined > 0 {
            remarks.push_str(&format!(
                "  {} damaged partitions in quarantine",
                row.quarantined
            ));
        }
        put(
            &mut out,
            &format!(
                "{:<16} {:<8} {:>12} {size:>10}  {oldest:<24}  {newest:<24}{remarks}\n",
                row.uplink, row.queue, row.waiting
            ),
        )?;
    }
    Ok(())
}

fn export(
    place: &Place,
    only: Option<Queue>,
    selection: &Selection,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let found = place.find(only)?;
    if found.iter().any(|queue| queue.inspection.is_in_use) {
        super::say(
            "the gateway runs: messages of the last moment are missing, and some may be delivered meanwhile",
        );
    }
    // Nothing is delivered and removed while it is written out, if no gateway runs.
    let mut held: Vec<(&Path, File)> = Vec::new();
    for queue in &found {
        if !queue.inspection.is_in_use && !held.iter().any(|(folder, _)| *folder == queue.folder) {
            held.push((
                &queue.folder,
                store::hold(&queue.folder).map_err(Failure::runtime)?,
            ));
        }
    }
    let mut out: Box<dyn Write> = match output {
        Some(path) => Box::new(BufWriter::new(
            File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| {
                    Failure::runtime(format!(
                        "{}: {error}; name a file that does not exist yet",
                        path.display()
                    ))
                })?,
        )),
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
    };
    let progress = progress("exporting", found.iter().map(Found::waiting).sum());
    for queue in &found {
        for index in 0..queue.inspection.partitions() {
            for entry in queue.inspection.read(index).map_err(Failure::runtime)? {
                progress.inc(1);
                if is_meant(&entry, selection) {
                    write_line(&mut out, queue, &entry)?;
                }
            }
        }
    }
    out.flush().map_err(Failure::runtime)?;
    progress.finish_and_clear();
    Ok(())
}

/// What cannot be read is meant too, so that it is told.
fn is_meant(entry: &Entry, selection: &Selection) -> bool {
    let content = Content::decode(entry.bytes.clone());
    content.map_or(selection.is_everything(), |content| {
        selection.wants(entry.seq, &content, Timestamp::from(moment()))
    })
}

fn write_line(out: &mut impl Write, queue: &Found, entry: &Entry) -> Result<(), Failure> {
    let (message, seq, dead): (Outgoing, u64, Option<(usize, i64, String)>) =
        match Content::decode(entry.bytes.clone()) {
            Ok(Content::Message(message)) => (message, entry.seq, None),
            Ok(Content::Dead(dead)) => (
                dead.message,
                dead.seq,
                Some((dead.lane as usize, dead.buried.unix_ms, dead.reason)),
            ),
            Err(error) => {
                super::say(&format!(
                    "{} {} {}: {error}",
                    queue.uplink, queue.queue, entry.seq
                ));
                return Ok(());
            }
        };
    let text = std::str::from_utf8(&message.payload).ok();
    put_json(
        out,
        &Line {
            uplink: &queue.uplink,
            queue: queue.queue,
            seq,
            topic: message.topic.to_string(),
            qos: message.qos as u8,
            retain: message.retain,
            enqueued: rfc3339(message.enqueued.unix_ms),
            expiry_s: message.properties.message_expiry,
            user_properties: message
                .properties
                .user
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            content_type: message
                .properties
                .content_type
                .as_ref()
                .map(ToString::to_string),
            response_topic: message
                .properties
                .response_topic
                .as_ref()
                .map(ToString::to_string),
            correlation_data_base64: message
                .properties
                .correlation_data
                .as_ref()
                .map(|data| BASE64.encode(data)),
            lane: dead
                .as_ref()
                .and_then(|(lane, _, _)| QUEUES.get(*lane).copied()),
            buried: dead.as_ref().map(|(_, at, _)| rfc3339(*at)),
            reason: dead.map(|(_, _, reason)| reason),
            payload: text,
            payload_base64: text.is_none().then(|| BASE64.encode(&message.payload)),
        },
    )
}

fn purge(
    place: &Place,
    only: Option<Queue>,
    selection: &Selection,
    yes: bool,
) -> Result<(), Failure> {
    let found = place.find(only)?;
    if !yes {
        let names: Result<Vec<String>, Failure> = found
            .iter()
            .map(|queue| {
                Ok(format!(
                    "{} {} ({} messages)",
                    queue.uplink,
                    queue.queue,
                    queue.meant(selection)?.len()
                ))
            })
            .collect();
        return Err(Failure::runtime(format!(
            "this would remove {}; add --yes to do it, after `wellhead outbox export` if they are worth keeping",
            names?.join(", ")
        )));
    }
    let (running, stopped): (Vec<Found>, Vec<Found>) = found
        .into_iter()
        .partition(|queue| queue.inspection.is_in_use);
    let progress = progress("removing", stopped.iter().map(Found::waiting).sum());
    for queue in running {
        let removed = ask_to_remove(&queue, place.root()?.as_path(), selection)?;
        super::say(&format!(
            "{} {}: {removed} messages removed",
            queue.uplink, queue.queue
        ));
    }
    for queue in stopped {
        let meant = queue.meant(selection)?;
        let Found {
            uplink,
            queue,
            folder,
            inspection,
        } = queue;
        drop(inspection);
        become_owner(&folder)?;
        let removed = if selection.is_everything() {
            store::purge(&folder, queue, |_| {}).map_err(Failure::runtime)?
        } else {
            store::remove(&folder, queue, &meant).map_err(Failure::runtime)?;
            meant.len() as u64
        };
        progress.inc(removed);
        super::say(&format!("{uplink} {queue}: {removed} messages removed"));
    }
    progress.finish_and_clear();
    Ok(())
}

/// The gateway that has a queue open removes what is meant.
fn ask_to_remove(queue: &Found, root: &Path, selection: &Selection) -> Result<u64, Failure> {
    let request = Request::Purge {
        uplink: queue.uplink.clone(),
        queue: Some(queue.queue.to_owned()),
        selection: selection.clone(),
    };
    match call(&mut gateway_in(root)?, &request)? {
        Reply::Purged(counts) => Ok(counts.iter().map(|(_, count)| count).sum()),
        Reply::Refused(why) => Err(Failure::runtime(why)),
        _ => Err(super::line::unexpected()),
    }
}

/// From here on this process may do what the owner of a folder may: what it makes there the service must be able to use.
fn become_owner(folder: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::runtime(format!(
            "{}: {error}; run this as the owner of the folder",
            folder.display()
        ))
    };
    let owner = fs::metadata(folder).map_err(failed)?;
    if !rustix::process::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    // Threads begin with the rights of the one that starts them; there is no other yet.
    set_thread_groups(&[]).map_err(|error| failed(error.into()))?;
    set_thread_gid(Gid::from_raw(owner.gid())).map_err(|error| failed(error.into()))?;
    set_thread_uid(Uid::from_raw(owner.uid())).map_err(|error| failed(error.into()))
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
