//! `telstar why`.

use clap::Args;
use serde::Serialize;

use super::args::{OutputArgs, ServerArgs};
use super::error::CliError;
use super::output;
use crate::client::calendar;
use crate::client::remoting::Call;
use crate::protocol::body::story::MessageStory;
use crate::protocol::header::ExplainMessage;
use crate::protocol::request_code::RequestCode;
use crate::types::{BrokerName, GroupName, TopicName};

/// Tell what became of a message: stored where, delayed, retried, given up, consumed or not, and why
///
/// The brokers are asked for every copy of the message that their logs hold, and how the groups that consume its topic
/// stand to it: who is online, whether the subscription matches, how far they are, who holds the queue.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar why 7F00000118B44AA42C1E6A5C7F0B0000
  telstar why 7F00000118B44AA42C1E6A5C7F0B0000 --topic orders --group shipping
  telstar why 7F00000100002A9F00000000000004D2 --group shipping -o json

Both ids will do: the one that the producer gave the message, and the one that says where it lies. Without --topic an id
of a producer is looked for in every topic.")]
pub struct WhyArgs {
    /// The message id
    id: String,
    /// Tell of this group only
    #[arg(short, long)]
    group: Option<GroupName>,
    /// Look in this topic only, and where its messages go
    #[arg(short, long)]
    topic: Option<TopicName>,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerStory {
    broker: BrokerName,
    #[serde(flatten)]
    story: MessageStory,
}

pub async fn run(args: WhyArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = servers.masters(None).await?;
    if masters.is_empty() {
        return Err(CliError::NoBroker { name_servers: servers.name_servers() });
    }
    let header = ExplainMessage {
        message_id: args.id.clone(),
        topic: args.topic.clone(),
        consumer_group: args.group.clone(),
    };
    let mut stories = Vec::new();
    for master in masters {
        let call = Call::new(RequestCode::EXPLAIN_MESSAGE).header(&header);
        let story = servers.call(&master.addr, call).await?.json()?;
        stories.push(BrokerStory { broker: master.broker_name, story });
    }
    if !stories.iter().any(|told| told.story.found) {
        let verdicts = stories.iter().map(|told| format!("{}: {}", told.broker, told.story.verdict));
        return Err(CliError::NoStory { why: verdicts.collect::<Vec<_>>().join("\n") });
    }
    stories.retain(|told| told.story.found);
    output::print_as(args.output.output, &stories, |stories| {
        stories.iter().map(as_text).collect::<Vec<_>>().join("\n")
    })
}

fn as_text(told: &BrokerStory) -> String {
    let BrokerStory { broker, story } = told;
    let mut text = format!("broker {broker}\n");
    for event in &story.events {
        text += &format!("  {}  {}\n", calendar::format_ms(event.at_ms), event.text);
    }
    for group in &story.groups {
        text += &format!("\ngroup {}\n", group.group);
        for fact in &group.facts {
            text += &format!("  {fact}\n");
        }
        // Of a single group the verdict is the message's.
        if group.verdict != story.verdict {
            text += &format!("  {}\n", group.verdict);
        }
    }
    text + &format!("\n{}\n", story.verdict)
}
