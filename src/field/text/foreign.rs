//! Binary protocols that meters send where text was expected. Pure.
//!
//! Norwegian HAN ports (Aidon, Kaifa and Kamstrup) push DLMS in HDLC frames, some Austrian and
//! Luxembourg ports encrypted DLMS, most German meters SML: a person who wires one of them to a
//! profile that reads text should learn that, and not look for a wrong speed.

use std::sync::LazyLock;

use regex::bytes::Regex;

/// Bytes of a mark that may be in the chunk before.
const OVERLAP: usize = 32;

/// The signature of a protocol, and the advice for it.
struct Language {
    mark: LazyLock<Regex>,
    what: &'static str,
}

/// The pattern is a constant of this file, and tested.
macro_rules! mark {
    ($pattern:literal) => {
        LazyLock::new(|| Regex::new($pattern).expect("a constant pattern is a regular expression"))
    };
}

static LANGUAGES: [Language; 3] = [
    Language {
        // General-glo-ciphering with the system title, which begins with the three letters of a
        // maker [DLMS UA 1000-2, 9.2.7.2].
        mark: mark!(r"(?s-u)\xDB\x08[A-Z]{3}.{5}(?:\x82..|\x81.|.)[\x20\x21\x30]"),
        what: "the instrument sends encrypted DLMS, and not text; decrypt it with the key of the grid operator first",
    },
    Language {
        // A frame of type 3 and the LLC header [IEC 62056-46].
        mark: mark!(r"(?s-u)\x7E[\xA0-\xA7].{5,11}\xE6[\xE6\xE7]\x00"),
        what: "the instrument sends DLMS in HDLC frames (7E A0 ...), as Norwegian HAN ports do, and not text; use a converter, or set the meter to text",
    },
    Language {
        mark: mark!(r"(?s-u)\x1B\x1B\x1B\x1B\x01\x01\x01\x01"),
        what: "the instrument sends SML (1B 1B 1B 1B 01 01 01 01), and not text; use a converter, or set the meter to text",
    },
];

/// Listens for protocols that are not text.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// The end of what came before.
    tail: Vec<u8>,
}

impl Listener {
    /// The protocol that these bytes show, together with those before.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Option<&'static str> {
        self.tail.extend_from_slice(bytes);
        let found = LANGUAGES
            .iter()
            .find(|language| language.mark.is_match(&self.tail))
            .map(|language| language.what);
        let kept = if found.is_some() {
            0
        } else {
            self.tail.len().min(OVERLAP)
        };
        self.tail.drain(..self.tail.len() - kept);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn check(hex: &str, expected: &str) {
        for piece in [1, 7, 512] {
            let mut listener = Listener::default();
            let found = bytes(hex)
                .chunks(piece)
                .find_map(|chunk| listener.hear(chunk));
            assert!(
                found.is_some_and(|found| found.contains(expected)),
                "{hex} in pieces of {piece}: {found:?}"
            );
        }
    }

    #[test]
    fn what_meters_push_in_binary_is_recognised_in_pieces_of_any_size() {
        // Lists of an Aidon, a Kaifa and a Kamstrup meter in Norway, from the test set of amshan.
        for list in [
            "7EA02A410883130413E6E7000F40000000000101020309060100010700FF060000067D02020F00161B1C057E",
            "7EA027010201105A87E6E7000F40000000090C07E4020F06011922FF8000000201060000157EEA5E7E",
            "7EA0E22B2113239AE6E7000F000000000C07E6011801123A32FF80000002190A0E4B616D73747275705F56303030310906",
        ] {
            check(list, "DLMS in HDLC");
        }
        check("1B1B1B1B 01010101 76 05 03 2B 18 0F 62 00", "SML");
        // The header of a frame of a Luxembourg meter, from the P1 specification of Smarty.
        check(
            "DB 08 53 41 47 67 70 01 A5 0E 82 02 5D 30 00 00 00 8D",
            "encrypted",
        );
    }

    #[test]
    fn text_and_other_bytes_are_not_taken_for_it() {
        let mut listener = Listener::default();
        for text in [
            "/ISk5\\2MT382-1000\r\n\r\n1-0:1.8.0(001.001*kWh)\r\n!\r\n",
            "~~~~~~",
            "\x02\x2C\x30\x20  1234   250\r",
        ] {
            assert_eq!(listener.hear(text.as_bytes()), None, "{text}");
        }
        assert_eq!(listener.hear(&[0x7E; 600]), None);
        assert!(listener.tail.len() <= OVERLAP);
    }
}
