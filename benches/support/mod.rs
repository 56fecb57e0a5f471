//! What the benches of the control program share.

use sendo::ledger::{Fence, Ledger};
use std::time::Duration;

/// Leave to launch, as the one control program has it.
pub async fn owner(ledger: &Ledger) -> Fence {
    let fence = ledger.acquire_lease("dispatch", "a bench", Duration::ZERO).await.expect("asked");
    fence.expect("nobody else launches here")
}
