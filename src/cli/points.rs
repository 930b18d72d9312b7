//! `wellhead points`: the points of a device or a profile as CSV, for spreadsheets, and back.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{CONFIG, Failure, put, usual_file};
use crate::config::{self, table};
use crate::files;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
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
    /// Convert a CSV file to `points:`; it has a column `name` and one for each key (holding, type, scale, ...)
    #[command(
        after_help = "Examples:\n  wellhead points import inlet.csv               paste it into gateway.yaml, or into profiles/<name>.yaml\n  wellhead points import - < inlet.csv"
    )]
    Import {
        /// The CSV file, or - ; separated by commas, semicolons or tabs
        csv: PathBuf,
    },
}

pub(super) fn points(action: Action) -> Result<(), Failure> {
    match action {
        Action::Export { name, file } => export(&name, file),
        Action::Import { csv } => import(&csv),
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
        Some(file) => files::text(&file).map_err(|error| Failure {
            code: CONFIG,
            message: format!("{}: {error}", file.display()),
        })?,
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
    let unreadable = |error: io::Error| Failure::runtime(format!("{}: {error}", path.display()));
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin()
            .take(files::LARGEST_TEXT)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        text
    } else {
        files::text(path).map_err(unreadable)?
    };
    // Spreadsheets begin a file with a mark that is no part of it.
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(separator(text))
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| Failure {
            code: CONFIG,
            message: format!("{}: {error}; save it as CSV in UTF-8", path.display()),
        })?;
        records.push(
            record
                .iter()
                .map(str::trim)
                .map(str::to_owned)
                .collect::<Vec<String>>(),
        );
    }
    let mut records = records.into_iter();
    let columns = records.next().unwrap_or_default();
    let found = table::PointTable {
        columns,
        rows: records.collect(),
    };
    match table::points_from(&found) {
        Ok(yaml) => put(yaml.as_bytes()).map(drop),
        Err(faults) => {
            let column = |number: usize| {
                found
                    .columns
                    .get(number.saturating_sub(1))
                    .map(String::as_str)
                    .unwrap_or_default()
            };
            let told: Vec<String> = faults
                .iter()
                .map(|fault| {
                    format!(
                        "{}: row {}, column {} ({}): {}",
                        path.display(),
                        fault.line,
                        fault.column,
                        column(fault.column),
                        fault.message
                    )
                })
                .collect();
            Err(Failure {
                code: CONFIG,
                message: told.join("\n"),
            })
        }
    }
}

/// What stands between the names of the columns.
fn separator(text: &str) -> u8 {
    let first = text.lines().next().unwrap_or_default();
    [b',', b';', b'\t']
        .into_iter()
        .max_by_key(|separator| first.bytes().filter(|byte| byte == separator).count())
        .unwrap_or(b',')
}
