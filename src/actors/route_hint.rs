//! Why there is no route: one of four causes, and what to do about each.

use super::routes::{RouteAnswer, Routes};
use crate::alike::Slips;
use crate::error::Refusal;
use crate::protocol::header::GetRoute;
use crate::types::TopicName;

/// The topic that lends its route to topics yet to be created. RocketMQ: `TopicValidator.AUTO_CREATE_TOPIC_KEY_TOPIC`.
const AUTO_CREATE_TOPIC: &str = "TBW102";

/// Topics looked at for near matches: a question about an unknown topic stays cheap among very many.
const NEAR_SCAN_MAX: usize = 8_192;
const NEAR_SHOWN: usize = 3;

/// The refusal of a route query that found no route. Its text begins as Java's does.
pub fn no_route(routes: &Routes, query: &GetRoute, answer: &RouteAnswer) -> Refusal {
    Refusal::NoRoute { topic: query.topic.clone(), hint: hint(routes, &query.topic, answer) }
}

fn hint(routes: &Routes, topic: &TopicName, answer: &RouteAnswer) -> String {
    let surroundings = routes.surroundings();
    if surroundings.brokers.by_name.is_empty() {
        return "No broker is registered at this name server: start one, or give it the address of this name \
                server (namesrvAddr)"
            .to_owned();
    }
    if *answer == RouteAnswer::NoPermission {
        return "The topic exists, but no queue of it may be read or written: give it permission 6 (telstar topic \
                update, mqadmin updateTopic -p 6, or addWritePerm if it was wiped)"
            .to_owned();
    }
    let near = near_topics(routes, topic);
    let near = match near.is_empty() {
        true => String::new(),
        false => format!(" Similar topics: {}.", near.join(", ")),
    };
    if routes.contains(topic) {
        return format!("None of its brokers is in the zone that was asked for.{near}");
    }
    if routes.contains(AUTO_CREATE_TOPIC) {
        return format!("No broker has this topic; sending to it creates it.{near}");
    }
    format!(
        "No broker has this topic, and sending does not create it, because no broker has {AUTO_CREATE_TOPIC} \
         (autoCreateTopicEnable is off): create it (telstar topic create, mqadmin updateTopic).{near}"
    )
}

/// Topics whose names differ little from `asked`, nearest first.
fn near_topics(routes: &Routes, asked: &str) -> Vec<String> {
    let within = (asked.len() / 4).clamp(1, 4);
    let slips = Slips::from(asked, within);
    let mut looked_at = 0;
    let mut near = Vec::new();
    routes.find_topic(|topic| {
        looked_at += 1;
        let same_but_case = topic.eq_ignore_ascii_case(asked).then_some(0);
        if let Some(distance) = same_but_case.or_else(|| slips.to(topic)) {
            near.push((distance, topic.to_string()));
        }
        looked_at >= NEAR_SCAN_MAX
    });
    near.sort();
    near.into_iter().take(NEAR_SHOWN).map(|(_, topic)| topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::route_table::RouteTable;
    use crate::actors::route_table::fixtures::{registration, topics};
    use crate::actors::routes::routes;
    use crate::clock::WallMs;
    use crate::protocol::topic_config::Permission;

    fn hint_for(asked: &str, known: &[(&str, Permission)]) -> String {
        let (mut publisher, routes) = routes(Default::default(), Default::default());
        let mut table = RouteTable::default();
        if !known.is_empty() {
            let broker = registration("a", 0, "1.1.1.1:1", topics(1, known));
            table.register(broker, false, WallMs(0)).unwrap();
        }
        let changes = table.take_changes();
        publisher.publish(&table, changes);
        let query = GetRoute {
            topic: asked.into(),
            accept_standard_json_only: false,
            zone_name: None,
            zone_mode: false,
        };
        let answer = routes.route(&query);
        let refusal = no_route(&routes, &query, &answer);
        refusal.to_string()
    }

    #[test]
    fn each_of_the_four_causes_is_told() {
        let rw = Permission::READ_WRITE;
        let start = "No topic route info in name server for the topic: Orders. ";
        let cause = |known: &[(&str, Permission)]| {
            let text = hint_for("Orders", known);
            text.strip_prefix(start).unwrap_or_else(|| panic!("{text}")).to_owned()
        };
        assert!(cause(&[]).starts_with("No broker is registered"));
        let creating = cause(&[("TBW102", rw), ("orders", rw), ("Order", rw), ("Payments", rw)]);
        assert_eq!(
            creating,
            "No broker has this topic; sending to it creates it. Similar topics: orders, Order."
        );
        let not_creating = cause(&[("Payments", rw), ("Other", rw)]);
        assert!(not_creating.contains("sending does not create it"), "{not_creating}");
        assert!(!not_creating.contains("Similar"), "{not_creating}");
        let forbidden = cause(&[("Orders", Permission(0)), ("TBW102", rw)]);
        assert!(forbidden.contains("may be read or written"), "{forbidden}");
    }
}
