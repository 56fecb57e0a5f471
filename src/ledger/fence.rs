//! Which of several control programs owns a task: leases with fencing numbers, counted by the database's clock.
//!
//! A lease alone cannot keep a program out that slept through its end and still believes itself the owner. Its number can: each new owner's is higher, and
//! a write that only the owner may make calls [`Ledger::check_fence`] in its own transaction, which also keeps the next owner out until
//! that transaction is over. Strict attempts have leases of another kind: `lease`.

use super::{Error, Ledger, Tx, transact::Again};
use sqlx::Row as _;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long an owner that has died keeps others out. A successor looks each third of it, and so takes over within 15 s of a crash.
const SPAN: Duration = Duration::from_secs(9);
const _: () = assert!(SPAN.as_secs() + SPAN.as_secs().div_ceil(3) <= 15);

/// Proof that its holder was the owner of `name` when it got it; [`Ledger::check_fence`] says whether it still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    name: String,
    holder: String,
    number: i64,
}

impl Fence {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rises with each new owner.
    pub fn number(&self) -> i64 {
        self.number
    }
}

impl Ledger {
    /// Takes the lease `name`, if nobody else has it. `holder` names one program in one life; it may ask again, and keeps its number.
    pub async fn acquire_lease(&self, name: &str, holder: &str, span: Duration) -> Result<Option<Fence>, Error> {
        self.transact(|_: Again| self.acquire_once(name, holder, span)).await
    }

