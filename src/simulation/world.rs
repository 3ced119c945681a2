//! A small cluster on one thread: who is there, what happens to them, and what is written down of it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::ledger::{Ledger, Violation};
use super::machine::{Ambushes, BrokerMachine, Limits, NameServerMachine};
use super::mailboxes::Mailboxes;
use super::network::{Host, Network};
use super::schedule::{Process, Schedule};
use crate::clock::{SharedClock, WallMs};
use crate::testing::RuntimeClock;
use crate::types::FlushMode;

pub const NAME_SERVER: Host = Host(1);
/// Brokers are on the hosts from here on.
pub const FIRST_BROKER: u8 = 10;
pub const BROKERS: usize = 2;
/// Who acts in the world is a process, too: it never ends.
pub const NATURE: Process = Process(0);

/// What was written down.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    lines: Vec<String>,
}

impl Transcript {
    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// The last lines, all of them if there are fewer.
    pub fn tail(&self, lines: usize) -> &[String] {
        &self.lines[self.lines.len().saturating_sub(lines)..]
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// See the [module](self).
pub struct World {
    pub seed: u64,
    pub schedule: Schedule,
    pub network: Network,
    pub clock: SharedClock,
    pub flush: FlushMode,
    pub ledger: RefCell<Ledger>,
    pub mailboxes: RefCell<Mailboxes>,
    pub limits: Limits,
    pub brokers: RefCell<Vec<BrokerMachine>>,
    pub name_server: RefCell<NameServerMachine>,
    pub ambushes: RefCell<Ambushes>,
    began: Instant,
    transcript: RefCell<Transcript>,
    ended: RefCell<Option<oneshot::Sender<Violation>>>,
    /// Since when nothing is done to anybody.
    calm_since: Cell<Option<Instant>>,
    is_sending: Cell<bool>,
}

impl World {
    /// The receiver is told the first thing that does not fit.
    pub fn new(seed: u64) -> (Rc<Self>, oneshot::Receiver<Violation>) {
        let (ended, violated) = oneshot::channel();
        let flush = if Chance::stream(seed, "flush").one_in(2) { FlushMode::Async } else { FlushMode::Sync };
        let world = Self {
            seed,
            schedule: Schedule::new(Chance::stream(seed, "schedule")),
            network: Network::new(Chance::stream(seed, "network")),
            clock: RuntimeClock::shared(),
            flush,
            ledger: RefCell::default(),
            mailboxes: RefCell::default(),
            limits: Limits::of(&mut Chance::stream(seed, "limits")),
            brokers: RefCell::new((0..BROKERS).map(|number| BrokerMachine::new(number, seed)).collect()),
            name_server: RefCell::default(),
            ambushes: RefCell::default(),
            began: Instant::now(),
            transcript: RefCell::default(),
            ended: RefCell::new(Some(ended)),
            calm_since: Cell::new(Some(Instant::now())),
            is_sending: Cell::new(true),
        };
        (Rc::new(world), violated)
    }

    pub fn now(&self) -> WallMs {
        self.clock.now()
    }

    /// Writes down what happened.
    pub fn note(&self, what: impl fmt::Display) {
        let at = self.began.elapsed();
        let line = format!("{:>4}.{:03} {what}", at.as_secs(), at.subsec_millis());
        self.transcript.borrow_mut().lines.push(line);
    }

    pub fn transcript(&self) -> Transcript {
        self.transcript.borrow().clone()
    }

    /// What does not fit ends the world.
    pub fn check(&self, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            self.note(format_args!("violated: {violation}"));
            if let Some(ended) = self.ended.borrow_mut().take() {
                // Nobody listens when it has ended already.
                let _ = ended.send(violation);
            }
        }
    }

    pub fn violate(&self, what: impl fmt::Display) {
        self.check(Err(Violation(what.to_string())));
    }

    pub fn disturb(&self) {
        self.calm_since.set(None);
    }

    pub fn calm_down(&self) {
        self.calm_since.set(Some(Instant::now()));
    }

    /// Whether nothing was done to anybody since `moment`, nor for `long` before it.
    pub fn was_calm_since(&self, moment: Instant, long: Duration) -> bool {
        self.calm_since.get().is_some_and(|since| since + long <= moment)
    }

    pub fn is_sending(&self) -> bool {
        self.is_sending.get()
    }

    pub fn stop_sending(&self) {
        self.is_sending.set(false);
    }

    pub async fn pause(&self, chance: &mut Chance, from_ms: u64, to_ms: u64) {
        sleep(chance.between_ms(from_ms, to_ms)).await;
    }
}
