//! Settings that points inherit from their device, its profile, their line and the file: the
//! nearest wins.

use std::time::Duration;

use super::context::{DefaultsBySource, DeviceContext};
use super::{Check, NORMAL, at};
use crate::config::document::PathStep;
use crate::config::file::{self, DeadbandConfig, POINT_DEFAULTS, PointDefaults};
use crate::config::set_by::SetBy;
use crate::field::decode::DataType;
use crate::units::Span;

const SHORTEST_EVERY: Duration = Duration::from_millis(1);
const MOST_DECIMALS: u8 = 15;

/// Checks the settings that points inherit, each in its place.
pub(super) fn check(check: &mut Check<'_>) {
    let file = check.file;
    if let Some(defaults) = &file.defaults {
        check_one(check, &at!["defaults"], defaults.point_defaults());
    }
    for (index, line) in file.lines.iter().enumerate() {
        check_one(check, &at!["lines", index], line.point_defaults());
    }
    for (name, profile) in &file.profiles {
        check_one(check, &at!["profiles", name], profile.point_defaults());
    }
    for (index, device) in file.devices.iter().enumerate() {
        check_one(check, &at!["devices", index], device.point_defaults());
    }
}

fn check_one(check: &mut Check<'_>, path: &[PathStep], given: PointDefaults<'_>) {
    let below = |key: &'static str| [path, &at![key]].concat();
    if given.every.is_some_and(|every| every.0 < SHORTEST_EVERY) {
        check.fault(&below("every"), "write at least 1ms, such as 1s");
    }
    if given.deadband.is_some_and(|deadband| !is_width(deadband)) {
        check.fault(
            &below("deadband"),
            "a deadband is a change that is too small to report: type 0 or more",
        );
    }
    for (key, span) in [
        ("at_least_every", given.at_least_every),
        ("stale_after", given.stale_after),
    ] {
        if span.is_some_and(|span| span.0.is_zero()) {
            check.fault(&below(key), "write more than 0s, or remove it");
        }
    }
    if given
        .decimals
        .is_some_and(|decimals| decimals > MOST_DECIMALS)
    {
        check.fault(&below("decimals"), "type at most 15 digits after the point");
    }
    if let Some(class) = given.class {
        check.class(class, &below("class"));
    }
}

fn is_width(deadband: DeadbandConfig) -> bool {
    let (DeadbandConfig::Absolute(width) | DeadbandConfig::Percent(width)) = deadband;
    width.is_finite() && width >= 0.0
}

/// Defaults for the points of a device, from its nearest source to the farthest.
pub(super) fn defaults<'a>(
    file: &'a file::File,
    line: &'a file::LineConfig,
    device: &'a file::DeviceConfig,
    profile: Option<&'a file::Profile>,
) -> DefaultsBySource<'a> {
    let is_class = |name: &&str| *name == NORMAL || file.classes.contains_key(*name);
    let defaults = [
        (SetBy::Device, device.point_defaults()),
        (
            SetBy::Profile,
            profile
                .map(file::Profile::point_defaults)
                .unwrap_or_default(),
        ),
        (SetBy::Line, line.point_defaults()),
        (
            SetBy::Defaults,
            file.defaults
                .as_ref()
                .map(file::Defaults::point_defaults)
                .unwrap_or_default(),
        ),
    ];
    // Settings that a device takes away are not inherited from above it. Unknown classes are faults
    // already.
    let [own, above @ ..] = defaults;
    let [profile, line, defaults] =
        above.map(|(set_by, given)| (set_by, given.without(&device.removed)));
    [own, profile, line, defaults].map(|(set_by, given)| {
        (
            set_by,
            PointDefaults {
                class: given.class.filter(is_class),
                ..given
            },
        )
    })
}

