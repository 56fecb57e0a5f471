use super::*;
use crate::{
    ledger::Running,
    record::{Millis, wire::AttemptId},
};
use proptest::prelude::*;

fn waiting(id: usize, tenant: u8, definition: u8, incremental: bool) -> Waiting {
    Waiting {
        id: id.to_string(),
        tenant: tenant.to_string(),
        definition: definition.to_string(),
        priority: 0,
        incremental,
        queued_at: Millis(0),
        not_before: Millis(i64::try_from(id).unwrap()),
    }
}

fn running(id: usize, job: &Waiting) -> Running {
    Running {
        id: AttemptId { job: format!("r{id}"), attempt: 1 },
        cluster: "here".into(),
        launching: false,
        tenant: job.tenant.clone(),
        definition: job.definition.clone(),
        incremental: job.incremental,
    }
}

fn counted(running: &[Running]) -> Counts {
    let mut counts = Counts::default();
    running.iter().for_each(|running| counts.add(running));
    counts
}

/// A line a tenant and priority, in order.
fn lines(jobs: &[Waiting]) -> Vec<Vec<Waiting>> {
    let mut lines: std::collections::BTreeMap<(i32, String), Vec<Waiting>> = Default::default();
    jobs.iter().for_each(|job| lines.entry((job.priority, job.tenant.clone())).or_default().push(job.clone()));
    lines.into_values().collect()
}

fn limits(max_running: usize) -> Limits {
    Limits { max_running, ..Limits::default() }
}

/// Jobs that all take one round, in as many slots as there are; tells in which round each went.
fn rounds(mut queue: Vec<Waiting>, slots: usize, limits: &Limits, pauses: &Pauses) -> HashMap<String, usize> {
    let (mut fair, mut went) = (Fair::default(), HashMap::new());
    for round in 0.. {
        let given = admit(lines(&queue), limits, pauses, &Counts::default(), &mut fair, slots);
        if given.is_empty() {
            return went;
        }
        for permit in given {
            let job = permit.into_job();
            queue.retain(|other| other.id != job.id);
            went.insert(job.id, round);
        }
    }
    unreachable!("a queue that only shrinks ends")
}

/// Tenant, definition, incremental, priority.
type Asked = (u8, u8, bool, i32);

fn asked() -> impl Strategy<Value = Asked> {
    (0_u8..5, 0_u8..3, any::<bool>(), 0..3)
}

fn queue(asked: &[Asked]) -> Vec<Waiting> {
    let job = |(id, (tenant, definition, incremental, priority)): (usize, &Asked)| Waiting {
        priority: *priority,
        ..waiting(id, *tenant, *definition, *incremental)
    };
    asked.iter().enumerate().map(job).collect()
}

