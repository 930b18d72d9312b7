//! `wellhead expand`: the far side of packed frames. It takes them from a broker and makes readings
//! of them again: lines on standard output, or messages on plain topics.
//!
//! Invariant: frames are acknowledged when their readings are written, or are at the broker, and
//! not before. Frames whose schema is missing wait for it, up to [`MOST_WAITING`] messages.

mod output;

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::client::{BrokerAccess, Client};
use super::{Failure, filter, say};
use crate::files;
use crate::mqtt::{Publish, TopicFilter, TopicName};
use crate::payload::{Expanded, Expander, UnpackedReading};
use output::ReadingOutput;

/// Messages that wait for a schema; fewer than a broker usually leaves unacknowledged.
const MOST_WAITING: usize = 15;
const LARGEST_STATE: u64 = 1 << 30;

/// How readings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum PrintedAs {
    /// One JSON object a line
    #[default]
    Ndjson,
    /// Comma-separated values, with a header
    Csv,
    /// Line protocol of InfluxDB
    Line,
}

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct ExpandArguments {
    #[command(flatten)]
    access: BrokerAccess,
    /// How readings are printed
    #[arg(long = "as", value_name = "FORMAT", value_enum, default_value_t)]
    printed_as: PrintedAs,
    /// Publish readings on this prefix and their local topics instead of printing them
    #[arg(long, value_name = "PREFIX", conflicts_with = "printed_as")]
    publish: Option<String>,
    /// Publish bare values instead of JSON
    #[arg(long, requires = "publish")]
    value: bool,
    /// Let the broker keep messages under this client identifier while this does not run
    #[arg(long, value_name = "CLIENT_ID")]
    session: Option<String>,
    /// Share the load with others of this group, by a shared subscription
    #[arg(long, value_name = "GROUP")]
    share: Option<String>,
    /// File that remembers which readings were seen, so that repeated ones are left out after a
    /// restart, too
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Exit after this many readings
    #[arg(long, short = 'n', value_name = "COUNT")]
    count: Option<u64>,
    /// The topics of the frames, with + and #
    #[arg(required = true, value_parser = filter)]
    filters: Vec<TopicFilter>,
}

/// Expands frames until it is interrupted, the reader closes the pipe, or the readings that were
/// asked for are there.
pub(super) fn expand(arguments: ExpandArguments) -> Result<(), Failure> {
    let schemas = schema_filters(&arguments.filters)?;
    let frames = shared(&arguments.filters, arguments.share.as_deref())?;
    let mut client = arguments.access.connect_as(arguments.session.as_deref())?;
    let mut expansion = Expansion {
        expander: restored(&arguments)?,
        output: ReadingOutput::new(&arguments)?,
        waiting: VecDeque::new(),
        told: HashSet::new(),
        state: arguments.state,
        left: arguments.count,
    };
    // Schemas first: they are retained, and come before frames that need them.
    client.subscribe(&schemas)?;
    client.subscribe(&frames)?;
    while !expansion.is_done() {
        if let Some(message) = client.unacknowledged(None)? {
            expansion.take(message, &mut client)?;
        }
    }
    Ok(())
}

/// Where the schemas of frames on these topics are.
fn schema_filters(frames: &[TopicFilter]) -> Result<Vec<TopicFilter>, Failure> {
    let schema = |frames: &TopicFilter| {
        let frames = frames.as_str();
        // That covers them already.
        let text = if frames.ends_with('#') {
            frames.to_owned()
        } else {
            format!("{frames}/meta/+")
        };
        TopicFilter::new(text).map_err(Failure::runtime)
    };
    frames.iter().map(schema).collect()
}

fn shared(frames: &[TopicFilter], group: Option<&str>) -> Result<Vec<TopicFilter>, Failure> {
    let Some(group) = group else {
        return Ok(frames.to_vec());
    };
    let shared = |frames: &TopicFilter| {
        if frames.as_str().ends_with('#') {
            // Its schemas are on topics of the same filter, and every instance needs them.
            return Err(Failure::runtime(format!(
                "--share {group}: {frames} covers schemas, too; name the topics of the frames without #, such as oilco/+/frames"
            )));
        }
        TopicFilter::new(format!("$share/{group}/{frames}")).map_err(|error| {
            Failure::runtime(format!(
                "--share {group}: {error}; write a name without / + and #"
            ))
        })
    };
    frames.iter().map(shared).collect()
}

