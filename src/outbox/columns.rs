//! The columns of the readings in an outbox: what all readings of a point have in common is kept
//! once, beside the entries, and an entry names it by a number.
//!
//! Invariants:
//! * A column is durable before an entry names it. Until then readings are stored as messages.
//! * A column keeps its number as long as its file exists. The file is replaced, under a new
//!   generation, only while nothing waits.
//! * A damaged end of the file is cut off: no entry names what is in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::files;
use crate::message::SessionLost;
use crate::mqtt::{QoS, TopicName};
use crate::payload::json;

/// Its name in the folder of the outbox.
pub(super) const FILE: &str = "columns";
/// Largest file that is read.
const LARGEST: u64 = 64 << 20;
/// Most columns of a file; the readings of others are stored as messages.
const MOST: usize = 200_000;

/// What the readings of a column have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// The topic at the remote broker.
    pub topic: TopicName,
    /// The QoS they are sent with.
    pub qos: QoS,
    /// Whether the remote keeps the newest.
    pub retain: bool,
    /// Whether they are sent again when the remote has lost the session.
    pub if_session_lost: SessionLost,
    /// The `send` rule that took them has a rate.
    pub is_rated: bool,
}

/// A column as it is written.
#[derive(Serialize, Deserialize)]
struct ColumnJson<'a> {
    topic: std::borrow::Cow<'a, str>,
    qos: u8,
    retain: bool,
    never_twice: bool,
    rated: bool,
}

impl<'a> From<&'a Column> for ColumnJson<'a> {
    fn from(column: &'a Column) -> Self {
        Self {
            topic: column.topic.as_str().into(),
            qos: column.qos as u8,
            retain: column.retain,
            never_twice: column.if_session_lost == SessionLost::Drop,
            rated: column.is_rated,
        }
    }
}

impl ColumnJson<'_> {
    fn column(self) -> Option<Column> {
        Some(Column {
            topic: TopicName::new(self.topic.into_owned()).ok()?,
            qos: QoS::from_bits(self.qos)?,
            retain: self.retain,
            if_session_lost: if self.never_twice {
                SessionLost::Drop
            } else {
                SessionLost::Resend
            },
            is_rated: self.rated,
        })
    }
}

/// A line: a checksum and what it is of.
fn line(text: &str) -> String {
    format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes()))
}

/// The text of a line, without its end; `None` if it is damaged.
fn text_of(line: &str) -> Option<&str> {
    let (sum, text) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32c::crc32c(text.as_bytes())).then_some(text)
}

/// The columns of an outbox as its file has them.
#[derive(Debug, Clone, Default)]
pub struct ColumnTable {
    /// Drawn for the file.
    generation: u32,
    columns: Vec<Arc<Column>>,
}

impl ColumnTable {
    /// A new table.
    fn new() -> Self {
        Self {
            generation: fastrand::u32(..),
            columns: Vec::new(),
        }
    }

    /// A table with these columns.
    #[cfg(test)]
    pub(super) fn of(generation: u32, columns: Vec<Column>) -> Self {
        Self {
            generation,
            columns: columns.into_iter().map(Arc::new).collect(),
        }
    }

