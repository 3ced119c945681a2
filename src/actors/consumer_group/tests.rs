use super::*;
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::command::Language;
use crate::testing::{FakeClient, fake_client};

struct Fixture {
    group: Addr<ConsumerGroup>,
    view: SharedView,
}

fn start() -> Fixture {
    let view = SharedView::default();
    let group = ConsumerGroup::new("g".into(), view.clone(), ConsumerGroupConfig::default()).start();
    Fixture { group, view }
}

fn heartbeat(link: &Arc<ClientLink>, topics: &[&str]) -> ConsumerHeartbeat {
    let subscription = |topic: &&str| SubscriptionData::parse(*topic, "*").unwrap();
    ConsumerHeartbeat {
        link: link.clone(),
        member: Member {
            client_id: format!("c{}", link.id.0).into(),
            language: Language::JAVA,
            version: 479,
        },
        consumer: ConsumerData {
            group_name: "g".into(),
            subscription_data_set: topics.iter().map(subscription).collect(),
            ..ConsumerData::default()
        },
        fingerprint: 0,
        without_subscriptions: false,
        notify: true,
    }
}

impl Fixture {
    async fn beat(&self, link: &Arc<ClientLink>) {
        self.group.send(heartbeat(link, &["T"])).await.unwrap();
    }

    fn client_ids(&self) -> Vec<ClientId> {
        self.view.load().as_ref().map(|view| view.client_ids().to_vec()).unwrap_or_default()
    }

