//! Requests about consumed keys: MARK_CONSUMED (29020), QUERY_CONSUMED (29021). Ours.

use actix::Addr;

use crate::actors::consumed_keys::{ConsumedKeys, MarkConsumed, QueryConsumed};
use crate::actors::request::{Answer, Answered, Request};
use crate::error::Refusal;
use crate::protocol::body::consumed::{ConsumedTimes, GroupKeys};

/// Keys of one request.
const KEYS_PER_REQUEST: usize = 1_000;
/// Longest key, in bytes. Those that clients make have 32.
const KEY_MAX_BYTES: usize = 255;

/// MARK_CONSUMED (29020): answered when it is on disk.
pub async fn mark_consumed(request: &Request, keys: &Addr<ConsumedKeys>) -> Answered {
    let GroupKeys { group, keys: marked } = asked_keys(request, "MARK_CONSUMED")?;
    let marked_at_ms = keys.send(MarkConsumed { group, keys: marked }).await??;
    Ok(Some(Answer::json(&ConsumedTimes { marked_at_ms })))
}

/// QUERY_CONSUMED (29021).
pub async fn query_consumed(request: &Request, keys: &Addr<ConsumedKeys>) -> Answered {
    let GroupKeys { group, keys: asked } = asked_keys(request, "QUERY_CONSUMED")?;
    let marked_at_ms = keys.send(QueryConsumed { group, keys: asked }).await??;
    Ok(Some(Answer::json(&ConsumedTimes { marked_at_ms })))
}

fn asked_keys(request: &Request, name: &'static str) -> Result<GroupKeys, Refusal> {
    let asked: GroupKeys = request.json_body(name, "a group and unique keys")?;
    if !(1..=KEYS_PER_REQUEST).contains(&asked.keys.len()) {
        return Err(Refusal::OutOfRange {
            what: "the number of keys",
            value: asked.keys.len() as i64,
            allowed: format!("1 to {KEYS_PER_REQUEST} in one request"),
        });
    }
    let is_fine = |key: &String| (1..=KEY_MAX_BYTES).contains(&key.len()) && !key.contains('\0');
    match asked.keys.iter().position(|key| !is_fine(key)) {
        None => Ok(asked),
        Some(n) => Err(Refusal::Body {
            request: name,
            expected: "a group and unique keys",
            error: format!(
                "key {n} (from 0) is {} bytes, or has a zero byte; allowed are 1 to {KEY_MAX_BYTES} bytes without one",
                asked.keys[n].len()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request_code::RequestCode;
    use crate::testing::request;

    #[actix::test]
    async fn keys_have_their_limits() {
        let checked = |keys: Vec<String>| {
            let asked = GroupKeys { group: "g".into(), keys };
            let (link, _client) = crate::testing::fake_client();
            let request = request(RequestCode::QUERY_CONSUMED).json(&asked).from(&link);
            asked_keys(&request, "QUERY_CONSUMED").map_err(|refusal| refusal.to_string())
        };
        assert!(checked(vec!["k".repeat(255); 1_000]).is_ok());
        for (keys, word) in [
            (vec![], "0"),
            (vec!["k".into(); 1_001], "1 to 1000"),
            (vec!["k".into(), String::new()], "key 1 (from 0) is 0 bytes"),
            (vec!["k".repeat(256)], "1 to 255 bytes"),
            (vec!["a\0b".into()], "zero byte"),
        ] {
            let refused = checked(keys).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }
}
