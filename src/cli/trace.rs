//! `wellhead trace`: the frames of a line of a gateway that runs, with their meaning.
//!
//! The gateway copies bytes for whoever traces and does nothing else; what they mean is found out here, by the YAML file.

mod frames;
mod meaning;

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value as Json, json};

use super::columns::{width, wrapped};
use super::line::{call, unexpected};
use super::reload::gateway_in;
use super::{Failure, chosen, put};
use crate::config;
use crate::field::Line;
use crate::log::Printable;
use crate::status::control::{Reply, Request};
use crate::time::{now, rfc3339};
use crate::units::Span;
use frames::{Assembler, Exchange, Shown, Spoken};
use meaning::{Meaning, escaped, hex};

/// How long what was begun is waited for before it is shown as it is.
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
    /// Exit after this many requests, or messages of plain instruments
    #[arg(long, short = 'n')]
    count: Option<u64>,
}

/// Shows the frames of a line until that is enough, or nobody reads any more.
pub(super) fn trace(trace: &Trace) -> Result<(), Failure> {
    let config = config::load(&chosen(trace.file.clone())?)?;
    let line = line(trace, &config)?;
    let mut gateway = gateway_in(&config.folder)?;
    let (framing, unix_ms) = match call(
        &mut gateway,
        &Request::Trace {
            line: line.name.clone(),
        },
    )? {
        Reply::Tracing { framing, unix_ms } => (framing, unix_ms),
        Reply::Refused(why) => return Err(Failure::runtime(why)),
        _ => return Err(unexpected()),
    };
    gateway
        .get_ref()
        .set_read_timeout(Some(PAUSE))
        .map_err(Failure::runtime)?;
    let meaning = Meaning {
        config: &config,
        line,
        framing,
    };
    let mut page = Page {
        trace,
        meaning,
        unix_ms,
        left: trace.count,
    };
    let until = trace.time.as_ref().map(|time| now() + time.0);
    let mut assembler = Assembler::new(framing);
    let mut buffer = Vec::new();
    while page.left != Some(0) && until.is_none_or(|until| now() < until) {
        let shown = match next(&mut gateway, &mut buffer)? {
            Some(Reply::Traced(traced)) => assembler.push(traced),
            Some(Reply::Refused(why)) => return Err(Failure::runtime(why)),
            Some(_) => return Err(unexpected()),
            None => assembler.pause(),
        };
        if !page.show(shown)? {
            return Ok(());
        }
    }
    page.show(assembler.flush()).map(drop)
}

/// The line that is meant; without one an error that lists them.
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

/// The next thing that the gateway shows; `None` if there is none for a while.
fn next(
    gateway: &mut BufReader<UnixStream>,
    buffer: &mut Vec<u8>,
) -> Result<Option<Reply>, Failure> {
    match gateway.read_until(b'\n', buffer) {
        Ok(_) if buffer.ends_with(b"\n") => {
            let reply = serde_json::from_slice(buffer);
            buffer.clear();
            reply.map(Some).map_err(|_| {
                Failure::runtime("the gateway that runs is of another version; restart it")
            })
        }
        Ok(_) => Err(Failure::runtime(
            "the gateway ended the trace; is it stopping?",
        )),
        // What came so far stays in the buffer.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Failure::runtime(format!(
            "the gateway cannot be heard any more: {error}"
        ))),
    }
}

/// Where it is shown.
struct Page<'a> {
    trace: &'a Trace,
    meaning: Meaning<'a>,
    /// When the trace began.
    unix_ms: i64,
    /// How many are still to be shown.
    left: Option<u64>,
}

