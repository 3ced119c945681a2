//! Extensions: behaviour added to a broker by adding actors.
//!
//! An extension is a type that implements [`Extension`]: a name, its settings, and how its actors are started. It says
//! what it takes part in by the [`Hooks`] it is given, and asks its broker through a [`BrokerHandle`]. It runs on a thread
//! of its own; when it fails it is started again, and the broker runs on. `docs/extending.md` goes through one.
//!
//! ```
//! use actix::prelude::*;
//! use telstar::extension::*;
//!
//! /// Tells the world of new topics.
//! struct Herald {
//!     salute: String,
//! }
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct HeraldSettings {
//!     salute: String,
//! }
//!
//! impl Extension for Herald {
//!     const NAME: &'static str = "herald";
//!     type Settings = HeraldSettings;
//!
//!     fn start(settings: HeraldSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
//!         let herald = Herald { salute: settings.salute }.start();
//!         hooks.on_events(&[EventKind::TopicCreated], herald.recipient(), WhenBehind::DropAndCount, 1000);
//!         Ok(())
//!     }
//! }
//!
//! impl Actor for Herald {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<BrokerEvents> for Herald {
//!     type Result = ();
//!
//!     fn handle(&mut self, events: BrokerEvents, _: &mut Self::Context) {
//!         for event in events {
//!             if let BrokerEvent::TopicCreated { topic, .. } = event {
//!                 println!("{} {topic}", self.salute);
//!             }
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), telstar::fatal::Fatal> {
//! let broker = telstar::Broker::builder()
//!     .extension::<Herald>()
//!     .set("extensions.herald.salute", "Hail,")
//!     .start()?;
//! # broker.stop()
//! # }
//! ```
//!
//! # Deciding, and requests of one's own
//!
//! One actor may hook everything. This one is tested in a [scene](crate::testing), without sockets and in no time:
//!
//! ```
//! use actix::prelude::*;
//! use telstar::client::Call;
//! use telstar::extension::*;
//! use telstar::protocol::RequestCode;
//! use telstar::testing::{Scenario, calls::*};
//!
//! const COUNT: i32 = EXTENSION_CODES.start;
//!
//! /// Lets nobody send what is too long, consume what is secret, or delete a topic; tells how much it let through.
//! struct Doorman {
//!     longest: usize,
//!     passed: u64,
//! }
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct DoormanSettings {
//!     longest: usize,
//! }
//!
//! impl Extension for Doorman {
//!     const NAME: &'static str = "doorman";
//!     type Settings = DoormanSettings;
//!
//!     fn start(settings: DoormanSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
//!         let doorman = Doorman { longest: settings.longest, passed: 0 }.start();
//!         let rules = DecisionRules { on_failure: OnFailure::Refuse, ..DecisionRules::default() };
//!         hooks.decides_sends(doorman.clone().recipient(), rules);
//!         hooks.decides_deliveries(doorman.clone().recipient(), rules);
//!         hooks.decides_admin(doorman.clone().recipient(), rules);
//!         hooks.owns_code(COUNT, doorman.clone().recipient());
//!         hooks.serves_http("/doorman", doorman.recipient());
//!         Ok(())
//!     }
//! }
//!
//! impl Actor for Doorman {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<DecideSend> for Doorman {
//!     type Result = SendDecision;
//!
//!     fn handle(&mut self, question: DecideSend, _: &mut Self::Context) -> SendDecision {
//!         let is_long = |message: &OfferedMessage| message.body.len() > self.longest;
//!         if question.messages.iter().any(is_long) {
//!             return SendDecision::Refuse { reason: format!("more than {} bytes", self.longest) };
//!         }
//!         self.passed += question.messages.len() as u64;
//!         SendDecision::SetProperties(vec![("doorman".into(), "passed".into())])
//!     }
//! }
//!
//! impl Handler<DecideDelivery> for Doorman {
//!     type Result = DeliveryDecision;
//!
//!     fn handle(&mut self, question: DecideDelivery, _: &mut Self::Context) -> DeliveryDecision {
//!         let secrets = question.messages.iter().enumerate().filter(|(_, message)| message.body == "secret");
//!         let withhold = |(index, _)| Withheld { index, reason: format!("not for {}", question.group) };
//!         DeliveryDecision { withheld: secrets.map(withhold).collect() }
//!     }
//! }
//!
//! impl Handler<DecideAdmin> for Doorman {
//!     type Result = AdminDecision;
//!
//!     fn handle(&mut self, question: DecideAdmin, _: &mut Self::Context) -> AdminDecision {
//!         match question.request {
//!             RequestCode::DELETE_TOPIC_IN_BROKER => AdminDecision::Refuse { reason: "topics stay".into() },
//!             _ => AdminDecision::Pass,
//!         }
//!     }
//! }
//!
//! impl Handler<OwnRequest> for Doorman {
//!     type Result = Result<OwnAnswer, String>;
//!
//!     fn handle(&mut self, _: OwnRequest, _: &mut Self::Context) -> Self::Result {
//!         Ok(OwnAnswer { fields: vec![("passed", self.passed.to_string())], ..OwnAnswer::default() })
//!     }
//! }
//!
//! impl Handler<HttpRequest> for Doorman {
//!     type Result = HttpResponse;
//!
//!     fn handle(&mut self, _: HttpRequest, _: &mut Self::Context) -> HttpResponse {
//!         HttpResponse::text(format!("{} messages passed", self.passed))
//!     }
//! }
//!
//! # #[actix::main]
//! # async fn main() {
//! let scene = Scenario::begin().await;
//! let broker = scene
//!     .broker("broker")
//!     .topic("orders", 1)
//!     .extension::<Doorman>()
//!     .set("extensions.doorman.longest", 6)
//!     .start()
//!     .await;
//! let mut shop = broker.client("shop");
//! shop.succeed(send_to("orders", 0, "pay 7")).await;
//! shop.succeed(send_to("orders", 0, "secret")).await;
//! let refused = shop.call(send_to("orders", 0, "pay 70000")).await;
//! assert_eq!(refused.remark.unwrap(), "refused by extension doorman: more than 6 bytes");
//! assert!(shop.call(delete_topic("orders")).await.success().is_err());
//! assert_eq!(shop.pull(pull_from("bank", "orders", 0, 0)).await.len(), 1);
//! let counted = shop.succeed(Call::new(RequestCode::from_i32(COUNT))).await;
//! assert_eq!(counted.fields.get("passed"), Some("2"));
//! # }
//! ```

use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use crate::actors::extensions::broker_handle::{BrokerHandle, Messages, ReadQueue, Sent};
pub use crate::actors::extensions::decisions::{
    AdminDecision, DecideAdmin, DecideDelivery, DecideSend, DecisionRules, DeliveryDecision, EXTENSION_CODES,
    HttpRequest, HttpResponse, OfferedMessage, OnFailure, OwnAnswer, OwnRequest, SendDecision, Withheld,
};
pub use crate::actors::extensions::events::{
    BrokerEvent, BrokerEvents, EventKind, EventsInOrder, WhenBehind,
};
use crate::actors::extensions::hooks::ExtensionPlan;
pub use crate::actors::extensions::hooks::{ExtensionError, Hooks};
pub use crate::actors::extensions::host::{ExtensionObserved, is_extension_thread};
pub use crate::actors::extensions::stream::StreamFigures;
pub use crate::client::OutgoingMessage;
use crate::config::{ConfigError, ExtensionsSection, is_extension_name};
pub use crate::error::Refused;

/// An extension of a broker; see the [module](self).
///
/// ```
/// use telstar::extension::{Extension, ExtensionError, Extensions, Hooks};
///
/// /// Does nothing, after it was greeted.
/// struct Idle;
///
/// impl Extension for Idle {
///     const NAME: &'static str = "idle";
///     type Settings = IdleSettings;
///
///     fn start(settings: IdleSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
///         match settings.greeting.as_str() {
///             "" => Err(ExtensionError::refused("greeting is empty, write a word")),
///             word => Ok(println!("{word}, {}", hooks.broker().extension())),
///         }
///     }
/// }
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct IdleSettings {
///     #[serde(default)]
///     greeting: String,
/// }
///
/// let why = telstar::Broker::builder().extension::<Idle>().start().unwrap_err();
/// assert!(why.to_string().starts_with("extension idle cannot start: greeting is empty, write a word"));
/// ```
pub trait Extension: 'static {
    /// Its name in settings and logs: 1 to 64 characters of `a-z 0-9 _`.
    const NAME: &'static str;

    /// What it is told by the section `[extensions.NAME]`. Derive `Deserialize` with `deny_unknown_fields`, so that a slip
    /// stops the start; fields that may be left out have a `default`.
    type Settings: DeserializeOwned;

    /// Starts its actors, on the thread that is its own, and says what they take part in. Called again when it has failed:
    /// the actors of before have lost their addresses.
    fn start(settings: Self::Settings, hooks: &mut Hooks) -> Result<(), ExtensionError>;
}

/// The extensions that are compiled into a program. Which of them run, and in which order they are asked, its settings
/// say: `extensions.start`.
///
/// ```no_run
/// # use telstar::extension::*;
/// # struct Herald;
/// # impl Extension for Herald {
/// #     const NAME: &'static str = "herald";
/// #     type Settings = std::collections::BTreeMap<String, String>;
/// #     fn start(_: Self::Settings, _: &mut Hooks) -> Result<(), ExtensionError> { Ok(()) }
/// # }
/// /// The program `telstar`, and a herald: `my-telstar start --set extensions.start=herald`.
/// fn main() -> std::process::ExitCode {
///     telstar::cli::run_with(Extensions::none().with::<Herald>())
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Extensions(Vec<Compiled>);

#[derive(Clone, Copy, Debug)]
struct Compiled {
    name: &'static str,
    prepare: fn(toml::Table) -> Result<ExtensionPlan, ConfigError>,
}

impl Extensions {
    /// None at all, to begin with.
    pub fn none() -> Self {
        Self::default()
    }

    /// These, and one more.
    pub fn with<E: Extension>(mut self) -> Self {
        self.0.push(Compiled { name: E::NAME, prepare: prepare::<E> });
        self
    }

    /// What the settings want of them. What they want that is not there, or is told what it does not understand, is
    /// refused by its name.
    #[doc(hidden)]
    pub fn plans(&self, settings: &ExtensionsSection) -> Result<Vec<ExtensionPlan>, ConfigError> {
        for (index, compiled) in self.0.iter().enumerate() {
            let name = compiled.name;
            if !is_extension_name(name) {
                let origin = crate::config::Origin::Default;
                return Err(ConfigError::ExtensionMisnamed { name: name.to_owned(), origin });
            }
            if self.0[..index].iter().any(|other| other.name == name) {
                return Err(ConfigError::ExtensionTwice { name });
            }
        }
        let find = |name: &String| {
            let found = self.0.iter().find(|compiled| compiled.name == name);
            found.ok_or_else(|| ConfigError::ExtensionUnknown { name: name.clone(), known: self.known() })
        };
        // A section that nobody reads is a slip.
        settings.sections.keys().try_for_each(|name| find(name).map(|_| ()))?;
        let mut plans: Vec<ExtensionPlan> = Vec::new();
        for name in &settings.start {
            let compiled = find(name)?;
            if !plans.iter().any(|plan| plan.name == compiled.name) {
                plans.push((compiled.prepare)(settings.of(name))?);
            }
        }
        Ok(plans)
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|compiled| compiled.name).collect();
        if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) }
    }
}

