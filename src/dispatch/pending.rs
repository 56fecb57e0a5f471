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
    let not_started = |reason: &str| Outcome::ContainerNotStarted { reason: reason.into() };
    let (outcome, what) = match &wait.cause {
        WaitCause::Unschedulable => (Outcome::Unschedulable, "No node was found for it"),
        WaitCause::Image => (Outcome::ImageUnavailable, "Its image could not be had"),
        WaitCause::Container(reason) => (not_started(reason), "Its container could not be made"),
        WaitCause::Creating => (not_started("ContainerCreating"), "Its place was not set up in time"),
    };
    let words = if wait.words.is_empty() { "nobody says why".to_owned() } else { wait.words.clone() };
    let waited = Span(Duration::from_secs(wait.waited.as_secs()));
    let verdict =
        verdict(&outcome, format!("{what}: {words}"), vec![words, format!("it waited {waited}")], Confidence::Certain);
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
