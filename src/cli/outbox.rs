//! `wellhead outbox`: what waits for remote brokers, looked at, written out, or removed.
//!
//! `show` and `export` read the files without opening their databases, so that they disturb nobody; `purge` takes the folder.

use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use serde::Serialize;

use super::{Failure, chosen};
use crate::config;
use crate::log::Printable;
use crate::outbox::{Content, Outgoing, QUEUES};
use crate::store::{self, Entry, Survey};
use crate::time::rfc3339;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// What waits, by uplink and lane; works on a running gateway too
    #[command(after_help = "Examples:\n  wellhead outbox show\n  wellhead outbox show --json | jq .waiting")]
    Show {
        #[command(flatten)]
        place: Place,
        /// As JSON, an object a line
        #[arg(long)]
        json: bool,
    },
    /// Write the messages that wait as JSON, an object a line
    Export {
        #[command(flatten)]
        place: Place,
        /// Only this queue
        #[arg(long, value_enum)]
        queue: Option<Queue>,
        /// Write to this file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Remove messages for good; the gateway must be stopped
    Purge {
        #[command(flatten)]
        place: Place,
        /// Only this queue
        #[arg(long, value_enum)]
        queue: Option<Queue>,
        /// Do it; without this only what would be removed is told
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    file: Option<PathBuf>,
    /// The folder of `outbox.folder` instead of a YAML file
    #[arg(long, conflicts_with = "file")]
    folder: Option<PathBuf>,
    /// Only this uplink
    #[arg(long, value_name = "NAME")]
    uplink: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Queue {
    Alarm,
    Live,
    Backlog,
    /// What remotes refused for good
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
    survey: Survey,
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
        Action::Export { place, queue, output } => export(&place, queue, output.as_deref()),
        Action::Purge { place, queue, yes } => purge(&place, queue, yes),
    }
}

impl Place {
    /// The queues that are there, in order.
    fn find(self: &Place, only: Option<Queue>) -> Result<Vec<Found>, Failure> {
        let root = match &self.folder {
            Some(folder) => folder.clone(),
            None => config::load(&chosen(self.file.clone())?)?.folder,
        }
        .join("outbox");
        let absent = |path: &Path| {
            Failure::runtime(format!("{} holds no outbox; name the YAML file or the folder of `outbox.folder`", path.display()))
        };
        let mut uplinks: Vec<(String, PathBuf)> = fs::read_dir(&root)
            .map_err(|_| absent(&root))?
            .filter_map(|entry| entry.ok().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
            .filter(|(name, _)| self.uplink.as_ref().is_none_or(|wanted| wanted == name))
            .collect();
        uplinks.sort();
        if let Some(wanted) = self.uplink.as_ref().filter(|_| uplinks.is_empty()) {
            return Err(Failure::runtime(format!("there is no uplink \"{wanted}\" in {}", root.display())));
        }
        let mut found = Vec::new();
        for (uplink, folder) in uplinks {
            for queue in QUEUES.into_iter().filter(|queue| only.is_none_or(|only| only.name() == *queue)) {
                if folder.join(queue).join("LOCK").exists() {
                    let survey = Survey::of(&folder.join(queue)).map_err(Failure::runtime)?;
                    found.push(Found { uplink: uplink.clone(), queue, folder: folder.clone(), survey });
                }
            }
        }
        Ok(found)
    }
}

impl Found {
    fn waiting(&self) -> u64 {
        self.survey.note.cursor.unsettled_in(1, self.survey.note.written)
    }

    fn row(&self) -> Result<Row<'_>, Failure> {
        let time = |entry: &Entry| match Content::decode(entry.bytes.clone()) {
            Ok(Content::Message(message)) => Some(rfc3339(message.enqueued.unix_ms)),
            Ok(Content::Dead(dead)) => Some(rfc3339(dead.buried.unix_ms)),
            Err(_) => None,
        };
        let (mut oldest, mut newest) = (None, None);
        for index in 0..self.survey.partitions() {
            oldest = self.survey.read(index).map_err(Failure::runtime)?.first().and_then(time);
            if oldest.is_some() {
                break;
            }
        }
        for index in (0..self.survey.partitions()).rev() {
            newest = self.survey.read(index).map_err(Failure::runtime)?.last().and_then(time);
            if newest.is_some() {
                break;
            }
        }
        Ok(Row {
            uplink: &self.uplink,
            queue: self.queue,
            waiting: self.waiting(),
            bytes: self.survey.bytes(),
            oldest,
            newest,
            quarantined: self.survey.quarantined(),
            running: self.survey.is_in_use,
        })
    }
}

fn show(place: &Place, json: bool) -> Result<(), Failure> {
    let found = place.find(None)?;
    let mut out = std::io::stdout().lock();
    if !json {
        put(
            &mut out,
            &format!("{:<16} {:<8} {:>12} {:>10}  {:<24}  {:<24}\n", "uplink", "queue", "waiting", "on disk", "oldest", "newest"),
        )?;
    }
    for queue in &found {
        let row = queue.row()?;
        if json {
            put_json(&mut out, &row)?;
            continue;
        }
        let size = bytesize::ByteSize(row.bytes).to_string();
        let (oldest, newest) = (row.oldest.as_deref().unwrap_or("-"), row.newest.as_deref().unwrap_or("-"));
        let mut remarks = String::new();
        if row.running {
            remarks.push_str("  running: what is in memory is not counted");
        }
        if row.quarantined > 0 {
            remarks.push_str(&format!("  {} damaged partitions in quarantine", row.quarantined));
        }
        put(
            &mut out,
            &format!("{:<16} {:<8} {:>12} {size:>10}  {oldest:<24}  {newest:<24}{remarks}\n", row.uplink, row.queue, row.waiting),
        )?;
    }
    Ok(())
}

fn export(place: &Place, only: Option<Queue>, output: Option<&Path>) -> Result<(), Failure> {
    let found = place.find(only)?;
    // Nothing is delivered and removed while it is written out.
    let mut held: Vec<(&Path, File)> = Vec::new();
    for queue in &found {
        if !held.iter().any(|(folder, _)| *folder == queue.folder) {
            held.push((&queue.folder, store::hold(&queue.folder).map_err(Failure::runtime)?));
        }
    }
    let mut out: Box<dyn Write> = match output {
        Some(path) => Box::new(BufWriter::new(
            File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| Failure::runtime(format!("{}: {error}; name a file that does not exist yet", path.display())))?,
        )),
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
    };
    let progress = progress("exporting", found.iter().map(Found::waiting).sum());
    for queue in &found {
        for index in 0..queue.survey.partitions() {
            for entry in queue.survey.read(index).map_err(Failure::runtime)? {
                write_line(&mut out, queue, &entry)?;
                progress.inc(1);
            }
        }
    }
    out.flush().map_err(Failure::runtime)?;
    progress.finish_and_clear();
    Ok(())
}

