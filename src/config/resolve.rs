//! As typed to as meant: names are looked up, defaults filled in, contradictions noted.

mod advice;
mod broker;
mod cloud;
mod credentials;
mod factory;
mod field;
mod given;
mod health;
mod manners;
mod meaning;
mod north;
mod point;
mod presence;
mod rates;
mod reach;
mod routes;
mod simulated;
mod slips;
mod text;
mod unused;
mod users;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) use reach::are_credentials_closed;

use super::document::{Document, Step};
use super::fault::Faults;
use super::file::File;
use super::profiles::Profiles;
use super::renamed::renamed;
use super::{Gateway, fault};
use crate::message::{Class, SessionLost};
use crate::mqtt::{QoS, TopicName};
use crate::units::Span;

/// What the checks share.
struct Check<'a> {
    file: &'a File,
    document: &'a Document,
    folder: &'a Path,
    /// Profiles that stand in files of their own.
    profiles: &'a Profiles,
    faults: &'a mut Faults,
    /// What could not be read here and can be by the service.
    unread: Vec<fault::Fault>,
    /// The places of the lines, by name.
    lines: HashMap<&'a str, usize>,
    /// The names of lines and profiles, faulty ones included: for those who misspell them.
    known_lines: OnceCell<Vec<String>>,
    known_profiles: OnceCell<Vec<String>>,
}

/// The path of a node, such as `at!["devices", 2, "line"]`.
macro_rules! at {
    ($($step:expr),* $(,)?) => { [$($crate::config::document::Step::from($step)),*] };
}
use at;

/// Files beside the YAML that only root and the service manager read; the service gets copies of them.
const CREDENTIALS: &str = "credentials";

/// Where a file is that the YAML names: a systemd credential of that name, by itself or out of the folder that the unit loads; a path from
/// the folder of the YAML; or the original of a credential, for whoever checks the file by hand.
pub(super) fn file_named(typed: &Path, folder: &Path) -> PathBuf {
    let usual = folder.join(typed);
    let (Some(name), true) = (typed.to_str(), typed.is_relative()) else {
        return usual;
    };
    let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let given = given
        .iter()
        .flat_map(|given| [given.join(name), given.join(format!("wellhead_{name}"))]);
    let mut found = given
        .chain([usual.clone(), folder.join(CREDENTIALS).join(name)])
        .filter(|path| path.is_file());
    found.next().unwrap_or(usual)
}

impl Check<'_> {
    /// Where a file is that the YAML names.
    fn path(&self, typed: &Path) -> PathBuf {
        file_named(typed, self.folder)
    }

    /// Notes a fault at a value.
    fn fault(&mut self, path: &[Step], message: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.at(place, message.into());
    }

    /// Notes a duration of zero where that makes no sense, unless it was noted before.
    fn not_zero(&mut self, path: &[Step], span: Option<Span>, message: &str) {
        if span.is_some_and(|span| span.0.is_zero()) && !self.is_faulty(path) {
            self.fault(path, message);
        }
    }

    /// Notes what is possible but will hurt.
    fn warn(&mut self, path: &[Step], message: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.warn(place, message.into());
    }

    /// Notes that something is missing in a node, unless a fault in it may be the reason.
    fn missing(&mut self, path: &[Step], message: impl Into<String>) {
        if !self.is_faulty(path) {
            let (start, _) = self.document.extent(path);
            self.faults.at(start, message.into());
        }
    }

    /// True if a fault in a node has been noted.
    fn is_faulty(&self, path: &[Step]) -> bool {
        let (start, end) = self.document.extent(path);
        self.faults.between(start, end)
    }

    /// Notes a name that is none.
    fn unknown(&mut self, path: &[Step], what: &str, name: &str, known: &[String]) {
        let renamed = renamed(name, |new| known.iter().any(|known| known == new));
        let hint = match renamed.filter(|_| what.starts_with("point")) {
            Some(new) => format!("it is called \"{new}\""),
            None => fault::suggestion(name, known.iter().map(String::as_str)),
        };
        self.fault(path, format!("there is no {what} \"{name}\"; {hint}"));
    }

    /// Notes names that stand twice in a list of mappings.
    fn unique<'n>(
        &mut self,
        list: &'static str,
        names: impl IntoIterator<Item = (usize, &'n str)>,
    ) {
        let mut taken = HashSet::new();
        for (index, name) in names {
            let path = [Step::from(list), Step::from(index), Step::from("name")];
            if !taken.insert(name) {
                self.fault(
                    &path,
                    format!("the name \"{name}\" is taken already; choose another"),
                );
            }
            if name.is_empty() || name.contains(['+', '#', '\0']) {
                self.fault(&path, "a name must not be empty nor contain + or #");
            }
        }
    }

    /// A section with nothing in it means something else than a section that is left out.
    fn no_empty_sections(&mut self) {
        for key in [
            "broker", "outbox", "lines", "devices", "uplinks", "profiles", "classes",
        ] {
            if self.document.is_empty(key) {
                self.fault(
                    &at![key],
                    format!("`{key}:` is empty; fill it in or remove it"),
                );
            }
        }
    }

    /// The class of a name, with its QoS.
    fn class(&mut self, name: &str, path: &[Step]) -> Option<(Class, Option<QoS>)> {
        match self.file.classes.get_full(name) {
            Some((index, _, class)) => {
                let id = if name == NORMAL {
                    0
                } else {
                    u16::try_from(index + 1).unwrap_or(u16::MAX)
                };
                Some((
                    Class {
                        id,
                        lane: class.lane,
                        if_session_lost: class.if_session_lost,
                    },
                    class.qos.and_then(QoS::from_bits),
                ))
            }
            None if name == NORMAL => Some((Class::default(), None)),
            None => {
                let mut known = self.document.keys("classes");
                known.push(NORMAL.to_owned());
                if !known.iter().any(|other| other == name) {
                    self.unknown(path, "class", name, &known);
                }
                None
            }
        }
    }
}

