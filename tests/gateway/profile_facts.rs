//! What the profiles of the program know stands in keys, not in comments: raw values that mean "no
//! value", the settings as delivered, the direction of power, energy and current, and names out of
//! one vocabulary (`tests/vocabulary.txt`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_yaml::Value as Yaml;
use wellhead::config::{self, presets};
use wellhead::field::PointSource;

/// A point of a profile as typed.
struct Typed {
    name: String,
    keys: Yaml,
    comment: String,
}

impl Typed {
    fn text(&self, key: &str) -> Option<&str> {
        self.keys.get(key).and_then(Yaml::as_str)
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.keys.get(key).and_then(Yaml::as_f64)
    }

    /// Raw values that mean "no value", from the first to the last.
    fn broken(&self) -> Vec<(f64, f64)> {
        let one = |value: &Yaml| {
            let end = |key: &str| value.get(key).and_then(Yaml::as_f64);
            value
                .as_f64()
                .map(|value| (value, value))
                .or_else(|| Some((end("from")?, end("to")?)))
                .expect("a number or a range")
        };
        match self.keys.get("broken_value") {
            None => Vec::new(),
            Some(Yaml::Sequence(list)) => list.iter().map(one).collect(),
            Some(value) => vec![one(value)],
        }
    }

    /// Bits of a whole number, and whether it has a sign.
    fn bits(&self) -> Option<(u32, bool)> {
        let kind = self.text("type")?;
        let digits = kind.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        Some((
            digits.parse().ok().filter(|_| !kind.starts_with('f'))?,
            kind.starts_with('i'),
        ))
    }

    /// True if a register that holds `sentinel` has no value.
    fn lacks_value_at(&self, sentinel: Sentinel) -> bool {
        let kind = self.text("type").unwrap_or_default();
        let as_float =
            |bits: u64| f64::from(f32::from_bits(u32::try_from(bits).unwrap_or_default()));
        let shown = match sentinel {
            // The decoder takes no float that is not a number.
            Sentinel::Hex(bits) if kind == "f32" && as_float(bits).is_nan() => return true,
            Sentinel::Hex(bits) if kind == "f32" => as_float(bits),
            Sentinel::Hex(bits) => bits as f64,
            Sentinel::Decimal(number) => number,
        };
        // 0x8000 and -32768 are one value in an i16.
        let wrapped = |number: f64| match self.bits() {
            Some((bits, true)) if number >= 2_f64.powi(bits as i32 - 1) => {
                number - 2_f64.powi(bits as i32)
            }
            _ => number,
        };
        // Manuals write -3.4e38 for the least float.
        let exactness = if kind == "f32" {
            0.005 * shown.abs()
        } else {
            0.0
        };
        let shown = wrapped(shown);
        self.broken().iter().any(|(first, last)| {
            (wrapped(*first) - exactness..=wrapped(*last) + exactness).contains(&shown)
        })
    }
}

/// A number in a comment.
#[derive(Debug, Clone, Copy)]
enum Sentinel {
    Hex(u64),
    Decimal(f64),
}

fn text_of(name: &str) -> &'static str {
    presets::text(name).unwrap()
}

/// All profiles, those of plain instruments among them.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    presets::names().map(|name| (name, text_of(name)))
}

fn points(text: &str) -> Vec<Typed> {
    let profile: Yaml = serde_yaml::from_str(text).unwrap();
    let comments: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("  ")?.split_once(": {")?;
            Some((
                name,
                rest.split_once("   # ").map_or("", |(_, comment)| comment),
            ))
        })
        .collect();
    let mapping = profile.get("points").and_then(Yaml::as_mapping).unwrap();
    let point = |(name, keys): (&Yaml, &Yaml)| {
        let name = name.as_str().unwrap().to_owned();
        let comment = comments
            .get(name.as_str())
            .copied()
            .unwrap_or_default()
            .to_owned();
        Typed {
            name,
            keys: keys.clone(),
            comment,
        }
    };
    mapping.iter().map(point).collect()
}

