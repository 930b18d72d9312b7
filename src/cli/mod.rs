//! The command line: one file per command. Errors become one line on stderr and an exit code.

mod alone;
mod check;
mod client;
mod columns;
mod demo;
mod init;
mod line;
mod log;
mod manual;
mod outbox;
mod passwd;
mod peek;
mod points;
mod profiles;
mod reload;
mod run;
mod scan;
mod sessions;
mod simulate;
mod status;
mod talk;
mod trace;
mod watch;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, LoadError};
use crate::field::modbus::slave::InjectedFault;
use crate::log::{Format, Printable};
use crate::mqtt::{TopicFilter, TopicName};
use crate::units::Span;

/// The configuration is wrong (`EX_CONFIG` of sysexits.h); systemd does not restart then.
const CONFIG: u8 = 78;
const RUNTIME: u8 = 1;
const USAGE: u8 = 2;

/// Edge gateway: serial and Modbus instruments, a local MQTT broker, and an uplink that loses nothing
#[derive(Debug, Parser)]
#[command(
    name = "wellhead",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    #[command(
        after_help = "Examples:\n  wellhead run                                   ./gateway.yaml, else /etc/wellhead/gateway.yaml\n  wellhead run site.yaml\n  WELLHEAD_LOG=debug wellhead run                more log lines"
    )]
    Run {
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        file: Option<PathBuf>,
        /// Real-time priority of the threads of serial lines (SCHED_FIFO); the system must allow it
        #[arg(long, value_name = "1-99", env = "WELLHEAD_LINE_PRIORITY", value_parser = clap::value_parser!(u8).range(1..=99))]
        line_priority: Option<u8>,
        /// How the log is written: text, or json (an object a line) [default: log.format of the YAML file, else text]
        #[arg(long, value_name = "FORMAT", env = "WELLHEAD_LOG_FORMAT")]
        log_format: Option<Format>,
    },
    /// Reload the configuration of the running gateway (a file with mistakes changes nothing; only changed parts restart)
    #[command(
        after_help = "Examples:\n  wellhead reload                                prints what changed\n  systemctl reload wellhead                      the same; the report is in the journal"
    )]
    Reload {
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        file: Option<PathBuf>,
    },
    /// Check a YAML file: list every mistake with its position, or show the polling plan and the cost of each uplink
    #[command(
        after_help = "Examples:\n  wellhead check gateway.yaml\n  wellhead check --points\n  wellhead check --json | jq '.plan.uplinks[].bytes_per_month'\n  wellhead check --json | jq -r '.faults[].message'"
    )]
    Check {
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        file: Option<PathBuf>,
        /// Print JSON: `ok`, `faults` with their positions, `plan`
        #[arg(long)]
        json: bool,
        /// Add a row for each point: how it is read and reported, and where each setting comes from
        #[arg(long)]
        points: bool,
    },
    /// Simulate the devices in a YAML file: TCP lines on their address, serial lines on a pseudo-terminal
    #[command(
        after_help = "Examples:\n  wellhead simulate gateway.yaml\n  wellhead simulate gateway.yaml --line bus --fault 'crc every 10'\n  wellhead simulate gateway.yaml --baud-true --turnaround 20ms"
    )]
    Simulate {
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        file: Option<PathBuf>,
        /// Simulate only this line; can be given several times
        #[arg(long = "line", value_name = "NAME")]
        lines: Vec<String>,
        /// A fault to inject, such as 'delay=200ms unit 3 for 5' or 'silence function 6 every 10'; can be given several times, and typed
        /// while it runs: `fault <fault>`, `clear`
        #[arg(long = "fault", value_name = "FAULT")]
        faults: Vec<InjectedFault>,
        /// Send bytes on serial lines as slowly as the speed of the line allows
        #[arg(long)]
        baud_true: bool,
        /// How long a device waits before it answers
        #[arg(long, value_name = "TIME", default_value = "0ms")]
        turnaround: Span,
    },
    /// Show, export or delete queued messages
    #[command(subcommand)]
    Outbox(outbox::Action),
    /// Manage sessions of the local broker
    #[command(subcommand)]
    Sessions(sessions::Action),
    /// Hash a password for `broker.users` (from a prompt or a pipe)
    #[command(
        after_help = "Examples:\n  wellhead passwd hmi                            asks for the password\n  echo secret | wellhead passwd hmi --scram"
    )]
    Passwd {
        /// The user's name
        name: Option<String>,
        /// Add a secret for enhanced authentication (SCRAM-SHA-256)
        #[arg(long)]
        scram: bool,
    },
    /// List the profiles that come with the program, search them, or print one
    #[command(
        after_help = "Examples:\n  wellhead profiles                              all\n  wellhead profiles 'three phase'\n  wellhead profiles eastron-sdm630 > profiles/my-meter.yaml"
    )]
    Profiles {
        /// A name, or part of a name or description, such as sdm630 or `three phase`
        word: Option<String>,
        /// Print all as a table in Markdown
        #[arg(long, conflicts_with = "word")]
        markdown: bool,
    },
    /// Convert points between YAML and CSV for spreadsheets
    #[command(subcommand)]
    Points(points::Action),
    /// Watch it work for half a minute: simulated instruments, a gateway, a remote broker, an outage and a kill -9
    #[command(
        after_help = "Examples:\n  wellhead demo                                  half a minute; ends with the ledger"
    )]
    Demo,
    /// Subscribe to the gateway's broker and print messages
    ///
    /// Topics are printed without control characters. So are payloads on a terminal; a pipe or a file gets the bytes of payloads unchanged.
    #[command(
        after_help = "Examples:\n  wellhead sub                                   everything\n  wellhead sub 'plant/+/flow' -n 10\n  wellhead sub --to mqtt://10.0.0.7:1883 --user hmi --password-file pw"
    )]
    Sub {
        #[command(flatten)]
        access: client::Access,
        /// Topics, with + and # [default: #]
        #[arg(value_parser = filter)]
        filters: Vec<TopicFilter>,
        /// Exit after this many messages
        #[arg(long, short = 'n')]
        count: Option<u64>,
        /// Print payloads only
        #[arg(long)]
        payload: bool,
    },
    /// Publish a message to the gateway's broker
    #[command(
        after_help = "Examples:\n  wellhead pub plant/note hello --retain\n  date | wellhead pub plant/time"
    )]
    Pub {
        #[command(flatten)]
        access: client::Access,
        /// The topic
        topic: String,
        /// The message [default: standard input]
        message: Option<String>,
        /// Set the retain flag
        #[arg(long)]
        retain: bool,
    },
    /// Show current values in a live table; in a pipe, print a line for each value
    #[command(
        after_help = "Examples:\n  wellhead watch                                 everything\n  wellhead watch 'pump-station-7/+/flow'         some topics\n  wellhead watch | grep bad                      a line for each value"
    )]
    Watch {
        #[command(flatten)]
        access: client::Access,
        /// Print lines instead of a table, and exit after this many
        #[arg(long, short = 'n', value_name = "COUNT")]
        lines: Option<u64>,
        /// Topics, with + and # [default: #]
        #[arg(value_parser = filter)]
        filters: Vec<TopicFilter>,
    },
    /// Show the state of the running gateway: lines, uplinks, queued messages
    Status(status::Arguments),
    /// Show requests and answers on a line of the running gateway, decoded
    Trace(trace::Trace),
    /// Print the value of a point, from the running gateway or read directly
    #[command(
        after_help = "Examples:\n  wellhead read inlet flow\n  wellhead read inlet flow --file /etc/wellhead/gateway.yaml"
    )]
    Read {
        #[command(flatten)]
        access: client::Access,
        /// The device, as in the YAML
        device: String,
        /// The point
        point: String,
    },
    /// Write a point, through the running gateway or directly, and wait for the result
    #[command(
        after_help = "Examples:\n  wellhead write boiler setpoint 21.5\n  wellhead write pump run true\n  wellhead write valve position -- -10"
    )]
    Write {
        #[command(flatten)]
        access: client::Access,
        /// The device, as in the YAML
        device: String,
        /// The point; it needs `write:`
        point: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Write a first gateway.yaml from flags or a few questions
    Init(init::Init),
    /// Find the devices on a line: addresses, identification, SunSpec, matching profiles
    Scan(scan::Scan),
    /// Show registers in every type and byte order, or find the ones that hold a value (--expect)
    Peek(peek::Peek),
    /// Print the JSON Schema of the YAML file, for editors
    #[command(
        after_help = "Examples:\n  wellhead schema > gateway.schema.json\n  wellhead schema --profile"
    )]
    Schema {
        /// Print the schema of files in profiles/
        #[arg(long)]
        profile: bool,
    },
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  wellhead completions bash > /etc/bash_completion.d/wellhead\n  source <(wellhead completions zsh)"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page: of the program, a command or gateway.yaml
    #[command(
        after_help = "Examples:\n  wellhead man | man -l -\n  wellhead man outbox show | man -l -\n  wellhead man gateway.yaml | man -l -\n  wellhead man gateway.yaml --markdown"
    )]
    Man {
        /// The command, or gateway.yaml
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
        /// List the names of all pages, each with its command
        #[arg(long, conflicts_with = "words")]
        list: bool,
        /// Print the page of gateway.yaml as Markdown
        #[arg(long, conflicts_with = "list")]
        markdown: bool,
    },
}

