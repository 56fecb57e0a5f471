//! The supervisor as PID 1 of a real container: hardened as a cluster would, with the limits of a real control group and with a
//! transfer of the same user beside it.
//!
//! Each guarantee has its control in the same container or in one that differs in nothing else.

mod attempt;
mod embulk;
mod hardened;
mod memory;
mod privacy;
mod scratch;
mod signals;
mod user;
