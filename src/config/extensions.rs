//! The settings of extensions: a section for each, which only the extension itself can read.

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Origin};

/// The section that the sections of extensions are in.
pub(super) const SECTION: &str = "extensions";

/// Which extensions run, and what each is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExtensionsSection {
    pub start: Vec<String>,
    /// `[extensions.NAME]`, by name.
    #[serde(flatten, skip_deserializing)]
    pub sections: toml::Table,
}

impl ExtensionsSection {
    /// The section of one extension, empty if nobody wrote any.
    pub fn of(&self, name: &str) -> toml::Table {
        self.sections.get(name).and_then(toml::Value::as_table).cloned().unwrap_or_default()
    }
}

/// Names that extensions may have: variables of the environment can spell them.
pub fn is_extension_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(allowed) && text != "start"
}

/// Splits `extensions.NAME.KEY`; `None` for a key that is no extension's.
pub(super) fn key_of_extension(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(SECTION)?.strip_prefix('.')?.split_once('.')
}

/// Takes the sections of extensions out of a file.
pub(super) fn of_file(text: &str) -> toml::Table {
    // What is wrong with the file has been told before.
    let mut table: toml::Table = text.parse().unwrap_or_default();
    let sections = match table.remove(SECTION) {
        Some(toml::Value::Table(sections)) => sections,
        _ => toml::Table::new(),
    };
    sections.into_iter().filter(|(_, value)| value.is_table()).collect()
}

/// Puts the settings of a later source over those of earlier ones, key by key.
pub(super) fn lay_over(below: &mut toml::Table, above: toml::Table) {
    for (name, section) in above {
        match (below.get_mut(&name), section) {
            (Some(toml::Value::Table(known)), toml::Value::Table(section)) => known.extend(section),
            (_, section) => _ = below.insert(name, section),
        }
    }
}

/// Sets one key of one extension from text: a number, `true`, a list or a quoted text as in TOML; anything else is a
/// text as it stands.
pub(super) fn set(
    sections: &mut toml::Table,
    (name, key): (&str, &str),
    text: &str,
    origin: &Origin,
) -> Result<(), ConfigError> {
    if !is_extension_name(name) {
        let (name, origin) = (name.to_owned(), origin.clone());
        return Err(ConfigError::ExtensionMisnamed { name, origin });
    }
    let read = format!("value = {text}").parse::<toml::Table>().ok();
    let value = read.and_then(|mut table| if table.len() == 1 { table.remove("value") } else { None });
    let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let section = toml::Table::from_iter([(key.to_owned(), value)]);
    lay_over(sections, toml::Table::from_iter([(name.to_owned(), toml::Value::Table(section))]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_toml_where_they_are_toml() {
        let mut sections = toml::Table::new();
        for (key, text) in
            [("a", "5"), ("b", "plain words"), ("c", "[\"x\", \"y\"]"), ("d", "\"5\""), ("a", "6")]
        {
            set(&mut sections, ("audit_log", key), text, &Origin::Set).unwrap();
        }
        let expected = "[audit_log]\na = 6\nb = \"plain words\"\nc = [\"x\", \"y\"]\nd = \"5\"\n";
        assert_eq!(sections, expected.parse::<toml::Table>().unwrap());
        let error = set(&mut sections, ("Audit", "a"), "1", &Origin::Set).unwrap_err();
        assert!(error.to_string().contains("Audit"), "{error}");
    }

    #[test]
    fn keys_of_extensions_are_told_apart() {
        assert_eq!(key_of_extension("extensions.cron.jobs"), Some(("cron", "jobs")));
        assert_eq!(key_of_extension("extensions.start"), None);
        assert_eq!(key_of_extension("store.data_dir"), None);
    }
}
