//! The dispatcher against a real API server, with the shipped roles and nothing else, in a namespace that enforces `restricted`.
//!
//! Where a Pod's end is what matters, kwok brings it about; where what runs matters, the agent's nodes run the real supervisor. `real` has the
//! whole of it: a queue, the real kubelet, the worker image, Embulk between databases.

mod cancel;
mod dispatcher;
mod ends;
mod faults;
mod identity;
mod keys;
mod kills;
mod launches;
mod pending;
mod real;
mod replicas;
mod restored;
mod runs;
mod scene;
mod unheard;
