//! From one configuration to the next while the gateway runs: what keeps its number, what is another, what cannot change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Gateway, HealthMessages};
use crate::field::{Device, Line};
use crate::reading::{DeviceId, PointId};
use crate::uplink::Settings;

/// What differs between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Lines that are to be stopped: gone, or different.
    pub stops: Vec<String>,
    /// Lines that are to be started: new, or different.
    pub starts: Vec<String>,
    /// Uplinks that are to connect anew, by their place.
    pub uplinks: Vec<usize>,
    /// For people: everything that changes.
    pub told: Vec<String>,
    /// What cannot change while the gateway runs.
    pub needs_restart: Vec<String>,
}

impl Gateway {
    /// Gives devices and points the numbers that they have in `running`, by their names; new ones get numbers that nobody had. What is
    /// gone keeps its place in the lists.
    pub fn continue_from(&mut self, running: &Self) {
        let known = Numbers::of(running);
        let (mut next_device, mut next_point) = (running.availability.len(), running.points.len());
        let (mut devices, mut points) = (
            vec![None; self.availability.len()],
            vec![None; self.points.len()],
        );
        let new = |next: &mut usize| {
            *next += 1;
            *next - 1
        };
        for device in self.lines.iter().flat_map(|line| &line.devices) {
            let number = known.devices.get(&device.name).copied();
            set(
                &mut devices,
                device.id.0 as usize,
                number.unwrap_or_else(|| new(&mut next_device)),
            );
            for point in &device.points {
                let number = known
                    .points
                    .get(&(device.name.clone(), point.name.to_string()))
                    .copied();
                set(
                    &mut points,
                    point.id.0 as usize,
                    number.unwrap_or_else(|| new(&mut next_point)),
                );
            }
        }
        // Those of lines that are switched off.
        let devices: Vec<usize> = devices
            .into_iter()
            .map(|number| number.unwrap_or_else(|| new(&mut next_device)))
            .collect();
        let points: Vec<usize> = points
            .into_iter()
            .map(|number| number.unwrap_or_else(|| new(&mut next_point)))
            .collect();
        self.availability = placed(&running.availability, &self.availability, &devices);
        self.points = Arc::new(placed(&running.points, &self.points, &points));
        let device_id = |id: DeviceId| {
            DeviceId(
                devices
                    .get(id.0 as usize)
                    .and_then(|number| u32::try_from(*number).ok())
                    .unwrap_or(u32::MAX),
            )
        };
        let point_id = |id: PointId| {
            PointId(
                points
                    .get(id.0 as usize)
                    .and_then(|number| u32::try_from(*number).ok())
                    .unwrap_or(u32::MAX),
            )
        };
        for group in &mut self.groups {
            group.device = device_id(group.device);
        }
        for device in self.lines.iter_mut().flat_map(|line| &mut line.devices) {
            let mut moved = Device::clone(device);
            moved.id = device_id(moved.id);
            moved
                .points
                .iter_mut()
                .for_each(|point| point.id = point_id(point.id));
            *device = Arc::new(moved);
        }
    }

    /// What is to be done so that `self`, which continues from `running`, is what runs.
    pub fn differs_from(&self, running: &Self) -> Diff {
        let mut diff = Diff {
            needs_restart: self.needs_restart(running),
            ..Diff::default()
        };
        let by_name = |lines: &[Line]| -> HashMap<String, Line> {
            lines
                .iter()
                .map(|line| (line.name.clone(), line.clone()))
                .collect()
        };
        let (old, new) = (by_name(&running.lines), by_name(&self.lines));
        for line in running
            .lines
            .iter()
            .filter(|line| !new.contains_key(&line.name))
        {
            diff.stops.push(line.name.clone());
            diff.told.push(format!("line {} is gone", line.name));
        }
        for line in &self.lines {
            match old.get(&line.name) {
                Some(before) if before == line => {}
                Some(before) => {
                    diff.stops.push(line.name.clone());
                    diff.starts.push(line.name.clone());
                    diff.told.extend(what_changed(before, line));
                }
                None => {
                    diff.starts.push(line.name.clone());
                    diff.told.push(format!(
                        "line {} is new, with {} devices",
                        line.name,
                        line.devices.len()
                    ));
                }
            }
        }
        let shown = self
            .points
            .iter()
            .zip(running.points.iter())
            .filter(|(one, other)| one != other)
            .count();
        if shown > 0 {
            diff.told
                .push(format!("{shown} points are reported in another way"));
        }
        for (index, (one, other)) in self.uplinks.iter().zip(&running.uplinks).enumerate() {
            if one.settings != other.settings {
                diff.uplinks.push(index);
                let is_content = one.settings
                    == Settings {
                        content: one.settings.content,
                        ..other.settings.clone()
                    };
                let why = if is_content {
                    ": its certificates or its password file hold something else"
                } else {
                    ""
                };
                diff.told
                    .push(format!("uplink {} connects anew{why}", one.settings.name));
            }
        }
        for (one, other) in self.uplinks.iter().zip(&running.uplinks) {
            let (name, one, other) = (&one.settings.name, &one.routes, &other.routes);
            if one.send != other.send {
                let are_as_many = one.send.len() == other.send.len();
                let what = if are_as_many {
                    "other send rules".to_owned()
                } else {
                    format!(
                        "{} send rules instead of {}",
                        one.send.len(),
                        other.send.len()
                    )
                };
                diff.told.push(format!("uplink {name}: {what}"));
            }
            if one.rate != other.rate {
                diff.told.push(format!("uplink {name}: its rate"));
            }
            if one.receive != other.receive || one.commands != other.commands {
                diff.told.push(format!(
                    "uplink {name}: receive rules or command topics changed"
                ));
            }
        }
        if let (Some(one), Some(other)) = (&self.broker, &running.broker)
            && one.access != other.access
        {
            diff.told
                .push("broker: users or what they may do".to_owned());
        }
        diff
    }

