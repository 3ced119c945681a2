//! What a run measured, and how it is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::server_process::Memory;
use crate::cli::output;
use crate::protocol::response_code::ResponseCode;

/// Latencies beyond this count as this.
const LONGEST: Duration = Duration::from_secs(600);

/// Latencies, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, LONGEST.as_nanos() as u64, 3);
        Self(histogram.expect("the bounds are in order"))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos() as u64);
    }

    pub fn record_many(&mut self, latency: Duration, times: u64) {
        self.0.saturating_record_n(latency.as_nanos() as u64, times);
    }

    pub fn add(&mut self, other: &Latencies) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// From the shortest to the longest, without gaps.
    pub fn histogram(&self) -> Vec<Bar> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let first = self.0.min().max(1) as f64;
        let steps = ((self.0.max().max(1) as f64 / first).ln() / WIDER.ln()) as usize + 1;
        let at = |step: usize| first * WIDER.powi(step as i32) / 1_000.0;
        let empty = |step| Bar { from_us: at(step), to_us: at(step + 1), count: 0 };
        let mut bars: Vec<Bar> = (0..steps).map(empty).collect();
        for value in self.0.iter_recorded() {
            let step = ((value.value_iterated_to() as f64 / first).ln() / WIDER.ln()).max(0.0) as usize;
            bars[step.min(steps - 1)].count += value.count_at_value();
        }
        bars
    }

    pub fn percentiles(&self) -> Percentiles {
        let us = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Percentiles {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// Latencies second by second, of which only the worst second is kept.
#[derive(Debug)]
pub struct Seconds {
    begun: Instant,
    second: u64,
    latencies: Latencies,
    worst: Option<WorstSecond>,
}

/// The second with the highest p99.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorstSecond {
    /// Microseconds.
    pub p99_us: f64,
    /// Seconds since the measurement began.
    pub at: u64,
}

impl WorstSecond {
    fn worse(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        [one, other].into_iter().flatten().max_by(|a, b| a.p99_us.total_cmp(&b.p99_us))
    }
}

impl Seconds {
    pub fn new(begun: Instant) -> Self {
        Self { begun, second: 0, latencies: Latencies::default(), worst: None }
    }

    /// `at` does not go back by more than a second: what belongs to an earlier one counts in the present one.
    pub fn record(&mut self, at: Instant, latency: Duration) {
        let second = at.saturating_duration_since(self.begun).as_secs();
        if second > self.second {
            self.end_second();
            self.second = second;
        }
        self.latencies.record(latency);
    }

    fn end_second(&mut self) {
        if !self.latencies.0.is_empty() {
            let ended = WorstSecond { p99_us: self.latencies.percentiles().p99, at: self.second };
            self.worst = WorstSecond::worse(self.worst, Some(ended));
            self.latencies.0.reset();
        }
    }

    /// The worst of all seconds.
    pub fn worst(mut self) -> Option<WorstSecond> {
        self.end_second();
        self.worst
    }
}

/// How many latencies lay in `[from_us, to_us)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bar {
    pub from_us: f64,
    pub to_us: f64,
    pub count: u64,
}

/// Each bar of a histogram is so much wider than the one before.
const WIDER: f64 = 1.2;

/// Microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Answers without success, of one code.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Refusals {
    pub count: u64,
    /// What the first one said.
    pub remark: String,
}

/// What one connection measured.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub latencies: Latencies,
    /// Messages that arrived: stored, or received.
    pub messages: u64,
    /// Bytes of their bodies (sent), or of their records (received).
    pub bytes: u64,
    /// Messages that were read or left out by a filter.
    pub passed: u64,
    pub refused: BTreeMap<i32, Refusals>,
    /// Messages without an answer.
    pub unanswered: u64,
    /// When the last answer came.
    pub last: Option<Instant>,
    /// `None`: not looked at. Of several connections, the worst of any.
    pub worst_second: Option<WorstSecond>,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.latencies.add(&other.latencies);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.passed += other.passed;
        for (code, refusals) in &other.refused {
            let mine = self.refused.entry(*code).or_insert_with(|| Refusals { count: 0, ..refusals.clone() });
            mine.count += refusals.count;
        }
        self.unanswered += other.unanswered;
        self.last = self.last.max(other.last);
        self.worst_second = WorstSecond::worse(self.worst_second, other.worst_second);
    }

    /// From `begun` to the last answer.
    pub fn elapsed(&self, begun: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(begun))
    }

    pub fn refuse(&mut self, code: i32, count: u64, remark: impl FnOnce() -> String) {
        let refusals = self.refused.entry(code).or_insert_with(|| Refusals { count: 0, remark: remark() });
        refusals.count += count;
    }
}

/// What the run cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    pub own_cpu: Duration,
    /// `None` without `--server-pid`.
    pub server_cpu: Option<Duration>,
    /// When measuring began, and when it ended.
    pub server_memory: Option<[Memory; 2]>,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub messages: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    /// With a filter: those that were left out among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_per_second: Option<f64>,
    /// 10^6 bytes.
    pub megabytes_per_second: f64,
    /// What the latencies are.
    pub latency_of: &'static str,
    pub latency_us: Percentiles,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_second: Option<WorstSecond>,
    #[serde(skip)]
    pub histogram: Vec<Bar>,
    pub errors: BTreeMap<String, Refusals>,
    pub unanswered: u64,
    pub own_cpu_us_per_message: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_memory: Option<Memory>,
    /// When measuring began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_memory_before: Option<Memory>,
}

