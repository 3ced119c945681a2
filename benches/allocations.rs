//! How often does a broker ask for memory for a message that is sent to it, and how much does it keep for a queue?
//!
//! A whole broker in this process, and a client that asks for none itself; bodies of 1 KiB, 16 queues, JSON headers.
//! `cargo bench --bench allocations` tells, `cargo test` looks that nobody has made it much worse.
//!
//! 35 for a message that goes alone, 33 with 16 on their way (one for each queue), 19 with 64 (four for each), 15 with 256. A release
//! build, 2026-11-22. The aim is 5. The 68 KB of a message that goes alone are the buffer that its connection reads into,
//! which it does not keep while it is idle. A queue with one message keeps 3.9 KB, in a debug build.

mod frames;

use std::alloc::{GlobalAlloc, Layout};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use frames::send_frame;
use telstar::Broker;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::properties::names;

const BODY_BYTES: usize = 1024;
const QUEUES: i32 = 16;
/// What `cargo test` bears, with 64 messages on their way.
const BEARABLE: f64 = 40.0;

/// Queues of the second topic. More than a few, so that what else is kept does not count.
const MANY_QUEUES: i32 = 256;
/// What `cargo test` bears.
const BEARABLE_FOR_A_QUEUE: i64 = 4_800;

/// The allocator of the program, with somebody at the door.
struct Counting(mimalloc::MiMalloc);

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Given out and not given back.
static KEPT: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(mimalloc::MiMalloc);

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    KEPT.fetch_add(bytes as i64, Ordering::Relaxed);
}

fn give_back(bytes: usize) {
    KEPT.fetch_sub(bytes as i64, Ordering::Relaxed);
}

#[allow(unsafe_code)]
// SAFETY: every call is handed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        give_back(layout.size());
        unsafe { self.0.realloc(place, layout, new_size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        give_back(layout.size());
        unsafe { self.0.dealloc(place, layout) }
    }
}

/// Sends frames that were made before, so many at once, and reads the answers.
struct Sender {
    socket: TcpStream,
    /// As many frames as are sent at once, to all queues in turn.
    frames: Vec<u8>,
    at_once: usize,
    input: Vec<u8>,
}

impl Sender {
    /// Sends one message to each of these queues at once.
    fn connect(broker: &Broker, topic: &str, queues: i32, queue_ids: impl Iterator<Item = i32>) -> Self {
        let socket = TcpStream::connect(broker.broker().expect("it is a broker")).expect("it listens");
        socket.set_nodelay(true).expect("a socket can do that");
        let pairs = [(names::UNIQ_KEY, "7F0000011234000000070000000F0001"), (names::WAIT, "true")];
        let properties = telstar::protocol::properties::encode(pairs);
        let frame = |id| send_frame(HeaderCodec::Json, topic, queues, id, &properties, BODY_BYTES);
        let frames: Vec<BytesMut> = queue_ids.map(frame).collect();
        Self { socket, at_once: frames.len(), frames: frames.concat(), input: vec![0; 256 * 1024] }
    }

    fn round(&mut self) {
        self.socket.write_all(&self.frames).expect("the broker reads");
        let (mut read, mut answers, mut at) = (0, 0, 0);
        while answers < self.at_once {
            let more = self.socket.read(&mut self.input[read..]).expect("the broker answers");
            assert!(more > 0, "the broker has closed the connection");
            read += more;
            while let Some(len) = self.input[at..read].first_chunk::<4>() {
                let end = at + 4 + u32::from_be_bytes(*len) as usize;
                if end > read {
                    break;
                }
                (at, answers) = (end, answers + 1);
            }
        }
        assert_eq!(at, read, "nothing but answers");
    }
}

/// Allocations of a message, and their bytes.
fn measure(broker: &Broker, at_once: usize, rounds: usize) -> (f64, f64) {
    let mut sender = Sender::connect(broker, "orders", QUEUES, (0..at_once as i32).map(|n| n % QUEUES));
    for _ in 0..rounds {
        sender.round(); // buffers and tables grow to their size
    }
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    for _ in 0..rounds {
        sender.round();
    }
    let messages = (rounds * at_once) as f64;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before.0;
    let bytes = BYTES.load(Ordering::Relaxed) - before.1;
    (allocations as f64 / messages, bytes as f64 / messages)
}

/// What is kept once all that is done behind the answers is done: the same for a while.
fn kept_at_rest() -> i64 {
    let mut kept = KEPT.load(Ordering::Relaxed);
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(200));
        let now = KEPT.load(Ordering::Relaxed);
        if now == kept {
            break;
        }
        kept = now;
    }
    kept
}

/// Bytes that the broker keeps for a queue with one message.
fn measure_queues(broker: &Broker) -> i64 {
    let mut queue_ids = 0..MANY_QUEUES;
    let mut send_to = |queues| {
        Sender::connect(broker, "many", MANY_QUEUES, queue_ids.by_ref().take(queues)).round();
    };
    send_to(8); // the topic is there, and what is made once
    let before = kept_at_rest();
    let mut left = MANY_QUEUES as usize - 8;
    let measured = left as i64;
    while left > 0 {
        let now = left.min(64);
        send_to(now);
        left -= now;
    }
    (kept_at_rest() - before) / measured
}

fn main() {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let messages = if is_bench { 51_200 } else { 6_400 };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker = Broker::builder().data_dir(dir.path()).set("broker.default_queue_nums", MANY_QUEUES);
    let broker = broker.start().expect("a broker starts");
    println!("{:>8} {:>12} {:>8}", "at once", "allocations", "bytes");
    for at_once in [1, 16, 64, 256] {
        let (allocations, bytes) = measure(&broker, at_once, messages / at_once);
        println!("{at_once:>8} {allocations:>12.1} {bytes:>8.0}");
        assert!(
            is_bench || at_once < 64 || allocations < BEARABLE,
            "{allocations} allocations for a message"
        );
    }
    let kept = measure_queues(&broker);
    println!("kept for a queue: {kept} bytes");
    assert!(is_bench || kept < BEARABLE_FOR_A_QUEUE, "{kept} bytes for a queue");
    broker.stop().expect("it stops");
}
