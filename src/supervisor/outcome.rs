//! From the evidence to the outcome and its verdict: pure, one place for every wording.

use super::{
    lease::Lease,
    phase::{Exit, Reason},
};
use crate::record::outcome::{Commit, CommitState, Confidence, CursorMove, Ending, Outcome, Verdict, is_own_crash};

/// With `-XX:+ExitOnOutOfMemoryError` a JVM that is out of heap exits with this code.
const JVM_OUT_OF_MEMORY: i32 = 3;
/// What a shell says of a command that was killed: 128 and SIGKILL's number.
const KILLED_BELOW_A_SHELL: i32 = 137;

/// What was gathered when nothing of the transfer was left.
pub struct Evidence<'a> {
    pub exit: Exit,
    /// Why we ended it, if we did.
    pub reason: Option<Reason>,
    /// Who asked for its end, in words.
    pub asked_by: &'a [String],
    /// Under `fencing: strict`.
    pub lease: Option<&'a Lease>,
    /// How far the kernel's count of kills for memory rose since the start.
    pub oom_kills: Option<u64>,
    /// A child of ours that SIGKILL ended while we had sent none: the kernel's victim, if it had one.
    pub victim: Option<i32>,
    /// What would not end: how many, or 0 where nobody can count them.
    pub left: Option<usize>,
    pub memory_limit_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    /// The transfer's own word on its failure.
    pub error: Option<&'a str>,
    pub last_lines: &'a [String],
    pub temporary_tables: &'a [String],
    /// How far its commit had come, by its own lines.
    pub commit: Option<Commit>,
    /// What we could not do for it: start it, or read its cursor.
    pub trouble: Option<&'a str>,
    pub cursor: Option<CursorMove>,
}

/// What the attempt's record says.
pub fn conclude(evidence: Evidence<'_>) -> Ending {
    let outcome = outcome(&evidence);
    let mut seen = vec![exit_words(evidence.exit)];
    seen.extend(evidence.reason.map(|reason| format!("we ended it: {}", reason.as_str())));
    seen.extend(evidence.lease.filter(|_| evidence.reason == Some(Reason::LeaseLost)).map(Lease::evidence));
    seen.extend_from_slice(evidence.asked_by);
    seen.extend(evidence.left.map(|left| left_words(left, evidence.lease.is_some())));
    seen.extend(
        evidence
            .oom_kills
            .filter(|kills| *kills > 0)
            .map(|kills| format!("the control group's oom_kill rose by {kills}")),
    );
    let victim = evidence.victim.filter(|_| evidence.oom_kills.is_some_and(|kills| kills > 0));
    seen.extend(victim.map(|pid| format!("pid {pid}, which we reaped, was ended by a SIGKILL that is not ours")));
    if outcome == Outcome::OutOfMemory {
        seen.extend(evidence.memory_limit_bytes.map(|bytes| format!("memory limit {bytes} bytes")));
        seen.extend(evidence.memory_peak_bytes.map(|bytes| format!("memory peak {bytes} bytes")));
    }
    if outcome != Outcome::Succeeded {
        // What it said while we ended it is no cause.
        let error = evidence.error.filter(|_| evidence.reason.is_none());
        seen.extend(error.map(|error| format!("the transfer said: {error}")));
        let tables = evidence.temporary_tables;
        seen.extend((!tables.is_empty()).then(|| format!("temporary tables may be left: {}", tables.join(", "))));
    }
    seen.extend(evidence.trouble.map(str::to_owned));
    let succeeded = outcome == Outcome::Succeeded;
    let commit = evidence.commit.clone().filter(|_| !succeeded);
    seen.extend(commit.as_ref().map(commit_words));
    let verdict = Verdict {
        code: outcome.code().into(),
        summary: summary(&outcome, &evidence),
        evidence: seen,
        confidence: confidence(&outcome, &evidence),
        next_action: outcome.advice().into(),
    };
    Ending {
        outcome,
        verdict,
        exit_code: if let Exit::Code(code) = evidence.exit { Some(code) } else { None },
        signal: if let Exit::Signal(signal) = evidence.exit { Some(signal) } else { None },
        last_lines: if succeeded { vec![] } else { evidence.last_lines.to_vec() },
        cursor: evidence.cursor.filter(|_| succeeded),
        commit,
    }
}

/// Exit 0 wins over our plan; after our own TERM or KILL any other end takes our reason (a JVM says 143).
fn outcome(evidence: &Evidence<'_>) -> Outcome {
    match (evidence.exit, evidence.reason) {
        (Exit::NotStarted(errno), _) => Outcome::NotStarted { errno },
        (Exit::Code(0), _) => Outcome::Succeeded,
        (_, Some(Reason::AskedToGo)) => Outcome::Drained,
        (_, Some(Reason::Deadline)) => Outcome::TimedOut,
        (_, Some(Reason::Stalled)) => Outcome::Stalled,
        (_, Some(Reason::LeaseLost)) => Outcome::Fenced,
        (_, Some(Reason::Cancelled | Reason::Superseded)) => Outcome::Cancelled,
        (exit, None) if out_of_memory(exit, evidence).is_some() => Outcome::OutOfMemory,
        (Exit::Code(exit_code), None) => Outcome::Failed { exit_code },
        (Exit::Signal(signal), None) => Outcome::Killed { signal },
    }
}

