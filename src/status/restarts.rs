//! Delays starts that follow each other quickly, so that a crash loop wears out neither SD card nor
//! link budget.
//!
//! systemd does that itself from version 254 on; Raspberry Pi OS 12 has 252. The count is kept in
//! the service's runtime folder, which is in memory; without such a folder nothing is counted or
//! delayed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::time::write_private;

/// A run of this length was no failed start.
pub const PROVEN: Duration = Duration::from_secs(120);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The count of starts in a row.
#[derive(Debug)]
pub struct Restarts {
    file: Option<PathBuf>,
}

impl Restarts {
    /// Of the service this process belongs to, by its environment.
    pub fn of_environment() -> Self {
        // Several folders are separated by colons.
        let folders = std::env::var("RUNTIME_DIRECTORY").ok();
        Self {
            file: folders
                .as_deref()
                .and_then(|folders| folders.split(':').next())
                .map(|folder| PathBuf::from(folder).join("starts")),
        }
    }

    /// Counts this start; returns how many came before it in a row.
    pub fn count(&self) -> u32 {
        let Some(file) = &self.file else { return 0 };
        // An unreadable count is none.
        let before = fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0_u32);
        if let Err(error) = write_private(file, &format!("{}\n", before.saturating_add(1))) {
            tracing::warn!(event = "service.count_failed", file = %file.display(), %error, "cannot count starts; a crash loop will not be slowed down");
        }
        before
    }

    /// Ends the row: this start ran for long enough, or was stopped cleanly.
    pub fn forget(&self) {
        if let Some(file) = &self.file {
            // Gone already, or not there to begin with.
            let _ = fs::remove_file(file);
        }
    }
}

/// The delay of a start that follows `before` others.
pub fn delay(before: u32) -> Duration {
    match before.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => SHORTEST.saturating_mul(1 << doubled.min(16)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_is_at_once_and_the_pauses_double_up_to_a_minute() {
        let seconds: Vec<u64> = (0..9).map(|before| delay(before).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(delay(u32::MAX), LONGEST);
    }

    #[test]
    fn starts_are_counted_until_one_proves_itself() {
        let folder = tempfile::tempdir().unwrap();
        let restarts = Restarts {
            file: Some(folder.path().join("starts")),
        };
        assert_eq!(
            [restarts.count(), restarts.count(), restarts.count()],
            [0, 1, 2]
        );
        restarts.forget();
        assert_eq!(restarts.count(), 0);
        fs::write(folder.path().join("starts"), "no number").unwrap();
        assert_eq!(restarts.count(), 0);
        assert_eq!(
            [
                Restarts { file: None }.count(),
                Restarts { file: None }.count()
            ],
            [0, 0]
        );
    }
}
