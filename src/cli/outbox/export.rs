//! `wellhead outbox export`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::super::{Failure, say};
use super::queues::StoredQueue;
use super::{OutboxLocation, QueueName, progress, put_json};
use crate::outbox::{Content, Outgoing, QUEUES, Selection};
use crate::store::{self, Entry};
use crate::time::rfc3339;

/// A line of the command.
#[derive(Serialize)]
struct ExportedMessage {
    uplink: String,
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
    payload: Option<String>,
    /// Any other payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// A dead letter, beside its message.
struct Burial {
    lane: Option<&'static str>,
    buried: String,
    reason: String,
}

pub(super) fn export(
    location: &OutboxLocation,
    only: Option<QueueName>,
    selection: &Selection,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let queues = location.queues(only)?;
    if queues.iter().any(|queue| queue.inspection.is_in_use) {
        say(
            "the gateway runs: messages of the last moment are missing, and some may be delivered meanwhile",
        );
    }
    // Without a gateway nothing can be delivered and removed meanwhile.
    let _held = hold(&queues)?;
    let mut out: Box<dyn Write> = match output {
        Some(path) => Box::new(BufWriter::new(create(path)?)),
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
    };
    let progress = progress("exporting", queues.iter().map(StoredQueue::waiting).sum());
    for queue in &queues {
        for index in 0..queue.inspection.partitions() {
            for entry in queue.inspection.read(index).map_err(Failure::runtime)? {
                progress.inc(1);
                if queue.is_selected(&entry, selection) {
                    write_line(&mut out, queue, &entry)?;
                }
            }
        }
    }
    out.flush().map_err(Failure::runtime)?;
    progress.finish_and_clear();
    Ok(())
}

/// Locks the folders that no gateway uses.
fn hold(queues: &[StoredQueue]) -> Result<Vec<File>, Failure> {
    let mut folders: Vec<&Path> = Vec::new();
    for queue in queues.iter().filter(|queue| !queue.inspection.is_in_use) {
        if !folders.contains(&queue.folder.as_path()) {
            folders.push(&queue.folder);
        }
    }
    let held = folders.into_iter().map(store::hold);
    held.collect::<Result<_, _>>().map_err(Failure::runtime)
}

/// Makes a new file for the owner alone.
fn create(path: &Path) -> Result<File, Failure> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.map_err(|error| {
        Failure::runtime(format!(
            "{}: {error}; name a file that does not exist yet",
            path.display()
        ))
    })
}

/// Writes an entry; one that cannot be read is reported on stderr instead.
fn write_line(out: &mut impl Write, queue: &StoredQueue, entry: &Entry) -> Result<(), Failure> {
    match queue.content(entry) {
        Ok(Content::Message(message)) => put_json(out, &exported(queue, entry.seq, &message, None)),
        Ok(Content::Dead(dead)) => {
            let burial = Burial {
                lane: QUEUES.get(dead.lane as usize).copied(),
                buried: rfc3339(dead.buried.unix_ms),
                reason: dead.reason,
            };
            put_json(out, &exported(queue, dead.seq, &dead.message, Some(burial)))
        }
        Err(error) => {
            say(&format!(
                "{} {} {}: {error}",
                queue.uplink, queue.queue, entry.seq
            ));
            Ok(())
        }
    }
}

fn exported(
    queue: &StoredQueue,
    seq: u64,
    message: &Outgoing,
    burial: Option<Burial>,
) -> ExportedMessage {
    let properties = &message.properties;
    let (lane, buried, reason) = match burial {
        Some(burial) => (burial.lane, Some(burial.buried), Some(burial.reason)),
        None => (None, None, None),
    };
    let payload = message.payload.encode();
    let text = String::from_utf8(payload.to_vec()).ok();
    ExportedMessage {
        uplink: queue.uplink.clone(),
        queue: queue.queue,
        seq,
        topic: message.topic.to_string(),
        qos: message.qos as u8,
        retain: message.retain,
        enqueued: rfc3339(message.enqueued.unix_ms),
        expiry_s: properties.message_expiry,
        content_type: properties.content_type.as_ref().map(ToString::to_string),
        response_topic: properties.response_topic.as_ref().map(ToString::to_string),
        correlation_data_base64: properties
            .correlation_data
            .as_ref()
            .map(|data| BASE64.encode(data)),
        user_properties: properties
            .user
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        lane,
        buried,
        reason,
        payload_base64: text.is_none().then(|| BASE64.encode(&payload)),
        payload: text,
    }
}
