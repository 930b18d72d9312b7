//! Messages about a file: `gateway.yaml:18:31 "evry" is not a setting here; did you mean "every"?`

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use super::secrets::{Hidden, without_secrets};

/// A position in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SourceLocation {
    /// 0 for the first one.
    pub(super) file: usize,
    /// From 1.
    pub(super) line: usize,
    /// From 1, in characters.
    pub(super) column: usize,
}

impl SourceLocation {
    pub(super) const fn new(file: usize, line: usize, column: usize) -> Self {
        Self { file, line, column }
    }

    pub(super) const fn start_of(file: usize) -> Self {
        Self::new(file, 1, 1)
    }
}

/// The beginning of the first file.
pub(super) const START: SourceLocation = SourceLocation::start_of(0);

/// A fault or a warning, with its place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Name of the file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The mistake, and its remedy.
    pub message: String,
    /// The line of the file with a mark below the place, each on a line of its own; empty where
    /// that does not help.
    pub excerpt: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{} {}",
            self.file, self.line, self.column, self.message
        )
    }
}

/// Characters of a line that are shown.
const SHOWN: usize = 110;

/// `\n  18 | ...\n     |    ^^^^`
fn excerpt(line: &str, line_number: usize, column: usize) -> String {
    if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
        return String::new();
    }
    let line = without_secrets(line);
    let characters: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let place = column.saturating_sub(1).min(characters.len());
    let ends = |c: &char| c.is_whitespace() || ",:{}[]".contains(*c);
    let marked = characters
        .iter()
        .skip(place)
        .position(ends)
        .unwrap_or(characters.len() - place)
        .max(1);
    // Of a long line the part around the place.
    let first = if characters.len() <= SHOWN {
        0
    } else {
        place.saturating_sub(SHOWN / 2)
    };
    let shown: String = characters.iter().skip(first).take(SHOWN).collect();
    let marks = "^".repeat(marked.min(SHOWN - (place - first).min(SHOWN - 1)));
    let (number, gap) = (format!("{line_number:>4}"), " ".repeat(place - first));
    format!("\n{number} | {}\n     | {gap}{marks}", shown.trim_end())
}

/// A file that diagnostics refer to.
#[derive(Debug)]
struct SourceFile {
    name: String,
    text: String,
    /// The bytes at which its lines begin.
    lines: Vec<usize>,
    /// Its lines may be shown: it is one of ours.
    is_ours: bool,
}

impl SourceFile {
    fn new(name: &str, text: &str, is_ours: bool) -> Self {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            lines,
            is_ours,
        }
    }

    /// A line, from 1.
    fn line(&self, number: usize) -> &str {
        let start = number
            .checked_sub(1)
            .and_then(|index| self.lines.get(index));
        let rest = start
            .and_then(|start| self.text.get(*start..))
            .unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        line.strip_suffix('\r').unwrap_or(line)
    }
}

/// Faults or warnings, each once.
#[derive(Debug, Default)]
struct DiagnosticList {
    list: Vec<(SourceLocation, Diagnostic)>,
    known: HashSet<(SourceLocation, String)>,
}

impl DiagnosticList {
    fn add(&mut self, place: SourceLocation, fault: Diagnostic) {
        if self.known.insert((place, fault.message.clone())) {
            self.list.push((place, fault));
        }
    }

    fn extend(&mut self, list: impl IntoIterator<Item = (SourceLocation, Diagnostic)>) {
        list.into_iter()
            .for_each(|(place, fault)| self.add(place, fault));
    }
}

/// Faults and warnings found so far, with the files that they are in.
#[derive(Debug)]
pub(super) struct Diagnostics {
    files: Vec<SourceFile>,
    found: DiagnosticList,
    /// Of `found`.
    places: BTreeSet<SourceLocation>,
    warnings: DiagnosticList,
    hidden: Hidden,
}

impl Diagnostics {
    /// Of a file with this text.
    pub(super) fn new(file: &str, text: &str) -> Self {
        let files = vec![SourceFile::new(file, text, true)];
        Self {
            files,
            found: DiagnosticList::default(),
            places: BTreeSet::new(),
            warnings: DiagnosticList::default(),
            hidden: Hidden::default(),
        }
    }

    /// The same, of a file that may be none of ours: then no line of it is shown.
    pub(super) fn of_foreign_file(file: &str, text: &str, is_ours: bool) -> Self {
        Self {
            files: vec![SourceFile::new(file, text, is_ours)],
            ..Self::new(file, "")
        }
    }

