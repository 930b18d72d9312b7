//! How an uplink sends what has waited for its link.

use std::time::Duration;

use super::{Check, at};
use crate::config::file::CatchUpConfig;
use crate::route::{CatchUp, CatchUpOrder};

/// The longest time over which gateways are spread.
const LONGEST_SPREAD: Duration = Duration::from_secs(3600);

/// How what has waited is sent.
pub(super) fn resolve(check: &mut Check<'_>, index: usize, typed: &CatchUpConfig) -> CatchUp {
    let default = CatchUp::default();
    let path = |key: &'static str| at!["uplinks", index, "catch_up", key];
    if typed.share.is_some() && typed.order != CatchUpOrder::Alternate {
        check.fault(
            &path("share"),
            "a share counts only where fresh messages and the backlog go in turn; add `order: alternate`",
        );
    }
    let has_backlog = typed.order != CatchUpOrder::OldestFirst;
    if typed.max_rate.is_some() && !has_backlog {
        check.fault(
            &path("max_rate"),
            "with `oldest-first` there is no backlog to limit; use `rate` of the uplink, or another `order`",
        );
    }
    let spread = typed.spread.map_or(default.spread, |span| span.0);
    if spread > LONGEST_SPREAD {
        check.fault(
            &path("spread"),
            "the backlog would begin too late; write at most 1h, such as 60s",
        );
    }
    CatchUp {
        order: typed.order,
        share: typed.share.unwrap_or(default.share),
        max_rate: typed.max_rate,
        spread,
    }
}
