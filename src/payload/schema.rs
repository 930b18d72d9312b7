//! The schema of packed frames: which points their columns are of, and how their numbers count.
//! Pure.
//!
//! ```json
//! {"version":1,"hash":"1f6a90c3","base":"s7/pump/","names":["flow","total"],"types":["decimal","uint"],
//!   "decimals":[1,0],"kinds":["scaled","counter"],"units":["m3/h",null],"model":"AAEC..."}
//! ```
//!
//! A column has values of one type: a point whose values are of several types has a column of each.
//! `types` are bool, int, uint, decimal (integers that count in units of the last of the `decimals`
//! after the point), f32, f64, text, list (JSON in text), and none of a point without any value so
//! far. `model`, in Base64, is what the adaptive coder knows.
//!
//! Invariants:
//! * A schema that has grown for readings has a place for each of them, while there is room.
//! * Schemas of another content have another hash.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};

use super::decimal::{self, MOST_DIGITS};
use super::pack::{AdaptiveModel, ColumnKind, PackFrame, PackSchema};
use super::{NamedReading, json, names};
use crate::mqtt::TopicName;
use crate::reading::Value;

/// Most columns.
const MOST_COLUMNS: usize = 20_000;
/// Times that a schema looks at readings to grow for all of them: columns get digits, at most nine
/// times, and then columns of other types.
const MOST_TURNS: usize = 16;
const VERSION: u32 = 1;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ColumnType {
    Bool,
    Int,
    UInt,
    Decimal,
    F32,
    F64,
    Text,
    List,
    /// There was no value so far.
    None,
}

/// The values of a point that are of one type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SchemaColumn {
    pub(super) topic: TopicName,
    pub(super) unit: Option<Arc<str>>,
    pub(super) of: ColumnType,
    /// Digits after the point; 0 but for decimals.
    pub(super) decimals: u8,
}

impl SchemaColumn {
    /// True if it has a place for a value.
    fn takes(&self, value: Option<&Value>) -> bool {
        match value {
            None => true,
            Some(Value::F64(float)) if self.of == ColumnType::Decimal => {
                decimal::units(*float, self.decimals).is_some()
            }
            Some(value) => self.of == plain_type(value),
        }
    }
}

impl SchemaColumn {
    /// True if the unit of its point is another one now.
    fn take_unit(&mut self, named: &NamedReading<'_>) -> bool {
        let is_other = self.unit != named.names.unit;
        self.unit.clone_from(&named.names.unit);
        is_other
    }
}

/// The type of a value that is no decimal.
fn plain_type(value: &Value) -> ColumnType {
    match value {
        Value::Bool(_) => ColumnType::Bool,
        Value::Int(_) => ColumnType::Int,
        Value::UInt(_) => ColumnType::UInt,
        Value::F32(_) => ColumnType::F32,
        Value::F64(_) => ColumnType::F64,
        Value::Text(_) => ColumnType::Text,
        Value::List(_) => ColumnType::List,
    }
}

/// The type of a column for a value that needs so few digits, if it is a decimal.
fn type_for(value: Option<&Value>, digits: Option<u8>) -> ColumnType {
    match (value, digits) {
        (None, _) => ColumnType::None,
        (Some(_), Some(_)) => ColumnType::Decimal,
        (Some(value), None) => plain_type(value),
    }
}

/// The least digits after the point that a value needs; `None` if it is no decimal.
fn digits_of(value: &Value) -> Option<u8> {
    let Value::F64(float) = value else {
        return None;
    };
    (0..=MOST_DIGITS).find(|digits| decimal::units(*float, *digits).is_some())
}

/// Why a document is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no schema of packed frames: {0}")]
pub struct SchemaError(String);

/// The columns of packed frames.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameSchema {
    pub(super) columns: Vec<SchemaColumn>,
    /// The columns of each point.
    places: HashMap<TopicName, Vec<usize>>,
    /// What frames know of it.
    pub(super) codes: PackSchema,
}

/// The document.
#[derive(Serialize, Deserialize)]
struct SchemaJson<'a> {
    version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hash: String,
    #[serde(borrow)]
    base: Cow<'a, str>,
    names: Vec<String>,
    types: Vec<ColumnType>,
    decimals: Vec<u8>,
    kinds: Vec<ColumnKind>,
    units: Vec<Option<Arc<str>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

impl Default for FrameSchema {
    fn default() -> Self {
        Self {
            columns: Vec::new(),
            places: HashMap::new(),
            codes: PackSchema {
                hash: 0,
                kinds: Vec::new(),
                model: None,
            },
        }
    }
}

