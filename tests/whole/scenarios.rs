//! The worked scenarios of `docs/testing.md`, which quotes them word for word.

use std::time::Duration;

use telstar::actors::commit_log_writer::PublishedSignal;
use telstar::actors::dispatcher::{Damaged, DispatchTo, Dispatcher, DispatcherParts, IndexEntries};
use telstar::actors::facts::Progress;
use telstar::protocol::delay_level::DelayLevels;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::response_code::ResponseCode;
use telstar::protocol::transaction::Decision;
use telstar::store::commit_log::LogTail;
use telstar::testing::Scenario;
use telstar::testing::calls::*;
use telstar::testing::log::{TestLog, message_with, positions, queue_of, topic_table};
use telstar::types::FlushMode;

#[actix::test]
async fn reminder_comes_after_half_an_hour() {
    let scene = Scenario::begin().await;
    let broker = scene.broker("broker").topic("orders", 1).start().await;
    let (mut shop, mut bank) = (broker.client("shop"), broker.client("bank"));
    shop.succeed(send_to("orders", 0, "remind").delay_level(16)).await;
    scene.pass(Duration::from_secs(1_790)).await; // takes some milliseconds
    bank.pull(pull_from("payments", "orders", 0, 0).held(Duration::from_secs(15))).await;

    scene.expect(
        r#"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "remind" at delay level 16
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 0
        00:29:50.000 bank -> broker: PULL_MESSAGE orders/0 from 0
        00:30:00.000 broker -> bank: FOUND "remind", next is 1
        "#,
    );
}

