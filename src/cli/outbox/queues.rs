//! The queues in a folder of outboxes, as their files are at the moment.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::Failure;
use super::{OutboxLocation, QueueName};
use crate::outbox::{ColumnTable, Content, EntryError, QUEUES, Selection};
use crate::reading::Timestamp;
use crate::store::{Entry, Inspection};
use crate::time::moment;

/// One queue of one uplink.
pub(super) struct StoredQueue {
    pub(super) uplink: String,
    pub(super) queue: &'static str,
    /// Of the uplink's store.
    pub(super) folder: PathBuf,
    pub(super) inspection: Inspection,
    columns: Arc<ColumnTable>,
}

/// The folder of an uplink's outbox.
struct UplinkFolder {
    uplink: String,
    path: PathBuf,
}

impl OutboxLocation {
    /// The existing queues: by uplink, then in the order of their priority.
    pub(super) fn queues(&self, only: Option<QueueName>) -> Result<Vec<StoredQueue>, Failure> {
        let mut queues = Vec::new();
        for UplinkFolder { uplink, path } in self.folders()? {
            let names = QUEUES.into_iter().filter(|name| match only {
                Some(only) => only.name() == *name,
                None => true,
            });
            for queue in names.filter(|name| path.join(name).join("LOCK").exists()) {
                let inspection = Inspection::of(&path.join(queue)).map_err(Failure::runtime)?;
                // After the entries, which name what is there by then.
                let columns = ColumnTable::read(&path).map_err(Failure::runtime)?;
                queues.push(StoredQueue {
                    uplink: uplink.clone(),
                    queue,
                    folder: path.clone(),
                    inspection,
                    columns: Arc::new(columns),
                });
            }
        }
        Ok(queues)
    }

    /// The folders of the uplinks, sorted; an error if there is none.
    fn folders(&self) -> Result<Vec<UplinkFolder>, Failure> {
        let root = self.root()?.join("outbox");
        let entries = fs::read_dir(&root).map_err(|error| {
            let folder = root.display();
            Failure::runtime(match error.kind() {
                ErrorKind::PermissionDenied => {
                    format!("{folder} cannot be read by this user; run the same command with sudo")
                }
                _ => format!(
                    "{folder} holds no outbox; name the YAML file or the folder of `outbox.folder`"
                ),
            })
        })?;
        let mut folders: Vec<UplinkFolder> = entries
            .flatten()
            .map(|entry| UplinkFolder {
                uplink: entry.file_name().to_string_lossy().into_owned(),
                path: entry.path(),
            })
            .filter(|folder| match &self.uplink {
                Some(wanted) => folder.uplink == *wanted,
                None => true,
            })
            .collect();
        folders.sort_by(|one, other| (&one.uplink, &one.path).cmp(&(&other.uplink, &other.path)));
        match self.uplink.as_ref().filter(|_| folders.is_empty()) {
            Some(wanted) => Err(Failure::runtime(format!(
                "there is no uplink \"{wanted}\" in {}",
                root.display()
            ))),
            None => Ok(folders),
        }
    }
}

impl StoredQueue {
    /// Messages that are not delivered yet.
    pub(super) fn waiting(&self) -> u64 {
        self.inspection
            .record
            .cursor
            .unsettled_in(1, self.inspection.record.written)
    }

    /// The numbers of the entries that are selected.
    pub(super) fn selected(&self, selection: &Selection) -> Result<Vec<u64>, Failure> {
        let mut numbers = Vec::new();
        for index in 0..self.inspection.partitions() {
            let entries = self.inspection.read(index).map_err(Failure::runtime)?;
            let selected = entries
                .iter()
                .filter(|entry| self.is_selected(entry, selection));
            numbers.extend(selected.map(|entry| entry.seq));
        }
        Ok(numbers)
    }

    /// The content of an entry.
    pub(super) fn content(&self, entry: &Entry) -> Result<Content, EntryError> {
        Content::decode(entry.bytes.clone(), &self.columns)
    }

    /// Entries that cannot be read are selected only together with all others.
    pub(super) fn is_selected(&self, entry: &Entry, selection: &Selection) -> bool {
        self.content(entry)
            .map_or(selection.is_everything(), |content| {
                selection.wants(entry.seq, &content, Timestamp::from(moment()))
            })
    }
}
