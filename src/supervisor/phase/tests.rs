//! The state machine under every order of events that a Pod can produce.

use super::*;
use proptest::prelude::*;

fn plan(job: bool) -> Plan {
    let hour = Some(Duration::from_secs(3600));
    Plan {
        job,
        on_term: OnTerm::Finish,
        grace: job.then_some(hour).flatten(),
        deadline: hour,
        grant_wait: Duration::from_secs(600),
        linger: Duration::from_secs(600),
    }
}

/// Runs the events, a second apart, and gives back the state and all actions.
fn play(plan: &Plan, events: Vec<Event>) -> (State, Vec<Action>) {
    let mut now = Instant::now();
    let mut state = State::New;
    let mut all = vec![];
    for event in events {
        now += Duration::from_secs(1);
        let (next, actions) = step(plan, state, event, now);
        state = next;
        all.extend(actions);
    }
    (state, all)
}

fn term(ours: bool) -> Event {
    Event::Signal { signal: SIGTERM, ours }
}

#[test]
fn a_job_asks_before_it_spawns_and_stays_for_the_receipt() {
    let end = Exit::Code(3);
    let (state, actions) = play(
        &plan(true),
        vec![Event::Begin, Event::Granted, Event::Spawned, Event::Exited(end), Event::NothingLeft, Event::Receipt],
    );
    assert_eq!(state, State::Done { code: 3 });
    let conclude = Action::Conclude { exit: end, reason: None, incomplete: false, flush: FLUSH_LIMIT };
    let report = Action::Report(Phase::Executing, "started");
    assert_eq!(actions, [Action::AskGrant, Action::Spawn, report, Action::Sweep(SIGTERM), conclude]);
}

#[test]
fn without_leave_nothing_runs_and_75_says_so() {
    for event in [Event::Refused("bound".into()), term(false), Event::LeaseOver] {
        let (state, actions) = play(&plan(true), vec![Event::Begin, event]);
        assert_eq!(state, State::Done { code: NO_LEAVE });
        assert!(!actions.contains(&Action::Spawn));
    }
}

#[test]
fn a_start_that_came_too_late_is_none() {
    let (state, actions) = play(&plan(true), vec![Event::Begin, Event::Granted, Event::TooLate]);
    assert_eq!(state, State::Done { code: NO_LEAVE });
    assert!(matches!(actions[..], [Action::AskGrant, Action::Spawn, Action::Hint(_)]), "{actions:?}");
}

#[test]
fn a_plain_init_passes_term_on_at_once_and_kills_only_with_a_grace() {
    let plain = plan(false);
    let (state, actions) = play(&plain, vec![Event::Begin, term(false), term(false)]);
    assert_eq!(actions, [Action::Spawn, Action::Send(SIGTERM), Action::Send(SIGTERM)]);
    assert_eq!(state.wake_at(), None);
    let with_grace = Plan { grace: Some(Duration::from_secs(3)), ..plain };
    let (state, _) = play(&with_grace, vec![Event::Begin, term(false)]);
    let (_, actions) = step(&with_grace, state.clone(), Event::Tick, state.wake_at().unwrap());
    assert_eq!(actions, [Action::Send(SIGKILL)]);
}

#[test]
fn asked_to_go_without_a_grace_it_lingers_for_the_last_reports_alone() {
    let endless = Plan { grace: None, deadline: None, ..plan(true) };
    let lingers = |asked: Vec<Event>| {
        let ended = [Event::Exited(Exit::Code(0)), Event::NothingLeft].into();
        let before = Instant::now();
        match play(&endless, [vec![Event::Begin, Event::Granted, Event::Spawned], asked, ended].concat()).0 {
            State::Lingering { until, .. } => until - before,
            other => panic!("{other:?}"),
        }
    };
    assert!(lingers(vec![term(false)]) < Duration::from_secs(60));
    assert!(lingers(vec![]) >= endless.linger);
}

#[test]
fn finish_lets_the_transfer_go_on_and_the_second_term_kills() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, term(false)];
    let (_, actions) = play(&plan(true), begin.clone());
    assert!(actions.contains(&Action::Report(Phase::Stopping, Reason::AskedToGo.as_str())));
    assert!(!actions.contains(&Action::Send(SIGTERM)));
    let (_, actions) = play(&plan(true), [begin, vec![term(false)]].concat());
    assert_eq!(actions.last(), Some(&Action::Send(SIGKILL)));
}

