//! Why the settings cannot be used: what stands where, what is allowed, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Where a setting came from, so that whoever wrote it finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The defaults that are part of the program.
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    /// A Java broker's properties, with the key that stands there.
    JavaConfig {
        path: PathBuf,
        key: String,
    },
    Environment {
        variable: String,
    },
    /// `--set`.
    Set,
    /// A flag of its own, such as `--listen`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::JavaConfig { path, key } => write!(f, "{} in {}", key, path.display()),
            Self::Environment { variable } => write!(f, "the environment variable {variable}"),
            Self::Set => f.write_str("--set"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why the program does not start with these settings.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} line {line} is not TOML: {cause}", path.display())]
    NotToml { path: PathBuf, line: usize, cause: String },
    #[error("{} line {line} is not a Java property: {cause}", path.display())]
    NotProperties { path: PathBuf, line: usize, cause: String },
    #[error("{given:?} is no setting: write --set section.key=value")]
    NotAnAssignment { given: String },
    #[error("there is no setting {key} ({origin}){hint}")]
    UnknownKey { key: String, origin: Origin, hint: String },
    #[error("{key} cannot be {value} ({origin}): allowed is {allowed}")]
    Invalid { key: &'static str, value: String, origin: Origin, allowed: String },
    #[error("{key} cannot be {value} yet ({origin}): {instead}")]
    NotYet { key: String, value: String, origin: Origin, instead: &'static str },
    #[error(
        "an extension cannot be named {name:?} ({origin}): allowed is 1 to 64 characters of a-z 0-9 _, and not start"
    )]
    ExtensionMisnamed { name: String, origin: Origin },
    #[error(
        "there is no extension {name} in this program: {known}; extensions are compiled in, see docs/extending.md"
    )]
    ExtensionUnknown { name: String, known: String },
    #[error("two extensions of this program are named {name}: give one of them another NAME")]
    ExtensionTwice { name: &'static str },
    #[error("the settings of extension {name} are wrong, section [extensions.{name}]: {cause}")]
    ExtensionSettings { name: &'static str, cause: String },
    #[error("{problem}: {mend}")]
    Contradiction { problem: String, mend: String },
    /// The rules let through what the types do not take; a mistake of ours.
    #[error("the settings do not fit together: {0}")]
    Layering(#[from] config::ConfigError),
}
