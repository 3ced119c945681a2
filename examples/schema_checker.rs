//! A schema checker: a message whose body does not fit the JSON Schema of its topic is refused at the door, with the
//! reason. The schemas are files, one for each topic that has one.
//!
//! ```text
//! cargo run --example schema_checker
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use actix::prelude::*;
use jsonschema::Validator;
use serde::Deserialize;
use telstar::Broker;
use telstar::extension::*;

/// Knows what messages have to look like.
pub struct SchemaChecker {
    schemas: HashMap<String, Validator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaCheckerSettings {
    /// A file NAME.json for each topic NAME that has a schema.
    directory: PathBuf,
}

impl Extension for SchemaChecker {
    const NAME: &'static str = "schema_checker";
    type Settings = SchemaCheckerSettings;

    fn start(settings: SchemaCheckerSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        let checker = SchemaChecker { schemas: read_schemas(&settings.directory)? }.start();
        // Better no message than one that nobody has looked at.
        let rules = DecisionRules { on_failure: OnFailure::Refuse, ..DecisionRules::default() };
        hooks.decides_sends(checker.recipient(), rules);
        Ok(())
    }
}

fn read_schemas(directory: &PathBuf) -> Result<HashMap<String, Validator>, ExtensionError> {
    let unreadable = |error: std::io::Error| {
        ExtensionError::refused(format!("schemas in {} cannot be read: {error}", directory.display()))
    };
    let mut schemas = HashMap::new();
    for file in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = file.map_err(unreadable)?.path();
        let (Some(topic), Some("json")) = (
            path.file_stem().and_then(|name| name.to_str()),
            path.extension().and_then(|name| name.to_str()),
        ) else {
            continue;
        };
        let wrong =
            |error: String| ExtensionError::refused(format!("{} is no JSON Schema: {error}", path.display()));
        let text = std::fs::read(&path).map_err(unreadable)?;
        let schema = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| wrong(error.to_string()))?;
        schemas.insert(topic.to_owned(), validator);
    }
    Ok(schemas)
}

impl SchemaChecker {
    /// Why a message does not fit; `None`: it does.
    fn fault(validator: &Validator, message: &OfferedMessage) -> Option<String> {
        let body = match message.plain_body() {
            Ok(body) => body,
            Err(error) => return Some(format!("the body cannot be opened: {error}")),
        };
        let value = match serde_json::from_slice(&body) {
            Ok(value) => value,
            Err(error) => return Some(format!("the body is no JSON: {error}")),
        };
        let error = validator.iter_errors(&value).next()?;
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "the body".to_owned() } else { place };
        Some(format!("{place}: {error}"))
    }
}

impl Actor for SchemaChecker {
    type Context = Context<Self>;
}

impl Handler<DecideSend> for SchemaChecker {
    type Result = SendDecision;

    fn handle(&mut self, question: DecideSend, _: &mut Self::Context) -> Self::Result {
        let Some(validator) = self.schemas.get(question.topic.as_str()) else { return SendDecision::Pass };
        match question.messages.iter().find_map(|message| Self::fault(validator, message)) {
            None => SendDecision::Pass,
            Some(fault) => SendDecision::Refuse {
                reason: format!("a message of topic {} does not fit its schema: {fault}", question.topic),
            },
        }
    }
}

#[allow(dead_code, reason = "tests bring the extension in without it")]
fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let schema =
        r#"{ "type": "object", "required": ["price"], "properties": { "price": { "type": "number" } } }"#;
    std::fs::write(directory.path().join("orders.json"), schema)?;
    let broker = Broker::builder()
        .extension::<SchemaChecker>()
        .set("extensions.schema_checker.directory", directory.path().display())
        .start()?;
    let name_server = broker.name_server().expect("it is one, too");
    println!("telstar send orders '{{\"price\": 5}}' -n {name_server}");
    println!(
        "telstar send orders '{{\"price\": \"five\"}}' -n {name_server}    # is refused, with the reason"
    );
    Ok(broker.wait()?)
}
