//! `telstar bench`.
use clap::Subcommand;
use super::error::CliError;
/// x
#[derive(Debug, Subcommand)]
pub enum BenchCommand { /// x
 Sink }
pub fn run(_command: BenchCommand) -> Result<(), CliError> { Ok(()) }
