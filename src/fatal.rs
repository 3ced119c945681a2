//! Reasons to stop, an exit status each: one sentence that names the thing and the mend. Statuses are part of the
//! interface and are never given another meaning.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::actors::broker_tree::StartError;
use crate::actors::root::NodeError;
use crate::config::ConfigError;
use crate::store::derived_check::DerivedError;
use crate::store::java_import::JavaImportError;
use crate::store::key_index::KeyIndexError;
use crate::store::metadata::MetadataError;
use crate::store::opening::OpenError;
use crate::store::segment::SegmentError;
use crate::store::store_lock::LockError;

/// Why the process ends.
///
/// ```
/// use telstar::Broker;
/// use telstar::fatal::Fatal;
///
/// let why = Broker::builder().set("broker.nmae", "b").start().unwrap_err();
/// assert!(matches!(why, Fatal::Config(_)));
/// assert!(why.to_string().contains("there is no setting broker.nmae"));
/// assert_eq!(why.exit_status(), 3);
/// ```
#[derive(Debug, Error)]
pub enum Fatal {
    /// What was asked for on the command line makes no sense.
    #[error("{problem}; telstar start --help shows what there is")]
    Usage {
        /// What makes none.
        problem: String,
    },
    /// A setting is wrong, or does not exist.
    #[error("{0}")]
    Config(Box<dyn Error + Send + Sync>),
    /// Another process listens there.
    #[error("port {} is in use by another process; stop it, or choose another with {option}", addr.port())]
    PortInUse {
        /// Where it listens.
        addr: SocketAddr,
        /// What chooses another one.
        option: &'static str,
    },
    /// Another process has locked the directory.
    #[error("data directory {} is in use{}; stop it, or choose another with --data-dir", dir.display(), used_by(*pid))]
    DataDirInUse {
        /// The directory.
        dir: PathBuf,
        /// The process, where it has left its number.
        pid: Option<u32>,
    },
    /// The directory cannot be made, opened or written.
    #[error("data directory {} cannot be written: {cause}; mend its permissions, or choose another with --data-dir", dir.display())]
    DataDirUnwritable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// Files do not hold what they have to, and a start would lose messages.
    #[error("the store is damaged: {cause}; restore it from a copy, or start with another --data-dir")]
    StoreDamaged {
        /// Which file, and what is wrong with it.
        cause: String,
    },
    /// Listening fails for another reason than one who listens already.
    #[error("cannot listen on {addr}: {source}; choose another address with {option}")]
    CannotListen {
        /// Where.
        addr: SocketAddr,
        /// What chooses another one.
        option: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A later version wrote the store, or a Java broker in a form that is not supported.
    #[error("the store was written in a form that this version cannot read: {cause}")]
    StoreForeign {
        /// What cannot be read.
        cause: String,
    },
    /// The store has files of other sizes than the settings say.
    #[error("the store was written with another setting: {cause}; set {key} to what it was")]
    StoreOtherwise {
        /// Which file, and which sizes.
        cause: String,
        /// The setting.
        key: &'static str,
    },
    /// Certificate or key cannot be used.
    #[error("TLS cannot be set up: {cause}; mend tls.certificate and tls.key, or set tls.mode to off")]
    Tls {
        /// What is wrong with them.
        cause: String,
    },
    /// What is on disk is not known any more; going on could lose what was promised.
    #[error("the disk failed: {cause}; the store is checked at the next start")]
    DiskFailed {
        /// Which file, and what the system says.
        cause: String,
    },
    /// An actor or a thread that the others need is gone.
    #[error("{part} ended unexpectedly; the store is checked at the next start")]
    PartEnded {
        /// Its name.
        part: String,
    },
    /// A mistake of ours. The other actors must not go on without this one.
    #[error("{who} panicked; the store is checked at the next start")]
    Panicked {
        /// The actor or thread.
        who: String,
    },
    /// An extension that is to run does not start.
    #[error(
        "extension {name} cannot start: {cause}; mend [extensions.{name}], or leave it out of extensions.start"
    )]
    ExtensionRefused {
        /// Which one.
        name: &'static str,
        /// What it says itself.
        cause: String,
    },
    /// The system has no more threads, files or the like.
    #[error("the system refused {what}: {source}; raise its limits")]
    System {
        /// Of what.
        what: &'static str,
        /// What it says.
        source: io::Error,
    },
}

