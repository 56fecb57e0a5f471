//! What the ending says of how it came about.

use super::worker::{Worker, ending};
use crate::env::wrong_ledger::{Reply, WrongLedger};
use serde_json::json;

#[test]
fn a_crash_is_said_to_be_the_transfers_own() {
    for (script, signal, summary) in [
        ("kill -SEGV $$", 11, "The transfer crashed: signal 11."),
        ("kill -ABRT $$", 6, "The transfer crashed: signal 6."),
        ("kill -KILL $$", 9, "Something outside the transfer and Sendo killed it with signal 9."),
    ] {
        let ledger = WrongLedger::start(Reply::to);
        let mut worker = Worker::start(&ledger.url, script, &[]);
        assert_eq!(worker.end(), Some(128 + signal), "{}", worker.text("stderr"));
        let ending = ending(&ledger.asked());
        assert_eq!(ending["outcome"], json!({"kind": "killed", "signal": signal}), "{ending:#}");
        assert_eq!(ending["verdict"]["summary"], summary, "{ending:#}");
    }
}
