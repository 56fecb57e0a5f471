//! How much we may have open: each supervisor keeps a connection, and a soft limit is often 1,024.

use crate::cluster::local;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. What we start has the old one: some programs walk through all that they could have open.
pub fn raise() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            local::hand_down_descriptors(soft, hard);
            let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
            tracing::info!(descriptors = if raised { hard } else { soft }, "each connected supervisor takes one");
        }
        Err(why) => tracing::warn!(%why, "the limit of open descriptors cannot be read"),
    }
}
