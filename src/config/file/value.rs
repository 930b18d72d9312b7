//! Values that are typed in several forms: a number or a text, one or a list.

use serde::{Deserialize, de};

use crate::field::decode::Sentinel;

/// A register number as manuals print it; leading zeros make YAML take it for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Printed(pub(in crate::config) u32);

impl<'de> Deserialize<'de> for Printed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = value
            .as_u64()
            .or_else(|| value.as_str()?.parse().ok())
            .and_then(|number| u32::try_from(number).ok());
        number.map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{value} is not a register number; type it as the manual prints it, such as 40001"
            ))
        })
    }
}

/// A register counted from zero, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct FromZero(pub(in crate::config) u16);

impl<'de> Deserialize<'de> for FromZero {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromZeroVisitor;
        impl de::Visitor<'_> for FromZeroVisitor {
            type Value = FromZero;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("u16")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<FromZero, E> {
                match u16::try_from(number) {
                    Ok(number) => Ok(FromZero(number)),
                    Err(_) if matches!(number, 100_001..=165_536 | 300_001..=365_536 | 400_001..=465_536) => {
                        Err(E::custom(format!(
                            "{number} is a register as manuals print it, and this key counts from zero, up to 65535; write `at: {number}`"
                        )))
                    }
                    Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<FromZero, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }
        }
        deserializer.deserialize_u16(FromZeroVisitor)
    }
}

/// One value, or a list of them.
#[derive(Debug, Clone)]
pub(in crate::config) struct OneOrMore<T>(pub(in crate::config) Vec<T>);

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Array(list) => list,
            one => vec![one],
        };
        typed
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(de::Error::custom)
    }
}

/// The same, with the place of each value of a list known to messages; for values that are no
/// mappings.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Several<T>(pub(in crate::config) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Several<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SeveralVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for SeveralVisitor<T> {
            type Value = Several<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one text, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Several<T>, E> {
                T::deserialize(de::IntoDeserializer::into_deserializer(text))
                    .map(|one| Several(vec![one]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Several<T>, A::Error> {
                let mut several = Vec::new();
                while let Some(one) = seq.next_element()? {
                    several.push(one);
                }
                Ok(Several(several))
            }
        }
        deserializer.deserialize_any(SeveralVisitor(std::marker::PhantomData))
    }
}

/// `32767`, or `'N/A'` for a string.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct BrokenValue(pub(in crate::config) Sentinel);

impl<'de> Deserialize<'de> for BrokenValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let end = |key: &str| value.get(key)?.as_f64();
        let range =
            || (value.as_object()?.len() == 2).then_some(Sentinel::Range(end("from")?, end("to")?));
        let text = || {
            value
                .as_str()
                .map(|text| Sentinel::Text(text.trim().into()))
        };
        value.as_f64().map(Sentinel::Number).or_else(text).or_else(range).map(Self).ok_or_else(|| {
            de::Error::custom(format!("{value} is not a raw value; type a number such as 32767 or 0xFFFF, a range such as {{ from: 0xFFF8, to: 0xFFFF }}, or for a string its text"))
        })
    }
}

/// `0.5`, or `2%` of the value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) enum DeadbandConfig {
    Absolute(f64),
    Percent(f64),
}

impl<'de> Deserialize<'de> for DeadbandConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let percent = || {
            value
                .as_str()?
                .trim()
                .strip_suffix('%')?
                .trim()
                .parse()
                .ok()
        };
        let known = value
            .as_f64()
            .map(Self::Absolute)
            .or_else(|| percent().map(Self::Percent));
        known.ok_or_else(|| {
            de::Error::custom(format!("{value} is not a deadband; type a number such as 0.5, or a part of the value such as 2%"))
        })
    }
}

/// The raw value of a word: a whole number, or the text that a plain instrument writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::config) struct RawWord(pub(in crate::config) String);

impl RawWord {
    /// As the raw value of a register; `None` if it is text.
    pub(in crate::config) fn number(&self) -> Option<i64> {
        self.0.parse().ok()
    }
}

impl<'de> Deserialize<'de> for RawWord {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawWordVisitor;
        impl de::Visitor<'_> for RawWordVisitor {
            type Value = RawWord;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number, or the text that the instrument writes")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<RawWord, E> {
                Ok(RawWord(number.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RawWord, E> {
                Ok(RawWord(number.to_string()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawWord, E> {
                Ok(RawWord(text.to_owned()))
            }
        }
        deserializer.deserialize_any(RawWordVisitor)
    }
}

/// `0.001`, or `{ scale: 0.5556, offset: -17.7778 }`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) struct Factor {
    pub(in crate::config) scale: f64,
    pub(in crate::config) offset: f64,
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = |key: &str| value.get(key)?.as_f64();
        let both = || {
            (value.as_object()?.len() == 2).then_some(Self {
                scale: number("scale")?,
                offset: number("offset")?,
            })
        };
        value.as_f64().map(|scale| Self { scale, offset: 0.0 }).or_else(both).ok_or_else(|| {
            de::Error::custom(format!("{value} is not a factor; type a number such as 0.001, or {{ scale: 0.5556, offset: -17.7778 }}"))
        })
    }
}
