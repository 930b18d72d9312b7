//! The profiles that come with the program: each is correct, names its source, and means what
//! manuals say (`tests/profiles.txt`).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use wellhead::config::{self, presets};
use wellhead::field::{Device, PointSource};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A device of the profile, as a file with nothing else makes it.
fn device(profile: &str) -> Device {
    let is_plain = fs::read_to_string(root().join(format!("src/config/presets/{profile}.yaml")))
        .unwrap()
        .contains("\ntext:");
    let wire = if is_plain {
        "tcp: '127.0.0.1:9'"
    } else {
        "modbus_tcp: '127.0.0.1:9'"
    };
    let yaml = format!(
        "site: x\nlines: [ {{ name: l, {wire} }} ]\ndevices: [ {{ name: d, line: l, profile: {profile}, address: '000000000001' }} ]\n"
    );
    let yaml = if is_plain {
        yaml
    } else {
        yaml.replace(", address: '000000000001'", ", unit: 1")
    };
    let gateway = config::parse("gateway.yaml", &yaml, Path::new("/"))
        .unwrap_or_else(|faults| panic!("{profile}: {faults:#?}"));
    Device::clone(&gateway.lines[0].devices[0])
}

#[test]
fn every_profile_is_correct_and_names_its_source() {
    let mut modbus = 0;
    for name in presets::names() {
        let device = device(name);
        assert!(!device.points.is_empty(), "{name}");
        if device.protocol.is_modbus() {
            let text =
                fs::read_to_string(root().join(format!("src/config/presets/{name}.yaml"))).unwrap();
            assert!(
                text.lines().any(|line| line.starts_with("# Source: ")),
                "{name} names no source"
            );
            modbus += 1;
        }
    }
    assert!(modbus >= 40, "{modbus} profiles");
}

#[test]
fn registers_mean_what_the_manuals_say() {
    let mut devices: HashMap<String, Device> = HashMap::new();
    let mut shown: BTreeSet<String> = BTreeSet::new();
    let text = fs::read_to_string(root().join("tests/profiles.txt")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (left, expected) = line.split_once(" = ").unwrap();
        let (name, given) = left.split_once(": ").unwrap();
        let (profile, point) = name.split_once(' ').unwrap();
        let device = devices
            .entry(profile.to_owned())
            .or_insert_with(|| device(profile));
        let point = device
            .points
            .iter()
            .find(|own| &*own.name == point)
            .unwrap_or_else(|| panic!("{line}: no such point"));
        let (words, exponent) = given.split_once(" e").unwrap_or((given, ""));
        let words: Vec<u16> = words
            .split(' ')
            .map(|word| u16::from_str_radix(word, 16).unwrap())
            .collect();
        let PointSource::Register {
            register,
            exponent: other,
        } = &point.source
        else {
            panic!("{line}: not a register")
        };
        assert_eq!(other.is_some(), !exponent.is_empty(), "{line}");
        let value = register
            .decode(&words, exponent.parse().ok())
            .unwrap_or_else(|why| panic!("{line}: {why}"));
        let value = value
            .as_f64()
            .unwrap_or_else(|| panic!("{line}: no number"));
        // As exact as the value was printed, and as a single-precision float can be.
        let decimals = expected
            .split_once('.')
            .map_or(0, |(_, decimals)| decimals.len());
        let expected: f64 = expected.parse().unwrap();
        let exactness =
            0.51 * 10_f64.powi(-i32::try_from(decimals).unwrap()) + 1e-6 * expected.abs();
        assert!((value - expected).abs() <= exactness, "{line}: {value}");
        shown.insert(profile.to_owned());
    }
    assert!(shown.len() >= 40, "{} profiles", shown.len());
}
