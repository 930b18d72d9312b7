//! The RTU and ASCII wires of a simulated slave.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::spoil::{answer, inject, random, spoiled, unplugged};
use super::{FaultKind, Image, SharedFaults, TransmissionMode};
use crate::field::modbus::ascii::Ascii;
use crate::field::modbus::frames::{READ_FILE, checksum};
use crate::field::serial::Speed;
use crate::field::timer::Timer;
use crate::metrics::Counter;
use crate::time::now;

/// The length of the shortest RTU requests with an address, and of most requests.
const REQUEST: usize = 8;

/// Counters of the requests of a master.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests.
    pub requests: Counter,
    /// Requests that began before the silence after the last answer was over.
    pub gap_violations: Counter,
}

/// The speed of a simulated wire and its device.
#[derive(Debug, Clone, Default)]
pub struct WirePace {
    /// Requests and answers take the time that their characters take; `None`: none.
    pub speed: Option<Speed>,
    /// The time until the device begins an answer.
    pub turnaround: Duration,
    /// Counts the requests.
    pub tally: Arc<Tally>,
}

/// Answers RTU or ASCII requests until the wire ends. Bytes that are no request are skipped one by
/// one.
pub async fn serve_frames<S: AsyncRead + AsyncWrite + Unpin>(
    image: &Image,
    faults: &SharedFaults,
    framing: TransmissionMode,
    pace: WirePace,
    wire: S,
) -> io::Result<()> {
    let opened = now();
    let mut line = SlaveLine {
        wire,
        framing,
        pace,
        timer: Timer::new(),
        opened,
        began: opened,
        busy_until: opened,
    };
    let (mut pending, mut ascii) = (Vec::new(), Ascii::default());
    let mut space = [0; 512];
    loop {
        let count = line.wire.read(&mut space).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if pending.is_empty() {
            line.begin();
        }
        let bytes = space.get(..count).unwrap_or_default();
        match framing {
            TransmissionMode::Rtu => pending.extend_from_slice(bytes),
            TransmissionMode::Ascii => pending.extend(ascii.frames(bytes).concat()),
        }
        while let Some(frame) = next_frame(&mut pending) {
            line.answer(image, faults, &frame).await?;
        }
    }
}

/// Takes the first whole frame out of the bytes that came, and what comes before it.
fn next_frame(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    while let Some(length) = frame_length(pending) {
        let (body, crc) = pending.get(..length)?.split_last_chunk::<2>()?;
        if checksum(body) == *crc {
            return Some(pending.drain(..length).collect());
        }
        pending.remove(0);
    }
    None
}

