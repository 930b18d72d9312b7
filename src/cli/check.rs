//! `wellhead check`: every fault of a file, or the plan of the gateway; for people, or as JSON for
//! scripts.

mod describe;
mod plan;
mod routes;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{CONFIG, Failure, chosen, put};
use crate::config::{self, LoadError};
use describe::{describe, describe_points};
use plan::{Plan, plan};

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The YAML file [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    file: Option<PathBuf>,
    /// Print JSON: `ok`, `faults` with their positions, `plan`
    #[arg(long)]
    json: bool,
    /// Add a row for each point: how it is read and reported, and where each setting comes from
    #[arg(long)]
    points: bool,
}

/// A fault or a warning, for scripts.
#[derive(Debug, Serialize)]
struct FaultReport {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

/// The JSON of the command.
#[derive(Debug, Serialize)]
struct CheckReport {
    ok: bool,
    faults: Vec<FaultReport>,
    warnings: Vec<FaultReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
}

/// Prints the plan of a file. Faults are the failure; with `--json` they are in a report on stdout,
/// like the plan.
pub(super) fn check(arguments: CheckArguments) -> Result<(), Failure> {
    let CheckArguments { file, json, points } = arguments;
    let file = chosen(file)?;
    let loaded = config::load(&file);
    if json {
        return check_json(loaded);
    }
    let config = loaded?;
    let plan = plan(&config);
    let mut out = describe(&file, &plan, &config.warnings);
    if points {
        describe_points(&plan.settings, &mut out);
    }
    put(out.as_bytes()).map(drop)
}

fn check_json(loaded: Result<config::Gateway, LoadError>) -> Result<(), Failure> {
    let all = |faults: &[config::Diagnostic]| faults.iter().map(FaultReport::from).collect();
    match loaded {
        Ok(config) => put_json(&CheckReport {
            ok: true,
            faults: Vec::new(),
            warnings: all(&config.warnings),
            plan: Some(plan(&config)),
        }),
        Err(LoadError::Faults(faults)) => {
            put_json(&CheckReport {
                ok: false,
                faults: all(&faults),
                warnings: Vec::new(),
                plan: None,
            })?;
            Err(Failure {
                code: CONFIG,
                message: String::new(),
            })
        }
        Err(error) => Err(error.into()),
    }
}

impl From<&config::Diagnostic> for FaultReport {
    fn from(fault: &config::Diagnostic) -> Self {
        Self {
            file: fault.file.clone(),
            line: fault.line,
            column: fault.column,
            message: fault.message.clone(),
        }
    }
}

fn put_json(report: &CheckReport) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report).map_err(Failure::runtime)?;
    put(format!("{text}\n").as_bytes()).map(drop)
}