fn used_by(pid: Option<u32>) -> String {
    pid.map_or_else(|| " by another process".to_owned(), |pid| format!(" by process {pid}"))
}

impl Fatal {
    /// 0 is success, and 1 a command that failed. 101 and those above 128 are panics and signals.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Config(_) => 3,
            Self::PortInUse { .. } => 4,
            Self::DataDirInUse { .. } => 5,
            Self::DataDirUnwritable { .. } => 6,
            Self::StoreDamaged { .. } => 7,
            Self::CannotListen { .. } => 8,
            Self::StoreForeign { .. } => 9,
            Self::StoreOtherwise { .. } => 10,
            Self::Tls { .. } => 11,
            Self::DiskFailed { .. } => 12,
            Self::PartEnded { .. } => 13,
            Self::System { .. } => 14,
            Self::Panicked { .. } => 15,
            Self::ExtensionRefused { .. } => 16,
        }
    }

    /// Why the roles did not start. `name_server` is where the name server was to listen, so that the sentence
    /// names the right flag.
    pub(crate) fn of_start(error: NodeError, name_server: Option<SocketAddr>) -> Self {
        match error {
            NodeError::Listen { addr, source } => {
                let option = if Some(addr) == name_server { "--name-server-listen" } else { "--listen" };
                match source.kind() {
                    io::ErrorKind::AddrInUse => Self::PortInUse { addr, option },
                    _ => Self::CannotListen { addr, option, source },
                }
            }
            NodeError::DataDir { dir, source } => Self::DataDirUnwritable { dir, cause: source.to_string() },
            NodeError::Lock(LockError::InUse { root, pid }) => Self::DataDirInUse { dir: root, pid },
            NodeError::Lock(LockError::Io { root, source }) => {
                Self::DataDirUnwritable { dir: root, cause: source.to_string() }
            }
            NodeError::Metadata(error) => error.into(),
            NodeError::Store(error) => error.into(),
        }
    }
}

impl From<ConfigError> for Fatal {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl From<StartError> for Fatal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Files { root, source } => {
                Self::DataDirUnwritable { dir: root, cause: source.to_string() }
            }
            StartError::Extension { name, error } => {
                Self::ExtensionRefused { name, cause: error.to_string() }
            }
            StartError::Http { addr, source } => {
                let option = "--set http.listen";
                match source.kind() {
                    io::ErrorKind::AddrInUse => Self::PortInUse { addr, option },
                    _ => Self::CannotListen { addr, option, source },
                }
            }
            StartError::Open(OpenError::Files { root, source }) => {
                Self::DataDirUnwritable { dir: root, cause: source.to_string() }
            }
            StartError::Open(OpenError::Log(error)) => error.into(),
            StartError::Open(OpenError::KeyIndex(error)) => error.into(),
            StartError::Open(OpenError::Derived(error)) => error.into(),
            StartError::Metadata(error) => error.into(),
            StartError::Open(error @ (OpenError::ConsumeQueue(_) | OpenError::Timers { .. })) => {
                Self::DiskFailed { cause: sentence(&error) }
            }
            StartError::JavaStore(error) => error.into(),
            StartError::ActorEnded(part) => Self::PartEnded { part: part.to_owned() },
        }
    }
}

impl From<SegmentError> for Fatal {
    fn from(error: SegmentError) -> Self {
        let cause = sentence(&error);
        match error {
            SegmentError::Io { .. } => Self::DiskFailed { cause },
            SegmentError::Length { .. } => {
                Self::StoreOtherwise { cause, key: "store.commit_log_segment_bytes" }
            }
            SegmentError::Gap { .. } => Self::StoreDamaged { cause },
        }
    }
}

