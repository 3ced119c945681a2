//! Producers: each sends one message after the other, plain, delayed or as a half, and answers for its halves; now and
//! then many at once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::ledger::{Kind, Try};
use super::machine::name_server_addr;
use super::network::Host;
use super::world::{BROKERS, World};
use crate::client::remoting::Response;
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
/// One time in so many a producer sends many messages at once.
const BURST_EVERY: u64 = 30;
/// So many at least, and less than twice as many.
const BURST_MIN: u64 = 16;
/// Sends of one producer that nobody has answered yet.
pub const UNDER_WAY_MAX: u64 = 2 * BURST_MIN;
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
            match self.world.is_sending() {
                true if self.chance.one_in(BURST_EVERY) => self.send_many().await,
                true => self.send_one().await,
                false => {}
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
            let (broker, queue_id) = self.pick_queue();
            let began = Instant::now();
            let what = self.trying(&draft, broker, queue_id);
            let call = self.call(&draft, what, queue_id);
            let addr = addr(&self.world, broker);
            let answer = self.servers.ask(&addr, call).await;
            let stored = self.hear(what, draft.kind, (broker, queue_id), began, answer);
            if let (Kind::Half { commits }, Some(stored)) = (draft.kind, &stored) {
                self.settle(&addr, what, commits, stored).await;
            }
            if stored.is_some() || !self.world.is_sending() {
                return;
            }
            let pause = self.chance.between_ms(1, 300);
            sleep(pause).await;
        }
    }

    /// Sends many messages to one queue at once, as those do who wait for no answer before the next.
    async fn send_many(&mut self) {
        let (broker, queue_id) = self.pick_queue();
        let Ok(connection) = self.servers.connection(&addr(&self.world, broker)).await else { return };
        let began = Instant::now();
        let mut sends = Vec::new();
        for _ in 0..BURST_MIN + self.chance.below(BURST_MIN) {
            self.next_message += 1;
            let draft = Draft { number: self.next_message, kind: Kind::Plain, property: None, due: None };
            let what = self.trying(&draft, broker, queue_id);
            let (call, connection) = (self.call(&draft, what, queue_id), connection.clone());
            sends.push(async move { (what, connection.call(call, PATIENCE).await) });
        }
        for (what, answer) in join_all(sends).await {
            self.hear(what, Kind::Plain, (broker, queue_id), began, answer);
        }
    }

    fn pick_queue(&mut self) -> (usize, i32) {
        let broker = self.chance.below(BROKERS as u64) as usize;
        (broker, self.chance.below(u64::from(QUEUES)) as i32)
    }

    fn trying(&self, draft: &Draft, broker: usize, queue_id: i32) -> Try {
        let queue = queue(broker, queue_id);
        self.world.ledger.borrow_mut().trying(draft.number, self.number, draft.kind, &queue, draft.due)
    }

    /// Takes the answer to a try; where it is stored, if it is.
    fn hear(
        &self,
        what: Try,
        kind: Kind,
        (broker, queue_id): (usize, i32),
        began: Instant,
        answer: Result<Response, ClientError>,
    ) -> Option<SendResponse> {
        let world = &self.world;
        match answer {
            Ok(answer) if answer.code.is_success() => match answer.header::<SendResponse>() {
                Ok(sent) => {
                    world.note(format_args!(
                        "{what} {kind:?} at {} of {queue_id}@{broker}",
                        sent.queue_offset
                    ));
                    let offset = sent.queue_offset as u64;
                    let told = world.ledger.borrow_mut().acknowledged(what, offset, world.now());
                    world.check(told);
                    return Some(sent);
                }
                Err(error) => world.violate(format_args!("{what} is answered with {error}")),
            },
            // Stored, and perhaps not on disk.
            Ok(answer) if answer.code == ResponseCode::FLUSH_DISK_TIMEOUT => {
                world.note(format_args!("{what} flush timed out"));
                world.ledger.borrow_mut().given_up(what);
            }
            Ok(answer) => {
                let cause = format!("{} {}", answer.code, answer.remark.unwrap_or_default());
                world.note(format_args!("{what} refused: {cause}"));
                let told = world.ledger.borrow_mut().refused(what, cause);
                world.check(told);
            }
            Err(error) => {
                world.note(format_args!("{what} failed: {error}"));
                world.ledger.borrow_mut().given_up(what);
                if matches!(error, ClientError::TimedOut { .. }) && world.was_calm_since(began, CALM) {
                    world.violate(format_args!("nobody answered {what}"));
                }
            }
        }
        None
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
