//! The result of a run as a page: its facts, and the histogram of its latencies, drawn. One file, nothing loaded.

use std::fmt::Write;

use super::figures::{Report, time_text};

/// Of the drawing, pixels.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
/// Room below the bars for the times, and above the highest.
const BELOW: f64 = 28.0;
const ABOVE: f64 = 12.0;
/// Times that are written below the bars, at most.
const LABELS: usize = 10;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}\
table{border-collapse:collapse}td{padding:.15rem 1.5rem .15rem 0;vertical-align:top}td:first-child{color:#5b6675}\
svg{width:100%;height:auto}rect{fill:#3469c4}line{stroke:#c2410c;stroke-dasharray:4 3}text{font-size:12px;fill:#5b6675}\
@media(prefers-color-scheme:dark){body{color:#e4e8ee;background:#12161d}rect{fill:#7aa5f0}line{stroke:#f59e6c}}";

/// `command` is what was run.
pub fn page(report: &Report, command: &str) -> String {
    let mut rows = String::new();
    for (name, value) in report.facts() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(rows, "<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(&value));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>telstar bench</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><style>{STYLE}</style></head><body>\n\
         <h1>telstar bench</h1>\n<p><code>{}</code></p>\n<table>\n{rows}</table>\n<h2>{}</h2>\n\
         <p>How many messages took how long; each bar is a fifth wider than the one before, dashes are p50, p99 and p99.9.</p>\n\
         {}</body></html>\n",
        escaped(command),
        escaped(report.latency_of),
        drawing(report)
    )
}

fn drawing(report: &Report) -> String {
    let bars = &report.histogram;
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else {
        return "<p>No message was measured.</p>\n".to_owned();
    };
    let highest = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1) as f64;
    let bar_width = WIDTH / bars.len() as f64;
    let place = |us: f64| {
        let (from, to) = (first.from_us.ln(), last.to_us.ln());
        ((us.ln() - from) / (to - from) * WIDTH).clamp(0.0, WIDTH)
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"histogram of latencies\">\n",
        ABOVE + HEIGHT + BELOW
    );
    let label_every = bars.len().div_ceil(LABELS);
    for (n, bar) in bars.iter().enumerate() {
        let (x, height) = (n as f64 * bar_width, bar.count as f64 / highest * HEIGHT);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{} to {}: {}</title></rect>",
            ABOVE + HEIGHT - height,
            (bar_width - 1.0).max(0.5),
            time_text(bar.from_us),
            time_text(bar.to_us),
            bar.count
        );
        if n % label_every == 0 {
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\">{}</text>",
                ABOVE + HEIGHT + 18.0,
                time_text(bar.from_us)
            );
        }
    }
    let latency = report.latency_us;
    for (name, us) in [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p999)] {
        let x = place(us);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{ABOVE}\" y2=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{name}</text>",
            ABOVE + HEIGHT,
            (x + 4.0).min(WIDTH - 36.0),
            ABOVE + 10.0
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::figures::{Costs, Figures};

    fn report_of(latencies_us: impl IntoIterator<Item = u64>) -> Report {
        let mut figures = Figures::default();
        for us in latencies_us {
            figures.messages += 1;
            figures.latencies.record(Duration::from_micros(us));
        }
        Report::new(&figures, Duration::from_secs(1), "latency", &Costs::default())
    }

    #[test]
    fn every_message_is_in_a_bar_and_the_command_is_no_markup() {
        let report = report_of(100..10_100);
        assert_eq!(report.histogram.iter().map(|bar| bar.count).sum::<u64>(), 10_000);
        assert!(report.histogram.windows(2).all(|bars| bars[0].to_us == bars[1].from_us));
        let page = page(&report, "telstar bench send --topic '<b>'");
        assert!(page.contains("--topic '&lt;b&gt;'") && !page.contains("<b>"));
        assert_eq!(page.matches("<rect").count(), report.histogram.len());
        assert!(page.contains(">p99.9</text>"));
    }

    #[test]
    fn run_without_messages_has_a_page() {
        assert!(page(&report_of([]), "telstar bench send").contains("No message was measured"));
    }
}
