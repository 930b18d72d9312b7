//! The Modbus driver: RTU on a serial port or through TCP, and Modbus TCP; codec by tokio-modbus.
//!
//! Invariants:
//! * tokio-modbus sees only frames that answer the outstanding request: `shim` filters an RTU wire, `mbap` a TCP connection.
//! * After a time-out on RTU the same unit is asked a question first whose answer has a length that no answer owed has (a
//!   barrier): slaves answer in order, so once that answer is there the late ones are past. A refusal has no length and proves
//!   nothing: then the wire is left alone until nothing can come any more.
//! * An RTU wire that was just opened is left alone for as long as an answer may take: somebody may have asked before.
//! * The number of registers in an answer is checked here; the library does not check it.

pub mod decode;
mod mbap;
pub mod plan;
mod shim;
pub mod slave;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::SlaveContext;
use tokio_modbus::{ExceptionCode, Request, Response, Slave};

use super::{Device, Driver, Job, Line, ReadError, Values, Wire};
use crate::time::now;
use decode::Table;
use plan::Block;

/// Between frames on a link whose speed is not known here (a terminal server).
const REMOTE_GAP: Duration = Duration::from_millis(5);
/// Time-outs in a row after which a TCP connection is made anew.
const SILENT_TO_RECONNECT: u32 = 4;
/// A TCP connection may take this long, however fast its devices are to answer.
const SHORTEST_DIAL: Duration = Duration::from_secs(3);

/// The driver of a Modbus line.
pub struct Modbus {
    wire: Wire,
    answer_within: Duration,
    gap: Duration,
    blocks: Vec<Block>,
    context: Option<Context>,
    quiet_since: Instant,
    /// Units that owe answers, with the bytes of data each would have.
    late: HashMap<u8, HashSet<u16>>,
    /// Time-outs in a row, whatever the unit.
    silent: u32,
}

impl std::fmt::Debug for Modbus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modbus").field("wire", &self.wire).field("blocks", &self.blocks.len()).finish_non_exhaustive()
    }
}

impl Modbus {
    /// Plans the requests of a line.
    pub fn new(line: &Line) -> Self {
        let gap = match &line.wire {
            Wire::Serial(port) => port.speed.frame_gap(),
            Wire::RtuOverTcp(_) => REMOTE_GAP,
            Wire::ModbusTcp(_) | Wire::Simulated => Duration::ZERO,
        };
        Self {
            wire: line.wire.clone(),
            answer_within: line.answer_within,
            gap,
            blocks: blocks(&line.devices),
            context: None,
            quiet_since: now(),
            late: HashMap::new(),
            silent: 0,
        }
    }

    fn is_rtu(&self) -> bool {
        !matches!(self.wire, Wire::ModbusTcp(_))
    }

    async fn ask(&mut self, block: &Block, count: u16) -> Result<Vec<u16>, ReadError> {
        let patience = self.answer_within + self.wire_time(block, count);
        let Some(context) = self.context.as_mut() else { return Err(ReadError::LineDown("not connected".to_owned())) };
        sleep_until((self.quiet_since + self.gap).into()).await;
        context.set_slave(Slave(block.unit));
        let answer = timeout(patience, context.call(block.request(count))).await;
        self.quiet_since = now();
        let timed_out = answer.is_err();
        let outcome = match answer {
            Err(_) => Err(ReadError::NoAnswer),
            Ok(Err(tokio_modbus::Error::Transport(_))) => Err(ReadError::LineDown("the connection broke".to_owned())),
            Ok(Err(tokio_modbus::Error::Protocol(_))) => Err(ReadError::Garbled("not an answer to the request".to_owned())),
            Ok(Ok(Err(exception))) => Err(refusal(exception)),
            Ok(Ok(Ok(response))) => words(response, count),
        };
        match (timed_out, self.is_rtu()) {
            (true, true) => drop(self.late.entry(block.unit).or_default().insert(bytes_of(block, count))),
            (true, false) => self.silent += 1,
            (false, _) => self.silent = 0,
        }
        let is_foreign = matches!(outcome, Err(ReadError::Garbled(_)));
        if is_foreign || self.silent >= SILENT_TO_RECONNECT {
            // After an error of the codec its stream is over; a TCP connection that stays silent may be dead.
            self.silent = 0;
            self.context = None;
        }
        outcome
    }

    fn wire_time(&self, block: &Block, count: u16) -> Duration {
        match &self.wire {
            Wire::Serial(port) => block.wire_time(port.speed, count),
            _ => Duration::ZERO,
        }
    }

