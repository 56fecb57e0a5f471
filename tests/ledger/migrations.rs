//! The tables come about once, whoever is killed or comes first, and two releases can live with them.

use super::fresh::*;
use crate::env::{self, ledgers::Place, sendo};
use sendo::{
    ledger::{Error, Ledger},
    record::{phase::Phase, wire::Directive},
};
use std::process::Stdio;

const STEPS: &str = "SELECT COUNT(*) FROM _sqlx_migrations WHERE success";

/// Whether everything is there, by use.
async fn is_whole(place: Place) {
    let fresh = Fresh { ledger: Ledger::open(&place.url, policy).await.unwrap(), place };
    let id = fresh.executing(&job("whole", false)).await;
    assert_eq!(fresh.append(&id, "n", vec![usage(2)]).await, Directive::Continue);
    assert!(fresh.ledger.acquire_lease("t", "h", std::time::Duration::ZERO).await.unwrap().is_some());
    assert_eq!(fresh.count("SELECT COUNT(*) FROM lingering").await, 0);
    assert_eq!(fresh.count("SELECT COUNT(*) FROM ledger_format").await, 1);
    let last = fresh.count("SELECT MAX(version) FROM _sqlx_migrations").await;
    assert_eq!(fresh.count(STEPS).await, last);
}

async fn opened(place: &Place) -> Result<Ledger, Error> {
    Ledger::open(&place.url, policy).await
}

fn on_a_place(database: Database, test: impl AsyncFnOnce(Place)) {
    runtime().block_on(async { tokio::time::timeout(env::LIMIT, test(Place::new(database))).await.expect("in time") });
}

use crate::env::ledgers::Database;

const ALL: [Database; 3] = [Database::Sqlite, Database::Postgresql, Database::Mariadb];

#[test]
fn many_that_start_at_once_make_the_tables_once() {
    for database in ALL {
        on_a_place(database, async |place| {
            let place = std::sync::Arc::new(place);
            let all: Vec<_> = (0..8)
                .map(|_| {
                    let place = std::sync::Arc::clone(&place);
                    tokio::spawn(async move { opened(&place).await.map(drop) })
                })
                .collect();
            for one in all {
                one.await.unwrap().unwrap();
            }
            is_whole(std::sync::Arc::into_inner(place).unwrap()).await;
        });
    }
}

#[test]
fn a_start_killed_in_the_middle_is_finished_by_the_next() {
    for database in [Database::Postgresql, Database::Mariadb] {
        for steps in [1, 8, 19, 27, 32] {
            let place = Place::new(database);
            let home = env::scratch();
            let settings = home.path().join("sendo.toml");
            std::fs::write(&settings, "listen = \"127.0.0.1:0\"\n").unwrap();
            let mut command = sendo();
            command.args(["serve", "--config"]).arg(&settings).env("SENDO_DATABASE_URL", &place.url);
            command.current_dir(home.path()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut serve = command.spawn().unwrap();
            runtime().block_on(async {
                let until = tokio::time::Instant::now() + env::LIMIT;
                while place.try_count(STEPS).await.unwrap_or_default() < steps {
                    assert!(tokio::time::Instant::now() < until, "no step was taken");
                }
            });
            serve.kill().unwrap();
            serve.wait().unwrap();
            runtime().block_on(is_whole(place));
        }
    }
}

/// What MySQL's way leaves behind: the step's row is written before the step, and says afterwards that it was done.
#[test]
fn a_step_that_was_done_or_not_and_never_recorded_is_found_out() {
    for undo in ["SELECT 1", "DROP TABLE heartbeats_5m"] {
        on_a_place_then(Database::Mariadb, undo);
    }
}

fn on_a_place_then(database: Database, undo: &'static str) {
    runtime().block_on(async {
        let place = Place::new(database);
        drop(opened(&place).await.unwrap());
        place.execute(undo).await;
        place.execute("UPDATE _sqlx_migrations SET success = FALSE WHERE description = 'heartbeats 5m'").await;
        is_whole(place).await;
    });
}

on_each_database! {
    async fn a_ledger_of_a_newer_release_or_another_build_is_refused_by_name(fresh: Fresh) {
        fresh.place.execute("UPDATE ledger_format SET oldest_reader = 99").await;
        let refused = opened(&fresh.place).await.err();
        assert!(matches!(refused, Some(Error::Newer { oldest_reader: 99, .. })), "{refused:?}");
        fresh.place.execute("UPDATE ledger_format SET oldest_reader = 1").await;
        opened(&fresh.place).await.unwrap();
        fresh.place.execute("UPDATE _sqlx_migrations SET checksum = (SELECT * FROM (SELECT checksum FROM _sqlx_migrations WHERE version = 1) AS one) \
                             WHERE version = 7").await;
        let refused = opened(&fresh.place).await.err();
        assert!(matches!(refused, Some(Error::OtherBuild(7))), "{refused:?}");
    }

    async fn a_release_goes_on_while_a_newer_one_widens_its_tables(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        // The statements are prepared on the connections by now.
        for _ in 0..20 {
            fresh.ledger.job("a").await.unwrap();
        }
        fresh.place.execute("ALTER TABLE attempts ADD COLUMN later BIGINT").await;
        fresh.place.execute("ALTER TABLE transitions ADD COLUMN later BIGINT").await;
        fresh.place.execute("ALTER TABLE heartbeats ADD COLUMN later BIGINT").await;
        fresh.place.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                             SELECT 9999, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1").await;
        for seq in 2..20 {
            assert_eq!(fresh.append(&id, "n", vec![usage(seq)]).await, Directive::Continue);
            assert_eq!(fresh.ledger.job("a").await.unwrap().summary.phase, "executing");
        }
        assert_eq!(fresh.append(&id, "n", vec![phase(20, Phase::Stopping)]).await, Directive::Continue);
        drop(opened(&fresh.place).await.unwrap());
    }
}
