//! The settings that may change while the broker runs: their Java names, what they may be, how they are written.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::actors::topics::MAX_QUEUE_NUMS;
use crate::error::Refusal;
use crate::protocol::topic_config::Permission;

/// Declares the settings: `field: Type = default => "javaName", read, written, "what is allowed"`.
macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $default:expr => $key:literal, $read:expr, $write:expr, $allowed:literal;)*) => {
        /// All of them at one moment; the defaults are Java's.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct SettingValues {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Default for SettingValues {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl SettingValues {
            /// Java's names of all settings.
            pub const KEYS: &'static [&'static str] = &[$($key),*];

            /// Sets one by its name, or says what it may be. `None`: there is none of that name.
            pub fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Refusal>> {
                match key {
                    $($key => {
                        let read: fn(&str) -> Option<$kind> = $read;
                        let read = read(value.trim()).map(|read| self.$field = read);
                        Some(read.ok_or_else(|| Refusal::SettingInvalid {
                            key: key.to_owned(), value: value.to_owned(), allowed: $allowed,
                        }))
                    })*
                    _ => None,
                }
            }

            /// As they are written in a configuration file.
            pub fn to_text(&self) -> BTreeMap<&'static str, String> {
                [$({
                    let write: fn(&$kind) -> String = $write;
                    ($key, write(&self.$field))
                }),*].into()
            }
        }
    };
}

settings! {
    /// Whether a send to an unknown topic creates it.
    auto_create_topic: bool = true => "autoCreateTopicEnable", flag, bool::to_string, "true or false";
    /// Whether a heartbeat of an unknown group creates it.
    auto_create_group: bool = true => "autoCreateSubscriptionGroup", flag, bool::to_string, "true or false";
    /// Queues of an automatically created topic, at most.
    default_topic_queue_nums: u32 = 8 => "defaultTopicQueueNums", |text| number(text, 1, MAX_QUEUE_NUMS), u32::to_string, "1 to 65536";
    /// What may be done with the whole broker.
    permission: Permission = Permission::READ_WRITE => "brokerPermission", permission, |perm| perm.0.to_string(), "2 (write), 4 (read) or 6 (both)";
    /// How long a segment of the commit log is kept after its last message.
    file_reserved: Duration = hours(72) => "fileReservedTime", |text| Some(hours(number(text, 1, 876_000)?)), |kept| (kept.as_secs() / 3600).to_string(), "1 to 876000 hours";
    /// Hours of the day (UTC plus the broker's offset) in which old segments are deleted.
    delete_when: Vec<u8> = vec![4] => "deleteWhen", hours_of_day, |hours| write_hours_of_day(hours), "hours from 00 to 23, several joined by ;";
    /// Percent of the disk from which old segments are deleted at any hour.
    disk_max_used_percent: u32 = 75 => "diskMaxUsedSpaceRatio", |text| number(text, 10, 95), u32::to_string, "10 to 95 percent";
    /// Percent of the disk from which segments are deleted though they are young.
    disk_clean_forcibly_percent: u32 = 85 => "diskSpaceCleanForciblyRatio", |text| number(text, 30, 95), u32::to_string, "30 to 95 percent";
    /// Percent of the disk from which sends are refused.
    disk_full_percent: u32 = 90 => "diskSpaceWarningLevelRatio", |text| number(text, 35, 99), u32::to_string, "35 to 99 percent";
    /// How old a half message is when it is first checked.
    transaction_timeout: Duration = Duration::from_secs(6) => "transactionTimeOut", millis, write_millis, "1 to 86400000 ms";
    /// After so many checks without an answer a half message is given up.
    transaction_check_max: u32 = 15 => "transactionCheckMax", |text| number(text, 1, 1_000_000), u32::to_string, "1 to 1000000";
    /// How often half messages are looked through.
    transaction_check_interval: Duration = Duration::from_secs(30) => "transactionCheckInterval", millis, write_millis, "1 to 86400000 ms";
    /// Whether transactional messages are refused.
    reject_transactions: bool = false => "rejectTransactionMessage", flag, bool::to_string, "true or false";
    /// Whether replies to requests are stored beside being handed to who asked.
    store_replies: bool = true => "storeReplyMessageEnable", flag, bool::to_string, "true or false";
    /// Whether groups may filter by SQL.
    sql_filter: bool = false => "enablePropertyFilter", flag, bool::to_string, "true or false";
    /// Whether what is retried must satisfy the group's SQL conditions again.
    filter_retries: bool = false => "filterSupportRetry", flag, bool::to_string, "true or false";
    /// Whether offsets are reset here; otherwise the members of the group are told to move.
    server_side_reset: bool = true => "useServerSideResetOffset", flag, bool::to_string, "true or false";
    /// Whether members of a group are told when others come or go.
    notify_members: bool = true => "notifyConsumerIdsChangedEnable", flag, bool::to_string, "true or false";
}

const fn hours(count: u32) -> Duration {
    Duration::from_secs(count as u64 * 3600)
}

fn flag(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A whole number in `[min, max]`.
fn number(text: &str, min: u32, max: u32) -> Option<u32> {
    text.parse().ok().filter(|number| (min..=max).contains(number))
}

fn permission(text: &str) -> Option<Permission> {
    let perm = text.parse().ok().map(Permission)?;
    [Permission::READ, Permission::WRITE, Permission::READ_WRITE].contains(&perm).then_some(perm)
}

fn millis(text: &str) -> Option<Duration> {
    Some(Duration::from_millis(number(text, 1, 86_400_000)?.into()))
}

fn write_millis(time: &Duration) -> String {
    time.as_millis().to_string()
}

fn hours_of_day(text: &str) -> Option<Vec<u8>> {
    let hour = |part: &str| part.trim().parse().ok().filter(|hour| *hour < 24);
    text.split(';').map(hour).collect()
}

fn write_hours_of_day(hours: &[u8]) -> String {
    hours.iter().map(|hour| format!("{hour:02}")).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_reads_back_what_it_writes() {
        let mut values = SettingValues::default();
        for (key, text) in SettingValues::default().to_text() {
            assert!(matches!(values.set(key, &text), Some(Ok(()))), "{key}={text}");
        }
        assert_eq!(values, SettingValues::default());
        assert_eq!(values.to_text().len(), SettingValues::KEYS.len());
    }

    #[test]
    fn refusal_of_a_value_says_what_is_allowed() {
        let mut values = SettingValues::default();
        let mut refused = |key, value| match values.set(key, value) {
            Some(Err(refusal)) => refusal.to_string(),
            other => panic!("{key}={value}: {other:?}"),
        };
        assert_eq!(
            refused("fileReservedTime", "many"),
            "nothing was changed: fileReservedTime cannot be \"many\", allowed is 1 to 876000 hours"
        );
        refused("brokerPermission", "3");
        refused("deleteWhen", "04;24");
        refused("autoCreateTopicEnable", "yes");
        refused("transactionTimeOut", "-1");
        assert!(values.set("noSuchKey", "1").is_none());
    }

    #[test]
    fn several_hours_of_the_day_are_joined_by_semicolons() {
        let mut values = SettingValues::default();
        assert!(matches!(values.set("deleteWhen", " 4;16 "), Some(Ok(()))));
        assert_eq!(values.delete_when, [4, 16]);
        assert_eq!(values.to_text()["deleteWhen"], "04;16");
    }
}
