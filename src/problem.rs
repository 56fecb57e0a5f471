//! Errors of the API as problem details (RFC 9457): what, where, and how to mend it.

use crate::ledger;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// Asked again so soon, a ledger that is away may be back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    pub status: u16,
    pub title: String,
    pub detail: String,
    /// Each wrong field of a refused body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<serde_json::Value>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("problem").to_owned();
        Self { status: status.as_u16(), title, detail: detail.into(), faults: vec![] }
    }

    /// Names each wrong field beside the whole.
    pub fn with_faults(self, faults: &[impl Serialize]) -> Self {
        let faults = faults.iter().filter_map(|fault| serde_json::to_value(fault).ok()).collect();
        Self { faults, ..self }
    }
}

impl From<ledger::Error> for Problem {
    fn from(error: ledger::Error) -> Self {
        let status = match &error {
            ledger::Error::NoSuchJob(_) => StatusCode::NOT_FOUND,
            ledger::Error::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            ledger::Error::Unavailable(_) | ledger::Error::Uncertain(_) | ledger::Error::NotKnownYet(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ledger::Error::Busy => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!("{error}");
        }
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let again = matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE | StatusCode::TOO_MANY_REQUESTS
        );
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if again {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_better_in_a_moment_is_to_be_asked_again() {
        for (error, status, again) in [
            (ledger::Error::Busy, 429, Some("1")),
            (ledger::Error::DiskFull, 507, Some("1")),
            (ledger::Error::Unavailable(sqlx::Error::PoolClosed), 503, Some("1")),
            (ledger::Error::NoSuchJob("a".into()), 404, None),
            (ledger::Error::OtherKey, 500, None),
        ] {
            let answer = Problem::from(error).into_response();
            let retry_after = answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), retry_after), (status, again));
        }
    }
}
