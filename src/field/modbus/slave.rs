//! A Modbus slave for simulators: shows the points of a YAML file over RTU or TCP, in raw frames of our own.
//!
//! Registers that no point covers do not exist: exception 2, as in a real device. Writing is refused: exception 1.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frames::checksum;
use crate::field::Device;
use crate::field::decode::{Part, Register, Table};
use crate::field::wave::Wave;
use crate::time::now;

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;
/// What an RTU frame takes at least, and what most requests take.
const REQUEST: usize = 8;

/// The registers of some units, as their waves have them at the moment.
#[derive(Debug, Clone)]
pub struct Image {
    units: HashMap<u8, Vec<(Register, Wave)>>,
    started: Instant,
}

impl Image {
    /// The points of `devices` that have registers.
    pub fn new(devices: &[Device]) -> Self {
        let mut units: HashMap<u8, Vec<(Register, Wave)>> = HashMap::new();
        for device in devices {
            let points = device.points.iter().filter_map(|point| Some((point.register()?.clone(), point.wave)));
            units.entry(device.unit).or_default().extend(points);
        }
        Self { units, started: now() }
    }

    fn read(&self, points: &[(Register, Wave)], table: Table, start: u16, count: u16) -> Result<Vec<u16>, u8> {
        let elapsed = now().saturating_duration_since(self.started);
        let mut cells: Vec<Option<u16>> = vec![None; usize::from(count)];
        for (register, wave) in points.iter().filter(|(register, _)| register.table == table) {
            for (word, address) in register.encode(wave.value(elapsed)).into_iter().zip(u32::from(register.address)..) {
                let index = address.checked_sub(u32::from(start)).map(|index| index as usize);
                if let Some(cell) = index.and_then(|index| cells.get_mut(index)) {
                    // Bits of one register are points of their own: they share it.
                    *cell = Some(if register.meaning.part != Part::Whole { cell.unwrap_or(0) | word } else { word });
                }
            }
        }
        cells.into_iter().collect::<Option<Vec<u16>>>().ok_or(ILLEGAL_ADDRESS)
    }

    /// The answer to a request (function code and data); `None` if the unit is not there, which stays silent.
    fn answer(&self, unit: u8, request: &[u8]) -> Option<Vec<u8>> {
        let points = self.units.get(&unit)?;
        let function = *request.first()?;
        let refuse = |code| vec![function | 0x80, code];
        let [_, start_high, start_low, count_high, count_low] = *request else {
            return Some(refuse(ILLEGAL_FUNCTION));
        };
        let start = u16::from_be_bytes([start_high, start_low]);
        let count = u16::from_be_bytes([count_high, count_low]);
        let (table, most) = match function {
            1 => (Table::Coil, 2000),
            2 => (Table::Discrete, 2000),
            3 => (Table::Holding, 125),
            4 => (Table::Input, 125),
            _ => return Some(refuse(ILLEGAL_FUNCTION)),
        };
        if count == 0 || count > most {
            return Some(refuse(ILLEGAL_VALUE));
        }
        Some(match self.read(points, table, start, count) {
            Ok(cells) => {
                let data = if table.is_bits() { pack(&cells) } else { cells.iter().flat_map(|cell| cell.to_be_bytes()).collect() };
                let mut answer = vec![function, u8::try_from(data.len()).unwrap_or(u8::MAX)];
                answer.extend(data);
                answer
            }
            Err(code) => refuse(code),
        })
    }

    /// Answers Modbus TCP requests until the peer closes.
    pub async fn serve_tcp<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<()> {
        let mut header = [0; 7];
        loop {
            stream.read_exact(&mut header).await?;
            let [tid_high, tid_low, protocol_high, protocol_low, length_high, length_low, unit] = header;
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            if protocol_high != 0 || protocol_low != 0 || !(2..=254).contains(&length) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut request = vec![0; length - 1];
            stream.read_exact(&mut request).await?;
            if let Some(answer) = self.answer(unit, &request) {
                let [high, low] = u16::try_from(answer.len() + 1).unwrap_or(u16::MAX).to_be_bytes();
                let mut frame = vec![tid_high, tid_low, 0, 0, high, low, unit];
                frame.extend(answer);
                stream.write_all(&frame).await?;
            }
        }
    }

    /// Answers RTU requests until the wire ends. Bytes that are no request are skipped one by one.
    pub async fn serve_rtu<S: AsyncRead + AsyncWrite + Unpin>(&self, mut wire: S) -> io::Result<()> {
        let mut pending = Vec::new();
        let mut space = [0; 256];
        loop {
            let count = wire.read(&mut space).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            pending.extend_from_slice(space.get(..count).unwrap_or_default());
            while let Some(length) = frame_length(&pending) {
                let Some(frame) = pending.get(..length).map(<[u8]>::to_vec) else { break };
                let (body, crc) = frame.split_at(length - 2);
                if checksum(body) != *crc {
                    pending.remove(0);
                    continue;
                }
                pending.drain(..length);
                if let Some((unit, request)) = body.split_first()
                    && let Some(answer) = self.answer(*unit, request)
                {
                    let mut reply = vec![*unit];
                    reply.extend(answer);
                    reply.extend(checksum(&reply));
                    wire.write_all(&reply).await?;
                }
            }
        }
    }
}

/// The length of the request at the front; `None` while too little is there to tell.
fn frame_length(pending: &[u8]) -> Option<usize> {
    let head = pending.first_chunk::<REQUEST>()?;
    let [_, function, _, _, _, _, bytes, _] = *head;
    Some(if matches!(function, 15 | 16) { 9 + usize::from(bytes) } else { REQUEST })
}

fn pack(bits: &[u16]) -> Vec<u8> {
    bits.chunks(8).map(|eight| eight.iter().enumerate().fold(0, |byte, (place, bit)| byte | u8::from(*bit != 0) << place)).collect()
}
