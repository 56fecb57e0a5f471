//! Readings grow old: raw, rolled up, gone; those of what still runs stay.

use super::fresh::*;
use sendo::record::{
    Millis,
    outcome::Outcome,
    phase::Phase,
    usage::Usage,
    wire::{Body, Directive, Record},
};
use std::time::Duration;

const DAY: u64 = 24 * 3600;
const WEEK: Duration = Duration::from_secs(7 * DAY);

fn reading(seq: u64, at: i64, memory: u64, cpu: f64) -> Record {
    let mut usage = Usage::default();
    usage.cgroup.memory_working_set_bytes = Some(memory);
    usage.cgroup.cpu_seconds = Some(cpu);
    Record { seq, at: Millis(at), body: Body::Usage { usage: Box::new(usage) } }
}

on_each_database! {
    async fn readings_are_rolled_up_by_five_minutes_and_then_dropped(fresh: Fresh) {
        let runs = fresh.executing(&job("runs", false)).await;
        let ended = fresh.executing(&job("ended", false)).await;
        let readings = || vec![reading(10, 599_999, 5, 1.0), reading(11, 600_000, 100, 2.5), reading(12, 899_999, 300, 4.5), reading(13, 900_000, 7, 5.0)];
        assert_eq!(fresh.append(&runs, "n", readings()).await, Directive::Continue);
        assert_eq!(fresh.append(&ended, "n", readings()).await, Directive::Continue);
        fresh.append(&ended, "n", vec![phase(20, Phase::Stopping), end(21, Outcome::Failed { exit_code: 1 })]).await;
        let ended_ago = async |days: u64| {
            let ms = sendo::ledger::now().0 - i64::try_from(days * DAY * 1000).unwrap();
            fresh.place.execute(&format!("UPDATE attempts SET ended_at_ms = {ms} WHERE job_id = 'ended'")).await;
        };
        ended_ago(6).await;
        assert_eq!(fresh.ledger.roll_up_readings(WEEK, 10).await.unwrap(), 0, "not yet");
        ended_ago(8).await;
        assert_eq!(fresh.ledger.roll_up_readings(WEEK, 10).await.unwrap(), 1);
        assert_eq!(fresh.ledger.roll_up_readings(WEEK, 10).await.unwrap(), 0, "once");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats WHERE job_id = 'ended'").await, 0);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats WHERE job_id = 'runs'").await, 4, "what runs stays raw");
        let beats = fresh.ledger.heartbeats("ended", None, (i64::MIN, 0), 100).await.unwrap();
        let told: Vec<_> = beats.iter().map(|beat| (beat.at_ms, beat.memory_working_set_bytes, beat.cpu_seconds)).collect();
        assert_eq!(told, [(300_000, Some(5), Some(1.0)), (600_000, Some(300), Some(4.5)), (900_000, Some(7), Some(5.0))]);
        let middle = "SELECT COUNT(*) FROM heartbeats_5m WHERE at_ms = 600000 AND readings = 2 AND memory_working_set_bytes_avg = 200";
        assert_eq!(fresh.count(middle).await, 1);
        assert_eq!(fresh.ledger.drop_rolled_up(WEEK, 10).await.unwrap(), 0, "not yet");
        let ms = sendo::ledger::now().0 - i64::try_from(8 * DAY * 1000).unwrap();
        fresh.place.execute(&format!("UPDATE attempts SET readings_rolled_up_ms = {ms} WHERE job_id = 'ended'")).await;
        assert_eq!(fresh.ledger.drop_rolled_up(WEEK, 10).await.unwrap(), 1);
        assert_eq!(fresh.ledger.drop_rolled_up(WEEK, 10).await.unwrap(), 0, "once");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats_5m").await, 0);
        assert_eq!(fresh.phase("ended").await, "failed", "the job itself stays");
    }
}
