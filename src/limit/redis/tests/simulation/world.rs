//! Instances, a network and a Redis, and a queue of what happens when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{model::Model, stranger};
use super::Told;
use super::random::Random;
use crate::clock::Moment;
use crate::limit::redis::ledger::{Call, Ledger, Patience, Step, Tended, Terms};
use crate::limit::redis::wire::{NANOS_PER_MICRO, Outcome, Question, Reply};
use crate::limit::{Charge, Decision, LimitSpace, LocalLimiter, RateLimit, Subject};

const MILLI: u64 = 1_000_000;
const DEADLINE: u64 = 50 * MILLI;

/// What goes wrong. Shares are in percent of the messages.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) leased: bool,
    pub(super) lost: u64,
    pub(super) slow: u64,
    pub(super) deaths: u64,
    /// The share of admitted requests that are taken back.
    pub(super) refunds: u64,
    pub(super) emptied: u64,
}

pub(super) struct World {
    random: Random,
    faults: Faults,
    limits: Vec<RateLimit>,
    instances: Vec<Instance>,
    redis: Model,
    /// How far Redis's clock is ahead of the true time.
    redis_ahead: u64,
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    /// Everything that was admitted, for each limit: when, and what it cost. Taken back, it cost
    /// nothing.
    logs: [Vec<(u64, u64)>; 2],
    asked: Vec<(u64, u64)>,
    calls: u64,
}

/// One instance. Its clock has an origin and a speed of its own.
struct Instance {
    ledger: Ledger,
    /// Grows when it dies: nothing that was meant for it before reaches it after.
    life: u32,
    ahead: u64,
    /// Millionths by which the clock is slow.
    slow: u64,
    waiting: Vec<Request>,
    /// The calls that it waits for.
    flying: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    cost: u64,
    waits: u32,
}

struct Event {
    at: u64,
    sequence: u64,
    what: What,
}

enum What {
    /// A request comes to an instance, to any where none is named.
    Arrival(Request, Option<usize>),
    /// A question comes to Redis.
    Question(Box<Flight>),
    Answer(Box<Flight>, Box<Reply>, u64),
    Deadline(Box<Flight>),
    /// Those that wait have waited long enough.
    Patience(usize),
    Refund(usize, u32, u64, u64, usize),
    /// An instance looks after its leases.
    Tend(usize, u32),
    Death,
    Emptied,
}

#[derive(Clone)]
struct Flight {
    instance: usize,
    life: u32,
    number: u64,
    call: Call,
    request: Option<Request>,
}

impl World {
    pub(super) fn new(
        random: &mut Random,
        instances: usize,
        limits: Vec<RateLimit>,
        faults: Faults,
    ) -> Self {
        let instances = (0..instances).map(|_| Instance {
            ledger: Ledger::default(),
            life: 0,
            ahead: random.between(0, 7_200_000) * MILLI,
            slow: random.between(0, 500),
            waiting: Vec::new(),
            flying: Vec::new(),
        });
        let instances = instances.collect();
        let mut world = Self {
            redis_ahead: 1_700_000_000_000 * MILLI + random.between(0, 60_000 * MILLI),
            random: Random::new(random.next()),
            faults,
            limits,
            instances,
            redis: Model::default(),
            events: BinaryHeap::new(),
            sequence: 0,
            logs: Default::default(),
            asked: Vec::new(),
            calls: 0,
        };
        let (window, _) = world.window();
        for _ in 0..faults.deaths {
            let at = world.random.between(0, 2 * window);
            world.happens(at, What::Death);
        }
        for _ in 0..faults.emptied {
            let at = world.random.between(0, 2 * window);
            world.happens(at, What::Emptied);
        }
        world
    }

    /// The length of the first limit's window, and of its sub-windows.
    pub(super) fn window(&self) -> (u64, u64) {
        let window = u64::from(self.limits[0].window_seconds()) * 1_000 * MILLI;
        (window, window / 16)
    }

