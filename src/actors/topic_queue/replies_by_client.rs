//! Replies of one turn, gathered so that those to one connection leave as one message.

use std::sync::Arc;

use crate::actors::request::{ClientLink, Replies, Reply};

/// Replies gathered by connection; few connections take part in one turn.
#[derive(Default)]
pub(super) struct RepliesByClient(Vec<(Arc<ClientLink>, Vec<Reply>)>);

impl RepliesByClient {
    pub(super) fn push(&mut self, link: Arc<ClientLink>, reply: Reply) {
        match self.0.iter_mut().rev().find(|(known, _)| known.id == link.id) {
            Some((_, replies)) => replies.push(reply),
            None => self.0.push((link, vec![reply])),
        }
    }

    pub(super) fn send(self) {
        for (link, replies) in self.0 {
            link.replies.do_send(Replies(replies));
        }
    }
}