impl From<MetadataError> for Fatal {
    fn from(error: MetadataError) -> Self {
        let cause = sentence(&error);
        match error {
            MetadataError::UnknownVersion { .. } => Self::StoreForeign { cause },
            MetadataError::Open { .. } | MetadataError::Flush { .. } | MetadataError::Database { .. } => {
                Self::DiskFailed { cause }
            }
            MetadataError::UndecodableValue { .. }
            | MetadataError::UnencodableValue { .. }
            | MetadataError::EmptyValue { .. }
            | MetadataError::MalformedKey { .. } => Self::StoreDamaged { cause },
        }
    }
}

impl From<KeyIndexError> for Fatal {
    fn from(error: KeyIndexError) -> Self {
        let cause = sentence(&error);
        match error {
            KeyIndexError::Io { .. } => Self::DiskFailed { cause },
            KeyIndexError::UnexpectedLength { .. } => {
                Self::StoreOtherwise { cause, key: "store.index_slots and store.index_entries" }
            }
        }
    }
}

impl From<DerivedError> for Fatal {
    fn from(error: DerivedError) -> Self {
        let cause = sentence(&error);
        match error {
            DerivedError::Io { .. } | DerivedError::Queue(_) => Self::DiskFailed { cause },
            DerivedError::Metadata(source) => source.into(),
            DerivedError::QueueUnits { .. } => {
                Self::StoreOtherwise { cause, key: "store.consume_queue_segment_units" }
            }
            DerivedError::IndexSizes { .. } | DerivedError::IndexLength { .. } => {
                Self::StoreOtherwise { cause, key: "store.index_slots and store.index_entries" }
            }
        }
    }
}

impl From<JavaImportError> for Fatal {
    fn from(error: JavaImportError) -> Self {
        let cause = sentence(&error);
        match error {
            JavaImportError::Io { .. } => Self::DiskFailed { cause },
            JavaImportError::Malformed { .. } => Self::StoreDamaged { cause },
            JavaImportError::Metadata { source } => source.into(),
            _ => Self::StoreForeign { cause },
        }
    }
}

/// An error with all it came from.
fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_use(addr: &str) -> NodeError {
        NodeError::Listen { addr: addr.parse().unwrap(), source: io::ErrorKind::AddrInUse.into() }
    }

    #[test]
    fn a_port_in_use_is_named_with_the_flag_that_mends_it() {
        let name_server = Some("0.0.0.0:9876".parse().unwrap());
        let fatal = Fatal::of_start(in_use("0.0.0.0:10911"), name_server);
        assert_eq!(
            fatal.to_string(),
            "port 10911 is in use by another process; stop it, or choose another with --listen"
        );
        assert_eq!(fatal.exit_status(), 4);
        let fatal = Fatal::of_start(in_use("0.0.0.0:9876"), name_server);
        assert!(fatal.to_string().ends_with("choose another with --name-server-listen"));
    }

    #[test]
    fn a_data_directory_in_use_tells_by_whom() {
        let lock = LockError::InUse { root: "/data".into(), pid: Some(42) };
        let fatal = Fatal::of_start(NodeError::Lock(lock), None);
        assert_eq!(
            fatal.to_string(),
            "data directory /data is in use by process 42; stop it, or choose another with --data-dir"
        );
        assert_eq!(fatal.exit_status(), 5);
    }

    #[test]
    fn a_changed_segment_size_is_no_damage() {
        let error = SegmentError::Length { path: "/s/0".into(), expected_bytes: 2, found_bytes: 1 };
        let fatal = Fatal::from(error);
        assert_eq!(fatal.exit_status(), 10);
        assert!(fatal.to_string().ends_with("set store.commit_log_segment_bytes to what it was"));
    }

    #[test]
    fn causes_are_told_to_the_end() {
        let source = io::Error::other("no such thing");
        let fatal = Fatal::from(SegmentError::Io { path: "/s/0".into(), source });
        assert!(fatal.to_string().contains("cannot use segment /s/0: no such thing;"), "{fatal}");
    }
}
