//! Simulates whole clusters: `telstar-sim --seed 17 --minutes 2`. See [`telstar::simulation`].

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use telstar::planted::Planted;
use telstar::simulation::{Mailboxes, Outcome, Plan, run};

/// Lines of a world that failed, before what failed.
const TAIL: usize = 60;

/// Runs clusters of Telstar in virtual time, through faults that a seed chooses, and says what does not hold.
///
/// A seed repeats its world, turn for turn, in every build of the same sources. One that fails shows the last lines of what
/// happened, what does not hold, and how to see more.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The (first) seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run, one after the other; each leaves 4 MB behind until the process ends.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Virtual minutes in which messages are sent; settling comes on top.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Goes on behind a seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// Shows all that happened, in worlds that hold as well.
    #[arg(long)]
    transcript: bool,
    /// Plants a fault in the program: a seed that fails has found it.
    #[arg(long, value_enum)]
    plant: Option<Planted>,
    /// Runs every seed twice, and fails where the second world parts from the first.
    #[arg(long)]
    twice: bool,
    /// Shows the log of the actors on standard error, as RUST_LOG does: telstar=debug.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    let begun = Instant::now();
    let mut sum = Sum::default();
    for seed in args.seed..args.seed + args.seeds {
        let plan = Plan {
            seed,
            length: Duration::from_secs_f64(args.minutes * 60.0),
            planted: args.plant,
            with_wire: args.twice,
        };
        let outcome = run(plan);
        let parted = if args.twice { part(&outcome, &run(plan)) } else { None };
        let holds = parted.is_none() && outcome.violation.is_none();
        show(&args, &outcome, parted);
        sum.add(&outcome, holds);
        if !holds && !args.keep_going {
            break;
        }
    }
    println!("{sum}; {:.1} s, {:.1} seeds/s", begun.elapsed().as_secs_f64(), sum.per_second(begun.elapsed()));
    println!("most that waited in a mailbox, of what may: {}", sum.mailboxes);
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(args: &Args, outcome: &Outcome, parted: Option<String>) {
    let Outcome { seed, violation, transcript, .. } = outcome;
    if args.transcript {
        print!("{transcript}");
    } else if violation.is_some() {
        transcript.tail(TAIL).iter().for_each(|line| println!("{line}"));
    }
    if let Some(parted) = parted {
        println!("seed {seed} is not repeated: {parted}");
    }
    let Some(violation) = violation else { return };
    println!("seed {seed} fails: {violation}");
    if !args.transcript {
        let planted = args.plant.and_then(|fault| fault.to_possible_value());
        let plant = planted.map(|fault| format!(" --plant {}", fault.get_name())).unwrap_or_default();
        println!(
            "all that happened: telstar-sim --seed {seed} --minutes {}{plant} --transcript",
            args.minutes
        );
        println!("and what the actors say of it: --log telstar=debug");
    }
}

/// What worlds came to.
#[derive(Default)]
struct Sum {
    held: u64,
    failed: Vec<u64>,
    acknowledged: u64,
    consumed: u64,
    dead: u64,
    mailboxes: Mailboxes,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome, holds: bool) {
        match holds {
            true => self.held += 1,
            false => self.failed.push(outcome.seed),
        }
        self.acknowledged += outcome.acknowledged;
        self.consumed += outcome.consumed as u64;
        self.dead += outcome.dead as u64;
        self.mailboxes.merge(&outcome.mailboxes);
    }

    fn per_second(&self, took: Duration) -> f64 {
        (self.held + self.failed.len() as u64) as f64 / took.as_secs_f64()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, failed, acknowledged, consumed, dead, .. } = self;
        if !failed.is_empty() {
            let failed: Vec<_> = failed.iter().map(u64::to_string).collect();
            writeln!(f, "{} seeds fail: {}", failed.len(), failed.join(", "))?;
        }
        write!(
            f,
            "{held} seeds hold: {acknowledged} messages acknowledged, {consumed} consumed, {dead} dead-lettered"
        )
    }
}

/// Where two worlds of one seed part.
fn part(one: &Outcome, other: &Outcome) -> Option<String> {
    let first = one.wire.iter().zip(&other.wire).position(|(one, other)| one.key != other.key);
    match first {
        Some(at) => Some(format!("at write {at}:\n{:?}\n{:?}", one.wire[at], other.wire[at])),
        None if one.turns != other.turns => Some(format!("{} turns and {}", one.turns, other.turns)),
        None => None,
    }
}