/// A command that failed, with the exit code it deserves.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn runtime(message: impl ToString) -> Self {
        Self {
            code: RUNTIME,
            message: message.to_string(),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self {
            code: CONFIG,
            message: error.to_string(),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run {
            file,
            line_priority,
            log_format,
        } => chosen(file).and_then(|file| run::run(&file, line_priority, log_format)),
        Command::Reload { file } => chosen(file).and_then(|file| reload::reload(&file)),
        Command::Check { file, json, points } => {
            chosen(file).and_then(|file| check::check(&file, json, points))
        }
        Command::Simulate {
            file,
            lines,
            faults,
            baud_true,
            turnaround,
        } => {
            let play = simulate::Play::new(&faults, baud_true, turnaround);
            chosen(file).and_then(|file| simulate::simulate(&file, &lines, &play))
        }
        Command::Outbox(action) => outbox::outbox(action),
        Command::Sessions(action) => sessions::sessions(action),
        Command::Passwd { name, scram } => passwd::passwd(name.as_deref(), scram),
        Command::Profiles { markdown: true, .. } => profiles::chapter(),
        Command::Profiles { word, .. } => profiles::profiles(word.as_deref().unwrap_or_default()),
        Command::Points(action) => points::points(action),
        Command::Demo => demo::demo(),
        Command::Sub {
            access,
            filters,
            count,
            payload,
        } => talk::sub(&access, &or_all(filters), count, payload),
        Command::Watch {
            access,
            lines,
            filters,
        } => watch::watch(&access, &or_all(filters), lines),
        Command::Pub {
            access,
            topic,
            message,
            retain,
        } => match TopicName::new(topic) {
            Ok(topic) => talk::publish(&access, topic, message, retain),
            Err(error) => Err(Failure {
                code: USAGE,
                message: format!("this is no topic: {error}"),
            }),
        },
        Command::Status(arguments) => status::status(&arguments),
        Command::Trace(arguments) => trace::trace(&arguments),
        Command::Read {
            access,
            device,
            point,
        } => talk::read(&access, &device, &point),
        Command::Write {
            access,
            device,
            point,
            value,
        } => talk::write(&access, &device, &point, &value),
        Command::Init(arguments) => init::init(&arguments),
        Command::Scan(arguments) => scan::scan(&arguments),
        Command::Peek(arguments) => peek::peek(&arguments),
        Command::Schema { profile } => schema(profile),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { list: true, .. } => manual::list(),
        Command::Man {
            words,
            markdown: true,
            ..
        } => manual::chapter(&words),
        Command::Man { words, .. } => manual::man(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let prefix = log::prefix();
            for line in failure.message.lines() {
                say(&format!("{prefix}{line}"));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// What is wrong with a command line, `words` without the name of the program; `None` if the program understands it.
pub fn misunderstood(words: &[&str]) -> Option<clap::Error> {
    Arguments::try_parse_from(["wellhead"].iter().chain(words)).err()
}

/// A line for the person at the terminal. What peers and files put into it is escaped.
#[allow(clippy::print_stderr)]
fn say(line: &str) {
    eprintln!("{}", Printable::lines(line));
}

/// Writes to stdout; false if nobody reads any more.
fn put(text: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).map_err(Failure::runtime),
    }
}

/// Writes the schema of the file, or of a profile, to stdout.
fn schema(of_profile: bool) -> Result<(), Failure> {
    let schema = if of_profile {
        config::schema::of_profile()
    } else {
        config::schema::of_file()
    };
    let text = serde_json::to_string_pretty(&schema).map_err(Failure::runtime)?;
    put(format!("{text}\n").as_bytes()).map(drop)
}

/// All topics, if none was named.
fn or_all(mut filters: Vec<TopicFilter>) -> Vec<TopicFilter> {
    if filters.is_empty() {
        filters.extend(TopicFilter::new("#"));
    }
    filters
}

fn filter(text: &str) -> Result<TopicFilter, String> {
    TopicFilter::new(text.to_owned())
        .map_err(|error| format!("{error}; write one such as plant/+/flow or plant/#"))
}

/// The file that is meant when none is named.
fn usual_file() -> Option<PathBuf> {
    // One that cannot be looked at is there: whoever reads it is told what is missing.
    let is_there = |path: &&Path| path.try_exists().unwrap_or(true);
    ["gateway.yaml", "/etc/wellhead/gateway.yaml"]
        .iter()
        .map(Path::new)
        .find(is_there)
        .map(Path::to_path_buf)
}

fn chosen(file: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(file) = file {
        return Ok(file);
    }
    usual_file().ok_or_else(|| Failure {
        code: CONFIG,
        message: "neither ./gateway.yaml nor /etc/wellhead/gateway.yaml exists; name a file: wellhead run FILE".to_owned(),
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wellhead")
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format!("the runtime cannot start: {error}")))
}

/// SIGTERM and Ctrl-C, caught from the moment this is made.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    /// To be called inside the runtime, before anything is started that must be stopped in order.
    fn catch() -> Result<Self, Failure> {
        let failed = |error| Failure::runtime(format!("signals cannot be received: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
