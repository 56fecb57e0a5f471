//! What a database does to a ledger, and what may not come of it: a verb that is lost, or applied twice.

use super::fresh::*;
use crate::env::{
    self,
    cut::{At, Cut},
    databases::{Server, databases},
    ledgers::{Database, Place},
};
use sendo::{
    ledger::{Accepted, Cancelled, Ledger, Options, Retried},
    record::{
        outcome::Outcome,
        phase::Phase,
        wire::{Directive, GrantAnswer},
    },
};
use sqlx::Executor as _;
use std::time::Duration;

/// How often a condition is looked at. InnoDB shows the same again to whoever asks more often than ten times a second (trx0i_s.cc,
/// CACHE_MIN_IDLE_TIME).
const LOOK: Duration = Duration::from_millis(200);

/// When the transaction began that waits for a lock; 0 while there is none.
const WAITING_ON_POSTGRESQL: &str = "SELECT COALESCE(MAX(EXTRACT(EPOCH FROM xact_start) * 1000000), 0)::bigint FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event_type = 'Lock'";
const WAITING_ON_MARIADB: &str = "SELECT CAST(COALESCE(MAX(UNIX_TIMESTAMP(t.trx_started)), 0) AS SIGNED) \
    FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
    WHERE p.db = DATABASE() AND t.trx_state = 'LOCK WAIT'";

/// Waits until a transaction waits for a lock that is not the one that began then.
async fn wait_for_a_waiting_one(place: &Place, but: i64) -> i64 {
    let sql = if place.database == Database::Postgresql { WAITING_ON_POSTGRESQL } else { WAITING_ON_MARIADB };
    let until = tokio::time::Instant::now() + env::LIMIT;
    loop {
        let began = place.count(sql).await;
        if began != 0 && began != but {
            return began;
        }
        assert!(tokio::time::Instant::now() < until, "the verb never waited");
        tokio::time::sleep(LOOK).await;
    }
}

/// A ledger behind a relay that loses commits.
async fn behind_a_cut(database: Database) -> (Fresh, Cut) {
    let place = Place::new(database);
    let servers = databases();
    let server = if database == Database::Postgresql { &servers.postgresql } else { &servers.mysql };
    let cut = Cut::before(server.port).await;
    let url = place.url.replace(&format!(":{}/", server.port), &format!(":{}/", cut.port));
    // Without encryption: the relay must see a COMMIT.
    let option = if database == Database::Postgresql { "sslmode" } else { "ssl-mode" };
    let off = if database == Database::Postgresql { "disable" } else { "disabled" };
    (Fresh { ledger: Ledger::open(&format!("{url}?{option}={off}"), policy).await.unwrap(), place }, cut)
}

