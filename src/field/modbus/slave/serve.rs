//! The wires of a simulated slave.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::{FaultKind, Faults, Image};
use crate::field::modbus::ascii::Ascii;
use crate::field::modbus::frames::{READ_FILE, checksum};
use crate::field::serial::Speed;
use crate::field::timer::Timer;
use crate::metrics::Counter;
use crate::time::now;

/// What an RTU frame takes at least, and what most requests take.
const REQUEST: usize = 8;

/// How requests and answers are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Binary, with a checksum.
    Rtu,
    /// Text.
    Ascii,
}

/// What a slave has seen of its master.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests.
    pub requests: Counter,
    /// Requests that began before the silence after the last answer was over.
    pub gap_violations: Counter,
}

/// How fast the wire is.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Requests and answers take the time that their characters take; `None`: none.
    pub speed: Option<Speed>,
    /// What the device takes to begin an answer.
    pub turnaround: Duration,
    /// What is counted.
    pub tally: Arc<Tally>,
}

/// The faults of a line, shared with whoever adds some while it runs.
type Shared = Arc<Mutex<Faults>>;

fn strike(faults: &Shared, unit: u8, request: &[u8]) -> Vec<FaultKind> {
    faults
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .strike(unit, request.first().copied())
}

fn random(count: usize) -> Vec<u8> {
    (0..count).map(|_| fastrand::u8(..)).collect()
}

fn unplugged() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// What a device answers; one that refuses a request does not do it.
fn answer(image: &Image, unit: u8, request: &[u8], faults: &[FaultKind]) -> Option<Vec<u8>> {
    if faults
        .iter()
        .any(|fault| matches!(fault, FaultKind::Exception(_)))
        && image.has(unit)
    {
        return request.get(..1).map(<[u8]>::to_vec);
    }
    image.answer(unit, request)
}

/// Changes the body of an answer (unit, function, data) as a fault has it; `None` for no answer.
fn spoiled(body: Vec<u8>, faults: &[FaultKind]) -> Option<Vec<u8>> {
    let mut body = body;
    for fault in faults {
        match fault {
            FaultKind::Silence | FaultKind::EchoOnly | FaultKind::Noise(_) => return None,
            FaultKind::Exception(code) => {
                let function = body.get(1).copied().unwrap_or_default() | 0x80;
                body = vec![body.first().copied().unwrap_or_default(), function, *code];
            }
            FaultKind::WrongUnit => body
                .iter_mut()
                .take(1)
                .for_each(|unit| *unit = unit.wrapping_add(1)),
            FaultKind::WrongFunction => body
                .iter_mut()
                .skip(1)
                .take(1)
                .for_each(|function| *function ^= 7),
            FaultKind::WrongAddress => body
                .iter_mut()
                .skip(3)
                .take(1)
                .for_each(|low| *low = low.wrapping_add(1)),
            FaultKind::WrongLength(by) => {
                let Some(length) = body.get(2).copied() else {
                    continue;
                };
                let wanted = (i32::from(length) + 2 * i32::from(*by)).clamp(0, 250);
                let wanted = usize::try_from(wanted).unwrap_or(0);
                body.resize(3 + wanted, 0x77);
                body.iter_mut()
                    .skip(2)
                    .take(1)
                    .for_each(|count| *count = u8::try_from(wanted).unwrap_or(0));
            }
            _ => {}
        }
    }
    Some(body)
}

/// Answers RTU or ASCII requests until the wire ends. Bytes that are no request are skipped one by one.
pub async fn serve_frames<S: AsyncRead + AsyncWrite + Unpin>(
    image: &Image,
    faults: &Shared,
    (framing, pace): (Framing, Pace),
    wire: S,
) -> io::Result<()> {
    let opened = now();
    let mut line = Line {
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
            Framing::Rtu => pending.extend_from_slice(bytes),
            Framing::Ascii => ascii
                .frames(bytes)
                .into_iter()
                .for_each(|frame| pending.extend(frame)),
        }
        while let Some(length) = frame_length(&pending) {
            let Some(frame) = pending.get(..length).map(<[u8]>::to_vec) else {
                break;
            };
            let (body, crc) = frame.split_at(length - 2);
            if checksum(body) != *crc {
                pending.remove(0);
                continue;
            }
            pending.drain(..length);
            if let Some((unit, request)) = body.split_first() {
                line.answer(image, faults, (*unit, request), &frame).await?;
            }
        }
    }
}

struct Line<S> {
    wire: S,
    framing: Framing,
    pace: Pace,
    timer: Timer,
    opened: Instant,
    /// When the request began to come.
    began: Instant,
    /// When the last character of the last answer was over.
    busy_until: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn begin(&mut self) {
        self.began = now();
        self.pace.tally.requests.count();
        let silence = self
            .pace
            .speed
            .filter(|_| self.framing == Framing::Rtu)
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
        if self.framing == Framing::Rtu {
            return frame.to_vec();
        }
        let mut text = Vec::new();
        Ascii::write(frame, &mut text);
        text
    }

