//! Messages that consumers failed to consume, in a broker that is killed while they wait. After several crashes:
//!
//! 1. What was sent back, and that was answered, is consumed again or in the dead letter queue, as was asked for.
//! 2. None comes again before its time, whatever life it was sent back in.
//! 3. Those that wait as timer messages come once, and so do the dead ones. Those that wait in a delay level come at least
//!    once: what was delivered since the level's offset was saved is delivered again.
//! 4. One that was not answered is there in the same way, or was not sent back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use telstar::client::Call;
use telstar::clock::{Clock, SystemClock};
use telstar::protocol::header::*;
use telstar::protocol::message::StoredMessage;
use telstar::protocol::message_id::parse_offset_message_id;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::subscription_group_config::{
    ExponentialRetryPolicy, GroupRetryPolicy, GroupRetryPolicyType, SubscriptionGroupConfig,
};

use crate::support::*;

const ROUNDS: u64 = 8;
const WORKERS: u64 = 4;
/// Messages of one worker in one life, at most.
const OF_LIFE: u64 = 80;
const TOPIC: &str = "orders";
const RETRY_TOPIC: &str = "%RETRY%cg";
const DEAD_LETTER_QUEUE: &str = "%DLQ%cg";
/// The wait of the first level.
const LEVEL_MS: i64 = 1_000;
/// The first wait of the group's policy, which is no level's.
const POLICY_MS: i64 = 300;
const SETTINGS: [&str; 5] = [
    "store.commit_log_segment_bytes=131072",
    "message.max_body_bytes=65536",
    "message.delay_levels=1s 2s 3s",
    "store.check_point_interval_ms=100",
    "store.offsets_flush_interval_ms=50",
];
const KILL_POINTS: [&str; 9] = [
    "log.written",
    "log.published",
    "dispatcher.handed_over",
    "queue.units_written",
    "delay.delivery_stored",
    "delay.saved",
    "timers.delivery_stored",
    "timers.saved",
    "check_point.saved",
];

/// How a message fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// Sent back with a level.
    Level,
    /// Sent back, to wait as the group's policy says: as a timer message.
    Policy,
    /// Sent back for good.
    GivenUp,
    /// Sent to the retry topic with a delay, as clients do whose send-back failed.
    SentAgain,
}

impl How {
    fn of(number: u64) -> Self {
        [Self::Level, Self::Policy, Self::GivenUp, Self::SentAgain][(number % 4) as usize]
    }

    fn wait_ms(self) -> i64 {
        match self {
            Self::Level | Self::SentAgain => LEVEL_MS,
            Self::Policy => POLICY_MS,
            Self::GivenUp => 0,
        }
    }

    fn call(self, key: &str, sent: &SendResponse) -> Call {
        let delay_level = match self {
            Self::SentAgain => {
                let again = Send::to(RETRY_TOPIC, 0, format!("again {key}")).with("UNIQ_KEY", key);
                return again.with("RETRY_TOPIC", TOPIC).with("DELAY", "1").call();
            }
            Self::Level => 1,
            Self::Policy => 0,
            Self::GivenUp => -1,
        };
        let (_, physical) = parse_offset_message_id(&sent.msg_id).expect("an id of ours");
        let header = SendBack {
            offset: physical.0 as i64,
            group: "cg".into(),
            delay_level,
            origin_msg_id: None,
            origin_topic: Some(TOPIC.into()),
            max_reconsume_times: Some(16),
        };
        Call::new(RequestCode::CONSUMER_SEND_MSG_BACK).header(&header)
    }
}

/// A message that was not consumed.
#[derive(Clone, Debug)]
struct Failed {
    how: How,
    /// By the wall clock, before it was sent back.
    at_ms: i64,
    answered: bool,
}

type Failures = Arc<Mutex<HashMap<String, Failed>>>;

/// `CRASH_ROUNDS=1000 cargo test --test whole killed` kills it more often.
#[tokio::test]
async fn every_message_sent_back_comes_again_or_is_dead_in_a_broker_that_is_killed() {
    for (first, flush_mode) in crashed_stores(ROUNDS) {
        crash_one_store(first, flush_mode).await;
    }
}

async fn crash_one_store(first: u64, flush_mode: &str) {
    let dir = temp_dir();
    let settings = [&SETTINGS[..], &[flush_mode]].concat();
    let failures = Failures::default();
    for round in 0..ROUNDS {
        let kill_point = kill_point(&KILL_POINTS, first + round);
        let kill_point = kill_point.as_deref();
        println!("round {round}, {flush_mode}, {kill_point:?}");
        let Ok(broker) = Broker::start_doomed(dir.path(), &settings, kill_point).await else { continue };
        let Some(client) = broker.try_client().await else { continue };
        if round == 0 {
            client.create_topic(TOPIC, 1).await;
            create_group(&client).await;
        }
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| tokio::spawn(load(client.clone(), round, worker, failures.clone())))
            .collect();
        match kill_point {
            Some(_) => broker.ended_within(Duration::from_secs(2)).await,
            None => tokio::time::sleep(Duration::from_millis(600)).await, // its life is so long
        }
        broker.kill();
        join_all(workers).await;
    }
    let failures = failures.lock().unwrap().clone();
    let broker = Broker::start(dir.path(), &settings).await;
    check(&broker.client().await, &failures).await;
}

