//! Lets readings grow old, by the one control program that owns the task: `ledger::retention`.

use super::settings::Retention;
use crate::ledger::{self, Ledger};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between two looks, where nothing is left to do.
const PAUSE: Duration = Duration::from_secs(60);

/// Attempts of one slice.
const SLICE: u32 = 100;

/// Works until `shutdown`, whenever we are the owner.
pub async fn run(ledger: Ledger, holder: String, settings: Retention, shutdown: CancellationToken) {
    let (owner, mut fence) = watch::channel(None);
    let keeping = ledger.keep_lease("retention", &holder, owner, shutdown.clone());
    let working = async {
        loop {
            // An error means that the keeper is gone: we stop.
            if fence.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let done = slice(&ledger, &settings).await.unwrap_or_else(|error| {
                tracing::warn!("readings stay for now: {error}");
                0
            });
            let pause = if done == 0 { PAUSE } else { Duration::ZERO };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    };
    tokio::join!(keeping, working);
}

async fn slice(ledger: &Ledger, settings: &Retention) -> Result<usize, ledger::Error> {
    let rolled_up = ledger.roll_up_readings(settings.heartbeats.0, SLICE).await?;
    let dropped = ledger.drop_rolled_up(settings.rolled_up.0.saturating_sub(settings.heartbeats.0), SLICE).await?;
    Ok(rolled_up + dropped)
}
