//! Stands in for the handlers of `TopicQueue` until its actor is merged; this file goes then.

use actix::prelude::*;

use super::topic_queue::{DeleteQueue, QueryExtent, QueueExtent, TopicQueue};

impl Handler<QueryExtent> for TopicQueue {
    type Result = QueueExtent;

    fn handle(&mut self, _: QueryExtent, _: &mut Self::Context) -> QueueExtent {
        QueueExtent::default()
    }
}

impl Handler<DeleteQueue> for TopicQueue {
    type Result = ();

    fn handle(&mut self, _: DeleteQueue, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
