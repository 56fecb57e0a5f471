//! Tenants and definitions whose jobs a person lets wait, or everybody's.

use super::{Error, Ledger};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

/// What is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseKind {
    /// Every job there is and will be; it has no name.
    All,
    /// One; by the empty name jobs without any.
    Tenant,
    /// `NAME` of every tenant, or `TENANT/NAME`.
    Definition,
}

/// A pause: running attempts go on, no further one is launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub kind: PauseKind,
    pub name: String,
    pub reason: String,
    pub paused_at_ms: i64,
}

impl PauseKind {
    /// The word in the table, on the wire and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Tenant => "tenant",
            Self::Definition => "definition",
        }
    }
}

impl Ledger {
    /// Pauses; again only the reason changes.
    pub async fn pause(&self, kind: PauseKind, name: &str, reason: &str) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let again = self.sql("UPDATE pauses SET reason = ? WHERE kind = ? AND name = ?").bind(reason.to_owned());
        let again = again.bind(kind.as_str().to_owned()).bind(name.to_owned()).execute(&mut *tx).await?;
        // A server may count only rows that the update has changed.
        let statement = "INSERT INTO pauses (kind, name, reason, paused_at_ms) SELECT ?, ?, ?, ? \
                         WHERE NOT EXISTS (SELECT 1 FROM pauses WHERE kind = ? AND name = ?)";
        if again.rows_affected() == 0 {
            let query = self.sql(statement).bind(kind.as_str().to_owned()).bind(name.to_owned());
            let query = query.bind(reason.to_owned()).bind(super::now().0);
            query.bind(kind.as_str().to_owned()).bind(name.to_owned()).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        tracing::info!(kind = kind.as_str(), name, reason, "paused");
        Ok(())
    }

    /// Ends a pause; false if there was none.
    pub async fn resume(&self, kind: PauseKind, name: &str) -> Result<bool, Error> {
        let query = self.sql("DELETE FROM pauses WHERE kind = ? AND name = ?");
        let query = query.bind(kind.as_str().to_owned()).bind(name.to_owned());
        let ended = query.execute(&self.pool).await?.rows_affected() > 0;
        tracing::info!(kind = kind.as_str(), name, ended, "resumed");
        Ok(ended)
    }

    /// All of them; people make them, so there are few.
    pub async fn pauses(&self) -> Result<Vec<Pause>, Error> {
        let query = self.sql("SELECT kind, name, reason, paused_at_ms FROM pauses ORDER BY kind, name");
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let kind = match row.try_get::<String, _>("kind")?.as_str() {
                    "all" => PauseKind::All,
                    "tenant" => PauseKind::Tenant,
                    "definition" => PauseKind::Definition,
                    other => {
                        let why = format!("nothing is called `{other}`");
                        return Err(Error::Unreadable { table: "pauses", why });
                    }
                };
                let (name, reason) = (row.try_get("name")?, row.try_get("reason")?);
                Ok(Pause { kind, name, reason, paused_at_ms: row.try_get("paused_at_ms")? })
            })
            .collect()
    }
}
