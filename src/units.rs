//! Durations, sizes, prices and rates as people write them in the YAML file: `300ms`, `2GB`,
//! `10/s`. A number without a unit is refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A duration with its unit, such as `300ms`, `2s`, `5m`, `1h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Ten years; nothing here is meant to take longer.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// A number of bytes with its unit, such as `64kB`, `2GB` (powers of ten) or `4MiB` (powers of
/// two).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = || {
            format!(
                "`{text}` is not a duration; write a number with its unit, such as 300ms, 2s, 5m, 1h or 30d"
            )
        };
        if text.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(format!(
                "`{text}` has no unit; write {text}ms, {text}s, {text}m, {text}h or {text}d"
            ));
        }
        let near = || {
            meant(text, &["min", "ms", "s", "m", "h", "d", "days", "weeks"])
                .map(|meant| format!("`{text}` is not a duration; did you mean {meant}?"))
        };
        let span = humantime::parse_duration(text.trim())
            .map(Span)
            .map_err(|_| near().unwrap_or_else(plain))?;
        if span.0 > LONGEST {
            Err(format!("`{text}` is too long; write at most 3650d"))
        } else {
            Ok(span)
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = || {
            format!(
                "`{text}` is not a size; write a number with its unit, such as 64kB, 20MB, 2GB or 4MiB"
            )
        };
        if text.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(format!(
                "`{text}` has no unit; write {text}kB, {text}MB or {text}GB"
            ));
        }
        let near = || {
            meant(text, &["kB", "MB", "GB", "KiB", "MiB", "GiB"])
                .map(|meant| format!("`{text}` is not a size; did you mean {meant}?"))
        };
        text.trim()
            .parse::<bytesize::ByteSize>()
            .map(|size| Size(size.as_u64()))
            .map_err(|_| near().unwrap_or_else(plain))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// The number of a text with the unit that is nearest to the one that was typed.
fn meant(text: &str, units: &[&str]) -> Option<String> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let unit = unit.trim().to_lowercase();
    let distance = |known: &&&str| strsim::damerau_levenshtein(&unit, &known.to_lowercase());
    // Of long words the first letter says most.
    let by_letter = || {
        units.iter().find(|known| {
            unit.len() > 2
                && unit.chars().all(char::is_alphabetic)
                && known
                    .to_lowercase()
                    .starts_with(unit.chars().next().unwrap_or('?'))
        })
    };
    let nearest = units
        .iter()
        .min_by_key(distance)
        .filter(|known| distance(known) <= 1)
        .or_else(by_letter)?;
    (!number.is_empty()).then(|| format!("{number}{nearest}"))
}

/// A price of data, such as `1.20 EUR/MB`.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    /// Of one byte.
    pub per_byte: f64,
    /// Such as EUR.
    pub currency: String,
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (amount, per) = text.trim().split_once(' ')?;
            let (currency, unit) = per.trim().split_once('/')?;
            let amount: f64 = amount
                .parse()
                .ok()
                .filter(|amount: &f64| amount.is_finite() && *amount >= 0.0)?;
            let bytes = format!("1{}", unit.trim())
                .parse::<bytesize::ByteSize>()
                .ok()?
                .as_u64();
            let is_name = !currency.is_empty() && currency.chars().all(char::is_alphabetic);
            #[allow(clippy::cast_precision_loss)]
            (is_name && bytes > 0 && unit.trim().ends_with('B')).then(|| Self {
                per_byte: amount / bytes as f64,
                currency: currency.to_owned(),
            })
        };
        parts().ok_or_else(|| format!("`{text}` is not a price; write an amount, a currency and a size, such as 1.20 EUR/MB"))
    }
}

