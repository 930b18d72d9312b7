//! Messages about a file: `gateway.yaml:18:31 "evry" is not a setting here; did you mean "every"?`

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

/// File (0 for the first one), line and column (from 1).
pub(super) type Place = (usize, usize, usize);

/// The beginning of the first file.
pub(super) const START: Place = (0, 1, 1);

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong and what to type instead.
    pub message: String,
    /// The line it is in, with a mark below the place, each on a line of its own; empty where that says nothing.
    pub excerpt: String,
}

impl fmt::Display for Fault {
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
fn excerpt(line: &str, (line_number, column): (usize, usize)) -> String {
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

/// The line with stars for what nobody else is to read: passwords, their hashes, logins in addresses. Every other character keeps its place.
fn without_secrets(line: &str) -> String {
    static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
        // The value of a key, quoted or not; what stands before the @ of an address; a hash.
        Regex::new(r#"(?x) (?i:pas[a-z]*|pw[a-z]*|secret[a-z]*|scram|authorization|cookie|[a-z-]*token|[a-z-]*api-?key)['"]?\s*:\s*(?P<a> \[[^\]]*\]? | '[^']*'? | "[^"]*"? | [^,}]+) | ://(?P<b>[^/@\s]+)@ | (?P<c>\$argon2[^'",}\s]*)"#).ok()
    });
    let mut shown: Vec<char> = line.chars().collect();
    for captures in SECRET.iter().flat_map(|secret| secret.captures_iter(line)) {
        let Some(found) = ["a", "b", "c"]
            .into_iter()
            .find_map(|name| captures.name(name))
        else {
            continue;
        };
        let first = line
            .get(..found.start())
            .map_or(0, |before| before.chars().count());
        shown
            .iter_mut()
            .skip(first)
            .take(found.as_str().chars().count())
            .for_each(|character| *character = '*');
    }
    shown.into_iter().collect()
}

/// Shorter values stand in many words.
const SHORTEST_HIDDEN: usize = 3;

/// What no message may show. Finding it takes as long as the message is, however much is hidden.
#[derive(Debug, Default)]
struct Hidden {
    /// What stands for each value.
    shown: HashMap<String, String>,
    /// Their lengths in bytes.
    lengths: BTreeSet<usize>,
    /// Those with a quotation mark in them, which are looked for outside quotes too.
    with_quotes: Vec<(String, String)>,
}

impl Hidden {
    fn add(&mut self, value: &str, shown: &str) {
        if value.chars().count() < SHORTEST_HIDDEN {
            return;
        }
        if value.contains(is_quote) && !self.shown.contains_key(value) {
            self.with_quotes.push((value.to_owned(), shown.to_owned()));
        }
        self.lengths.insert(value.len());
        self.shown
            .entry(value.to_owned())
            .or_insert_with(|| shown.to_owned());
    }

    /// What a message quotes without what is hidden; its own words stay.
    fn without(&self, message: &str) -> String {
        if self.shown.is_empty() {
            return message.to_owned();
        }
        let message = self
            .with_quotes
            .iter()
            .fold(message.to_owned(), |text, (value, shown)| {
                text.replace(value.as_str(), shown)
            });
        let parts = message.split_inclusive(is_quote).enumerate();
        parts
            .map(|(index, part)| {
                if index % 2 == 1 {
                    self.replaced(part)
                } else {
                    part.to_owned()
                }
            })
            .collect()
    }

    fn replaced(&self, part: &str) -> String {
        let mut out = String::new();
        let mut rest = part;
        while let Some(first) = rest.chars().next() {
            // The longest first: a value may be the beginning of another.
            let found = self
                .lengths
                .iter()
                .rev()
                .filter_map(|length| rest.get(..*length))
                .find_map(|text| self.shown.get_key_value(text));
            let length = match found {
                Some((value, shown)) => {
                    out.push_str(shown);
                    value.len()
                }
                None => {
                    out.push(first);
                    first.len_utf8()
                }
            };
            rest = rest.get(length..).unwrap_or_default();
        }
        out
    }
}

fn is_quote(c: char) -> bool {
    c == '`' || c == '"'
}

/// A file in which faults are found.
#[derive(Debug)]
struct Source {
    name: String,
    text: String,
    /// The bytes at which its lines begin.
    lines: Vec<usize>,
    /// Its lines may be shown: it is one of ours.
    is_ours: bool,
}

impl Source {
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
struct Found {
    list: Vec<(Place, Fault)>,
    known: HashSet<(Place, String)>,
}

impl Found {
    fn add(&mut self, place: Place, fault: Fault) {
        if self.known.insert((place, fault.message.clone())) {
            self.list.push((place, fault));
        }
    }

