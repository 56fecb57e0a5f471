//! From what is left of an ended attempt to how it ended: pure, best evidence first.

use crate::{
    cluster::{End, EndCause, SupervisorExit},
    ledger::AttemptEnd,
    record::{
        Millis,
        outcome::{Confidence, Ending, Evidence, Outcome, Verdict},
        termination::{Hint, Signed, Story},
        wire::AttemptId,
    },
};

/// The supervisor's exit code where nothing was run, or no longer counts.
const NO_LEAVE: i32 = 75;

/// Why this end is none of the process that has the attempt's leave, as far as anybody knows; `None` if it is that one's.
pub fn doubt(end: &End, granted: bool, story: Option<&Story>) -> Option<&'static str> {
    if !granted || !end.last_start || story.is_some_and(|story| story.ending.is_some()) {
        return None;
    }
    match end.exit {
        Some(SupervisorExit::Code(NO_LEAVE)) => Some(
            "its container was started twice: the one that was turned away has ended, of the other nothing is known",
        ),
        // Nobody saw an end, and nobody had brought one about: what has lost the record may have lost sight of a process that runs on.
        None if end.cause.is_none() => Some(
            "the kubelet has lost its container and saw no end of it; delete the Pod, and the kubelet sees to that",
        ),
        _ => None,
    }
}

/// Whether the very process that has the attempt's leave says that it ran nothing: it was asked to go while its grant was on the way.
pub fn has_not_begun(end: &End, nonce: &str) -> bool {
    let hint = Hint::read(&end.message);
    end.exit == Some(SupervisorExit::Code(NO_LEAVE)) && hint.is_some_and(|hint| hint.nonce == nonce)
}

/// Whether the attempt's supervisor has left its last words. Without the attempt's grant they cannot be verified, and only make us more careful.
pub fn tells_of_leave(end: &End, id: &AttemptId) -> bool {
    Signed::believe(&end.message, |_, _| true).is_some_and(|story| story.id == *id)
}

