//! `wellhead init`: the first `gateway.yaml`, out of a few answers.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, USAGE, put, say};
use crate::config::{self, Factory, presets};
use crate::field::serial::Speed;
use crate::uplink::Remote;

/// The arguments of the command; what is not given is asked for in a terminal, and has its default otherwise.
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
    /// Its speed [default: the one the profile's devices are delivered with, or 9600 8N1]
    #[arg(long)]
    speed: Option<String>,
    /// A Modbus TCP device
    #[arg(long, value_name = "ADDRESS")]
    modbus_tcp: Option<String>,
    /// What the first instrument is; `wellhead profiles` shows them
    #[arg(long)]
    profile: Option<String>,
    /// Its Modbus address [default: the one the profile's devices are delivered with, or 1]
    #[arg(long)]
    unit: Option<u8>,
    /// The address of a plain instrument that is asked by it [default: the one the profile's devices are delivered with]
    #[arg(long, conflicts_with = "unit")]
    address: Option<String>,
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// A remote broker; or `aws-iot` or `azure-iot-hub`
    #[arg(long, value_name = "ADDRESS")]
    uplink: Option<String>,
    /// Where the gateway keeps what must survive [default: /var/lib/wellhead in /etc/wellhead, else wellhead-data]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Ask nothing
    #[arg(long, short)]
    yes: bool,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// Asks and writes the file.
pub(super) fn init(init: &Init) -> Result<(), Failure> {
    let file = init.file.clone().unwrap_or_else(|| PathBuf::from("gateway.yaml"));
    if file.exists() && !init.force {
        return Err(Failure::runtime(format!("{} exists already; name another file, or add --force to write over it", file.display())));
    }
    let asks = !init.yes && io::stdin().is_terminal();
    let text = text(init, &file, asks)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    config::parse(&file.display().to_string(), &text, folder).map_err(|faults| Failure {
        code: USAGE,
        message: faults.iter().map(|fault| format!("{}{}", fault.message, fault.excerpt)).collect::<Vec<_>>().join("\n"),
    })?;
    let mut options = fs::File::options();
    let options = if init.force { options.write(true).create(true).truncate(true) } else { options.write(true).create_new(true) };
    let mut out = options.open(&file).map_err(|error| Failure::runtime(format!("{}: {error}", file.display())))?;
    out.write_all(text.as_bytes()).map_err(Failure::runtime)?;
    put(format!(
        "{0} is written. Next:\n  wellhead check {0}\n  wellhead run {0}\n  wellhead watch --file {0}      in another terminal\n",
        file.display()
    )
    .as_bytes())?;
    Ok(())
}

/// What was given, what is typed, or the default.
fn answer(given: Option<&String>, asks: bool, question: &str, default: &str) -> Result<String, Failure> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    if !asks {
        return Ok(default.to_owned());
    }
    put(if default.is_empty() { format!("{question}: ") } else { format!("{question} [{default}]: ") }.as_bytes())?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::runtime)?;
    let typed = line.trim();
    Ok(if typed.is_empty() { default.to_owned() } else { typed.to_owned() })
}

/// The adapters of this machine, by the names that survive replugging.
fn adapters() -> Vec<String> {
    let list = |folder: &str, start: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.path().to_str().map(str::to_owned)).collect();
        names.retain(|name| name.starts_with(&format!("{folder}/{start}")));
        names.sort();
        names
    };
    let by_id = list("/dev/serial/by-id", "");
    if by_id.is_empty() { list("/dev", "ttyUSB").into_iter().chain(list("/dev", "ttyAMA")).collect() } else { by_id }
}

