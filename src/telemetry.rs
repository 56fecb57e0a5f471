//! Messages on stderr, for both programs, and the panic hook. Knows no jobs.

/// Shows `info` and above, or the level in `SENDO_LOG` (`error`, `warn`, `info`, `debug`, `trace`).
pub fn start(program: &'static str) {
    let level = std::env::var("SENDO_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO);
    // A second call finds the first one's subscriber and leaves it.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(program, place, "{panic}; this is a bug in Sendo, please report it");
    }));
}
