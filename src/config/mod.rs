//! The YAML file: read, checked, and turned into what the modules are started with.
//!
//! Invariants:
//! * Every fault of a file is reported at once, with line and column and what to type instead.
//! * What [`load`] returns is consistent: names resolve, topics are valid and used once, limits are
//!   sane.
//! * Leaf values (durations, speeds, filters) are parsed by the modules that own them.
//!
//! In the order in which a file passes through them:
//!
//! | file | does |
//! |---|---|
//! | `ours` | recognizes our own files; of others no line is shown |
//! | `document` | YAML with the position of every node |
//! | `migrate`, `include`, `users` | older versions, files in parts, users in a file of their own |
//! | `references` | environment and credentials |
//! | `file` | the settings as typed |
//! | `profiles`, `presets` | profiles in files of their own, and those of the program |
//! | `resolve` | the settings as meant, with all checks |
//! | `traffic` | the load of lines and uplinks |
//!
//! Beside it: `schema` (for editors), `change` (from one configuration to the next), `factory`
//! (settings of devices as delivered), `renamed` (points with former names), `diagnostics`,
//! `secrets` and `suggestion` (messages).

mod change;
mod diagnostics;
mod document;
mod factory;
mod file;
mod include;
mod migrate;
mod other_tools;
mod ours;
pub mod presets;
mod profiles;
mod references;
mod renamed;
mod resolve;
pub mod schema;
mod secrets;
mod set_by;
mod suggestion;
mod sunspec;
mod telegrams;
mod traffic;
mod users;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use change::Diff;
pub use diagnostics::Diagnostic;
pub use document::table;
pub use factory::{Factory, factory};
pub use migrate::VERSION;
pub use profiles::{names as profile_names, text as profile_text};
pub use set_by::SetBy;
pub use suggestion::suggestion;
pub use traffic::{DailyTraffic, MONTH, load as load_of, size, traffic};

use crate::broker::access::Access;
use crate::broker::admission::AdmissionLimits;
use crate::broker::engine;
use crate::broker::net::{Listen, Origins, TlsSettings};
use crate::field::Line;
use crate::files;
use crate::log::Format;
use crate::message::Class;
use crate::mqtt::{QoS, TopicName};
use crate::outbox;
use crate::reading::DeviceId;
use crate::report::PointReport;
use crate::route::Routes;
use crate::units::Price;
use crate::uplink;

/// A gateway as meant by its file.
#[derive(Debug)]
pub struct Gateway {
    /// The site's name.
    pub site: String,
    /// Its wires.
    pub lines: Vec<Line>,
    /// How each point is reported, by point index.
    pub points: Arc<Vec<PointReport>>,
    /// The sources of `every`, `deadband`, `at_least_every`, `stale_after`, `class` and `decimals`
    /// of each point, by point index.
    pub set_by: Vec<[SetBy; 6]>,
    /// The names of the classes, by their numbers.
    pub classes: Vec<String>,
    /// The availability topic of each device, by device index.
    pub availability: Vec<TopicName>,
    /// Points that can be written at once.
    pub groups: Vec<WriteGroup>,
    /// The local broker.
    pub broker: Option<BrokerSetup>,
    /// Where outboxes are kept; a folder per uplink below it.
    pub folder: PathBuf,
    /// How outboxes are kept.
    pub outbox: outbox::Settings,
    /// Its remote brokers.
    pub uplinks: Vec<UplinkSetup>,
    /// How messages about lines, uplinks and losses are published; `None` for not at all.
    pub health: Option<HealthMessages>,
    /// How long a stop may take to send what waits.
    pub shutdown_grace: Duration,
    /// How the log is written; asked at the start.
    pub log: Format,
    /// Warnings, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// Files that only the service can read, and not this user; a gateway without them does not
    /// start.
    pub unread: Vec<Diagnostic>,
    /// Real-time priority of the threads of serial lines (SCHED_FIFO, 1 to 99), if the machine is
    /// to give them one.
    pub line_priority: Option<u8>,
}

/// The least time between two messages on a topic about the health of the gateway, where the file
/// says nothing.
pub const HEALTH_EVERY: Duration = Duration::from_secs(60);

/// Messages about the health of the gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthMessages {
    /// The first levels of their topics, without the slash behind them.
    pub topic: String,
    /// Their class.
    pub class: Class,
    /// Their QoS.
    pub qos: QoS,
    /// The least time between two on a topic.
    pub every: Duration,
}

/// Points of a device that are written by one request.
#[derive(Debug)]
pub struct WriteGroup {
    /// As in the YAML.
    pub name: String,
    /// Whose points.
    pub device: DeviceId,
    /// Its topic, without `/set`.
    pub topic: TopicName,
}

