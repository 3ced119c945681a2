use std::collections::HashMap;
use std::process::ExitCode;

use actix::prelude::*;
use serde::Deserialize;
use telstar::extension::*;
use telstar::types::TopicName;

#[global_allocator]
static ALLOCATOR: telstar::Allocator = telstar::Allocator;

/// Counts messages by topic, and says so every so often.
struct Counter {
    every: u64,
    counts: HashMap<TopicName, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CounterSettings {
    every: u64,
}

impl Extension for Counter {
    const NAME: &'static str = "counter";
    type Settings = CounterSettings;

    fn start(settings: CounterSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        if settings.every == 0 {
            return Err(ExtensionError::refused("every is 0, it must be at least 1"));
        }
        let counter = Counter { every: settings.every, counts: HashMap::new() }.start();
        hooks.on_events(&[EventKind::MessageStored], counter.recipient(), WhenBehind::DropAndCount, 10_000);
        Ok(())
    }
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<BrokerEvents> for Counter {
    type Result = ();

    fn handle(&mut self, events: BrokerEvents, _: &mut Self::Context) {
        for event in events {
            let BrokerEvent::MessageStored { topic, .. } = event else { continue };
            let count = self.counts.entry(topic.clone()).or_default();
            *count += 1;
            if *count % self.every == 0 {
                println!("{topic}: {count} messages");
            }
        }
    }
}

fn main() -> ExitCode {
    telstar::cli::run_with(Extensions::none().with::<Counter>())
}
