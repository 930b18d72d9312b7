//! `wellhead init`: writes a first `gateway.yaml` from flags or a few answers.

mod answers;
mod instrument;
mod line;
mod search;
mod yaml;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, USAGE, put};
use crate::config;
use crate::files;
use answers::Answers;
use instrument::Instrument;
use yaml::{checked, quoted, uplinks};

/// The arguments of the command; a missing one is asked for in a terminal, and has its default
/// otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  wellhead init                                  asks what it needs
  wellhead init --serial /dev/ttyUSB0 --profile eastron-sdm120 --unit 1 --uplink mqtts://cloud.example.net --yes
  wellhead init --modbus-tcp 192.168.1.20 /etc/wellhead/gateway.yaml")]
pub(super) struct Init {
    /// The file to write [default: ./gateway.yaml]
    file: Option<PathBuf>,
    /// The name of the site
    #[arg(long)]
    site: Option<String>,
    /// A serial device with Modbus RTU
    #[arg(long, value_name = "DEVICE", conflicts_with = "modbus_tcp")]
    serial: Option<String>,
    /// Its speed [default: the factory setting of the profile, or 9600 8N1]
    #[arg(long)]
    speed: Option<String>,
    /// Address of a Modbus TCP device, or of the terminal server of a plain instrument
    #[arg(long, value_name = "ADDRESS")]
    modbus_tcp: Option<String>,
    /// Profile of the first instrument; `wellhead profiles` lists them
    #[arg(long)]
    profile: Option<String>,
    /// Its Modbus address [default: the factory setting of the profile, or 1]
    #[arg(long)]
    unit: Option<u8>,
    /// Its address, if it is a plain instrument with addresses [default: the factory setting of the
    /// profile]
    #[arg(long, conflicts_with = "unit")]
    address: Option<String>,
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// Address of a remote broker, or `aws-iot` or `azure-iot-hub`
    #[arg(long, value_name = "ADDRESS")]
    uplink: Option<String>,
    /// Folder for the outbox and the broker's state [default: /var/lib/wellhead in /etc/wellhead,
    /// else wellhead-data]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Ask no questions
    #[arg(long, short)]
    yes: bool,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
}

/// A line and the instrument on it, as YAML.
struct Sections {
    line: String,
    device: String,
}

/// Asks and writes the file.
pub(super) fn init(init: &Init) -> Result<(), Failure> {
    let file = init
        .file
        .clone()
        .unwrap_or_else(|| PathBuf::from("gateway.yaml"));
    if file.exists() && !init.force {
        return Err(Failure::runtime(format!(
            "{} exists already; name another file, or add --force to write over it",
            file.display()
        )));
    }
    let asks = !init.yes && io::stdin().is_terminal();
    let text = text(init, &file, Answers { asks })?;
    check_whole(&file, &text)?;
    write(&file, &text, init.force)?;
    put(format!(
        "{0} is written. Next:\n  wellhead check {0}\n  wellhead run {0}\n  wellhead watch --file {0}      in another terminal\n",
        file.display()
    )
    .as_bytes())?;
    Ok(())
}

fn check_whole(file: &Path, text: &str) -> Result<(), Failure> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let checked = config::parse(&file.display().to_string(), text, folder);
    checked.map(drop).map_err(|faults| Failure {
        code: USAGE,
        message: faults
            .iter()
            .map(|fault| format!("{}{}", fault.message, fault.excerpt))
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

fn write(file: &Path, text: &str, over: bool) -> Result<(), Failure> {
    let written = if over {
        files::write_over(file, text.as_bytes())
    } else {
        let new = fs::File::options().write(true).create_new(true).open(file);
        new.and_then(|mut new| new.write_all(text.as_bytes()))
    };
    written.map_err(|error| Failure::runtime(format!("{}: {error}", file.display())))
}

/// Asks for what is missing, and puts the file together.
fn text(init: &Init, file: &Path, answers: Answers) -> Result<String, Failure> {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let site = answers.get(
        init.site.as_deref(),
        "Name of this site (letters, digits, dashes)",
        &host,
        site,
    )?;
    let sections = sections(init, file.parent().unwrap_or(Path::new(".")), answers)?;
    let question = "Remote broker, such as mqtts://cloud.example.net; or aws-iot or azure-iot-hub (nothing for none)";
    let uplink = answers.get(init.uplink.as_deref(), question, "", uplink)?;
    let usual = if file.starts_with("/etc/wellhead") {
        "/var/lib/wellhead"
    } else {
        "wellhead-data"
    };
    let folder = init.folder.as_deref().unwrap_or(usual);
    Ok(yaml::file(&site, sections.as_ref(), folder, &uplink))
}

/// The first line and its instrument; `None` for a gateway without one.
fn sections(init: &Init, folder: &Path, answers: Answers) -> Result<Option<Sections>, Failure> {
    let Some(wire) = line::choose(init, answers)? else {
        return Ok(None);
    };
    let found = search::search(init, answers, &wire)?;
    let profile = instrument::profile(init, answers, found.profile.as_deref(), folder)?;
    let instrument = Instrument::of(profile, folder, found);
    Ok(Some(Sections {
        line: line::keys(init, answers, &wire, &instrument)?,
        device: instrument.keys(init, answers)?,
    }))
}

/// A site name that topics may contain.
fn site(typed: &str) -> Result<String, String> {
    checked(&format!(
        "site: {}\nbroker: {{ listen: [ 'mqtt://127.0.0.1:1883' ] }}\n",
        quoted(typed)
    ))
    .map(|()| typed.to_owned())
}

/// A remote broker, or nothing.
fn uplink(typed: &str) -> Result<String, String> {
    if !typed.is_empty() {
        checked(&format!(
            "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:1883' ] }}\n{}",
            uplinks(typed)
        ))?;
    }
    Ok(typed.to_owned())
}