fn text(init: &Init, file: &Path, asks: bool) -> Result<String, Failure> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let site = answer(init.site.as_ref(), asks, "Name of this site (letters, digits, dashes)", &host)?;
    let on_line = match wire(init, asks)? {
        None => None,
        Some(wire) => {
            let profile = profile(init, asks)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            // What is wrong with a profile of the user's own is told when the whole file is checked.
            let factory = config::factory(folder, &profile).unwrap_or_default();
            Some((line(init, asks, &wire, &factory)?, device(init, asks, &profile, &factory)?))
        }
    };
    let uplink = answer(
        init.uplink.as_ref(),
        asks,
        "Remote broker, such as mqtts://cloud.example.net; or aws-iot or azure-iot-hub (nothing for none)",
        "",
    )?;
    let is_installed = file.starts_with("/etc/wellhead");
    let folder = init.folder.clone().unwrap_or_else(|| if is_installed { "/var/lib/wellhead" } else { "wellhead-data" }.to_owned());
    let mut out = format!(
        "# yaml-language-server: $schema=/usr/share/wellhead/gateway.schema.json\n\
         # `wellhead check` says what is wrong with this file, or what it will do. All settings: the gateway.yaml that comes with wellhead.\n\
         version: {}\n\nsite: {}                       # {{site}} in topics, and the client identifier at the remote broker\n\n",
        config::VERSION,
        quoted(&site)
    );
    if let Some((line, device)) = on_line {
        out.push_str(&format!("lines:                              # the wires\n  - {{ name: bus, {line} }}\n\ndevices:                            # the instruments on them\n{device}\n"));
    } else {
        out.push_str("# lines:                            # the wires; `wellhead scan /dev/ttyUSB0` finds who is on one\n#   - { name: bus, serial: /dev/ttyUSB0, speed: 9600 8N1 }\n# devices:                          # what is on them; `wellhead profiles` shows the instruments that are known\n#   - { name: meter, line: bus, unit: 1, profile: eastron-sdm120 }\n\n");
    }
    out.push_str("topics: '{site}/{device}/{point}'   # where values are published; writes arrive on <topic>/set\n\n");
    out.push_str(
        "broker:                             # for local clients: mosquitto_sub -t '#' -v\n  listen: [ 'mqtt://127.0.0.1:1883' ]\n\n",
    );
    out.push_str(&format!(
        "outbox: {{ folder: {} }}   # what must survive: messages for remote brokers, sessions, retained messages\n",
        quoted(&folder)
    ));
    if !uplink.is_empty() {
        out.push_str(&remote(&uplink));
    }
    Ok(out)
}

/// The section `uplinks`.
fn remote(address: &str) -> String {
    let host = address.parse::<Remote>().map(|remote| remote.host).unwrap_or_default();
    let send = "    send: [ { filter: '#' } ]       # which local topics go there\n";
    let is_aws = address == "aws-iot" || host.ends_with(".amazonaws.com");
    if !is_aws && address != "azure-iot-hub" && !host.ends_with(".azure-devices.net") {
        let to = quoted(address);
        return format!(
            "\nuplinks:\n  - name: cloud\n    to: {to}\n    # user: me                      # and the first line of this file is the password:\n    # password_file: cloud.password\n{send}"
        );
    }
    let (profile, example, rest) = if is_aws {
        (
            "aws-iot",
            "mqtts://ENDPOINT-ats.iot.REGION.amazonaws.com",
            "    # client_id: pump-7             # the name of the thing; without it that of the site\n    cert: thing.pem.crt             # what AWS IoT Core made for the thing\n    key: thing.pem.key\n",
        )
    } else {
        (
            "azure-iot-hub",
            "mqtts://HUB.azure-devices.net",
            "    # client_id: pump-7             # the device in the hub; without it that of the site\n    password_file: device.key       # the primary key of the device in its first line\n",
        )
    };
    let to = if host.is_empty() { example } else { address };
    format!(
        "\nuplinks:\n  - name: cloud\n    profile: {profile}\n    enabled: false                  # true when the files below are there\n    to: {to}\n{rest}{send}"
    )
}

/// What the first line is.
enum Wire {
    /// A serial device.
    Serial(String),
    /// The address of a Modbus TCP device.
    ModbusTcp(String),
}

/// What the instrument is on; `None` for a gateway without one.
fn wire(init: &Init, asks: bool) -> Result<Option<Wire>, Failure> {
    if let Some(address) = &init.modbus_tcp {
        return Ok(Some(Wire::ModbusTcp(address.clone())));
    }
    let adapters = adapters();
    if asks && init.serial.is_none() {
        for adapter in &adapters {
            say(&format!("  there is {adapter}"));
        }
    }
    let first = adapters.first().map(String::as_str).unwrap_or_default();
    let wire = answer(init.serial.as_ref(), asks, "Serial device, or address of a Modbus TCP device (nothing for none)", first)?;
    if wire.is_empty() {
        let given = [
            ("--profile", init.profile.is_some()),
            ("--unit", init.unit.is_some()),
            ("--address", init.address.is_some()),
            ("--name", init.name.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(Failure { code: USAGE, message: format!("{flag} is for an instrument on a line; add --serial or --modbus-tcp") })
            }
            None => Ok(None),
        };
    }
    Ok(Some(if wire.starts_with('/') || init.serial.is_some() { Wire::Serial(wire) } else { Wire::ModbusTcp(wire) }))
}

