//! `wellhead init`: the first `gateway.yaml`, out of a few answers.

mod answers;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::line::{Meant, modbus_tcp, serial};
use super::scan::{Search, table};
use super::{Failure, USAGE, put, say};
use crate::config::{self, Factory};
use crate::field::serial::Speed;
use crate::uplink::Remote;
use crate::uplink::cloud::CloudName;
use answers::{Answers, Port, ports};

/// How long a device may take to answer while devices are looked for.
const WITHIN: Duration = Duration::from_millis(300);

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
    /// Its address, if it is a plain instrument with addresses [default: the factory setting of the profile]
    #[arg(long, conflicts_with = "unit")]
    address: Option<String>,
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// Address of a remote broker, or `aws-iot` or `azure-iot-hub`
    #[arg(long, value_name = "ADDRESS")]
    uplink: Option<String>,
    /// Folder for the outbox and the broker's state [default: /var/lib/wellhead in /etc/wellhead, else wellhead-data]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Ask no questions
    #[arg(long, short)]
    yes: bool,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
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
    let text = text(init, &file, asks)?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    config::parse(&file.display().to_string(), &text, folder).map_err(|faults| Failure {
        code: USAGE,
        message: faults
            .iter()
            .map(|fault| format!("{}{}", fault.message, fault.excerpt))
            .collect::<Vec<_>>()
            .join("\n"),
    })?;
    let mut options = fs::File::options();
    let options = if init.force {
        options.write(true).create(true).truncate(true)
    } else {
        options.write(true).create_new(true)
    };
    let mut out = options
        .open(&file)
        .map_err(|error| Failure::runtime(format!("{}: {error}", file.display())))?;
    out.write_all(text.as_bytes()).map_err(Failure::runtime)?;
    put(format!(
        "{0} is written. Next:\n  wellhead check {0}\n  wellhead run {0}\n  wellhead watch --file {0}      in another terminal\n",
        file.display()
    )
    .as_bytes())?;
    Ok(())
}

/// What is wrong with a piece of a file, in the words of `wellhead check`.
fn checked(yaml: &str) -> Result<(), String> {
    let first = |faults: Vec<config::Diagnostic>| {
        faults.first().map_or_else(
            || "this cannot be".to_owned(),
            |fault| fault.message.clone(),
        )
    };
    config::parse("answer", yaml, Path::new("."))
        .map(drop)
        .map_err(first)
}

/// A name of the site that can stand in topics.
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
            remote(typed)
        ))?;
    }
    Ok(typed.to_owned())
}

/// The name of a device that can stand in topics.
fn name(typed: &str) -> Result<String, String> {
    let device = format!(
        "{{ name: {}, line: l, unit: 1, points: {{ p: {{ holding: 0, type: u16 }} }} }}",
        quoted(typed)
    );
    checked(&format!(
        "site: x\nlines: [ {{ name: l, modbus_tcp: 127.0.0.1 }} ]\ndevices: [ {device} ]\n"
    ))
    .map(|()| typed.to_owned())
}

