//! Looking at the actors of this process.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::actors::actor_list::{ActorEntry, ActorId, ActorList, SeenFigures};
use crate::actors::context::{Pulse, Pulsed};
use crate::actors::request::{Answer, Answered, Request};
use crate::error::Refusal;
use crate::protocol::body::actors::{ActorPage, ActorState, KindCount, RecordedMessage, TurnState};
use crate::protocol::header::{HeaderError, ListActors};

const NAME: &str = "LIST_ACTORS";
/// Actors of one answer, at most.
const LIST_MAX: i32 = 1_000;
/// How long an actor may take to say how it is. Who is busy for longer is shown as what it is busy with.
const PULSE_DEADLINE: Duration = Duration::from_millis(500);

/// What comes first in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Who started others before those.
    Tree,
    Depth,
    Busy,
    Handled,
    LongestTurn,
}

impl Order {
    fn parse(word: &str) -> Result<Self, Refusal> {
        match word {
            "tree" => Ok(Self::Tree),
            "depth" => Ok(Self::Depth),
            "busy" => Ok(Self::Busy),
            "handled" => Ok(Self::Handled),
            "longest" => Ok(Self::LongestTurn),
            _ => Err(illegal("sort", word.to_owned(), "tree, depth, busy, handled or longest")),
        }
    }
}

fn illegal(field: &'static str, value: String, expected: &'static str) -> Refusal {
    Refusal::FieldIllegal { request: NAME, error: HeaderError::NotA { field, value, expected } }
}

/// An actor as it was when it was looked at.
struct Seen {
    entry: Arc<ActorEntry>,
    figures: SeenFigures,
    pulsed: Option<Pulsed>,
}

impl Seen {
    fn of(entry: Arc<ActorEntry>, actors: &ActorList) -> Self {
        Self { figures: entry.figures.seen(actors.uptime()), entry, pulsed: None }
    }

    /// Messages that were handled before the [`Pulse`] that was sent behind them.
    fn depth(&self) -> Option<u64> {
        self.pulsed.as_ref().map(|pulsed| pulsed.handled.saturating_sub(self.figures.handled))
    }
}

/// LIST_ACTORS (29003). Figures are read without asking anybody; how much waits, and facts, are asked of those that are
/// shown, or of all that match where the order depends on it.
pub async fn list_actors(request: &Request, actors: &ActorList) -> Answered {
    let asked: ListActors = request.header(NAME)?;
    let order = Order::parse(&asked.sort)?;
    if !(1..=LIST_MAX).contains(&asked.max) {
        return Err(illegal("max", asked.max.to_string(), "a number from 1 to 1000"));
    }
    let mut running = 0;
    let matching = actors.entries(|_| true);
    let matching: Vec<_> = matching
        .into_iter()
        .inspect(|_| running += 1)
        .filter(|entry| entry.name().starts_with(&asked.name))
        .collect();
    let count = matching.len();
    let mut seen: Vec<Seen> = match order {
        Order::Tree => in_tree_order(matching).into_iter().map(|entry| Seen::of(entry, actors)).collect(),
        _ => matching.into_iter().map(|entry| Seen::of(entry, actors)).collect(),
    };
    let all_are_asked = order == Order::Depth;
    if all_are_asked {
        ask(&mut seen).await;
    }
    match order {
        Order::Tree => {}
        Order::Depth => seen.sort_by_key(|one| std::cmp::Reverse(one.depth().unwrap_or(u64::MAX))),
        Order::Busy => seen.sort_by_key(|one| std::cmp::Reverse(one.figures.busy)),
        Order::Handled => seen.sort_by_key(|one| std::cmp::Reverse(one.figures.handled)),
        Order::LongestTurn => seen.sort_by_key(|one| std::cmp::Reverse(one.figures.longest_turn)),
    }
    seen.truncate(asked.max as usize);
    if !all_are_asked {
        ask(&mut seen).await;
    }
    let shown = seen.into_iter().map(|one| shown(one, actors, &asked)).collect();
    Ok(Some(Answer::json(&ActorPage { running, matching: count, actors: shown })))
}

/// Asks all of them at once how they are.
async fn ask(seen: &mut [Seen]) {
    let asked = join_all(seen.iter().map(|one| {
        let pulse = one.entry.pulse();
        async move { tokio::time::timeout(PULSE_DEADLINE, pulse?.send(Pulse)).await.ok()?.ok() }
    }));
    for (one, pulsed) in seen.iter_mut().zip(asked.await) {
        one.pulsed = pulsed;
    }
}

