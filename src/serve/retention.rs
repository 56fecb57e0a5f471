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
            let more = slice(&ledger, &settings).await;
            let pause = if more { Duration::ZERO } else { PAUSE };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    };
    tokio::join!(keeping, working);
}

/// One of each kind; whether there is more to do. One that fails does not hold up the other.
async fn slice(ledger: &Ledger, settings: &Retention) -> bool {
    let rolled_up = ledger.roll_up_readings(settings.heartbeats.0, SLICE).await;
    let dropped = ledger.drop_rolled_up(settings.rolled_up.0.saturating_sub(settings.heartbeats.0), SLICE).await;
    let is_full = |done: Result<usize, ledger::Error>| match done {
        Ok(done) => done == SLICE as usize,
        Err(error) => {
            tracing::warn!("readings stay for now: {error}");
            false
        }
    };
    let (more_to_roll_up, more_to_drop) = (is_full(rolled_up), is_full(dropped));
    more_to_roll_up || more_to_drop
}
