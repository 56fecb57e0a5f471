//! What people and schedulers ask: jobs, their readings and their output; cancel, retry, confirm-dead.

use super::Service;
use crate::{
    dispatch::{proof, wait::Asked},
    ledger::{Cancelled, ConfirmedDead, Heartbeat, JobFilter, JobSummary, JobView, Refusal, RefusalFilter, Retried},
    problem::Problem,
    record::{Millis, phase::Phase, wire::AttemptId},
};
use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderName, StatusCode},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{Read as _, Seek as _, SeekFrom},
    sync::Arc,
};

const PAGE: u32 = 100;
const LONGEST_PAGE: u32 = 1000;
const HEARTBEATS: u32 = 5000;
/// A piece of a log.
const LOG_PIECE: u64 = 1024 * 1024;
/// Where the next piece of a log begins, in bytes.
pub const NEXT_OFFSET: HeaderName = HeaderName::from_static("sendo-next-offset");

/// A page of jobs.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobPage {
    pub jobs: Vec<JobSummary>,
    /// `after` of the next page, if there may be one.
    pub next: Option<String>,
}

/// An attempt's readings.
#[derive(Debug, Serialize, Deserialize)]
pub struct HeartbeatPage {
    pub heartbeats: Vec<Heartbeat>,
    /// There are more behind the last one: ask with its `after_ms` and `after_seq`.
    pub more: bool,
}

/// A page of what was not taken in.
#[derive(Debug, Serialize, Deserialize)]
pub struct RefusalPage {
    pub refusals: Vec<Refusal>,
    /// There may be more behind the last one: ask with its `last_at_ms` and `message_id` as `before_ms` and `before_id`.
    pub more: bool,
}

/// What became of a request to cancel or to retry.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// `cancelled`, `cancelling`, `queued` or `unchanged`.
    pub result: String,
    pub detail: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CancelBody {
    pub reason: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryBody {
    pub after_attempt: Option<u32>,
    pub reason: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmDeadBody {
    /// The one that the person has looked at.
    pub attempt: u32,
    /// How they know.
    pub reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListQuery {
    phase: Option<String>,
    tenant: Option<String>,
    definition: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RefusalQuery {
    queue: Option<String>,
    message_id: Option<String>,
    before_ms: Option<i64>,
    before_id: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HeartbeatQuery {
    attempt: Option<u32>,
    after_ms: Option<i64>,
    after_seq: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogQuery {
    attempt: Option<u32>,
    stream: Option<String>,
    offset: Option<u64>,
}

/// The routes.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/heartbeats", get(heartbeats))
        .route("/v1/jobs/{id}/logs", get(logs))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/retry", post(retry))
        .route("/v1/jobs/{id}/confirm-dead", post(confirm_dead))
        .route("/v1/refusals", get(refusals))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

async fn jobs(State(service): State<Arc<Service>>, Query(query): Query<ListQuery>) -> Result<Json<JobPage>, Problem> {
    let limit = query.limit.unwrap_or(PAGE).clamp(1, LONGEST_PAGE);
    if let Some(phase) = query.phase.as_deref().filter(|phase| Phase::parse(phase).is_none()) {
        let known = Phase::ALL.map(|phase| phase.as_str()).join(", ");
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("no phase is called `{phase}`; there are {known}")));
    }
    let filter =
        JobFilter { phase: query.phase, tenant: query.tenant, definition: query.definition, after: query.after, limit };
    let mut jobs = service.ledger.jobs(&filter).await?;
    say_why(&service, &mut jobs).await?;
    let full = jobs.len() == limit as usize;
    Ok(Json(JobPage { next: jobs.last().filter(|_| full).map(|job| job.id.clone()), jobs }))
}

async fn job(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    let mut job = service.ledger.job(&id).await?;
    say_why(&service, std::slice::from_mut(&mut job.summary)).await?;
    Ok(Json(job))
}

/// Adds to jobs in the queue why they wait.
async fn say_why(service: &Service, jobs: &mut [JobSummary]) -> Result<(), Problem> {
    if !jobs.iter().any(|job| job.phase == Phase::Queued.as_str()) {
        return Ok(());
    }
    let pauses = service.ledger.pauses().await?;
    for job in jobs.iter_mut().filter(|job| job.phase == Phase::Queued.as_str()) {
        let asked = Asked {
            tenant: &job.tenant,
            definition: &job.definition,
            incremental: job.incremental,
            not_before: Millis(job.not_before_ms),
            awaits_content: job.awaits_content,
            is_launching: job.attempt_state.as_deref() == Some("launching"),
        };
        let why = service.waits.why(asked, &pauses, crate::ledger::now());
        job.waits_for = why;
    }
    Ok(())
}

async fn refusals(
    State(service): State<Arc<Service>>,
    Query(query): Query<RefusalQuery>,
) -> Result<Json<RefusalPage>, Problem> {
    let RefusalQuery { queue, message_id, before_ms, before_id, limit } = query;
    let limit = limit.unwrap_or(PAGE).clamp(1, LONGEST_PAGE);
    let refusals = service.ledger.refusals(&RefusalFilter { queue, message_id, before_ms, before_id, limit }).await?;
    Ok(Json(RefusalPage { more: refusals.len() == limit as usize, refusals }))
}

async fn heartbeats(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    Query(query): Query<HeartbeatQuery>,
) -> Result<Json<HeartbeatPage>, Problem> {
    let after = (query.after_ms.unwrap_or(i64::MIN), query.after_seq.unwrap_or(i64::MAX));
    let heartbeats = service.ledger.heartbeats(&id, query.attempt, after, HEARTBEATS).await?;
    Ok(Json(HeartbeatPage { more: heartbeats.len() == HEARTBEATS as usize, heartbeats }))
}

async fn logs(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<([(HeaderName, String); 1], Vec<u8>), Problem> {
    let stream = query.stream.unwrap_or_else(|| "stdout".into());
    if !matches!(stream.as_str(), "stdout" | "stderr") {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("stream `{stream}`: there are stdout and stderr")));
    }
    let last = service.ledger.job(&id).await?.summary.attempt;
    let attempt = query.attempt.unwrap_or(last);
    if attempt == 0 || attempt > last {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("job `{id}` has no attempt {attempt} yet")));
    }
    let file = service.cluster.output_file(&AttemptId { job: id, attempt }, &stream);
    let file = file.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "the output of Pods is with their cluster: `kubectl logs`, or wherever it keeps logs",
        )
    })?;
    let offset = query.offset.unwrap_or(0);
    let piece = tokio::task::spawn_blocking(move || read_piece(&file, offset)).await;
    let piece = piece.context("read a log").and_then(|piece| piece);
    let piece = piece.map_err(|why| Problem::new(StatusCode::NOT_FOUND, format!("{why:#}")))?;
    Ok(([(NEXT_OFFSET, (offset + piece.len() as u64).to_string())], piece))
}

