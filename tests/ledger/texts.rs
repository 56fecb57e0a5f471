//! Texts come back as they went in, and ids are compared by their bytes.

use super::fresh::*;
use sendo::{
    ledger::{Accepted, Cancelled, JobFilter},
    record::{
        Millis,
        outcome::Outcome,
        phase::Phase,
        usage::Usage,
        wire::{Body, Directive, Record},
    },
};

/// Two that a collation of people's languages takes for one.
const ALIKE: [[&str; 2]; 4] = [["job", "Job"], ["e", "é"], ["end", "end "], ["ss", "ß"]];

on_each_database! {
    async fn ids_that_a_language_takes_for_one_are_two(fresh: Fresh) {
        for (n, [one, other]) in ALIKE.iter().enumerate() {
            // Ids are of plain letters; the tables must not depend on it.
            for (id, tenant) in [(*one, *one), (*other, *other)] {
                let mut job = job(id, false);
                job.tenant = Some(tenant.into());
                assert_eq!(fresh.ledger.accept(&job, &format!("{n}{id}"), 0).await.unwrap(), Accepted::New, "`{id}`");
            }
            for id in [one, other] {
                assert_eq!(fresh.ledger.job(id).await.unwrap().summary.id, *id);
                let filter = JobFilter { tenant: Some((*id).into()), limit: 10, ..JobFilter::default() };
                let found = fresh.ledger.jobs(&filter).await.unwrap();
                assert_eq!(found.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), [*id]);
            }
        }
        assert_eq!(fresh.count("SELECT COUNT(*) FROM jobs").await, 8);
    }

    async fn cursors_of_definitions_that_differ_by_case_are_two(fresh: Fresh) {
        for (id, definition) in [("a", "orders"), ("b", "Orders"), ("c", "orders ")] {
            let mut job = job(id, true);
            job.definition = Some(definition.into());
            let attempt = fresh.launched(&job).await;
            fresh.grant(&attempt, "n").await;
            let cursor = sendo::record::outcome::CursorMove { from_generation: 0, diff: definition.into() };
            let body = Body::Ending { ending: Box::new(ending(Outcome::Succeeded, Some(cursor))) };
            fresh.append(&attempt, "n", vec![phase(1, Phase::Executing), Record { seq: 2, at: Millis(0), body }]).await;
            assert_eq!(fresh.phase(id).await, "succeeded");
        }
        assert_eq!(fresh.count("SELECT COUNT(*) FROM cursors").await, 3);
    }

    async fn a_list_is_in_the_order_of_bytes(fresh: Fresh) {
        for id in ["b", "B", "a", "A", "_", "-", ":"] {
            fresh.ledger.accept(&job(id, false), "d", 0).await.unwrap();
        }
        fresh.place.execute("UPDATE jobs SET queued_at_ms = 1").await;
        let filter = JobFilter { limit: 10, ..JobFilter::default() };
        let all: Vec<String> = fresh.ledger.jobs(&filter).await.unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(all, ["b", "a", "_", "B", "A", ":", "-"]);
        let filter = JobFilter { after: Some("_".into()), limit: 2, ..JobFilter::default() };
        let page: Vec<String> = fresh.ledger.jobs(&filter).await.unwrap().into_iter().map(|job| job.id).collect();
        assert_eq!(page, ["B", "A"]);
    }

    async fn long_texts_and_emoji_come_back(fresh: Fresh) {
        let long = "至急🚢 ".repeat(1024 * 1024 / 11);
        let mut job = job("a", false);
        job.labels.insert("note".into(), long.clone());
        fresh.ledger.accept(&job, "digest", 0).await.unwrap();
        assert_eq!(fresh.ledger.job("a").await.unwrap().spec.labels["note"], long);
        let id = fresh.next_attempt("a").await;
        fresh.grant(&id, "n").await;
        let mut ending = ending(Outcome::Failed { exit_code: 1 }, None);
        ending.last_lines = vec![long.clone(), "\0 and \u{1f600}".into()];
        let record = Record { seq: 2, at: Millis(0), body: Body::Ending { ending: Box::new(ending) } };
        assert_eq!(fresh.append(&id, "n", vec![phase(1, Phase::Executing), record]).await, Directive::Continue);
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!(view.attempts[0].last_lines, [long, "\0 and \u{1f600}".into()]);
    }

    async fn a_null_character_in_a_reason_does_not_stop_anything(fresh: Fresh) {
        fresh.ledger.accept(&job("a", false), "digest", 0).await.unwrap();
        assert_eq!(fresh.ledger.cancel("a", "no\0 more").await.unwrap(), Cancelled::AtOnce);
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!(view.transitions.last().unwrap().reason, "no\u{fffd} more");
        let long = "x".repeat(1000);
        fresh.ledger.refuse("q", "m", Some(&long), "bad\0", "d").await.unwrap();
        fresh.ledger.refuse("q", "m", Some(&long), "worse", "d").await.unwrap();
        assert_eq!(fresh.count("SELECT COUNT(*) FROM refusals WHERE times = 2 AND reason = 'worse'").await, 1);
    }

    async fn a_reading_is_absent_or_exactly_what_it_was(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        let exact = [Some(0.1), None, Some(1e-300), Some(f64::MAX), Some(123_456_789.123_456_78), None, Some(0.0)];
        let mut usage = Usage::default();
        for (n, value) in exact.iter().enumerate() {
            usage.cgroup.cpu_seconds = *value;
            usage.silent_seconds = exact[exact.len() - 1 - n];
            usage.cgroup.memory_peak_bytes = (n % 2 == 0).then_some(u64::MAX);
            let body = Body::Usage { usage: Box::new(usage.clone()) };
            fresh.append(&id, "n", vec![Record { seq: 10 + n as u64, at: Millis(n as i64), body }]).await;
        }
        let beats = fresh.ledger.heartbeats("a", None, (i64::MIN, 0), 100).await.unwrap();
        assert_eq!(beats.iter().map(|beat| beat.cpu_seconds).collect::<Vec<_>>(), exact);
        assert!(beats.iter().rev().map(|beat| beat.silent_seconds).eq(exact));
        assert_eq!(beats[0].memory_peak_bytes, Some(i64::MAX));
        assert_eq!(beats[1].memory_peak_bytes, None);
    }
}
