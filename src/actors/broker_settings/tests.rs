use super::*;
use crate::clock::{ManualClock, WallMs};
use crate::protocol::properties_text;
use crate::protocol::response_code::ResponseCode;

/// Keys of the Java broker 5.5.0; tools show them all.
const JAVA_KEY_COUNT: usize = 489;

struct FakeListener(std::sync::mpsc::Sender<Arc<SettingValues>>);

impl Actor for FakeListener {
    type Context = actix::Context<Self>;
}

impl Handler<SettingsChanged> for FakeListener {
    type Result = ();

    fn handle(&mut self, changed: SettingsChanged, _: &mut Self::Context) {
        self.0.send(changed.settings).unwrap();
    }
}

fn load(metadata: &Metadata) -> (BrokerSettings, SettingsTable) {
    let fixed = SET_BY_ROOT.map(|key| (key, format!("our {key}"))).into();
    let config = BrokerSettingsConfig { initial: SettingValues::default(), fixed, mailbox_capacity: 16 };
    BrokerSettings::load(metadata.clone(), config, ManualClock::at(WallMs(7))).unwrap()
}

fn change(text: &str) -> ChangeSettings {
    ChangeSettings { changes: properties_text::parse(text).unwrap() }
}

#[actix::test]
async fn change_is_told_shown_and_kept() {
    let metadata = Metadata::temporary().unwrap();
    let (sender, heard) = std::sync::mpsc::channel();
    let (settings, table) = load(&metadata);
    let settings = settings.tell(FakeListener(sender).start().recipient()).start();
    settings.send(change("fileReservedTime=71\nautoCreateTopicEnable=FALSE")).await.unwrap().unwrap();
    assert_eq!(table.load().file_reserved.as_secs(), 71 * 3600);
    assert_eq!(*heard.try_recv().unwrap(), **table.load());
    let shown = settings.send(ShowSettings).await.unwrap();
    assert_eq!(shown.properties["fileReservedTime"], "71");
    assert_eq!(shown.properties["autoCreateTopicEnable"], "false");
    assert_eq!(shown.data_version, DataVersion { counter: 1, state_version: 0, timestamp: 7 });
    let (again, table) = load(&metadata);
    assert_eq!(table.load().file_reserved.as_secs(), 71 * 3600);
    assert_eq!(again.data_version.counter, 1);
}

#[actix::test]
async fn one_bad_setting_changes_none() {
    let (settings, table) = load(&Metadata::temporary().unwrap());
    let settings = settings.start();
    let refused = async |text| settings.send(change(text)).await.unwrap().unwrap_err();
    let bad = refused("autoCreateTopicEnable=false\nfileReservedTime=many").await;
    assert_eq!(bad.code(), ResponseCode::INVALID_PARAMETER);
    assert!(bad.to_string().contains("allowed is 1 to 876000 hours"));
    assert_eq!(**table.load(), SettingValues::default());
    let forbidden = refused("brokerConfigPath=nowhere").await;
    assert_eq!(forbidden.code(), ResponseCode::NO_PERMISSION);
    assert!(forbidden.to_string().starts_with("Can not update config in black list."));
}

#[actix::test]
async fn what_cannot_be_set_is_refused_by_name() {
    let (settings, _) = load(&Metadata::temporary().unwrap());
    let settings = settings.start();
    let refused = async |text| settings.send(change(text)).await.unwrap().unwrap_err().to_string();
    assert_eq!(
        refused("fileReservedTim=1").await,
        "nothing was changed: fileReservedTim is no setting of this broker; did you mean fileReservedTime?"
    );
    assert!(refused("listenPort=1").await.contains("set it in config/telstar.toml"));
    assert!(refused("transientStorePoolEnable=true").await.contains("does without"));
    assert!(
        refused("somethingElseEntirely=1").await.contains("those that can be set are autoCreateTopicEnable")
    );
}

#[actix::test]
async fn writing_back_what_was_read_is_no_change() {
    let (settings, _) = load(&Metadata::temporary().unwrap());
    let settings = settings.start();
    let shown = settings.send(ShowSettings).await.unwrap();
    let mut changes = shown.properties.clone();
    changes.remove("configBlackList");
    settings.send(ChangeSettings { changes }).await.unwrap().unwrap();
    assert_eq!(settings.send(ShowSettings).await.unwrap(), shown);
}

#[test]
fn every_key_of_java_is_shown_with_our_values_over_its_defaults() {
    let defaults = java_defaults(4);
    assert_eq!(defaults.len(), JAVA_KEY_COUNT);
    for key in SettingValues::KEYS.iter().chain(&SET_BY_ROOT) {
        assert!(defaults.contains_key(*key), "{key}");
    }
    assert_eq!(defaults["endTransactionThreadPoolNums"], "16");
    assert_eq!(defaults["messageDelayLevel"], "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h");
    let (settings, table) = load(&Metadata::temporary().unwrap());
    let shown = shown::shown(&table.load(), &settings.config.fixed);
    assert_eq!((shown["listenPort"].as_str(), shown["deleteWhen"].as_str()), ("our listenPort", "04"));
    // Our defaults are Java's.
    for (key, value) in SettingValues::default().to_text() {
        assert_eq!(defaults[key], value, "{key}");
    }
}
