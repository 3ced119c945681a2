//! Lists that brokers give page by page.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::CliError;
use crate::client::Servers;
use crate::client::remoting::Call;
use crate::client::route::BrokerAt;
use crate::protocol::header::TypedHeader;
use crate::protocol::request_code::RequestCode;

/// Items asked for at once.
const PAGE: i32 = 500;

/// Asks for a page of a list.
pub trait PageRequest: TypedHeader + Clone {
    const CODE: RequestCode;
    type Page: DeserializeOwned;
    type Item;

    /// At most so many items from now on.
    fn limit(&mut self, max: i32);

    /// What is on a page; the request asks for the one behind it from now on. False: it was the last.
    fn turn(&mut self, page: Self::Page) -> (Vec<Self::Item>, bool);
}

/// Something that a broker has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AtBroker<T> {
    pub broker: String,
    #[serde(flatten)]
    pub item: T,
}

/// The first items of each broker, at most `max` of each.
pub async fn first_of_each<R: PageRequest>(
    servers: &mut Servers,
    brokers: &[BrokerAt],
    request: &R,
    max: usize,
) -> Result<Vec<AtBroker<R::Item>>, CliError> {
    let mut found = Vec::new();
    for broker in brokers {
        let (mut request, mut left) = (request.clone(), max);
        while left > 0 {
            request.limit(PAGE.min(i32::try_from(left).unwrap_or(PAGE)));
            let (items, has_next) = request.turn(ask(servers, broker, &request).await?);
            left = left.saturating_sub(items.len());
            let at = |item| AtBroker { broker: broker.broker_name.to_string(), item };
            found.extend(items.into_iter().map(at));
            if !has_next {
                break;
            }
        }
    }
    Ok(found)
}

/// The first item of a broker that is meant.
pub async fn find<R: PageRequest>(
    servers: &mut Servers,
    broker: &BrokerAt,
    mut request: R,
    is_meant: impl Fn(&R::Item) -> bool,
) -> Result<Option<R::Item>, CliError> {
    request.limit(PAGE);
    loop {
        let (items, has_next) = request.turn(ask(servers, broker, &request).await?);
        let found = items.into_iter().find(&is_meant);
        if found.is_some() || !has_next {
            return Ok(found);
        }
    }
}

async fn ask<R: PageRequest>(
    servers: &mut Servers,
    broker: &BrokerAt,
    request: &R,
) -> Result<R::Page, CliError> {
    Ok(servers.call(&broker.addr, Call::new(R::CODE).header(request)).await?.json()?)
}