    fn extend(&mut self, list: impl IntoIterator<Item = (Place, Fault)>) {
        list.into_iter()
            .for_each(|(place, fault)| self.add(place, fault));
    }
}

/// The faults found so far.
#[derive(Debug)]
pub(super) struct Faults {
    files: Vec<Source>,
    found: Found,
    /// Of `found`.
    places: BTreeSet<Place>,
    warnings: Found,
    hidden: Hidden,
}

impl Faults {
    /// Of a file with this text.
    pub(super) fn new(file: &str, text: &str) -> Self {
        let files = vec![Source::new(file, text, true)];
        Self {
            files,
            found: Found::default(),
            places: BTreeSet::new(),
            warnings: Found::default(),
            hidden: Hidden::default(),
        }
    }

    /// The same, of a file that may be none of ours: then no line of it is shown.
    pub(super) fn of_a_stranger(file: &str, text: &str, is_ours: bool) -> Self {
        Self {
            files: vec![Source::new(file, text, is_ours)],
            ..Self::new(file, "")
        }
    }

    /// Keeps a value out of all messages from here on: as it is, as it is quoted, and line by line.
    pub(super) fn hide(&mut self, value: &str, shown: &str) {
        let quoted = value.escape_debug().to_string();
        for text in [value, quoted.as_str()].into_iter().chain(value.lines()) {
            self.hidden.add(text, shown);
        }
    }

    /// Another file; what is found in it is noted under the number that is returned. Lines are shown of files that are ours only.
    pub(super) fn add_file(&mut self, file: &str, text: &str, is_ours: bool) -> usize {
        self.files.push(Source::new(file, text, is_ours));
        self.files.len() - 1
    }

    /// Adds those of another file, behind those of this one.
    pub(super) fn append(&mut self, other: Self) {
        let first = self.files.len();
        let moved =
            |((file, line, column), fault): (Place, Fault)| ((first + file, line, column), fault);
        self.files.extend(other.files);
        self.places.extend(
            other
                .places
                .iter()
                .map(|(file, line, column)| (first + file, *line, *column)),
        );
        self.found.extend(other.found.list.into_iter().map(moved));
        self.warnings
            .extend(other.warnings.list.into_iter().map(moved));
    }

    pub(super) fn at(&mut self, place: Place, message: String) {
        let fault = self.told(place, &message);
        self.places.insert(place);
        self.found.add(place, fault);
    }

    /// Notes something that is no fault.
    pub(super) fn warn(&mut self, place: Place, message: String) {
        let warning = self.told(place, &message);
        self.warnings.add(place, warning);
    }

    /// The line of a place.
    pub(super) fn line(&self, (number, line, _): Place) -> &str {
        self.files.get(number).map_or("", |file| file.line(line))
    }

    fn told(&self, (number, line, column): Place, message: &str) -> Fault {
        let message = self.hidden.without(message);
        let source = self.files.get(number);
        let excerpt = source
            .filter(|file| file.is_ours)
            .map_or_else(String::new, |file| excerpt(file.line(line), (line, column)));
        Fault {
            file: source.map_or_else(String::new, |file| file.name.clone()),
            line,
            column,
            message,
            excerpt,
        }
    }

    /// The same as a fault, for what keeps a gateway from starting although the file may be right.
    pub(super) fn unread(&self, place: Place, message: &str) -> Fault {
        self.told(place, message)
    }

    /// True if something was noted between two places.
    pub(super) fn between(&self, start: Place, end: Place) -> bool {
        start <= end && self.places.range(start..=end).next().is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.list.is_empty()
    }

    pub(super) fn in_order(self) -> Vec<Fault> {
        sorted(self.found.list)
    }

    pub(super) fn warnings(&mut self) -> Vec<Fault> {
        sorted(std::mem::take(&mut self.warnings).list)
    }
}

/// In the order of the files.
fn sorted(mut found: Vec<(Place, Fault)>) -> Vec<Fault> {
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, fault)| fault).collect()
}

/// Names that are compared with a slip of the pen; more take too long for each of many faults.
pub(super) const MOST_COMPARED: usize = 2000;
/// Names that are listed for somebody whose name is none of them.
const MOST_LISTED: usize = 60;

/// Shorter words are part of too many others.
const SHORTEST_PART: usize = 3;
const MOST_CONTAINING: usize = 8;

/// The names that have all words of what was typed in them, such as `eastron-sdm630` for `sdm630`; none if there are many.
fn containing<'a>(typed: &str, known: &[&'a str]) -> Vec<&'a str> {
    let typed = typed.to_lowercase();
    let words: Vec<&str> = typed
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let has_all = |name: &&&str| words.iter().all(|word| name.to_lowercase().contains(word));
    let found: Vec<&str> = known.iter().filter(has_all).copied().collect();
    let is_long = words.iter().any(|word| word.len() >= SHORTEST_PART);
    if is_long && found.len() <= MOST_CONTAINING {
        found
    } else {
        Vec::new()
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [name] => format!("did you mean \"{name}\"?"),
        several => format!("did you mean one of: {}?", several.join(", ")),
    }
}

