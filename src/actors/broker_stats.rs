//! Broker statistics: what went in and out, by topic, by group and in all, over the last seconds to days.
//!
//! - Owns: the histories of all counters. The counters themselves are bumped by whoever moves messages, each
//!   by one actor, and only read here.
//! - Takes: [`CountTraffic`], [`ViewStats`], [`ObserveStats`]; [`SampleDue`] every ten seconds.
//! - Sends: nothing.
//! - Fails: never; a counter that is not registered is not seen.
//! - Invariants: a counter counts on when its writer is gone, with what it had; figures start at zero with
//!   the process.

mod counters;
mod history;

use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;

pub use self::counters::{PUT_TIME_ENDS_MS, PutTimes, StoreCounters, StoreTotals, Traffic, TrafficTotals};
pub use self::history::{DayTotals, SAMPLE_EVERY};
use self::history::{History, Measure, TrafficHistory, per_second};
use super::context::{Context, observed};
use crate::clock::{SharedClock, WallMs};
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::protocol::body::stats::BrokerStatsData;
use crate::types::{GroupName, TopicName};

/// Steps of [`SAMPLE_EVERY`] in the three windows of the store's rates: 10 s, 60 s, 600 s.
const RATE_STEPS: [usize; 3] = [1, 6, 60];
const DAY_MS: i64 = 86_400_000;

/// What a counter counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TrafficOf {
    /// Messages stored in a topic.
    TopicPuts(TopicName),
    /// Messages of a topic handed to a group.
    GroupGets {
        topic: TopicName,
        group: GroupName,
    },
    /// Messages of a topic that a group sent back.
    SendBacks {
        topic: TopicName,
        group: GroupName,
    },
    BrokerPuts,
    BrokerGets,
}

/// Has a counter sampled from now on. Several of one kind add up: every queue of a topic brings its own.
/// Losing it leaves the traffic out of the figures.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct CountTraffic {
    pub of: TrafficOf,
    pub traffic: Arc<Traffic>,
}

/// Asks for one counter over its windows, by Java's names (`TOPIC_PUT_NUMS`, key `topic`).
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<BrokerStatsData, Refusal>")]
pub struct ViewStats {
    pub name: String,
    pub key: String,
}

/// Asks for the figures of the whole broker.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "BrokerFigures")]
pub struct ObserveStats;

/// Per second over the last 10, 60 and 600 seconds, or since the start where that is less.
pub type Rates = [f64; 3];

#[derive(MessageResponse, Clone, PartialEq, Debug, Default)]
pub struct BrokerFigures {
    pub totals: StoreTotals,
    pub put_times: PutTimes,
    pub put: Rates,
    /// Pulls that found messages, and that found none.
    pub get_found: Rates,
    pub get_missed: Rates,
    /// Messages handed out.
    pub get_messages: Rates,
    pub puts_by_day: DayTotals,
    pub gets_by_day: DayTotals,
}

/// Time for the next sample.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct SampleDue;

#[derive(Clone, Copy, Debug)]
pub struct BrokerStatsConfig {
    pub mailbox_capacity: usize,
    /// What local time is ahead of UTC; days begin at local midnight. Milliseconds.
    pub utc_offset_ms: i64,
}

pub struct BrokerStats {
    config: BrokerStatsConfig,
    clock: SharedClock,
    store: Arc<StoreCounters>,
    store_history: History<StoreTotals>,
    traffic: HashMap<TrafficOf, Counted>,
    /// Days since 1970, local.
    today: i64,
    puts_by_day: DayTotals,
    gets_by_day: DayTotals,
}

/// All counters of one kind.
struct Counted {
    counters: Vec<Arc<Traffic>>,
    /// What counters had when their writers were gone.
    retired: TrafficTotals,
    history: TrafficHistory,
}

impl Counted {
    fn new(now: Instant) -> Self {
        Self { counters: Vec::new(), retired: TrafficTotals::default(), history: TrafficHistory::new(now) }
    }

    fn totals(&self) -> TrafficTotals {
        self.counters.iter().fold(self.retired, |sum, counter| sum + counter.read())
    }

    fn sample(&mut self, now: Instant) {
        let retired = &mut self.retired;
        self.counters.retain(|counter| {
            // Only we hold it: nobody will count any more.
            let alive = Arc::strong_count(counter) > 1;
            if !alive {
                *retired = *retired + counter.read();
            }
            alive
        });
        let totals = self.totals();
        self.history.sample(now, totals);
    }
}

