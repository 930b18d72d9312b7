//! Questions in a terminal: a wrong answer is explained, and the question repeated.

use std::fs;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use super::super::{Failure, USAGE, put, say};

/// Where answers come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// A person is at the terminal.
    pub(super) asks: bool,
}

impl Answers {
    /// The first that `check` accepts: what was given, else what is typed or the default. A wrong
    /// given answer is an error.
    pub(super) fn get<T>(
        self,
        given: Option<&str>,
        question: &str,
        default: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let refused = |message| Failure {
            code: USAGE,
            message,
        };
        if let Some(given) = given {
            return check(given).map_err(refused);
        }
        if !self.asks {
            return check(default).map_err(refused);
        }
        loop {
            let typed = typed(question, default)?;
            match check(&typed) {
                Ok(right) => return Ok(right),
                Err(why) => say(&format!("  {why}")),
            }
        }
    }

    /// Yes or no; no without a terminal.
    pub(super) fn agrees(self, question: &str) -> Result<bool, Failure> {
        self.get(
            (!self.asks).then_some("n"),
            question,
            "n",
            |typed| match typed.to_lowercase().as_str() {
                "y" | "yes" => Ok(true),
                "n" | "no" => Ok(false),
                _ => Err("type y or n".to_owned()),
            },
        )
    }
}

/// A line from the terminal; its default, if it is empty. The end of the input ends everything.
fn typed(question: &str, default: &str) -> Result<String, Failure> {
    put(if default.is_empty() {
        format!("{question}: ")
    } else {
        format!("{question} [{default}]: ")
    }
    .as_bytes())?;
    let mut line = String::new();
    if io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(Failure::runtime)?
        == 0
    {
        return Err(Failure::runtime(
            "the answers ended before the questions; nothing is written",
        ));
    }
    let typed = line.trim();
    Ok(if typed.is_empty() { default } else { typed }.to_owned())
}

/// A serial port of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundPort {
    /// The name that survives replugging, where there is one.
    pub(super) path: String,
    /// What it leads to, such as ttyUSB0.
    pub(super) device: String,
}

/// The serial ports below a folder such as /dev: first by names that survive replugging, then the
/// others.
pub(super) fn ports(dev: &Path) -> Vec<FoundPort> {
    let stable = ["serial/by-id", "wellhead"]
        .iter()
        .flat_map(|folder| entries(&dev.join(folder)));
    let others = entries(dev).into_iter().filter(|path| is_port(path));
    let mut ports: Vec<FoundPort> = Vec::new();
    for port in stable.chain(others).filter_map(|path| port(&path)) {
        if !ports.iter().any(|known| known.device == port.device) {
            ports.push(port);
        }
    }
    ports
}

/// The entries of a folder, sorted; none if there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn port(path: &Path) -> Option<FoundPort> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let device = target
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let path = path.to_str()?.to_owned();
    Some(FoundPort { path, device })
}

fn is_port(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    ["ttyUSB", "ttyACM", "ttyAMA", "ttyXR", "ttymxc", "ttyO"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_listed_once_by_the_name_that_stays() {
        let dev = tempfile::tempdir().unwrap();
        let at = |name: &str| dev.path().join(name);
        ["ttyUSB1", "ttyUSB0", "ttyAMA0", "ttyS0", "null"]
            .iter()
            .for_each(|name| fs::write(at(name), "").unwrap());
        fs::create_dir_all(at("serial/by-id")).unwrap();
        std::os::unix::fs::symlink(
            "../../ttyUSB1",
            at("serial/by-id/usb-FTDI_A50285BI-if00-port0"),
        )
        .unwrap();
        let shown: Vec<(String, String)> = ports(dev.path())
            .into_iter()
            .map(|port| {
                (
                    port.path
                        .strip_prefix(dev.path().to_str().unwrap())
                        .unwrap()
                        .to_owned(),
                    port.device,
                )
            })
            .collect();
        let expected = [
            ("/serial/by-id/usb-FTDI_A50285BI-if00-port0", "ttyUSB1"),
            ("/ttyAMA0", "ttyAMA0"),
            ("/ttyUSB0", "ttyUSB0"),
        ];
        assert_eq!(
            shown,
            expected.map(|(path, device)| (path.to_owned(), device.to_owned()))
        );
        assert!(ports(&at("nowhere")).is_empty());
    }

    #[test]
    fn what_is_given_and_wrong_is_an_error_and_nobody_is_asked() {
        let number = |typed: &str| {
            typed
                .parse::<u8>()
                .map_err(|_| format!("{typed} is no number"))
        };
        let answers = Answers { asks: false };
        assert_eq!(answers.get(Some("7"), "unit", "1", number).unwrap(), 7);
        assert_eq!(answers.get(None, "unit", "1", number).unwrap(), 1);
        let failure = answers.get(Some("x"), "unit", "1", number).unwrap_err();
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (USAGE, "x is no number")
        );
        assert!(!answers.agrees("really?").unwrap());
    }
}
