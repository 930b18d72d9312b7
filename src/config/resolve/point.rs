//! One point: its source, and the checks of all its settings.

use std::sync::Arc;
use std::time::Duration;

use super::context::PointCheck;
use super::meter::meter_unit;
use super::register_address::RegisterAddress;
use super::registry::{PointRegistry, next_id};
use super::unused::ValueShape;
use crate::config::suggestion::MOST_COMPARED;
use crate::field::decode::{DataType, Register, Sentinel};
use crate::field::formula::Formula;
use crate::field::{Point, PointSource};
use crate::reading::PointId;

const DEFAULT_EVERY: Duration = Duration::from_secs(10);
const SHORTEST_EVERY: Duration = Duration::from_millis(1);
/// Registers from a value to the power of ten that is read with it.
const FARTHEST_EXPONENT: u16 = 120;

impl PointCheck<'_, '_> {
    /// The point, registered with how it is reported; `None` if its topic or its source is faulty.
    pub(super) fn point(&mut self, points: &mut PointRegistry) -> Option<Point> {
        let spec = self.spec;
        let topic = self.point_topic()?;
        let every = spec.every.map_or(DEFAULT_EVERY, |span| span.0);
        if every < SHORTEST_EVERY {
            self.fault("every", "write at least 1ms, such as 1s");
        }
        let class = self.class();
        let source = self.shared_source(points)?;
        let id = PointId(next_id(points.reports.len()));
        let mut report = self.report(topic, class, points);
        report.unit = report
            .unit
            .or_else(|| meter_unit(&source).map(|unit| points.named(unit)));
        points.set_by.push(self.context.set_by(self.name, spec));
        points.reports.push(report);
        self.check_spans();
        Some(Point {
            id,
            name: points.named(self.name),
            every,
            write: self.write(&source),
            source,
            signal: spec.simulate.unwrap_or_default(),
            says: None,
            stale_after: spec.stale_after.map(|span| span.0),
            group: spec.group.as_deref().map(Arc::from),
        })
    }

    /// Durations of zero that would never, or always, be over.
    fn check_spans(&mut self) {
        let spec = self.spec;
        let stale = "every value would be stale at once; write a longer duration, such as 30s, or remove it";
        self.not_zero("stale_after", spec.stale_after, stale);
        let again = "the value would be sent without end; write a longer duration, such as 5m, or remove it";
        self.not_zero("at_least_every", spec.at_least_every, again);
        let period = spec.simulate.map(|signal| signal.period);
        self.not_zero(
            "simulate",
            period,
            "a wave needs a period; write a longer one, such as `period: 1m`",
        );
        let good_for = spec.write.as_ref().and_then(|write| write.good_for);
        let expired = "every write would expire before it is sent; write a longer `good_for`, such as 10s, or remove it";
        self.not_zero("write", good_for, expired);
    }

    /// The source, shared by all devices that take the point from a profile unchanged: there may be
    /// hundreds.
    fn shared_source(&mut self, points: &mut PointRegistry) -> Option<PointSource> {
        let spec = self.spec;
        let name = self.name;
        let (context, device) = (self.context, self.context.device);
        let is_as_in_profile = !context.is_text
            && !context.is_meter
            && !context.simulated
            && device.byte_order.is_none()
            && device.removed.is_empty()
            && device.base.is_none()
            && device.points.is_empty()
            && spec.expression.is_none();
        let profile = device.profile.as_ref().filter(|_| is_as_in_profile);
        let Some(profile) = profile else {
            return self.source();
        };
        let key = (profile.clone(), name.to_owned());
        if let Some(source) = points.shared.get(&key) {
            return Some(source.clone());
        }
        let source = self.source()?;
        points.shared.insert(key, source.clone());
        Some(source)
    }

