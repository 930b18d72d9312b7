//! The log: lines on stderr, or entries of the journal when systemd has connected stderr to it; or
//! JSON, an object a line on stderr.
//!
//! An entry of the journal has the level as its priority, the sentence with its fields as its
//! message, and each field once more by itself, `line=plant` as `WELLHEAD_LINE=plant`, so that
//! `journalctl WELLHEAD_LINE=plant` finds it.
//!
//! Invariants: an entry is one line whatever its texts hold, because they may come from peers: they
//! are escaped here, for both ways. A value with spaces, quotes or `=` is quoted, so that none can
//! be taken for another field.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::net::UnixDatagram;

use serde::Serialize;
use serde_json::Value as Json;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

use super::{CONFIG, Failure};
use crate::log::{Format, Printable};
use crate::time::{rfc3339, unix_ms};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of one field; the journal takes no datagram much larger without a file of its own.
const LONGEST: usize = 16 * 1024;
/// Bytes of one field as it is shown; texts of peers are cut far shorter where they are logged.
const SHOWN: usize = 4 * 1024;

/// Which lines are written.
const LEVEL: &str = "WELLHEAD_LOG";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Begins to log; `WELLHEAD_LOG` sets the level (`info` without it).
pub(super) fn start(format: Format) -> Result<(), Failure> {
    let filter = match std::env::var_os(LEVEL) {
        None => EnvFilter::new("info"),
        Some(typed) => filter(&typed.to_string_lossy()).map_err(|message| Failure {
            code: CONFIG,
            message,
        })?,
    };
    // A second call (tests) keeps the first subscriber.
    let _ = match (format, SystemdJournal::connect()) {
        (Format::Json, _) => registry().with(filter).with(Objects).try_init(),
        (Format::Text, Some(journal)) => registry().with(filter).with(journal).try_init(),
        (Format::Text, None) => {
            let ansi = io::stderr().is_terminal();
            let lines = tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(ansi)
                .with_target(false)
                .fmt_fields(TextFields);
            registry().with(filter).with(lines).try_init()
        }
    };
    Ok(())
}

/// A level, or several parts of the program with a level each. A word that is no level would be
/// taken for the name of a part.
fn filter(typed: &str) -> Result<EnvFilter, String> {
    let known = || LEVELS.join(", ");
    for part in typed
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (target, level) = part
            .split_once('=')
            .map_or((None, part), |(target, level)| (Some(target), level));
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let hint = crate::config::suggestion(level, LEVELS);
            return Err(format!(
                "{LEVEL}={typed}: \"{level}\" is not a level; {hint}. The levels are {}; a part of the program has one of its own in {LEVEL}=info,wellhead::field=debug",
                known()
            ));
        }
        let is_name = |target: &str| {
            !target.is_empty()
                && target
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
        };
        if target.is_some_and(|target| !is_name(target)) {
            return Err(format!(
                "{LEVEL}={typed}: \"{part}\" names no part of the program; write a level ({}), or wellhead::field=debug",
                known()
            ));
        }
    }
    let wanted: Vec<&str> = typed
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    EnvFilter::try_new(if wanted.is_empty() {
        "info".to_owned()
    } else {
        wanted.join(",")
    })
    .map_err(|error| format!("{LEVEL}={typed}: {error}; write one of {}", known()))
}

/// Writes an object a line to stderr.
struct Objects;

/// A line of the log for programs.
#[derive(Debug, Serialize)]
struct Object {
    time: String,
    level: &'static str,
    /// The part of the program, as `WELLHEAD_LOG` takes it.
    target: &'static str,
    message: String,
    fields: serde_json::Map<String, Json>,
}

impl Object {
    fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let (time, level, target) = (
            rfc3339(unix_ms()),
            metadata.level().as_str(),
            metadata.target(),
        );
        let mut object = Self {
            time,
            level,
            target,
            message: String::new(),
            fields: serde_json::Map::new(),
        };
        event.record(&mut object);
        object
    }

    fn take(&mut self, field: &Field, value: impl Into<Json>) {
        match (field.name(), value.into()) {
            ("message", Json::String(text)) => {
                self.message = Printable::cut(&text, SHOWN).into_owned();
            }
            (name, Json::String(text)) => drop(
                self.fields
                    .insert(name.to_owned(), Printable::cut(&text, SHOWN).into()),
            ),
            (name, value) => drop(self.fields.insert(name.to_owned(), value)),
        }
    }

    fn line(&self) -> String {
        // There is nothing in it that JSON cannot show.
        Printable::json(&serde_json::to_string(self).unwrap_or_default()) + "\n"
    }
}

