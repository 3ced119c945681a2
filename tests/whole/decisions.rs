//! Extensions on the way of requests: they decide on sends and changes, and own requests of their own.

use std::time::Duration;

use actix::prelude::*;
use telstar::Broker;
use telstar::client::Call;
use telstar::extension::*;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::header::TopicHeader;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

const COUNT_SENDS: i32 = 40_001;

/// Refuses, puts off, marks or never decides on what it is sent, by its body; lets nobody delete topics.
#[derive(Default)]
struct Guard {
    asked: u64,
}

impl Extension for Guard {
    const NAME: &'static str = "guard";
    type Settings = std::collections::BTreeMap<String, String>;

    fn start(settings: Self::Settings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        let guard = Guard::default().start();
        let on_failure = if settings.contains_key("strict") { OnFailure::Refuse } else { OnFailure::Pass };
        let rules = DecisionRules {
            deadline: Duration::from_millis(100),
            on_failure,
            failures_to_open: 2,
            open_for: Duration::from_secs(600),
        };
        hooks.decides_sends(guard.clone().recipient(), rules);
        hooks.decides_admin(guard.clone().recipient(), DecisionRules { deadline: PATIENCE, ..rules });
        hooks.decides_deliveries(guard.clone().recipient(), DecisionRules { deadline: PATIENCE, ..rules });
        hooks.owns_code(COUNT_SENDS, guard.clone().recipient());
        hooks.serves_http("/guard", guard.recipient());
        Ok(())
    }
}

impl Actor for Guard {
    type Context = Context<Self>;
}

impl Handler<DecideSend> for Guard {
    type Result = ResponseFuture<SendDecision>;

    fn handle(&mut self, question: DecideSend, _: &mut Self::Context) -> Self::Result {
        self.asked += 1;
        let body = question.messages[0].plain_body().expect("it is not compressed").into_owned();
        Box::pin(async move {
            match &body[..] {
                b"bad" => SendDecision::Refuse { reason: "it is bad".into() },
                b"early" => SendDecision::Later { reason: "it is early".into() },
                b"mistake" => SendDecision::SetProperties(vec![("DELAY".into(), "3".into())]),
                b"puzzle" => std::future::pending().await,
                _ => SendDecision::SetProperties(vec![("guard".into(), "was here".into())]),
            }
        })
    }
}

impl Handler<DecideAdmin> for Guard {
    type Result = AdminDecision;

    fn handle(&mut self, question: DecideAdmin, _: &mut Self::Context) -> Self::Result {
        match question.request {
            RequestCode::DELETE_TOPIC_IN_BROKER => AdminDecision::Refuse { reason: "topics stay".into() },
            _ => AdminDecision::Pass,
        }
    }
}

impl Handler<DecideDelivery> for Guard {
    type Result = DeliveryDecision;

    fn handle(&mut self, question: DecideDelivery, _: &mut Self::Context) -> Self::Result {
        let secrets =
            question.messages.iter().enumerate().filter(|(_, message)| message.body.starts_with(b"secret"));
        let reason = || format!("not for {}", question.group);
        DeliveryDecision {
            withheld: secrets.map(|(index, _)| Withheld { index, reason: reason() }).collect(),
        }
    }
}

impl Handler<HttpRequest> for Guard {
    type Result = HttpResponse;

    fn handle(&mut self, request: HttpRequest, _: &mut Self::Context) -> Self::Result {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        HttpResponse::text(format!("{} {} {} {body}", request.method, request.path, request.query))
    }
}

impl Handler<OwnRequest> for Guard {
    type Result = Result<OwnAnswer, String>;

    fn handle(&mut self, request: OwnRequest, _: &mut Self::Context) -> Self::Result {
        if request.body.is_empty() {
            return Err("the body is empty, say who asks".into());
        }
        Ok(OwnAnswer { fields: vec![("asked", self.asked.to_string())], body: request.body })
    }
}

async fn guarded(strict: bool) -> (Broker, Client) {
    let builder = Broker::builder().extension::<Guard>();
    let builder = if strict { builder.set("extensions.guard.strict", "\"yes\"") } else { builder };
    let broker = builder.start().unwrap();
    let addr = broker.broker().expect("it is a broker").to_string();
    let client = Client::connect(&addr, HeaderCodec::Json).await;
    client.create_topic("T", 1).await;
    (broker, client)
}

#[tokio::test]
async fn send_is_stored_as_extensions_leave_it_or_refused_with_their_reason() {
    let (broker, client) = guarded(false).await;
    client.send(Send::to("T", 0, "good")).await;
    let refused = async |body: &'static str| client.refused(Send::to("T", 0, body).call()).await;
    assert_eq!(refused("bad").await, (13, "refused by extension guard: it is bad".into()));
    assert_eq!(
        refused("early").await,
        (2, "refused by extension guard for now: it is early; try again later".into())
    );
    let (code, mistake) = refused("mistake").await;
    assert!(code == 1 && mistake.contains("property \"DELAY\""), "{code} {mistake}");
    let stored = client.pull_all("T", 0, 1).await;
    assert_eq!(property(&stored[0], "guard"), Some("was here"));
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "T", 0).await, 1, "nothing else is stored");

    let call = || Call::new(RequestCode::from_i32(COUNT_SENDS));
    let counted = client.call(call().body("me")).await;
    assert_eq!((counted.fields.get("asked"), &counted.body[..]), (Some("4"), &b"me"[..]));
    assert_eq!(
        client.refused(call()).await,
        (13, "refused by extension guard: the body is empty, say who asks".into())
    );
    broker.stop().unwrap();
}

