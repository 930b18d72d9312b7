//! Bytes as people type them: text with escapes, or hexadecimal; with placeholders where something
//! is filled in. Pure.

use std::collections::HashMap;

use serde::{Deserialize, de};

/// Fixed bytes: `'P\r\n'`, or `{ hex: 42 4D }`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

/// Bytes with placeholders, such as `'SEND {address}\r\n'` or
/// `{ hex: '68 {address} 68 {checksum} 16' }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<TemplatePart>,
    is_hex: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Bytes(Vec<u8>),
    Named(String),
}

/// Text or hexadecimal, as typed.
enum TypedBytes {
    Text(String),
    Hex(String),
}

impl<'de> Deserialize<'de> for TypedBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self::Text(text)),
            serde_json::Value::Object(object) if object.len() == 1 => match object.get("hex") {
                Some(serde_json::Value::String(hex)) => Ok(Self::Hex(hex.clone())),
                // Digits alone are a number in YAML.
                Some(serde_json::Value::Number(number)) => Ok(Self::Hex(number.to_string())),
                _ => Err(de::Error::custom(
                    "write text such as 'P\\r\\n', or bytes such as { hex: '42 4D' }",
                )),
            },
            other => Err(de::Error::custom(format!(
                "{other} is not possible here; write text such as 'P\\r\\n', or bytes such as {{ hex: '42 4D' }}"
            ))),
        }
    }
}

/// `\r \n \t \\ \xHH`; every other character stands for itself.
fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            // Instruments know no UTF-8: a character is a byte where it can be one.
            match u8::try_from(c) {
                Ok(byte) => bytes.push(byte),
                Err(_) => bytes.extend(c.to_string().bytes()),
            }
            continue;
        }
        bytes.push(match rest.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16)
                    .map_err(|_| format!("`\\x{digits}` is not a byte; write \\x02"))?
            }
            other => {
                return Err(format!(
                    "`\\{}` is not known; write \\r, \\n, \\t, \\\\ or \\x02",
                    other.map_or(String::new(), String::from)
                ));
            }
        });
    }
    Ok(bytes)
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let pair = |pair: &[u8]| {
        std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| {
        format!("`{text}` is not made of pairs of hexadecimal digits, such as 42 4D")
    })
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match TypedBytes::deserialize(deserializer)? {
            TypedBytes::Text(text) => unescaped(&text),
            TypedBytes::Hex(text) => hex(&text),
        };
        bytes.map(Self).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let template = match TypedBytes::deserialize(deserializer)? {
            TypedBytes::Text(text) => Self::new(&text, false),
            TypedBytes::Hex(text) => Self::new(&text, true),
        };
        template.map_err(de::Error::custom)
    }
}

impl Template {
    /// Parses a template, of text with escapes or of hexadecimal digits; the error names the fault.
    pub fn new(text: &str, is_hex: bool) -> Result<Self, String> {
        let plain = |text: &str| if is_hex { hex(text) } else { unescaped(text) };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a {{ without a }}"))?;
            parts.push(TemplatePart::Bytes(plain(before)?));
            parts.push(TemplatePart::Named(name.to_owned()));
            rest = behind;
        }
        parts.push(TemplatePart::Bytes(plain(rest)?));
        Ok(Self { parts, is_hex })
    }

    /// True if it was typed as bytes.
    pub fn is_hex(&self) -> bool {
        self.is_hex
    }

    /// The bytes of a value in its place: between hexadecimal digits the value is hexadecimal, the
    /// least significant byte first, as meters have it.
    pub(super) fn in_place(&self, value: &[u8]) -> Vec<u8> {
        let digits = std::str::from_utf8(value)
            .ok()
            .filter(|_| self.is_hex)
            .and_then(|text| hex(text).ok());
        digits.map_or_else(
            || value.to_vec(),
            |mut digits| {
                digits.reverse();
                digits
            },
        )
    }

    /// Bytes in the form in which this template takes them: between hexadecimal digits as digits,
    /// the last byte first.
    pub(super) fn as_typed(&self, bytes: &[u8]) -> Vec<u8> {
        if !self.is_hex {
            return bytes.to_vec();
        }
        let digits = bytes.iter().rev().map(|byte| format!("{byte:02x}"));
        digits.flat_map(String::into_bytes).collect()
    }

    /// A regular expression for what is sent; `placeholder` gives that of a placeholder.
    pub(super) fn pattern(&self, placeholder: impl Fn(&str) -> String) -> String {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Bytes(bytes) => {
                bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect()
            }
            TemplatePart::Named(name) => placeholder(name),
        };
        self.parts.iter().map(part).collect()
    }

    /// True if it ends with the placeholder of this name.
    pub fn ends_with(&self, name: &str) -> bool {
        let mut parts = self.parts.iter().rev();
        let is_end =
            |part: &TemplatePart| !matches!(part, TemplatePart::Bytes(bytes) if bytes.is_empty());
        parts.find(|part| is_end(part)) == Some(&TemplatePart::Named(name.to_owned()))
    }

    /// The names of its placeholders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| {
            if let TemplatePart::Named(name) = part {
                Some(name.as_str())
            } else {
                None
            }
        })
    }

    /// The bytes with everything filled in; `checksum` gives the bytes for `{checksum}` from those
    /// before it.
    pub(super) fn fill(
        &self,
        values: &HashMap<String, Vec<u8>>,
        checksum: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in &self.parts {
            match part {
                TemplatePart::Bytes(fixed) => bytes.extend_from_slice(fixed),
                TemplatePart::Named(name) if name == "checksum" => {
                    let sum = checksum(&bytes);
                    bytes.extend(sum);
                }
                TemplatePart::Named(name) => {
                    let value = values.get(name.trim_end_matches('?'));
                    bytes.extend(self.in_place(value.map(Vec::as_slice).unwrap_or_default()));
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_typed_as_text_or_hex() {
        let read = |text: &str| {
            serde_yaml::from_str::<Bytes>(text)
                .map(|bytes| bytes.0)
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("'P\\r\\n'").unwrap(), b"P\r\n");
        assert_eq!(read("\"P\\r\\n\"").unwrap(), b"P\r\n");
        assert_eq!(read("'\\x02\\\\A'").unwrap(), b"\x02\\A");
        assert_eq!(read("{ hex: 42 4d }").unwrap(), b"BM");
        assert_eq!(read("{ hex: 16 }").unwrap(), [0x16]);
        assert!(read("'\\q'").unwrap_err().contains("\\x02"));
        assert!(read("{ hex: 4 }").unwrap_err().contains("pairs"));
        assert!(read("[1]").unwrap_err().contains("hex"));
    }

    #[test]
    fn placeholders_are_filled() {
        let values = HashMap::from([("address".to_owned(), b"123456789012".to_vec())]);
        let fill = |text: &str| {
            serde_yaml::from_str::<Template>(text)
                .unwrap()
                .fill(&values, |bytes| {
                    vec![
                        bytes
                            .iter()
                            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte)),
                    ]
                })
        };
        assert_eq!(fill("'SEND {address}\\r'"), b"SEND 123456789012\r");
        assert_eq!(
            fill("{ hex: '68 {address} 68 {checksum} 16' }"),
            [0x68, 0x12, 0x90, 0x78, 0x56, 0x34, 0x12, 0x68, 0x86, 0x16]
        );
        assert!(serde_yaml::from_str::<Template>("'{oops'").is_err());
    }
}
