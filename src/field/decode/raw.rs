//! A value as held in registers or bytes, before scale and words.

use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// One bit.
    Bool(bool),
    /// A signed whole number.
    Int(i64),
    /// A whole number.
    UInt(u64),
    /// A number of single precision.
    F32(f32),
    /// A number of double precision.
    F64(f64),
    /// Text, or a time.
    Text(Arc<str>),
}

impl Raw {
    /// The number; NaN for text.
    #[allow(clippy::cast_precision_loss)]
    pub fn as_f64(&self) -> f64 {
        match self {
            Self::Bool(b) => f64::from(u8::from(*b)),
            Self::Int(i) => *i as f64,
            Self::UInt(u) => *u as f64,
            Self::F32(f) => f64::from(*f),
            Self::F64(f) => *f,
            Self::Text(_) => f64::NAN,
        }
    }

    /// True if it is from `first` to `last`, in the precision it was measured in.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn is_between(&self, first: f64, last: f64) -> bool {
        match self {
            Self::F32(f) => (first as f32..=last as f32).contains(f),
            other => (first..=last).contains(&other.as_f64()),
        }
    }

    pub(super) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Bool(b) => Some(i64::from(*b)),
            Self::Int(i) => Some(*i),
            Self::UInt(u) => i64::try_from(*u).ok(),
            Self::F32(_) | Self::F64(_) | Self::Text(_) => None,
        }
    }
}
