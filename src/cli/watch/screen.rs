//! The screen of `watch`: a head, a row for each topic, a foot; at any size, and never beyond it.
//!
//! From 80 columns on every column is there. Narrower screens lose the picture first, then age and
//! unit, the quality last. A text that is too wide is cut by the cells that it takes: a topic at
//! its beginning, because its end names the point, others at their end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use unicode_width::UnicodeWidthStr;

use super::super::columns::{cut, ending};
use super::table::{HISTORY, ValueRow, ValueTable, View};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const AGE: usize = 4;
const UNIT: usize = 6;

/// The widths of the columns; 0 for one that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    topic: usize,
    value: usize,
    unit: usize,
    quality: usize,
    age: usize,
    picture: usize,
}

impl Columns {
    fn of(width: usize) -> Self {
        let (value, unit, quality, age, picture) = match width {
            120.. => (14, UNIT, 30, AGE, HISTORY),
            80.. => (12, UNIT, 16, AGE, 8),
            60.. => (10, UNIT, 14, AGE, 0),
            40.. => (10, 0, 10, 0, 0),
            _ => (width / 3, 0, width / 4, 0, 0),
        };
        // One cell between two columns.
        let others: usize = [value, unit, quality, age, picture]
            .iter()
            .filter(|width| **width > 0)
            .map(|width| width + 1)
            .sum();
        Self {
            topic: width.saturating_sub(others),
            value,
            unit,
            quality,
            age,
            picture,
        }
    }
}

/// Draws everything.
pub(super) fn draw(table: &mut ValueTable, now: Instant, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if area.width == 0 || area.height == 0 {
        return;
    }
    let mut pen = Pen {
        buffer,
        area,
        x: 0,
        y: 0,
        style: Style::new(),
    };
    let (height, room) = (usize::from(area.height), usize::from(area.width));
    let columns = Columns::of(room);
    let (has_head, has_foot) = (height >= 2, height >= 3);
    let view = table.view(height - usize::from(has_head) - usize::from(has_foot));
    if has_head {
        pen.style = Style::new().add_modifier(Modifier::REVERSED);
        pen.line(&columns, &HEAD);
        pen.y += 1;
    }
    for (topic, row) in &view.rows {
        pen.style = style_of(&row.quality);
        pen.row(&columns, topic, row, now);
        pen.y += 1;
    }
    if has_foot {
        (pen.x, pen.y) = (0, area.height.saturating_sub(1));
        pen.style = Style::new().add_modifier(Modifier::DIM);
        pen.cell(&foot(&view, room), room);
    }
}

const HEAD: Cells<'_> = Cells {
    topic: "topic",
    value: "value",
    unit: "unit",
    quality: "quality",
    age: "age",
    picture: "",
};

/// The texts of a row.
struct Cells<'a> {
    topic: &'a str,
    value: &'a str,
    unit: &'a str,
    quality: &'a str,
    age: &'a str,
    picture: &'a str,
}

struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    /// Where the next cell begins, inside the area.
    x: u16,
    y: u16,
    style: Style,
}

impl Pen<'_> {
    fn row(&mut self, columns: &Columns, topic: &str, row: &ValueRow, now: Instant) {
        let cells = Cells {
            topic,
            value: &row.value,
            unit: &row.unit,
            quality: &row.quality,
            age: &age(now.saturating_duration_since(row.since)),
            picture: &picture(&row.history, columns.picture),
        };
        self.line(columns, &cells);
    }

    fn line(&mut self, columns: &Columns, cells: &Cells<'_>) {
        self.x = 0;
        let whole = Rect {
            x: self.area.x,
            y: self.area.y + self.y,
            width: self.area.width,
            height: 1,
        };
        self.buffer.set_style(whole, self.style);
        self.cell(&ending(cells.topic, columns.topic), columns.topic);
        let value = cut(cells.value, columns.value);
        let indent = columns.value.saturating_sub(value.width());
        self.cell(&format!("{}{value}", " ".repeat(indent)), columns.value);
        self.cell(&cut(cells.unit, columns.unit), columns.unit);
        self.cell(&cut(cells.quality, columns.quality), columns.quality);
        self.cell(
            &format!("{:>width$}", cells.age, width = columns.age),
            columns.age,
        );
        self.cell(cells.picture, columns.picture);
    }

    /// Writes a text into a number of cells, and moves behind them.
    fn cell(&mut self, text: &str, width: usize) {
        let left = self.area.width.saturating_sub(self.x);
        let width = u16::try_from(width).unwrap_or(u16::MAX).min(left);
        if width == 0 || self.y >= self.area.height {
            return;
        }
        self.buffer.set_stringn(
            self.area.x + self.x,
            self.area.y + self.y,
            text,
            usize::from(width),
            self.style,
        );
        self.x = self.x.saturating_add(width).saturating_add(1);
    }
}

