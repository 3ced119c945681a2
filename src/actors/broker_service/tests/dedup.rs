//! What a producer sends again, by a whole broker.

use super::*;
use crate::protocol::properties::{self, names as property};

fn create(attributes: &str) -> RequestBuilder {
    request(RequestCode::UPDATE_AND_CREATE_TOPIC)
        .field("topic", "T")
        .field("defaultTopic", "TBW102")
        .field("readQueueNums", 2)
        .field("writeQueueNums", 2)
        .field("perm", 6)
        .field("topicFilterType", "SINGLE_TAG")
        .field("attributes", attributes)
}

fn keyed(key: &str, queue_id: u32) -> RequestBuilder {
    let text = properties::encode([(property::UNIQ_KEY, key)]);
    send("T", "x").field("e", queue_id).field("i", str::from_utf8(&text).unwrap())
}

/// Queue and offset that a send is answered with.
async fn stored_at(bench: &mut Bench, send: RequestBuilder) -> (u32, u64) {
    match bench.ask(vec![send]).await.remove(0).content {
        ReplyContent::Stored(stored) => (stored.queue_id.0, stored.queue_offset.0),
        other => panic!("no answer to a send: {other:?}"),
    }
}

#[actix::test]
async fn repeated_send_is_stored_once_and_a_restart_remembers_it() {
    let (files, metadata) = (MemoryFiles::new(), Metadata::temporary().unwrap());
    let mut bench = Bench::start(plan(), &files, &metadata).await;
    assert_eq!(bench.code(create("+dedup.window.ms=0")).await, ResponseCode::SYSTEM_ERROR);
    assert_eq!(bench.code(create("+dedup.window.ms=3600000")).await, ResponseCode::SUCCESS);
    assert_eq!(stored_at(&mut bench, keyed("k", 0)).await, (0, 0));
    assert_eq!(stored_at(&mut bench, keyed("k", 1)).await, (0, 0));
    assert_eq!(stored_at(&mut bench, keyed("other", 0)).await, (0, 1));
    bench.stop().await;

    let mut bench = Bench::start(plan(), &files, &metadata).await;
    assert_eq!(stored_at(&mut bench, keyed("other", 1)).await, (0, 1));
    assert_eq!(bench.code(create("-dedup.window.ms")).await, ResponseCode::SUCCESS);
    assert_eq!(stored_at(&mut bench, keyed("other", 1)).await, (1, 0), "the topic asks for it no more");
    bench.stop().await;
}
