//! The end of a connection whose peer is to read the last bytes before it is gone.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read away at a time.
const CHUNK: usize = 4096;

/// Ends the writing side, and reads away what still comes, at most `most` bytes: unread bytes would
/// reset the connection before the peer has read what was written. The caller bounds the time.
pub(super) async fn linger<S>(stream: &mut S, most: usize) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.shutdown().await?;
    let mut space = BytesMut::with_capacity(CHUNK);
    let mut drained = 0;
    while drained < most {
        space.clear();
        match stream.read_buf(&mut space).await? {
            0 => break,
            count => drained += count,
        }
    }
    Ok(())
}