fn prepare<E: Extension>(section: toml::Table) -> Result<ExtensionPlan, ConfigError> {
    let read = move || -> Result<E::Settings, String> {
        section.clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    };
    if let Err(cause) = read() {
        return Err(ConfigError::ExtensionSettings { name: E::NAME, cause });
    }
    let start = move |hooks: &mut Hooks| {
        // They were read before, and are read again for each start: nothing has to be cloned.
        let settings = read().map_err(ExtensionError::refused)?;
        E::start(settings, hooks)
    };
    Ok(ExtensionPlan { name: E::NAME, start: Arc::new(start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wants {
        #[expect(dead_code, reason = "only whether it can be read counts")]
        topic: String,
    }

    macro_rules! extension {
        ($name:ident, $settings:ty, $called:literal) => {
            struct $name;
            impl Extension for $name {
                const NAME: &'static str = $called;
                type Settings = $settings;
                fn start(_: Self::Settings, _: &mut Hooks) -> Result<(), ExtensionError> {
                    Ok(())
                }
            }
        };
    }
    extension!(Plain, toml::Table, "plain");
    extension!(Namesake, toml::Table, "plain");
    extension!(Misnamed, toml::Table, "Plain");
    extension!(Wanting, Wants, "wanting");

    fn section(text: &str) -> ExtensionsSection {
        let mut sections: toml::Table = text.parse().unwrap();
        let start = sections.remove("start").map(|list| list.try_into().unwrap());
        ExtensionsSection { start: start.unwrap_or_default(), sections }
    }

    fn refusal(extensions: Extensions, text: &str) -> String {
        extensions.plans(&section(text)).unwrap_err().to_string()
    }

    #[test]
    fn those_that_are_listed_run_in_their_order() {
        let both = Extensions::none().with::<Plain>().with::<Wanting>();
        let plans = both.plans(&section("start = ['wanting', 'plain']\nwanting.topic = 't'")).unwrap();
        assert_eq!(plans.iter().map(|plan| plan.name).collect::<Vec<_>>(), ["wanting", "plain"]);
        assert!(both.plans(&section("")).unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let one = || Extensions::none().with::<Plain>();
        assert_eq!(
            refusal(one(), "start = ['plan']"),
            "there is no extension plan in this program: it has plain; extensions are compiled in, see docs/extending.md"
        );
        assert!(refusal(Extensions::none(), "plain.x = 1").contains("it has none"));
        let unknown = refusal(one().with::<Wanting>(), "start = ['wanting']\nwanting.topics = 't'");
        assert!(unknown.starts_with("the settings of extension wanting are wrong"), "{unknown}");
        assert!(unknown.contains("topics"), "{unknown}");
        assert!(refusal(one().with::<Namesake>(), "").contains("plain"));
        assert!(refusal(Extensions::none().with::<Misnamed>(), "").contains("Plain"));
    }
}