#[test]
fn a_term_from_our_own_descendant_starts_no_drain() {
    let (state, actions) =
        play(&plan(true), vec![Event::Begin, Event::Granted, Event::Spawned, term(true), term(true)]);
    assert!(matches!(state, State::Running { .. }), "{state:?}");
    assert!(!actions.contains(&Action::Send(SIGTERM)));
}

#[test]
fn the_operators_term_and_the_cancel_directive_are_one_cancel() {
    for order in [[term(false), Event::Told(Directive::Cancel)], [Event::Told(Directive::Cancel), term(false)]] {
        let events = [vec![Event::Begin, Event::Granted, Event::Spawned], order.to_vec()].concat();
        let (state, actions) = play(&plan(true), events);
        assert!(actions.contains(&Action::Send(SIGTERM)) && !actions.contains(&Action::Send(SIGKILL)), "{actions:?}");
        assert!(matches!(state, State::Draining(Drain { reason: Reason::Cancelled, .. })), "{state:?}");
    }
}

#[test]
fn a_term_in_another_reasons_drain_starts_its_own_grace() {
    let brief = Plan { grace: Some(Duration::from_secs(5)), ..plan(true) };
    let begin = [Event::Begin, Event::Granted, Event::Spawned];
    for before in [Event::Told(Directive::Cancel), Event::Stalled, Event::StopBy(Instant::now() + brief.linger)] {
        let (state, _) = play(&brief, [&begin[..], std::slice::from_ref(&before)].concat());
        let State::Draining(earlier) = state.clone() else { panic!("{state:?}") };
        let now = Instant::now();
        let (state, _) = step(&brief, state, term(false), now);
        let State::Draining(drain) = state else { panic!("{state:?}") };
        assert_eq!((drain.reason, drain.terms), (earlier.reason, 1));
        assert_eq!(drain.gone_by, Some(now + Duration::from_secs(5)), "{before:?}");
        assert!(drain.kill_at < drain.gone_by && drain.kill_at < earlier.kill_at, "{before:?}: {drain:?}");
    }
}

#[test]
fn a_stuck_reader_gets_half_of_the_time_that_is_left_at_the_most() {
    let begin = [Event::Begin, Event::Granted, Event::Spawned, term(false), Event::Exited(Exit::Code(0))];
    let (state, _) = play(&plan(true), begin.to_vec());
    let State::Sweeping(Sweep { gone_by: Some(gone_by), .. }) = state else { panic!("{state:?}") };
    for (left, expected) in [(3600, FLUSH_LIMIT), (6, Duration::from_secs(3)), (0, Duration::ZERO)] {
        let now = gone_by - Duration::from_secs(left);
        let (_, actions) = step(&plan(true), state.clone(), Event::NothingLeft, now);
        assert!(matches!(actions[..], [Action::Conclude { flush, .. }] if flush == expected), "{left}: {actions:?}");
    }
}

#[test]
fn what_cannot_be_killed_is_left_after_a_time_and_the_ending_says_so() {
    for (job, asked, at_the_latest) in [
        (true, vec![], Duration::from_secs(60)),
        (false, vec![], Duration::from_secs(60)),
        // Half of the grace stays for the ending.
        (true, vec![term(false)], Duration::from_secs(2)),
    ] {
        let plan = Plan { grace: Some(Duration::from_secs(4)), ..plan(job) };
        let begin = [Event::Begin, Event::Granted, Event::Spawned];
        let (state, _) = play(&plan, [&begin[..], &asked].concat());
        let gone_by = if let State::Draining(drain) = &state { drain.gone_by } else { None };
        let now = gone_by.map_or_else(Instant::now, |gone_by| gone_by - Duration::from_secs(4));
        let (mut state, _) = step(&plan, state, Event::Exited(Exit::Code(0)), now);
        let mut all = vec![];
        let mut last = now;
        while matches!(state, State::Sweeping(_)) {
            last = state.wake_at().unwrap();
            let (next, actions) = step(&plan, state, Event::Tick, last);
            state = next;
            all.extend(actions);
        }
        assert_eq!(all.first(), Some(&Action::Sweep(SIGKILL)));
        match all.last() {
            Some(Action::Conclude { incomplete, .. }) => assert!(job && *incomplete),
            other => assert!(!job && matches!(other, Some(Action::Hint(_))), "{other:?}"),
        }
        assert!(last <= now + at_the_latest && gone_by.is_none_or(|gone_by| last < gone_by), "{asked:?}");
    }
}

