//! `telstar delay`: messages that wait for a time of their own.

use clap::{Args, Subcommand};

use super::args::{OutputArgs, TimeArg, parse_time};
use super::brokers::PlaceArgs;
use super::error::CliError;
use super::output::{self, Column};
use super::paging::{self, AtBroker, PageRequest};
use crate::client::Servers;
use crate::client::calendar::format_ms;
use crate::client::remoting::Call;
use crate::client::route::BrokerAt;
use crate::clock::{Clock, SystemClock, WallMs};
use crate::protocol::body::timers::{ListedTimer, TimerList};
use crate::protocol::header::{CancelTimer, ListTimersHeader};
use crate::protocol::request_code::RequestCode;
use crate::types::TopicName;

/// Look at messages that wait for a time of their own, and take them back
///
/// Messages with a delay level, and retries, are not among them.
#[derive(Debug, Subcommand)]
pub enum DelayCommand {
    List(ListArgs),
    Show(ShowArgs),
    Cancel(CancelArgs),
}

/// List messages that wait, by the time they are due
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar delay list
  telstar delay list --topic orders --to 1h
  telstar delay list --from 2030-05-01T00:00 --key order-17 -o json")]
pub struct ListArgs {
    /// Only messages for this topic
    #[arg(short, long)]
    topic: Option<TopicName>,
    /// Only those with this key or message id
    #[arg(short, long)]
    key: Option<String>,
    /// Only those due then or later: ms since 1970, UTC as 2030-05-01T10:00, or how far ahead, as 15m
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<TimeArg>,
    /// Only those due before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<TimeArg>,
    /// At most so many of each broker
    #[arg(short, long, default_value_t = 100)]
    max: usize,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show a message that waits
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar delay show 7F0000010A2B18B4AAC2A1B2C3D40000
  telstar delay show 7F0000010A2B18B4AAC2A1B2C3D40000 -o json")]
pub struct ShowArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Take a message back: nobody gets it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar delay cancel 7F0000010A2B18B4AAC2A1B2C3D40000
  telstar delay cancel 7F0000010A2B18B4AAC2A1B2C3D40000 --on broker-a")]
pub struct CancelArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// The message id that its producer was told
    id: String,
    #[command(flatten)]
    place: PlaceArgs,
}

/// A message, and the broker that has it.
type Waiting = AtBroker<ListedTimer>;

impl PageRequest for ListTimersHeader {
    const CODE: RequestCode = RequestCode::LIST_TIMERS;
    type Page = TimerList;
    type Item = ListedTimer;

    fn limit(&mut self, max: i32) {
        self.max = max;
    }

    fn turn(&mut self, page: TimerList) -> (Vec<ListedTimer>, bool) {
        let next = page.next_ms.zip(page.next_offset);
        (self.from_ms, self.from_offset) = next.unwrap_or((self.from_ms, self.from_offset));
        (page.timers, next.is_some())
    }
}

pub async fn run(command: DelayCommand) -> Result<(), CliError> {
    match command {
        DelayCommand::List(args) => list(args).await,
        DelayCommand::Show(args) => {
            let (_, broker, item) = find(&args.which).await?;
            let found = Waiting { broker: broker.broker_name.to_string(), item };
            output::print_as(args.output.output, &found, as_text)
        }
        DelayCommand::Cancel(CancelArgs { which }) => cancel(&which).await,
    }
}

/// A bare duration is so far ahead.
fn due_ms(time: TimeArg, now: WallMs) -> i64 {
    match time {
        TimeArg::AtMs(at) => at,
        TimeArg::AgoMs(ahead) => now.0.saturating_add(ahead),
    }
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let now = SystemClock.now();
    let (mut servers, masters) = args.place.masters().await?;
    let wanted = ListTimersHeader {
        from_ms: args.from.map_or(0, |from| due_ms(from, now)),
        to_ms: args.to.map_or(i64::MAX, |to| due_ms(to, now)),
        from_offset: 0,
        topic: args.topic,
        key: args.key,
        max: 0,
    };
    let found = paging::first_of_each(&mut servers, &masters, &wanted, args.max).await?;
    output::print_as(args.output.output, &found, |found| as_table(found))
}

/// The message that is meant, and who has it.
async fn find(which: &WhichArgs) -> Result<(Servers, BrokerAt, ListedTimer), CliError> {
    let (mut servers, masters) = which.place.masters().await?;
    let wanted = ListTimersHeader {
        from_ms: 0,
        to_ms: i64::MAX,
        from_offset: 0,
        topic: None,
        key: Some(which.id.clone()),
        max: 0,
    };
    // The key may be a business key of another.
    let is_meant = |timer: &ListedTimer| timer.unique_key == which.id;
    for broker in masters {
        if let Some(timer) = paging::find(&mut servers, &broker, wanted.clone(), is_meant).await? {
            return Ok((servers, broker, timer));
        }
    }
    Err(CliError::NoTimer { id: which.id.clone() })
}

async fn cancel(which: &WhichArgs) -> Result<(), CliError> {
    let (mut servers, broker, timer) = find(which).await?;
    let header = CancelTimer {
        topic: timer.topic.clone(),
        unique_key: timer.unique_key.clone(),
        due_ms: timer.due_ms,
    };
    servers.call(&broker.addr, Call::new(RequestCode::CANCEL_TIMER).header(&header)).await?;
    output::print(&format!(
        "message {} for topic {} is taken back; it was due {}",
        timer.unique_key,
        timer.topic,
        format_ms(timer.due_ms)
    ))
}

fn as_table(found: &[Waiting]) -> String {
    let columns = [
        Column::Text("BROKER"),
        Column::Text("DUE"),
        Column::Text("TOPIC"),
        Column::Text("KEYS"),
        Column::Number("BYTES"),
        Column::Text("ID"),
    ];
    let row = |waiting: &Waiting| {
        let timer = &waiting.item;
        vec![
            waiting.broker.clone(),
            format_ms(timer.due_ms),
            timer.topic.to_string(),
            timer.keys.clone(),
            timer.body_bytes.to_string(),
            timer.unique_key.clone(),
        ]
    };
    output::table_or("no messages wait", &columns, found, row)
}

fn as_text(waiting: &Waiting) -> String {
    let timer = &waiting.item;
    output::facts(&[
        ("message", timer.unique_key.clone()),
        ("broker", waiting.broker.clone()),
        ("topic", timer.topic.to_string()),
        ("keys", timer.keys.clone()),
        ("due", format_ms(timer.due_ms)),
        ("stored", format_ms(timer.stored_at_ms)),
        ("body", format!("{} bytes", timer.body_bytes)),
        ("timer queue offset", timer.queue_offset.to_string()),
        ("commit log offset", timer.physical_offset.to_string()),
    ])
}
