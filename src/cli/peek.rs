//! `wellhead peek`: the values of registers in every type and byte order, side by side.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::line_access::{LineAccess, LineAddress, Via};
use super::{Failure, put, say};
use crate::config;
use crate::field::decode::guess::{Guess, Match, ORDERS, guess, guesses, matches};
use crate::field::decode::{Bcd, ByteOrder, DataType, Table};
use crate::field::diagnostic::DiagnosticRequest;

/// Matches for `--expect` that are shown.
const MOST_MATCHES: usize = 12;
/// Columns of the output, in a terminal and in a pipe.
const COLUMNS: usize = 80;
/// Registers of one request.
const AT_ONCE: u16 = 60;

/// The arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  wellhead peek inlet                            the first 20 holding registers of a device of the YAML file
  wellhead peek inlet --expect 229.4             find the register that holds 229.4, with the line for the YAML file
  wellhead peek /dev/ttyUSB0/7 --table input     a device that nobody has described yet: <line>/<unit>
  wellhead peek inlet --from 40000 --count 70    registers count from zero: 40001 of a manual is --from 0")]
pub(super) struct Peek {
    /// A device of the YAML file, or <line>/<unit>
    device: String,
    /// holding, input, coil or discrete
    #[arg(long, default_value = "holding", value_parser = table)]
    table: Table,
    /// The first register, from zero
    #[arg(long, default_value_t = 0)]
    from: u16,
    /// Number of registers
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Find the registers that hold this value
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    expect: Option<f64>,
    /// Largest difference from that value, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    tolerance: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    via: Via,
}

fn table(text: &str) -> Result<Table, String> {
    let known = [Table::Holding, Table::Input, Table::Coil, Table::Discrete];
    known
        .into_iter()
        .find(|table| table.name() == text)
        .ok_or_else(|| config::suggestion(text, known.map(Table::name)))
}

/// Adjacent registers that could be read.
struct Run {
    start: u16,
    words: Vec<u16>,
}

/// A register that could not be read, and why.
struct RefusedRegister {
    register: u16,
    why: String,
}

impl RefusedRegister {
    /// The device answers, and could answer for other registers.
    fn is_exception(&self) -> bool {
        self.why.starts_with("exception")
    }
}

/// Reads registers and prints their possible values.
pub(super) fn peek(peek: &Peek) -> Result<(), Failure> {
    let (line, unit) = device(peek)?;
    let mut reader = RegisterReader {
        access: line.open()?,
        unit,
        table: peek.table,
        within: peek.via.within.0,
        runs: Vec::new(),
        refused: Vec::new(),
    };
    reader.read_all(peek.from, peek.count)?;
    let RegisterReader { runs, refused, .. } = reader;
    if let ([], [first, ..]) = (runs.as_slice(), refused.as_slice()) {
        return Err(Failure::runtime(format!(
            "{} {} of unit {unit}: {}",
            peek.table.name(),
            peek.from,
            first.why
        )));
    }
    let out = match (peek.json, peek.expect) {
        (true, _) => as_json(peek, &runs)?,
        (_, Some(expected)) if peek.table.is_bits() => bits_that_are(peek, expected, &runs),
        (_, Some(expected)) => as_matches(peek, expected, &runs),
        _ if peek.table.is_bits() => as_bits(&runs),
        _ => as_table(&runs),
    };
    put(out.as_bytes())?;
    for line in unread(&refused).iter().filter(|_| !peek.json) {
        say(&format!("{} {line}", peek.table.name()));
    }
    Ok(())
}

/// Reads the registers of one device, and keeps the outcome.
struct RegisterReader {
    access: LineAccess,
    unit: u8,
    table: Table,
    within: Duration,
    runs: Vec<Run>,
    refused: Vec<RefusedRegister>,
}

impl RegisterReader {
    /// Reads `count` registers, or until the device is silent: it would be for the rest, too.
    fn read_all(&mut self, from: u16, count: u16) -> Result<(), Failure> {
        let end = (u32::from(from) + u32::from(count)).min(65_536);
        let mut at = u32::from(from);
        while at < end {
            let size = u32::from(AT_ONCE).min(end - at);
            let start = u16::try_from(at).unwrap_or(u16::MAX);
            self.read(start, u16::try_from(size).unwrap_or(AT_ONCE))?;
            if self.refused.last().is_some_and(|last| !last.is_exception()) {
                break;
            }
            at += size;
        }
        Ok(())
    }

    /// Reads registers in one request; if the device refuses it, each half by itself.
    fn read(&mut self, start: u16, count: u16) -> Result<(), Failure> {
        let ask = DiagnosticRequest::Registers {
            table: self.table,
            start,
            count,
        };
        match self.access.words(self.unit, &ask, self.within)? {
            Ok(words) => self.keep(start, words),
            Err(why) => {
                let refused = RefusedRegister {
                    register: start,
                    why,
                };
                if count > 1 && refused.is_exception() {
                    let half = count / 2;
                    self.read(start, half)?;
                    return self.read(start + half, count - half);
                }
                self.refused.push(refused);
            }
        }
        Ok(())
    }

