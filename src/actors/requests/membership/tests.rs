use std::sync::Arc;

use super::*;
use crate::actors::broker_settings::SettingValues;
use crate::actors::producers::ProducersConfig;
use crate::actors::request::ClientLink;
use crate::actors::requests::testing::{TestStore, body, field, refusal};
use crate::actors::topic_table::TopicEntry;
use crate::protocol::body::connections::ProducerTableInfo;
use crate::protocol::body::heartbeat::ProducerData;
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::request_code::RequestCode;
use crate::testing::{Taken, fake_client, fake_mailbox, request};
use crate::types::MessageQueue;

struct Fixture {
    store: TestStore,
    producers: Addr<Producers>,
    ensure_topic: Recipient<EnsureTopic>,
    ensured: Taken<EnsureTopic>,
}

async fn start(topics: &[(&str, u32)]) -> Fixture {
    start_with(topics, |ensure| {
        Ok(Arc::new(TopicEntry::new(ensure.config.clone(), None, Arc::new(|_, _| unreachable!()))))
    })
    .await
}

async fn start_with(
    topics: &[(&str, u32)],
    answer: impl FnMut(&EnsureTopic) -> Result<Arc<TopicEntry>, Refusal> + 'static,
) -> Fixture {
    let (ensure_topic, ensured) = fake_mailbox::<EnsureTopic>().answers(answer).start();
    let producers = Producers::new(ProducersConfig::default()).start();
    Fixture { store: TestStore::start(topics).await, producers, ensure_topic, ensured }
}

