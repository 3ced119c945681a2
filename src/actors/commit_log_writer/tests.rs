use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::actors::context::Pulse;
use crate::actors::facts::Progress;
use crate::actors::flusher::FlushWanted;
use crate::actors::log_flush::LogFlush;
use crate::clock::{ManualClock, SharedClock, WallMs};
use crate::store::commit_log::CommitLogReader;
use crate::store::file::StoreFiles;
use crate::store::memory_files::{FileOperation, MemoryFiles};
use crate::testing::log::{SEGMENT_BYTES, TestLog, message, message_with};
use crate::testing::{RuntimeClock, Taken, fake_sink};

const RULES: BusyRules = BusyRules { crowd: 3, crowded_turns: 4, lone_turns: 10 };

struct Bench {
    writer: Addr<CommitLogWriter>,
    log: CommitLogReader,
    files: MemoryFiles,
    signal: PublishedSignal,
    told: Taken<LogPublished>,
    flushes: Taken<FlushWanted>,
    queue: Recipient<BatchAppended>,
    answers: Taken<BatchAppended>,
}

fn start() -> Bench {
    start_at(RuntimeClock::shared())
}

fn start_at(clock: SharedClock) -> Bench {
    start_with(clock, None)
}

fn start_with(clock: SharedClock, busy: Option<Addr<BusyWriter>>) -> Bench {
    let TestLog { files, appender, reader, .. } = TestLog::new();
    let (dispatcher, told) = fake_sink::<LogPublished>();
    let (queue, answers) = fake_sink::<BatchAppended>();
    let signal = PublishedSignal::default();
    let (flusher, flushes) = fake_sink::<FlushWanted>();
    let flush = LogFlush::new(reader.clone(), Progress::default());
    let at_rest = FlushAtRest::new(flush, flusher.clone(), dispatcher.clone(), signal.clone());
    let half = WriteHalf::new(appender, dispatcher, flusher, signal.clone(), clock);
    let helpers = busy.map(|busy| Helpers { busy, at_rest });
    let writer = CommitLogWriter::new(half, helpers, RULES, 64).start();
    Bench { writer, log: reader, files, signal, told, flushes, queue, answers }
}

impl Bench {
    fn ask(&self, sends: Vec<SendUnit>, first: u64) {
        let batch = AppendBatch {
            sends,
            first_queue_offset: QueueOffset(first),
            reply_to: Arc::new(self.queue.clone()),
            flushed_to: None,
            sender_waits: false,
        };
        self.writer.try_send(batch).unwrap();
    }

    async fn append(&mut self, sends: Vec<SendUnit>, first: u64) -> BatchAppended {
        self.ask(sends, first);
        self.answers.next().await
    }

    fn bodies(&self) -> Vec<(u64, String)> {
        let mut seen = Vec::new();
        let take = |_, record: crate::protocol::message::RecordView<'_>| {
            seen.push((record.queue_offset().0, String::from_utf8_lossy(record.body()).into_owned()))
        };
        self.log.for_each_record(PhysicalOffset(0), u64::MAX, take).unwrap();
        seen
    }
}

fn one(body: &str) -> SendUnit {
    vec![message("T", body)]
}

fn impossible() -> SendUnit {
    vec![message("T", "before it"), message_with("T", "x", &[("k", &"v".repeat(40_000))])]
}

fn owned(seen: &[(u64, &str)]) -> Vec<(u64, String)> {
    seen.iter().map(|(n, body)| (*n, (*body).to_owned())).collect()
}

#[actix::test]
async fn refused_send_burns_no_queue_offset_and_the_others_are_stored() {
    let mut bench = start();
    let batch = vec![one("a"), impossible(), vec![message("T", "b"), message("T", "c")], one("d")];
    let answer = bench.append(batch, 7).await;
    assert_eq!(answer.next_queue_offset, QueueOffset(11));
    let firsts: Vec<_> = answer
        .outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map(|stored| stored.first_queue_offset.0).ok())
        .collect();
    assert_eq!(firsts, [Some(7), None, Some(8), Some(10)]);
    assert!(matches!(answer.outcomes[1], Err(Refusal::MessageIllegal { .. })));
    assert_eq!(bench.bodies(), owned(&[(7, "a"), (8, "b"), (9, "c"), (10, "d")]));
}

