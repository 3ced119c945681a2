//! What an extension takes part in, as it says when it is started.

use std::sync::Arc;

use actix::prelude::*;
use thiserror::Error;

use super::broker_handle::BrokerHandle;
use super::decisions::{
    DecideAdmin, DecideDelivery, DecideSend, DecisionRules, EXTENSION_CODES, HttpRequest, OwnRequest,
    Question,
};
use super::events::{BrokerEvents, EventKind, WhenBehind};
use crate::protocol::request_code::RequestCode;

/// Why an extension is not started.
///
/// ```
/// use telstar::extension::{ExtensionError, Extensions};
///
/// fn parse(url: &str) -> Result<&str, ExtensionError> {
///     let wrong = || ExtensionError::refused(format!("url is {url:?}, write it as http://host:port/path"));
///     url.strip_prefix("http://").ok_or_else(wrong)
/// }
/// assert_eq!(parse("http://127.0.0.1:80/in").unwrap(), "127.0.0.1:80/in");
/// let error = parse("file:in").unwrap_err();
/// assert_eq!(error.to_string(), "url is \"file:in\", write it as http://host:port/path");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ExtensionError {
    /// What it says itself.
    #[error("{0}")]
    Refused(String),
    /// It panicked, and said why on standard error.
    #[error("it panicked")]
    Panicked,
    /// It wants to be told the same twice.
    #[error("it hooks {what} twice; do it once, and tell its other actors from there")]
    Twice {
        /// What it hooks.
        what: &'static str,
    },
    /// A code of RocketMQ's, or one that another owns.
    #[error("it cannot own request code {code}; allowed are {} to {}", EXTENSION_CODES.start, EXTENSION_CODES.end - 1)]
    CodeNotFree {
        /// The code.
        code: i32,
    },
    /// It could never be asked for.
    #[error("it cannot serve the HTTP path {path:?}: a path begins with /")]
    PathMalformed {
        /// The path.
        path: String,
    },
    /// Two extensions want the same code or path.
    #[error("{what} belongs to extension {owner} already; choose another")]
    Taken {
        /// The code or path.
        what: String,
        /// Who has it.
        owner: &'static str,
    },
}

impl ExtensionError {
    /// Says why the extension cannot start: what is wrong, and what to do.
    pub fn refused(why: impl std::fmt::Display) -> Self {
        Self::Refused(why.to_string())
    }
}

/// An extension that is to be started.
#[derive(Clone)]
pub struct ExtensionPlan {
    pub name: &'static str,
    /// Called on the thread of the extension, at the start and for each restart.
    pub start: StartExtension,
}

/// Starts the actors of an extension, and says what they take part in.
pub type StartExtension = Arc<dyn Fn(&mut Hooks) -> Result<(), ExtensionError> + Send + Sync>;

impl std::fmt::Debug for ExtensionPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExtensionPlan").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How an extension listens.
#[derive(Clone, Debug)]
pub struct Listening {
    pub kinds: Vec<EventKind>,
    pub recipient: Recipient<BrokerEvents>,
    pub when_behind: WhenBehind,
    pub capacity: usize,
}

/// What an extension takes part in. It is given one when it starts, and fills it.
///
/// ```
/// use telstar::extension::{BrokerEvents, EventKind, HttpRequest, WhenBehind};
/// use telstar::testing::{Scenario, fake_mailbox, fake_sink};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (listener, _) = fake_sink::<BrokerEvents>();
/// let (page, _) = fake_mailbox::<HttpRequest>().start();
/// let broker = scene.broker("broker").hooks("herald", move |hooks| {
///     hooks.on_events(&[EventKind::TopicCreated], listener.clone(), WhenBehind::SlowSource, 1000);
///     hooks.serves_http("/herald", page.clone());
///     assert_eq!(hooks.broker().extension(), "herald"); // by this it asks the broker
/// });
/// assert!(broker.start().await.extensions().await[0].running);
/// # }
/// ```
///
/// All of them: [deciding, and requests of one's own](crate::extension#deciding-and-requests-of-ones-own).
#[derive(Debug)]
pub struct Hooks {
    broker: BrokerHandle,
    taken: Taken,
    twice: Option<&'static str>,
}

/// How an extension decides.
#[derive(Debug)]
pub struct Deciding<Q: Question> {
    pub recipient: Recipient<Q>,
    pub rules: DecisionRules,
}

