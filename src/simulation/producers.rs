//! Producers: each sends one message after the other, plain, delayed or as a half, and answers for its halves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::ledger::{Kind, Try};
use super::machine::name_server_addr;
use super::network::Host;
use super::world::{BROKERS, World};
use crate::client::{Call, ClientError, ConnectOptions, ServerRequest, Servers};
use crate::clock::WallMs;
use crate::protocol::body::heartbeat::{HeartbeatData, ProducerData};
use crate::protocol::fastjson;
use crate::protocol::header::{
    CheckTransactionState, EndTransactionHeader, SendMessageV2, SendResponse, TypedHeader,
};
use crate::protocol::message::StoredMessage;
use crate::protocol::message_id::parse_offset_message_id;
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::properties::{self, names};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::sys_flag::TransactionType;
use crate::types::MessageQueue;

pub const TOPIC: &str = "orders";
/// Queues of the topic on each broker.
pub const QUEUES: u32 = 2;
const GROUP: &str = "producers";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(7);
/// How long nothing may have been done to anybody before a missing answer is a fault.
const CALM: Duration = Duration::from_secs(12);
const HEARTBEAT: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
/// Delay levels that are used: 1 s, 5 s, 10 s.
const LEVELS: u64 = 3;

/// A message that is sent, and how.
struct Draft {
    number: u64,
    kind: Kind,
    /// What makes it delayed or a half.
    property: Option<(&'static str, String)>,
    due: Option<WallMs>,
}

pub struct Producer {
    world: Rc<World>,
    number: u32,
    servers: Servers,
    chance: Chance,
    next_message: u64,
}

impl Producer {
    /// Runs until the world stops sending; what it began is answered for longer.
    pub fn start(world: &Rc<World>, number: u32) {
        let process = world.schedule.new_process();
        let host = Host(100 + number as u8);
        let (asked_to, asked) = unbounded_channel();
        let on_request = move |request: ServerRequest| {
            // A producer that has ended answers nothing.
            let _ = asked_to.send(request);
        };
        let connect = || ConnectOptions { dial: Some(world.network.dial_from(host)), ..Default::default() };
        let sends = ConnectOptions { on_request: Some(Arc::new(on_request)), ..connect() };
        let servers = |options| Servers::new(&name_server_addr().to_string(), options, PATIENCE);
        let chance = Chance::stream(world.seed, &format!("producer-{number}"));
        let producer = Self {
            world: world.clone(),
            number,
            servers: servers(sends),
            chance,
            next_message: u64::from(number) * 1_000_000,
        };
        world.schedule.spawn(process, producer.run());
        world.schedule.spawn(process, answer_checks(world.clone(), servers(connect()), asked));
    }

    async fn run(mut self) {
        let mut beaten_at = None::<Instant>;
        loop {
            if beaten_at.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
                beaten_at = Some(Instant::now());
                self.beat().await;
            }
            let pause = self.chance.between_ms(1, 600);
            sleep(pause).await;
            if self.world.is_sending() {
                self.send_one().await;
            }
        }
    }

    /// Checks come to producers that are known.
    async fn beat(&mut self) {
        let heartbeat = HeartbeatData {
            client_id: format!("producer-{}", self.number).as_str().into(),
            producer_data_set: vec![ProducerData { group_name: GROUP.into() }],
            ..HeartbeatData::default()
        };
        let Ok(body) = fastjson::to_vec(&heartbeat) else { return };
        for broker in 0..BROKERS {
            let call = Call::new(RequestCode::HEART_BEAT).body(body.clone());
            // A broker that is away hears of it the next time.
            let _ = self.servers.ask(&addr(&self.world, broker), call).await;
        }
    }

    fn draft(&mut self) -> Draft {
        self.next_message += 1;
        let number = self.next_message;
        let now = self.world.now();
        let (kind, property, due) = match self.chance.below(10) {
            0 => {
                let level = self.chance.below(LEVELS);
                let after_ms = [1_000, 5_000, 10_000][level as usize];
                (Kind::Delayed, Some((names::DELAY, (level + 1).to_string())), Some(WallMs(now.0 + after_ms)))
            }
            1 => {
                let due = WallMs(now.0 + 200 + self.chance.below(8_000) as i64);
                (Kind::Delayed, Some((names::TIMER_DELIVER_MS, due.0.to_string())), Some(due))
            }
            2 | 3 => {
                let commits = !self.chance.one_in(3);
                (Kind::Half { commits }, Some((names::TRANSACTION_PREPARED, "true".to_owned())), None)
            }
            _ => (Kind::Plain, None, None),
        };
        Draft { number, kind, property, due }
    }