#[actix::test]
async fn member_dies_in_mid_pull_and_the_other_goes_on() {
    let scene = Scenario::begin().await;
    let broker = scene.broker("broker").topic("orders", 1).start().await;
    let mut shop = broker.client("shop");
    let mut first = broker.client("bank-1");
    let mut second = broker.client("bank-2");
    first.consumes("payments", &["orders"]).await;
    scene.pass(Duration::from_secs(1)).await;
    second.consumes("payments", &["orders"]).await;
    assert_eq!(second.asked().await.code, RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);

    // The only queue belongs to the first, which waits for a message when its process dies.
    let _lost = first.ask(pull_from("payments", "orders", 0, 0).held(Duration::from_secs(15)));
    scene.pass(Duration::from_secs(5)).await;
    first.die().await;
    assert_eq!(second.asked().await.code, RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
    second.succeed(members_of("payments")).await;
    let held = second.ask(pull_from("payments", "orders", 0, 0).held(Duration::from_secs(15)));
    scene.pass(Duration::from_secs(5)).await;
    shop.succeed(send_to("orders", 0, "pay 7")).await;
    second.answer(held).await;

    scene.expect(
        r#"
        00:00:00.000 bank-1 -> broker: HEART_BEAT consumes orders for payments
        00:00:00.000 broker -> bank-1: NOTIFY_CONSUMER_IDS_CHANGED payments
        00:00:01.000 bank-2 -> broker: HEART_BEAT consumes orders for payments
        00:00:01.000 broker -> bank-2: NOTIFY_CONSUMER_IDS_CHANGED payments
        00:00:01.000 broker -> bank-1: NOTIFY_CONSUMER_IDS_CHANGED payments
        00:00:01.000 bank-1 -> broker: PULL_MESSAGE orders/0 from 0
        00:00:06.000 -- bank-1 dies
        00:00:06.000 broker -> bank-2: NOTIFY_CONSUMER_IDS_CHANGED payments
        00:00:06.000 bank-2 -> broker: GET_CONSUMER_LIST_BY_GROUP payments
        00:00:06.000 broker -> bank-2: SUCCESS, bank-2
        00:00:06.000 bank-2 -> broker: PULL_MESSAGE orders/0 from 0
        00:00:11.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 7"
        00:00:11.000 broker -> shop: SUCCESS, stored in queue 0 at 0
        00:00:11.000 broker -> bank-2: FOUND "pay 7", next is 1
        "#,
    );
}

#[actix::test]
async fn transaction_check_is_answered_by_a_second_producer() {
    let scene = Scenario::begin().await;
    let broker = scene.broker("broker").topic("orders", 1).start().await;
    let mut first = broker.client("shop-1");
    let mut second = broker.client("shop-2");
    first.produces("shop").await;
    second.produces("shop").await;
    first.succeed(send_to("orders", 0, "pay 7").half("shop")).await;
    first.die().await;

    // Nobody says how it ended. After the six seconds of `transaction.first_check_ms`, who is left is asked.
    let check = second.asked().await;
    second.succeed(answer_check("shop", &check, Decision::Commit)).await;
    let mut bank = broker.client("bank");
    bank.pull(pull_from("payments", "orders", 0, 0).held(Duration::from_secs(15))).await;

    scene.expect(
        r#"
        00:00:00.000 shop-1 -> broker: HEART_BEAT produces for shop
        00:00:00.000 shop-2 -> broker: HEART_BEAT produces for shop
        00:00:00.000 shop-1 -> broker: SEND_MESSAGE_V2 orders/0 "pay 7" as a half
        00:00:00.000 broker -> shop-1: SUCCESS, stored in queue 0 at 0
        00:00:00.000 -- shop-1 dies
        00:00:06.000 broker -> shop-2: CHECK_TRANSACTION_STATE "pay 7"
        00:00:06.000 shop-2 -> broker: END_TRANSACTION commit
        00:00:06.000 bank -> broker: PULL_MESSAGE orders/0 from 0
        00:00:06.000 broker -> bank: FOUND "pay 7", next is 1
        "#,
    );
}

#[actix::test]
async fn slow_follower_of_the_log_holds_up_what_comes_behind_it_and_loses_nothing() {
    let scene = Scenario::begin().await;
    let mut log = TestLog::new();
    let topics = topic_table(&[("orders", 1)], &log.queue_parts());
    // The key index follows the log. This one takes ten seconds for what it is handed, and only one more may wait.
    let (key_index, _) = scene
        .fake::<IndexEntries>("dispatcher -> key index")
        .shown(|entries| format!("keys: {}", entries.0.len()))
        .busy_for(Duration::from_secs(10))
        .capacity(1)
        .start();
    let dispatcher = Dispatcher::new(
        DispatcherParts {
            log: log.reader.clone(),
            signal: PublishedSignal::default(),
            topics: topics.clone(),
            key_index: Some(key_index),
            scheduled: None,
            transactions: None,
            timers: None,
            delay_levels: DelayLevels::default(),
            flush: FlushMode::Async,
            progress: Progress::default(),
            catch_up: None,
            damaged: Damaged::new(),
            mailbox_capacity: 64,
        },
        LogTail::default(),
    )
    .start();
    let orders = queue_of(&topics, "orders", 0);
    for number in 0..5 {
        log.append(message_with("orders", "pay", &[("KEYS", "k")]), number);
        dispatcher.do_send(DispatchTo(log.reader.published()));
        scene.pass(Duration::from_secs(1)).await;
        scene.note(&format!("{} of {} orders can be consumed", positions(&orders).await.len(), number + 1));
    }
    scene.pass(Duration::from_secs(60)).await;
    scene.note(&format!("{} of 5 orders can be consumed", positions(&orders).await.len()));

    scene.expect(
        r#"
        00:00:00.000 dispatcher -> key index: IndexEntries keys: 1
        00:00:01.000 -- 1 of 1 orders can be consumed
        00:00:02.000 -- 2 of 2 orders can be consumed
        00:00:03.000 -- 3 of 3 orders can be consumed
        00:00:04.000 -- 3 of 4 orders can be consumed
        00:00:05.000 -- 3 of 5 orders can be consumed
        00:00:10.000 dispatcher -> key index: IndexEntries keys: 1
        00:00:20.000 dispatcher -> key index: IndexEntries keys: 1
        00:00:30.000 dispatcher -> key index: IndexEntries keys: 2
        00:01:05.000 -- 5 of 5 orders can be consumed
        "#,
    );
}

#[actix::test]
async fn full_mailbox_of_a_queue_is_system_busy_to_its_client() {
    let scene = Scenario::begin().await;
    let broker = scene.broker("broker").topic("orders", 1).set("mailbox.topic_queue", 2).start().await;
    let mut shop = broker.client("shop");
    shop.succeed(send_to("orders", 0, "pay 0")).await; // starts the queue

    // All at once: the queue has no turn before the last one is sent.
    let asked: Vec<_> = (1..=4).map(|n| shop.ask(send_to("orders", 0, format!("pay {n}")))).collect();
    for asked in &asked[..2] {
        assert_eq!(shop.answer(*asked).await.code, ResponseCode::SUCCESS);
    }
    for asked in &asked[2..] {
        let refused = shop.answer(*asked).await;
        assert_eq!(refused.code, ResponseCode::SYSTEM_BUSY);
        assert!(refused.remark.unwrap().contains("not stored: the queue has 1 requests waiting, its limit"));
    }

    scene.expect(
        r#"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 0"
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 0
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 1"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 2"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 3"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 4"
        00:00:00.000 broker -> shop: SYSTEM_BUSY
        00:00:00.000 broker -> shop: SYSTEM_BUSY
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 1
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 2
        "#,
    );
}

#[actix::test]
async fn delayed_message_comes_at_its_time_across_a_restart() {
    let scene = Scenario::begin().await;
    let mut broker = scene.broker("broker").topic("orders", 1).start().await;
    let mut shop = broker.client("shop");
    shop.succeed(send_to("orders", 0, "remind").delay_level(4)).await; // 30 s
    scene.pass(Duration::from_secs(10)).await;
    broker.kill().await;
    scene.pass(Duration::from_secs(10)).await;
    broker.start_again().await;
    let mut bank = broker.client("bank");
    bank.pull(pull_from("payments", "orders", 0, 0).held(Duration::from_secs(15))).await;

    scene.expect(
        r#"
        00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "remind" at delay level 4
        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 0
        00:00:10.000 -- broker is killed
        00:00:20.000 -- broker starts
        00:00:20.000 bank -> broker: PULL_MESSAGE orders/0 from 0
        00:00:30.000 broker -> bank: FOUND "remind", next is 1
        "#,
    );
}

/// The blocks of Rust in a document, from one of its headings on.
fn blocks<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, text) = document.split_once(heading).expect("the document has this heading");
    text.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn guide_and_readme_quote_these_scenarios_word_for_word() {
    let scenarios = include_str!("scenarios.rs");
    let guide = blocks(include_str!("../../docs/testing.md"), "# Testing with");
    let readme = blocks(include_str!("../../README.md"), "## Testing your own");
    for block in guide.iter().chain(readme.first()) {
        assert!(scenarios.contains(block), "this is shown and no test does it:\n{block}");
    }
    assert_eq!(
        guide.len(),
        scenarios.matches("\n#[actix::test]\n").count(),
        "docs/testing.md shows all of them"
    );
}
