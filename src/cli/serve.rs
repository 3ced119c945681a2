//! `telstar start`: the settings become a tree of actors, which serves until a signal ends it.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::start::{self, StartArgs};
use super::{logging, output};
use crate::actors::actor_list;
use crate::actors::extensions::hooks::ExtensionPlan;
use crate::actors::root::{Addresses, Root, Stop};
use crate::clock::SystemClock;
use crate::config::{Config, Role, raise_open_file_limit};
use crate::extension::{Extensions, is_extension_thread};
use crate::fatal::Fatal;
use crate::plan::node_plan;
use crate::store::file::DiskFiles;

/// Serves until SIGINT or SIGTERM; a second signal ends it at once.
pub fn run(args: &StartArgs, extensions: &Extensions) -> ExitCode {
    let begun = Instant::now();
    raise_open_file_limit();
    let outcome = start::settings(args).and_then(|config| {
        if args.print_config {
            return output::print(&config.to_toml())
                .map_err(|error| Fatal::System { what: "the output", source: io::Error::other(error) });
        }
        let extensions = extensions.plans(&config.extensions)?;
        logging::start(&config.log);
        end_at_panics();
        config.java_leftovers.log();
        System::new().block_on(serve(config, extensions, begun))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("telstar: {fatal}");
            ExitCode::from(fatal.exit_status())
        }
    }
}

/// Half a broker is worse than none: whatever panics ends the process. What the actor was at is told first. Threads of
/// extensions are let off, since these are started again.
fn end_at_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        if is_extension_thread() {
            return;
        }
        let story = actor_list::running(|actor| (actor.name(), actor.last_messages()));
        let (who, last) = story.unwrap_or_else(|| ("a task".to_owned(), String::new()));
        let fatal = Fatal::Panicked { who };
        eprintln!("{last}telstar: {fatal}");
        std::process::exit(fatal.exit_status().into());
    }));
}

async fn serve(config: Config, extensions: Vec<ExtensionPlan>, begun: Instant) -> Result<(), Fatal> {
    let name_server = config.has_role(Role::NameServer).then_some(config.name_server.listen);
    let plan = node_plan(&config, extensions)?;
    let mut root = Root::start_roles(plan, DiskFiles::shared(), SystemClock::shared())
        .await
        .map_err(|error| Fatal::of_start(error, name_server))?;
    let addresses = root.addresses.clone();
    let mut failures = root.failures.take();
    let disk_failed = async {
        match &mut failures {
            Some(failures) => failures.recv().await,
            None => None,
        }
    };
    let root = root.run();
    // Before anybody is told that it is ready: who reads that may send a signal at once.
    let failed = |source| Fatal::System { what: "signals", source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let greeting = greeting(&config, &addresses, begun.elapsed());
    // Whoever started us without a terminal reads the log.
    let _ = output::print(&greeting);
    info!(elapsed_ms = begun.elapsed().as_millis() as u64, "ready for clients");

    tokio::select! {
        _ = interrupt.recv() => info!("SIGINT received"),
        _ = terminate.recv() => info!("SIGTERM received"),
        // Not an orderly stop: that would write down as safe what may not be.
        Some(failed) = disk_failed => return Err(Fatal::DiskFailed { cause: failed.cause }),
    }
    tokio::select! {
        stopped = root.send(Stop) => {
            if stopped.is_err() {
                warn!("the root ended before it had stopped everything");
            }
        }
        _ = interrupt.recv() => warn!("second signal: ending at once; the next start checks the log"),
        _ = terminate.recv() => warn!("second signal: ending at once; the next start checks the log"),
    }
    Ok(())
}

/// What a person is told once everything listens.
fn greeting(config: &Config, addresses: &Addresses, took: Duration) -> String {
    let mut lines = vec![format!("Telstar {} is ready ({} ms)", env!("CARGO_PKG_VERSION"), took.as_millis())];
    if let Some(addr) = addresses.name_server {
        lines.push(format!("  name server  {addr}"));
    }
    if let Some(addr) = addresses.broker {
        let advertised = config.broker.advertised(addr);
        let fast = addresses.broker_fast.map(|fast| format!(", {fast} for old clients")).unwrap_or_default();
        lines.push(format!(
            "  broker       {addr}{fast}; clients reach it at {advertised} as {}",
            config.broker.name
        ));
        lines.push(format!("  data         {}", config.store.data_dir.display()));
    }
    if let Some(addr) = addresses.http {
        lines.push(format!("  http         {addr}"));
    }
    let port = addresses.name_server.map(|addr| addr.port());
    if let (Some(port), Some(_)) = (port, addresses.broker) {
        let flag = if port == 9876 { String::new() } else { format!(" --name-server 127.0.0.1:{port}") };
        lines.push(format!("First message: telstar send greetings 'hello'{flag}"));
        lines.push(format!("Read it back:  telstar consume greetings --from first{flag}"));
    }
    lines.join("\n") + "\n"
}