impl BrokerStats {
    pub fn new(config: BrokerStatsConfig, clock: SharedClock, store: Arc<StoreCounters>) -> Self {
        let now = Instant::now();
        let today = day_of(clock.now(), config);
        let mut traffic: HashMap<TrafficOf, Counted> = HashMap::default();
        for (of, counter) in [(TrafficOf::BrokerPuts, &store.puts), (TrafficOf::BrokerGets, &store.gets)] {
            traffic.entry(of).or_insert_with(|| Counted::new(now)).counters.push(counter.clone());
        }
        Self {
            config,
            clock,
            store_history: History::new(RATE_STEPS[2] + 1, now, store.read()),
            store,
            traffic,
            today,
            puts_by_day: DayTotals::default(),
            gets_by_day: DayTotals::default(),
        }
    }

    fn sample(&mut self, now: Instant, wall: WallMs) {
        let totals = self.store.read();
        self.store_history.push(now, totals);
        self.traffic.retain(|_, counted| {
            counted.sample(now);
            !(counted.counters.is_empty() && counted.history.is_idle(counted.totals()))
        });
        let today = day_of(wall, self.config);
        if today != self.today {
            self.today = today;
            self.puts_by_day.turn(totals.puts.messages);
            self.gets_by_day.turn(totals.gets.messages);
        }
    }

    fn figures(&self, now: Instant) -> BrokerFigures {
        let totals = self.store.read();
        let rates = |of: fn(StoreTotals) -> u64| {
            RATE_STEPS.map(|steps| {
                let (then, earlier) = self.store_history.back(steps);
                per_second(of(totals).saturating_sub(of(earlier)), then, now)
            })
        };
        BrokerFigures {
            totals,
            put_times: self.store.read_put_times(),
            put: rates(|totals| totals.puts.messages),
            get_found: rates(|totals| totals.gets.times),
            get_missed: rates(|totals| totals.gets_missed),
            get_messages: rates(|totals| totals.gets.messages),
            puts_by_day: self.puts_by_day.at(totals.puts.messages),
            gets_by_day: self.gets_by_day.at(totals.gets.messages),
        }
    }

    fn view(&self, asked: &ViewStats, now: Instant) -> Option<BrokerStatsData> {
        let (of, measure) = traffic_by_name(&asked.name, &asked.key)?;
        let counted = self.traffic.get(&of)?;
        Some(counted.history.view(measure, now, counted.totals()))
    }
}

fn day_of(wall: WallMs, config: BrokerStatsConfig) -> i64 {
    (wall.0 + config.utc_offset_ms).div_euclid(DAY_MS)
}

/// RocketMQ: `Stats`, `BrokerStatsManager`. The key of broker figures is the cluster's name, and not looked at.
fn traffic_by_name(name: &str, key: &str) -> Option<(TrafficOf, Measure)> {
    let topic_and_group = || key.split_once('@').map(|(topic, group)| (topic.into(), group.into()));
    let group_gets = || topic_and_group().map(|(topic, group)| TrafficOf::GroupGets { topic, group });
    let send_backs = || topic_and_group().map(|(topic, group)| TrafficOf::SendBacks { topic, group });
    Some(match name {
        "TOPIC_PUT_NUMS" => (TrafficOf::TopicPuts(key.into()), Measure::Messages),
        "TOPIC_PUT_SIZE" => (TrafficOf::TopicPuts(key.into()), Measure::Bytes),
        "GROUP_GET_NUMS" => (group_gets()?, Measure::Messages),
        "GROUP_GET_SIZE" => (group_gets()?, Measure::Bytes),
        "SNDBCK_PUT_NUMS" => (send_backs()?, Measure::Messages),
        "BROKER_PUT_NUMS" => (TrafficOf::BrokerPuts, Measure::Messages),
        "BROKER_GET_NUMS" => (TrafficOf::BrokerGets, Measure::Messages),
        _ => return None,
    })
}

impl Actor for BrokerStats {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
        ctx.run_interval(SAMPLE_EVERY, |_, ctx| ctx.notify(SampleDue));
    }
}

observed!(BrokerStats);

