//! Mailboxes that stand for an actor: they record what they are sent and answer as they are told.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use actix::WeakAddr;
use actix::dev::{MessageResponse, OneshotSender};
use actix::fut::wrap_future;
use actix::prelude::*;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::scenario::line_of;
use super::settle;
use super::transcript::Heard;

/// How long [`Taken::next`] waits, by the clock of the runtime.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a fake mailbox does with a message, once it is recorded.
///
/// ```
/// use std::time::Duration;
/// use actix::prelude::*;
/// use telstar::testing::{Act, fake_mailbox};
///
/// #[derive(Message)]
/// #[rtype(result = "u64")]
/// struct Count;
///
/// # #[actix::main]
/// # async fn main() {
/// # telstar::testing::stop_time().await;
/// let (counter, _) = fake_mailbox::<Count>()
///     .first(Act::Answer(1))
///     .first(Act::AnswerAfter(Duration::from_secs(5), 2))
///     .acts(|_| Act::Hang)
///     .start();
/// assert_eq!(counter.send(Count).await, Ok(1));
/// assert_eq!(counter.send(Count).await, Ok(2));
/// let waiting = counter.send(Count).timeout(Duration::from_secs(60)).await;
/// assert_eq!(waiting, Err(MailboxError::Timeout));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act<R> {
    /// Answers at once.
    Answer(R),
    /// Answers later, and takes other messages meanwhile.
    AnswerAfter(Duration, R),
    /// Gives no answer: who asked is told that its message was dropped.
    Drop,
    /// Never answers: who asked waits as long as it likes.
    Hang,
}

type Decide<M> = Box<dyn FnMut(&M) -> Act<<M as Message>::Result>>;

/// What a transcript shows of a message.
pub(super) type Show<M> = Box<dyn FnMut(&M) -> String>;

/// What a fake mailbox will do; made by [`fake_mailbox`].
///
/// ```
/// use std::time::Duration;
/// use actix::prelude::*;
/// use telstar::testing::{MailboxScript, fake_mailbox, pass, settle, stop_time};
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Print;
///
/// # #[actix::main]
/// # async fn main() {
/// stop_time().await;
/// let slow: MailboxScript<Print> = fake_mailbox().busy_for(Duration::from_secs(10));
/// let (printer, mut printed) = slow.start();
/// for _ in 0..3 {
///     printer.do_send(Print);
/// }
/// assert_eq!(printed.all().await.len(), 1);
/// pass(Duration::from_secs(20)).await;
/// assert_eq!(printed.all().await.len(), 2);
/// # }
/// ```
#[must_use = "it takes messages once it is started"]
pub struct MailboxScript<M: Message> {
    first: VecDeque<Act<M::Result>>,
    always: Decide<M>,
    busy_for: Duration,
    capacity: usize,
    heard: Option<Heard>,
    show: Option<Show<M>>,
}

/// A mailbox that stands for an actor. It records everything it is sent. Until it is told otherwise, it answers
/// messages that have no answer with nothing, and drops those who ask for one.
///
/// ```
/// use actix::prelude::*;
/// use telstar::testing::fake_mailbox;
///
/// #[derive(Message, Debug, PartialEq)]
/// #[rtype(result = "Result<u64, String>")]
/// struct Reserve(u64);
///
/// # #[actix::main]
/// # async fn main() {
/// let (stock, mut reserved) = fake_mailbox::<Reserve>().answers(|reserve| Ok(reserve.0)).start();
/// // Hand `stock` to the actor under test, which may do this:
/// assert_eq!(stock.send(Reserve(3)).await.unwrap(), Ok(3));
/// assert_eq!(reserved.next().await, Reserve(3));
/// # }
/// ```
pub fn fake_mailbox<M>() -> MailboxScript<M>
where
    M: Message + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    MailboxScript {
        first: VecDeque::new(),
        always: Box::new(|_| nothing().map_or(Act::Drop, Act::Answer)),
        busy_for: Duration::ZERO,
        capacity: 1024,
        heard: None,
        show: None,
    }
}

/// `()`, where that is what is asked for.
fn nothing<R: 'static>() -> Option<R> {
    (Box::new(()) as Box<dyn Any>).downcast().ok().map(|nothing| *nothing)
}