#[test]
fn an_end_that_we_did_not_bring_about_has_its_own_reason() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, term(false)];
    let conclude = |more: Vec<Event>| {
        let (_, actions) =
            play(&plan(true), [begin.clone(), more, vec![Event::Exited(Exit::Code(1)), Event::NothingLeft]].concat());
        actions.into_iter().find(|action| matches!(action, Action::Conclude { .. }))
    };
    assert_eq!(
        conclude(vec![]),
        Some(Action::Conclude { exit: Exit::Code(1), reason: None, incomplete: false, flush: FLUSH_LIMIT })
    );
    let killed = conclude(vec![term(false)]);
    assert_eq!(
        killed,
        Some(Action::Conclude {
            exit: Exit::Code(1),
            reason: Some(Reason::AskedToGo),
            incomplete: false,
            flush: FLUSH_LIMIT
        })
    );
}

#[test]
fn a_drain_without_a_grace_can_still_be_cancelled_and_hastened() {
    let patient = Plan { grace: None, deadline: None, ..plan(true) };
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, term(false)];
    let (_, actions) = play(&patient, [begin.clone(), vec![Event::Told(Directive::Cancel)]].concat());
    assert_eq!(actions.last(), Some(&Action::Send(SIGTERM)));
    let (state, _) = play(&patient, [begin, vec![Event::StopBy(Instant::now() + Duration::from_secs(100))]].concat());
    assert!(state.wake_at().is_some());
}

#[test]
fn a_drain_does_not_outlive_the_deadline_nor_a_stall() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, term(false)];
    let long_grace = Plan { grace: Some(Duration::from_secs(7200)), ..plan(true) };
    let (state, _) = play(&long_grace, begin.clone());
    let State::Draining(Drain { deadline: Some(deadline), .. }) = state else { panic!("{state:?}") };
    let (state, actions) = step(&long_grace, state, Event::Tick, deadline);
    assert_eq!(actions, [Action::Send(SIGTERM)]);
    assert!(matches!(state, State::Draining(Drain { reason: Reason::Deadline, .. })));
    let (state, actions) = play(&plan(true), [begin, vec![Event::Stalled]].concat());
    assert_eq!(actions.last(), Some(&Action::Send(SIGTERM)));
    assert!(matches!(state, State::Draining(Drain { reason: Reason::Stalled, .. })));
}

#[test]
fn a_lease_that_is_over_kills_at_once_wherever_the_transfer_stands() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned];
    for before in [vec![], vec![term(false)], vec![Event::Told(Directive::Cancel)], vec![Event::Stalled]] {
        let (state, actions) = play(&plan(true), [begin.clone(), before, vec![Event::LeaseOver]].concat());
        assert!(actions.contains(&Action::Send(SIGKILL)), "{actions:?}");
        assert!(matches!(state, State::Draining(Drain { reason: Reason::LeaseLost, .. })), "{state:?}");
        let (state, actions) = step(&plan(true), state, Event::Exited(Exit::Signal(SIGKILL)), Instant::now());
        assert_eq!(actions, [Action::Sweep(SIGKILL)], "no TERM for what is left");
        let (state, actions) = step(&plan(true), state, Event::NothingLeft, Instant::now());
        let conclude = Action::Conclude {
            exit: Exit::Signal(SIGKILL),
            reason: Some(Reason::LeaseLost),
            incomplete: false,
            flush: FLUSH_LIMIT,
        };
        assert_eq!(actions, [conclude]);
        assert!(matches!(state, State::Lingering { code: 137, .. }), "{state:?}");
    }
}

#[test]
fn a_lease_that_is_over_kills_what_an_ended_transfer_left_and_not_its_success() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, Event::Exited(Exit::Code(0))];
    let (state, actions) = play(&plan(true), [begin, vec![Event::LeaseOver]].concat());
    assert_eq!(actions.last(), Some(&Action::Sweep(SIGKILL)));
    let (_, actions) = step(&plan(true), state, Event::NothingLeft, Instant::now());
    assert_eq!(
        actions,
        [Action::Conclude { exit: Exit::Code(0), reason: None, incomplete: false, flush: FLUSH_LIMIT }]
    );
}

#[test]
fn what_is_killed_already_keeps_its_reason_when_the_lease_ends_too() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, term(false), term(false), Event::LeaseOver];
    let (state, actions) = play(&plan(true), [begin, vec![Event::Exited(Exit::Signal(SIGKILL))]].concat());
    assert!(matches!(state, State::Sweeping(Sweep { reason: Some(Reason::AskedToGo), .. })), "{state:?}");
    assert_eq!(actions.last(), Some(&Action::Sweep(SIGKILL)));
}