impl Handler<CountTraffic> for BrokerStats {
    type Result = ();

    fn handle(&mut self, count: CountTraffic, _ctx: &mut Self::Context) {
        let counted = self.traffic.entry(count.of).or_insert_with(|| Counted::new(Instant::now()));
        counted.counters.push(count.traffic);
    }
}

impl Handler<ViewStats> for BrokerStats {
    type Result = Result<BrokerStatsData, Refusal>;

    fn handle(&mut self, asked: ViewStats, _ctx: &mut Self::Context) -> Self::Result {
        let found = self.view(&asked, Instant::now());
        found.ok_or(Refusal::StatsUnknown { name: asked.name, key: asked.key })
    }
}

impl Handler<ObserveStats> for BrokerStats {
    type Result = BrokerFigures;

    fn handle(&mut self, _: ObserveStats, _ctx: &mut Self::Context) -> Self::Result {
        self.figures(Instant::now())
    }
}

impl Handler<SampleDue> for BrokerStats {
    type Result = ();

    fn handle(&mut self, _: SampleDue, _ctx: &mut Self::Context) {
        self.sample(Instant::now(), self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const CONFIG: BrokerStatsConfig = BrokerStatsConfig { mailbox_capacity: 16, utc_offset_ms: 3_600_000 };

    fn view(name: &str, key: &str) -> ViewStats {
        ViewStats { name: name.into(), key: key.into() }
    }

    #[actix::test]
    async fn counters_of_one_kind_add_up_and_outlive_their_writers() {
        let stats = BrokerStats::new(CONFIG, ManualClock::at(WallMs(0)), Arc::default()).start();
        let of = TrafficOf::TopicPuts("T".into());
        let first = Arc::new(Traffic::default());
        let second = Arc::new(Traffic::default());
        for traffic in [&first, &second] {
            stats.send(CountTraffic { of: of.clone(), traffic: traffic.clone() }).await.unwrap();
        }
        first.add(3, 300);
        second.add(4, 400);
        let sum = async |name| stats.send(view(name, "T")).await.unwrap().map(|data| data.stats_day.sum);
        assert_eq!(sum("TOPIC_PUT_NUMS").await.unwrap(), 7);
        drop(first);
        stats.send(SampleDue).await.unwrap();
        assert_eq!(sum("TOPIC_PUT_SIZE").await.unwrap(), 700);
    }

    #[actix::test]
    async fn unknown_figures_are_refused_as_java_does() {
        let stats = BrokerStats::new(CONFIG, ManualClock::at(WallMs(0)), Arc::default()).start();
        for (name, key) in [("TOPIC_PUT_NUMS", "T"), ("GROUP_GET_NUMS", "no at"), ("COLOUR", "T")] {
            let refusal = stats.send(view(name, key)).await.unwrap().unwrap_err();
            assert!(refusal.to_string().starts_with(&format!("The stats <{name}> <{key}> not exist")));
        }
    }

    #[actix::test]
    async fn figures_of_the_broker_and_its_days() {
        let store = Arc::new(StoreCounters::default());
        // One minute before midnight where the broker is.
        let clock = ManualClock::at(WallMs(DAY_MS - CONFIG.utc_offset_ms - 60_000));
        let stats = BrokerStats::new(CONFIG, clock.clone(), store.clone()).start();
        store.stored(5, 500, std::time::Duration::from_millis(3));
        store.found(2, 200, std::time::Duration::from_millis(1));
        store.missed();
        stats.send(SampleDue).await.unwrap();
        let figures = stats.send(ObserveStats).await.unwrap();
        assert_eq!(figures.puts_by_day, DayTotals { now: 5, ..DayTotals::default() });
        assert_eq!((figures.put[0], figures.get_found[1], figures.get_missed[2]), (5.0, 1.0, 1.0));
        clock.advance_ms(120_000);
        stats.send(SampleDue).await.unwrap();
        let figures = stats.send(ObserveStats).await.unwrap();
        assert_eq!(figures.puts_by_day, DayTotals { yesterday_morning: 0, today_morning: 5, now: 5 });
        assert_eq!(figures.gets_by_day.today_morning, 2);
        let broker = stats.send(view("BROKER_PUT_NUMS", "DefaultCluster")).await.unwrap().unwrap();
        assert_eq!(broker.stats_day.sum, 5);
    }
}