    fn source(&mut self) -> Option<PointSource> {
        let spec = self.spec;
        if let Some(text) = &spec.expression {
            self.check_used(ValueShape::Computed);
            return self
                .formula(text)
                .map(|formula| PointSource::Derived(formula.rounded(spec.decimals)));
        }
        if self.context.is_meter {
            return self.of_meter();
        }
        if self.context.is_text {
            return self.found();
        }
        if let Some(key) = self.meter_key() {
            self.fault(
                key,
                "only meters have this; add `mbus:` or `sml:` to the device, or remove it",
            );
            return None;
        }
        let is_of_messages = spec.from.is_some()
            || spec.find.is_some()
            || spec.byte.is_some()
            || spec.when.is_some()
            || spec.bad_when.is_some()
            || spec.units.is_some()
            || spec.notation.is_some();
        if is_of_messages {
            self.fault("at", "only plain instruments have from, find, byte, when, bad_when, units and notation; add `each_line:` or `text:` to the device, or say where the register is");
            return None;
        }
        let Some(place) = self.address()? else {
            self.check_used(ValueShape::Made);
            return Some(PointSource::Simulated);
        };
        self.register_source(place)
    }

    /// A register, with the register of its power of ten if it has one.
    fn register_source(&mut self, place: RegisterAddress) -> Option<PointSource> {
        let spec = self.spec;
        let register = self.register(place)?;
        self.check_used(if place.table.is_bits() {
            ValueShape::Coil
        } else {
            ValueShape::Registers(register.meaning.kind)
        });
        let exponent = match &spec.scale_from {
            None => None,
            Some(other) => Some(Arc::new(self.exponent(other)?)),
        };
        let is_far = exponent.as_ref().is_some_and(|exponent: &Arc<Register>| {
            exponent.table != register.table
                || exponent.address.abs_diff(register.address) >= FARTHEST_EXPONENT
        });
        if is_far {
            self.fault(
                "scale_from",
                "the power of ten must come with the value: name a register of the same kind, at most 120 away",
            );
            return None;
        }
        Some(PointSource::Register {
            register: Arc::new(register),
            exponent,
        })
    }

    fn formula(&mut self, text: &str) -> Option<Formula> {
        let formula = match Formula::new(text) {
            Ok(formula) => formula,
            Err(why) => {
                self.fault("expression", why);
                return None;
            }
        };
        let known = self.context.known();
        let mut is_fine = true;
        for used in formula.names() {
            match known.get(used.as_str()) {
                Some(other) if other.expression.is_none() => continue,
                Some(_) => self.fault(
                    "expression",
                    format!("{used} is an expression itself; write its parts here"),
                ),
                None => self.unknown("expression", "point", used, &self.names_to_compare()),
            }
            is_fine = false;
        }
        is_fine.then_some(formula)
    }

    /// Names of points of the device, for suggestions.
    fn names_to_compare(&self) -> Vec<String> {
        let known = self.context.known();
        known.keys().take(MOST_COMPARED).cloned().collect()
    }

    /// The register of a power of ten.
    fn exponent(&mut self, other: &str) -> Option<Register> {
        let Some(spec) = self.context.known().get(other) else {
            self.unknown("scale_from", "point", other, &self.names_to_compare());
            return None;
        };
        let place = self.with(other, spec).address()?;
        let kind = spec.kind.unwrap_or(DataType::I16);
        let is_word = matches!(kind, DataType::I16 | DataType::U16);
        let Some(place) = place.filter(|place| is_word && !place.table.is_bits()) else {
            self.fault(
                "scale_from",
                format!(
                    "{other} is not a 16-bit register; name the point that holds the power of ten"
                ),
            );
            return None;
        };
        let mut register = Register::new(place.table, place.address, kind);
        register.meaning.order = self.with(other, spec).order();
        let own = spec
            .broken_value
            .iter()
            .flat_map(|list| list.0.iter().map(|broken| broken.0.clone()));
        // "Not implemented" of SunSpec.
        register.meaning.broken = std::iter::once(Sentinel::Number(-32768.0))
            .chain(own)
            .collect();
        Some(register)
    }
}
