//! As typed to as meant: names are looked up, defaults filled in, contradictions noted.

mod broker;
mod broker_limits;
mod broker_tls;
mod catch_up;
mod cloud;
mod context;
mod credentials;
mod decoding;
mod device;
mod factory;
mod field;
mod file_access;
mod formats;
mod health;
mod inheritance;
mod line;
mod lints;
mod manners;
mod meter;
mod point;
mod presence;
mod rates;
mod register_address;
mod registry;
mod reporting;
mod routes;
mod simulated;
mod slips;
mod text;
mod text_command;
mod text_value;
mod unused;
mod uplink_lints;
mod uplink_settings;
mod uplinks;
mod users;
mod writing;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) use file_access::are_credentials_closed;

use super::diagnostics::Diagnostics;
use super::document::{Document, PathStep};
use super::file::File;
use super::profiles::Profiles;
use super::renamed::renamed;
use super::suggestion::suggestion;
use super::{Gateway, UplinkSetup, diagnostics};
use crate::message::{Class, SessionLost};
use crate::mqtt::{QoS, TopicName};
use crate::units::Span;

/// State that all checks share.
struct Check<'a> {
    file: &'a File,
    document: &'a Document,
    folder: &'a Path,
    /// Profiles in files of their own.
    profiles: &'a Profiles,
    faults: &'a mut Diagnostics,
    /// Files that cannot be read here, but by the service.
    unread: Vec<diagnostics::Diagnostic>,
    /// The places of the lines, by name.
    lines: HashMap<&'a str, usize>,
    /// The names of lines and profiles, faulty ones included: for those who misspell them.
    known_lines: OnceCell<Vec<String>>,
    known_profiles: OnceCell<Vec<String>>,
}

/// The path of a node, such as `at!["devices", 2, "line"]`.
macro_rules! at {
    ($($step:expr),* $(,)?) => { [$($crate::config::document::PathStep::from($step)),*] };
}
use at;

const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Files beside the YAML that only root and the service manager read; the service gets copies of
/// them.
const CREDENTIALS: &str = "credentials";

/// The path of a file that the YAML names: a systemd credential of that name, by itself or out of
/// the folder that the unit loads; a path from the folder of the YAML; or the original of a
/// credential, for a check of the file by hand.
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

impl<'a> Check<'a> {
    fn new(
        file: &'a File,
        document: &'a Document,
        folder: &'a Path,
        profiles: &'a Profiles,
        faults: &'a mut Diagnostics,
    ) -> Self {
        let mut lines = HashMap::new();
        for (index, line) in file.lines.iter().enumerate() {
            lines.entry(line.name.as_str()).or_insert(index);
        }
        Check {
            file,
            document,
            folder,
            profiles,
            faults,
            unread: Vec::new(),
            lines,
            known_lines: OnceCell::new(),
            known_profiles: OnceCell::new(),
        }
    }

    /// The path of a file that the YAML names.
    fn path(&self, typed: &Path) -> PathBuf {
        file_named(typed, self.folder)
    }

    /// Notes a fault at a value.
    fn fault(&mut self, path: &[PathStep], message: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.at(place, message.into());
    }

    /// Notes a duration of zero where that makes no sense, unless it was noted before.
    fn not_zero(&mut self, path: &[PathStep], span: Option<Span>, message: &str) {
        if span.is_some_and(|span| span.0.is_zero()) && !self.is_faulty(path) {
            self.fault(path, message);
        }
    }

    /// Notes a warning: possible, but hardly meant.
    fn warn(&mut self, path: &[PathStep], message: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.warn(place, message.into());
    }

    /// Notes that something is missing in a node, unless a fault in it may be the reason.
    fn missing(&mut self, path: &[PathStep], message: impl Into<String>) {
        if !self.is_faulty(path) {
            let (start, _) = self.document.extent(path);
            self.faults.at(start, message.into());
        }
    }

    /// True if a fault in a node has been noted.
    fn is_faulty(&self, path: &[PathStep]) -> bool {
        let (start, end) = self.document.extent(path);
        self.faults.between(start, end)
    }

    /// Notes an unknown name, with the nearest known one.
    fn unknown(&mut self, path: &[PathStep], what: &str, name: &str, known: &[String]) {
        let renamed = renamed(name, |new| known.iter().any(|known| known == new));
        let hint = match renamed.filter(|_| what.starts_with("point")) {
            Some(new) => format!("it is called \"{new}\""),
            None => suggestion(name, known.iter().map(String::as_str)),
        };
        self.fault(path, format!("there is no {what} \"{name}\"; {hint}"));
    }

