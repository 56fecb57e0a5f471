//! PID 1 of a worker Pod; see `sendo::supervisor`.

fn main() -> std::process::ExitCode {
    sendo::supervisor::main().into()
}
