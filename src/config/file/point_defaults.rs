//! Settings of points that a file, a line, a device or a profile gives to points that do not set
//! them themselves.

use super::value::DeadbandConfig;
use crate::units::Span;

/// The settings, in the order of their columns in `wellhead check --points`.
pub(in crate::config) const POINT_DEFAULTS: [&str; 6] = [
    "every",
    "deadband",
    "at_least_every",
    "stale_after",
    "class",
    "decimals",
];

/// The point defaults of a mapping with these settings.
macro_rules! point_defaults_of {
    ($mapping:expr) => {
        $crate::config::file::PointDefaults {
            every: $mapping.every,
            deadband: $mapping.deadband,
            at_least_every: $mapping.at_least_every,
            stale_after: $mapping.stale_after,
            class: $mapping.class.as_deref(),
            decimals: $mapping.decimals,
        }
    };
}

pub(super) use point_defaults_of;

/// A mapping with these settings among its keys.
macro_rules! with_point_defaults {
    ($(#[$attribute:meta])* pub(in crate::config) struct $name:ident { $($keys:tt)* }) => {
        $(#[$attribute])*
        pub(in crate::config) struct $name {
            $($keys)*
            /// How often points are read. Applies to points that do not set it themselves. Default
            /// 10s.
            pub(in crate::config) every: Option<Span>,
            /// Numbers are reported only if they change by more than this, absolute or relative
            /// such as 2%; other values are then reported when they change. Applies to points that
            /// do not set it themselves. Default: every reading is reported.
            pub(in crate::config) deadband: Option<DeadbandConfig>,
            /// A point is reported after this time even without a change. Applies to points that do
            /// not set it themselves. Default never.
            pub(in crate::config) at_least_every: Option<Span>,
            /// How old values may be while newer ones cannot be read. Applies to points that do not
            /// set it themselves. Default three times `every`.
            pub(in crate::config) stale_after: Option<Span>,
            /// The class of messages. Applies to points that do not set it themselves. Default
            /// normal.
            pub(in crate::config) class: Option<String>,
            /// Decimal places of numbers, up to 15. Applies to points that do not set it
            /// themselves. Default as many as they have.
            #[schemars(range(max = 15))]
            pub(in crate::config) decimals: Option<u8>,
        }

        impl $name {
            /// Its defaults for points.
            pub(in crate::config) fn point_defaults(&self) -> $crate::config::file::PointDefaults<'_> {
                $crate::config::file::point_defaults::point_defaults_of!(self)
            }
        }
    };
}

pub(super) use with_point_defaults;

with_point_defaults! {
    /// For all points of the file.
    #[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(in crate::config) struct Defaults {}
}

/// Settings that points inherit.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::config) struct PointDefaults<'a> {
    pub(in crate::config) every: Option<Span>,
    pub(in crate::config) deadband: Option<DeadbandConfig>,
    pub(in crate::config) at_least_every: Option<Span>,
    pub(in crate::config) stale_after: Option<Span>,
    pub(in crate::config) class: Option<&'a str>,
    pub(in crate::config) decimals: Option<u8>,
}

impl PointDefaults<'_> {
    /// The same without some keys.
    pub(in crate::config) fn without(self, keys: &[String]) -> Self {
        let stays = |key: &str| !keys.iter().any(|removed| removed == key);
        Self {
            every: self.every.filter(|_| stays("every")),
            deadband: self.deadband.filter(|_| stays("deadband")),
            at_least_every: self.at_least_every.filter(|_| stays("at_least_every")),
            stale_after: self.stale_after.filter(|_| stays("stale_after")),
            class: self.class.filter(|_| stays("class")),
            decimals: self.decimals.filter(|_| stays("decimals")),
        }
    }

    /// True if a key of `GIVEN` is given.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        match key {
            "every" => self.every.is_some(),
            "deadband" => self.deadband.is_some(),
            "at_least_every" => self.at_least_every.is_some(),
            "stale_after" => self.stale_after.is_some(),
            "class" => self.class.is_some(),
            "decimals" => self.decimals.is_some(),
            _ => false,
        }
    }
}
