//! Pauses over HTTP: `GET /v1/pauses`, `POST /v1/pauses`, `POST /v1/pauses/end`.

use super::Service;
use crate::{
    ledger::{Pause, PauseKind},
    problem::Problem,
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is to be paused, or to go on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    pub kind: PauseKind,
    /// A tenant; or a definition's `NAME` of every tenant, or `TENANT/NAME`.
    pub name: String,
    #[serde(default)]
    pub reason: Option<String>,
}

/// Everything that is paused.
#[derive(Debug, Serialize, Deserialize)]
pub struct PauseList {
    pub pauses: Vec<Pause>,
}

/// The routes.
pub fn routes() -> Router<Arc<Service>> {
    Router::new().route("/v1/pauses", get(list).post(pause)).route("/v1/pauses/end", post(resume))
}

async fn list(State(service): State<Arc<Service>>) -> Result<Json<PauseList>, Problem> {
    Ok(Json(PauseList { pauses: service.ledger.pauses().await? }))
}

async fn pause(State(service): State<Arc<Service>>, Json(body): Json<PauseBody>) -> Result<Json<PauseList>, Problem> {
    check(&body)?;
    service.ledger.pause(body.kind, &body.name, body.reason.as_deref().unwrap_or_default()).await?;
    list(State(service)).await
}

async fn resume(State(service): State<Arc<Service>>, Json(body): Json<PauseBody>) -> Result<Json<PauseList>, Problem> {
    check(&body)?;
    if !service.ledger.resume(body.kind, &body.name).await? {
        let why = format!("{} {} is not paused", body.kind.as_str(), body.name);
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    service.wake.notify_one();
    list(State(service)).await
}

fn check(body: &PauseBody) -> Result<(), Problem> {
    let parts: Vec<&str> = body.name.split('/').collect();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    let most = if body.kind == PauseKind::Definition { 2 } else { 1 };
    let is_name = |part: &&str| !part.is_empty() && part.len() <= 128 && part.bytes().all(allowed);
    if parts.len() <= most && parts.iter().all(is_name) {
        return Ok(());
    }
    let shape = if most == 2 { "NAME or TENANT/NAME" } else { "a tenant's name" };
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("`{}` is not {shape}", body.name)))
}
