//! The state of `watch`: the values of each topic, the filter, and the rows on the screen. It
//! neither reads nor draws.
//!
//! Invariants: topics, values and their text are bounded, whatever the broker sends; all of it is
//! fit to be shown ([`Printable`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value as Json;

use super::PointUnits;
use crate::log::Printable;
use crate::mqtt::Publish;
use crate::time::now;

/// Values that the picture shows.
pub(super) const HISTORY: usize = 24;
/// Topics that are kept; a filter on the command line chooses among more.
pub(super) const MOST_TOPICS: usize = 10_000;
/// Bytes of a topic, of a value and of the words beside it.
const LONGEST: usize = 512;
/// Characters of the filter.
const LONGEST_FILTER: usize = 64;

/// The last values of a topic.
#[derive(Debug, Clone)]
pub(super) struct ValueRow {
    pub(super) value: String,
    pub(super) unit: String,
    /// `good`, or what is wrong.
    pub(super) quality: String,
    pub(super) since: Instant,
    pub(super) history: VecDeque<f64>,
}

impl ValueRow {
    /// The topic of a message and its row; `None` without a topic.
    pub(super) fn of(message: &Publish, units: &PointUnits) -> Option<(String, Self)> {
        let topic = message.topic.as_ref()?.to_string();
        let json: Json = serde_json::from_slice(&message.payload).unwrap_or_default();
        let (value, quality) = match json.as_object().filter(|fields| fields.contains_key("v")) {
            Some(fields) => {
                let text = |key: &str| fields.get(key).map_or_else(String::new, plain);
                (
                    text("v"),
                    [text("q"), text("reason")].join(" ").trim().to_owned(),
                )
            }
            None => (Printable::bytes(&message.payload), String::new()),
        };
        let history = value
            .parse()
            .into_iter()
            .filter(|number: &f64| number.is_finite())
            .collect();
        let unit = units.get(&topic).cloned().unwrap_or_default();
        // A publisher decides what these contain.
        let [topic, value, quality] =
            [topic, value, quality].map(|text| Printable(&text).to_string());
        Some((
            topic,
            Self {
                value,
                unit,
                quality,
                since: now(),
                history,
            },
        ))
    }

    /// Cut to what a screen can show.
    fn short(self) -> Self {
        let short = |text: String| Printable::cut(&text, LONGEST).into_owned();
        Self {
            value: short(self.value),
            quality: short(self.quality),
            ..self
        }
    }

    fn has(&self, wanted: &str) -> bool {
        [&self.value, &self.quality]
            .iter()
            .any(|text| text.to_lowercase().contains(wanted))
    }
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The effect of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Stay,
    Quit,
}

/// All rows, the filter, and the position in those that match.
#[derive(Debug, Default)]
pub(super) struct ValueTable {
    rows: BTreeMap<String, ValueRow>,
    /// There are more topics than are kept.
    pub(super) is_full: bool,
    /// Text that a row must have, in small letters.
    filter: String,
    /// The keyboard writes the filter.
    is_typing: bool,
    /// The first row on the screen, counted among those wanted.
    top: usize,
    /// Rows on the screen when it was drawn last.
    page: usize,
}

/// The rows on a screen.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) rows: Vec<(&'a str, &'a ValueRow)>,
    /// The number of the first, from zero.
    pub(super) first: usize,
    /// How many match, on the screen or not.
    pub(super) wanted: usize,
    pub(super) all: usize,
    pub(super) is_full: bool,
    /// The text of the filter, if any.
    pub(super) filter: Option<&'a str>,
    pub(super) is_typing: bool,
}

impl ValueTable {
    /// Puts a new value beside those before it.
    pub(super) fn take(&mut self, heard: Option<(String, ValueRow)>) {
        let Some((topic, row)) = heard else { return };
        let (topic, mut row) = (Printable::cut(&topic, LONGEST).into_owned(), row.short());
        if let Some(before) = self.rows.remove(&topic) {
            let newest = std::mem::replace(&mut row.history, before.history);
            row.history.extend(newest);
            while row.history.len() > HISTORY {
                row.history.pop_front();
            }
        } else if self.rows.len() >= MOST_TOPICS {
            self.is_full = true;
            return;
        }
        self.rows.insert(topic, row);
    }

    /// Acts on a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Turn {
        if key.kind == KeyEventKind::Release {
            return Turn::Stay;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => return Turn::Quit,
            code if self.is_typing => self.type_filter(code),
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Turn::Quit,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Up | KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.top = self.top.saturating_add(1),
            KeyCode::PageUp => self.top = self.top.saturating_sub(self.page.max(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                self.top = self.top.saturating_add(self.page.max(1));
            }
            KeyCode::Home | KeyCode::Char('g') => self.top = 0,
            KeyCode::End | KeyCode::Char('G') => self.top = usize::MAX,
            _ => {}
        }
        // Where the last page begins is known when it is drawn; keys may come faster than that.
        self.top = self
            .top
            .min(self.wanted().count().saturating_sub(self.page.max(1)));
        Turn::Stay
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(typed) if self.filter.chars().count() < LONGEST_FILTER => {
                self.filter.extend(typed.to_lowercase());
            }
            _ => {}
        }
        self.top = 0;
    }

    fn wanted(&self) -> impl Iterator<Item = (&str, &ValueRow)> {
        let is_wanted = |(topic, row): &(&String, &ValueRow)| {
            self.filter.is_empty()
                || topic.to_lowercase().contains(&self.filter)
                || row.has(&self.filter)
        };
        self.rows
            .iter()
            .filter(is_wanted)
            .map(|(topic, row)| (topic.as_str(), row))
    }

    /// The rows of a screen that has room for `room` of them.
    pub(super) fn view(&mut self, room: usize) -> View<'_> {
        let wanted = self.wanted().count();
        self.page = room;
        self.top = self.top.min(wanted.saturating_sub(room));
        View {
            rows: self.wanted().skip(self.top).take(room).collect(),
            first: self.top,
            wanted,
            all: self.rows.len(),
            is_full: self.is_full,
            filter: (self.is_typing || !self.filter.is_empty()).then_some(self.filter.as_str()),
            is_typing: self.is_typing,
        }
    }
}