    /// When, in true time, a sub-window of Redis ends.
    pub(super) fn edge(&self) -> u64 {
        let (_, part) = self.window();
        part - self.redis_ahead % part
    }

    pub(super) fn arrive(&mut self, at: u64) {
        let cost = [1, 1, 1, self.random.between(1, 5)][self.random.below(4)];
        self.arrive_at_cost(at, cost);
    }

    pub(super) fn arrive_at_cost(&mut self, at: u64, cost: u64) {
        self.asked.push((at, cost));
        self.happens(at, What::Arrival(Request { cost, waits: 0 }, None));
    }

    /// A request of one unit that comes to the instance of this number.
    pub(super) fn arrive_on(&mut self, at: u64, instance: usize) {
        self.asked.push((at, 1));
        let request = Request { cost: 1, waits: 0 };
        self.happens(at, What::Arrival(request, Some(instance)));
    }

    pub(super) fn run(mut self) -> Told {
        while let Some(Reverse(Event { at, what, .. })) = self.events.pop() {
            self.handle(at, what);
        }
        for log in &mut self.logs {
            log.sort_unstable();
        }
        let fullest = |(limit, log): (&RateLimit, &Vec<_>)| {
            let window = u64::from(limit.window_seconds()) * 1_000 * MILLI;
            (fullest(log, window), limit.quota())
        };
        Told {
            admitted: self.logs[0].iter().map(|(_, cost)| cost).sum(),
            ideal: ideal(&mut self.asked, &self.limits),
            calls: self.calls,
            requests: self.asked.len() as u64,
            fullest: self.limits.iter().zip(&self.logs).map(fullest).collect(),
            losses: self.faults.emptied,
        }
    }

    fn handle(&mut self, at: u64, what: What) {
        match what {
            What::Arrival(request, instance) => {
                let any = self.random.below(self.instances.len());
                let instance = instance.unwrap_or(any);
                self.begin(instance, request, at);
            }
            What::Question(flight) => {
                let now_us = (at + self.redis_ahead) / NANOS_PER_MICRO;
                let reply = self.redis.answer(&flight.call.question, now_us);
                if !self.is_lost() {
                    let delay = self.delay();
                    self.happens(at + delay, What::Answer(flight, reply.into(), at));
                }
            }
            What::Answer(flight, reply, decided) => self.answer(&flight, &reply, decided, at),
            What::Deadline(flight) => {
                if self.lands(&flight) {
                    let instance = flight.instance;
                    self.instances[instance].ledger.unanswered(&flight.call);
                    self.wake(instance, at);
                }
            }
            What::Patience(instance) => self.wake(instance, at),
            What::Refund(instance, life, then, cost, entry) => {
                self.refund(instance, life, then, cost, entry, at);
            }
            What::Tend(instance, life) => self.tend(instance, life, at),
            What::Death => {
                let instance = self.random.below(self.instances.len());
                let Instance {
                    life,
                    ledger,
                    waiting,
                    ..
                } = &mut self.instances[instance];
                *life += 1;
                *ledger = Ledger::default();
                waiting.clear();
            }
            What::Emptied => self.redis.lose(),
        }
    }

    fn begin(&mut self, instance: usize, request: Request, at: u64) {
        let patience = match request.waits {
            0 => Patience::Fresh,
            1 | 2 => Patience::Waiting,
            _ => Patience::Gone,
        };
        let now = self.instances[instance].clock(at);
        let terms = self.terms();
        let limits = self.limits.clone();
        let ledger = &mut self.instances[instance].ledger;
        let step = ledger.begin(&charges(&limits, request.cost), patience, &terms, now);
        self.follow(instance, Some(request), step, [at; 2], at);
    }

