//! The numbers that the readings of a frame have in their series.
//!
//! They are runs of consecutive numbers. Where readings of several frames take turns, a frame has
//! runs of one length at equal distances: groups of those are written, not runs.

use bytes::{Bytes, BytesMut};

use super::PackError;
use super::zigzag::{put_zigzag, take_zigzag};
use crate::leb128;

/// Consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberRun {
    /// The first one.
    pub first: u64,
    /// How many; not 0.
    pub count: u64,
}

impl NumberRun {
    /// The runs of numbers, in their order.
    pub fn of(numbers: impl Iterator<Item = u64>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some(last) if last.end() == number => last.count += 1,
                _ => runs.push(Self {
                    first: number,
                    count: 1,
                }),
            }
        }
        runs
    }

    /// Its numbers.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |more| self.first.wrapping_add(more))
    }

    /// The number behind the last one.
    fn end(self) -> u64 {
        self.first.wrapping_add(self.count)
    }
}

/// Runs of one length at equal distances.
struct RunGroup {
    run: NumberRun,
    runs: u64,
    /// From the start of one run to that of the next.
    step: u64,
}

impl RunGroup {
    fn last(&self) -> NumberRun {
        let to_last = self.step.wrapping_mul(self.runs - 1);
        NumberRun {
            first: self.run.first.wrapping_add(to_last),
            ..self.run
        }
    }

    /// Takes one more run, if it goes on like those before.
    fn take(&mut self, run: NumberRun) -> bool {
        let step = run.first.wrapping_sub(self.last().first);
        let goes_on = run.count == self.run.count && (self.runs == 1 || step == self.step);
        if goes_on {
            self.step = step;
            self.runs += 1;
        }
        goes_on
    }
}

fn groups(runs: &[NumberRun]) -> Vec<RunGroup> {
    let mut groups: Vec<RunGroup> = Vec::new();
    for run in runs {
        if !groups.last_mut().is_some_and(|last| last.take(*run)) {
            groups.push(RunGroup {
                run: *run,
                runs: 1,
                step: 0,
            });
        }
    }
    groups
}

/// Writes the number of the first reading, and, if there are several runs, all of them.
pub(super) fn put_numbers(runs: &[NumberRun], out: &mut BytesMut) {
    let first = runs.first().map_or(0, |run| run.first);
    leb128::put(first, out);
    if runs.len() < 2 {
        return;
    }
    let (groups, mut before) = (groups(runs), first);
    leb128::put(groups.len() as u64, out);
    for group in groups {
        put_zigzag(group.run.first.wrapping_sub(before).cast_signed(), out);
        leb128::put(group.run.count, out);
        leb128::put(group.runs, out);
        if group.runs > 1 {
            put_zigzag(group.step.cast_signed(), out);
        }
        before = group.last().end();
    }
}

/// What is known of the numbers of a frame before its readings are counted.
pub(super) enum NumbersRead {
    /// They follow the first one.
    From(u64),
    Runs(Vec<NumberRun>),
}

/// Reads the numbers of a frame with so many cells at most.
pub(super) fn take_numbers(
    is_in_runs: bool,
    cells: usize,
    bytes: &mut Bytes,
) -> Result<NumbersRead, PackError> {
    const SHORT: PackError = PackError("a number out of range");
    let mut before = leb128::take(bytes).ok_or(SHORT)?;
    if !is_in_runs {
        return Ok(NumbersRead::From(before));
    }
    let (mut runs, mut left) = (Vec::new(), cells as u64);
    for _ in 0..leb128::take(bytes).ok_or(SHORT)? {
        let skipped = take_zigzag(bytes).ok_or(SHORT)?.cast_unsigned();
        let mut run = NumberRun {
            first: before.wrapping_add(skipped),
            count: leb128::take(bytes).ok_or(SHORT)?,
        };
        let count = leb128::take(bytes).ok_or(SHORT)?;
        let numbers = run.count.checked_mul(count).filter(|all| *all > 0);
        left = numbers
            .and_then(|numbers| left.checked_sub(numbers))
            .ok_or(PackError("more numbers than readings"))?;
        let step = if count > 1 {
            take_zigzag(bytes).ok_or(SHORT)?.cast_unsigned()
        } else {
            0
        };
        for _ in 0..count {
            runs.push(run);
            before = run.end();
            run.first = run.first.wrapping_add(step);
        }
    }
    Ok(NumbersRead::Runs(runs))
}

impl NumbersRead {
    /// The numbers of so many readings.
    pub(super) fn of(self, readings: usize) -> Result<Vec<NumberRun>, PackError> {
        let runs = match self {
            Self::From(first) if readings > 0 => vec![NumberRun {
                first,
                count: readings as u64,
            }],
            Self::From(_) => Vec::new(),
            Self::Runs(runs) => runs,
        };
        let numbers: u64 = runs.iter().map(|run| run.count).sum();
        if numbers == readings as u64 {
            Ok(runs)
        } else {
            Err(PackError("more numbers than readings, or fewer"))
        }
    }
}