impl FrameSchema {
    /// Its name in messages, as their topics write it.
    pub fn hash(&self) -> String {
        format!("{:08x}", self.codes.hash)
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// True if it has a model of its columns.
    pub fn has_model(&self) -> bool {
        self.codes.model.is_some()
    }

    /// The column with a place for a value of a point.
    pub(super) fn place(&self, topic: &TopicName, value: Option<&Value>) -> Option<usize> {
        let mut places = self.places.get(topic)?.iter().copied();
        places.find(|place| {
            let column = self.columns.get(*place);
            column.is_some_and(|column| column.takes(value))
        })
    }

    /// The schema that has a place for readings, too; `None` if this one has. Readings for which
    /// there is no room are left out.
    pub fn grown(&self, readings: &[NamedReading<'_>]) -> Option<Self> {
        if self.takes_all(readings) {
            return None;
        }
        let mut grown = self.clone();
        for _ in 0..MOST_TURNS {
            // More digits for one value may be too many for another.
            let taken = readings.iter().filter(|named| grown.take(named)).count();
            if taken == 0 {
                break;
            }
        }
        (grown.columns != self.columns).then(|| grown.named())
    }

    /// True if it has a place for each reading.
    pub fn takes_all(&self, readings: &[NamedReading<'_>]) -> bool {
        let has_place = |named: &NamedReading<'_>| {
            let value = named.reading.value.as_ref();
            let column = self.place(&named.names.topic, value);
            let column = column.and_then(|place| self.columns.get(place));
            column.is_some_and(|column| column.unit == named.names.unit)
        };
        readings.iter().all(has_place)
    }

    /// The same columns; nothing is known of their numbers. `None` if it is this one.
    pub fn without_model(&self) -> Option<Self> {
        self.codes.model.as_ref()?;
        let mut plain = self.clone();
        plain.codes.model = None;
        Some(plain.named())
    }

    /// Makes a place for a reading. False if it has one, or if there is no room.
    fn take(&mut self, named: &NamedReading<'_>) -> bool {
        let (topic, value) = (&named.names.topic, named.reading.value.as_ref());
        if let Some(place) = self.place(topic, value) {
            let column = self.columns.get_mut(place);
            return column.is_some_and(|column| column.take_unit(named));
        }
        let digits = value.and_then(digits_of);
        let of = type_for(value, digits);
        let own = self.places.get(topic).into_iter().flatten().copied();
        let is_of = |place: &usize, of: ColumnType| {
            self.columns
                .get(*place)
                .is_some_and(|column| column.of == of)
        };
        let mut own: Vec<usize> = own.collect();
        own.retain(|place| is_of(place, of) || is_of(place, ColumnType::None));
        let decimals = digits.unwrap_or(0);
        match own.first() {
            Some(place) if is_of(place, ColumnType::None) => {
                self.replace(*place, of, decimals);
                true
            }
            // The number is too large for the digits of the others.
            Some(place) if self.digits(*place) >= decimals => self.push(named, ColumnType::F64, 0),
            Some(place) => {
                self.add_digits(*place, decimals);
                true
            }
            None => self.push(named, of, decimals),
        }
    }

    fn digits(&self, place: usize) -> u8 {
        self.columns.get(place).map_or(0, |column| column.decimals)
    }

    fn replace(&mut self, place: usize, of: ColumnType, decimals: u8) {
        if let Some(column) = self.columns.get_mut(place) {
            (column.of, column.decimals) = (of, decimals);
        }
        if let Some(kind) = self.codes.kinds.get_mut(place) {
            *kind = kind_of(of);
        }
    }

    fn add_digits(&mut self, place: usize, decimals: u8) {
        let more = decimals - self.digits(place).min(decimals);
        if let Some(column) = self.columns.get_mut(place) {
            column.decimals = decimals;
        }
        let model = self.codes.model.take();
        self.codes.model = model.map(|model| model.with_more_digits(place, more));
    }

    fn push(&mut self, named: &NamedReading<'_>, of: ColumnType, decimals: u8) -> bool {
        let place = self.columns.len();
        if place >= MOST_COLUMNS {
            return false;
        }
        let topic = named.names.topic.detached();
        self.places.entry(topic.clone()).or_default().push(place);
        self.columns.push(SchemaColumn {
            topic,
            unit: named.names.unit.clone(),
            of,
            decimals,
        });
        self.codes.kinds.push(kind_of(of));
        let model = self.codes.model.take();
        self.codes.model = model.map(|model| model.with_columns(place + 1));
        true
    }

    /// The same columns, and what frames say about their numbers that came one after the other:
    /// kinds, and a model for the adaptive coder.
    #[must_use]
    pub fn learned(mut self, frames: &[PackFrame]) -> Self {
        for (place, column) in self.columns.iter().enumerate() {
            if let Some(kind) = self.codes.kinds.get_mut(place) {
                *kind = super::pack::kind_seen(kind_of(column.of), place, frames);
            }
        }
        self.codes.model = Some(AdaptiveModel::learn(&self.codes.kinds, frames));
        self.named()
    }

    /// With the hash of its content.
    fn named(mut self) -> Self {
        let content = self.document(String::new());
        self.codes.hash = crc32c::crc32c(content.as_bytes());
        self
    }

    /// The document for receivers, in JSON.
    pub fn to_json(&self) -> String {
        self.document(self.hash())
    }

    fn document(&self, hash: String) -> String {
        let topics = self.columns.iter().map(|column| column.topic.as_str());
        let base = names::common_levels(topics.clone());
        let name = |topic: &str| topic.strip_prefix(base).unwrap_or(topic).to_owned();
        let model = self.codes.model.as_ref();
        json::text(&SchemaJson {
            version: VERSION,
            hash,
            base: base.into(),
            names: topics.map(name).collect(),
            types: self.columns.iter().map(|column| column.of).collect(),
            decimals: self.columns.iter().map(|column| column.decimals).collect(),
            kinds: self.codes.kinds.clone(),
            units: self
                .columns
                .iter()
                .map(|column| column.unit.clone())
                .collect(),
            model: model.map(|model| BASE64_STANDARD.encode(model.to_bytes())),
        })
    }

    /// The schema of a document.
    pub fn from_json(document: &[u8]) -> Result<Self, SchemaError> {
        let fault = |what: &str| SchemaError(what.to_owned());
        let json: SchemaJson<'_> =
            serde_json::from_slice(document).map_err(|error| SchemaError(error.to_string()))?;
        if json.version != VERSION {
            return Err(fault("its version is not known; install a newer wellhead"));
        }
        let count = json.names.len();
        let lengths = [
            json.types.len(),
            json.decimals.len(),
            json.kinds.len(),
            json.units.len(),
        ];
        if count > MOST_COLUMNS || lengths.iter().any(|length| *length != count) {
            return Err(fault("its lists have different lengths, or are too long"));
        }
        let hash = u32::from_str_radix(&json.hash, 16).map_err(|_| fault("no hash"))?;
        let mut schema = Self::default();
        for place in 0..count {
            let column = json.column(place)?;
            let own = schema.places.entry(column.topic.clone()).or_default();
            own.push(place);
            schema.columns.push(column);
        }
        let model = json.model(count).transpose()?;
        schema.codes = PackSchema {
            hash,
            kinds: json.kinds,
            model,
        };
        Ok(schema)
    }
}

impl SchemaJson<'_> {
    fn column(&self, place: usize) -> Result<SchemaColumn, SchemaError> {
        let name = self.names.get(place).map_or("", String::as_str);
        let topic = TopicName::new(format!("{}{name}", self.base));
        let decimals = self.decimals.get(place).copied().unwrap_or(0);
        if decimals > MOST_DIGITS {
            let what = "more digits after the point than a number has";
            return Err(SchemaError(what.to_owned()));
        }
        Ok(SchemaColumn {
            topic: topic.map_err(|error| SchemaError(error.to_string()))?,
            unit: self.units.get(place).cloned().flatten(),
            of: self.types.get(place).copied().unwrap_or(ColumnType::None),
            decimals,
        })
    }

    fn model(&self, columns: usize) -> Option<Result<AdaptiveModel, SchemaError>> {
        let bytes = BASE64_STANDARD.decode(self.model.as_ref()?);
        let model = bytes.map_err(|error| error.to_string()).and_then(|bytes| {
            AdaptiveModel::from_bytes(&bytes, columns).map_err(|error| error.to_string())
        });
        Some(model.map_err(SchemaError))
    }
}

/// The kind of a column whose numbers are not known yet.
fn kind_of(of: ColumnType) -> ColumnKind {
    match of {
        ColumnType::Bool | ColumnType::None => ColumnKind::Status,
        ColumnType::Int | ColumnType::UInt | ColumnType::Decimal => ColumnKind::Scaled,
        ColumnType::F32 => ColumnKind::F32,
        ColumnType::F64 => ColumnKind::F64,
        ColumnType::Text | ColumnType::List => ColumnKind::Text,
    }
}
