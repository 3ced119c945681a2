//! Response codes (RocketMQ: `ResponseCode`, `RemotingSysResponseCode`).

use std::fmt;

/// What a response says of its request. Open: a peer may send numbers that are not listed here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseCode(pub i32);

macro_rules! response_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl ResponseCode {
            $($(#[$doc])* pub const $name: ResponseCode = ResponseCode($number);)*

            /// Its name, for logs; `None` for a number not listed here.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

response_codes! {
    SUCCESS = 0,
    /// Anything that went wrong without a code of its own.
    SYSTEM_ERROR = 1,
    /// Overload; producers send again.
    SYSTEM_BUSY = 2,
    REQUEST_CODE_NOT_SUPPORTED = 3,
    /// Stored, but not yet on disk.
    FLUSH_DISK_TIMEOUT = 10,
    /// Stored, but no slave has it.
    SLAVE_NOT_AVAILABLE = 11,
    /// Stored, but the slaves did not confirm in time.
    FLUSH_SLAVE_TIMEOUT = 12,
    MESSAGE_ILLEGAL = 13,
    /// The store does not take writes.
    SERVICE_NOT_AVAILABLE = 14,
    NO_PERMISSION = 16,
    TOPIC_NOT_EXIST = 17,
    /// No new message.
    PULL_NOT_FOUND = 19,
    /// Nothing matched; pull again at the next offset.
    PULL_RETRY_IMMEDIATELY = 20,
    /// The offset was outside the queue; the next offset is the corrected one.
    PULL_OFFSET_MOVED = 21,
    /// No offset, no setting, no message for the key.
    QUERY_NOT_FOUND = 22,
    SUBSCRIPTION_PARSE_FAILED = 23,
    SUBSCRIPTION_NOT_EXIST = 24,
    SUBSCRIPTION_NOT_LATEST = 25,
    SUBSCRIPTION_GROUP_NOT_EXIST = 26,
    INVALID_PARAMETER = 29,
    CONSUMER_NOT_ONLINE = 206,
    /// A client did not answer a relayed request.
    CONSUME_MSG_TIMEOUT = 207,
    NO_MESSAGE = 208,
    ILLEGAL_OPERATION = 604,
    GO_AWAY = 1500,
}

impl fmt::Debug for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}({})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}
