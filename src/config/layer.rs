//! The sources of settings, each read into a layer; later layers win.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Map, Source, Value};
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::extensions;
use super::java_config::{self, JavaLeftovers};
use super::machine::Machine;
use super::rules::{self, Given, Typed};

/// Variables of the environment that begin so are settings, if sections and keys are joined by [`JOINT`].
const PREFIX: &str = "TELSTAR_";
const JOINT: &str = "__";

/// Everything settings can come from besides the defaults; the later ones win.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Properties of a Java broker (`--java-config`).
    pub java_config: Option<PathBuf>,
    /// A file like `config/telstar.toml` (`--config`).
    pub config: Option<PathBuf>,
    /// All variables; those that are no settings are passed over.
    pub environment: Vec<(String, String)>,
    /// `section.key=value` (`--set`).
    pub assignments: Vec<String>,
    /// Flags of their own.
    pub flags: Vec<FlagGiven>,
}

/// A flag that stands for a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagGiven {
    pub flag: &'static str,
    pub key: &'static str,
    pub value: String,
}

/// Checked settings of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    values: BTreeMap<&'static str, Value>,
    /// The sections of extensions, by their names.
    extensions: toml::Table,
}

impl Layer {
    pub(super) fn set(&mut self, key: &str, given: &Given, origin: &Origin) -> Result<(), ConfigError> {
        if let (Some(of_extension), Given::Text(text)) = (extensions::key_of_extension(key), given) {
            return extensions::set(&mut self.extensions, of_extension, text, origin);
        }
        let Some(rule) = rules::find(key) else {
            let (key, origin) = (key.to_owned(), origin.clone());
            return Err(ConfigError::UnknownKey { hint: rules::hint(&key), key, origin });
        };
        self.values.insert(rule.key, rule.check(given, origin)?);
        Ok(())
    }
}

/// What all layers say to extensions.
pub(super) fn extension_sections(layers: &[Layer]) -> toml::Table {
    let mut sections = toml::Table::new();
    for layer in layers {
        extensions::lay_over(&mut sections, layer.extensions.clone());
    }
    sections
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }
}

/// All layers, from the defaults up, and what a Java broker's properties say that is not followed.
pub(super) fn read_all(
    sources: &Sources,
    machine: &Machine,
) -> Result<(Vec<Layer>, JavaLeftovers), ConfigError> {
    let mut layers = vec![of_defaults()?];
    let mut leftovers = JavaLeftovers::default();
    if let Some(path) = &sources.java_config {
        let read = java_config::read(&read_file(path)?, path, machine)?;
        layers.push(read.layer);
        leftovers = read.leftovers;
    }
    if let Some(path) = &sources.config {
        layers.push(of_toml(&read_file(path)?, Some(path))?);
    }
    layers.push(of_environment(&sources.environment)?);
    layers.push(of_assignments(&sources.assignments)?);
    let mut flags = Layer::default();
    for given in &sources.flags {
        flags.set(given.key, &Given::Text(given.value.clone()), &Origin::Flag(given.flag))?;
    }
    layers.push(flags);
    Ok((layers, leftovers))
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

fn of_defaults() -> Result<Layer, ConfigError> {
    of_toml(super::DEFAULTS, None)
}

fn of_assignments(assignments: &[String]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for given in assignments {
        let (key, value) =
            given.split_once('=').ok_or_else(|| ConfigError::NotAnAssignment { given: given.clone() })?;
        layer.set(key.trim(), &Given::Text(value.to_owned()), &Origin::Set)?;
    }
    Ok(layer)
}

/// A container's environment may hold variables with our prefix that are not meant for us: Kubernetes adds
/// TELSTAR_SERVICE_HOST for a service of the name telstar. Without the joint a variable is ours only if
/// it is a key of the top, or plainly a slip.
fn of_environment(environment: &[(String, String)]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (variable, value) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let key = name.to_ascii_lowercase().replace(JOINT, ".");
        let origin = Origin::Environment { variable: variable.clone() };
        if name.contains(JOINT) || rules::find(&key).is_some() {
            layer.set(&key, &Given::Text(value.clone()), &origin)?;
        } else if let Some(rule) = rules::RULES.iter().find(|rule| rule.key.replace('.', "_") == key) {
            let meant = rule.key.to_ascii_uppercase().replace('.', JOINT);
            return Err(ConfigError::UnknownKey {
                key,
                origin,
                hint: format!("; did you mean {PREFIX}{meant}?"),
            });
        }
    }
    Ok(layer)
}

/// Without a path it is the defaults.
fn of_toml(text: &str, path: Option<&Path>) -> Result<Layer, ConfigError> {
    let line_at = |at: usize| text.get(..at).map_or(1, |before| 1 + before.matches('\n').count());
    let table = DeTable::parse(text).map_err(|error| ConfigError::NotToml {
        path: path.unwrap_or(Path::new("config/telstar.toml")).to_owned(),
        line: error.span().map_or(1, |span| line_at(span.start)),
        cause: error.message().to_owned(),
    })?;
    let origin_at = |at: usize| match path {
        Some(path) => Origin::File { path: path.to_owned(), line: line_at(at) },
        None => Origin::Default,
    };
    let mut layer = Layer { extensions: extensions::of_file(text), ..Layer::default() };
    read_table(table.get_ref(), "", &origin_at, &mut layer)?;
    Ok(layer)
}

fn read_table(
    table: &DeTable<'_>,
    section: &str,
    origin_at: &dyn Fn(usize) -> Origin,
    layer: &mut Layer,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = if section.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{section}.{}", name.get_ref())
        };
        let origin = origin_at(name.span().start);
        let inside = format!("{key}.");
        let is_section = rules::RULES.iter().any(|rule| rule.key.starts_with(&inside));
        match value.get_ref() {
            // Only the extension knows what may stand there.
            DeValue::Table(_)
                if section == extensions::SECTION && extensions::is_extension_name(name.get_ref()) => {}
            DeValue::Table(_) if section == extensions::SECTION => {
                let name = name.get_ref().to_string();
                return Err(ConfigError::ExtensionMisnamed { name, origin });
            }
            DeValue::Table(table) if is_section => read_table(table, &key, origin_at, layer)?,
            DeValue::Table(_) if rules::find(&key).is_none() => {
                let sections = rules::RULES.iter().filter_map(|rule| Some(rule.key.split_once('.')?.0));
                let hint = match rules::nearest_of(&key, sections) {
                    Some(near) => format!("; did you mean [{near}]?"),
                    None => rules::hint(&key),
                };
                return Err(ConfigError::UnknownKey { key, origin, hint });
            }
            value => layer.set(&key, &Given::Typed(typed(value)), &origin)?,
        }
    }
    Ok(())
}

fn typed(value: &DeValue<'_>) -> Typed {
    match value {
        DeValue::String(text) => Typed::Text(text.to_string()),
        DeValue::Boolean(flag) => Typed::Flag(*flag),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Typed::Whole(number),
            Err(_) => Typed::Other(number.to_string()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Typed::Float(number),
            Err(_) => Typed::Other(number.to_string()),
        },
        DeValue::Array(list) => Typed::List(list.iter().map(|one| typed(one.get_ref())).collect()),
        DeValue::Datetime(date) => Typed::Other(date.to_string()),
        DeValue::Table(_) => Typed::Other("a table".to_owned()),
    }
}
