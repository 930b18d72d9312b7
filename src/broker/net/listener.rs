//! Listening sockets: they take their port before anything runs, and accept clients until the stop
//! order.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;

use super::connection::ConnectionContext;
use super::origin::Origins;
use super::pace::pace;
use super::refusal::Refusals;
use super::tls::Tls;
use super::{Listen, Transport, connection, websocket};
use crate::broker::Broker;
use crate::broker::admission::{Address, Admitted, ConnectionPlace, Refused};
use crate::broker::client_log::{ClientLog, shown};
use crate::broker::engine::{BrokerLimits, Peer};
use crate::log::{LogLimiter, chosen};
use crate::tasks::{Stop, detach};
use crate::time::now;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Bytes that the kernel holds for a client that does not read.
const SEND_BUFFER: usize = 256 << 10;
/// Silence after which the kernel asks whether a client is still there.
const DEAD_AFTER: Duration = Duration::from_secs(120);
/// The log line of a handshake that the peer does not finish.
const TOO_LONG: &str = "it took longer than `connect_within` allows";
/// Owner and group may connect to a Unix socket.
const SOCKET_MODE: u32 = 0o660;

/// A listener that could not be opened. A person's mistake, mostly: the message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error(
        "cannot listen on {listen}: it is in use; stop the program that has it or change `broker.listen`"
    )]
    InUse {
        /// As configured.
        listen: String,
    },
    /// Anything else: no such address, no right to a port below 1024.
    #[error("cannot listen on {listen}: {source}; change `broker.listen`")]
    Other {
        /// As configured.
        listen: String,
        /// The error of the system.
        source: std::io::Error,
    },
}

/// The place of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// An address, with the port the system chose if it was asked to.
    Address(SocketAddr),
    /// A file.
    Path(PathBuf),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener, Transport),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

/// A listener that has its port but accepts no clients yet.
#[derive(Debug)]
pub struct BoundListener {
    socket: Socket,
    at: Where,
    origins: Arc<Origins>,
}

/// The parts that all connections of a listener share.
#[derive(Debug)]
struct ListenerContext {
    broker: Broker,
    tls: Option<Arc<Tls>>,
    transport: Transport,
    sizes: (usize, usize),
    burst: u16,
    within: Duration,
    origins: Arc<Origins>,
    refusals: Refusals,
}