#[test]
fn the_kill_waits_for_no_report() {
    let begin = vec![Event::Begin, Event::Granted, Event::Spawned, Event::LeaseOver];
    let (_, actions) = play(&plan(true), begin);
    let report = Action::Report(Phase::Stopping, Reason::LeaseLost.as_str());
    assert_eq!(actions[actions.len() - 2..], [Action::Send(SIGKILL), report]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let exits = prop_oneof![
        (0..256).prop_map(Exit::Code),
        (1..64).prop_map(Exit::Signal),
        Just(Exit::NotStarted(libc::ENOENT)),
    ];
    prop_oneof![
        Just(Event::Granted),
        Just(Event::Refused("no".into())),
        Just(Event::Spawned),
        ((1..64), any::<bool>()).prop_map(|(signal, ours)| Event::Signal { signal, ours }),
        any::<bool>().prop_map(|ours| Event::Signal { signal: SIGTERM, ours }),
        exits.prop_map(Event::Exited),
        Just(Event::Reaped),
        Just(Event::NothingLeft),
        Just(Event::Told(Directive::Continue)),
        Just(Event::Told(Directive::Cancel)),
        Just(Event::Told(Directive::Superseded)),
        Just(Event::Stalled),
        Just(Event::LeaseOver),
        Just(Event::Receipt),
        Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(job: bool, stop: bool, events in proptest::collection::vec((any_event(), 0_u64..4000), 0..60)) {
        let mut plan = plan(job);
        if stop {
            plan.on_term = OnTerm::Stop;
        }
        let mut now = Instant::now();
        let (mut state, mut actions) = step(&plan, State::New, Event::Begin, now);
        let (mut spawned, mut exited, mut concluded, mut wanted, mut killed) = (0, false, 0, false, false);
        let mut lease_lost = false;
        for (event, seconds) in events {
            for action in &std::mem::take(&mut actions) {
                match action {
                    Action::Spawn => spawned += 1,
                    Action::Conclude { .. } => concluded += 1,
                    Action::Sweep(signal) => prop_assert!(!lease_lost || *signal == SIGKILL),
                    // The group may be somebody else's once its leader is reaped.
                    Action::Send(_) => prop_assert!(spawned == 1 && !exited),
                    _ => {}
                }
                if let Action::Send(SIGKILL) = action {
                    prop_assert!(wanted, "killed without being asked");
                    killed = true;
                }
            }
            now += Duration::from_secs(seconds);
            // A process ends once, and not before it was started.
            if matches!(event, Event::Exited(_)) && (spawned == 0 || std::mem::replace(&mut exited, true)) {
                continue;
            }
            wanted |= !matches!(event, Event::Granted | Event::Spawned | Event::Reaped | Event::Receipt);
            let was_done = matches!(state, State::Done { .. });
            let is_over = event == Event::LeaseOver;
            (state, actions) = step(&plan, state, event, now);
            if is_over {
                let at_an_end = match &state {
                    State::Asking { .. } | State::Running { .. } => false,
                    State::Draining(drain) => drain.sent == Some(SIGKILL) && drain.at_once,
                    State::Sweeping(sweep) => sweep.killed,
                    _ => true,
                };
                prop_assert!(at_an_end, "{:?}", state);
                lease_lost |= matches!(state, State::Draining(_) | State::Sweeping(_));
            }
            let stays = matches!(state, State::Done { .. }) && actions.is_empty();
            prop_assert!(!was_done || stays);
        }
        prop_assert!(spawned <= 1 && concluded <= 1);
        // Left alone, and with processes that do die when they are killed, it always comes to an end.
        for _ in 0..20 {
            now = state.wake_at().map_or(now, |due| now.max(due));
            killed |= actions.contains(&Action::Send(SIGKILL));
            let mut events = vec![Event::Tick, Event::NothingLeft];
            if killed && !std::mem::replace(&mut exited, true) {
                events.insert(0, Event::Exited(Exit::Signal(SIGKILL)));
            }
            for event in events {
                let (next, mut more) = step(&plan, state, event, now);
                state = next;
                actions.append(&mut more);
            }
        }
        let patient_init = !job && matches!(state, State::Running { .. } | State::Draining(_));
        let over = matches!(state, State::Done { .. } | State::New);
        prop_assert!(patient_init || over, "{:?}", state);
    }
}