#[actix::test]
async fn position_is_published_before_anybody_is_told_of_it() {
    let TestLog { appender, reader, .. } = TestLog::new();
    let (seen, mut published) = tokio::sync::mpsc::unbounded_channel();
    let (log, told) = (reader.clone(), seen.clone());
    let (dispatcher, _) = crate::testing::fake_mailbox()
        .answers(move |_: &LogPublished| {
            told.send(("dispatcher", log.published(), None)).unwrap();
        })
        .start();
    let (queue, _) = crate::testing::fake_mailbox()
        .answers(move |answer: &BatchAppended| {
            let end = answer.outcomes[0].as_ref().unwrap().end;
            seen.send(("queue", reader.published(), Some(end))).unwrap();
        })
        .start();
    let signal = PublishedSignal::default();
    let (flusher, _) = fake_sink::<FlushWanted>();
    let half = WriteHalf::new(appender, dispatcher, flusher, signal, RuntimeClock::shared());
    let writer = CommitLogWriter::new(half, None, RULES, 64).start();
    writer.do_send(AppendBatch {
        sends: vec![one("a")],
        first_queue_offset: QueueOffset(0),
        reply_to: Arc::new(queue),
        flushed_to: None,
        sender_waits: false,
    });
    let (who, at, end) = published.recv().await.unwrap();
    assert_eq!((who, Some(at)), ("queue", end), "the queue hears first");
    let (who, at, _) = published.recv().await.unwrap();
    assert_eq!((who, Some(at)), ("dispatcher", end));
}

#[actix::test]
async fn dispatcher_is_told_once_until_it_looks() {
    let mut bench = start();
    for n in 0..5 {
        bench.ask(vec![one("a")], n);
    }
    for _ in 0..5 {
        bench.answers.next().await;
    }
    bench.append(vec![one("b")], 5).await;
    bench.told.next().await;
    assert!(bench.told.try_recv().is_err(), "five batches of one turn and a later one tell once");
    bench.signal.take();
    bench.append(vec![one("c")], 6).await;
    bench.told.next().await;
}

/// Who looks on another thread sees what is published meanwhile, or is told again.
#[test]
fn nothing_that_is_published_during_a_look_is_missed() {
    const ROUNDS: u64 = 100_000;
    const GIVEN_UP_AFTER: std::time::Duration = std::time::Duration::from_secs(10);
    let signal = PublishedSignal::default();
    let (published, told, seen) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let look_until_all_is_seen = || {
        let mut looked = 0;
        while seen.load(Ordering::Relaxed) < 2 * ROUNDS {
            let tellings = told.load(Ordering::Acquire);
            if tellings != looked {
                looked = tellings;
                signal.take();
                seen.store(published.load(Ordering::Acquire), Ordering::Release);
            }
        }
    };
    let publish = |number| {
        published.store(number, Ordering::Release);
        if signal.raise() {
            told.fetch_add(1, Ordering::Release);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(look_until_all_is_seen);
        for round in 0..ROUNDS {
            publish(2 * round + 1);
            (0..round % 100).for_each(|_| std::hint::spin_loop());
            publish(2 * round + 2);
            let begun = std::time::Instant::now();
            while seen.load(Ordering::Acquire) < 2 * round + 2 {
                if begun.elapsed() > GIVEN_UP_AFTER {
                    seen.store(2 * ROUNDS, Ordering::Relaxed); // lets the other thread end
                    panic!("what was published in round {round} was missed");
                }
            }
        }
    });
}