fn style_of(quality: &str) -> Style {
    match quality.split(' ').next().unwrap_or_default() {
        "good" | "" => Style::new(),
        "bad" => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    }
}

/// The position and the keys; the shorter text if the longer one does not fit.
fn foot(view: &View<'_>, room: usize) -> String {
    if view.is_typing {
        return format!(
            "/{}_   Enter keeps, Esc clears",
            view.filter.unwrap_or_default()
        );
    }
    let filter = view.filter.map_or_else(String::new, |filter| {
        format!(" with \"{filter}\" of {}", view.all)
    });
    let most = if view.is_full {
        ", and more that are not kept"
    } else {
        ""
    };
    let place = match view.rows.len() {
        0 if view.all == 0 => "nothing yet".to_owned(),
        0 => format!("no topic{filter}"),
        shown => format!(
            "{}-{} of {}{filter}{most}",
            view.first + 1,
            view.first + shown,
            view.wanted
        ),
    };
    let whole = format!("{place}   arrows, PgUp, PgDn, Home, End scroll   / filters   q quits");
    if whole.width() <= room {
        whole
    } else {
        format!("{place}   / filters   q quits")
    }
}

/// The greatest unit of it.
fn age(age: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    let first = text.split(' ').next().unwrap_or_default();
    first
        .replace("days", "d")
        .replace("day", "d")
        .replace("months", "mo")
        .replace("month", "mo")
        .replace("years", "y")
        .replace("year", "y")
}