/// At most [`LOG_PIECE`] bytes from `offset`. A file that is not there yet is empty.
fn read_piece(file: &std::path::Path, offset: u64) -> anyhow::Result<Vec<u8>> {
    let mut opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        opened => opened.with_context(|| format!("open {}", file.display()))?,
    };
    let mut piece = Vec::new();
    opened
        .seek(SeekFrom::Start(offset))
        .and_then(|_| opened.take(LOG_PIECE).read_to_end(&mut piece))
        .context("read the log")?;
    Ok(piece)
}

async fn cancel(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    body: Option<Json<CancelBody>>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    let Json(body) = body.unwrap_or_default();
    let cancelled = service.ledger.cancel(&id, body.reason.as_deref().unwrap_or("cancelled on request")).await?;
    service.wake.notify_one();
    Ok(match cancelled {
        Cancelled::AtOnce => done(StatusCode::OK, "cancelled", "nothing of it was running".into()),
        Cancelled::UnderWay => done(StatusCode::ACCEPTED, "cancelling", "its attempt is asked to stop".into()),
        Cancelled::AlreadyEnded(phase) => {
            return Err(Problem::new(StatusCode::CONFLICT, format!("the job has {phase} already")));
        }
    })
}

async fn retry(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    body: Option<Json<RetryBody>>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    let Json(body) = body.unwrap_or_default();
    let reason = body.reason.as_deref().unwrap_or("retried on request");
    let retried = service.ledger.retry(&id, body.after_attempt, reason).await?;
    service.wake.notify_one();
    Ok(match retried {
        Retried::Queued => done(StatusCode::ACCEPTED, "queued", "the next attempt waits for admission".into()),
        Retried::AlreadyDone { attempt } => {
            done(StatusCode::OK, "unchanged", format!("a retry is under way; the last attempt is {attempt}"))
        }
        Retried::NotNow(phase) => {
            let why = format!(
                "the job is {phase}; only one that failed, was cancelled or rejected, or is held can be tried again"
            );
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
    })
}

async fn confirm_dead(
    State(service): State<Arc<Service>>,
    Path(job): Path<String>,
    Json(body): Json<ConfirmDeadBody>,
) -> Result<(StatusCode, Json<Done>), Problem> {
    let reason = body.reason.trim();
    if reason.is_empty() {
        let why = "`reason`: say how you know that nothing of the attempt runs any more; it is kept with its verdict";
        return Err(Problem::new(StatusCode::BAD_REQUEST, why));
    }
    let id = AttemptId { job, attempt: body.attempt };
    let confirmed = service.ledger.confirm_dead(&id, &proof::by_person(reason, crate::ledger::now())).await?;
    service.wake.notify_one();
    let conflict = |why: String| Err(Problem::new(StatusCode::CONFLICT, why));
    match confirmed {
        ConfirmedDead::Ended(phase) => {
            Ok(done(StatusCode::OK, "ended", format!("attempt {} is over, and the job is {phase}", body.attempt)))
        }
        ConfirmedDead::Another { attempt } => {
            conflict(format!("the job's living attempt is {attempt} and not {}; look at that one first", body.attempt))
        }
        ConfirmedDead::NoneAlive(phase) => conflict(format!("the job is {phase} and has no living attempt")),
    }
}

async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Problem> {
    service.ledger.ping().await?;
    Ok("ready\n")
}

fn done(status: StatusCode, result: &str, detail: String) -> (StatusCode, Json<Done>) {
    (status, Json(Done { result: result.into(), detail }))
}
