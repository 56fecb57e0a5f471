//! From what is left of an ended attempt to how it ended: pure, best evidence first.

use crate::{
    cluster::SupervisorExit,
    ledger::AttemptEnd,
    record::{
        Millis,
        outcome::{Confidence, Ending, Evidence, Outcome, Verdict},
        termination::Story,
    },
};

/// The supervisor's exit code where nothing was run, or no longer counts.
const NO_LEAVE: i32 = 75;

/// What is left of an attempt whose end is proved.
pub struct Remains {
    pub granted: bool,
    /// Its supervisor had said that the transfer runs.
    pub executing: bool,
    /// How the supervisor itself ended, where its parent saw it.
    pub exit: Option<SupervisorExit>,
    /// Its termination message, if that is signed with the attempt's own key.
    pub story: Option<Story>,
    pub now: Millis,
}

/// How it ended.
pub fn end(remains: Remains) -> AttemptEnd {
    let last = remains.story.as_ref().map(last_words);
    let at = remains.story.as_ref().map_or(remains.now, |story| story.at);
    if let Some(ending) = remains.story.and_then(|story| story.ending) {
        return AttemptEnd { ending, evidence: Evidence::TerminationMessage, at };
    }
    let (outcome, evidence, why) = match (remains.granted, remains.exit) {
        (false, exit) => (Outcome::NeverGranted, Evidence::Inference, exit.map(words)),
        (true, Some(SupervisorExit::Code(0))) => (Outcome::Succeeded, Evidence::ExitCode, None),
        // It was asked to go while its grant was on the way. A transfer's own 75 is told from ours by the story that each start leaves.
        (true, Some(exit @ SupervisorExit::Code(NO_LEAVE))) if !remains.executing && last.is_none() => {
            (Outcome::NeverGranted, Evidence::ExitCode, Some(words(exit)))
        }
        (true, Some(exit @ SupervisorExit::Code(NO_LEAVE))) => (Outcome::Lost, Evidence::ExitCode, Some(words(exit))),
        (true, Some(exit @ SupervisorExit::Signal(signal))) => {
            (Outcome::Killed { signal }, Evidence::ExitCode, Some(words(exit)))
        }
        (true, Some(exit @ SupervisorExit::Code(code))) if code > 128 && code <= 128 + 64 => {
            (Outcome::Killed { signal: code - 128 }, Evidence::ExitCode, Some(words(exit)))
        }
        (true, Some(exit @ SupervisorExit::Code(exit_code))) => {
            (Outcome::Failed { exit_code }, Evidence::ExitCode, Some(words(exit)))
        }
        (true, None) => (Outcome::Lost, Evidence::Inference, None),
    };
    let confidence = match outcome {
        Outcome::Lost => Confidence::Unknown,
        Outcome::NeverGranted => Confidence::Certain,
        _ => Confidence::Likely,
    };
    let verdict = Verdict {
        code: outcome.code().into(),
        summary: summary(&outcome).into(),
        evidence: ["nothing of the attempt runs any more".to_owned()].into_iter().chain(why).chain(last).collect(),
        confidence,
        next_action: String::new(),
    };
    let (exit_code, signal) = match remains.exit {
        Some(SupervisorExit::Code(code)) => (Some(code), None),
        Some(SupervisorExit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    AttemptEnd {
        ending: Ending { outcome, verdict, exit_code, signal, last_lines: vec![], cursor: None, commit: None },
        evidence,
        at: remains.now,
    }
}

/// The end of a strict attempt that the cluster cannot tell of, and whose lease is over: `ledger::lease` argues why that is proof.
pub fn by_lease(until: Millis, why: &str) -> AttemptEnd {
    let outcome = Outcome::Lost;
    let moment =
        jiff::Timestamp::from_millisecond(until.0).map_or_else(|_| until.0.to_string(), |at| format!("{at:.3}"));
    let verdict = Verdict {
        code: outcome.code().into(),
        summary: "The attempt is over, because its lease is; nothing says how it ended.".into(),
        evidence: vec![
            format!("the cluster cannot tell: {why}"),
            format!(
                "its lease (`fencing: strict`) was over at {moment} by the ledger's clock; its supervisor kills everything before that"
            ),
        ],
        confidence: Confidence::Unknown,
        next_action: String::new(),
    };
    let ending =
        Ending { outcome, verdict, exit_code: None, signal: None, last_lines: vec![], cursor: None, commit: None };
    AttemptEnd { ending, evidence: Evidence::Inference, at: until }
}

/// The end of an attempt that the cluster will not have.
pub fn refused(why: &str, now: Millis) -> AttemptEnd {
    let outcome = Outcome::CreateFailed;
    let verdict = Verdict {
        code: outcome.code().into(),
        summary: format!("The cluster will not have this job: {why}"),
        evidence: vec![why.to_owned()],
        confidence: Confidence::Certain,
        next_action: "Mend what the cluster names, then `sendo retry` it.".into(),
    };
    let ending =
        Ending { outcome, verdict, exit_code: None, signal: None, last_lines: vec![], cursor: None, commit: None };
    AttemptEnd { ending, evidence: Evidence::Inference, at: now }
}

fn summary(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::NeverGranted => "The supervisor ended before it was given leave to start; nothing was run.",
        Outcome::Succeeded => "The transfer succeeded, by its exit code alone; its supervisor's report never came.",
        Outcome::Killed { .. } => "The supervisor or its transfer was killed from outside before it could report.",
        Outcome::Failed { .. } => "The transfer failed, by its exit code alone; its supervisor's report never came.",
        _ => "The attempt is over, and nothing says how it ended.",
    }
}

fn words(exit: SupervisorExit) -> String {
    match exit {
        SupervisorExit::Code(code) => format!("the supervisor exited with code {code}"),
        SupervisorExit::Signal(signal) => format!("the supervisor died by signal {signal}"),
    }
}

/// What an unfinished story tells: the last that was seen of a transfer that took its supervisor with it.
fn last_words(story: &Story) -> String {
    let mut words = format!("last seen {}", story.phase);
    if let Some(usage) = &story.usage {
        if let Some(bytes) = usage.memory_bytes() {
            words.push_str(&format!(", memory {} MiB", bytes >> 20));
        }
        if let (Some(done), Some(total)) = (usage.progress.tasks_done, usage.progress.tasks_total) {
            words.push_str(&format!(", {done} of {total} tasks done"));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{phase::Phase, wire::AttemptId};

    fn story(ending: Option<Ending>) -> Story {
        let id = AttemptId { job: "a".into(), attempt: 1 };
        Story { id, seq: 3, at: Millis(7), phase: Phase::Executing, usage: None, ending }
    }

    fn outcome(granted: bool, exit: Option<SupervisorExit>, story: Option<Story>) -> (Outcome, Evidence) {
        let end = end(Remains { granted, executing: granted, exit, story, now: Millis(9) });
        (end.ending.outcome, end.evidence)
    }

    #[test]
    fn a_signed_ending_outranks_the_exit_code() {
        let refused = refused("x", Millis(1)).ending;
        let ending = Ending { outcome: Outcome::Drained, ..refused };
        let exit = Some(SupervisorExit::Code(137));
        assert_eq!(outcome(true, exit, Some(story(Some(ending)))), (Outcome::Drained, Evidence::TerminationMessage));
        assert_eq!(outcome(true, exit, Some(story(None))), (Outcome::Killed { signal: 9 }, Evidence::ExitCode));
    }

    #[test]
    fn nothing_known_is_lost_and_never_a_success() {
        assert_eq!(outcome(true, None, None), (Outcome::Lost, Evidence::Inference));
        assert_eq!(outcome(true, Some(SupervisorExit::Code(75)), None).0, Outcome::Lost);
        let started = |story| Remains {
            granted: true,
            executing: false,
            exit: Some(SupervisorExit::Code(75)),
            story,
            now: Millis(9),
        };
        assert_eq!(end(started(None)).ending.outcome, Outcome::NeverGranted);
        assert_eq!(end(started(Some(story(None)))).ending.outcome, Outcome::Lost);
        assert_eq!(outcome(false, Some(SupervisorExit::Code(75)), None).0, Outcome::NeverGranted);
        assert_eq!(outcome(false, None, None).0, Outcome::NeverGranted);
    }
}
