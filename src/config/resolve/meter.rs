//! Meters: their addresses, and which of their values are points.

use std::time::Duration;

use super::context::{DeviceContext, PointCheck};
use super::unused::ValueShape;
use super::{Check, at};
use crate::config::{file, suggestion};
use crate::field::mbus::Qualifier;
use crate::field::mbus::spec::{
    LARGEST_ADDRESS, MeterAddress, MeterSpec, RecordSelector, SecondaryAddress, manufacturer,
};
use crate::field::mbus::vif::Kind;
use crate::field::meter_units::{Dimension, MeterUnit, Plausibility};
use crate::field::sml::list::Obis;
use crate::field::sml::spec::{ObisSelector, SmlSpec};
use crate::field::{DeviceProtocol, Line, PointSource, Wire};

const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

/// The unit that a value of a meter has if the YAML does not name one.
pub(super) fn meter_unit(source: &PointSource) -> Option<&'static str> {
    let unit = match source {
        PointSource::Record(selector) => selector.unit,
        PointSource::Obis(selector) => selector.unit,
        _ => None,
    };
    unit.map(|unit| unit.name)
}

impl DeviceContext<'_> {
    /// What a meter speaks; `None` if it speaks two protocols. Notes a line of another kind.
    pub(super) fn meter(&self, check: &mut Check<'_>, line: &Line) -> Option<DeviceProtocol> {
        let path = at!["devices", self.index, "mbus"];
        if self.is_text || (self.device.mbus.is_some() && self.device.sml.is_some()) {
            check.fault(
                &at!["devices", self.index],
                "a device speaks one protocol; keep one of mbus, sml, each_line and text",
            );
            return None;
        }
        if self.device.unit.is_some() {
            check.fault(
                &at!["devices", self.index, "unit"],
                "a meter has no Modbus address; remove it, or write `mbus: { address: 1 }`",
            );
        }
        let protocol = match (&self.device.mbus, self.device.sml) {
            (Some(mbus), _) => {
                let address = address(mbus).unwrap_or_else(|why| {
                    check.fault(&path, why);
                    MeterAddress::Primary(0)
                });
                DeviceProtocol::Mbus(MeterSpec {
                    address,
                    reset: mbus.reset,
                    ignore_status: mbus.ignore_status,
                })
            }
            (None, sml) => {
                let silent_after = sml.and_then(|sml| sml.silent_after);
                check.not_zero(
                    &at!["devices", self.index, "sml"],
                    silent_after,
                    "with 0s the meter would always count as silent; write a longer duration, such as 30s",
                );
                DeviceProtocol::Sml(SmlSpec {
                    silent_after: silent_after.map_or(DEFAULT_SILENCE, |span| span.0),
                })
            }
        };
        self.check_line_of_meters(check, line, &protocol);
        Some(protocol)
    }

    fn check_line_of_meters(&self, check: &mut Check<'_>, line: &Line, protocol: &DeviceProtocol) {
        if self.simulated {
            return;
        }
        let (here, name) = (at!["devices", self.index, "line"], &line.name);
        if !matches!(line.wire, Wire::Serial(_) | Wire::Tcp(_)) {
            check.fault(
                &here,
                format!("line {name} speaks Modbus; a meter needs `serial:` or `tcp:`"),
            );
        }
        let is_other = |other: &DeviceProtocol| {
            std::mem::discriminant(other) != std::mem::discriminant(protocol)
        };
        let mut others = line.devices.iter();
        if let Some(other) = others.find(|other| is_other(&other.protocol)) {
            let others = other.protocol.name();
            check.fault(
                &here,
                format!("line {name} has {others}; put meters on a line of their own"),
            );
        } else if protocol.sml().is_some() && !line.devices.is_empty() {
            check.fault(
                &here,
                format!(
                    "line {name} has a meter already; each optical head needs a line of its own"
                ),
            );
        }
        if let (Wire::Serial(port), DeviceProtocol::Mbus(_)) = (&line.wire, protocol)
            && !port.speed.to_string().ends_with("8E1")
        {
            let baud = if self.line.speed.is_some() {
                port.speed.baud
            } else {
                2400
            };
            check.fault(
                &at!["lines", self.line_index, "speed"],
                format!("an M-Bus has 8 data bits, even parity and 1 stop bit; write `speed: {baud} 8E1`"),
            );
        }
    }
}

/// The address of a meter; the error names the remedy.
fn address(typed: &file::MbusConfig) -> Result<MeterAddress, String> {
    let has_more =
        typed.manufacturer.is_some() || typed.version.is_some() || typed.medium.is_some();
    match (typed.address, &typed.identification) {
        (Some(_), Some(_)) => {
            Err("keep one of `address` (primary) and `identification` (secondary)".to_owned())
        }
        (Some(_), None) if has_more => Err(
            "manufacturer, version and medium belong to a secondary address; write `identification` instead of `address`, or remove them"
                .to_owned(),
        ),
        (Some(address), None) if address <= LARGEST_ADDRESS => Ok(MeterAddress::Primary(address)),
        (Some(_), None) => Err("a primary address is a number from 0 to 250".to_owned()),
        (None, None) => Err(
            "say how the meter is addressed: `address: 1` (primary), or `identification: '12345678'` (secondary)"
                .to_owned(),
        ),
        (None, Some(digits)) => {
            let address = SecondaryAddress::of_digits(digits).ok_or_else(|| {
                format!("`{digits}` is no identification; write eight digits, F for any, such as '12345678' or '1234FFFF'")
            })?;
            let [a, b, c, d, ..] = address.0;
            let maker = match &typed.manufacturer {
                None => 0xFFFF,
                Some(letters) => manufacturer(letters).ok_or_else(|| {
                    format!("`{letters}` is no manufacturer; write its three capital letters, such as KAM")
                })?,
            };
            let [low, high] = maker.to_le_bytes();
            let (version, medium) = (typed.version.unwrap_or(0xFF), typed.medium.unwrap_or(0xFF));
            let bytes = [a, b, c, d, low, high, version, medium];
            Ok(MeterAddress::Secondary(SecondaryAddress(bytes)))
        }
    }
}

