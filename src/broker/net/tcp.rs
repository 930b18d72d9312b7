//! The plain TCP listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Listen, connection};
use crate::broker::Broker;
use crate::tasks::{Stop, detach};

/// A listener that could not be opened. A person's mistake, mostly: the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has the port.
    #[error("cannot listen on {listen}: the port is in use; stop the program that has it or change `broker.listen`")]
    InUse {
        /// As configured.
        listen: String,
    },
    /// Anything else: no such address, no right to a port below 1024.
    #[error("cannot listen on {listen}: {source}; change `broker.listen`")]
    Other {
        /// As configured.
        listen: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A listener that has its port but accepts nobody yet.
#[derive(Debug)]
pub struct BoundListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundListener {
    /// Takes the port.
    pub async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let bound = async {
            let listener = TcpListener::bind((listen.host.as_str(), listen.port)).await?;
            let address = listener.local_addr()?;
            Ok::<_, std::io::Error>(Self { listener, address })
        };
        bound.await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => ListenError::InUse { listen: listen.to_string() },
            _ => ListenError::Other { listen: listen.to_string(), source },
        })
    }

    /// The address it has, with the port the system chose if it was asked to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts clients until the stop order. `connections` bounds how many there are at a time.
    pub async fn run(self, broker: Broker, connections: Arc<Semaphore>, max_packet: usize, mut stop: Stop) {
        tracing::info!(address = %self.address, "listening for MQTT clients");
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &broker, &connections, max_packet),
                Err(error) => {
                    // Out of descriptors, or the peer was gone already: neither may end the listener or spin it.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, broker: &Broker, connections: &Arc<Semaphore>, max_packet: usize) {
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            tracing::debug!(%peer, "refused: too many connections");
            return;
        };
        // Small packets must not wait for company; if the option cannot be set they merely do.
        let _ = stream.set_nodelay(true);
        let broker = broker.clone();
        detach(async move {
            connection::serve(stream, peer, &broker, max_packet).await;
            drop(permit);
        });
    }
}
