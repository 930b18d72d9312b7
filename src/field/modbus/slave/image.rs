//! The registers of simulated units: signals, until a master writes.
//!
//! Registers that no point covers do not exist: exception 2, as in a real device. Inside of what
//! one request must bring (a group, a value with its power of ten, a SunSpec model) the others
//! exist, too, and show that nothing is there; they cannot be written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::unit::SimulatedUnit;
use crate::field::Device;
use crate::field::modbus::manners::Pause;
use crate::time::now;

/// The registers of some units, as their signals or the last writes set them. Clones share them.
#[derive(Debug, Clone)]
pub struct Image {
    units: Arc<Mutex<HashMap<u8, SimulatedUnit>>>,
    started: Instant,
}

impl Image {
    /// The points of `devices` that have registers.
    pub fn new(devices: &[Arc<Device>]) -> Self {
        let mut units: HashMap<u8, SimulatedUnit> = HashMap::new();
        for device in devices {
            units.entry(device.unit).or_default().add(device);
        }
        units.values_mut().for_each(SimulatedUnit::complete);
        Self {
            units: Arc::new(Mutex::new(units)),
            started: now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u8, SimulatedUnit>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if there is such a device.
    pub fn has(&self, unit: u8) -> bool {
        self.lock().contains_key(&unit)
    }

    /// The silence that a unit needs before a request; one that comes sooner is lost.
    pub(super) fn pause(&self, unit: u8) -> Pause {
        self.lock()
            .get(&unit)
            .map(SimulatedUnit::pause)
            .unwrap_or_default()
    }

    /// The answer to a request (function code and data); `None` if there is none: the unit does not
    /// exist, or all units are meant.
    pub fn answer(&self, unit: u8, request: &[u8]) -> Option<Vec<u8>> {
        let mut units = self.lock();
        let elapsed = now().saturating_duration_since(self.started);
        if unit == 0 && !units.contains_key(&0) {
            for unit in units.values_mut() {
                let _ = unit.answer(request, elapsed);
            }
            return None;
        }
        let function = *request.first()?;
        let answer = units.get_mut(&unit)?.answer(request, elapsed);
        Some(answer.unwrap_or_else(|code| vec![function | 0x80, code]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::{DataType, Register, Table};
    use crate::field::modbus::slave::request::{ILLEGAL_ADDRESS, ILLEGAL_VALUE};
    use crate::field::signal::{Signal, Waveform};
    use crate::field::write::Rules;
    use crate::field::{Point, PointSource};
    use crate::reading::DeviceId;
    use std::time::Duration;

    fn point(name: &str, register: Register, group: Option<&str>, value: f64) -> Point {
        let signal = Signal {
            shape: Waveform::Constant,
            from: value,
            ..Signal::default()
        };
        let source = PointSource::Register {
            register: Arc::new(register),
            exponent: None,
        };
        Point {
            source,
            group: group.map(Arc::from),
            ..Point::simulated(name, signal)
        }
    }

    fn image(points: Vec<Point>, change: impl FnOnce(&mut Device)) -> Image {
        let mut device = Device::new(DeviceId(0), "d", 1);
        device.points = points;
        change(&mut device);
        Image::new(&[Arc::new(device)])
    }

    fn holding(address: u16, kind: DataType) -> Register {
        Register::new(Table::Holding, address, kind)
    }

    #[track_caller]
    fn check(image: &Image, request: &[u8], answer: &[u8]) {
        assert_eq!(image.answer(1, request).unwrap(), answer, "{request:?}");
    }

    #[test]
    fn holes_inside_of_a_group_are_there_and_others_are_not() {
        let points = vec![
            point("a", holding(0, DataType::U16), Some("g"), 7.0),
            point("b", holding(2, DataType::U32), Some("g"), 8.0),
            point("c", holding(5, DataType::U16), Some("g"), 9.0),
            point("d", holding(8, DataType::U16), None, 10.0),
        ];
        let image = image(points, |_| {});
        check(
            &image,
            &[3, 0, 0, 0, 6],
            &[3, 12, 0, 7, 0x80, 0, 0, 0, 0, 8, 0, 0, 0, 9],
        );
        check(&image, &[3, 0, 8, 0, 1], &[3, 2, 0, 10]);
        for outside in [[3, 0, 6, 0, 1], [3, 0, 5, 0, 4], [4, 0, 0, 0, 1]] {
            check(&image, &outside, &[outside[0] | 0x80, ILLEGAL_ADDRESS]);
        }
        // What is not there cannot be written, and nothing beside it is.
        check(
            &image,
            &[16, 0, 0, 0, 2, 4, 0, 1, 0, 1],
            &[0x90, ILLEGAL_ADDRESS],
        );
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 7]);
    }

    #[test]
    fn a_value_and_its_power_of_ten_fit_also_when_one_is_written() {
        let mut power = point("power", holding(0, DataType::I16), None, 3450.0);
        power.source = PointSource::Register {
            register: Arc::new(holding(0, DataType::I16)),
            exponent: Some(Arc::new(holding(3, DataType::I16))),
        };
        let alone = image(vec![power.clone()], |_| {});
        check(
            &alone,
            &[3, 0, 0, 0, 4],
            &[3, 8, 0x0D, 0x7A, 0x80, 0, 0x80, 0, 0, 0],
        );
        let image = image(
            vec![power, point("sf", holding(3, DataType::I16), None, 1.0)],
            |_| {},
        );
        check(
            &image,
            &[3, 0, 0, 0, 4],
            &[3, 8, 1, 0x59, 0x80, 0, 0x80, 0, 0, 1],
        );
        check(&image, &[6, 0, 3, 0, 0], &[6, 0, 3, 0, 0]);
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0x0D, 0x7A]);
    }

    #[test]
    fn parts_of_a_register_share_it() {
        let points = vec![
            point("low", holding(0, DataType::U8L), None, 5.0),
            point("high", holding(0, DataType::U8H), None, 6.0),
        ];
        check(&image(points, |_| {}), &[3, 0, 0, 0, 1], &[3, 2, 6, 5]);
    }

    #[test]
    fn what_may_not_be_written_and_what_is_too_much_is_refused() {
        let rules = Rules {
            min: Some(0.0),
            max: Some(50.0),
            step: None,
            at_most_every: None,
            good_for: Duration::from_secs(1),
            read_back: None,
            repeat: true,
            method: crate::field::write::WriteMethod::Registers(
                crate::field::write::RegisterRules::default(),
            ),
        };
        let setpoint = Point {
            write: Some(Box::new(rules)),
            ..point("setpoint", holding(0, DataType::U16), None, 20.0)
        };
        let image = image(
            vec![
                setpoint,
                point("other", holding(1, DataType::U16), None, 1.0),
            ],
            |device| device.limits.words = 1,
        );
        check(&image, &[6, 0, 0, 0, 51], &[0x86, ILLEGAL_VALUE]);
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 20]);
        check(&image, &[6, 0, 0, 0, 50], &[6, 0, 0, 0, 50]);
        check(&image, &[3, 0, 0, 0, 2], &[0x83, ILLEGAL_VALUE]);
        // One that is refused as a whole writes nothing: there is no register 9 to read.
        check(
            &image,
            &[23, 0, 9, 0, 1, 0, 0, 0, 1, 2, 0, 7],
            &[0x97, ILLEGAL_ADDRESS],
        );
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 50]);
        check(
            &image,
            &[23, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 7],
            &[23, 2, 0, 7],
        );
        // All are meant by unit 0, and none answers.
        assert_eq!(image.answer(0, &[6, 0, 0, 0, 9]), None);
        check(&image, &[3, 0, 0, 0, 1], &[3, 2, 0, 9]);
    }

    #[test]
    fn an_identification_is_given_whole_or_one_by_one() {
        let image = image(
            vec![point("a", holding(0, DataType::U16), None, 1.0)],
            |_| {},
        );
        let version = env!("CARGO_PKG_VERSION").as_bytes();
        let third = [&[2, u8::try_from(version.len()).unwrap()][..], version].concat();
        let all = [
            &[43, 14, 1, 0x81, 0, 0, 3, 0, 8][..],
            b"wellhead",
            &[1, 1],
            b"d",
            &third,
        ]
        .concat();
        check(&image, &[43, 14, 1, 0], &all);
        check(
            &image,
            &[43, 14, 4, 1],
            &[43, 14, 4, 0x81, 0, 0, 1, 1, 1, b'd'],
        );
        check(&image, &[43, 14, 4, 9], &[0xAB, ILLEGAL_ADDRESS]);
    }

    #[test]
    fn a_counter_that_is_full_starts_again_from_zero() {
        let mut counter = point("count", holding(0, DataType::U16), None, 0.0);
        counter.signal = Signal {
            shape: Waveform::Counter,
            from: 65_540.0,
            ..Signal::default()
        };
        check(
            &image(vec![counter], |_| {}),
            &[3, 0, 0, 0, 1],
            &[3, 2, 0, 4],
        );
    }
}
