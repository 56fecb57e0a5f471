//! The ledger's name, resolved by the C library on our terms.
//!
//! `getaddrinfo` knows what a kubelet and a cluster's DNS rely on (search domains, `ndots`, /etc/hosts, answers over TCP) and reads
//! its files again when they change. It blocks, so a lookup has a thread, which is gone with the answer: at rest there is none.

#![allow(unsafe_code)] // one call into the C library, argued there

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};
use tokio::sync::watch;

/// Less than a request's limit (`post`), so that a name server that is silent is named as the reason.
const PATIENCE: Duration = Duration::from_secs(8);

/// Resolves one name, the ledger's: there is no proxy, and no redirect is followed.
#[derive(Clone)]
pub struct Names {
    /// The one lookup under way. A request that gives up leaves it here, and the next one takes its answer: a resolver that comes
    /// to its second name server after several seconds gets there, and threads do not pile up.
    lookup: Arc<Mutex<Option<Lookup>>>,
}

type Lookup = watch::Receiver<Option<Found>>;
type Found = Result<Vec<SocketAddr>, String>;

impl Names {
    pub fn new() -> Self {
        keep_to_files_and_dns();
        Self { lookup: Arc::default() }
    }

    async fn find(&self, name: &str) -> Found {
        let mut lookup = self.join(name)?;
        let found = match tokio::time::timeout(PATIENCE, lookup.wait_for(Option::is_some)).await {
            Err(_) => return Err(format!("no answer from a name server for {PATIENCE:?}")),
            Ok(found) => found.ok().and_then(|found| found.clone()),
        };
        *self.lookup.lock().unwrap_or_else(PoisonError::into_inner) = None;
        found.unwrap_or_else(|| Err("the lookup broke off".into()))
    }

    fn join(&self, name: &str) -> Result<Lookup, String> {
        let mut lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = &*lookup {
            return Ok(lookup.clone());
        }
        let (answer, question) = watch::channel(None);
        let name = name.to_owned();
        let ask = move || {
            let found = (name.as_str(), 0).to_socket_addrs(); // the port is the request's
            answer.send_replace(Some(found.map(Iterator::collect).map_err(|error| error.to_string())));
        };
        // A container may have no thread left to give: that is a try that failed, not the end of PID 1.
        thread::Builder::new()
            .name("resolver".into())
            .spawn(ask)
            .map_err(|error| format!("start a thread: {error}"))?;
        Ok(lookup.insert(question).clone())
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.find(name.as_str()).await;
            let found = found.map_err(|why| format!("`{}` does not resolve: {why}", name.as_str()))?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whatever an image's /etc/nsswitch.conf says. glibc has `files` and `dns` built in; any other service is a shared object of the
/// image's, made for the image's C library, and even a static program would load it.
fn keep_to_files_and_dns() {
    #[cfg(target_env = "gnu")]
    {
        use std::ffi::{c_char, c_int};
        unsafe extern "C" {
            /// nss.h
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        // SAFETY: two strings that end in a zero and are only read. No other thread looks up a name yet; glibc locks besides.
        if unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) } != 0 {
            tracing::warn!(error = %std::io::Error::last_os_error(), "names are resolved as /etc/nsswitch.conf says");
        }
    }
}
