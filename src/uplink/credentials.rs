//! Identity and trust of an uplink: certificates, keys, authorities, the password. All of it is
//! read at each connect, so that a renewed certificate or token needs neither restart nor reload.
//!
//! Invariants:
//! * A password is never printed, neither from a file nor from a command; what a command says
//!   besides it is not kept.
//! * A command ends with its time, and everything that it has started with it.
//! * Nothing here blocks a thread of the runtime.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls::Certificates;
use super::{Remote, RemoteSecret, UplinkSettings};
use crate::files;

/// The longest output of a command, in bytes.
const MOST: u64 = 64 * 1024;

/// User and password at the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteLogin {
    /// The user name.
    pub user: String,
    /// Where the password is.
    pub password: Password,
}

/// Where a password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// In the YAML.
    Given(RemoteSecret),
    /// The first line of a file.
    File(PathBuf),
    /// The first line that a command prints: program and arguments.
    Command(Vec<String>),
}

/// The credentials of one connection.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    certificates: Certificates,
    pub(super) login: Option<(String, RemoteSecret)>,
}

impl Credentials {
    pub(super) fn new(certificates: Certificates) -> Self {
        Self {
            certificates,
            login: None,
        }
    }

    /// The certificates that were read last for remotes with TLS.
    pub(super) fn connector(&self) -> Option<&TlsConnector> {
        self.certificates.connector()
    }

    /// Reads everything again. The error is for people, and names what cannot be read.
    pub(super) async fn read(&mut self, settings: &UplinkSettings) -> Result<(), String> {
        if settings.remotes.iter().any(Remote::is_tls) {
            self.certificates
                .read_again(settings)
                .await
                .map_err(|error| error.to_string())?;
        }
        self.login = match &settings.login {
            None => None,
            Some(RemoteLogin { user, password }) => Some((
                user.clone(),
                read_password(password, settings.connect_within).await?,
            )),
        };
        Ok(())
    }
}

async fn read_password(password: &Password, within: Duration) -> Result<RemoteSecret, String> {
    match password {
        Password::Given(secret) => Ok(secret.clone()),
        Password::File(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || password_of_file(&path));
            read.await
                .unwrap_or_else(|_| Err("the password file could not be read".to_owned()))
        }
        Password::Command(command) => {
            let shown = command.first().map(String::as_str).unwrap_or_default();
            let printed = printed(command, within)
                .await
                .and_then(|printed| first_line(&printed));
            printed.map_err(|why| format!("`password_command` ({shown}): {why}; run it as the user of the service to see what it says"))
        }
    }
}

/// The password in a file. The error is for people.
fn password_of_file(path: &Path) -> Result<RemoteSecret, String> {
    match files::first_line(path) {
        Ok(secret) => Ok(RemoteSecret(secret.text)),
        Err(error) => Err(format!(
            "{}: {error}; `password_file` must name a file with the password in its first line that the user who runs wellhead can read",
            path.display()
        )),
    }
}

fn first_line(text: &[u8]) -> Result<RemoteSecret, String> {
    let text =
        std::str::from_utf8(text).map_err(|_| "the password is no text in UTF-8".to_owned())?;
    match text.lines().next() {
        None | Some("") => Err("the first line is empty".to_owned()),
        Some(line) => Ok(RemoteSecret(line.to_owned())),
    }
}

/// Ends everything that a command has started, unless it has ended by itself.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The output of a command; errors never quote it.
async fn printed(command: &[String], within: Duration) -> Result<Vec<u8>, String> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| "it names no program".to_owned())?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let mut group = ProcessGroup(
        child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw),
    );
    let stdout = child.stdout.take();
    let ended = timeout(within, async {
        let printed = match stdout {
            Some(stdout) => read_bounded(stdout).await?,
            None => Vec::new(),
        };
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() {
            Ok(printed)
        } else {
            Err(format!("it failed ({status})"))
        }
    });
    let ended = ended
        .await
        .map_err(|_| format!("it did not end within {:.1} s", within.as_secs_f64()))?;
    if ended.is_ok() {
        group.0 = None;
    }
    ended
}

async fn read_bounded(stdout: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let mut printed = Vec::new();
    stdout
        .take(MOST + 1)
        .read_to_end(&mut printed)
        .await
        .map_err(|error| error.to_string())?;
    if printed.len() as u64 > MOST {
        Err(format!("it prints more than {MOST} bytes"))
    } else {
        Ok(printed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, within: Duration) -> Result<RemoteSecret, String> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        read_password(&Password::Command(command), within).await
    }

    #[tokio::test]
    async fn the_first_line_that_a_command_prints_is_the_password() {
        let within = Duration::from_secs(20);
        assert_eq!(
            run("echo hunter2; echo more; echo noise >&2", within).await,
            Ok(RemoteSecret("hunter2".to_owned()))
        );
        for (script, why) in [
            ("echo hunter2; exit 3", "it failed"),
            ("true", "the first line is empty"),
            ("yes hunter2", "it prints more than"),
            ("printf '\\377'", "no text"),
        ] {
            let error = run(script, within).await.unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
        let missing = read_password(
            &Password::Command(vec!["/no/such/program".to_owned()]),
            within,
        )
        .await
        .unwrap_err();
        assert!(missing.contains("/no/such/program"), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_ends_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {}; echo hunter2; wait",
            pid.display()
        );
        let error = run(&script, Duration::from_millis(700)).await.unwrap_err();
        assert!(
            error.contains("did not end within") && !error.contains("hunter2"),
            "{error}"
        );
        let child = std::fs::read_to_string(&pid).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // It is gone, or dead and not yet taken notice of.
        for _ in 0..1000 {
            if std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the child of the command still runs");
    }

    #[test]
    fn a_password_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        assert!(
            password_of_file(&file)
                .unwrap_err()
                .contains(&file.display().to_string())
        );
        std::fs::write(&file, "").unwrap();
        assert!(password_of_file(&file).unwrap_err().contains("empty"));
        std::fs::write(&file, "hunter2\r\nsecond").unwrap();
        assert_eq!(
            password_of_file(&file),
            Ok(RemoteSecret("hunter2".to_owned()))
        );
    }
}
