//! The profiles that come with the program, each played by the simulator and read by the engine of
//! the gateway: every point is good, nothing is refused, and values are those of such instruments.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use wellhead::config::{self, presets};
use wellhead::field::counts::LineCounts;
use wellhead::field::decode::Table;
use wellhead::field::modbus::slave::{FaultInjector, Image, WirePace, serve_tcp};
use wellhead::field::modbus::unreadable::UnreadableRange;
use wellhead::field::text::TextProtocol;
use wellhead::field::{Device, DeviceProtocol, Line, LineTask, PlayedDevices, Point, PointSource};
use wellhead::reading::{Event, Quality, Value};
use wellhead::status::sys_topics;
use wellhead::tasks::{StopSwitch, stop_token};
use wellhead::time::now;

/// How long all profiles together may take until every point was read.
const LONGEST: Duration = Duration::from_secs(60);

/// What instruments show in a unit: from, to. Names in a unit come before the unit.
const RANGES: [(&str, &str, f64, f64); 78] = [
    ("V", "offset", -10.0, 10.0),
    ("V", "cell", 2.5, 4.2),
    ("V", "alternator", 10.0, 30.0),
    ("V", "starter", 10.0, 30.0),
    ("V", "battery", 10.0, 1000.0),
    ("V", "charge", 10.0, 1000.0),
    ("V", "pv", 10.0, 1000.0),
    ("V", "dc", 10.0, 1000.0),
    ("V", "string", 10.0, 1000.0),
    ("V", "mppt", 10.0, 1000.0),
    ("V", "link", 10.0, 1000.0),
    ("V", "analog", 0.0, 10.0),
    ("V", "l12", 360.0, 440.0),
    ("V", "l23", 360.0, 440.0),
    ("V", "l31", 360.0, 440.0),
    ("V", "line", 360.0, 440.0),
    ("V", "_ll", 360.0, 440.0),
    ("V", "bus", 10.0, 1000.0),
    // 230 V and a tenth more or less; what a register of small scale holds of it.
    ("V", "", 207.0, 253.0),
    ("kV", "", 0.2, 30.0),
    ("A", "", -100.0, 100.0),
    ("mA", "", 0.0, 25.0),
    ("W", "", -20_000.0, 20_000.0),
    ("kW", "", -20.0, 20.0),
    ("VA", "", -20_000.0, 20_000.0),
    ("kVA", "", -20.0, 20.0),
    ("var", "", -20_000.0, 20_000.0),
    ("kvar", "", -20.0, 20.0),
    ("Hz", "", 45.0, 55.0),
    ("%", "", 0.0, 100.0),
    ("degC", "correction", -10.0, 10.0),
    ("degC", "differential", -10.0, 10.0),
    ("degC", "offset", -10.0, 10.0),
    ("degC", "dew", -20.0, 30.0),
    ("degC", "", 20.0, 60.0),
    ("K", "", 0.0, 373.0),
    ("Wh", "", 0.0, 1e9),
    ("kWh", "", 0.0, 1e6),
    ("MWh", "", 0.0, 1e3),
    ("varh", "", 0.0, 1e9),
    ("kvarh", "", 0.0, 1e6),
    ("VAh", "", 0.0, 1e9),
    ("kVAh", "", 0.0, 1e6),
    ("Ah", "", -1000.0, 1000.0),
    ("s", "", 0.0, 1e9),
    ("min", "", 0.0, 1e4),
    ("ms", "", 0.0, 1e5),
    ("h", "", 0.0, 1e5),
    ("m3", "", 0.0, 1e6),
    ("m3/h", "", 0.0, 100.0),
    ("m3/s", "", 0.0, 0.1),
    ("kg/h", "", 0.0, 1e5),
    ("kg/s", "", 0.0, 100.0),
    ("GJ/h", "", 0.0, 10.0),
    ("m/s", "sound", 1300.0, 1600.0),
    ("m/s", "", 0.0, 40.0),
    ("kn", "", 0.0, 60.0),
    ("as sent", "", 0.0, 60.0),
    ("rpm", "", 0.0, 3600.0),
    ("bar", "", 0.0, 16.0),
    ("kg", "", 0.0, 1000.0),
    ("GJ", "", 0.0, 1e4),
    ("kPa", "", 50.0, 1000.0),
    ("hPa", "", 950.0, 1050.0),
    ("deg", "", 0.0, 360.0),
    ("m", "", -10.0, 5000.0),
    ("mm", "", 0.0, 500.0),
    ("mm/h", "", 0.0, 100.0),
    ("W/m2", "", 0.0, 1400.0),
    ("ohm", "", 0.0, 1e4),
    ("Nm", "", -1000.0, 1000.0),
    ("S/m", "", 0.0, 10.0),
    ("ug/m3", "", 0.0, 500.0),
    ("1/0.1L", "", 0.0, 65_535.0),
    ("ddmm.mmmm", "", 0.0, 9000.0),
    ("dddmm.mmmm", "", 0.0, 18_000.0),
    ("", "power_factor", 0.0, 1.0),
    ("", "cos", 0.0, 1.0),
];

