//! Whether a poller of the queue cannot bring its hand in: then the others receive nothing more, for each receipt of a message is one of
//! the few that the queue counts before it gives the message up.

use tokio::sync::watch;

/// How many of one queue's pollers cannot.
#[derive(Clone, Default)]
pub struct Stuck(watch::Sender<usize>);

/// One that cannot, until it is dropped.
pub struct One<'a>(&'a Stuck);

impl Stuck {
    pub fn one(&self) -> One<'_> {
        self.0.send_modify(|count| *count += 1);
        One(self)
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        // It fails only without a sender, and that is here.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