    async fn send_one(&mut self) {
        let draft = self.draft();
        for _ in 0..TRIES {
            let broker = self.chance.below(BROKERS as u64) as usize;
            let queue_id = self.chance.below(u64::from(QUEUES)) as i32;
            let queue = queue(broker, queue_id);
            let began = Instant::now();
            let what = self.world.ledger.borrow_mut().trying(
                draft.number,
                self.number,
                draft.kind,
                &queue,
                draft.due,
            );
            let call = self.call(&draft, what, queue_id);
            let addr = addr(&self.world, broker);
            let answer = self.servers.ask(&addr, call).await;
            let is_stored = match answer {
                Ok(answer) if answer.code.is_success() => match answer.header::<SendResponse>() {
                    Ok(sent) => {
                        self.world.note(format_args!(
                            "{what} {:?} at {} of {queue_id}@{broker}",
                            draft.kind, sent.queue_offset
                        ));
                        let told = self.world.ledger.borrow_mut().acknowledged(
                            what,
                            sent.queue_offset as u64,
                            self.world.now(),
                        );
                        self.world.check(told);
                        if let Kind::Half { commits } = draft.kind {
                            self.settle(&addr, what, commits, &sent).await;
                        }
                        true
                    }
                    Err(error) => {
                        self.world.violate(format_args!("{what} is answered with {error}"));
                        true
                    }
                },
                // Stored, and perhaps not on disk.
                Ok(answer) if answer.code == ResponseCode::FLUSH_DISK_TIMEOUT => {
                    self.world.note(format_args!("{what} flush timed out"));
                    self.world.ledger.borrow_mut().given_up(what);
                    false
                }
                Ok(answer) => {
                    let cause = format!("{} {}", answer.code, answer.remark.unwrap_or_default());
                    self.world.note(format_args!("{what} refused: {cause}"));
                    let told = self.world.ledger.borrow_mut().refused(what, cause);
                    self.world.check(told);
                    false
                }
                Err(error) => {
                    self.world.note(format_args!("{what} failed: {error}"));
                    self.world.ledger.borrow_mut().given_up(what);
                    if matches!(error, ClientError::TimedOut { .. }) && self.world.was_calm_since(began, CALM)
                    {
                        self.world.violate(format_args!("nobody answered {what}"));
                    }
                    false
                }
            };
            if is_stored || !self.world.is_sending() {
                return;
            }
            let pause = self.chance.between_ms(1, 300);
            sleep(pause).await;
        }
    }

    fn call(&mut self, draft: &Draft, what: Try, queue_id: i32) -> Call {
        let padding = " ".repeat(1 + self.chance.below(600) as usize);
        let (body, key) = (format!("{what}{padding}"), what.to_string());
        let mut pairs =
            vec![(names::UNIQ_KEY, key.as_str()), (names::KEYS, key.as_str()), (names::WAIT, "true")];
        if let Some((name, value)) = &draft.property {
            pairs.push((name, value));
        }
        let is_half = matches!(draft.kind, Kind::Half { .. });
        if is_half {
            pairs.push((names::PRODUCER_GROUP, GROUP));
        }
        let text = properties::encode(pairs);
        let header = SendMessageV2 {
            producer_group: GROUP.to_owned(),
            topic: TOPIC.to_owned(),
            default_topic: DEFAULT_TOPIC.to_owned(),
            default_topic_queue_nums: QUEUES as i32,
            queue_id,
            sys_flag: if is_half { TransactionType::Prepared.set_in(0) } else { 0 },
            born_at_ms: self.world.now().0,
            flag: 0,
            properties: String::from_utf8_lossy(&text).into_owned(),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
        };
        Call::new(RequestCode::SEND_MESSAGE_V2).header(&header).body(body)
    }

    /// Ends a transaction, or forgets to: then it is checked.
    async fn settle(&mut self, addr: &str, what: Try, commits: bool, sent: &SendResponse) {
        if self.chance.one_in(4) {
            self.world.note(format_args!("{what} is left open"));
            return;
        }
        let Ok((_, at)) = parse_offset_message_id(&sent.msg_id) else { return };
        let end = EndTransactionHeader {
            producer_group: GROUP.into(),
            tran_state_table_offset: sent.queue_offset,
            commit_log_offset: at.0 as i64,
            commit_or_rollback: decision(Some(commits)),
            from_transaction_check: false,
            msg_id: Some(what.to_string()),
            transaction_id: sent.transaction_id.clone(),
            topic: Some(TOPIC.to_owned()),
        };
        // What does not arrive is asked for again.
        let _ = self.servers.ask(addr, Call::new(RequestCode::END_TRANSACTION).header(&end)).await;
    }
}

fn decision(commits: Option<bool>) -> i32 {
    match commits {
        Some(true) => TransactionType::Commit.set_in(0),
        Some(false) => TransactionType::Rollback.set_in(0),
        None => 0,
    }
}

fn addr(world: &World, broker: usize) -> String {
    world.brokers.borrow()[broker].addr().to_string()
}

pub fn queue(broker: usize, queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: format!("broker-{broker}").as_str().into(), queue_id, topic: TOPIC.into() }
}

/// Answers what brokers ask about halves, whoever sent them: producers of a group answer for each other.
async fn answer_checks(world: Rc<World>, mut servers: Servers, mut asked: UnboundedReceiver<ServerRequest>) {
    while let Some(request) = asked.recv().await {
        if request.command.head.code != RequestCode::CHECK_TRANSACTION_STATE.as_i32() {
            continue;
        }
        let Ok(check) = CheckTransactionState::from_fields(&request.command.fields) else {
            world.violate("a check of a transaction has no whole header");
            continue;
        };
        let shown = StoredMessage::decode(&request.command.body).ok();
        let Some(what) = shown.and_then(|message| Try::read(&message.body)) else {
            world.violate("a check of a transaction shows no half");
            continue;
        };
        let commits = world.ledger.borrow().decision(what);
        world.note(format_args!("{what} is asked for, {commits:?}"));
        let end = EndTransactionHeader {
            producer_group: GROUP.into(),
            tran_state_table_offset: check.tran_state_table_offset,
            commit_log_offset: check.commit_log_offset,
            commit_or_rollback: decision(commits),
            from_transaction_check: true,
            msg_id: check.msg_id,
            transaction_id: check.transaction_id,
            topic: Some(TOPIC.to_owned()),
        };
        let broker = usize::from(check.broker_name.as_str() != "broker-0");
        let addr = addr(&world, broker);
        // It is asked for again when this does not arrive.
        let _ = servers.ask(&addr, Call::new(RequestCode::END_TRANSACTION).header(&end)).await;
    }
}
