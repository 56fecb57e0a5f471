//! What follows an attempt's end: pure, one table for every outcome.
//!
//! Two budgets: five bad nodes must not burn the customer's retries. A job that says how much memory it may grow to pays for that with
//! neither: the growth ends by itself. And one rule above all: what may have written something is not
//! run again by itself, unless the load says that repeating it does no harm; a person is asked, with the question spelled out.

use super::jitter::{chance, jittered};
use crate::{
    ledger::{Budget, NextStep, RetryCase},
    record::{
        outcome::{Commit, CommitState, Outcome},
        quantity::Bytes,
    },
};
use std::time::Duration;

/// After an end for want of memory the next attempt gets so many times as much, up to the job's `memory_max`.
const GROWTH: u64 = 2;
/// No retry waits longer than this, but for its jitter.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);

/// The policy.
pub fn next_step(case: &RetryCase<'_>) -> NextStep {
    match case.outcome {
        Outcome::Succeeded => return NextStep::Succeed,
        _ if case.cancel_requested => return NextStep::Cancel,
        Outcome::Cancelled => return NextStep::Cancel,
        Outcome::CreateFailed => return NextStep::Reject,
        // Waiting was the retry.
        Outcome::NotStarted { .. } | Outcome::ImageUnavailable | Outcome::Unschedulable => return NextStep::Fail,
        _ => {}
    }
    let repeatable = !case.may_have_run || case.job.is_idempotent() || nothing_was_written(case);
    let Some((budget, used)) = budget(case) else {
        // Nobody knows what a lost transfer did; that no retry is left does not turn it into a failure.
        let unknown = matches!(case.outcome, Outcome::Lost) && !repeatable;
        return if unknown { NextStep::Hold { question: question(case) } } else { NextStep::Fail };
    };
    if !repeatable {
        return NextStep::Hold { question: question(case) };
    }
    let doubled = case.job.retry.backoff.0.saturating_mul(2_u32.saturating_pow(used.min(16)));
    // The same for whoever asks again: the policy is pure.
    let random = chance((&case.job.id, case.own_retries, case.infrastructure_retries));
    NextStep::Retry { after: jittered(doubled.min(LONGEST_BACKOFF), random), budget, memory: grown(case) }
}

/// What the next attempt gets, if the last one had too little and the job allows more.
fn grown(case: &RetryCase<'_>) -> Option<Bytes> {
    let (had, most) = (case.job.resources.memory?, case.job.resources.memory_max?);
    let more = matches!(case.outcome, Outcome::OutOfMemory) && had < most;
    more.then(|| Bytes(had.0.saturating_mul(GROWTH)).min(most))
}

/// The budget that pays for another attempt, and how much of it is used; `None` if it is used up, or the job wants no retry.
fn budget(case: &RetryCase<'_>) -> Option<(Budget, u32)> {
    let retry = &case.job.retry;
    if case.outcome.is_infrastructure() {
        let left = case.infrastructure_retries < retry.infrastructure_limit;
        return left.then_some((Budget::Infrastructure, case.infrastructure_retries));
    }
    if grown(case).is_some() {
        return Some((Budget::Memory, 0));
    }
    if let Outcome::Failed { exit_code } = case.outcome
        && !retry.on_exit_codes.is_empty()
        && !retry.on_exit_codes.contains(exit_code)
    {
        return None;
    }
    (case.own_retries < retry.limit).then_some((Budget::Own, case.own_retries))
}

/// By the transfer's own lines: its rows were still in temporary tables when it ended.
fn nothing_was_written(case: &RetryCase<'_>) -> bool {
    let not_begun = case.commit.is_some_and(|commit| commit.state == CommitState::NotBegun);
    not_begun && case.job.writes_at_its_commit()
}