/// The wire as the slave sees it.
struct SlaveLine<S> {
    wire: S,
    framing: TransmissionMode,
    pace: WirePace,
    timer: Timer,
    opened: Instant,
    /// When the request began to come.
    began: Instant,
    /// When the last character of the last answer was over.
    busy_until: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> SlaveLine<S> {
    fn begin(&mut self) {
        self.began = now();
        self.pace.tally.requests.count();
        let silence = self
            .pace
            .speed
            .filter(|_| self.framing == TransmissionMode::Rtu)
            .map_or(Duration::ZERO, |speed| speed.frame_gap());
        // The clock of a machine is not that of a wire: a twentieth is forgiven.
        if self.began + silence / 20 < self.busy_until + silence {
            self.pace.tally.gap_violations.count();
        }
    }

    fn framed(&self, body: &[u8]) -> Vec<u8> {
        let mut frame = body.to_vec();
        frame.extend(checksum(body));
        self.written(&frame)
    }

    fn written(&self, frame: &[u8]) -> Vec<u8> {
        if self.framing == TransmissionMode::Rtu {
            return frame.to_vec();
        }
        let mut text = Vec::new();
        Ascii::write(frame, &mut text);
        text
    }

    /// Answers the request in a frame, unless it came too soon.
    async fn answer(
        &mut self,
        image: &Image,
        faults: &SharedFaults,
        frame: &[u8],
    ) -> io::Result<()> {
        let body = frame.split_last_chunk::<2>().map(|(body, _)| body);
        let Some((unit, request)) = body.and_then(<[u8]>::split_first) else {
            return Ok(());
        };
        if self.began < image.pause(*unit).until(self.opened, self.busy_until) {
            return Ok(());
        }
        let struck = inject(faults, *unit, request);
        if struck.contains(&FaultKind::Unplug) {
            return Err(unplugged());
        }
        let request_on_wire = self.written(frame);
        let on_wire = self.character() * length(&request_on_wire);
        let delay = self.disturb(&struck, &request_on_wire).await?;
        let ready = self.began + self.pace.turnaround + on_wire + delay;
        let Some(answer) = answer(image, *unit, request, &struck) else {
            return Ok(());
        };
        let Some(body) = spoiled([vec![*unit], answer].concat(), &struck) else {
            return Ok(());
        };
        let bytes = self.spoiled_frame(&body, &struck);
        self.timer.sleep_until(ready).await;
        self.send(&bytes, &struck, ready).await
    }

    fn character(&self) -> Duration {
        self.pace
            .speed
            .map_or(Duration::ZERO, |speed| speed.character())
    }

    /// Writes the faults that come before an answer; returns the delay of the answer.
    async fn disturb(
        &mut self,
        struck: &[FaultKind],
        request_on_wire: &[u8],
    ) -> io::Result<Duration> {
        let mut delay = Duration::ZERO;
        for fault in struck {
            match fault {
                FaultKind::Delay(time) => delay += *time,
                FaultKind::Echo | FaultKind::EchoOnly => {
                    self.wire.write_all(request_on_wire).await?;
                }
                FaultKind::Noise(count) | FaultKind::NoiseBefore(count) => {
                    self.wire.write_all(&random(*count)).await?;
                }
                _ => {}
            }
        }
        Ok(delay)
    }

    /// The frame of an answer, with the faults that show in its bytes.
    fn spoiled_frame(&self, body: &[u8], struck: &[FaultKind]) -> Vec<u8> {
        let mut bytes = self.framed(body);
        for fault in struck {
            let middle = bytes.len() / 2;
            match fault {
                FaultKind::Crc => bytes = self.wrong_checksum(body),
                FaultKind::BitFlip => {
                    if let Some(byte) = bytes.get_mut(middle) {
                        *byte ^= 4;
                    }
                }
                FaultKind::Truncate(count) => bytes.truncate(*count),
                FaultKind::Twice => bytes = [bytes.clone(), bytes].concat(),
                FaultKind::ZerosAfter(count) => bytes.extend(vec![0; *count]),
                _ => {}
            }
        }
        bytes
    }

    fn wrong_checksum(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = self.framed(body);
        // The lower byte of a CRC; the lower digit of an LRC, which is before the end of the line.
        let from_end = if self.framing == TransmissionMode::Rtu {
            2
        } else {
            3
        };
        if let Some(byte) = bytes.iter_mut().nth_back(from_end - 1) {
            *byte = match *byte {
                b'0' if self.framing != TransmissionMode::Rtu => b'1',
                _ if self.framing != TransmissionMode::Rtu => b'0',
                other => other ^ 0x55,
            };
        }
        bytes
    }

    /// Writes the bytes at the pace of a wire of this speed, in lumps as adapters make them.
    async fn send(&mut self, bytes: &[u8], struck: &[FaultKind], ready: Instant) -> io::Result<()> {
        let slowly = struck.iter().find_map(|fault| match fault {
            FaultKind::Slowly(pause) => Some(*pause),
            _ => None,
        });
        if let Some(pause) = slowly {
            for byte in bytes {
                self.wire.write_all(&[*byte]).await?;
                sleep(pause).await;
            }
            return Ok(());
        }
        let piece = struck.iter().find_map(|fault| match fault {
            FaultKind::Pieces(count) => Some(*count),
            _ => None,
        });
        let character = self.character();
        let mut sent = 0;
        for part in bytes.chunks(piece.unwrap_or(bytes.len().max(1))) {
            sent += length(part);
            self.timer.sleep_until(ready + character * sent).await;
            // Before the write: a thread that is put aside behind it would take the master's
            // patience for haste.
            self.busy_until = now();
            self.wire.write_all(part).await?;
        }
        // No flush: it would wait for the wire, and there is nothing in between that holds bytes
        // back.
        Ok(())
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The length of the request at the front; `None` while too little is there to tell.
fn frame_length(pending: &[u8]) -> Option<usize> {
    let [_, function, ..] = *pending else {
        return None;
    };
    match function {
        // Also those that this slave does not know: a device refuses them.
        7 | 11 | 12 | 17 => Some(4),
        24 => Some(6),
        22 => Some(10),
        43 => Some(7),
        READ_FILE | 21 => Some(5 + usize::from(*pending.get(2)?)),
        15 | 16 => Some(9 + usize::from(*pending.get(6)?)),
        23 => Some(13 + usize::from(*pending.get(10)?)),
        _ => Some(REQUEST),
    }
    .filter(|length| pending.len() >= *length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_every_function_have_their_length() {
        for request in [
            &[1, 3, 0, 0, 0, 1, 9, 9][..],
            &[1, 7, 9, 9],
            &[1, 17, 9, 9],
            &[1, 16, 0, 0, 0, 1, 2, 0, 5, 9, 9],
            &[1, 20, 7, 6, 0, 1, 0, 0, 0, 1, 9, 9],
            &[1, 22, 0, 0, 0, 0, 0, 0, 9, 9],
            &[1, 23, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 5, 9, 9],
            &[1, 24, 0, 0, 9, 9],
            &[1, 43, 14, 1, 0, 9, 9],
        ] {
            assert_eq!(frame_length(request), Some(request.len()), "{request:?}");
            assert_eq!(
                frame_length(&request[..request.len() - 1]),
                None,
                "{request:?}"
            );
        }
    }
}
