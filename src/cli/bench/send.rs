//! `telstar bench send`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::figures::{Figures, Report};
use super::frame::{FIRST_OPAQUE, SendFrames, SendShape, remark_of, stamp_of};
use super::run::{Goal, Moments, Progress, RunArgs, run_jobs, share, tell};
use super::schedule::Schedule;
use super::socket::Socket;
use super::target::{BrokerQueues, TargetArgs, by_broker};
use super::timer::Timer;
use crate::cli::args::{parse_rate, parse_size};
use crate::cli::error::CliError;
use crate::clock::{Clock, SystemClock};
use crate::protocol::frame::HeaderCodec;
use crate::protocol::response_code::ResponseCode;
use crate::types::TopicName;

/// Frames are not piled up beyond this before they go out.
const OUTPUT_BYTES: usize = 256 * 1024;
/// Silence after which the missing answers are given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often silence is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Measure how fast a server stores messages
#[derive(Debug, Args)]
#[command(after_help = "\
Without --rate every connection keeps a window of unanswered messages: that is the most the server takes,
and latency is what it takes at that load. With --rate messages are meant for fixed times, and latency counts
from these, however late they are really sent.

Examples:
  telstar bench send
  telstar bench send --conns 8 --window 128 --size 256 --duration 30s --server-pid 4242
  telstar bench send --rate 20k/s --json
  telstar bench send --batch 16 --codec binary --count 1m
  telstar bench send --topics 6250 --queues 8
  telstar bench send --broker 127.0.0.1:10999")]
pub struct SendBenchArgs {
    #[command(flatten)]
    senders: SenderArgs,
    /// Messages in each frame
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), default_value = "1")]
    batch: u16,
    /// Send to so many topics in turn: the one of --topic with -0, -1, … behind its name
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), default_value = "1")]
    topics: u32,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// How messages are sent.
#[derive(Clone, Debug, Args)]
pub struct SenderArgs {
    /// Connections that send
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "4")]
    conns: u16,
    /// Unanswered frames on each of them, at most
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value = "64")]
    pub window: u32,
    /// Length of each body, bytes
    #[arg(short, long, value_parser = parse_size, default_value = "1024")]
    size: usize,
    /// Send so many messages per second, over all connections
    #[arg(short, long, value_name = "N/s", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How headers are written; clients use JSON unless told otherwise
    #[arg(long, value_enum, default_value = "json")]
    pub codec: Codec,
}

impl SenderArgs {
    pub fn connections(&self) -> usize {
        usize::from(self.conns)
    }

    /// Messages for `topic`, one by one.
    pub fn shape(&self, topic: &TopicName) -> SendShape {
        SendShape::new(self.codec.into(), topic, self.size)
    }

    /// When the connection at `index` sends its frames, of `batch` messages each; `None`: as fast as answers come.
    pub fn schedule(&self, start: Instant, batch: usize, index: usize) -> Option<Schedule> {
        let frames_per_second = self.rate? / batch as f64;
        Some(Schedule::new(start, frames_per_second, index, self.connections()))
    }

    /// What the latencies are.
    pub fn latency_of(&self) -> &'static str {
        if self.rate.is_some() { "latency from intended time" } else { "latency" }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Codec {
    /// As most clients do
    Json,
    /// RocketMQ's own
    Binary,
}

impl From<Codec> for HeaderCodec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Json => HeaderCodec::Json,
            Codec::Binary => HeaderCodec::Binary,
        }
    }
}

/// Where to send, the same for each of the topics.
pub struct Prepared {
    topics: Vec<String>,
    brokers: Vec<BrokerQueues>,
}

pub async fn prepare(args: &SendBenchArgs) -> Result<Prepared, CliError> {
    if args.topics == 1 {
        let topics = vec![args.target.topic.to_string()];
        return Ok(Prepared { topics, brokers: by_broker(&args.target.write_queues().await?) });
    }
    let mut prepared = Prepared { topics: Vec::new(), brokers: Vec::new() };
    for number in 0..args.topics {
        let topic = TopicName::from(format!("{}-{number}", args.target.topic));
        let target = TargetArgs { topic: topic.clone(), ..args.target.clone() };
        let brokers = by_broker(&target.write_queues().await?);
        if number > 0 && brokers != prepared.brokers {
            let what = format!("topic {topic} has other queues than those before; give --queues");
            return Err(CliError::Bench(what));
        }
        prepared.topics.push(topic.to_string());
        prepared.brokers = brokers;
    }
    Ok(prepared)
}

