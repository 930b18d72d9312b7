//! The README and the book in `docs/`: links and anchors, the commands and the YAML in them, what
//! is generated, and what must be listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use regex::Regex;

use super::support::{peer, python, run, wellhead};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file in Markdown, with what is in code blocks apart from the rest.
struct Page {
    /// From the top of the repository.
    name: String,
    /// Lines outside of code blocks, with their numbers.
    prose: Vec<(usize, String)>,
    blocks: Vec<Block>,
}

struct Block {
    language: String,
    text: String,
    /// File and line, for messages.
    place: String,
}

fn page(name: &str) -> Page {
    let text =
        fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut page = Page {
        name: name.to_owned(),
        prose: Vec::new(),
        blocks: Vec::new(),
    };
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => page.blocks.extend(open.take()),
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    place: format!("{name}:{number}"),
                });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => page.prose.push((number, line.to_owned())),
        }
    }
    assert!(open.is_none(), "{name}: a code block has no end");
    page
}

/// The files of the book, SUMMARY.md among them.
fn chapters() -> Vec<String> {
    let files = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut chapters: Vec<String> = files
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    chapters.sort();
    assert!(chapters.len() > 15, "{chapters:?}");
    chapters
}

/// Everything a reader may open.
fn pages() -> Vec<Page> {
    let at_top = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ]
    .map(str::to_owned);
    at_top
        .into_iter()
        .chain(chapters())
        .map(|name| page(&name))
        .collect()
}

/// The names by which the headings of a page are linked to.
fn anchors(page: &Page) -> BTreeSet<String> {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in page.prose.iter().filter(|(_, line)| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().replace("&lt;", "");
        let kept = link.replace_all(&title, "$1").to_lowercase();
        let slug: String = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let times = found.entry(slug.clone()).or_default();
        anchors.insert(if *times == 0 {
            slug
        } else {
            format!("{slug}-{times}")
        });
        *times += 1;
    }
    anchors
}

#[test]
fn the_readme_is_short() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(
        text.lines().count() <= 130,
        "{} lines; move text to a chapter in docs/",
        text.lines().count()
    );
    let wide: Vec<&str> = text
        .lines()
        .filter(|line| line.chars().count() > 120)
        .collect();
    assert!(wide.is_empty(), "wider than 120 columns: {wide:#?}");
    // What a visitor looks for first.
    for needed in [
        "cargo run --release -- demo",
        "tests/run",
        "](docs/demo.svg)",
        "## Install",
        "## The first hour",
    ] {
        assert!(text.contains(needed), "{needed} is not in the README");
    }
    assert!(
        text.lines()
            .position(|line| line.contains("-- demo"))
            .unwrap()
            < 20,
        "the two commands are not on the first screen"
    );
}

