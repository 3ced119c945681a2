//! `telstar bench rebalance`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::try_join_all;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::target::TargetArgs;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::client::remoting::{Call, ConnectOptions, RemotingConnection, ServerRequest};
use crate::protocol::body::assignment::{QueryAssignmentRequestBody, QueryAssignmentResponseBody};
use crate::protocol::body::heartbeat::{ConsumerData, HeartbeatData};
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::request_code::RequestCode;
use crate::types::{ClientId, GroupName, MessageQueue};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing changes any more when nothing has changed for so long.
const QUIET: Duration = Duration::from_secs(2);

/// Measure how soon the members of a group have shared the queues, when the broker shares them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench rebalance --members 1000
  telstar bench rebalance --members 200 --queues 400 --topic shared --json

Each member is a connection. All join at once; each asks whenever it joined and whenever the broker tells it that members
changed. Told is the time from the last heartbeat until every queue is one member's and nobody else's, for good. The first
broker of the topic is used. It needs a file descriptor for each member: ulimit -n.")]
pub struct RebalanceArgs {
    /// Members
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000), default_value = "1000")]
    members: u32,
    /// The group they join; it should have no other members
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    #[command(flatten)]
    target: TargetArgs,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RebalanceReport {
    members: u32,
    queues: usize,
    /// From the first heartbeat to the last.
    join_ms: f64,
    /// From the last heartbeat until the queues are shared for good.
    settled_ms: f64,
    /// Answers of the broker about who has which queue.
    answers: u64,
}

/// What a member was told to consume.
struct Assigned {
    member: usize,
    queues: Vec<MessageQueue>,
}

struct Member {
    number: usize,
    client_id: ClientId,
    connection: RemotingConnection,
    /// Changes with every notice of changed members.
    notices: watch::Receiver<u64>,
}

pub async fn run(args: RebalanceArgs) -> Result<(), CliError> {
    let queues = args.target.write_queues().await?;
    let addr = queues[0].addr.clone();
    let members =
        try_join_all((0..args.members as usize).map(|number| Member::connect(number, &addr))).await?;

    let begun = Instant::now();
    let (told, mut assignments) = mpsc::unbounded_channel();
    let (beaten, mut heartbeats) = mpsc::unbounded_channel();
    let lives: Vec<_> = members
        .into_iter()
        .map(|member| {
            let (heartbeat, question) = (member.heartbeat(&args), member.question(&args));
            tokio::spawn(member.live(heartbeat, question, beaten.clone(), told.clone()))
        })
        .collect();
    drop((beaten, told));
    let mut last_heartbeat = begun;
    while let Some(at) = heartbeats.recv().await {
        last_heartbeat = last_heartbeat.max(at);
    }

    let mut shares = Shares::new(args.members as usize, queues.len());
    let mut answers = 0;
    let mut settled_at = None;
    while let Ok(Some((at, assigned))) = tokio::time::timeout(QUIET, assignments.recv()).await {
        answers += 1;
        let was_settled = shares.is_settled();
        shares.take(assigned);
        match (was_settled, shares.is_settled()) {
            (_, false) => settled_at = None,
            (false, true) => settled_at = Some(at),
            (true, true) => {}
        }
    }
    for life in lives {
        match life.is_finished() {
            true => life.await.map_err(|_| CliError::Bench("a member panicked".to_owned()))??,
            false => life.abort(),
        }
    }
    let Some(settled_at) = settled_at else {
        return Err(CliError::Bench(format!(
            "the queues are not shared after {answers} answers: {} of {} are one member's",
            shares.held_once,
            queues.len()
        )));
    };
    let report = RebalanceReport {
        members: args.members,
        queues: queues.len(),
        join_ms: (last_heartbeat - begun).as_secs_f64() * 1e3,
        settled_ms: settled_at.saturating_duration_since(last_heartbeat).as_secs_f64() * 1e3,
        answers,
    };
    match args.json {
        true => output::print(&output::json(&report)),
        false => output::print(&output::facts(&[
            ("members", format!("{}, joined within {:.0} ms", report.members, report.join_ms)),
            ("queues", report.queues.to_string()),
            ("settled", format!("{:.0} ms after the last heartbeat", report.settled_ms)),
            ("answers", report.answers.to_string()),
        ])),
    }
}