/// The keys of the line.
fn line(init: &Init, asks: bool, wire: &Wire, factory: &Factory) -> Result<String, Failure> {
    match wire {
        Wire::ModbusTcp(address) => {
            // 502 is the port where none is written.
            let is_usual = address.contains(':') || factory.ports.contains(&502);
            let port = factory.ports.first().filter(|_| !is_usual);
            Ok(format!("modbus_tcp: {}", quoted(&port.map_or_else(|| address.clone(), |port| format!("{address}:{port}")))))
        }
        Wire::Serial(path) => {
            let usual = factory.speeds.first().map_or_else(|| "9600 8N1".to_owned(), ToString::to_string);
            let speed = answer(init.speed.as_ref(), asks, "Speed", &usual)?;
            let speed = speed.parse::<Speed>().map_err(|message| Failure { code: USAGE, message })?;
            Ok(format!("serial: {}, speed: {speed}", quoted(path)))
        }
    }
}

/// The name of a profile; empty for registers that are mapped by hand.
fn profile(init: &Init, asks: bool) -> Result<String, Failure> {
    loop {
        let typed =
            answer(init.profile.as_ref(), asks, "What is on it? A profile, or a word to look for (nothing to map registers by hand)", "")?;
        if typed.is_empty() || presets::text(&typed).is_some() || !asks || init.profile.is_some() {
            return Ok(typed);
        }
        let wanted = typed.to_lowercase();
        let found: Vec<&str> = presets::names().filter(|name| name.contains(&wanted)).collect();
        say(&if found.is_empty() {
            format!("no profile has \"{typed}\" in its name; `wellhead profiles` shows them")
        } else {
            format!("  there is {}", found.join(", "))
        });
    }
}

fn device(init: &Init, asks: bool, profile: &str, factory: &Factory) -> Result<String, Failure> {
    // A plain instrument has no Modbus address.
    if let Some(text) = presets::text(profile).filter(|text| text.lines().any(|line| line.starts_with("text:"))) {
        return instrument(init, asks, (profile, text), factory);
    }
    let unit = answer(
        init.unit.map(|unit| unit.to_string()).as_ref(),
        asks,
        "Its Modbus address",
        &factory.units.first().unwrap_or(&1).to_string(),
    )?;
    let name = answer(init.name.as_ref(), asks, "Its name", "meter")?;
    let unit: u8 = unit.parse().map_err(|_| Failure { code: USAGE, message: format!("`{unit}` is no Modbus address; type 1 to 247") })?;
    let name = quoted(&name);
    Ok(if profile.is_empty() {
        format!(
            "  - name: {name}\n    line: bus\n    unit: {unit}                         # `wellhead peek meter --expect 229.4` finds where a value stands\n    points:\n      first: {{ holding: 0, type: u16, every: 10s }}\n"
        )
    } else {
        format!("  - {{ name: {name}, line: bus, unit: {unit}, profile: {profile} }}   # `wellhead profiles {profile}` shows its points\n")
    })
}

/// The keys of a plain instrument.
fn instrument(init: &Init, asks: bool, (profile, text): (&str, &str), factory: &Factory) -> Result<String, Failure> {
    let address = if text.contains("{address}") {
        let usual = factory.addresses.first().map(String::as_str).unwrap_or_default();
        let address = answer(init.address.as_ref(), asks, "Its address", usual)?;
        if address.is_empty() {
            return Err(Failure { code: USAGE, message: format!("{profile} is asked by its address; add --address") });
        }
        format!(", address: '{}'", address.replace('\'', "''"))
    } else {
        String::new()
    };
    let name = quoted(&answer(init.name.as_ref(), asks, "Its name", "instrument")?);
    Ok(format!("  - {{ name: {name}, line: bus, profile: {profile}{address} }}   # `wellhead profiles {profile}` shows its points\n"))
}

/// As YAML takes it for text.
fn quoted(text: &str) -> String {
    let is_plain = !text.is_empty()
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}