/// True if one of the words was hardly meant otherwise.
pub(super) fn is_slip_of_one(typed: &str, known: &[&str]) -> bool {
    known
        .iter()
        .any(|word| strsim::damerau_levenshtein(typed, word) <= 1)
}

/// ` — did you mean "every"?`, or the whole choice if nothing is near and it is short.
pub fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().take(MOST_COMPARED).collect();
    let nearest = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), *word))
        .min();
    let containing = containing(typed, &known);
    match nearest {
        Some((distance, word)) if distance <= 1 + typed.chars().count() / 3 => {
            format!("did you mean \"{word}\"?")
        }
        _ if !containing.is_empty() && containing.len() < known.len() => one_of(&containing),
        _ if known.is_empty() => "there is none to choose from".to_owned(),
        // A list that nobody reads.
        _ if known.len() > MOST_LISTED => "there are many to choose from".to_owned(),
        _ => format!("choose one of: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_fault_is_shown_with_a_mark_below_its_place() {
        let text = "site: x\n  flow: { at: 40001, evry: 2s }\n\n# nothing\n";
        let shown = |line: usize, column: usize| {
            excerpt(Source::new("x", text, true).line(line), (line, column))
        };
        assert_eq!(
            shown(2, 22),
            "\n   2 |   flow: { at: 40001, evry: 2s }\n     |                      ^^^^"
        );
        assert_eq!(shown(1, 8), "\n   1 | site: x\n     |        ^");
        assert_eq!([shown(3, 1), shown(4, 1), shown(9, 1)], ["", "", ""]);
        let long = format!("{}here{}", "a ".repeat(200), " b".repeat(200));
        let shown = excerpt(&long, (1, 401));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1].find("here"), lines[2].find("^^^^"));
        assert!(lines.iter().all(|line| line.len() <= SHOWN + 7), "{shown}");
    }

    #[test]
    fn what_is_hidden_is_in_no_message_however_it_is_quoted() {
        let mut faults = Faults::new("x", "");
        faults.hide("first line\nsecond line", "${credential:a}");
        faults.hide("a\"b`c", "***");
        faults.hide("first", "***");
        for (message, expected) in [
            (
                "`first line\nsecond line` is wrong",
                "`${credential:a}` is wrong",
            ),
            (
                "string \"first line\\nsecond line\" is wrong",
                "string \"${credential:a}\" is wrong",
            ),
            ("`second line` is wrong", "`${credential:a}` is wrong"),
            ("`a\"b`c` is wrong", "`***` is wrong"),
            ("the first of `first`", "the first of `***`"),
        ] {
            assert_eq!(faults.hidden.without(message), expected);
        }
    }

    #[test]
    fn no_line_is_shown_of_a_file_that_is_not_ours() {
        let mut faults = Faults::new("x", "site: x\n");
        let stranger = faults.add_file("shadow", "root:hash:1\n", false);
        faults.at((stranger, 1, 1), "not ours".to_owned());
        assert_eq!(faults.in_order()[0].excerpt, "");
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let check = |line: &str, expected: &str| assert_eq!(without_secrets(line), expected);
        check(
            "{ user: a, password: hunter2, usr: b }",
            "{ user: a, password: *******, usr: b }",
        );
        check(
            "  password: 'two words, quoted' # x",
            "  password: ******************* # x",
        );
        check(
            "users: [ { name: ü, password: '$argon2id$x,y' } ]",
            "users: [ { name: ü, password: *************** } ]",
        );
        check(
            "to: mqtt://me:pass@host:1883",
            "to: mqtt://*******@host:1883",
        );
        check("- $argon2id$v=19$m=1", "- ******************");
        check(
            "password_file: cloud.password",
            "password_file: cloud.password",
        );
        // Slips of the pen, and what is no text.
        check("    passwort: hunter2", "    passwort: *******");
        check("{ pasword: [ a, b ], x: 1 }", "{ pasword: ********, x: 1 }");
        check("password: plain secret two", "password: ****************");
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        assert_eq!(
            suggestion("evry", ["every", "type"]),
            "did you mean \"every\"?"
        );
        assert_eq!(
            suggestion("colour", ["every", "type"]),
            "choose one of: every, type"
        );
        let profiles = [
            "eastron-sdm630",
            "eastron-sdm72d-m",
            "eastron-sdm72d-m-v2",
            "kostal-plenticore",
        ];
        assert_eq!(
            suggestion("sdm630", profiles),
            "did you mean \"eastron-sdm630\"?"
        );
        assert_eq!(
            suggestion("SDM72", profiles),
            "did you mean one of: eastron-sdm72d-m, eastron-sdm72d-m-v2?"
        );
    }
}
