//! How an uplink sends what has waited for its link. Pure.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::units::Rate;

/// The order of readings after an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUpOrder {
    /// Fresh ones first; those that waited fill the pauses between them.
    #[default]
    NewestFirst,
    /// Fresh ones and those that waited in turn.
    Alternate,
    /// As they were taken.
    OldestFirst,
}

/// A part of the bytes of a link, in percent: 1 to 99.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkShare(u8);

impl LinkShare {
    /// The share of what has waited where the file does not say it.
    pub const HALF: Self = Self(50);

    /// How many bytes this part takes for each byte of the rest.
    pub fn for_each_other(self) -> f64 {
        f64::from(self.0) / f64::from(100 - self.0)
    }
}

impl FromStr for LinkShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').map(str::trim_end);
        let percent = number.and_then(|number| number.parse().ok());
        percent
            .filter(|percent| (1..=99).contains(percent))
            .map(Self)
            .ok_or_else(|| {
                format!("`{text}` is not a share; write a percentage from 1% to 99%, such as 70%")
            })
    }
}

impl<'de> Deserialize<'de> for LinkShare {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How what has waited is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// Its place among what is fresh.
    pub order: CatchUpOrder,
    /// The most of the link's bytes that the backlog takes while fresh messages wait; counts with
    /// [`CatchUpOrder::Alternate`].
    pub share: LinkShare,
    /// The most that the backlog takes.
    pub max_rate: Option<Rate>,
    /// The longest time after a reconnection before the backlog begins.
    pub spread: Duration,
}

impl CatchUp {
    /// The time over which the gateways behind one link are spread.
    pub const SPREAD: Duration = Duration::from_secs(10);
}

impl Default for CatchUp {
    fn default() -> Self {
        Self {
            order: CatchUpOrder::default(),
            share: LinkShare::HALF,
            max_rate: None,
            spread: Self::SPREAD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_that_leaves_something_to_both() {
        assert_eq!("70%".parse(), Ok(LinkShare(70)));
        assert_eq!(" 1 %".parse(), Ok(LinkShare(1)));
        for wrong in ["70", "0%", "100%", "0.7", "-5%", "7.5%", ""] {
            assert!(wrong.parse::<LinkShare>().is_err(), "{wrong}");
        }
        assert!((LinkShare::HALF.for_each_other() - 1.0).abs() < 1e-9);
    }
}
