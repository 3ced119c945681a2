//! What is answered. RocketMQ: `ResponseCode`.

use super::code::codes;

codes! {
    /// The code of a response; the names are RocketMQ's. A code once shipped never changes its meaning.
    ///
    /// ```
    /// use telstar::protocol::ResponseCode;
    /// use telstar::testing::{Scenario, calls::send_to};
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
    /// let mut shop = broker.client("shop");
    /// let sent = shop.call(send_to("orders", 0, "pay 7")).await;
    /// assert!(sent.code.is_success());
    /// let refused = shop.call(send_to("orders", 5, "pay 8")).await;
    /// assert_eq!((refused.code, refused.code.as_i32()), (ResponseCode::INVALID_PARAMETER, 29));
    /// # }
    /// ```
    ResponseCode {
        // Every protocol. RocketMQ: `RemotingSysResponseCode`.
        SUCCESS = 0,
        SYSTEM_ERROR = 1,
        /// Producers try another broker.
        SYSTEM_BUSY = 2,
        REQUEST_CODE_NOT_SUPPORTED = 3,
        TRANSACTION_FAILED = 4,

        // Brokers and name servers.
        /// Stored, but not known to be durable.
        FLUSH_DISK_TIMEOUT = 10,
        /// Stored, but no slave to replicate to. Also a transaction sent to a slave.
        SLAVE_NOT_AVAILABLE = 11,
        /// Stored, but not confirmed by a slave in time.
        FLUSH_SLAVE_TIMEOUT = 12,
        MESSAGE_ILLEGAL = 13,
        SERVICE_NOT_AVAILABLE = 14,
        VERSION_NOT_SUPPORTED = 15,
        NO_PERMISSION = 16,
        TOPIC_NOT_EXIST = 17,
        TOPIC_EXIST_ALREADY = 18,
        PULL_NOT_FOUND = 19,
        PULL_RETRY_IMMEDIATELY = 20,
        /// The consumer must go on at the offset of the reply.
        PULL_OFFSET_MOVED = 21,
        /// No offset, no setting, no message of that key: not an error to the client.
        QUERY_NOT_FOUND = 22,
        SUBSCRIPTION_PARSE_FAILED = 23,
        SUBSCRIPTION_NOT_EXIST = 24,
        SUBSCRIPTION_NOT_LATEST = 25,
        SUBSCRIPTION_GROUP_NOT_EXIST = 26,
        FILTER_DATA_NOT_EXIST = 27,
        FILTER_DATA_NOT_LATEST = 28,
        INVALID_PARAMETER = 29,

        // Transactions, consumers, pop.
        TRANSACTION_SHOULD_COMMIT = 200,
        TRANSACTION_SHOULD_ROLLBACK = 201,
        TRANSACTION_STATE_UNKNOW = 202,
        TRANSACTION_STATE_GROUP_WRONG = 203,
        NO_BUYER_ID = 204,
        NOT_IN_CURRENT_UNIT = 205,
        CONSUMER_NOT_ONLINE = 206,
        CONSUME_MSG_TIMEOUT = 207,
        NO_MESSAGE = 208,
        /// 209 to 211 meant failures of access control in 4.x.
        POLLING_FULL = 209,
        POLLING_TIMEOUT = 210,
        BROKER_NOT_EXIST = 211,
        BROKER_DISPATCH_NOT_COMPLETE = 212,
        BROADCAST_CONSUMPTION = 213,
        FLOW_CONTROL = 215,
        NOT_LEADER_FOR_QUEUE = 501,
        ILLEGAL_OPERATION = 604,
        /// Only for clients newer than 475; others take it for a failure.
        GO_AWAY = 1500,

        // Controllers.
        CONTROLLER_FENCED_MASTER_EPOCH = 2000,
        CONTROLLER_FENCED_SYNC_STATE_SET_EPOCH = 2001,
        CONTROLLER_INVALID_MASTER = 2002,
        CONTROLLER_INVALID_REPLICAS = 2003,
        CONTROLLER_MASTER_NOT_AVAILABLE = 2004,
        CONTROLLER_INVALID_REQUEST = 2005,
        CONTROLLER_BROKER_NOT_ALIVE = 2006,
        CONTROLLER_NOT_LEADER = 2007,
        CONTROLLER_BROKER_METADATA_NOT_EXIST = 2008,
        CONTROLLER_INVALID_CLEAN_BROKER_METADATA = 2009,
        CONTROLLER_BROKER_NEED_TO_BE_REGISTERED = 2010,
        CONTROLLER_MASTER_STILL_EXIST = 2011,
        CONTROLLER_ELECT_MASTER_FAILED = 2012,
        CONTROLLER_ALTER_SYNC_STATE_SET_FAILED = 2013,
        CONTROLLER_BROKER_ID_INVALID = 2014,
        CONTROLLER_JRAFT_INTERNAL_ERROR = 2015,
        CONTROLLER_BROKER_LIVE_INFO_NOT_EXISTS = 2016,

        // Users and access control.
        USER_NOT_EXIST = 3001,
        POLICY_NOT_EXIST = 3002,

        // Brokers among themselves.
        RPC_UNKNOWN = -1000,
        RPC_ADDR_IS_NULL = -1002,
        RPC_SEND_TO_CHANNEL_FAILED = -1004,
        RPC_TIME_OUT = -1006,
    }
}

impl ResponseCode {
    /// Whether what was asked is done.
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_keep_number_and_name() {
        assert_eq!(ResponseCode::from_i32(21), ResponseCode::PULL_OFFSET_MOVED);
        assert!(ResponseCode::from_i32(0).is_success());
        assert_eq!(ResponseCode::RPC_TIME_OUT.to_string(), "RPC_TIME_OUT(-1006)");
        assert_eq!(ResponseCode::from_i32(999).to_string(), "UNKNOWN(999)");
    }

    #[test]
    fn numbers_are_unique() {
        let numbers: HashSet<i32> = ResponseCode::NAMED.iter().map(|code| code.as_i32()).collect();
        assert_eq!(numbers.len(), ResponseCode::NAMED.len());
    }
}
