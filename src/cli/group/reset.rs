//! `telstar group reset` and `telstar group clone`.

use clap::Args;
use serde::Serialize;

use super::super::args::{OutputArgs, ServerArgs, TimeArg, parse_time};
use super::super::brokers::{all_masters, ask_each, call_each};
use super::super::error::CliError;
use super::super::output::{self, Column};
use super::known_group;
use crate::client::Servers;
use crate::client::queue_reader::Extent;
use crate::client::remoting::Call;
use crate::client::route::{self, QueueAt};
use crate::clock::{Clock, SystemClock, WallMs};
use crate::protocol::body::offsets::ResetOffsetBody;
use crate::protocol::body::route::TopicList;
use crate::protocol::header::{
    CloneGroupOffset, GroupHeader, OffsetResponse, QueryConsumerOffset, ResetOffset,
};
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{BrokerName, GroupName, TopicName};

/// Move a consumer group in a topic: back, to consume again, or forth, to skip
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group reset billing --topic orders --to-time 2024-05-01T10:00 --dry-run
  telstar group reset billing --topic orders --to-latest
  telstar group reset billing --topic orders --to-earliest
  telstar group reset billing --topic orders --queue 3 --to-offset 1200
  telstar group reset billing --topic orders --by -100

Members jump with their next pull; until then nothing they commit counts. Brokers of Apache RocketMQ need 5.0 or later.")]
pub struct ResetArgs {
    /// The consumer group
    group: GroupName,
    /// The topic
    #[arg(short, long)]
    topic: TopicName,
    #[command(flatten)]
    to: ResetTo,
    /// Only in the queue of this number
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    queue: Option<i32>,
    /// Only on this broker
    #[arg(short, long)]
    broker: Option<BrokerName>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
struct ResetTo {
    /// To the first message stored at this time or later (ms since 1970, 2024-05-01T10:00 in UTC, or 15m ago)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<TimeArg>,
    /// To this queue offset, or the nearest that a queue has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the end: what is stored is skipped
    #[arg(long)]
    to_latest: bool,
    /// To the oldest message
    #[arg(long)]
    to_earliest: bool,
    /// By so many messages in each queue, back if negative
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    by: Option<i64>,
}

/// Copy the offsets of a consumer group to another, over those that it has
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar group clone billing billing-test
  telstar group clone billing billing-test --topic orders")]
pub struct CloneArgs {
    /// The consumer group to copy from
    from: GroupName,
    /// The consumer group to copy to; `telstar group create` makes it
    to: GroupName,
    /// Only in this topic
    #[arg(short, long)]
    topic: Option<TopicName>,
    #[command(flatten)]
    servers: ServerArgs,
}

/// What a reset does to one queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Move {
    broker_name: BrokerName,
    queue_id: i32,
    /// `null`: the group has no offset there.
    from: Option<i64>,
    to: i64,
    /// Messages that come again.
    redelivered: i64,
    /// Messages that are not consumed.
    skipped: i64,
}

impl Move {
    fn new(at: &QueueAt, from: Option<i64>, to: i64, extent: Extent) -> Self {
        // What lies before the queue is gone and does not come again.
        let between = |low: i64, high: i64| (high.min(extent.max) - low.max(extent.min)).max(0);
        Self {
            broker_name: at.queue.broker_name.clone(),
            queue_id: at.queue.queue_id,
            from,
            to,
            redelivered: from.map_or(0, |from| between(to, from)),
            skipped: from.map_or(0, |from| between(from, to)),
        }
    }

