//! Whole clusters, simulated: a name server, two brokers, producers and consumers, with all their actors on one thread,
//! in virtual time, over a network, disks and a scheduler that do what a seed says.
//!
//! Everything between the sockets and the files is the real thing. A world is calm at first; then things happen to it,
//! such as crashes, losses of power, cuts, slow networks, full and failing disks, lost consumers; then it is left alone until
//! all is settled. What has to hold is the [`ledger`]'s; besides, nothing panics, a broker always starts again, and while
//! nothing is done to anybody every request is answered and every message is delivered before long.
//!
//! A seed repeats a world, turn for turn: [`run`] it again and read its [`Transcript`].

mod chance;
mod consumers;
mod faults;
pub mod ledger;
mod machine;
mod mailboxes;
mod network;
mod panics;
mod producers;
mod schedule;
mod world;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
pub use world::Transcript;
use world::{BROKERS, NATURE, World};

use self::chance::Chance;
use self::faults::{Faults, mend_disks};
use self::ledger::Violation;
use self::mailboxes::Fill;
pub use self::mailboxes::Mailboxes;
pub use self::network::WireLine;
use self::network::lock;
use self::producers::Producer;
use crate::actors::aside::simulated::{Pace, in_place};
use crate::actors::turn_watch::watch_turns;
use crate::client::{Call, ConnectOptions, Servers};
use crate::kill_point::simulated::tell_places;
use crate::planted::{self, Planted};
use crate::protocol::header::CreateTopic;
use crate::protocol::request_code::RequestCode;

const PRODUCERS: u32 = 3;
/// Time before anything happens.
const CALM: Duration = Duration::from_secs(25);
/// Time in which all has to settle when nothing happens any more: halves are asked for every 30 s, a second retry comes
/// after 30 s, and members who lost a broker look for it after 20 s.
const SETTLED_MAX: Duration = Duration::from_secs(300);

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Virtual time in which messages are sent.
    pub length: Duration,
    /// A fault in the program.
    pub planted: Option<Planted>,
    /// Whether the bytes that pass are kept, too.
    pub with_wire: bool,
}

impl Plan {
    /// A minute of `seed`.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, length: Duration::from_secs(60), planted: None, with_wire: false }
    }
}

/// A world that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    /// The first thing that did not fit.
    pub violation: Option<Violation>,
    pub transcript: Transcript,
    /// Of all that passed between hosts, if that was asked for.
    pub wire: Vec<WireLine>,
    /// Turns that threads were given: two runs of a seed have as many.
    pub turns: u64,
    pub acknowledged: u64,
    pub consumed: usize,
    pub dead: usize,
    /// How full they were.
    pub mailboxes: Mailboxes,
}

/// Runs a world to its end. Blocks.
///
/// ```
/// use std::time::Duration;
/// use telstar::simulation::{Plan, run};
///
/// let outcome = run(Plan { length: Duration::from_secs(10), ..Plan::of_seed(1) });
/// assert_eq!(outcome.violation, None, "{}", outcome.transcript);
/// ```
pub fn run(plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(live(plan))
}

async fn live(plan: Plan) -> Outcome {
    let (world, violated) = World::new(plan.seed);
    let _panics = panics::watch(&world);
    let _mailboxes = watch_turns({
        let world = world.clone();
        move |actor, taken| {
            let fill = Fill { waiting: taken, capacity: actor.figures.capacity() as u64 };
            let fits = world.mailboxes.borrow_mut().taken(actor.kind, fill);
            world.check(fits);
        }
    });
    let _places = tell_places({
        let world = world.clone();
        move |place| world.reached(place)
    });
    let _planting = planted::plant(plan.planted);
    let wire = plan.with_wire.then(|| world.network.log());
    let mut chance = Chance::stream(plan.seed, "work aside");
    let _in_place = in_place(move || {
        let mut some = || chance.between_ms(0, 30);
        Pace { before: some(), after: some() }
    });
    let (done, is_done) = oneshot::channel();
    world.schedule.spawn(NATURE, {
        let world = world.clone();
        async move {
            tell_story(&world, plan.length).await;
            let _ = done.send(());
        }
    });
    let ended = async {
        tokio::select! {
            biased;
            violation = violated => violation.ok(),
            _ = is_done => None,
        }
    };
    let violation = world.schedule.run_until(ended).await;
    let (turns, transcript) = (world.schedule.turns(), world.transcript());
    world.schedule.end_all();
    let ledger = world.ledger.borrow();
    Outcome {
        seed: plan.seed,
        violation,
        transcript,
        wire: wire.map(|wire| lock(&wire).clone()).unwrap_or_default(),
        turns,
        acknowledged: ledger.acknowledged_count(),
        consumed: ledger.consumed_count(),
        dead: ledger.dead_count(),
        mailboxes: world.mailboxes.borrow().clone(),
    }
}

/// From the first start to the last check.
async fn tell_story(world: &Rc<World>, length: Duration) {
    world.note(format_args!("seed {}, {:?} flush, {:?}", world.seed, world.flush, world.limits));
    world.start_name_server();
    (0..BROKERS).for_each(|number| world.start_broker(number));
    make_topic(world).await;
    world.schedule.spawn(NATURE, consumers::watch_dead_letters(world.clone()));
    let mut faults = Faults::new(world);
    (0..PRODUCERS).for_each(|number| Producer::start(world, number));
    let began = tokio::time::Instant::now();
    let mut chance = Chance::stream(world.seed, "story");
    sleep(CALM.min(length)).await;
    world.disturb();
    while began.elapsed() < length {
        faults.strike();
        world.pause(&mut chance, 300, 6_000).await;
    }
    world.stop_sending();
    settle(world).await;
}

/// Mends everything, and waits until every message is where it belongs.
async fn settle(world: &Rc<World>) {
    // What was begun undoes itself within this time.
    sleep(Duration::from_secs(12)).await;
    world.network.mend();
    mend_disks(world);
    (0..BROKERS).for_each(|number| world.start_broker(number));
    world.calm_down();
    world.note("nothing happens any more");
    let calm = tokio::time::Instant::now();
    while world.ledger.borrow().owed().next().is_some() && calm.elapsed() < SETTLED_MAX {
        sleep(Duration::from_secs(1)).await;
    }
    // What should not be there has time to show itself.
    sleep(Duration::from_secs(40)).await;
    let closed = world.ledger.borrow().close();
    world.check(closed);
    world.note("all is settled");
}

/// Before anybody sends: the topic, on every broker.
async fn make_topic(world: &Rc<World>) {
    let connect = ConnectOptions {
        dial: Some(world.network.dial_from(network::Host(200))),
        ..ConnectOptions::default()
    };
    let mut servers = Servers::new(&machine::name_server_addr().to_string(), connect, Duration::from_secs(3));
    let header = CreateTopic {
        topic: producers::TOPIC.into(),
        default_topic: String::new(),
        read_queue_nums: producers::QUEUES as i32,
        write_queue_nums: producers::QUEUES as i32,
        perm: 6,
        topic_filter_type: "SINGLE_TAG".to_owned(),
        topic_sys_flag: 0,
        order: false,
        attributes: None,
    };
    for number in 0..BROKERS {
        let addr = world.brokers.borrow()[number].addr().to_string();
        while servers
            .call(&addr, Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&header))
            .await
            .is_err()
        {
            sleep(Duration::from_millis(100)).await;
        }
    }
    world.note("the topic is there");
}

#[cfg(test)]
mod tests;