fn a_lost_commit_is_resolved(database: Database, at: At) {
    runtime().block_on(async {
        let (fresh, cut) = behind_a_cut(database).await;
        let ledger = &fresh.ledger;
        cut.arm(at);
        let accepted = ledger.accept(&job("a", false), "digest", 0).await.unwrap();
        assert_eq!(accepted, if at == At::Answer { Accepted::Known } else { Accepted::New });
        let owner = owner(ledger).await;
        cut.arm(at);
        let order = ledger.begin_launch(&owner, "a", "here", "first".into()).await.unwrap().expect("it is ours");
        assert_eq!((order.id.attempt, order.uid.as_str()), (1, "first"));
        // Of one whose cluster chooses the UID nothing is known but that it is ours.
        cut.arm(At::Never);
        ledger.accept(&job("b", false), "digest", 0).await.unwrap();
        cut.arm(at);
        let nameless = ledger.begin_launch(&owner, "b", "here", String::new()).await.unwrap().expect("it is ours, too");
        assert_eq!((nameless.id.attempt, nameless.uid.as_str()), (1, ""));
        cut.arm(at);
        ledger.launched(&order.id, "uid").await.unwrap();
        cut.arm(at);
        let request = sendo::record::wire::GrantRequest { id: order.id.clone(), nonce: "n".into() };
        let granted = ledger.grant(&request, "first", "00".into(), TERMS).await.unwrap();
        assert!(matches!(granted, GrantAnswer::Granted(_)), "{granted:?}");
        for (n, records) in [
            vec![phase(1, Phase::Executing)],
            vec![usage(2), usage(3)],
            vec![phase(4, Phase::Stopping), end(5, Outcome::Killed { signal: 9 })],
        ]
        .into_iter()
        .enumerate()
        {
            cut.arm(at);
            assert_eq!(fresh.append(&order.id, "n", records).await, Directive::Continue, "batch {n}");
        }
        cut.arm(at);
        ledger.refuse("q", "m", None, "bad", "d").await.unwrap();
        cut.arm(at);
        ledger.refuse("q", "m", None, "bad", "d").await.unwrap();
        cut.arm(at);
        assert_eq!(ledger.cancel("a", "enough").await.unwrap(), Cancelled::AtOnce);
        cut.arm(at);
        assert_eq!(ledger.retry("a", Some(1), "again").await.unwrap(), Retried::Queued);
        cut.arm(At::Never);
        assert_eq!(cut.cuts(), 12, "each verb lost its commit once");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM attempts").await, 2);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats").await, 2);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM records").await, 3);
        assert_eq!(fresh.count("SELECT times FROM refusals").await, 2);
        let phases: Vec<_> = ledger.job("a").await.unwrap().transitions.into_iter().map(|step| step.to_phase).collect();
        let expected = ["queued", "setting_up", "executing", "stopping", "queued", "cancelled", "queued"];
        assert_eq!(phases, expected);
    });
}

#[test]
fn a_commit_that_postgresql_never_got_is_made_again() {
    a_lost_commit_is_resolved(Database::Postgresql, At::Request);
}

#[test]
fn a_commit_whose_answer_from_postgresql_was_lost_is_not_applied_twice() {
    a_lost_commit_is_resolved(Database::Postgresql, At::Answer);
}

#[test]
fn a_commit_that_mariadb_never_got_is_made_again() {
    a_lost_commit_is_resolved(Database::Mariadb, At::Request);
}

#[test]
fn a_commit_whose_answer_from_mariadb_was_lost_is_not_applied_twice() {
    a_lost_commit_is_resolved(Database::Mariadb, At::Answer);
}

/// The session holds the attempt's row and asks for the job's, the verb the other way round: the session gets through only if the verb's
/// transaction is rolled back, and the verb only if it is tried again.
fn a_deadlock_is_survived(database: Database) {
    runtime().block_on(async {
        let place = Place::new(database);
        let fresh = Fresh { ledger: Ledger::open(&place.url, policy).await.unwrap(), place };
        let id = fresh.executing(&job("a", false)).await;
        for n in 0..50 {
            fresh.ledger.accept(&job(&format!("other {n}"), false), "d", 0).await.unwrap();
        }
        let mut session = fresh.place.session().await;
        session.execute("BEGIN").await.unwrap();
        // The more a transaction has changed, the less it is the victim.
        session.execute("UPDATE jobs SET priority = 5 WHERE id <> 'a'").await.unwrap();
        session.execute("UPDATE attempts SET conflicts = 7").await.unwrap();
        let ledger = fresh.ledger.clone();
        let verb = tokio::spawn(async move {
            let ending = ending(Outcome::Failed { exit_code: 1 }, None);
            let end = sendo::ledger::AttemptEnd {
                ending,
                evidence: sendo::record::outcome::Evidence::ExitCode,
                at: sendo::ledger::now(),
            };
            ledger.end_attempt(&id, end).await
        });
        wait_for_a_waiting_one(&fresh.place, 0).await;
        session.execute("UPDATE jobs SET priority = 5 WHERE id = 'a'").await.expect("the verb is the victim");
        session.execute("COMMIT").await.unwrap();
        verb.await.unwrap().unwrap();
        assert_eq!(fresh.phase("a").await, "failed");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM transitions WHERE job_id = 'a' AND to_phase = 'failed'").await, 1);
    });
}

#[test]
fn a_deadlock_on_postgresql_is_tried_again() {
    a_deadlock_is_survived(Database::Postgresql);
}

