//! A scene of real actors and fakes, each with a name, whose exchange is written down.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender};
use actix::fut::wrap_future;
use actix::prelude::*;

use super::mailbox::{MailboxScript, Show, fake_mailbox, name_of};
use super::transcript::{Heard, Transcript, Way};
use super::{RuntimeClock, pass, stop_time};
use crate::clock::SharedClock;

/// A scene: time that stands still until something is waited for, names, and a transcript of who sent what to whom.
///
/// ```
/// use std::time::Duration;
/// use actix::prelude::*;
/// use telstar::testing::Scenario;
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Reserve(u64);
///
/// /// The actor under test: reserves what it is told, a second later.
/// struct Shop(Recipient<Reserve>);
/// # impl Actor for Shop { type Context = Context<Self>; }
/// # impl Handler<Reserve> for Shop {
/// #     type Result = ();
/// #     fn handle(&mut self, reserve: Reserve, ctx: &mut Self::Context) {
/// #         ctx.run_later(Duration::from_secs(1), move |shop, _| shop.0.do_send(reserve));
/// #     }
/// # }
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (stock, _) = scene.fake::<Reserve>("shop -> stock").shown(|reserve| reserve.0.to_string()).start();
/// let shop = scene.wire("client -> shop").to(Shop(stock).start().recipient());
/// shop.send(Reserve(3)).await.unwrap();
/// scene.pass(Duration::from_secs(60)).await;
/// scene.expect(
///     "00:00:00.000 client -> shop: Reserve
///      00:00:01.000 shop -> stock: Reserve 3",
/// );
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Scenario {
    transcript: Transcript,
    clock: Arc<RuntimeClock>,
}

impl Scenario {
    /// Begins a scene at `00:00:00.000`, and stops the clock of the runtime: from now on time passes only when
    /// everybody waits, and then at once.
    pub async fn begin() -> Self {
        stop_time().await;
        Self { transcript: Transcript::begin(), clock: RuntimeClock::shared() }
    }

    /// The wall clock of the scene, for the actors in it: it moves with the runtime's.
    pub fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    /// The same scene with a transcript of its own: for those whose exchange is not to be written down in this one.
    ///
    /// ```
    /// use telstar::testing::{Scenario, calls::send_to};
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let scene = Scenario::begin().await;
    /// let broker = scene.apart().broker("broker").topic("orders", 1).start().await;
    /// broker.client("shop").succeed(send_to("orders", 0, "pay 7")).await;
    /// scene.note("the shop has sent");
    /// scene.expect("00:00:00.000 -- the shop has sent");
    /// # }
    /// ```
    pub fn apart(&self) -> Self {
        Self { transcript: Transcript::begin(), clock: self.clock.clone() }
    }

    /// A fake mailbox whose messages are written down; `way` is as in the transcript, `"shop -> stock"`.
    pub fn fake<M>(&self, way: &str) -> MailboxScript<M>
    where
        M: Message + Send + Unpin + 'static,
        M::Result: Send + 'static,
    {
        fake_mailbox().heard(self.heard(Way::parse(way)))
    }

    /// A wire to a real actor, on which messages are written down.
    pub fn wire<M>(&self, way: &str) -> Wire<M>
    where
        M: Message + Send + 'static,
        M::Result: Send + 'static,
    {
        Wire { heard: self.heard(Way::parse(way)), show: None }
    }

    /// Lets `time` pass: everything that is due within it happens, each at its own time.
    pub async fn pass(&self, time: Duration) {
        pass(time).await;
    }

    /// Writes down what the test itself does: `00:00:06.000 -- the power fails`.
    pub fn note(&self, what: &str) {
        self.transcript.note(format_args!("-- {what}"));
    }

    /// Everything that was written down by now.
    pub fn transcript(&self) -> String {
        self.transcript.text()
    }

    /// Compares the whole transcript with `expected`, whose indentation and empty lines do not count.
    ///
    /// # Panics
    /// When they differ: with the first line that does, and the whole transcript, ready to be copied.
    #[track_caller]
    pub fn expect(&self, expected: &str) {
        self.transcript.expect(expected);
    }

    pub(super) fn heard(&self, way: Way) -> Heard {
        Heard { transcript: self.transcript.clone(), way }
    }
}

/// A wire between two actors; see [`Scenario::wire`].
///
/// ```
/// use actix::prelude::*;
/// use telstar::testing::{Scenario, Wire, fake_mailbox};
///
/// #[derive(Message)]
/// #[rtype(result = "u64")]
/// struct Add(u64);
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (adder, _) = fake_mailbox::<Add>().answers(|add| add.0 + 1).start(); // or a real actor
/// let wire: Wire<Add> = scene.wire("till -> adder");
/// let adder = wire.shown(|add| add.0.to_string()).to(adder);
/// assert_eq!(adder.send(Add(3)).await, Ok(4));
/// scene.expect("00:00:00.000 till -> adder: Add 3");
/// # }
/// ```
#[must_use = "it leads to nobody before it is told to whom"]
pub struct Wire<M: Message> {
    heard: Heard,
    show: Option<Show<M>>,
}

impl<M> Wire<M>
where
    M: Message + Send + 'static,
    M::Result: Send + 'static,
{
    /// What is written down of a message, behind its name.
    pub fn shown(mut self, show: impl FnMut(&M) -> String + 'static) -> Self {
        self.show = Some(Box::new(show));
        self
    }

    /// Has it lead to `to`. Who is given what this returns sends to `to` by it; when the mailbox of `to` is full,
    /// messages wait in the wire.
    pub fn to(self, to: Recipient<M>) -> Recipient<M> {
        WireEnd { wire: self, to }.start().recipient()
    }
}

/// The actor that passes messages on.
struct WireEnd<M: Message + Send + 'static>
where
    M::Result: Send,
{
    wire: Wire<M>,
    to: Recipient<M>,
}

impl<M> Unpin for WireEnd<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
}

impl<M> Actor for WireEnd<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
    }
}

impl<M> Handler<M> for WireEnd<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    type Result = Passed<M>;

    fn handle(&mut self, message: M, _: &mut Self::Context) -> Self::Result {
        self.wire.heard.note(line_of(&message, &mut self.wire.show));
        Passed { answered: self.to.send(message), message: PhantomData }
    }
}

/// A message that was passed on.
struct Passed<M: Message + Send + 'static>
where
    M::Result: Send,
{
    answered: actix::dev::RecipientRequest<M>,
    message: PhantomData<M>,
}

impl<M> MessageResponse<WireEnd<M>, M> for Passed<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(self, ctx: &mut Context<WireEnd<M>>, asker: Option<OneshotSender<M::Result>>) {
        let answering = async move {
            // A receiver that is gone drops who asks, as it would without the wire.
            if let Ok(answer) = self.answered.await {
                drop(asker.map(|asker| asker.send(answer)));
            }
        };
        ctx.spawn(wrap_future::<_, WireEnd<M>>(answering));
    }
}

/// The name of a message, and what is to be shown of it.
pub(super) fn line_of<M>(message: &M, show: &mut Option<Show<M>>) -> String {
    match show {
        Some(show) => format!("{} {}", name_of::<M>(), show(message)),
        None => name_of::<M>().to_owned(),
    }
}