fn restored(arguments: &ExpandArguments) -> Result<Expander, Failure> {
    let Some(path) = &arguments.state else {
        return Ok(Expander::default());
    };
    let failed = |what: &dyn std::fmt::Display| {
        Failure::runtime(format!(
            "{}: {what}; name a file of `wellhead expand --state`, or remove it: readings that come again will count as new",
            path.display()
        ))
    };
    match files::bytes(path, LARGEST_STATE) {
        Ok(saved) => Expander::restored(&saved).ok_or_else(|| failed(&"damaged")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Expander::default()),
        Err(error) => Err(failed(&error)),
    }
}

/// What runs.
struct Expansion {
    expander: Expander,
    output: ReadingOutput,
    /// Messages whose schema is missing; not acknowledged.
    waiting: VecDeque<Publish>,
    /// What was said of a topic.
    told: HashSet<String>,
    state: Option<PathBuf>,
    /// How many readings are left to be printed.
    left: Option<u64>,
}

impl Expansion {
    fn is_done(&self) -> bool {
        self.left == Some(0) || self.output.is_closed()
    }

    fn take(&mut self, message: Publish, client: &mut Client) -> Result<(), Failure> {
        let Some(topic) = message.topic.clone() else {
            return client.acknowledge(&message);
        };
        if let Some(frames) = frames_of_schema(&topic) {
            if let Err(error) = self.expander.schema(&frames, &message.payload) {
                self.tell(&topic, &error.to_string());
            }
            client.acknowledge(&message)?;
            for waiting in std::mem::take(&mut self.waiting) {
                self.take(waiting, client)?;
            }
            return Ok(());
        }
        match self.expander.expand(&topic, &message.payload) {
            Expanded::Readings(readings) => {
                let is_whole = self.write(readings, client)?;
                if !is_whole {
                    // It comes again for the next run.
                    return Ok(());
                }
                self.save()?;
                client.acknowledge(&message)
            }
            Expanded::SchemaMissing(hash) => self.wait(message, &topic, &hash),
            Expanded::Unreadable(why) => {
                self.tell(&topic, &why);
                client.acknowledge(&message)
            }
        }
    }

    /// Writes readings. False if some of them are not written.
    fn write(
        &mut self,
        mut readings: Vec<UnpackedReading>,
        client: &mut Client,
    ) -> Result<bool, Failure> {
        let found = readings.len();
        if let Some(left) = &mut self.left {
            readings.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= readings.len() as u64;
        }
        let is_whole = readings.len() == found;
        self.output.write(readings, client)?;
        Ok(is_whole && !self.output.is_closed())
    }

    fn wait(&mut self, message: Publish, topic: &TopicName, hash: &str) -> Result<(), Failure> {
        if self.waiting.len() >= MOST_WAITING {
            return Err(Failure::runtime(format!(
                "{topic}: frames wait for their schema, and {topic}/meta/{hash} does not come; allow this client to read it, or restart the gateway that sends the frames: it publishes its schemas again"
            )));
        }
        self.waiting.push_back(message);
        Ok(())
    }

    /// Says once of each topic what is wrong with it.
    fn tell(&mut self, topic: &TopicName, why: &str) {
        if self.told.insert(topic.to_string()) {
            say(&format!("{topic}: {why}; such messages are left out"));
        }
    }

    fn save(&self) -> Result<(), Failure> {
        let Some(path) = &self.state else {
            return Ok(());
        };
        let new = path.with_extension("new");
        let saved = self.expander.saved();
        let written =
            files::write_over(&new, saved.as_bytes()).and_then(|()| fs::rename(&new, path));
        written.map_err(|error| {
            Failure::runtime(format!(
                "{}: {error}; name a file in a folder that you may write to",
                path.display()
            ))
        })
    }
}

/// The topic of the frames whose schema a message on this topic is.
fn frames_of_schema(topic: &TopicName) -> Option<TopicName> {
    let (rest, hash) = topic.as_str().rsplit_once('/')?;
    let frames = rest.strip_suffix("/meta")?;
    let is_hash = hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash {
        TopicName::new(frames.to_owned()).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_known_by_its_topic() {
        let frames = |text: &'static str| {
            let topic = TopicName::new(text).unwrap();
            frames_of_schema(&topic).map(|topic| topic.to_string())
        };
        assert_eq!(
            frames("oilco/s7/frames/meta/0a1b2c3d"),
            Some("oilco/s7/frames".to_owned())
        );
        for other in [
            "oilco/s7/frames",
            "oilco/meta/flow",
            "meta/0a1b2c3d",
            "a/meta/0a1b2c3g",
        ] {
            assert_eq!(frames(other), None, "{other}");
        }
    }
}