    async fn answer(
        &mut self,
        image: &Image,
        faults: &Shared,
        (unit, request): (u8, &[u8]),
        frame: &[u8],
    ) -> io::Result<()> {
        if self.began < image.pause(unit).until(self.opened, self.busy_until) {
            return Ok(());
        }
        let struck = strike(faults, unit, request);
        if struck.contains(&FaultKind::Unplug) {
            return Err(unplugged());
        }
        let request_on_wire = self.written(frame);
        let mut ready = self.began
            + self.pace.turnaround
            + self.pace.speed.map_or(Duration::ZERO, |speed| {
                speed.character() * length(&request_on_wire)
            });
        for fault in &struck {
            match fault {
                FaultKind::Delay(time) => ready += *time,
                FaultKind::Echo | FaultKind::EchoOnly => {
                    self.wire.write_all(&request_on_wire).await?;
                }
                FaultKind::Noise(count) | FaultKind::NoiseBefore(count) => {
                    self.wire.write_all(&random(*count)).await?;
                }
                _ => {}
            }
        }
        let Some(answer) = answer(image, unit, request, &struck) else {
            return Ok(());
        };
        let Some(body) = spoiled([vec![unit], answer].concat(), &struck) else {
            return Ok(());
        };
        let mut bytes = self.framed(&body);
        for fault in &struck {
            let middle = bytes.len() / 2;
            match fault {
                FaultKind::Crc => bytes = self.wrong_checksum(&body),
                FaultKind::BitFlip => bytes
                    .iter_mut()
                    .skip(middle)
                    .take(1)
                    .for_each(|byte| *byte ^= 4),
                FaultKind::Truncate(count) => bytes.truncate(*count),
                FaultKind::Twice => bytes = [bytes.clone(), bytes].concat(),
                FaultKind::ZerosAfter(count) => bytes.extend(vec![0; *count]),
                _ => {}
            }
        }
        self.timer.sleep_until(ready).await;
        self.send(&bytes, &struck, ready).await
    }

    fn wrong_checksum(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = self.framed(body);
        // The lower byte of a CRC; the lower digit of an LRC, which stands before the end of the line.
        let from_end = if self.framing == Framing::Rtu { 2 } else { 3 };
        if let Some(byte) = bytes.iter_mut().nth_back(from_end - 1) {
            *byte = match *byte {
                b'0' if self.framing != Framing::Rtu => b'1',
                _ if self.framing != Framing::Rtu => b'0',
                other => other ^ 0x55,
            };
        }
        bytes
    }

    /// The bytes come when a wire of this speed would have them, in lumps as adapters make them.
    async fn send(&mut self, bytes: &[u8], struck: &[FaultKind], ready: Instant) -> io::Result<()> {
        let slowly = struck.iter().find_map(|fault| {
            if let FaultKind::Slowly(pause) = fault {
                Some(*pause)
            } else {
                None
            }
        });
        if let Some(pause) = slowly {
            for byte in bytes {
                self.wire.write_all(&[*byte]).await?;
                sleep(pause).await;
            }
            return Ok(());
        }
        let piece = struck.iter().find_map(|fault| {
            if let FaultKind::Pieces(count) = fault {
                Some(*count)
            } else {
                None
            }
        });
        let character = self
            .pace
            .speed
            .map_or(Duration::ZERO, |speed| speed.character());
        let mut sent = 0;
        for part in bytes.chunks(piece.unwrap_or(bytes.len().max(1))) {
            sent += length(part);
            self.timer.sleep_until(ready + character * sent).await;
            // Before the write: a thread that is put aside behind it would take the master's patience for haste.
            self.busy_until = now();
            self.wire.write_all(part).await?;
        }
        // No flush: it would wait for the wire, and there is nothing in between that holds bytes back.
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

/// Answers Modbus TCP requests until the peer closes.
pub async fn serve_tcp<S: AsyncRead + AsyncWrite + Unpin>(
    image: &Image,
    faults: &Shared,
    pace: Pace,
    mut stream: S,
) -> io::Result<()> {
    let mut header = [0; 7];
    let opened = now();
    let mut used = opened;
    loop {
        stream.read_exact(&mut header).await?;
        let [
            tid_high,
            tid_low,
            protocol_high,
            protocol_low,
            length_high,
            length_low,
            unit,
        ] = header;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        if protocol_high != 0 || protocol_low != 0 || !(2..=254).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut request = vec![0; length - 1];
        stream.read_exact(&mut request).await?;
        if now() < image.pause(unit).until(opened, used) {
            continue;
        }
        let struck = strike(faults, unit, &request);
        if struck.contains(&FaultKind::Unplug) {
            return Err(unplugged());
        }
        let delay = struck.iter().find_map(|fault| {
            if let FaultKind::Delay(time) = fault {
                Some(*time)
            } else {
                None
            }
        });
        let wait = pace.turnaround + delay.unwrap_or_default();
        if !wait.is_zero() {
            sleep(wait).await;
        }
        if let Some(FaultKind::Noise(count)) = struck
            .iter()
            .find(|fault| matches!(fault, FaultKind::Noise(_)))
        {
            stream.write_all(&random(*count)).await?;
        }
        let Some(answer) = answer(image, unit, &request, &struck) else {
            continue;
        };
        let Some(body) = spoiled([vec![unit], answer].concat(), &struck) else {
            continue;
        };
        let [high, low] = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut frame = vec![tid_high, tid_low, 0, 0, high, low];
        frame.extend(body);
        for fault in &struck {
            match fault {
                FaultKind::WrongTransaction => {
                    frame.iter_mut().take(1).for_each(|tid| *tid ^= 0x80);
                }
                FaultKind::WrongHeader => frame
                    .iter_mut()
                    .skip(2)
                    .take(1)
                    .for_each(|protocol| *protocol = 9),
                FaultKind::Truncate(count) => frame.truncate(*count),
                FaultKind::Twice => frame = [frame.clone(), frame].concat(),
                _ => {}
            }
        }
        // Before the write: a thread that is put aside behind it would take the master's patience for haste.
        used = now();
        stream.write_all(&frame).await?;
    }
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
