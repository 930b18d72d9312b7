//! Records and frames in words, for people: the log, `wellhead scan`, `wellhead trace` and
//! messages. Pure.

use std::fmt;

use super::data::RawValue;
use super::frame::{
    FRAME_COUNT, FROM_MASTER, INITIALIZE, MbusFrame, MbusFramer, REQUEST_DATA, is_reset, selection,
};
use super::qualifier::replaces_unit;
use super::record::MeterRecord;
use super::spec::SecondaryAddress;
use super::telegram::{Telegram, telegram};

/// Bytes on the wire, frame by frame.
pub fn in_words(bytes: &[u8]) -> String {
    let mut framer = MbusFramer::default();
    framer.push(bytes);
    let mut words: Vec<String> = std::iter::from_fn(|| framer.next_frame())
        .map(|frame| frame_in_words(&frame))
        .collect();
    if framer.bad_checksums > 0 {
        words.push("a frame with a wrong checksum".to_owned());
    } else if framer.junk > 0 || framer.has_begun() {
        words.push("bytes that are no whole frame".to_owned());
    }
    words.join("; ")
}

/// Its kind, its address and what it brings; bytes with a wrong checksum are no frame.
fn frame_in_words(frame: &MbusFrame) -> String {
    match frame {
        MbusFrame::Acknowledge => "ACK".to_owned(),
        MbusFrame::Short { control, address } => {
            let kind = match control & !FRAME_COUNT {
                INITIALIZE => "SND_NKE".to_owned(),
                REQUEST_DATA => "REQ_UD2".to_owned(),
                other => format!("short frame {other:#04x}"),
            };
            format!("{kind} to {address}, checksum right")
        }
        MbusFrame::Long {
            control,
            address,
            data,
        } if control & FROM_MASTER != 0 => {
            let kind = match selection(data) {
                Some(wanted) => format!("selection of {}", SecondaryAddress(wanted)),
                None if is_reset(data) => "application reset".to_owned(),
                None => format!("SND_UD with {} bytes", data.len()),
            };
            format!("{kind} to {address}, checksum right")
        }
        MbusFrame::Long { address, data, .. } => {
            let brought = match telegram(data) {
                Ok(telegram) => telegram_in_words(&telegram),
                Err(error) => error.to_string(),
            };
            format!("RSP_UD from {address}, checksum right: {brought}")
        }
    }
}

fn telegram_in_words(telegram: &Telegram) -> String {
    let meter = telegram.identity.map_or_else(String::new, |identity| {
        format!(
            "{:08} {} {}, ",
            identity.number,
            identity.letters(),
            identity.medium_name()
        )
    });
    let count = telegram.records.list.len();
    let records = if count == 1 { "record" } else { "records" };
    format!("{meter}{count} {records}")
}

/// `kind qualifiers occasion storage tariff subunit = value unit`, for messages.
impl fmt::Display for MeterRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(unit) = &self.text_unit {
            write!(f, " ({unit})")?;
        }
        for which in self
            .qualifiers
            .iter()
            .filter(|which| which.fault().is_none())
        {
            write!(f, " {which}")?;
        }
        let (occasion, storage) = (self.occasion.name(), self.storage);
        write!(
            f,
            " {occasion} {storage} {} {} =",
            self.tariff, self.subunit
        )?;
        match &self.value {
            RawValue::Nothing => f.write_str(" -"),
            RawValue::Text(text) => write!(f, " {text}"),
            RawValue::Invalid(why) => write!(f, " ! {why}"),
            RawValue::Number(number) => {
                write!(f, " {}", number.value())?;
                let unit = self.unit.filter(|_| !replaces_unit(&self.qualifiers));
                unit.map_or(Ok(()), |unit| write!(f, " {}", unit.name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{ACKNOWLEDGE, application_reset, long, select, short};
    use super::*;

    #[test]
    fn frames_are_told_with_kind_address_and_checksum() {
        let meter = [
            0x72, 0x78, 0x56, 0x34, 0x12, 0x24, 0x40, 1, 7, 0, 0, 0, 0, 0x01, 0x13, 5,
        ];
        let answer = long(0x08, 5, &meter);
        let mut damaged = answer.clone();
        damaged[20] ^= 1;
        let wanted = [0x78, 0x56, 0x34, 0x12, 0xFF, 0xFF, 0xFF, 0xFF];
        for (bytes, expected) in [
            (short(INITIALIZE, 5), "SND_NKE to 5, checksum right"),
            (
                short(REQUEST_DATA | FRAME_COUNT, 5),
                "REQ_UD2 to 5, checksum right",
            ),
            (
                select(wanted),
                "selection of 12345678 to 253, checksum right",
            ),
            (
                application_reset(254),
                "application reset to 254, checksum right",
            ),
            (
                answer.clone(),
                "RSP_UD from 5, checksum right: 12345678 PAD water, 1 record",
            ),
            (
                [vec![ACKNOWLEDGE], answer[..9].to_vec()].concat(),
                "ACK; bytes that are no whole frame",
            ),
            (damaged, "a frame with a wrong checksum"),
        ] {
            assert_eq!(in_words(&bytes), expected);
        }
    }
}