/// Those whom an actor started follow it; whose starter is not among them stands for itself.
fn in_tree_order(entries: Vec<Arc<ActorEntry>>) -> Vec<Arc<ActorEntry>> {
    let known: HashSet<ActorId> = entries.iter().map(|entry| entry.id).collect();
    let mut children: BTreeMap<Option<ActorId>, Vec<Arc<ActorEntry>>> = BTreeMap::new();
    for entry in entries {
        let starter = entry.starter.filter(|starter| known.contains(starter));
        children.entry(starter).or_default().push(entry);
    }
    let mut ordered = Vec::with_capacity(known.len());
    let mut waiting = children.remove(&None).unwrap_or_default();
    waiting.reverse();
    while let Some(entry) = waiting.pop() {
        waiting.extend(children.remove(&Some(entry.id)).unwrap_or_default().into_iter().rev());
        ordered.push(entry);
    }
    ordered
}

fn shown(seen: Seen, actors: &ActorList, asked: &ListActors) -> ActorState {
    let (now, depth) = (actors.uptime(), seen.depth());
    let Seen { entry, figures, pulsed } = seen;
    let kind_name = |kind| entry.kind_name(kind).unwrap_or("its start").to_owned();
    let age = now.saturating_sub(entry.started_after);
    let (mut kinds, mut facts) = (Vec::new(), serde_json::Value::Null);
    if let Some(pulsed) = pulsed.filter(|_| asked.facts) {
        let count = |(message, handled): (&str, u64)| KindCount { message: message.to_owned(), handled };
        kinds = pulsed.kinds.into_iter().map(count).collect();
        facts = pulsed.facts;
    }
    let recorder = entry.recorder.as_ref().filter(|_| asked.recorder).map(|recorder| recorder.seen());
    let recorded = recorder.unwrap_or_default().into_iter().map(|handled| RecordedMessage {
        message: kind_name(handled.kind),
        ended_us_ago: micros(now.saturating_sub(handled.ended_at)),
        took_us: micros(handled.took),
    });
    ActorState {
        id: entry.id.0,
        name: entry.name(),
        kind: entry.kind.to_owned(),
        thread: entry.thread.to_string(),
        started_by: entry.starter.map(|starter| starter.0),
        age_us: micros(age),
        depth,
        capacity: figures.capacity,
        handled: figures.handled,
        turns: figures.turns,
        restarts: figures.restarts,
        busy_us: micros(figures.busy),
        busy_share: figures.busy.as_secs_f64() / age.as_secs_f64().max(f64::MIN_POSITIVE),
        longest_turn_us: micros(figures.longest_turn),
        // Who did not answer is shown with what it is at by now.
        turn: entry
            .figures
            .seen(now)
            .turn
            .filter(|_| depth.is_none())
            .map(|turn| TurnState { message: kind_name(turn.kind), lasts_us: micros(turn.lasts) }),
        kinds,
        facts,
        recorder: recorded.collect(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use actix::prelude::*;

    use super::*;
    use crate::actors::context::{Context, observed};
    use crate::actors::requests::testing::{body, refusal};
    use crate::protocol::request_code::RequestCode;
    use crate::testing::{fake_client, request};

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Work;

    /// Holds its thread until it is let go.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Hold(std::sync::mpsc::Receiver<()>);

    struct Worker;

    impl Actor for Worker {
        type Context = Context<Self>;
    }

    impl Handler<Work> for Worker {
        type Result = ();

        fn handle(&mut self, _: Work, _: &mut Self::Context) {}
    }

    impl Handler<Hold> for Worker {
        type Result = ();

        fn handle(&mut self, Hold(until): Hold, _: &mut Self::Context) {
            until.recv().unwrap();
        }
    }

    fn worker_facts(_: &Worker) -> serde_json::Value {
        serde_json::json!({ "tools": 3 })
    }

    observed!(Worker, worker_facts);

    /// Starts a worker for each name it is sent.
    struct Foreman;

    #[derive(Message)]
    #[rtype(result = "Addr<Worker>")]
    struct Hire(&'static str);

    impl Actor for Foreman {
        type Context = Context<Self>;
    }

    impl Handler<Hire> for Foreman {
        type Result = MessageResult<Hire>;

        fn handle(&mut self, Hire(label): Hire, ctx: &mut Self::Context) -> Self::Result {
            MessageResult(ctx.actors().start(label, Worker))
        }
    }

    observed!(Foreman);

    async fn list(actors: &ActorList, asked: ListActors) -> Answered {
        let (link, _client) = fake_client();
        let request = request(RequestCode::LIST_ACTORS)
            .field("name", asked.name)
            .field("sort", asked.sort)
            .field("max", asked.max)
            .field("facts", asked.facts)
            .field("recorder", asked.recorder)
            .from(&link);
        list_actors(&request, actors).await
    }

    fn asked() -> ListActors {
        ListActors { name: String::new(), sort: "tree".to_owned(), max: 100, facts: false, recorder: false }
    }

    fn names(page: &ActorPage) -> Vec<&str> {
        page.actors.iter().map(|actor| actor.name.as_str()).collect()
    }

    #[actix::test]
    async fn those_whom_an_actor_started_follow_it() {
        let actors = ActorList::default();
        let (first, second) = (actors.start("1", Foreman), actors.start("2", Foreman));
        let hired = [second.send(Hire("b")).await.unwrap(), first.send(Hire("a")).await.unwrap()];
        let page: ActorPage = body(list(&actors, asked()).await);
        assert_eq!(names(&page), ["Foreman 1", "Worker a", "Foreman 2", "Worker b"]);
        assert_eq!(page.actors[1].started_by, Some(page.actors[0].id));
        assert_eq!(page.actors[0].depth, Some(0));
        let workers = ListActors { name: "Worker".to_owned(), facts: true, max: 1, ..asked() };
        let page: ActorPage = body(list(&actors, workers).await);
        assert_eq!((page.running, page.matching, names(&page)), (4, 2, vec!["Worker b"]));
        assert_eq!(page.actors[0].facts, serde_json::json!({ "tools": 3 }));
        drop(hired);
    }

    #[actix::test]
    async fn depth_is_what_waits_and_a_busy_actor_is_shown_with_what_it_is_at() {
        let actors = ActorList::default();
        let worker = actors.start("idle", Worker);
        for _ in 0..3 {
            worker.try_send(Work).unwrap();
        }
        // It has not had a turn yet.
        let page: ActorPage = body(list(&actors, ListActors { sort: "depth".to_owned(), ..asked() }).await);
        assert_eq!((page.actors[0].depth, page.actors[0].handled), (Some(3), 0));

        let thread = Arbiter::new();
        let stuck =
            actors.start_on(&crate::actors::threads::Thread::Arbiter(thread.handle()), "stuck", || Worker);
        stuck.send(Work).await.unwrap(); // it has begun
        let (let_go, until) = std::sync::mpsc::channel();
        stuck.do_send(Hold(until));
        let held = || {
            let entry = actors.entries(|entry| &*entry.label == "stuck").remove(0);
            let turn = entry.figures.seen(actors.uptime()).turn;
            turn.is_some_and(|turn| entry.kind_name(turn.kind) == Some("Hold"))
        };
        while !held() {
            tokio::task::yield_now().await;
        }
        let page: ActorPage = body(list(&actors, ListActors { sort: "depth".to_owned(), ..asked() }).await);
        assert_eq!(names(&page), ["Worker stuck", "Worker idle"]);
        assert_eq!(page.actors[0].depth, None);
        assert_eq!(page.actors[0].turn.as_ref().unwrap().message, "Hold");
        assert_eq!(page.actors[1].handled, 3);
        let_go.send(()).unwrap();
        stuck.send(Work).await.unwrap();
        thread.stop();
    }

    #[actix::test]
    async fn last_messages_are_told_of_those_that_record() {
        let actors = ActorList::default();
        let (recorded, other) = (actors.recording(2).start("r", Worker), actors.start("o", Worker));
        for worker in [&recorded, &other] {
            for _ in 0..3 {
                worker.send(Work).await.unwrap();
            }
        }
        let page: ActorPage = body(list(&actors, ListActors { recorder: true, ..asked() }).await);
        let messages =
            |n: usize| page.actors[n].recorder.iter().map(|one| one.message.as_str()).collect::<Vec<_>>();
        assert_eq!(messages(1), Vec::<&str>::new());
        assert_eq!(messages(0), ["Work", "Work"]);
    }

    #[actix::test]
    async fn order_and_number_that_make_no_sense_are_refused_by_name() {
        let actors = ActorList::default();
        let refused = refusal(list(&actors, ListActors { sort: "size".to_owned(), ..asked() }).await);
        assert!(refused.to_string().contains("tree, depth, busy, handled or longest"), "{refused}");
        let refused = refusal(list(&actors, ListActors { max: 1_001, ..asked() }).await);
        assert!(refused.to_string().contains("a number from 1 to 1000"), "{refused}");
    }
}