impl<M> MailboxScript<M>
where
    M: Message + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    /// Answers every message by `answer`.
    pub fn answers(self, mut answer: impl FnMut(&M) -> M::Result + 'static) -> Self {
        self.acts(move |message| Act::Answer(answer(message)))
    }

    /// Does with every message what `decide` says.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use actix::prelude::*;
    /// # use telstar::testing::{Act, fake_mailbox};
    /// # #[derive(Message)]
    /// # #[rtype(result = "u64")]
    /// # struct Reserve(u64);
    /// # #[actix::main]
    /// # async fn main() {
    /// let (stock, _) = fake_mailbox::<Reserve>()
    ///     .acts(|reserve| match reserve.0 {
    ///         0 => Act::Drop,
    ///         many => Act::AnswerAfter(Duration::from_millis(1), many),
    ///     })
    ///     .start();
    /// assert!(stock.send(Reserve(0)).await.is_err());
    /// assert_eq!(stock.send(Reserve(9)).await.unwrap(), 9);
    /// # }
    /// ```
    pub fn acts(mut self, decide: impl FnMut(&M) -> Act<M::Result> + 'static) -> Self {
        self.always = Box::new(decide);
        self
    }

    /// Does this with the first message, or the next after those that were told so before.
    ///
    /// ```
    /// # use actix::prelude::*;
    /// # use telstar::testing::{Act, fake_mailbox};
    /// # #[derive(Message)]
    /// # #[rtype(result = "Result<u64, String>")]
    /// # struct Reserve(u64);
    /// # #[actix::main]
    /// # async fn main() {
    /// let (stock, _) = fake_mailbox::<Reserve>()
    ///     .first(Act::Answer(Err("sold out".into())))
    ///     .first(Act::Drop)
    ///     .answers(|reserve| Ok(reserve.0))
    ///     .start();
    /// assert_eq!(stock.send(Reserve(1)).await.unwrap(), Err("sold out".into()));
    /// assert!(stock.send(Reserve(1)).await.is_err());
    /// assert_eq!(stock.send(Reserve(1)).await.unwrap(), Ok(1));
    /// # }
    /// ```
    pub fn first(mut self, act: Act<M::Result>) -> Self {
        self.first.push_back(act);
        self
    }

    /// Is busy with each message for so long, and takes no other meanwhile: a slow actor.
    pub fn busy_for(mut self, time: Duration) -> Self {
        self.busy_for = time;
        self
    }

    /// Messages that may wait in it; default 1024. actix lets each sender have one more.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// What a [`Scenario`](super::Scenario) writes down of each message, behind its name.
    pub fn shown(mut self, show: impl FnMut(&M) -> String + 'static) -> Self {
        self.show = Some(Box::new(show));
        self
    }

    /// Writes down what comes.
    pub(super) fn heard(mut self, heard: Heard) -> Self {
        self.heard = Some(heard);
        self
    }

    /// Starts it on this thread: what is handed to the actor under test, and what the test looks at.
    pub fn start(self) -> (Recipient<M>, Taken<M>) {
        let (taken, receiver) = unbounded_channel();
        let mailbox = FakeMailbox { script: self, taken }.start();
        let weak = mailbox.downgrade();
        (mailbox.recipient(), Taken { receiver, mailbox: weak })
    }
}

/// A mailbox whose messages nobody waits for: [`fake_mailbox`], started as it is.
///
/// ```
/// use actix::prelude::*;
/// use telstar::testing::fake_sink;
///
/// #[derive(Message, Debug, PartialEq)]
/// #[rtype(result = "()")]
/// struct Sold(u64);
///
/// # #[actix::main]
/// # async fn main() {
/// let (sales, mut sold) = fake_sink::<Sold>();
/// sales.do_send(Sold(3)); // as the actor under test does
/// assert_eq!(sold.next().await, Sold(3));
/// # }
/// ```
pub fn fake_sink<M>() -> (Recipient<M>, Taken<M>)
where
    M: Message<Result = ()> + Send + Unpin + 'static,
{
    fake_mailbox().start()
}

/// What a fake mailbox was sent, in order.
///
/// ```
/// use actix::prelude::*;
/// use telstar::testing::{Taken, fake_sink};
///
/// #[derive(Message, Debug, PartialEq)]
/// #[rtype(result = "()")]
/// struct Sold(u64);
///
/// # #[actix::main]
/// # async fn main() {
/// let (sales, mut sold): (_, Taken<Sold>) = fake_sink();
/// (1..=3).for_each(|count| sales.do_send(Sold(count)));
/// assert_eq!(sold.next().await, Sold(1));
/// assert_eq!(sold.all().await, [Sold(2), Sold(3)]);
/// sold.fail().await; // the actor that it stands for panics
/// assert!(sales.try_send(Sold(4)).is_err());
/// # }
/// ```
pub struct Taken<M: Message + Unpin + 'static>
where
    M::Result: Send + 'static,
{
    receiver: UnboundedReceiver<M>,
    /// Lives as long as somebody may send to it.
    mailbox: WeakAddr<FakeMailbox<M>>,
}

