//! Inputs and outputs of the engine.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::{ClientNote, ConnectionId, ForwardAnswer, Lsn, Notice, OutputBuffer, Peer, Ticket};
use crate::broker::access::Hash;
use crate::broker::admission::Address;
use crate::message::{ExactInbound, Message};
use crate::mqtt::{DecodeError, Packet};
use crate::route::RouteTarget;

/// An input of the engine.
#[derive(Debug)]
pub enum Input {
    /// A socket was accepted.
    Opened(ConnectionId, Peer),
    /// A packet arrived.
    Packet(ConnectionId, Packet),
    /// Bytes arrived that are no packet.
    Invalid(ConnectionId, DecodeError),
    /// The socket is gone.
    Closed(ConnectionId),
    /// So many bytes were written to the socket.
    Written(ConnectionId, usize),
    /// A message from inside the gateway.
    Publish(Message),
    /// A message of a remote broker; answered with [`Output::Safe`] or [`Output::NotSafe`].
    Inbound {
        /// Names it in the answer.
        reply: u64,
        /// The message.
        message: Message,
        /// Present at QoS 2.
        exact: Option<ExactInbound>,
    },
    /// A destination stored a message, or could not take it.
    Stored {
        /// That of the [`Output::Forward`].
        ticket: Ticket,
        /// That of the destination.
        answer: ForwardAnswer,
    },
    /// The password of [`Output::Verify`] is right, or not.
    Verified(ConnectionId, bool),
    /// Too many passwords wait to be compared.
    Busy(ConnectionId),
    /// Records up to this batch are durable.
    Durable(Lsn),
}

/// An order to the driver; orders are carried out one after the other. Bytes are taken with
/// [`super::Engine::take_output`].
#[derive(Debug)]
pub enum Output {
    /// Read nothing more until [`Output::Resume`]: too much of this client waits.
    Pause(ConnectionId),
    /// Read on.
    Resume(ConnectionId),
    /// Write these last bytes after what was taken before, then close.
    Close(ConnectionId, OutputBuffer),
    /// Hand a message to a destination inside the gateway.
    Forward {
        /// Where it goes, and how.
        target: RouteTarget,
        /// The message.
        message: Arc<Message>,
        /// To be answered with [`Input::Stored`]; `None` for QoS 0, which is lost if the
        /// destination is busy.
        ticket: Option<Ticket>,
    },
    /// Compare a password with its hash, which takes long; to be answered with [`Input::Verified`].
    Verify {
        /// The connection that waits for it.
        connection: ConnectionId,
        /// The address of that client.
        address: Option<Address>,
        /// The name of a user who exists.
        user: Option<ByteString>,
        /// The hash that it is compared with.
        hash: Hash,
        /// As typed.
        password: Bytes,
    },
    /// Write this into the log.
    Notice(Box<Notice>),
    /// So many notices of a kind were left out, and none followed them.
    LeftOut {
        /// Their event.
        event: &'static str,
        /// Their number.
        count: u64,
    },
    /// A line for the log.
    Note(Box<ClientNote>),
    /// A login from this address failed.
    LoginFailed(Option<Address>),
    /// The message of [`Input::Inbound`] is where it must be.
    Safe(u64),
    /// It could not be taken and must come again.
    NotSafe(u64),
}
