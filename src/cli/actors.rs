//! `telstar actors`.

use std::collections::HashMap;
use std::fmt::Write;

use clap::{Args, ValueEnum};

use super::args::{OutputArgs, OutputFormat, ServerArgs};
use super::brokers::only_broker;
use super::error::CliError;
use super::output::{self, Column};
use crate::client::remoting::Call;
use crate::protocol::body::actors::{ActorPage, ActorState};
use crate::protocol::header::ListActors;
use crate::protocol::request_code::RequestCode;

/// Show the actors of a broker or name server: what waits for them, what they have done, what they are at
///
/// With a NAME, those whose name begins so, each with what it tells of itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar actors
  telstar actors --sort busy --limit 10
  telstar actors TopicQueue --sort depth
  telstar actors 'TopicQueue orders/0' --recorder
  telstar actors CommitLogWriter --json")]
pub struct ActorsArgs {
    /// Only actors whose name begins so; with what they tell of themselves
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Show so many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
    /// Show the last messages of each, too, where that is recorded (actors.flight_recorder)
    #[arg(long)]
    recorder: bool,
    /// The address of the broker or name server; not needed when only one broker is registered
    #[arg(short, long, value_name = "ADDR")]
    broker: Option<String>,
    /// Short for --output json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Sort {
    /// Those that started others before those
    #[default]
    Tree,
    /// Most messages waiting first; asks every actor that NAME fits
    Depth,
    /// Most time spent first
    Busy,
    /// Most messages handled first
    Handled,
    /// Longest turn first
    Longest,
}

pub async fn run(args: ActorsArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let broker = match args.broker {
        Some(addr) => addr,
        None => only_broker(&mut servers).await?,
    };
    let sort = args.sort.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let header = ListActors {
        facts: !args.name.is_empty(),
        name: args.name,
        sort,
        max: args.limit,
        recorder: args.recorder,
    };
    let call = Call::new(RequestCode::LIST_ACTORS).header(&header);
    let page: ActorPage = servers.call(&broker, call).await?.json()?;
    let format = if args.json { OutputFormat::Json } else { args.output.output };
    output::print_as(format, &page, as_text)
}

fn as_text(page: &ActorPage) -> String {
    let columns = [
        Column::Text("ACTOR"),
        Column::Text("THREAD"),
        Column::Number("DEPTH"),
        Column::Number("CAPACITY"),
        Column::Number("HANDLED"),
        Column::Number("BUSY"),
        Column::Number("SHARE"),
        Column::Number("LONGEST"),
        Column::Number("RESTARTS"),
        Column::Text("NOW"),
    ];
    let mut levels: HashMap<u64, usize> = HashMap::new();
    let rows = page.actors.iter().map(|actor| {
        let level = actor.started_by.and_then(|starter| levels.get(&starter)).map_or(0, |level| level + 1);
        levels.insert(actor.id, level);
        let now = actor.turn.as_ref().map_or_else(String::new, |turn| {
            format!("busy with {} for {}", turn.message, time(turn.lasts_us))
        });
        vec![
            format!("{:width$}{}", "", actor.name, width = level * 2),
            actor.thread.clone(),
            actor.depth.map_or_else(|| "?".to_owned(), |depth| depth.to_string()),
            actor.capacity.to_string(),
            actor.handled.to_string(),
            time(actor.busy_us),
            format!("{:.1} %", actor.busy_share * 100.0),
            time(actor.longest_turn_us),
            actor.restarts.to_string(),
            now,
        ]
    });
    let mut text = output::table(&columns, rows.collect::<Vec<_>>());
    for actor in &page.actors {
        told(actor, &mut text);
    }
    let left = page.matching.saturating_sub(page.actors.len());
    // Writing to a string cannot fail.
    let _ = match left {
        0 => writeln!(text, "\n{} of {} actors", page.matching, page.running),
        _ => writeln!(text, "\n{left} more; NAME, --sort and --limit choose which are shown"),
    };
    text
}

/// What an actor says of itself, and its last messages.
fn told(actor: &ActorState, text: &mut String) {
    if actor.facts.is_null() && actor.recorder.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{}", actor.name);
    let kinds: Vec<_> = actor.kinds.iter().map(|kind| format!("{} {}", kind.handled, kind.message)).collect();
    if !kinds.is_empty() {
        let _ = writeln!(text, "  handled  {}", kinds.join(", "));
    }
    if let serde_json::Value::Object(facts) = &actor.facts {
        let facts: Vec<_> = facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let _ = writeln!(text, "  facts    {}", facts.join(", "));
    }
    for message in &actor.recorder {
        let (ago, took) = (time(message.ended_us_ago), time(message.took_us));
        let _ = writeln!(text, "  {ago:>10} ago  {:<20} took {took}", message.message);
    }
}

/// Microseconds as a person says them.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::actors::{RecordedMessage, TurnState};

    #[test]
    fn table_shows_who_started_whom_and_what_a_busy_actor_is_at() {
        let parent =
            ActorState { id: 1, name: "ConsumerGroups".into(), depth: Some(0), ..ActorState::default() };
        let child = ActorState {
            id: 2,
            name: "ConsumerGroup g".into(),
            started_by: Some(1),
            turn: Some(TurnState { message: "LockQueues".into(), lasts_us: 12_000_000 }),
            recorder: vec![RecordedMessage { message: "LeaveGroup".into(), ended_us_ago: 1_500, took_us: 9 }],
            ..ActorState::default()
        };
        let text = as_text(&ActorPage { running: 9, matching: 3, actors: vec![parent, child] });
        assert!(text.contains("\n  ConsumerGroup g "), "{text}");
        assert!(text.contains("busy with LockQueues for 12.0 s"), "{text}");
        assert!(text.contains("1.5 ms ago  LeaveGroup           took 9 us"), "{text}");
        assert!(text.ends_with("1 more; NAME, --sort and --limit choose which are shown\n"), "{text}");
    }
}