fn text(init: &Init, file: &Path, asks: bool) -> Result<String, Failure> {
    let answers = Answers { asks };
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
    let on_line = match wire(init, answers)? {
        None => None,
        Some(wire) => {
            let folder = file.parent().unwrap_or(Path::new("."));
            let seen = look(init, answers, &wire)?;
            let profile = profile(init, answers, (&seen, folder))?;
            let is_plain = is_plain(folder, &profile);
            // What is wrong with a profile of the user's own is told when the whole file is checked.
            let factory = config::factory(folder, &profile).unwrap_or_default();
            let device = Device {
                profile: &profile,
                is_plain,
                factory: &factory,
                seen: &seen,
            };
            Some((
                line(init, answers, &wire, &device)?,
                keys(init, answers, &device, folder)?,
            ))
        }
    };
    let question = "Remote broker, such as mqtts://cloud.example.net; or aws-iot or azure-iot-hub (nothing for none)";
    let uplink = answers.get(init.uplink.as_deref(), question, "", uplink)?;
    let is_installed = file.starts_with("/etc/wellhead");
    let folder = init.folder.clone().unwrap_or_else(|| {
        if is_installed {
            "/var/lib/wellhead"
        } else {
            "wellhead-data"
        }
        .to_owned()
    });
    let mut out = format!(
        "# yaml-language-server: $schema=/usr/share/wellhead/gateway.schema.json\n\
         # `wellhead check` lists every mistake in this file, or shows what it will do. All settings: the gateway.yaml that comes with wellhead.\n\
         version: {}\n\nsite: {}                       # {{site}} in topics, and the client identifier at the remote broker\n\n",
        config::VERSION,
        quoted(&site)
    );
    if let Some((line, device)) = on_line {
        out.push_str(&format!("lines:                              # serial ports, Modbus TCP devices\n  - {{ name: bus, {line} }}\n\ndevices:                            # the instruments on them\n{device}\n"));
    } else {
        out.push_str("# lines:                            # serial ports; `wellhead scan /dev/ttyUSB0` finds the devices on one\n#   - { name: bus, serial: /dev/ttyUSB0, speed: 9600 8N1 }\n# devices:                          # what is on them; `wellhead profiles` shows the instruments that are known\n#   - { name: meter, line: bus, unit: 1, profile: eastron-sdm120 }\n\n");
    }
    out.push_str(
        "topics: '{site}/{device}/{point}'   # topics of values; writes arrive on <topic>/set\n\n",
    );
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
    let host = address
        .parse::<Remote>()
        .map(|remote| remote.host)
        .unwrap_or_default();
    let send = "    send: [ { filter: '#' } ]       # local topics to send\n";
    let cloud = match address {
        "aws-iot" => Some(CloudName::AwsIot),
        "azure-iot-hub" => Some(CloudName::AzureIotHub),
        _ => CloudName::of_host(&host),
    };
    let Some(cloud) = cloud else {
        let to = quoted(address);
        return format!(
            "\nuplinks:\n  - name: cloud\n    to: {to}\n    # user: me                      # the first line of this file is the password:\n    # password_file: cloud.password\n{send}"
        );
    };
    let (profile, example, rest) = match cloud {
        CloudName::AwsIot => (
            "aws-iot",
            "mqtts://ENDPOINT-ats.iot.REGION.amazonaws.com",
            "    # client_id: pump-7             # the name of the thing; without it that of the site\n    cert: thing.pem.crt             # from AWS IoT Core\n    key: thing.pem.key\n",
        ),
        CloudName::AzureIotHub => (
            "azure-iot-hub",
            "mqtts://HUB.azure-devices.net",
            "    # client_id: pump-7             # the device in the hub; without it that of the site\n    password_file: device.key       # the primary key of the device in its first line\n",
        ),
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
    /// The address of a Modbus TCP device, or of a terminal server.
    Tcp(String),
}

/// What a scan has shown of the first device on the line.
#[derive(Debug, Default)]
struct Seen {
    unit: Option<u8>,
    speed: Option<String>,
    profile: Option<String>,
}

/// The instrument as far as it is known.
struct Device<'a> {
    /// Empty for registers that are mapped by hand.
    profile: &'a str,
    is_plain: bool,
    factory: &'a Factory,
    seen: &'a Seen,
}

/// What the instrument is on; `None` for a gateway without one.
fn wire(init: &Init, answers: Answers) -> Result<Option<Wire>, Failure> {
    if let Some(address) = &init.modbus_tcp {
        return Ok(Some(Wire::Tcp(address.clone())));
    }
    let ports = ports(Path::new("/dev"));
    if answers.asks && init.serial.is_none() {
        say(if ports.is_empty() {
            "No serial port was found."
        } else {
            "Serial ports:"
        });
        for (number, Port { path, device }) in (1..).zip(&ports) {
            let leads_to = if path.ends_with(device.as_str()) {
                String::new()
            } else {
                format!(" ({device})")
            };
            say(&format!("  {number}  {path}{leads_to}"));
        }
    }
    let first = ports
        .first()
        .map(|port| port.path.as_str())
        .unwrap_or_default();
    let question =
        "Serial device or its number, or address of a Modbus TCP device (nothing for none)";
    let by_number = |typed: &str| {
        let number = typed.parse::<usize>().ok();
        match number.map(|number| number.checked_sub(1).and_then(|index| ports.get(index))) {
            None => Ok(typed.to_owned()),
            Some(Some(port)) => Ok(port.path.clone()),
            Some(None) => Err(format!(
                "there is no port with the number {typed}; type its path"
            )),
        }
    };
    let is_serial = |typed: &str| typed.contains('/') || Path::new(typed).exists();
    let exists = |typed: &str| {
        let typed = by_number(typed)?;
        let is_there = !is_serial(&typed) || Path::new(&typed).exists();
        is_there.then_some(typed).ok_or_else(|| {
            "there is no such device; check the cable and `ls -l /dev/serial/by-id`".to_owned()
        })
    };
    let wire = match init.serial.as_deref() {
        // It may be plugged in later.
        Some(given) => given.to_owned(),
        None => answers.get(None, question, first, exists)?,
    };
    if wire.is_empty() {
        let given = [
            ("--profile", init.profile.is_some()),
            ("--unit", init.unit.is_some()),
            ("--address", init.address.is_some()),
            ("--name", init.name.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure {
                code: USAGE,
                message: format!(
                    "{flag} is for an instrument on a line; add --serial or --modbus-tcp"
                ),
            }),
            None => Ok(None),
        };
    }
    Ok(Some(if init.serial.is_some() || is_serial(&wire) {
        Wire::Serial(wire)
    } else {
        Wire::Tcp(wire)
    }))
}

