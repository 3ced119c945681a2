//! `telstar completion`.

use clap::Args;
use clap_complete::Shell;

use super::error::CliError;
use super::output;

/// Print the script that lets a shell complete telstar's commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar completion bash > ~/.local/share/bash-completion/completions/telstar
  telstar completion zsh > ~/.zfunc/_telstar
  telstar completion fish > ~/.config/fish/completions/telstar.fish")]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: CompletionArgs, mut command: clap::Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "telstar", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
