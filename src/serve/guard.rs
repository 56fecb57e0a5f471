//! What stands before every handler: errors in one shape, and no web page of somebody else's.

use crate::problem::Problem;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::{from_fn, map_response},
    response::{IntoResponse as _, Response},
};

/// The framework's own refusals are short texts; more than this is something else.
const TEXT_LIMIT: usize = 4096;

/// Gives the framework's own refusals (a wrong path, method, query or body) the shape of ours.
pub fn problems(routes: Router) -> Router {
    routes.layer(map_response(async |response: Response| {
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.ends_with("json") || !(status.is_client_error() || status.is_server_error()) {
            return response;
        }
        let text = axum::body::to_bytes(response.into_body(), TEXT_LIMIT).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Problem::new(status, if text.is_empty() { "the API has nothing of this path and method".into() } else { text })
            .into_response()
    }))
}

/// Refuses a request that a browser makes for a page from elsewhere: by its origin, or by a name that was made to point here.
pub fn loopback_only(routes: Router) -> Router {
    routes.layer(from_fn(async |request: Request<Body>, next: axum::middleware::Next| {
        let headers = request.headers();
        let host =
            text(headers, header::HOST).or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        let origin =
            text(headers, header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
        if host.is_none_or(is_loopback) && origin.is_none_or(is_loopback) {
            return next.run(request).await;
        }
        Problem::new(StatusCode::FORBIDDEN, "this address answers only to programs and pages of this machine")
            .into_response()
    }))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    Some(headers.get(name)?.to_str().unwrap_or("not a text"))
}

/// Whether `host`, with or without a port, is this machine by number or by the one name that cannot be made to point elsewhere.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn knows_this_machine_and_nobody_else() {
        for ours in ["127.0.0.1:8920", "127.0.0.1", "localhost:1", "[::1]:8920", "[::1]", "127.9.9.9"] {
            assert!(is_loopback(ours), "{ours}");
        }
        for other in ["evil.example:8920", "10.0.0.1", "localhost.evil.example", "", "null", "127.0.0.1.evil.example:1"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
