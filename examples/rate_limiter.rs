//! A rate limiter: so many messages a second to a topic from one client, and some more at once. What is beyond is
//! refused as busy, and the client tries again later.
//!
//! ```text
//! cargo run --example rate_limiter
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde::Deserialize;
use telstar::Broker;
use telstar::extension::*;
use telstar::types::TopicName;

/// Clients that have been silent for so long are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Counts what each client sends to each topic.
pub struct RateLimiter {
    settings: RateLimiterSettings,
    buckets: HashMap<(TopicName, IpAddr), Bucket>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiterSettings {
    /// Messages a second.
    rate: f64,
    /// Messages at once, after a silence.
    burst: f64,
    /// The topics that are looked at; all, if there are none.
    #[serde(default)]
    topics: Vec<String>,
}

/// A token bucket: each message takes a token, and they come back at a rate.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    pub fn full(burst: f64, now: Instant) -> Self {
        Self { tokens: burst, filled_at: now }
    }

    /// Takes tokens, or tells how long it takes until there are enough. More than ever fit are taken from a full bucket,
    /// which then owes them.
    pub fn take(&mut self, count: f64, rate: f64, burst: f64, now: Instant) -> Result<(), Duration> {
        let filled = (now - self.filled_at).as_secs_f64() * rate;
        self.tokens = (self.tokens + filled).min(burst);
        self.filled_at = now;
        let wanted = count.min(burst);
        if self.tokens >= wanted {
            self.tokens -= count;
            return Ok(());
        }
        Err(Duration::from_secs_f64((wanted - self.tokens) / rate))
    }
}

impl Extension for RateLimiter {
    const NAME: &'static str = "rate_limiter";
    type Settings = RateLimiterSettings;

    fn start(settings: RateLimiterSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        if !(settings.rate > 0.0 && settings.burst >= 1.0) {
            return Err(ExtensionError::refused("rate must be above 0 and burst at least 1 message"));
        }
        let limiter = RateLimiter { settings, buckets: HashMap::new() }.start();
        hooks.decides_sends(limiter.recipient(), DecisionRules::default());
        Ok(())
    }
}

impl Actor for RateLimiter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(FORGET, |limiter, _| {
            let now = Instant::now();
            limiter.buckets.retain(|_, bucket| now - bucket.filled_at < FORGET);
        });
    }
}

impl Handler<DecideSend> for RateLimiter {
    type Result = SendDecision;

    fn handle(&mut self, question: DecideSend, _: &mut Self::Context) -> Self::Result {
        let RateLimiterSettings { rate, burst, topics } = &self.settings;
        if !topics.is_empty() && !topics.iter().any(|topic| *topic == *question.topic) {
            return SendDecision::Pass;
        }
        let (now, count) = (Instant::now(), question.messages.len() as f64);
        let of_client = (question.topic.clone(), question.client.ip());
        let bucket = self.buckets.entry(of_client).or_insert_with(|| Bucket::full(*burst, now));
        match bucket.take(count, *rate, *burst, now) {
            Ok(()) => SendDecision::Pass,
            Err(wait) => SendDecision::Later {
                reason: format!(
                    "{} sends more than {rate} messages a second to topic {}; there is room in {} ms",
                    question.client.ip(),
                    question.topic,
                    wait.as_millis().max(1)
                ),
            },
        }
    }
}

#[allow(dead_code, reason = "tests bring the extension in without it")]
fn main() -> anyhow::Result<()> {
    let broker = Broker::builder()
        .extension::<RateLimiter>()
        .set("extensions.rate_limiter.rate", 1)
        .set("extensions.rate_limiter.burst", 3)
        .start()?;
    println!(
        "telstar send orders hello -n {}    # four times",
        broker.name_server().expect("it is one, too")
    );
    Ok(broker.wait()?)
}
