//! Timer messages: when one is due, how its record says so, and by what a client names it to take it back.
//!
//! RocketMQ: `HookUtils.transformTimerMessage`, `TimerMessageStore`, `RecallMessageHandle`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use super::properties::{self, names};

/// Times that Java's tools read are whole slots of its wheel (RocketMQ: `timerPrecisionMs`).
const SLOT_MS: i64 = 1000;
/// Tag of the record that takes a message back (RocketMQ: `RecallMessageProcessor.RECALL_MESSAGE_TAG`).
pub const RECALL_TAG: &str = "_RECALL_TAG_";
/// Its body.
pub const RECALL_BODY: &[u8] = b"0";

/// Why a time to deliver at is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimerError {
    #[error("{property} is \"{value}\", not a whole number")]
    NotANumber { property: &'static str, value: String },
    #[error(
        "it is to be delivered in {} s, and the limit is {} s; choose an earlier time, or raise message.timer_max_delay_s (timerMaxDelaySec)",
        delay_ms / 1000, max_delay.as_secs()
    )]
    TooFar { delay_ms: i64, max_delay: Duration },
}

/// What the properties of a message say of timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimerProperties<'a> {
    delay_sec: Option<&'a str>,
    delay_ms: Option<&'a str>,
    deliver_ms: Option<&'a str>,
    due_ms: Option<&'a str>,
    out_ms: Option<&'a str>,
    pub roll_times: Option<&'a str>,
    pub settles: Option<&'a str>,
    /// Names the message that this one takes back.
    pub delete_key: Option<&'a str>,
    pub real_topic: Option<&'a str>,
    pub unique_key: Option<&'a str>,
}

impl<'a> TimerProperties<'a> {
    pub fn of(text: &'a [u8]) -> Self {
        let mut found = Self::default();
        for (name, value) in properties::pairs(text) {
            found.see(name, value);
        }
        found
    }

    /// Takes one pair.
    pub fn see(&mut self, name: &str, value: &'a str) {
        let field = match name {
            names::TIMER_DELAY_SEC => &mut self.delay_sec,
            names::TIMER_DELAY_MS => &mut self.delay_ms,
            names::TIMER_DELIVER_MS => &mut self.deliver_ms,
            names::TIMER_DUE_MS => &mut self.due_ms,
            names::TIMER_OUT_MS => &mut self.out_ms,
            names::TIMER_ROLL_TIMES => &mut self.roll_times,
            names::TIMER_SETTLES => &mut self.settles,
            names::TIMER_DELETE_UNIQUE_KEY => &mut self.delete_key,
            names::REAL_TOPIC => &mut self.real_topic,
            names::UNIQ_KEY => &mut self.unique_key,
            _ => return,
        };
        *field = Some(value);
    }

    /// Asks for a time of its own, and has not been through that.
    pub fn is_asking(&self) -> bool {
        let asks = self.delay_sec.or(self.delay_ms).or(self.deliver_ms).is_some();
        asks && self.out_ms.is_none()
    }

    /// The time a client asks for; `None` when that is past.
    pub fn asked_due_ms(&self, now_ms: i64, max_delay: Duration) -> Result<Option<i64>, TimerError> {
        let number = |property, value: &str| {
            let not_a_number = |_| TimerError::NotANumber { property, value: value.to_owned() };
            value.parse::<i64>().map_err(not_a_number)
        };
        let due_ms = if let Some(value) = self.delay_sec {
            now_ms.saturating_add(number(names::TIMER_DELAY_SEC, value)?.saturating_mul(1000))
        } else if let Some(value) = self.delay_ms {
            now_ms.saturating_add(number(names::TIMER_DELAY_MS, value)?)
        } else if let Some(value) = self.deliver_ms {
            number(names::TIMER_DELIVER_MS, value)?
        } else {
            return Ok(None);
        };
        let delay_ms = due_ms.saturating_sub(now_ms);
        if delay_ms > max_delay.as_millis() as i64 {
            return Err(TimerError::TooFar { delay_ms, max_delay });
        }
        Ok((delay_ms > 0).then_some(due_ms))
    }

