//! Spans that differ a little, so that what failed together does not come back together.

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    time::Duration,
};

/// `span` and up to a quarter more, by `random`; to the millisecond.
pub fn jittered(span: Duration, random: u64) -> Duration {
    let most = u64::try_from(span.as_millis() / 4).unwrap_or(u64::MAX);
    let more = if most == 0 { 0 } else { random % (most + 1) };
    span.saturating_add(Duration::from_millis(more))
}

/// A number that looks like chance and is the same for the same thing.
pub fn chance(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_never_shorter_and_at_most_a_quarter_longer(millis in 0_u64..1_000_000, random: u64) {
            let span = Duration::from_millis(millis);
            let jittered = jittered(span, random);
            proptest::prop_assert!(jittered >= span && jittered <= span + span / 4);
        }
    }
}
