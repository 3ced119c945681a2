//! Who pulled a queue last, group by group.

use std::net::SocketAddr;

use actix::prelude::*;
use tokio::time::Instant;

use super::{PullMessages, TopicQueue};
use crate::actors::request::ConnectionId;
use crate::collections::HashMap;
use crate::types::GroupName;

/// Groups remembered; beyond, the one that has been silent for longest is forgotten.
const GROUPS_MAX: usize = 1_024;

/// Who of a group pulled last.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Option<PulledLast>")]
pub struct QueryPulledLast {
    pub group: GroupName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PulledLast {
    pub connection: ConnectionId,
    pub peer: SocketAddr,
    pub at: Instant,
    /// From which offset, as the client said it.
    pub offset: i64,
}

/// The last pull of each group.
#[derive(Debug, Default)]
pub struct Pullers(HashMap<GroupName, PulledLast>);

impl Pullers {
    pub fn note(&mut self, pull: &PullMessages, at: Instant) {
        let last = PulledLast { connection: pull.link.id, peer: pull.link.peer, at, offset: pull.from };
        match self.0.get_mut(&pull.group) {
            Some(known) => *known = last,
            None => {
                if self.0.len() >= GROUPS_MAX {
                    let oldest =
                        self.0.iter().min_by_key(|(_, known)| known.at).map(|(group, _)| group.clone());
                    oldest.map(|group| self.0.remove(&group));
                }
                self.0.insert(pull.group.clone(), last);
            }
        }
    }
}

impl Handler<QueryPulledLast> for TopicQueue {
    type Result = Option<PulledLast>;

    fn handle(&mut self, query: QueryPulledLast, _: &mut Self::Context) -> Self::Result {
        self.pullers.0.get(&query.group).copied()
    }
}