impl BoundListener {
    /// Takes the port. A host name takes the first of its addresses that works.
    pub async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let bound = match listen {
            Listen::Port {
                transport,
                host,
                port,
            } => bind_port(*transport, host, *port).await,
            Listen::Unix(path) => bind_path(path),
        };
        bound.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => ListenError::InUse {
                listen: listen.to_string(),
            },
            _ => ListenError::Other {
                listen: listen.to_string(),
                source,
            },
        })
    }

    /// Lets web pages of these origins connect, beside programs.
    #[must_use]
    pub fn allowing(self, origins: Arc<Origins>) -> Self {
        Self { origins, ..self }
    }

    /// Where it is.
    pub fn at(&self) -> &Where {
        &self.at
    }

    /// Its address; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        if let Where::Address(address) = self.at {
            Some(address)
        } else {
            None
        }
    }

    /// True with TLS.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_, transport) if transport.is_encrypted())
    }

    /// Accepts clients until the stop order. `tls` is needed by encrypted transports.
    pub async fn run(
        self,
        broker: Broker,
        tls: Option<Arc<Tls>>,
        limits: &BrokerLimits,
        stop: Stop,
    ) -> std::io::Result<()> {
        tracing::info!(
            event = "broker.listening",
            address = %self.at,
            "listening for MQTT clients"
        );
        let sizes = (limits.max_packet, limits.max_connect);
        let (burst, within) = (limits.receive_maximum, limits.connect_within);
        let (origins, refusals) = (self.origins, Refusals::new());
        let context = |transport| {
            Arc::new(ListenerContext {
                broker,
                tls,
                transport,
                sizes,
                burst,
                within,
                origins,
                refusals,
            })
        };
        match self.socket {
            Socket::Tcp(socket, transport) => {
                accept_tcp(TcpListener::from_std(socket)?, &context(transport), stop).await;
            }
            Socket::Unix(socket, path) => {
                accept_unix(
                    UnixListener::from_std(socket)?,
                    &context(Transport::Tcp),
                    stop,
                )
                .await;
                // A file that is gone is as good as removed.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(())
    }
}

async fn bind_port(transport: Transport, host: &str, port: u16) -> std::io::Result<BoundListener> {
    let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host((host, port)).await? {
        match listen_at(address) {
            Ok(socket) => {
                let at = Where::Address(socket.local_addr()?);
                return Ok(BoundListener {
                    socket: Socket::Tcp(socket, transport),
                    at,
                    origins: Arc::default(),
                });
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn listen_at(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A socket that an earlier run left is replaced; one that a program listens on, or anything else,
/// is not.
fn bind_path(path: &Path) -> std::io::Result<BoundListener> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    // Before a client can connect, whatever the umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(BoundListener {
        socket: Socket::Unix(socket.into(), path.to_owned()),
        at: Where::Path(path.to_owned()),
        origins: Arc::default(),
    })
}

/// Logs a client that could not be accepted, and waits a moment: neither missing descriptors nor a
/// peer that is gone may end the listener, or make it spin.
async fn not_accepted(error: std::io::Error, log: &mut LogLimiter<&'static str>) {
    let event = "broker.accept_failed";
    if let Some(suppressed) = log.permit(event, (), now()) {
        tracing::warn!(
            event,
            %error,
            suppressed,
            "cannot accept a client; if file descriptors have run out, raise LimitNOFILE or lower broker.max_connections"
        );
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// One line at once about clients that cannot be accepted, then one in a minute.
fn accept_log() -> LogLimiter<&'static str> {
    LogLimiter::new(1, Duration::from_secs(60))
}

async fn accept_tcp(listener: TcpListener, context: &Arc<ListenerContext>, mut stop: Stop) {
    let mut log = accept_log();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                match context.broker.admission.admit(Some(address.ip()), now()) {
                    Ok(admitted) => context.admit(stream, address, admitted),
                    Err(reason) => {
                        context.log_refused(Some(address.ip()), &reason);
                        let tls = context.tls.as_ref();
                        context
                            .refusals
                            .answer(stream, context.transport, tls, reason);
                    }
                }
            }
            Err(error) => not_accepted(error, &mut log).await,
        }
    }
}

async fn accept_unix(listener: UnixListener, context: &ListenerContext, mut stop: Stop) {
    let mut log = accept_log();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => return,
        };
        match accepted {
            Ok((stream, _)) => match context.broker.admission.admit(None, now()) {
                Ok(admitted) => detach(connection::serve(
                    stream,
                    Peer::default(),
                    context.of_connection(admitted.place),
                )),
                Err(reason) => context.log_refused(None, &reason),
            },
            Err(error) => not_accepted(error, &mut log).await,
        }
    }
}

impl ListenerContext {
    fn log_refused(&self, address: Option<Address>, reason: &Refused) {
        let event = "broker.connection_refused";
        if let Some(suppressed) = self.broker.log.permit(event, address, now()) {
            tracing::info!(event, address = shown(address), %reason, suppressed = suppressed.field(), "connection refused");
        }
    }

    fn of_connection(&self, place: ConnectionPlace) -> ConnectionContext {
        ConnectionContext {
            inbox: self.broker.inbox.clone(),
            place,
            sizes: self.sizes,
            burst: self.burst,
        }
    }

    /// Begins to serve a client, after its pause.
    fn admit(self: &Arc<Self>, stream: TcpStream, address: SocketAddr, admitted: Admitted) {
        if admitted.pause.is_zero() {
            return self.serve(stream, address, admitted.place);
        }
        let context = self.clone();
        detach(async move {
            if let Some(stream) = pace(stream, admitted.pause).await {
                context.serve(stream, address, admitted.place);
            }
        });
    }

