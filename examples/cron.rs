//! A scheduler: sends messages at times that are written as cron does, with seconds in front: "0 30 9 * * MON-FRI".
//!
//! ```text
//! cargo run --example cron
//! ```

use std::str::FromStr;

use actix::prelude::*;
use chrono::Utc;
use cron::Schedule;
use serde::Deserialize;
use telstar::Broker;
use telstar::extension::*;

/// Sends one message, again and again.
pub struct Job {
    schedule: Schedule,
    message: OutgoingMessage,
    broker: BrokerHandle,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CronSettings {
    jobs: Vec<JobSettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSettings {
    /// Second, minute, hour, day of the month, month, day of the week, in UTC.
    at: String,
    topic: String,
    body: String,
}

/// The time has come.
#[derive(Message)]
#[rtype(result = "()")]
struct SendDue;

/// The extension: an actor for each job.
pub struct Cron;

impl Extension for Cron {
    const NAME: &'static str = "cron";
    type Settings = CronSettings;

    fn start(settings: CronSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        for job in settings.jobs {
            let schedule = Schedule::from_str(&job.at).map_err(|error| {
                ExtensionError::refused(format!(
                    "{:?} is no time: {error}; write second, minute, hour, day, month, weekday",
                    job.at
                ))
            })?;
            let message = OutgoingMessage {
                topic: job.topic.into(),
                body: job.body.into(),
                properties: Vec::new(),
                queue_id: None,
            };
            let job = Job { schedule, message, broker: hooks.broker() }.start();
            // Nobody else holds it, and it is started again with the others when it fails.
            hooks.watch(&job);
        }
        Ok(())
    }
}

impl Job {
    fn wait_for_next(&self, ctx: &mut Context<Self>) {
        let now = Utc::now();
        // A job whose time never comes again has nothing left to do.
        if let Some(next) = self.schedule.after(&now).next() {
            ctx.notify_later(SendDue, (next - now).to_std().unwrap_or_default());
        }
    }
}

impl Actor for Job {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.wait_for_next(ctx);
    }
}

impl Handler<SendDue> for Job {
    type Result = ();

    fn handle(&mut self, _: SendDue, ctx: &mut Self::Context) {
        let (broker, message) = (self.broker.clone(), self.message.clone());
        let sent = async move { broker.send(message).await };
        ctx.spawn(sent.into_actor(self).map(|sent, job, _| {
            if let Err(refusal) = sent {
                eprintln!("cron: the message to {} of now is not sent: {refusal}", job.message.topic);
            }
        }));
        self.wait_for_next(ctx);
    }
}

#[allow(dead_code, reason = "tests bring the extension in without it")]
fn main() -> anyhow::Result<()> {
    let broker = Broker::builder()
        .extension::<Cron>()
        .set("extensions.cron.jobs", "[{ at = '*/5 * * * * *', topic = 'ticks', body = 'tick' }]")
        .start()?;
    println!("telstar consume ticks -n {}", broker.name_server().expect("it is one, too"));
    Ok(broker.wait()?)
}
