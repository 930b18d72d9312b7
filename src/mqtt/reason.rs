//! MQTT 5 reason codes, which are this project's reason codes for every version.

use std::fmt;

/// A reason code [MQTT 5.0, 2.4]. Codes of 0x80 and above are failures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReasonCode(pub u8);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl ReasonCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// The name in the standard, `unknown` for codes it does not define.
            pub fn name(self) -> &'static str {
                #[allow(unreachable_patterns)]
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown",
                }
            }
        }
    };
}

reasons! {
    /// 0x00, also granted QoS 0 and normal disconnection.
    SUCCESS = 0x00, "success";
    /// 0x01 granted QoS 1.
    GRANTED_QOS_1 = 0x01, "granted QoS 1";
    /// 0x02 granted QoS 2.
    GRANTED_QOS_2 = 0x02, "granted QoS 2";
    /// 0x04 the client wants its will published.
    DISCONNECT_WITH_WILL = 0x04, "disconnect with will message";
    /// 0x10 accepted, without subscribers.
    NO_MATCHING_SUBSCRIBERS = 0x10, "no matching subscribers";
    /// 0x11 there was no such subscription.
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    /// 0x18 another AUTH is awaited.
    CONTINUE_AUTHENTICATION = 0x18, "continue authentication";
    /// 0x19 the client wants to authenticate again.
    RE_AUTHENTICATE = 0x19, "re-authenticate";
    /// 0x80 unspecified.
    UNSPECIFIED = 0x80, "unspecified error";
    /// 0x81 the bytes do not follow the standard.
    MALFORMED_PACKET = 0x81, "malformed packet";
    /// 0x82 well formed but not allowed here.
    PROTOCOL_ERROR = 0x82, "protocol error";
    /// 0x83 valid, not accepted by this server.
    IMPLEMENTATION_SPECIFIC = 0x83, "implementation specific error";
    /// 0x84 protocol version not supported.
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "unsupported protocol version";
    /// 0x85 client identifier refused.
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "client identifier not valid";
    /// 0x86 bad user name or password.
    BAD_USER_NAME_OR_PASSWORD = 0x86, "bad user name or password";
    /// 0x87 not authorized.
    NOT_AUTHORIZED = 0x87, "not authorized";
    /// 0x88 server unavailable.
    SERVER_UNAVAILABLE = 0x88, "server unavailable";
    /// 0x89 server busy.
    SERVER_BUSY = 0x89, "server busy";
    /// 0x8B shutting down.
    SERVER_SHUTTING_DOWN = 0x8B, "server shutting down";
    /// 0x8A the address is banned for a while.
    BANNED = 0x8A, "banned";
    /// 0x8C authentication method not supported.
    BAD_AUTHENTICATION_METHOD = 0x8C, "bad authentication method";
    /// 0x8D nothing heard for 1.5 times the keep alive.
    KEEP_ALIVE_TIMEOUT = 0x8D, "keep alive timeout";
    /// 0x8E another connection uses the client identifier.
    SESSION_TAKEN_OVER = 0x8E, "session taken over";
    /// 0x8F topic filter not accepted.
    TOPIC_FILTER_INVALID = 0x8F, "topic filter invalid";
    /// 0x90 topic name not accepted.
    TOPIC_NAME_INVALID = 0x90, "topic name invalid";
    /// 0x91 packet identifier in use.
    PACKET_IDENTIFIER_IN_USE = 0x91, "packet identifier in use";
    /// 0x92 packet identifier not known.
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "packet identifier not found";
    /// 0x93 more messages in flight than allowed.
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "receive maximum exceeded";
    /// 0x94 topic alias out of range.
    TOPIC_ALIAS_INVALID = 0x94, "topic alias invalid";
    /// 0x95 packet too large.
    PACKET_TOO_LARGE = 0x95, "packet too large";
    /// 0x96 messages come too fast.
    MESSAGE_RATE_TOO_HIGH = 0x96, "message rate too high";
    /// 0x97 an administrative limit was reached.
    QUOTA_EXCEEDED = 0x97, "quota exceeded";
    /// 0x98 ended by an operator, such as by a change of the users.
    ADMINISTRATIVE_ACTION = 0x98, "administrative action";
    /// 0x99 payload does not match its format indicator.
    PAYLOAD_FORMAT_INVALID = 0x99, "payload format invalid";
    /// 0x9A the server keeps no retained messages.
    RETAIN_NOT_SUPPORTED = 0x9A, "retain not supported";
    /// 0x9B the server does not take this QoS.
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
    /// 0x9C another server is to be used for now.
    USE_ANOTHER_SERVER = 0x9C, "use another server";
    /// 0x9D another server is to be used for good.
    SERVER_MOVED = 0x9D, "server moved";
    /// 0x9E no shared subscriptions.
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "shared subscriptions not supported";
    /// 0x9F too many connections in a short time.
    CONNECTION_RATE_EXCEEDED = 0x9F, "connection rate exceeded";
    /// 0xA0 a connection may not last longer.
    MAXIMUM_CONNECT_TIME = 0xA0, "maximum connect time";
    /// 0xA1 no subscription identifiers.
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, "subscription identifiers not supported";
    /// 0xA2 no wildcards in subscriptions.
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, "wildcard subscriptions not supported";
}

impl ReasonCode {
    /// True for 0x80 and above.
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02x} {}", self.0, self.name())
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.name(), self.0)
    }
}
