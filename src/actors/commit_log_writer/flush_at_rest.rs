//! Flushes of a writer that lives with queues and connections, where cores are few: for those who wait for the disk, as soon
//! as their thread has nothing else to do.
//!
//! Another thread that flushes must be woken, and gets a core when the load leaves it one: long after the disk is done, while
//! everybody waits for it. So the thread that reads, numbers and writes waits for the disk itself. It looks first whether more
//! has come, by turns of the event loop: those who come meanwhile share the flush, and the disk begins while it still looks.
//! After a send that was alone it goes on looking for a while, since its sender comes again and waking a thread takes longer
//! than the rest of the way. The price: where the disk stands still, all else on this thread waits with it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use super::{LogPublished, PublishedSignal};
use crate::actors::flusher::{FlushWanted, LogFlushed};
use crate::actors::log_flush::{BegunWrite, LogFlush};
use crate::types::PhysicalOffset;

/// A flush that takes longer holds up whoever else lives on this thread.
const QUICK: Duration = Duration::from_millis(5);
/// What is flushed here at most of messages, those of others as well: a quick disk takes it in about a millisecond.
const AT_REST_BYTES: u64 = 1 << 20;
/// Flushes that are left to the flusher after two in a row that were not quick; one alone is a disk that had something else
/// to do.
const LEFT_TO_FLUSHER: u32 = 64;

/// Looks in a row that find no new send, after which the disk begins, and after which it is waited for.
const QUIET_TO_WRITE: u32 = 3;
const QUIET_TO_FLUSH: u32 = 5;
/// Nobody waits longer for others to come.
const LATEST: Duration = Duration::from_micros(500);

/// Turns in a row with but one send, after which the next is flushed without looking for others.
const LONE_TURNS: u32 = 8;
/// Looks for the next send of a sender that is alone; together about as long as waking two threads takes.
const LINGERING_LOOKS: u32 = 200;
/// Whoever came later than that is not looked for next time.
const COMES_BACK: Duration = Duration::from_micros(300);

/// Who waits for the disk, and what the thread does about it. Whoever has it calls [`look`](Self::look) once a turn of the
/// event loop, from [`wait`](Self::wait) until it says that there is nothing to look for.
pub struct FlushAtRest {
    flush: LogFlush,
    flusher: Recipient<FlushWanted>,
    dispatcher: Recipient<LogPublished>,
    signal: PublishedSignal,
    /// The flush before was not quick.
    was_slow: bool,
    /// So many are left to the flusher, since the disk is slow.
    left: u32,
    waiting: Vec<Arc<Recipient<LogFlushed>>>,
    /// When the first of them came.
    since: Instant,
    /// Whether anybody came since the last look.
    came: bool,
    quiet_looks: u32,
    begun: Option<BegunWrite>,
    /// How long it took to have the disk begin: it may be that it takes no more.
    beginning: Duration,
    /// Turns in a row with but one send.
    lone_turns: u32,
    /// When a lone send was told that it is on disk.
    answered: Option<Instant>,
    /// The last lone sender came again at once.
    comes_back: bool,
    lingering_looks: u32,
    /// The look before has flushed.
    has_flushed: bool,
    is_looking: bool,
}

/// What a look has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Look again after the next turn.
    pub again: bool,
    /// The look before has flushed: those who waited have had a turn for their answers, and the disk has nothing to do.
    pub has_flushed: bool,
}

impl FlushAtRest {
    pub fn new(
        flush: LogFlush,
        flusher: Recipient<FlushWanted>,
        dispatcher: Recipient<LogPublished>,
        signal: PublishedSignal,
    ) -> Self {
        Self {
            flush,
            flusher,
            dispatcher,
            signal,
            was_slow: false,
            left: 0,
            waiting: Vec::new(),
            since: Instant::now(),
            came: false,
            quiet_looks: 0,
            begun: None,
            beginning: Duration::ZERO,
            lone_turns: 0,
            answered: None,
            comes_back: false,
            lingering_looks: 0,
            has_flushed: false,
            is_looking: false,
        }
    }

