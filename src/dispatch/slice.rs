//! Which cluster a job goes to, by weights: pure, and stable, so that a roll-out from 1 % to 10 % to 100 % moves a slice that only grows.
//!
//! Weighted rendezvous hashing: each cluster draws a number for the job, the better the larger its weight, and the best one has it. A
//! weight that grows takes jobs from others and gives none away; weight 0 draws nothing: what runs there goes on, nothing new comes.

/// A cluster and its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub cluster: String,
    pub weight: u32,
}

/// The cluster of the job; `None` if none has a weight.
pub fn choose<'a>(job: &str, shares: &'a [Share]) -> Option<&'a str> {
    let drawn = shares.iter().filter(|share| share.weight > 0).map(|share| (draw(job, share), &*share.cluster));
    drawn.max_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(other.1))).map(|(_, cluster)| cluster)
}

/// ln(u) / weight, with u uniform in (0, 1) by job and cluster.
fn draw(job: &str, share: &Share) -> f64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{}\n{job}", share.cluster).as_bytes());
    let head = digest.as_ref().iter().take(6).fold(0_u64, |head, byte| (head << 8) | u64::from(*byte));
    // 48 bits fit a double exactly.
    #[allow(clippy::cast_precision_loss)]
    let uniform = (head as f64 + 0.5) / (1_u64 << 48) as f64;
    uniform.ln() / f64::from(share.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        (0..).zip(weights).map(|(index, weight)| Share { cluster: format!("c{index}"), weight: *weight }).collect()
    }

    proptest! {
        #[test]
        fn a_weight_that_grows_gives_no_job_away(weights in proptest::collection::vec(0_u32..100, 1..5), more in 1_u32..100) {
            let before = shares(&weights);
            let mut after = before.clone();
            after[0].weight += more;
            for job in 0..200 {
                let job = job.to_string();
                let (was, is) = (choose(&job, &before), choose(&job, &after));
                prop_assert!(is == was || is == Some("c0"));
            }
        }
    }

    #[test]
    fn the_slices_are_as_large_as_their_weights_and_weight_0_has_none() {
        let all = shares(&[1, 9, 90, 0]);
        let mut counts = std::collections::HashMap::new();
        (0..10_000).for_each(|job| *counts.entry(choose(&job.to_string(), &all).unwrap()).or_insert(0) += 1);
        assert!((50..200).contains(&counts["c0"]) && (750..1050).contains(&counts["c1"]), "{counts:?}");
        assert!(!counts.contains_key("c3"));
        assert_eq!(choose("a", &shares(&[0])), None);
    }
}
