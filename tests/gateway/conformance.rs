//! `tests/conformance/*.tsv`: for each numbered statement of the standards the scripts and tests
//! that show it, or why there is none.

use std::fs;
use std::path::Path;

fn check(table: &str, statements: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/conformance").join(table)).unwrap();
    let rows: Vec<(&str, &str)> = text
        .lines()
        .skip(1)
        .map(|line| line.split_once('\t').unwrap())
        .collect();
    assert_eq!(rows.len(), statements, "every statement has a row");
    let mut unknown = Vec::new();
    for (statement, shown_by) in rows {
        assert!(
            statement.starts_with("MQTT-") && !shown_by.is_empty(),
            "{statement}"
        );
        if shown_by.starts_with("client:") || shown_by.starts_with("does not apply:") {
            continue;
        }
        unknown.extend(
            shown_by
                .split(", ")
                .filter(|name| !exists(root, name))
                .map(|name| format!("{statement}: {name}")),
        );
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

fn exists(root: &Path, name: &str) -> bool {
    if name.starts_with("scripts/") {
        return root.join("tests").join(name).exists();
    }
    let (module, test) = name.split_once("::").unwrap();
    let test = test.trim_start_matches("tests::");
    let places = [
        root.join(format!("tests/gateway/{module}.rs")),
        root.join(format!("src/mqtt/{module}.rs")),
        root.join(format!("src/broker/engine/{module}.rs")),
    ];
    let names_it = |text: String| text.contains(&format!("fn {test}("));
    places
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(names_it)
}

#[test]
fn every_statement_of_mqtt_5_has_a_test_or_a_reason() {
    check("mqtt-5.0.tsv", 251);
}

#[test]
fn every_statement_of_mqtt_3_1_1_has_a_test_or_a_reason() {
    check("mqtt-3.1.1.tsv", 113);
}
