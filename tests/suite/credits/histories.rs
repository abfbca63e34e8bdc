//! Whatever several instances do, start, end and crash: nothing is spent twice.

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{ApiKeys, Credits, KeyId, KeyUpdate, MemoryStore, NewKey, Refill};

use super::{admits, issue, left, spend};
use crate::core_support::{SHUTDOWN, settle};

const INSTANCES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Requests {
        instance: usize,
        number: u32,
        cost: u64,
    },
    Flush(usize),
    Restart(usize),
    Crash(usize),
    /// Requests that go away after so many polls.
    Abandon {
        instance: usize,
        polls: usize,
        cost: u64,
    },
    /// While the store fails.
    Outage {
        instance: usize,
        number: u32,
        cost: u64,
    },
    Wait(Duration),
    Set(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let instance = 0..INSTANCES;
    prop_oneof![
        8 => (instance.clone(), 1..40_u32, 0..5_u64)
            .prop_map(|(instance, number, cost)| Step::Requests { instance, number, cost }),
        2 => instance.clone().prop_map(Step::Flush),
        1 => instance.clone().prop_map(Step::Restart),
        1 => instance.clone().prop_map(Step::Crash),
        2 => (instance.clone(), 0..4_usize, 1..5_u64)
            .prop_map(|(instance, polls, cost)| Step::Abandon { instance, polls, cost }),
        1 => (instance, 1..20_u32, 0..5_u64)
            .prop_map(|(instance, number, cost)| Step::Outage { instance, number, cost }),
        3 => (0..20_000_u64).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        1 => Just(Step::Wait(Duration::from_hours(7))),
        1 => (0..300_u64).prop_map(Step::Set),
    ]
}

struct World {
    clock: ManualClock,
    store: ScriptedStore<MemoryStore>,
    instances: Vec<ApiKeys>,
    id: KeyId,
    text: String,
    /// What there was to spend since the last refill or change, and what was spent of it.
    granted: u64,
    spent: u64,
    /// Whether some of it may be lost: what an instance had leased that crashed, or could not give
    /// back.
    crashed: bool,
    day: i64,
}

impl World {
    async fn new(credits: u64) -> Self {
        let clock = ManualClock::default();
        let store = ScriptedStore::new(MemoryStore::new());
        let instances: Vec<_> = (0..INSTANCES).map(|_| instance(&store, &clock)).collect();
        let budget = Credits::refilled(Refill::daily(200)).remaining(credits);
        let (id, text) = issue(&instances[0], NewKey::named("x").credits(budget)).await;
        let mut world = Self {
            clock,
            store,
            instances,
            id,
            text,
            granted: credits,
            spent: 0,
            crashed: false,
            day: 0,
        };
        world.day = world.today();
        world
    }

    fn today(&self) -> i64 {
        self.instances[0].now().as_second().div_euclid(86_400)
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Requests {
                instance,
                number,
                cost,
            } => {
                // What is remembered of too few credits is forgotten by then.
                self.wait(Duration::from_secs(1));
                for _ in 0..number {
                    let keys = &self.instances[instance];
                    if admits(keys, &self.text, cost).await {
                        self.spend(cost);
                    } else {
                        let left = left(keys, self.id).await;
                        assert!(cost > left, "{cost} of {left}");
                    }
                }
            }
            Step::Abandon {
                instance,
                polls,
                cost,
            } => {
                let keys = self.instances[instance].clone();
                let text = self.text.clone();
                let mut request = Box::pin(spend(&keys, &text, cost));
                for _ in 0..polls {
                    if let Some(outcome) = (&mut request).now_or_never() {
                        self.spend(outcome.map_or(0, |_| cost));
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(request);
                settle().await;
            }
            Step::Outage {
                instance,
                number,
                cost,
            } => {
                self.store.fail(true);
                for _ in 0..number {
                    let keys = &self.instances[instance];
                    if spend(keys, &self.text, cost).await.is_ok() {
                        self.spend(cost);
                    }
                }
                self.crashed |= self.instances[instance].flush().await.is_err();
                self.store.fail(false);
            }
            Step::Flush(instance) => self.instances[instance].flush().await.unwrap(),
            Step::Restart(number) => {
                self.instances[number].shutdown(SHUTDOWN).await.unwrap();
                self.instances[number] = instance(&self.store, &self.clock);
            }
            Step::Crash(number) => {
                self.crashed = true;
                self.instances[number] = instance(&self.store, &self.clock);
            }
            Step::Wait(time) => self.wait(time),
            Step::Set(credits) => {
                let budget = Credits::refilled(Refill::daily(200)).remaining(credits);
                let update = KeyUpdate::new().credits(budget);
                self.instances[0].update(self.id, update).await.unwrap();
                // As the bus does it.
                for keys in &self.instances {
                    keys.verifier().invalidate(self.id);
                }
                (self.granted, self.spent, self.crashed) = (credits, 0, false);
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.clock.advance(time);
        if self.day != self.today() {
            self.day = self.today();
            (self.granted, self.spent, self.crashed) = (200, 0, false);
        }
    }

    fn spend(&mut self, cost: u64) {
        self.spent += cost;
        let Self { spent, granted, .. } = self;
        assert!(spent <= granted, "{spent} of {granted}");
    }

    async fn end(self) {
        for keys in &self.instances {
            keys.shutdown(SHUTDOWN).await.unwrap();
        }
        let left = left(&self.instances[0], self.id).await;
        let sum = self.spent + left;
        assert!(
            sum <= self.granted,
            "{} and {left} of {}",
            self.spent,
            self.granted
        );
        assert!(
            self.crashed || sum == self.granted,
            "{sum} of {}",
            self.granted
        );
    }
}

fn instance(store: &ScriptedStore<MemoryStore>, clock: &ManualClock) -> ApiKeys {
    ApiKeys::builder(store.clone()).clock(clock.clone()).build()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_is_spent_twice(
        credits in 0..400_u64,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(credits).await;
            for step in steps {
                world.take(step).await;
            }
            world.end().await;
        });
    }
}