    fn keep(&mut self, start: u16, words: Vec<u16>) {
        match self
            .runs
            .last_mut()
            .filter(|run| usize::from(start - run.start) == run.words.len())
        {
            Some(run) => run.words.extend(words),
            None => self.runs.push(Run { start, words }),
        }
    }
}

/// The refused registers, neighbours together: `2-5: exception 2: ...`.
fn unread(refused: &[RefusedRegister]) -> Vec<String> {
    let is_next = |one: &RefusedRegister, next: &RefusedRegister| {
        one.register.checked_add(1) == Some(next.register) && one.why == next.why
    };
    let line = |run: &[RefusedRegister]| {
        let (first, last) = (run.first()?, run.last()?);
        let why = &first.why;
        Some(if first.register == last.register {
            format!("{}: {why}", first.register)
        } else {
            format!("{}-{}: {why}", first.register, last.register)
        })
    };
    refused.chunk_by(is_next).filter_map(line).collect()
}

/// The line and the Modbus address of the device.
fn device(peek: &Peek) -> Result<(LineAddress, u8), Failure> {
    if let Some((line, unit)) = peek
        .device
        .rsplit_once('/')
        .and_then(|(line, unit)| Some((line, unit.parse::<u8>().ok()?)))
    {
        return Ok((peek.via.line(line)?, unit));
    }
    let gateway = peek.via.gateway()?;
    let devices: Vec<_> = gateway
        .iter()
        .flat_map(|gateway| &gateway.lines)
        .flat_map(|line| line.devices.iter().map(move |device| (line, device)))
        .collect();
    match devices
        .iter()
        .find(|(_, device)| device.name == peek.device)
    {
        Some((line, device)) => Ok((peek.via.line(&line.name)?, device.unit)),
        None => Err(Failure::runtime(format!(
            "there is no device \"{}\"; {}; or write <line>/<unit>, such as /dev/ttyUSB0/1",
            peek.device,
            config::suggestion(
                &peek.device,
                devices.iter().map(|(_, device)| device.name.as_str())
            )
        ))),
    }
}

