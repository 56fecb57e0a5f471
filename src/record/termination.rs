//! The last word that does not need the ledger: what the supervisor leaves in the termination log, and how it is believed.
//!
//! The file is world-writable in a Pod, so a text counts only with a signature under the attempt's key, which the grant gave
//! to the supervisor alone. The signature covers the story's exact bytes.

use super::{outcome::Ending, phase::Phase, usage::Usage, wire::AttemptId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The kubelet keeps this many bytes of a container's message.
/// (<https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>)
pub const MESSAGE_LIMIT: usize = 4096;

/// What the supervisor knew when it last wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Story {
    #[serde(flatten)]
    pub id: AttemptId,
    /// The number of the ending's record, or of the last one written.
    pub seq: u64,
    pub at: super::Millis,
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Absent while the transfer runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// Why a process ran nothing, as it stands in the file: unsigned, for it has no key.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hint {
    pub hint: String,
    /// Its own, by which the ledger knows whether it is the one that has leave.
    pub nonce: String,
}

impl Hint {
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// A story and its signature, as it stands in the file.
#[derive(Serialize, Deserialize)]
pub struct Signed {
    /// HMAC-SHA-256 of the story's bytes under the attempt's key; hexadecimal.
    pub hmac: String,
    pub story: Box<RawValue>,
}

impl Signed {
    /// The story, if `verify` finds the signature good; a text that is no such message, or has another's signature, is nothing.
    /// What stands behind the message does not count: a writer that was killed before it cut the file leaves the end of a longer one.
    pub fn believe(text: &[u8], verify: impl FnOnce(&[u8], &str) -> bool) -> Option<Story> {
        let signed: Self = serde_json::Deserializer::from_slice(text).into_iter().next()?.ok()?;
        verify(signed.story.get().as_bytes(), &signed.hmac).then_some(())?;
        serde_json::from_str(signed.story.get()).ok()
    }
}