    /// Keeps a value out of all messages from here on.
    pub(super) fn hide(&mut self, value: &str, shown: &str) {
        self.hidden.hide(value, shown);
    }

    /// Another file; what is found in it is noted under the number that is returned. Lines are
    /// shown of files that are ours only.
    pub(super) fn add_file(&mut self, file: &str, text: &str, is_ours: bool) -> usize {
        self.files.push(SourceFile::new(file, text, is_ours));
        self.files.len() - 1
    }

    /// Adds those of another file, behind those of this one.
    pub(super) fn append(&mut self, other: Self) {
        let first = self.files.len();
        let moved = |place: SourceLocation| SourceLocation {
            file: first + place.file,
            ..place
        };
        let moved_fault = |(place, fault): (SourceLocation, Diagnostic)| (moved(place), fault);
        self.files.extend(other.files);
        self.places.extend(other.places.into_iter().map(moved));
        self.found
            .extend(other.found.list.into_iter().map(moved_fault));
        self.warnings
            .extend(other.warnings.list.into_iter().map(moved_fault));
    }

    /// Notes a fault.
    pub(super) fn at(&mut self, place: SourceLocation, message: String) {
        let fault = self.diagnostic(place, &message);
        self.places.insert(place);
        self.found.add(place, fault);
    }

    /// Notes a warning.
    pub(super) fn warn(&mut self, place: SourceLocation, message: String) {
        let warning = self.diagnostic(place, &message);
        self.warnings.add(place, warning);
    }

    /// The line of a place.
    pub(super) fn line(&self, place: SourceLocation) -> &str {
        self.files
            .get(place.file)
            .map_or("", |file| file.line(place.line))
    }

    fn diagnostic(&self, place: SourceLocation, message: &str) -> Diagnostic {
        let SourceLocation { file, line, column } = place;
        let message = self.hidden.without(message);
        let source = self.files.get(file);
        let excerpt = source
            .filter(|file| file.is_ours)
            .map_or_else(String::new, |file| excerpt(file.line(line), line, column));
        Diagnostic {
            file: source.map_or_else(String::new, |file| file.name.clone()),
            line,
            column,
            message,
            excerpt,
        }
    }

    /// The same as a fault, for what keeps a gateway from starting although the file may be right.
    pub(super) fn unread(&self, place: SourceLocation, message: &str) -> Diagnostic {
        self.diagnostic(place, message)
    }

    /// True if something was noted between two places.
    pub(super) fn between(&self, start: SourceLocation, end: SourceLocation) -> bool {
        start <= end && self.places.range(start..=end).next().is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.list.is_empty()
    }

    pub(super) fn in_order(self) -> Vec<Diagnostic> {
        sorted(self.found.list)
    }

    pub(super) fn warnings(&mut self) -> Vec<Diagnostic> {
        sorted(std::mem::take(&mut self.warnings).list)
    }
}

/// In the order of the files.
fn sorted(mut found: Vec<(SourceLocation, Diagnostic)>) -> Vec<Diagnostic> {
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, fault)| fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_fault_is_shown_with_a_mark_below_its_place() {
        let text = "site: x\n  flow: { at: 40001, evry: 2s }\n\n# nothing\n";
        let shown = |line: usize, column: usize| {
            excerpt(SourceFile::new("x", text, true).line(line), line, column)
        };
        assert_eq!(
            shown(2, 22),
            "\n   2 |   flow: { at: 40001, evry: 2s }\n     |                      ^^^^"
        );
        assert_eq!(shown(1, 8), "\n   1 | site: x\n     |        ^");
        assert_eq!([shown(3, 1), shown(4, 1), shown(9, 1)], ["", "", ""]);
        let long = format!("{}here{}", "a ".repeat(200), " b".repeat(200));
        let shown = excerpt(&long, 1, 401);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1].find("here"), lines[2].find("^^^^"));
        assert!(lines.iter().all(|line| line.len() <= SHOWN + 7), "{shown}");
    }

    #[test]
    fn no_line_is_shown_of_a_file_that_is_not_ours() {
        let mut faults = Diagnostics::new("x", "site: x\n");
        let stranger = faults.add_file("shadow", "root:hash:1\n", false);
        faults.at(SourceLocation::start_of(stranger), "not ours".to_owned());
        assert_eq!(faults.in_order()[0].excerpt, "");
    }
}
