//! The columns of the readings in an outbox: what all readings of a point have in common is kept
//! once, beside the entries, and an entry names it by a number.
//!
//! Invariants:
//! * A column is durable before an entry names it. Until then readings are stored as messages.
//! * A number of a generation never gets another meaning: behind a damaged end new columns get a
//!   generation of their own. The file is replaced only while nothing waits, or when no generation
//!   is left in it.
//! * The file has at most `LARGEST` bytes and `MOST` columns. Readings of columns that have no
//!   room in it are stored as messages.
//! * A damaged end of the file is cut off: no entry names what is in it.

mod state;
mod table;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::state::ColumnsState;
pub(super) use self::state::{ColumnKey, ColumnPlace};
#[cfg(test)]
pub(super) use self::table::Column;
pub use self::table::ColumnTable;
pub(super) use self::table::ColumnTraits;
use self::table::IntactColumns;
use crate::files;
use crate::time::now;

/// Its name in the folder of the outbox.
pub(super) const FILE: &str = "columns";
/// Largest file that is written, and read.
const LARGEST: u64 = 64 << 20;
/// Most columns of a file.
const MOST: usize = 200_000;

impl ColumnTable {
    /// That of the outbox in `folder`; an empty one if there is none yet.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(read(&folder.join(FILE))?.map_or_else(Self::default, |found| found.columns.table))
    }
}

/// A file that was read.
struct ColumnFile {
    columns: IntactColumns,
    /// Something follows the last line that is used.
    has_damaged_end: bool,
    /// Columns that entries may name are damaged.
    is_damaged: bool,
}

/// The file at `path`, up to [`LARGEST`] bytes; `None` if there is none.
fn read(path: &Path) -> io::Result<Option<ColumnFile>> {
    let mut file = match files::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST).read_to_end(&mut bytes)?;
    let size = file.metadata()?.len();
    let columns = IntactColumns::of(&bytes);
    let is_damaged =
        columns.is_damaged || columns.table.generation().is_none() || size > bytes.len() as u64;
    Ok(Some(ColumnFile {
        has_damaged_end: size > columns.length,
        is_damaged,
        columns,
    }))
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
        let found = if is_empty { None } else { read(&path)? };
        if found.as_ref().is_some_and(|found| found.is_damaged) {
            tracing::error!(event = "outbox.columns_damaged", file = %path.display(), "the notes of the topics of readings are damaged; queued readings whose topic is gone are lost and counted; check the disk");
        }
        let usable = found.and_then(|found| Some((found.columns.table.generation()?, found)));
        let state = match usable {
            Some((generation, found)) => resume(&path, generation, found)?,
            None => begin(folder, &path)?,
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
    pub(super) fn place(&self, key: &ColumnKey<'_>) -> Option<ColumnPlace> {
        let mut state = self.lock();
        if let Some(place) = state.place_as_before(key) {
            return Some(place);
        }
        let column = key.column();
        if let Some(number) = state.number(&column) {
            return state.place_for(key.point, number);
        }
        if !state.may_add(now()) {
            return None;
        }
        if !state.add(column) {
            tracing::warn!(event = "outbox.columns_full", file = %self.path.display(), "the notes of the topics of readings are full; readings of further topics are stored as messages, which take more room; restart the gateway when nothing waits, which begins new notes");
            return None;
        }
        if state.needs_writer() {
            let columns = self.clone();
            tokio::task::spawn_blocking(move || columns.write());
        }
        None
    }

    /// Values of a column had so many digits after the point: the next ones get them as well, so
    /// that all of them take the same bytes.
    pub(super) fn note_digits(&self, number: u32, digits: u8) {
        self.lock().note_digits(number, digits);
    }

    /// The table, for reading.
    pub(super) fn table<T>(&self, look: impl FnOnce(&ColumnTable) -> T) -> T {
        look(self.lock().table())
    }

    /// Makes new columns durable, until there are no more. A failure is logged once.
    fn write(&self) {
        loop {
            let Some((new, length)) = self.lock().begin_write() else {
                return;
            };
            match append(&self.path, length, &new.lines) {
                Ok(()) => {
                    if self.lock().note_written(new) {
                        tracing::info!(event = "outbox.columns_recovered", file = %self.path.display(), "the topics of readings are noted again");
                    }
                }
                Err(error) => {
                    if self.lock().note_failed(now()) {
                        tracing::warn!(event = "outbox.columns_failed", file = %self.path.display(), %error, "cannot note the topics of readings; readings are stored as messages, which take more room; check the disk");
                    }
                }
            }
        }
    }
}

