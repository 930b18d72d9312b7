//! Dates and times in registers, as text of RFC 3339. Their zone comes from the file, because the
//! device gives none.

use super::raw::Raw;
use crate::time::rfc3339;

/// Far beyond any device: seconds of the year 9999.
const LATEST: u64 = 253_402_300_799;
const NO_TIME: &str = "not a time";

struct CalendarTime {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    millisecond: u32,
}

impl CalendarTime {
    fn text(&self, zone: &str) -> Result<Raw, &'static str> {
        let plausible = (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.millisecond < 61_000
            && self.year < 10_000;
        if !plausible {
            return Err(NO_TIME);
        }
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            millisecond,
        } = self;
        let (second, millisecond) = (millisecond / 1000, millisecond % 1000);
        Ok(Raw::Text(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}{zone}").into()))
    }
}

/// Two digits of a year: meters were not built before 1970.
fn century(year: u32) -> u32 {
    if year < 70 { 2000 + year } else { 1900 + year }
}

pub(super) fn from_unix(seconds: u64) -> Result<Raw, &'static str> {
    let ms = i64::try_from(seconds.saturating_mul(1000)).map_err(|_| NO_TIME)?;
    if seconds > LATEST {
        Err(NO_TIME)
    } else {
        Ok(Raw::Text(rfc3339(ms).into()))
    }
}

/// Year, month, day of week and month, hour, minute, milliseconds: the seven bytes, most
/// significant first.
pub(super) fn from_cp56(bytes: &[u8], zone: &str) -> Result<Raw, &'static str> {
    let Some(&[year, month, day, hour, minute, high, low]) = bytes.last_chunk::<7>() else {
        return Err(NO_TIME);
    };
    if minute & 0x80 != 0 {
        return Err("the device reports that its clock is not valid");
    }
    let moment = CalendarTime {
        year: century(u32::from(year & 0x7F)),
        month: u32::from(month & 0x0F),
        day: u32::from(day & 0x1F),
        hour: u32::from(hour & 0x1F),
        minute: u32::from(minute & 0x3F),
        millisecond: u32::from(high) << 8 | u32::from(low),
    };
    moment.text(zone)
}

pub(super) fn from_registers(bytes: &[u8], zone: &str) -> Result<Raw, &'static str> {
    let words: Vec<u32> = bytes
        .chunks_exact(2)
        .map(|pair| {
            pair.iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        })
        .collect();
    let [year, month, day, hour, minute, second] = *words.as_slice() else {
        return Err(NO_TIME);
    };
    let year = if year < 100 { century(year) } else { year };
    CalendarTime {
        year,
        month,
        day,
        hour,
        minute,
        millisecond: second.saturating_mul(1000),
    }
    .text(zone)
}

pub(super) fn from_bcd(bytes: &[u8], zone: &str) -> Result<Raw, &'static str> {
    let digits = |byte: &u8| {
        (byte >> 4 < 10 && byte & 15 < 10).then(|| u32::from(byte >> 4) * 10 + u32::from(byte & 15))
    };
    let numbers: Option<Vec<u32>> = bytes.iter().map(digits).collect();
    let Some(&[year, month, day, hour, minute, second]) = numbers.as_deref() else {
        return Err(NO_TIME);
    };
    CalendarTime {
        year: century(year),
        month,
        day,
        hour,
        minute,
        millisecond: second * 1000,
    }
    .text(zone)
}

/// Year, month, day, hour, minute, second of seconds since 1970.
fn parts(seconds: f64) -> Option<[u16; 6]> {
    #[allow(clippy::cast_possible_truncation)]
    let text = rfc3339((seconds * 1000.0) as i64);
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    let mut next = || numbers.next();
    Some([next()?, next()?, next()?, next()?, next()?, next()?])
}

pub(super) fn to_cp56(seconds: f64) -> Option<Vec<u8>> {
    let [year, month, day, hour, minute, second] = parts(seconds)?;
    let [high, low] = second.checked_mul(1000)?.to_be_bytes();
    let bytes = [year % 100, month, day, hour, minute].map(|part| u8::try_from(part).unwrap_or(0));
    Some([&[0], bytes.as_slice(), &[high, low]].concat())
}

pub(super) fn to_registers(seconds: f64) -> Option<Vec<u8>> {
    Some(
        parts(seconds)?
            .iter()
            .flat_map(|part| part.to_be_bytes())
            .collect(),
    )
}

pub(super) fn to_bcd(seconds: f64) -> Option<Vec<u8>> {
    let digits = |part: &u16| u8::try_from(((part % 100 / 10) << 4) | (part % 10)).unwrap_or(0);
    Some(parts(seconds)?.iter().map(digits).collect())
}