impl<M> fmt::Debug for Taken<M>
where
    M: Message + Unpin + 'static,
    M::Result: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("waiting", &self.receiver.len()).finish_non_exhaustive()
    }
}

impl<M> Taken<M>
where
    M: Message + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    /// The next message.
    ///
    /// # Panics
    /// When none comes within a minute by the clock of the runtime, which takes no time where that is paused.
    pub async fn next(&mut self) -> M {
        match tokio::time::timeout(PATIENCE, self.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => panic!("no {} can come: the fake mailbox is closed", name_of::<M>()),
            Err(_) => panic!("no {} came within {} s", name_of::<M>(), PATIENCE.as_secs()),
        }
    }

    /// The next message, waited for as long as it takes; `None` once the mailbox is closed.
    pub async fn recv(&mut self) -> Option<M> {
        self.receiver.recv().await
    }

    /// The next message, if it is there already.
    pub fn try_recv(&mut self) -> Result<M, TryRecvError> {
        self.receiver.try_recv()
    }

    /// Everything that came by now, once every actor of this thread has done what is due.
    pub async fn all(&mut self) -> Vec<M> {
        settle().await;
        std::iter::from_fn(|| self.receiver.try_recv().ok()).collect()
    }

    /// Messages that came and were not looked at.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether every message that came was looked at.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Ends the mailbox, as an actor that panics ends: messages to it are refused as sent to one that is gone.
    pub async fn fail(&self) {
        if let Some(mailbox) = self.mailbox.upgrade() {
            // It drops this message, too.
            let _ = mailbox.send(FailNow(PhantomData)).await;
        }
    }
}

/// The last part of a type's name.
pub(super) fn name_of<M>() -> &'static str {
    let path = std::any::type_name::<M>();
    let plain = path.split('<').next().unwrap_or(path);
    plain.rsplit("::").next().unwrap_or(plain)
}

/// The actor behind a fake mailbox.
struct FakeMailbox<M: Message> {
    script: MailboxScript<M>,
    taken: UnboundedSender<M>,
}

impl<M: Message + Unpin + 'static> Actor for FakeMailbox<M>
where
    M::Result: Send + 'static,
{
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.script.capacity);
    }
}

impl<M: Message> Unpin for FakeMailbox<M> {}

impl<M> Handler<M> for FakeMailbox<M>
where
    M: Message + Unpin + 'static,
    M::Result: Send + 'static,
{
    type Result = Acted<M::Result>;

    fn handle(&mut self, message: M, _: &mut Self::Context) -> Self::Result {
        if let Some(heard) = &self.script.heard {
            heard.note(line_of(&message, &mut self.script.show));
        }
        let act = match self.script.first.pop_front() {
            Some(act) => act,
            None => (self.script.always)(&message),
        };
        // A test that does not look at what came may have dropped its end.
        let _ = self.taken.send(message);
        Acted { act, busy_for: self.script.busy_for }
    }
}

/// Ends the mailbox of `M`.
struct FailNow<M>(PhantomData<fn(M)>);

impl<M: 'static> Message for FailNow<M> {
    type Result = ();
}

impl<M> Handler<FailNow<M>> for FakeMailbox<M>
where
    M: Message + Unpin + 'static,
    M::Result: Send + 'static,
{
    type Result = ();

    fn handle(&mut self, _: FailNow<M>, ctx: &mut Self::Context) {
        ctx.terminate();
    }
}

/// What is done about one message.
struct Acted<R> {
    act: Act<R>,
    busy_for: Duration,
}

impl<A, M, R> MessageResponse<A, M> for Acted<R>
where
    A: Actor,
    A::Context: AsyncContext<A>,
    M: Message<Result = R>,
    R: Send + 'static,
{
    fn handle(self, ctx: &mut A::Context, asker: Option<OneshotSender<R>>) {
        if !self.busy_for.is_zero() {
            // What is spawned below goes on behind it.
            ctx.wait(wrap_future::<_, A>(tokio::time::sleep(self.busy_for)));
        }
        let answering = async move {
            let result = match self.act {
                Act::Answer(result) => result,
                Act::AnswerAfter(after, result) => {
                    tokio::time::sleep(after).await;
                    result
                }
                Act::Drop => return,
                Act::Hang => std::future::pending().await,
            };
            // Nobody may wait any more: then nobody is answered.
            drop(asker.map(|asker| asker.send(result)));
        };
        ctx.spawn(wrap_future::<_, A>(answering));
    }
}

/// An actor that never takes a message.
struct StuckMailbox<M> {
    capacity: usize,
    takes: PhantomData<fn(M)>,
}

