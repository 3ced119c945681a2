//! What a broker tells every name server about itself (103, 322), and its topics as told to others (21).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::registration_deflated::{self, DeflatedError};
use crate::protocol::data_version::DataVersion;
use crate::protocol::fastjson::{self, FastJsonError};
use crate::protocol::topic_config::TopicConfig;
use crate::types::TopicName;

/// Brokers before this version send a bare [`TopicConfigSerializeWrapper`]. RocketMQ: `V3_0_11`.
pub const FULL_BODY_MIN_VERSION: i32 = 37;
/// Brokers from this version end the compressed form with static topics. RocketMQ: `V5_0_0`.
pub const MAPPING_MIN_VERSION: i32 = 413;

/// The body of 103. RocketMQ: `RegisterBrokerBody`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    pub filter_server_list: Vec<String>,
    pub topic_config_serialize_wrapper: TopicConfigSerializeWrapper,
}

/// The topics of a broker, all or those that changed. RocketMQ: `TopicConfigSerializeWrapper`, and
/// `TopicConfigAndMappingSerializeWrapper` with the three mapping fields of static topics.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigSerializeWrapper {
    pub data_version: DataVersion,
    pub mapping_data_version: DataVersion,
    pub topic_config_table: BTreeMap<TopicName, TopicConfig>,
    /// `TopicQueueMappingDetail` by topic, kept as it came.
    pub topic_queue_mapping_detail_map: BTreeMap<String, Value>,
    /// `TopicQueueMappingInfo` by topic, kept as it came.
    pub topic_queue_mapping_info_map: BTreeMap<String, Value>,
}

/// What the header of a registration says about its body.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationForm {
    /// Ordinal of the broker's version.
    pub broker_version: i32,
    /// Field `compressed` of the header; the body itself does not tell.
    pub compressed: bool,
}

/// Why the body of a registration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("registration body is not json")]
    Json {
        #[from]
        source: FastJsonError,
    },
    #[error("compressed registration body is malformed")]
    Deflated {
        #[from]
        source: DeflatedError,
    },
}

impl RegisterBrokerBody {
    /// Reads the body of 103 in whichever of its three forms. No body: no topics.
    pub fn decode(body: &[u8], form: RegistrationForm) -> Result<Self, RegistrationError> {
        if form.broker_version < FULL_BODY_MIN_VERSION {
            let topic_config_serialize_wrapper = fastjson::from_slice_or_default(body)?;
            return Ok(Self { filter_server_list: Vec::new(), topic_config_serialize_wrapper });
        }
        if form.compressed && !body.is_empty() {
            let has_mapping = form.broker_version >= MAPPING_MIN_VERSION;
            return Ok(registration_deflated::decode(body, has_mapping)?);
        }
        Ok(fastjson::from_slice_or_default(body)?)
    }

    /// Writes the compressed form, with static topics as brokers from 5.0.0 do.
    pub fn encode_deflated(&self) -> Result<Vec<u8>, RegistrationError> {
        Ok(registration_deflated::encode(self)?)
    }
}

/// Header field `bodyCrc32` for a body; 0 there means that nobody looks.
pub fn body_crc32(body: &[u8]) -> i32 {
    (crc32fast::hash(body) & 0x7fff_ffff) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;
    use crate::protocol::topic_config::Permission;

    const WRAPPER: &str = r#"{"dataVersion":{"counter":7,"stateVersion":0,"timestamp":1700000000000},"mappingDataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"topicConfigTable":{"TopicA":{"attributes":{"message.type":"NORMAL"},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"TopicA","topicSysFlag":0,"writeQueueNums":8}},"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}"#;

    fn wrapper() -> TopicConfigSerializeWrapper {
        let mut topic = TopicConfig::new("TopicA", 8);
        topic.attributes.insert("message.type".into(), "NORMAL".into());
        TopicConfigSerializeWrapper {
            data_version: DataVersion { counter: 7, state_version: 0, timestamp: 1_700_000_000_000 },
            topic_config_table: [(topic.topic_name.clone(), topic)].into(),
            ..TopicConfigSerializeWrapper::default()
        }
    }

    fn body() -> RegisterBrokerBody {
        RegisterBrokerBody {
            filter_server_list: vec!["10.0.0.1:12000".into()],
            topic_config_serialize_wrapper: wrapper(),
        }
    }

    fn form(broker_version: i32, compressed: bool) -> RegistrationForm {
        RegistrationForm { broker_version, compressed }
    }

    #[test]
    fn wrapper_and_body() {
        assert_golden(&wrapper(), WRAPPER);
        let text =
            format!(r#"{{"filterServerList":["10.0.0.1:12000"],"topicConfigSerializeWrapper":{WRAPPER}}}"#);
        assert_golden(&body(), &text);
        assert_eq!(RegisterBrokerBody::decode(text.as_bytes(), form(479, false)).unwrap(), body());
    }

    #[test]
    fn old_broker_sends_a_bare_wrapper() {
        let read = RegisterBrokerBody::decode(WRAPPER.as_bytes(), form(36, false)).unwrap();
        assert_eq!(read.topic_config_serialize_wrapper, wrapper());
        assert!(read.filter_server_list.is_empty());
    }

    #[test]
    fn no_body_is_no_topics() {
        for form in [form(36, false), form(479, false), form(479, true)] {
            assert_eq!(RegisterBrokerBody::decode(b"", form).unwrap(), RegisterBrokerBody::default());
        }
    }

    #[test]
    fn compressed_form_reads_back() {
        let mut body = body();
        let topic = TopicConfig::new("TopicB", 1).with_perm(Permission::READ);
        let table = &mut body.topic_config_serialize_wrapper.topic_config_table;
        table.insert(topic.topic_name.clone(), topic);
        let info = serde_json::json!({"bname":"broker-a","topic":"TopicB","totalQueues":2});
        let mappings = &mut body.topic_config_serialize_wrapper.topic_queue_mapping_info_map;
        mappings.insert("TopicB".into(), info);
        let bytes = body.encode_deflated().unwrap();
        assert_eq!(RegisterBrokerBody::decode(&bytes, form(479, true)).unwrap(), body);
        // A broker of 4.x ends before the static topics; so does what is read of it.
        body.topic_config_serialize_wrapper.topic_queue_mapping_info_map.clear();
        assert_eq!(RegisterBrokerBody::decode(&bytes, form(399, true)).unwrap(), body);
    }

    #[test]
    fn crc_keeps_31_bits() {
        assert_eq!(body_crc32(b"123456789"), 0x4bf4_3926);
    }
}
