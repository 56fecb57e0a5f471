//! From a `[[cluster]]` to the cluster itself.

use super::settings::{Place, Settings};
use crate::{
    cluster::{
        Cluster,
        key::Key,
        kubernetes::{Kubernetes, Told},
        local,
    },
    dispatch::bell::Bell,
};
use anyhow::Context as _;
use std::{net::SocketAddr, path::Path, sync::Arc};

/// Opens it; `dir` is our own folder, `workers` where supervisors find us on this machine.
pub async fn open(
    settings: &Settings,
    place: &Place,
    dir: &Path,
    workers: SocketAddr,
    key: &Arc<Key>,
    bell: &Arc<Bell>,
) -> anyhow::Result<Arc<dyn Cluster>> {
    Ok(match place {
        Place::Local(place) => Arc::new(local::Local::new(
            local::Settings {
                name: place.name.clone(),
                dir: dir.to_owned(),
                supervisor: std::path::absolute(&place.supervisor).context("find the supervisor")?,
                tools: place.tools.as_ref().map(std::path::absolute).transpose().context("find Embulk")?,
                ledger_url: format!("http://{workers}/"),
                heartbeat: settings.heartbeat.0,
                linger: settings.linger.0,
            },
            Arc::clone(key),
            bell.notify(),
        )?),
        Place::Kubernetes(place) => {
            let told = Told { heartbeat: settings.heartbeat.0, linger: settings.linger.0 };
            Arc::new(Kubernetes::connect((**place).clone(), told, Arc::clone(bell)).await?)
        }
    })
}
