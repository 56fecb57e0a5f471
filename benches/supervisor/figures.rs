//! Figures for people.

use std::time::Duration;

pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index into a list of a thousand
    let index = (as_f64(sorted.len() as u64 - 1) * share) as usize;
    sorted[index]
}

pub fn micros(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}

pub fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[allow(clippy::cast_precision_loss)] // figures for people
pub fn as_f64(value: u64) -> f64 {
    value as f64
}
