//! The numbers of a frame, as coders take them.

use super::ColumnKind;

/// Rows and columns of numbers.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) rows: usize,
    /// True if cells may be empty.
    pub(super) has_gaps: bool,
    /// Milliseconds since the first row; `None` if rows are equally far apart.
    pub(super) times: Option<Vec<i64>>,
    pub(super) columns: Vec<BodyColumn>,
}

/// A column of numbers; while a frame is read it is empty at first.
#[derive(Debug)]
pub(super) struct BodyColumn {
    /// In the schema.
    pub(super) place: usize,
    /// Of the coders: a text is a status.
    pub(super) kind: ColumnKind,
    pub(super) numbers: Vec<Option<i64>>,
}

/// The kind of a column of a schema, as coders take it.
pub(super) fn body_kind(kinds: &[ColumnKind], place: usize) -> ColumnKind {
    match kinds.get(place) {
        Some(ColumnKind::Text) | None => ColumnKind::Status,
        Some(kind) => *kind,
    }
}