/// What is left of an attempt whose end is proved.
pub struct Remains {
    pub granted: bool,
    /// No process of it ever asked for leave, or left a word.
    pub unheard: bool,
    /// Its supervisor had said that the transfer runs.
    pub executing: bool,
    /// Somebody wants it cancelled.
    pub cancelled: bool,
    /// What the cluster has seen.
    pub end: End,
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
    let End { exit, cause, evidence: seen, .. } = remains.end;
    let (outcome, evidence, why) = match (remains.granted, exit) {
        (false, exit) => (Outcome::NeverGranted, Evidence::Inference, exit.map(words)),
        (true, Some(SupervisorExit::Code(0))) if remains.unheard => (
            Outcome::Lost,
            Evidence::Inference,
            Some(
                "it ended with 0 and had never asked for leave; is `sendo-supervisor` its image's entry point?".into(),
            ),
        ),
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
    let outcome = by_cause(outcome, cause, remains.cancelled);
    let confidence = match outcome {
        Outcome::Lost => Confidence::Unknown,
        Outcome::NeverGranted | Outcome::ContainerNotStarted { .. } => Confidence::Certain,
        _ => Confidence::Likely,
    };
    let first = if seen.is_empty() { vec!["nothing of the attempt runs any more".to_owned()] } else { seen };
    let evidence_seen = first.into_iter().chain(why).chain(last).collect();
    let (exit_code, signal) = match exit {
        Some(SupervisorExit::Code(code)) => (Some(code), None),
        Some(SupervisorExit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    let verdict = verdict(&outcome, summary(&outcome).into(), evidence_seen, confidence);
    AttemptEnd { ending: Ending { exit_code, signal, ..ending(outcome, verdict) }, evidence, at: remains.now }
}

/// What the cluster did explains what is left, unless the transfer succeeded all the same.
fn by_cause(outcome: Outcome, cause: Option<EndCause>, cancelled: bool) -> Outcome {
    let died = matches!(outcome, Outcome::Killed { .. } | Outcome::NeverGranted | Outcome::Lost);
    let failed = matches!(outcome, Outcome::Failed { .. });
    match cause {
        // The kubelet knows whose limit it was; a child that was killed alone leaves the supervisor its own exit code.
        Some(EndCause::OutOfMemory) if died || failed => Outcome::OutOfMemory,
        Some(EndCause::NotStarted(reason)) if died || failed => Outcome::ContainerNotStarted { reason },
        Some(EndCause::Deleted) if died && cancelled => Outcome::Cancelled,
        Some(EndCause::Deleted) if died => Outcome::Deleted,
        Some(EndCause::Evicted) if died => Outcome::Evicted,
        Some(EndCause::Preempted) if died => Outcome::Preempted,
        Some(EndCause::NodeLost) if died => Outcome::NodeLost,
        Some(EndCause::TooOld) if died => Outcome::TimedOut,
        _ => outcome,
    }
}

/// The end of an attempt without a grant whose place is gone: none of it ever ran, and the ledger sees to it that none will.
pub fn vanished(cancelled: bool, now: Millis) -> AttemptEnd {
    let outcome = if cancelled { Outcome::Cancelled } else { Outcome::Deleted };
    let seen =
        vec!["its place is gone from the cluster".into(), "it never had leave to start, and gets none any more".into()];
    let summary =
        if cancelled { summary(&outcome).into() } else { "The attempt's place was taken away before it began.".into() };
    let verdict = verdict(&outcome, summary, seen, Confidence::Certain);
    AttemptEnd { ending: ending(outcome, verdict), evidence: Evidence::Inference, at: now }
}

/// The end of an attempt that somebody wants cancelled before it has leave to start, while nobody can see its place.
pub fn called_off(why: &str, now: Millis) -> AttemptEnd {
    let outcome = Outcome::Cancelled;
    let seen = vec![
        format!("the cluster cannot tell of its place: {why}"),
        "it never had leave to start, and gets none any more".into(),
    ];
    let verdict = verdict(&outcome, summary(&outcome).into(), seen, Confidence::Certain);
    AttemptEnd { ending: ending(outcome, verdict), evidence: Evidence::Inference, at: now }
}

pub(super) fn verdict(outcome: &Outcome, summary: String, evidence: Vec<String>, confidence: Confidence) -> Verdict {
    Verdict { code: outcome.code().into(), summary, evidence, confidence, next_action: outcome.advice().into() }
}

pub(super) fn ending(outcome: Outcome, verdict: Verdict) -> Ending {
    Ending { outcome, verdict, exit_code: None, signal: None, last_lines: vec![], cursor: None, commit: None }
}

/// The end of a strict attempt that the cluster cannot tell of, and whose lease is over: `ledger::lease` argues why that is proof.
pub fn by_lease(until: Millis, why: &str) -> AttemptEnd {
    let outcome = Outcome::Lost;
    let moment =
        jiff::Timestamp::from_millisecond(until.0).map_or_else(|_| until.0.to_string(), |at| format!("{at:.3}"));
    let seen = vec![
        format!("the cluster cannot tell: {why}"),
        format!(
            "its lease (`fencing: strict`) was over at {moment} by the ledger's clock; its supervisor kills everything before that"
        ),
    ];
    let summary = "The attempt is over, because its lease is; nothing says how it ended.";
    let verdict = verdict(&outcome, summary.into(), seen, Confidence::Unknown);
    AttemptEnd { ending: ending(outcome, verdict), evidence: Evidence::Inference, at: until }
}

/// The end of an attempt that nobody can see, by the word of a person who has looked.
pub fn by_person(reason: &str, now: Millis) -> AttemptEnd {
    let outcome = Outcome::Lost;
    let seen = vec![format!("a person has confirmed that nothing of it runs any more: {reason}")];
    let summary = "A person has confirmed that the attempt is over; nothing says how it ended.";
    let verdict = verdict(&outcome, summary.into(), seen, Confidence::Unknown);
    AttemptEnd { ending: ending(outcome, verdict), evidence: Evidence::Inference, at: now }
}

/// The end of an attempt that the cluster will not have.
pub fn refused(why: &str, now: Millis) -> AttemptEnd {
    let outcome = Outcome::CreateFailed;
    let summary = format!("The cluster will not have this job: {why}");
    let verdict = verdict(&outcome, summary, vec![why.to_owned()], Confidence::Certain);
    AttemptEnd { ending: ending(outcome, verdict), evidence: Evidence::Inference, at: now }
}

fn summary(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::NeverGranted => "The supervisor ended before it was given leave to start; nothing was run.",
        Outcome::Succeeded => "The transfer succeeded, by its exit code alone; its supervisor's report never came.",
        Outcome::Killed { .. } => "The supervisor or its transfer was killed from outside before it could report.",
        Outcome::Failed { .. } => "The transfer failed, by its exit code alone; its supervisor's report never came.",
        Outcome::OutOfMemory => {
            "The attempt needed more memory than it had; the kernel killed it together with its supervisor."
        }
        Outcome::Evicted => "The attempt was evicted from its node, and could not report in time.",
        Outcome::Preempted => {
            "The attempt's place went to a Pod of a higher priority, and it could not report in time."
        }
        Outcome::NodeLost => "The attempt's node is gone, and the attempt with it.",
        Outcome::Deleted => "Somebody deleted the attempt's place, and it could not report in time.",
        Outcome::TimedOut => "The attempt was older than its place may become; the cluster ended it.",
        Outcome::Cancelled => "The job was cancelled.",
        Outcome::ContainerNotStarted { .. } => "The attempt's container could not be run; nothing of it was.",
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
        let seen = End { exit, ..End::default() };
        let remains =
            Remains { granted, unheard: false, executing: granted, cancelled: false, end: seen, story, now: Millis(9) };
        let end = end(remains);
        (end.ending.outcome, end.evidence)
    }

    #[test]
    fn what_the_cluster_did_explains_a_death_and_never_a_success() {
        let ended = |code, cause, granted, cancelled| {
            let seen = End { exit: Some(SupervisorExit::Code(code)), cause: Some(cause), ..End::default() };
            let now = Millis(9);
            end(Remains { granted, unheard: false, executing: granted, cancelled, end: seen, story: None, now })
                .ending
                .outcome
        };
        for (cause, outcome) in [
            (EndCause::OutOfMemory, Outcome::OutOfMemory),
            (EndCause::Evicted, Outcome::Evicted),
            (EndCause::Preempted, Outcome::Preempted),
            (EndCause::NodeLost, Outcome::NodeLost),
            (EndCause::Deleted, Outcome::Deleted),
            (EndCause::TooOld, Outcome::TimedOut),
        ] {
            assert_eq!(ended(137, cause.clone(), true, false), outcome);
            assert_eq!(ended(137, cause.clone(), false, false), outcome);
            assert_eq!(ended(0, cause, true, false), Outcome::Succeeded);
        }
        assert_eq!(ended(137, EndCause::Deleted, true, true), Outcome::Cancelled);
        // It had failed by itself before the eviction could end it.
        assert_eq!(ended(1, EndCause::Evicted, true, false), Outcome::Failed { exit_code: 1 });
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
    fn a_second_start_that_was_turned_away_proves_nothing_of_the_first() {
        let end = |last_start, code| End { exit: Some(SupervisorExit::Code(code)), last_start, ..End::default() };
        let twice = |story: Option<&Story>| doubt(&end(true, 75), true, story).is_some_and(|why| why.contains("twice"));
        assert!(twice(None) && twice(Some(&story(None))));
        // Nobody has it; it is the only one there was; it ended by itself.
        for (end, granted) in [(end(true, 75), false), (end(false, 75), true), (end(true, 1), true)] {
            assert_eq!(doubt(&end, granted, None), None);
        }
    }

    #[test]
    fn a_container_that_nobody_saw_end_and_nobody_ended_may_run_on() {
        let lost = |cause| End { last_start: true, cause, ..End::default() };
        assert!(doubt(&lost(None), true, None).is_some());
        assert_eq!(doubt(&lost(None), false, None), None, "it never had leave");
        assert_eq!(doubt(&lost(Some(EndCause::Deleted)), true, None), None, "the kubelet has ended it");
        assert_eq!(doubt(&End { cause: Some(EndCause::NodeLost), ..End::default() }, true, None), None);
    }

    #[test]
    fn nothing_known_is_lost_and_never_a_success() {
        assert_eq!(outcome(true, None, None), (Outcome::Lost, Evidence::Inference));
        assert_eq!(outcome(true, Some(SupervisorExit::Code(75)), None).0, Outcome::Lost);
        let started = |story| Remains {
            granted: true,
            unheard: false,
            executing: false,
            cancelled: false,
            end: End { exit: Some(SupervisorExit::Code(75)), ..End::default() },
            story,
            now: Millis(9),
        };
        assert_eq!(end(started(None)).ending.outcome, Outcome::NeverGranted);
        assert_eq!(end(started(Some(story(None)))).ending.outcome, Outcome::Lost);
        assert_eq!(outcome(false, Some(SupervisorExit::Code(75)), None).0, Outcome::NeverGranted);
        assert_eq!(outcome(false, None, None).0, Outcome::NeverGranted);
    }
}
