//! Every key with what it may be. One table for all sources, so that a value is refused in the same words
//! wherever it came from; `config/telstar.toml` says the same to people, and a test compares the two.

use config::{Value, ValueKind};

use super::error::{ConfigError, Origin};
use super::extensions::is_extension_name;
use crate::protocol::delay_level::DelayLevels;

/// What the value of a key may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Flag,
    /// A whole number in `[min, max]`.
    Whole {
        min: i64,
        max: i64,
        unit: &'static str,
    },
    /// One of a few whole numbers.
    OneOf(&'static [i64]),
    /// Whole numbers in `[min, max]`.
    Wholes {
        min: i64,
        max: i64,
        unit: &'static str,
    },
    /// A share in `[min, max]`.
    Ratio {
        min: f64,
        max: f64,
    },
    Word(&'static [&'static str]),
    Words(&'static [&'static str]),
    Text {
        fits: fn(&str) -> bool,
        allowed: &'static str,
    },
    Texts {
        fits: fn(&str) -> bool,
        allowed: &'static str,
    },
}

/// A key and what it may be.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// `section.key`.
    pub key: &'static str,
    pub kind: Kind,
}

/// A value as a source has it.
#[derive(Clone, PartialEq, Debug)]
pub enum Given {
    /// From a source that has only text; read as the rule says.
    Text(String),
    /// From a source with types; taken only if it is of the right one.
    Typed(Typed),
}

#[derive(Clone, PartialEq, Debug)]
pub enum Typed {
    Flag(bool),
    Whole(i64),
    Float(f64),
    Text(String),
    List(Vec<Typed>),
    /// A date, a table, a number beyond `i64`.
    Other(String),
}

const MS_PER_HOUR: i64 = 3_600_000;
const MAX_WAITING: i64 = 1_000_000;

const fn rule(key: &'static str, kind: Kind) -> Rule {
    Rule { key, kind }
}

const fn whole(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Whole { min, max, unit }
}

const fn text(fits: fn(&str) -> bool, allowed: &'static str) -> Kind {
    Kind::Text { fits, allowed }
}

