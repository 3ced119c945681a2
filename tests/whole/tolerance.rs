//! What clients of all languages and ages write, and how it is answered.

use telstar::client::Call;
use telstar::protocol::body::connections::ConsumerIdList;
use telstar::protocol::fastjson;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

#[tokio::test]
async fn unknown_request_code_is_answered_and_the_connection_lives() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    for addr in [&broker.broker, &broker.name_server] {
        for codec in [HeaderCodec::Json, HeaderCodec::Binary] {
            let client = Client::connect(addr, codec).await;
            let unknown = || Call::new(RequestCode::from_i32(9999));
            client.connection.one_way(unknown()).await.unwrap();
            assert_eq!(client.refused(unknown()).await, (3, " request type 9999 not supported".to_owned()));
        }
    }
}

#[tokio::test]
async fn every_dialect_of_the_json_header_is_understood() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    broker.client().await.create_topic("orders", 4).await;
    let mut raw = RawConnection::connect(&broker.broker).await;
    let fields = r#""extFields":{"topic":"orders","queueId":"3"}"#;
    let dialects = [
        // As Java writes it.
        format!(r#"{{"code":30,{fields},"flag":0,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":479}}"#),
        // Without serializeTypeCurrentRPC.
        format!(r#"{{"code":30,{fields},"flag":0,"language":"GO","opaque":1,"version":317}}"#),
        // Numbers and booleans among the fields, as of the C++ and Node clients.
        r#"{"code":30,"extFields":{"topic":"orders","queueId":3,"lo":true,"other":null,"tps":0.5},"flag":0,"language":"CPP","opaque":1,"version":333}"#.to_owned(),
        // A line end behind it, as of the C++ client, and blanks between.
        format!("{{ \"code\" : 30, {fields}, \"flag\" : 0, \"language\" : \"CPP\", \"opaque\" : 1, \"version\" : 333 }}\n"),
        // An empty remark, and none.
        format!(r#"{{"code":30,{fields},"flag":0,"language":"PYTHON","opaque":1,"remark":"","version":399}}"#),
        format!(r#"{{"code":30,{fields},"flag":0,"language":"PYTHON","opaque":1,"remark":null,"version":399}}"#),
        // Versions older and newer than any gate.
        format!(r#"{{"code":30,{fields},"flag":0,"language":"JAVA","opaque":1,"version":63}}"#),
        format!(r#"{{"code":30,{fields},"flag":0,"language":"JAVA","opaque":1,"version":99999}}"#),
        // Languages that came later, or none.
        format!(r#"{{"code":30,{fields},"flag":0,"language":"KLINGON","opaque":1,"version":479}}"#),
        format!(r#"{{"code":30,{fields},"opaque":1}}"#),
        // A signature, which nobody asked for.
        r#"{"code":30,"extFields":{"AccessKey":"ak","Signature":"c2lnbg==","OnsChannel":"ALIYUN","SecurityToken":"","topic":"orders","queueId":"3"},"flag":0,"language":"JAVA","opaque":1,"version":479}"#.to_owned(),
        // Keys that nobody knows, of any form.
        format!(r#"{{"trace":{{"id":["a",{{"b":1}}]}},"code":30,{fields},"opaque":1,"flag":0,"language":"RUST","version":479}}"#),
    ];
    for header in &dialects {
        let answer = raw.ask(header, b"").await;
        assert_eq!((answer.head.code, answer.head.opaque), (0, 1), "{header}: {:?}", answer.head.remark);
        assert!(answer.is_response(), "{header}");
        assert_eq!(answer.fields.get("offset"), Some("0"), "{header}");
    }
    let answer = raw
        .ask(r#"{"code":30,"opaque":-2147483648,"extFields":{"topic":"orders","queueId":"no"}}"#, b"")
        .await;
    assert_eq!((answer.head.code, answer.head.opaque), (1, i32::MIN));
    let remark = answer.head.remark.unwrap_or_default();
    assert!(remark.contains("queueId") && remark.contains("\"no\""), "{remark}");
}

#[tokio::test]
async fn answers_come_in_the_codec_that_was_asked_in() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let mut raw = RawConnection::connect(&broker.broker).await;
    let json = br#"{"code":28,"opaque":1,"flag":0,"language":"JAVA","version":479}"#;
    // code 28, Java, version 479, opaque 2, no flag, no remark, no fields
    let binary = [0, 28, 0, 1, 0xDF, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..2 {
        raw.write(&frame(0, json, b"")).await;
        assert_eq!(raw.next().await.unwrap().codec, HeaderCodec::Json);
        raw.write(&frame(1, &binary, b"")).await;
        let answer = raw.next().await.unwrap();
        assert_eq!((answer.codec, answer.head.opaque, answer.head.code), (HeaderCodec::Binary, 2, 0));
    }
}

#[tokio::test]
async fn heartbeat_of_the_cpp_client_registers_its_groups() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let mut raw = RawConnection::connect(&broker.broker).await;
    let body = br#"{
   "clientID" : "10.0.0.5@4242#7711",
   "consumerDataSet" : [ {
         "consumeFromWhere" : "4", "consumeType" : 1, "groupName" : "cg1", "messageModel" : 1,
         "subscriptionDataSet" : [ { "subString" : "*", "subVersion" : "1700000000000", "topic" : "orders" } ] } ],
   "producerDataSet" : [ { "groupName" : "pg1" } ]
}
"#;
    let header = "{\"code\":34,\"flag\":0,\"language\":\"CPP\",\"opaque\":3,\"version\":333}\n";
    let answer = raw.ask(header, body).await;
    assert_eq!(answer.head.code, 0, "{:?}", answer.head.remark);
    assert!(answer.head.version >= 232, "or Java clients give up filters");

    let client = broker.client().await;
    let members = || Call::new(RequestCode::GET_CONSUMER_LIST_BY_GROUP).field("consumerGroup", "cg1");
    let found: ConsumerIdList = client.call(members()).await.success().unwrap().json().unwrap();
    assert_eq!(
        found.consumer_id_list.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
        ["10.0.0.5@4242#7711"]
    );
    let connected = Call::new(RequestCode::GET_PRODUCER_CONNECTION_LIST).field("producerGroup", "pg1");
    assert_eq!(client.call(connected).await.code.as_i32(), 0);
    // Its retry topic is there at once.
    let route = Call::new(RequestCode::GET_ROUTEINFO_BY_TOPIC).field("topic", "%RETRY%cg1");
    let name_server = Client::connect(&broker.name_server, HeaderCodec::Json).await;
    assert_eq!(name_server.call(route).await.code.as_i32(), 0);

    // An empty group is no group: it takes nobody's place, and leaves only the other one.
    let leave = r#"{"code":35,"extFields":{"clientID":"10.0.0.5@4242#7711","consumerGroup":"cg1","producerGroup":""},"opaque":4}"#;
    assert_eq!(raw.ask(leave, b"").await.head.code, 0);
    let (code, _) = client.refused(members()).await;
    assert_eq!(code, 1, "nobody is left");
    let connected = Call::new(RequestCode::GET_PRODUCER_CONNECTION_LIST).field("producerGroup", "pg1");
    assert_eq!(client.call(connected).await.code.as_i32(), 0, "the producer stays");
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused_by_name() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    for body in ["", "{", "[[[", "\u{0}"] {
        let (code, remark) = client.refused(Call::new(RequestCode::HEART_BEAT).body(body)).await;
        assert_eq!(code, 1, "{body:?}");
        assert!(remark.contains("HEART_BEAT"), "{remark}");
    }
    // Depth is bounded, the stack is not at risk.
    let deep = "[".repeat(1_000_000);
    assert_eq!(client.refused(Call::new(RequestCode::HEART_BEAT).body(deep)).await.0, 1);
    let _: serde_json::Value = fastjson::from_str("{}").unwrap();
}
