//! Files that the YAML names must be readable: for the user who checks it, and for the user of the
//! service.

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{CREDENTIALS, Check};
use crate::config::document::PathStep;
use crate::files;

/// The user of the packaged service.
const SERVICE: &str = "wellhead";

/// A user with their groups, by number.
#[derive(Debug, PartialEq)]
struct ServiceUser {
    uid: u32,
    gids: Vec<u32>,
}

/// True if a folder for credentials is beside the YAML and may not be looked into.
pub(in crate::config) fn are_credentials_closed(folder: &Path) -> bool {
    let inside = fs::metadata(folder.join(CREDENTIALS).join("x"));
    inside.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

impl Check<'_> {
    /// Notes a file that cannot be read; for root one that the service cannot read.
    pub(super) fn readable(&mut self, at: &[PathStep], typed: Option<&Path>) {
        let Some(typed) = typed else { return };
        let path = self.path(typed);
        if let Err(error) = files::open(&path) {
            if self.is_closed(typed, &error) {
                return self.unread(at, typed);
            }
            self.fault(
                at,
                format!(
                    "{}: {error}; name a PEM file that the user who runs wellhead can read",
                    path.display()
                ),
            );
            return;
        }
        self.reachable(at, &path);
    }

    /// Notes a file of users that the service can read and that cannot be read here; its other
    /// faults are noted already.
    pub(super) fn users_file(&mut self, at: &[PathStep], typed: Option<&Path>) {
        let Some(typed) = typed else { return };
        let path = self.path(typed);
        match files::open(&path) {
            Ok(_) => self.reachable(at, &path),
            Err(error) if self.is_closed(typed, &error) => self.unread(at, typed),
            Err(_) => {}
        }
    }

    /// The first line of a file; `Err` if a fault was noted. It is empty if only the service can
    /// read it.
    pub(super) fn secret(&mut self, at: &[PathStep], typed: &Path) -> Result<String, ()> {
        let path = self.path(typed);
        self.reachable(at, &path);
        match files::first_line(&path) {
            Ok(secret) => {
                for remark in secret.remarks {
                    self.warn(at, format!("{}: {remark}", path.display()));
                }
                Ok(secret.text)
            }
            Err(error) if self.is_closed(typed, &error) => {
                self.unread(at, typed);
                Ok(String::new())
            }
            Err(error) => {
                self.fault(
                    at,
                    format!(
                        "{}: {error}; name a file that the user who runs wellhead can read",
                        path.display()
                    ),
                );
                Err(())
            }
        }
    }

    /// True if a file may be a credential that only root and the service manager can read.
    fn is_closed(&self, typed: &Path, error: &Error) -> bool {
        let is_plain = typed.components().count() == 1 && typed.is_relative();
        let is_hidden = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::PermissionDenied
        );
        is_plain
            && is_hidden
            && std::env::var_os("CREDENTIALS_DIRECTORY").is_none()
            && are_credentials_closed(self.folder)
    }

    /// Notes a file that is not checked; it keeps a gateway from starting.
    fn unread(&mut self, at: &[PathStep], typed: &Path) {
        let message = format!(
            "{} is not checked: only root can read {CREDENTIALS}/ beside this file; `sudo wellhead check` reads it too",
            typed.display()
        );
        let unread = self.faults.unread(self.document.place(at), &message);
        self.unread.push(unread);
        self.warn(at, message);
    }

    /// Warns root of a file that the user of the service cannot read. Credentials are handed over
    /// by the service manager.
    pub(super) fn reachable(&mut self, at: &[PathStep], path: &Path) {
        if !rustix::process::geteuid().is_root() || path.starts_with(self.folder.join(CREDENTIALS))
        {
            return;
        }
        let accounts = (
            fs::read_to_string("/etc/passwd").unwrap_or_default(),
            fs::read_to_string("/etc/group").unwrap_or_default(),
        );
        let Some(user) = user(&accounts.0, &accounts.1) else {
            return;
        };
        if !may_read(&user, path) {
            self.warn(
                at,
                format!("{}: the user {SERVICE}, who runs the service, cannot read it; put it into {CREDENTIALS}/ beside this file and name it without a folder, or give that user the right", path.display()),
            );
        }
    }
}

/// The user of the service, if this machine has one.
fn user(passwd: &str, group: &str) -> Option<ServiceUser> {
    let account = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&SERVICE))?;
    let number = |place: usize| account.get(place)?.parse().ok();
    let mut gids = vec![number(3)?];
    for fields in group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
    {
        if fields
            .get(3)
            .is_some_and(|members| members.split(',').any(|member| member == SERVICE))
        {
            gids.extend(fields.get(2).and_then(|gid| gid.parse::<u32>().ok()));
        }
    }
    Some(ServiceUser {
        uid: number(2)?,
        gids,
    })
}

/// By owner, group and mode of the file and of the folders above it.
fn may_read(user: &ServiceUser, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    path.ancestors().enumerate().all(|(height, place)| {
        let Ok(found) = fs::metadata(place) else {
            return false;
        };
        let wanted = if height == 0 { 0o4 } else { 0o1 };
        let granted = match found.mode() {
            mode if found.uid() == user.uid => mode >> 6,
            mode if user.gids.contains(&found.gid()) => mode >> 3,
            mode => mode,
        };
        granted & wanted != 0
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_service_reads_what_owner_group_and_mode_let_it_read() {
        let passwd = "root:x:0:0::/root:/bin/sh\nwellhead:x:990:991::/:/usr/sbin/nologin\n";
        let found = user(passwd, "dialout:x:20:me,wellhead\nme:x:1000:\n").unwrap();
        assert_eq!(
            found,
            ServiceUser {
                uid: 990,
                gids: vec![991, 20]
            }
        );
        assert_eq!(user("root:x:0:0::/root:/bin/sh\n", ""), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        fs::write(&file, "x").unwrap();
        let (uid, gid) = fs::metadata(&file)
            .map(|found| (found.uid(), found.gid()))
            .unwrap();
        let set = |mode: u32, folder_mode: u32| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
        };
        let stranger = ServiceUser {
            uid: uid + 1,
            gids: vec![gid + 1],
        };
        let of_group = ServiceUser {
            uid: uid + 1,
            gids: vec![gid],
        };
        set(0o640, 0o755);
        assert!(may_read(&of_group, &file) && !may_read(&stranger, &file));
        set(0o644, 0o755);
        assert!(may_read(&stranger, &file));
        set(0o644, 0o700);
        assert!(!may_read(&stranger, &file), "the folder is closed");
    }
}