/// All keys, in the order of `config/telstar.toml`.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    rule("roles", Kind::Words(&["namesrv", "broker"])),
    rule("broker.name", text(|text| text.is_empty() || is_name(text), "nothing, or 1 to 127 characters of a-z A-Z 0-9 . _ - % |")),
    rule("broker.cluster", text(is_name, "1 to 127 characters of a-z A-Z 0-9 . _ - % |")),
    rule("broker.id", whole(0, 0, "")),
    rule("broker.listen", text(is_socket, "an IP address and a port, as 0.0.0.0:10911 or [::]:10911")),
    rule("broker.fast_listen", text(|text| text.is_empty() || text == "off" || is_socket(text), "nothing, off, or an IP address and a port, as 0.0.0.0:10909")),
    rule("broker.advertise_ip", text(|text| text.is_empty() || is_ip(text), "nothing, or an IP address, as 192.168.1.10")),
    rule("broker.advertise_port", whole(0, 65_535, "")),
    rule("broker.name_servers", Kind::Texts { fits: is_host_and_port, allowed: "a list of addresses, as name-server-a:9876" }),
    rule("broker.permission", Kind::OneOf(&[2, 4, 6])),
    rule("broker.register_interval_ms", whole(100, MS_PER_HOUR, "milliseconds")),
    rule("broker.register_timeout_ms", whole(100, 60_000, "milliseconds")),
    rule("broker.expiry_ms", whole(1000, MS_PER_HOUR, "milliseconds")),
    rule("broker.auto_create_topics", Kind::Flag),
    rule("broker.auto_create_groups", Kind::Flag),
    rule("broker.default_queue_nums", whole(1, 65_536, "queues")),
    rule("broker.mixed_message_types", Kind::Flag),
    rule("broker.notify_members", Kind::Flag),
    rule("broker.server_side_reset", Kind::Flag),
    rule("broker.trace_topic", text(|text| is_name(text) && !text.contains('.'), "off, or 1 to 127 characters of a-z A-Z 0-9 _ - % |")),
    rule("name_server.listen", text(is_socket, "an IP address and a port, as 0.0.0.0:9876 or [::]:9876")),
    rule("name_server.scan_interval_ms", whole(100, MS_PER_HOUR, "milliseconds")),
    rule("store.data_dir", text(is_path, "nothing, or a path")),
    rule("store.commit_log_segment_bytes", whole(65_536, i32::MAX as i64, "bytes")),
    rule("store.consume_queue_segment_units", whole(1, 100_000_000, "units")),
    rule("store.index_enabled", Kind::Flag),
    rule("store.index_slots", whole(1, 100_000_000, "slots")),
    rule("store.index_entries", whole(2, 100_000_000, "entries")),
    rule("store.flush_mode", Kind::Word(&["async", "sync"])),
    rule("store.flush_interval_ms", whole(1, 60_000, "milliseconds")),
    rule("store.sync_flush_timeout_ms", whole(100, 600_000, "milliseconds")),
    rule("store.check_point_interval_ms", whole(100, 600_000, "milliseconds")),
    rule("store.offsets_flush_interval_ms", whole(10, 600_000, "milliseconds")),
    rule("store.offsets_flush_mode", Kind::Word(&["async", "sync"])),
    rule("store.open_queue_files", whole(0, 10_000_000, "files")),
    rule("store.in_memory_percent", whole(1, 90, "percent")),
    rule("retention.hours", whole(1, 876_000, "hours")),
    rule("retention.max_log_bytes", whole(0, i64::MAX, "bytes")),
    rule("retention.delete_hours", Kind::Wholes { min: 0, max: 23, unit: "hours of the day" }),
    rule("retention.warn_ratio", Kind::Ratio { min: 0.1, max: 0.99 }),
    rule("retention.force_ratio", Kind::Ratio { min: 0.1, max: 0.99 }),
    rule("retention.refuse_ratio", Kind::Ratio { min: 0.1, max: 0.99 }),
    rule("retention.check_interval_ms", whole(100, MS_PER_HOUR, "milliseconds")),
    rule("retention.max_segments", whole(1, 10_000, "files")),
    rule("compaction.interval_ms", whole(100, 24 * MS_PER_HOUR, "milliseconds")),
    rule("compaction.segment_bytes", whole(4096, i32::MAX as i64, "bytes")),
    rule("compaction.index_bytes", whole(92, i32::MAX as i64, "bytes")),
    rule("compaction.key_memory_bytes", whole(65_536, 64 << 30, "bytes")),
    rule("message.max_body_bytes", whole(1024, 512 << 20, "bytes")),
    rule("message.delay_levels", text(is_delay_levels, "delays separated by blanks, as 1s 5s 1m 2h 1d")),
    rule("message.store_replies", Kind::Flag),
    rule("message.timers_enabled", Kind::Flag),
    rule("message.timer_max_delay_s", whole(1, 365 * 24 * 3600, "seconds")),
    rule("message.recall_enabled", Kind::Flag),
    rule("transaction.enabled", Kind::Flag),
    rule("transaction.first_check_ms", whole(1, 86_400_000, "milliseconds")),
    rule("transaction.check_interval_ms", whole(1, 86_400_000, "milliseconds")),
    rule("transaction.check_max", whole(1, 1_000_000, "checks")),
    rule("send.max_waiting", whole(1, MAX_WAITING, "sends")),
    rule("send.max_append_bytes", whole(1024, 1 << 30, "bytes")),
    rule("pull.max_messages", whole(1, 100_000, "messages")),
    rule("pull.max_bytes", whole(1024, 128 << 20, "bytes")),
    rule("pull.max_scanned_units", whole(1, 1_000_000, "units")),
    rule("pull.max_holds", whole(1, MAX_WAITING, "pulls")),
    rule("pull.backlog_percent", whole(1, 100, "percent")),
    rule("filter.sql", Kind::Flag),
    rule("filter.retries", Kind::Flag),
    rule("filter.max_expression_bytes", whole(64, 1 << 20, "bytes")),
    rule("filter.max_body_bytes", whole(1024, 64 << 20, "bytes")),
    rule("filter.max_body_depth", whole(1, 100, "steps")),
    rule("filter.max_pull_bytes", whole(1024, 1 << 30, "bytes")),
    rule("network.max_frame_bytes", whole(65_536, 1 << 30, "bytes")),
    rule("network.idle_timeout_s", whole(1, 86_400, "seconds")),
    rule("network.half_frame_timeout_s", whole(1, 86_400, "seconds")),
    rule("network.max_in_work_bytes", whole(65_536, 4 << 30, "bytes")),
    rule("network.max_unread_bytes", whole(65_536, 4 << 30, "bytes")),
    rule("tls.mode", Kind::Word(&["off", "permissive"])),
    rule("tls.certificate", text(is_path, "nothing, or a path")),
    rule("tls.key", text(is_path, "nothing, or a path")),
    rule("threads.arbiters", whole(0, 1024, "threads")),
    rule("mailbox.connection", whole(1, MAX_WAITING, "messages")),
    rule("mailbox.topic_queue", whole(1, MAX_WAITING, "messages")),
    rule("mailbox.store", whole(1, MAX_WAITING, "messages")),
    rule("mailbox.tables", whole(1, MAX_WAITING, "messages")),
    rule("mailbox.name_server", whole(1, MAX_WAITING, "messages")),
    rule("actors.flight_recorder", whole(0, 65_536, "messages")),
    rule("log.level", text(is_log_filter, "off, error, warn, info, debug or trace, also with module=level, separated by commas")),
    rule("log.format", Kind::Word(&["text", "json"])),
    rule("http.listen", text(|text| text == "off" || is_socket(text), "off, or an IP address and a port, as 127.0.0.1:8088")),
    rule("http.max_body_bytes", whole(1024, 64 << 20, "bytes")),
    rule("http.request_timeout_ms", whole(100, 600_000, "milliseconds")),
    rule("http.max_connections", whole(1, 100_000, "connections")),
    rule("extensions.start", Kind::Texts { fits: is_extension_name, allowed: "a list of names of extensions that are compiled in, as audit_log" }),
];

