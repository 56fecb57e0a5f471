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
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use std::sync::Arc;

/// A hundred records with their last lines are well below this.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The routes.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/grants", post(grant))
        .route("/v1/records", post(records))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

async fn grant(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Json(request): Json<GrantRequest>,
) -> Result<Json<GrantAnswer>, Problem> {
    let speaker = speaker(&service, &headers, &request.id).await?;
    let key = service.key.of_attempt(&request.id, &request.nonce);
    Ok(Json(service.ledger.grant(&request, speaker, key, service.terms).await?))
}

async fn records(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Json(batch): Json<RecordBatch>,
) -> Result<Json<RecordsAnswer>, Problem> {
    let speaker = speaker(&service, &headers, &batch.id).await?;
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

/// The place that speaks, if the attempt's cluster vouches that it is the one of the attempt that the body names.
async fn speaker(service: &Service, headers: &HeaderMap, id: &AttemptId) -> Result<Speaker, Problem> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "this needs the token of an attempt"))?;
    let speaker = service.cluster.identify(token, id).await;
    speaker.map_err(|stranger| {
        let status = match stranger {
            Stranger::Unknown(_) => StatusCode::UNAUTHORIZED,
            Stranger::Another(_) => StatusCode::FORBIDDEN,
            Stranger::NotNow(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, stranger.to_string())
    })
}
