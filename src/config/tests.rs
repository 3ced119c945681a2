//! What holds for the settings as a whole.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::*;

fn machine() -> Machine {
    Machine {
        host_name: "host-a".to_owned(),
        outgoing_ip: Ipv4Addr::new(10, 0, 0, 7).into(),
        home: Some("/home/u".into()),
        data_home: None,
        memory_bytes: 1000,
        open_files: 1024,
        name_servers: None,
    }
}

fn load(sources: Sources) -> Result<Config, ConfigError> {
    Config::load_on(&sources, &machine())
}

fn set(assignments: &[&str]) -> Sources {
    Sources { assignments: assignments.iter().map(|one| one.to_string()).collect(), ..Sources::default() }
}

fn refusal(sources: Sources) -> String {
    load(sources).unwrap_err().to_string()
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let table: toml::Table = text.parse().unwrap();
    let keys = table.into_iter().flat_map(|(name, value)| match value {
        toml::Value::Table(section) => section.keys().map(|key| format!("{name}.{key}")).collect(),
        _ => vec![name],
    });
    keys.collect()
}

#[test]
fn the_documented_file_is_the_default_and_names_every_key() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/telstar.toml");
    let on_disk = std::fs::read_to_string(&file).unwrap();
    let from_file = load(Sources { config: Some(file), ..Sources::default() }).unwrap();
    assert_eq!(from_file, load(Sources::default()).unwrap());

    let rules: BTreeSet<String> = rules::RULES.iter().map(|rule| rule.key.to_owned()).collect();
    assert_eq!(keys_of(&on_disk), rules);
    assert_eq!(keys_of(&from_file.to_toml()), rules);
}

#[test]
fn the_documented_file_tells_what_is_allowed() {
    let mut section = String::new();
    let mut comment = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned() + ".";
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some((key, _)) = line.split_once(" = ") {
            let rule = rules::find(&format!("{section}{key}")).unwrap();
            let allowed = comment.pop().unwrap_or_default();
            assert_eq!(allowed, format!("Allowed: {}", rule.allowed()), "{}", rule.key);
            assert!(!comment.is_empty(), "{} has no meaning", rule.key);
            comment.clear();
        }
        if line.is_empty() {
            comment.clear();
        }
    }
}

#[test]
fn what_is_left_empty_is_taken_from_the_machine() {
    let config = load(Sources::default()).unwrap();
    assert_eq!(config.broker.name.as_str(), "host-a");
    assert_eq!(config.broker.fast_listen, Some("0.0.0.0:10909".parse().unwrap()));
    assert_eq!(config.broker.advertised(config.broker.listen), "10.0.0.7:10911".parse().unwrap());
    assert_eq!(config.broker.name_servers, ["127.0.0.1:9876"]);
    assert_eq!(config.store.data_dir, PathBuf::from("/home/u/.local/share/telstar"));
    assert_eq!(config.store.in_memory_bytes(), 400);
    assert_eq!(config.store.open_queue_files(), 512, "half of what the process may open");
    assert!(Config::default().threads.arbiter_count() > 0);

    let config = load(set(&["broker.listen=127.0.0.1:0", "name_server.listen=[::]:1234"])).unwrap();
    assert_eq!(config.broker.fast_listen, None);
    assert_eq!(config.broker.advertise_ip, Ipv4Addr::LOCALHOST);
    assert_eq!(config.broker.name_servers, ["[::1]:1234"]);
    let config = load(set(&["name_server.listen=127.0.0.1:0"])).unwrap();
    assert!(config.broker.name_servers.is_empty());
}

#[test]
fn name_servers_of_the_environment_count_only_without_an_own_one() {
    let machine = Machine { name_servers: Some("a:1; b:2;".to_owned()), ..machine() };
    let both = Config::load_on(&Sources::default(), &machine).unwrap();
    assert_eq!(both.broker.name_servers, ["127.0.0.1:9876"]);
    let broker = Config::load_on(&set(&["roles=broker"]), &machine).unwrap();
    assert_eq!(broker.broker.name_servers, ["a:1", "b:2"]);
    let given = Config::load_on(&set(&["roles=broker", "broker.name_servers=c:3"]), &machine).unwrap();
    assert_eq!(given.broker.name_servers, ["c:3"]);
    let wrong = Machine { name_servers: Some("a".to_owned()), ..machine };
    let refusal = Config::load_on(&set(&["roles=broker"]), &wrong).unwrap_err().to_string();
    assert!(refusal.contains("NAMESRV_ADDR holds \"a\""), "{refusal}");
}