/// A line with a device of a profile.
struct Played {
    profile: String,
    line: Line,
    units: HashMap<String, String>,
    /// Points that hold the power of ten of others.
    powers: Vec<String>,
}

fn played(profile: &str, wire: &str, more: &str) -> Played {
    let yaml = format!(
        "site: x\nlines: [ {{ name: l, {wire}, answer_within: 20s }} ]\ndevices: [ {{ name: d, line: l, profile: {profile}{more} }} ]\n"
    );
    let config = config::parse("gateway.yaml", &yaml, Path::new("/"))
        .unwrap_or_else(|faults| panic!("{profile}: {faults:#?}"));
    let line = config.lines[0].clone();
    let unit = |point: &Point| {
        config.points[point.id.0 as usize]
            .unit
            .as_deref()
            .unwrap_or_default()
            .to_owned()
    };
    let units = line.devices[0]
        .points
        .iter()
        .map(|point| (point.name.to_string(), unit(point)))
        .collect();
    let points = &line.devices[0].points;
    let exponents = points.iter().filter_map(|point| {
        if let PointSource::Register { exponent, .. } = &point.source {
            exponent.clone()
        } else {
            None
        }
    });
    let exponents: HashSet<(Table, u16)> = exponents
        .map(|exponent| (exponent.table, exponent.address))
        .collect();
    let is_power = |point: &&Point| {
        point
            .register()
            .is_some_and(|register| exponents.contains(&(register.table, register.address)))
    };
    let powers = points
        .iter()
        .filter(is_power)
        .map(|point| point.name.to_string())
        .collect();
    Played {
        profile: profile.to_owned(),
        line,
        units,
        powers,
    }
}

fn is_plain(profile: &str) -> bool {
    presets::text(profile)
        .unwrap()
        .lines()
        .any(|line| line == "text:")
}

/// The places that no point needs: what one request reads of a profile stays between them, as if
/// the engine knew the device already.
fn gaps(device: &Device) -> Vec<UnreadableRange> {
    let mut needed: BTreeMap<(Table, String), (u32, u32)> = BTreeMap::new();
    for point in &device.points {
        let PointSource::Register { register, exponent } = &point.source else {
            continue;
        };
        for one in [Some(register), exponent.as_ref()].into_iter().flatten() {
            let field = point
                .group
                .as_deref()
                .map_or_else(|| point.name.to_string(), |group| format!("group {group}"));
            let (start, end) = (
                u32::from(one.address),
                u32::from(one.address) + u32::from(one.width()),
            );
            let whole = needed.entry((one.table, field)).or_insert((start, end));
            *whole = (whole.0.min(start), whole.1.max(end));
        }
    }
    let mut fields: Vec<(Table, u32, u32)> = needed
        .into_iter()
        .map(|((table, _), (start, end))| (table, start, end))
        .collect();
    fields.sort_unstable();
    let mut gaps = Vec::new();
    let mut reached = (Table::Coil, 0);
    for (table, start, end) in fields {
        if reached.0 == table && reached.1 < start {
            gaps.push(UnreadableRange {
                table,
                start: reached.1,
                end: start,
            });
        }
        reached = (
            table,
            if reached.0 == table {
                reached.1.max(end)
            } else {
                end
            },
        );
    }
    gaps
}

