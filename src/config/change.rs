//! From one configuration to the next while the gateway runs: numbers that stay, parts that
//! restart, sections that cannot change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{BrokerSetup, Gateway, HealthMessages, UplinkSetup};
use crate::field::{Device, Line};
use crate::reading::{DeviceId, PointId};
use crate::route::Routes;
use crate::uplink::UplinkSettings;

/// Differences between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Lines that are to be stopped: gone, or different.
    pub stops: Vec<String>,
    /// Lines that are to be started: new, or different.
    pub starts: Vec<String>,
    /// Uplinks that have to reconnect, by their place.
    pub uplinks: Vec<usize>,
    /// Every change, in words for the log.
    pub changes: Vec<String>,
    /// Sections that cannot change while the gateway runs.
    pub needs_restart: Vec<String>,
}

impl Gateway {
    /// Gives devices and points the numbers that they have in `running`, by their names; new ones
    /// get numbers that were never used. What is gone keeps its place in the lists.
    pub fn continue_from(&mut self, running: &Self) {
        let numbers = Renumbering::new(self, running);
        self.availability = placed(&running.availability, &self.availability, &numbers.devices);
        self.points = Arc::new(placed(&running.points, &self.points, &numbers.points));
        for group in &mut self.groups {
            group.device = numbers.device(group.device);
        }
        for device in self.lines.iter_mut().flat_map(|line| &mut line.devices) {
            let mut moved = Device::clone(device);
            moved.id = numbers.device(moved.id);
            for point in &mut moved.points {
                point.id = numbers.point(point.id);
            }
            *device = Arc::new(moved);
        }
    }

    /// The steps from `running` to `self`, which continues from it.
    pub fn differs_from(&self, running: &Self) -> Diff {
        let mut diff = Diff {
            needs_restart: self.needs_restart(running),
            ..Diff::default()
        };
        diff.lines(&self.lines, &running.lines);
        let points = self.points.iter().zip(running.points.iter());
        let shown = points.filter(|(one, other)| one != other).count();
        if shown > 0 {
            diff.changes
                .push(format!("{shown} points are reported in another way"));
        }
        let uplinks = || self.uplinks.iter().zip(&running.uplinks);
        for (index, (uplink, before)) in uplinks().enumerate() {
            diff.settings(index, &uplink.settings, &before.settings);
        }
        for (uplink, before) in uplinks() {
            diff.routes(&uplink.settings.name, &uplink.routes, &before.routes);
        }
        if let (Some(broker), Some(before)) = (&self.broker, &running.broker)
            && broker.access != before.access
        {
            diff.changes
                .push("broker: users or what they may do".to_owned());
        }
        diff
    }

    /// Sections that cannot change while the gateway runs.
    fn needs_restart(&self, running: &Self) -> Vec<String> {
        // The topic of health messages is that of the site.
        let health = |gateway: &Self| {
            gateway.health.clone().map(|health| HealthMessages {
                topic: String::new(),
                ..health
            })
        };
        let names = |gateway: &Self| -> Vec<String> {
            gateway
                .uplinks
                .iter()
                .map(|uplink| uplink.settings.name.clone())
                .collect()
        };
        let is_same_outbox = self.folder == running.folder && self.outbox == running.outbox;
        let mut parts = different(&[
            (self.site == running.site, "site"),
            (health(self) == health(running), "health"),
            (is_same_outbox, "outbox"),
            (self.log == running.log, "log"),
            (
                self.shutdown_grace == running.shutdown_grace,
                "shutdown_grace",
            ),
        ]);
        parts.extend(match (&self.broker, &running.broker) {
            (Some(broker), Some(before)) => broker.needs_restart(before),
            (broker, before) => different(&[(broker.is_none() && before.is_none(), "broker")]),
        });
        parts.extend(different(&[(
            names(self) == names(running),
            "the list of uplinks",
        )]));
        for (uplink, before) in self.uplinks.iter().zip(&running.uplinks) {
            if uplink.settings.name == before.settings.name {
                parts.extend(uplink.needs_restart(before));
            }
        }
        parts
    }
}