/// A value that people ask for in good faith and that does not exist yet.
struct NotYet {
    key: &'static str,
    is_meant: fn(&str) -> bool,
    instead: &'static str,
}

const NOT_YET: &[NotYet] = &[
    NotYet {
        key: "tls.mode",
        is_meant: |value| value.eq_ignore_ascii_case("required"),
        instead: "refusing plain connections comes later; use permissive, and keep plain clients out by other means",
    },
    NotYet {
        key: "broker.id",
        is_meant: |value| value.parse::<u64>().is_ok_and(|id| id > 0),
        instead: "slaves come later; use 0, a master",
    },
];

/// The rule of a key.
pub fn find(key: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.key == key)
}

/// The known key that looks most like `key`, if one does.
pub fn nearest(key: &str) -> Option<&'static str> {
    nearest_of(key, RULES.iter().map(|rule| rule.key))
}

/// The word that looks most like `word`, if one does. A key that is right but for its section counts as near.
pub fn nearest_of<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let mut same_name = known.clone().filter(|candidate| last(candidate) == last(word));
    if let (Some(only), None) = (same_name.next(), same_name.next()) {
        return Some(only);
    }
    let slips = |candidate: &str| strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase());
    let best = known.map(|candidate| (slips(candidate), candidate)).min()?;
    (best.0 <= 2.max(word.len() / 4)).then_some(best.1)
}

/// What is added to the message about a key that does not exist.
pub fn hint(key: &str) -> String {
    match nearest(key) {
        Some(near) => format!("; did you mean {near}?"),
        None => "; telstar start --print-config shows all there are".to_owned(),
    }
}

impl Rule {
    /// What the value may be, in words.
    pub fn allowed(&self) -> String {
        let with_unit = |range: String, unit: &str| format!("{range} {unit}").trim_end().to_owned();
        let numbers = |numbers: &[i64]| numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        match self.kind {
            Kind::Flag => "true or false".to_owned(),
            Kind::Whole { min, max, unit } => with_unit(format!("{min} to {max}"), unit),
            Kind::OneOf(choices) => format!("one of: {}", numbers(choices)),
            Kind::Wholes { min, max, unit } => with_unit(format!("a list of {min} to {max}"), unit),
            Kind::Ratio { min, max } => format!("{min} to {max}"),
            Kind::Word(words) => format!("one of: {}", words.join(", ")),
            Kind::Words(words) => format!("a list of: {}", words.join(", ")),
            Kind::Text { allowed, .. } | Kind::Texts { allowed, .. } => allowed.to_owned(),
        }
    }

