//! All numbers of a frame in the bits of the adaptive coder, row by row.

use super::adaptive::{AdaptiveColumn, Chances};
use super::body::Body;
use super::range::{BitCoder, Learner, RangeDecoder, RangeEncoder};
use super::{AdaptiveModel, ColumnKind, PackError};

/// The size of the steps between irregular times: 64 ms.
const SCALE_OF_TIMES: i8 = 24;

/// Writes the numbers of a frame, row by row.
pub(super) fn write(body: &Body, model: &AdaptiveModel) -> Vec<u8> {
    let mut coder = RangeEncoder::new();
    let mut run = Run::of(body, model);
    run.walk(body, &mut coder);
    coder.finish()
}

/// Lets the chances of a model follow a frame.
pub(super) fn learn(body: &Body, model: &mut AdaptiveModel) {
    let mut run = Run::of(body, model);
    run.walk(body, &mut Learner);
    model.chances = run.chances;
}

/// Fills the columns of a frame.
pub(super) fn read(mut body: Body, model: &AdaptiveModel, bytes: &[u8]) -> Result<Body, PackError> {
    let mut coder = RangeDecoder::new(bytes);
    let mut run = Run::of(&body, model);
    for _ in 0..body.rows {
        if let Some(times) = &mut body.times {
            times.push(run.times.number(0, &mut run.chances, &mut coder));
        }
        for (own, column) in body.columns.iter_mut().zip(&mut run.columns) {
            let is_there = !body.has_gaps || column.is_there(false, &mut run.chances, &mut coder);
            let number = is_there.then(|| column.number(0, &mut run.chances, &mut coder));
            own.numbers.push(number);
        }
    }
    if coder.is_at_end() {
        Ok(body)
    } else {
        Err(PackError("too long"))
    }
}

/// What follows the numbers of a frame.
struct Run {
    chances: Chances,
    times: AdaptiveColumn,
    columns: Vec<AdaptiveColumn>,
}

impl Run {
    fn of(body: &Body, model: &AdaptiveModel) -> Self {
        let columns = body.columns.iter();
        Self {
            chances: model.chances.clone(),
            times: AdaptiveColumn::new(ColumnKind::Counter, SCALE_OF_TIMES, None),
            columns: columns
                .map(|column| model.column(column.kind, column.place))
                .collect(),
        }
    }

    /// Brings the numbers of a frame to a coder, row by row.
    fn walk(&mut self, body: &Body, coder: &mut impl BitCoder) {
        let columns = body.columns.iter();
        let mut rows: Vec<_> = columns.map(|column| column.numbers.iter()).collect();
        for row in 0..body.rows {
            if let Some(time) = body.times.as_ref().and_then(|times| times.get(row)) {
                self.times.number(*time, &mut self.chances, coder);
            }
            for (numbers, column) in rows.iter_mut().zip(&mut self.columns) {
                let number = numbers.next().copied().flatten();
                let is_there = number.is_some();
                if !body.has_gaps || column.is_there(is_there, &mut self.chances, coder) {
                    column.number(number.unwrap_or(0), &mut self.chances, coder);
                }
            }
        }
    }
}