/// The task of a line: what it reports, what it counts, what stops it, and its end.
fn polled(
    line: &Line,
) -> (
    mpsc::Receiver<Event>,
    Arc<LineCounts>,
    StopSwitch,
    JoinHandle<()>,
) {
    let (events, reported) = mpsc::channel(64);
    let ((orders, asked), (questions, diagnostics)) = (mpsc::channel(1), mpsc::channel(1));
    let (switch, stop) = stop_token();
    let counts = Arc::new(LineCounts::new("l", ["d".to_owned()].into_iter()));
    let (heartbeat, folder) = (line.heartbeat(now()), None);
    let task = LineTask {
        heartbeat,
        line: line.clone(),
        events,
        counts: counts.clone(),
        folder,
        orders: asked,
        diagnostics,
        stop,
    };
    let running = tokio::spawn(async move {
        task.run().await;
        drop((orders, questions));
    });
    (reported, counts, switch, running)
}

/// Plays a profile and reads it until every point has a value, or the time is over: what is wrong
/// with it.
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
async fn wrong_with(profile: &str, is_known: bool) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (wire, more) = if is_plain(profile) {
        ("tcp", ", address: '000000000001'")
    } else {
        ("modbus_tcp", ", unit: 1")
    };
    let more = if profile == "sdi-12" {
        ", address: '0'"
    } else {
        more
    };
    let mut played = played(profile, &format!("{wire}: '127.0.0.1:{port}'"), more);
    let mut device = Device::clone(&played.line.devices[0]);
    if is_known {
        device.holes.extend(gaps(&device));
    }
    // A busy machine may take longer than an instrument: the line says how long.
    if let Some(talk) = device.protocol.text() {
        device.protocol = DeviceProtocol::Text(Arc::new(TextProtocol {
            answer_within: None,
            ..TextProtocol::clone(talk)
        }));
    }
    played.line.devices = vec![Arc::new(device)];
    let devices = played.line.devices.clone();
    let image = Image::new(&devices);
    let served = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (image, devices) = (image.clone(), devices.clone());
            tokio::spawn(serve(stream, image, devices));
        }
    });
    let (mut reported, counts, switch, running) = polled(&played.line);
    let points: HashMap<_, _> = played.line.devices[0]
        .points
        .iter()
        .map(|point| (point.id, point))
        .collect();
    let mut seen: HashMap<&str, Result<Value, String>> = HashMap::new();
    let all_good = async {
        while seen.len() < points.len() || seen.values().any(Result::is_err) {
            let reading = match reported.recv().await {
                Some(Event::Reading(reading)) => reading,
                Some(Event::Device { .. }) => continue,
                None => panic!("the task of the line has ended"),
            };
            let result = match (&reading.quality, reading.value) {
                (Quality::Good, Some(value)) => Ok(value),
                (quality, _) => Err(format!("{quality:?}")),
            };
            let name = &*points[&reading.point].name;
            // A scale shows gross and net weight in turn; each is good when it is shown.
            if !(is_plain(profile) && result.is_err() && matches!(seen.get(name), Some(Ok(_)))) {
                seen.insert(name, result);
            }
        }
    };
    let in_time = tokio::time::timeout(LONGEST, all_good).await;
    switch.stop();
    served.abort();
    drop(running.await);
    let mut wrong = Vec::new();
    if in_time.is_err() {
        let bad = points
            .values()
            .filter(|point| !matches!(seen.get(&*point.name), Some(Ok(_))));
        wrong.extend(
            bad.map(|point| format!("{profile} {}: {:?}", point.name, seen.get(&*point.name))),
        );
    }
    let text = sys_topics::line(&counts);
    let counts: serde_json::Value = serde_json::from_str(&text).unwrap();
    // What a script expects is no message: the driver counts it as junk.
    let junk = (!is_plain(profile)).then_some("junk_bytes");
    for kind in ["timeouts", "bad_checksums"]
        .into_iter()
        .chain(junk)
        .chain(is_known.then_some("exceptions"))
    {
        if counts.get(kind).is_some_and(|count| *count != 0) {
            wrong.push(format!("{profile}: {kind} {}", counts[kind]));
        }
    }
    wrong.extend(
        seen.iter()
            .filter_map(|(name, value)| unbelievable(&played, name, value.as_ref().ok()?)),
    );
    wrong
}

