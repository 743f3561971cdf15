//! Whose bound it is that goes by: the caller's own, or the gateway's, by waiting for a turn.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_gateways_own_bound_tells_a_turn_that_never_came() {
    #[derive(Debug)]
    struct Crowded;
    impl Upstream for Crowded {
        fn query_task(&self, _: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
            terms.awaits_turn(Instant::now());
            Box::pin(std::future::pending())
        }
        fn polls_may_start(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }
    }
    let hub = Hub::new(CONFIG, Arc::new(Crowded), Seams::in_memory(), Metrics::new());
    // The hub's bound is 30 s. Each waits for the turn by itself, whoever began the call that it joins.
    let cases = [
        (false, 30, 30, Reason::GatewayOverloaded),
        (true, 5, 5, Reason::Deadline),
        (true, 30, 30, Reason::Deadline),
        (true, 300, 30, Reason::GatewayOverloaded),
    ];
    let mut waiting = JoinSet::new();
    for (after, (is_own_deadline, secs, waits, reason)) in
        [0, 20, 25].into_iter().cycle().zip(cases.repeat(3))
    {
        let hub = hub.clone();
        waiting.spawn(async move {
            tokio::time::sleep(Duration::from_secs(after)).await;
            let caller = Caller { is_own_deadline, ..caller(secs) };
            let failure = hub.query(&id(), Freshness::Shared, caller).await.unwrap_err();
            assert_eq!((failure.reason, caller.arrived.elapsed().as_secs()), (reason, waits));
        });
    }
    waiting.join_all().await;
    assert!(hub.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_its_turn_is_waited_for_to_the_callers_own_deadline() {
    let world = world(vec![], 0);
    let id = id();
    let mut patient = Box::pin(world.hub.query(&id, Freshness::Shared, caller(300)));
    // Longer than the hub's own bound of 30 s, which is for turns that do not come.
    tokio::select! {
        outcome = &mut patient => panic!("{outcome:?}"),
        () = tokio::time::sleep(Duration::from_secs(100)) => {}
    }
    world.vendor.gate.add_permits(1);
    assert_eq!(patient.await.unwrap().source, Source::Upstream);
}

/// A vendor whose every call tries for so long, and then waits for a turn that never comes.
#[derive(Debug)]
struct Crowding(Duration);

impl Upstream for Crowding {
    fn query_task(&self, _: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let tries = self.0;
        Box::pin(async move {
            terms.try_begins(Instant::now());
            tokio::time::sleep(tries).await;
            terms.try_ended();
            terms.awaits_turn(Instant::now());
            std::future::pending().await
        })
    }
    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_bound_that_went_by_in_waiting_for_one_turn_tells_of_the_gateways_limits() {
    let upstream = Arc::new(Crowding(Duration::from_secs(20)));
    let hub = Hub::new(CONFIG, upstream, Seams::in_memory(), Metrics::new());
    let cases = [
        // The gateway's bound of 30 s, of which 20 s were a try's.
        (Caller { is_own_deadline: false, ..caller(30) }, 30, Reason::Deadline),
        // The turn was waited for from the 20th second on.
        (caller(300), 50, Reason::GatewayOverloaded),
    ];
    let (start, id) = (Instant::now(), id());
    for (caller, waits, reason) in cases {
        let caller =
            Caller { arrived: Instant::now(), deadline: caller.deadline + start.elapsed(), ..caller };
        let failure = hub.query(&id, Freshness::New, caller).await.unwrap_err();
        assert_eq!((failure.reason, caller.arrived.elapsed().as_secs()), (reason, waits));
    }
}
