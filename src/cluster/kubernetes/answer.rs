//! What the API server's answer to a create means: pure.
//!
//! Refused is what waiting does not mend: the job ends as `rejected` with the server's words. What is the cluster's trouble, or ours (a role that somebody
//! took away), is never held against a job.

use crate::cluster::{Hindrance, LaunchError};
use kube::core::Status;
use std::time::Duration;

/// What became of a create that did not make a Pod.
#[derive(Debug)]
pub enum Answer {
    /// There is a Pod of this name.
    Exists,
    /// Nothing was made.
    No(LaunchError),
    /// It may have been made all the same: to be read back.
    Unclear(LaunchError),
}

/// Where the server names no time.
const PAUSE: Duration = Duration::from_secs(1);

/// kube's reason for an answer that is not the API server's: of a proxy or a firewall on the way.
const NOT_ITS_OWN: &str = "Failed to parse error data";

/// The meaning of an error.
pub fn meaning(error: &kube::Error) -> Answer {
    match error {
        kube::Error::Api(status) => of_status(status),
        other => Answer::Unclear(LaunchError::away(format!("the API server does not answer: {other}"))),
    }
}

fn of_status(status: &Status) -> Answer {
    let words = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
    let retry_after = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
    let retry_after = retry_after.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let not_now = |hindrance| LaunchError::NotNow { why: words.clone(), hindrance, retry_after };
    let refused = || Answer::No(LaunchError::Refused(words.clone()));
    match (status.code, status.reason.as_str()) {
        (409, "AlreadyExists") => Answer::Exists,
        // The quota's own bookkeeping was busy.
        (409, _) => Answer::No(not_now(Hindrance::Busy)),
        (403, _) if words.contains("exceeded quota") => match never_fits(&words) {
            Some(what) => Answer::No(LaunchError::Refused(format!("{what} is more than the quota's whole: {words}"))),
            None => Answer::No(not_now(Hindrance::Full)),
        },
        // A quota that is so new that nobody has counted for it.
        (403, _) if words.contains("status unknown for quota") => Answer::No(not_now(Hindrance::Busy)),
        // By the authorizer, or for want of something that is not the job's: all jobs alike.
        (403, _) if is_ours(&words) => Answer::No(not_now(Hindrance::Away)),
        (400 | 403 | 422, NOT_ITS_OWN) => Answer::No(not_now(Hindrance::Busy)),
        (400 | 403 | 413 | 422, _) => refused(),
        (401 | 404, _) => Answer::No(not_now(Hindrance::Away)),
        (429, _) => {
            let retry_after = Some(retry_after.unwrap_or(PAUSE));
            Answer::No(LaunchError::NotNow { why: words, hindrance: Hindrance::Busy, retry_after })
        }
        (500.., _) => Answer::Unclear(not_now(Hindrance::Busy)),
        _ => Answer::Unclear(not_now(Hindrance::Away)),
    }
}

/// A refusal that has nothing to do with this job's Pod.
fn is_ours(words: &str) -> bool {
    const OURS: [&str; 5] = [
        "error looking up service account",
        "because it is being terminated",
        " cannot create resource ",
        // The template's.
        "no PriorityClass with name",
        "pod rejected: RuntimeClass",
    ];
    OURS.iter().any(|part| words.contains(part))
}

/// A resource of which the Pod alone asks for more than the quota has, by the server's words: `exceeded quota: NAME, requested:
/// limits.memory=8Gi, used: limits.memory=0, limited: limits.memory=4Gi`.
fn never_fits(words: &str) -> Option<String> {
    let part = |from: &str, to: Option<&str>| -> Option<Vec<(String, f64)>> {
        let rest = words.split_once(from)?.1;
        let text = to.and_then(|to| rest.split_once(to)).map_or(rest, |(text, _)| text);
        let pairs = text.trim().split(',').filter_map(|pair| pair.trim().split_once('='));
        Some(pairs.filter_map(|(name, value)| Some((name.to_owned(), quantity(value)?))).collect())
    };
    let requested = part("requested:", Some(", used:"))?;
    let limited = part("limited:", None)?;
    // A quota of nothing is a closed door, and doors open.
    let over = |(name, asked): &(String, f64)| {
        limited.iter().any(|(limit, most)| limit == name && *most > 0.0 && asked > most)
    };
    requested.into_iter().find(over).map(|(name, _)| name)
}

/// Kubernetes' notation of quantities (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).
fn quantity(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, reason: &str, message: &str) -> String {
        match of_status(&Status::failure(message, reason).with_code(code)) {
            Answer::Exists => "exists".into(),
            Answer::No(LaunchError::Refused(_)) => "refused".into(),
            Answer::No(LaunchError::NotNow { hindrance, .. }) => format!("{hindrance:?}"),
            Answer::Unclear(_) => "unclear".into(),
        }
    }

    #[test]
    fn only_what_waiting_does_not_mend_is_held_against_the_job() {
        let quota = |asked: &str, most: &str| {
            format!(
                "pods \"x\" is forbidden: exceeded quota: q, requested: cpu=1,limits.memory={asked}, used: cpu=0,limits.memory=0, limited: cpu=2,limits.memory={most}"
            )
        };
        for (code, reason, message, meant) in [
            (409, "AlreadyExists", "pods \"x\" already exists", "exists"),
            (409, "Conflict", "Operation cannot be fulfilled on resourcequotas \"q\"", "Busy"),
            (403, "Forbidden", &quota("1Gi", "1024Mi"), "Full"),
            (403, "Forbidden", &quota("1025Mi", "1Gi"), "refused"),
            (403, "Forbidden", &quota("1Gi", "0"), "Full"),
            (403, "Forbidden", "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"", "refused"),
            (
                403,
                "Forbidden",
                "pods is forbidden: User \"d\" cannot create resource \"pods\" in API group \"\"",
                "Away",
            ),
            (
                403,
                "Forbidden",
                "pods \"x\" is forbidden: error looking up service account j/s: serviceaccount \"s\" not found",
                "Away",
            ),
            (403, "Forbidden", "pods \"x\" is forbidden: status unknown for quota: q, resources: pods", "Busy"),
            (403, "Forbidden", "pods \"x\" is forbidden: no PriorityClass with name batch was found", "Away"),
            (400, "", "admission webhook \"policy.example\" denied the request: no tag", "refused"),
            (403, NOT_ITS_OWN, "<html>403 Forbidden</html>", "Busy"),
            (413, NOT_ITS_OWN, "<html>Request Entity Too Large</html>", "refused"),
            (422, "Invalid", "Pod \"x\" is invalid: spec.containers[0].image: Required value", "refused"),
            (413, "RequestEntityTooLarge", "limit is 3145728", "refused"),
            (401, "Unauthorized", "Unauthorized", "Away"),
            (404, "NotFound", "namespaces \"x\" not found", "Away"),
            (429, "TooManyRequests", "too many", "Busy"),
            (500, "InternalError", "etcdserver: request timed out", "unclear"),
            (504, "Timeout", "request did not complete within requested timeout", "unclear"),
        ] {
            assert_eq!(answer(code, reason, message), meant, "{message}");
        }
    }

    #[test]
    fn the_servers_own_pause_is_kept() {
        let mut status = Status::failure("slow down", "TooManyRequests").with_code(429);
        let pause = |status: &Status| match of_status(status) {
            Answer::No(LaunchError::NotNow { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(&status), Some(PAUSE));
        status.details = Some(serde_json::from_str(r#"{"retryAfterSeconds": 7}"#).unwrap());
        assert_eq!(pause(&status), Some(Duration::from_secs(7)));
    }
}
