//! The pause of a client that connects too fast and is not refused for it.
//!
//! Invariants: a client that hangs up meanwhile gives its place back at once, so that connections
//! that are opened and closed in a loop hold no places; nothing is read, so what the client sends
//! waits in its socket.

use std::io::ErrorKind::WouldBlock;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The connection after a pause; `None` if the client has hung up.
pub(super) async fn pace(stream: TcpStream, pause: Duration) -> Option<TcpStream> {
    if timeout(pause, hung_up(&stream)).await.is_ok() {
        return None;
    }
    // Registered again: that there is something to read was forgotten here.
    TcpStream::from_std(stream.into_std().ok()?).ok()
}

async fn hung_up(stream: &TcpStream) {
    while stream
        .ready(Interest::READABLE)
        .await
        .is_ok_and(|ready| !ready.is_read_closed())
    {
        // Something has come, and stays where it is: only the next event counts. The error is ours,
        // to say so.
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(WouldBlock.into()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(3600);

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_waits_no_longer_whatever_it_has_sent() {
        for sent in [0, 1, 20_000] {
            let (mut client, stream) = connected().await;
            client.write_all(&vec![b'x'; sent]).await.unwrap();
            let hang_up = async {
                tokio::task::yield_now().await;
                drop(client);
            };
            let (paced, ()) = tokio::join!(pace(stream, LONG), hang_up);
            assert!(paced.is_none(), "after {sent} bytes");
        }
    }

    #[tokio::test]
    async fn what_a_client_sends_meanwhile_is_there_after_the_pause() {
        let (mut client, stream) = connected().await;
        client.write_all(b"early").await.unwrap();
        let mut stream = pace(stream, Duration::from_millis(50)).await.unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"early");
    }
}
