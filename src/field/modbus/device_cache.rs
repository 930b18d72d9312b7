//! Facts learned about devices, kept over restarts: a small file for each line.
//!
//! Points that a device refused are not kept: after a restart they are tried at once.
//!
//! It is a help only: a file that is missing, damaged or of another map of registers costs some
//! refused requests and nothing else.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::unreadable::{UnreadableRange, UnreadableRanges};
use crate::field::{Device, PointSource};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct CachedDevice {
    /// Of the map of registers it was learned with.
    map: u64,
    #[serde(rename = "barriers")]
    unreadable: Vec<UnreadableRange>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DeviceCache {
    file: Option<PathBuf>,
    devices: BTreeMap<String, CachedDevice>,
    /// The newest content, while an older one is being written.
    newest: Arc<Mutex<Option<Vec<u8>>>>,
    /// Held while writing.
    writing: Arc<Mutex<()>>,
}

/// Changes with every place of a device that is read.
fn map_of(device: &Device) -> u64 {
    let mut hasher = DefaultHasher::new();
    device.unit.hash(&mut hasher);
    for point in &device.points {
        if let PointSource::Register { register, .. } = &point.source {
            (register.table, register.address, register.width()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

impl DeviceCache {
    /// Reads the file of a line.
    pub(super) fn open(folder: Option<PathBuf>, line: &str, devices: &[Arc<Device>]) -> Self {
        let Some(folder) = folder else {
            return Self::default();
        };
        let plain: String = line
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let file = folder.join(format!("{plain}.json"));
        let read: BTreeMap<String, CachedDevice> = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let is_same = |name: &String, kept: &CachedDevice| {
            devices
                .iter()
                .any(|device| device.name == *name && map_of(device) == kept.map)
        };
        Self {
            file: Some(file),
            devices: read
                .into_iter()
                .filter(|(name, kept)| is_same(name, kept))
                .collect(),
            ..Self::default()
        }
    }

    /// The unreadable ranges of one device, those of the YAML included.
    pub(super) fn unreadable(&self, device: &Device) -> UnreadableRanges {
        let kept = self
            .devices
            .get(&device.name)
            .map(|kept| kept.unreadable.clone())
            .unwrap_or_default();
        UnreadableRanges::known(device.holes.iter().copied().chain(kept).collect())
    }

    /// Writes the file beside the line's work, however slow the disk is.
    pub(super) fn keep(&mut self, devices: &[Arc<Device>], unreadable: &[UnreadableRanges]) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let kept: BTreeMap<String, CachedDevice> = devices
            .iter()
            .zip(unreadable)
            .filter_map(|(device, unreadable)| {
                Some((device.name.clone(), CachedDevice::of(device, unreadable)?))
            })
            .collect();
        if kept == self.devices {
            return;
        }
        self.devices = kept;
        let Ok(text) = serde_json::to_vec_pretty(&self.devices) else {
            return;
        };
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        let (newest, writing) = (Arc::clone(&self.newest), Arc::clone(&self.writing));
        tokio::task::spawn_blocking(move || {
            let _alone = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let text = newest.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Nothing: another one has written it already.
            let Some(text) = text else { return };
            if let Err(error) = write(&file, &text) {
                tracing::warn!(
                    event = "device.cache_failed", file = %file.display(), %error,
                    "cannot write the device cache; after a restart the register maps are learned again; check the disk"
                );
            }
        });
    }
}

impl CachedDevice {
    /// The facts learned about a device beyond its YAML; `None`: nothing.
    fn of(device: &Device, unreadable: &UnreadableRanges) -> Option<Self> {
        let learned: Vec<UnreadableRange> = unreadable
            .to_keep()
            .iter()
            .filter(|range| !device.holes.contains(range))
            .copied()
            .collect();
        (!learned.is_empty()).then(|| Self {
            map: map_of(device),
            unreadable: learned,
        })
    }
}

/// Writes the whole file or nothing.
fn write(file: &Path, text: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)?;
    }
    let path = file.with_extension("new");
    // For its owner only, whatever the umask, and one that an earlier version has left.
    let mut new = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    new.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    new.write_all(text)?;
    new.sync_all()?;
    std::fs::rename(&path, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Point;
    use crate::field::decode::{DataType, Register, Table};
    use crate::field::signal::Signal;
    use crate::reading::DeviceId;

    #[tokio::test]
    async fn what_is_learned_is_known_again_for_the_same_map_only() {
        let folder = tempfile::tempdir().unwrap();
        let point = |address| Point {
            source: PointSource::Register {
                register: Arc::new(Register::new(Table::Holding, address, DataType::U16)),
                exponent: None,
            },
            ..Point::simulated("p".to_owned(), Signal::default())
        };
        let device = Arc::new(Device {
            points: vec![point(3)],
            ..Device::new(DeviceId(0), "meter", 1)
        });
        let range = UnreadableRange {
            table: Table::Holding,
            start: 4,
            end: 9,
        };
        let mut known = DeviceCache::open(
            Some(folder.path().to_owned()),
            "a/b",
            std::slice::from_ref(&device),
        );
        known.keep(
            std::slice::from_ref(&device),
            &[UnreadableRanges::known(vec![range])],
        );
        let file = folder.path().join("a_b.json");
        while !file.exists() {
            tokio::task::yield_now().await;
        }
        let again = |device: &Arc<Device>| {
            DeviceCache::open(
                Some(folder.path().to_owned()),
                "a/b",
                std::slice::from_ref(device),
            )
            .unreadable(device)
            .to_keep()
            .to_vec()
        };
        assert_eq!(again(&device), [range]);
        let other = Arc::new(Device {
            points: vec![point(5)],
            ..Device::clone(&device)
        });
        assert_eq!(again(&other), []);
        std::fs::write(&file, b"{").unwrap();
        assert_eq!(again(&device), []);
    }
}