impl<S: Subscriber> Layer<S> for Objects {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Without stderr there is no other place for it.
        let _ = io::stderr().write_all(Object::of(event).line().as_bytes());
    }
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.take(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

/// The start of a line on stderr: the priority of an error, if stderr is the journal.
pub(super) fn prefix() -> &'static str {
    if leads_to_journal() { "<3>" } else { "" }
}

/// True if systemd has connected stderr to the journal.
fn leads_to_journal() -> bool {
    let (stream, stderr) = (
        std::env::var("JOURNAL_STREAM"),
        rustix::fs::fstat(io::stderr()),
    );
    matches!((stream, stderr), (Ok(stream), Ok(stderr)) if stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// A value as it is written behind its name: in quotes, if it could be taken for several.
fn shown(value: &str) -> String {
    let is_plain =
        !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
    if is_plain {
        Printable(value).to_string()
    } else {
        Printable(&format!("{value:?}")).to_string()
    }
}

/// Writes the sentence and the fields of a line on stderr.
struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = TextLine {
            writer,
            is_begun: false,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

/// A line on stderr as it is written.
struct TextLine<'w> {
    writer: Writer<'w>,
    is_begun: bool,
    result: fmt::Result,
}

impl TextLine<'_> {
    fn take(&mut self, field: &Field, value: &str) {
        let gap = if self.is_begun { " " } else { "" };
        self.is_begun = true;
        let value = &*Printable::cut(value, SHOWN);
        let written = match field.name() {
            "message" => write!(self.writer, "{gap}{}", Printable(value)),
            name => write!(self.writer, "{gap}{name}={}", shown(value)),
        };
        self.result = self.result.and(written);
    }
}

impl Visit for TextLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.take(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, &format!("{value:?}"));
    }
}

/// The journal's socket.
struct SystemdJournal {
    socket: UnixDatagram,
}

impl SystemdJournal {
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

impl<S: Subscriber> Layer<S> for SystemdJournal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = JournalEntry::of(event);
        match self.socket.send(&entry.encode()) {
            Ok(_) => {}
            // A journal that hangs must not block the gateway: such lines are lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // stderr leads to the journal, too; there is no third way.
            Err(_) => drop(writeln!(
                io::stderr(),
                "<{}>{}",
                entry.priority,
                entry.message()
            )),
        }
    }
}

/// An event as an entry of the journal.
struct JournalEntry {
    priority: u8,
    sentence: String,
    fields: Vec<(&'static str, String)>,
}

impl JournalEntry {
    fn of(event: &Event<'_>) -> Self {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut entry = Self {
            priority,
            sentence: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut entry);
        entry
    }

    /// The text for people.
    fn message(&self) -> String {
        let mut text = Printable(&self.sentence).to_string();
        for (name, value) in &self.fields {
            // Writing to a text cannot fail.
            let _ = write!(text, " {name}={}", shown(value));
        }
        text
    }