#[actix::test]
async fn writes_are_refused_with_the_cause_and_taken_again() {
    let mut bench = start();
    bench.writer.send(RefuseWrites(Some("the disk is 91 % full".into()))).await.unwrap();
    let answer = bench.append(vec![one("a"), one("b")], 3).await;
    for outcome in &answer.outcomes {
        let refusal = outcome.as_ref().unwrap_err();
        assert!(refusal.to_string().contains("the disk is 91 % full"), "{refusal}");
        assert!(matches!(refusal, Refusal::NotWritable { .. }));
    }
    assert_eq!((answer.next_queue_offset, answer.stored_bytes), (QueueOffset(3), 0));
    assert_eq!(bench.log.published(), PhysicalOffset(0));
    bench.writer.send(RefuseWrites(None)).await.unwrap();
    assert!(bench.append(vec![one("a")], 3).await.outcomes[0].is_ok());
    assert_eq!(bench.bodies(), owned(&[(3, "a")]));
}

#[actix::test]
async fn full_disk_refuses_what_needs_a_segment_and_the_log_goes_on() {
    let mut bench = start();
    let large = "x".repeat(10_000);
    bench.append(vec![one(&large)], 0).await;
    bench.files.set_capacity(Some(SEGMENT_BYTES + 1));
    let answer = bench.append(vec![one(&large), one("small")], 1).await;
    assert!(matches!(answer.outcomes[0], Err(Refusal::NotWritable { .. })), "{:?}", answer.outcomes[0]);
    assert_eq!(answer.outcomes[1].as_ref().unwrap().first_queue_offset, QueueOffset(1));
    bench.files.set_capacity(None);
    assert!(bench.append(vec![one(&large)], 2).await.outcomes[0].is_ok());
    assert_eq!(bench.bodies(), owned(&[(0, &large), (1, "small"), (2, &large)]));
}

#[actix::test]
async fn those_who_wait_for_the_disk_share_one_flush_a_turn() {
    let mut bench = start();
    let waiting = Arc::new(fake_sink::<LogFlushed>().0);
    for (n, flushed_to) in [Some(waiting.clone()), None, Some(waiting)].into_iter().enumerate() {
        let sends = vec![one("a")];
        let first_queue_offset = QueueOffset(n as u64);
        let (reply_to, sender_waits) = (Arc::new(bench.queue.clone()), flushed_to.is_some());
        bench.writer.do_send(AppendBatch { sends, first_queue_offset, reply_to, flushed_to, sender_waits });
    }
    for _ in 0..3 {
        bench.answers.next().await;
    }
    assert_eq!(bench.flushes.next().await.tell.len(), 2);
    bench.append(vec![one("b")], 3).await;
    assert!(bench.flushes.try_recv().is_err(), "nobody waits for the others");
}

#[actix::test]
async fn failed_write_refuses_the_sends_of_its_turn_and_frees_their_numbers() {
    let mut bench = start();
    bench.append(vec![one("before")], 0).await;
    bench.files.fail_next(FileOperation::Write, io::ErrorKind::Other);
    // Both batches are handled in one turn.
    bench.ask(vec![one("lost"), vec![message("T", "lost"), message("T", "lost")]], 1);
    bench.ask(vec![impossible(), one("lost too")], 9);
    for next in [1, 9] {
        let answer = bench.answers.next().await;
        assert!(answer.outcomes.iter().all(Result::is_err), "{answer:?}");
        assert_eq!((answer.next_queue_offset, answer.stored_bytes), (QueueOffset(next), 0));
    }
    bench.append(vec![one("after")], 1).await;
    assert_eq!(bench.bodies(), owned(&[(0, "before"), (1, "after")]));
}

#[actix::test]
async fn what_was_written_early_stays_when_the_rest_of_the_turn_fails() {
    let mut bench = start();
    let large = "x".repeat(10_000);
    // The second needs a new segment, so the first is written before it.
    bench.ask(vec![one(&large), one(&large), one("behind")], 0);
    bench.files.fail_after(FileOperation::Write, 2, io::ErrorKind::StorageFull); // the record, the blank; then the rest
    let answer = bench.answers.next().await;
    let stored: Vec<_> = answer.outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(stored, [true, false, false]);
    assert_eq!(answer.next_queue_offset, QueueOffset(1));
    assert_eq!(answer.stored_bytes, message("T", &large).record_len() as u64);
    bench.append(vec![one("after")], 1).await;
    assert_eq!(bench.bodies(), owned(&[(0, &large), (1, "after")]));
}