async fn serve(stream: TcpStream, image: Image, devices: Vec<Arc<Device>>) {
    let faults = Arc::new(Mutex::new(FaultInjector::default()));
    // Ends when the engine closes the connection.
    if !devices[0].protocol.is_modbus() {
        drop(PlayedDevices::new(devices).play(&faults, stream).await);
    } else {
        drop(serve_tcp(&image, &faults, WirePace::default(), stream).await);
    }
}

/// Says so if a value is none of such an instrument.
fn unbelievable(played: &Played, name: &str, value: &Value) -> Option<String> {
    let unit = &played.units[name];
    let plain = format!("_{}", name.replace('-', "_"));
    let complaint = |why: &str| Some(format!("{} {name}: {value} {unit} {why}", played.profile));
    if let Value::Text(text) = value {
        return if text.is_empty() {
            complaint("is empty")
        } else {
            None
        };
    }
    let Some(number) = value.as_f64() else {
        return complaint("is no number");
    };
    if played.powers.iter().any(|power| power == name) {
        return if (-10.0..=10.0).contains(&number) {
            None
        } else {
            complaint("is no power of ten of SunSpec")
        };
    }
    let range = RANGES
        .iter()
        .find(|(of, part, ..)| of == unit && plain.contains(part));
    let Some((.., least, most)) = range else {
        return if unit.is_empty() {
            None
        } else {
            complaint("is of no known unit")
        };
    };
    // Drives and limits have values of their own; they are only not absurd.
    let is_setting = [
        "max",
        "min",
        "limit",
        "setpoint",
        "rating",
        "threshold",
        "reference",
    ]
    .iter()
    .any(|word| plain.contains(word));
    let (least, most) = if is_setting {
        (least.min(0.0), most.max(*most))
    } else {
        (*least, *most)
    };
    if (least..=most).contains(&number) {
        None
    } else {
        complaint(&format!("is not within {least} to {most}"))
    }
}

