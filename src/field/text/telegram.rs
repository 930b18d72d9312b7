//! The placeholders of a simulated message: an address, the value of a point, or a value of its own
//! that moves. Pure.
//!
//! `{weight}` is the value of a point, `{226..234}` moves between two numbers, `{1581.1+0.001}`
//! grows by so much a second. Behind a colon stands how a number is written: `{226..234:05.1}` has
//! one decimal and five characters, with zeros in front; `{21..25:+5.1}` has its sign.

use std::time::Duration;

use super::bytes::Template;
use super::held::Shown;
use super::parse::ValueLocation;
use crate::field::signal::{Signal, Waveform};
use crate::field::{Point, PointSource};
use crate::units::Span;

const PERIOD: Duration = Duration::from_secs(60);
const TEN_YEARS: u32 = 315_360_000;
/// More than any message has room for.
const WIDEST: usize = 64;
const MOST_DECIMALS: usize = 15;

/// A placeholder as typed.
#[derive(Debug, Clone, PartialEq)]
pub struct Placeholder<'a> {
    what: What<'a>,
    format: NumberFormat,
}

#[derive(Debug, Clone, PartialEq)]
enum What<'a> {
    Named(&'a str),
    Moves(Signal),
}

/// The format of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberFormat {
    width: usize,
    /// Zeros in front instead of blanks.
    is_padded: bool,
    /// A plus sign before what is not negative.
    is_signed: bool,
    decimals: Option<usize>,
}

impl<'a> Placeholder<'a> {
    /// Parses the text between the braces; the error names the remedy.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let (what, format) = text.split_once(':').unwrap_or((text, ""));
        let format = NumberFormat::parse(format).ok_or_else(|| {
            format!("`{{{text}}}` does not say how the number is written; write {{{what}:05.1}} for five characters, zeros in front, one decimal")
        })?;
        let numbers = |sign: &str| {
            let (from, to) = what.split_once(sign)?;
            Some((from.parse::<f64>().ok()?, to.parse::<f64>().ok()?))
        };
        let what = if let Some((from, to)) = numbers("..") {
            What::Moves(Signal {
                shape: Waveform::Sine,
                from,
                to,
                period: Span(PERIOD),
            })
        } else if let Some((from, rate)) = numbers("+") {
            let years = Duration::from_secs(TEN_YEARS.into());
            What::Moves(Signal {
                shape: Waveform::Ramp,
                from,
                to: from + rate * f64::from(TEN_YEARS),
                period: Span(years),
            })
        } else {
            What::Named(what)
        };
        Ok(Self { what, format })
    }

    /// The name of the point, or `address` and `checksum`; `None` for a value of its own.
    pub fn name(&self) -> Option<&'a str> {
        if let What::Named(name) = self.what {
            Some(name)
        } else {
            None
        }
    }

    /// Its bytes in a template; `None` if there is no such point.
    pub(super) fn bytes(&self, shown: &Shown<'_>, template: &Template) -> Option<Vec<u8>> {
        let name = match self.what {
            What::Moves(signal) => {
                let number = signal.value(shown.elapsed);
                return Some(self.format.number(number, None).into_bytes());
            }
            What::Named(name) => name,
        };
        let mut points = shown.device.points.iter();
        let point = points.find(|point| *point.name == *name)?;
        match &point.source {
            PointSource::Extracted(found) if matches!(found.place, ValueLocation::Byte(_)) => {
                let bytes = found.meaning.encode_bytes(shown.number(point));
                Some(template.as_typed(&bytes))
            }
            PointSource::Extracted(found) => {
                Some(self.in_text(shown, point, found.meaning.decimals))
            }
            PointSource::Command(meaning) => Some(self.in_text(shown, point, meaning.decimals)),
            _ => Some(self.format.number(shown.number(point), None).into_bytes()),
        }
    }

    fn in_text(&self, shown: &Shown<'_>, point: &Point, decimals: Option<u8>) -> Vec<u8> {
        let number = || {
            let number = shown.number(point);
            self.format.number(number, decimals.map(usize::from))
        };
        shown
            .text(point)
            .map_or_else(number, str::to_owned)
            .into_bytes()
    }
}

