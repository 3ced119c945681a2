//! How replication is doing (907). RocketMQ: `HARuntimeInfo`.

use serde::{Deserialize, Serialize};

/// State of replication, as master or as slave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HARuntimeInfo {
    pub ha_client_runtime_info: HAClientRuntimeInfo,
    pub ha_connection_info: Vec<HAConnectionRuntimeInfo>,
    pub in_sync_slave_nums: i32,
    pub master: bool,
    /// Physical offset.
    pub master_commit_log_max_offset: i64,
}

/// One slave as its master sees it. RocketMQ: `HARuntimeInfo.HAConnectionRuntimeInfo`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HAConnectionRuntimeInfo {
    pub addr: String,
    /// Bytes the slave is behind.
    pub diff: i64,
    pub in_sync: bool,
    pub slave_ack_offset: i64,
    pub transfer_from_where: i64,
    pub transferred_byte_in_second: i64,
}

/// A slave as it sees itself. RocketMQ: `HARuntimeInfo.HAClientRuntimeInfo`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HAClientRuntimeInfo {
    pub activated: bool,
    /// Milliseconds since 1970.
    pub last_read_timestamp: i64,
    /// Milliseconds since 1970.
    pub last_write_timestamp: i64,
    pub master_addr: String,
    pub master_flush_offset: i64,
    pub max_offset: i64,
    pub transferred_byte_in_second: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    #[test]
    fn runtime_info_of_a_master() {
        let slave = HAConnectionRuntimeInfo {
            addr: "10.0.0.2:1".into(),
            in_sync: true,
            slave_ack_offset: 1,
            transfer_from_where: 1,
            ..HAConnectionRuntimeInfo::default()
        };
        assert_golden(
            &HARuntimeInfo {
                ha_connection_info: vec![slave],
                in_sync_slave_nums: 1,
                master: true,
                master_commit_log_max_offset: 1,
                ..HARuntimeInfo::default()
            },
            r#"{"haClientRuntimeInfo":{"activated":false,"lastReadTimestamp":0,"lastWriteTimestamp":0,"masterAddr":"","masterFlushOffset":0,"maxOffset":0,"transferredByteInSecond":0},"haConnectionInfo":[{"addr":"10.0.0.2:1","diff":0,"inSync":true,"slaveAckOffset":1,"transferFromWhere":1,"transferredByteInSecond":0}],"inSyncSlaveNums":1,"master":true,"masterCommitLogMaxOffset":1}"#,
        );
    }
}