    /// That of the outbox in `folder`; an empty one if there is none yet.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(Self::read_with_length(folder)?
            .map(|(table, _)| table)
            .unwrap_or_default())
    }

    /// The table and the length of the undamaged part of its file; `None` without a file, or
    /// without its first line.
    fn read_with_length(folder: &Path) -> io::Result<Option<(Self, u64)>> {
        match files::bytes(&folder.join(FILE), LARGEST) {
            Ok(bytes) => Ok(Self::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(bytes: &[u8]) -> Option<(Self, u64)> {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let mut next = || {
            let line = lines.next()?;
            let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
            Some((text_of(text)?, line.len() as u64))
        };
        let (head, mut length) = next()?;
        let generation = u32::from_str_radix(head.strip_prefix("generation ")?, 16).ok()?;
        let mut columns = Vec::new();
        while let Some((text, more)) = next() {
            let Some(column) = serde_json::from_str::<ColumnJson<'_>>(text)
                .ok()
                .and_then(ColumnJson::column)
            else {
                break;
            };
            columns.push(Arc::new(column));
            length += more;
        }
        let table = Self {
            generation,
            columns,
        };
        Some((table, length))
    }

    fn head(&self) -> String {
        line(&format!("generation {:08x}", self.generation))
    }

    /// A column by the generation and the number that an entry names.
    pub fn get(&self, generation: u32, number: u32) -> Option<&Arc<Column>> {
        self.columns
            .get(number as usize)
            .filter(|_| generation == self.generation)
    }
}

/// Columns that are not durable yet.
#[derive(Debug, Default)]
struct NewColumns {
    columns: Vec<Arc<Column>>,
    /// Somebody writes them.
    is_writing: bool,
}

#[derive(Debug)]
struct ColumnsState {
    table: ColumnTable,
    /// Bytes of the file that are durable.
    length: u64,
    /// The numbers of all columns, durable or not.
    numbers: HashMap<Arc<Column>, u32>,
    /// Most digits after the point that the values of a column had, by its number.
    digits: Vec<u8>,
    new: NewColumns,
}

/// What an entry needs to know of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnPlace {
    pub(super) generation: u32,
    pub(super) number: u32,
    /// Most digits after the point so far.
    pub(super) digits: u8,
}

impl ColumnsState {
    /// The place of a column, if it is durable.
    fn place(&self, number: u32) -> Option<ColumnPlace> {
        self.table
            .columns
            .get(number as usize)
            .map(|_| ColumnPlace {
                generation: self.table.generation,
                number,
                digits: self.digits.get(number as usize).copied().unwrap_or(0),
            })
    }
}

/// The columns of an open outbox; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    path: PathBuf,
    state: Arc<Mutex<ColumnsState>>,
}

