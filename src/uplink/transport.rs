//! The byte stream to a remote broker: TCP, straight or through an HTTP proxy, then TLS, then
//! WebSocket, as the address says.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::dial::{Leg, Lost, Missed, Plan, Winner, race};
use super::failure::LinkError;
use super::probable::without_links;
use super::{Proxy, Remote, Scheme, Tcp, UplinkSettings, header};
use crate::net::endpoint::written;
use crate::net::proxy::{ProxyError, basic, connect_through};
use crate::net::websocket;

/// Bytes the kernel may hold that are not on the wire: what is not there can still be overtaken by
/// an alarm.
const NOT_SENT: u32 = 4 * 1024;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A TCP connection to the first of these remotes, or of the proxy before it, that takes one.
pub(super) async fn reach(
    settings: &UplinkSettings,
    plan: Plan<'_>,
) -> Result<Winner<TcpStream>, Lost> {
    let (dial_within, lookup_within) = (settings.dial_within, settings.lookup_within);
    let look_up = |Leg { host, port, .. }: Leg| async move {
        match timeout(lookup_within, lookup_host((host.as_str(), port))).await {
            Ok(Ok(found)) => Ok(found.collect()),
            // Without a link there is no name server either.
            Ok(Err(error)) => Err(LinkError::Silent(format!(
                "the address of {host} cannot be found: {error}"
            ))),
            Err(_) => Err(LinkError::Silent(format!(
                "the name server did not tell the address of {host} in time"
            ))),
        }
    };
    race(plan, look_up, |leg, address| async move {
        let at = leg.at(address);
        match timeout(dial_within, connect(address, &settings.tcp)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(missed(&at, &error)),
            Err(_) => Err(Missed::Unheard(LinkError::Silent(format!(
                "{at} did not answer within {:.1} s",
                dial_within.as_secs_f64()
            )))),
        }
    })
    .await
}

/// The stream to a remote over a TCP connection to it, or to the proxy before it.
pub(super) async fn open(
    settings: &UplinkSettings,
    remote: &Remote,
    tls: Option<&TlsConnector>,
    tcp: TcpStream,
) -> Result<Box<dyn Stream>, LinkError> {
    let tcp = match &settings.proxy {
        None => tcp,
        Some(proxy) => through(proxy, remote, tcp).await?,
    };
    let stream: Box<dyn Stream> = match tls.filter(|_| remote.is_tls()) {
        None => Box::new(tcp),
        Some(connector) => {
            let bad_name = |e| {
                LinkError::Unreachable(format!(
                    "{remote}: not a name a certificate can be for: {e}"
                ))
            };
            let name = ServerName::try_from(
                settings
                    .server_name
                    .as_ref()
                    .unwrap_or(&remote.host)
                    .clone(),
            )
            .map_err(bad_name)?;
            let failed = |e| {
                LinkError::Unreachable(format!(
                    "{remote}: TLS failed: {}",
                    super::tls::explained(&e, remote)
                ))
            };
            Box::new(connector.connect(name, tcp).await.map_err(failed)?)
        }
    };
    if matches!(remote.scheme, Scheme::Ws | Scheme::Wss) {
        web_socket(settings, remote, stream).await
    } else {
        Ok(stream)
    }
}

/// A machine without a network answers at once and for nothing; a remote that refuses does not.
fn missed(at: &str, error: &io::Error) -> Missed {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    let text = format!("{at} cannot be reached: {error}");
    match error.kind() {
        NetworkDown | NetworkUnreachable => Missed::Unsent(LinkError::Silent(text)),
        HostUnreachable | TimedOut => Missed::Unheard(LinkError::Silent(text)),
        _ => Missed::Answered(LinkError::Unreachable(text)),
    }
}

async fn connect(address: SocketAddr, tcp: &Tcp) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(interface) = &tcp.interface {
        socket.bind_device(Some(interface.as_bytes())).map_err(|error| {
            io::Error::new(error.kind(), format!("network interface {interface}: {error}; see `ip link`, and give the service CAP_NET_RAW"))
        })?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(tcp.nodelay)?;
    let raw = socket2::SockRef::from(&stream);
    raw.set_tcp_user_timeout(Some(tcp.user_timeout))?;
    raw.set_tcp_notsent_lowat(NOT_SENT)?;
    if let Some(name) = &tcp.congestion {
        raw.set_tcp_congestion(name.as_bytes()).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("congestion control {name}: {error}; see `sysctl net.ipv4.tcp_available_congestion_control`"),
            )
        })?;
    }
    Ok(stream)
}

/// The stream to a remote through the proxy that it leads to.
async fn through(
    proxy: &Proxy,
    remote: &Remote,
    stream: TcpStream,
) -> Result<TcpStream, LinkError> {
    let target = written(&remote.host, remote.port);
    let login = proxy.login.as_ref();
    let login = login.map(|(user, password)| basic(user, &password.0));
    let connected = connect_through(stream, &target, login.as_deref()).await;
    connected.map_err(|error| match error {
        ProxyError::Broken(error) => error.into(),
        ProxyError::NoProxy => LinkError::Unreachable(format!(
            "the proxy {proxy} does not answer like one; check `proxy`"
        )),
        ProxyError::Refused(status) => LinkError::Unreachable(format!(
            "the proxy {proxy} does not connect to {target}: {status}; check `proxy`"
        )),
    })
}

/// MQTT in binary frames, subprotocol `mqtt` [MQTT-6.0.0-1], [MQTT-6.0.0-3].
async fn web_socket(
    settings: &UplinkSettings,
    remote: &Remote,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, LinkError> {
    let failed = |e: &dyn std::fmt::Display| {
        LinkError::Unreachable(format!(
            "{remote}: WebSocket failed: {}; check port and path of `to`",
            without_links(e)
        ))
    };
    let mut request = remote
        .to_string()
        .into_client_request()
        .map_err(|e| failed(&e))?;
    request.headers_mut().insert(
        "Sec-WebSocket-Protocol",
        HeaderValue::from_static(websocket::PROTOCOL),
    );
    for (name, value) in &settings.headers {
        let (name, value) = header(name, value).map_err(|e| failed(&e))?;
        request.headers_mut().append(name, value);
    }
    let (socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .map_err(|e| failed(&e))?;
    Ok(Box::new(websocket::bytes_of(socket)))
}
