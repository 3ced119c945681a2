//! The command line: one sub-command per thing a person does, a thin layer over [`crate::client`].
//!
//! Exit status: 0 done, 1 failed, 2 used wrongly (clap); of a server that ends, that of [`Fatal`](crate::fatal::Fatal).

mod brokers;
mod message_format;
mod output;
mod paging;

mod actors;
mod args;
mod bench;
mod cluster;
mod completion;
mod consume;
mod delay;
mod dlq;
mod drain;
mod error;
mod group;
mod logging;
mod message;
mod send;
mod serve;
mod start;
mod store;
mod topic;
mod tx;
mod why;

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use error::CliError;

use crate::extension::Extensions;

/// A message broker that speaks Apache RocketMQ's protocols, and the tools around it.
#[derive(Debug, Parser)]
#[command(
    name = "telstar",
    version,
    after_help = "\
Examples:
  telstar topic create orders --queues 8
  telstar send orders 'hello'
  telstar consume orders --from first
  telstar bench send --duration 10s

Every command explains itself: telstar COMMAND --help"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(start::StartArgs),
    Send(send::SendArgs),
    Consume(consume::ConsumeArgs),
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    #[command(subcommand)]
    Group(group::GroupCommand),
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    #[command(subcommand)]
    Message(message::MessageCommand),
    #[command(subcommand)]
    Delay(delay::DelayCommand),
    #[command(subcommand)]
    Tx(tx::TxCommand),
    Why(why::WhyArgs),
    Cluster(cluster::ClusterArgs),
    Actors(actors::ActorsArgs),
    Drain(drain::DrainArgs),
    #[command(subcommand)]
    Store(store::StoreCommand),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    Completion(completion::CompletionArgs),
}

/// Reads the arguments of the process, does what they ask, and says how it went.
///
/// ```no_run
/// /// The program `telstar`, under another name.
/// fn main() -> std::process::ExitCode {
///     telstar::cli::run() // it reads the arguments of its process
/// }
/// ```
pub fn run() -> ExitCode {
    run_with(Extensions::none())
}

/// As [`run`], with extensions that a broker may start.
///
/// ```no_run
/// use telstar::extension::*;
///
/// /// Starts with every broker that lists it: `my-telstar start --set extensions.start=greeter`.
/// struct Greeter;
///
/// impl Extension for Greeter {
///     const NAME: &'static str = "greeter";
///     type Settings = std::collections::BTreeMap<String, String>;
///
///     fn start(_: Self::Settings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
///         Ok(println!("{} topics, welcome", hooks.broker().topics().len()))
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     telstar::cli::run_with(Extensions::none().with::<Greeter>()) // it reads the arguments of its process
/// }
/// ```
pub fn run_with(extensions: Extensions) -> ExitCode {
    let done = match Cli::parse().command {
        Some(Command::Send(args)) => on_runtime(send::run(args)),
        Some(Command::Consume(args)) => on_runtime(consume::run(args)),
        Some(Command::Topic(command)) => on_runtime(topic::run(command)),
        Some(Command::Group(command)) => on_runtime(group::run(command)),
        Some(Command::Dlq(command)) => on_runtime(dlq::run(command)),
        Some(Command::Message(command)) => on_runtime(message::run(command)),
        Some(Command::Delay(command)) => on_runtime(delay::run(command)),
        Some(Command::Tx(command)) => on_runtime(tx::run(command)),
        Some(Command::Why(args)) => on_runtime(why::run(args)),
        Some(Command::Cluster(args)) => on_runtime(cluster::run(args)),
        Some(Command::Actors(args)) => on_runtime(actors::run(args)),
        Some(Command::Drain(args)) => on_runtime(drain::run(args)),
        Some(Command::Store(command)) => store::run(command),
        Some(Command::Bench(command)) => bench::run(command),
        Some(Command::Completion(args)) => completion::run(args, Cli::command()),
        Some(Command::Start(args)) => return serve::run(&args, &extensions),
        None => return serve::run(&start::StartArgs::default(), &extensions),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("telstar: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that waits for servers; one thread is plenty.
fn on_runtime<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::Runtime)?;
    let done = runtime.block_on(command);
    // A read of standard input that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_put_together_without_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_and_every_final_one_an_example() {
        fn look(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no help");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
            let example = command.get_after_help().map(|text| text.to_string()).unwrap_or_default();
            if !command.has_subcommands() {
                assert!(example.contains("telstar "), "{path} has no example");
            }
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                look(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        look(&Cli::command(), "telstar");
    }

    /// The command lines in the help texts are valid ones.
    #[test]
    fn examples_can_be_parsed() {
        fn examples(command: &clap::Command) -> Vec<String> {
            let help = command.get_after_help().map(|text| text.to_string()).unwrap_or_default();
            let own = help.lines().filter_map(|line| line.strip_prefix("  telstar ")).map(str::to_owned);
            own.chain(command.get_subcommands().flat_map(examples)).collect()
        }
        let all = examples(&Cli::command());
        assert!(all.len() > 15);
        for line in all {
            // What a shell does behind a pipe or a redirection is its own affair.
            let ours = line.split(['|', '>', '<', '&']).next().unwrap_or_default();
            let mut quoted = None;
            let mut words = vec!["telstar".to_owned(), String::new()];
            for c in ours.trim().chars() {
                match c {
                    '\'' | '"' if quoted.is_none() => quoted = Some(c),
                    c if quoted == Some(c) => quoted = None,
                    ' ' if quoted.is_none() => words.push(String::new()),
                    c => words.last_mut().unwrap().push(c),
                }
            }
            words.retain(|word| !word.is_empty());
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{line}: {error}");
            }
        }
    }
}
