//! What an attempt's Pod is called. Ids may hold `:` and 128 characters, names and labels may not: they carry a hash of the exact text.

use crate::record::{hexadecimal, wire::AttemptId};
use ring::digest::{SHA256, digest};

/// Our labels and annotations; fixed names, other people's scripts rely on them.
pub const JOB: &str = "sendo.dev/job";
pub const ATTEMPT: &str = "sendo.dev/attempt";
pub const TENANT: &str = "sendo.dev/tenant";
pub const DEFINITION: &str = "sendo.dev/definition";
/// The cluster's name in our settings: two programs with one namespace leave each other's Pods alone.
pub const CLUSTER: &str = "sendo.dev/cluster";
/// The job less what the Pod says itself.
pub const SPEC: &str = "sendo.dev/spec";
/// Keeps the Pod's object until its end is in the ledger.
pub const FINALIZER: &str = "sendo.dev/ledger";
/// The container that runs the supervisor and the transfer.
pub const WORKER: &str = "worker";

/// 160 bits: nobody finds two ids with one name.
const NAME_DIGITS: usize = 40;
const LABEL_DIGITS: usize = 32;
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>
const LABEL_LIMIT: usize = 63;

/// The name of the attempt's Pod: always the same one, so that it cannot be there twice.
pub fn pod(id: &AttemptId) -> String {
    // An id holds no line break.
    format!("sendo-{}", hash(&format!("{}\n{}", id.job, id.attempt), NAME_DIGITS))
}

/// The label of a job's id.
pub fn job_label(job: &str) -> String {
    hash(job, LABEL_DIGITS)
}

/// A text as a label's value: as it is where that is allowed, else its hash.
pub fn label(text: &str) -> String {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    let fits = text.len() <= LABEL_LIMIT && inner && edge(bytes.first()) && edge(bytes.last());
    if fits { text.to_owned() } else { hash(text, LABEL_DIGITS) }
}

fn hash(text: &str, digits: usize) -> String {
    let mut digest = hexadecimal(digest(&SHA256, text.as_bytes()).as_ref());
    digest.truncate(digits);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_has_a_name_of_its_own_that_an_api_server_takes() {
        let of = |job: &str, attempt| pod(&AttemptId { job: job.into(), attempt });
        let long = ":".repeat(128);
        let names = [of("a", 1), of("a", 2), of("A", 1), of("a.1", 1), of(&long, 1), of(&long, 12)];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(
            names.iter().all(|name| name.len() == 46 && name.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric()))
        );
        // For ever: another release must find the Pods of this one.
        assert_eq!(of("a", 1), "sendo-4f395a2e9ea1c0680348d384135458270e9e6f5a");
    }

    #[test]
    fn a_label_is_the_text_itself_where_it_may_be() {
        assert_eq!(label("orders-to-dwh"), "orders-to-dwh");
        assert_eq!(label(""), "");
        for text in ["a:b", "-a", "a-", &"a".repeat(64)] {
            assert_eq!(label(text).len(), LABEL_DIGITS, "{text}");
        }
    }
}