    /// What the record of a message that is due then says, beside what its client said.
    pub fn stamp(&self, due_ms: i64) -> Vec<(&'static str, String)> {
        let mut stamp = vec![(names::TIMER_OUT_MS, slot_of(due_ms).to_string())];
        if self.delay_sec.or(self.delay_ms).is_some() {
            stamp.push((names::TIMER_DUE_MS, due_ms.to_string()));
        }
        stamp
    }

    /// When the record of a timer message is due. Java kept only the slot where the client gave a delay; its message
    /// came within the second after that, and never before the second was over.
    pub fn due_ms(&self) -> Option<i64> {
        let number = |value: Option<&str>| value.and_then(|value| value.parse::<i64>().ok());
        let slot = number(self.out_ms)?;
        if let Some(due_ms) = number(self.due_ms) {
            return Some(due_ms);
        }
        let is_exact = self.delay_sec.or(self.delay_ms).is_none();
        Some(number(self.deliver_ms).filter(|_| is_exact).unwrap_or(slot.saturating_add(SLOT_MS)))
    }

    /// The slot of Java's wheel.
    pub fn slot_ms(&self) -> Option<i64> {
        self.out_ms?.parse().ok()
    }

    /// The unique key of the message to take back. RocketMQ puts the topic before it, or not
    /// (`appendTopicForTimerDeleteKey`).
    pub fn deleted_unique_key(&self) -> Option<&'a str> {
        let key = self.delete_key?;
        Some(self.real_topic.and_then(|topic| key.strip_prefix(topic)).unwrap_or(key))
    }
}

/// The slot of Java's wheel in which a message is found that is due then: the last before it.
pub fn slot_of(due_ms: i64) -> i64 {
    (due_ms - 1).div_euclid(SLOT_MS) * SLOT_MS
}

/// Due times `[from, to)` of messages in a slot.
pub fn due_in_slot(slot_ms: i64) -> (i64, i64) {
    (slot_ms.saturating_add(1), slot_ms.saturating_add(SLOT_MS + 1))
}

/// Names a timer message to its client, who may take it back with it (RocketMQ: `RecallMessageHandle.HandleV1`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecallHandle<'a> {
    pub topic: &'a str,
    pub broker_name: &'a str,
    pub due_ms: i64,
    pub unique_key: &'a str,
}

impl RecallHandle<'_> {
    pub fn encode(&self) -> String {
        let Self { topic, broker_name, due_ms, unique_key } = self;
        URL_SAFE.encode(format!("v1 {topic} {broker_name} {due_ms} {unique_key}"))
    }
}

/// The text of a handle; [`RecallHandle::read`] takes it apart.
pub fn decode_handle(handle: &str) -> Option<String> {
    let text = URL_SAFE_NO_PAD.decode(handle.trim_end_matches('=')).ok()?;
    String::from_utf8(text).ok()
}

