//! Where the log goes and what is in it.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{LogFormat, LogSection};

/// What Rust's programs go by; it wins over the settings.
const VARIABLE: &str = "RUST_LOG";

/// Sends the log to standard error from now on. A second call changes nothing.
pub fn start(log: &LogSection) {
    let from_environment = std::env::var(VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let subscriber = subscriber(log, from_environment.as_deref(), std::io::stderr);
    // Whoever was first has set up what they want, such as a test.
    let _ = tracing::dispatcher::set_global_default(subscriber);
}

fn subscriber<W>(log: &LogSection, from_environment: Option<&str>, writer: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse_lossy(from_environment.unwrap_or(&log.level));
    // The spans are those of requests: what they took is told when they end.
    let text = tracing_subscriber::fmt()
        .with_span_events(FmtSpan::CLOSE)
        .with_env_filter(filter)
        .with_writer(writer);
    match log.format {
        LogFormat::Text => tracing::Dispatch::new(text.with_ansi(is_terminal()).finish()),
        LogFormat::Json => tracing::Dispatch::new(text.json().flatten_event(true).finish()),
    }
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, from_environment: Option<&str>) -> String {
        let written = Written::default();
        let writer = written.clone();
        let log = LogSection { level: level.to_owned(), format };
        let subscriber = subscriber(&log, from_environment, move || writer.clone());
        tracing::dispatcher::with_default(&subscriber, || {
            tracing::info!(topic = "orders", "topic created");
            tracing::debug!("a detail");
            tracing::trace_span!(target: "telstar::requests", "request", opaque = 7).in_scope(|| ());
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn level_and_format_are_followed() {
        let text = logged("info", LogFormat::Text, None);
        assert!(
            text.contains("topic created") && text.contains("orders") && !text.contains("a detail"),
            "{text}"
        );
        let json = logged("debug", LogFormat::Json, None);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((&first["message"], &first["topic"]), (&"topic created".into(), &"orders".into()));
        assert_eq!(json.lines().count(), 2);
    }

    #[test]
    fn requests_are_told_of_with_what_they_took_where_that_is_asked_for() {
        assert!(!logged("debug", LogFormat::Text, None).contains("telstar::requests"));
        let text = logged("off,telstar::requests=trace", LogFormat::Text, None);
        assert!(text.contains("request{opaque=7}: telstar::requests: close time.busy="), "{text}");
    }

    #[test]
    fn the_environment_wins() {
        assert_eq!(logged("debug", LogFormat::Text, Some("off")), "");
    }
}
