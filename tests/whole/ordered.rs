//! Order over all brokers: what `mqadmin updateOrderConf` keeps with the name server, and what clients make of it.

use bytes::Bytes;
use telstar::client::{Call, ConnectOptions, Servers, route};
use telstar::protocol::body::route::TopicRouteData;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

const NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

async fn route_of(name_server: &str) -> TopicRouteData {
    let mut servers =
        Servers::new(name_server, ConnectOptions::default(), std::time::Duration::from_secs(10));
    servers.route(&"orders".into()).await.expect("the topic is known")
}

#[tokio::test]
async fn order_of_a_topic_is_kept_and_told_with_its_route_where_that_is_switched_on() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["broker.name=broker-a"]).await;
    broker.client().await.create_topic("orders", 4).await;
    let name_server = Client::connect(&broker.name_server, HeaderCodec::Json).await;
    let key = |key: &str| KvConfigKey { namespace: NAMESPACE.into(), key: key.into() };
    let put = PutKvConfig { namespace: NAMESPACE.into(), key: "orders".into(), value: "broker-a:1".into() };
    let none = Call::new(RequestCode::GET_KV_CONFIG).header(&key("orders"));
    assert_eq!(name_server.refused(none.clone()).await.0, 22, "QUERY_NOT_FOUND");
    name_server.call(Call::new(RequestCode::PUT_KV_CONFIG).header(&put)).await.success().unwrap();
    assert_eq!(route_of(&broker.name_server).await.order_topic_conf, None, "as in Java, off by default");

    let switch = Call::new(RequestCode::UPDATE_NAMESRV_CONFIG).body(Bytes::from("orderMessageEnable=true"));
    name_server.call(switch).await.success().unwrap();
    let ordered = route_of(&broker.name_server).await;
    assert_eq!(ordered.order_topic_conf.as_deref(), Some("broker-a:1"));
    assert_eq!(route::write_queues(&"orders".into(), &ordered).len(), 1, "producers keep to the one queue");
    assert!(broker.stop().success());

    let broker = Broker::start(dir.path(), &["broker.name=broker-a"]).await;
    let kept = route_of(&broker.name_server).await;
    assert_eq!(kept.order_topic_conf.as_deref(), Some("broker-a:1"), "after a restart as well");
    let name_server = Client::connect(&broker.name_server, HeaderCodec::Json).await;
    let delete = Call::new(RequestCode::DELETE_KV_CONFIG).header(&key("orders"));
    name_server.call(delete).await.success().unwrap();
    assert_eq!(route_of(&broker.name_server).await.order_topic_conf, None);
}
