//! The file with the schemas of packed frames, beside the entries: after a restart frames go on
//! with what was learned.
//!
//! It may be lost: then schemas are made anew. So it is replaced as a whole and not forced onto the
//! disk, and a damaged one counts as none.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Outbox;
use crate::files;
use crate::payload::json;

/// Its name in the folder of the outbox.
const FILE: &str = "schemas.json";
const LARGEST: u64 = 16 << 20;

/// The schema of the frames on a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSchema {
    /// The topic.
    pub topic: String,
    /// The document.
    pub schema: String,
}

impl Outbox {
    fn schemas_file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// What was saved last; nothing if it cannot be read.
    pub fn schemas(&self) -> Vec<SavedSchema> {
        let bytes = files::bytes(&self.schemas_file(), LARGEST);
        let saved = bytes
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        saved.unwrap_or_default()
    }

    /// Replaces the file.
    pub fn save_schemas(&self, schemas: &[SavedSchema]) -> io::Result<()> {
        let path = self.schemas_file();
        let new = path.with_extension("new");
        files::write_over(&new, json::text(&schemas).as_bytes())?;
        fs::rename(new, path)
    }
}
