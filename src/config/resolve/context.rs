//! A device as typed, with its profile and its line: everything its points need to know.

use std::cell::OnceCell;
use std::collections::HashSet;

use indexmap::IndexMap;

use super::{Check, at};
use crate::config::SetBy;
use crate::config::document::PathStep;
use crate::config::file::{self, PointDefaults};
use crate::mqtt::TopicName;
use crate::report::template::{Names, TopicTemplate};
use crate::units::Span;

/// Settings for all points of a device, the nearest source first.
pub(super) type DefaultsBySource<'a> = [(SetBy, PointDefaults<'a>); 4];

/// One device with everything its points need to know.
pub(super) struct DeviceContext<'a> {
    pub(super) index: usize,
    pub(super) device: &'a file::DeviceConfig,
    pub(super) profile: Option<&'a file::Profile>,
    pub(super) defaults: DefaultsBySource<'a>,
    pub(super) line_index: usize,
    pub(super) line: &'a file::LineConfig,
    pub(super) simulated: bool,
    /// A plain instrument.
    pub(super) is_text: bool,
    /// A meter on an M-Bus, or one that sends SML.
    pub(super) is_meter: bool,
    /// Its profile is part of the same file.
    pub(super) is_in_file: bool,
    /// Its profile comes with the program; its register numbers are trusted.
    pub(super) is_of_the_program: bool,
    /// Its points by name, filled at the first use.
    pub(super) known: OnceCell<IndexMap<String, file::PointConfig>>,
}

impl<'a> DeviceContext<'a> {
    /// The profile, unless the device removes `key` from it.
    pub(super) fn base(&self, key: &str) -> Option<&'a file::Profile> {
        self.profile.filter(|_| !self.device.takes_away(key))
    }

    /// The points of the profile, overridden by name, then those of the device alone.
    pub(super) fn points(&self) -> Vec<(String, file::PointConfig)> {
        let own = &self.device.points;
        let base = self.profile.map(|profile| &profile.points);
        let overridden = base.into_iter().flatten().map(|(name, point)| {
            let point = own
                .get(name)
                .map_or_else(|| point.clone(), |own| own.over(point));
            (name.clone(), point)
        });
        let added = own
            .iter()
            .filter(|(name, _)| base.is_none_or(|base| !base.contains_key(*name)))
            .map(|(name, point)| (name.clone(), point.clone()));
        let is_chosen = self.chosen();
        overridden
            .chain(added)
            .filter(|(name, _)| is_chosen(name))
            .map(|(name, point)| (name, self.with_defaults(point)))
            .collect()
    }

    /// The same by name.
    pub(super) fn known(&self) -> &IndexMap<String, file::PointConfig> {
        self.known
            .get_or_init(|| self.points().into_iter().collect())
    }

    /// True for points in use: all of the device itself, and the chosen ones of its profile.
    fn chosen(&self) -> impl Fn(&str) -> bool + '_ {
        let names = |list: &'_ Option<Vec<String>>| {
            list.as_ref()
                .map(|list| list.iter().cloned().collect::<HashSet<String>>())
        };
        let (only, except) = (names(&self.device.only), names(&self.device.except));
        move |name| {
            let is_left_out = only.as_ref().is_some_and(|only| !only.contains(name))
                || except.as_ref().is_some_and(|except| except.contains(name));
            self.device.points.contains_key(name) || !is_left_out
        }
    }

    /// Points in `only` and `except` must be points of the profile.
    pub(super) fn check_choice(&self, check: &mut Check<'_>) {
        let points = self.profile.map(|profile| &profile.points);
        let known: Vec<String> = points
            .into_iter()
            .flat_map(|points| points.keys().cloned())
            .collect();
        let is_known = |name: &String| points.is_some_and(|points| points.contains_key(name));
        for (key, list) in [("only", &self.device.only), ("except", &self.device.except)] {
            for (place, name) in list
                .iter()
                .flatten()
                .enumerate()
                .filter(|(_, name)| !is_known(name))
            {
                check.unknown(
                    &at!["devices", self.index, key, place],
                    "point of the profile",
                    name,
                    &known,
                );
            }
        }
    }

    /// The topic that a template gives for a point; a fault at `path` if it is none.
    pub(super) fn topic(
        &self,
        check: &mut Check<'_>,
        template: &TopicTemplate,
        point: &str,
        path: &[PathStep],
    ) -> Option<TopicName> {
        let names = Names {
            site: check.file.site.as_deref().unwrap_or("site"),
            line: &self.line.name,
            device: &self.device.name,
            point,
        };
        match template.fill(names) {
            Ok(topic) if topic.is_reserved() => {
                check.fault(
                    path,
                    "topics that begin with $ belong to the broker; choose another",
                );
                None
            }
            Ok(topic) => Some(topic),
            Err(error) => {
                check.fault(path, format!("this is not a valid topic: {error}"));
                None
            }
        }
    }

    /// Place of a key of a point: in the device if it is given there, else in the profile.
    pub(super) fn path(&self, name: &str, key: &str) -> Vec<PathStep> {
        let in_device = self.device.points.contains_key(name);
        match &self.device.profile {
            Some(profile) if !in_device && self.is_in_file => {
                at!["profiles", profile, "points", name, key].to_vec()
            }
            Some(_) if !in_device => at!["devices", self.index, "profile"].to_vec(),
            _ => at!["devices", self.index, "points", name, key].to_vec(),
        }
    }
}

/// A point as typed while it is checked: its device, and where faults go.
pub(super) struct PointCheck<'p, 'c> {
    pub(super) context: &'p DeviceContext<'p>,
    pub(super) name: &'p str,
    /// As typed, with what its device, profile and line give to all points.
    pub(super) spec: &'p file::PointConfig,
    pub(super) check: &'p mut Check<'c>,
}

impl<'p, 'c> PointCheck<'p, 'c> {
    /// The same check on another point of the device, or on this one typed differently.
    pub(super) fn with<'q>(
        &'q mut self,
        name: &'q str,
        spec: &'q file::PointConfig,
    ) -> PointCheck<'q, 'c> {
        PointCheck {
            context: self.context,
            name,
            spec,
            check: self.check,
        }
    }

    /// Place of a key of the point.
    pub(super) fn path(&self, key: &str) -> Vec<PathStep> {
        self.context.path(self.name, key)
    }

    /// Notes a fault at a key.
    pub(super) fn fault(&mut self, key: &str, message: impl Into<String>) {
        self.check.fault(&self.path(key), message);
    }

    /// Notes that a key is missing, unless a fault in it may be the reason.
    pub(super) fn missing(&mut self, key: &str, message: impl Into<String>) {
        self.check.missing(&self.path(key), message);
    }

    /// Notes a setting that works but is hardly meant.
    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.check.warn(&self.path(key), message);
    }

    /// Notes a duration of zero, unless the key is faulty already.
    pub(super) fn not_zero(&mut self, key: &str, span: Option<Span>, message: &str) {
        self.check.not_zero(&self.path(key), span, message);
    }

    /// Notes a name at a key that is none of the known ones.
    pub(super) fn unknown(&mut self, key: &str, what: &str, name: &str, known: &[String]) {
        self.check.unknown(&self.path(key), what, name, known);
    }
}