#[test]
fn later_sources_win() {
    let dir = tempfile::tempdir().unwrap();
    let java = dir.path().join("broker.conf");
    let toml = dir.path().join("telstar.toml");
    std::fs::write(
        &java,
        "brokerName=java\nbrokerClusterName=java\nmaxMessageSize=2000\nlistenPort=1111\nfileReservedTime=1",
    )
    .unwrap();
    std::fs::write(&toml, "[broker]\nname = \"toml\"\ncluster = \"toml\"\nlisten = \"0.0.0.0:2222\"\n[message]\nmax_body_bytes = 3000\n")
        .unwrap();
    let sources = Sources {
        java_config: Some(java),
        config: Some(toml),
        environment: vec![
            ("TELSTAR_BROKER__CLUSTER".into(), "env".into()),
            ("TELSTAR_MESSAGE__MAX_BODY_BYTES".into(), "4000".into()),
            ("TELSTAR_BROKER__LISTEN".into(), "0.0.0.0:3333".into()),
        ],
        assignments: vec!["message.max_body_bytes=5000".into(), "broker.listen=0.0.0.0:4444".into()],
        flags: vec![FlagGiven { flag: "--listen", key: "broker.listen", value: "0.0.0.0:5555".into() }],
    };
    let config = load(sources).unwrap();
    assert_eq!(config.retention.max_age, Duration::from_secs(3600));
    assert_eq!(config.broker.name.as_str(), "toml");
    assert_eq!(config.broker.cluster, "env");
    assert_eq!(config.message.max_body_bytes, 5000);
    assert_eq!(config.broker.listen.port(), 5555);
}

#[test]
fn effective_settings_load_again() {
    let sources =
        set(&["broker.trace_topic=off", "broker.fast_listen=off", "tls.certificate=/c", "tls.key=/k"]);
    let config = load(sources).unwrap();
    assert_eq!((&config.broker.trace_topic, config.broker.fast_listen), (&None, None));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("effective.toml");
    std::fs::write(&path, config.to_toml()).unwrap();
    assert_eq!(load(Sources { config: Some(path), ..Sources::default() }).unwrap(), config);
}

#[test]
fn unknown_keys_name_the_nearest_and_where_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("t.toml");
        std::fs::write(&path, text).unwrap();
        refusal(Sources { config: Some(path), ..Sources::default() })
    };
    let refused = file("[broker]\nname = \"a\"\nnmae = \"b\"\n");
    assert!(refused.starts_with("there is no setting broker.nmae ("), "{refused}");
    assert!(refused.ends_with("t.toml line 3); did you mean broker.name?"), "{refused}");
    assert!(file("\n[borker]\n").ends_with("t.toml line 2); did you mean [broker]?"));
    assert!(file("[broker.name]\n").contains("broker.name cannot be a table ("));
    assert!(file("[broker]\nid = \"0\"\n").contains("broker.id cannot be \"0\" ("));
    assert!(file("a = \n").contains("t.toml line 1 is not TOML: "));

    assert_eq!(
        refusal(set(&["store.flush_interval=5"])),
        "there is no setting store.flush_interval (--set); did you mean store.flush_interval_ms?"
    );
    assert_eq!(refusal(set(&["broker.id"])), "\"broker.id\" is no setting: write --set section.key=value");
}

#[test]
fn variables_of_others_with_our_prefix_are_passed_over() {
    let environment = |variable: &str| Sources {
        environment: vec![(variable.to_owned(), "tcp://10.0.0.1:9876".to_owned())],
        ..Sources::default()
    };
    for others in ["TELSTAR_SERVICE_HOST", "TELSTAR_PORT_9876_TCP", "TELSTARS__X", "PATH"] {
        assert!(load(environment(others)).is_ok(), "{others}");
    }
    let slip = refusal(environment("TELSTAR_BROKER_LISTEN"));
    assert!(slip.ends_with("did you mean TELSTAR_BROKER__LISTEN?"), "{slip}");
    let unknown = refusal(environment("TELSTAR_BROKER__LISTN"));
    assert!(
        unknown.contains("the environment variable TELSTAR_BROKER__LISTN); did you mean broker.listen?"),
        "{unknown}"
    );
    assert!(refusal(environment("TELSTAR_ROLES")).contains("roles cannot be "));
}

#[test]
fn contradictions_are_refused() {
    let refused = [
        (vec!["message.max_body_bytes=20000000"], "do not fit into network.max_frame_bytes"),
        (vec!["store.commit_log_segment_bytes=65536"], "do not fit into store.commit_log_segment_bytes"),
        (vec!["retention.warn_ratio=0.95"], "put them in rising order"),
        (vec!["tls.key=/k"], "only one is set"),
        (vec!["broker.expiry_ms=30000"], "broker.expiry_ms is not above"),
        (vec!["broker.listen=127.0.0.1:9876"], "name_server.listen and broker.listen are the same port"),
        (
            vec!["name_server.listen=0.0.0.0:10909"],
            "name_server.listen and broker.fast_listen are the same port",
        ),
    ];
    for (assignments, expected) in refused {
        let refusal = refusal(set(&assignments));
        assert!(refusal.contains(expected), "{assignments:?}: {refusal}");
    }
    assert!(load(set(&["roles=broker", "broker.listen=0.0.0.0:9876"])).is_ok());
    assert!(load(set(&["message.max_body_bytes=1024", "store.commit_log_segment_bytes=65536"])).is_ok());
}
