//! What can be measured, as `wellhead status --metrics` prints it: the syntax of OpenMetrics, and
//! values that are known.

use std::collections::{HashMap, HashSet};

use super::support::{Gateway, free_port, run, wait_for, wellhead};

/// A metric as its first lines describe it.
#[derive(Debug, Default)]
struct Described {
    kind: String,
    has_help: bool,
    /// Of its values, in their order.
    points: Vec<(String, f64)>,
}

fn is_name(text: &str) -> bool {
    let may_begin = |first: char| first.is_ascii_lowercase();
    text.starts_with(may_begin)
        && text
            .chars()
            .all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == '_')
}

/// Takes the labels off the front of a line; what is left begins with a space.
fn labels(text: &str) -> (String, &str) {
    let Some(mut rest) = text.strip_prefix('{') else {
        return (String::new(), text);
    };
    let whole = rest;
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name), "{text}");
        let mut is_escaped = false;
        let end = after
            .char_indices()
            .find(|(_, each)| {
                let ends = *each == '"' && !is_escaped;
                is_escaped = *each == '\\' && !is_escaped;
                ends
            })
            .expect("the end of a value")
            .0;
        rest = &after[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return (whole[..whole.len() - rest.len()].to_owned(), after);
        }
        rest = rest.strip_prefix(',').expect("the next label");
    }
}

/// Reads a text as strictly as the standard says.
fn parsed(text: &str) -> HashMap<String, Described> {
    let body = text.strip_suffix("# EOF\n").expect("the end");
    let (mut metrics, mut current) = (HashMap::<String, Described>::new(), String::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && name.starts_with("wellhead"), "{line}");
            assert!(["counter", "gauge", "info"].contains(&kind), "{line}");
            name.clone_into(&mut current);
            let described = Described {
                kind: kind.to_owned(),
                ..Described::default()
            };
            assert!(
                metrics.insert(current.clone(), described).is_none(),
                "{name} is described twice"
            );
            continue;
        }
        let own = metrics.get_mut(&current).expect("its type comes first");
        if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(
                name == current && name.ends_with(&format!("_{unit}")),
                "{line}"
            );
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(name == current && help.ends_with('.'), "{line}");
            own.has_help = true;
        } else {
            let suffix = match own.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let rest = line
                .strip_prefix(&format!("{current}{suffix}"))
                .expect(line);
            let (labels, rest) = labels(rest);
            let value: f64 = rest.strip_prefix(' ').expect(line).parse().expect(line);
            own.points.push((labels, value));
        }
    }
    for (name, described) in &metrics {
        let points = described.points.iter().map(|(labels, _)| labels);
        let different: HashSet<&String> = points.collect();
        assert!(
            described.has_help && different.len() == described.points.len(),
            "{name}: {described:?}"
        );
    }
    metrics
}

#[test]
fn every_owner_of_counters_is_in_the_metrics_which_are_as_the_standard_says() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x\nlines: [ {{ name: bench, simulated: {{}} }} ]\ndevices:\n  - {{ name: tank, line: bench, points: {{ level: {{ every: 100ms, simulate: {{}} }} }} }}\nbroker: {{ listen: [ 'mqtt://127.0.0.1:{}' ] }}\nuplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{}', send: [ {{ filter: '#' }} ] }} ]\n",
        free_port(),
        free_port(),
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let metrics = || {
        let (code, out, error) = run(wellhead()
            .args(["status", "--metrics"])
            .current_dir(folder.path()));
        assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
        parsed(&out)
    };
    let value = |metrics: &HashMap<String, Described>, name: &str, labels: &str| {
        let described = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
        let point = described.points.iter().find(|(own, _)| own == labels);
        point.map(|(_, value)| *value)
    };
    let seen = wait_for("readings arrive, and messages wait for the uplink", || {
        let metrics = metrics();
        let queued = value(
            &metrics,
            "wellhead_outbox_queued_messages",
            "uplink=\"cloud\",queue=\"live\"",
        );
        let readings = value(&metrics, "wellhead_report_readings", "");
        (queued >= Some(2.0) && readings >= Some(2.0)).then_some(metrics)
    });
    let check = |name: &str, labels: &str, is_right: fn(f64) -> bool| {
        let found = value(&seen, name, labels);
        assert!(found.is_some_and(is_right), "{name}{{{labels}}}: {found:?}");
    };
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    check("wellhead", &version, |value| value == 1.0);
    check("wellhead_hanging_tasks", "", |value| value == 0.0);
    check("wellhead_resident_memory_bytes", "", |value| value > 1e6);
    check("wellhead_line_up", "line=\"bench\"", |value| value == 1.0);
    let device = "line=\"bench\",device=\"tank\"";
    check("wellhead_device_online", device, |value| value == 1.0);
    check("wellhead_line_timeouts", device, |value| value == 0.0);
    check("wellhead_report_readings", "", |value| value >= 2.0);
    check("wellhead_uplink_up", "uplink=\"cloud\"", |value| {
        value == 0.0
    });
    check(
        "wellhead_outbox_lost_messages",
        "uplink=\"cloud\"",
        |value| value == 0.0,
    );
    check("wellhead_broker_sessions", "", |value| value == 0.0);
    check("wellhead_broker_retained_messages", "", |value| {
        value >= 1.0
    });
    check(
        "wellhead_broker_dropped_messages",
        "reason=\"queue_full\"",
        |value| value == 0.0,
    );
    drop(gateway);
}
