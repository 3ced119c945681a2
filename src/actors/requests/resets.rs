//! Requests that send a group elsewhere: INVOKE_BROKER_TO_RESET_OFFSET (222), kept here or told to the clients.

use actix::Addr;
use futures::future;

use super::groups::known_group;
use super::offsets::{extent_of, queue_of};
use super::progress::{ProgressSources, with_raw_keys};
use crate::actors::consumer_offsets::{QueryTopicOffsets, ResetOffsets};
use crate::actors::offset_table::QueueOffsets;
use crate::actors::request::{Answered, CallClient, Request};
use crate::actors::topic_queue::{SearchOffsetByTime, TopicQueue, WakeHolds};
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::protocol::body::offsets::{ResetOffsetBody, ResetOffsetBodyForC};
use crate::protocol::command::Language;
use crate::protocol::fastjson::{self, FastJsonError};
use crate::protocol::header::{FieldWriter, ResetClientOffset, ResetOffset};
use crate::protocol::request_code::RequestCode;
use crate::types::{QueueId, QueueOffset};

type Queues = Vec<(QueueId, Addr<TopicQueue>)>;

/// INVOKE_BROKER_TO_RESET_OFFSET (222). By default the offsets hold at once: consumers, now or later, jump to them with
/// their next pull, and what they commit until then counts for nothing. With `useServerSideResetOffset` off the
/// members are told, and move by themselves.
pub async fn reset_offset(request: &Request, sources: &ProgressSources<'_>) -> Answered {
    let asked: ResetOffset = request.header("INVOKE_BROKER_TO_RESET_OFFSET")?;
    let entry = sources.topics.get(&asked.topic);
    let entry = entry.ok_or_else(|| unknown_topic(&asked.topic, &sources.topics.load()))?;
    known_group(sources.groups, &asked.group)?;
    let ids: Vec<i32> = match asked.queue_id {
        all if all < 0 => (0..entry.config.read_queue_nums as i32).collect(),
        one => vec![one],
    };
    let mut queues = Vec::with_capacity(ids.len());
    for id in ids {
        let queue = queue_of(sources.topics, &asked.topic, id).ok_or_else(|| Refusal::QueueOutOfRange {
            topic: asked.topic.clone(),
            queue_id: id,
            queues: entry.queue_nums(),
        })?;
        queues.push((QueueId(id as u32), queue));
    }
    if queues.is_empty() {
        return Err(Refusal::NothingToReset { topic: asked.topic });
    }
    let targets = queues
        .iter()
        .map(|(id, queue)| async { Ok::<_, Refusal>((*id, reset_target(&asked, *id, queue).await?)) });
    let offsets: QueueOffsets = future::try_join_all(targets).await?.into_iter().collect();
    if sources.settings.load().server_side_reset {
        reset_here(&asked, offsets, &queues, sources).await
    } else {
        reset_by_clients(request, &asked, offsets, sources).await
    }
}

async fn reset_here(
    asked: &ResetOffset,
    offsets: QueueOffsets,
    queues: &Queues,
    sources: &ProgressSources<'_>,
) -> Answered {
    let reset =
        ResetOffsets { group: asked.group.clone(), topic: asked.topic.clone(), offsets: offsets.clone() };
    sources.offsets.send(reset).await??;
    // A pull that is held would keep its consumer from the reset until the hold ends.
    let wakes = queues.iter().map(|(_, queue)| queue.send(WakeHolds));
    future::join_all(wakes).await;
    with_raw_keys(&body_of(asked, offsets, sources))
}