impl NumberFormat {
    /// The decimals, if it says how many.
    pub(super) fn decimals(self) -> Option<usize> {
        self.decimals
    }

    /// The number of characters; 0: as many as it takes.
    pub fn width(self) -> usize {
        self.width
    }

    /// Parses what stands behind the colon of a placeholder; `None` if it is no format.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_signed, text) = text
            .strip_prefix('+')
            .map_or((false, text), |text| (true, text));
        let (width, decimals) = text
            .split_once('.')
            .map_or((text, None), |(width, decimals)| (width, Some(decimals)));
        let is_padded = width.starts_with('0');
        let width = if width.is_empty() {
            0
        } else {
            width.parse().ok()?
        };
        let decimals = decimals.map(str::parse::<usize>).transpose().ok()?;
        let is_possible =
            width <= WIDEST && decimals.is_none_or(|decimals| decimals <= MOST_DECIMALS);
        is_possible.then_some(Self {
            width,
            is_padded,
            is_signed,
            decimals,
        })
    }

    pub(super) fn number(self, value: f64, decimals: Option<usize>) -> String {
        let decimals =
            self.decimals
                .or(decimals)
                .unwrap_or(if value.fract() == 0.0 || self.width > 0 {
                    0
                } else {
                    2
                });
        let width = self.width;
        match (self.is_signed, self.is_padded) {
            (true, true) => format!("{value:+0width$.decimals$}"),
            (true, false) => format!("{value:+width$.decimals$}"),
            (false, true) => format!("{value:0width$.decimals$}"),
            (false, false) => format!("{value:width$.decimals$}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Device;
    use crate::field::decode::{ByteOrder, Meaning};
    use crate::field::text::held::HeldValues;
    use crate::field::text::parse::{Extraction, Notation};
    use crate::reading::DeviceId;

    fn device() -> Device {
        let mut device = Device::new(DeviceId(0), "d", 0);
        let signal = |from| Signal {
            shape: Waveform::Constant,
            from,
            ..Signal::default()
        };
        let meaning = Meaning {
            scale: 0.1,
            order: ByteOrder::DCBA,
            ..Meaning::new("bcd16".parse().unwrap())
        };
        let found = Extraction {
            place: ValueLocation::Byte(4),
            when: None,
            bad_when: Vec::new(),
            units: Vec::new(),
            unit_if_none: None,
            notation: Notation::default(),
            words: Vec::new(),
            meaning,
        };
        device.points.push(Point {
            source: PointSource::Extracted(Box::new(found)),
            ..Point::simulated("voltage", signal(230.1))
        });
        device.points.push(Point::simulated("weight", signal(12.5)));
        device.points.push(Point {
            says: Some("SN1"),
            ..Point::simulated("serial", signal(0.0))
        });
        device
    }

    #[track_caller]
    fn check(typed: &str, is_hex: bool, expected: &[u8]) {
        let found = bytes(typed, Duration::from_secs(30), is_hex);
        assert_eq!(found.unwrap(), expected, "{typed}");
    }

    fn bytes(typed: &str, elapsed: Duration, is_hex: bool) -> Option<Vec<u8>> {
        let shown = Shown {
            device: &device(),
            held: &HeldValues::default(),
            elapsed,
        };
        let template = Template::new("", is_hex).unwrap();
        Placeholder::parse(typed).unwrap().bytes(&shown, &template)
    }

    #[test]
    fn placeholders_are_points_or_values_of_their_own() {
        check("weight", false, b"12.50");
        check("weight:07.1", false, b"00012.5");
        check("226..234:05.1", false, b"234.0");
        check("226..234:6", false, b"   234");
        check("21..25:+5.1", false, b"+25.0");
        check("-3..-2:+.2", false, b"-2.00");
        check("1581.5+0.1:010.3", false, b"001584.500");
        // Bytes of a point, as they are and as a template of hexadecimal digits takes them.
        check("voltage", false, &[0x01, 0x23]);
        check("voltage", true, b"2301");
        assert_eq!(bytes("nothing", Duration::ZERO, false), None);
        assert_eq!(Placeholder::parse("226..234").unwrap().name(), None);
        for wrong in ["weight:x", "weight:99", "weight:1.99"] {
            assert!(Placeholder::parse(wrong).is_err(), "{wrong}");
        }
    }
}