/// What was filled in.
#[derive(Default)]
pub struct Taken {
    pub listening: Option<Listening>,
    pub sends: Option<Deciding<DecideSend>>,
    pub deliveries: Option<Deciding<DecideDelivery>>,
    pub admin: Option<Deciding<DecideAdmin>>,
    pub codes: Vec<(i32, Recipient<OwnRequest>)>,
    pub paths: Vec<(String, Recipient<HttpRequest>)>,
    /// Whether each of its actors that are known lives.
    pub lives: Vec<Box<dyn Fn() -> bool + Send>>,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Taken {
    fn checked(self) -> Result<Self, ExtensionError> {
        for (code, _) in &self.codes {
            if !EXTENSION_CODES.contains(code)
                || RequestCode::NAMED.iter().any(|known| known.as_i32() == *code)
            {
                return Err(ExtensionError::CodeNotFree { code: *code });
            }
        }
        match self.paths.iter().find(|(path, _)| !path.starts_with('/')) {
            Some((path, _)) => Err(ExtensionError::PathMalformed { path: path.clone() }),
            None => Ok(self),
        }
    }

    /// Whether every actor of the extension that is known lives.
    pub fn is_alive(&self) -> bool {
        self.lives.iter().all(|lives| lives())
    }
}

impl Hooks {
    pub(super) fn new(broker: BrokerHandle) -> Self {
        Self { broker, taken: Taken::default(), twice: None }
    }

    /// What it may ask of the broker.
    pub fn broker(&self) -> BrokerHandle {
        self.broker.clone()
    }

    /// Has `recipient` told what happens, in lots: the next one comes when the one before is handled. At most
    /// `capacity` events wait for it; `when_behind` says what becomes of more.
    pub fn on_events(
        &mut self,
        kinds: &[EventKind],
        recipient: Recipient<BrokerEvents>,
        when_behind: WhenBehind,
        capacity: usize,
    ) {
        self.watch_recipient(&recipient);
        let listening = Listening { kinds: kinds.to_vec(), recipient, when_behind, capacity };
        if self.taken.listening.replace(listening).is_some() {
            self.twice = Some("events");
        }
    }

    /// Has the extension started anew when this actor ends. An actor that is hooked otherwise is watched already.
    ///
    /// ```
    /// use actix::prelude::*;
    /// use telstar::extension::*;
    ///
    /// /// Does something every hour, and is asked by nobody.
    /// struct Sweeper;
    /// # impl Actor for Sweeper { type Context = Context<Self>; }
    ///
    /// impl Extension for Sweeper {
    ///     const NAME: &'static str = "sweeper";
    ///     type Settings = std::collections::BTreeMap<String, String>;
    ///
    ///     fn start(_: Self::Settings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
    ///         hooks.watch(&Sweeper.start());
    ///         Ok(())
    ///     }
    /// }
    /// # #[actix::main]
    /// # async fn main() {
    /// let scene = telstar::testing::Scenario::begin().await;
    /// let broker = scene.broker("broker").extension::<Sweeper>().start().await;
    /// assert!(broker.extensions().await[0].running);
    /// # }
    /// ```
    pub fn watch<A: Actor<Context = Context<A>>>(&mut self, actor: &Addr<A>) {
        let actor = actor.clone();
        self.taken.lives.push(Box::new(move || actor.connected()));
    }

    /// Has `recipient` asked whether messages may be stored, before they are. Sends then take a task each, and those of
    /// one client to one queue may overtake each other unless it waits for one before it sends the next.
    pub fn decides_sends(&mut self, recipient: Recipient<DecideSend>, rules: DecisionRules) {
        self.watch_recipient(&recipient);
        if self.taken.sends.replace(Deciding { recipient, rules }).is_some() {
            self.twice = Some("decisions on sends");
        }
    }

    /// Has `recipient` asked whether messages may be handed to consumers, before they are.
    pub fn decides_deliveries(&mut self, recipient: Recipient<DecideDelivery>, rules: DecisionRules) {
        self.watch_recipient(&recipient);
        if self.taken.deliveries.replace(Deciding { recipient, rules }).is_some() {
            self.twice = Some("decisions on deliveries");
        }
    }

    /// Has `recipient` asked whether topics, groups, settings and the like may be changed, before they are.
    pub fn decides_admin(&mut self, recipient: Recipient<DecideAdmin>, rules: DecisionRules) {
        self.watch_recipient(&recipient);
        if self.taken.admin.replace(Deciding { recipient, rules }).is_some() {
            self.twice = Some("decisions on administration");
        }
    }

    /// Has `recipient` answer requests with a code of its own, by the broker's port: one of [`EXTENSION_CODES`].
    pub fn owns_code(&mut self, code: i32, recipient: Recipient<OwnRequest>) {
        self.watch_recipient(&recipient);
        self.taken.codes.push((code, recipient));
    }

    /// Has `recipient` answer HTTP requests for this path, which begins with `/`, at `http.listen`.
    pub fn serves_http(&mut self, path: &str, recipient: Recipient<HttpRequest>) {
        self.watch_recipient(&recipient);
        self.taken.paths.push((path.to_owned(), recipient));
    }

    fn watch_recipient<M>(&mut self, recipient: &Recipient<M>)
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let recipient = recipient.clone();
        self.taken.lives.push(Box::new(move || recipient.connected()));
    }

    pub(super) fn take(self) -> Result<Taken, ExtensionError> {
        match self.twice {
            Some(what) => Err(ExtensionError::Twice { what }),
            None => self.taken.checked(),
        }
    }
}
