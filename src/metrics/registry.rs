//! What can be measured: each owner of counters describes them and says their values when it is
//! asked. Counting costs an atomic or a plain number; names and labels exist only while somebody
//! reads them.
//!
//! Invariants:
//! * Labels are names from the configuration, or from short fixed lists, never text that a client
//!   or an instrument chooses: the number of values is bounded by the configuration.
//! * The registry keeps no owner alive: what a reload removes is gone at the next read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from the start of the program.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Always 1: its labels are what it says.
    Info,
}

/// The description of a metric, in the words of OpenMetrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Begins with `wellhead_`, and ends with the unit if there is one; without `_total`.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: MetricKind,
    /// A base unit such as `seconds` or `bytes`.
    pub unit: Option<&'static str>,
    /// What it counts, for people.
    pub help: &'static str,
    /// How many digits of its values are behind the decimal point: 6 for a metric in seconds whose
    /// values are given in microseconds.
    pub decimals: u8,
}

impl Metric {
    /// Counts events.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: MetricKind::Counter,
            unit: None,
            help,
            decimals: 0,
        }
    }

    /// A number of things.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            kind: MetricKind::Gauge,
            ..Self::counter(name, help)
        }
    }

    /// Says something by its labels.
    pub const fn info(name: &'static str, help: &'static str) -> Self {
        Self {
            kind: MetricKind::Info,
            ..Self::counter(name, help)
        }
    }

    /// The same in a unit, with the name of which its name ends.
    pub const fn in_unit(self, unit: &'static str) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// The same with values that are given as multiples of `10^-decimals`.
    pub const fn with_decimals(self, decimals: u8) -> Self {
        Self { decimals, ..self }
    }
}

/// Names with their values, which distinguish the points of a metric; cheap to clone.
pub type Labels = Arc<[(&'static str, String)]>;

/// A value of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricPoint {
    /// Of which line, device, uplink.
    pub labels: Labels,
    /// In the last decimal of its metric.
    pub value: u64,
}

/// All values that were read at a time, by the name of their metric.
#[derive(Debug, Clone, Default)]
pub struct MetricSet(BTreeMap<&'static str, (Metric, Vec<MetricPoint>)>);

impl MetricSet {
    /// Adds a value.
    pub fn add(&mut self, metric: &Metric, labels: &Labels, value: u64) {
        let (known, points) = self
            .0
            .entry(metric.name)
            .or_insert_with(|| (*metric, Vec::new()));
        debug_assert_eq!(known, metric, "one name, one description");
        debug_assert!(
            points.iter().all(|point| point.labels != *labels),
            "{} has two values with the same labels",
            metric.name
        );
        let labels = Arc::clone(labels);
        points.push(MetricPoint { labels, value });
    }

    /// Adds all values of another set.
    pub fn extend(&mut self, other: &Self) {
        for (metric, points) in other.0.values() {
            for MetricPoint { labels, value } in points {
                self.add(metric, labels, *value);
            }
        }
    }

    /// Metrics with their values, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Metric, &[MetricPoint])> {
        self.0
            .values()
            .map(|(metric, points)| (metric, points.as_slice()))
    }
}

/// An owner of counters.
pub trait MetricSource: Send + Sync {
    /// Adds the values of now. Called seldom, from any task; must not block.
    fn measure(&self, metrics: &mut MetricSet);
}

/// All owners of counters; cheap to clone.
#[derive(Clone, Default)]
pub struct MetricRegistry(Arc<Mutex<Vec<Weak<dyn MetricSource>>>>);

impl MetricRegistry {
    /// Adds an owner, until it is dropped.
    pub fn register<S: MetricSource + 'static>(&self, source: &Arc<S>) {
        let source: Arc<dyn MetricSource> = Arc::clone(source) as _;
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|known| known.strong_count() > 0);
        sources.push(Arc::downgrade(&source));
    }

    /// The values of all owners.
    pub fn read(&self) -> MetricSet {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alive: Vec<_> = sources.iter().filter_map(Weak::upgrade).collect();
        drop(sources);
        let mut metrics = MetricSet::default();
        for source in alive {
            source.measure(&mut metrics);
        }
        metrics
    }
}

impl std::fmt::Debug for MetricRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricRegistry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;

    const READS: Metric = Metric::counter("wellhead_test_reads", "Reads.");

    struct Owner {
        name: &'static str,
        reads: Counter,
    }

    impl MetricSource for Owner {
        fn measure(&self, metrics: &mut MetricSet) {
            let labels: Labels = [("owner", self.name.to_owned())].into();
            metrics.add(&READS, &labels, self.reads.value());
        }
    }

    fn owner(name: &'static str) -> Arc<Owner> {
        Arc::new(Owner {
            name,
            reads: Counter::default(),
        })
    }

    /// The owners and their values.
    fn values(registry: &MetricRegistry) -> Vec<(String, u64)> {
        let metrics = registry.read();
        let points = metrics.iter().flat_map(|(_, points)| points);
        points
            .map(|point| (point.labels[0].1.clone(), point.value))
            .collect()
    }

    #[test]
    fn owners_are_read_until_they_are_gone() {
        let registry = MetricRegistry::default();
        let (first, second) = (owner("first"), owner("second"));
        registry.register(&first);
        registry.register(&second);
        first.reads.count();
        second.reads.add(5);
        assert_eq!(
            values(&registry),
            [("first".to_owned(), 1), ("second".to_owned(), 5)]
        );
        drop(first);
        assert_eq!(values(&registry), [("second".to_owned(), 5)]);
        for _ in 0..100 {
            registry.register(&owner("passing"));
        }
        assert!(registry.0.lock().unwrap().len() <= 3, "they are forgotten");
        assert_eq!(values(&registry).len(), 1);
    }
}
