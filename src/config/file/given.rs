//! Settings of points that a file, a line, a device or a profile gives to points that say nothing themselves.

use super::point::Deadband;
use crate::units::Span;

/// The settings, in the order of their columns in `wellhead check --points`.
pub(in crate::config) const GIVEN: [&str; 6] = ["every", "deadband", "at_least_every", "stale_after", "class", "decimals"];

/// A mapping with these settings among its keys.
macro_rules! gives {
    ($(#[$attribute:meta])* pub(in crate::config) struct $name:ident { $($keys:tt)* }) => {
        $(#[$attribute])*
        pub(in crate::config) struct $name {
            $($keys)*
            /// Of its points that do not say it: how often they are read. Default 10s.
            pub(in crate::config) every: Option<Span>,
            /// Of its numbers that do not say it: a change that is too small to be reported, or a part such as 2%; other values are
            /// then reported when they change. Default: every reading is reported.
            pub(in crate::config) deadband: Option<Deadband>,
            /// Of its points that do not say it: reported again after this even without a change. Default never.
            pub(in crate::config) at_least_every: Option<Span>,
            /// Of its points that do not say it: how old a value may be while newer ones cannot be read. Default three times `every`.
            pub(in crate::config) stale_after: Option<Span>,
            /// Of its points that do not say it: their class. Default normal.
            pub(in crate::config) class: Option<String>,
            /// Of its numbers that do not say it: digits after the point, up to 15. Default as many as they have.
            #[schemars(range(max = 15))]
            pub(in crate::config) decimals: Option<u8>,
        }

        impl $name {
            /// What it gives to points.
            pub(in crate::config) fn given(&self) -> $crate::config::file::Given<'_> {
                $crate::config::file::Given {
                    every: self.every,
                    deadband: self.deadband,
                    at_least_every: self.at_least_every,
                    stale_after: self.stale_after,
                    class: self.class.as_deref(),
                    decimals: self.decimals,
                }
            }
        }
    };
}

pub(super) use gives;

gives! {
    /// For all points of the file.
    #[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(in crate::config) struct Defaults {}
}

/// What points are given.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::config) struct Given<'a> {
    pub(in crate::config) every: Option<Span>,
    pub(in crate::config) deadband: Option<Deadband>,
    pub(in crate::config) at_least_every: Option<Span>,
    pub(in crate::config) stale_after: Option<Span>,
    pub(in crate::config) class: Option<&'a str>,
    pub(in crate::config) decimals: Option<u8>,
}

impl Given<'_> {
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
