//! The plant in packed frames.

use std::ops::Range;

use wellhead::payload::pack::{
    AdaptiveModel, ColumnKind, NumberRun, PackCells, PackColumn, PackError, PackFrame, PackMessage,
    PackSchema, order_of_f32,
};

use super::plant::{PlantColumn, RegisterKind};

/// Scans of the frames from which the coder learns.
const LEARNED_FRAME: usize = 20;

/// What the receiver of frames knows before they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The schema; frames have Rice codes.
    Schema,
    /// The same; the adaptive coder begins each frame anew.
    Nothing,
    /// What the coder learned in the first hours of the plant.
    Learned,
}

impl Known {
    pub(crate) const ALL: [Self; 3] = [Self::Schema, Self::Nothing, Self::Learned];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Schema => "pack, Rice",
            Self::Nothing => "pack, adaptive",
            Self::Learned => "pack, learned",
        }
    }
}

/// The numbers of the plant, and what is known of them.
pub(crate) struct PackedPlant {
    rows: Vec<Vec<i64>>,
    schema: PackSchema,
}

impl PackedPlant {
    /// Rows up to `learned` are those from which a coder may learn.
    pub(crate) fn new(columns: &[PlantColumn], known: Known, learned: usize) -> Self {
        let kinds: Vec<ColumnKind> = columns.iter().map(kind).collect();
        let row = |row: usize| columns.iter().map(|column| number(column, row)).collect();
        let rows: Vec<Vec<i64>> = (0..columns[0].raw.len()).map(row).collect();
        let mut plant = Self {
            rows,
            schema: PackSchema {
                hash: 0xC0DE_2026,
                kinds,
                model: None,
            },
        };
        plant.schema.model = match known {
            Known::Schema => None,
            Known::Nothing => Some(AdaptiveModel::new(columns.len())),
            Known::Learned => {
                let starts = (0..learned).step_by(LEARNED_FRAME);
                let frames = starts.map(|start| plant.frame(start..start + LEARNED_FRAME));
                let frames: Vec<PackFrame> = frames.collect();
                let model = AdaptiveModel::learn(&plant.schema.kinds, &frames);
                println!("{:>18} {} bytes", "a model has", model.to_bytes().len());
                Some(model)
            }
        };
        plant
    }

    /// Bytes of a reading, in frames of so many scans.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn bytes(&self, rows: Range<usize>, scans: usize) -> Result<f64, PackError> {
        let mut total = 0;
        for start in rows.clone().step_by(scans) {
            let message = PackMessage {
                series: 7,
                frames: vec![self.frame(start..rows.end.min(start + scans))],
            };
            let bytes = message.encode(&self.schema)?;
            debug_assert_eq!(PackMessage::decode(&bytes, &self.schema)?, message);
            total += bytes.len();
        }
        Ok(total as f64 / (rows.len() * self.schema.kinds.len()) as f64)
    }

    fn frame(&self, rows: Range<usize>) -> PackFrame {
        let time = |row: usize| 1_800_000_000_250 + 10_000 * i64::try_from(row).unwrap();
        let column = |place: usize| {
            let numbers = self.rows[rows.clone()].iter().map(|row| Some(row[place]));
            PackColumn {
                place,
                cells: PackCells::Numbers(numbers.collect()),
            }
        };
        let places = self.schema.kinds.len();
        PackFrame {
            times: rows.clone().map(time).collect(),
            clock_set: true,
            columns: (0..places).map(column).collect(),
            not_good: Vec::new(),
            numbers: vec![NumberRun {
                first: 100_000,
                count: u64::try_from(rows.len() * places).unwrap(),
            }],
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