/// The sentences of the comments above the points, without sources.
fn sentences(text: &str) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    for line in text.lines().take_while(|line| *line != "points:") {
        let Some(comment) = line
            .strip_prefix('#')
            .or_else(|| line.split_once("   # ").map(|(_, comment)| comment))
        else {
            continue;
        };
        match (comment.strip_prefix("   "), paragraphs.last_mut()) {
            (Some(more), Some(last)) => *last = format!("{last} {more}"),
            _ => paragraphs.push(comment.trim().to_owned()),
        }
    }
    paragraphs.retain(|paragraph| !paragraph.starts_with("Source:"));
    paragraphs
        .iter()
        .flat_map(|paragraph| paragraph.split(". "))
        .map(str::to_owned)
        .collect()
}

/// What comments call a value that is none.
const NO_VALUE: &str = r"not available|not implemented|not fitted|unavailable|unimplemented|out of range|no sensor|no value|not a number|nan|n/a|invalid|sentinels?|fault codes?|overflow (?:shows|reads)";
const NUMBER: &str = r"0x[0-9A-Fa-f]+|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?";

static PHRASE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!(r"(?i)\b(?:{NO_VALUE})\b|\boverflow:")).unwrap());
/// A sentence that says there is none.
static NONE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?i)\bno ("not available"|sentinel)"#).unwrap());
/// A type, the word for its highest value, or a number.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(r"\b(?:(?P<kind>[uif](?:16|32|64)|acc(?:32|64)|sunssf)|(?P<ones>all ones))\b|(?:^|[\s(=,])(?P<number>{NUMBER})\b"))
        .unwrap()
});
/// `0x8000 = no sensor`.
static BEFORE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(
        r"(?i)(?:^|[\s(=,])(?P<number>{NUMBER})(?: =| is| means)? (?:{NO_VALUE})\b"
    ))
    .unwrap()
});

/// What a comment says of values that are none: the type it says it of, and the value.
fn sentinels(sentence: &str) -> Vec<(Option<String>, Sentinel)> {
    if NONE.is_match(sentence) {
        return Vec::new();
    }
    let number_of = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(Sentinel::Hex),
        None => text.parse().ok().map(Sentinel::Decimal),
    };
    let mut found = Vec::new();
    for clause in sentence.split(';') {
        if let Some(number) = BEFORE
            .captures(clause)
            .and_then(|found| number_of(&found["number"]))
        {
            found.push((None, number));
        }
        let Some(said) = PHRASE.find(clause) else {
            continue;
        };
        let mut kind: Option<String> = None;
        for word in WORD.captures_iter(&clause[said.end()..]) {
            if let Some(named) = word.name("kind") {
                kind = Some(named.as_str().replace("sunssf", "i16"));
            } else if word.name("ones").is_some() {
                let bits: Option<u32> = kind
                    .as_deref()
                    .and_then(|kind| kind.trim_start_matches(char::is_alphabetic).parse().ok());
                found.extend(
                    bits.map(|bits| (kind.clone(), Sentinel::Hex(u64::MAX >> (64 - bits)))),
                );
            } else if let Some(number) = word
                .name("number")
                .and_then(|number| number_of(number.as_str()))
            {
                found.push((kind.clone(), number));
            }
        }
    }
    found
}

/// Where a comment knows of a value that is none, and the points do not.
fn lacking(text: &str) -> Vec<String> {
    let points = points(text);
    let mut lacking = Vec::new();
    for sentence in sentences(text) {
        for (kind, sentinel) in sentinels(&sentence) {
            // Said of a type it holds for each point of it; else there is one that it was said of.
            let of_type: Vec<&Typed> = points
                .iter()
                .filter(|point| kind.is_none() || point.text("type") == kind.as_deref())
                .collect();
            let lacks = |point: &&&Typed| !point.lacks_value_at(sentinel);
            match &kind {
                Some(kind) => {
                    let names = of_type.iter().filter(lacks).map(|point| {
                        format!("{}: {kind} {sentinel:?} by `{sentence}`", point.name)
                    });
                    lacking.extend(names);
                }
                None if of_type.iter().all(|point| !point.lacks_value_at(sentinel)) => {
                    lacking.push(format!("{sentinel:?} by `{sentence}`"));
                }
                None => {}
            }
        }
    }
    for point in &points {
        let said = sentinels(&point.comment)
            .into_iter()
            .filter(|(_, sentinel)| !point.lacks_value_at(*sentinel));
        lacking.extend(
            said.map(|(_, sentinel)| {
                format!("{}: {sentinel:?} by `{}`", point.name, point.comment)
            }),
        );
    }
    lacking
}