    async fn acquire_once(&self, name: &str, holder: &str, span: Duration) -> Result<Option<Fence>, Error> {
        let mut tx = self.begin().await?;
        let statement = "{insert} INTO leases (name, holder, fence, until_ms, rung) VALUES (?, '', 0, 0, 0) {once}";
        self.sql(statement).bind(name.to_owned()).execute(&mut *tx).await?;
        let statement = "UPDATE leases SET fence = CASE WHEN holder = ? THEN fence ELSE fence + 1 END, until_ms = {clock} + ? \
                         WHERE name = ? AND (holder = ? OR until_ms <= {clock})";
        let query = self.sql(statement).bind(holder.to_owned()).bind(millis(span)).bind(name.to_owned());
        if query.bind(holder.to_owned()).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(None);
        }
        self.sql("UPDATE leases SET holder = ? WHERE name = ?")
            .bind(holder.to_owned())
            .bind(name.to_owned())
            .execute(&mut *tx)
            .await?;
        let query = self.sql("SELECT fence FROM leases WHERE name = ?").bind(name.to_owned());
        let number = query.fetch_one(&mut *tx).await?.try_get("fence")?;
        self.commit(tx).await?;
        Ok(Some(Fence { name: name.to_owned(), holder: holder.to_owned(), number }))
    }

    /// Keeps the lease for another span; false if somebody else has it: then its holder is the owner no more. One that ran out and that nobody took is kept.
    pub async fn renew_fence(&self, fence: &Fence, span: Duration) -> Result<bool, Error> {
        let renew = async |_: Again| {
            let statement = "UPDATE leases SET until_ms = {clock} + ? WHERE name = ? AND holder = ? AND fence = ?";
            let query = self.sql(statement).bind(millis(span)).bind(fence.name.clone()).bind(fence.holder.clone());
            Ok(query.bind(fence.number).execute(&self.pool).await?.rows_affected() == 1)
        };
        self.transact(renew).await
    }

    /// Gives the lease up: the next owner need not wait for its end.
    pub async fn release_fence(&self, fence: &Fence) -> Result<(), Error> {
        let release = async |_: Again| {
            let statement = "UPDATE leases SET holder = '', until_ms = 0 WHERE name = ? AND holder = ? AND fence = ?";
            let query = self.sql(statement).bind(fence.name.clone()).bind(fence.holder.clone()).bind(fence.number);
            query.execute(&self.pool).await?;
            Ok(())
        };
        self.transact(release).await
    }

    /// Whether the fence still holds, for as long as the transaction lasts: nobody else becomes the owner meanwhile.
    pub(super) async fn check_fence(&self, tx: &mut Tx, fence: &Fence) -> Result<(), Error> {
        let statement = "SELECT fence FROM leases WHERE name = ? AND holder = ? AND fence = ?{for_share}";
        let query = self.sql(statement).bind(fence.name.clone()).bind(fence.holder.clone()).bind(fence.number);
        match query.fetch_optional(&mut **tx).await? {
            Some(_) => Ok(()),
            None => Err(Error::Deposed(fence.name.clone())),
        }
    }

    /// Tells the owner of the task `name`, whoever that is, that something has happened.
    pub async fn ring(&self, name: &str) -> Result<(), Error> {
        let ring = async |_: Again| {
            let query = self.sql("UPDATE leases SET rung = rung + 1 WHERE name = ?").bind(name.to_owned());
            query.execute(&self.pool).await?;
            Ok(())
        };
        self.transact(ring).await
    }

    /// How often the owner has been rung for.
    pub async fn rung(&self, fence: &Fence) -> Result<i64, Error> {
        let query = self.sql("SELECT rung FROM leases WHERE name = ?").bind(fence.name.clone());
        Ok(query.fetch_one(&self.pool).await?.try_get("rung")?)
    }

    /// Leaves word for those who stand by: what keeps the owner's task from going on, if anything does.
    pub async fn tell_trouble(&self, fence: &Fence, trouble: Option<&str>) -> Result<(), Error> {
        let statement = "UPDATE leases SET trouble = ? WHERE name = ? AND holder = ? AND fence = ?";
        let query = self.sql(statement).bind(trouble.map(str::to_owned)).bind(fence.name.clone());
        query.bind(fence.holder.clone()).bind(fence.number).execute(&self.pool).await?;
        Ok(())
    }

    /// What the owner of the task `name` has told last.
    pub async fn trouble_of(&self, name: &str) -> Result<Option<String>, Error> {
        let query = self.sql("SELECT trouble FROM leases WHERE name = ?").bind(name.to_owned());
        let row = query.fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.try_get("trouble")).transpose()?.flatten())
    }

    /// Whether other control programs may share the ledger.
    pub fn is_shared(&self) -> bool {
        self.dialect.is_server()
    }

    /// Owns the task `name` whenever it can, until `shutdown`: `owner` shows the fence, and `None` while we are not sure to be the owner. A clean stop
    /// gives the lease up at once. On SQLite the one control program has the file's lock, and its leases need no renewal.
    pub async fn keep_lease(
        &self,
        name: &str,
        holder: &str,
        owner: watch::Sender<Option<Fence>>,
        shutdown: CancellationToken,
    ) {
        let is_shared = self.is_shared();
        let span = if is_shared { SPAN } else { Duration::ZERO };
        let mut kept: Option<(Fence, Instant)> = None;
        loop {
            // Counted from before the request: the database counts from later.
            let asked = Instant::now();
            let sure_until = kept.as_ref().map_or(asked + SPAN, |(_, at)| *at + SPAN);
            let renewed = tokio::time::timeout_at(sure_until.into(), async {
                match &kept {
                    Some((fence, _)) => Ok(self.renew_fence(fence, span).await?.then(|| fence.clone())),
                    None => self.acquire_lease(name, holder, span).await,
                }
            });
            let renewed = tokio::select! {
                renewed = renewed => Some(renewed),
                () = shutdown.cancelled() => None,
            };
            let mut pause = SPAN / 3;
            match renewed {
                Some(Ok(Ok(Some(fence)))) => kept = Some((fence, asked)),
                Some(Ok(Ok(None))) => kept = None,
                Some(Ok(Err(error))) => {
                    tracing::warn!(lease = name, "{error}");
                    kept = kept.filter(|(_, at)| at.elapsed() < SPAN);
                    // Soon again, or its end would pass while we sleep.
                    pause = SPAN / 30;
                }
                Some(Err(_)) => kept = None,
                None => break,
            }
            let now = kept.as_ref().map(|(fence, _)| fence.clone());
            owner.send_if_modified(|shown| {
                let changed = *shown != now;
                if changed {
                    tracing::info!(lease = name, fence = now.as_ref().map(Fence::number), "ownership");
                    *shown = now;
                }
                changed
            });
            tokio::select! {
                () = tokio::time::sleep(pause), if is_shared || kept.is_none() => {}
                () = shutdown.cancelled() => break,
            }
        }
        owner.send_replace(None);
        if let Some((fence, _)) = kept
            && let Err(error) = self.release_fence(&fence).await
        {
            tracing::warn!(lease = name, "{error}; the next owner waits for its end");
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
