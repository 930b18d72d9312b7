//! Questions in a terminal: an answer that cannot be is told why, and the question comes again.

use std::fs;
use std::io::{self, BufRead};
use std::path::Path;

use super::super::{Failure, USAGE, put, say};

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// Somebody is there to answer.
    pub(super) asks: bool,
}

impl Answers {
    /// What was given, what is typed, or the default, once `check` makes something of it; what is given and wrong is an error.
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

    /// Yes or no; without anybody to answer no.
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
pub(super) struct Port {
    /// The name that survives replugging, where there is one.
    pub(super) path: String,
    /// What it leads to, such as ttyUSB0.
    pub(super) device: String,
}

/// The serial ports below a folder that stands for /dev: by names that survive replugging, and the others behind them.
pub(super) fn ports(dev: &Path) -> Vec<Port> {
    let names = |folder: &Path| -> Vec<std::path::PathBuf> {
        // A folder that is not there has nothing in it.
        let mut names: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        names.sort();
        names
    };
    let mut ports: Vec<Port> = Vec::new();
    let mut add = |path: &Path| {
        let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let device = target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let Some(path) = path.to_str() else { return };
        if !ports.iter().any(|known| known.device == device) {
            ports.push(Port {
                path: path.to_owned(),
                device,
            });
        }
    };
    ["serial/by-id", "wellhead"]
        .iter()
        .flat_map(|folder| names(&dev.join(folder)))
        .for_each(|path| add(&path));
    let is_port = |path: &Path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        ["ttyUSB", "ttyACM", "ttyAMA", "ttyXR", "ttymxc", "ttyO"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    names(dev)
        .iter()
        .filter(|path| is_port(path))
        .for_each(|path| add(path));
    ports
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
