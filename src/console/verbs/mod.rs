//! One file a verb.

pub mod cancel;
pub mod confirm_dead;
pub mod dev;
pub mod dlq;
pub mod heartbeats;
pub mod jobs;
pub mod logs;
pub mod pause;
pub mod retry;
pub mod serve;
pub mod show;
pub mod submit;
