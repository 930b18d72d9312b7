//! Which columns are durable, and which are to be written. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::{self, Column, ColumnTable, ColumnTraits};
use super::{LARGEST, MOST};
use crate::mqtt::TopicName;
use crate::outbox::ReadingSource;
use crate::reading::PointId;

/// A write that failed is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What decides about the column of a reading.
#[derive(Debug, Clone, Copy)]
pub(in crate::outbox) struct ColumnKey<'a> {
    /// Its point: a hint, since most points have one column.
    pub(in crate::outbox) point: PointId,
    pub(in crate::outbox) topic: &'a TopicName,
    pub(in crate::outbox) source: Option<&'a ReadingSource>,
    pub(in crate::outbox) traits: ColumnTraits,
}

impl ColumnKey<'_> {
    fn is_of(&self, column: &Column) -> bool {
        column.traits == self.traits
            && column.topic == *self.topic
            && column.source.as_ref() == self.source
    }

    pub(in crate::outbox) fn column(&self) -> Column {
        Column {
            topic: self.topic.clone(),
            source: self.source.cloned(),
            traits: self.traits,
        }
    }
}

/// What an entry needs to know of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) struct ColumnPlace {
    pub(in crate::outbox) generation: u32,
    pub(in crate::outbox) number: u32,
    /// Most digits after the point so far.
    pub(in crate::outbox) digits: u8,
}

/// Columns that are not durable yet, with their lines.
#[derive(Debug, Default)]
pub(super) struct NewColumns {
    columns: Vec<Arc<Column>>,
    pub(super) lines: String,
}

/// What is known of the columns of an open outbox.
#[derive(Debug)]
pub(super) struct ColumnsState {
    table: ColumnTable,
    /// That of new columns.
    generation: u32,
    /// Bytes of the file that are durable.
    length: u64,
    /// Bytes of the file when the new columns are in it.
    planned: u64,
    /// The next column gets it.
    next_number: u32,
    /// The numbers of all columns of the generation, durable or not.
    numbers: HashMap<Arc<Column>, u32>,
    /// The number that a reading of a point had last, by point.
    last_numbers: Vec<u32>,
    /// Most digits after the point that the values of a column had, by its number.
    digits: Vec<u8>,
    new: NewColumns,
    /// Somebody writes.
    is_writing: bool,
    /// Since the last write failed: no other is begun before.
    retry_at: Option<Instant>,
    /// There is no room for more columns.
    is_full: bool,
}

impl ColumnsState {
    pub(super) fn new(table: ColumnTable, generation: u32, length: u64) -> Self {
        let used = table.used();
        let newest = table.newest();
        let numbers = newest.map(|(number, column)| (column.clone(), number));
        Self {
            numbers: numbers.collect(),
            table,
            generation,
            length,
            planned: length,
            next_number: used,
            last_numbers: Vec::new(),
            digits: Vec::new(),
            new: NewColumns::default(),
            is_writing: false,
            retry_at: None,
            is_full: false,
        }
    }

    /// The place of a column, if it is durable.
    fn place(&self, number: u32) -> Option<ColumnPlace> {
        self.table
            .get(self.generation, number)
            .map(|_| ColumnPlace {
                generation: self.generation,
                number,
                digits: self.digits.get(number as usize).copied().unwrap_or(0),
            })
    }

    /// The place of the column that the point had last, if it is the one that is looked for.
    pub(super) fn place_as_before(&self, key: &ColumnKey<'_>) -> Option<ColumnPlace> {
        let number = *self.last_numbers.get(key.point.0 as usize)?;
        let column = self.table.get(self.generation, number)?;
        if key.is_of(column) {
            self.place(number)
        } else {
            None
        }
    }

    /// The number of a column, durable or not.
    pub(super) fn number(&self, column: &Column) -> Option<u32> {
        self.numbers.get(column).copied()
    }

    /// The place of the column of a point, which is looked at first the next time.
    pub(super) fn place_for(&mut self, point: PointId, number: u32) -> Option<ColumnPlace> {
        self.note_number(point, number);
        self.place(number)
    }

    fn note_number(&mut self, point: PointId, number: u32) {
        let point = point.0 as usize;
        if point >= MOST {
            return;
        }
        if self.last_numbers.len() <= point {
            self.last_numbers.resize(point + 1, u32::MAX);
        }
        if let Some(last) = self.last_numbers.get_mut(point) {
            *last = number;
        }
    }

    /// Values of a column had so many digits after the point.
    pub(super) fn note_digits(&mut self, number: u32, digits: u8) {
        let number = number as usize;
        if self.digits.len() <= number {
            self.digits.resize(number + 1, 0);
        }
        if let Some(most) = self.digits.get_mut(number) {
            *most = digits.max(*most);
        }
    }

    /// The columns that are durable.
    pub(super) fn table(&self) -> &ColumnTable {
        &self.table
    }

    /// False while there is no room, or soon after a write has failed.
    pub(super) fn may_add(&self, now: Instant) -> bool {
        !self.is_full && self.retry_at.is_none_or(|at| now >= at)
    }

    /// True if nobody writes: the caller has to.
    pub(super) fn needs_writer(&mut self) -> bool {
        !std::mem::replace(&mut self.is_writing, true)
    }