    fn serve(self: &Arc<Self>, stream: TcpStream, address: SocketAddr, place: ConnectionPlace) {
        // Small packets must not wait for company, and output that a slow client does not read must
        // not fill the kernel; if the options cannot be set it merely costs more.
        let _ = stream.set_nodelay(true);
        let raw = socket2::SockRef::from(&stream);
        let _ = raw.set_send_buffer_size(SEND_BUFFER);
        // Finds clients without keep alive that are gone.
        let _ = raw.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(DEAD_AFTER));
        let peer = Peer {
            address: Some(address.ip()),
            certificate: None,
        };
        let of_connection = self.of_connection(place);
        let handshake = Handshake {
            tls: self.tls.clone(),
            log: self.broker.log.clone(),
            origins: self.origins.clone(),
            within: self.within,
        };
        match self.transport {
            Transport::Tcp => detach(connection::serve(stream, peer, of_connection)),
            Transport::WebSocket => detach(handshake.serve_web_socket(stream, peer, of_connection)),
            Transport::Tls => detach(handshake.serve_encrypted(stream, peer, of_connection)),
            Transport::SecureWebSocket => {
                detach(handshake.serve_encrypted_web_socket(stream, peer, of_connection));
            }
        }
    }
}

/// The parts that a connection needs before its first MQTT packet.
struct Handshake {
    /// Needed by encrypted transports.
    tls: Option<Arc<Tls>>,
    log: Arc<ClientLog>,
    origins: Arc<Origins>,
    within: Duration,
}

impl Handshake {
    /// Performs the TLS handshake; `None` if it failed, which is logged.
    async fn encrypt(
        &self,
        stream: TcpStream,
        peer: &mut Peer,
    ) -> Option<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let Some(tls) = &self.tls else {
            tracing::error!(
                event = "broker.certificate_missing",
                address = shown(peer.address),
                "an encrypted listener has no certificate; connection closed"
            );
            return None;
        };
        match timeout(self.within, tls.accept(stream)).await {
            Ok(Ok((stream, certificate))) => {
                peer.certificate = certificate;
                return Some(stream);
            }
            Ok(Err(error)) => self.failed(peer.address, "TLS", &error),
            Err(_) => self.failed(peer.address, "TLS", &TOO_LONG),
        }
        None
    }

    async fn serve_encrypted(self, stream: TcpStream, mut peer: Peer, context: ConnectionContext) {
        let stream = self.encrypt(stream, &mut peer).await;
        drop(self);
        if let Some(stream) = stream {
            connection::serve(stream, peer, context).await;
        }
    }

    async fn serve_encrypted_web_socket(
        self,
        stream: TcpStream,
        mut peer: Peer,
        context: ConnectionContext,
    ) {
        if let Some(stream) = self.encrypt(stream, &mut peer).await {
            self.serve_web_socket(stream, peer, context).await;
        }
    }

    async fn serve_web_socket(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        context: ConnectionContext,
    ) {
        let max_packet = context.sizes.0;
        match websocket::accept(stream, max_packet, &self.origins, self.within).await {
            Ok(stream) => {
                drop(self);
                connection::serve(stream, peer, context).await;
            }
            Err(error) => self.failed(peer.address, "WebSocket", &error),
        }
    }

    fn failed(&self, address: Option<Address>, transport: &'static str, error: &dyn fmt::Display) {
        let event = "broker.handshake_failed";
        if let Some(suppressed) = self.log.permit(event, address, now()) {
            let error = error.to_string();
            tracing::info!(
                event,
                address = shown(address),
                transport,
                error = chosen(&error),
                suppressed = suppressed.field(),
                "handshake failed; connection closed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_without_descriptors_writes_one_line_a_minute() {
        let (mut log, start) = (accept_log(), now());
        let lines: Vec<u64> = (0..600)
            .filter_map(|tenth| log.permit("", (), start + Duration::from_millis(100) * tenth))
            .collect();
        assert_eq!(lines, [0]);
        assert_eq!(
            log.permit("", (), start + Duration::from_secs(61)),
            Some(599)
        );
    }
}