#[actix::test]
async fn stored_bytes_are_those_of_the_records_also_when_a_segment_ends() {
    let mut bench = start();
    let large = "x".repeat(10_000);
    let len = message("T", &large).record_len() as u64;
    assert_eq!(bench.append(vec![one(&large)], 0).await.stored_bytes, len);
    let over_the_end = bench.append(vec![one(&large)], 1).await;
    assert_eq!(over_the_end.outcomes[0].as_ref().unwrap().physical_offsets[0].0, SEGMENT_BYTES);
    assert_eq!(over_the_end.stored_bytes, len, "the blank is no record");
}

#[actix::test]
async fn tail_is_published_up_to_every_append_asked_for_before() {
    let clock = ManualClock::at(WallMs(5_000));
    let bench = start_at(clock);
    bench.ask(vec![one("a"), one("b")], 0);
    let tail = bench.writer.send(QueryLogTail).await.flatten().unwrap();
    assert_eq!((tail.end, tail.last_stored_at), (bench.log.published(), WallMs(5_000)));
    assert_eq!(bench.bodies().len(), 2);
}

#[actix::test]
async fn segments_leave_the_log_and_their_files_stay_for_whoever_asked() {
    let mut bench = start();
    for n in 0..3 {
        bench.append(vec![one(&"x".repeat(10_000))], n).await;
    }
    let retire = RetireSegmentsBefore { offset: PhysicalOffset(2 * SEGMENT_BYTES), max_segments: 1 };
    let mut retired = bench.writer.send(retire).await.flatten().unwrap();
    assert_eq!((retired.len(), bench.log.min_offset()), (1, PhysicalOffset(SEGMENT_BYTES)));
    let file = Path::new("/commitlog/00000000000000000000");
    assert!(bench.files.stat(file).unwrap().is_some());
    assert!(retired.remove_oldest().unwrap());
    assert!(bench.files.stat(file).unwrap().is_none());
    assert!(!retired.remove_oldest().unwrap(), "that was all");
    assert_eq!(bench.writer.send(retire).await.flatten().unwrap().len(), 1);
    assert_eq!(bench.writer.send(retire).await.flatten().unwrap().len(), 0);
}

/// A writer with a busy one beside it, which has taken over by now; the number of the next message.
async fn start_crowded() -> (Bench, Addr<BusyWriter>, u64) {
    let busy = BusyWriter::new(RULES, 64).start();
    let mut bench = start_with(RuntimeClock::shared(), Some(busy.clone()));
    let mut next = 0;
    for turn in 0..RULES.crowded_turns {
        assert!(!writes(&busy).await, "after {turn} turns");
        let crowd = (0..RULES.crowd).map(|_| one("crowd")).collect();
        next = bench.append(crowd, next).await.next_queue_offset.0;
    }
    assert!(writes(&busy).await);
    (bench, busy, next)
}

/// Whether the busy writer has the write half.
async fn writes(busy: &Addr<BusyWriter>) -> bool {
    busy.send(Pulse).await.unwrap().facts.get("writes").is_none()
}

#[actix::test]
async fn lone_sends_of_many_turns_are_written_here() {
    let busy = BusyWriter::new(RULES, 64).start();
    let mut bench = start_with(RuntimeClock::shared(), Some(busy.clone()));
    for n in 0..u64::from(RULES.crowded_turns) * 10 {
        // Crowds that are no more than now and then.
        let sends = if n % u64::from(RULES.crowded_turns) == 0 { RULES.crowd } else { 1 };
        let first = bench.log.published().0; // any number will do
        bench.append((0..sends).map(|_| one("a")).collect(), first).await;
    }
    assert!(!writes(&busy).await);
}