impl PointCheck<'_, '_> {
    /// The key that only values of meters have, if one is typed.
    pub(super) fn meter_key(&self) -> Option<&'static str> {
        let is_typed = [
            (self.spec.mbus.is_some(), "mbus"),
            (self.spec.obis.is_some(), "obis"),
        ];
        is_typed
            .into_iter()
            .find_map(|(is_typed, key)| is_typed.then_some(key))
    }

    /// The value of a meter; `None` if it is faulty.
    pub(super) fn of_meter(&mut self) -> Option<PointSource> {
        let spec = self.spec;
        self.check_used(ValueShape::Metered);
        let is_mbus = self.context.device.mbus.is_some();
        let source = match (&spec.mbus, &spec.obis) {
            (Some(record), None) if is_mbus => self.record(record),
            (None, Some(obis)) if !is_mbus => self.obis(obis),
            (None, None) if is_mbus => {
                let why = "say which value of the meter it is, such as `mbus: { kind: energy }`";
                self.missing("mbus", why.to_owned());
                None
            }
            (None, None) => {
                let why = "say which value of the meter it is, such as `obis: 1-0:1.8.0*255`";
                self.missing("obis", why.to_owned());
                None
            }
            (Some(_), _) if !is_mbus => {
                self.fault("mbus", "this meter sends SML; write `obis:` instead");
                None
            }
            _ => {
                self.fault(
                    "obis",
                    "meters on an M-Bus have no OBIS codes; write `mbus:` instead",
                );
                None
            }
        };
        if self.context.simulated {
            return source.map(|_| PointSource::Simulated);
        }
        source
    }

    fn record(&mut self, typed: &file::RecordConfig) -> Option<PointSource> {
        let kind = match &typed.kind {
            None => None,
            Some(name) => Some(self.record_kind(name)?),
        };
        if kind.is_none() && typed.index.is_none() {
            self.fault(
                "mbus",
                "say what the record is, such as `kind: energy`, or its place: `index: 0`",
            );
            return None;
        }
        let qualifier = match &typed.qualifier {
            None => None,
            Some(name) => match Qualifier::named(name) {
                Some(qualifier) => Some(qualifier),
                None => {
                    let hint = suggestion(name, Qualifier::names());
                    self.fault(
                        "mbus",
                        format!("there is no qualifier `{name}`; {hint} (or write its code, such as 0x4a)"),
                    );
                    return None;
                }
            },
        };
        let dimension = match kind {
            Some(kind) => kind.dimension(),
            None => self.typed_unit().map(|unit| unit.dimension),
        };
        let unit = self.unit_of(dimension)?;
        Some(PointSource::Record(Box::new(RecordSelector {
            kind,
            occasion: typed.function,
            storage: typed.storage,
            tariff: typed.tariff,
            subunit: typed.subunit,
            qualifier,
            index: typed.index.map(usize::from),
            unit,
            plausibility: self.plausibility(),
        })))
    }

    fn record_kind(&mut self, name: &str) -> Option<Kind> {
        let kind = Kind::named(name);
        if kind.is_none() {
            let mut known: Vec<&str> = Kind::all().map(Kind::name).collect();
            known.sort_unstable();
            known.dedup();
            let hint = suggestion(name, known);
            self.fault("mbus", format!("no meter has a record `{name}`; {hint}"));
        }
        kind
    }

    fn obis(&mut self, typed: &str) -> Option<PointSource> {
        let obis: Obis = match typed.parse() {
            Ok(obis) => obis,
            Err(why) => {
                self.fault("obis", why);
                return None;
            }
        };
        let usual = obis.usual_unit();
        let unit = match usual {
            Some(usual) => self.unit_of(Some(usual.dimension))?.map(|unit| {
                if self.spec.unit.is_some() {
                    unit
                } else {
                    usual
                }
            }),
            None => self.typed_unit(),
        };
        Some(PointSource::Obis(Box::new(ObisSelector {
            obis,
            unit,
            plausibility: self.plausibility(),
        })))
    }

    fn plausibility(&self) -> Plausibility {
        Plausibility {
            min: self.spec.min,
            max: self.spec.max,
            decimals: self.spec.decimals,
        }
    }

    fn typed_unit(&self) -> Option<MeterUnit> {
        self.spec.unit.as_deref().and_then(MeterUnit::named)
    }

    /// The unit into which values of a dimension are converted: that of the YAML, or the usual one.
    /// `None` for one that measures something else.
    #[allow(clippy::option_option)]
    fn unit_of(&mut self, dimension: Option<Dimension>) -> Option<Option<MeterUnit>> {
        let Some(usual) = dimension.and_then(MeterUnit::of) else {
            return Some(None);
        };
        let Some(typed) = &self.spec.unit else {
            return Some(Some(usual));
        };
        match MeterUnit::named(typed).filter(|unit| unit.dimension == usual.dimension) {
            Some(unit) => Some(Some(unit)),
            None => {
                let known = usual.others().join(", ");
                self.fault(
                    "unit",
                    format!("values of this meter cannot be converted into `{typed}`; write one of {known}"),
                );
                None
            }
        }
    }
}