#[test]
fn a_deadlock_on_mariadb_is_tried_again() {
    a_deadlock_is_survived(Database::Mariadb);
}

/// Kills the server while many write; what was acknowledged is there, and nothing is there twice.
fn a_crash_loses_and_doubles_nothing(database: Database, mut server: Server) {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    runtime().block_on(async {
        let url = database.url(&server, env::databases::DATABASE);
        let ledger = Ledger::open(&url, policy).await.unwrap();
        let place = Place::on(database, url);
        let fresh = Fresh { ledger, place };
        let (done, mut progress) = tokio::sync::mpsc::unbounded_channel();
        let mut writers = Vec::new();
        for n in 0..WRITERS {
            let id = fresh.executing(&job(&format!("j{n}"), false)).await;
            let (ledger, done) = (fresh.ledger.clone(), done.clone());
            writers.push(tokio::spawn(async move {
                for seq in 0..EACH as u64 {
                    let records = vec![usage(2 + 2 * seq), phase(3 + 2 * seq, Phase::Executing)];
                    let batch = sendo::record::wire::RecordBatch { id: id.clone(), source: "n".into(), records };
                    let more = job(&format!("j{n}.{seq}"), false);
                    // As supervisors and schedulers do: what was not answered is asked again.
                    while ledger.append(&batch, EVERY).await.is_err() || ledger.accept(&more, "d", 0).await.is_err() {}
                    done.send(()).unwrap();
                }
            }));
        }
        for step in 1..=WRITERS * EACH {
            let next = tokio::time::timeout(env::LIMIT, progress.recv()).await;
            next.expect("the writers go on").unwrap();
            if step == WRITERS * EACH / 4 || step == WRITERS * EACH / 2 {
                server.crash(u32::from(step == WRITERS * EACH / 2));
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let all = (WRITERS * EACH) as i64;
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats").await, all);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM records").await, all + WRITERS as i64);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM jobs").await, all + WRITERS as i64);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM transitions").await, all + 3 * WRITERS as i64);
    });
}

#[test]
fn a_crash_of_postgresql_loses_and_doubles_nothing() {
    a_crash_loses_and_doubles_nothing(Database::Postgresql, Server::postgresql());
}

#[test]
fn a_crash_of_mariadb_loses_and_doubles_nothing() {
    a_crash_loses_and_doubles_nothing(Database::Mariadb, Server::mariadb());
}

/// A fail-over whose new sessions may not write yet, and whose old ones are ended.
#[test]
fn a_postgresql_that_became_read_only_is_asked_again_until_it_is_not() {
    runtime().block_on(async {
        let place = Place::new(Database::Postgresql);
        let fresh = Fresh { ledger: Ledger::open(&place.url, policy).await.unwrap(), place };
        let name = fresh.place.url.rsplit_once('/').unwrap().1.to_owned();
        let elsewhere = Place::new(Database::Postgresql);
        elsewhere.execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
        let ended = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname";
        elsewhere.count(&format!("{ended} = '{name}'")).await;
        let ledger = fresh.ledger.clone();
        let verb = tokio::spawn(async move { ledger.accept(&job("a", false), "digest", 0).await });
        let refused = format!("SELECT xact_rollback FROM pg_stat_database WHERE datname = '{name}'");
        let (before, until) = (elsewhere.count(&refused).await, tokio::time::Instant::now() + env::LIMIT);
        while elsewhere.count(&refused).await < before + 2 {
            assert!(tokio::time::Instant::now() < until && !verb.is_finished(), "the verb was never refused");
            tokio::time::sleep(LOOK).await;
        }
        elsewhere.execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
        assert_eq!(verb.await.unwrap().unwrap(), Accepted::New);
    });
}

/// The address of a user of the test's own, who may have so many connections.
async fn limited(place: &Place, connections: u32) -> String {
    let (user, password) = (format!("few_{}", place.url.rsplit_once('/').unwrap().1), env::databases::PASSWORD);
    let setup = if place.database == Database::Postgresql {
        format!(
            "CREATE ROLE {user} LOGIN CONNECTION LIMIT {connections} PASSWORD '{password}'; GRANT ALL ON SCHEMA public TO {user}; \
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"
        )
    } else {
        place.execute(&format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}'")).await;
        format!("GRANT ALL ON *.* TO '{user}'@'127.0.0.1' WITH MAX_USER_CONNECTIONS {connections}")
    };
    place.execute(&setup).await;
    place.url.replace("//sendo:", &format!("//{user}:"))
}