fn data(client_id: &str) -> HeartbeatData {
    HeartbeatData {
        client_id: client_id.into(),
        producer_data_set: vec![ProducerData { group_name: "pg".into() }],
        consumer_data_set: vec![ConsumerData {
            group_name: "cg".into(),
            subscription_data_set: vec![SubscriptionData::parse("T", "A || B").unwrap()],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    }
}

impl Fixture {
    async fn beat(&self, link: &Arc<ClientLink>, data: &HeartbeatData) -> Answered {
        let peers = HeartbeatPeers {
            settings: &self.store.settings,
            groups: &self.store.groups,
            consumers: &self.store.directory,
            producers: &self.producers,
            topics: &self.store.topics,
            ensure_topic: &self.ensure_topic,
        };
        heartbeat(&request(RequestCode::HEART_BEAT).json(data).from(link), &peers).await
    }
}

#[actix::test]
async fn heartbeat_registers_the_groups_and_the_retry_topic() {
    let mut fixture = start(&[]).await;
    let (link, _client) = fake_client();
    let answered = fixture.beat(&link, &data("c1")).await;
    assert_eq!(field(answered, "IS_SUPPORT_HEART_BEAT_V2"), "true");
    let ensured = fixture.ensured.try_recv().unwrap().config;
    assert_eq!((ensured.topic_name.as_str(), ensured.read_queue_nums, ensured.perm.0), ("%RETRY%cg", 1, 6));
    let of_group =
        request(RequestCode::GET_CONSUMER_CONNECTION_LIST).field("consumerGroup", "cg").from(&link);
    let found: ConsumerConnection = body(consumer_connections(&of_group, &fixture.store.consumers).await);
    assert_eq!(found.connection_set[0].client_addr, link.peer.to_string());
    assert_eq!(found.subscription_table["T"].tags_set, ["A", "B"]);
    let of_group = request(RequestCode::GET_CONSUMER_LIST_BY_GROUP).field("consumerGroup", "cg").from(&link);
    let ids: ConsumerIdList = body(consumer_list(&of_group, &fixture.store.consumers).await);
    assert_eq!(ids.consumer_id_list, ["c1".into()]);
    let of_group =
        request(RequestCode::GET_PRODUCER_CONNECTION_LIST).field("producerGroup", "pg").from(&link);
    let found: ProducerConnection = body(producer_connections(&of_group, &fixture.producers).await);
    assert_eq!(found.connection_set.len(), 1);
    let all = request(RequestCode::GET_ALL_PRODUCER_INFO).from(&link);
    let found: ProducerTableInfo = body(all_producers(&all, &fixture.producers).await);
    assert_eq!(found.data.len(), 1);
}

#[actix::test]
async fn owner_of_topics_is_asked_for_new_members_only() {
    let mut fixture = start(&[("%RETRY%cg", 1)]).await;
    let (link, _client) = fake_client();
    for _ in 0..3 {
        fixture.beat(&link, &data("c1")).await.unwrap();
    }
    assert!(fixture.ensured.try_recv().is_ok() && fixture.ensured.try_recv().is_err());
}

#[actix::test]
async fn heartbeat_without_its_retry_topic_is_refused() {
    let no_disk = |_: &EnsureTopic| {
        Err(Refusal::NotSaved { what: "the topic table", cause: "no space left on device".into() })
    };
    let fixture = start_with(&[], no_disk).await;
    let (link, _client) = fake_client();
    assert!(refusal(fixture.beat(&link, &data("c1")).await).to_string().contains("no space left"));
    assert!(fixture.store.consumers.view("cg").is_none());
}

#[actix::test]
async fn group_that_must_not_be_is_skipped_without_a_word() {
    let fixture = start(&[]).await;
    let (link, _client) = fake_client();
    let mut data = data("c1");
    data.consumer_data_set[0].group_name = "no good".into();
    fixture.beat(&link, &data).await.unwrap();
    assert!(fixture.store.consumers.view("no good").is_none());
}

#[actix::test]
async fn heartbeat_v2_is_asked_for_everything_when_the_broker_knows_nothing() {
    let fixture = start(&[]).await;
    let (link, client) = fake_client();
    let full = HeartbeatData { heartbeat_fingerprint: 77, ..data("c1") };
    let mut life = HeartbeatData { without_sub: true, ..full.clone() };
    life.consumer_data_set[0].subscription_data_set.clear();
    let change = async |data: &HeartbeatData| field(fixture.beat(&link, data).await, "IS_SUB_CHANGE");
    assert_eq!(change(&life).await, "true");
    assert_eq!(change(&full).await, "false");
    assert_eq!(change(&life).await, "false");
    assert!(fixture.store.consumers.subscription("cg", "T").is_some());
    assert_eq!(change(&data("c1")).await, "true");
    client.close().await;
}

#[actix::test]
async fn unregistered_client_is_gone_from_the_groups_it_names() {
    let fixture = start(&[]).await;
    let (link, _client) = fake_client();
    fixture.beat(&link, &data("c1")).await.unwrap();
    let leave = |producer: &str, consumer: &str| {
        request(RequestCode::UNREGISTER_CLIENT)
            .field("clientID", "c1")
            .field("producerGroup", producer)
            .field("consumerGroup", consumer)
            .from(&link)
    };
    let consumers = &fixture.store.consumers;
    unregister_client(&leave("", " "), consumers, &fixture.producers).await.unwrap();
    assert!(consumers.view("cg").is_some());
    unregister_client(&leave("", "cg"), consumers, &fixture.producers).await.unwrap();
    unregister_client(&leave("pg", "cg"), consumers, &fixture.producers).await.unwrap();
    let of_group = |code: RequestCode| {
        request(code).field("consumerGroup", "cg").field("producerGroup", "pg").from(&link)
    };
    let refused = refusal(consumer_list(&of_group(RequestCode::GET_CONSUMER_LIST_BY_GROUP), consumers).await);
    assert_eq!(refused.code(), ResponseCode::SYSTEM_ERROR);
    let asked = of_group(RequestCode::GET_CONSUMER_CONNECTION_LIST);
    let refused = refusal(consumer_connections(&asked, consumers).await);
    assert_eq!(refused.code(), ResponseCode::CONSUMER_NOT_ONLINE);
    let asked = of_group(RequestCode::GET_PRODUCER_CONNECTION_LIST);
    let refused = refusal(producer_connections(&asked, &fixture.producers).await);
    assert!(refused.to_string().starts_with("the producer group[pg] not exist"));
}

#[actix::test]
async fn locks_are_granted_renewed_and_given_up() {
    let fixture = start(&[]).await;
    let (link, _client) = fake_client();
    let asked = |code, client: &str| {
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        let body = LockBatchRequestBody {
            client_id: client.into(),
            consumer_group: "cg".into(),
            mq_set: vec![queue],
            only_this_broker: false,
        };
        request(code).json(&body).from(&link)
    };
    let lock = async |client: &str| -> usize {
        let asked = asked(RequestCode::LOCK_BATCH_MQ, client);
        let held: LockBatchResponseBody = body(lock_queues(&asked, &fixture.store.directory).await);
        held.lock_ok_mq_set.len()
    };
    assert_eq!((lock("a").await, lock("a").await, lock("b").await), (1, 1, 0));
    let give_up = asked(RequestCode::UNLOCK_BATCH_MQ, "a");
    unlock_queues(&give_up, &fixture.store.consumers).await.unwrap();
    assert_eq!(lock("b").await, 1);
}

#[actix::test]
async fn conditions_are_compiled_when_clients_ask_before_they_start() {
    let store = TestStore::start(&[("T", 1)]).await;
    let (link, _client) = fake_client();
    let check = async |data: Option<SubscriptionData>, sql_filter: bool| {
        let asked = request(RequestCode::CHECK_CLIENT_CONFIG);
        let asked = match data {
            Some(subscription_data) => {
                asked.json(&CheckClientRequestBody { subscription_data, ..Default::default() })
            }
            None => asked,
        };
        let settings = SettingsTable::fixed(SettingValues { sql_filter, ..Default::default() });
        check_client_config(&asked.from(&link), &settings, &store.topics, &FilterRules::default()).await
    };
    let sql = |condition| Some(SubscriptionData::build("T", condition, "SQL92").unwrap());
    check(None, false).await.unwrap();
    check(Some(SubscriptionData::parse("T", "A").unwrap()), false).await.unwrap();
    check(sql("a > 1"), true).await.unwrap();
    for (condition, switched_on, code, says) in [
        ("a >", true, ResponseCode::SUBSCRIPTION_PARSE_FAILED, "column 4"),
        ("a > 1", false, ResponseCode::SYSTEM_ERROR, "does not support consumer to filter message by SQL92"),
        ("body.a > 1", true, ResponseCode::NO_PERMISSION, "body.filter"),
    ] {
        let refused = refusal(check(sql(condition), switched_on).await);
        assert_eq!(refused.code(), code, "{condition}");
        assert!(refused.to_string().contains(says), "{refused}");
    }
}
