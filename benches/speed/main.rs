//! From SQS to Pods, as fast as the API server takes them? `make bench`, which adds a section to `docs/benchmarks.md`.
//!
//! Everything is real: ElasticMQ, PostgreSQL, etcd and kube-apiserver, and the release build of `sendo serve` with the shipped roles. All of it shares
//! this machine, so that only ratios within one run mean anything. Each part has a control plane of its own, started for it: what one part has put into
//! etcd slows no other down. No scheduler runs: what is created stays as it is. The way to a spawned
//! transfer alone has a scheduler and a real kubelet.

#[path = "../../tests/env/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod env;
mod flood;
mod jobs;
mod lonely;
mod plane;
mod program;
#[path = "../section.rs"]
mod section;
mod source;
mod spawned;
mod spike;

use flood::Flood;
use spike::Spike;

const TITLE: &str = "From SQS to Pods";
const PODS: usize = 10_000;
/// Rounds of what is compared, in turn; the median counts.
const ROUNDS: usize = 3;
const GOAL: f64 = 0.6;

fn main() {
    let surroundings = spike::Surroundings::start();
    // A small one first: what has never run is slower, and it gives the Pod that the plain clients flood with.
    let small = Spike::run(&surroundings, PODS / 10);
    print!("{}", small.cost());
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let [few, many] = [16, 64].map(|clients| Flood::run(&small.pod, PODS, clients));
        let spike = Spike::run(&surroundings, PODS);
        println!(
            "round {round}: sendo {:.0} Pods/s; a plain client {:.0} with 16 at once, {:.0} with 64",
            spike.rate(),
            few.rate(),
            many.rate()
        );
        rounds.push((few, many, spike));
    }
    let intake = spike::intake(&surroundings, PODS);
    let lonely = lonely::run(&surroundings);
    let spawned = spawned::run(&surroundings);
    let controller = jobs::run(&small.pod, PODS);
    let text = report(&small, &rounds, intake, &lonely.table(), &spawned.table(), &controller);
    print!("{text}");
    section::put(TITLE, &text);
}

fn report(
    small: &Spike,
    rounds: &[(Flood, Flood, Spike)],
    intake: f64,
    lonely: &str,
    spawned: &str,
    jobs: &[jobs::Run],
) -> String {
    type Figure<'a> = &'a dyn Fn(&(Flood, Flood, Spike)) -> f64;
    let each = |figure: Figure<'_>| rounds.iter().map(figure).collect::<Vec<_>>();
    let median = |figure: Figure<'_>| plane::at(&each(figure), 50);
    let (few, many, sendo) =
        (median(&|round| round.0.rate()), median(&|round| round.1.rate()), median(&|round| round.2.rate()));
    // This machine is another one from minute to minute: what is compared ran next to each other.
    let of_few: Figure<'_> = &|round| round.2.rate() / round.0.rate();
    let of_many: Figure<'_> = &|round| round.2.rate() / round.1.rate();
    let list = |shares: Vec<f64>| shares.iter().map(|share| format!("{share:.2}")).collect::<Vec<_>>().join(", ");
    let whole = &rounds[rounds.len() / 2].2;
    let mut text = format!(
        "Real ElasticMQ, PostgreSQL, etcd and kube-apiserver (no scheduler but where a transfer is spawned; a fresh control plane for each part), and the release build of \
         `sendo serve` with the shipped roles, all on this machine; databases and etcd write without fsync. The plain client sends the very Pods \
         that Sendo makes, from bodies that it has ready, over HTTP/1.1.\n\n\
         ### Spike: {PODS} messages wait\n\n\
         From the start of `sendo serve` until all Pods exist, each job's once; the median of {} rounds in turn.\n\n\
         | | Pods/s | share of the raw rate, 16 at once | 64 at once | goal |\n| --- | --- | --- | --- | --- |\n\
         | plain client, 16 at once | {few:.0} | 1 | - | - |\n| plain client, 64 at once | {many:.0} | - | 1 | - |\n\
         | sendo | {sendo:.0} | {:.2} | {:.2} | ≥ {GOAL} |\n\n\
         The shares of the single rounds: {} of 16 at once, {} of 64.\n",
        rounds.len(),
        median(of_few),
        median(of_many),
        list(each(of_few)),
        list(each(of_many)),
    );
    text.push_str(&format!("\nIntake alone, nothing being launched: {intake:.0} messages/s into PostgreSQL.\n"));
    text.push_str("\nThe same as Kubernetes Jobs, whose Pods the Job controller makes; the Jobs are created by the plain client, 64 at once.\n\n");
    text.push_str("| | to the first Pod | to the last | Pods/s |\n| --- | --- | --- | --- |\n");
    text.push_str(&format!(
        "| sendo | {:.1} s | {:.1} s | {sendo:.0} |\n",
        whole.first.as_secs_f64(),
        PODS as f64 / sendo
    ));
    jobs.iter().for_each(|run| text.push_str(&run.row()));
    text.push_str("\n### One lonely message\n\n");
    text.push_str(lonely);
    text.push_str(spawned);
    text.push_str("\n### What a job costs\n\nUntil its Pod exists and the ledger says so.\n\n");
    text.push_str("| jobs | SQL statements a job, BEGIN and COMMIT with them | PostgreSQL's ms a job, planning with it | requests to the API server a job | CPU ms of `sendo serve` a job |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    text.push_str(&small.cost());
    text.push_str(&whole.cost());
    text.push_str("| goal | does not grow | does not grow | does not grow | does not grow |\n");
    text
}