/// The newest values as bars between the least and the greatest.
fn picture(history: &VecDeque<f64>, width: usize) -> String {
    let newest = || history.iter().skip(history.len().saturating_sub(width));
    let (least, most) = newest().fold((f64::MAX, f64::MIN), |(least, most), value| {
        (least.min(*value), most.max(*value))
    });
    let bar = |value: &f64| {
        let part = if most > least {
            (value - least) / (most - least)
        } else {
            0.0
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = (part * 7.0).round() as usize;
        BARS.get(index).copied().unwrap_or(' ')
    };
    newest().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::super::PointUnits;
    use super::super::table::{Turn, ValueRow};
    use super::*;
    use crate::mqtt::{Properties, Publish, QoS, TopicName};
    use crate::time::now;

    fn take(table: &mut ValueTable, topic: &str, payload: &str) {
        let message = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(TopicName::new(topic.to_owned()).unwrap()),
            packet_id: None,
            properties: Properties::default(),
            payload: payload.as_bytes().to_vec().into(),
        };
        let units: PointUnits = [("x/d/pressure".to_owned(), "bar".to_owned())].into();
        table.take(ValueRow::of(&message, &units));
    }

    /// What a screen of this size shows.
    fn shown(table: &mut ValueTable, width: u16, height: u16) -> Vec<String> {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        draw(table, now() + Duration::from_secs(92), area, &mut buffer);
        let line = |y: u16| {
            let (mut x, mut line) = (0, String::new());
            while let Some(symbol) = buffer
                .cell((x, y))
                .filter(|_| x < width)
                .map(ratatui::buffer::Cell::symbol)
            {
                line.push_str(symbol);
                x += u16::try_from(symbol.width().max(1)).unwrap();
            }
            line
        };
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn press(table: &mut ValueTable, codes: &[KeyCode]) -> Turn {
        codes
            .iter()
            .map(|code| table.key(KeyEvent::new(*code, KeyModifiers::NONE)))
            .last()
            .unwrap()
    }

    #[test]
    fn eighty_columns_show_everything_and_how_values_went() {
        let mut table = ValueTable::default();
        for value in ["1", "4", "8"] {
            take(
                &mut table,
                "x/d/pressure",
                &format!(r#"{{"v":{value},"q":"good"}}"#),
            );
        }
        take(
            &mut table,
            "x/d/temp",
            r#"{"v":null,"q":"bad","reason":"no answer"}"#,
        );
        let lines = shown(&mut table, 80, 24);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["x/d/pressure", "8", "bar", "good", "1m", "▁▄█"]
        );
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            ["x/d/temp", "null", "bad", "no", "answer", "1m"]
        );
        assert_eq!(lines[0].find("quality"), lines[1].find("good"));
        assert!(
            lines[23].starts_with("1-2 of 2 ") && lines[23].ends_with("q quits"),
            "{lines:#?}"
        );
    }

    #[test]
    fn no_size_is_too_small_and_no_text_too_wide() {
        let mut table = ValueTable::default();
        for number in 0..30 {
            take(
                &mut table,
                &format!("werk/ポンプ場/圧力計/測定値/{number}/値のとても長い名前です"),
                r#"{"v":"とても長い文字列の値です","q":"bad"}"#,
            );
        }
        take(
            &mut table,
            "e\u{301}\u{301}/❤\u{fe0f}",
            &"👨\u{200d}👩".repeat(100),
        );
        for width in [0, 1, 2, 3, 7, 20, 39, 40, 59, 60, 79, 80, 120, 500] {
            for height in [0, 1, 2, 3, 24] {
                let lines = shown(&mut table, width, height);
                assert!(
                    lines.iter().all(|line| line.width() <= usize::from(width)),
                    "{width}x{height}: {lines:#?}"
                );
            }
        }
        let lines = shown(&mut table, 80, 24);
        assert!(
            lines[2].contains("…") && lines[2].contains("長い名前です") && lines[2].contains("bad"),
            "{lines:#?}"
        );
    }

    #[test]
    fn what_peers_send_does_not_reach_the_terminal_as_commands() {
        let mut table = ValueTable::default();
        take(
            &mut table,
            "x/\u{1b}]0;owned\u{7}/\u{9b}31m",
            "\u{1b}[2J\u{1b}[H\u{202e}gone",
        );
        take(
            &mut table,
            "x/y",
            r#"{"v":"\u001b[2J","q":"\u001b[31mgood\r\n"}"#,
        );
        let lines = shown(&mut table, 200, 10);
        assert!(
            lines
                .iter()
                .flat_map(|line| line.chars())
                .all(|c| !c.is_control() && c != '\u{202e}'),
            "{lines:#?}"
        );
        assert!(lines[1].contains("\\u{1b}]0;owned\\u{7}"), "{lines:#?}");
    }

    #[test]
    fn keys_scroll_filter_and_quit() {
        let mut table = ValueTable::default();
        (0..50).for_each(|number| take(&mut table, &format!("x/{number:02}"), "1"));
        let first = |table: &mut ValueTable| {
            shown(table, 80, 12)[1]
                .split_whitespace()
                .next()
                .unwrap()
                .to_owned()
        };
        for (keys, expected) in [
            (&[KeyCode::Up][..], "x/00"),
            (&[KeyCode::Down, KeyCode::Down], "x/02"),
            (&[KeyCode::PageDown], "x/12"),
            (&[KeyCode::PageUp], "x/02"),
            (&[KeyCode::End], "x/40"),
            (&[KeyCode::Down], "x/40"),
            (&[KeyCode::Up], "x/39"),
            (&[KeyCode::Home], "x/00"),
        ] {
            assert_eq!(press(&mut table, keys), Turn::Stay);
            assert_eq!(first(&mut table), expected, "{keys:?}");
        }
        press(
            &mut table,
            &[
                KeyCode::End,
                KeyCode::Char('/'),
                KeyCode::Char('X'),
                KeyCode::Char('/'),
                KeyCode::Char('q'),
            ],
        );
        assert!(
            shown(&mut table, 80, 12)[11].starts_with("/x/q_"),
            "q is a letter of the filter"
        );
        press(
            &mut table,
            &[KeyCode::Backspace, KeyCode::Char('4'), KeyCode::Enter],
        );
        assert_eq!(first(&mut table), "x/40");
        assert!(shown(&mut table, 80, 12)[11].starts_with("1-10 of 10 with \"x/4\" of 50"));
        assert_eq!(
            press(&mut table, &[KeyCode::Char('/'), KeyCode::Esc]),
            Turn::Stay,
            "Esc ends the filter first"
        );
        assert_eq!(first(&mut table), "x/00");
        for quit in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut table, &[quit]), Turn::Quit);
        }
        assert_eq!(
            table.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            Turn::Quit
        );
    }

    #[test]
    fn topics_without_end_are_bounded_and_told() {
        let mut table = ValueTable::default();
        (0..super::super::table::MOST_TOPICS + 5)
            .for_each(|number| take(&mut table, &format!("x/{number}"), "1"));
        assert!(shown(&mut table, 80, 5)[4].contains("of 10000, and more that are not kept"));
    }
}
