//! A simulated meter: it sends SML every second, with the waves of its points.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::sleep_until;

use super::frame::framed;
use super::list::code_of;
use super::spec::ObisSelector;
use crate::field::modbus::slave::SharedFaults;
use crate::field::{Device, PointSource, faulty_wire};
use crate::time::now;

const EVERY: Duration = Duration::from_secs(1);

/// Plays the meter of a line until the wire ends.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    devices: &[Arc<Device>],
    faults: &SharedFaults,
    mut wire: S,
) -> io::Result<()> {
    let began = now();
    let mut space = [0; 64];
    let mut next = now();
    loop {
        tokio::select! {
            count = wire.read(&mut space) => {
                if count? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            () = sleep_until(next.into()) => {
                next += EVERY;
                let elapsed = now().saturating_duration_since(began);
                for device in devices {
                    faulty_wire::send(&mut wire, frame(device, elapsed), faults, 0).await?;
                }
            }
        }
    }
}

/// A frame with one message of all points.
pub(super) fn frame(device: &Device, elapsed: Duration) -> Vec<u8> {
    let points = device
        .points
        .iter()
        .filter_map(|point| match &point.source {
            PointSource::Obis(selector) => Some(entry(selector, point.signal.value(elapsed))),
            _ => None,
        });
    let entries: Vec<Vec<u8>> = points.collect();
    let mut list = vec![0x77, 0x01, 0x05, b'd', b'e', b'm', b'o', 0x01, 0x01];
    list.extend(list_of(entries.len()));
    list.extend(entries.concat());
    list.extend([0x01, 0x01]);
    let mut message = vec![
        0x76, 0x02, 0x01, 0x62, 0x00, 0x62, 0x00, 0x72, 0x63, 0x07, 0x01,
    ];
    message.extend(list);
    let sum = super::frame::checksum(&message);
    message.push(0x63);
    message.extend(sum);
    message.push(0);
    framed(&message)
}

/// Type and length of a list.
fn list_of(count: usize) -> Vec<u8> {
    let nibble = |number: usize| u8::try_from(number & 0x0F).unwrap_or_default();
    if count < 16 {
        vec![0x70 | nibble(count)]
    } else {
        vec![0xF0 | nibble(count >> 4), nibble(count)]
    }
}

/// A number with four decimals, as a 64-bit integer.
fn entry(selector: &ObisSelector, value: f64) -> Vec<u8> {
    let mut entry = [&[0x77, 0x07], &selector.obis.0[..], &[0x01, 0x01]].concat();
    let sent = selector.unit.and_then(code_of);
    let factor = sent.map_or(1.0, |(_, factor)| factor);
    match sent {
        Some((code, _)) => entry.extend([0x62, code]),
        None => entry.push(0x01),
    }
    #[allow(clippy::cast_possible_truncation)]
    let raw = (value * factor * 10_000.0).round() as i64;
    // Four places behind the point.
    entry.extend([0x52, 0xFC, 0x59]);
    entry.extend(raw.to_be_bytes());
    entry.push(0x01);
    entry
}
