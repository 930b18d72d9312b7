//! Meters as typed: on an M-Bus, or sending SML by themselves.

use serde::Deserialize;

use crate::field::mbus::Occasion;
use crate::units::Span;

/// A meter on an M-Bus. Its address is `address`, or `identification` with what else is known of
/// it.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct MbusConfig {
    /// Primary address, 0 to 250.
    #[schemars(range(max = 250))]
    pub(in crate::config) address: Option<u8>,
    /// Secondary address: the eight digits of the meter, in quotation marks; F fits any digit.
    pub(in crate::config) identification: Option<String>,
    /// Of a secondary address: the three letters of the manufacturer. Default any.
    pub(in crate::config) manufacturer: Option<String>,
    /// Of a secondary address: the version of the meter. Default any.
    pub(in crate::config) version: Option<u8>,
    /// Of a secondary address: the code of the medium, such as 4 for heat or 7 for water. Default
    /// any.
    pub(in crate::config) medium: Option<u8>,
    /// Reset the application before each readout: for meters that go on with their last telegram.
    /// Default false.
    #[serde(default)]
    pub(in crate::config) reset: bool,
    /// Values stay good although the meter reports an error. Default false.
    #[serde(default)]
    pub(in crate::config) ignore_status: bool,
}

/// A meter that sends SML by itself.
#[derive(Debug, Clone, Copy, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SmlConfig {
    /// The silence after which the meter is offline. Default 60s.
    pub(in crate::config) silent_after: Option<Span>,
}

/// A record of a meter on an M-Bus, by what it is or by its place.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RecordConfig {
    /// What it is, such as energy, volume, power, volume_flow, flow_temperature,
    /// return_temperature.
    pub(in crate::config) kind: Option<String>,
    /// instantaneous (default), maximum, minimum or error.
    #[serde(default)]
    pub(in crate::config) function: Occasion,
    /// 0 (default) is the present value, higher numbers are values kept from earlier.
    #[serde(default)]
    pub(in crate::config) storage: u64,
    /// The tariff. Default 0.
    #[serde(default)]
    pub(in crate::config) tariff: u32,
    /// The part of the meter that measures it. Default 0.
    #[serde(default)]
    pub(in crate::config) subunit: u16,
    /// What changes the meaning of its kind, such as per_hour, backward or 0x4a. Default nothing.
    pub(in crate::config) qualifier: Option<String>,
    /// The place of the record in a readout, from 0, where several are of the same kind.
    pub(in crate::config) index: Option<u16>,
}
