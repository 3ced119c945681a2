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
