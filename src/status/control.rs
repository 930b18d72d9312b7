//! The control socket, through which commands of this program reach the running gateway: a JSON
//! object per line, a reply per line.
//!
//! It is in the folder of the gateway's state; owner and group of that folder may use it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::report::GatewayStatus;
use crate::field::diagnostic::{DiagnosticRequest, DiagnosticResponse};
use crate::field::trace::{self, Framing, Traced};
use crate::outbox::Selection;
use crate::tasks::{Stop, detach};

/// The name of the socket.
const NAME: &str = "control.sock";
/// The file that a gateway holds locked.
const LOCK: &str = "control.lock";
/// Attempts to take the lock.
const ATTEMPTS: u32 = 20;
/// Socket and lock are for owner and group, whatever the umask.
const MODE: u32 = 0o660;
/// So is the folder, if it is made here.
const FOLDER_MODE: u32 = 0o750;
/// Longest request, in bytes.
const LONGEST_REQUEST: u64 = 64 * 1024;
/// Connections at a time.
const MOST_CONNECTIONS: usize = 16;
/// The pause after a connection could not be accepted.
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// How long a command may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// A request of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// A diagnostic request to a device.
    Ask {
        /// Its name in the YAML.
        line: String,
        /// The Modbus address.
        unit: u8,
        /// The request itself.
        ask: DiagnosticRequest,
        /// The timeout of the answer.
        within_ms: u64,
    },
    /// Send the frames of a line as they travel: after the reply, until the command hangs up.
    Trace {
        /// Its name in the YAML.
        line: String,
    },
    /// Send the state of the gateway.
    Status,
    /// Send all that can be measured.
    Metrics,
    /// Read the file again.
    Reload,
    /// Remove messages from the outbox of an uplink.
    Purge {
        /// Its name in the YAML.
        uplink: String,
        /// Only this queue.
        queue: Option<String>,
        /// Which messages.
        selection: Selection,
    },
    /// End the session of a client of the local broker.
    EndSession {
        /// Its client identifier.
        client_id: String,
    },
}

/// The reply of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The outcome of a diagnostic request.
    Said(DiagnosticResponse),
    /// The configuration was reloaded; the changes, for people.
    Reloaded(Vec<String>),
    /// The frames of a line follow.
    Tracing {
        /// How its frames look.
        framing: Framing,
        /// When the gateway began to show them, in milliseconds since the Unix epoch.
        unix_ms: i64,
    },
    /// Something that happened on a line.
    Traced(Traced),
    /// The state of the gateway.
    Status(Box<GatewayStatus>),
    /// All that can be measured, in the text format of OpenMetrics.
    Metrics(String),
    /// How many messages were removed, by queue.
    Purged(Vec<(String, u64)>),
    /// The session has ended.
    Ended,
    /// The request was refused; the reason.
    Refused(String),
}

/// A request, and where its reply goes.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub request: ControlRequest,
    /// Takes the reply.
    pub reply: oneshot::Sender<Reply>,
    /// Takes what follows the reply.
    pub follow: mpsc::Sender<Traced>,
}

