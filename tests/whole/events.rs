//! Events as an extension is told of them: each brought about in a whole broker, by what brings it about in life.

use std::time::Duration;

use telstar::extension::{BrokerEvent, BrokerEvents, EventKind, StreamFigures, WhenBehind};
use telstar::protocol::response_code::ResponseCode;
use telstar::protocol::subscription_group_config::SubscriptionGroupConfig;
use telstar::protocol::transaction::Decision;
use telstar::testing::calls::*;
use telstar::testing::{Act, MailboxScript, Scenario, SceneBroker};

/// Of each event what tells it from others of its kind.
fn shown(events: &BrokerEvents) -> String {
    let one = |event: BrokerEvent| match event {
        BrokerEvent::MessageStored { topic, queue_offset, .. } => format!("{topic} has {queue_offset}"),
        BrokerEvent::MessageDeadLettered { group, reason } => format!("of {group}: {reason}"),
        BrokerEvent::TransactionSettled { half, committed } => format!("half {half} committed: {committed}"),
        BrokerEvent::ConsumerJoined { group, client_id, .. } => format!("{client_id} joined {group}"),
        BrokerEvent::ConsumerLeft { group, client_id } => format!("{client_id} left {group}"),
        BrokerEvent::TopicCreated { topic, queues } => format!("{topic} is there, queues: {queues}"),
        BrokerEvent::TopicDeleted { topic } => format!("{topic} is gone"),
        BrokerEvent::SegmentDeleted { log_begins } => format!("the log begins at {log_begins}"),
        BrokerEvent::AdminRequested { request, .. } => request.name().to_owned(),
    };
    events.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A scene with a broker that tells a listener of these kinds; only what it is told is written down.
async fn listening(kinds: &'static [EventKind], settings: &[(&str, &str)]) -> (Scenario, SceneBroker) {
    let scene = Scenario::begin().await;
    let (listener, _) = scene.fake::<BrokerEvents>("broker -> listener").shown(shown).start();
    let mut broker = scene.apart().broker("broker").topic("orders", 1).hooks("listener", move |hooks| {
        hooks.on_events(kinds, listener.clone(), WhenBehind::DropAndCount, 1_000);
    });
    for (key, value) in settings {
        broker = broker.set(key, value);
    }
    (scene, broker.start().await)
}

#[actix::test]
async fn message_that_runs_out_of_retries_is_told_when_it_dies() {
    let (scene, broker) = listening(&[EventKind::MessageDeadLettered], &[]).await;
    let mut bank = broker.client("bank");
    bank.succeed(create_group(&SubscriptionGroupConfig {
        retry_max_times: 1,
        ..SubscriptionGroupConfig::new("payments")
    }))
    .await;
    bank.succeed(send_to("orders", 0, "pay 7")).await;
    let first = bank.pull(pull_from("payments", "orders", 0, 0).held(Duration::from_secs(15))).await;
    bank.succeed(send_back("payments", &first[0], 1)).await;
    let again = bank.pull(pull_from("payments", "%RETRY%payments", 0, 0).held(Duration::from_secs(15))).await;
    bank.succeed(send_back("payments", &again[0], 1)).await;
    let dead = bank.pull(pull_from("undertaker", "%DLQ%payments", 0, 0).held(Duration::from_secs(15))).await;
    assert_eq!(dead[0].body, "pay 7");
    scene.expect(
        "00:00:01.000 broker -> listener: BrokerEvents of payments: not consumed after 1 retries, the limit is 1",
    );
}

#[actix::test]
async fn transactions_are_told_as_they_end() {
    let (scene, broker) = listening(&[EventKind::TransactionSettled], &[]).await;
    let mut shop = broker.client("shop");
    shop.produces("shops").await;
    let kept = shop.succeed(send_to("orders", 0, "pay 7").half("shops")).await;
    let dropped = shop.succeed(send_to("orders", 0, "pay 8").half("shops")).await;
    shop.succeed(send_to("orders", 0, "pay 9").half("shops")).await; // nobody ever decides on it
    shop.succeed(end_transaction("shops", &dropped, Decision::Rollback)).await;
    scene.pass(Duration::from_secs(1)).await;
    shop.succeed(end_transaction("shops", &kept, Decision::Commit)).await;
    // Said again, it is no news.
    shop.succeed(end_transaction("shops", &kept, Decision::Commit)).await;
    for _ in 0..16 {
        scene.pass(Duration::from_secs(30)).await;
        shop.produces("shops").await; // it lives, and does not answer when it is asked
    }
    scene.expect(
        "00:00:00.000 broker -> listener: BrokerEvents half 1 committed: false
         00:00:01.000 broker -> listener: BrokerEvents half 0 committed: true
         00:07:36.000 broker -> listener: BrokerEvents half 2 committed: false",
    );
}

#[actix::test]
async fn deleted_segment_is_told_when_its_file_is_gone() {
    let settings = [("retention.max_log_bytes", "1048576"), ("retention.check_interval_ms", "1000")];
    let (scene, broker) = listening(&[EventKind::SegmentDeleted], &settings).await;
    let mut shop = broker.client("shop");
    for _ in 0..20 {
        shop.succeed(send_to("orders", 0, vec![7; 60_000])).await;
    }
    scene.pass(Duration::from_secs(5)).await;
    scene.expect("00:00:01.000 broker -> listener: BrokerEvents the log begins at 1048576");
}

#[actix::test]
async fn topics_are_told_as_they_come_and_go() {
    let (scene, broker) = listening(&[EventKind::TopicCreated, EventKind::TopicDeleted], &[]).await;
    let mut admin = broker.client("admin");
    admin.succeed(create_topic("refunds", 3)).await;
    admin.succeed(create_topic("refunds", 4)).await; // it is there already
    scene.pass(Duration::from_secs(1)).await;
    admin.succeed(delete_topic("refunds")).await;
    admin.succeed(delete_topic("refunds")).await; // it is gone already
    scene.expect(
        "00:00:00.000 broker -> listener: BrokerEvents orders is there, queues: 1
         00:00:00.000 broker -> listener: BrokerEvents refunds is there, queues: 3
         00:00:01.000 broker -> listener: BrokerEvents refunds is gone",
    );
}

const MEMBERS: &[EventKind] = &[EventKind::ConsumerJoined, EventKind::ConsumerLeft];

#[actix::test]
async fn members_are_told_as_they_join_leave_die_and_fall_silent() {
    let (scene, broker) = listening(MEMBERS, &[]).await;
    let [mut leaver, mut dead, mut silent] = ["leaver", "dead", "silent"].map(|name| broker.client(name));
    for client in [&mut leaver, &mut dead, &mut silent] {
        client.consumes("payments", &["orders"]).await;
        client.consumes("payments", &["orders"]).await; // a sign of life is no news
    }
    scene.pass(Duration::from_secs(1)).await;
    leaver.succeed(leave_group("leaver", "payments")).await;
    scene.pass(Duration::from_secs(1)).await;
    dead.die().await;
    scene.pass(Duration::from_secs(300)).await;
    scene.expect(
        "00:00:00.000 broker -> listener: BrokerEvents leaver joined payments
         00:00:00.000 broker -> listener: BrokerEvents dead joined payments
         00:00:00.000 broker -> listener: BrokerEvents silent joined payments
         00:00:01.000 broker -> listener: BrokerEvents leaver left payments
         00:00:02.000 broker -> listener: BrokerEvents dead left payments
         00:02:10.000 broker -> listener: BrokerEvents silent left payments",
    );
}

#[actix::test]
async fn member_that_connects_anew_has_not_left() {
    let (scene, broker) = listening(MEMBERS, &[]).await;
    let [mut old, mut new] = [(); 2].map(|()| broker.client("bank"));
    old.consumes("payments", &["orders"]).await;
    new.consumes("payments", &["orders"]).await;
    old.die().await;
    scene.pass(Duration::from_secs(1)).await;
    new.die().await;
    scene.pass(Duration::from_secs(1)).await;
    scene.expect(
        "00:00:00.000 broker -> listener: BrokerEvents bank joined payments
         00:00:01.000 broker -> listener: BrokerEvents bank left payments",
    );
}

/// A scene with a broker and a listener that would rather slow the queues than miss one of two messages; it does with
/// batches as `script` says.
async fn slowing(
    script: impl FnOnce(MailboxScript<BrokerEvents>) -> MailboxScript<BrokerEvents>,
) -> (Scenario, SceneBroker) {
    let scene = Scenario::begin().await;
    let fake = scene.fake::<BrokerEvents>("broker -> listener").shown(shown);
    let (listener, _) = script(fake).start();
    let broker = scene.broker("broker").topic("orders", 1).set("send.max_waiting", 2);
    let broker = broker.hooks("listener", move |hooks| {
        hooks.on_events(&[EventKind::MessageStored], listener.clone(), WhenBehind::SlowSource, 2);
    });
    (scene, broker.start().await)
}

#[actix::test]
async fn listener_that_may_miss_nothing_slows_the_queue_until_it_reads() {
    let (scene, broker) =
        slowing(|listener| listener.first(Act::AnswerAfter(Duration::from_secs(5), ())).answers(|_| ()))
            .await;
    let mut shop = broker.client("shop");
    shop.succeed(send_to("orders", 0, "pay 0")).await;
    shop.succeed(send_to("orders", 0, "pay 1")).await;
    // Both events wait now, so further sends do, and of those no more than `send.max_waiting`.
    let asked = [2, 3, 4].map(|n| shop.ask(send_to("orders", 0, format!("pay {n}"))));
    scene.pass(Duration::from_secs(4)).await;
    assert_eq!(asked.map(|asked| shop.is_answered(asked)), [false, false, true]);
    let refused = shop.answer(asked[2]).await;
    assert!(refused.remark.unwrap().contains("not stored: the queue has 2 requests waiting"));
    for asked in &asked[..2] {
        assert_eq!(shop.answer(*asked).await.code, ResponseCode::SUCCESS);
    }
    scene.pass(Duration::from_secs(1)).await;
    assert_eq!(broker.extensions().await[0].events, StreamFigures { waiting: 0, offered: 4, dropped: 0 });
    scene.expect(
        r#"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 0"
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 0
        00:00:00.000 broker -> listener: BrokerEvents orders has 0
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 1"
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 1
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 2"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 3"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 4"
        00:00:00.000 broker -> shop: SYSTEM_BUSY
        00:00:05.000 broker -> listener: BrokerEvents orders has 1
        00:00:05.001 broker -> shop: SUCCESS, stored in queue 0 at 2
        00:00:05.001 broker -> shop: SUCCESS, stored in queue 0 at 3
        00:00:05.001 broker -> listener: BrokerEvents orders has 2; orders has 3
        "#,
    );
}

#[actix::test]
async fn listener_that_reads_nothing_slows_the_queue_for_ten_seconds_and_then_misses() {
    let (scene, broker) = slowing(|listener| listener.acts(|_| Act::Hang)).await;
    let mut shop = broker.client("shop");
    for n in 0..4 {
        shop.succeed(send_to("orders", 0, format!("pay {n}"))).await;
    }
    assert_eq!(broker.extensions().await[0].events, StreamFigures { waiting: 2, offered: 4, dropped: 2 });
    let mut bank = broker.client("bank");
    bank.pull(pull_from("payments", "orders", 0, 0)).await;
    scene.expect(
        r#"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 0"
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 0
        00:00:00.000 broker -> listener: BrokerEvents orders has 0
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 1"
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 1
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 2"
        00:00:10.000 broker -> shop: SUCCESS, stored in queue 0 at 2
        00:00:10.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 3"
        00:00:10.000 broker -> shop: SUCCESS, stored in queue 0 at 3
        00:00:10.000 bank -> broker: PULL_MESSAGE orders/0 from 0
        00:00:10.000 broker -> bank: FOUND "pay 0" "pay 1" "pay 2" "pay 3", next is 4
        "#,
    );
}