/// Up to six significant digits, without trailing zeros.
fn shown(value: f64) -> String {
    if value == 0.0 || (1e-4..1e9).contains(&value.abs()) {
        let size = value.abs();
        let digits = [1.0, 10.0, 100.0, 1e3, 1e4]
            .iter()
            .filter(|limit| size < **limit)
            .count()
            .max(1);
        let digits = if value.fract() == 0.0 { 0 } else { digits };
        let text = format!("{value:.digits$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    } else {
        format!("{value:.2e}")
    }
}

fn marked(words: &[u16], offset: u16, kind: DataType, order: ByteOrder) -> String {
    guess(words, offset, kind, order).map_or_else(
        || "-".to_owned(),
        |guess| shown(guess.value) + if guess.is_plausible { "*" } else { " " },
    )
}

fn as_bits(runs: &[Run]) -> String {
    let mut out = String::new();
    for Run { start, words } in runs {
        for (chunk, start) in words.chunks(16).zip((*start..).step_by(16)) {
            let bits: Vec<String> = chunk.iter().map(u16::to_string).collect();
            // Writing to a text cannot fail.
            let _ = writeln!(out, "{start:>6}  {}", bits.join(" "));
        }
    }
    out
}

/// The bits with the expected value.
fn bits_that_are(peek: &Peek, expected: f64, runs: &[Run]) -> String {
    let mut out = String::new();
    for_each(runs, |words, offset, place| {
        let is_set = words.get(usize::from(offset)).is_some_and(|bit| *bit != 0);
        if is_set == (expected != 0.0) {
            let _ = writeln!(
                out,
                "{:>12}   name: {{ {}: {place} }}",
                u8::from(is_set),
                peek.table.name()
            );
        }
    });
    out
}

/// Sections of one, two and four registers.
fn as_table(runs: &[Run]) -> String {
    let mut out = String::from(
        "* is plausible. Orders: ABCD big endian, CDAB words swapped,\nBADC bytes swapped, DCBA little endian\n\n",
    );
    single_registers(runs, &mut out);
    for kind in [DataType::F32, DataType::U32, DataType::I32] {
        several_registers(runs, 2, kind, &mut out);
    }
    for kind in [DataType::F64, DataType::U64, DataType::I64] {
        several_registers(runs, 4, kind, &mut out);
    }
    out
}

fn single_registers(runs: &[Run], out: &mut String) {
    let _ = writeln!(
        out,
        "{:>8}  {:>6} {:>4} {:>8} {:>8} {:>8} {:>8}",
        "register", "hex", "text", "u16", "i16", "u16 BADC", "bcd16"
    );
    for_each(runs, |words, offset, register| {
        let word = words.get(usize::from(offset)).copied().unwrap_or_default();
        let of = |kind, order| marked(words, offset, kind, order);
        let _ = writeln!(
            out,
            "{register:>8}  {:>6} {:>4} {:>8} {:>8} {:>8} {:>8}",
            format!("{word:04x}"),
            word.to_be_bytes().map(printable).iter().collect::<String>(),
            of(DataType::U16, ByteOrder::ABCD),
            of(DataType::I16, ByteOrder::ABCD),
            of(DataType::U16, ByteOrder::BADC),
            of(DataType::Bcd(Bcd::plain(2)), ByteOrder::ABCD),
        );
    });
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() {
        char::from(byte)
    } else {
        '.'
    }
}

/// A column for each byte order.
fn several_registers(runs: &[Run], width: usize, kind: DataType, out: &mut String) {
    let head = |order: &ByteOrder| format!("{:>12}", format!("{} {}", kind.name(), order.name()));
    let heads: Vec<String> = ORDERS.iter().map(head).collect();
    let _ = writeln!(out, "\n{:>8}  {}", "register", heads.join(" "));
    for_each(runs, |words, offset, register| {
        if usize::from(offset) + width <= words.len() {
            let cell = |order: &ByteOrder| format!("{:>12}", marked(words, offset, kind, *order));
            let cells: Vec<String> = ORDERS.iter().map(cell).collect();
            let _ = writeln!(out, "{register:>8}  {}", cells.join(" "));
        }
    });
}

/// Calls `each` with the words of a run, the offset in it, and the register there.
fn for_each(runs: &[Run], mut each: impl FnMut(&[u16], u16, u16)) {
    for Run { start, words } in runs {
        for offset in 0..u16::try_from(words.len()).unwrap_or(u16::MAX) {
            each(words, offset, start + offset);
        }
    }
}

/// A point for the YAML file.
fn yaml(table: Table, start: u16, guess: &Guess, scale: f64) -> String {
    let order = if guess.order == ByteOrder::ABCD {
        String::new()
    } else {
        format!(", byte_order: {}", guess.order.name())
    };
    let scale = if (scale - 1.0).abs() < f64::EPSILON {
        String::new()
    } else {
        format!(", scale: {scale}")
    };
    format!(
        "name: {{ {}: {}, type: {}{order}{scale} }}",
        table.name(),
        start + guess.offset,
        guess.kind.name()
    )
}

fn all_matches(peek: &Peek, expected: f64, runs: &[Run]) -> Vec<(u16, Match)> {
    let mut found: Vec<(u16, Match)> = runs
        .iter()
        .flat_map(|run| {
            matches(&run.words, expected, peek.tolerance / 100.0)
                .into_iter()
                .map(|found| (run.start, found))
        })
        .collect();
    // Until here only each run is sorted.
    found.sort_by_key(|(_, found)| found.distance());
    found
}

fn as_matches(peek: &Peek, expected: f64, runs: &[Run]) -> String {
    let found = all_matches(peek, expected, runs);
    if found.is_empty() {
        return format!(
            "no register shows {expected} within {} %; try --table input, other registers (--from), or --tolerance 5\n",
            peek.tolerance
        );
    }
    let mut out = String::new();
    for (start, found) in found.iter().take(MOST_MATCHES) {
        let (value, yaml) = (
            shown(found.shown),
            yaml(peek.table, *start, &found.guess, found.scale),
        );
        // Writing to a text cannot fail.
        let _ = match format!("{value:>8}   {yaml}") {
            line if line.len() <= COLUMNS => writeln!(out, "{line}"),
            _ => writeln!(out, "{value:>8}\n    {yaml}"),
        };
    }
    if found.len() > MOST_MATCHES {
        let _ = writeln!(
            out,
            "and {} less likely ones; a value with more digits tells more",
            found.len() - MOST_MATCHES
        );
    }
    out
}

/// One interpretation of a register, for scripts.
#[derive(Debug, Serialize)]
struct GuessRow {
    register: u16,
    #[serde(rename = "type")]
    kind: &'static str,
    byte_order: &'static str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    plausible: bool,
    yaml: String,
}

fn as_json(peek: &Peek, runs: &[Run]) -> Result<String, Failure> {
    let row = |start: u16, guess: &Guess, scale: Option<f64>| GuessRow {
        register: start + guess.offset,
        kind: guess.kind.name(),
        byte_order: guess.order.name(),
        value: guess.value * scale.unwrap_or(1.0),
        scale,
        plausible: guess.is_plausible,
        yaml: yaml(peek.table, start, guess, scale.unwrap_or(1.0)),
    };
    let rows: Vec<GuessRow> = match peek.expect {
        Some(expected) => all_matches(peek, expected, runs)
            .iter()
            .map(|(start, found)| row(*start, &found.guess, Some(found.scale)))
            .collect(),
        None => runs
            .iter()
            .flat_map(|run| {
                guesses(&run.words)
                    .map(|guess| row(run.start, &guess, None))
                    .collect::<Vec<_>>()
            })
            .collect(),
    };
    serde_json::to_string_pretty(&rows)
        .map(|text| text + "\n")
        .map_err(Failure::runtime)
}
