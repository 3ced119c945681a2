//! Simulates whole clusters: `telstar-sim --seed 17 --minutes 2`. See [`telstar::simulation`].

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use telstar::planted::Planted;
use telstar::simulation::{Outcome, Plan, run};

/// Runs clusters of Telstar in virtual time, through faults that a seed chooses, and says what does not hold.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The (first) seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Virtual minutes in which messages are sent; settling comes on top.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Prints the transcript of every world, not only of one that fails.
    #[arg(long)]
    transcript: bool,
    /// Plants a fault in the program, and looks for a seed that finds it.
    #[arg(long, value_enum)]
    plant: Option<Planted>,
    /// Runs every seed twice, and fails where the second world parts from the first.
    #[arg(long)]
    twice: bool,
    /// Shows the log of the actors on standard error, as RUST_LOG does.
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    let begun = Instant::now();
    let (mut acknowledged, mut consumed, mut dead) = (0, 0, 0);
    for seed in args.seed..args.seed + args.seeds {
        let plan = Plan {
            seed,
            length: Duration::from_secs_f64(args.minutes * 60.0),
            planted: args.plant,
            with_wire: args.twice,
        };
        let outcome = run(plan);
        if args.twice
            && let Some(parted) = part(&outcome, &run(plan))
        {
            println!("seed {seed} is not repeated: {parted}");
            return ExitCode::FAILURE;
        }
        if args.transcript || outcome.violation.is_some() {
            print!("{}", outcome.transcript);
        }
        if let Outcome { violation: Some(violation), .. } = &outcome {
            println!("seed {seed} fails: {violation}");
            println!("repeat it with: telstar-sim --seed {seed} --minutes {}", args.minutes);
            return ExitCode::FAILURE;
        }
        acknowledged += outcome.acknowledged;
        consumed += outcome.consumed as u64;
        dead += outcome.dead as u64;
    }
    let took = begun.elapsed();
    println!(
        "{} seeds from {} hold: {acknowledged} messages acknowledged, {consumed} consumed, {dead} dead-lettered; {:.1} s, {:.1} seeds/s",
        args.seeds,
        args.seed,
        took.as_secs_f64(),
        args.seeds as f64 / took.as_secs_f64()
    );
    ExitCode::SUCCESS
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