pub fn run(args: SendBenchArgs, Prepared { topics, brokers }: Prepared) -> Result<(), CliError> {
    let moments = Moments::of(&args.run);
    let progress = Progress::default();
    let connections = args.senders.connections();
    let batch = usize::from(args.batch);
    let jobs = (0..connections).map(|index| {
        let broker = &brokers[index % brokers.len()];
        let shape = SendShape { batch, topics: topics.clone(), ..args.senders.shape(&args.target.topic) };
        let frames = args.run.count.map(|count| count.div_ceil(batch as u64));
        let job = SendJob {
            addr: broker.addr.clone(),
            queue_ids: broker.queue_ids.clone(),
            shape,
            window: args.senders.window,
            schedule: args.senders.schedule(moments.start, batch, index),
            frames: frames.map(|frames| share(frames, index, connections)),
            moments,
            stamp: None,
            progress: progress.clone(),
        };
        move || job.run()
    });
    let goal = Goal::of(&args.run, moments);
    let (figures, costs) = run_jobs(jobs.collect(), &args.run.watch, moments, goal, &progress)?;
    let elapsed = figures.elapsed(moments.measure_from);
    tell(&Report::new(&figures, elapsed, args.senders.latency_of(), &costs), &args.run.watch)
}

/// What one connection sends.
pub struct SendJob {
    pub addr: String,
    pub queue_ids: Vec<i32>,
    pub shape: SendShape,
    pub window: u32,
    /// `None`: as fast as answers come.
    pub schedule: Option<Schedule>,
    /// Frames to be measured; `None`: until the moment is over.
    pub frames: Option<u64>,
    pub moments: Moments,
    /// Number of the run to write into bodies, with the time they were meant for.
    pub stamp: Option<u64>,
    /// Counts measured messages that are stored.
    pub progress: Progress,
}

/// A frame on its way. Its place in the table is its opaque number.
#[derive(Clone, Copy)]
struct Slot {
    intended: Instant,
    is_measured: bool,
    in_use: bool,
}

struct Sender {
    job: SendJob,
    socket: Socket,
    frames: SendFrames,
    slots: Vec<Slot>,
    free: Vec<u32>,
    next_queue: usize,
    frames_left: Option<u64>,
    figures: Figures,
    is_done: bool,
}

impl SendJob {
    pub async fn run(self) -> Result<Figures, CliError> {
        let failed = |addr: &str, error: &dyn std::fmt::Display| CliError::Bench(format!("{addr}: {error}"));
        let addr = self.addr.clone();
        let socket = Socket::connect(&addr).await.map_err(|error| failed(&addr, &error))?;
        let mut timer = Timer::new().map_err(CliError::Runtime)?;
        let unused = Slot { intended: self.moments.start, is_measured: false, in_use: false };
        let mut sender = Sender {
            socket,
            frames: SendFrames::new(&self.shape, &self.queue_ids),
            slots: vec![unused; self.window as usize],
            free: (0..self.window).rev().collect(),
            // Connections do not all begin at the same queue.
            next_queue: self.shape.key_prefix as usize % (self.queue_ids.len() * self.shape.topics.len()),
            frames_left: self.frames,
            figures: Figures::default(),
            is_done: false,
            job: self,
        };
        sender.carry(&mut timer).await.map_err(|error| failed(&addr, &error))?;
        Ok(sender.figures)
    }
}

