//! Files with their faults, exactly and in order: `tests/config/<case>/gateway.yaml` with
//! `errors.txt`; `tests/config/bad/<case>.yaml`, where each fault stands in a comment
//! `#! <line>:<column> <message>` at the end; `tests/config/good/<case>.yaml` with warnings in
//! comments `#? ...`.

use std::fs;
use std::path::{Path, PathBuf};

use wellhead::config;
use wellhead::uplink::{Password, RemoteSecret};

use super::support::{peer, python};

fn check(folder: &Path) {
    let text = fs::read_to_string(folder.join("gateway.yaml")).unwrap();
    let found = match config::parse("gateway.yaml", &text, folder) {
        Ok(_) => String::new(),
        Err(faults) => faults.iter().map(|fault| format!("{fault}\n")).collect(),
    };
    let found = found.replace(&folder.display().to_string(), "<folder>");
    let expected = fs::read_to_string(folder.join("errors.txt")).unwrap_or_default();
    assert_eq!(found, expected, "{}", folder.display());
}

#[test]
fn every_case_gives_exactly_its_faults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut cases = 0;
    for entry in fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("gateway.yaml").exists() {
            check(&folder);
            cases += 1;
        }
    }
    assert!(cases >= 18, "{cases} cases");
}

/// The files of a folder of the corpus: names and texts.
fn corpus(kind: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read_to_string(file).unwrap()))
        .collect()
}

/// A file without what is expected of it, which some faults would be found behind.
fn typed(text: &str) -> String {
    text.split_inclusive('\n')
        .filter(|line| !line.starts_with("#! ") && !line.starts_with("#? "))
        .collect()
}

/// What the comments at the end of a file expect.
fn expected(text: &str, mark: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(mark))
        .map(str::to_owned)
        .collect()
}

fn told(faults: &[config::Diagnostic], file: &Path) -> Vec<String> {
    let folder = file.parent().unwrap().display().to_string();
    faults
        .iter()
        .map(|fault| {
            format!("{}:{} {}", fault.line, fault.column, fault.message)
                .replace(&folder, "<folder>")
        })
        .collect()
}

#[test]
fn every_broken_file_of_the_corpus_is_told_what_is_wrong() {
    let files = corpus("bad");
    for (file, text) in &files {
        let Err(faults) = config::parse("gateway.yaml", &typed(text), file.parent().unwrap())
        else {
            panic!("{} is correct", file.display())
        };
        assert_eq!(
            told(&faults, file),
            expected(text, "#! "),
            "{}",
            file.display()
        );
    }
    assert!(files.len() >= 200, "{}", files.len());
}

#[test]
fn every_good_file_of_the_corpus_is_correct_and_warned_of_what_will_hurt() {
    let files = corpus("good");
    for (file, text) in &files {
        let gateway = config::parse("gateway.yaml", &typed(text), file.parent().unwrap());
        let gateway = gateway.unwrap_or_else(|faults| panic!("{}: {faults:#?}", file.display()));
        assert_eq!(
            told(&gateway.warnings, file),
            expected(text, "#? "),
            "{}",
            file.display()
        );
        let warns = file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("warn-"));
        assert_eq!(warns, !gateway.warnings.is_empty(), "{}", file.display());
    }
    assert!(files.len() >= 40, "{}", files.len());
}

#[test]
fn a_device_takes_away_the_pauses_of_its_profile_and_has_those_of_its_line() {
    let yaml = "site: x
lines: [ { name: bus, modbus_tcp: '10.0.0.5', pause: { between: 10ms }, first_answer_within: 3s } ]
profiles: { slow: { pause: { between: 50ms, after_connect: 2s }, first_answer_within: 9s, points: { p: { holding: 0, type: u16 } } } }
devices:
  - { name: as-it-is, line: bus, unit: 1, profile: slow }
  - { name: without, line: bus, unit: 2, profile: slow, pause: none, first_answer_within: none }
  - { name: in-part, line: bus, unit: 3, profile: slow, pause: { after_connect: none } }
";
    let gateway = config::parse("gateway.yaml", yaml, Path::new("/"))
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    let found: Vec<_> = gateway.lines[0]
        .devices
        .iter()
        .map(|device| {
            (
                device.pause.between.as_millis(),
                device.pause.after_connect.as_millis(),
                device.first_answer_within.map(|time| time.as_secs()),
            )
        })
        .collect();
    assert_eq!(
        found,
        [(50, 2000, Some(9)), (10, 0, Some(3)), (50, 0, Some(9))]
    );
}