async fn create_group(client: &Client) {
    let group = SubscriptionGroupConfig {
        group_name: "cg".into(),
        group_retry_policy: GroupRetryPolicy {
            kind: GroupRetryPolicyType::Exponential,
            exponential_retry_policy: Some(ExponentialRetryPolicy {
                initial: POLICY_MS,
                ..ExponentialRetryPolicy::default()
            }),
            customized_retry_policy: None,
        },
        ..SubscriptionGroupConfig::default()
    };
    let body = serde_json::to_vec(&group).unwrap();
    let call = Call::new(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body(body);
    client.call(call).await.success().expect("the group is created");
}

/// Sends messages and sends them back, until the broker is gone.
async fn load(client: Client, round: u64, worker: u64, failures: Failures) {
    for n in 0..OF_LIFE {
        let key = format!("r{round}-w{worker}-n{n}");
        let send = Send::to(TOPIC, 0, format!("body of {key}")).with("UNIQ_KEY", &key);
        let Ok(answer) = client.connection.call(send.call(), PATIENCE).await else { return };
        let sent: SendResponse = answer.success().expect("it is stored").header().unwrap();
        let how = How::of(n);
        let failed = Failed { how, at_ms: SystemClock.now().0, answered: false };
        failures.lock().unwrap().insert(key.clone(), failed);
        let Ok(answer) = client.connection.call(how.call(&key, &sent), PATIENCE).await else { return };
        answer.success().expect("it is taken back");
        failures.lock().unwrap().get_mut(&key).expect("it was noted").answered = true;
    }
}

async fn check(client: &Client, failures: &HashMap<String, Failed>) {
    let answered = |dead: bool| {
        let of_kind = move |failed: &&Failed| failed.answered && (failed.how == How::GivenUp) == dead;
        failures.values().filter(of_kind).count()
    };
    let dead = by_key(client.pull_all(DEAD_LETTER_QUEUE, 0, answered(true)).await);
    let mut expected = answered(false);
    // A level may repeat some, so that as many as are expected need not be all.
    let returned = loop {
        let returned = by_key(client.pull_all(RETRY_TOPIC, 0, expected).await);
        let is_missing = |(key, failed): (&String, &Failed)| {
            failed.answered && failed.how != How::GivenUp && !returned.contains_key(key)
        };
        if !failures.iter().any(is_missing) {
            break returned;
        }
        expected = 1 + returned.values().map(Vec::len).sum::<usize>();
    };
    for (key, failed) in failures {
        let count = |queue: &HashMap<String, Vec<StoredMessage>>| queue.get(key).map_or(0, Vec::len);
        let least = usize::from(failed.answered);
        let (again, in_dead_letter_queue) = (count(&returned), count(&dead));
        let as_asked = match failed.how {
            How::Level | How::SentAgain => again >= least && in_dead_letter_queue == 0,
            How::Policy => (least..=1).contains(&again) && in_dead_letter_queue == 0,
            How::GivenUp => again == 0 && (least..=1).contains(&in_dead_letter_queue),
        };
        assert!(
            as_asked,
            "{key}, {failed:?}: {again} again, {in_dead_letter_queue} in the dead letter queue"
        );
        for message in returned.get(key).into_iter().flatten() {
            assert!(message.stored_at_ms >= failed.at_ms + failed.how.wait_ms(), "{key} came again early");
            assert_eq!(message.reconsume_times, i32::from(failed.how != How::SentAgain), "{key}");
        }
    }
    let stranger = returned.keys().chain(dead.keys()).find(|key| !failures.contains_key(*key));
    assert_eq!(stranger, None, "nothing came that was not sent back");
    let repeated = returned.values().map(|messages| messages.len() - 1).sum::<usize>();
    println!(
        "{} sent back: {} again, {repeated} of them repeated, {} dead",
        failures.len(),
        returned.len(),
        dead.len()
    );
    assert!(answered(false) > 50 && answered(true) > 15, "it got something done");
}

fn by_key(messages: Vec<StoredMessage>) -> HashMap<String, Vec<StoredMessage>> {
    let mut found: HashMap<String, Vec<StoredMessage>> = HashMap::new();
    for message in messages {
        let key = property(&message, "UNIQ_KEY").expect("all have one").to_owned();
        found.entry(key).or_default().push(message);
    }
    found
}