fn question(case: &RetryCase<'_>) -> String {
    let written = match case.commit {
        Some(Commit { state: CommitState::Done, line }) => {
            format!("The transfer said that it had committed (\"{line}\")")
        }
        Some(Commit { state: CommitState::Begun, line }) => {
            format!("The transfer may have begun its commit (\"{line}\")")
        }
        _ => "The transfer may have written part of its rows".to_owned(),
    };
    format!(
        "{written} before it ended ({}), and nothing says that loading again does no harm. \
         Look at the target: if it is clean or the load may be repeated, `sendo retry {id}`; if not, `sendo cancel {id}`. \
         Jobs that may always be repeated say `\"retry\": {{\"idempotent\": true}}`.",
        case.outcome.code(),
        id = case.job.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::job::Job;

    fn job(more: &str) -> Job {
        serde_json::from_str(&format!("{{\"version\": 1, \"id\": \"a\" {more}}}")).unwrap()
    }

    fn ask(job: &Job, outcome: Outcome, may_have_run: bool, used: u32, cancel_requested: bool) -> NextStep {
        next_step(&RetryCase {
            job,
            outcome: &outcome,
            may_have_run,
            commit: None,
            own_retries: used,
            infrastructure_retries: used,
            cancel_requested,
        })
    }

    const KILLED: Outcome = Outcome::Killed { signal: 9 };
    const FAILED: Outcome = Outcome::Failed { exit_code: 1 };

    #[test]
    fn a_success_is_a_success_even_if_somebody_cancelled() {
        assert_eq!(ask(&job(""), Outcome::Succeeded, true, 0, true), NextStep::Succeed);
        assert_eq!(ask(&job(""), KILLED, true, 0, true), NextStep::Cancel);
    }

    #[test]
    fn what_may_have_written_is_held_unless_it_may_be_repeated() {
        assert!(
            matches!(ask(&job(""), KILLED, true, 0, false), NextStep::Hold { question } if question.contains("sendo retry a"))
        );
        let replace = job(", \"embulk\": {\"config\": {\"out\": {\"mode\": \"replace\"}}}");
        assert!(matches!(
            ask(&replace, KILLED, true, 0, false),
            NextStep::Retry { budget: Budget::Infrastructure, .. }
        ));
        assert!(matches!(ask(&job(""), Outcome::NeverGranted, false, 0, false), NextStep::Retry { .. }));
    }

    #[test]
    fn what_had_not_begun_its_commit_wrote_nothing_where_rows_are_staged() {
        let ended = |out: &str, reading: &str, state| {
            let config = format!(
                ", \"embulk\": {{\"config\": {{\"in\": {{\"type\": \"file\"{reading}}}, \"out\": {{\"type\": \"postgresql\", {out}}}}}}}"
            );
            let (job, commit) = (job(&config), Commit { state, line: "a line".into() });
            let case = RetryCase {
                job: &job,
                outcome: &KILLED,
                may_have_run: true,
                commit: Some(&commit),
                own_retries: 0,
                infrastructure_retries: 0,
                cancel_requested: false,
            };
            next_step(&case)
        };
        const INSERT: &str = "\"mode\": \"insert\"";
        assert!(matches!(ended(INSERT, "", CommitState::NotBegun), NextStep::Retry { .. }));
        for (out, reading) in [
            ("\"mode\": \"insert_direct\"", ""),
            (INSERT, ", \"after_select\": \"DELETE FROM q\""),
            (INSERT, "}, \"filters\": [{\"type\": \"copy\"}], \"exec\": {"),
            (INSERT, "}, \"exec\": {\"type\": \"mapreduce\""),
            ("\"mode\": \"insert\", \"type\": \"multi\"", ""),
            (INSERT, ", \"type\": \"command\""),
        ] {
            let held = ended(out, reading, CommitState::NotBegun);
            assert!(matches!(held, NextStep::Hold { .. }), "{out} {reading}: {held:?}");
        }
        for state in [CommitState::Begun, CommitState::Done] {
            let held = ended(INSERT, "", state);
            assert!(matches!(&held, NextStep::Hold { question } if question.contains("\"a line\"")), "{held:?}");
        }
    }

    #[test]
    fn a_lost_attempt_is_a_question_and_never_a_failure() {
        assert!(matches!(ask(&job(""), Outcome::Lost, true, 99, false), NextStep::Hold { .. }));
    }

    #[test]
    fn the_budgets_are_separate_and_end() {
        assert_eq!(ask(&job(""), FAILED, true, 0, false), NextStep::Fail);
        let twice = job(", \"retry\": {\"limit\": 2, \"idempotent\": true, \"backoff\": \"10s\"}");
        let after = |used| match ask(&twice, FAILED, true, used, false) {
            NextStep::Retry { after, budget: Budget::Own, .. } => Some(after.as_secs()),
            _ => None,
        };
        assert!(matches!(after(0), Some(10..=12)) && matches!(after(1), Some(20..=25)), "with its jitter");
        assert_eq!(after(2), None);
        assert_eq!(after(0), after(0), "the same for whoever asks again");
        assert_eq!(ask(&twice, KILLED, true, 5, false), NextStep::Fail);
    }

    #[test]
    fn only_the_named_exit_codes_are_tried_again() {
        let job = job(", \"retry\": {\"limit\": 2, \"idempotent\": true, \"on_exit_codes\": [7]}");
        assert_eq!(ask(&job, FAILED, true, 0, false), NextStep::Fail);
        assert!(matches!(ask(&job, Outcome::Failed { exit_code: 7 }, true, 0, false), NextStep::Retry { .. }));
    }

    #[test]
    fn memory_grows_to_the_jobs_own_cap_and_no_further() {
        let sized = |memory: &str| {
            let resources = format!(", \"resources\": {{\"memory\": \"{memory}\", \"memory_max\": \"3Gi\"}}");
            ask(
                &job(&format!("{resources}, \"retry\": {{\"idempotent\": true}}")),
                Outcome::OutOfMemory,
                true,
                0,
                false,
            )
        };
        let grown = |memory: &str| match sized(memory) {
            NextStep::Retry { memory, budget: Budget::Memory, .. } => memory.map(|memory| memory.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!([grown("1Gi"), grown("2Gi")], [Some("2Gi".into()), Some("3Gi".into())]);
        // From there on it is a failure like any other: the job's own budget, which is empty.
        assert_eq!(sized("3Gi"), NextStep::Fail);
        assert_eq!(
            ask(&job(", \"resources\": {\"memory\": \"1Gi\"}"), Outcome::OutOfMemory, false, 0, false),
            NextStep::Fail
        );
        let asked = job(", \"resources\": {\"memory\": \"1Gi\", \"memory_max\": \"2Gi\"}");
        assert!(
            matches!(ask(&asked, Outcome::OutOfMemory, true, 0, false), NextStep::Hold { .. }),
            "never what may have written"
        );
        assert!(matches!(ask(&asked, KILLED, false, 0, false), NextStep::Retry { memory: None, .. }));
    }
}
