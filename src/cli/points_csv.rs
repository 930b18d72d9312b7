//! `wellhead points`: the points of a device or a profile as CSV, for spreadsheets, and back.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{CONFIG, Failure, put, usual_file};
use crate::config::{self, table};
use crate::files;

#[derive(Debug, Subcommand)]
pub(super) enum PointsCommand {
    /// Write the points of a device or a profile as CSV
    #[command(
        after_help = "Examples:\n  wellhead points export inlet > inlet.csv\n  wellhead points export eastron-sdm630 > sdm630.csv"
    )]
    Export {
        /// A device or a profile of the YAML file, or a profile that comes with the program
        name: String,
        /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Convert a CSV file to `points:`; it has a column `name` and one for each key (holding, type,
    /// scale, ...)
    #[command(
        after_help = "Examples:\n  wellhead points import inlet.csv               paste it into gateway.yaml, or into profiles/<name>.yaml\n  wellhead points import - < inlet.csv"
    )]
    Import {
        /// The CSV file, or - ; separated by commas, semicolons or tabs
        csv: PathBuf,
    },
}

pub(super) fn points(command: PointsCommand) -> Result<(), Failure> {
    match command {
        PointsCommand::Export { name, file } => export(&name, file),
        PointsCommand::Import { csv } => import(&csv),
    }
}

fn export(name: &str, file: Option<PathBuf>) -> Result<(), Failure> {
    let file = file.or_else(usual_file);
    let folder = file
        .as_deref()
        .and_then(Path::parent)
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let text = match file {
        Some(file) => {
            files::text(&file).map_err(|error| wrong(format!("{}: {error}", file.display())))?
        }
        None => String::new(),
    };
    let Some(found) = table::points_of(&text, &folder, name) else {
        let mut known = table::names_of(&text);
        known.extend(config::presets::names().map(str::to_owned));
        let hint = config::suggestion(name, known.iter().map(String::as_str));
        return Err(Failure::runtime(format!(
            "there is no device and no profile \"{name}\"; {hint}"
        )));
    };
    let mut out = csv::Writer::from_writer(Vec::new());
    let written = out
        .write_record(&found.columns)
        .and_then(|()| found.rows.iter().try_for_each(|row| out.write_record(row)));
    written.map_err(Failure::runtime)?;
    put(&out.into_inner().map_err(Failure::runtime)?).map(drop)
}

fn import(path: &Path) -> Result<(), Failure> {
    let text = input(path)?;
    // Spreadsheets begin a file with a byte order mark.
    let table = parse(path, text.trim_start_matches('\u{feff}'))?;
    let yaml = table::points_from(&table).map_err(|faults| {
        let column = |number: usize| {
            table
                .columns
                .get(number.saturating_sub(1))
                .map(String::as_str)
                .unwrap_or_default()
        };
        let lines = faults.iter().map(|fault| {
            format!(
                "{}: row {}, column {} ({}): {}",
                path.display(),
                fault.line,
                fault.column,
                column(fault.column),
                fault.message
            )
        });
        wrong(lines.collect::<Vec<_>>().join("\n"))
    })?;
    put(yaml.as_bytes()).map(drop)
}

fn wrong(message: String) -> Failure {
    Failure {
        code: CONFIG,
        message,
    }
}

/// The text of the file; standard input for `-`.
fn input(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        let mut input = io::stdin().take(files::LARGEST_TEXT);
        input.read_to_string(&mut text).map(|_| text)
    } else {
        files::text(path)
    };
    text.map_err(|error| Failure::runtime(format!("{}: {error}", path.display())))
}

/// The first record has the names of the columns.
fn parse(path: &Path, text: &str) -> Result<table::PointTable, Failure> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(separator(text))
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            wrong(format!(
                "{}: {error}; save it as CSV in UTF-8",
                path.display()
            ))
        })?;
        let cells = record.iter().map(|cell| cell.trim().to_owned());
        rows.push(cells.collect::<Vec<String>>());
    }
    let columns = if rows.is_empty() {
        Vec::new()
    } else {
        rows.remove(0)
    };
    Ok(table::PointTable { columns, rows })
}

/// The character between the names of the columns.
fn separator(text: &str) -> u8 {
    let first = text.lines().next().unwrap_or_default();
    [b',', b';', b'\t']
        .into_iter()
        .max_by_key(|separator| first.bytes().filter(|byte| byte == separator).count())
        .unwrap_or(b',')
}