    /// Gets late answers of a unit out of the way.
    async fn barrier(&mut self, block: &Block) -> Result<(), ReadError> {
        let Some(owed) = self.late.get(&block.unit).filter(|owed| !owed.is_empty()) else { return Ok(()) };
        // Bits travel eight to a byte.
        let step = if block.table.is_bits() { 8 } else { 1 };
        let count = (0..).map(|n| 1 + n * step).find(|count| !owed.contains(&bytes_of(block, *count))).unwrap_or(1);
        match self.ask(block, count).await {
            Ok(_) => {}
            Err(ReadError::Refused(_)) => sleep(self.answer_within).await,
            Err(error) => return Err(error),
        }
        self.late.remove(&block.unit);
        Ok(())
    }

    async fn open(wire: &Wire, patience: Duration) -> Result<Context, String> {
        match wire {
            Wire::Serial(port) => Ok(rtu::attach(shim::RtuShim::new(port.open()?))),
            Wire::RtuOverTcp(address) => Ok(rtu::attach(shim::RtuShim::new(dial(address, patience).await?))),
            Wire::ModbusTcp(address) => Ok(tcp::attach(mbap::MbapShim::new(dial(address, patience).await?))),
            Wire::Simulated => Err("a simulated line has no wire".to_owned()),
        }
    }
}

async fn dial(address: &str, patience: Duration) -> Result<TcpStream, String> {
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Requests are small and alone; if the option cannot be set they are merely slower.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(format!("{address} cannot be reached: {error}; check address, port and cable")),
        Err(_) => Err(format!("{address} does not answer; check address, port and cable")),
    }
}

impl Driver for Modbus {
    fn jobs(&self) -> Vec<Job> {
        self.blocks
            .iter()
            .map(|block| Job { device: block.device, every: block.every, points: block.points.iter().map(|point| point.id).collect() })
            .collect()
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.late.clear();
        self.context = None;
        let patience = self.answer_within.max(SHORTEST_DIAL);
        let wire = self.wire.clone();
        self.context = Some(Self::open(&wire, patience).await?);
        self.silent = 0;
        if self.is_rtu() {
            self.quiet_since = now() + self.answer_within;
        }
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, ReadError> {
        let Some(block) = self.blocks.get(job).cloned() else { return Ok(Vec::new()) };
        if self.context.is_none() {
            self.connect().await.map_err(ReadError::LineDown)?;
        }
        self.barrier(&block).await?;
        let words = self.ask(&block, block.count).await?;
        Ok(block.decode(&words))
    }

    fn disconnect(&mut self) {
        self.context = None;
    }
}

/// The blocks of every device of a line.
pub fn blocks(devices: &[Device]) -> Vec<Block> {
    devices.iter().enumerate().flat_map(|(index, device)| plan::plan(index, device)).collect()
}

/// Bytes of data in the answer to a request for `count` registers or bits.
fn bytes_of(block: &Block, count: u16) -> u16 {
    if block.table.is_bits() { count.div_ceil(8) } else { 2 * count }
}

fn words(response: Response, expected: u16) -> Result<Vec<u16>, ReadError> {
    let (values, is_bits): (Vec<u16>, bool) = match response {
        Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => (words, false),
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => (bits.into_iter().map(u16::from).collect(), true),
        _ => return Err(ReadError::Garbled("an answer to another request".to_owned())),
    };
    let expected = usize::from(expected);
    // Bits are padded to whole bytes on the wire.
    let fits = if is_bits { values.len() == expected || values.len() == expected.next_multiple_of(8) } else { values.len() == expected };
    if fits { Ok(values) } else { Err(ReadError::Garbled(format!("{} values instead of {expected}", values.len()))) }
}

fn refusal(exception: ExceptionCode) -> ReadError {
    let code = u8::from(exception);
    match exception {
        // A gateway in between says that the device behind it is silent.
        ExceptionCode::GatewayTargetDevice | ExceptionCode::GatewayPathUnavailable => ReadError::NoAnswer,
        ExceptionCode::IllegalFunction => {
            ReadError::Refused(format!("exception {code}: the device does not know this kind of register; check `at`"))
        }
        ExceptionCode::IllegalDataAddress => ReadError::Refused(format!("exception {code}: no such register in the device; check `at`")),
        other => ReadError::Refused(format!("exception {code}: {other}")),
    }
}

impl Block {
    /// The request for the first `count` registers of this block's place.
    fn request(&self, count: u16) -> Request<'static> {
        match self.table {
            Table::Holding => Request::ReadHoldingRegisters(self.start, count),
            Table::Input => Request::ReadInputRegisters(self.start, count),
            Table::Coil => Request::ReadCoils(self.start, count),
            Table::Discrete => Request::ReadDiscreteInputs(self.start, count),
        }
    }

    fn decode(&self, words: &[u16]) -> Values {
        let missing = || Err(Arc::from("the answer is too short"));
        let value = |point: &plan::BlockPoint| {
            let from = usize::from(point.register.address - self.start);
            let part = words.get(from..from + usize::from(point.register.width()));
            part.map_or_else(missing, |words| point.register.decode(words))
        };
        self.points.iter().map(|point| (point.id, value(point))).collect()
    }
}
