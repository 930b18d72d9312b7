//! Files with their faults, exactly and in order: `tests/config/<case>/gateway.yaml` with `errors.txt`; `tests/config/bad/<case>.yaml`,
//! where each fault stands in a comment `#! <line>:<column> <message>` at the end; `tests/config/good/<case>.yaml` with warnings in
//! comments `#? ...`.

use std::fs;
use std::path::{Path, PathBuf};

use wellhead::config;

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// A file without what is expected of it, which some faults would be found behind.
fn typed(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with("#! ") && !line.starts_with("#? ")).collect()
}

/// What the comments at the end of a file expect.
fn expected(text: &str, mark: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect()
}

fn told(faults: &[config::Fault], file: &Path) -> Vec<String> {
    let folder = file.parent().unwrap().display().to_string();
    faults.iter().map(|fault| format!("{}:{} {}", fault.line, fault.column, fault.message).replace(&folder, "<folder>")).collect()
}

#[test]
fn every_broken_file_of_the_corpus_is_told_what_is_wrong() {
    let files = corpus("bad");
    for (file, text) in &files {
        let Err(faults) = config::parse("gateway.yaml", &typed(text), file.parent().unwrap()) else {
            panic!("{} is correct", file.display())
        };
        assert_eq!(told(&faults, file), expected(text, "#! "), "{}", file.display());
    }
    assert!(files.len() >= 200, "{}", files.len());
}

#[test]
fn every_good_file_of_the_corpus_is_correct_and_warned_of_what_will_hurt() {
    let files = corpus("good");
    for (file, text) in &files {
        let gateway = config::parse("gateway.yaml", &typed(text), file.parent().unwrap());
        let gateway = gateway.unwrap_or_else(|faults| panic!("{}: {faults:#?}", file.display()));
        assert_eq!(told(&gateway.warnings, file), expected(text, "#? "), "{}", file.display());
        let warns = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("warn-"));
        assert_eq!(warns, !gateway.warnings.is_empty(), "{}", file.display());
    }
    assert!(files.len() >= 40, "{}", files.len());
}

/// The keys of the structs in `config/file.rs` and `config/file/`: what a person can type.
fn keys_of_the_parser() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/file");
    let mut sources = vec![fs::read_to_string(folder.with_extension("rs")).unwrap()];
    sources.extend(fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap()));
    let mut keys = Vec::new();
    for source in sources {
        let (mut renamed, mut in_list) = (None, false);
        for line in source.lines() {
            // The keys of a point stand in a list of their own.
            in_list = (in_list && line != "}") || line == "point! {";
            let line = line.trim();
            let visible = line.strip_prefix("pub(super) ").or_else(|| line.strip_prefix("pub(in crate::config) "));
            let field = visible.or(in_list.then_some(line)).filter(|rest| !rest.starts_with("fn ") && !rest.starts_with(['$', '#']));
            if let Some(name) = line.strip_prefix("#[serde(rename = \"") {
                renamed = name.split('"').next().map(str::to_owned);
            } else if let Some((name, _)) = field.and_then(|rest| rest.split_once(": ")) {
                keys.push(renamed.take().unwrap_or_else(|| name.to_owned()));
            }
        }
    }
    keys.retain(|key| !key.starts_with(['$', '(']));
    keys
}

#[test]
fn the_shipped_file_is_correct_and_shows_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("gateway.yaml")).unwrap();
    let gateway = config::parse("gateway.yaml", &text, root).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(gateway.site, "pump-station-7");
    let keys = keys_of_the_parser();
    assert!(keys.len() > 120, "{keys:?}");
    // `password` is named in the comment of `password_file`.
    let missing: Vec<_> = keys.iter().filter(|key| !text.contains(&format!("{key}:"))).collect();
    assert!(missing.is_empty(), "gateway.yaml does not show {missing:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = config::load(Path::new("/does/not/exist.yaml")).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist.yaml") && !error.contains('\n'), "{error}");
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