/// Who ran out of memory.
enum OutOf {
    /// The container: the kernel killed something in it.
    Limit,
    /// The JVM, of what it may have.
    Heap,
}

fn out_of_memory(exit: Exit, evidence: &Evidence<'_>) -> Option<OutOf> {
    let said = |line: &String| says_out_of_memory(line);
    let jvm = evidence.error.is_some_and(says_out_of_memory) || evidence.last_lines.iter().any(said);
    let kernel = evidence.oom_kills.is_some_and(|kills| kills > 0);
    match exit {
        Exit::Code(JVM_OUT_OF_MEMORY | 1) if jvm => Some(OutOf::Heap),
        Exit::Signal(libc::SIGKILL) | Exit::Code(KILLED_BELOW_A_SHELL | JVM_OUT_OF_MEMORY | 1) if kernel => {
            Some(OutOf::Limit)
        }
        _ => None,
    }
}

/// Whether another cause could look the same to us.
fn confidence(outcome: &Outcome, evidence: &Evidence<'_>) -> Confidence {
    let is_certain = match outcome {
        // Who sent it is nowhere told; the transfer may have killed itself.
        Outcome::Killed { signal } => is_own_crash(*signal),
        Outcome::OutOfMemory => match out_of_memory(evidence.exit, evidence) {
            // The kernel killed something; that the transfer ended by that is concluded where it is not what we reaped.
            Some(OutOf::Limit) => matches!(evidence.exit, Exit::Signal(libc::SIGKILL)),
            _ => evidence.error.is_some_and(says_out_of_memory),
        },
        _ => true,
    };
    if is_certain { Confidence::Certain } else { Confidence::Likely }
}

fn says_out_of_memory(line: &str) -> bool {
    line.contains("java.lang.OutOfMemoryError")
}

fn exit_words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("died by signal {signal}"),
        Exit::NotStarted(errno) => format!("could not be started: errno {errno}"),
    }
}

fn left_words(left: usize, strict: bool) -> String {
    let who = match left {
        0 => "some processes".to_owned(),
        1 => "1 process".to_owned(),
        left => format!("{left} processes"),
    };
    let but = if strict { "; this ending is no proof that nothing of it runs" } else { "" };
    format!("{who} of what it left behind could not be ended{but}")
}

fn commit_words(commit: &Commit) -> String {
    let state = match commit.state {
        CommitState::NotBegun => "its commit had not begun",
        CommitState::Begun => "its commit may have begun",
        CommitState::Done => "its commit was done",
    };
    format!("{state}: \"{}\"", commit.line)
}