    fn effect(&self) -> String {
        match (self.from, self.redelivered, self.skipped) {
            (None, ..) => "begins there".to_owned(),
            (_, 0, 0) => "stays".to_owned(),
            (_, 0, skipped) => format!("{skipped} skipped"),
            (_, redelivered, _) => format!("{redelivered} again"),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Moves {
    group: GroupName,
    topic: TopicName,
    /// Nothing was changed.
    dry_run: bool,
    redelivered: i64,
    skipped: i64,
    queues: Vec<Move>,
}

impl ResetTo {
    /// Where a queue is sent; `None`: nowhere, as there is nothing to count from.
    async fn target(
        self,
        servers: &mut Servers,
        at: &QueueAt,
        current: Option<i64>,
        extent: Extent,
        now: WallMs,
    ) -> Result<Option<i64>, CliError> {
        let target = match self {
            Self { to_time: Some(time), .. } => servers.offset_by_time(at, time.ms(now)).await?,
            Self { to_offset: Some(offset), .. } => offset,
            Self { to_latest: true, .. } => extent.max,
            Self { to_earliest: true, .. } => extent.min,
            Self { by, .. } => match (current, by) {
                (Some(current), Some(by)) => current.saturating_add(by),
                _ => return Ok(None),
            },
        };
        Ok(Some(target.clamp(extent.min, extent.max)))
    }
}

pub async fn reset(args: ResetArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    known_group(&mut servers, &masters, &args.group).await?;
    let mut queues = route::read_queues(&args.topic, &servers.route(&args.topic).await?);
    queues.retain(|at| {
        args.queue.is_none_or(|queue| at.queue.queue_id == queue)
            && args.broker.as_ref().is_none_or(|broker| at.queue.broker_name == *broker)
    });
    if queues.is_empty() {
        return Err(CliError::NoQueue { topic: args.topic });
    }
    let now = SystemClock.now();
    let mut moves = Vec::with_capacity(queues.len());
    for at in &queues {
        let current = current_offset(&mut servers, at, &args.group).await?;
        let extent = servers.extent(at).await?;
        if let Some(to) = args.to.target(&mut servers, at, current, extent, now).await? {
            moves.push((at, Move::new(at, current, to, extent)));
        }
    }
    if moves.is_empty() {
        return Err(CliError::NothingToMove { group: args.group, topic: args.topic });
    }
    if !args.dry_run {
        for (done, (at, planned)) in moves.iter().enumerate() {
            let set = set_offset(&mut servers, at, &args.group, planned.to).await;
            set.map_err(|error| match done {
                0 => error,
                done => CliError::ResetStopped { done, queues: moves.len(), cause: error.to_string() },
            })?;
        }
    }
    let queues: Vec<Move> = moves.into_iter().map(|(_, planned)| planned).collect();
    let moves = Moves {
        group: args.group,
        topic: args.topic,
        dry_run: args.dry_run,
        redelivered: queues.iter().map(|queue| queue.redelivered).sum(),
        skipped: queues.iter().map(|queue| queue.skipped).sum(),
        queues,
    };
    output::print_as(args.output.output, &moves, as_text)
}

/// Where a group is; `None` when it has not begun.
async fn current_offset(
    servers: &mut Servers,
    at: &QueueAt,
    group: &GroupName,
) -> Result<Option<i64>, CliError> {
    let header = QueryConsumerOffset {
        consumer_group: group.clone(),
        topic: at.queue.topic.clone(),
        queue_id: at.queue.queue_id,
        set_zero_if_not_found: Some(false),
    };
    let answer = servers.ask(&at.addr, Call::new(RequestCode::QUERY_CONSUMER_OFFSET).header(&header)).await?;
    match answer.code {
        ResponseCode::QUERY_NOT_FOUND => Ok(None),
        _ => Ok(Some(answer.success()?.header::<OffsetResponse>()?.offset)),
    }
}

async fn set_offset(
    servers: &mut Servers,
    at: &QueueAt,
    group: &GroupName,
    offset: i64,
) -> Result<(), CliError> {
    let header = ResetOffset {
        group: group.clone(),
        topic: at.queue.topic.clone(),
        queue_id: at.queue.queue_id,
        offset: Some(offset),
        timestamp: -1,
        is_force: true,
    };
    let call = Call::new(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).header(&header);
    let done: ResetOffsetBody = servers.call(&at.addr, call).await?.json()?;
    // Old brokers know nothing of single queues and do what else the request may mean.
    match done.offset_table.get(&at.queue) {
        Some(set) if *set == offset && done.offset_table.len() == 1 => Ok(()),
        _ => Err(CliError::ResetElsewhere {
            broker: at.queue.broker_name.clone(),
            queue_id: at.queue.queue_id,
        }),
    }
}

fn as_text(moves: &Moves) -> String {
    let columns = [
        Column::Text("BROKER"),
        Column::Number("QUEUE"),
        Column::Number("FROM"),
        Column::Number("TO"),
        Column::Text("MESSAGES"),
    ];
    let row = |queue: &Move| {
        vec![
            queue.broker_name.to_string(),
            queue.queue_id.to_string(),
            queue.from.map_or("-".to_owned(), |from| from.to_string()),
            queue.to.to_string(),
            queue.effect(),
        ]
    };
    let table = output::table(&columns, moves.queues.iter().map(row));
    let Moves { group, topic, redelivered, skipped, .. } = moves;
    let (is, would) = if moves.dry_run { ("would be", "would come") } else { ("are", "come") };
    let done = if moves.dry_run { "; nothing was changed" } else { "" };
    format!(
        "{table}\ngroup {group} in topic {topic}: {redelivered} messages {would} again, {skipped} {is} skipped{done}\n"
    )
}

pub async fn clone(args: CloneArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let masters = all_masters(&mut servers).await?;
    known_group(&mut servers, &masters, &args.from).await?;
    known_group(&mut servers, &masters, &args.to).await?;
    let topics = match &args.topic {
        Some(topic) => vec![topic.clone()],
        None => {
            let header = GroupHeader { group: args.from.clone() };
            let call = Call::new(RequestCode::QUERY_TOPICS_BY_CONSUMER).header(&header);
            let lists: Vec<TopicList> = ask_each(&mut servers, &masters, &call).await?;
            let mut topics: Vec<TopicName> = lists.into_iter().flat_map(|list| list.topic_list).collect();
            // Its own retries are nothing to another group.
            topics.retain(|topic| !names::is_retry_topic(topic));
            topics.sort();
            topics.dedup();
            topics
        }
    };
    for topic in &topics {
        let header = CloneGroupOffset {
            src_group: args.from.clone(),
            dest_group: args.to.clone(),
            topic: Some(topic.clone()),
            offline: true,
        };
        call_each(&mut servers, &masters, &Call::new(RequestCode::CLONE_GROUP_OFFSET).header(&header))
            .await?;
    }
    let listed: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
    output::print(&match listed.is_empty() {
        true => format!("group {} has no offsets, so none were copied", args.from),
        false => format!("group {} is where {} is in {}", args.to, args.from, listed.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MessageQueue;

    #[test]
    fn moves_count_what_is_still_there() {
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        let at = QueueAt { queue, addr: "b:1".to_owned() };
        let counted = |from, to| {
            let planned = Move::new(&at, from, to, Extent { min: 10, max: 30 });
            (planned.redelivered, planned.skipped, planned.effect())
        };
        assert_eq!(counted(Some(20), 12), (8, 0, "8 again".to_owned()));
        assert_eq!(counted(Some(20), 30), (0, 10, "10 skipped".to_owned()));
        assert_eq!(counted(Some(20), 20), (0, 0, "stays".to_owned()));
        assert_eq!(counted(Some(3), 15), (0, 5, "5 skipped".to_owned()), "10 is the first there is");
        assert_eq!(counted(Some(99), 25), (5, 0, "5 again".to_owned()), "30 is the end");
        assert_eq!(counted(None, 10), (0, 0, "begins there".to_owned()));
    }
}
