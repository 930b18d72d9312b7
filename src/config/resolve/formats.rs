//! How readings are written for a remote: `format:` of an uplink and of its `send` rules,
//! and the names of points that formats write.

use std::sync::Arc;

use super::field::Field;
use super::{Check, at};
use crate::config::document::PathStep;
use crate::config::file::{FormatConfig, FormatKind, HowFormatted};
use crate::mqtt::TopicName;
use crate::payload::{NamesOfPoints, PayloadFormat, PayloadTemplate, PointNames};
use crate::report::PointReport;

/// The format at `path`; `None` without one, or if it is faulty.
pub(super) fn format(
    check: &mut Check<'_>,
    path: &[PathStep],
    typed: Option<&FormatConfig>,
) -> Option<PayloadFormat> {
    let FormatConfig(HowFormatted { kind, template }) = typed?;
    let default = if template.is_some() {
        FormatKind::Template
    } else {
        FormatKind::Json
    };
    let below = |key: &'static str| [path, &at![key]].concat();
    match (kind.unwrap_or(default), template) {
        (FormatKind::Template, Some(text)) => match PayloadTemplate::new(text) {
            Ok(template) => Some(PayloadFormat::Template(template)),
            Err(why) => {
                check.fault(&below("template"), why);
                None
            }
        },
        (FormatKind::Template, None) => {
            check.fault(
                path,
                "write the payload, such as { template: '{\"{point}\": {value}, \"ts\": {time_ms}}' }",
            );
            None
        }
        (_, Some(_)) => {
            check.fault(
                &below("template"),
                "this kind of payload needs no template; remove it, or write `kind: template`",
            );
            None
        }
        (FormatKind::Json, None) => Some(PayloadFormat::Json),
        (FormatKind::Value, None) => Some(PayloadFormat::Value),
        (FormatKind::Line, None) => Some(PayloadFormat::Line),
        (FormatKind::Senml, None) => Some(PayloadFormat::Senml),
    }
}

/// The names of points, by all topics that they have.
pub(super) fn names_of_points(site: &str, field: &Field) -> NamesOfPoints {
    let site: Arc<str> = site.into();
    let mut names = NamesOfPoints::new();
    for line in &field.lines {
        let line_name: Arc<str> = line.name.as_str().into();
        for device in &line.devices {
            let device_name: Arc<str> = device.name.as_str().into();
            for point in &device.points {
                let Some(report) = field.report_of(point) else {
                    continue;
                };
                names.extend(report.topics().map(|topic| {
                    let own = PointNames {
                        topic: topic.clone(),
                        site: site.clone(),
                        line: line_name.clone(),
                        device: device_name.clone(),
                        point: name_on(topic, report, &point.name),
                        unit: report.unit.clone(),
                    };
                    (topic.clone(), own)
                }));
            }
        }
    }
    names
}

/// The name of a point on one of its topics: with the aggregate, where that is a level of its own.
fn name_on(topic: &TopicName, report: &PointReport, point: &Arc<str>) -> Arc<str> {
    let below = topic.as_str().strip_prefix(report.topic.as_str());
    match below.and_then(|below| below.strip_prefix('/')) {
        Some(aggregate) => format!("{point}_{aggregate}").into(),
        None => point.clone(),
    }
}