impl Page<'_> {
    /// False if nobody reads any more.
    fn show(&mut self, shown: Vec<Shown>) -> Result<bool, Failure> {
        for shown in shown {
            if self.left == Some(0) {
                return Ok(true);
            }
            let is_counted = matches!(shown, Shown::Exchange(_) | Shown::Spoken(_));
            let text = match shown {
                shown if self.trace.json => self.json(&shown),
                shown => self.text(&shown),
            };
            if !put(text.as_bytes())? {
                return Ok(false);
            }
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

    fn text(&self, shown: &Shown) -> String {
        let width = width();
        let mut out = String::new();
        match shown {
            Shown::Lost(lost) => {
                let text = format!(
                    "{lost} events were lost, because they came faster than they were read"
                );
                out += &wrapped(&format!("{:>14} ", '-'), &text, width);
            }
            Shown::Opened { at_us } => {
                out += &wrapped(&self.head(*at_us, "-"), "the line was opened", width);
            }
            Shown::Note { at_us, text } => {
                out += &wrapped(&self.head(*at_us, "-"), &Printable(text).to_string(), width);
            }
            Shown::Exchange(exchange) => {
                let told = self.meaning.of(exchange);
                let gap = exchange
                    .gap_us
                    .map_or_else(String::new, |gap| format!(" (after {})", span(gap)));
                out += &wrapped(
                    &self.head(exchange.at_us, ">"),
                    &format!("{}{gap}", told.request()),
                    width,
                );
                out += &self.bytes(&exchange.sent, width);
                let took = span(exchange.ended_us.saturating_sub(exchange.at_us));
                out += &wrapped(
                    &format!("{took:>12} < "),
                    &Printable(&told.answer()).to_string(),
                    width,
                );
                out += &self.bytes(&exchange.received, width);
            }
            Shown::Spoken(spoken) => {
                let gap = spoken
                    .gap_us
                    .map_or_else(String::new, |gap| format!(" (after {})", span(gap)));
                let mark = if spoken.is_sent { ">" } else { "<" };
                out += &wrapped(
                    &self.head(spoken.at_us, mark),
                    &format!("{}{gap}", self.said(spoken)),
                    width,
                );
                out += &self.bytes(&spoken.bytes, width);
            }
        }
        out
    }

    fn said(&self, spoken: &Spoken) -> String {
        if self.meaning.framing == crate::field::trace::Framing::Plain {
            format!("\"{}\"", escaped(&spoken.bytes))
        } else {
            format!(
                "{} bytes that nobody asked for: {}",
                spoken.bytes.len(),
                hex(&spoken.bytes)
            )
        }
    }

    fn bytes(&self, bytes: &[u8], width: usize) -> String {
        if self.trace.raw && !bytes.is_empty() {
            wrapped(&" ".repeat(15), &hex(bytes), width)
        } else {
            String::new()
        }
    }

    fn json(&self, shown: &Shown) -> String {
        let ms = |us: u64| json!(Duration::from_micros(us).as_secs_f64() * 1000.0);
        let gap = |us: Option<u64>| us.map_or(json!(null), ms);
        let (at_us, event, more) = match shown {
            Shown::Lost(lost) => (None, "lost", json!({ "lost": lost })),
            Shown::Opened { at_us } => (Some(*at_us), "opened", json!({})),
            Shown::Note { at_us, text } => (Some(*at_us), "note", json!({ "outcome": text })),
            Shown::Exchange(Exchange {
                at_us,
                gap_us,
                sent,
                received,
                ended_us,
                ..
            }) => {
                let took = ms(ended_us.saturating_sub(*at_us));
                (
                    Some(*at_us),
                    "exchange",
                    json!({ "gap_ms": gap(*gap_us), "took_ms": took, "sent": hex(sent), "received": hex(received) }),
                )
            }
            Shown::Spoken(Spoken {
                at_us,
                gap_us,
                is_sent,
                bytes,
            }) => {
                let event = if *is_sent { "sent" } else { "received" };
                (
                    Some(*at_us),
                    event,
                    json!({ "gap_ms": gap(*gap_us), "text": escaped(bytes), "bytes": hex(bytes) }),
                )
            }
        };
        let told = if let Shown::Exchange(exchange) = shown {
            self.meaning.of(exchange).json()
        } else {
            json!({})
        };
        let first = json!({ "time": at_us.map(|at_us| self.time(at_us)), "line": self.meaning.line.name, "event": event });
        let fields: serde_json::Map<String, Json> = [first, told, more]
            .into_iter()
            .filter_map(|part| part.as_object().cloned())
            .flatten()
            .collect();
        Printable::json(&Json::from(fields).to_string()) + "\n"
    }
}

/// A time with three digits that count.
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
