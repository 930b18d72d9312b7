//! Simulated meters: they answer as the standard says, with the waves of their points.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::frame::{
    ACKNOWLEDGE, FRAME_COUNT, INITIALIZE, MbusFrame, MbusFramer, REQUEST_DATA, SELECTED, is_reset,
    long, selection,
};
use super::record::Occasion;
use super::spec::{MeterAddress, RecordSelector, SecondaryAddress};
use super::vif::{self, VifTable};
use crate::field::meter_units::MeterUnit;
use crate::field::modbus::slave::SharedFaults;
use crate::field::{Device, PointSource, faulty_wire};
use crate::time::now;

/// What a record may take of a frame; more follow in the next telegram.
const LONGEST_RECORDS: usize = 200;
/// Number, manufacturer, version and medium of a meter that is known by its number on the bus
/// alone.
const NAMELESS: [u8; 8] = [0, 0, 0, 0, 0x97, 0x5A, 1, 4];

/// The largest number of 48 bits with a sign.
const LARGEST: f64 = 140_737_488_355_327.0;

/// One meter of the line.
struct MeterPlayer<'a> {
    device: &'a Device,
    primary: u8,
    secondary: SecondaryAddress,
    /// It answers to 253.
    is_selected: bool,
    /// The next telegram, and the frame count bit of the last request.
    position: usize,
    last_bit: Option<u8>,
    access: u8,
}

/// Plays the meters of a line until the wire ends.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    devices: &[Arc<Device>],
    faults: &SharedFaults,
    mut wire: S,
) -> io::Result<()> {
    let began = now();
    let mut players: Vec<MeterPlayer<'_>> = devices
        .iter()
        .filter_map(|device| MeterPlayer::new(device))
        .collect();
    let mut framer = MbusFramer::default();
    let mut space = [0; 256];
    loop {
        let count = wire.read(&mut space).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        framer.push(space.get(..count).unwrap_or_default());
        while let Some(frame) = framer.next_frame() {
            let answers: Vec<Vec<u8>> = players
                .iter_mut()
                .filter_map(|player| player.answer(&frame, began))
                .collect();
            // Meters that answer at once garble each other.
            let answer = merged(&answers);
            if !answer.is_empty() {
                faulty_wire::send(&mut wire, answer, faults, 0).await?;
            }
        }
    }
}

/// What is on the wire when all of these are sent at once: a bit is low if anybody pulls it.
fn merged(answers: &[Vec<u8>]) -> Vec<u8> {
    let longest = answers.iter().map(Vec::len).max().unwrap_or_default();
    let byte = |place| {
        let bytes = answers.iter().filter_map(|answer| answer.get(place));
        bytes.fold(0xFF, |all, byte| all & byte)
    };
    (0..longest).map(byte).collect()
}

impl<'a> MeterPlayer<'a> {
    /// `None` for a device that is no meter.
    fn new(device: &'a Device) -> Option<Self> {
        let spec = device.protocol.meter()?;
        let (primary, secondary) = match spec.address {
            MeterAddress::Primary(address) => {
                let [_, b, c, d, rest @ ..] = NAMELESS;
                let [low, high, version, medium] = rest;
                // Decimal digits, as in an identification.
                let digits = (((address % 100) / 10) << 4) | (address % 10);
                let own = [
                    digits,
                    b | (address / 100),
                    c,
                    d,
                    low,
                    high,
                    version,
                    medium,
                ];
                (address, SecondaryAddress(own))
            }
            MeterAddress::Secondary(address) => (0, whole(address)),
        };
        Some(Self {
            device,
            primary,
            secondary,
            is_selected: false,
            position: 0,
            last_bit: None,
            access: 0,
        })
    }

    fn answer(&mut self, frame: &MbusFrame, began: Instant) -> Option<Vec<u8>> {
        match frame {
            MbusFrame::Short { control, address } => {
                let is_meant = *address == self.primary
                    || *address == 254
                    || (*address == SELECTED && self.is_selected);
                match control & !FRAME_COUNT {
                    _ if !is_meant => None,
                    INITIALIZE => {
                        self.restart();
                        self.is_selected = false;
                        Some(vec![ACKNOWLEDGE])
                    }
                    REQUEST_DATA => {
                        let elapsed = now().saturating_duration_since(began);
                        Some(self.telegram(control & FRAME_COUNT, elapsed))
                    }
                    _ => None,
                }
            }
            MbusFrame::Long { address, data, .. } => {
                if let Some(wanted) = selection(data).filter(|_| *address == SELECTED) {
                    self.is_selected = SecondaryAddress(wanted).fits(self.secondary);
                    if self.is_selected {
                        self.restart();
                    }
                    return self.is_selected.then(|| vec![ACKNOWLEDGE]);
                }
                let is_meant = *address == self.primary || *address == 254;
                // An application reset.
                (is_meant && is_reset(data)).then(|| {
                    self.position = 0;
                    vec![ACKNOWLEDGE]
                })
            }
            MbusFrame::Acknowledge => None,
        }
    }

    fn restart(&mut self) {
        (self.position, self.last_bit) = (0, None);
    }