/// What becomes of sends of one turn that are to be on disk: up to where their queue is told that they are, by the writer
/// itself, and how many flushes the flusher is asked for.
async fn flushed_here(sends: usize, sender_waits: bool) -> (Option<PhysicalOffset>, usize) {
    let mut bench = start_with(RuntimeClock::shared(), Some(BusyWriter::new(RULES, 64).start()));
    let (queue, mut told) = fake_sink::<LogFlushed>();
    bench.writer.do_send(waiting_batch(&bench, sends, 0, queue, sender_waits));
    let stored = bench.answers.next().await;
    let end = stored.outcomes.last().unwrap().as_ref().unwrap().end;
    let up_to = told.all().await.first().map(|flushed| flushed.up_to);
    assert!(up_to.is_none_or(|up_to| up_to == end), "all of it is on disk");
    (up_to, bench.flushes.all().await.len())
}

fn waiting_batch(
    bench: &Bench,
    sends: usize,
    first: u64,
    flushed_to: Recipient<LogFlushed>,
    sender_waits: bool,
) -> AppendBatch {
    AppendBatch {
        sends: (0..sends).map(|_| one("a")).collect(),
        first_queue_offset: QueueOffset(first),
        reply_to: Arc::new(bench.queue.clone()),
        flushed_to: Some(Arc::new(flushed_to)),
        sender_waits,
    }
}

#[actix::test]
async fn those_whose_senders_wait_for_the_disk_wake_no_flusher() {
    assert!(matches!(flushed_here(1, true).await, (Some(_), 0)));
    assert!(matches!(flushed_here(20, true).await, (Some(_), 0)));
    assert_eq!(flushed_here(1, false).await, (None, 1), "nobody waits, and this thread has better to do");
}

#[actix::test]
async fn dispatcher_hears_at_once_of_what_nobody_waits_for() {
    let mut bench = start_with(RuntimeClock::shared(), Some(BusyWriter::new(RULES, 64).start()));
    let (queue, mut told) = fake_sink::<LogFlushed>();
    bench.writer.do_send(waiting_batch(&bench, 2, 0, queue.clone(), true));
    bench.answers.next().await;
    assert!(bench.told.try_recv().is_err(), "nobody may see it before it is on disk");
    told.next().await;
    bench.told.next().await;
    bench.signal.take();
    bench.writer.do_send(waiting_batch(&bench, 2, 2, queue, true));
    bench.ask(vec![one("nobody waits")], 4);
    bench.answers.next().await;
    bench.told.next().await;
    assert!(told.try_recv().is_err());
}

#[actix::test]
async fn crowd_that_waits_for_the_disk_stays_with_the_writer() {
    let busy = BusyWriter::new(RULES, 64).start();
    let mut bench = start_with(RuntimeClock::shared(), Some(busy.clone()));
    let (queue, mut told) = fake_sink::<LogFlushed>();
    let crowd = RULES.crowd * 2;
    for turn in 0..u64::from(RULES.crowded_turns) * 3 {
        bench.writer.do_send(waiting_batch(&bench, crowd, turn * crowd as u64, queue.clone(), true));
        let end = bench.answers.next().await.outcomes.last().unwrap().as_ref().unwrap().end;
        assert_eq!(told.next().await.up_to, end);
    }
    assert!(!writes(&busy).await);
    // A crowd beside more that wait stays, too: whoever has it in the other place gives it back for that.
    for _ in 0..RULES.crowded_turns * 2 {
        bench.writer.do_send(waiting_batch(&bench, RULES.crowd + 1, 500, queue.clone(), true));
        bench.ask((0..RULES.crowd).map(|_| one("b")).collect(), 600);
        bench.answers.next().await;
        bench.answers.next().await;
        told.next().await;
    }
    assert!(!writes(&busy).await);
    // Where most do not wait, they are a crowd as ever.
    for turn in 0..RULES.crowded_turns {
        assert!(!writes(&busy).await, "after {turn} turns");
        bench.writer.do_send(waiting_batch(&bench, 1, 1_000, queue.clone(), true));
        bench.ask((0..RULES.crowd).map(|_| one("b")).collect(), 2_000);
        bench.answers.next().await;
        bench.answers.next().await;
        told.next().await;
    }
    assert!(writes(&busy).await);
}