/// Looks for Modbus devices on the line, if somebody wants that.
fn look(init: &Init, answers: Answers, wire: &Wire) -> Result<Seen, Failure> {
    let is_known = init.profile.is_some() && init.unit.is_some();
    if is_known
        || !answers
            .agrees("Look for Modbus devices on it now? It takes up to two minutes (y or n)")?
    {
        return Ok(Seen::default());
    }
    let speeds = match wire {
        Wire::Tcp(_) => vec![None],
        Wire::Serial(_) => vec![Some(answers.get(
            init.speed.as_deref(),
            "At which speed",
            "9600 8N1",
            str::parse::<Speed>,
        )?)],
    };
    let units = answers.get(None, "Which addresses", "1-247", config::units)?;
    let (typed, wire) = match (wire, speeds.first()) {
        (Wire::Serial(path), Some(Some(speed))) => (path, serial(path, *speed, false)),
        (Wire::Serial(address) | Wire::Tcp(address), _) => (address, modbus_tcp(address)),
    };
    let meant = Meant::of(typed, wire, WITHIN);
    let search = Search {
        meant: &meant,
        speeds: &speeds,
        units: &units,
        within: WITHIN,
        is_quick: false,
    };
    let found = match search.run() {
        Ok((found, _)) => found,
        Err(failure) => {
            say(&format!("  {}", failure.message));
            return Ok(Seen::default());
        }
    };
    match found.first() {
        None => {
            say(
                "  no device answered; check the A/B wiring, and speed and address in the device's menu. `wellhead scan` tries more",
            );
            Ok(Seen::default())
        }
        Some(first) => {
            put(table(&found).as_bytes())?;
            let profile = first
                .profile
                .clone()
                .or_else(|| first.looks_like.first().cloned());
            Ok(Seen {
                unit: Some(first.unit),
                speed: first.speed.clone(),
                profile,
            })
        }
    }
}

/// True for an instrument that speaks in lines or frames of its own.
fn is_plain(folder: &Path, profile: &str) -> bool {
    config::profile_text(folder, profile)
        .is_some_and(|text| text.lines().any(|line| line.starts_with("text:")))
}

/// The keys of the line.
fn line(
    init: &Init,
    answers: Answers,
    wire: &Wire,
    device: &Device<'_>,
) -> Result<String, Failure> {
    let factory = device.factory;
    match wire {
        Wire::Tcp(address) => {
            let has_port = address
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if device.is_plain {
                let question = "Its port at the terminal server";
                let port = |typed: &str| {
                    typed.parse::<u16>().map_err(|_| format!("{} is a plain instrument, not a Modbus TCP device: it needs the port of its terminal server, such as --modbus-tcp {address}:4001", device.profile))
                };
                let address = if has_port {
                    address.clone()
                } else {
                    format!("{address}:{}", answers.get(None, question, "", port)?)
                };
                return Ok(format!("tcp: {}", quoted(&address)));
            }
            // 502 is the port where none is written.
            let is_usual = has_port || factory.ports.contains(&502);
            let port = factory.ports.first().filter(|_| !is_usual);
            Ok(format!(
                "modbus_tcp: {}",
                quoted(&port.map_or_else(|| address.clone(), |port| format!("{address}:{port}")))
            ))
        }
        Wire::Serial(path) => {
            let delivered = factory
                .speeds
                .first()
                .map_or_else(|| "9600 8N1".to_owned(), ToString::to_string);
            let usual = device.seen.speed.clone().unwrap_or(delivered);
            let speed = answers.get(init.speed.as_deref(), "Speed", &usual, str::parse::<Speed>)?;
            Ok(format!("serial: {}, speed: {speed}", quoted(path)))
        }
    }
}