impl<M: Message + 'static> Actor for StuckMailbox<M> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.capacity);
        ctx.wait(std::future::pending::<()>().into_actor(self));
    }
}

impl<M> Handler<M> for StuckMailbox<M>
where
    M: Message<Result = ()> + 'static,
{
    type Result = ();

    fn handle(&mut self, _: M, _: &mut Self::Context) {
        unreachable!("it waits for ever")
    }
}

/// A mailbox that was filled with what `filling` makes and that nobody empties.
///
/// ```
/// use actix::prelude::*;
/// use telstar::testing::full_mailbox;
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Print(&'static str);
///
/// # #[actix::main]
/// # async fn main() {
/// let printer = full_mailbox(|| Print("page")).await;
/// // The actor under test has to answer that it is busy.
/// let Err(SendError::Full(Print(page))) = printer.try_send(Print("mine")) else { panic!("there was room") };
/// assert_eq!(page, "mine");
/// # }
/// ```
pub async fn full_mailbox<M>(mut filling: impl FnMut() -> M) -> Recipient<M>
where
    M: Message<Result = ()> + Send + 'static,
{
    let stuck = StuckMailbox { capacity: 1, takes: PhantomData }.start().recipient();
    settle().await;
    while stuck.try_send(filling()).is_ok() {}
    stuck
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[derive(Message, Clone, PartialEq, Debug)]
    #[rtype(result = "u32")]
    struct Ask(u32);

    #[derive(Message, Clone, PartialEq, Debug)]
    #[rtype(result = "()")]
    struct Tell(u32);

    #[actix::test]
    async fn mailbox_without_a_script_takes_what_has_no_answer_and_drops_who_asks() {
        let (tell, mut told) = fake_mailbox::<Tell>().start();
        assert_eq!(tell.send(Tell(1)).await, Ok(()));
        assert_eq!(told.next().await, Tell(1));
        let (ask, mut asked) = fake_mailbox::<Ask>().start();
        assert_eq!(ask.send(Ask(1)).await, Err(MailboxError::Closed));
        assert_eq!(asked.all().await, [Ask(1)]);
    }

    #[actix::test]
    async fn first_acts_come_in_their_order_and_before_the_rule() {
        tokio::time::pause();
        let (ask, _asked) = fake_mailbox::<Ask>()
            .first(Act::AnswerAfter(Duration::from_secs(5), 50))
            .first(Act::Drop)
            .first(Act::Hang)
            .answers(|ask| ask.0 + 1)
            .start();
        let began = Instant::now();
        let late = actix_rt::spawn(ask.send(Ask(1)));
        settle().await;
        assert_eq!(ask.send(Ask(2)).await, Err(MailboxError::Closed));
        let hanging = ask.send(Ask(3)).timeout(Duration::from_secs(3_600));
        let hanging = actix_rt::spawn(hanging);
        settle().await;
        assert_eq!(ask.send(Ask(4)).await, Ok(5));
        assert_eq!(began.elapsed(), Duration::ZERO, "meanwhile others are answered");
        assert_eq!(late.await.unwrap(), Ok(50));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(hanging.await.unwrap(), Err(MailboxError::Timeout));
    }

    #[actix::test]
    async fn busy_mailbox_takes_one_message_after_the_other_and_refuses_beyond_its_capacity() {
        tokio::time::pause();
        let (tell, mut told) = fake_mailbox::<Tell>().busy_for(Duration::from_secs(10)).capacity(1).start();
        settle().await;
        tell.try_send(Tell(1)).unwrap();
        settle().await;
        let mut taken = 1;
        while tell.try_send(Tell(taken + 1)).is_ok() {
            taken += 1;
        }
        assert!((2..=3).contains(&taken), "{taken} of a capacity of one");
        assert_eq!(told.all().await, [Tell(1)], "it is busy with the first");
        super::super::pass(Duration::from_secs(10)).await;
        assert_eq!(told.all().await, [Tell(2)]);
    }

    #[actix::test]
    async fn failed_mailbox_is_gone_for_its_senders() {
        let (tell, told) = fake_mailbox::<Tell>().start();
        told.fail().await;
        assert!(matches!(tell.try_send(Tell(1)), Err(SendError::Closed(_))));
    }

    #[actix::test]
    #[should_panic(expected = "no Tell came within 60 s")]
    async fn waiting_in_vain_names_what_did_not_come() {
        tokio::time::pause();
        let (_tell, mut told) = fake_mailbox::<Tell>().start();
        told.next().await;
    }

    #[actix::test]
    async fn full_mailbox_takes_nothing() {
        let full = full_mailbox(|| Tell(0)).await;
        assert!(matches!(full.try_send(Tell(1)), Err(SendError::Full(Tell(1)))));
    }
}
