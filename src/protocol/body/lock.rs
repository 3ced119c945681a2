//! Locks on message queues for orderly consumption (codes 41 and 42).

use serde::{Deserialize, Serialize};

use crate::types::{ClientId, GroupName, MessageQueue};

/// RocketMQ: `LockBatchRequestBody`; `UnlockBatchRequestBody` is the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockBatchRequestBody {
    pub client_id: ClientId,
    pub consumer_group: GroupName,
    pub mq_set: Vec<MessageQueue>,
    /// False: replicas of the broker must grant the lock too.
    pub only_this_broker: bool,
}

/// RocketMQ: `UnlockBatchRequestBody`.
pub type UnlockBatchRequestBody = LockBatchRequestBody;

/// The queues that the client holds now. RocketMQ: `LockBatchResponseBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LockBatchResponseBody {
    #[serde(rename = "lockOKMQSet")]
    pub lock_ok_mq_set: Vec<MessageQueue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    #[test]
    fn lock_request_and_response() {
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        let request = LockBatchRequestBody {
            client_id: "c".into(),
            consumer_group: "g".into(),
            mq_set: vec![queue.clone()],
            only_this_broker: false,
        };
        assert_golden(
            &request,
            r#"{"clientId":"c","consumerGroup":"g","mqSet":[{"brokerName":"b","queueId":0,"topic":"T"}],"onlyThisBroker":false}"#,
        );
        assert_golden(
            &LockBatchResponseBody { lock_ok_mq_set: vec![queue] },
            r#"{"lockOKMQSet":[{"brokerName":"b","queueId":0,"topic":"T"}]}"#,
        );
    }
}