impl<'a> RecallHandle<'a> {
    pub fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(' ');
        let handle = match parts.next()? {
            "v1" => Self {
                topic: parts.next()?,
                broker_name: parts.next()?,
                due_ms: parts.next()?.parse().ok()?,
                unique_key: parts.next()?,
            },
            _ => return None,
        };
        parts.next().is_none().then_some(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_500;
    const MAX: Duration = Duration::from_secs(3600);

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<i64>, TimerError> {
        TimerProperties::of(&properties::encode(pairs.iter().copied())).asked_due_ms(NOW, MAX)
    }

    fn due(pairs: &[(&str, &str)]) -> Option<i64> {
        TimerProperties::of(&properties::encode(pairs.iter().copied())).due_ms()
    }

    #[test]
    fn first_of_three_properties_decides() {
        let at = (NOW + 7).to_string();
        assert_eq!(asked(&[("TIMER_DELIVER_MS", &at)]), Ok(Some(NOW + 7)));
        assert_eq!(asked(&[("TIMER_DELIVER_MS", &at), ("TIMER_DELAY_MS", "9")]), Ok(Some(NOW + 9)));
        assert_eq!(asked(&[("TIMER_DELAY_MS", "9"), ("TIMER_DELAY_SEC", "2")]), Ok(Some(NOW + 2_000)));
        assert_eq!(asked(&[("TIMER_DELAY_MS", "0")]), Ok(None), "now");
        assert_eq!(asked(&[("TIMER_DELIVER_MS", "99")]), Ok(None), "long ago");
        assert_eq!(asked(&[("TIMER_DELAY_SEC", "-9223372036854775808")]), Ok(None));
    }

    #[test]
    fn refusals_name_the_property_or_the_limit() {
        let property = names::TIMER_DELAY_MS;
        let refused = TimerError::NotANumber { property, value: "soon".into() };
        assert_eq!(asked(&[("TIMER_DELAY_MS", "soon")]), Err(refused));
        assert_eq!(asked(&[("TIMER_DELAY_SEC", "3600")]), Ok(Some(NOW + 3_600_000)));
        let refused = asked(&[("TIMER_DELAY_MS", "3601000")]).unwrap_err().to_string();
        assert!(refused.contains("3601 s") && refused.contains("3600 s"), "{refused}");
        assert!(matches!(
            asked(&[("TIMER_DELAY_SEC", "9223372036854775807")]),
            Err(TimerError::TooFar { .. })
        ));
    }

    #[test]
    fn stamp_says_to_the_millisecond_when_it_is_due() {
        for pairs in [
            vec![("TIMER_DELIVER_MS", "1700000007123")],
            vec![("TIMER_DELAY_MS", "5000")],
            vec![("TIMER_DELAY_SEC", "5"), ("TIMER_DELIVER_MS", "1")],
        ] {
            let text = properties::encode(pairs.iter().copied());
            let stamp = TimerProperties::of(&text).stamp(1_700_000_007_123);
            let stamp: Vec<_> = stamp.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let all = [&pairs[..], &stamp[..]].concat();
            assert_eq!(due(&all), Some(1_700_000_007_123), "{all:?}");
            assert_eq!(stamp[0], ("TIMER_OUT_MS", "1700000007000"));
        }
    }

    #[test]
    fn records_of_java_are_due_no_earlier_than_java_delivers_them() {
        assert_eq!(due(&[("TIMER_OUT_MS", "7000"), ("TIMER_DELIVER_MS", "7400")]), Some(7_400));
        assert_eq!(due(&[("TIMER_OUT_MS", "7000"), ("TIMER_DELAY_MS", "400")]), Some(8_000));
        assert_eq!(due(&[("TIMER_DELIVER_MS", "7400")]), None, "nobody has put it into the wheel");
    }

    #[test]
    fn slots_are_those_of_java() {
        for (due_ms, slot) in [(7_400, 7_000), (7_000, 6_000), (7_001, 7_000), (7_999, 7_000), (8_000, 7_000)]
        {
            assert_eq!(slot_of(due_ms), slot, "{due_ms}");
            let (from, to) = due_in_slot(slot);
            assert!((from..to).contains(&due_ms));
        }
    }

    #[test]
    fn handle_is_that_of_java() {
        let handle =
            RecallHandle { topic: "T", broker_name: "broker-a", due_ms: 1_700_000_000_001, unique_key: "U1" };
        let text = handle.encode();
        assert_eq!(text, "djEgVCBicm9rZXItYSAxNzAwMDAwMDAwMDAxIFUx");
        assert_eq!(RecallHandle::read(&decode_handle(&text).unwrap()), Some(handle));
        for bad in ["", "v2 T b 1 U", "v1 T b x U", "v1 T b 1", "v1 T b 1 U more"] {
            assert_eq!(RecallHandle::read(bad), None, "{bad}");
        }
        assert_eq!(decode_handle("@"), None);
    }

    #[test]
    fn key_to_delete_is_read_with_and_without_its_topic() {
        for key in ["TU1", "U1"] {
            let text = properties::encode([("TIMER_DEL_UNIQKEY", key), ("REAL_TOPIC", "T")]);
            assert_eq!(TimerProperties::of(&text).deleted_unique_key(), Some("U1"));
        }
    }
}
