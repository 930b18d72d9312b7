//! Texts of peers, made safe to print.

use std::borrow::Cow;
use std::fmt::{self, Write};

use tracing::field::DisplayValue;

/// Bytes of a text of a peer that the log shows.
const SHOWN: usize = 256;

/// Shows a text of a peer on one line: control characters (and with them line ends and the escape
/// sequences of terminals), marks that change the direction of writing, and characters without a
/// width are written as escapes such as `\u{1b}`. A backslash stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl Printable<'_> {
    /// True if `character` would do anything to a terminal but be visible.
    fn is_hidden(character: char) -> bool {
        character.is_control()
            || matches!(character,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    }

    /// The beginning of a text that a peer has chosen, for the log: at most 256 bytes as they are
    /// printed, and an ellipsis where more follows. Names, topics and reasons of MQTT may have 64
    /// kB.
    pub fn short(text: &str) -> Cow<'_, str> {
        Self::cut(text, SHOWN)
    }

    /// The same with another limit.
    pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
        let mut printed = 0;
        let end = text.char_indices().find(|(_, character)| {
            printed += if Self::is_hidden(*character) {
                character.escape_unicode().len()
            } else {
                character.len_utf8()
            };
            printed > most
        });
        end.and_then(|(end, _)| text.get(..end))
            .map_or(Cow::Borrowed(text), |begun| Cow::Owned(format!("{begun}…")))
    }

    /// The text of some lines: line ends and tabs stay, everything else is escaped.
    pub fn lines(text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for piece in text.split_inclusive(['\n', '\t']) {
            let end = piece
                .chars()
                .next_back()
                .filter(|end| matches!(end, '\n' | '\t'));
            let line = end.map_or(piece, |end| piece.strip_suffix(end).unwrap_or(piece));
            // Writing to a text cannot fail.
            let _ = write!(out, "{}", Printable(line));
            out.extend(end);
        }
        out
    }

    /// The same JSON, with such characters as `\u009b`: in JSON they can only be in strings.
    pub fn json(json: &str) -> String {
        let mut out = String::with_capacity(json.len());
        for character in json.chars() {
            if !Self::is_hidden(character) || matches!(character, '\n' | '\t') {
                out.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        out
    }

    /// Bytes as text; those that are none are shown as `\xff`.
    pub fn bytes(bytes: &[u8]) -> String {
        let mut out = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            let _ = write!(out, "{}", Printable(chunk.valid()));
            for byte in chunk.invalid() {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
        out
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((at, hidden)) = rest
            .char_indices()
            .find(|(_, character)| Self::is_hidden(*character))
        {
            let (plain, tail) = rest.split_at(at);
            f.write_str(plain)?;
            write!(f, "{}", hidden.escape_unicode())?;
            rest = tail.get(hidden.len_utf8()..).unwrap_or_default();
        }
        f.write_str(rest)
    }
}

/// The field of a line for a text that a peer has chosen: a name, a topic, a payload, a reason. See
/// [`Printable::short`].
pub fn chosen(text: &str) -> DisplayValue<Cow<'_, str>> {
    tracing::field::display(Printable::short(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_move_a_terminal_is_escaped_and_the_rest_is_not() {
        for (text, shown) in [
            ("pump 7: 12 °C, größer, 温度", "pump 7: 12 °C, größer, 温度"),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("a\nERROR forged\r", "a\\u{a}ERROR forged\\u{d}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("user\u{202e}nimda", "user\\u{202e}nimda"),
            ("c:\\new", "c:\\new"),
            ("", ""),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
        assert_eq!(Printable::lines("a\n\tb\x1b\r\n"), "a\n\tb\\u{1b}\\u{d}\n");
        let json = serde_json::json!({ "a": "x\u{9b}\u{202e}\u{e0001}\u{1b}" });
        let shown = Printable::json(&json.to_string());
        assert!(shown.contains("\\u009b\\u202e\\udb40\\udc01"), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            json
        );
        assert_eq!(Printable::bytes(b"ok\xff\x1b"), "ok\\xff\\u{1b}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(Printable::short("pump"), "pump");
        let whole = "x".repeat(SHOWN);
        assert_eq!(Printable::short(&whole), whole);
        for (text, kept) in [
            ("x", 256),
            ("ü", 128),
            ("温", 85),
            ("\x1b", 256 / "\\u{1b}".len()),
        ] {
            assert_eq!(
                Printable::short(&text.repeat(60_000)),
                format!("{}…", text.repeat(kept)),
                "{text:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn nothing_hidden_is_left(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            for shown in [Printable(&text).to_string(), Printable::bytes(&bytes)] {
                prop_assert!(!shown.chars().any(Printable::is_hidden), "{:?}", shown);
            }
            let is_fine = |c: char| matches!(c, '\n' | '\t') || !Printable::is_hidden(c);
            prop_assert!(Printable::lines(&text).chars().all(is_fine));
        }
    }
}