#[track_caller]
fn check(is_known: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let wrong = runtime.block_on(async {
        // Plain instruments have nothing that is read together.
        let profiles = presets::names().filter(|name| !(is_known && is_plain(name)));
        let profiles: Vec<_> = profiles
            .map(|name| tokio::spawn(wrong_with(name, is_known)))
            .collect();
        assert!(profiles.len() >= 100, "{} profiles", profiles.len());
        let mut wrong = Vec::new();
        for profile in profiles {
            wrong.extend(profile.await.unwrap());
        }
        wrong
    });
    assert!(
        wrong.is_empty(),
        "{} faults:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_profile_is_played_so_that_all_its_points_become_good() {
    check(false);
}

#[test]
fn every_profile_is_played_without_an_exception_inside_of_what_one_request_must_bring() {
    check(true);
}

/// The value of a point as a simulator shows it so many seconds after its start.
fn shown(point: &Point, seconds: u64) -> f64 {
    point.signal.value(Duration::from_secs(seconds))
}

#[test]
fn values_move_and_energy_grows() {
    let (mut moving, mut growing) = (0, 0);
    for profile in presets::names().filter(|profile| !is_plain(profile)) {
        let played = played(profile, "modbus_tcp: '127.0.0.1:9'", ", unit: 1");
        for point in &played.line.devices[0].points {
            let unit = played.units[&*point.name].as_str();
            let is_rating = ["rating", "capacity", "available", "max", "nominal"]
                .iter()
                .any(|word| point.name.contains(word));
            if matches!(unit, "Wh" | "kWh" | "MWh" | "varh" | "kvarh")
                && !is_rating
                && !matches!(point.source, PointSource::Derived(_))
            {
                let hours = [0, 1, 24, 240, 24 * 365].map(|hours| shown(point, 3600 * hours));
                assert!(
                    hours.is_sorted_by(|one, next| one < next),
                    "{profile} {}: {hours:?}",
                    point.name
                );
                growing += 1;
            }
            if matches!(unit, "V" | "A" | "W" | "kW" | "Hz" | "degC")
                && (0..120).any(|second| shown(point, second) != shown(point, 0))
            {
                moving += 1;
            }
        }
    }
    assert!(
        growing > 150 && moving > 900,
        "{growing} counters grow, {moving} values move"
    );
}

/// Walks the chain of SunSpec models of unit 1 from the mark, as drivers do; what is read at most
/// 125 registers at a time.
fn walked(image: &Image, place: u16) -> Vec<(u16, u16)> {
    let read = |start: u16, count: u16| -> Vec<u16> {
        let [high, low] = start.to_be_bytes();
        let answer = image.answer(1, &[3, high, low, 0, count as u8]).unwrap();
        assert_eq!(
            answer[0], 3,
            "reading {count} registers at {start} is refused: {answer:?}"
        );
        answer[2..]
            .chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect()
    };
    assert_eq!(read(place, 2), [0x5375, 0x6E53], "the mark");
    let mut found = Vec::new();
    let mut at = place + 2;
    loop {
        let head = read(at, 2);
        if head == [0xFFFF, 0] {
            return found;
        }
        let last = at + 2 + head[1];
        for start in (at..last).step_by(125) {
            read(start, 125.min(last - start));
        }
        found.push((head[0], at));
        at = last;
        assert!(found.len() < 100, "no end: {found:?}");
    }
}

#[test]
fn sunspec_devices_have_their_mark_and_a_chain_of_models() {
    let image = |profile: &str, more: &str| {
        let played = played(
            profile,
            "modbus_tcp: '127.0.0.1:9'",
            &format!(", unit: 1{more}"),
        );
        Image::new(&played.line.devices)
    };
    for profile in presets::names().filter(|name| name.starts_with("sunspec-")) {
        let id: u16 = profile.strip_prefix("sunspec-").unwrap().parse().unwrap();
        for (base, place) in [
            ("", 40_000),
            (", base: 40121", 40_000),
            (", base: 50121", 50_000),
            (", base: 69", 0),
        ] {
            let found = walked(&image(profile, base), place);
            let ids: Vec<u16> = found.iter().map(|(id, _)| *id).collect();
            assert_eq!(
                (ids.first(), ids.last()),
                (Some(&1), Some(&id)),
                "{profile}{base}: {found:?}"
            );
        }
    }
    assert_eq!(
        walked(&image("sunspec-1", ", base: 40002"), 40_000),
        [(1, 40_002)]
    );
    let fronius = walked(&image("fronius-sunspec-int", ""), 40_000);
    assert_eq!(
        fronius.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [1, 103, 120, 121, 122, 123, 160, 124]
    );
    for profile in [
        "fronius-sunspec-float",
        "fronius-smart-meter-int",
        "fronius-smart-meter-float",
        "solaredge-inverter",
        "solaredge-meter",
    ] {
        assert_eq!(
            walked(&image(profile, ""), 40_000).first(),
            Some(&(1, 40_002)),
            "{profile}"
        );
    }
}