#[test]
fn links_lead_to_files_and_headings() {
    let pages = pages();
    let anchors: BTreeMap<&str, BTreeSet<String>> = pages
        .iter()
        .map(|page| (page.name.as_str(), anchors(page)))
        .collect();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let code = Regex::new("`[^`]*`").unwrap();
    let (mut followed, mut wrong) = (0, Vec::new());
    for page in &pages {
        let folder = Path::new(&page.name).parent().unwrap();
        for (number, line) in &page.prose {
            // In code, nothing is a link.
            for target in link
                .captures_iter(&code.replace_all(line, ""))
                .map(|found| found[1].to_owned())
            {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                followed += 1;
                let place = format!("{}:{number}: {target}", page.name);
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let path = if file.is_empty() {
                    PathBuf::from(&page.name)
                } else {
                    folder.join(file)
                };
                if !root().join(&path).exists() {
                    wrong.push(format!("{place}: there is no such file"));
                } else if page.name.starts_with("docs/") && file.starts_with("..") {
                    wrong.push(format!(
                        "{place}: leaves the book, where it leads nowhere; name the file instead"
                    ));
                } else if !anchor.is_empty()
                    && !anchors
                        .get(path.to_str().unwrap())
                        .is_some_and(|known| known.contains(anchor))
                {
                    wrong.push(format!("{place}: there is no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(followed > 150, "{followed}");
}

#[test]
fn the_summary_lists_every_chapter_once() {
    let link = Regex::new(r"\]\(([^)]+)\)").unwrap();
    let summary = page("docs/SUMMARY.md");
    let mut listed: Vec<String> = summary
        .prose
        .iter()
        .flat_map(|(_, line)| {
            link.captures_iter(line)
                .map(|found| format!("docs/{}", &found[1]))
        })
        .collect();
    listed.sort();
    let chapters: Vec<String> = chapters()
        .into_iter()
        .filter(|name| name != "docs/SUMMARY.md")
        .collect();
    assert_eq!(listed, chapters);
}

#[test]
fn generated_chapters_are_what_the_program_generates() {
    for (chapter, command) in [
        ("docs/configuration.md", "man gateway.yaml --markdown"),
        ("docs/profiles.md", "profiles --markdown"),
    ] {
        let (code, out, error) = run(wellhead().args(command.split(' ')));
        assert_eq!((code, error.as_str()), (Some(0), ""), "{command}");
        let committed = fs::read_to_string(root().join(chapter)).unwrap();
        let first = committed
            .lines()
            .zip(out.lines())
            .find(|(ours, made)| ours != made);
        assert!(
            committed == out,
            "{chapter} is out of date: target/debug/wellhead {command} > {chapter}\nfirst difference: {first:#?}"
        );
    }
    // It has all that a reader of the schema gets: each key of each mapping.
    fn count(node: &serde_json::Value) -> usize {
        let own = node["properties"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        let below: usize = match node {
            serde_json::Value::Object(map) => map.values().map(count).sum(),
            serde_json::Value::Array(list) => list.iter().map(count).sum(),
            _ => 0,
        };
        own + below
    }
    let rows = page("docs/configuration.md")
        .prose
        .iter()
        .filter(|(_, line)| line.starts_with("| `"))
        .count();
    let keys = count(&wellhead::config::schema::of_file());
    assert!(
        rows * 10 > keys * 9 && rows > 250,
        "{rows} rows for {keys} keys"
    );
}

/// The words of each command in a line of shell: quotes are taken off; remarks, redirections and
/// `sudo` are left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut is_redirected) = (None::<String>, None, false);
    let characters = line.chars().chain([' ']);
    for c in characters {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | ';' | '&' | '<' | '>') => {
                let ended = word.take().filter(|_| !is_redirected);
                let words = commands.last_mut().unwrap();
                words.extend(ended.filter(|word| !(words.is_empty() && word == "sudo")));
                if matches!(c, '|' | ';' | '&') {
                    commands.push(Vec::new());
                }
                if c != ' ' {
                    is_redirected = matches!(c, '<' | '>');
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[test]
fn lines_of_shell_are_read_as_a_shell_reads_them() {
    let words = |line: &str| {
        commands(line)
            .iter()
            .map(|words| words.join("|"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words("wellhead watch -n 3 'a b/+'   # its values"),
        ["wellhead|watch|-n|3|a b/+"]
    );
    assert_eq!(
        words("sudo wellhead check x.yaml | jq '.a | .b'"),
        ["wellhead|check|x.yaml", "jq|.a | .b"]
    );
    assert_eq!(words("wellhead schema > s.json"), ["wellhead|schema"]);
    assert_eq!(words("wellhead run &"), ["wellhead|run"]);
}

/// Why the program does not understand a command of the book; one that only names some of its words
/// may be incomplete in prose.
fn fault(command: &[String], may_be_incomplete: bool) -> Option<String> {
    let words: Vec<&str> = command.iter().skip(1).map(String::as_str).collect();
    let error = wellhead::cli::misunderstood(&words)?;
    let is_incomplete = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
    );
    (!is_incomplete || !may_be_incomplete && error.use_stderr())
        .then(|| format!("{}: {error}", command.join(" ")))
}

#[test]
fn the_program_understands_every_command_of_the_book() {
    let code = Regex::new("`(wellhead [^`]+)`").unwrap();
    let (mut tried, mut wrong) = (0, Vec::new());
    for page in pages().iter().filter(|page| page.name != "CHANGELOG.md") {
        for block in page.blocks.iter().filter(|block| block.language == "sh") {
            let text = block.text.replace("\\\n", "");
            for command in text
                .lines()
                .flat_map(commands)
                .filter(|command| command[0] == "wellhead")
            {
                tried += 1;
                wrong.extend(
                    fault(&command, false).map(|fault| format!("{}: {fault}", block.place)),
                );
            }
        }
        for (number, line) in &page.prose {
            for found in code.captures_iter(line) {
                for command in commands(&found[1])
                    .iter()
                    .filter(|command| command[0] == "wellhead")
                {
                    tried += 1;
                    wrong.extend(
                        fault(command, true)
                            .map(|fault| format!("{}:{number}: {fault}", page.name)),
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried > 100, "{tried}");
}

#[test]
fn every_command_has_a_row_in_the_table_of_commands() {
    let (_, list, _) = run(wellhead().args(["man", "--list"]));
    let table = fs::read_to_string(root().join("docs/commands.md")).unwrap();
    let mut named = 0;
    for line in list.lines().filter(|line| line.starts_with("wellhead-")) {
        let command = line.split_once(' ').unwrap().1;
        // The words of subcommands are listed beside their command.
        let is_there = match command.split_once(' ') {
            None => table.contains(&format!("`wellhead {command}")),
            Some((above, last)) => table.lines().any(|row| {
                row.contains(&format!("`wellhead {above} "))
                    && (row.contains(&format!("`{last}`")) || row.contains(&format!(" {last}")))
            }),
        };
        assert!(is_there, "`wellhead {command}` is not in docs/commands.md");
        named += 1;
    }
    assert!(named > 20, "{named}");
}

#[test]
fn every_yaml_of_the_book_is_valid_and_whole_files_pass_check() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    fs::write(&schema, run(wellhead().arg("schema")).1).unwrap();
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    let mut whole = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language == "yaml") {
            let file = folder.path().join(format!("{}.yaml", files.len()));
            fs::write(&file, &block.text).unwrap();
            if block.text.starts_with("site:") {
                let (code, _, error) = run(wellhead()
                    .arg("check")
                    .arg(&file)
                    .env("CLOUD_PASSWORD", "secret"));
                assert_eq!(code, Some(0), "{}: {error}", block.place);
                whole += 1;
            }
            files.push((file, block.place.clone()));
        }
    }
    let mut judge = python();
    judge
        .arg(peer("schema.py"))
        .arg(&schema)
        .args(files.iter().map(|(file, _)| file));
    let (code, out, error) = run(&mut judge);
    assert_eq!(code, Some(0), "{error}");
    let wrong: Vec<String> = out
        .lines()
        .zip(&files)
        .filter(|(line, _)| !line.ends_with(" ok"))
        .map(|(line, (_, place))| format!("{place}: {line}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(out.lines().count(), files.len());
    assert!(
        whole >= 6 && files.len() >= 15,
        "{whole} whole files among {} blocks",
        files.len()
    );
}

#[test]
fn events_that_the_book_names_are_in_the_log() {
    fn read(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut sources = String::new();
    read(&root().join("src"), &mut sources);
    let event = Regex::new(r"`(?:event=)?([a-z]+\.[a-z_0-9]+)`").unwrap();
    let page = page("docs/operations.md");
    // The first column of the tables of symptoms.
    let cells = page
        .prose
        .iter()
        .filter_map(|(_, line)| line.strip_prefix("| ")?.split(" |").next());
    let named: BTreeSet<String> = cells
        .flat_map(|cell| {
            event
                .captures_iter(cell)
                .map(|found| found[1].to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let missing: Vec<&String> = named
        .iter()
        .filter(|name| !sources.contains(&format!("\"{name}\"")))
        .collect();
    assert!(missing.is_empty(), "{missing:?} are not in src");
    assert!(named.len() > 15, "{named:?}");
}

#[test]
fn the_book_has_no_figure_left_open() {
    for page in pages() {
        let open: Vec<_> = page
            .prose
            .iter()
            .filter(|(_, line)| line.len() > 2 && line.chars().all(|c| c.is_ascii_uppercase()))
            .collect();
        assert!(open.is_empty(), "{}: {open:?}", page.name);
    }
}

#[test]
fn the_machine_plays_the_commands_of_the_raspberry_pi_chapter() {
    let heading = "## From the package to a running gateway";
    let script = fs::read_to_string(root().join("tests/pi/machine")).unwrap();
    assert!(
        script.contains(heading) && script.contains("' raspberry-pi.md"),
        "tests/pi/machine plays another chapter"
    );
    let page = page("docs/raspberry-pi.md");
    // Its commands are the first block, before the next heading.
    let headings: Vec<&str> = page
        .prose
        .iter()
        .map(|(_, line)| line.as_str())
        .filter(|line| line.starts_with("## "))
        .collect();
    assert_eq!(headings[0], heading);
    let commands: Vec<&str> = page.blocks[0]
        .text
        .lines()
        .map(|line| line.split(" #").next().unwrap().trim())
        .collect();
    assert_eq!(
        (page.blocks[0].language.as_str(), commands.len()),
        ("sh", 8),
        "tests/pi/machine expects eight commands: {commands:#?}"
    );
    for command in [
        "sudo apt install ./wellhead_",
        "sudo wellhead check ",
        "sudo systemctl restart wellhead",
        "journalctl -u wellhead",
    ] {
        assert!(
            commands.iter().any(|line| line.starts_with(command)),
            "{command} is missing"
        );
    }
}
