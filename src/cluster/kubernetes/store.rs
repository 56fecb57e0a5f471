//! The cluster's Pods as the watch has told them. Unknown is never zero: before the first list, and after too long a silence, it says so.

use super::seen::{Container, Seen};
use crate::record::wire::AttemptId;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a Pod that vanished without our leave is remembered: its last status may be the only proof of its end.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The store.
#[derive(Default)]
pub struct Store {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    pods: HashMap<AttemptId, Seen>,
    /// Deleted from the API, with what was seen last.
    vanished: HashMap<AttemptId, (Seen, Instant)>,
    /// When the API server last told anything; `None` before the first list is complete.
    heard: Option<Instant>,
    /// Why it tells nothing, where that is known.
    trouble: String,
}

/// What the store knows of an attempt's Pod.
#[derive(Debug, PartialEq)]
pub enum Found {
    Pod(Box<Seen>),
    /// It is gone from the API, and looked like this before.
    Vanished(Box<Seen>),
    Nothing,
    /// The store cannot tell.
    Unknown(String),
}

impl Store {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the attempt's Pod, if anything was heard within `limit`.
    pub fn find(&self, id: &AttemptId, limit: Duration) -> Found {
        let inner = self.inner();
        let Some(heard) = inner.heard else {
            return Found::Unknown(format!("the cluster's Pods have not been listed yet{}", inner.trouble()));
        };
        if heard.elapsed() > limit {
            let silent = heard.elapsed().as_secs();
            return Found::Unknown(format!("the API server has told nothing for {silent} s{}", inner.trouble()));
        }
        match (inner.pods.get(id), inner.vanished.get(id)) {
            (Some(seen), _) => Found::Pod(Box::new(seen.clone())),
            (None, Some((seen, _))) => Found::Vanished(Box::new(seen.clone())),
            (None, None) => Found::Nothing,
        }
    }

    /// The Pod as it was seen last, however long ago.
    pub fn last(&self, id: &AttemptId) -> Option<Seen> {
        self.inner().pods.get(id).cloned()
    }

    /// A whole list. Pods that it lacks have vanished.
    pub fn replace(&self, pods: Vec<Seen>) -> Vec<AttemptId> {
        let mut inner = self.inner();
        let fresh: HashMap<_, _> = pods.into_iter().map(|seen| (seen.id.clone(), seen)).collect();
        let old = std::mem::take(&mut inner.pods);
        let mut changed: Vec<_> =
            fresh.iter().filter(|(id, seen)| old.get(*id) != Some(*seen)).map(|(id, _)| id.clone()).collect();
        for (id, seen) in old {
            if !fresh.contains_key(&id) {
                changed.push(id.clone());
                inner.vanish(seen);
            }
        }
        inner.pods = fresh;
        inner.hear();
        changed
    }

    /// One Pod as it is now; true if that is news.
    pub fn put(&self, seen: Seen) -> bool {
        let mut inner = self.inner();
        inner.hear();
        inner.vanished.remove(&seen.id);
        if inner.pods.get(&seen.id) == Some(&seen) {
            return false;
        }
        inner.pods.insert(seen.id.clone(), seen);
        true
    }

    /// One Pod is gone from the API.
    pub fn remove(&self, seen: Seen) {
        let mut inner = self.inner();
        inner.hear();
        // Another Pod may have the name by now.
        if inner.pods.get(&seen.id).is_some_and(|known| known.uid == seen.uid) {
            inner.pods.remove(&seen.id);
        }
        inner.vanish(seen);
    }

    /// The API server said something.
    pub fn hear(&self) {
        self.inner().hear();
    }

    /// It does not.
    pub fn trouble(&self, why: String) {
        self.inner().trouble = why;
    }

    /// Whose Pods there are, if anything was heard within `limit`.
    pub fn all(&self, limit: Duration) -> Option<Vec<AttemptId>> {
        let inner = self.inner();
        let heard = inner.heard.filter(|heard| heard.elapsed() <= limit);
        heard.map(|_| inner.pods.keys().cloned().collect())
    }

    /// Pods that match.
    pub fn select(&self, matches: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.inner().pods.values().filter(|seen| matches(seen)).cloned().collect()
    }

    /// The attempt's end is in the ledger: what vanished need not be remembered.
    pub fn forget(&self, id: &AttemptId) {
        self.inner().vanished.remove(id);
    }
}

impl Inner {
    fn hear(&mut self) {
        self.heard = Some(Instant::now());
        self.trouble.clear();
    }

    fn trouble(&self) -> String {
        if self.trouble.is_empty() { String::new() } else { format!(": {}", self.trouble) }
    }

    fn vanish(&mut self, seen: Seen) {
        self.vanished.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        // Without our finalizer it went with our leave.
        if seen.held || !matches!(seen.worker, Container::Terminated(_)) {
            self.vanished.insert(seen.id.clone(), (seen, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::kubernetes::name;

    const LIMIT: Duration = Duration::from_secs(60);

    fn seen(job: &str, uid: &str) -> Seen {
        let id = AttemptId { job: job.into(), attempt: 1 };
        let meta = serde_json::json!({"name": name::pod(&id), "uid": uid, "finalizers": [name::FINALIZER],
            "annotations": {name::JOB: job, name::ATTEMPT: "1"}});
        Seen::of(serde_json::from_value(serde_json::json!({"metadata": meta})).unwrap()).unwrap()
    }

    #[test]
    fn unknown_is_never_none() {
        let store = Store::default();
        let id = seen("a", "u").id;
        assert!(matches!(store.find(&id, LIMIT), Found::Unknown(_)), "before the first list");
        store.put(seen("b", "v"));
        store.replace(vec![]);
        assert_eq!(store.find(&id, LIMIT), Found::Nothing);
        store.trouble("connection refused".into());
        assert_eq!(store.find(&id, LIMIT), Found::Nothing, "a moment ago it was so");
        let Found::Unknown(why) = store.find(&id, Duration::ZERO) else { panic!("after too long a silence") };
        assert!(why.contains("connection refused"), "{why}");
    }

    #[test]
    fn a_pod_that_is_taken_away_is_remembered_until_the_ledger_has_its_end() {
        let store = Store::default();
        let id = seen("a", "u").id;
        assert_eq!(store.replace(vec![seen("a", "u")]), std::slice::from_ref(&id));
        assert!(store.replace(vec![seen("a", "u")]).is_empty(), "no news");
        assert_eq!(store.replace(vec![]), std::slice::from_ref(&id));
        assert!(matches!(store.find(&id, LIMIT), Found::Vanished(_)));
        // Its namesake is another one, and its own end is not that one's.
        store.put(seen("a", "other"));
        store.remove(seen("a", "u"));
        assert!(matches!(store.find(&id, LIMIT), Found::Pod(seen) if seen.uid == "other"));
        store.remove(seen("a", "other"));
        store.forget(&id);
        assert_eq!(store.find(&id, LIMIT), Found::Nothing);
    }
}
