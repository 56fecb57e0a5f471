//! The supervisor in a container on a machine with cgroup v2 alone: who is killed for memory and what is left to tell of it, what the
//! readings say, and a clock that jumps.
//!
//! In a guest, because a machine has one cgroup layout and one clock; see `env::guest`.

mod clock;
mod memory;
mod pod;
mod readings;
