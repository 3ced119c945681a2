//! Where those on the way of a request find the extensions that take part in it. Filled once, when extensions run; until
//! then, and where none takes part, a request pays one look.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;

use super::decision_gate::Decider;
use super::decisions::{
    AdminDecision, DecideAdmin, DecideDelivery, DecideSend, HttpRequest, OfferedMessage, OwnRequest,
    SendDecision,
};
use super::host::HandOver;
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::requests::send::{self, PreparedSend};
use crate::error::Refusal;
use crate::protocol::properties::{PropertyList, names as property};
use crate::protocol::request_code::RequestCode;
use crate::types::TopicName;

/// How long an extension may take for a request of its own.
const OWN_REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Cheap to clone; there is one for all of a broker.
#[derive(Clone, Default)]
pub struct HookTable(Arc<OnceLock<Hooked>>);

/// What extensions have hooked, in the order in which they are asked.
#[derive(Default)]
pub struct Hooked {
    pub sends: Vec<Decider<DecideSend>>,
    pub deliveries: Vec<Decider<DecideDelivery>>,
    pub admin: Vec<Decider<DecideAdmin>>,
    pub codes: HashMap<i32, Owner<OwnRequest>>,
    pub paths: HashMap<String, Owner<HttpRequest>>,
}

/// Whose requests of a kind are.
#[derive(Clone)]
pub struct Owner<Q: super::decisions::Question> {
    pub extension: &'static str,
    pub host: Recipient<HandOver<Q>>,
}

impl HookTable {
    /// From now on these take part. Called once.
    pub fn fill(&self, hooked: Hooked) {
        let set = self.0.set(hooked);
        debug_assert!(set.is_ok(), "filled once");
    }

    pub fn hooked(&self) -> Option<&Hooked> {
        self.0.get()
    }

    /// Whether anybody decides on sends.
    pub fn decides_sends(&self) -> bool {
        self.hooked().is_some_and(|hooked| !hooked.sends.is_empty())
    }

    /// Whether anybody decides on deliveries.
    pub fn decides_deliveries(&self) -> bool {
        self.hooked().is_some_and(|hooked| !hooked.deliveries.is_empty())
    }

    /// Asks those who decide on sends, one after the other; the messages of `prepared` are what they leave of them.
    pub async fn decide_send(
        &self,
        request: &Request,
        producer_group: &str,
        topic: &str,
        prepared: &mut PreparedSend,
    ) -> Result<(), Refusal> {
        let deciders = self.hooked().map(|hooked| hooked.sends.as_slice()).unwrap_or_default();
        for decider in deciders.iter().filter(|decider| decider.own != request.from.id) {
            let messages = prepared.send.messages.iter().map(|message| OfferedMessage {
                body: message.body.clone(),
                sys_flag: message.sys_flag,
                properties: message.properties.clone(),
            });
            let question = DecideSend {
                topic: TopicName::from(topic),
                producer_group: producer_group.to_owned(),
                client: request.from.peer,
                messages: messages.collect(),
            };
            let extension = decider.extension;
            match decider.decide(question).await? {
                None | Some(SendDecision::Pass) => {}
                Some(SendDecision::Refuse { reason }) => {
                    return Err(Refusal::ExtensionRefused { extension, reason });
                }
                Some(SendDecision::Later { reason }) => {
                    return Err(Refusal::ExtensionBusy { extension, reason });
                }
                Some(SendDecision::SetProperties(pairs)) => set_properties(extension, &pairs, prepared)?,
            }
        }
        Ok(())
    }

    /// Asks those who decide on changes.
    pub async fn decide_admin(&self, request: &Request) -> Result<(), Refusal> {
        let deciders = self.hooked().map(|hooked| hooked.admin.as_slice()).unwrap_or_default();
        for decider in deciders.iter().filter(|decider| decider.own != request.from.id) {
            let question = DecideAdmin {
                request: RequestCode::from_i32(request.command.head.code),
                client: request.from.peer,
                fields: fields_of(request),
                body: request.command.body.clone(),
            };
            if let Some(AdminDecision::Refuse { reason }) = decider.decide(question).await? {
                return Err(Refusal::ExtensionForbids { extension: decider.extension, reason });
            }
        }
        Ok(())
    }

    /// Has a request answered by the extension that owns its code; `None`: nobody does.
    pub async fn own_request(&self, request: &Request) -> Option<Answered> {
        let code = request.command.head.code;
        let owner = self.hooked()?.codes.get(&code)?;
        let question = OwnRequest {
            code,
            client: request.from.peer,
            fields: fields_of(request),
            body: request.command.body.clone(),
        };
        let extension = owner.extension;
        let undecided = |why: String| Err(Refusal::ExtensionUndecided { extension, why });
        Some(match owner.host.send(HandOver(question)).timeout(OWN_REQUEST_PATIENCE).await {
            Ok(Some(Ok(answer))) => {
                Ok(Some(Answer { fields: answer.fields, ..Answer::success() }.with_body(answer.body)))
            }
            Ok(Some(Err(reason))) => Err(Refusal::ExtensionRefused { extension, reason }),
            Ok(None) => undecided("it has failed and is being started again".to_owned()),
            Err(_) => undecided(format!("it did not answer within {} s", OWN_REQUEST_PATIENCE.as_secs())),
        })
    }
}

/// The header of a request as it came.
pub fn fields_of(request: &Request) -> Vec<(String, String)> {
    request.command.fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Capitals are RocketMQ's, and the broker acts on them; of those, tags and keys are the sender's own.
fn may_be_set(name: &str) -> bool {
    let is_of_broker = name.starts_with("__") || !name.chars().any(|c| c.is_ascii_lowercase());
    !name.is_empty() && (!is_of_broker || name == property::TAGS || name == property::KEYS)
}

fn set_properties(
    extension: &'static str,
    pairs: &[(String, String)],
    prepared: &mut PreparedSend,
) -> Result<(), Refusal> {
    let is_plain = |text: &str| !text.contains(['\u{1}', '\u{2}']);
    if let Some((name, _)) =
        pairs.iter().find(|(name, value)| !may_be_set(name) || !is_plain(name) || !is_plain(value))
    {
        let what = format!(
            "has set the property {name:?}, which it cannot: names of capitals are the broker's, but for TAGS and KEYS, and texts have no bytes 1 and 2"
        );
        return Err(Refusal::ExtensionMistaken { extension, what });
    }
    for message in &mut prepared.send.messages {
        let mut properties = PropertyList::decode(&message.properties);
        pairs.iter().for_each(|(name, value)| properties.set(name, value.as_str()));
        message.properties = properties.encode();
    }
    send::check_properties(&prepared.send)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_acts_on_is_not_an_extension_s_to_set() {
        for name in ["region", "Region", "TAGS", "KEYS", "x-trace"] {
            assert!(may_be_set(name), "{name}");
        }
        for name in ["DELAY", "TRAN_MSG", "TIMER_DELAY_MS", "UNIQ_KEY", "__STARTDELIVERTIME", "__x", ""] {
            assert!(!may_be_set(name), "{name}");
        }
    }
}