/// Begins a new file, durably.
fn begin(folder: &Path, path: &Path) -> io::Result<ColumnsState> {
    let generation = fastrand::u32(..);
    let (new, head) = (folder.join("columns.new"), table::head(generation));
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
    let mut table = ColumnTable::default();
    table.begin(generation);
    Ok(ColumnsState::new(table, generation, head.len() as u64))
}

/// Goes on with the file that was found.
fn resume(path: &Path, newest: u32, found: ColumnFile) -> io::Result<ColumnsState> {
    // A program that was killed may have written lines without making them durable.
    File::open(path)?.sync_data()?;
    let IntactColumns {
        mut table, length, ..
    } = found.columns;
    let generation = if found.has_damaged_end {
        let next = fastrand::u32(..);
        table.begin(next);
        next
    } else {
        newest
    };
    Ok(ColumnsState::new(table, generation, length))
}

/// Writes lines behind the first `length` bytes, durably, in place of what a failed attempt or a
/// power cut left there.
fn append(path: &Path, length: u64, lines: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;
    use crate::message::SessionLost;
    use crate::mqtt::{QoS, TopicName};
    use crate::reading::PointId;

    fn column(topic: &str) -> Column {
        Column {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            source: None,
            traits: ColumnTraits {
                qos: QoS::AtLeastOnce,
                retain: true,
                if_session_lost: SessionLost::Drop,
                rated: None,
            },
        }
    }

    fn key(column: &Column) -> ColumnKey<'_> {
        ColumnKey {
            point: PointId(7),
            topic: &column.topic,
            source: None,
            traits: column.traits,
        }
    }

    async fn durable(columns: &Columns, wanted: &Column) -> (u32, u32) {
        loop {
            if let Some(found) = columns
                .place(&key(wanted))
                .map(|place| (place.generation, place.number))
            {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }

    fn found(table: &ColumnTable, place: (u32, u32)) -> Option<&Column> {
        table.get(place.0, place.1).map(|column| &**column)
    }

    /// The log lines of a thread that warn.
    #[derive(Clone, Default)]
    struct Warnings(Arc<Mutex<u32>>);

    impl<S: tracing::Subscriber> Layer<S> for Warnings {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            let counts = *event.metadata().level() <= tracing::Level::WARN;
            *self.0.lock().unwrap() += u32::from(counts);
        }
    }

    impl Warnings {
        /// How many lines warn during `act`.
        fn of<T>(act: impl FnOnce() -> T) -> (T, u32) {
            let warnings = Self::default();
            let logs = tracing_subscriber::registry().with(warnings.clone());
            let done = tracing::subscriber::with_default(logs, act);
            let count = *warnings.0.lock().unwrap();
            (done, count)
        }
    }

    #[tokio::test]
    async fn a_column_keeps_its_number_over_restarts_until_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        assert_eq!(columns.place(&key(&column("a"))), None, "not durable yet");
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
    async fn a_damaged_end_is_cut_off_and_its_numbers_are_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        let a = durable(&columns, &column("a")).await;
        let b = durable(&columns, &column("b")).await;
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for cut in 1..30 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (columns, warnings) = Warnings::of(|| Columns::open(folder.path(), false).unwrap());
            assert_eq!(warnings, 0, "a power cut leaves this");
            let c = durable(&columns, &column("c")).await;
            let read = ColumnTable::read(folder.path()).unwrap();
            assert_eq!(found(&read, a), Some(&column("a")), "cut by {cut}");
            assert_eq!(found(&read, b), None);
            assert_eq!(found(&read, c), Some(&column("c")));
            // Once more, without damage.
            let again = Columns::open(folder.path(), false).unwrap();
            assert_eq!(durable(&again, &column("c")).await, c);
        }
    }

    #[tokio::test]
    async fn damage_to_one_line_is_reported_and_touches_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        let topics = ["a", "b", "c"].map(column);
        let mut places = Vec::new();
        for topic in &topics {
            places.push(durable(&columns, topic).await);
        }
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut line = 0;
        for (place, byte) in whole.iter().enumerate() {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            fs::write(&path, &damaged).unwrap();
            let (columns, warnings) = Warnings::of(|| Columns::open(folder.path(), false).unwrap());
            // What is damaged up to the end looks like what a power cut leaves.
            let is_end = line == 3 || (line == 2 && *byte == b'\n');
            assert_eq!(warnings, u32::from(!is_end), "byte {place}");
            let next = durable(&columns, &column("next")).await;
            assert!(!places.contains(&next), "byte {place}");
            let read = ColumnTable::read(folder.path()).unwrap();
            for (number, topic) in topics.iter().enumerate() {
                // The line break belongs to both lines.
                let is_hit = number + 1 == line || (number == line && *byte == b'\n');
                let left = (!is_hit).then_some(topic);
                assert_eq!(found(&read, places[number]), left, "byte {place}");
            }
            line += usize::from(*byte == b'\n');
        }
    }

    #[tokio::test]
    async fn a_file_without_numbers_is_read_up_to_its_first_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let of_topic = |topic: &str| {
            let rest = r#""qos":1,"retain":true,"never_twice":true,"rated":false"#;
            table::line(&format!(r#"{{"topic":"{topic}",{rest}}}"#))
        };
        let text = table::head(0x1a2b_3c4d) + &of_topic("a") + &of_topic("b");
        fs::write(&path, &text).unwrap();
        let columns = Columns::open(folder.path(), false).unwrap();
        assert_eq!(durable(&columns, &column("a")).await, (0x1a2b_3c4d, 0));
        assert_eq!(durable(&columns, &column("b")).await, (0x1a2b_3c4d, 1));
        assert_eq!(durable(&columns, &column("c")).await, (0x1a2b_3c4d, 2));

        fs::write(&path, text.replace("\"a\"", "\"x\"")).unwrap();
        let (columns, warnings) = Warnings::of(|| Columns::open(folder.path(), false).unwrap());
        assert_eq!(warnings, 1);
        let generation = durable(&columns, &column("b")).await.0;
        assert_ne!(generation, 0x1a2b_3c4d, "which number it had is not known");

        fs::write(&path, text.replace("generation", "generatiom")).unwrap();
        let (columns, warnings) = Warnings::of(|| Columns::open(folder.path(), false).unwrap());
        assert_eq!(warnings, 1);
        assert_ne!(durable(&columns, &column("a")).await.0, 0x1a2b_3c4d);
    }

    #[tokio::test]
    async fn a_larger_file_is_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        let a = durable(&columns, &column("a")).await;
        let path = folder.path().join(FILE);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(LARGEST + 5).unwrap();
        let (columns, warnings) = Warnings::of(|| Columns::open(folder.path(), false).unwrap());
        assert_eq!(warnings, 1);
        assert_eq!(durable(&columns, &column("a")).await.1, 0);
        assert_eq!(
            columns.table(|table| found(table, a).cloned()),
            Some(column("a"))
        );
        assert!(fs::metadata(&path).unwrap().len() < 1000, "it is cut off");
    }

    #[test]
    fn a_write_that_fails_is_reported_once_until_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let columns = Columns::open(folder.path(), true).unwrap();
        let path = folder.path().join(FILE);
        let aside = folder.path().join("aside");
        let write = |topic: &str| {
            assert!(columns.lock().add(column(topic)));
            let ((), warnings) = Warnings::of(|| columns.write());
            let is_durable = columns.table(|table| {
                let mut newest = table.newest();
                newest.any(|(_, found)| **found == column(topic))
            });
            (is_durable, warnings)
        };
        assert_eq!(write("a"), (true, 0));
        for topic in ["d", "e"] {
            fs::rename(&path, &aside).unwrap();
            fs::create_dir(&path).unwrap();
            assert_eq!(write("b"), (false, 1));
            assert_eq!(write("b"), (false, 0));
            assert_eq!(write("c"), (false, 0));
            fs::remove_dir(&path).unwrap();
            fs::rename(&aside, &path).unwrap();
            assert_eq!(write(topic), (true, 0));
        }
    }
}