/// Nothing is ever taken out of this folder, and no file in it is ever changed.
#[test]
fn files_of_every_version_are_read_for_ever() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for version in 1..=config::VERSION {
        for (file, text) in corpus(&format!("old/{version}")) {
            // A file that names no version, and one that does.
            let versioned = if text.contains("\nversion: ") {
                text.clone()
            } else {
                format!("version: {version}\n{text}")
            };
            for text in [&text, &versioned] {
                let told = config::parse("gateway.yaml", text, root).map(drop);
                assert!(
                    told.is_ok() || (version > 1 && text == &versioned),
                    "{} {told:?}",
                    file.display()
                );
            }
            read += 1;
        }
    }
    assert!(read >= 12, "{read}");
    let later = format!(
        "version: {}\nsite: x\nlines: []\nnew_key: 1\n",
        config::VERSION + 1
    );
    let faults = config::parse("gateway.yaml", &later, root).unwrap_err();
    assert!(
        faults.len() == 1 && faults[0].message.contains("install a newer wellhead"),
        "{faults:?}"
    );
}

#[test]
fn references_to_the_environment_and_to_credentials_are_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("credentials")).unwrap();
    fs::write(
        folder.path().join("credentials/cloud-host"),
        "far.example.net\n",
    )
    .unwrap();
    let home = std::env::var("PATH").unwrap();
    let text = "site: x\nbroker: { listen: [ 'mqtt://127.0.0.1:1883' ] }\nuplinks:\n  - name: cloud\n    to: mqtt://${credential:cloud-host}:1884\n    user: '${env:PATH}'\n    password: a$b\n";
    let gateway = config::parse("gateway.yaml", text, folder.path())
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    let settings = &gateway.uplinks[0].settings;
    assert_eq!(
        settings.remotes[0].to_string(),
        "mqtt://far.example.net:1884"
    );
    let login = settings.login.as_ref().unwrap();
    assert_eq!(
        (&login.user, &login.password),
        (&home, &Password::Given(RemoteSecret("a$b".to_owned())))
    );
    let text = text
        .replace("cloud-host", "gone")
        .replace("PATH", "WELLHEAD_NOBODY_SETS_THIS");
    let told: Vec<String> = config::parse("gateway.yaml", &text, folder.path())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        told[0].starts_with("gateway.yaml:5:9 ")
            && told[0].contains("put the credential into credentials/gone"),
        "{told:?}"
    );
    assert!(
        told.iter().any(|told| told
            .starts_with("gateway.yaml:6:11 the environment has no WELLHEAD_NOBODY_SETS_THIS")),
        "{told:?}"
    );
}

/// Every key of the schema with what is said of it.
fn keys_of_the_schema() -> Vec<(String, String)> {
    fn walk(node: &serde_json::Value, found: &mut Vec<(String, String)>) {
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            found.push((
                key.clone(),
                property["description"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            ));
        }
        match node {
            serde_json::Value::Object(map) => map.values().for_each(|value| walk(value, found)),
            serde_json::Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&config::schema::of_file(), &mut found);
    found
}

#[test]
fn the_shipped_file_is_correct_and_shows_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("gateway.yaml")).unwrap();
    let gateway =
        config::parse("gateway.yaml", &text, root).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(gateway.site, "pump-station-7");
    let keys = keys_of_the_schema();
    assert!(keys.len() > 180, "{}", keys.len());
    // `password` is named in the comment of `password_file`.
    let missing: Vec<_> = keys
        .iter()
        .filter(|(key, _)| !text.contains(&format!("{key}:")))
        .collect();
    assert!(missing.is_empty(), "gateway.yaml does not show {missing:?}");
    let silent: Vec<_> = keys
        .iter()
        .filter(|(key, said)| {
            said.is_empty()
                && !["hex", "least", "most", "send", "expect", "wait", "speed"]
                    .contains(&key.as_str())
        })
        .collect();
    assert!(silent.is_empty(), "nothing is said of {silent:?}");
}