    /// As the journal takes it: `NAME=value` where the value is one line, else `NAME`, its length
    /// and the value.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut put = |name: &str, value: &str| {
            let value = value
                .get(..value.floor_char_boundary(LONGEST))
                .unwrap_or(value);
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
            let name: String = name
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        c.to_ascii_uppercase()
                    } else {
                        '_'
                    }
                })
                .collect();
            put(&format!("WELLHEAD_{name}"), &Printable::lines(value));
        }
        out
    }

    fn take(&mut self, field: &Field, value: String) {
        let value = Printable::cut(&value, SHOWN).into_owned();
        if field.name() == "message" {
            self.sentence = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for JournalEntry {
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
        let entry = JournalEntry {
            priority: 4,
            sentence: "line is down; trying again".to_owned(),
            fields: vec![
                ("line", "plant".to_owned()),
                ("why", "no\nanswer".to_owned()),
            ],
        };
        assert_eq!(
            entry.message(),
            "line is down; trying again line=plant why=\"no\\nanswer\""
        );
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=wellhead\nMESSAGE=line is down; trying again line=plant why=\"no\\nanswer\"\n\
            WELLHEAD_LINE=plant\nWELLHEAD_WHY\n\x09\0\0\0\0\0\0\0no\nanswer\n";
        assert_eq!(entry.encode(), expected);
    }

    #[test]
    fn texts_of_peers_stay_one_line_and_one_field() {
        let forged = "x\n2026 ERROR gone\x1b[2J address=192.0.2.9";
        let entry = JournalEntry {
            priority: 6,
            sentence: forged.to_owned(),
            fields: vec![("user", forged.to_owned())],
        };
        let text = entry.message();
        assert!(
            !text.contains(char::is_control) && text.matches(" address=").count() == 2,
            "{text}"
        );
        assert_eq!(
            shown(forged),
            r#""x\n2026 ERROR gone\u{1b}[2J address=192.0.2.9""#
        );
        assert_eq!(
            (shown("plant"), shown(""), shown("\"a")),
            (
                "plant".to_owned(),
                "\"\"".to_owned(),
                "\"\\\"a\"".to_owned()
            )
        );
        assert_eq!(shown("\x1b[2J\u{202e}"), "\\u{1b}[2J\\u{202e}");
        assert!(!String::from_utf8(entry.encode()).unwrap().contains('\x1b'));
    }

    #[test]
    fn lines_on_stderr_are_escaped_by_the_layer_itself() {
        let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let writer = out.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || Tee(writer.clone()))
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(TextFields);
        tracing::subscriber::with_default(registry().with(layer), || {
            tracing::info!(event = "test.forged", reason = %"bye\nERROR \x1b[31mforged", plain = "pump", number = 7, "refused: {}", "a\r\nb");
        });
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            " INFO refused: a\\u{d}\\u{a}b event=test.forged reason=\"bye\\nERROR \\u{1b}[31mforged\" plain=pump number=7\n"
        );
    }

    struct Tee(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Tee {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_text_makes_a_line_without_end() {
        let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let writer = out.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || Tee(writer.clone()))
            .fmt_fields(TextFields);
        let long = "\u{1b}ü".repeat(30_000);
        tracing::subscriber::with_default(
            registry().with(layer),
            || tracing::info!(plain = %long, quoted = ?long, "{long}"),
        );
        let length = out.lock().unwrap().len();
        assert!(length < 6 * SHOWN, "{length} bytes");
    }

    #[test]
    fn a_level_that_is_none_is_an_error_with_those_there_are() {
        for right in [
            "debug",
            "INFO",
            "off",
            "",
            "warn,wellhead::field=debug",
            "info, wellhead=trace",
        ] {
            assert!(filter(right).is_ok(), "{right}");
        }
        for wrong in [
            "debugg",
            "2x",
            "verbose",
            "info,wellhead::field",
            "wellhead=loud",
            "=debug",
            "wellhead[x]=debug",
        ] {
            let told = filter(wrong).unwrap_err();
            assert!(
                told.starts_with(&format!("WELLHEAD_LOG={wrong}: "))
                    && told.contains("off, error, warn, info, debug, trace"),
                "{told}"
            );
        }
        assert!(
            filter("debugg")
                .unwrap_err()
                .contains("did you mean \"debug\"?")
        );
    }

    #[test]
    fn a_log_of_objects_keeps_numbers_and_one_line_each() {
        let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        struct Keep(std::sync::Arc<std::sync::Mutex<Vec<String>>>);
        impl<S: Subscriber> Layer<S> for Keep {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                self.0.lock().unwrap().push(Object::of(event).line());
            }
        }
        tracing::subscriber::with_default(registry().with(Keep(lines.clone())), || {
            tracing::warn!(event = "line.down", line = "bus", times = 3, is_new = true, why = %"a\nb\u{9b}31m", "the {} is gone", "wire\n");
        });
        let line = lines.lock().unwrap()[0].clone();
        assert!(
            line.ends_with("}\n") && line.trim_end().chars().all(|c| !c.is_control()),
            "{line}"
        );
        assert!(line.starts_with("{\"time\":\"20"), "{line}");
        let object: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&object["level"], &object["message"]),
            (&"WARN".into(), &"the wire\n is gone".into())
        );
        assert_eq!(object["target"], "wellhead::cli::log::tests");
        let fields = serde_json::json!({ "event": "line.down", "line": "bus", "times": 3, "is_new": true, "why": "a\nb\u{9b}31m" });
        assert_eq!(object["fields"], fields);
    }

    #[test]
    fn a_field_that_is_too_long_is_cut_between_characters() {
        let entry = JournalEntry {
            priority: 6,
            sentence: "ü".repeat(LONGEST),
            fields: Vec::new(),
        };
        let text = String::from_utf8(entry.encode()).unwrap();
        assert!(text.ends_with("ü\n") && text.len() < LONGEST + 100);
    }
}