impl DeviceContext<'_> {
    /// The point with inherited settings where it has none itself, as far as they make sense for
    /// its kind of value. Faulty settings are faults in their own place, and left out here.
    pub(super) fn with_defaults(&self, mut spec: file::PointConfig) -> file::PointConfig {
        let is_computed = spec.expression.is_some();
        let value = ValueOf::new(&spec);
        let takes_width = spec.swinging_door.is_none();
        let takes_digits = value == ValueOf::Fraction;
        // Plain instruments speak when they are asked, or when they like.
        let is_asked_alone = !is_computed && !self.is_text;
        let removed = std::mem::take(&mut spec.removed);
        for (_, given) in &self.defaults {
            let given = given.without(&removed);
            let timed =
                |span: Option<Span>| span.filter(|span| !is_computed && span.0 >= SHORTEST_EVERY);
            spec.every = spec.every.or(timed(given.every).filter(|_| is_asked_alone));
            spec.stale_after = spec.stale_after.or(timed(given.stale_after));
            spec.at_least_every = spec
                .at_least_every
                .or(given.at_least_every.filter(|span| !span.0.is_zero()));
            let width = given
                .deadband
                .filter(|width| takes_width && is_width(*width));
            spec.deadband = spec.deadband.or(width.map(|width| value.width(width)));
            spec.class = spec.class.or_else(|| given.class.map(str::to_owned));
            spec.decimals = spec.decimals.or(given
                .decimals
                .filter(|digits| takes_digits && *digits <= MOST_DECIMALS));
        }
        spec.removed = removed;
        spec
    }

    /// The sources of the settings of a point after [`Self::with_defaults`].
    pub(super) fn set_by(&self, name: &str, spec: &file::PointConfig) -> [SetBy; 6] {
        let own = self
            .device
            .points
            .get(name)
            .map(file::PointConfig::point_defaults);
        let of_profile = self
            .profile
            .and_then(|profile| profile.points.get(name))
            .map(file::PointConfig::point_defaults);
        let stated = spec.point_defaults();
        POINT_DEFAULTS.map(|key| {
            let says =
                |given: &Option<PointDefaults<'_>>| given.is_some_and(|given| given.has(key));
            match () {
                () if key == "every" && self.is_text => self.asked_every().1,
                () if spec.removed.iter().any(|removed| removed == key) && !stated.has(key) => {
                    SetBy::Point
                }
                () if !stated.has(key) => SetBy::Default,
                () if says(&own) => SetBy::Point,
                () if says(&of_profile) => SetBy::ProfilePoint,
                () => self
                    .defaults
                    .iter()
                    .find(|(_, given)| given.has(key))
                    .map_or(SetBy::Default, |(set_by, _)| *set_by),
            }
        })
    }
}

/// The kind of a value, as far as it decides which settings a point inherits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ValueOf {
    /// A number that has digits after the point.
    Fraction,
    /// Another number.
    Whole,
    /// Text, lists, flags, words, single bits.
    Other,
}

impl ValueOf {
    fn new(spec: &file::PointConfig) -> Self {
        let is_bit = spec.kind == Some(DataType::Bool)
            || spec.bit.is_some()
            || spec.coil.is_some()
            || spec.discrete.is_some()
            || spec
                .at
                .is_some_and(|at| matches!(at.0, 1..=19_999 | 100_001..=165_536));
        let is_list = spec.flags.is_some()
            || spec.words.is_some()
            || spec.array.is_some()
            || spec.as_text == Some(true);
        if is_bit || is_list || spec.kind.is_some_and(DataType::is_text) {
            return Self::Other;
        }
        let is_scaled = spec.scale.is_some() || spec.offset.is_some() || spec.scale_from.is_some();
        if is_scaled || spec.kind.is_none_or(|kind| !kind.is_integer()) {
            Self::Fraction
        } else {
            Self::Whole
        }
    }

    /// Where a change has no width, every change counts.
    fn width(self, given: DeadbandConfig) -> DeadbandConfig {
        if self == Self::Other {
            DeadbandConfig::Absolute(0.0)
        } else {
            given
        }
    }
}
