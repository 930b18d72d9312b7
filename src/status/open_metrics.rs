//! Metrics as text, in the format of OpenMetrics 1.0, which Prometheus and its kin read. Pure.

use std::fmt::Write;

use crate::metrics::{Metric, MetricKind, MetricPoint, MetricSet};

/// The text of all metrics, the last line of which is `# EOF`.
pub fn text(metrics: &MetricSet) -> String {
    let mut text = String::new();
    for (metric, points) in metrics.iter() {
        describe(&mut text, metric);
        points
            .iter()
            .for_each(|point| sample(&mut text, metric, point));
    }
    text.push_str("# EOF\n");
    text
}

/// The lines before the values of a metric. Writing to text cannot fail.
fn describe(text: &mut String, metric: &Metric) {
    let Metric { name, help, .. } = metric;
    let kind = match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Info => "info",
    };
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if let Some(unit) = metric.unit {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {}", escaped(help));
}

/// One value with its labels.
fn sample(text: &mut String, metric: &Metric, point: &MetricPoint) {
    text.push_str(metric.name);
    text.push_str(match metric.kind {
        MetricKind::Counter => "_total",
        MetricKind::Gauge => "",
        MetricKind::Info => "_info",
    });
    for (index, (name, value)) in point.labels.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        let _ = write!(text, "{before}{name}=\"{}\"", escaped(value));
    }
    if !point.labels.is_empty() {
        text.push('}');
    }
    let _ = writeln!(text, " {}", decimal(point.value, metric.decimals));
}

/// A value with as many digits behind the point, without zeros at the end.
fn decimal(value: u64, decimals: u8) -> String {
    let divisor = 10_u64.checked_pow(u32::from(decimals)).unwrap_or(u64::MAX);
    let (whole, rest) = (value / divisor, value % divisor);
    if rest == 0 {
        return whole.to_string();
    }
    let width = usize::from(decimals);
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Text in which a backslash, a quotation mark and the end of a line are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Labels;

    const VERSION: Metric = Metric::info("wellhead", "The program.");
    const REQUESTS: Metric = Metric::counter("wellhead_line_requests", "Requests sent.");
    const BUSY: Metric = Metric::counter("wellhead_line_busy_seconds", "Time in use.")
        .in_unit("seconds")
        .with_decimals(6);
    const SESSIONS: Metric = Metric::gauge("wellhead_broker_sessions", "Sessions.");

    #[test]
    fn metrics_are_written_as_the_standard_says() {
        let labels = |value: &str| -> Labels { [("line", value.to_owned())].into() };
        let mut metrics = MetricSet::default();
        metrics.add(&REQUESTS, &labels("b"), 12);
        metrics.add(&BUSY, &labels("b"), 1_500_000);
        metrics.add(&REQUESTS, &labels("a\"\\\n圧"), 3);
        metrics.add(&SESSIONS, &Labels::default(), 0);
        metrics.add(&VERSION, &[("version", "1.2.3".to_owned())].into(), 1);
        assert_eq!(
            text(&metrics),
            "# TYPE wellhead info\n\
             # HELP wellhead The program.\n\
             wellhead_info{version=\"1.2.3\"} 1\n\
             # TYPE wellhead_broker_sessions gauge\n\
             # HELP wellhead_broker_sessions Sessions.\n\
             wellhead_broker_sessions 0\n\
             # TYPE wellhead_line_busy_seconds counter\n\
             # UNIT wellhead_line_busy_seconds seconds\n\
             # HELP wellhead_line_busy_seconds Time in use.\n\
             wellhead_line_busy_seconds_total{line=\"b\"} 1.5\n\
             # TYPE wellhead_line_requests counter\n\
             # HELP wellhead_line_requests Requests sent.\n\
             wellhead_line_requests_total{line=\"b\"} 12\n\
             wellhead_line_requests_total{line=\"a\\\"\\\\\\n圧\"} 3\n\
             # EOF\n"
        );
    }

    #[test]
    fn values_keep_every_digit() {
        let check = |value, decimals, expected: &str| {
            assert_eq!(decimal(value, decimals), expected);
        };
        check(0, 6, "0");
        check(1, 6, "0.000001");
        check(1_000_000, 6, "1");
        check(10_500, 3, "10.5");
        check(u64::MAX, 0, "18446744073709551615");
        check(u64::MAX, 6, "18446744073709.551615");
    }
}