    /// What the driver does, and what it logs for each limit: units that were held already are
    /// spent now, and those that Redis granted for this very request were when it decided.
    fn follow(
        &mut self,
        instance: usize,
        request: Option<Request>,
        step: Step,
        decided: [u64; 2],
        at: u64,
    ) {
        match step {
            Step::Decided(decision, more) => {
                if let Some(request) = request {
                    self.admit(instance, request, &decision, decided, at);
                }
                if let Some(call) = more {
                    self.send(instance, call, None, at);
                }
            }
            Step::Ask(call) => self.send(instance, call, request, at),
            Step::Wait => {
                if let Some(mut request) = request.filter(|request| request.waits < 6) {
                    request.waits += 1;
                    let limits = self.limits.clone();
                    let ledger = &mut self.instances[instance].ledger;
                    ledger.wait(&charges(&limits, request.cost));
                    self.instances[instance].waiting.push(request);
                    self.happens(at + DEADLINE, What::Patience(instance));
                }
            }
            Step::Again => {
                if let Some(mut request) = request.filter(|request| request.waits < 6) {
                    request.waits += 1;
                    self.begin(instance, request, at);
                }
            }
        }
    }

    fn admit(
        &mut self,
        instance: usize,
        request: Request,
        decision: &Decision,
        decided: [u64; 2],
        at: u64,
    ) {
        if !decision.is_admitted() {
            return;
        }
        for (log, decided) in self.logs.iter_mut().zip(decided) {
            log.push((decided, request.cost));
        }
        if self.random.below(100) < usize::try_from(self.faults.refunds).unwrap() {
            let life = self.instances[instance].life;
            let later = at + self.random.between(0, 20 * MILLI);
            let entry = self.logs[0].len() - 1;
            // The request came before it was decided.
            let came = decided[0].min(decided[1]).saturating_sub(DEADLINE / 25);
            let then = self.instances[instance].clock(came);
            self.happens(
                later,
                What::Refund(instance, life, then, request.cost, entry),
            );
        }
    }

    fn refund(&mut self, instance: usize, life: u32, then: u64, cost: u64, entry: usize, at: u64) {
        let (limits, terms) = (self.limits.clone(), self.terms());
        let now = self.instances[instance].clock(at);
        if life != self.instances[instance].life {
            return;
        }
        let ledger = &mut self.instances[instance].ledger;
        let call = ledger.refund(&charges(&limits, cost), then, &terms, now);
        for log in &mut self.logs {
            log[entry].1 = 0;
        }
        if let Some(call) = call {
            self.send(instance, call, None, at);
        }
    }

    fn send(&mut self, instance: usize, call: Call, request: Option<Request>, at: u64) {
        self.calls += 1;
        let flight = Box::new(Flight {
            instance,
            life: self.instances[instance].life,
            number: self.calls,
            call,
            request,
        });
        self.instances[instance].flying.push(self.calls);
        self.happens(at + DEADLINE, What::Deadline(flight.clone()));
        if !self.is_lost() {
            let delay = self.delay();
            self.happens(at + delay, What::Question(flight));
        }
    }

    fn answer(&mut self, flight: &Flight, reply: &Reply, decided: u64, at: u64) {
        let (instance, limits) = (flight.instance, self.limits.clone());
        let now = self.instances[instance].clock(at);
        if !self.lands(flight) {
            if self.instances[instance].life == flight.life {
                self.answer_late(flight, reply, now, at);
            }
            return;
        }
        let charges = flight.request.map(|request| charges(&limits, request.cost));
        let charges = charges.as_deref().unwrap_or_default();
        let ledger = &mut self.instances[instance].ledger;
        let step = ledger.answered(charges, &flight.call, reply, now);
        // Redis decides by its clock, which shows microseconds.
        let ticked = decided - (decided + self.redis_ahead) % NANOS_PER_MICRO;
        let mut decided = [at; 2];
        if let Question::Acquire(asks) = &flight.call.question
            && reply.outcome == Outcome::Admitted
        {
            for (decided, ask) in decided.iter_mut().zip(asks) {
                *decided = if ask.reserved.is_some() { at } else { ticked };
            }
        }
        if self.instances[instance].ledger.needs_tending() {
            self.happens(at, What::Tend(instance, flight.life));
        }
        self.follow(instance, flight.request, step, decided, at);
        self.wake(instance, at);
    }