    /// Those of one turn, with so many sends, wait for the disk from now on. The dispatcher is told when it has them, since it
    /// shows nothing to consumers that must be on disk first. Returns whether somebody has to begin looking.
    pub fn wait(&mut self, tell: impl IntoIterator<Item = Arc<Recipient<LogFlushed>>>, sends: usize) -> bool {
        let now = Instant::now();
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.waiting.extend(tell);
        self.came = true;
        self.lone_turns = if sends == 1 { self.lone_turns.saturating_add(1) } else { 0 };
        if let Some(answered) = self.answered.take() {
            self.comes_back = now - answered < COMES_BACK;
        }
        !std::mem::replace(&mut self.is_looking, true)
    }

    /// What there is to do after a turn of the event loop.
    pub fn look(&mut self) -> Look {
        let has_flushed = std::mem::take(&mut self.has_flushed);
        if self.waiting.is_empty() {
            self.lingering_looks = self.lingering_looks.saturating_sub(1);
        } else if self.is_due() {
            self.end_wait();
        }
        self.is_looking = !self.waiting.is_empty() || self.lingering_looks > 0 || self.has_flushed;
        Look { again: self.is_looking, has_flushed }
    }

    /// How many batches wait: for who looks at the actors.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn is_lone(&self) -> bool {
        self.lone_turns >= LONE_TURNS
    }

    /// Whether nothing but the disk's cache is to be waited for, or it is the flusher's to wait; has the disk begin before.
    fn is_due(&mut self) -> bool {
        if self.is_left() {
            return true;
        }
        self.quiet_looks = if std::mem::take(&mut self.came) { 0 } else { self.quiet_looks + 1 };
        let is_written = (self.is_lone() || self.quiet_looks >= QUIET_TO_WRITE) && self.write();
        let is_quiet = self.is_lone() || self.quiet_looks >= QUIET_TO_FLUSH;
        is_written && is_quiet || self.since.elapsed() >= LATEST
    }

    /// Has the disk begin, and with what came since as soon as it is done with that. Returns whether it is done with all.
    fn write(&mut self) -> bool {
        if let Some(begun) = self.begun {
            if !self.flush.is_written(&begun) {
                return false;
            }
            if self.flush.is_all(&begun) {
                return true;
            }
        }
        let now = Instant::now();
        let begun = self.flush.begin_write();
        self.beginning += now.elapsed();
        let Some(Ok(begun)) = begun else { return true }; // the flush tells of it, or it is under way
        self.begun = Some(begun);
        self.flush.is_written(&begun)
    }

    /// Whether it is the flusher's to flush.
    fn is_left(&self) -> bool {
        self.left > 0 || self.flush.unflushed_bytes() > AT_REST_BYTES
    }

    /// Flushes, and tells all who wait, and the dispatcher; or leaves both to the flusher.
    fn end_wait(&mut self) {
        (self.begun, self.quiet_looks, self.lingering_looks) = (None, 0, 0);
        let mut tell = std::mem::take(&mut self.waiting);
        if tell.len() > 1 {
            let mut queues = HashSet::with_capacity(tell.len());
            tell.retain(|queue| queues.insert(Arc::as_ptr(queue)));
        }
        let Some(up_to) = self.try_flush() else {
            // Bypasses its capacity: losing it would leave senders without an answer, and there is one a flush. The flusher
            // tells the dispatcher, too.
            self.flusher.do_send(FlushWanted { tell });
            return;
        };
        self.has_flushed = true;
        tell.iter().for_each(|queue| queue.do_send(LogFlushed { up_to }));
        if self.signal.raise() {
            self.dispatcher.do_send(LogPublished);
        }
        if self.is_lone() {
            self.answered = Some(Instant::now());
            self.lingering_looks = if self.comes_back { LINGERING_LOOKS } else { 0 };
        }
    }

    /// Makes durable what is published, and returns up to where the log is; `None`: the flusher is to do it, and to say
    /// so if the disk has failed.
    fn try_flush(&mut self) -> Option<PhysicalOffset> {
        let beginning = std::mem::take(&mut self.beginning);
        if self.is_left() {
            self.left = self.left.saturating_sub(1);
            return None;
        }
        let now = Instant::now();
        let flushed = self.flush.try_flush()?.ok()?;
        self.note_time(beginning + now.elapsed());
        Some(flushed)
    }

    /// How long the disk took.
    fn note_time(&mut self, took: Duration) {
        let is_slow = took > QUICK;
        if is_slow && self.was_slow {
            self.left = LEFT_TO_FLUSHER;
        }
        self.was_slow = is_slow;
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::actors::facts::Progress;
    use crate::store::memory_files::FileOperation;
    use crate::testing::log::{TestLog, message};
    use crate::testing::{Taken, fake_sink};

    struct Bench {
        log: TestLog,
        flush: LogFlush,
        at_rest: FlushAtRest,
        queue: Arc<Recipient<LogFlushed>>,
        told: Taken<LogFlushed>,
        left: Taken<FlushWanted>,
        dispatches: Taken<LogPublished>,
        signal: PublishedSignal,
        sent: u64,
    }

    fn start() -> Bench {
        let log = TestLog::new();
        let flush = LogFlush::new(log.reader.clone(), Progress::default());
        let (flusher, left) = fake_sink::<FlushWanted>();
        let (queue, told) = fake_sink::<LogFlushed>();
        let (dispatcher, dispatches) = fake_sink::<LogPublished>();
        let signal = PublishedSignal::default();
        let at_rest = FlushAtRest::new(flush.clone(), flusher, dispatcher, signal.clone());
        Bench { log, flush, at_rest, queue: Arc::new(queue), told, left, dispatches, signal, sent: 0 }
    }

    impl Bench {
        /// A turn of so many sends; whether somebody has to begin looking.
        fn turn(&mut self, sends: usize) -> bool {
            for _ in 0..sends {
                self.log.append(message("T", "x"), self.sent);
                self.sent += 1;
            }
            self.at_rest.wait([self.queue.clone()], sends)
        }

        fn look(&mut self) -> bool {
            self.at_rest.look().again
        }

        /// Looks until all are told or left; how many looks that took.
        fn look_until_flushed(&mut self) -> u32 {
            let mut looks = 0;
            while self.at_rest.waiting() > 0 {
                assert!(self.look() || self.at_rest.waiting() == 0);
                looks += 1;
            }
            looks
        }

        /// Looks to the end, for those who may come again as well.
        fn look_to_the_end(&mut self) -> u32 {
            let mut looks = 1;
            while self.look() {
                looks += 1;
            }
            looks
        }

        async fn outcome(&mut self) -> (usize, usize) {
            (self.told.all().await.len(), self.left.all().await.len())
        }
    }

    #[actix::test]
    async fn those_who_come_while_it_looks_share_the_flush() {
        tokio::time::pause();
        let mut bench = start();
        assert!(bench.turn(3));
        for _ in 0..20 {
            assert!(bench.look());
            assert!(!bench.turn(2), "somebody looks already");
            assert!(bench.look() && bench.look(), "others may come");
        }
        // The look that sees the last to come, and those that find nobody.
        assert_eq!(bench.look_until_flushed(), QUIET_TO_FLUSH - 1);
        assert_eq!(bench.flush.unflushed_bytes(), 0);
        assert_eq!(bench.outcome().await, (1, 0), "each queue is told once");
        assert_eq!(bench.at_rest.look(), Look { again: false, has_flushed: true }, "nobody waits");
        assert!(bench.turn(3), "looking begins anew");
    }

    #[actix::test]
    async fn nobody_waits_long_for_others() {
        tokio::time::pause();
        let mut bench = start();
        bench.turn(3);
        bench.at_rest.look();
        tokio::time::advance(LATEST).await;
        bench.turn(3);
        assert_eq!(bench.look_until_flushed(), 1);
        assert_eq!(bench.outcome().await, (1, 0));
    }

    #[actix::test]
    async fn what_comes_behind_what_the_disk_began_with_is_begun_too() {
        tokio::time::pause();
        let mut bench = start();
        bench.log.files.write_takes(10);
        bench.turn(3);
        for _ in 0..=QUIET_TO_WRITE {
            bench.at_rest.look();
        }
        let begun = bench.at_rest.begun.expect("the disk is at it");
        bench.turn(3);
        for _ in 0..QUIET_TO_WRITE {
            bench.at_rest.look();
        }
        assert_eq!(bench.at_rest.begun, Some(begun), "one after the other");
        // Nine looks more for the first, since the one that began was one of them, and ten for the second.
        assert_eq!(bench.look_until_flushed(), 9 + 1 + 10);
        assert_eq!(bench.outcome().await, (1, 0));
    }

    #[actix::test]
    async fn disk_that_does_not_begin_is_not_believed() {
        let mut bench = start();
        bench.log.files.fail_next(FileOperation::BeginWrite, ErrorKind::Other);
        bench.turn(3);
        bench.look_until_flushed();
        assert_eq!(bench.outcome().await, (0, 1));
        assert!(bench.flush.flush().is_err());
    }

    #[actix::test]
    async fn disk_does_not_begin_with_what_is_the_flushers() {
        let mut bench = start();
        bench.log.files.fail_always(FileOperation::BeginWrite, ErrorKind::Other);
        bench.at_rest.left = 1;
        bench.turn(3);
        assert_eq!(bench.look_until_flushed(), 1);
        assert_eq!(bench.outcome().await, (0, 1));
        assert!(bench.flush.flush().is_ok());
    }

    #[actix::test]
    async fn lone_send_is_flushed_at_the_first_look_and_the_next_is_looked_for() {
        tokio::time::pause();
        let mut bench = start();
        for turn in 1..LONE_TURNS {
            bench.turn(1);
            assert!(bench.look_until_flushed() > 1, "turn {turn}");
        }
        assert!(!bench.look());
        assert!(bench.turn(1), "nobody looks for others than the lone");
        assert_eq!(bench.look_until_flushed(), 1);
        assert_eq!(bench.look_to_the_end(), 1, "nobody knows yet whether its sender comes again");
        tokio::time::advance(COMES_BACK - Duration::from_micros(1)).await;
        bench.turn(1);
        assert_eq!(bench.look_until_flushed(), 1);
        assert_eq!(bench.look_to_the_end(), LINGERING_LOOKS);
        tokio::time::advance(COMES_BACK).await;
        assert!(bench.turn(1));
        assert_eq!(bench.look_until_flushed(), 1);
        assert_eq!(bench.look_to_the_end(), 1, "it came late");
        bench.turn(2);
        assert!(bench.look_until_flushed() > 1, "not alone any more");
        assert_eq!(bench.outcome().await.1, 0);
    }

    #[actix::test]
    async fn who_comes_while_it_lingers_is_seen_by_the_next_look() {
        let mut bench = start();
        for _ in 0..=LONE_TURNS {
            bench.turn(1);
            bench.at_rest.comes_back = true;
            bench.look_until_flushed();
        }
        assert!(bench.look() && bench.look());
        assert!(!bench.turn(1), "it looks already");
        assert_eq!(bench.look_until_flushed(), 1);
    }

    #[actix::test]
    async fn dispatcher_is_told_of_what_is_on_disk_until_it_looks() {
        let mut bench = start();
        for told in [1, 0] {
            bench.turn(3);
            assert_eq!(bench.dispatches.all().await.len(), 0, "it would show nothing of it yet");
            bench.look_until_flushed();
            assert_eq!(bench.dispatches.all().await.len(), told);
        }
        bench.signal.take();
        bench.turn(3);
        bench.look_until_flushed();
        assert_eq!(bench.dispatches.all().await.len(), 1);
    }

    #[actix::test]
    async fn disk_that_fails_is_the_flushers_to_tell_of() {
        let mut bench = start();
        bench.turn(3);
        bench.log.files.fail_next(FileOperation::Sync, ErrorKind::Other);
        bench.look_until_flushed();
        assert_eq!(bench.outcome().await, (0, 1));
    }

    #[actix::test]
    async fn much_is_left_to_the_flusher() {
        let mut bench = start();
        let large = "x".repeat(10_000);
        for n in 0..=AT_REST_BYTES / 10_000 {
            bench.log.append(message("T", &large), n);
        }
        bench.turn(1);
        bench.look_until_flushed();
        assert_eq!(bench.outcome().await, (0, 1));
        bench.flush.flush().unwrap();
        bench.turn(1);
        bench.look_until_flushed();
        assert_eq!(bench.outcome().await, (1, 0));
    }

    #[actix::test]
    async fn slow_disk_is_left_to_the_flusher_for_a_while() {
        let mut bench = start();
        let slow = QUICK + Duration::from_micros(1);
        for took in [slow, QUICK, slow] {
            bench.at_rest.note_time(took);
            assert_eq!(bench.at_rest.left, 0, "one slow flush is not a slow disk");
        }
        bench.at_rest.note_time(slow);
        for _ in 0..LEFT_TO_FLUSHER {
            bench.turn(1);
            bench.look_until_flushed();
        }
        assert_eq!(bench.outcome().await, (0, LEFT_TO_FLUSHER as usize));
        bench.turn(1);
        bench.look_until_flushed();
        assert_eq!(bench.outcome().await, (1, 0), "perhaps it is quick again");
    }
}