#[test]
fn points_have_every_sentinel_that_a_comment_names() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (name, text) in all() {
        wrong.extend(
            lacking(text)
                .into_iter()
                .map(|lacking| format!("{name} {lacking}")),
        );
        let of_points = points(text)
            .iter()
            .map(|point| sentinels(&point.comment).len())
            .sum::<usize>();
        checked += sentences(text)
            .iter()
            .map(|sentence| sentinels(sentence).len())
            .sum::<usize>()
            + of_points;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked >= 120, "{checked} sentinels in comments");
}

#[test]
fn a_sentinel_that_only_a_comment_knows_is_found() {
    let profile = |comment: &str, point: &str| {
        format!("# A device\n# {comment}\npoints:\n  p: {{ holding: 0, {point} }}\n")
    };
    for (comment, point) in [
        ("Not available: u16 0xFFFF, i16 0x8000.", "type: u16"),
        (
            "Not available: i16 0x8000.",
            "type: i16, broken_value: 32767",
        ),
        ("0x8000 = no sensor or fault. Address 7.", "type: i16"),
        (
            "Sentinels: u16 65535, 65534.",
            "type: u16, broken_value: 65535",
        ),
        (
            "Fault codes 65528 to 65535.",
            "type: u16, broken_value: { from: 65529, to: 65535 }",
        ),
        ("NaN: u64 all ones.", "type: u64"),
        ("Overflow: i32 0x7FFFFFFF.", "type: i32"),
        ("A counter of 0 is no value.", "type: acc32"),
        ("Status: 3 running, 15 not available.", "type: u16"),
        ("Not available float: -3.4e38.", "type: f32"),
        ("Invalid values read 32767.", "type: i16"),
        ("Unit 1.", "type: u16 }   # 0 off 1 on 255 not available"),
        ("Raw 65501 to 65535 is out of range.", "type: u16"),
    ] {
        // The comment of a point ends its line.
        let text = profile(comment, point);
        let text = if point.contains('#') {
            text.replace(" }\n", "\n")
                .replace("type: u16\n", "type: u16 }\n")
        } else {
            text
        };
        assert_eq!(lacking(&text).len(), 1, "{text}");
    }
    for (comment, point) in [
        (
            "Not available: u16 0xFFFF, i16 0x8000.",
            "type: i16, broken_value: -32768",
        ),
        (
            "Not available: i16 0x8000.",
            "type: i16, broken_value: 32768",
        ),
        (
            "0x8000 = no sensor. Reads 40 registers.",
            "type: i16, broken_value: 0x8000",
        ),
        (
            "Fault codes 65528 to 65535.",
            "type: u16, broken_value: { from: 65528, to: 65535 }",
        ),
        ("Not available: NaN, 0x7FC00000.", "type: f32"),
        (
            "Not available float: -3.4e38 (0xFF7FFFFF).",
            "type: f32, broken_value: -3.4028234663852886e38",
        ),
        ("No sentinel known; night reads give 0.", "type: u16"),
        (
            "Raw 65501 to 65535 is out of range.",
            "type: u16, broken_value: { from: 65501, to: 65535 }",
        ),
    ] {
        assert_eq!(lacking(&profile(comment, point)), Vec::<String>::new());
    }
    // Eight codes in the comment, and one of them in the point.
    let before = "# A genset\n# Top codes mean no value: u16 65535, 65534, 65533, 65532, 65531, 65530, 65529, 65528.\npoints:\n  oil_pressure: { holding: 1024, type: u16, broken_value: 65535, unit: kPa }\n";
    assert_eq!(lacking(before).len(), 7);
}

