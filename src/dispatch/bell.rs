//! What calls for a pass: that something happened, and to which attempts. Level-triggered: a bell that nobody hears costs a timer's tick.

use crate::record::wire::AttemptId;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;

/// Marks beyond this are left to the timer, which looks at everything: memory is bounded.
const MARKS: usize = 100_000;

/// Rung by intake, by the supervisors' records, by people and by the cluster.
#[derive(Debug, Default)]
pub struct Bell {
    notify: Arc<Notify>,
    marks: Mutex<HashSet<AttemptId>>,
}

impl Bell {
    /// For those who only know that something happened. One ring while nobody waits is kept.
    pub fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// Something happened to this attempt: it is looked at in the next pass.
    pub fn mark(&self, id: AttemptId) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() < MARKS {
            marks.insert(id);
        }
        drop(marks);
        self.notify.notify_one();
    }

    /// Waits for a ring.
    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    /// Takes what is marked away: nobody here looks at it.
    pub fn clear(&self) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes at most `most` marks; what is left rings again.
    pub fn take(&self, most: usize) -> Vec<AttemptId> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() <= most {
            return marks.drain().collect();
        }
        let taken: Vec<_> = marks.iter().take(most).cloned().collect();
        taken.iter().for_each(|id| {
            marks.remove(id);
        });
        self.notify.notify_one();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(attempt: u32) -> AttemptId {
        AttemptId { job: "a".into(), attempt }
    }

    #[tokio::test]
    async fn a_ring_while_nobody_listens_is_heard_afterwards() {
        let bell = Bell::default();
        bell.mark(id(1));
        bell.rung().await;
        assert_eq!(bell.take(10), [id(1)]);
        assert!(bell.take(10).is_empty());
    }

    #[tokio::test]
    async fn marks_that_are_left_ring_again() {
        let bell = Bell::default();
        (0..3).for_each(|attempt| bell.mark(id(attempt)));
        bell.rung().await;
        assert_eq!(bell.take(2).len(), 2);
        bell.rung().await;
        assert_eq!(bell.take(2).len(), 1);
    }
}
