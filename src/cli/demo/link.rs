//! A TCP link that can be cut, and counts its bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::metrics::Counter;
use crate::tasks::{Stop, Tasks, detach};

/// The link between gateway and remote.
pub(super) struct CuttableLink {
    /// Where the gateway connects to.
    pub(super) address: SocketAddr,
    up: watch::Sender<bool>,
    bytes: Arc<Counter>,
}

impl CuttableLink {
    pub(super) async fn start(
        remote: SocketAddr,
        stop: &Stop,
        tasks: &mut Tasks,
    ) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (up, state) = watch::channel(true);
        let bytes = Arc::new(Counter::default());
        let (counter, mut stop) = (bytes.clone(), stop.clone());
        tasks.start("link", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.wait() => return Ok(()),
                };
                let (near, _) = accepted.map_err(|error| error.to_string())?;
                if *state.borrow() {
                    detach(relay(near, remote, state.clone(), counter.clone()));
                }
            }
        });
        Ok(Self { address, up, bytes })
    }

    /// Breaks every connection and refuses new ones.
    pub(super) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(super) fn restore(&self) {
        self.up.send_replace(true);
    }

    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Bytes of TCP payload in both directions.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.value()
    }
}

async fn relay(
    near: TcpStream,
    remote: SocketAddr,
    mut up: watch::Receiver<bool>,
    bytes: Arc<Counter>,
) {
    let Ok(far) = TcpStream::connect(remote).await else {
        return;
    };
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let northward = pump(&mut near_read, &mut far_write, &bytes);
    let southward = pump(&mut far_read, &mut near_write, &bytes);
    tokio::select! {
        () = northward => {}
        () = southward => {}
        _ = up.wait_for(|up| !up) => {}
    }
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    bytes: &Counter,
) {
    let mut space = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut space).await {
        bytes.add(count as u64);
        let Some(part) = space.get(..count) else {
            return;
        };
        if to.write_all(part).await.is_err() {
            return;
        }
    }
}
