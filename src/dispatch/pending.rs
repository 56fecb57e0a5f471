//! A place that waits for too long: what is said of it. Pure; the cluster knows the causes and their limits.

use super::proof::{ending, verdict};
use crate::{
    cluster::{Wait, WaitCause},
    ledger::AttemptEnd,
    record::{
        Millis,
        outcome::{Confidence, Evidence, Outcome},
        span::Span,
    },
};
use std::time::Duration;

/// The end of an attempt whose place has waited longer than its cause may take; `None` while it may wait.
pub fn overdue(wait: &Wait, now: Millis) -> Option<AttemptEnd> {
    (wait.waited > wait.limit || wait.limit.is_zero()).then(|| end(wait, now))
}

fn end(wait: &Wait, now: Millis) -> AttemptEnd {
    let (outcome, what, next) = match &wait.cause {
        WaitCause::Unschedulable => (
            Outcome::Unschedulable,
            "No node was found for it",
            "Ask for less, or give the cluster nodes that suit; then `sendo retry` it.",
        ),
        WaitCause::Image => (
            Outcome::ImageUnavailable,
            "Its image could not be had",
            "Mend the image's name or the registry's access; then `sendo retry` it.",
        ),
        WaitCause::Container(reason) => {
            (Outcome::ContainerNotStarted { reason: reason.clone() }, "Its container could not be made", "")
        }
        WaitCause::Creating => (
            Outcome::ContainerNotStarted { reason: "ContainerCreating".into() },
            "Its place was not set up in time",
            "",
        ),
    };
    let words = if wait.words.is_empty() { "nobody says why".to_owned() } else { wait.words.clone() };
    let waited = Span(Duration::from_secs(wait.waited.as_secs()));
    let mut verdict =
        verdict(&outcome, format!("{what}: {words}"), vec![words, format!("it waited {waited}")], Confidence::Certain);
    verdict.next_action = next.into();
    AttemptEnd { ending: ending(outcome, verdict), evidence: Evidence::Inference, at: now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_time_and_its_words() {
        let wait = |cause, waited, limit| {
            let (waited, limit) = (Duration::from_secs(waited), Duration::from_secs(limit));
            overdue(&Wait { cause, words: "0/3 nodes are available".into(), node: None, waited, limit }, Millis(1))
        };
        assert!(wait(WaitCause::Unschedulable, 60, 60).is_none());
        let end = wait(WaitCause::Unschedulable, 61, 60).unwrap().ending;
        assert_eq!(end.outcome, Outcome::Unschedulable);
        assert!(end.verdict.summary.contains("0/3 nodes"), "{}", end.verdict.summary);
        assert_eq!(wait(WaitCause::Image, 0, 0).unwrap().ending.outcome, Outcome::ImageUnavailable);
        assert!(wait(WaitCause::Creating, 5, 60).is_none());
    }
}
