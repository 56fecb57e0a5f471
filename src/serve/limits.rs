//! `[limits]` of the settings: what tenants, definitions and single jobs may have.

use crate::{
    dispatch::{
        admit::{self, TenantLimits},
        caps::Caps,
    },
    record::quantity::{Bytes, MilliCpu},
};
use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is absent is not limited.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Attempts alive at the same time on one cluster.
    pub per_cluster: Option<usize>,
    pub per_tenant: Option<usize>,
    pub per_definition: Option<usize>,
    /// Attempts on one cluster that were launched and have not started: Pods that wait for a node.
    pub max_pending: Option<usize>,
    /// What one job may ask for.
    pub max_cpu: Option<MilliCpu>,
    pub max_memory: Option<Bytes>,
    pub max_disk: Option<Bytes>,
    /// Whole image references that jobs may name; `*` at the end stands for the rest.
    pub images: Vec<String>,
    /// `[limits.tenant.NAME]`
    pub tenant: BTreeMap<String, Tenant>,
    /// `[limits.definition."TENANT/NAME"]` or `[limits.definition.NAME]`
    pub definition: BTreeMap<String, Definition>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    pub max_running: Option<usize>,
    /// Its share beside others with enough to do.
    pub weight: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub max_running: usize,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { max_running: None, weight: 1 }
    }
}

impl Limits {
    pub fn admission(&self, max_running: usize) -> admit::Limits {
        let tenant = |own: &Tenant| TenantLimits { max_running: own.max_running, weight: own.weight };
        admit::Limits {
            max_running,
            per_cluster: self.per_cluster,
            per_tenant: self.per_tenant,
            per_definition: self.per_definition,
            max_pending: self.max_pending,
            tenants: self.tenant.iter().map(|(name, own)| (name.clone(), tenant(own))).collect(),
            definitions: self.definition.iter().map(|(name, own)| (name.clone(), own.max_running)).collect(),
        }
    }

    pub fn caps(&self) -> Caps {
        Caps { cpu: self.max_cpu, memory: self.max_memory, disk: self.max_disk, images: self.images.clone() }
    }

    pub fn check(&self) -> anyhow::Result<()> {
        let limits = [
            ("per_cluster", self.per_cluster),
            ("per_tenant", self.per_tenant),
            ("per_definition", self.per_definition),
            ("max_pending", self.max_pending),
        ];
        for (name, bytes) in [("max_memory", self.max_memory), ("max_disk", self.max_disk)] {
            if let Some(why) = bytes.and_then(Bytes::too_few) {
                bail!("limits.{name}: {why}");
            }
        }
        if let Some((name, _)) = limits.iter().find(|(_, limit)| *limit == Some(0)) {
            bail!("limits.{name}: 0 would run nothing; give at least 1, or leave it out");
        }
        let tenants =
            self.tenant.iter().filter(|(_, own)| own.max_running == Some(0)).map(|(name, _)| ("tenant", name));
        let definitions = self.definition.iter().filter(|(_, own)| own.max_running == 0);
        let mut idle = tenants.chain(definitions.map(|(name, _)| ("definition", name)));
        if let Some((kind, name)) = idle.next() {
            bail!(
                "limits.{kind}.\"{name}\".max_running: 0 would run nothing; give at least 1, or `sendo pause {kind} {name}` for a while"
            );
        }
        if let Some((name, _)) = self.tenant.iter().find(|(_, own)| own.weight == 0) {
            bail!("limits.tenant.{name}.weight: at least 1; `sendo pause tenant {name}` lets a tenant wait");
        }
        Ok(())
    }
}