impl Member {
    async fn connect(number: usize, addr: &str) -> Result<Self, CliError> {
        let (notify, notices) = watch::channel(0);
        let on_request = move |request: ServerRequest| {
            if request.command.head.code == RequestCode::NOTIFY_CONSUMER_IDS_CHANGED.as_i32() {
                notify.send_modify(|count| *count += 1);
            }
        };
        let options = ConnectOptions {
            on_request: Some(Arc::new(on_request)),
            connect_timeout: PATIENCE,
            ..ConnectOptions::default()
        };
        let connection = RemotingConnection::connect(addr, &options).await?;
        Ok(Self { number, client_id: format!("bench@{number}").into(), connection, notices })
    }

    fn heartbeat(&self, args: &RebalanceArgs) -> Call {
        let subscription = SubscriptionData {
            topic: args.target.topic.clone(),
            sub_string: "*".into(),
            ..SubscriptionData::default()
        };
        let beat = HeartbeatData {
            client_id: self.client_id.clone(),
            consumer_data_set: vec![ConsumerData {
                group_name: args.group.clone(),
                subscription_data_set: vec![subscription],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        };
        Call::new(RequestCode::HEART_BEAT).body(json_body(&beat))
    }

    fn question(&self, args: &RebalanceArgs) -> Call {
        let question = QueryAssignmentRequestBody {
            client_id: self.client_id.clone(),
            consumer_group: args.group.clone(),
            strategy_name: "AVG".to_owned(),
            topic: args.target.topic.clone(),
            ..QueryAssignmentRequestBody::default()
        };
        Call::new(RequestCode::QUERY_ASSIGNMENT).body(json_body(&question))
    }

    /// Joins, and asks for its queues now and after each notice.
    async fn live(
        mut self,
        heartbeat: Call,
        question: Call,
        beaten: mpsc::UnboundedSender<Instant>,
        told: mpsc::UnboundedSender<(Instant, Assigned)>,
    ) -> Result<(), CliError> {
        self.connection.call(heartbeat, PATIENCE).await?.success()?;
        // Nobody listens any more only when the run is over.
        let _ = beaten.send(Instant::now());
        drop(beaten);
        loop {
            self.notices.borrow_and_update();
            let answer = self.connection.call(question.clone(), PATIENCE).await?.success()?;
            let answer: QueryAssignmentResponseBody = answer.json()?;
            if let Some(assignments) = answer.message_queue_assignments {
                let queues = assignments.into_iter().map(|assigned| assigned.message_queue).collect();
                let _ = told.send((Instant::now(), Assigned { member: self.number, queues }));
            }
            if self.notices.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

fn json_body<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("bodies have text keys")
}

/// Who has which queue, as the members were told last.
struct Shares {
    of_members: Vec<Vec<MessageQueue>>,
    holders: HashMap<MessageQueue, u32>,
    /// Queues that exactly one member has.
    held_once: usize,
    /// Queues there are.
    queues: usize,
}

impl Shares {
    fn new(members: usize, queues: usize) -> Self {
        Self { of_members: vec![Vec::new(); members], holders: HashMap::new(), held_once: 0, queues }
    }

    fn take(&mut self, Assigned { member, queues }: Assigned) {
        for queue in std::mem::take(&mut self.of_members[member]) {
            self.count(queue, |holders| holders - 1);
        }
        self.of_members[member].clone_from(&queues);
        for queue in queues {
            self.count(queue, |holders| holders + 1);
        }
    }

    fn count(&mut self, queue: MessageQueue, change: impl Fn(u32) -> u32) {
        let holders = self.holders.entry(queue).or_default();
        let before = *holders;
        *holders = change(before);
        self.held_once = self.held_once + usize::from(*holders == 1) - usize::from(before == 1);
    }

    fn is_settled(&self) -> bool {
        // A queue that two have would be missing here.
        self.held_once == self.queues && self.holders.values().all(|holders| *holders <= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_shared_when_each_has_one_holder() {
        let queue = |id: i32| MessageQueue { broker_name: "b".into(), queue_id: id, topic: "T".into() };
        let mut shares = Shares::new(2, 2);
        let mut told = |member: usize, ids: &[i32]| {
            shares.take(Assigned { member, queues: ids.iter().copied().map(queue).collect() });
            shares.is_settled()
        };
        assert!(told(0, &[0, 1]), "one has all");
        assert!(!told(1, &[1]), "both have the second");
        assert!(told(0, &[0]));
        assert!(!told(0, &[]), "nobody has the first");
        assert!(!told(1, &[0, 0, 1]));
    }
}