impl Sender {
    async fn carry(&mut self, timer: &mut Timer) -> std::io::Result<()> {
        let start = self.job.moments.start;
        while Instant::now() < start {
            timer.at(start, Instant::now()).await?;
        }
        let mut heard_at = Instant::now();
        let mut look_at = heard_at + LOOK_EVERY;
        loop {
            let now = Instant::now();
            self.fill(now);
            self.socket.write()?;
            if self.is_done && self.in_flight() == 0 {
                return Ok(());
            }
            let mut wake_at = look_at;
            // What is due and has no room waits for the socket, not for its time, which may have come.
            if let Some(schedule) = self.job.schedule.as_ref().filter(|_| self.has_room()) {
                wake_at = wake_at.min(schedule.due());
            }
            tokio::select! {
                biased;
                ready = self.socket.ready() => ready?,
                rung = timer.at(wake_at, now) => rung?,
            }
            if self.socket.read()? && self.take_answers()? {
                heard_at = Instant::now();
            }
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                if self.in_flight() == 0 {
                    heard_at = now;
                } else if now.saturating_duration_since(heard_at) > PATIENCE {
                    self.give_up();
                    return Ok(());
                }
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// For a frame more.
    fn has_room(&self) -> bool {
        !self.is_done && !self.free.is_empty() && self.socket.unwritten() < OUTPUT_BYTES
    }

    /// Appends every frame that may go out now.
    fn fill(&mut self, now: Instant) {
        self.frames.set_born_at(SystemClock.now().0);
        while self.has_room() {
            let intended = match &mut self.job.schedule {
                None => now,
                Some(schedule) => match schedule.take(now) {
                    Some(due) => due,
                    None => return,
                },
            };
            let is_measured = intended >= self.job.moments.measure_from;
            if self.job.moments.until.is_some_and(|until| intended >= until) || self.frames_left == Some(0) {
                self.is_done = true;
                return;
            }
            if is_measured {
                self.frames_left = self.frames_left.map(|left| left - 1);
            }
            let Some(slot) = self.free.pop() else { return };
            self.slots[slot as usize] = Slot { intended, is_measured, in_use: true };
            let stamp = self.job.stamp.map(|run| stamp_of(run, intended - self.job.moments.start));
            self.frames.append(self.socket.output(), self.next_queue, FIRST_OPAQUE + slot as i32, stamp);
            self.next_queue = (self.next_queue + 1) % self.frames.queues();
        }
    }

    /// Settles every answer that is read; whether there was one.
    fn take_answers(&mut self) -> std::io::Result<bool> {
        let now = Instant::now();
        let batch = self.frames.batch() as u64;
        let mut stored = 0;
        let mut any = false;
        while let Some((seen, frame)) = self.socket.next_frame().map_err(std::io::Error::other)? {
            let slot = seen.opaque.wrapping_sub(FIRST_OPAQUE) as usize;
            let Some(slot) = self.slots.get_mut(slot).filter(|slot| slot.in_use) else { continue };
            slot.in_use = false;
            self.free.push((seen.opaque - FIRST_OPAQUE) as u32);
            any = true;
            if !slot.is_measured {
                continue;
            }
            self.figures.last = Some(now);
            if !ResponseCode::from_i32(seen.code).is_success() {
                let remark = || remark_of(&seen, frame);
                self.figures.refuse(seen.code, batch, remark);
            }
            if is_stored(seen.code) {
                self.figures.latencies.record_many(now - slot.intended, batch);
                stored += batch;
            }
        }
        if stored > 0 {
            self.figures.messages += stored;
            self.figures.bytes += stored * self.job.shape.body_bytes as u64;
            self.job.progress.fetch_add(stored, Ordering::Relaxed);
        }
        Ok(any)
    }

    fn give_up(&mut self) {
        let missing = self.slots.iter().filter(|slot| slot.in_use && slot.is_measured).count();
        self.figures.unanswered += (missing * self.frames.batch()) as u64;
    }
}

/// Stored, if not always as durably as the server should.
fn is_stored(code: i32) -> bool {
    matches!(
        ResponseCode::from_i32(code),
        ResponseCode::SUCCESS
            | ResponseCode::FLUSH_DISK_TIMEOUT
            | ResponseCode::SLAVE_NOT_AVAILABLE
            | ResponseCode::FLUSH_SLAVE_TIMEOUT
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::cli::bench::sink::swallow;

    #[tokio::test]
    async fn more_than_a_socket_takes_is_due_at_once_and_all_of_it_goes_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        // On the same thread: a sender that does not wait keeps it from reading.
        tokio::spawn(async move { swallow(listener.accept().await.unwrap().0).await });
        let moments = Moments::at_once();
        let (frames, body_bytes) = (1_000, 64 * 1024);
        let job = SendJob {
            addr,
            queue_ids: vec![0],
            shape: SendShape::new(HeaderCodec::Json, &TopicName::from("T"), body_bytes),
            window: frames as u32,
            schedule: Some(Schedule::new(moments.start, 1e9, 0, 1)),
            frames: Some(frames),
            moments,
            stamp: None,
            progress: Progress::default(),
        };
        let sent = job.run().await.unwrap();
        assert_eq!((sent.messages, sent.unanswered), (frames, 0));
    }
}