/// How much may pass, such as `10/s`, `600/min` or `10kB/s`; or a list of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Messages an hour.
    pub messages: Option<u64>,
    /// Bytes an hour.
    pub bytes: Option<u64>,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a rate; write messages or bytes and a time, such as 10/s, 600/min or 10kB/s"
            )
        };
        let (amount, time) = text.trim().split_once('/').ok_or_else(wrong)?;
        let in_an_hour = match time.trim() {
            "s" | "sec" | "second" => 3600.0,
            "m" | "min" | "minute" => 60.0,
            "h" | "hour" => 1.0,
            "d" | "day" => 1.0 / 24.0,
            _ => return Err(wrong()),
        };
        let amount = amount.trim();
        let is_plain = !amount.is_empty()
            && amount
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number = if is_plain {
            amount.parse::<f64>().ok()
        } else {
            amount.parse::<Size>().ok().map(|size| size.0 as f64)
        };
        let an_hour = number
            .map(|number| (number * in_an_hour).round())
            .ok_or_else(wrong)?;
        if !(1.0..1e15).contains(&an_hour) {
            return Err(format!(
                "`{text}` is too small or too large; write a rate such as 10/s, at least 1/h"
            ));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let an_hour = an_hour as u64;
        let (messages, bytes) = if is_plain {
            (Some(an_hour), None)
        } else {
            (None, Some(an_hour))
        };
        Ok(Self { messages, bytes })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RateVisitor;
        impl<'de> de::Visitor<'de> for RateVisitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as 10/s or 10kB/s, or a list of both")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Rate, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Rate, A::Error> {
                let mut rate = Rate::default();
                while let Some(text) = seq.next_element::<String>()? {
                    let Rate { messages, bytes } = text.parse().map_err(de::Error::custom)?;
                    if (messages.is_some() && rate.messages.is_some())
                        || (bytes.is_some() && rate.bytes.is_some())
                    {
                        return Err(de::Error::custom(
                            "a list takes one message rate and one byte rate; write [ 10/s, 10kB/s ]",
                        ));
                    }
                    rate = Rate {
                        messages: messages.or(rate.messages),
                        bytes: bytes.or(rate.bytes),
                    };
                }
                Ok(rate)
            }
        }
        deserializer.deserialize_any(RateVisitor)
    }
}

struct WithUnit<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> de::Visitor<'_> for WithUnit<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number with its unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WithUnit(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WithUnit(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WithUnit(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_a_missing_one_is_asked_for() {
        assert_eq!("300ms".parse(), Ok(Span(Duration::from_millis(300))));
        assert_eq!("30d".parse(), Ok(Span(Duration::from_secs(30 * 86_400))));
        assert_eq!("2GB".parse(), Ok(Size(2_000_000_000)));
        assert_eq!("4MiB".parse(), Ok(Size(4 << 20)));
        assert!("300".parse::<Span>().unwrap_err().contains("300ms"));
        assert!("12".parse::<Size>().unwrap_err().contains("12kB"));
        assert!("500000y".parse::<Span>().unwrap_err().contains("too long"));
        for (typed, meant) in [
            ("1mn", "1min"),
            ("5 sek", "5s"),
            ("5MIN", "5min"),
            ("2gigs", "2GB"),
        ] {
            let told = typed
                .parse::<Span>()
                .err()
                .filter(|_| !typed.contains("gig"))
                .unwrap_or_else(|| typed.parse::<Size>().unwrap_err());
            assert!(told.contains(&format!("did you mean {meant}?")), "{told}");
        }
        assert!(
            "soon"
                .parse::<Span>()
                .unwrap_err()
                .contains("not a duration")
        );
        assert!("much".parse::<Size>().unwrap_err().contains("not a size"));
    }

    #[test]
    fn a_price_has_amount_currency_and_size() {
        assert_eq!(
            "1.20 EUR/MB".parse(),
            Ok(Price {
                per_byte: 1.2e-6,
                currency: "EUR".to_owned()
            })
        );
        assert_eq!(
            "3 USD/kB".parse(),
            Ok(Price {
                per_byte: 0.003,
                currency: "USD".to_owned()
            })
        );
        for wrong in [
            "1.20",
            "1.20 EUR",
            "EUR/MB",
            "1 EUR/month",
            "-1 EUR/MB",
            "1 /MB",
        ] {
            assert!(
                wrong.parse::<Price>().unwrap_err().contains("not a price"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_rate_has_messages_or_bytes_and_a_time() {
        let rate = |messages, bytes| Ok(Rate { messages, bytes });
        assert_eq!("10/s".parse(), rate(Some(36_000), None));
        assert_eq!(" 600 / min".parse(), rate(Some(36_000), None));
        assert_eq!("0.5/s".parse(), rate(Some(1800), None));
        assert_eq!("10kB/s".parse(), rate(None, Some(36_000_000)));
        assert_eq!("48MB/d".parse(), rate(None, Some(2_000_000)));
        for wrong in ["10", "10/fortnight", "/s", "fast/s", "10kB"] {
            assert!(
                wrong.parse::<Rate>().unwrap_err().contains("not a rate"),
                "{wrong}"
            );
        }
        assert!("0/s".parse::<Rate>().unwrap_err().contains("too small"));
        let both: Rate = serde_json::from_str(r#"["10/s", "1kB/s"]"#).unwrap();
        assert_eq!(
            both,
            Rate {
                messages: Some(36_000),
                bytes: Some(3_600_000)
            }
        );
        assert!(serde_json::from_str::<Rate>(r#"["10/s", "1/s"]"#).is_err());
    }
}
