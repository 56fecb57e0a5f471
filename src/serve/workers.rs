//! What supervisors ask: `POST /v1/grants` and `POST /v1/records`. Attempt tokens only; the other half is `supervisor::report`.

use super::Service;
use crate::{
    cluster::Stranger,
    ledger::{self, Speaker},
    problem::Problem,
    record::wire::{AttemptId, Body, GrantAnswer, GrantRequest, RecordBatch, RecordsAnswer},
};
use axum::{
    Json, Router,
    body::HttpBody as _,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use serde::de::DeserializeOwned;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A hundred records with their last lines are well below this.
const BODY_LIMIT: usize = 4 * 1024 * 1024;
/// As long as a supervisor waits for its answer.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// All bodies at the same time, in units: a reading takes one or two, so tens of thousands of attempts may speak at once, or a thousand that have saved
/// up a hundred records each.
const ROOM: usize = 64 * 1024;
const UNIT: usize = 1024;

/// What an attempt says, and the place that says it.
struct Said<T> {
    body: T,
    speaker: Speaker,
    /// Its share of the room, until it is answered.
    _room: OwnedSemaphorePermit,
}

/// What names its attempt.
trait OfAttempt: DeserializeOwned + Send + Sync {
    fn id(&self) -> &AttemptId;
}

impl OfAttempt for GrantRequest {
    fn id(&self) -> &AttemptId {
        &self.id
    }
}

impl OfAttempt for RecordBatch {
    fn id(&self) -> &AttemptId {
        &self.id
    }
}

/// The routes.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/grants", post(grant))
        .route("/v1/records", post(records))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// For all that is said at the same time.
pub fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ROOM))
}

async fn grant(
    State(service): State<Arc<Service>>,
    Said { body: request, speaker, _room }: Said<GrantRequest>,
) -> Result<Json<GrantAnswer>, Problem> {
    let key = service.key.of_attempt(&request.id, &request.nonce);
    let answer = service.ledger.grant(&request, speaker, key, service.terms).await?;
    // It no longer waits to be started: another may.
    service.wake.notify_one();
    Ok(Json(answer))
}

async fn records(
    State(service): State<Arc<Service>>,
    Said { body: batch, speaker, _room }: Said<RecordBatch>,
) -> Result<Json<RecordsAnswer>, Problem> {
    let append = || service.ledger.append(&batch, service.terms.report_every_ms);
    let mut answer = match append().await {
        Err(ledger::Error::NotKnownYet(id)) if service.ledger.adopt_process(&id, &batch.source, &speaker).await? => {
            append().await?
        }
        answer => answer?,
    };
    let gone_within = service.cluster.gone_within(&batch.id).and_then(|span| u64::try_from(span.as_millis()).ok());
    answer.stop_within_ms = answer.stop_within_ms.into_iter().chain(gone_within).min();
    if batch.records.iter().any(|record| matches!(record.body, Body::Ending { .. })) {
        service.wake.notify_one();
    }
    Ok(Json(answer))
}

impl<T: OfAttempt> FromRequest<Arc<Service>> for Said<T> {
    type Rejection = Problem;

    /// A stranger is refused by the headers alone: nothing of his is kept in memory, or parsed.
    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Problem> {
        let token = bearer(request.headers())?.to_owned();
        let witness = service.cluster.vouch(&token).await.map_err(refused)?;
        let _room = claim(service, &request)?;
        let body = tokio::time::timeout(BODY_WITHIN, Json::<T>::from_request(request, service)).await;
        let body = body.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
        let Json(body) = body.map_err(|refused| Problem::new(refused.status(), refused.body_text()))?;
        let speaker = witness.speaks_for(body.id()).map_err(refused)?;
        Ok(Self { body, speaker, _room })
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    token.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "this needs the token of an attempt"))
}

/// Room for the body, as long as it says it is; one that does not say may be as long as any.
fn claim(service: &Service, request: &Request) -> Result<OwnedSemaphorePermit, Problem> {
    let bytes = request.body().size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    let units = bytes.unwrap_or(BODY_LIMIT).min(BODY_LIMIT).div_ceil(UNIT).max(1);
    let full = "more is said at once than there is room for; say it again in a moment";
    let room = Arc::clone(&service.room).try_acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
    room.map_err(|_| Problem::new(StatusCode::TOO_MANY_REQUESTS, full))
}

fn refused(stranger: Stranger) -> Problem {
    let status = match stranger {
        Stranger::Unknown(_) => StatusCode::UNAUTHORIZED,
        Stranger::Another(_) => StatusCode::FORBIDDEN,
        Stranger::NotNow(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, stranger.to_string())
}
