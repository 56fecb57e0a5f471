//! Durations as people write them: `500ms`, `30s`, `5h`, `1h 30m`.

use super::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr, time::Duration};

/// Longer than any transfer; and so short that sums of a few never overflow a clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A length of time with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a text is no duration.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a duration ({why}); write it as 500ms, 30s, 15m or 5h")]
pub struct BadSpan {
    text: String,
    why: String,
}

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let bad = |why: String| BadSpan { text: text.into(), why };
        let span = humantime::parse_duration(text).map_err(|why| bad(why.to_string()))?;
        if span > LONGEST { Err(bad("longer than a year".into())) } else { Ok(Self(span)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(out)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        text::read(input, "a duration in quotes: \"30s\", \"15m\", \"5h\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_field_notation() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("15m", 900_000), ("5h", 18_000_000)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis));
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn says_how_to_write_it() {
        let error = "5".parse::<Span>().unwrap_err().to_string();
        assert!(error.contains("`5`") && error.contains("30s"), "{error}");
        let error = "10000000000000000000s".parse::<Span>().unwrap_err().to_string();
        assert!(error.contains("longer than a year"), "{error}");
    }
}
