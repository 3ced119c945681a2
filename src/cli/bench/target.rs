//! Which queues a benchmark uses, and where they are.

use std::time::Duration;

use clap::Args;

use crate::cli::args::ServerArgs;
use crate::cli::brokers::all_masters;
use crate::cli::error::CliError;
use crate::client::Servers;
use crate::client::queue_reader::Extent;
use crate::client::remoting::Call;
use crate::client::route::{self, QueueAt};
use crate::protocol::header::CreateTopic;
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::request_code::RequestCode;
use crate::types::{MessageQueue, TopicName};

/// Queues of a topic that is created for the purpose.
const DEFAULT_QUEUES: u32 = 16;

/// What to run against.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// The topic; it is created if it does not exist
    #[arg(short, long, default_value = "TelstarBench")]
    pub topic: TopicName,
    /// Queues on each broker; a topic that exists is altered. Default: those it has, 16 for a new one
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub queues: Option<u32>,
    /// Ask no name server, use this broker
    #[arg(short, long, value_name = "ADDR")]
    pub broker: Option<String>,
    #[command(flatten)]
    pub servers: ServerArgs,
}

/// A broker and the queues it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerQueues {
    pub addr: String,
    pub queue_ids: Vec<i32>,
}

impl TargetArgs {
    /// The queues to send to, at least one; the topic is made to fit.
    pub async fn write_queues(&self) -> Result<Vec<QueueAt>, CliError> {
        let queues = self.fitting_queues().await?;
        match queues.is_empty() {
            true => Err(CliError::Bench(format!("topic {} has no queue that can be written", self.topic))),
            false => Ok(queues),
        }
    }

    async fn fitting_queues(&self) -> Result<Vec<QueueAt>, CliError> {
        let mut servers = self.servers.servers();
        if let Some(addr) = &self.broker {
            return self.queues_of_broker(&mut servers, addr).await;
        }
        if let Some(found) = servers.find_route(&self.topic).await? {
            let queues = route::write_queues(&self.topic, &found);
            let per_broker = queues.len() / route::masters(&found).len().max(1);
            if !queues.is_empty() && self.queues.is_none_or(|wanted| wanted as usize == per_broker) {
                return Ok(queues);
            }
        }
        for master in all_masters(&mut servers).await? {
            servers.call(&master.addr, self.create()).await?;
        }
        // Brokers register before they answer, but a name server may be another one than ours.
        for _ in 0..50 {
            if let Some(found) = servers.find_route(&self.topic).await? {
                return Ok(route::write_queues(&self.topic, &found));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let name_servers = servers.name_servers();
        Err(CliError::TopicUnknown { topic: self.topic.clone(), name_servers })
    }

    /// The queues to read from; the topic must exist.
    pub async fn read_queues(&self) -> Result<Vec<QueueAt>, CliError> {
        let mut servers = self.servers.servers();
        match &self.broker {
            Some(addr) => self.queues_of_broker(&mut servers, addr).await,
            None => Ok(route::read_queues(&self.topic, &servers.route(&self.topic).await?)),
        }
    }

    /// Offsets `[min, max)` of each queue.
    pub async fn offsets(&self, queues: &[QueueAt]) -> Result<Vec<std::ops::Range<i64>>, CliError> {
        let mut servers = self.servers.servers();
        let mut ranges = Vec::with_capacity(queues.len());
        for at in queues {
            let Extent { min, max } = servers.extent(at).await?;
            ranges.push(min..max);
        }
        Ok(ranges)
    }

    async fn queues_of_broker(&self, servers: &mut Servers, addr: &str) -> Result<Vec<QueueAt>, CliError> {
        servers.call(addr, self.create()).await?;
        let queue = |id: u32| QueueAt {
            queue: MessageQueue { broker_name: addr.into(), queue_id: id as i32, topic: self.topic.clone() },
            addr: addr.to_owned(),
        };
        Ok((0..self.queues.unwrap_or(DEFAULT_QUEUES)).map(queue).collect())
    }

    fn create(&self) -> Call {
        let queues = self.queues.unwrap_or(DEFAULT_QUEUES) as i32;
        Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&CreateTopic {
            topic: self.topic.clone(),
            default_topic: DEFAULT_TOPIC.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: 6,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_sys_flag: 0,
            order: false,
            attributes: None,
        })
    }
}

/// Queues gathered by broker, in the order of the brokers' first queues.
pub fn by_broker(queues: &[QueueAt]) -> Vec<BrokerQueues> {
    let mut brokers: Vec<BrokerQueues> = Vec::new();
    for QueueAt { queue, addr } in queues {
        match brokers.iter_mut().find(|broker| broker.addr == *addr) {
            Some(broker) => broker.queue_ids.push(queue.queue_id),
            None => brokers.push(BrokerQueues { addr: addr.clone(), queue_ids: vec![queue.queue_id] }),
        }
    }
    brokers
}
