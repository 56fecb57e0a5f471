//! The control program; see `sendo::console`.

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let cli = sendo::console::Cli::parse();
    sendo::telemetry::start("sendo");
    match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(sendo::console::run(cli)),
        Err(error) => {
            eprintln!("sendo: start: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
