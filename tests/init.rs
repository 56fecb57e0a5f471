//! The supervisor without a job: a plain, correct init, as PID 1 and as an ordinary process.
//!
//! Each guarantee has its control: the same children under `programs/careless`, which does nothing that an init must do, or bare.

mod inheritance;
mod kernel;
mod kills;
mod leftovers;
mod output;
mod running;
mod signals;
mod start;
mod stops;
mod storm;
mod surroundings;
mod terminal;
mod usage;
