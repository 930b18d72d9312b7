//! The Modbus TCP connections of a simulated slave.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::spoil::{answer, inject, random, spoiled, unplugged};
use super::{FaultKind, Image, SharedFaults, WirePace};
use crate::time::now;

/// A request with the identifier that its answer repeats.
struct MbapRequest {
    transaction: [u8; 2],
    unit: u8,
    /// Function code and data.
    pdu: Vec<u8>,
}

/// Answers Modbus TCP requests until the peer closes.
pub async fn serve_tcp<S: AsyncRead + AsyncWrite + Unpin>(
    image: &Image,
    faults: &SharedFaults,
    pace: WirePace,
    mut stream: S,
) -> io::Result<()> {
    let opened = now();
    let mut used = opened;
    loop {
        let request = MbapRequest::read(&mut stream).await?;
        let unit = request.unit;
        if now() < image.pause(unit).until(opened, used) {
            continue;
        }
        let struck = inject(faults, unit, &request.pdu);
        if struck.contains(&FaultKind::Unplug) {
            return Err(unplugged());
        }
        let wait = pace.turnaround + delay(&struck);
        if !wait.is_zero() {
            sleep(wait).await;
        }
        for fault in &struck {
            if let FaultKind::Noise(count) = fault {
                stream.write_all(&random(*count)).await?;
                break;
            }
        }
        let Some(answer) = answer(image, unit, &request.pdu, &struck) else {
            continue;
        };
        let Some(body) = spoiled([vec![unit], answer].concat(), &struck) else {
            continue;
        };
        let frame = request.framed(&body, &struck);
        // Before the write: a thread that is put aside behind it would take the master's patience
        // for haste.
        used = now();
        stream.write_all(&frame).await?;
    }
}

impl MbapRequest {
    async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Self> {
        let mut header = [0; 7];
        stream.read_exact(&mut header).await?;
        let [
            tid_high,
            tid_low,
            protocol_high,
            protocol_low,
            high,
            low,
            unit,
        ] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if protocol_high != 0 || protocol_low != 0 || !(2..=254).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut pdu = vec![0; length - 1];
        stream.read_exact(&mut pdu).await?;
        Ok(Self {
            transaction: [tid_high, tid_low],
            unit,
            pdu,
        })
    }

    /// The frame around the body of the answer, with the faults that show in its bytes.
    fn framed(&self, body: &[u8], struck: &[FaultKind]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut frame = [&self.transaction[..], &[0, 0], &length, body].concat();
        for fault in struck {
            match fault {
                FaultKind::WrongTransaction => {
                    if let Some(byte) = frame.first_mut() {
                        *byte ^= 0x80;
                    }
                }
                FaultKind::WrongHeader => {
                    if let Some(protocol) = frame.get_mut(2) {
                        *protocol = 9;
                    }
                }
                FaultKind::Truncate(count) => frame.truncate(*count),
                FaultKind::Twice => frame = [frame.clone(), frame].concat(),
                _ => {}
            }
        }
        frame
    }
}

/// The delay of the first such fault.
fn delay(struck: &[FaultKind]) -> Duration {
    let delay = struck.iter().find_map(|fault| match fault {
        FaultKind::Delay(time) => Some(*time),
        _ => None,
    });
    delay.unwrap_or_default()
}
