//! Keeps secrets out of messages: values by name, and whatever looks like one in a line of a file.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use regex::Regex;

/// The line with stars for secrets: passwords, their hashes, logins in addresses. Every other
/// character keeps its place.
pub(super) fn without_secrets(line: &str) -> String {
    static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
        // The value of a key, quoted or not; the part before the @ of an address; a hash.
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

/// Shorter values are part of many words.
const SHORTEST_HIDDEN: usize = 3;

/// Values that no message may show. Finding them takes as long as the message is, however much is
/// hidden.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    /// The replacement of each value.
    shown: HashMap<String, String>,
    /// Their lengths in bytes.
    lengths: BTreeSet<usize>,
    /// Those with a quotation mark in them, which are looked for outside quotes too.
    with_quotes: Vec<(String, String)>,
}

impl Hidden {
    /// Keeps a value out of messages: as it is, quoted, and line by line.
    pub(super) fn hide(&mut self, value: &str, shown: &str) {
        let quoted = value.escape_debug().to_string();
        for text in [value, quoted.as_str()].into_iter().chain(value.lines()) {
            self.add(text, shown);
        }
    }

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

    /// The message with hidden values replaced in its quotes; its own words stay.
    pub(super) fn without(&self, message: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_in_no_message_however_it_is_quoted() {
        let mut hidden = Hidden::default();
        hidden.hide("first line\nsecond line", "${credential:a}");
        hidden.hide("a\"b`c", "***");
        hidden.hide("first", "***");
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
            assert_eq!(hidden.without(message), expected);
        }
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
}
