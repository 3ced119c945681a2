fn main() -> std::process::ExitCode {
    telstar::cli::run()
}
