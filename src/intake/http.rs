//! The HTTP door: `POST /v1/jobs`.

use super::message;
use crate::{
    ledger::{Accepted, Ledger},
    problem::Problem,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Notify;

/// The name of this door in the table `refusals`.
const DOOR: &str = "http";

/// The answer to a job that was taken.
#[derive(Debug, Serialize, Deserialize)]
pub struct Taken {
    pub id: String,
    /// It had been taken before, with the same content.
    pub known: bool,
}

/// What the door needs of the house.
#[derive(Clone)]
pub struct Door {
    pub ledger: Ledger,
    /// Rung when a job was taken.
    pub wake: Arc<Notify>,
}

/// The route.
pub fn routes(door: Door) -> Router {
    // One more byte than the limit: what is too large is refused in our own words.
    Router::new().route("/v1/jobs", post(submit)).layer(DefaultBodyLimit::max(message::BODY_LIMIT + 1)).with_state(door)
}

async fn submit(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Taken>), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        // Also what keeps a web page elsewhere from submitting in its reader's name.
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the job with Content-Type: application/json",
        ));
    }
    let checked = match message::check(&body) {
        Ok(checked) => checked,
        Err(refusal) => {
            door.ledger
                .refuse(DOOR, &refusal.digest, refusal.id.as_deref(), &refusal.to_string(), &refusal.digest)
                .await?;
            let detail = format!("the job is refused: {refusal}");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_faults(&refusal.faults));
        }
    };
    let id = checked.job.id.clone();
    match door.ledger.accept(&checked.job, &checked.digest, checked.not_before_ms).await? {
        Accepted::OtherContent => {
            let why = format!("id: `{id}` is taken by a job with another content; give this one an id of its own");
            door.ledger.refuse(DOOR, &checked.digest, Some(&id), &why, &checked.digest).await?;
            Err(Problem::new(StatusCode::CONFLICT, why))
        }
        Accepted::Known => Ok((StatusCode::OK, Json(Taken { id, known: true }))),
        Accepted::New => {
            door.wake.notify_one();
            Ok((StatusCode::CREATED, Json(Taken { id, known: false })))
        }
    }
}
