//! Leases of strict attempts as the ledger counts them: held with the grant, renewed by each batch of records, over by the ledger's own
//! clock. The other half is `supervisor::lease`.
//!
//! **Why an expired lease proves an end.** For every request that the ledger acknowledges, in this order: the supervisor reads its clock
//! (s), sends; the ledger reads its clock (r), commits `lease_until_ms` = r + lease, answers. The supervisor counts lease and margin from s and s is
//! before r, so its lease ends before ours, whatever the request and its answer took on their ways, and though neither reads the other's clock. Only
//! acknowledged requests move its end; a request that we commit and whose answer is lost moves ours alone, which is the safe side. Plain expiry
//! therefore needs no span on top. What is left is that the two clocks may differ in *rate*, and that a kill takes time: the supervisor's margin, a quarter of the
//! lease, is for both. The ledger's clock must not be set forward by more than that margin at once; NTP's slewing is far below it.
//!
//! **Why it stays proved.** The lease is read and the attempt closed in one writing transaction, and a closed attempt is not renewed: its supervisor, should
//! it still ask, is told `superseded`; on a server both take the attempt's row for themselves first. The span is kept with the attempt, so that a changed setting cannot make the two sides count differently.

use super::{AttemptEnd, Error, Ledger, Tx, transact::Again};
use crate::record::{Millis, wire::AttemptId};
use sqlx::Row as _;
use std::time::Duration;

impl Ledger {
    /// The one clock of leases: the database's, which all control programs share.
    async fn lease_clock(&self, tx: &mut Tx) -> Result<Millis, Error> {
        let row = self.sql("SELECT {clock} AS now_ms").fetch_one(&mut **tx).await?;
        Ok(Millis(row.try_get("now_ms")?))
    }

    /// Holds a lease for a granted attempt, or renews the one that it has; gives back its span in milliseconds.
    pub(super) async fn hold_lease(&self, tx: &mut Tx, id: &AttemptId, span: Duration) -> Result<u64, Error> {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.sql("UPDATE attempts SET lease_ms = COALESCE(lease_ms, ?) WHERE job_id = ? AND attempt = ?")
            .bind(span)
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .execute(&mut **tx)
            .await?;
        self.renew_lease(tx, id).await?;
        let query = self.sql("SELECT lease_ms FROM attempts WHERE job_id = ? AND attempt = ?").bind(id.job.clone());
        let row = query.bind(i64::from(id.attempt)).fetch_one(&mut **tx).await?;
        Ok(u64::try_from(row.try_get::<i64, _>("lease_ms")?).unwrap_or_default())
    }

    /// Renews the lease of an attempt that has one and is not closed.
    pub(super) async fn renew_lease(&self, tx: &mut Tx, id: &AttemptId) -> Result<(), Error> {
        let statement = "UPDATE attempts SET lease_until_ms = {clock} + lease_ms WHERE job_id = ? AND attempt = ? \
                         AND lease_ms IS NOT NULL AND state <> 'ended'";
        let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
        query.execute(&mut **tx).await?;
        Ok(())
    }

    /// Ends an attempt whose lease is over; false if it is not: then nothing is changed.
    pub async fn end_by_lease(&self, id: &AttemptId, end: AttemptEnd) -> Result<bool, Error> {
        self.transact(|again| self.end_by_lease_once(id, end.clone(), again)).await
    }

    async fn end_by_lease_once(&self, id: &AttemptId, end: AttemptEnd, again: Again) -> Result<bool, Error> {
        let mut tx = self.begin().await?;
        let now = self.lease_clock(&mut tx).await?;
        let (Some(mut job), Some(attempt)) =
            (self.job_row(&mut tx, &id.job).await?, self.attempt_row(&mut tx, id).await?)
        else {
            return Ok(false);
        };
        if again == Again::MayBeDone && attempt.ended && attempt.evidence == end.evidence.rank() {
            return Ok(true);
        }
        if attempt.ended || attempt.lease_until.is_none_or(|until| now < until) {
            return Ok(false);
        }
        self.conclude(&mut tx, &mut job, id, &attempt, end).await?;
        self.commit(tx).await?;
        Ok(true)
    }
}
