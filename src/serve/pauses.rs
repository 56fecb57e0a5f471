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
    /// A tenant, `""` for jobs without one; or a definition's `NAME` of every tenant, or `TENANT/NAME`. With `all` there is none.
    #[serde(default)]
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
        let why = match body.kind {
            PauseKind::All => "there is no pause of all; `sendo pause` lists what there is".into(),
            kind => format!("{} `{}` is not paused", kind.as_str(), body.name),
        };
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    service.wake.notify_one();
    list(State(service)).await
}

fn check(body: &PauseBody) -> Result<(), Problem> {
    let name = body.name.as_str();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    let is_name = |part: &str| !part.is_empty() && part.len() <= 128 && part.bytes().all(allowed);
    let (fits, why) = match body.kind {
        PauseKind::All => (name.is_empty(), "is too much: `all` has no name"),
        PauseKind::Tenant => (name.is_empty() || is_name(name), "is not a tenant's name"),
        PauseKind::Definition => {
            let fits = name.split('/').count() <= 2 && name.split('/').all(is_name);
            (fits, "is not NAME or TENANT/NAME of a definition")
        }
    };
    if fits {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("`{name}` {why}")))
}
