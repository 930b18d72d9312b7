//! `wellhead trace`: the frames on a line of the running gateway, decoded.
//!
//! The gateway only copies bytes; they are decoded here, with the YAML file.

mod decoding;
mod frames;

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value as Json, json};

use super::columns::{width, wrapped};
use super::line_access::{call, unexpected};
use super::reload::gateway_in;
use super::{Failure, chosen, put};
use crate::config;
use crate::field::Line;
use crate::field::trace::Framing;
use crate::log::Printable;
use crate::status::control::{ControlRequest, Reply};
use crate::time::{now, rfc3339};
use crate::units::Span;
use decoding::{LineDecoder, escaped, hex};
use frames::{Assembler, Spoken, TraceEvent, Transaction};

/// The silence after which an unfinished event is shown as it is.
const PAUSE: Duration = Duration::from_millis(100);

/// The arguments of the command.
#[derive(Debug, Args)]
#[command(
    after_help = "Times are UTC. `>` marks what was sent, `<` what was received and how long it took.

Examples:
  wellhead trace bus-a                           until Ctrl-C
  wellhead trace bus-a --for 10s --raw           with the bytes
  wellhead trace bus-a -n 20 --json | jq -r 'select(.outcome != \"answered\")'"
)]
pub(super) struct Trace {
    /// A line of the YAML file; without it, list the lines
    line: Option<String>,
    /// The YAML file of the gateway [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Show the bytes too
    #[arg(long)]
    raw: bool,
    /// Print JSON: an object for each request with its answer
    #[arg(long)]
    json: bool,
    /// Exit after this time
    #[arg(long = "for", value_name = "TIME")]
    time: Option<Span>,
    /// Exit after this many requests, or messages of plain instruments and meters
    #[arg(long, short = 'n')]
    count: Option<u64>,
}

/// Shows the frames of a line up to the limits that were given, or until the reader closes the
/// pipe.
pub(super) fn trace(trace: &Trace) -> Result<(), Failure> {
    let config = config::load(&chosen(trace.file.clone())?)?;
    let line = line(trace, &config)?;
    let mut gateway = gateway_in(&config.folder)?;
    let request = ControlRequest::Trace {
        line: line.name.clone(),
    };
    let (framing, unix_ms) = match call(&mut gateway, &request)? {
        Reply::Tracing { framing, unix_ms } => (framing, unix_ms),
        Reply::Refused(why) => return Err(Failure::runtime(why)),
        _ => return Err(unexpected()),
    };
    gateway
        .get_ref()
        .set_read_timeout(Some(PAUSE))
        .map_err(Failure::runtime)?;
    let decoder = LineDecoder {
        config: &config,
        line,
        framing,
    };
    let output = TraceOutput {
        trace,
        decoder,
        unix_ms,
        left: trace.count,
    };
    follow(gateway, Assembler::new(framing), output)
}

/// Shows what the gateway sends.
fn follow(
    mut gateway: BufReader<UnixStream>,
    mut assembler: Assembler,
    mut output: TraceOutput<'_>,
) -> Result<(), Failure> {
    let until = output.trace.time.as_ref().map(|time| now() + time.0);
    let mut buffer = Vec::new();
    while output.left != Some(0) && until.is_none_or(|until| now() < until) {
        let events = match next(&mut gateway, &mut buffer)? {
            Some(Reply::Traced(traced)) => assembler.push(traced),
            Some(Reply::Refused(why)) => return Err(Failure::runtime(why)),
            Some(_) => return Err(unexpected()),
            None => assembler.pause(),
        };
        if !output.show(events)? {
            return Ok(());
        }
    }
    output.show(assembler.flush()).map(drop)
}

