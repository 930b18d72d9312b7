//! Points as rows of a table, for spreadsheets: what the file says of a device or a profile, and
//! back.

use std::path::Path;

use indexmap::{IndexMap, IndexSet};
use serde_yaml::Value;

use super::Document;
use crate::config::diagnostics::Diagnostics;
use crate::config::file::Profile;
use crate::config::{Diagnostic, profiles};

/// The column of the points' names.
pub const NAME: &str = "name";
/// Keys whose values are text whatever they look like.
const TEXTS: [&str; 9] = [
    "unit",
    "topic",
    "class",
    "group",
    "expression",
    "find",
    "from",
    "when",
    "zone",
];

/// Points, one in each row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PointTable {
    /// The name first, then the keys of points that occur.
    pub columns: Vec<String>,
    /// As many cells as there are columns; empty where a point says nothing.
    pub rows: Vec<Vec<String>>,
}

type PointValues = IndexMap<String, Value>;

/// The points of a device, over those of its profile, or of a profile; `None` if `text`, the files
/// in `profiles/` below `folder` and the program know none of that name.
pub fn points_of(text: &str, folder: &Path, name: &str) -> Option<PointTable> {
    let mut faults = Diagnostics::new("", text);
    let document = Document::parse(text, &mut faults);
    let value = document.map_or(Value::Null, |document| document.value);
    let device = value
        .get("devices")
        .and_then(Value::as_sequence)
        .into_iter()
        .flatten()
        .find(|device| device.get("name").and_then(Value::as_str) == Some(name));
    let Some(device) = device else {
        return profile(&value, folder, name).map(table);
    };
    let mut points = device
        .get("profile")
        .and_then(Value::as_str)
        .and_then(|profile_name| profile(&value, folder, profile_name))
        .unwrap_or_default();
    for (point, own) in mapping(device.get("points")) {
        let merged = match (points.get(&point), &own) {
            (Some(Value::Mapping(base)), Value::Mapping(own)) => {
                let mut merged = base.clone();
                merged.extend(own.clone());
                Value::Mapping(merged)
            }
            _ => own,
        };
        points.insert(point, merged);
    }
    Some(table(points))
}

fn profile(file: &Value, folder: &Path, name: &str) -> Option<PointValues> {
    if let Some(profile) = file.get("profiles").and_then(|profiles| profiles.get(name)) {
        return Some(mapping(profile.get("points")));
    }
    let text = profiles::text(folder, name)?;
    let document = Document::parse(&text, &mut Diagnostics::new("", &text))?;
    Some(mapping(document.value.get("points")))
}

fn mapping(value: Option<&Value>) -> PointValues {
    let entries = value.and_then(Value::as_mapping).into_iter().flatten();
    entries
        .filter_map(|(name, point)| Some((name.as_str()?.to_owned(), point.clone())))
        .collect()
}

fn table(points: PointValues) -> PointTable {
    let keys: IndexSet<String> = points
        .values()
        .filter_map(Value::as_mapping)
        .flat_map(|point| point.keys().filter_map(Value::as_str))
        .map(str::to_owned)
        .collect();
    let row = |(name, point): (String, Value)| {
        let cells = keys
            .iter()
            .map(|key| point.get(key.as_str()).map(cell).unwrap_or_default());
        std::iter::once(name).chain(cells).collect()
    };
    let rows = points.into_iter().map(row).collect();
    PointTable {
        columns: std::iter::once(NAME.to_owned()).chain(keys).collect(),
        rows,
    }
}

/// A value on one line.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Sequence(items) => format!(
            "[{}]",
            items.iter().map(inner).collect::<Vec<_>>().join(", ")
        ),
        Value::Mapping(map) => {
            format!(
                "{{{}}}",
                map.iter()
                    .map(|(key, value)| format!("{}: {}", inner(key), inner(value)))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Value::Null | Value::Tagged(_) => String::new(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
    }
}

/// The same inside a list or a mapping, where text may need quotes.
fn inner(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => cell(other),
    }
}

fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_alphabetic())
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || "-_/.".contains(c));
    let is_word =
        ["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str());
    if is_plain && !is_word {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// The section `points:` of a table, a point a line. Faults name row and column of the table, the
/// row of the column names being 1.
pub fn points_from(table: &PointTable) -> Result<String, Vec<Diagnostic>> {
    let Some(name_at) = table.columns.iter().position(|column| column == NAME) else {
        let message = format!(
            "no column \"{NAME}\"; the first row names the columns: {NAME}, and keys of points such as holding, type, scale"
        );
        return Err(vec![fault(1, 1, message)]);
    };
    let mut written = TableWriter {
        name_at,
        text: String::from("points:\n"),
        cells: Vec::new(),
        faults: Vec::new(),
    };
    for (index, row) in table.rows.iter().enumerate() {
        // The row of the column names is the first one.
        written.row(table, index + 2, row);
    }
    written.checked()
}

/// Points as YAML while a table is written.
struct TableWriter {
    /// The column of the names.
    name_at: usize,
    /// Row 2 is line 2: every row is a line, so that faults find their rows.
    text: String,
    /// The cells of each row.
    cells: Vec<Vec<WrittenCell>>,
    faults: Vec<Diagnostic>,
}

/// A cell in the YAML, by the column at which its key begins there, and its column in the table,
/// both from 1.
struct WrittenCell {
    begins: usize,
    column: usize,
}

impl TableWriter {
    fn row(&mut self, table: &PointTable, number: usize, row: &[String]) {
        if row.iter().all(|cell| cell.trim().is_empty()) {
            self.text.push('\n');
            self.cells.push(Vec::new());
            return;
        }
        self.check_row(table, number, row);
        let name = row.get(self.name_at).map_or("", String::as_str);
        let mut line = format!("  {}: {{", quoted(name));
        let mut cells = Vec::new();
        for (index, (key, cell)) in table.columns.iter().zip(row).enumerate() {
            let cell = cell.trim();
            if index == self.name_at || cell.is_empty() {
                continue;
            }
            line.push_str(if cells.is_empty() { " " } else { ", " });
            cells.push(WrittenCell {
                begins: line.chars().count() + 1,
                column: index + 1,
            });
            let value = if TEXTS.contains(&key.as_str()) {
                quoted(cell)
            } else {
                cell.to_owned()
            };
            line.push_str(&format!("{key}: {value}"));
        }
        line.push_str(" }\n");
        self.text.push_str(&line);
        self.cells.push(cells);
    }

    /// Every row has a name, and no cell beyond the last column.
    fn check_row(&mut self, table: &PointTable, number: usize, row: &[String]) {
        let name = row.get(self.name_at).map_or("", |name| name.trim());
        if name.is_empty() {
            let message = "the point has no name".to_owned();
            self.faults.push(fault(number, self.name_at + 1, message));
        }
        let count = table.columns.len();
        let mut extra = row.iter().skip(count);
        if let Some(extra) = extra.position(|cell| !cell.trim().is_empty()) {
            let message =
                "a cell without a name above it; a comma in a cell needs quotes around the cell";
            self.faults
                .push(fault(number, count + extra + 1, message.to_owned()));
        }
    }

    /// The text without empty lines, if it has no faults.
    fn checked(mut self) -> Result<String, Vec<Diagnostic>> {
        let mut found = Diagnostics::new("", &self.text);
        let typed = Document::parse(&self.text, &mut found)
            .and_then(|mut document| document.typed::<Profile>(&mut found));
        if typed.is_some() && found.is_empty() && self.faults.is_empty() {
            let lines = self.text.lines().filter(|line| !line.is_empty());
            return Ok(lines.map(|line| format!("{line}\n")).collect());
        }
        for found in found.in_order() {
            let column = self.column(found.line, found.column);
            self.faults.push(fault(found.line, column, found.message));
        }
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        Err(self.faults)
    }

    /// The column of the table for a place in the text; that of the name if no cell begins before
    /// it.
    fn column(&self, line: usize, column: usize) -> usize {
        let cells = self.cells.get(line.saturating_sub(2));
        let cell = cells
            .into_iter()
            .flatten()
            .rev()
            .find(|cell| cell.begins <= column);
        cell.map_or(self.name_at + 1, |cell| cell.column)
    }
}

fn fault(row: usize, column: usize, message: String) -> Diagnostic {
    Diagnostic {
        file: String::new(),
        line: row,
        column,
        message,
        excerpt: String::new(),
    }
}

/// The devices and profiles of a file.
pub fn names_of(text: &str) -> Vec<String> {
    let mut faults = Diagnostics::new("", text);
    let Some(document) = Document::parse(text, &mut faults) else {
        return Vec::new();
    };
    let mut names = document.names("devices", NAME);
    names.extend(document.keys("profiles"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_go_into_a_table_and_come_back_as_they_were() {
        let text = "profiles:\n  m:\n    points:\n      flow: { at: 40001, type: f32, unit: m3/h, deadband: 2% }\n      mode: { holding: 5, words: { 0: stop, 1: 'on' } }\n      phases: { holding: 10, type: u16, array: { count: 3, stride: 2 }, broken_value: [ 1, { from: 5, to: 7 } ], positive: import }\ndevices:\n  - { name: d, profile: m, points: { flow: { scale: 0.1 }, own: { coil: 1 } } }\n";
        let table = points_of(text, Path::new(""), "d").unwrap();
        assert_eq!(
            table.columns,
            [
                "name",
                "at",
                "type",
                "unit",
                "deadband",
                "scale",
                "holding",
                "words",
                "array",
                "broken_value",
                "positive",
                "coil"
            ]
        );
        assert_eq!(
            table.rows[0],
            [
                "flow", "40001", "f32", "m3/h", "2%", "0.1", "", "", "", "", "", ""
            ]
        );
        assert_eq!(table.rows[1][7], "{0: stop, 1: 'on'}");
        assert_eq!(table.rows[2][9], "[1, {from: 5, to: 7}]");
        let back = points_from(&table).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert!(
            back.contains(
                "  flow: { at: 40001, type: f32, unit: m3/h, deadband: 2%, scale: 0.1 }\n"
            ),
            "{back}"
        );
        let again = points_of(
            &format!(
                "profiles:\n  again:\n{}",
                back.lines()
                    .map(|line| format!("    {line}\n"))
                    .collect::<String>()
            ),
            Path::new(""),
            "again",
        )
        .unwrap();
        assert_eq!(
            (again.rows.len(), again.rows[1][7].as_str()),
            (4, "{0: stop, 1: 'on'}")
        );
        assert_eq!(again.rows[2][9], "[1, {from: 5, to: 7}]");
        assert!(
            points_of(text, Path::new(""), "eastron-sdm120")
                .unwrap()
                .rows
                .len()
                > 10
                && points_of(text, Path::new(""), "nothing").is_none()
        );
    }

    #[test]
    fn faults_of_a_table_name_row_and_column() {
        let table = |columns: &[&str], rows: &[&[&str]]| PointTable {
            columns: columns.iter().map(ToString::to_string).collect(),
            rows: rows
                .iter()
                .map(|row| row.iter().map(ToString::to_string).collect())
                .collect(),
        };
        let told = |table: &PointTable| {
            points_from(table)
                .unwrap_err()
                .iter()
                .map(|fault| format!("{}:{} {}", fault.line, fault.column, fault.message))
                .collect::<Vec<_>>()
        };
        assert!(told(&table(&["point"], &[]))[0].starts_with("1:1 no column \"name\""));
        let wrong = table(
            &["name", "holding", "type", "colour"],
            &[
                &["a", "1", "u16", ""],
                &["b", "x", "unit16", ""],
                &["c", "2", "u16", "red"],
            ],
        );
        let told = told(&wrong);
        assert!(
            told[0].starts_with("3:2 ")
                && told[1].starts_with("3:3 \"unit16\" is not possible here"),
            "{told:?}"
        );
        assert!(
            told[2].starts_with("4:4 \"colour\" is not a setting here"),
            "{told:?}"
        );
        let odd = table(
            &["name", "holding", "type"],
            &[
                &["a", "1", "u16"],
                &["", "", ""],
                &["", "2", "u16"],
                &["b", "3", "u16", "more"],
            ],
        );
        let told: Vec<String> = points_from(&odd)
            .unwrap_err()
            .iter()
            .map(|fault| format!("{}:{} {}", fault.line, fault.column, fault.message))
            .collect();
        assert!(
            told[0].starts_with("4:1 the point has no name")
                && told[1].starts_with("5:4 a cell without a name above it"),
            "{told:?}"
        );
    }
}