fn write_line(out: &mut impl Write, queue: &Found, entry: &Entry) -> Result<(), Failure> {
    let (message, seq, dead): (Outgoing, u64, Option<(usize, i64, String)>) = match Content::decode(entry.bytes.clone()) {
        Ok(Content::Message(message)) => (message, entry.seq, None),
        Ok(Content::Dead(dead)) => (dead.message, dead.seq, Some((dead.lane as usize, dead.buried.unix_ms, dead.reason))),
        Err(error) => {
            super::say(&format!("{} {} {}: {error}", queue.uplink, queue.queue, entry.seq));
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
            user_properties: message.properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            content_type: message.properties.content_type.as_ref().map(ToString::to_string),
            response_topic: message.properties.response_topic.as_ref().map(ToString::to_string),
            correlation_data_base64: message.properties.correlation_data.as_ref().map(|data| BASE64.encode(data)),
            lane: dead.as_ref().and_then(|(lane, _, _)| QUEUES.get(*lane).copied()),
            buried: dead.as_ref().map(|(_, at, _)| rfc3339(*at)),
            reason: dead.map(|(_, _, reason)| reason),
            payload: text,
            payload_base64: text.is_none().then(|| BASE64.encode(&message.payload)),
        },
    )
}

fn purge(place: &Place, only: Option<Queue>, yes: bool) -> Result<(), Failure> {
    let found = place.find(only)?;
    let total: u64 = found.iter().map(Found::waiting).sum();
    if !yes {
        let names: Vec<String> =
            found.iter().map(|queue| format!("{} {} ({} messages)", queue.uplink, queue.queue, queue.waiting())).collect();
        return Err(Failure::runtime(format!(
            "this would remove {}; add --yes to do it, after `wellhead outbox export` if they are worth keeping",
            names.join(", ")
        )));
    }
    let progress = progress("removing", total);
    let mut removed = 0;
    for queue in found {
        let Found { uplink, queue, folder, survey } = queue;
        drop(survey);
        let before = removed;
        become_owner(&folder)?;
        removed +=
            store::purge(&folder, queue, |left| progress.set_position(before.max(total.saturating_sub(left)))).map_err(Failure::runtime)?;
        super::say(&format!("{uplink} {queue}: {} messages removed", removed - before));
    }
    progress.finish_and_clear();
    Ok(())
}

/// From here on this process may do what the owner of a folder may: what it makes there the service must be able to use.
fn become_owner(folder: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::runtime(format!("{}: {error}; run this as the owner of the folder", folder.display()));
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
    let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
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
