//! What is around the program: the unit, the package's list of files, `cross.toml`. What they do in
//! a real machine is shown by `tests/pi/run`, what is built for ARM by `tests/arm`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use toml::{Table, Value};

use super::support::{run, wellhead};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn table(name: &str) -> Table {
    text(name)
        .parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_table()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn cross_toml_has_every_target_and_nothing_that_cross_does_not_know() {
    let cross = table("cross.toml");
    assert_eq!(cross.keys().collect::<Vec<_>>(), ["build", "target"]);
    let build = &cross["build"];
    assert!(
        keys(build).is_subset(&["env", "default-target"].into())
            && keys(&build["env"]) == ["passthrough"].into()
    );
    let targets = keys(&cross["target"]);
    let mut expected = BTreeSet::new();
    for (machine, float) in [("aarch64", ""), ("armv7", "eabihf"), ("arm", "eabihf")] {
        expected.extend(
            ["gnu", "musl"].map(|library| format!("{machine}-unknown-linux-{library}{float}")),
        );
    }
    assert_eq!(targets, expected.iter().map(String::as_str).collect());
    for target in &targets {
        let image = &cross["target"][*target];
        assert_eq!(keys(image), ["image"].into(), "{target}");
        assert_eq!(
            image["image"].as_str().unwrap(),
            format!("ghcr.io/cross-rs/{target}:0.2.5")
        );
    }
    assert!(targets.contains(build["default-target"].as_str().unwrap()));
    // Without it `cross` looks for another name, and takes its own settings.
    assert!(text("docs/installing.md").contains(
        "CROSS_CONFIG=cross.toml cross build --release --target aarch64-unknown-linux-musl"
    ));
}

#[test]
fn what_the_package_holds_is_there_and_the_unit_starts_it() {
    let deb = &table("Cargo.toml")["package"]["metadata"]["deb"];
    let mut installed = BTreeSet::new();
    for asset in deb["assets"].as_array().unwrap() {
        let asset: Vec<&str> = asset
            .as_array()
            .unwrap()
            .iter()
            .map(|part| part.as_str().unwrap())
            .collect();
        let (source, place) = (Path::new(asset[0]), asset[1]);
        let name = source.file_name().unwrap().to_str().unwrap();
        if source.starts_with("target/package") {
            assert!(
                text("systemd/package").contains(&format!("$made/{name}"))
                    || ["*.1.gz", "*.5.gz"].contains(&name),
                "nobody makes {name}"
            );
        } else if !name.contains('*') {
            assert!(root().join(source).exists(), "{}", source.display());
        }
        installed.insert(format!(
            "/{place}{}",
            if place.ends_with('/') { name } else { "" }
        ));
    }
    let unit = text("systemd/wellhead.service");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    assert_eq!(start, "/usr/bin/wellhead run /etc/wellhead/gateway.yaml");
    assert!(
        start
            .split(' ')
            .filter(|word| word.starts_with('/'))
            .all(|path| installed.contains(path)),
        "{installed:?}"
    );
    assert_eq!(
        deb["conf-files"][0].as_str(),
        Some("/etc/wellhead/gateway.yaml")
    );
    for script in [
        "postrm",
        "wellhead.sysusers",
        "wellhead.tmpfile",
        "changelog",
        "copyright",
    ] {
        assert!(root().join("systemd").join(script).exists(), "{script}");
    }
    assert!(text("systemd/changelog").starts_with(concat!(
        "wellhead (",
        env!("CARGO_PKG_VERSION"),
        "-"
    )));
}

#[test]
fn the_archive_for_old_machines_holds_what_its_installer_puts_in_place() {
    let (installer, packer) = (text("systemd/install"), text("systemd/package"));
    for line in installer
        .lines()
        .filter(|line| line.starts_with("install -D"))
    {
        let source = line.split(' ').nth(4).unwrap();
        let is_packed = packer.contains(&format!("$made/{source}"))
            || packer.contains(&format!("systemd/{source}"));
        assert!(is_packed, "{source} is not in the archive");
    }
    assert!(text("docs/raspberry-pi.md").contains(concat!(
        "wellhead-",
        env!("CARGO_PKG_VERSION"),
        "-arm-unknown-linux-musleabihf/install"
    )));
}

#[test]
fn systemd_has_no_complaint_about_the_unit_and_finds_it_locked_down() {
    let folder = tempfile::tempdir().unwrap();
    // Where it is checked, the program and its manual page need not be installed.
    let unit: String = text("systemd/wellhead.service")
        .lines()
        .filter(|line| !line.starts_with("Documentation="))
        .map(|line| {
            if line.starts_with("ExecStart=") {
                "ExecStart=/bin/true\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    let file = folder.path().join("wellhead.service");
    fs::write(&file, &unit).unwrap();
    let (code, out, complaints) = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&file));
    // Keys it does not know are complaints, but no failure.
    assert_eq!((code, out.as_str(), complaints.as_str()), (Some(0), "", ""));
    let (_, out, _) = run(Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(&file));
    let line = out
        .lines()
        .find(|line| line.contains("Overall exposure level"))
        .unwrap_or_else(|| panic!("{out}"));
    let score: f64 = line
        .split(": ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(score <= 1.5, "{line}");
}

/// The pages of the manual: names such as `wellhead-run.1`, and their texts.
fn pages() -> Vec<(String, String)> {
    let (code, list, _) = run(wellhead().args(["man", "--list"]));
    assert_eq!(code, Some(0));
    let page = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        let (code, text, error) = run(wellhead().arg("man").args(words));
        assert_eq!(code, Some(0), "{name}: {error}");
        (name, text)
    };
    list.lines().map(page).collect()
}

#[test]
fn every_page_that_a_page_or_the_unit_names_is_packaged() {
    let pages = pages();
    let names: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), pages.len());
    for needed in [
        "wellhead.1",
        "wellhead-check.1",
        "wellhead-outbox-show.1",
        "gateway.yaml.5",
    ] {
        assert!(names.contains(needed), "{needed} is not in {names:?}");
    }
    let mut named = 0;
    let unit = text("systemd/wellhead.service");
    for (name, text) in pages
        .iter()
        .map(|(name, text)| (name.as_str(), text))
        .chain([("the unit", &unit)])
    {
        let text = text.replace("\\-", "-");
        for section in ["1", "5"] {
            for (at, _) in text.match_indices(&format!("({section})")) {
                let start = text[..at]
                    .rfind(|c: char| !c.is_alphanumeric() && !"-_.".contains(c))
                    .map_or(0, |at| at + 1);
                let page = format!("{}.{section}", &text[start..at]);
                // Its own title has no section behind it, and `man(1)` is none of ours.
                assert!(
                    names.contains(page.as_str()),
                    "{name} names {page}, which is not packaged"
                );
                named += 1;
            }
        }
    }
    assert!(named > 60, "{named}");
    // The packer takes all that the program lists, and package and archive take all that the packer
    // makes.
    let (packer, installer) = (text("systemd/package"), text("systemd/install"));
    assert!(
        packer.contains("man --list")
            && installer.contains("*.1.gz")
            && installer.contains("*.5.gz")
    );
}