#[test]
fn a_postgresql_without_room_for_us_is_waited_for() {
    runtime().block_on(async {
        let place = Place::new(Database::Postgresql);
        drop(Ledger::open(&place.url, policy).await.unwrap());
        let url = limited(&place, 1).await;
        let options = Options { connections: Some(1) };
        let ledger = Ledger::open_with(&url, options, policy).await.unwrap();
        // Our one connection is ended, and somebody else takes its place.
        place.count("SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename LIKE 'few%' AND datname = current_database()").await;
        let until = tokio::time::Instant::now() + env::LIMIT;
        let other = Place::on(Database::Postgresql, url);
        let session = loop {
            assert!(tokio::time::Instant::now() < until, "the connection never ended");
            if let Ok(session) = other.try_session().await {
                break session;
            }
        };
        let role = other.url.split(['/', ':']).find(|word| word.starts_with("few_")).unwrap();
        let refused = format!("too many connections for role \"{role}\"");
        let refusals = || databases().postgresql.log().matches(&refused).count();
        let (before, until) = (refusals(), tokio::time::Instant::now() + env::LIMIT);
        let verb = tokio::spawn(async move { ledger.accept(&job("a", false), "digest", 0).await });
        while refusals() < before + 2 {
            assert!(tokio::time::Instant::now() < until && !verb.is_finished(), "the verb was never refused");
            tokio::time::sleep(LOOK).await;
        }
        assert!(!verb.is_finished());
        drop(session);
        assert_eq!(verb.await.unwrap().unwrap(), Accepted::New);
    });
}

#[test]
fn a_mariadb_that_lets_few_of_us_in_serves_all() {
    runtime().block_on(async {
        let place = Place::new(Database::Mariadb);
        let ledger = Ledger::open(&limited(&place, 2).await, policy).await.unwrap();
        let verbs: Vec<_> = (0..40)
            .map(|n| {
                let ledger = ledger.clone();
                tokio::spawn(async move { ledger.accept(&job(&format!("j{n}"), false), "digest", 0).await })
            })
            .collect();
        for verb in verbs {
            assert_eq!(verb.await.unwrap().unwrap(), Accepted::New);
        }
    });
}

#[test]
fn a_wait_for_a_lock_that_is_too_long_is_begun_anew() {
    runtime().block_on(async {
        let wait = async |database: Database| {
            let place = Place::new(database);
            let fresh = Fresh { ledger: Ledger::open(&place.url, policy).await.unwrap(), place };
            fresh.ledger.accept(&job("a", false), "digest", 0).await.unwrap();
            let mut session = fresh.place.session().await;
            session.execute("BEGIN").await.unwrap();
            session.execute("UPDATE jobs SET priority = 5").await.unwrap();
            let (ended, ()) = tokio::join!(fresh.ledger.cancel("a", "enough"), async {
                let first = wait_for_a_waiting_one(&fresh.place, 0).await;
                wait_for_a_waiting_one(&fresh.place, first).await;
                session.execute("COMMIT").await.unwrap();
            });
            assert_eq!(ended.unwrap(), Cancelled::AtOnce);
            assert_eq!(fresh.count("SELECT COUNT(*) FROM transitions WHERE to_phase = 'cancelled'").await, 1);
        };
        tokio::join!(wait(Database::Postgresql), wait(Database::Mariadb));
    });
}

#[test]
fn a_server_that_is_away_and_a_wrong_password_are_told_without_the_password() {
    runtime().block_on(async {
        for database in [Database::Postgresql, Database::Mariadb] {
            let url = Place::new(database).url.replace(env::databases::PASSWORD, "Zs3-wrong");
            let error = Ledger::open(&url, policy).await.err().expect("nobody gets in").to_string();
            assert!(error.contains("sendo") && !error.contains("Zs3"), "{error}");
        }
    });
}
