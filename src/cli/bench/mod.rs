//! `telstar bench`.
use super::error::CliError;
use clap::Subcommand;
/// x
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// x
    Sink,
}
pub fn run(_command: BenchCommand) -> Result<(), CliError> {
    Ok(())
}
