//! Filters: what a pull with a condition brings, and what is refused by which name.

use std::io::Write;

use bytes::Bytes;
use telstar::client::Call;
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::response_code::ResponseCode;

use crate::support::*;

fn pull_by(condition: &str, offset: i64) -> PullHeader {
    PullHeader {
        subscription: Some(condition.into()),
        expression_type: Some("SQL92".into()),
        ..pull_from("orders", 0, offset)
    }
}

impl Client {
    async fn bodies(&self, condition: &str, offset: i64) -> (ResponseCode, i64, Vec<Bytes>) {
        let pulled = self.pull(&pull_by(condition, offset)).await;
        let bodies = pulled.messages.into_iter().map(|message| message.body).collect();
        (pulled.code, pulled.header.next_begin_offset, bodies)
    }

    async fn refusal(&self, condition: &str) -> (i32, String) {
        self.refused(Call::new(RequestCode::PULL_MESSAGE).header(&pull_by(condition, 0))).await
    }
}

#[tokio::test]
async fn conditions_select_by_properties_and_by_fields_of_bodies() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for (region, price) in [("eu", 5), ("us", 20), ("eu", 30)] {
        let body = format!(r#"{{"price":{price}}}"#);
        client
            .send(Send::to("orders", 0, body).with("region", region).with("price", &price.to_string()))
            .await;
    }
    client.pull_all("orders", 0, 3).await;
    let found = client.bodies("region = 'eu' AND price > 10", 0).await;
    assert_eq!(found, (ResponseCode::SUCCESS, 3, vec![Bytes::from(r#"{"price":30}"#)]));
    let found = client.bodies("region = 'asia'", 1).await;
    assert_eq!(found, (ResponseCode::PULL_RETRY_IMMEDIATELY, 3, vec![]), "past what does not match");

    let (code, remark) = client.refusal("price >").await;
    assert_eq!((code, remark.contains("column 8")), (23, true), "{remark}");
    let (code, remark) = client.refusal("body.price > 10").await;
    assert_eq!((code, remark.contains("body.filter")), (16, true), "{remark}");

    let (status, out, err) = run_words(&[
        "topic",
        "create",
        "orders",
        "-q",
        "1",
        "-a",
        "body.filter=JSON",
        "-n",
        &broker.name_server,
    ]);
    assert_eq!(status, 0, "{out}{err}");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(br#"{"price":12}"#).unwrap();
    let compressed = Send { sys_flag: 1, ..Send::to("orders", 0, zlib.finish().unwrap()) };
    client.send(compressed).await;
    client.send(Send::to("orders", 0, "no JSON")).await;
    client.pull_all("orders", 0, 5).await;
    let (code, next, bodies) = client.bodies("body.price BETWEEN 10 AND 20", 0).await;
    assert_eq!((code, next, bodies.len()), (ResponseCode::SUCCESS, 5, 2));
}

#[tokio::test]
async fn filters_that_are_switched_off_are_refused_by_name() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["filter.sql=false"]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    let (code, remark) = client.refusal("price > 10").await;
    assert_eq!((code, remark.contains("enablePropertyFilter")), (1, true), "{remark}");
    for code in [RequestCode::REGISTER_FILTER_SERVER, RequestCode::REGISTER_MESSAGE_FILTER_CLASS] {
        let (code, remark) = client.refused(Call::new(code)).await;
        assert_eq!((code, remark.contains("body.")), (3, true), "{remark}");
    }
}