impl Report {
    /// `elapsed` is the time in which the messages of `figures` arrived.
    pub fn new(figures: &Figures, elapsed: Duration, latency_of: &'static str, costs: &Costs) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let per_message = |cpu: Duration| cpu.as_secs_f64() * 1e6 / figures.messages.max(1) as f64;
        let name = |code: i32| format!("{} ({code})", ResponseCode::from_i32(code).name());
        Self {
            messages: figures.messages,
            seconds,
            messages_per_second: figures.messages as f64 / seconds,
            passed_per_second: (figures.passed > figures.messages).then(|| figures.passed as f64 / seconds),
            megabytes_per_second: figures.bytes as f64 / 1e6 / seconds,
            latency_of,
            latency_us: figures.latencies.percentiles(),
            worst_second: figures.worst_second,
            histogram: figures.latencies.histogram(),
            errors: figures.refused.iter().map(|(code, refusals)| (name(*code), refusals.clone())).collect(),
            unanswered: figures.unanswered,
            own_cpu_us_per_message: per_message(costs.own_cpu),
            server_cpu_us_per_message: costs.server_cpu.map(per_message),
            server_memory: costs.server_memory.map(|[_, after]| after),
            server_memory_before: costs.server_memory.map(|[before, _]| before),
        }
    }

    pub fn text(&self) -> String {
        output::facts(&self.facts())
    }

    /// What people are told, with its name.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let Percentiles { p50, p90, p99, p999, max } = self.latency_us;
        let mut facts = vec![
            ("messages", format!("{} in {:.2} s", self.messages, self.seconds)),
            (
                "rate",
                format!("{:.0} messages/s, {:.1} MB/s", self.messages_per_second, self.megabytes_per_second),
            ),
            (
                self.latency_of,
                format!(
                    "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                    time_text(p50),
                    time_text(p90),
                    time_text(p99),
                    time_text(p999),
                    time_text(max)
                ),
            ),
        ];
        if let Some(WorstSecond { p99_us, at }) = self.worst_second {
            facts.push(("worst second", format!("p99 {}, {at} s after the beginning", time_text(p99_us))));
        }
        if let Some(passed) = self.passed_per_second {
            facts.push(("gone through", format!("{passed:.0} messages/s, those left out among them")));
        }
        for (code, refusals) in &self.errors {
            facts.push(("errors", format!("{} {code} {}", refusals.count, refusals.remark)));
        }
        if self.unanswered > 0 {
            facts.push(("unanswered", self.unanswered.to_string()));
        }
        if let Some(cpu) = self.server_cpu_us_per_message {
            facts.push(("server CPU", format!("{cpu:.2} us/message")));
        }
        if let Some(memory) = self.server_memory {
            let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
            let before = self.server_memory_before.unwrap_or(memory);
            let text = format!(
                "{:.1} MiB own ({:.1} before), {:.1} MiB of files, {:.1} MiB at most",
                mib(memory.anonymous_bytes),
                mib(before.anonymous_bytes),
                mib(memory.file_bytes),
                mib(memory.peak_bytes)
            );
            facts.push(("server memory", text));
        }
        facts.push(("own CPU", format!("{:.2} us/message", self.own_cpu_us_per_message)));
        facts
    }
}

/// A time for people.
pub fn time_text(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1_000.0),
        us => format!("{:.2} s", us / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let mut latencies = Latencies::default();
        let mut other = Latencies::default();
        for us in 1..=10_000 {
            let to = if us % 2 == 0 { &mut latencies } else { &mut other };
            to.record(Duration::from_micros(us));
        }
        latencies.add(&other);
        let Percentiles { p50, p90, p99, p999, max } = latencies.percentiles();
        for (value, wanted) in [(p50, 5e3), (p90, 9e3), (p99, 9.9e3), (p999, 9.99e3), (max, 1e4)] {
            assert!((value - wanted).abs() <= wanted * 0.001, "{value} for {wanted}");
        }
    }

    #[test]
    fn worst_second_is_the_one_with_the_highest_p99_and_not_with_the_highest_latency() {
        let begun = Instant::now();
        let mut seconds = Seconds::new(begun);
        let mut record = |ms: u64, latency_ms, times| {
            for _ in 0..times {
                seconds.record(begun + Duration::from_millis(ms), Duration::from_millis(latency_ms));
            }
        };
        record(10, 2, 1_000);
        record(500, 900, 1);
        record(1_200, 7, 10);
        record(3_999, 3, 10);
        let worst = seconds.worst().unwrap();
        assert_eq!((worst.at, worst.p99_us.round() as u64 / 100), (1, 70));
        assert_eq!(Seconds::new(begun).worst(), None);
    }

    #[test]
    fn figures_of_connections_add_up() {
        let mut all = Figures::default();
        for connection in 1..=2 {
            let mut figures = Figures { messages: 10, bytes: 100, unanswered: 1, ..Figures::default() };
            figures.refuse(2, connection, || format!("busy {connection}"));
            all.add(&figures);
        }
        let costs = Costs { own_cpu: Duration::from_micros(40), ..Costs::default() };
        let report = Report::new(&all, Duration::from_secs(2), "latency", &costs);
        assert_eq!((report.messages, report.messages_per_second, report.unanswered), (20, 10.0, 2));
        assert_eq!(report.errors["SYSTEM_BUSY (2)"], Refusals { count: 3, remark: "busy 1".to_owned() });
        assert_eq!(report.own_cpu_us_per_message, 2.0);
        assert!(report.text().contains("3 SYSTEM_BUSY (2) busy 1"));
    }
}
