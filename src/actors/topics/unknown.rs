//! Why a topic is not there, as far as its name tells.

use crate::actors::topic_table::TopicMap;
use crate::alike::Slips;
use crate::error::Refusal;
use crate::protocol::names::{DEFAULT_TOPIC, SYSTEM_TOPICS, is_dead_letter_queue, is_retry_topic};
use crate::types::TopicName;

/// Names that are looked at for slips. A refusal must stay cheap however many topics there are.
const COMPARED_MAX: usize = 8_192;
/// Suggested at most.
const SUGGESTED_MAX: usize = 3;

/// The refusal of a request that names a topic this broker has not.
pub fn unknown_topic(topic: &TopicName, map: &TopicMap) -> Refusal {
    let default_topic = map.topics.get(DEFAULT_TOPIC);
    let auto_create = default_topic.is_some_and(|entry| entry.config.perm.is_inherited());
    Refusal::TopicUnknown { topic: topic.clone(), hint: explain_unknown_topic(topic, map, auto_create) }
}

/// Which of four causes it probably is: another case or a missing namespace, a slip of the pen, a topic that
/// its group makes later, or one that nobody created. One sentence on that, one on what to do.
pub fn explain_unknown_topic(name: &str, map: &TopicMap, auto_create: bool) -> String {
    if let Some(cause) = other_form(name, map).or_else(|| near_names(name, map)) {
        return cause;
    }
    if is_retry_topic(name) || is_dead_letter_queue(name) {
        return "It is made when its group subscribes here (retry) or gives up on a message (dead letter); \
                check the name of the group, and that its consumers reach this broker."
            .to_owned();
    }
    if auto_create {
        "No topic here has a name like it. The first message sent to it creates it; a consumer waits for that. \
         If it exists on other brokers only, the name server's route is old: run mqadmin topicRoute."
            .to_owned()
    } else {
        "No topic here has a name like it, and autoCreateTopicEnable is off. Create it: telstar topic create, \
         or mqadmin updateTopic."
            .to_owned()
    }
}

/// The same name in another case, or with a namespace before it that the other one lacks.
fn other_form(name: &str, map: &TopicMap) -> Option<String> {
    // A topic in a namespace is called `namespace%topic`.
    let after_namespace = name.split_once('%').filter(|(namespace, _)| !namespace.is_empty());
    if let Some((namespace, plain)) = after_namespace.filter(|(_, plain)| map.topics.contains_key(*plain)) {
        return Some(format!(
            "There is {plain} without the namespace {namespace}; clients with a namespace use topics of that \
             namespace only."
        ));
    }
    for known in map.topics.keys() {
        if known.eq_ignore_ascii_case(name) {
            return Some(format!("There is {known}; case matters in names of topics."));
        }
        let before = known.strip_suffix(name).and_then(|before| before.strip_suffix('%'));
        if let Some(namespace) = before.filter(|namespace| !namespace.is_empty() && !namespace.contains('%'))
        {
            return Some(format!("There is {known}; set the namespace {namespace} in the client."));
        }
    }
    None
}

fn near_names(name: &str, map: &TopicMap) -> Option<String> {
    // One slip in a short name makes another word; a long one stays itself with two.
    let slips_max = if name.len() < 4 { 0 } else { 1 + usize::from(name.len() >= 8) };
    let slips = Slips::from(name, slips_max);
    let candidates = map.topics.keys().take(COMPARED_MAX);
    let mut near: Vec<(usize, &TopicName)> = candidates
        .filter_map(|known| Some((slips.to(known).filter(|slips| *slips > 0)?, known)))
        .filter(|(_, known)| !SYSTEM_TOPICS.contains(&known.as_str()))
        .collect();
    near.sort();
    let names: Vec<&str> = near.iter().take(SUGGESTED_MAX).map(|(_, known)| known.as_str()).collect();
    match names.is_empty() {
        true => None,
        false => Some(format!("Did you mean {}?", names.join(" or "))),
    }
}