/// The line that is named; the error lists all lines.
fn line<'a>(trace: &Trace, config: &'a config::Gateway) -> Result<&'a Line, Failure> {
    let names: Vec<&str> = config.lines.iter().map(|line| line.name.as_str()).collect();
    let list = names.join(", ");
    let Some(wanted) = &trace.line else {
        return Err(Failure {
            code: super::USAGE,
            message: format!("name a line: {list}"),
        });
    };
    config
        .lines
        .iter()
        .find(|line| line.name == *wanted)
        .ok_or_else(|| {
            let hint = config::suggestion(wanted, names.iter().copied());
            Failure::runtime(format!(
                "there is no line \"{wanted}\"; {hint}; the lines are {list}"
            ))
        })
}

/// The next reply of the gateway; `None` if there is none for a while.
fn next(
    gateway: &mut BufReader<UnixStream>,
    buffer: &mut Vec<u8>,
) -> Result<Option<Reply>, Failure> {
    match gateway.read_until(b'\n', buffer) {
        Ok(_) if buffer.ends_with(b"\n") => {
            let reply = serde_json::from_slice(buffer);
            buffer.clear();
            reply.map(Some).map_err(|_| {
                Failure::runtime("the running gateway is of another version; restart it")
            })
        }
        Ok(_) => Err(Failure::runtime(
            "the gateway ended the trace; is it stopping?",
        )),
        // A part of a line stays in the buffer.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Failure::runtime(format!(
            "lost the connection to the gateway: {error}"
        ))),
    }
}

/// Prints events as text or as JSON.
struct TraceOutput<'a> {
    trace: &'a Trace,
    decoder: LineDecoder<'a>,
    /// When the trace began.
    unix_ms: i64,
    /// How many are still to be shown.
    left: Option<u64>,
}

