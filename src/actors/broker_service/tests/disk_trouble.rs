//! What a whole broker makes of a disk that fails, is read-only, or stands still.

use std::io::ErrorKind;

use super::*;
use crate::store::memory_files::FileOperation;

/// As many as a fast client sends in seconds.
const MANY: usize = 20_000;

impl Bench {
    async fn with_a_message(files: &MemoryFiles) -> Self {
        let mut bench = Self::start(plan(), files, &Metadata::temporary().unwrap()).await;
        assert_eq!(bench.code(send("T", "first")).await, ResponseCode::SUCCESS);
        assert_eq!(bench.bodies("T").await, ["first"]);
        bench
    }

    /// Hands over sends as of many reads; returns the refusals that came at once.
    fn hand_over_many(&mut self) -> Vec<Reply> {
        let mut refused = Vec::new();
        for _ in 0..MANY / 100 {
            let mut requests: Vec<_> = (0..100).map(|_| send("T", "x").from(&self.link)).collect();
            self.tree.service.serve(&mut requests, &mut refused);
        }
        refused
    }

    /// Checks that every send is answered, with the numbers after the first message.
    async fn all_are_stored(&mut self) {
        let mut offsets = Vec::with_capacity(MANY);
        while offsets.len() < MANY {
            match self.client.replies.recv().await.unwrap().content {
                ReplyContent::Stored(stored) => offsets.push(stored.queue_offset.0),
                other => panic!("it is stored: {other:?}"),
            }
        }
        assert!(offsets.iter().copied().eq(1..=MANY as u64));
    }
}

#[actix::test]
async fn flush_that_stands_still_delays_no_send() {
    let files = MemoryFiles::new();
    let mut bench = Bench::with_a_message(&files).await;
    files.stall(FileOperation::Sync);
    assert_eq!(bench.hand_over_many().len(), 0);
    bench.all_are_stored().await;
    files.go_on();
    bench.stop().await;
}

#[actix::test]
async fn disk_that_stands_still_refuses_no_send_and_stores_all_when_it_goes_on() {
    let files = MemoryFiles::new();
    let mut bench = Bench::with_a_message(&files).await;
    files.stall(FileOperation::Write);
    assert_eq!(bench.hand_over_many().len(), 0);
    settle().await;
    assert!(bench.client.replies.try_recv().is_err(), "nothing is promised meanwhile");
    files.go_on();
    bench.all_are_stored().await;
    bench.stop().await;
}

#[actix::test]
async fn read_only_disk_refuses_sends_with_the_cause_serves_pulls_and_is_used_again() {
    let files = MemoryFiles::new();
    let mut bench = Bench::with_a_message(&files).await;
    for operation in [FileOperation::Write, FileOperation::Create, FileOperation::Remove] {
        files.fail_always(operation, ErrorKind::ReadOnlyFilesystem);
    }
    let refused = match bench.ask(vec![send("T", "refused")]).await.remove(0).content {
        ReplyContent::Refused(refusal) => refusal,
        other => panic!("it is refused: {other:?}"),
    };
    assert!(refused.to_string().contains("not stored"), "{refused}");
    assert_eq!(bench.bodies("T").await, ["first"]);
    files.fail_nothing();
    assert_eq!(bench.code(send("T", "second")).await, ResponseCode::SUCCESS);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen = bench.bodies("T").await;
    }
    assert_eq!(seen, ["first", "second"], "no number was burnt");
    bench.stop().await;
}

#[actix::test]
async fn topic_that_cannot_be_saved_is_refused_and_not_there_after_a_restart() {
    let (files, metadata) = (MemoryFiles::new(), Metadata::temporary().unwrap());
    let mut bench = Bench::start(plan(), &files, &metadata).await;
    metadata.fail_flushes(true);
    let refused = match bench.ask(vec![send("T", "x")]).await.remove(0).content {
        ReplyContent::Refused(refusal) => refusal,
        other => panic!("it is refused: {other:?}"),
    };
    assert!(refused.to_string().contains("the topic table cannot be saved"), "{refused}");
    assert!(bench.tree.topics.get("T").is_none());
    metadata.fail_flushes(false);
    bench.stop().await;
    let mut bench = Bench::start(plan(), &files, &metadata).await;
    assert!(bench.tree.topics.get("T").is_none(), "what was refused does not come back");
    assert_eq!(bench.code(send("T", "x")).await, ResponseCode::SUCCESS);
    bench.stop().await;
}
