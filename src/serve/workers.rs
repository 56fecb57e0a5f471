//! What supervisors ask: `POST /v1/grants` and `POST /v1/records`. Attempt tokens only; the other half is `supervisor::report`.

use super::Service;
use crate::{
    cluster::key::Bearer,
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
    let bearer = bearer(&service, &headers, &request.id)?;
    let key = service.key.of_attempt(&request.id, &request.nonce);
    Ok(Json(service.ledger.grant(&request, &bearer.uid, key, service.terms).await?))
}

async fn records(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Json(batch): Json<RecordBatch>,
) -> Result<Json<RecordsAnswer>, Problem> {
    bearer(&service, &headers, &batch.id)?;
    let answer = service.ledger.append(&batch, service.terms.report_every_ms).await?;
    if batch.records.iter().any(|record| matches!(record.body, Body::Ending { .. })) {
        service.wake.notify_one();
    }
    Ok(Json(answer))
}

/// Who speaks, if the token is ours and is for the attempt that the body names.
fn bearer(service: &Service, headers: &HeaderMap, id: &AttemptId) -> Result<Bearer, Problem> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let bearer = token.and_then(|token| service.key.vouch(token));
    let bearer = bearer.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "this needs the token of an attempt"))?;
    if bearer.id != *id {
        return Err(Problem::new(StatusCode::FORBIDDEN, format!("the token is for {}, the body for {id}", bearer.id)));
    }
    Ok(bearer)
}
