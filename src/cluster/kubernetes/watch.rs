//! Keeps the store true: a list in pages, then a watch from there, again and again. Bookmarks prove that a quiet watch is alive.

use super::{
    name,
    seen::{Seen, Trimmed},
    status,
    store::Store,
};
use crate::dispatch::bell::Bell;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, ObjectList, WatchEvent, WatchParams},
    core::Request,
};
use std::{sync::Arc, time::Duration};

/// Pods a page: some 5 MB at a time, whatever the whole is.
const PAGE: u32 = 500;
/// A watch ends by itself after this; bookmarks come each minute or so, the last of them right before.
const WATCH_SECONDS: u32 = 240;
/// Between two tries.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A page is answered in this time, or the list begins again.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// Watches until its task is ended.
pub async fn run(api: Api<Pod>, cluster: String, store: Arc<Store>, silence: Duration, bell: Arc<Bell>) {
    let watcher = Watcher { api, selector: format!("{}={cluster}", name::CLUSTER), store, silence, bell };
    let mut pause = SHORTEST_PAUSE;
    let mut version = None;
    loop {
        let from = match version.take() {
            Some(version) => Ok(version),
            None => watcher.list().await,
        };
        let ended = match from {
            Ok(from) => watcher.watch(from).await,
            Err(why) => Err(why),
        };
        match ended {
            Ok(last) => {
                version = last;
                pause = SHORTEST_PAUSE;
            }
            Err(why) => {
                tracing::warn!(cluster, why = format!("{why:#}"), "the Pods cannot be watched now; tried again");
                watcher.store.trouble(format!("{why:#}"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

struct Watcher {
    api: Api<Pod>,
    selector: String,
    store: Arc<Store>,
    silence: Duration,
    bell: Arc<Bell>,
}

impl Watcher {
    /// All Pods; gives back the version that a watch goes on from.
    async fn list(&self) -> anyhow::Result<String> {
        let mut pods = Vec::new();
        let mut params = ListParams::default().labels(&self.selector).limit(PAGE);
        loop {
            let request = Request::new(self.api.resource_url()).list(&params)?;
            let client = self.api.clone().into_client();
            let page: ObjectList<Trimmed> = tokio::time::timeout(LIST_LIMIT, client.request(request)).await??;
            pods.extend(page.items.into_iter().filter_map(|pod| Seen::of(pod.0)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    self.store.replace(pods).into_iter().for_each(|id| self.bell.mark(id));
                    // An empty list is news too.
                    self.bell.notify().notify_one();
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Watches from a version on; gives back where the next watch goes on, or nothing if all is to be listed again.
    async fn watch(&self, mut version: String) -> anyhow::Result<Option<String>> {
        let params = WatchParams::default().labels(&self.selector).timeout(WATCH_SECONDS);
        let request = Request::new(self.api.resource_url()).watch(&params, &version)?;
        let client = self.api.clone().into_client();
        let stream = tokio::time::timeout(LIST_LIMIT, client.request_events::<Trimmed>(request)).await??;
        self.store.hear();
        let mut events = stream.boxed();
        loop {
            // A connection that died without a word would keep us waiting for ever.
            let Some(event) = tokio::time::timeout(self.silence, events.try_next()).await?? else {
                return Ok(Some(version));
            };
            match event {
                WatchEvent::Added(Trimmed(pod)) | WatchEvent::Modified(Trimmed(pod)) => {
                    version = pod.metadata.resource_version.clone().unwrap_or(version);
                    self.store.hear();
                    if let Some(seen) = Seen::of(pod) {
                        let called = status::calls_for_a_look(&seen).then(|| seen.id.clone());
                        if self.store.put(seen) {
                            called.into_iter().for_each(|id| self.bell.mark(id));
                        }
                    }
                }
                WatchEvent::Deleted(Trimmed(pod)) => {
                    version = pod.metadata.resource_version.clone().unwrap_or(version);
                    if let Some(seen) = Seen::of(pod) {
                        let id = seen.id.clone();
                        self.store.remove(seen);
                        self.bell.mark(id);
                    }
                }
                WatchEvent::Bookmark(mark) => {
                    version = mark.metadata.resource_version;
                    self.store.hear();
                }
                // The version is too old: the API server has forgotten what happened since.
                WatchEvent::Error(status) if status.code == 410 => return Ok(None),
                WatchEvent::Error(status) => anyhow::bail!("{}", status.message),
            }
        }
    }
}