    /// Notes names that are used twice in a list of mappings.
    fn unique<'n>(
        &mut self,
        list: &'static str,
        names: impl IntoIterator<Item = (usize, &'n str)>,
    ) {
        let mut taken = HashSet::new();
        for (index, name) in names {
            let path = [
                PathStep::from(list),
                PathStep::from(index),
                PathStep::from("name"),
            ];
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

    /// The class of a name; a fault at `path` if there is none.
    fn class(&mut self, name: &str, path: &[PathStep]) -> Option<NamedClass> {
        match self.file.classes.get_full(name) {
            Some((index, _, class)) => {
                let id = if name == NORMAL {
                    0
                } else {
                    u16::try_from(index + 1).unwrap_or(u16::MAX)
                };
                Some(NamedClass {
                    class: Class {
                        id,
                        lane: class.lane,
                        if_session_lost: class.if_session_lost,
                    },
                    qos: class.qos.and_then(QoS::from_bits),
                })
            }
            None if name == NORMAL => Some(NamedClass::default()),
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

/// The class of messages without one.
const NORMAL: &str = "normal";

/// The names of all classes, by their numbers.
fn class_names(file: &File) -> Vec<String> {
    let normal = std::iter::once(NORMAL.to_owned());
    normal.chain(file.classes.keys().cloned()).collect()
}

/// A class that the file names, with its QoS if it has one.
#[derive(Debug, Clone, Copy, Default)]
struct NamedClass {
    class: Class,
    qos: Option<QoS>,
}

/// Checks the whole file. `None` if a part without a default is missing; faults may have been noted
/// in any case.
pub(super) fn resolve(
    file: &File,
    document: &Document,
    folder: &Path,
    profiles: &Profiles,
    faults: &mut Diagnostics,
) -> Option<Gateway> {
    let mut check = Check::new(file, document, folder, profiles, faults);
    check.no_empty_sections();
    let site = check.site();
    check.classes();
    let field = field::resolve(&mut check);
    let broker = broker::broker(&mut check);
    let local = routes::LocalTopics::of(&site, &field);
    let health = health::health(&mut check, &site);
    let mut uplinks = uplinks::uplinks(&mut check, broker.is_some(), &local);
    health::messages(&check, &mut uplinks, &field.lines, health.as_ref());
    check.lint(&uplinks, &field);
    let (data_folder, outbox) = uplinks::outbox(&mut check);
    check.has_work();
    Some(Gateway {
        site,
        lines: field.lines,
        points: Arc::new(field.reports),
        set_by: field.set_by,
        classes: class_names(file),
        availability: field.availability,
        groups: field.groups,
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
            .map_or(DEFAULT_SHUTDOWN_GRACE, |span| span.0),
    })
}

impl Check<'_> {
    /// Settings that are possible and hardly meant.
    fn lint(&mut self, uplinks: &[UplinkSetup], field: &field::Field) {
        factory::settings(self);
        slips::uplinks(self);
        lints::loads(self, &field.lines);
        uplink_lints::uplinks(self, uplinks, field);
    }

    /// The site's name; a placeholder if it is missing.
    fn site(&mut self) -> String {
        // A plain broker has nothing that is called after its site.
        let is_named = ["lines", "devices", "uplinks"]
            .iter()
            .any(|key| self.document.has(key));
        if self.file.site.is_none() && is_named && !self.document.has("site") {
            self.faults.at(
                diagnostics::START,
                "\"site\" is missing; add `site: <name>`, such as site: pump-station-7".to_owned(),
            );
        }
        let site = self.file.site.clone().unwrap_or_else(|| "site".to_owned());
        if site.is_empty() || site.starts_with('$') || TopicName::new(site.clone()).is_err() {
            self.fault(&at!["site"], "the site's name becomes a topic level; write letters, digits and dashes, such as pump-station-7");
        }
        site
    }

    fn classes(&mut self) {
        for (name, class) in &self.file.classes {
            if class.if_session_lost == SessionLost::Drop && class.qos != Some(2) {
                self.fault(
                    &at!["classes", name, "if_session_lost"],
                    "only qos 2 knows what may have arrived; add `qos: 2` or write resend",
                );
            }
            if class.qos.is_some_and(|qos| qos > 2) {
                self.fault(
                    &at!["classes", name, "qos"],
                    "type 0 (may be lost), 1 (at least once) or 2 (exactly once)",
                );
            }
        }
    }

    /// A gateway needs lines or a broker.
    fn has_work(&mut self) {
        let is_given = self.file.broker.is_some()
            || !self.file.lines.is_empty()
            || self.document.has("lines")
            || self.document.has("broker");
        if !is_given {
            self.fault(
                &[],
                "neither lines nor a broker: there is nothing to do; add `lines:` or `broker:`",
            );
        }
    }
}