impl TraceOutput<'_> {
    /// False if the reader has closed the pipe.
    fn show(&mut self, events: Vec<TraceEvent>) -> Result<bool, Failure> {
        for event in events {
            if self.left == Some(0) {
                return Ok(true);
            }
            let text = if self.trace.json {
                self.json(&event)
            } else {
                self.text(&event, width())
            };
            if !put(text.as_bytes())? {
                return Ok(false);
            }
            let is_counted = matches!(event, TraceEvent::Transaction(_) | TraceEvent::Spoken(_));
            self.left = self
                .left
                .map(|left| left.saturating_sub(u64::from(is_counted)));
        }
        Ok(true)
    }

    fn time(&self, at_us: u64) -> String {
        rfc3339(
            self.unix_ms
                .saturating_add(i64::try_from(at_us / 1000).unwrap_or(0)),
        )
    }

    /// The start of a line: the time of day and a mark.
    fn head(&self, at_us: u64, mark: &str) -> String {
        let time = self.time(at_us);
        format!("{} {mark} ", time.get(11..23).unwrap_or(&time))
    }

    fn text(&self, event: &TraceEvent, width: usize) -> String {
        match event {
            TraceEvent::Lost(lost) => wrapped(
                &format!("{:>14} ", '-'),
                &format!("{lost} events were lost, because they came faster than they were read"),
                width,
            ),
            TraceEvent::Opened { at_us } => {
                wrapped(&self.head(*at_us, "-"), "the line was opened", width)
            }
            TraceEvent::Note { at_us, text } => {
                wrapped(&self.head(*at_us, "-"), &Printable(text).to_string(), width)
            }
            TraceEvent::Transaction(transaction) => self.transaction_text(transaction, width),
            TraceEvent::Spoken(spoken) => {
                let mark = if spoken.is_sent { ">" } else { "<" };
                let text = format!("{}{}", self.said(spoken), after(spoken.gap_us));
                wrapped(&self.head(spoken.at_us, mark), &text, width)
                    + &self.bytes(&spoken.bytes, width)
            }
        }
    }

    fn transaction_text(&self, transaction: &Transaction, width: usize) -> String {
        let decoded = self.decoder.decode(transaction);
        let request = format!("{}{}", decoded.request(), after(transaction.gap_us));
        let took = span(transaction.ended_us.saturating_sub(transaction.at_us));
        let answer = Printable(&decoded.answer()).to_string();
        wrapped(&self.head(transaction.at_us, ">"), &request, width)
            + &self.bytes(&transaction.sent, width)
            + &wrapped(&format!("{took:>12} < "), &answer, width)
            + &self.bytes(&transaction.received, width)
    }

    fn said(&self, spoken: &Spoken) -> String {
        match self.decoder.framing {
            Framing::Plain => format!("\"{}\"", escaped(&spoken.bytes)),
            Framing::Meter => self.decoder.telegram(&spoken.bytes).unwrap_or_default(),
            Framing::Rtu | Framing::Ascii | Framing::Tcp => {
                let (count, bytes) = (spoken.bytes.len(), hex(&spoken.bytes));
                format!("{count} unsolicited bytes: {bytes}")
            }
        }
    }

    fn bytes(&self, bytes: &[u8], width: usize) -> String {
        if self.trace.raw && !bytes.is_empty() {
            wrapped(&" ".repeat(15), &hex(bytes), width)
        } else {
            String::new()
        }
    }

    fn json(&self, event: &TraceEvent) -> String {
        let (at_us, name) = match event {
            TraceEvent::Lost(_) => (None, "lost"),
            TraceEvent::Opened { at_us } => (Some(*at_us), "opened"),
            TraceEvent::Note { at_us, .. } => (Some(*at_us), "note"),
            TraceEvent::Transaction(transaction) => (Some(transaction.at_us), "exchange"),
            TraceEvent::Spoken(spoken) if spoken.is_sent => (Some(spoken.at_us), "sent"),
            TraceEvent::Spoken(spoken) => (Some(spoken.at_us), "received"),
        };
        let time = at_us.map(|at_us| self.time(at_us));
        let first = json!({ "time": time, "line": self.decoder.line.name, "event": name });
        let decoded = match event {
            TraceEvent::Transaction(transaction) => self.decoder.decode(transaction).json(),
            TraceEvent::Spoken(spoken) => match self.decoder.telegram(&spoken.bytes) {
                Some(telegram) => json!({ "telegram": telegram }),
                None => json!({}),
            },
            _ => json!({}),
        };
        let fields: serde_json::Map<String, Json> = [first, decoded, details(event)]
            .into_iter()
            .filter_map(|part| part.as_object().cloned())
            .flatten()
            .collect();
        Printable::json(&Json::from(fields).to_string()) + "\n"
    }
}

/// The fields that an event has of its own.
fn details(event: &TraceEvent) -> Json {
    let ms = |us: u64| json!(Duration::from_micros(us).as_secs_f64() * 1000.0);
    let gap = |us: Option<u64>| us.map_or(json!(null), ms);
    match event {
        TraceEvent::Lost(lost) => json!({ "lost": lost }),
        TraceEvent::Opened { .. } => json!({}),
        TraceEvent::Note { text, .. } => json!({ "outcome": text }),
        TraceEvent::Transaction(transaction) => json!({
            "gap_ms": gap(transaction.gap_us),
            "took_ms": ms(transaction.ended_us.saturating_sub(transaction.at_us)),
            "sent": hex(&transaction.sent),
            "received": hex(&transaction.received),
        }),
        TraceEvent::Spoken(spoken) => json!({
            "gap_ms": gap(spoken.gap_us),
            "text": escaped(&spoken.bytes),
            "bytes": hex(&spoken.bytes),
        }),
    }
}

/// The silence before an event.
fn after(gap_us: Option<u64>) -> String {
    gap_us.map_or_else(String::new, |gap| format!(" (after {})", span(gap)))
}

/// A time with three significant digits.
fn span(us: u64) -> String {
    let ms = Duration::from_micros(us).as_secs_f64() * 1000.0;
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000 => format!("{ms:.2} ms"),
        10_000..100_000 => format!("{ms:.1} ms"),
        100_000..1_000_000 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}
