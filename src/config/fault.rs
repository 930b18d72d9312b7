//! Messages about a file: `gateway.yaml:18:31 "evry" is not a setting here; did you mean "every"?`

use std::fmt;

/// Line and column, from 1.
pub(super) type Place = (usize, usize);

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
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{} {}", self.file, self.line, self.column, self.message)
    }
}

/// The faults found so far.
#[derive(Debug)]
pub(super) struct Faults {
    file: String,
    found: Vec<Fault>,
}

impl Faults {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    pub(super) fn at(&mut self, (line, column): Place, message: String) {
        let fault = Fault { file: self.file.clone(), line, column, message };
        if !self.found.contains(&fault) {
            self.found.push(fault);
        }
    }

    /// True if something was noted between two places.
    pub(super) fn between(&self, start: Place, end: Place) -> bool {
        self.found.iter().any(|fault| (start..=end).contains(&(fault.line, fault.column)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn in_order(mut self) -> Vec<Fault> {
        self.found.sort_by_key(|fault| (fault.line, fault.column));
        self.found
    }
}

/// ` — did you mean "every"?`, or the whole choice if nothing is near and it is short.
pub(super) fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known.iter().map(|word| (strsim::damerau_levenshtein(typed, word), *word)).min();
    match nearest {
        Some((distance, word)) if distance <= 1 + typed.chars().count() / 3 => format!("did you mean \"{word}\"?"),
        _ if known.is_empty() => "there is none to choose from".to_owned(),
        _ => format!("choose one of: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        assert_eq!(suggestion("evry", ["every", "type"]), "did you mean \"every\"?");
        assert_eq!(suggestion("colour", ["every", "type"]), "choose one of: every, type");
    }
}
