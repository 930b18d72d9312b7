//! How devices leave their factories: the part of a profile that `init` and `scan` suggest.

use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::diagnostics::Diagnostics;
use super::document::Document;
use super::file::{self, Profile};
use super::profiles;
use crate::field::serial::Speed;

/// The settings of a device as delivered. Where makers or sources name several, the usual one is
/// the first; empty where none is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Factory {
    /// Speeds of a serial line.
    #[serde(serialize_with = "as_texts")]
    pub speeds: Vec<Speed>,
    /// Modbus addresses.
    pub units: Vec<u8>,
    /// Addresses of a plain instrument.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// TCP ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

impl Factory {
    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.speeds.is_empty()
            && self.units.is_empty()
            && self.addresses.is_empty()
            && self.ports.is_empty()
    }
}

impl From<&file::FactoryConfig> for Factory {
    fn from(typed: &file::FactoryConfig) -> Self {
        let speeds = typed
            .speed
            .iter()
            .flat_map(|list| list.0.iter().copied())
            .collect();
        let units = typed
            .unit
            .iter()
            .flat_map(|list| list.0.iter().copied())
            .collect();
        let addresses = typed
            .address
            .iter()
            .flat_map(|list| list.0.iter().cloned())
            .collect();
        let ports = typed
            .port
            .iter()
            .flat_map(|list| list.0.iter().copied())
            .collect();
        Self {
            speeds,
            units,
            addresses,
            ports,
        }
    }
}

/// As a person reads it, such as `2400 8N1 or 9600 8N1, unit 1`.
impl fmt::Display for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speeds = (!self.speeds.is_empty()).then(|| one_of(&self.speeds));
        let units = (!self.units.is_empty()).then(|| format!("unit {}", one_of(&self.units)));
        let addresses =
            (!self.addresses.is_empty()).then(|| format!("address {}", one_of(&self.addresses)));
        let ports = (!self.ports.is_empty()).then(|| format!("TCP port {}", one_of(&self.ports)));
        let known: Vec<String> = [speeds, units, addresses, ports]
            .into_iter()
            .flatten()
            .collect();
        f.write_str(&known.join(", "))
    }
}

/// `1 or 2`.
pub(super) fn one_of(values: &[impl fmt::Display]) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" or ")
}

fn as_texts<S: Serializer>(speeds: &[Speed], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(speeds.iter().map(ToString::to_string))
}

/// How the device of a profile is delivered; empty where that is not known. `None` if there is no
/// profile of that name, neither in `profiles/` below `folder` nor in the program, or if it has
/// faults.
pub fn factory(folder: &Path, name: &str) -> Option<Factory> {
    let text = profiles::text(folder, name)?;
    let mut faults = Diagnostics::new(name, &text);
    let profile = Document::parse(&text, &mut faults)?.typed::<Profile>(&mut faults)?;
    Some(
        profile
            .factory
            .as_ref()
            .map(Factory::from)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_a_person_reads_them() {
        let speed = |text: &str| text.parse::<Speed>().unwrap();
        let all = Factory {
            speeds: vec![speed("2400 8N1"), speed("9600 8N1")],
            units: vec![1],
            ports: vec![502, 1502],
            ..Factory::default()
        };
        assert_eq!(
            all.to_string(),
            "2400 8N1 or 9600 8N1, unit 1, TCP port 502 or 1502"
        );
        let addressed = Factory {
            addresses: vec!["0".to_owned()],
            ..Factory::default()
        };
        assert_eq!(addressed.to_string(), "address 0");
        assert!(!addressed.is_empty());
        assert_eq!(
            Factory {
                units: vec![1, 2, 200],
                ..Factory::default()
            }
            .to_string(),
            "unit 1 or 2 or 200"
        );
        assert!(Factory::default().is_empty() && !all.is_empty());
        assert_eq!(factory(Path::new("/"), "no-such-device"), None);
    }
}