    fn needs_restart(&self, running: &Self) -> Vec<String> {
        let mut parts = Vec::new();
        let mut check = |is_same: bool, what: &str| {
            if !is_same {
                parts.push(what.to_owned());
            }
        };
        check(self.site == running.site, "site");
        // Its topic is that of the site.
        let health = |gateway: &Self| {
            gateway.health.clone().map(|health| HealthMessages {
                topic: String::new(),
                ..health
            })
        };
        check(health(self) == health(running), "health");
        check(
            self.folder == running.folder && self.outbox == running.outbox,
            "outbox",
        );
        check(self.log == running.log, "log");
        check(
            self.shutdown_grace == running.shutdown_grace,
            "shutdown_grace",
        );
        match (&self.broker, &running.broker) {
            (Some(one), Some(other)) => {
                check(
                    one.listen == other.listen && one.tls == other.tls,
                    "broker.listen and broker.tls",
                );
                check(one.origins == other.origins, "broker.allow_origins");
                check(
                    one.limits == other.limits
                        && one.admission == other.admission
                        && one.is_durable == other.is_durable,
                    "limits of the broker",
                );
            }
            (one, other) => check(one.is_none() && other.is_none(), "broker"),
        }
        let names = |gateway: &Self| -> Vec<String> {
            gateway
                .uplinks
                .iter()
                .map(|uplink| uplink.settings.name.clone())
                .collect()
        };
        check(names(self) == names(running), "the list of uplinks");
        for (one, other) in self
            .uplinks
            .iter()
            .zip(&running.uplinks)
            .filter(|(one, other)| one.settings.name == other.settings.name)
        {
            let (one, other) = (&one.settings, &other.settings);
            let is_same = one.index == other.index
                && one.use_when == other.use_when
                && one.connect_within == other.connect_within;
            check(
                is_same && one.client_id == other.client_id,
                &format!(
                    "use_when, connect_within and client_id of uplink {}",
                    one.name
                ),
            );
            check(one.save_every == other.save_every, "outbox");
        }
        parts
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

fn set(list: &mut [Option<usize>], index: usize, number: usize) {
    if let Some(place) = list.get_mut(index) {
        *place = Some(number);
    }
}

/// `new` at its numbers, and `old` where nothing new stands.
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
    let mut told = Vec::new();
    if before.wire != line.wire || before.answer_within != line.answer_within {
        told.push(format!("line {}: its wire", line.name));
    }
    if before.manners != line.manners {
        told.push(format!(
            "line {}: its pauses, or what it accepts",
            line.name
        ));
    }
    let names = |line: &Line| -> HashSet<String> {
        line.devices
            .iter()
            .map(|device| device.name.clone())
            .collect()
    };
    let (old, new) = (names(before), names(line));
    let mut list = |what: &str, mut names: Vec<&String>| {
        names.sort();
        if !names.is_empty() {
            let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            told.push(format!("line {}: {what} {}", line.name, names.join(", ")));
        }
    };
    list("without", old.difference(&new).collect());
    list("with", new.difference(&old).collect());
    let is_other = |name: &&String| {
        let of = |line: &Line| {
            line.devices
                .iter()
                .find(|device| device.name == **name)
                .cloned()
        };
        of(before) != of(line)
    };
    list(
        "changed:",
        new.intersection(&old).filter(is_other).collect(),
    );
    told
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
        assert_eq!(diff.told, ["line a: with zero", "line a: changed: one"]);
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
            (diff.stops.len(), diff.told.as_slice()),
            (0, &["3 points are reported in another way".to_owned()][..])
        );
        let uplink = |rate: &str, rate_of_rule: &str| {
            gateway(&format!(
                "{FILE}outbox: {{ folder: state }}\nuplinks: [ {{ name: cloud, to: mqtt://127.0.0.1:1885, rate: {rate}, send: [ {{ filter: '#', rate: {rate_of_rule} }} ] }} ]\n"
            ))
        };
        let running_uplink = uplink("10/s", "5/s");
        let told = |next: Gateway| next.differs_from(&running_uplink).told;
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