fn summary(outcome: &Outcome, evidence: &Evidence<'_>) -> String {
    match outcome {
        Outcome::Succeeded => "The transfer succeeded.".into(),
        Outcome::Failed { exit_code } => match evidence.error {
            Some(error) => format!("The transfer failed with exit code {exit_code}: {error}"),
            None => format!(
                "The transfer failed with exit code {exit_code} and gave no reason that we know to read; see its last lines."
            ),
        },
        Outcome::Killed { signal } if is_own_crash(*signal) => format!("The transfer crashed: signal {signal}."),
        Outcome::Killed { signal } => {
            format!("Something outside the transfer and Sendo killed it with signal {signal}.")
        }
        Outcome::OutOfMemory => match out_of_memory(evidence.exit, evidence) {
            Some(OutOf::Limit) if matches!(evidence.exit, Exit::Signal(_)) => {
                "The kernel killed the transfer because its memory limit was reached.".into()
            }
            Some(OutOf::Limit) => {
                "The kernel killed a process of the transfer because its memory limit was reached.".into()
            }
            _ => "The transfer's JVM ran out of heap.".into(),
        },
        Outcome::TimedOut => "The transfer ran until its deadline and was stopped.".into(),
        Outcome::Stalled => {
            "The transfer showed no output, no disk I/O and no CPU for its stall limit and was stopped.".into()
        }
        Outcome::Drained => "The Pod was asked to go, and the transfer was stopped before it could finish.".into(),
        Outcome::Fenced => "Its lease ran out while the ledger could not be reached; we killed it.".into(),
        Outcome::Cancelled => match evidence.reason {
            Some(Reason::Superseded) => "Another attempt counts; this one was stopped.".into(),
            _ => "The transfer was cancelled.".into(),
        },
        Outcome::NotStarted { .. } => match evidence.trouble {
            Some(why) => format!("The transfer could not be started: {why}"),
            None => "The transfer could not be started.".into(),
        },
        // Not seen by a living supervisor.
        Outcome::CreateFailed
        | Outcome::ImageUnavailable
        | Outcome::Unschedulable
        | Outcome::Evicted
        | Outcome::Preempted
        | Outcome::NodeLost
        | Outcome::Deleted
        | Outcome::ContainerNotStarted { .. }
        | Outcome::NeverGranted
        | Outcome::Lost => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(exit: Exit, reason: Option<Reason>, oom_kills: Option<u64>, error: Option<&str>) -> Outcome {
        ending(exit, reason, oom_kills, error).outcome
    }

    fn ending(exit: Exit, reason: Option<Reason>, oom_kills: Option<u64>, error: Option<&str>) -> Ending {
        let evidence = Evidence {
            exit,
            reason,
            asked_by: &[],
            lease: None,
            oom_kills,
            victim: oom_kills.map(|_| 4711),
            left: None,
            memory_limit_bytes: None,
            memory_peak_bytes: None,
            error,
            last_lines: &[],
            temporary_tables: &[],
            commit: None,
            trouble: None,
            cursor: None,
        };
        conclude(evidence)
    }

    #[test]
    fn exit_0_wins_over_our_plan() {
        for reason in [Reason::AskedToGo, Reason::Cancelled, Reason::Deadline, Reason::LeaseLost] {
            assert_eq!(given(Exit::Code(0), Some(reason), None, None), Outcome::Succeeded);
        }
    }

    #[test]
    fn an_end_after_our_term_takes_our_reason() {
        assert_eq!(given(Exit::Code(143), Some(Reason::AskedToGo), None, None), Outcome::Drained);
        assert_eq!(given(Exit::Signal(9), Some(Reason::Cancelled), Some(1), None), Outcome::Cancelled);
        assert_eq!(given(Exit::Signal(9), Some(Reason::Deadline), None, None), Outcome::TimedOut);
        assert_eq!(given(Exit::Signal(9), Some(Reason::LeaseLost), None, None), Outcome::Fenced);
    }

    #[test]
    fn a_crash_is_the_transfers_own_and_a_kill_is_somebody_elses() {
        for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL].into_iter().chain([
            libc::SIGSYS,
            libc::SIGTRAP,
            libc::SIGPIPE,
            libc::SIGXCPU,
        ]) {
            let crashed = ending(Exit::Signal(signal), None, None, None);
            assert_eq!(crashed.outcome, Outcome::Killed { signal });
            assert_eq!(crashed.verdict.summary, format!("The transfer crashed: signal {signal}."));
            assert!(crashed.verdict.next_action.starts_with("Read the last lines"), "{}", crashed.verdict.next_action);
        }
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGHUP] {
            let killed = ending(Exit::Signal(signal), None, None, None).verdict;
            assert!(killed.summary.starts_with("Something outside"), "{}", killed.summary);
            assert_eq!(killed.confidence, Confidence::Likely);
        }
    }

    #[test]
    fn only_what_nothing_else_could_have_brought_about_is_certain() {
        let heap = Some("java.lang.OutOfMemoryError: Java heap space");
        for (exit, oom_kills, error, confidence) in [
            (Exit::Signal(9), Some(1), None, Confidence::Certain),
            (Exit::Code(137), Some(1), None, Confidence::Likely),
            (Exit::Code(3), Some(1), None, Confidence::Likely),
            (Exit::Code(1), Some(1), None, Confidence::Likely),
            (Exit::Code(3), None, heap, Confidence::Certain),
            (Exit::Code(2), None, None, Confidence::Certain),
            (Exit::Signal(11), None, None, Confidence::Certain),
        ] {
            assert_eq!(ending(exit, None, oom_kills, error).verdict.confidence, confidence, "{exit:?}");
        }
    }

    #[test]
    fn the_kernels_victim_is_named_where_the_kernel_killed() {
        let names = |oom_kills| {
            let seen = ending(Exit::Code(1), None, oom_kills, None).verdict.evidence;
            seen.iter().any(|seen| seen.contains("4711"))
        };
        assert!(names(Some(1)) && !names(Some(0)));
    }

    #[test]
    fn a_kill_is_out_of_memory_only_with_evidence() {
        assert_eq!(given(Exit::Signal(9), None, Some(0), None), Outcome::Killed { signal: 9 });
        assert_eq!(given(Exit::Signal(9), None, None, None), Outcome::Killed { signal: 9 });
        assert_eq!(given(Exit::Signal(9), None, Some(1), None), Outcome::OutOfMemory);
        assert_eq!(given(Exit::Code(137), None, Some(1), None), Outcome::OutOfMemory);
        assert_eq!(given(Exit::Code(137), None, Some(0), None), Outcome::Failed { exit_code: 137 });
        let heap = Some("java.lang.OutOfMemoryError: Java heap space");
        assert_eq!(given(Exit::Code(1), None, Some(1), heap), Outcome::OutOfMemory);
        assert_eq!(given(Exit::Code(1), None, None, heap), Outcome::OutOfMemory);
        assert_eq!(given(Exit::Code(3), None, None, None), Outcome::Failed { exit_code: 3 });
        assert_eq!(given(Exit::Code(137), None, Some(1), heap), Outcome::OutOfMemory);
        assert_eq!(given(Exit::Code(137), None, Some(0), heap), Outcome::Failed { exit_code: 137 });
    }
}
