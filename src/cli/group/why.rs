//! `telstar group why`.

use clap::Args;

use crate::cli::args::{OutputArgs, ServerArgs};
use crate::cli::brokers::all_masters;
use crate::cli::error::CliError;
use crate::cli::output::{self, Column};
use crate::client::remoting::Call;
use crate::protocol::body::group_why::{GroupDescription, QueueDescription};
use crate::protocol::header::GroupHeader;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{GroupName, TopicName};

/// Tell why a consumer group is where it is: for each queue who has it, which message is next, and what holds it up
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group why billing
  telstar group why billing --topic orders --all
  telstar group why billing -o json")]
pub struct WhyArgs {
    /// The consumer group
    group: GroupName,
    /// Only queues of this topic
    #[arg(short, long)]
    topic: Option<TopicName>,
    /// Queues that are consumed to their end, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn why(args: WhyArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    let mut described = Vec::new();
    for master in &masters {
        let call = Call::new(RequestCode::DESCRIBE_GROUP).header(&GroupHeader { group: args.group.clone() });
        let answer = servers.ask(&master.addr, call).await?;
        if answer.code == ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST {
            continue;
        }
        let mut of_broker: GroupDescription = answer.success()?.json()?;
        let is_meant = |queue: &QueueDescription| {
            args.topic.as_ref().is_none_or(|topic| *topic == queue.topic) && (args.all || queue.lag > 0)
        };
        of_broker.queues.retain(is_meant);
        described.push(of_broker);
    }
    if described.is_empty() {
        return Err(CliError::GroupUnknown { group: args.group });
    }
    output::print_as(args.output.output, &described, |described| {
        described.iter().map(as_text).collect::<Vec<_>>().join("\n")
    })
}

fn as_text(group: &GroupDescription) -> String {
    let stuck = group.queues.iter().filter(|queue| queue.stuck).count();
    let state = match (group.queues.iter().filter(|queue| queue.lag > 0).count(), stuck) {
        (0, _) => "everything is consumed".to_owned(),
        (_, 0) => "behind, and moving".to_owned(),
        (behind, stuck) => format!("{stuck} of {behind} queues that are behind stand still"),
    };
    let mut text = output::facts(&[
        ("group", group.group.to_string()),
        ("broker", group.broker_name.to_string()),
        ("members", group.members.len().to_string()),
        ("state", state),
        ("lag", group.queues.iter().map(|queue| queue.lag).sum::<u64>().to_string()),
        ("dead letters", group.dead_letters.to_string()),
    ]);
    for problem in &group.problems {
        text += &format!("\n{problem}\n");
    }
    if !group.queues.is_empty() {
        let columns = [
            Column::Text("TOPIC"),
            Column::Number("QUEUE"),
            Column::Number("NEXT"),
            Column::Number("LAG"),
            Column::Text("LAST PULL"),
            Column::Text("WHY"),
        ];
        text += "\n";
        text += &output::table(&columns, group.queues.iter().map(row));
    }
    text
}

fn row(queue: &QueueDescription) -> Vec<String> {
    let pull = queue.last_pull.as_ref();
    vec![
        queue.topic.to_string(),
        queue.queue_id.to_string(),
        queue.consumer_offset.map_or("none".to_owned(), |offset| offset.to_string()),
        queue.lag.to_string(),
        pull.map_or("never".to_owned(), |pull| {
            format!("{}.{} s ago", pull.ago_ms / 1_000, pull.ago_ms / 100 % 10)
        }),
        queue.cause.clone(),
    ]
}
