//! The supervisor and a ledger that is down, slow, wrong or somebody else: a granted transfer is never harmed by it, nothing runs
//! without leave, and what must be known arrives once the ledger is well, or is left in the termination log.

mod address;
mod cursor;
mod endings;
mod fencing;
mod grants;
mod names;
mod poison;
mod records;
mod senders;
mod stalls;
mod told;
pub mod worker;
