//! The program `telstar`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: telstar::Allocator = telstar::Allocator;

fn main() -> ExitCode {
    telstar::cli::run()
}