/// The class of everything that has none.
const NORMAL: &str = "normal";

/// Checks the whole file. `None` if something is missing that nothing can stand for; faults may have been noted in any case.
pub(super) fn resolve(
    file: &File,
    document: &Document,
    (folder, profiles): (&Path, &Profiles),
    faults: &mut Faults,
) -> Option<Gateway> {
    let mut lines = HashMap::new();
    for (index, line) in file.lines.iter().enumerate() {
        lines.entry(line.name.as_str()).or_insert(index);
    }
    let (known_lines, known_profiles) = (OnceCell::new(), OnceCell::new());
    let mut check = Check {
        file,
        document,
        folder,
        profiles,
        faults,
        unread: Vec::new(),
        lines,
        known_lines,
        known_profiles,
    };
    check.no_empty_sections();
    let site = file.site.clone().unwrap_or_else(|| "site".to_owned());
    // A plain broker has nothing that is called after its site.
    let is_named = ["lines", "devices", "uplinks"]
        .iter()
        .any(|key| document.has(key));
    if file.site.is_none() && is_named && !document.has("site") {
        check.faults.at(
            fault::START,
            "\"site\" is missing; add `site: <name>`, such as site: pump-station-7".to_owned(),
        );
    }
    if site.is_empty() || site.starts_with('$') || TopicName::new(site.clone()).is_err() {
        check.fault(&at!["site"], "the site's name becomes a topic level; write letters, digits and dashes, such as pump-station-7");
    }
    for (name, class) in &file.classes {
        if class.if_session_lost == SessionLost::Drop && class.qos != Some(2) {
            check.fault(
                &at!["classes", name, "if_session_lost"],
                "only qos 2 knows what may have arrived; add `qos: 2` or write resend",
            );
        }
        if class.qos.is_some_and(|qos| qos > 2) {
            check.fault(
                &at!["classes", name, "qos"],
                "type 0 (may be lost), 1 (at least once) or 2 (exactly once)",
            );
        }
    }
    let field::Field {
        lines,
        reports,
        set_by,
        availability,
        groups,
    } = field::resolve(&mut check);
    let broker = broker::broker(&mut check);
    let local = routes::LocalTopics::of(&lines, &reports, &groups);
    let health = health::health(&mut check, &site);
    let mut uplinks = north::uplinks(&mut check, broker.is_some(), &local);
    health::messages(&check, &mut uplinks, &lines, health.as_ref());
    factory::settings(&mut check);
    slips::uplinks(&mut check);
    advice::loads(&mut check, &lines);
    advice::uplinks(&mut check, &uplinks, &lines, (&reports, &availability));
    let (data_folder, outbox) = north::outbox(&mut check);
    if file.lines.is_empty()
        && file.broker.is_none()
        && !document.has("lines")
        && !document.has("broker")
    {
        check.fault(
            &[],
            "neither lines nor a broker: there is nothing to do; add `lines:` or `broker:`",
        );
    }
    Some(Gateway {
        site,
        lines,
        points: Arc::new(reports),
        set_by,
        classes: std::iter::once(NORMAL.to_owned())
            .chain(file.classes.keys().cloned())
            .collect(),
        availability,
        groups,
        broker,
        folder: data_folder,
        outbox,
        uplinks,
        line_priority: None,
        warnings: Vec::new(),
        health,
        unread: check.unread,
        log: file.log.format,
        shutdown_grace: file
            .shutdown_grace
            .map_or(Duration::from_secs(10), |span| span.0),
    })
}
