//! Lines with their devices, and how their points are reported.

use std::borrow::Cow;
use std::collections::HashSet;

use super::registry::PointRegistry;
use super::{Check, at, device, inheritance, line, lints};
use crate::config::{SetBy, WriteGroup, file};
use crate::field::{Line, Point};
use crate::mqtt::TopicName;
use crate::report::PointReport;

/// In the name of devices that are given by their `units`.
const UNIT: &str = "{unit}";

/// The southbound side as meant.
pub(super) struct Field {
    pub(super) lines: Vec<Line>,
    pub(super) reports: Vec<PointReport>,
    pub(super) set_by: Vec<[SetBy; 6]>,
    pub(super) availability: Vec<TopicName>,
    pub(super) groups: Vec<WriteGroup>,
}

impl Field {
    /// How a point is reported.
    pub(super) fn report_of(&self, point: &Point) -> Option<&PointReport> {
        self.reports.get(point.id.0 as usize)
    }

    /// All topics on which readings and availability are published.
    pub(super) fn topics(&self) -> impl Iterator<Item = &TopicName> {
        let reports = self.reports.iter().flat_map(PointReport::topics);
        reports.chain(&self.availability)
    }

    /// Topics of points that can be written, without `/set`.
    pub(super) fn writable(&self) -> impl Iterator<Item = &TopicName> {
        self.lines
            .iter()
            .flat_map(|line| &line.devices)
            .flat_map(|device| &device.points)
            .filter(|point| point.write.is_some())
            .filter_map(|point| Some(&self.report_of(point)?.topic))
    }
}

/// A device with its place in the list `devices`; with `units` several share one place.
type Listed<'a> = (usize, Cow<'a, file::DeviceConfig>);

/// Every line with its devices, how each point is reported, and the availability topic of each
/// device.
pub(super) fn resolve(check: &mut Check<'_>) -> Field {
    let file = check.file;
    check.unique(
        "lines",
        file.lines.iter().map(|line| line.name.as_str()).enumerate(),
    );
    line::check_shared_ports(check);
    inheritance::check(check);
    let devices = listed(check);
    let mut lines: Vec<Option<Line>> = file
        .lines
        .iter()
        .enumerate()
        .map(|(index, typed)| line::line(check, index, typed))
        .collect();
    let mut points = PointRegistry::default();
    // Only the first device of a name is resolved: the others are faults already.
    let mut names = HashSet::new();
    for (index, device) in devices
        .iter()
        .filter(|(_, device)| names.insert(device.name.as_str()))
    {
        device::device(check, *index, device, &mut lines, &mut points);
    }
    let lines = enabled(file, lines);
    let places = devices
        .iter()
        .rev()
        .map(|(index, device)| (device.name.as_str(), *index));
    lints::duplicate_devices(check, &lines, &places.collect());
    Field {
        lines,
        reports: points.reports,
        set_by: points.set_by,
        availability: points.availability,
        groups: points.groups,
    }
}

/// Lines in use.
fn enabled(file: &file::File, lines: Vec<Option<Line>>) -> Vec<Line> {
    let is_enabled = file.lines.iter().map(|typed| typed.enabled);
    is_enabled
        .zip(lines)
        .filter_map(|(is_enabled, line)| line.filter(|_| is_enabled))
        .collect()
}

/// All devices, those of `units` one by one; names that are not unique are faults.
fn listed<'a>(check: &mut Check<'a>) -> Vec<Listed<'a>> {
    let mut devices: Vec<Listed<'a>> = Vec::new();
    for (index, device) in check.file.devices.iter().enumerate() {
        let each = each(check, index, device).into_iter();
        devices.extend(each.map(|device| (index, device)));
    }
    check.unique(
        "devices",
        devices
            .iter()
            .map(|(index, device)| (*index, device.name.as_str())),
    );
    devices
}

/// The devices of one entry of the list: one for each of its `units`.
fn each<'a>(
    check: &mut Check<'_>,
    index: usize,
    device: &'a file::DeviceConfig,
) -> Vec<Cow<'a, file::DeviceConfig>> {
    let Some(file::UnitList(units)) = &device.units else {
        return vec![Cow::Borrowed(device)];
    };
    if device.unit.is_some() {
        check.fault(
            &at!["devices", index, "units"],
            "keep either `unit` or `units`",
        );
    }
    if !device.name.contains(UNIT) && units.len() > 1 {
        check.fault(
            &at!["devices", index, "name"],
            "several devices need several names; put {unit} into it, such as meter-{unit}",
        );
        return Vec::new();
    }
    let one = |unit: &u8| {
        let name = device.name.replace(UNIT, &unit.to_string());
        Cow::Owned(file::DeviceConfig {
            name,
            unit: Some(*unit),
            units: None,
            ..device.clone()
        })
    };
    units.iter().map(one).collect()
}