    /// The value if it is allowed here, ready for layering.
    pub fn check(&self, given: &Given, origin: &Origin) -> Result<Value, ConfigError> {
        let kind = match given {
            Given::Text(text) => self.read(text),
            Given::Typed(typed) => Some(typed.clone()),
        };
        if let Some(value) = kind.filter(|value| self.fits(value)) {
            return Ok(Value::new(Some(&origin.to_string()), value.into_kind()));
        }
        let value = given.to_string();
        let origin = origin.clone();
        let value_text = given.plain();
        let asked = NOT_YET.iter().find(|one| one.key == self.key && (one.is_meant)(value_text.trim()));
        Err(match asked {
            Some(one) => {
                ConfigError::NotYet { key: self.key.to_owned(), value, origin, instead: one.instead }
            }
            None => ConfigError::Invalid { key: self.key, value, origin, allowed: self.allowed() },
        })
    }

    /// Reads text as this kind of value.
    fn read(&self, text: &str) -> Option<Typed> {
        let text = text.trim();
        let list = |one: fn(&str) -> Option<Typed>| {
            let parts = text.trim_start_matches('[').trim_end_matches(']').split([',', ';']);
            let parts = parts.map(|part| part.trim().trim_matches('"')).filter(|part| !part.is_empty());
            parts.map(one).collect::<Option<Vec<_>>>().map(Typed::List)
        };
        match self.kind {
            Kind::Flag => text.to_ascii_lowercase().parse().ok().map(Typed::Flag),
            Kind::Whole { .. } | Kind::OneOf(_) => read_whole(text),
            Kind::Wholes { .. } => list(read_whole),
            Kind::Ratio { .. } => text.parse().ok().map(Typed::Float),
            Kind::Word(_) | Kind::Text { .. } => Some(Typed::Text(text.to_owned())),
            Kind::Words(_) | Kind::Texts { .. } => list(|part| Some(Typed::Text(part.to_owned()))),
        }
    }

    fn fits(&self, value: &Typed) -> bool {
        let within = |value: &Typed, min, max| matches!(value, Typed::Whole(n) if (min..=max).contains(n));
        match (self.kind, value) {
            (Kind::Flag, Typed::Flag(_)) => true,
            (Kind::Whole { min, max, .. }, value) => within(value, min, max),
            (Kind::OneOf(choices), Typed::Whole(n)) => choices.contains(n),
            (Kind::Wholes { min, max, .. }, Typed::List(list)) => {
                list.iter().all(|one| within(one, min, max))
            }
            (Kind::Ratio { min, max }, Typed::Float(ratio)) => (min..=max).contains(ratio),
            (Kind::Word(words), Typed::Text(text)) => words.contains(&text.as_str()),
            (Kind::Words(words), Typed::List(list)) => {
                !list.is_empty()
                    && list.iter().all(|one| matches!(one, Typed::Text(t) if words.contains(&t.as_str())))
            }
            (Kind::Text { fits, .. }, Typed::Text(text)) => fits(text),
            (Kind::Texts { fits, .. }, Typed::List(list)) => {
                list.iter().all(|one| matches!(one, Typed::Text(text) if fits(text)))
            }
            _ => false,
        }
    }
}

/// Digits may be grouped by `_`, as in TOML.
fn read_whole(text: &str) -> Option<Typed> {
    text.replace('_', "").parse().ok().map(Typed::Whole)
}

impl Typed {
    fn into_kind(self) -> ValueKind {
        match self {
            Self::Flag(flag) => ValueKind::Boolean(flag),
            Self::Whole(number) => ValueKind::I64(number),
            Self::Float(number) => ValueKind::Float(number),
            Self::Text(text) | Self::Other(text) => ValueKind::String(text),
            Self::List(list) => {
                ValueKind::Array(list.into_iter().map(|one| Value::new(None, one.into_kind())).collect())
            }
        }
    }
}

impl std::fmt::Display for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Other(text) => f.write_str(text),
            Self::List(list) => {
                let parts: Vec<String> = list.iter().map(Typed::to_string).collect();
                write!(f, "[{}]", parts.join(", "))
            }
        }
    }
}

impl Given {
    /// Without quotes.
    fn plain(&self) -> String {
        match self {
            Self::Text(text) | Self::Typed(Typed::Text(text)) => text.clone(),
            Self::Typed(typed) => typed.to_string(),
        }
    }
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Typed(typed) => typed.fmt(f),
        }
    }
}

/// Brokers and clusters are topics too, but hosts have dots in their names.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-%|".contains(c);
    (1..=127).contains(&text.len()) && text.chars().all(allowed)
}

