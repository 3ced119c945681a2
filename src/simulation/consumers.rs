//! Consumers: members of one group that take what they are handed, fail at some of it, and are themselves lost; and who
//! looks after the dead letters.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::ledger::{Seen, Try};
use super::machine::name_server_addr;
use super::network::Host;
use super::producers::TOPIC;
use super::schedule::Process;
use super::world::{BROKERS, World};
use crate::client::queue_reader::AtEnd;
use crate::client::route::QueueAt;
use crate::client::{
    Call, ClientError, ConnectOptions, ConsumeFrom, Consumer, ConsumerOptions, Membership, ReceivedMessage,
    Servers,
};
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::header::SendBack;
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::types::MessageQueue;

const GROUP: &str = "consumers";
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(1);
/// Retries before a message is dead.
const MAX_RETRIES: i32 = 2;
/// One message in so many never succeeds.
const POISONED: u64 = 41;
/// How long a message may lie while nothing is done to anybody: less than pulls are held for.
const DELIVERY_MAX: Duration = Duration::from_secs(8);
/// How long nothing may have been done to anybody before delivery is looked at: groups have settled by then.
const CALM: Duration = Duration::from_secs(3);

/// Starts a member of the group; the process it is.
pub fn start(world: &Rc<World>, number: u32, life: u32) -> Process {
    let process = world.schedule.new_process();
    let member = Member {
        world: world.clone(),
        client_id: format!("consumer-{number}.{life}"),
        servers: servers(world, Host(150 + number as u8)),
        host: Host(150 + number as u8),
        chance: Chance::stream(world.seed, &format!("consumer-{number}-{life}")),
    };
    world.schedule.spawn(process, member.run());
    process
}

fn servers(world: &World, host: Host) -> Servers {
    let connect = ConnectOptions { dial: Some(world.network.dial_from(host)), ..Default::default() };
    Servers::new(&name_server_addr().to_string(), connect, PATIENCE)
}

struct Member {
    world: Rc<World>,
    client_id: String,
    servers: Servers,
    host: Host,
    chance: Chance,
}

impl Member {
    async fn run(mut self) {
        loop {
            match self.join().await {
                Ok(consumer) => {
                    self.world.note(format_args!("{} joins", self.client_id));
                    self.consume(consumer).await;
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn join(&self) -> Result<Consumer, ClientError> {
        let options = ConsumerOptions {
            group: GROUP.into(),
            membership: Membership::Member,
            client_id: self.client_id.as_str().into(),
            subscription: SubscriptionData {
                topic: TOPIC.into(),
                sub_string: "*".to_owned(),
                sub_version: 1,
                ..SubscriptionData::default()
            },
            from: ConsumeFrom::First,
        };
        let connect =
            ConnectOptions { dial: Some(self.world.network.dial_from(self.host)), ..Default::default() };
        Consumer::join_over(&name_server_addr().to_string(), options, connect, PATIENCE).await
    }

    async fn consume(&mut self, mut consumer: Consumer) {
        loop {
            match consumer.next().await {
                Some(received) => self.take(received).await,
                None => {
                    if let Some(failure) = consumer.take_failure() {
                        self.world.note(format_args!("{}: {failure}", self.client_id));
                    }
                }
            }
        }
    }

    async fn take(&mut self, received: ReceivedMessage) {
        let ReceivedMessage { queue, message } = received;
        let Some(what) = Try::read(&message.body) else {
            self.world.violate(format_args!("a message at {} is none of ours", message.queue_offset));
            return;
        };
        let now = self.world.now();
        self.world.note(format_args!(
            "{} has {what} from {} of {}/{}@{}",
            self.client_id, message.queue_offset, queue.topic, queue.queue_id, queue.broker_name
        ));
        let is_at_home = queue.topic.as_str() == TOPIC;
        let offset = message.queue_offset.0;
        let seen =
            self.world.ledger.borrow_mut().seen(&Seen { queue: &queue, offset, what, now, is_at_home });
        self.world.check(seen);
        if is_at_home {
            self.check_delivery(what);
        }
        let fails = what.message % POISONED == 7 || (is_at_home && self.chance.one_in(12));
        if fails {
            self.send_back(&queue, message.physical_offset.0, what).await;
        } else {
            self.world.ledger.borrow_mut().consumed(what);
        }
        let work = self.chance.between_ms(0, 30);
        sleep(work).await;
    }

    fn check_delivery(&self, what: Try) {
        let waited = self.world.ledger.borrow().waited_ms(what, self.world.now());
        let Some(waited) = waited.map(|ms| Duration::from_millis(ms as u64)) else { return };
        let acknowledged_at = Instant::now() - waited;
        if waited > DELIVERY_MAX && self.world.was_calm_since(acknowledged_at, CALM) {
            self.world.violate(format_args!("{what} lay for {waited:?} while nothing was done to anybody"));
        }
    }

    /// Until it is taken: what is not is consumed again, by somebody.
    async fn send_back(&mut self, queue: &MessageQueue, at: u64, what: Try) {
        let header = SendBack {
            offset: at as i64,
            group: GROUP.into(),
            delay_level: 0,
            origin_msg_id: Some(what.to_string()),
            origin_topic: Some(queue.topic.to_string()),
            max_reconsume_times: Some(MAX_RETRIES),
        };
        let broker = usize::from(queue.broker_name.as_str() != "broker-0");
        let addr = self.world.brokers.borrow()[broker].addr().to_string();
        loop {
            let call = Call::new(RequestCode::CONSUMER_SEND_MSG_BACK).header(&header);
            match self.servers.call(&addr, call).await {
                Ok(_) => {
                    self.world.note(format_args!("{} sends {what} back", self.client_id));
                    return;
                }
                Err(error) => {
                    self.world.note(format_args!("{what} is not taken back: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Reads the dead letters of all brokers, again and again.
pub async fn watch_dead_letters(world: Rc<World>) {
    let mut servers = servers(&world, Host(199));
    let mut next = [0; BROKERS];
    loop {
        sleep(PAUSE).await;
        for (broker, next) in next.iter_mut().enumerate() {
            let queue = MessageQueue {
                broker_name: format!("broker-{broker}").as_str().into(),
                queue_id: 0,
                topic: names::dead_letter_queue(&GROUP.into()),
            };
            let addr = world.brokers.borrow()[broker].addr().to_string();
            let Ok(reader) = servers.queue_reader(&QueueAt { queue, addr }).await else { continue };
            let Ok(read) = reader.read(*next, 32, AtEnd::Return).await else { continue };
            for message in read.messages {
                if let Some(what) = Try::read(&message.body) {
                    world.note(format_args!("{what} is dead"));
                    world.ledger.borrow_mut().dead(what);
                }
            }
            *next = read.next.max(*next);
        }
    }
}
