//! `wellhead watch`: a table of what a gateway shows, kept up to date in a terminal; a line for each value in a pipe.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::client::Access;
use super::{Failure, put};
use crate::config;
use crate::log::Printable;
use crate::mqtt::{Publish, TopicFilter};
use crate::time::now;

const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// Values that the picture shows.
const HISTORY: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is known of a topic.
#[derive(Debug)]
struct Row {
    value: String,
    unit: String,
    quality: String,
    since: Instant,
    history: VecDeque<f64>,
}

/// Shows what comes until it is interrupted, until nobody reads any more, or until so many lines are written.
pub(super) fn watch(access: &Access, filters: &[TopicFilter], mut lines: Option<u64>) -> Result<(), Failure> {
    let units = units(access)?;
    let mut client = access.connect()?;
    client.subscribe(filters)?;
    let is_table = lines.is_none() && io::stdout().is_terminal();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut redraw_at = now();
    loop {
        let deadline = is_table.then_some(redraw_at);
        if let Some(message) = client.message(deadline)?
            && let Some((topic, row)) = row(&message, &units)
        {
            if !is_table && !put(format!("{topic} {} {} {}\n", row.value, row.unit, row.quality).as_bytes())? {
                return Ok(());
            }
            lines = lines.map(|left| left.saturating_sub(1));
            if lines == Some(0) {
                return Ok(());
            }
            take(&mut rows, topic, row);
        }
        if is_table && now() >= redraw_at {
            redraw_at = now() + REDRAW_EVERY;
            let size = rustix::termios::tcgetwinsize(io::stdout()).map_or((100, 30), |size| (size.ws_col.into(), size.ws_row.into()));
            if !put(format!("\x1b[H{}\x1b[J", table(&rows, now(), size)).as_bytes())? {
                return Ok(());
            }
        }
    }
}

/// The units of the file, by topic.
fn units(access: &Access) -> Result<HashMap<String, String>, Failure> {
    let Some(file) = access.file() else { return Ok(HashMap::new()) };
    let points = config::load(&file)?.points;
    let unit = |point: &crate::report::PointReport| {
        let unit = point.unit.as_ref().map_or_else(String::new, ToString::to_string);
        point.topics().map(|topic| (topic.to_string(), unit.clone())).collect::<Vec<_>>()
    };
    Ok(points.iter().flat_map(unit).collect())
}

/// What a message says; `None` without a topic.
fn row(message: &Publish, units: &HashMap<String, String>) -> Option<(String, Row)> {
    let topic = message.topic.as_ref()?.to_string();
    let json: Json = serde_json::from_slice(&message.payload).unwrap_or_default();
    let (value, quality) = match json.as_object().filter(|fields| fields.contains_key("v")) {
        Some(fields) => {
            let text = |key: &str| fields.get(key).map_or_else(String::new, plain);
            (text("v"), [text("q"), text("reason")].join(" ").trim().to_owned())
        }
        None => (Printable::bytes(&message.payload), String::new()),
    };
    let history = value.parse().into_iter().filter(|number: &f64| number.is_finite()).collect();
    let unit = units.get(&topic).cloned().unwrap_or_default();
    // Whoever publishes decides what stands in these.
    let [topic, value, quality] = [topic, value, quality].map(|text| Printable(&text).to_string());
    Some((topic, Row { value, unit, quality, since: now(), history }))
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Puts a new value beside those before it.
fn take(rows: &mut BTreeMap<String, Row>, topic: String, mut row: Row) {
    if let Some(before) = rows.remove(&topic) {
        let newest = std::mem::replace(&mut row.history, before.history);
        row.history.extend(newest);
        while row.history.len() > HISTORY {
            row.history.pop_front();
        }
    }
    rows.insert(topic, row);
}

fn table(rows: &BTreeMap<String, Row>, now: Instant, (width, height): (usize, usize)) -> String {
    let widest = rows.keys().map(|topic| topic.chars().count()).max().unwrap_or(0).clamp(5, width / 2);
    let mut out = String::new();
    let mut line = |text: String| {
        let cut: String = text.chars().take(width).collect();
        // Writing to a text cannot fail.
        let _ = write!(out, "{cut}\x1b[K\r\n");
    };
    line(format!("{:widest$} {:>14} {:<6} {:>6}  {:HISTORY$} quality", "topic", "value", "unit", "age", ""));
    let shown = height.saturating_sub(3);
    for (topic, row) in rows.iter().take(shown) {
        let age = humantime::format_duration(Duration::from_secs(now.saturating_duration_since(row.since).as_secs())).to_string();
        let age = age.split(' ').next().unwrap_or_default();
        line(format!("{topic:widest$} {:>14} {:<6} {age:>6}  {:HISTORY$} {}", row.value, row.unit, picture(&row.history), row.quality));
    }
    if rows.len() > shown {
        line(format!("and {} more; a filter shows fewer", rows.len() - shown));
    }
    out
}

/// Values as bars between the least and the greatest.
fn picture(history: &VecDeque<f64>) -> String {
    let (least, most) = history.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    let bar = |value: &f64| {
        let part = if most > least { (value - least) / (most - least) } else { 0.0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = (part * 7.0).round() as usize;
        BARS.get(index).copied().unwrap_or(' ')
    };
    history.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_terminal_and_shows_how_values_went() {
        let (mut rows, at) = (BTreeMap::new(), now());
        for (index, value) in [1.0, 4.0, 8.0].into_iter().enumerate() {
            let row = Row {
                value: value.to_string(),
                unit: "bar".to_owned(),
                quality: "good".to_owned(),
                since: at + Duration::from_secs(index as u64),
                history: [value].into(),
            };
            take(&mut rows, "x/d/pressure".to_owned(), row);
        }
        let shown = table(&rows, at + Duration::from_secs(92), (80, 24));
        let lines: Vec<&str> = shown.lines().map(|line| line.trim_end_matches("\x1b[K")).collect();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["x/d/pressure", "8", "bar", "1m", "▁▄█", "good"]);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{shown}");
        for number in 0..50 {
            let row = Row { value: String::new(), unit: String::new(), quality: String::new(), since: at, history: VecDeque::new() };
            take(&mut rows, format!("x/{number}"), row);
        }
        let shown = table(&rows, at, (40, 10));
        assert!(shown.lines().count() == 9 && shown.contains("and 44 more"), "{shown}");
    }
}