/// The path of the socket of a gateway whose state is in `folder`.
pub fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// True if a gateway with its state in `folder` runs, even without a socket.
pub fn is_running(folder: &Path) -> bool {
    match Probe::connect(path(folder)) {
        Ok(_) => return true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return true,
        Err(_) => {}
    }
    // It may have failed to make its socket.
    let lock = fs::File::open(folder.join(LOCK));
    lock.is_ok_and(|lock| {
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
}

/// The lock that a gateway holds as long as it runs, so that commands find it.
#[derive(Debug)]
pub struct InstanceLock {
    _lock: fs::File,
}

impl InstanceLock {
    /// Takes the lock in `folder`; an error if another gateway has it.
    pub fn take(folder: &Path) -> io::Result<Self> {
        make(folder)?;
        let lock = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(MODE)
            .open(folder.join(LOCK))?;
        if lock.metadata()?.permissions().mode() & 0o777 != MODE {
            lock.set_permissions(fs::Permissions::from_mode(MODE))?;
        }
        // `is_running` of a command holds it for a moment.
        for _ in 0..ATTEMPTS {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
                done => return done.map(|()| Self { _lock: lock }).map_err(io::Error::from),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another gateway uses this folder",
        ))
    }
}

/// The socket, bound; removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Binds the socket; replaces one without a listener.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let path = path(folder);
        make(folder)?;
        if Probe::connect(&path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another gateway listens there",
            ));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE))?;
        Ok(Self { listener, path })
    }

    /// Takes requests until the stop order.
    pub async fn run(self, calls: mpsc::Sender<Call>, mut stop: Stop) {
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors: that does not end at once.
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            };
            // Connections beyond the limit are closed.
            let Ok(place) = std::sync::Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let (calls, mut stop) = (calls.clone(), stop.clone());
            detach(async move {
                tokio::select! {
                    served = serve(stream, calls) => {
                        if let Err(error) = served {
                            tracing::debug!(event = "control.command_gone", %error, "command hung up");
                        }
                    }
                    () = stop.wait() => {}
                }
                drop(place);
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A file that is left behind is replaced at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let mut limited = (&mut reader).take(LONGEST_REQUEST);
        if tokio::time::timeout(IDLE_TIMEOUT, limited.read_line(&mut line))
            .await
            .unwrap_or(Ok(0))?
            == 0
        {
            return Ok(());
        }
        let (follow, followed) = mpsc::channel(trace::QUEUE);
        let reply = match serde_json::from_str(&line) {
            Ok(request) => {
                let (reply, replied) = oneshot::channel();
                if calls
                    .send(Call {
                        request,
                        reply,
                        follow,
                    })
                    .await
                    .is_err()
                {
                    return Ok(());
                }
                replied.await.unwrap_or_else(|_| {
                    Reply::Refused("the gateway is stopping, or its line is down".to_owned())
                })
            }
            Err(error) => Reply::Refused(format!("not a request of this version: {error}")),
        };
        write(&mut writer, &reply).await?;
        if matches!(reply, Reply::Tracing { .. }) {
            return show(&mut reader, &mut writer, followed).await;
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

/// Sends the events of a line until the command hangs up.
async fn show(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    mut followed: mpsc::Receiver<Traced>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            // Anything the command sends ends the trace, and so does its end.
            said = reader.read_u8() => return said.map(drop),
            traced = followed.recv() => match traced {
                Some(traced) => write(writer, &Reply::Traced(traced)).await?,
                None => return write(writer, &Reply::Refused("the line was stopped, or changed by a reload".to_owned())).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};

    use super::*;
    use crate::field::decode::Table;
    use crate::tasks::stop_token;

    #[test]
    fn a_gateway_without_a_socket_is_known_by_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_running(folder.path()));
        let presence = InstanceLock::take(folder.path()).unwrap();
        assert!(is_running(folder.path()) && InstanceLock::take(folder.path()).is_err());
        let mode = || {
            fs::metadata(folder.path().join(LOCK))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(mode(), MODE);
        drop(presence);
        assert!(!is_running(folder.path()), "the file alone says nothing");
        fs::set_permissions(folder.path().join(LOCK), fs::Permissions::from_mode(0o666)).unwrap();
        let _presence = InstanceLock::take(folder.path()).unwrap();
        assert_eq!(mode(), MODE, "one of an earlier version");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_command_asks_and_is_answered_and_a_second_gateway_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path()), "left behind").unwrap();
        let control = Control::bind(folder.path()).unwrap();
        assert_eq!(
            Control::bind(folder.path()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        assert!(is_running(folder.path()) && !is_running(Path::new("/does/not/exist")));
        assert_eq!(
            fs::metadata(path(folder.path()))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            MODE
        );
        let (calls, mut asked) = mpsc::channel(1);
        let (switch, stop) = stop_token();
        let mut tasks: crate::tasks::Tasks = crate::tasks::Tasks::default();
        tasks.start("control", async move {
            control.run(calls, stop).await;
            Ok(())
        });
        let at = path(folder.path());
        let ask = DiagnosticRequest::Registers {
            table: Table::Holding,
            start: 0,
            count: 2,
        };
        let request = ControlRequest::Ask {
            line: "bus".to_owned(),
            unit: 7,
            ask,
            within_ms: 100,
        };
        let sent = serde_json::to_string(&request).unwrap();
        let command = tokio::task::spawn_blocking(move || {
            let mut stream = Probe::connect(at).unwrap();
            stream
                .write_all(format!("{sent}\nnonsense\n").as_bytes())
                .unwrap();
            let mut lines = io::BufReader::new(stream).lines();
            [
                lines.next().unwrap().unwrap(),
                lines.next().unwrap().unwrap(),
            ]
        });
        let call = asked.recv().await.unwrap();
        assert_eq!(call.request, request);
        call.reply
            .send(Reply::Said(DiagnosticResponse::Words(vec![1, 2])))
            .unwrap();
        let [first, second] = command.await.unwrap();
        assert_eq!(first, r#"{"said":{"words":[1,2]}}"#);
        assert!(
            second.contains("refused") && second.contains("not a request"),
            "{second}"
        );
        switch.stop();
        assert!(tasks.next_ended().await.is_some() && !path(folder.path()).exists());
    }
}