    /// Adds a column to those that are to be written; false if the file has no room for it.
    pub(super) fn add(&mut self, column: Column) -> bool {
        let line = table::line_of(&column, self.generation, self.next_number);
        let unwritten = self.next_number.saturating_sub(self.table.used());
        let planned = self.planned + line.len() as u64;
        if planned > LARGEST || self.table.len() + unwritten as usize >= MOST {
            self.is_full = true;
            return false;
        }
        let column = Arc::new(column);
        self.numbers.insert(column.clone(), self.next_number);
        self.new.columns.push(column);
        self.new.lines.push_str(&line);
        self.next_number += 1;
        self.planned = planned;
        true
    }

    /// The new columns, and where their lines go; `None` if there are none.
    pub(super) fn begin_write(&mut self) -> Option<(NewColumns, u64)> {
        let new = std::mem::take(&mut self.new);
        self.is_writing = !new.columns.is_empty();
        self.is_writing.then_some((new, self.length))
    }

    /// The columns are durable; true if the last write had failed.
    pub(super) fn note_written(&mut self, written: NewColumns) -> bool {
        written
            .columns
            .into_iter()
            .for_each(|column| self.table.push(column));
        self.length += written.lines.len() as u64;
        debug_assert!(self.table.used() <= self.next_number && self.length <= self.planned);
        self.retry_at.take().is_some()
    }

    /// The columns are not durable: they are new again when one of them is used later. True if the
    /// last write had not failed.
    pub(super) fn note_failed(&mut self, now: Instant) -> bool {
        let used = self.table.used();
        self.numbers.retain(|_, number| *number < used);
        self.new = NewColumns::default();
        (self.next_number, self.planned) = (used, self.length);
        self.retry_at.replace(now + RETRY_AFTER).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionLost;
    use crate::mqtt::QoS;

    const TRAITS: ColumnTraits = ColumnTraits {
        qos: QoS::AtLeastOnce,
        retain: true,
        if_session_lost: SessionLost::Drop,
        rated: None,
    };

    fn key(point: u32, topic: &TopicName) -> ColumnKey<'_> {
        ColumnKey {
            point: PointId(point),
            topic,
            source: None,
            traits: TRAITS,
        }
    }

    fn state(length: u64) -> ColumnsState {
        let mut table = ColumnTable::default();
        table.begin(5);
        ColumnsState::new(table, 5, length)
    }

    #[test]
    fn no_column_is_added_that_the_file_has_no_room_for() {
        let topics = ["a", "b"].map(|topic| TopicName::new(topic).unwrap());
        let [a, b] = topics.each_ref().map(|topic| key(1, topic).column());
        let line = table::line_of(&a, 5, 0).len() as u64;
        let mut state = state(LARGEST - 2 * line + 1);
        let now = crate::time::now();
        assert!(state.may_add(now) && state.add(a.clone()));
        assert!(state.may_add(now) && !state.add(b.clone()));
        assert!(!state.may_add(now), "it is not tried again");
        let (new, _) = state.begin_write().unwrap();
        assert_eq!((new.columns.len(), new.lines.len() as u64), (1, line));
        assert!(!state.note_written(new));
        assert!(state.place_for(PointId(1), 0).is_some());
        assert_eq!((state.number(&a), state.number(&b)), (Some(0), None));
    }

    #[test]
    fn a_column_that_could_not_be_written_is_written_under_its_number_later() {
        let topics = ["a", "b"].map(|topic| TopicName::new(topic).unwrap());
        let [a, b] = topics.each_ref().map(|topic| key(1, topic).column());
        let (mut state, start) = (state(10), crate::time::now());
        assert!(state.add(a.clone()));
        let (_, at) = state.begin_write().unwrap();
        assert!(state.add(b.clone()), "meanwhile");
        assert!(state.note_failed(start), "the first failure");
        assert!(!state.note_failed(start));
        assert!(state.begin_write().is_none() && !state.may_add(start));
        assert!(state.may_add(start + RETRY_AFTER));
        assert!(state.add(b.clone()) && state.add(a.clone()));
        let (new, again_at) = state.begin_write().unwrap();
        assert_eq!((at, again_at), (10, 10));
        assert!(state.note_written(new), "it works again");
        assert_eq!((state.number(&b), state.number(&a)), (Some(0), Some(1)));
    }

    #[test]
    fn the_column_of_a_point_is_found_by_its_fields_when_they_change() {
        let topics = ["a", "b"].map(|topic| TopicName::new(topic).unwrap());
        let mut state = state(0);
        for topic in &topics {
            assert!(state.add(key(1, topic).column()));
        }
        let (new, _) = state.begin_write().unwrap();
        state.note_written(new);
        let [a, b] = topics.each_ref().map(|topic| key(1, topic));
        assert_eq!(state.place_as_before(&a), None, "not looked up yet");
        let place = state.place_for(PointId(1), 0);
        assert!(place.is_some());
        assert_eq!(state.place_as_before(&a), place);
        assert_eq!(state.place_as_before(&b), None);
        let mut other = a;
        other.traits.retain = false;
        assert_eq!(state.place_as_before(&other), None);
        assert_eq!(state.place_as_before(&key(2, &topics[0])), None);
    }
}
