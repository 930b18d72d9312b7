//! The tools in a terminal of 80 columns and 24 lines (that of tmux), at sizes that no person would
//! choose, and through a pipe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Gateway, Process, free_port, run, wait_for, wellhead};

/// Terminals of this process.
static STARTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// A terminal with a shell that runs one command, tells how it ended and how it left the terminal,
/// and stays.
struct Terminal {
    socket: PathBuf,
    folder: PathBuf,
}

impl Terminal {
    fn start(folder: &Path, environment: &str, command: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_wellhead");
        let pid = folder.join("pid");
        let script = folder.join("in-terminal");
        let text = format!(
            "sh -c 'echo $$ > {}; exec env {environment} {program} {command}'\necho \"status=$?\"\nstty -a\ncat > {}\n",
            pid.display(),
            folder.join("typed").display()
        );
        fs::write(&script, text).unwrap();
        // A server that has just ended must not be taken for this one.
        let number = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let terminal = Self {
            socket: folder.join(format!("tmux-{number}")),
            folder: folder.to_owned(),
        };
        terminal.tmux(&[
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            &format!("sh {}", script.display()),
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.args(["-u", "-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments);
        let (code, out, error) = run(&mut tmux);
        assert_eq!(code, Some(0), "tmux {arguments:?}: {error}");
        out
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as it should be.
    fn wait_until(&self, what: &str, is_right: impl Fn(&str) -> bool) -> String {
        let mut shown = String::new();
        let found = wait_for_either(|| {
            shown = self.screen();
            is_right(&shown)
        });
        assert!(found, "{what}:\n{shown}");
        shown
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// How the command ended; the terminal echoes and edits lines again.
    fn ended(&self) -> String {
        let shown = self.wait_until("the command ends", |screen| {
            screen.contains("status=") && screen.contains("iexten")
        });
        let words: Vec<&str> = shown
            .split(|c: char| c.is_whitespace() || c == ';')
            .collect();
        assert!(
            ["icanon", "echo", "isig", "opost"]
                .iter()
                .all(|mode| words.contains(mode)),
            "the terminal is not restored:\n{shown}"
        );
        shown
    }

    fn process(&self) -> rustix::process::Pid {
        let pid = wait_for("the command starts", || {
            fs::read_to_string(self.folder.join("pid"))
                .ok()?
                .trim()
                .parse()
                .ok()
        });
        rustix::process::Pid::from_raw(pid).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .status();
    }
}

/// Like `wait_for`, for those who want to show what they saw.
fn wait_for_either(mut is_right: impl FnMut() -> bool) -> bool {
    let give_up = std::time::Instant::now() + super::support::PATIENCE;
    while std::time::Instant::now() < give_up {
        if is_right() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    false
}

/// A gateway with thirty points and the availability of two devices; one point is on a line that is
/// not there.
fn gateway(folder: &Path) -> Gateway {
    let points: String =
        (0..29).map(|number| format!("      p{number:02}: {{ unit: kWh, every: 200ms, simulate: {{ from: 100, to: 200 }} }}\n")).collect();
    let yaml = format!(
        "site: a-pump-station-with-a-long-name
lines:
  - {{ name: bench, simulated: {{}} }}
  - {{ name: gone, serial: {gone} }}
devices:
  - name: tank-with-a-long-name-too
    line: bench
    points:
{points}  - {{ name: far, line: gone, unit: 1, points: {{ z: {{ holding: 0, type: u16, every: 200ms }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ] }}
",
        gone = folder.join("gone").display(),
        port = free_port(),
    );
    Gateway::start(folder, &yaml)
}

fn rows(screen: &str) -> usize {
    screen
        .lines()
        .filter(|line| line.contains(" good "))
        .count()
}

#[test]
fn watch_in_a_terminal_scrolls_filters_fits_any_size_and_leaves_the_terminal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let _gateway = gateway(folder.path());
    let file = folder.path().join("gateway.yaml").display().to_string();
    let command = format!(
        "watch --file {file} {}",
        "a-pump-station-with-a-long-name/#"
    );
    let terminal = Terminal::start(folder.path(), "", &command);
    let shown = terminal.wait_until("all rows are there", |screen| screen.contains("1-22 of 32"));
    assert!(shown.lines().next().unwrap().contains("quality"), "{shown}");
    assert!(
        shown.contains("/p00 ") && !shown.contains("/p28 ") && shown.contains("kWh"),
        "{shown}"
    );
    terminal.keys(&["End"]);
    terminal.wait_until("the end is shown", |screen| {
        screen.contains("11-32 of 32") && screen.contains("/p28 ")
    });
    terminal.keys(&["Home", "Down", "PageDown", "PageUp", "Up"]);
    terminal.wait_until("the beginning is shown again", |screen| {
        screen.contains("1-22 of 32")
    });
    // The reason of the bad one names a folder, whose name may hold any two characters.
    terminal.keys(&["/", "o/p1", "Enter"]);
    terminal.wait_until("only some are shown", |screen| {
        rows(screen) == 10 && screen.contains("1-10 of 10 with \"o/p1\" of 32")
    });
    terminal.keys(&[&["/"], &["BSpace"; 4][..], &["BAD", "Enter"]].concat());
    let shown = terminal.wait_until("the bad one is shown", |screen| {
        screen.contains("with \"bad\" of 32")
    });
    assert!(
        shown.contains("far/z") && shown.contains(" bad "),
        "{shown}"
    );
    terminal.keys(&["/", "Escape"]);
    terminal.wait_until("all are shown again", |screen| screen.contains("of 32   "));
    for (width, height) in [("20", "5"), ("1", "1"), ("200", "50"), ("80", "24")] {
        terminal.tmux(&["resize-window", "-x", width, "-y", height]);
        if height == "50" {
            terminal.wait_until("the larger screen is used", |screen| {
                screen.contains("1-32 of 32")
            });
        }
    }
    terminal.wait_until("the old size is used", |screen| {
        screen.contains("1-22 of 32")
    });
    terminal.keys(&["q"]);
    assert!(terminal.ended().contains("status=0"));
    drop(terminal);
    for (key, signal) in [
        (Some("C-c"), None),
        (Some("Escape"), None),
        (None, Some(rustix::process::Signal::TERM)),
        (None, Some(rustix::process::Signal::HUP)),
    ] {
        let _ = fs::remove_file(folder.path().join("pid"));
        let terminal = Terminal::start(folder.path(), "", &command);
        terminal.wait_until("the table is there", |screen| screen.contains("1-22 of 32"));
        key.into_iter().for_each(|key| terminal.keys(&[key]));
        signal
            .into_iter()
            .for_each(|signal| rustix::process::kill_process(terminal.process(), signal).unwrap());
        assert!(terminal.ended().contains("status=0"), "{key:?} {signal:?}");
    }
    // A terminal that only prints gets lines.
    let _ = fs::remove_file(folder.path().join("pid"));
    let terminal = Terminal::start(folder.path(), "TERM=dumb", &command);
    terminal.wait_until("lines are printed", |screen| {
        screen.lines().filter(|line| line.contains("/p0")).count() > 3
    });
}

#[test]
fn watch_survives_a_terminal_without_cells_and_a_broker_that_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = gateway(folder.path());
    let file = folder.path().join("gateway.yaml").display().to_string();
    for size in [
        "cols 0 rows 0",
        "cols 1 rows 1",
        "cols 0 rows 24",
        "cols 9 rows 2",
    ] {
        let log = folder.path().join("script.log");
        let _ = fs::remove_file(&log);
        let typed = format!(
            "stty {size}; exec {} watch --file {file}",
            env!("CARGO_BIN_EXE_wellhead")
        );
        let mut script = Process::start(
            Command::new("script").args(["-qefc", &typed, "/dev/null"]),
            &log,
        );
        script.wait_for_output("\u{1b}[?1049h");
        script.type_line("q");
        assert!(script.wait().success(), "{size}: {}", script.output());
        assert!(
            script.output().contains("\u{1b}[?1049l"),
            "{size}: {}",
            script.output()
        );
    }
    let terminal = Terminal::start(folder.path(), "", &format!("watch --file {file}"));
    terminal.wait_until("the table is there", |screen| screen.contains("1-22 of"));
    gateway.process.kill_9();
    assert!(terminal.ended().contains("status=1"));
    wait_for("the reason is shown", || {
        terminal.screen().contains("127.0.0.1").then_some(())
    });
}

#[test]
fn watch_ends_when_its_terminal_is_gone() {
    use std::io::Read;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let folder = tempfile::tempdir().unwrap();
    let _gateway = gateway(folder.path());
    let emulator = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&emulator).unwrap();
    unlockpt(&emulator).unwrap();
    let path = ptsname(&emulator, Vec::new()).unwrap();
    let terminal = fs::File::options()
        .read(true)
        .write(true)
        .open(path.to_str().unwrap())
        .unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_wellhead"));
    watch
        .args(["watch", "--file"])
        .arg(folder.path().join("gateway.yaml"));
    watch
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal);
    let mut child = watch.spawn().unwrap();
    // The terminal is open in the child alone.
    drop(watch);
    let mut emulator = fs::File::from(emulator);
    let (mut shown, mut part) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&shown).contains("\u{1b}[?1049h") {
        let count = emulator.read(&mut part).unwrap();
        shown.extend_from_slice(&part[..count]);
    }
    // No signal tells of it: the terminal is not the one that controls the program.
    drop(emulator);
    let has_ended = wait_for_either(|| child.try_wait().unwrap().is_some());
    let _ = child.kill();
    assert!(has_ended, "it goes on without a terminal");
}

#[test]
fn watch_in_a_pipe_prints_a_line_for_each_value_without_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let _gateway = gateway(folder.path());
    let file = folder.path().join("gateway.yaml").display().to_string();
    let (code, _, error) = run(wellhead().args([
        "pub",
        "--file",
        &file,
        "evil/\u{1b}[2J",
        "\u{1b}]0;x\u{7}",
        "--retain",
    ]));
    // A topic with control characters is refused or shown without them.
    assert!(code == Some(0) || error.contains("control"), "{error}");
    let (code, _, error) = run(wellhead().args([
        "pub",
        "--file",
        &file,
        "evil/payload",
        "\u{1b}]0;x\u{7}",
        "--retain",
    ]));
    assert_eq!(code, Some(0), "{error}");
    let (code, out, error) = run(wellhead().args(["watch", "--file", &file, "-n", "40"]));
    assert_eq!((code, out.lines().count()), (Some(0), 40), "{error}");
    assert!(
        out.contains("evil/payload \\u{1b}]0;x\\u{7}")
            && out.chars().all(|c| !c.is_control() || c == '\n'),
        "{out}"
    );
}

#[test]
fn every_table_fits_into_a_terminal_of_80_columns_and_into_a_pipe() {
    let bench = super::tools::bench();
    let _gateway = bench.gateway();
    let folder = bench.folder.path();
    let file = folder.join("gateway.yaml").display().to_string();
    for command in [
        format!("status {file}"),
        format!("trace bus -n 2 --raw --file {file}"),
        format!("trace plc -n 2 --file {file}"),
        format!("scan bus --units 7-9 --within 100ms --file {file}"),
        format!("peek meter --from 10 --count 4 --file {file}"),
        format!("peek meter --count 40 --expect 229.4 --file {file}"),
        format!("watch -n 3 --file {file}"),
    ] {
        let _ = fs::remove_file(folder.join("pid"));
        let terminal = Terminal::start(folder, "", &command);
        terminal.wait_until("the command ends", |screen| screen.contains("status=0"));
        // Lines that the terminal has broken are joined again.
        let shown = terminal.tmux(&["capture-pane", "-p", "-J", "-S", "-"]);
        let told = shown.split("status=0").next().unwrap();
        assert!(
            told.lines()
                .all(|line| line.trim_end().chars().count() <= 80),
            "{command}:\n{told}"
        );
        drop(terminal);
        let (code, out, error) = run(wellhead().args(command.split(' ')));
        assert!(code == Some(0) && !out.is_empty(), "{command}: {error}");
        assert!(
            out.lines().all(|line| line.chars().count() <= 80),
            "{command}:\n{out}"
        );
    }
}