/// The names of the parts that are not the same.
fn different(parts: &[(bool, &str)]) -> Vec<String> {
    parts
        .iter()
        .filter(|(is_same, _)| !is_same)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

impl BrokerSetup {
    fn needs_restart(&self, running: &Self) -> Vec<String> {
        let are_same_limits = self.limits == running.limits
            && self.admission == running.admission
            && self.is_durable == running.is_durable;
        different(&[
            (
                self.listen == running.listen && self.tls == running.tls,
                "broker.listen and broker.tls",
            ),
            (self.origins == running.origins, "broker.allow_origins"),
            (are_same_limits, "limits of the broker"),
        ])
    }
}

impl UplinkSetup {
    fn needs_restart(&self, running: &Self) -> Vec<String> {
        let (settings, before) = (&self.settings, &running.settings);
        let is_same = settings.index == before.index
            && settings.use_when == before.use_when
            && settings.connect_within == before.connect_within
            && settings.client_id == before.client_id;
        let name = format!(
            "use_when, connect_within and client_id of uplink {}",
            settings.name
        );
        different(&[
            (is_same, &name),
            (settings.save_every == before.save_every, "outbox"),
        ])
    }
}

impl Diff {
    fn lines(&mut self, lines: &[Line], running: &[Line]) {
        let has = |line: &Line| lines.iter().any(|other| other.name == line.name);
        for line in running.iter().filter(|line| !has(line)) {
            self.stops.push(line.name.clone());
            self.changes.push(format!("line {} is gone", line.name));
        }
        for line in lines {
            match running.iter().find(|before| before.name == line.name) {
                Some(before) if before == line => {}
                Some(before) => {
                    self.stops.push(line.name.clone());
                    self.starts.push(line.name.clone());
                    self.changes.extend(what_changed(before, line));
                }
                None => {
                    self.starts.push(line.name.clone());
                    let devices = line.devices.len();
                    self.changes
                        .push(format!("line {} is new, with {devices} devices", line.name));
                }
            }
        }
    }

    fn settings(&mut self, index: usize, settings: &UplinkSettings, running: &UplinkSettings) {
        if settings == running {
            return;
        }
        self.uplinks.push(index);
        let is_content = *settings
            == UplinkSettings {
                content: settings.content,
                ..running.clone()
            };
        let why = if is_content {
            ": its certificates or its password file hold something else"
        } else {
            ""
        };
        self.changes
            .push(format!("uplink {} connects anew{why}", settings.name));
    }

    fn routes(&mut self, uplink: &str, routes: &Routes, running: &Routes) {
        let (count, before) = (routes.send.len(), running.send.len());
        if routes.send != running.send {
            let what = if count == before {
                "other send rules".to_owned()
            } else {
                format!("{count} send rules instead of {before}")
            };
            self.changes.push(format!("uplink {uplink}: {what}"));
        }
        if routes.catch_up != running.catch_up {
            let what = "how it catches up after an outage";
            self.changes.push(format!("uplink {uplink}: {what}"));
        }
        if routes.rate != running.rate {
            self.changes.push(format!("uplink {uplink}: its rate"));
        }
        if routes.receive != running.receive || routes.commands != running.commands {
            self.changes.push(format!(
                "uplink {uplink}: receive rules or command topics changed"
            ));
        }
    }
}

/// The number of each device and point, by its number before.
struct Renumbering {
    devices: Vec<usize>,
    points: Vec<usize>,
}

impl Renumbering {
    fn new(gateway: &Gateway, running: &Gateway) -> Self {
        let known = Numbers::of(running);
        let mut devices = Assignment::new(gateway.availability.len(), running.availability.len());
        let mut points = Assignment::new(gateway.points.len(), running.points.len());
        for device in gateway.lines.iter().flat_map(|line| &line.devices) {
            devices.assign(device.id.0, known.devices.get(&device.name));
            for point in &device.points {
                let key = (device.name.clone(), point.name.to_string());
                points.assign(point.id.0, known.points.get(&key));
            }
        }
        // Those of disabled lines are on no line.
        Self {
            devices: devices.filled(),
            points: points.filled(),
        }
    }

    fn device(&self, id: DeviceId) -> DeviceId {
        DeviceId(number_of(&self.devices, id.0))
    }

    fn point(&self, id: PointId) -> PointId {
        PointId(number_of(&self.points, id.0))
    }
}

fn number_of(numbers: &[usize], id: u32) -> u32 {
    numbers
        .get(id as usize)
        .and_then(|number| u32::try_from(*number).ok())
        .unwrap_or(u32::MAX)
}

/// Numbers as they are given out; new ones follow those in use.
struct Assignment {
    numbers: Vec<Option<usize>>,
    next: usize,
}

impl Assignment {
    fn new(count: usize, in_use: usize) -> Self {
        Self {
            numbers: vec![None; count],
            next: in_use,
        }
    }

    fn new_number(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    fn assign(&mut self, id: u32, known: Option<&usize>) {
        let number = known.copied().unwrap_or_else(|| self.new_number());
        if let Some(place) = self.numbers.get_mut(id as usize) {
            *place = Some(number);
        }
    }

    /// New numbers for all that have none.
    fn filled(mut self) -> Vec<usize> {
        let numbers = std::mem::take(&mut self.numbers);
        numbers
            .into_iter()
            .map(|number| number.unwrap_or_else(|| self.new_number()))
            .collect()
    }
}

/// The numbers of devices and points by their names.
struct Numbers {
    devices: HashMap<String, usize>,
    points: HashMap<(String, String), usize>,
}

impl Numbers {
    fn of(gateway: &Gateway) -> Self {
        let devices = gateway.lines.iter().flat_map(|line| &line.devices);
        let points = devices.clone().flat_map(|device| {
            device.points.iter().map(|point| {
                (
                    (device.name.clone(), point.name.to_string()),
                    point.id.0 as usize,
                )
            })
        });
        Self {
            points: points.collect(),
            devices: devices
                .map(|device| (device.name.clone(), device.id.0 as usize))
                .collect(),
        }
    }
}

/// `new` at its numbers, and `old` at all others.
fn placed<T: Clone>(old: &[T], new: &[T], numbers: &[usize]) -> Vec<T> {
    let mut all: Vec<Option<T>> = old.iter().cloned().map(Some).collect();
    all.resize(
        all.len()
            .max(numbers.iter().map(|number| number + 1).max().unwrap_or(0)),
        None,
    );
    for (item, number) in new.iter().zip(numbers) {
        if let Some(place) = all.get_mut(*number) {
            *place = Some(item.clone());
        }
    }
    // Numbers are given out without gaps.
    all.into_iter().flatten().collect()
}

fn what_changed(before: &Line, line: &Line) -> Vec<String> {
    let mut changes = Vec::new();
    if before.wire != line.wire || before.answer_within != line.answer_within {
        changes.push(format!("line {}: its wire", line.name));
    }
    if before.manners != line.manners {
        changes.push(format!(
            "line {}: its pauses, or what it accepts",
            line.name
        ));
    }
    let (old, new) = (devices_by_name(before), devices_by_name(line));
    let mut list = |what: &str, names: Vec<&str>| {
        if !names.is_empty() {
            changes.push(format!("line {}: {what} {}", line.name, names.join(", ")));
        }
    };
    list("without", missing_in(&new, &old));
    list("with", missing_in(&old, &new));
    let is_other =
        |(name, device): &(&&str, &&Device)| old.get(*name).is_some_and(|before| before != *device);
    let changed = new.iter().filter(is_other);
    list("changed:", changed.map(|(name, _)| *name).collect());
    changes
}

fn devices_by_name(line: &Line) -> BTreeMap<&str, &Device> {
    line.devices
        .iter()
        .rev()
        .map(|device| (device.name.as_str(), &**device))
        .collect()
}

/// The names of `these` that are not among `those`.
fn missing_in<'a>(
    those: &BTreeMap<&str, &Device>,
    these: &BTreeMap<&'a str, &Device>,
) -> Vec<&'a str> {
    these
        .keys()
        .filter(|name| !those.contains_key(*name))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn gateway(text: &str) -> Gateway {
        config::parse("gateway.yaml", text, Path::new("/nowhere"))
            .unwrap_or_else(|faults| panic!("{faults:#?}"))
    }

    const FILE: &str = "site: x
lines: [ { name: a, modbus_tcp: 10.0.0.5 }, { name: b, modbus_tcp: 10.0.0.6 } ]
devices:
  - { name: one, line: a, points: { flow: { holding: 0, type: u16 }, level: { holding: 1, type: u16 } } }
  - { name: two, line: b, points: { flow: { holding: 0, type: u16 } } }
broker: { listen: [ 'mqtt://127.0.0.1:1883' ] }
";

    fn number(gateway: &Gateway, device: &str, point: &str) -> u32 {
        let device = gateway
            .lines
            .iter()
            .flat_map(|line| &line.devices)
            .find(|own| own.name == device)
            .unwrap();
        device
            .points
            .iter()
            .find(|own| &*own.name == point)
            .unwrap()
            .id
            .0
    }

    #[test]
    fn what_stays_keeps_its_number_and_only_what_differs_is_restarted() {
        let running = gateway(FILE);
        let mut same = gateway(FILE);
        same.continue_from(&running);
        assert_eq!(same.differs_from(&running), Diff::default());
        // A point in front of the others, another one gone, a device before all.
        let text = FILE.replace("points: { flow: { holding: 0, type: u16 }, level: { holding: 1, type: u16 } } }", "points: { temp: { holding: 9, type: u16 }, flow: { holding: 0, type: u16 } } }\n  - { name: zero, line: a, unit: 2, points: { flow: { holding: 5, type: u16 } } }");
        let mut next = gateway(&text);
        next.continue_from(&running);
        assert_eq!(
            (number(&next, "one", "flow"), number(&next, "two", "flow")),
            (0, 2)
        );
        let new = [number(&next, "one", "temp"), number(&next, "zero", "flow")];
        assert!(new.contains(&3) && new.contains(&4), "{new:?}");
        let topic = |number: u32| next.points[number as usize].topic.to_string();
        assert_eq!(
            (topic(0), topic(1), topic(2)),
            (
                "x/one/flow".into(),
                "x/one/level".into(),
                "x/two/flow".into()
            )
        );
        let diff = next.differs_from(&running);
        assert_eq!(
            (diff.stops.as_slice(), diff.starts.as_slice()),
            (&["a".to_owned()][..], &["a".to_owned()][..])
        );
        assert_eq!(diff.changes, ["line a: with zero", "line a: changed: one"]);
        // And back again, with a device that changed its line.
        let mut back =
            gateway(&FILE.replace("{ name: two, line: b,", "{ name: two, line: a, unit: 3,"));
        back.continue_from(&next);
        assert_eq!(
            (number(&back, "one", "flow"), number(&back, "two", "flow")),
            (0, 2)
        );
        let diff = back.differs_from(&next);
        assert_eq!(
            (
                diff.stops.len(),
                diff.starts.len(),
                diff.needs_restart.len()
            ),
            (2, 2, 0),
            "{diff:?}"
        );
    }

    #[test]
    fn a_topic_alone_restarts_no_line_and_some_parts_need_a_restart() {
        let running = gateway(FILE);
        let mut next = gateway(&format!("topics: 'y/{{device}}/{{point}}'\n{FILE}"));
        next.continue_from(&running);
        let diff = next.differs_from(&running);
        assert_eq!(
            (diff.stops.len(), diff.changes.as_slice()),
            (0, &["3 points are reported in another way".to_owned()][..])
        );
        let uplink = |rate: &str, rate_of_rule: &str| {
            gateway(&format!(
                "{FILE}outbox: {{ folder: state }}\nuplinks: [ {{ name: cloud, to: mqtt://127.0.0.1:1885, rate: {rate}, send: [ {{ filter: '#', rate: {rate_of_rule} }} ] }} ]\n"
            ))
        };
        let running_uplink = uplink("10/s", "5/s");
        let told = |next: Gateway| next.differs_from(&running_uplink).changes;
        assert!(told(uplink("10/s", "5/s")).is_empty());
        assert_eq!(told(uplink("1/s", "5/s")), ["uplink cloud: its rate"]);
        assert_eq!(
            told(uplink("10/s", "1/s")),
            ["uplink cloud: other send rules"]
        );
        let mut next = gateway(&FILE.replace("1883", "1884").replace("site: x", "site: y"));
        next.continue_from(&running);
        assert_eq!(
            next.differs_from(&running).needs_restart,
            ["site", "broker.listen and broker.tls"]
        );
    }
}
