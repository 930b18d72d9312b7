//! Records in words, for people: the log, `wellhead scan` and messages. Pure.

use std::fmt;

use super::data::RawValue;
use super::qualifier::replaces_unit;
use super::record::MeterRecord;

/// `kind qualifiers occasion storage tariff subunit = value unit`, for messages.
impl fmt::Display for MeterRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(unit) = &self.text_unit {
            write!(f, " ({unit})")?;
        }
        for which in self
            .qualifiers
            .iter()
            .filter(|which| which.fault().is_none())
        {
            write!(f, " {which}")?;
        }
        let (occasion, storage) = (self.occasion.name(), self.storage);
        write!(
            f,
            " {occasion} {storage} {} {} =",
            self.tariff, self.subunit
        )?;
        match &self.value {
            RawValue::Nothing => f.write_str(" -"),
            RawValue::Text(text) => write!(f, " {text}"),
            RawValue::Invalid(why) => write!(f, " ! {why}"),
            RawValue::Number(number) => {
                write!(f, " {}", number.value())?;
                let unit = self.unit.filter(|_| !replaces_unit(&self.qualifiers));
                unit.map_or(Ok(()), |unit| write!(f, " {}", unit.name))
            }
        }
    }
}