#[test]
fn the_page_of_the_file_tells_every_key_and_has_no_command_by_accident() {
    let (_, page, _) = run(wellhead().args(["man", "gateway.yaml"]));
    fn keys(node: &serde_json::Value, found: &mut BTreeSet<String>) {
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            if property.get("description").is_some() {
                found.insert(key.clone());
            }
        }
        match node {
            serde_json::Value::Object(map) => map.values().for_each(|value| keys(value, found)),
            serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    keys(&wellhead::config::schema::of_file(), &mut all);
    // Both are told in the words of the value they belong to.
    let missing: Vec<&String> = all
        .iter()
        .filter(|key| !page.contains(&format!("\\fB{key}\\fR")))
        .collect();
    let told_elsewhere = ["from", "to", "scale", "offset", "if", "say", "zero"].map(str::to_owned);
    assert!(
        missing.iter().all(|key| told_elsewhere.contains(key)),
        "{missing:?}"
    );
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        let command = line.split(' ').next().unwrap();
        assert!([".TH", ".SH", ".TP", ".PP"].contains(&command), "{line}");
    }
    // As a reader sees it.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml.5");
    fs::write(&file, &page).unwrap();
    let (code, out, complaints) = run(Command::new("man")
        .args(["--warnings", "-E", "UTF-8", "-l"])
        .arg(&file)
        .env("MANWIDTH", "80")
        .env("LC_ALL", "C.UTF-8"));
    assert_eq!((code, complaints.as_str()), (Some(0), ""));
    assert!(out.contains("UPLINKS") || out.contains("uplinks"), "{out}");
}

#[test]
fn every_command_has_a_manual_page_and_completions() {
    for (name, page) in pages() {
        assert!(page.contains(".SH DESCRIPTION"), "{name}");
    }
    let (code, _, error) = run(wellhead().args(["man", "fly"]));
    assert_eq!(
        (code, error.as_str()),
        (
            Some(2),
            "there is no command `fly`; `wellhead man --list` shows all pages\n"
        )
    );
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(wellhead().args(["completions", shell]));
        assert!(code == Some(0) && script.contains("simulate"), "{shell}");
    }
    let (_, script, _) = run(wellhead().args(["completions", "bash"]));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wellhead"), script).unwrap();
    let ask = format!(
        "source {}; COMP_WORDS=(wellhead si); COMP_CWORD=1; _wellhead wellhead si wellhead; echo ${{COMPREPLY[@]}}",
        folder.path().join("wellhead").display()
    );
    assert_eq!(
        run(Command::new("bash").args(["-c", &ask])).1.trim(),
        "simulate"
    );
}