/// GenComm 2.210: the eight top codes of each type.
#[test]
fn no_code_of_gencomm_is_a_measurement() {
    let yaml = "site: x\nlines: [ { name: l, modbus_tcp: '127.0.0.1:9' } ]\ndevices: [ { name: d, line: l, unit: 10, profile: dse-73xx } ]\n";
    let gateway = config::parse("gateway.yaml", yaml, Path::new("/")).unwrap();
    let device = &gateway.lines[0].devices[0];
    assert!(device.points.len() >= 30, "{}", device.points.len());
    for point in &device.points {
        let PointSource::Register { register, .. } = &point.source else {
            panic!("{} is no register", point.name)
        };
        let top: u32 = match register.meaning.kind.name() {
            "u16" => 0xFFFF,
            "i16" => 0x7FFF,
            "u32" => 0xFFFF_FFFF,
            "i32" => 0x7FFF_FFFF,
            other => panic!("{} is {other}", point.name),
        };
        let decode = |value: u32| {
            let words = [(value >> 16) as u16, value as u16];
            register.decode(&words[2 - usize::from(register.width())..], None)
        };
        for code in 0..8 {
            assert!(
                decode(top - code).is_err(),
                "{}: {:#X} is good",
                point.name,
                top - code
            );
        }
        assert!(decode(top - 8).is_ok(), "{}: {:#X}", point.name, top - 8);
    }
}

#[test]
fn profiles_know_how_their_devices_are_delivered() {
    let speed = Regex::new(r"\b(?:\d{4,6} )?[78][NEO][12]\b").unwrap();
    let mut known = 0;
    for (name, text) in all() {
        let factory = config::factory(Path::new("/"), name).unwrap_or_else(|| panic!("{name}"));
        let says = text
            .lines()
            .find(|line| line.starts_with("# As delivered: "));
        assert_eq!(
            factory.is_empty(),
            says.is_some(),
            "{name}: either `factory:` or a comment that says why it is not known"
        );
        assert!(
            says.is_none_or(|says| !speed.is_match(says)),
            "{name}: {says:?} is for `factory:`"
        );
        // Only over TCP a unit may be 0, or above 247.
        assert!(
            !factory.ports.is_empty() || factory.units.iter().all(|unit| (1..=247).contains(unit)),
            "{name}"
        );
        known += usize::from(!factory.is_empty());
    }
    assert!(known >= 110, "{known}");
    let shown = |name: &str| config::factory(Path::new("/"), name).unwrap().to_string();
    assert_eq!(shown("eastron-sdm120"), "2400 8N1 or 9600 8N1, unit 1");
    assert_eq!(shown("goodwe-et"), "9600 8N1, unit 247, TCP port 502");
    assert_eq!(
        shown("dse-73xx"),
        "19200 8N1 or 115200 8N1, unit 10 or 1, TCP port 502"
    );
    assert_eq!(shown("sunspec-103"), "unit 1, TCP port 502 or 1502");
    assert_eq!(shown("iec62056-21"), "300 7E1");
    assert_eq!(shown("vaisala"), "4800 7E1 or 19200 8N1, address 0");
}

/// What counts above zero by the name of a point: grid + production + battery = consumption, and
/// what counts one way only says so.
fn directions(name: &str) -> &'static [&'static str] {
    let is = |part: &str| name.split('_').any(|other| other == part);
    if is("export") {
        &["export", "magnitude"]
    } else if is("import") || is("net") {
        &["import"]
    } else if is("discharge") {
        &["discharge", "magnitude"]
    } else if is("charge") {
        &["charge", "magnitude"]
    } else if name.starts_with("battery") {
        &["discharge", "magnitude"]
    } else if name.starts_with("grid") || name.starts_with("meter") {
        &["import", "magnitude"]
    } else if name.starts_with("pv")
        || name.starts_with("energy_yield")
        || name.starts_with("genset")
    {
        &["production"]
    } else if name.starts_with("load") {
        &["consumption"]
    } else {
        &[
            "import",
            "production",
            "consumption",
            "discharge",
            "magnitude",
        ]
    }
}

