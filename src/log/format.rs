//! The format of the log.

use std::str::FromStr;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line for people, or an entry of the journal.
    #[default]
    Text,
    /// An object a line: `time`, `level`, `target`, `message`, `fields`.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("choose one of: text, json".to_owned()),
        }
    }
}
