//! `telstar store`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::error::CliError;
use super::output;
use crate::store::file::DiskFiles;
use crate::store::java_config::config_dir;
use crate::store::java_export;
use crate::store::metadata::Metadata;
use crate::store::store_lock::StoreLock;

/// Work on a data directory that no broker uses
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    ExportConfig(ExportConfigArgs),
}

/// Write topics, groups and offsets as the files of a Java broker, so that one can open the data directory
#[derive(Debug, Args)]
#[command(after_help = "\
The files go to config/ in the data directory. Files that are there already become backups, NAME.bak.

Examples:
  telstar store export-config ~/.local/share/telstar")]
pub struct ExportConfigArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(command: StoreCommand) -> Result<(), CliError> {
    match command {
        StoreCommand::ExportConfig(args) => {
            export_config(&args.dir)?;
            output::print(&format!("written to {}", config_dir(&args.dir).display()))
        }
    }
}

fn export_config(dir: &Path) -> Result<(), CliError> {
    let metadata_dir = dir.join("metadata");
    if !metadata_dir.is_dir() {
        return Err(CliError::NoStore { dir: dir.to_owned() });
    }
    let _lock = StoreLock::acquire(dir)?;
    let metadata = Metadata::open(&metadata_dir).map_err(java_export::JavaExportError::from)?;
    Ok(java_export::export(&DiskFiles, dir, &metadata)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::topic_config::TopicConfig;

    #[test]
    fn config_is_exported_unless_the_directory_is_in_use_or_holds_no_store() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("store");
        let error = export_config(&dir).unwrap_err();
        assert!(error.to_string().starts_with("no store of telstar in "), "{error}");
        assert!(!dir.exists());

        let metadata = Metadata::open(&dir.join("metadata")).unwrap();
        metadata.topics().unwrap().put(&TopicConfig::new("orders", 4)).unwrap();
        metadata.flush().unwrap();
        drop(metadata);
        let lock = StoreLock::acquire(&dir).unwrap();
        let error = export_config(&dir).unwrap_err();
        assert!(error.to_string().ends_with("is in use: stop its broker first"), "{error}");
        drop(lock);

        export_config(&dir).unwrap();
        let topics = std::fs::read_to_string(dir.join("config/topics.json")).unwrap();
        assert!(topics.contains(r#""orders""#), "{topics}");
    }
}