#[test]
fn power_energy_and_current_have_one_convention_of_signs() {
    let mut stated = 0;
    let mut wrong = Vec::new();
    for (name, text) in all() {
        let points = points(text);
        for point in points
            .iter()
            .filter(|point| matches!(point.text("unit"), Some("W" | "A" | "kWh")))
        {
            let kind = point.text("type").unwrap_or("expression");
            let is_flipped = point.number("scale").is_some_and(|scale| scale < 0.0);
            let has_sign = kind.starts_with(['i', 'f', 'e']) || kind.contains("sign") || is_flipped;
            let positive = point.text("positive");
            match positive {
                None if has_sign => wrong.push(format!(
                    "{name} {}: it can be below zero, and has no `positive:`",
                    point.name
                )),
                Some(_) if !has_sign => wrong.push(format!(
                    "{name} {}: it is never below zero; remove `positive:`",
                    point.name
                )),
                Some(positive) if !directions(&point.name).contains(&positive) => {
                    wrong.push(format!("{name} {}: {positive}", point.name));
                }
                Some(_) => stated += 1,
                None => {}
            }
        }
        if text.contains("positive = ") || text.contains("negative = export") {
            wrong.push(format!(
                "{name}: a comment says a direction; that is for `positive:`"
            ));
        }
        // The powers of a device count in one direction.
        let own: BTreeSet<&str> = points
            .iter()
            .filter(|point| {
                point.name == "power" || point.name.starts_with("power_l") && point.name.len() == 8
            })
            .filter_map(|point| point.text("positive"))
            .collect();
        if own.len() > 1 {
            wrong.push(format!("{name}: its powers count as {own:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(stated >= 300, "{stated}");
}

/// Devices whose manuals count the other way: register in, value out.
#[test]
fn devices_that_count_the_other_way_are_turned_round() {
    for (profile, point, words, expected) in [
        ("goodwe-et", "grid_power", &[0xFFFF, 0xF830][..], 2000.0),
        ("goodwe-et", "meter_power", &[0x0000, 0x07D0], -2000.0),
        ("huawei-sun2000", "grid_power", &[0x0000, 0x07D0], -2000.0),
        (
            "huawei-luna2000",
            "battery_power",
            &[0x0000, 0x07D0],
            -2000.0,
        ),
        (
            "solaredge-battery",
            "battery_power",
            &[0x8000, 0x44BB],
            -1500.0,
        ),
        ("solis-inverter", "grid_power", &[0x0000, 0x07D0], -2000.0),
        ("sungrow-sh", "grid_power", &[0x07D0, 0x0000], -2000.0),
        ("sungrow-sh", "battery_power", &[0x07D0, 0x0000], 2000.0),
        ("victron-battery", "battery_current", &[0x0064], -10.0),
        ("victron-system", "battery_power", &[0x03E8], -1000.0),
        ("victron-system", "grid_power_l1", &[0x03E8], 1000.0),
        ("victron-vebus", "battery_current", &[0xFF9C], 10.0),
        ("epever-tracer", "battery_current", &[0x01F4, 0x0000], -5.0),
        (
            "pylontech-hv-bms",
            "battery_current",
            &[0x0000, 0x03E8],
            -10.0,
        ),
        (
            "deye-sunsynk-three-phase",
            "battery_power",
            &[0x03E8],
            1000.0,
        ),
    ] {
        let yaml = format!(
            "site: x\nlines: [ {{ name: l, modbus_tcp: '127.0.0.1:9' }} ]\ndevices: [ {{ name: d, line: l, unit: 1, profile: {profile} }} ]\n"
        );
        let gateway = config::parse("gateway.yaml", &yaml, Path::new("/")).unwrap();
        let point = gateway.lines[0].devices[0]
            .points
            .iter()
            .find(|own| &*own.name == point)
            .unwrap_or_else(|| panic!("{profile} {point}"));
        let PointSource::Register { register, .. } = &point.source else {
            panic!("{profile} {} is no register", point.name)
        };
        assert_eq!(
            register.decode(words, None).unwrap().as_f64(),
            Some(expected),
            "{profile} {}",
            point.name
        );
    }
}

/// A name of the vocabulary as a pattern.
fn pattern(name: &str) -> Regex {
    let name = name
        .replace("{1-3}", "[123]")
        .replace("{12,23,31}", "(12|23|31)")
        .replace("{n}", r"\d+");
    Regex::new(&format!("^{name}$")).unwrap()
}

struct Vocabulary {
    /// Names with their units.
    common: Vec<(Regex, BTreeSet<String>)>,
    /// Names of one device, by profile.
    own: BTreeMap<String, Vec<Regex>>,
}

impl Vocabulary {
    fn read(text: &str) -> Self {
        let mut vocabulary = Self {
            common: Vec::new(),
            own: BTreeMap::new(),
        };
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if let Some((profile, names)) = line
                .strip_prefix('[')
                .and_then(|line| line.split_once("] "))
            {
                let names = names.split(' ').map(pattern).collect();
                assert!(
                    vocabulary.own.insert(profile.to_owned(), names).is_none(),
                    "{profile} is there twice"
                );
            } else {
                let (name, units) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
                vocabulary.common.push((
                    pattern(name),
                    units.split(" or ").map(str::to_owned).collect(),
                ));
            }
        }
        vocabulary
    }

    /// What is wrong with a point, if anything.
    fn judge(&self, profile: &str, name: &str, unit: &str) -> Option<String> {
        if let Some((_, units)) = self.common.iter().find(|(known, _)| known.is_match(name)) {
            return (!units.contains(unit)).then(|| {
                format!("{profile} {name} has the unit {unit}, and in the vocabulary {units:?}")
            });
        }
        let is_own = self
            .own
            .get(profile)
            .is_some_and(|names| names.iter().any(|known| known.is_match(name)));
        let is_power_of_ten = name.ends_with("_sf") && unit == "-";
        (!is_own && !is_power_of_ten).then(|| {
            format!("{profile} {name}: not in tests/vocabulary.txt; take a name from there, or list it as one of this device alone")
        })
    }
}

fn vocabulary() -> Vocabulary {
    Vocabulary::read(
        &fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabulary.txt"))
            .unwrap(),
    )
}

#[test]
fn points_of_all_profiles_are_called_alike() {
    let vocabulary = vocabulary();
    let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (profile, text) in all() {
        for point in points(text) {
            wrong.extend(vocabulary.judge(profile, &point.name, point.text("unit").unwrap_or("-")));
            used.entry(profile.to_owned()).or_default().push(point.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (profile, names) in &vocabulary.own {
        let points = used
            .get(profile)
            .unwrap_or_else(|| panic!("there is no profile {profile}"));
        for name in names {
            assert!(
                points.iter().any(|point| name.is_match(point)),
                "{profile} has no {name}; remove it from tests/vocabulary.txt"
            );
            assert!(
                !vocabulary
                    .common
                    .iter()
                    .any(|(known, _)| known.as_str() == name.as_str()),
                "{profile} {name} is in the vocabulary"
            );
        }
    }
    for (name, _) in &vocabulary.common {
        assert!(
            used.values().flatten().any(|point| name.is_match(point)),
            "no profile has {name}; remove it from tests/vocabulary.txt"
        );
    }
}

#[test]
fn another_name_or_unit_for_the_same_thing_is_found() {
    let vocabulary = vocabulary();
    for (name, unit) in [
        ("current-l1", "A"),
        ("active_power", "W"),
        ("power", "kW"),
        ("serial", "-"),
        ("current_l4", "A"),
        ("power_l1", "-"),
    ] {
        // The fourth current is a name of the vocabulary, of one meter.
        let is_known = name == "current_l4";
        assert_eq!(
            vocabulary.judge("eastron-sdm630", name, unit).is_none(),
            is_known,
            "{name}"
        );
    }
    assert_eq!(vocabulary.judge("eastron-sdm630", "current_l1", "A"), None);
    assert!(
        vocabulary
            .judge("eastron-sdm630", "rfid_card", "-")
            .is_some(),
        "a name of another device"
    );
}