/// The local broker as meant.
#[derive(Debug)]
pub struct BrokerSetup {
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// Web pages that may connect.
    pub origins: Arc<Origins>,
    /// Certificates for encrypted listeners.
    pub tls: Option<TlsSettings>,
    /// Users and permissions.
    pub access: Arc<Access>,
    /// How many connections, and how fast.
    pub admission: AdmissionLimits,
    /// Limits on sessions, queues and packets.
    pub limits: engine::BrokerLimits,
    /// Sessions and retained messages survive it.
    pub is_durable: bool,
}

/// One remote broker as meant.
#[derive(Debug)]
pub struct UplinkSetup {
    /// The connection.
    pub settings: uplink::UplinkSettings,
    /// Rules in both directions, and how topics are written on each side.
    pub routes: Arc<Routes>,
    /// Those of the subscriptions that are for commands to points.
    pub commands: Vec<uplink::Receive>,
    /// Messages about the gateway itself that it carries.
    pub own: Vec<OwnMessage>,
    /// Its budget and price.
    pub tariff: Tariff,
}

/// A message of the gateway itself: about its health, or its status.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnMessage {
    /// Its local topic.
    pub topic: TopicName,
    /// Its class.
    pub class: Class,
    /// Its QoS.
    pub qos: QoS,
    /// How often it is sent in a day, about.
    pub a_day: f64,
    /// Its payload, in bytes, about.
    pub payload: f64,
}

/// Budget and price of a link; used by `wellhead check` only.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tariff {
    /// Bytes that are meant to be used in a month.
    pub per_month: Option<u64>,
    /// The price of data.
    pub price: Option<Price>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// The file is wrong: every fault, in the order of the file.
    Faults(Vec<Diagnostic>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => match error.kind() {
                ErrorKind::InvalidData => write!(f, "{}: {error}", path.display()),
                ErrorKind::PermissionDenied => write!(
                    f,
                    "{}: {error}; for a packaged gateway become a member of the group wellhead (sudo adduser $USER wellhead, and log in again), or do this as root",
                    path.display()
                ),
                _ => write!(
                    f,
                    "{}: {error}; name a file that exists and that you may read",
                    path.display()
                ),
            },
            Self::Faults(faults) => {
                for (index, fault) in faults.iter().enumerate() {
                    let start = if index == 0 { "" } else { "\n" };
                    write!(f, "{start}{fault}{}", fault.excerpt)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Modbus addresses as in `units:`, such as `1-20` or `1-4, 7`.
pub fn units(text: &str) -> Result<Vec<u8>, String> {
    let units: file::UnitList =
        serde_json::from_value(text.into()).map_err(|error| error.to_string())?;
    Ok(units.0)
}

/// Reads and checks a file. Relative paths in it are meant from its folder.
pub fn load(path: &Path) -> Result<Gateway, LoadError> {
    let text = files::text(path).map_err(|e| LoadError::Unreadable(path.to_owned(), e))?;
    let name = path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    parse(&name, &text, folder).map_err(LoadError::Faults)
}

/// The same for the user who runs the gateway: files that cannot be read are faults.
pub fn load_to_run(path: &Path) -> Result<Gateway, LoadError> {
    match load(path)? {
        gateway if gateway.unread.is_empty() => Ok(gateway),
        gateway => Err(LoadError::Faults(gateway.unread)),
    }
}

/// Checks the text of a file; `name` is for messages, `folder` is where relative paths begin.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Gateway, Vec<Diagnostic>> {
    // Some editors begin a file with a mark that is no part of it.
    let text = text.trim_start_matches('\u{feff}');
    let mut faults =
        diagnostics::Diagnostics::of_foreign_file(name, text, ours::is_of_a_gateway(text));
    let gateway = document::Document::parse(text, &mut faults).and_then(|mut document| {
        if !migrate::migrate(&mut document, &mut faults) {
            return None;
        }
        include::include(&mut document, name, folder, &mut faults);
        users::include(&mut document, folder, &mut faults);
        document.expand_filters();
        references::fill(&mut document, folder, &mut faults);
        document
            .secrets()
            .iter()
            .for_each(|secret| faults.hide(secret, "***"));
        let file = document.typed::<file::File>(&mut faults)?;
        let outside = profiles::load(&file, folder, &mut faults);
        resolve::resolve(&file, &document, folder, &outside, &mut faults)
    });
    match (gateway, faults.is_empty()) {
        (Some(gateway), true) => Ok(Gateway {
            warnings: faults.warnings(),
            ..gateway
        }),
        (None, true) => {
            faults.at(
                diagnostics::START,
                "nothing in this file; begin with `site: <name>`".to_owned(),
            );
            Err(faults.in_order())
        }
        (_, false) => Err(faults.in_order()),
    }
}