/// `10s` of `Default 10s, at least 1ms.` and of `# default 10s: how often`.
fn default_in(text: &str, word: &str) -> Option<String> {
    let value = text.split_once(word)?.1.trim_start();
    let value: String = value
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    Some(value).filter(|value| {
        value.starts_with(|c: char| c.is_ascii_digit()) || value == "true" || value == "false"
    })
}

#[test]
fn schema_and_shipped_file_tell_the_same_defaults() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.yaml")).unwrap();
    let keys = keys_of_the_schema();
    let mut compared = 0;
    for (key, said) in &keys {
        // Only keys that mean one thing.
        if keys
            .iter()
            .any(|(other, also)| other == key && also != said)
        {
            continue;
        }
        let shown = text
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{key}:")));
        if let (Some(of_schema), Some(of_file)) = (
            default_in(said, "Default "),
            shown.and_then(|line| default_in(line, "# default ")),
        ) {
            assert_eq!(of_schema, of_file, "{key}");
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared}");
}

#[test]
fn the_schema_takes_good_files_and_refuses_what_is_typed_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judge = |schema: &serde_json::Value, files: &[PathBuf]| {
        let path = folder.path().join("schema.json");
        fs::write(&path, schema.to_string()).unwrap();
        let output = python()
            .arg(peer("schema.py"))
            .arg(&path)
            .args(files)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let verdicts: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(verdicts.len(), files.len());
        verdicts
    };
    let schema = config::schema::of_file();
    let mut good: Vec<PathBuf> = corpus("good").into_iter().map(|(file, _)| file).collect();
    good.push(root.join("gateway.yaml"));
    for verdict in judge(&schema, &good) {
        assert!(verdict.ends_with(" ok"), "{verdict}");
    }
    let bad = corpus("bad");
    let files: Vec<PathBuf> = bad.iter().map(|(file, _)| file.clone()).collect();
    let typed_wrong = [
        "is not a setting here",
        "\" is missing; add `",
        "is not possible here",
        "has no unit",
        "not YAML",
    ];
    let mut refused = 0;
    for (verdict, (file, text)) in judge(&schema, &files).iter().zip(&bad) {
        let is_refused = !verdict.ends_with(" ok");
        let must_be = expected(text, "#! ")
            .iter()
            .any(|told| typed_wrong.iter().any(|words| told.contains(words)));
        // `site` is missing only where something is called after it.
        assert!(
            is_refused || !must_be || file.ends_with("site-missing.yaml"),
            "the schema takes {}",
            file.display()
        );
        refused += usize::from(is_refused);
    }
    assert!(refused >= 70, "{refused}");
    let presets: Vec<PathBuf> = fs::read_dir(root.join("src/config/presets"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for verdict in judge(&config::schema::of_profile(), &presets) {
        assert!(verdict.ends_with(" ok"), "{verdict}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = config::load(Path::new("/does/not/exist.yaml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/does/not/exist.yaml") && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn nonsense_gives_faults_and_never_a_panic() {
    let seeds = [
        "",
        "a",
        "- 1\n- 2",
        "site: [",
        "site: *x",
        "{",
        "site: !!binary x",
        "%YAML 3",
        "&a [*a]",
        "site: \u{0}",
        "\t- x",
        "lines: {a: 1}\nsite: 1",
        "lines:\n- null\nsite: x",
    ];
    for seed in seeds {
        let outcome = config::parse("x.yaml", seed, Path::new("/"));
        assert!(outcome.is_err_and(|faults| !faults.is_empty()), "{seed:?}");
    }
    let deep = "[".repeat(5000);
    assert!(config::parse("x.yaml", &deep, Path::new("/")).is_err());
}