    /// Lets everything that is due happen.
    async fn settle(&self) {
        for _ in 0..4 {
            self.group.send(ObserveGroup).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

/// How many notices the client got by now.
fn notices(client: &mut FakeClient) -> usize {
    std::iter::from_fn(|| client.calls.try_recv().ok())
        .inspect(|call| {
            assert_eq!((call.code, call.timeout), (40, None));
            assert_eq!(call.fields, [("consumerGroup".to_owned(), "g".to_owned())]);
        })
        .count()
}

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "b".into(), queue_id, topic: "T".into() }
}

#[actix::test]
async fn view_is_there_when_the_heartbeat_is_answered_and_gone_with_the_last_member() {
    let fixture = start();
    let (link, client) = fake_client();
    fixture.beat(&link).await;
    let view = fixture.view.load_full().unwrap();
    assert_eq!(view.members.len(), 1);
    assert!(view.subscription("T").is_some() && view.subscription("U").is_none());
    fixture.settle().await;
    assert_eq!(client.close().await, 1);
    fixture.settle().await;
    assert!(fixture.view.load().is_none());
}

#[actix::test]
async fn everyone_is_told_once_of_changes_that_come_together() {
    tokio::time::pause();
    let fixture = start();
    let mut clients: Vec<_> = (0..3).map(|_| fake_client()).collect();
    let beats: Vec<_> = clients.iter().map(|(link, _)| fixture.group.send(heartbeat(link, &["T"]))).collect();
    futures::future::join_all(beats).await;
    fixture.settle().await;
    for (_, client) in &mut clients {
        assert_eq!(notices(client), 1);
    }
    // Within the gap the next rounds wait for each other.
    fixture.group.send(LeaveGroup { connection: clients[2].0.id }).await.unwrap();
    fixture.group.send(LeaveGroup { connection: clients[1].0.id }).await.unwrap();
    tokio::time::advance(Duration::from_millis(11)).await;
    fixture.settle().await;
    assert_eq!(notices(&mut clients[0].1), 1);
    assert_eq!(notices(&mut clients[1].1), 0);
    assert_eq!(fixture.client_ids(), [ClientId::from(format!("c{}", clients[0].0.id.0))]);
}

#[actix::test]
async fn nothing_is_told_when_nothing_changed_or_nobody_may_be() {
    tokio::time::pause();
    let fixture = start();
    let (link, mut client) = fake_client();
    let quiet = ConsumerHeartbeat { notify: false, ..heartbeat(&link, &["T"]) };
    fixture.group.send(quiet).await.unwrap();
    fixture.settle().await;
    fixture.beat(&link).await;
    fixture.settle().await;
    assert_eq!(notices(&mut client), 0);

    let mut broadcasting = heartbeat(&link, &["T", "U"]);
    broadcasting.consumer.message_model = MessageModel::Broadcasting;
    fixture.group.send(broadcasting).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    fixture.settle().await;
    assert_eq!(notices(&mut client), 0);
    assert!(fixture.view.load_full().unwrap().is_broadcasting());
}

#[actix::test]
async fn changed_topics_are_told() {
    tokio::time::pause();
    let fixture = start();
    let (link, mut client) = fake_client();
    fixture.beat(&link).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    fixture.settle().await;
    assert_eq!(notices(&mut client), 1);
    fixture.group.send(heartbeat(&link, &["T", "U"])).await.unwrap();
    fixture.settle().await;
    assert_eq!(notices(&mut client), 1);
}

#[actix::test]
async fn silent_member_is_closed_and_the_others_are_told() {
    tokio::time::pause();
    let fixture = start();
    let (silent, mut silent_client) = fake_client();
    let (alive, mut alive_client) = fake_client();
    fixture.beat(&silent).await;
    fixture.beat(&alive).await;
    for _ in 0..14 {
        tokio::time::advance(Duration::from_millis(10_010)).await;
        fixture.settle().await;
        fixture.beat(&alive).await;
    }
    fixture.settle().await;
    assert_eq!(fixture.client_ids(), [ClientId::from(format!("c{}", alive.id.0))]);
    assert!(silent_client.closes.recv().await.is_some());
    assert!(alive_client.closes.try_recv().is_err());
    // One round for joining, one for the loss.
    assert_eq!(notices(&mut alive_client), 2);
}

#[actix::test]
async fn member_whose_connection_is_closed_already_does_not_stay() {
    let fixture = start();
    let (link, client) = fake_client();
    client.close().await;
    fixture.beat(&link).await;
    fixture.settle().await;
    assert_eq!(fixture.group.send(ObserveGroup).await.unwrap().members, 0);
    assert!(fixture.view.load().is_none());
}

#[actix::test]
async fn client_with_two_connections_is_listed_once() {
    let fixture = start();
    let ((old, _old_client), (new, _new_client)) = (fake_client(), fake_client());
    for link in [&old, &new] {
        let mut beat = heartbeat(link, &["T"]);
        beat.member.client_id = "same".into();
        fixture.group.send(beat).await.unwrap();
    }
    let view = fixture.view.load_full().unwrap();
    assert_eq!(view.client_ids(), [ClientId::from("same")]);
    assert_eq!(view.find(&"same".into()).unwrap().link.id, new.id);
}

#[actix::test]
async fn lock_passes_on_when_its_owner_is_silent() {
    tokio::time::pause();
    let fixture = start();
    let lock = |client: &str| LockQueues { client_id: client.into(), queues: vec![queue(0)] };
    assert_eq!(fixture.group.send(lock("a")).await.unwrap(), [queue(0)]);
    assert_eq!(fixture.group.send(lock("b")).await.unwrap(), []);
    tokio::time::advance(Duration::from_millis(60_001)).await;
    assert_eq!(fixture.group.send(lock("b")).await.unwrap(), [queue(0)]);
    let unlock = UnlockQueues { client_id: "b".into(), queues: vec![queue(0)] };
    fixture.group.send(unlock).await.unwrap();
    assert_eq!(fixture.group.send(ObserveGroup).await.unwrap(), GroupObserved { members: 0, locks: 0 });
}

#[actix::test]
async fn lock_passes_on_at_once_when_its_owner_leaves_and_later_when_it_is_cut_off() {
    tokio::time::pause();
    let fixture = start();
    let ((leaver, _leaving), (cut_off, client)) = (fake_client(), fake_client());
    fixture.beat(&leaver).await;
    fixture.beat(&cut_off).await;
    let lock =
        |client: &str, queue_id| LockQueues { client_id: client.into(), queues: vec![queue(queue_id)] };
    fixture.group.send(lock(&format!("c{}", leaver.id.0), 0)).await.unwrap();
    fixture.group.send(lock(&format!("c{}", cut_off.id.0), 1)).await.unwrap();
    fixture.group.send(LeaveGroup { connection: leaver.id }).await.unwrap();
    assert_eq!(fixture.group.send(lock("next", 0)).await.unwrap(), [queue(0)]);
    client.close().await;
    fixture.settle().await;
    assert_eq!(fixture.group.send(lock("next", 1)).await.unwrap(), []);
    tokio::time::advance(Duration::from_millis(35_001)).await;
    assert_eq!(fixture.group.send(lock("next", 1)).await.unwrap(), [queue(1)]);
}

#[actix::test]
async fn thousand_members_that_come_together_make_few_rounds_of_notices() {
    tokio::time::pause();
    let fixture = start();
    let mut clients: Vec<_> = (0..1_000).map(|_| fake_client()).collect();
    for (n, (link, _)) in clients.iter().enumerate() {
        fixture.beat(link).await;
        if n % 10 == 0 {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }
    tokio::time::advance(NOTICE_COST * 1_000).await;
    fixture.settle().await;
    assert_eq!(fixture.client_ids().len(), 1_000);
    let told: Vec<usize> = clients.iter_mut().map(|(_, client)| notices(client)).collect();
    assert!(told.iter().all(|notices| *notices >= 1), "everyone knows of the last one within 200 ms");
    assert!(told.iter().sum::<usize>() < 20_000, "{told:?}");
}

#[actix::test]
async fn connection_is_watched_once_however_often_it_comes_and_goes() {
    let fixture = start();
    let (link, client) = fake_client();
    for _ in 0..3 {
        fixture.beat(&link).await;
        fixture.group.send(LeaveGroup { connection: link.id }).await.unwrap();
    }
    fixture.beat(&link).await;
    fixture.settle().await;
    assert_eq!(client.close().await, 1);
    fixture.settle().await;
    assert!(fixture.view.load().is_none());
}