    /// The request was refused when its deadline was over, so its cost was not spent.
    fn answer_late(&mut self, flight: &Flight, reply: &Reply, now: u64, at: u64) {
        let ledger = &mut self.instances[flight.instance].ledger;
        ledger.answered_late(&flight.call, reply, false, now);
        if ledger.needs_tending() {
            self.happens(at, What::Tend(flight.instance, flight.life));
        }
        self.wake(flight.instance, at);
    }

    fn wake(&mut self, instance: usize, at: u64) {
        let limits = self.limits.clone();
        for request in std::mem::take(&mut self.instances[instance].waiting) {
            let ledger = &mut self.instances[instance].ledger;
            ledger.stop_waiting(&charges(&limits, request.cost));
            self.begin(instance, request, at);
        }
    }

    fn tend(&mut self, instance: usize, life: u32, at: u64) {
        let now = self.instances[instance].clock(at);
        if life != self.instances[instance].life {
            return;
        }
        let Tended { call, next } = self.instances[instance].ledger.tend(now);
        if let Some(call) = call {
            self.send(instance, call, None, at);
        }
        if let Some(next) = next {
            let at = at + next.saturating_sub(now).max(1);
            self.happens(at, What::Tend(instance, life));
        }
    }

    /// Whether the instance still waits for this; after that it does not.
    fn lands(&mut self, flight: &Flight) -> bool {
        let instance = &mut self.instances[flight.instance];
        let place = instance
            .flying
            .iter()
            .position(|number| *number == flight.number);
        let place = place.filter(|_| instance.life == flight.life);
        place
            .map(|place| instance.flying.swap_remove(place))
            .is_some()
    }

    fn terms(&self) -> Terms {
        Terms {
            leased: self.faults.leased,
            deadline: DEADLINE,
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random.between(0, 99) < self.faults.lost
    }

    fn delay(&mut self) -> u64 {
        if self.random.between(0, 99) < self.faults.slow {
            self.random.between(0, 80 * MILLI)
        } else {
            self.random.between(MILLI / 20, MILLI)
        }
    }

    fn happens(&mut self, at: u64, what: What) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.events.push(Reverse(Event { at, sequence, what }));
    }
}

impl Instance {
    fn clock(&self, at: u64) -> u64 {
        self.ahead + at - at / 1_000_000 * self.slow
    }
}

fn charges(limits: &[RateLimit], cost: u64) -> Vec<Charge<'_>> {
    let space = LimitSpace::Key;
    let charge = |limit| Charge { limit, space, cost };
    limits.iter().map(charge).collect()
}

/// The most units that any trailing window `(now - window, now]` of the log, which is in order,
/// holds.
fn fullest(log: &[(u64, u64)], window: u64) -> u64 {
    let (mut first, mut held, mut fullest) = (0, 0, 0);
    for (end, cost) in log {
        held += cost;
        while log[first].0 + window <= *end {
            held -= log[first].1;
            first += 1;
        }
        fullest = held.max(fullest);
    }
    fullest
}

/// What a limiter in one process would admit of the same requests.
fn ideal(asked: &mut [(u64, u64)], limits: &[RateLimit]) -> u64 {
    asked.sort_unstable();
    let (limiter, subject): (_, Subject) = (LocalLimiter::new(1), stranger());
    let admits = |(at, cost): &&(u64, u64)| {
        let now = Moment::new(Timestamp::UNIX_EPOCH, Duration::from_nanos(*at));
        limiter
            .acquire(&subject, &charges(limits, *cost), now)
            .is_admitted()
    };
    asked.iter().filter(admits).map(|(_, cost)| cost).sum()
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