    /// The telegram that a request asks for: the same again for the same frame count bit.
    fn telegram(&mut self, bit: u8, elapsed: Duration) -> Vec<u8> {
        let telegrams = self.telegrams(elapsed);
        if self.last_bit.is_some_and(|last| last != bit) {
            self.position = (self.position + 1) % telegrams.len().max(1);
        }
        self.last_bit = Some(bit);
        self.access = self.access.wrapping_add(1);
        let records = telegrams.get(self.position).cloned().unwrap_or_default();
        let header = [&[0x72], &self.secondary.0[..], &[self.access, 0, 0, 0]].concat();
        long(0x08, self.primary, &[header, records].concat())
    }

    fn telegrams(&self, elapsed: Duration) -> Vec<Vec<u8>> {
        let mut telegrams: Vec<Vec<u8>> = vec![Vec::new()];
        for point in &self.device.points {
            let PointSource::Record(selector) = &point.source else {
                continue;
            };
            let record = encode(selector, point.signal.value(elapsed));
            let Some(last) = telegrams.last_mut() else {
                continue;
            };
            if last.len() + record.len() > LONGEST_RECORDS {
                last.push(0x1F);
                telegrams.push(record);
            } else {
                last.extend(record);
            }
        }
        telegrams
    }
}

/// The address of a meter that answers to one with wildcards.
fn whole(address: SecondaryAddress) -> SecondaryAddress {
    let mut bytes = address.0;
    for (byte, nameless) in bytes.iter_mut().zip(NAMELESS).skip(4) {
        if *byte == 0xFF {
            *byte = nameless;
        }
    }
    for byte in bytes.iter_mut().take(4) {
        let digit = |nibble: u8| if nibble > 9 { 0 } else { nibble };
        *byte = (digit(*byte >> 4) << 4) | digit(*byte & 0x0F);
    }
    SecondaryAddress(bytes)
}

/// The record of a point, as a 48-bit integer; none for a point that has no kind.
fn encode(selector: &RecordSelector, value: f64) -> Vec<u8> {
    let Some((table, code, found)) = selector.kind.and_then(vif::code) else {
        return Vec::new();
    };
    let factor = match (selector.unit, found.unit) {
        (Some(own), Some(sent)) => MeterUnit::factor(own, sent).unwrap_or(1.0),
        _ => 1.0,
    };
    let raw = (value * factor / 10_f64.powi(found.exponent)).round();
    #[allow(clippy::cast_possible_truncation)]
    let raw = raw.clamp(-LARGEST, LARGEST) as i64;
    let function = match selector.occasion {
        Occasion::Instantaneous => 0x00,
        Occasion::Maximum => 0x10,
        Occasion::Minimum => 0x20,
        Occasion::Error => 0x30,
    };
    let mut record = information(selector, function);
    match table {
        VifTable::Primary => record.push(code),
        VifTable::First => record.extend([0xFD, code]),
        VifTable::Second => record.extend([0xFB, code]),
    }
    if let (Some(qualifier), Some(last)) = (selector.qualifier, record.last_mut()) {
        *last |= 0x80;
        record.extend(qualifier.bytes());
    }
    record.extend(raw.to_le_bytes().iter().take(6));
    record
}

/// The DIF of a 48-bit integer, with as many further bytes as storage, tariff and subunit need.
fn information(selector: &RecordSelector, function: u8) -> Vec<u8> {
    let low = |number: u64, mask: u64| u8::try_from(number & mask).unwrap_or_default();
    let mut bytes = vec![0x06 | function | (low(selector.storage, 1) << 6)];
    let mut storage = selector.storage >> 1;
    let (mut tariff, mut subunit) = (u64::from(selector.tariff), u64::from(selector.subunit));
    while storage + tariff + subunit > 0 {
        bytes.last_mut().into_iter().for_each(|byte| *byte |= 0x80);
        bytes.push(low(storage, 0x0F) | (low(tariff, 3) << 4) | (low(subunit, 1) << 6));
        (storage, tariff, subunit) = (storage >> 4, tariff >> 2, subunit >> 1);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::mbus::record::{ValueOrder, records};
    use crate::field::mbus::vif::Kind;
    use crate::reading::Value;

    #[test]
    fn a_record_is_encoded_as_its_selector_finds_it() {
        for (kind, unit, shown) in [
            ("energy", "kWh", 1234.5),
            ("volume", "l", 12_565.0),
            ("flow_temperature", "\u{b0}C", 61.25),
            ("voltage", "V", 230.1),
            ("reactive_energy", "kvarh", 3.0),
        ] {
            let selector = RecordSelector {
                storage: 35,
                tariff: 7,
                subunit: 2,
                occasion: Occasion::Maximum,
                unit: MeterUnit::named(unit),
                ..RecordSelector::of(Kind::named(kind).unwrap())
            };
            let bytes = encode(&selector, shown);
            let read = records(&bytes, ValueOrder::LeastFirst);
            assert_eq!(
                selector.value(&read.list),
                Ok(Value::F64(shown)),
                "{read:?}"
            );
        }
    }

    #[test]
    fn answers_at_once_garble_each_other() {
        assert_eq!(merged(&[vec![0xF0, 0x0F, 1], vec![0x3C]]), [0x30, 0x0F, 1]);
        assert!(merged(&[]).is_empty());
    }
}
