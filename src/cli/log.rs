//! The log: lines on stderr, or entries of the journal when systemd has connected stderr with it.
//!
//! An entry of the journal has the level as its priority, the sentence with its fields as its message, and each field once more by
//! itself, `line=plant` as `WELLHEAD_LINE=plant`, so that `journalctl WELLHEAD_LINE=plant` finds it.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of one field; the journal takes no datagram much larger without a file of its own.
const LONGEST: usize = 16 * 1024;

/// Begins to log; `WELLHEAD_LOG` sets the level (`info` without it).
pub(super) fn start() {
    let filter = EnvFilter::try_from_env("WELLHEAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call (tests) keeps the first subscriber.
    let _ = match Journal::connect() {
        Some(journal) => registry().with(filter).with(journal).try_init(),
        None => {
            let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
            registry().with(filter).with(lines).try_init()
        }
    };
}

/// A line for whoever reads stderr: an error, where that is the journal.
pub(super) fn prefix() -> &'static str {
    if leads_to_journal() { "<3>" } else { "" }
}

/// True if systemd has connected stderr with the journal.
fn leads_to_journal() -> bool {
    let (stream, stderr) = (std::env::var("JOURNAL_STREAM"), rustix::fs::fstat(io::stderr()));
    matches!((stream, stderr), (Ok(stream), Ok(stderr)) if stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// The journal's socket.
struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// `None` if stderr does not lead to the journal.
    fn connect() -> Option<Self> {
        if !leads_to_journal() {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = Entry::of(event);
        match self.socket.send(&entry.encode()) {
            Ok(_) => {}
            // A journal that hangs must not take the gateway with it: what it does not take is lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The other way there; if that fails too, nobody is left to be told.
            Err(_) => drop(writeln!(io::stderr(), "<{}>{}", entry.priority, entry.message())),
        }
    }
}

/// An event in the words of the journal.
struct Entry {
    priority: u8,
    sentence: String,
    fields: Vec<(&'static str, String)>,
}

impl Entry {
    fn of(event: &Event<'_>) -> Self {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut entry = Self { priority, sentence: String::new(), fields: Vec::new() };
        event.record(&mut entry);
        entry
    }

    /// As a person reads it.
    fn message(&self) -> String {
        let mut text = self.sentence.clone();
        for (name, value) in &self.fields {
            // Writing to a text cannot fail.
            let _ = if value.contains(char::is_whitespace) { write!(text, " {name}={value:?}") } else { write!(text, " {name}={value}") };
        }
        text
    }

    /// As the journal takes it: `NAME=value` where the value is one line, else `NAME`, its length and the value.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut put = |name: &str, value: &str| {
            let value = value.get(..value.floor_char_boundary(LONGEST)).unwrap_or(value);
            out.extend_from_slice(name.as_bytes());
            if value.contains('\n') {
                out.push(b'\n');
                out.extend_from_slice(&(value.len() as u64).to_le_bytes());
            } else {
                out.push(b'=');
            }
            out.extend_from_slice(value.as_bytes());
            out.push(b'\n');
        };
        put("PRIORITY", &self.priority.to_string());
        put("SYSLOG_IDENTIFIER", "wellhead");
        put("MESSAGE", &self.message());
        for (name, value) in &self.fields {
            let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            put(&format!("WELLHEAD_{name}"), value);
        }
        out
    }

    fn take(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.sentence = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.take(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_level_its_sentence_and_each_field() {
        let entry = Entry {
            priority: 4,
            sentence: "line is down; trying again".to_owned(),
            fields: vec![("line", "plant".to_owned()), ("why", "no\nanswer".to_owned())],
        };
        assert_eq!(entry.message(), "line is down; trying again line=plant why=\"no\\nanswer\"");
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=wellhead\nMESSAGE=line is down; trying again line=plant why=\"no\\nanswer\"\n\
            WELLHEAD_LINE=plant\nWELLHEAD_WHY\n\x09\0\0\0\0\0\0\0no\nanswer\n";
        assert_eq!(entry.encode(), expected);
    }

    #[test]
    fn a_field_that_is_too_long_is_cut_between_characters() {
        let entry = Entry { priority: 6, sentence: "ü".repeat(LONGEST), fields: Vec::new() };
        let text = String::from_utf8(entry.encode()).unwrap();
        assert!(text.ends_with("ü\n") && text.len() < LONGEST + 100);
    }
}