/// RESET_CONSUMER_CLIENT_OFFSET (220) to every member. Without force nobody is sent forward.
async fn reset_by_clients(
    request: &Request,
    asked: &ResetOffset,
    mut offsets: QueueOffsets,
    sources: &ProgressSources<'_>,
) -> Answered {
    let ResetOffset { group, topic, .. } = asked;
    let committed =
        sources.offsets.send(QueryTopicOffsets { group: group.clone(), topic: topic.clone() }).await?;
    for (queue_id, offset) in &mut offsets {
        let current = *committed.get(queue_id).ok_or_else(|| Refusal::ResetOfUnknownOffset {
            group: group.clone(),
            topic: topic.clone(),
            queue_id: queue_id.0 as i32,
        })?;
        if !asked.is_force {
            *offset = current.min(*offset);
        }
    }
    let view = sources.consumers.view(group);
    let view = view.ok_or_else(|| Refusal::ResetOffline { group: group.clone() })?;
    let body = body_of(asked, offsets, sources);
    let header = ResetClientOffset {
        topic: topic.clone(),
        group: group.clone(),
        timestamp: asked.timestamp,
        is_force: asked.is_force,
    };
    let fields = FieldWriter::of(&header).into_pairs();
    let fields: Vec<_> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let failed = |error: FastJsonError| Refusal::Failed(error.to_string());
    let for_java = fastjson::to_vec_java(&body).map_err(failed)?;
    let for_cpp = fastjson::to_vec(&ResetOffsetBodyForC::from(&body)).map_err(failed)?;
    let asked_by_cpp = request.command.head.language == Language::CPP;
    let calls = view.members.iter().map(|known| {
        let is_cpp = asked_by_cpp || known.member.language == Language::CPP;
        let body = if is_cpp { for_cpp.clone() } else { for_java.clone() };
        known.link.calls.send(CallClient {
            code: RequestCode::RESET_CONSUMER_CLIENT_OFFSET.as_i32(),
            fields: fields.clone(),
            body: body.into(),
            timeout: None,
        })
    });
    // A member that has just gone begins at its committed offset when it comes back, as in Java.
    future::join_all(calls).await;
    with_raw_keys(&body)
}

fn body_of(asked: &ResetOffset, offsets: QueueOffsets, sources: &ProgressSources<'_>) -> ResetOffsetBody {
    let row =
        |(id, offset): (QueueId, QueueOffset)| (sources.message_queue(&asked.topic, id), offset.0 as i64);
    ResetOffsetBody { offset_table: offsets.into_iter().map(row).collect() }
}

