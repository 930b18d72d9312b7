//! How a point is reported: topic, class, deadband, filter, aggregate.

use super::context::PointCheck;
use super::registry::PointRegistry;
use super::{NORMAL, NamedClass};
use crate::config::file;
use crate::mqtt::{QoS, TopicName};
use crate::report::deadband::{Deadband, ReportRule};
use crate::report::template::TopicTemplate;
use crate::report::{Aggregate, PointReport};

impl PointCheck<'_, '_> {
    /// The topic of the point; `None` if it is faulty.
    pub(super) fn point_topic(&mut self) -> Option<TopicName> {
        let template = self
            .spec
            .topic
            .clone()
            .or_else(|| self.check.file.topics.clone())
            .or_else(|| TopicTemplate::new("{site}/{device}/{point}").ok())?;
        let at = self.path("topic");
        self.context.topic(self.check, &template, self.name, &at)
    }

    /// The class of the point and its QoS, if it has one.
    pub(super) fn class(&mut self) -> NamedClass {
        let name = self.spec.class.as_deref().unwrap_or(NORMAL);
        let at = self.path("class");
        self.check.class(name, &at).unwrap_or_default()
    }

    /// How the point is reported on `topic`, which it takes unless its aggregates have topics of
    /// their own.
    pub(super) fn report(
        &mut self,
        topic: TopicName,
        class: NamedClass,
        points: &mut PointRegistry,
    ) -> PointReport {
        let aggregate = self.aggregate(&topic, points);
        if aggregate.is_none() {
            let owner = format!("{}.{}", self.context.device.name, self.name);
            let at = self.path("topic");
            points.take_topic(self.check, &topic, owner, &at);
        }
        PointReport {
            topic,
            unit: self.spec.unit.as_deref().map(|unit| points.named(unit)),
            qos: class.qos.unwrap_or(QoS::AtLeastOnce),
            class: class.class,
            rule: self.rule(),
            median: self.median(),
            aggregate,
            swinging_door: self.swinging_door(),
        }
    }

    fn rule(&mut self) -> ReportRule {
        let spec = self.spec;
        let deadband = spec.deadband.map(|deadband| match deadband {
            file::DeadbandConfig::Absolute(width) => Deadband::Absolute(width),
            file::DeadbandConfig::Percent(percent) => Deadband::Percent(percent),
        });
        let width = match deadband {
            Some(Deadband::Absolute(width) | Deadband::Percent(width)) => width,
            None => 0.0,
        };
        if !width.is_finite() || width < 0.0 {
            self.fault(
                "deadband",
                "a deadband is a change that is too small to report: type 0 or more",
            );
        }
        ReportRule {
            deadband,
            at_least_every: spec.at_least_every.map(|span| span.0),
        }
    }

    fn median(&mut self) -> Option<u8> {
        let spec = self.spec;
        let width = spec.filter?.median;
        if width % 2 == 0 || !(3..=99).contains(&width) {
            self.fault(
                "filter",
                "the middle one needs an odd number of values, such as `filter: { median: 5 }`",
            );
        }
        Some(width)
    }

    fn swinging_door(&mut self) -> Option<f64> {
        let spec = self.spec;
        let bound = spec.swinging_door?;
        if !bound.is_finite() || bound <= 0.0 {
            self.fault(
                "swinging_door",
                "type the error that the line between readings may have, such as 0.5",
            );
        }
        if spec.deadband.is_some() {
            self.fault(
                "swinging_door",
                "`deadband` and `swinging_door` decide the same; keep one",
            );
        }
        Some(bound)
    }

    fn aggregate(&mut self, topic: &TopicName, points: &mut PointRegistry) -> Option<Aggregate> {
        let spec = self.spec;
        let name = self.name;
        let aggregate = spec.aggregate.as_ref()?;
        let path = self.path("aggregate");
        if aggregate.every.0.is_zero() || aggregate.show.0.is_empty() {
            self.check.fault(&path, "write an interval and what is shown of it, such as { every: 1m, show: [ min, mean, max ] }");
            return None;
        }
        let mut shows = Vec::new();
        for show in &aggregate.show.0 {
            let topic = if aggregate.show.0.len() == 1 {
                topic.clone()
            } else {
                TopicName::new(format!("{topic}/{}", show.name())).ok()?
            };
            let owner = format!("{}.{name} ({})", self.context.device.name, show.name());
            points.take_topic(self.check, &topic, owner, &path);
            shows.push((*show, topic));
        }
        Some(Aggregate {
            every: aggregate.every.0,
            shows,
        })
    }
}