#[actix::test]
async fn busy_writer_gives_back_when_most_wait_for_the_disk() {
    let (mut bench, busy, next) = start_crowded().await;
    let (queue, _told) = fake_sink::<LogFlushed>();
    for turn in 0..RULES.lone_turns {
        assert!(writes(&busy).await, "after {turn} turns");
        bench.writer.do_send(waiting_batch(&bench, 5, next, queue.clone(), true));
        bench.answers.next().await;
        assert_eq!(bench.flushes.next().await.tell.len(), 1, "until then the flusher flushes");
    }
    assert!(!writes(&busy).await);
}

#[actix::test]
async fn crowd_is_written_by_the_busy_writer_until_sends_are_lone_again() {
    let (mut bench, busy, mut next) = start_crowded().await;
    for _ in 0..100 {
        next = bench.append(vec![one("lone"), one("with another")], next).await.next_queue_offset.0;
    }
    assert!(writes(&busy).await, "two at a time are not lone");
    for _ in 0..100 {
        assert_eq!(bench.append(vec![one("lone")], next).await.next_queue_offset.0, next + 1);
        next += 1;
    }
    assert!(!writes(&busy).await);
    assert_eq!(bench.log.published(), bench.writer.send(QueryLogTail).await.flatten().unwrap().end);
    let numbers: Vec<u64> = bench.bodies().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (0..next).collect::<Vec<_>>(), "each once, in their order");
}

#[actix::test]
async fn whoever_writes_answers_what_the_writer_is_asked() {
    let (mut bench, busy, next) = start_crowded().await;
    bench.ask(vec![one("a"), one("b")], next);
    let tail = bench.writer.send(QueryLogTail).await.flatten().unwrap();
    assert_eq!((tail.end, bench.bodies().len() as u64), (bench.log.published(), next + 2));
    bench.answers.next().await;
    bench.writer.send(RefuseWrites(Some("the disk is full".into()))).await.unwrap();
    let refused = bench.append(vec![one("c")], next + 2).await;
    assert!(matches!(refused.outcomes[0], Err(Refusal::NotWritable { .. })));
    let retire = RetireSegmentsBefore { offset: tail.end, max_segments: 1 };
    assert_eq!(bench.writer.send(retire).await.flatten().unwrap().len(), 0, "the only one is in use");
    assert!(writes(&busy).await);
}

#[actix::test]
async fn what_is_asked_while_the_write_half_is_on_its_way_comes_after_what_was_asked_before() {
    let (mut bench, busy, next) = start_crowded().await;
    bench.ask(vec![one("before")], next);
    bench.writer.do_send(LittleToWrite);
    bench.ask(vec![one("after")], next + 1);
    let tail = bench.writer.send(QueryLogTail);
    bench.writer.do_send(RefuseWrites(Some("no more".into())));
    bench.ask(vec![one("too late")], next + 2);
    assert_eq!(tail.await.flatten().unwrap().end, bench.log.published());
    for number in [next + 1, next + 2, next + 2] {
        assert_eq!(bench.answers.next().await.next_queue_offset.0, number);
    }
    let bodies: Vec<_> = bench.bodies().into_iter().skip(next as usize).map(|(_, body)| body).collect();
    assert_eq!(bodies, ["before", "after"]);
    assert!(!writes(&busy).await);
}

#[actix::test]
async fn who_asks_a_writer_that_has_ended_is_told() {
    let (bench, busy, _) = start_crowded().await;
    busy.send(StopBusyWriter).await.unwrap();
    assert!(bench.writer.send(QueryLogTail).await.flatten().is_err());
}

/// As an end of its thread would.
#[derive(Message)]
#[rtype(result = "()")]
struct StopBusyWriter;

impl Handler<StopBusyWriter> for BusyWriter {
    type Result = ();

    fn handle(&mut self, _: StopBusyWriter, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