/// One queue may be set to an offset; otherwise the time decides.
async fn reset_target(
    asked: &ResetOffset,
    id: QueueId,
    queue: &Addr<TopicQueue>,
) -> Result<QueueOffset, Refusal> {
    let explicit = asked.offset.filter(|offset| asked.queue_id >= 0 && *offset != -1);
    if explicit.is_none() && asked.timestamp >= 0 {
        return queue.send(SearchOffsetByTime { timestamp_ms: asked.timestamp, upper: false }).await?;
    }
    let extent = extent_of(queue).await;
    let Some(offset) = explicit else { return Ok(extent.max) };
    let target =
        u64::try_from(offset).ok().filter(|offset| (extent.min.0..=extent.max.0 + 1).contains(offset));
    target.map(QueueOffset).ok_or_else(|| Refusal::ResetOutOfRange {
        topic: asked.topic.clone(),
        queue_id: id.0 as i32,
        offset,
        min: extent.min.0,
        max: extent.max.0,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::actors::broker_settings::{SettingValues, SettingsTable};
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::{FakeClient, RequestBuilder, fake_client, request};
    use crate::types::MessageQueue;

    fn key(topic: &str, queue_id: i32) -> MessageQueue {
        MessageQueue { broker_name: "broker-a".into(), queue_id, topic: topic.into() }
    }

    fn reset() -> RequestBuilder {
        request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).field("group", "g").field("topic", "T")
    }

    #[actix::test]
    async fn reset_to_the_end_holds_all_queues() {
        let store = TestStore::start(&[("T", 2)]).await;
        store.groups.find_or_create(&"g".into()).await.unwrap();
        store.dispatch("T", 0, 10).await;
        store.commit("g", "T", 0, 3).await;
        let (link, _client) = fake_client();
        let answered = reset_offset(&reset().field("timestamp", -1).from(&link), &store.progress()).await;
        let offsets: ResetOffsetBody = body(answered);
        assert_eq!(offsets.offset_table.0, BTreeMap::from([(key("T", 0), 10), (key("T", 1), 0)]));
        assert!(store.resets.any());
        store.commit("g", "T", 0, 4).await;
        assert_eq!(store.offset("g", "T", 0).await, Some(10));
    }

    #[actix::test]
    async fn reset_outside_the_queue_is_refused_with_its_range() {
        let store = TestStore::start(&[("T", 1)]).await;
        store.dispatch("T", 0, 10).await;
        let (link, _client) = fake_client();
        let asked = |queue_id, offset| reset().field("queueId", queue_id).field("offset", offset).from(&link);
        let refused = refusal(reset_offset(&asked(0, 12), &store.progress()).await);
        assert_eq!(refused.code(), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        store.groups.find_or_create(&"g".into()).await.unwrap();
        let refused = refusal(reset_offset(&asked(0, 12), &store.progress()).await);
        assert!(
            refused
                .to_string()
                .starts_with("Target offset 12 of topic T, queue 0, not in consume queue range [0-10]")
        );
        let refused = refusal(reset_offset(&asked(7, 0), &store.progress()).await);
        assert_eq!(refused.code(), ResponseCode::INVALID_PARAMETER);
        let answered = reset_offset(&asked(0, 11), &store.progress()).await;
        let offsets: ResetOffsetBody = body(answered);
        assert_eq!(offsets.offset_table.0, BTreeMap::from([(key("T", 0), 11)]));
    }

    /// A store whose resets are told to clients; the group has offset 8 of 10.
    async fn told_to_clients() -> TestStore {
        let mut store = TestStore::start(&[("T", 1)]).await;
        store.settings =
            SettingsTable::fixed(SettingValues { server_side_reset: false, ..SettingValues::default() });
        store.groups.find_or_create(&"g".into()).await.unwrap();
        store.dispatch("T", 0, 10).await;
        store
    }

    fn resets(client: &mut FakeClient) -> Vec<CallClient> {
        let all = std::iter::from_fn(|| client.calls.try_recv().ok());
        all.filter(|call| call.code == RequestCode::RESET_CONSUMER_CLIENT_OFFSET.as_i32()).collect()
    }

    #[actix::test]
    async fn members_are_told_and_nobody_is_sent_forward_without_force() {
        let store = told_to_clients().await;
        let (link, mut client) = fake_client();
        let ask = async |asked: RequestBuilder| reset_offset(&asked.from(&link), &store.progress()).await;
        let refused = refusal(ask(reset().field("timestamp", -1)).await);
        assert!(refused.to_string().contains("has no offset"), "{refused}");
        store.commit("g", "T", 0, 8).await;
        assert_eq!(
            refusal(ask(reset().field("timestamp", -1)).await).code(),
            ResponseCode::CONSUMER_NOT_ONLINE
        );

        store.subscribe("g", &link, &["T"]).await;
        let offsets = async |asked| -> BTreeMap<MessageQueue, i64> {
            body::<ResetOffsetBody>(ask(asked).await).offset_table.0
        };
        assert_eq!(offsets(reset().field("timestamp", -1)).await, [(key("T", 0), 8)].into());
        let forced = reset().field("timestamp", -1).field("isForce", true);
        assert_eq!(offsets(forced).await, [(key("T", 0), 10)].into());
        assert!(!store.resets.any(), "the clients move by themselves");
        assert_eq!(store.offset("g", "T", 0).await, Some(8));

        let told = resets(&mut client);
        let text = r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:10}}"#;
        assert_eq!((told.len(), &told[1].body[..]), (2, text.as_bytes()));
        assert!(told[1].timeout.is_none(), "nobody waits for an answer");
        let field = |name: &str| told[1].fields.iter().find(|(known, _)| known == name).unwrap().1.clone();
        assert_eq!(
            (field("topic"), field("group"), field("timestamp")),
            ("T".into(), "g".into(), "-1".into())
        );
    }

    #[actix::test]
    async fn clients_in_cpp_are_told_in_a_list() {
        let store = told_to_clients().await;
        store.commit("g", "T", 0, 8).await;
        let (link, mut client) = fake_client();
        store.subscribe_as("g", &link, Language::CPP, &["T"]).await;
        let asked = reset().field("queueId", 0).field("offset", 3).from(&link);
        reset_offset(&asked, &store.progress()).await.unwrap();
        let text = r#"{"offsetTable":[{"brokerName":"broker-a","offset":3,"queueId":0,"topic":"T"}]}"#;
        assert_eq!(resets(&mut client)[0].body, text);
    }
}
