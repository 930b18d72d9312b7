//! Whether files that the YAML names can be read: by whoever checks it, and by the user of the service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{CREDENTIALS, Check};
use crate::config::document::Step;

/// The user of the packaged service.
const SERVICE: &str = "wellhead";

/// A user with their groups, by number.
#[derive(Debug, PartialEq)]
struct User {
    uid: u32,
    gids: Vec<u32>,
}

impl Check<'_> {
    /// Notes a file that cannot be read; root is told of one that the service cannot read.
    pub(super) fn readable(&mut self, at: &[Step], typed: Option<&Path>) {
        let Some(typed) = typed else { return };
        let path = self.path(typed);
        if let Err(error) = fs::File::open(&path) {
            self.fault(at, format!("{}: {error}; name a PEM file that the user who runs wellhead can read", path.display()));
            return;
        }
        self.reachable(at, &path);
    }

    /// Warns root of a file that the user of the service cannot read. Credentials are handed over by the service manager.
    pub(super) fn reachable(&mut self, at: &[Step], path: &Path) {
        if !rustix::process::geteuid().is_root() || path.starts_with(self.folder.join(CREDENTIALS)) {
            return;
        }
        let accounts = (fs::read_to_string("/etc/passwd").unwrap_or_default(), fs::read_to_string("/etc/group").unwrap_or_default());
        let Some(user) = user(&accounts.0, &accounts.1) else { return };
        if !may_read(&user, path) {
            self.warn(
                at,
                format!("{}: the user {SERVICE}, who runs the service, cannot read it; put it into {CREDENTIALS}/ beside this file and name it without a folder, or give that user the right", path.display()),
            );
        }
    }
}

/// The user of the service, if this machine has one.
fn user(passwd: &str, group: &str) -> Option<User> {
    let account = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&SERVICE))?;
    let number = |place: usize| account.get(place)?.parse().ok();
    let mut gids = vec![number(3)?];
    for fields in group.lines().map(|line| line.split(':').collect::<Vec<_>>()) {
        if fields.get(3).is_some_and(|members| members.split(',').any(|member| member == SERVICE)) {
            gids.extend(fields.get(2).and_then(|gid| gid.parse::<u32>().ok()));
        }
    }
    Some(User { uid: number(2)?, gids })
}

/// By owner, group and mode of the file and of the folders above it.
fn may_read(user: &User, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    path.ancestors().enumerate().all(|(height, place)| {
        let Ok(found) = fs::metadata(place) else { return false };
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
        assert_eq!(found, User { uid: 990, gids: vec![991, 20] });
        assert_eq!(user("root:x:0:0::/root:/bin/sh\n", ""), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        fs::write(&file, "x").unwrap();
        let (uid, gid) = fs::metadata(&file).map(|found| (found.uid(), found.gid())).unwrap();
        let set = |mode: u32, folder_mode: u32| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
        };
        let stranger = User { uid: uid + 1, gids: vec![gid + 1] };
        let of_group = User { uid: uid + 1, gids: vec![gid] };
        set(0o640, 0o755);
        assert!(may_read(&of_group, &file) && !may_read(&stranger, &file));
        set(0o644, 0o755);
        assert!(may_read(&stranger, &file));
        set(0o644, 0o700);
        assert!(!may_read(&stranger, &file), "the folder is closed");
    }
}