proptest! {
    #[test]
    fn no_limit_is_passed_and_nothing_paused_goes(
        queue in proptest::collection::vec(asked(), 0..60).prop_map(|asked| queue(&asked)),
        alive in proptest::collection::vec(asked(), 0..10).prop_map(|asked| queue(&asked)),
        (room, tenant, definition, paused) in (0_usize..20, 0_usize..6, 0_usize..4, 0_u8..5),
    ) {
        let alive: Vec<_> = alive.iter().enumerate().map(|(id, job)| running(id, job)).collect();
        let limits = Limits { per_tenant: Some(tenant), per_definition: Some(definition), ..limits(100) };
        let pauses = Pauses { tenants: [paused.to_string()].into(), definitions: ["1/2".to_owned()].into(), ..Pauses::default() };
        let counts = counted(&alive);
        let given = admit(lines(&queue), &limits, &pauses, &counts, &mut Fair::default(), room);
        prop_assert!(given.len() <= room);
        let given: Vec<Waiting> = given.into_iter().map(Permit::into_job).collect();
        let is_new = given.iter().map(|job| &job.id).collect::<HashSet<_>>().len() == given.len();
        prop_assert!(is_new, "a permit a job");
        prop_assert!(given.iter().all(|job| job.tenant != paused.to_string() && (&*job.tenant, &*job.definition) != ("1", "2")));
        let mut all = alive.clone();
        all.extend(given.iter().enumerate().map(|(id, job)| running(1000 + id, job)));
        let after = counted(&all);
        for job in &given {
            let definition_key = (job.tenant.clone(), job.definition.clone());
            prop_assert!(after.tenants[&job.tenant] <= tenant);
            prop_assert!(after.definitions[&definition_key] <= definition);
            if job.incremental {
                prop_assert_eq!(after.incremental[&definition_key], 1);
            }
        }
    }

    #[test]
    fn no_slot_stays_empty_while_somebody_may_go(
        queue in proptest::collection::vec(asked(), 0..60).prop_map(|asked| queue(&asked)),
        (room, tenant, definition) in (0_usize..20, 0_usize..6, 0_usize..4),
    ) {
        let limits = Limits { per_tenant: Some(tenant), per_definition: Some(definition), ..limits(100) };
        let pauses = Pauses::default();
        let given = admit(lines(&queue), &limits, &pauses, &Counts::default(), &mut Fair::default(), room);
        if given.len() < room {
            let given: Vec<Waiting> = given.into_iter().map(Permit::into_job).collect();
            let mut counts = Counts::default();
            given.iter().for_each(|job| counts.give(job));
            let policy = Policy { limits: &limits, pauses: &pauses, counts: &counts, given: &Counts::default() };
            let left = queue.iter().find(|job| {
                !given.iter().any(|other| other.id == job.id) && policy.takes(&job.tenant) && policy.is_free(job)
            });
            prop_assert!(left.is_none(), "{left:?} might have gone");
        }
    }

    #[test]
    fn a_higher_priority_goes_first(
        queue in proptest::collection::vec(asked(), 0..60).prop_map(|asked| queue(&asked)),
        room in 1_usize..20,
    ) {
        let given = admit(lines(&queue), &limits(100), &Pauses::default(), &Counts::default(), &mut Fair::default(), room);
        let priorities: Vec<_> = given.into_iter().map(|permit| Reverse(permit.into_job().priority)).collect();
        prop_assert!(priorities.is_sorted());
    }

    #[test]
    fn inside_a_tenant_the_longest_ready_goes_first(count in 1_usize..30, room in 1_usize..30) {
        let queue: Vec<_> = (0..count).map(|id| waiting(id, 1, 0, false)).collect();
        let given = admit(lines(&queue), &limits(100), &Pauses::default(), &Counts::default(), &mut Fair::default(), room);
        let order: Vec<usize> = given.into_iter().map(|permit| permit.into_job().id.parse().unwrap()).collect();
        prop_assert!(order.is_sorted() && order.len() == count.min(room));
    }

    #[test]
    fn a_flood_delays_another_tenants_first_job_by_no_slots_time(flood in 1_usize..300, running_now in 0_usize..8, others in 1_u8..5) {
        // Whatever the flood has running, and whatever turns it had: the next free slots are the others'.
        let mut queue: Vec<_> = (0..flood).map(|id| waiting(id, 0, 0, false)).collect();
        let mut fair = Fair::default();
        let alive: Vec<_> = (0..running_now).map(|id| running(id, &queue[0])).collect();
        admit(lines(&queue), &limits(1000), &Pauses::default(), &Counts::default(), &mut fair, flood.min(20));
        queue.extend((1..=others).map(|tenant| waiting(flood + usize::from(tenant), tenant, 0, false)));
        let room = usize::from(others) + usize::from(running_now == 0);
        let given = admit(lines(&queue), &limits(1000), &Pauses::default(), &counted(&alive), &mut fair, room);
        let tenants: HashSet<String> = given.into_iter().map(|permit| permit.into_job().tenant).collect();
        prop_assert!((1..=others).all(|tenant| tenants.contains(&tenant.to_string())), "{tenants:?}");
    }

    #[test]
    fn nobody_starves(
        queue in proptest::collection::vec((0_u8..6, 0_u8..3), 1..80),
        weights in proptest::collection::vec(1_u32..10, 6),
        slots in 1_usize..6,
    ) {
        let queue: Vec<_> = queue.iter().enumerate().map(|(id, (tenant, definition))| waiting(id, *tenant, *definition, false)).collect();
        let mut limits = limits(1000);
        for (tenant, weight) in (0_u8..).zip(weights) {
            limits.tenants.insert(tenant.to_string(), TenantLimits { max_running: None, weight });
        }
        let went = rounds(queue.clone(), slots, &limits, &Pauses::default());
        prop_assert_eq!(went.len(), queue.len(), "everybody went");
        // A tenant's first job waits for one turn of each other tenant at the most.
        for tenant in 0..6_u8 {
            let first = queue.iter().filter(|job| job.tenant == tenant.to_string()).map(|job| went[&job.id]).min();
            prop_assert!(first.is_none_or(|first| first <= 6 / slots), "{first:?}");
        }
    }
}

#[test]
fn tenants_with_enough_to_do_share_by_weight() {
    let queue: Vec<_> = (0..400).map(|id| waiting(id, u8::try_from(id % 2).unwrap(), 0, false)).collect();
    let mut limits = limits(1000);
    limits.tenants.insert("0".into(), TenantLimits { max_running: None, weight: 3 });
    let given = admit(lines(&queue), &limits, &Pauses::default(), &Counts::default(), &mut Fair::default(), 100);
    let heavy = given.into_iter().filter(|permit| permit.job.tenant == "0").count();
    assert_eq!(heavy, 75);
    // One slot only, so that nobody ever runs anything when it is given: the clock alone decides.
    let went = rounds(queue, 1, &limits, &Pauses::default());
    let heavy = went.iter().filter(|(id, round)| id.parse::<usize>().unwrap() % 2 == 0 && **round < 100).count();
    assert!((74..=76).contains(&heavy), "{heavy}");
}

#[test]
fn a_tenant_that_was_away_has_saved_nothing_up() {
    let mut fair = Fair::default();
    let often: Vec<_> = (0..50).map(|id| waiting(id, 1, 0, false)).collect();
    admit(lines(&often), &limits(100), &Pauses::default(), &Counts::default(), &mut fair, 50);
    let both: Vec<_> = (0..40).map(|id| waiting(id, u8::try_from(id % 2).unwrap(), 0, false)).collect();
    let given = admit(lines(&both), &limits(100), &Pauses::default(), &Counts::default(), &mut fair, 20);
    assert_eq!(given.into_iter().filter(|permit| permit.job.tenant == "0").count(), 10);
}

#[test]
fn the_room_is_the_least_of_all_limits() {
    let limits = Limits { per_cluster: Some(4), ..limits(10) };
    let three = vec![running(0, &waiting(0, 0, 0, false)), running(1, &waiting(1, 0, 0, false))];
    assert_eq!(limits.room(&counted(&three), "here"), 2);
    assert_eq!(limits.room(&counted(&three), "there"), 4);
    assert_eq!(Limits { max_running: 1, ..limits }.room(&counted(&three), "there"), 0);
}