#[tokio::test]
async fn withheld_messages_are_passed_over() {
    let (broker, client) = guarded(false).await;
    for body in ["a", "secret b", "c", "secret d"] {
        client.send(Send::to("T", 0, body)).await;
    }
    let offset_of_last = 3;
    let mut got = Vec::new();
    let mut from = 0;
    while from <= offset_of_last {
        let pulled = client.pull(&pull_from("T", 0, from)).await;
        got.extend(pulled.messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
        assert!(pulled.header.next_begin_offset > from, "the consumer gets on");
        from = pulled.header.next_begin_offset;
    }
    assert_eq!(got, ["a", "c"]);
    broker.stop().unwrap();
}

async fn http(addr: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn http_paths_are_served_within_their_limits() {
    let broker = Broker::builder()
        .extension::<Guard>()
        .set("http.listen", "127.0.0.1:0")
        .set("http.max_body_bytes", 1024)
        .start()
        .unwrap();
    let addr = broker.http().expect("it serves a path");
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let answer = http(addr, &post("/guard?a=1", "hello")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("POST /guard a=1 hello"), "{answer}");
    let unknown = http(addr, &post("/other", "")).await;
    assert!(
        unknown.starts_with("HTTP/1.1 404") && unknown.contains("no extension serves /other"),
        "{unknown}"
    );
    let long = http(addr, &post("/guard", &"x".repeat(1025))).await;
    assert!(long.starts_with("HTTP/1.1 413") && long.contains("http.max_body_bytes"), "{long}");
    broker.stop().unwrap();
}

#[tokio::test]
async fn topics_are_not_deleted_against_an_extension() {
    let (broker, client) = guarded(false).await;
    let delete = Call::new(RequestCode::DELETE_TOPIC_IN_BROKER).header(&TopicHeader { topic: "T".into() });
    assert_eq!(client.refused(delete).await, (16, "not allowed by extension guard: topics stay".into()));
    broker.stop().unwrap();
}

#[tokio::test]
async fn extension_that_does_not_decide_is_by_passed_and_then_not_asked() {
    let (broker, client) = guarded(false).await;
    for _ in 0..3 {
        client.send(Send::to("T", 0, "puzzle")).await;
    }
    client.send(Send::to("T", 0, "bad")).await; // it is not asked now
    assert_eq!(client.pull_all("T", 0, 4).await.len(), 4);
    broker.stop().unwrap();
}

#[tokio::test]
async fn extension_that_does_not_decide_refuses_by_its_name_if_it_is_strict() {
    let (broker, client) = guarded(true).await;
    let refusal = client.refused(Send::to("T", 0, "puzzle").call()).await;
    assert_eq!(
        refusal,
        (
            14,
            "extension guard has not decided on the request: it did not answer within 100 ms; nothing was done, try again in a moment".into()
        )
    );
    broker.stop().unwrap();
}

#[tokio::test]
async fn what_was_asked_and_decided_is_shown_with_the_actors() {
    let (broker, client) = guarded(false).await;
    for body in ["bad", "early"] {
        client.refused(Send::to("T", 0, body).call()).await;
    }
    for body in ["good", "puzzle", "puzzle", "not asked"] {
        client.send(Send::to("T", 0, body)).await;
    }
    let addr = broker.broker().expect("it is a broker").to_string();
    let shown = |words: &[&str]| {
        let (status, output, error) = run_words(&[&["actors", "--broker", &addr], words].concat());
        assert_eq!((status, error.as_str()), (0, ""));
        output
    };
    let page: serde_json::Value = serde_json::from_str(&shown(&["DecisionGate", "--json"])).unwrap();
    let gate =
        |name: &str| page["actors"].as_array().unwrap().iter().find(|gate| gate["name"] == name).unwrap();
    assert_eq!(
        gate("DecisionGate guard sends")["facts"],
        serde_json::json!({
            "asked": 5, "passed": 0, "changed": 1, "refused": 2, "late": 2, "down": 0, "notAsked": 1, "withheld": 0,
            "breaker": "open", "onFailure": "pass", "deadlineMs": 100,
        })
    );
    let admin = &gate("DecisionGate guard administration")["facts"];
    assert_eq!(
        (&admin["asked"], &admin["passed"], &admin["breaker"]),
        (&1.into(), &1.into(), &"closed".into())
    );
    let text = shown(&["DecisionGate guard sends"]);
    assert!(
        text.contains("asked 5, breaker \"open\", onFailure \"pass\", deadlineMs 100, passed 0, changed 1"),
        "{text}"
    );
    broker.stop().unwrap();
}
