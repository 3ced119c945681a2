//! The command line, as whoever types it sees it.

use crate::support::*;

#[test]
fn a_send_to_nobody_says_what_is_missing_and_what_to_do() {
    // A port that was free a moment ago.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in [
        vec!["send", "orders", "hello"],
        vec!["consume", "orders", "--from", "first", "--count", "1"],
        vec!["topic", "list"],
        vec!["cluster"],
    ] {
        let (status, output, error) = run_words(&[&command[..], &["-n", &addr]].concat());
        assert_eq!((status, output.as_str()), (1, ""), "{command:?}");
        assert_eq!(
            error,
            format!(
                "telstar: no name server at {addr} (connection refused): start one with `telstar start`, or give --name-server\n"
            ),
            "{command:?}"
        );
    }
}

#[test]
fn help_and_completion_are_printed() {
    let (status, help, error) = run_words(&["--help"]);
    assert_eq!((status, error.as_str()), (0, ""));
    for command in ["start", "send", "consume", "topic", "group", "cluster", "bench", "completion"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let (status, help, _) = run_words(&[command, "--help"]);
        assert!(status == 0 && help.contains("Usage: telstar"), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (status, script, error) = run_words(&["completion", shell]);
        assert_eq!((status, error.as_str()), (0, ""), "{shell}");
        assert!(script.contains("telstar") && script.contains("consume"), "{shell}");
    }
    let (status, version, _) = run_words(&["--version"]);
    assert_eq!((status, version), (0, format!("telstar {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn what_is_used_wrongly_ends_with_status_2_and_a_hint() {
    for words in
        [&["sned", "orders"][..], &["send"], &["send", "orders", "x", "--count", "0"], &["completion", "cmd"]]
    {
        let (status, output, error) = run_words(words);
        assert_eq!((status, output.as_str()), (2, ""), "{words:?}");
        assert!(error.starts_with("error: "), "{error}");
    }
}

#[test]
fn the_settings_that_are_printed_can_be_read_again() {
    let dir = temp_dir();
    let mut args = start_args(&dir.path().join("data"), &["retention.hours=24"]);
    args.push("--print-config".to_owned());
    let (status, first, error) = run(&args);
    assert_eq!((status, error.as_str()), (0, ""));
    let file = dir.path().join("printed.toml");
    std::fs::write(&file, &first).unwrap();
    let (status, second, error) = run_words(&["start", "--config", file.to_str().unwrap(), "--print-config"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert_eq!(first, second);
    assert!(!dir.path().join("data").exists(), "nothing was started");
}

#[tokio::test]
async fn what_is_sent_from_the_command_line_is_consumed_there() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let at = ["-n", broker.name_server.as_str()];
    let words = |words: &[&str]| run_words(&[words, &at[..]].concat());
    let (status, _, error) = words(&["topic", "create", "orders", "--queues", "2"]);
    assert_eq!((status, error.as_str()), (0, ""));
    let (status, sent, error) =
        words(&["send", "orders", "hello", "--tag", "greeting", "--count", "3", "-o", "json"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert_eq!(sent.matches("\"queue\"").count().max(sent.lines().count()), 3, "{sent}");
    let (status, consumed, error) = words(&["consume", "orders", "--from", "first", "--count", "3"]);
    assert_eq!(status, 0, "{error}");
    assert_eq!(consumed.matches("hello").count(), 3, "{consumed}");
    let (status, _, error) = words(&["send", "orders", "x", "--queue", "9"]);
    assert_eq!(status, 1);
    assert!(error.starts_with("telstar: ") && error.lines().count() == 1, "{error}");
    let (status, topics, _) = words(&["topic", "list"]);
    assert!(status == 0 && topics.contains("orders"), "{topics}");
}

#[tokio::test]
async fn messages_are_found_in_every_way_and_groups_moved() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let at = ["-n", broker.name_server.as_str()];
    let words = |words: &[&str]| run_words(&[words, &at[..]].concat());
    let done = |command: &[&str]| {
        let (status, output, error) = words(command);
        assert_eq!((status, error.as_str()), (0, ""), "{command:?}");
        output
    };
    let find = |by: &[&str]| -> Vec<serde_json::Value> {
        let found = done(&[&["message", "find", "--topic", "orders", "-o", "json"], by].concat());
        serde_json::from_str(&found).unwrap()
    };
    done(&["topic", "create", "orders", "--queues", "1"]);
    for body in ["one", "two", "three"] {
        done(&["send", "orders", body, "--key", body, "--tag", "number"]);
    }
    let bodies = |found: Vec<serde_json::Value>| -> Vec<String> {
        found.iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect()
    };

    // A key is indexed a moment after its message is stored.
    let two = loop {
        let (status, found, _) =
            words(&["message", "find", "--topic", "orders", "--key", "two", "-o", "json"]);
        if status == 0 {
            break serde_json::from_str::<Vec<serde_json::Value>>(&found).unwrap().remove(0);
        }
    };
    assert_eq!((&two["body"], &two["queueOffset"]), (&"two".into(), &1.into()));
    let stored_at = two["storedAtMs"].to_string();
    assert_eq!(bodies(find(&["--unique-key", two["messageId"].as_str().unwrap()])), ["two"]);
    assert_eq!(bodies(find(&["--queue", "0", "--offset", "1", "--limit", "2"])), ["two", "three"]);
    assert!(bodies(find(&["--from", &stored_at, "--to", &stored_at])).contains(&"two".to_owned()));
    assert_eq!(bodies(find(&["--from", "1m"])), ["one", "two", "three"]);
    for id in ["messageId", "offsetMessageId"] {
        let shown = done(&["message", "get", two[id].as_str().unwrap(), "--topic", "orders"]);
        assert!(shown.contains("KEYS = two") && shown.ends_with("\n\ntwo\n"), "{shown}");
    }
    let last = done(&["message", "tail", "--topic", "orders", "--limit", "1"]);
    assert!(last.contains("three") && !last.contains("two"), "{last}");
    let (status, _, error) = words(&["message", "find", "--topic", "orders", "--key", "none"]);
    assert!(status == 1 && error.starts_with("telstar: no message with key none in topic orders"), "{error}");

    done(&["group", "create", "billing"]);
    done(&["group", "create", "copy"]);
    let (status, _, error) = words(&["group", "reset", "billing", "--topic", "orders", "--by", "-1"]);
    assert!(status == 1 && error.contains("no offset in topic orders to count from"), "{error}");
    done(&["group", "reset", "billing", "--topic", "orders", "--to-latest"]);
    let planned =
        done(&["group", "reset", "billing", "--topic", "orders", "--to-time", &stored_at, "--dry-run"]);
    assert!(planned.contains("would come again") && planned.ends_with("nothing was changed\n"), "{planned}");
    done(&["group", "clone", "billing", "copy"]);
    let moved = done(&["group", "reset", "copy", "--topic", "orders", "--by", "-2", "-o", "json"]);
    let moved: serde_json::Value = serde_json::from_str(&moved).unwrap();
    assert_eq!((&moved["redelivered"], &moved["queues"][0]["from"]), (&2.into(), &3.into()));
    let consumed = done(&["consume", "orders", "--group", "copy", "--count", "2"]);
    assert_eq!(consumed, "two\nthree\n");
}
