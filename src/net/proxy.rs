//! The way through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6).

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest answer of a proxy, in bytes.
const LONGEST_ANSWER: usize = 8 * 1024;

/// Why a proxy does not connect. All are weather: it may do so later.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The connection to the proxy broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// What it answers is no HTTP.
    #[error("does not answer like one")]
    NoProxy,
    /// It refuses; its status line.
    #[error("{0}")]
    Refused(String),
}

/// The `Authorization` of HTTP for a user name and a password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// Lets the proxy at the other end of `stream` connect it to `target`, written `host:port`.
/// `authorization` is made by [`basic`].
pub async fn connect_through<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    target: &str,
    authorization: Option<&str>,
) -> Result<S, ProxyError> {
    let login = authorization
        .map(|login| format!("Proxy-Authorization: {login}\r\n"))
        .unwrap_or_default();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = BytesMut::new();
    // A byte at a time: what follows the answer belongs to the target.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= LONGEST_ANSWER
            || stream.read_buf(&mut (&mut answer).limit(1)).await? == 0
        {
            return Err(ProxyError::NoProxy);
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(stream)
    } else {
        Err(ProxyError::Refused(status.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a proxy gets that answers `answer`, and what comes of it.
    async fn asked(answer: &[u8]) -> (String, Result<String, ProxyError>) {
        let (ours, mut proxy) = tokio::io::duplex(64 * 1024);
        let login = basic("me", "a:b");
        proxy.write_all(answer).await.unwrap();
        let reached = connect_through(ours, "[::1]:8883", Some(&login)).await;
        let mut request = vec![0; 1024];
        let count = proxy.read(&mut request).await.unwrap();
        request.truncate(count);
        drop(proxy);
        let rest = match reached {
            Ok(mut stream) => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest).await.unwrap();
                Ok(rest)
            }
            Err(error) => Err(error),
        };
        (String::from_utf8(request).unwrap(), rest)
    }

    #[tokio::test]
    async fn what_follows_the_answer_of_the_proxy_belongs_to_the_target() {
        let (request, rest) = asked(b"HTTP/1.1 200 fine\r\nVia: x\r\n\r\nhello").await;
        assert_eq!(
            request,
            "CONNECT [::1]:8883 HTTP/1.1\r\nHost: [::1]:8883\r\nProxy-Authorization: Basic bWU6YTpi\r\n\r\n"
        );
        assert_eq!(rest.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_what_is_no_answer_has_an_end() {
        let (_, refused) = asked(b"HTTP/1.1 407 Who?\r\n\r\n").await;
        assert!(matches!(refused, Err(ProxyError::Refused(why)) if why == "HTTP/1.1 407 Who?"));
        let (_, endless) = asked(&[b'x'; 2 * LONGEST_ANSWER]).await;
        assert!(matches!(endless, Err(ProxyError::NoProxy)));
    }
}
