//! The plant in packed frames.

use std::ops::Range;

use wellhead::payload::pack::{
    AdaptiveModel, ColumnKind, NumberRun, PackCells, PackColumn, PackError, PackFrame, PackMessage,
    PackSchema, order_of_f32,
};

use super::plant::{PlantColumn, RegisterKind};

/// Scans of an hour.
const HOUR: usize = 360;

/// What the receiver of frames knows before they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The schema; frames have Rice codes.
    Schema,
    /// The same; the adaptive coder begins each frame anew.
    Nothing,
    /// What the coder learned in the first hours of the plant.
    Chances,
    /// The same, and the last row of the hour before.
    BaseRow,
}

impl Known {
    pub(crate) const ALL: [Self; 4] = [Self::Schema, Self::Nothing, Self::Chances, Self::BaseRow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Schema => "pack, Rice",
            Self::Nothing => "pack, adaptive",
            Self::Chances => "pack, learned",
            Self::BaseRow => "pack, base row",
        }
    }
}

/// The numbers of the plant, and what is known of them.
pub(crate) struct PackedPlant {
    kinds: Vec<ColumnKind>,
    rows: Vec<Vec<i64>>,
    known: Known,
    model: Option<AdaptiveModel>,
}

impl PackedPlant {
    /// Rows up to `learned` are those from which a coder may learn.
    pub(crate) fn new(columns: &[PlantColumn], known: Known, learned: usize) -> Self {
        let kinds: Vec<ColumnKind> = columns.iter().map(kind).collect();
        let row = |row: usize| columns.iter().map(|column| number(column, row)).collect();
        let rows: Vec<Vec<i64>> = (0..columns[0].raw.len()).map(row).collect();
        let model = match known {
            Known::Schema => None,
            Known::Nothing => Some(AdaptiveModel::new(kinds.len())),
            Known::Chances | Known::BaseRow => {
                let model = AdaptiveModel::learn(&kinds, &rows[..learned]);
                println!("{:>18} {} bytes", "a model has", model.to_bytes().len());
                Some(model)
            }
        };
        Self {
            kinds,
            rows,
            known,
            model,
        }
    }

    /// Bytes of a reading, in frames of so many scans.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn bytes(&self, rows: Range<usize>, scans: usize) -> Result<f64, PackError> {
        let (mut total, mut schema) = (0, self.schema(rows.start)?);
        for start in rows.clone().step_by(scans) {
            if self.known == Known::BaseRow && start % HOUR == 0 {
                schema = self.schema(start)?;
            }
            let message = self.message(start..rows.end.min(start + scans));
            let bytes = message.encode(&schema)?;
            debug_assert_eq!(PackMessage::decode(&bytes, &schema)?, message);
            total += bytes.len();
        }
        Ok(total as f64 / (rows.len() * self.kinds.len()) as f64)
    }

    fn schema(&self, row: usize) -> Result<PackSchema, PackError> {
        let base = self.rows[row / HOUR * HOUR - 1].clone();
        let model = match (self.model.clone(), self.known) {
            (Some(model), Known::BaseRow) => Some(model.with_base(base)?),
            (model, _) => model,
        };
        Ok(PackSchema {
            hash: 0xC0DE_2026,
            kinds: self.kinds.clone(),
            model,
        })
    }

    fn message(&self, rows: Range<usize>) -> PackMessage {
        let time = |row: usize| 1_800_000_000_250 + 10_000 * i64::try_from(row).unwrap();
        let column = |place: usize| {
            let numbers = self.rows[rows.clone()].iter().map(|row| Some(row[place]));
            PackColumn {
                place,
                cells: PackCells::Numbers(numbers.collect()),
            }
        };
        let readings = rows.len() * self.kinds.len();
        let frame = PackFrame {
            times: rows.clone().map(time).collect(),
            clock_set: true,
            columns: (0..self.kinds.len()).map(column).collect(),
            not_good: Vec::new(),
            numbers: vec![NumberRun {
                first: 100_000,
                count: u64::try_from(readings).unwrap(),
            }],
        };
        PackMessage {
            series: 7,
            frames: vec![frame],
        }
    }
}

fn kind(column: &PlantColumn) -> ColumnKind {
    match column.kind {
        RegisterKind::Scaled => ColumnKind::Scaled,
        RegisterKind::Counter => ColumnKind::Counter,
        RegisterKind::Float => ColumnKind::F32,
        RegisterKind::Status => ColumnKind::Status,
    }
}

#[allow(clippy::cast_possible_truncation)]
fn number(column: &PlantColumn, row: usize) -> i64 {
    match column.kind {
        RegisterKind::Float => order_of_f32(column.raw[row] as f32),
        _ => column.raw[row] as i64,
    }
}