fn is_socket(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}

fn is_ip(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_unspecified())
}

/// A host by name or address, and a port other than 0.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = !host.contains(|c: char| c.is_whitespace() || "/;,".contains(c));
    let bracketed =
        host.starts_with('[') == host.ends_with(']') && (host.starts_with('[') || !host.contains(':'));
    !host.is_empty() && plain && bracketed && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_path(text: &str) -> bool {
    !text.contains('\0')
}

fn is_delay_levels(text: &str) -> bool {
    DelayLevels::parse(text).is_ok_and(|levels| levels.max_level() > 0)
}

/// A bare word that is no level would silently be a module's name, at level trace; it is a slip.
fn is_log_filter(text: &str) -> bool {
    let is_level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    let directive = |part: &str| match part.split_once('=') {
        Some((module, level)) => !module.trim().is_empty() && is_level(level.trim()),
        None => is_level(part),
    };
    text.split(',').all(|part| directive(part.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(key: &str, given: Given) -> String {
        find(key).unwrap().check(&given, &Origin::Set).unwrap_err().to_string()
    }

    #[test]
    fn refusals_name_key_value_range_and_unit() {
        assert_eq!(
            refusal("store.flush_interval_ms", Given::Text("0".into())),
            "store.flush_interval_ms cannot be \"0\" (--set): allowed is 1 to 60000 milliseconds"
        );
        assert_eq!(
            refusal("broker.auto_create_topics", Given::Typed(Typed::Text("true".into()))),
            "broker.auto_create_topics cannot be \"true\" (--set): allowed is true or false"
        );
        assert_eq!(
            refusal("roles", Given::Text("broker,proxy".into())),
            "roles cannot be \"broker,proxy\" (--set): allowed is a list of: namesrv, broker"
        );
        assert_eq!(
            refusal("broker.permission", Given::Typed(Typed::Whole(3))),
            "broker.permission cannot be 3 (--set): allowed is one of: 2, 4, 6"
        );
    }

    #[test]
    fn what_comes_later_is_refused_by_name() {
        for given in [Given::Text("required".into()), Given::Typed(Typed::Text("required".into()))] {
            let text = refusal("tls.mode", given);
            assert!(text.starts_with("tls.mode cannot be \"required\" yet (--set): refusing"), "{text}");
        }
        let text = refusal("broker.id", Given::Typed(Typed::Whole(1)));
        assert_eq!(text, "broker.id cannot be 1 yet (--set): slaves come later; use 0, a master");
        assert!(refusal("broker.id", Given::Text("x".into())).contains("allowed is 0 to 0"));
    }

    #[test]
    fn texts_are_read_as_the_rule_says() {
        let read = |key: &str, text: &str| find(key).unwrap().check(&Given::Text(text.into()), &Origin::Set);
        assert_eq!(read("store.commit_log_segment_bytes", "1_048_576").unwrap().into_int().unwrap(), 1 << 20);
        assert!(read("broker.auto_create_topics", "FALSE").is_ok());
        assert_eq!(read("roles", "namesrv,broker").unwrap().into_array().unwrap().len(), 2);
        assert_eq!(read("broker.name_servers", "a:9876;[::1]:9876").unwrap().into_array().unwrap().len(), 2);
        assert_eq!(read("retention.delete_hours", "04;16").unwrap().into_array().unwrap().len(), 2);
        for bad in ["a", "a:0", ":9876", "a:99999", "a b:1", "::1:9876", "http://a:1"] {
            assert!(read("broker.name_servers", bad).is_err(), "{bad}");
        }
        for (level, fits) in
            [("debug", true), ("info,telstar::store=debug", true), ("inof", false), ("a=b", false)]
        {
            assert_eq!(read("log.level", level).is_ok(), fits, "{level}");
        }
    }

    #[test]
    fn nearest_key_is_found_despite_slips_and_a_wrong_section() {
        assert_eq!(nearest("broker.nmae"), Some("broker.name"));
        assert_eq!(nearest("store.flush_interval"), Some("store.flush_interval_ms"));
        assert_eq!(nearest("flush_mode"), Some("store.flush_mode"));
        assert_eq!(nearest("broker.data_dir"), Some("store.data_dir"));
        assert_eq!(nearest("something.completely_different"), None);
    }
}