/// The name of a profile; empty for registers that are mapped by hand.
fn profile(
    init: &Init,
    answers: Answers,
    (seen, folder): (&Seen, &Path),
) -> Result<String, Failure> {
    if let Some(given) = &init.profile {
        // Whether there is one is told when the whole file is checked.
        return Ok(given.clone());
    }
    let known = |typed: &str| {
        let names = config::profile_names(folder);
        if typed.is_empty() || names.iter().any(|name| name == typed) {
            return Ok(typed.to_owned());
        }
        let wanted = typed.to_lowercase();
        let found: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| name.contains(&wanted))
            .collect();
        Err(if found.is_empty() {
            format!("no profile has \"{typed}\" in its name; `wellhead profiles` shows them")
        } else {
            format!("there is {}", found.join(", "))
        })
    };
    let question =
        "What is on it? A profile, or a word to look for (nothing to map registers by hand)";
    answers.get(
        None,
        question,
        seen.profile.as_deref().unwrap_or_default(),
        known,
    )
}

/// The keys of the device.
fn keys(
    init: &Init,
    answers: Answers,
    device: &Device<'_>,
    folder: &Path,
) -> Result<String, Failure> {
    let Device {
        profile,
        factory,
        seen,
        ..
    } = device;
    // A plain instrument has no Modbus address.
    if device.is_plain {
        return instrument(init, answers, device, folder);
    }
    let usual = seen
        .unit
        .or(factory.units.first().copied())
        .unwrap_or(1)
        .to_string();
    let given = init.unit.map(|unit| unit.to_string());
    let address = |typed: &str| match typed.parse::<u8>() {
        Ok(unit @ 1..=247) => Ok(unit),
        _ => Err(format!(
            "`{typed}` is no Modbus address: a Modbus unit is a number from 1 to 247"
        )),
    };
    let unit = answers.get(given.as_deref(), "Its Modbus address", &usual, address)?;
    let name = quoted(&answers.get(init.name.as_deref(), "Its name", "meter", name)?);
    Ok(if profile.is_empty() {
        format!(
            "  - name: {name}\n    line: bus\n    unit: {unit}                         # `wellhead peek meter --expect 229.4` finds the register of a value\n    points:\n      first: {{ holding: 0, type: u16, every: 10s }}\n"
        )
    } else {
        format!(
            "  - {{ name: {name}, line: bus, unit: {unit}, profile: {profile} }}   # `wellhead profiles {profile}` shows its points\n"
        )
    })
}

/// The keys of a plain instrument.
fn instrument(
    init: &Init,
    answers: Answers,
    device: &Device<'_>,
    folder: &Path,
) -> Result<String, Failure> {
    let profile = device.profile;
    let text = config::profile_text(folder, profile).unwrap_or_default();
    let address = if text.contains("{address}") {
        let usual = device
            .factory
            .addresses
            .first()
            .map(String::as_str)
            .unwrap_or_default();
        let some = |typed: &str| match typed {
            "" => Err(format!("{profile} is asked by its address; add --address")),
            typed => Ok(typed.to_owned()),
        };
        let address = answers.get(init.address.as_deref(), "Its address", usual, some)?;
        format!(", address: '{}'", address.replace('\'', "''"))
    } else {
        String::new()
    };
    let name = quoted(&answers.get(init.name.as_deref(), "Its name", "instrument", name)?);
    Ok(format!(
        "  - {{ name: {name}, line: bus, profile: {profile}{address} }}   # `wellhead profiles {profile}` shows its points\n"
    ))
}

/// As YAML takes it for text.
fn quoted(text: &str) -> String {
    let is_plain = !text.is_empty()
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if is_plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