impl Columns {
    /// Those of the outbox in `folder`. If nothing waits in it, those of old configurations go.
    pub(super) fn open(folder: &Path, is_empty: bool) -> io::Result<Self> {
        let path = folder.join(FILE);
        let known = ColumnTable::read_with_length(folder)?.filter(|_| !is_empty);
        let (table, length) = match known {
            Some(known) => known,
            None => begin(folder, &path)?,
        };
        let numbers = table.columns.iter().cloned().zip(0..).collect();
        let state = ColumnsState {
            table,
            length,
            numbers,
            digits: Vec::new(),
            new: NewColumns::default(),
        };
        Ok(Self {
            path,
            state: Arc::new(Mutex::new(state)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ColumnsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a column; `None` until it is durable, which a thread sees to.
    pub(super) fn place(&self, column: Column) -> Option<ColumnPlace> {
        let mut state = self.lock();
        if let Some(number) = state.numbers.get(&column).copied() {
            return state.place(number);
        }
        let number = u32::try_from(state.numbers.len())
            .ok()
            .filter(|_| state.numbers.len() < MOST)?;
        let column = Arc::new(column);
        state.numbers.insert(column.clone(), number);
        state.new.columns.push(column);
        if !std::mem::replace(&mut state.new.is_writing, true) {
            let columns = self.clone();
            tokio::task::spawn_blocking(move || columns.write());
        }
        None
    }

    /// Values of a column had so many digits after the point: the next ones get them as well, so
    /// that all of them take the same bytes.
    pub(super) fn note_digits(&self, number: u32, digits: u8) {
        let digits_of = &mut self.lock().digits;
        let number = number as usize;
        if digits_of.len() <= number {
            digits_of.resize(number + 1, 0);
        }
        if let Some(most) = digits_of.get_mut(number) {
            *most = digits.max(*most);
        }
    }

    /// The table, for reading.
    pub(super) fn table<T>(&self, look: impl FnOnce(&ColumnTable) -> T) -> T {
        look(&self.lock().table)
    }

    /// Makes new columns durable, until there are no more.
    fn write(&self) {
        loop {
            let mut state = self.lock();
            let new = std::mem::take(&mut state.new.columns);
            if new.is_empty() {
                state.new.is_writing = false;
                return;
            }
            let length = state.length;
            drop(state);
            let written = append(&self.path, length, &new);
            let mut state = self.lock();
            match written {
                Ok(length) => {
                    state.table.columns.extend(new);
                    state.length = length;
                }
                Err(error) => {
                    tracing::warn!(event = "outbox.columns_failed", file = %self.path.display(), %error, "cannot note the topics of readings; readings are stored as messages, which take more room; check the disk");
                    // They are new again, with those that came meanwhile, when one of them is used.
                    let durable = state.table.columns.len();
                    state
                        .numbers
                        .retain(|_, number| (*number as usize) < durable);
                    state.new = NewColumns::default();
                    return;
                }
            }
        }
    }
}

/// Begins a new file, durably.
fn begin(folder: &Path, path: &Path) -> io::Result<(ColumnTable, u64)> {
    let table = ColumnTable::new();
    let (new, head) = (folder.join("columns.new"), table.head());
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(head.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()?;
    Ok((table, head.len() as u64))
}

/// Writes columns behind the first `length` bytes, durably, in place of what a failed attempt or a
/// power cut left there. Returns the new length.
fn append(path: &Path, length: u64, columns: &[Arc<Column>]) -> io::Result<u64> {
    let lines: String = columns
        .iter()
        .map(|column| line(&json::text(&ColumnJson::from(&**column))))
        .collect();
    let mut file = File::options().write(true).open(path)?;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    file.write_all(lines.as_bytes())?;
    file.sync_data()?;
    Ok(length + lines.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(topic: &str) -> Column {
        Column {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            qos: QoS::AtLeastOnce,
            retain: true,
            if_session_lost: SessionLost::Drop,
            is_rated: false,
        }
    }

    async fn durable(columns: &Columns, wanted: &Column) -> (u32, u32) {
        loop {
            if let Some(found) = columns
                .place(wanted.clone())
                .map(|place| (place.generation, place.number))
            {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_column_keeps_its_number_over_restarts_until_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        assert_eq!(columns.place(column("a")), None, "not durable yet");
        let a = durable(&columns, &column("a")).await;
        let b = durable(&columns, &column("b")).await;
        assert_eq!((a.0, a.1, b.1), (b.0, 0, 1));
        let again = Columns::open(folder.path(), false).unwrap();
        assert_eq!(durable(&again, &column("b")).await, b);
        assert_eq!(
            again.table(|table| table.get(a.0, a.1).cloned()).as_deref(),
            Some(&column("a"))
        );
        let read = ColumnTable::read(folder.path()).unwrap();
        assert_eq!(read.get(b.0, b.1).map(|b| &**b), Some(&column("b")));
        assert_eq!(read.get(b.0.wrapping_add(1), b.1), None);
        // A new beginning: numbers mean something else under another generation.
        let fresh = Columns::open(folder.path(), true).unwrap();
        let c = durable(&fresh, &column("c")).await;
        assert_eq!(c.1, 0);
        assert_eq!(fresh.table(|table| table.get(a.0, 0).cloned()), None);
    }

    #[tokio::test]
    async fn a_damaged_end_is_cut_off_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        for topic in ["a", "b"] {
            durable(&columns, &column(topic)).await;
        }
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for cut in 1..30 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let columns = Columns::open(folder.path(), false).unwrap();
            assert_eq!(durable(&columns, &column("a")).await.1, 0);
            assert_eq!(durable(&columns, &column("c")).await.1, 1, "cut by {cut}");
            let read = ColumnTable::read(folder.path()).unwrap();
            assert_eq!(read.columns.len(), 2);
            assert_eq!(*read.columns[1], column("c"));
        }
    }
}
