//! What is asked of the scripts, and what they answer.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use redis::{Cmd, Script, Value};
use smallvec::SmallVec;

use super::lease::{Reserved, Unspent};
use crate::limit::window::{Bucket, Buckets};
use crate::limit::{LimitSpace, Window};

/// Which of a subject's counters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CounterId {
    pub(super) name: Arc<str>,
    pub(super) space: LimitSpace,
    pub(super) seconds: u32,
}

/// One question to Redis, about counters of one subject.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Acquire(SmallVec<[Ask; 2]>),
    Refund(SmallVec<[Refund; 2]>),
    Restore(SmallVec<[Restore; 2]>),
}

/// See `acquire.lua`.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) counter: CounterId,
    pub(super) quota: u64,
    pub(super) cost: u64,
    /// Units wanted beyond the cost.
    pub(super) extra: u64,
    /// The birth that is remembered, or 0.
    pub(super) birth: u64,
    /// Units of an earlier lease that are given back.
    pub(super) unspent: Option<Unspent>,
    /// What was taken from a lease in the place of the cost.
    pub(super) reserved: Option<Reserved>,
}

/// See `refund.lua`.
#[derive(Clone, Debug)]
pub(super) struct Refund {
    pub(super) counter: CounterId,
    pub(super) cost: u64,
    pub(super) charged_us: u64,
    pub(super) birth: u64,
}

/// See `restore.lua`.
#[derive(Clone, Debug)]
pub(super) struct Restore {
    pub(super) counter: CounterId,
    /// The times in microseconds until which units may have been spent, and these units.
    pub(super) grants: SmallVec<[(u64, u64); 4]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) now_us: u64,
    pub(super) outcome: Outcome,
    /// One for each counter of the question.
    pub(super) counters: SmallVec<[Seen; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Admitted,
    Denied,
    /// Redis does not have what it had: nothing was decided.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Units granted beyond the cost.
    pub(super) extra: u64,
    /// What is stored of the counter, which may be more than still counts.
    pub(super) stored: Option<Stored>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) birth: u64,
    /// In nanoseconds, as everywhere else here.
    pub(super) buckets: Buckets,
}

pub(super) const NANOS_PER_MICRO: u64 = 1_000;

impl CounterId {
    /// The length of a sub-window in microseconds, always a whole number.
    pub(super) fn part_us(&self) -> u64 {
        u64::from(self.seconds) * (Window::PART_NANOS_PER_SECOND / NANOS_PER_MICRO)
    }

    /// Its key. `tag` is the subject, in the braces that keep all its keys in one slot of a
    /// cluster. Names have neither colons nor braces, so that no two counters share a key.
    pub(super) fn key(&self, tag: &str) -> String {
        let space = match self.space {
            LimitSpace::Key => 'k',
            LimitSpace::Route => 'r',
        };
        let mut key = String::with_capacity(tag.len() + self.name.len() + 12);
        _ = write!(key, "{tag}:{space}:{}:{}", self.name, self.seconds);
        key
    }
}

impl Question {
    pub(super) fn script(&self) -> &'static Source {
        match self {
            Self::Acquire(_) => &ACQUIRE,
            Self::Refund(_) => &REFUND,
            Self::Restore(_) => &RESTORE,
        }
    }

    /// Returns true if the question also gives back units of earlier leases.
    pub(super) fn gives_back(&self) -> bool {
        match self {
            Self::Acquire(asks) => asks.iter().any(|ask| ask.unspent.is_some()),
            Self::Refund(_) | Self::Restore(_) => false,
        }
    }

    /// The same question, which gives nothing back.
    pub(super) fn without_returns(&self) -> Self {
        let mut question = self.clone();
        if let Self::Acquire(asks) = &mut question {
            for ask in asks {
                ask.unspent = None;
            }
        }
        question
    }

    /// Adds the keys and the arguments to `command`. `time_us` is 0 except in tests.
    pub(super) fn write(&self, command: &mut Cmd, tag: &str, time_us: u64) {
        let counters = || -> SmallVec<[&CounterId; 8]> {
            match self {
                Self::Acquire(asks) => asks.iter().map(|ask| &ask.counter).collect(),
                Self::Refund(refunds) => refunds.iter().map(|refund| &refund.counter).collect(),
                Self::Restore(restores) => restores.iter().map(|some| &some.counter).collect(),
            }
        };
        let counters = counters();
        command.arg(counters.len());
        for counter in &counters {
            command.arg(counter.key(tag));
        }
        command.arg(time_us);
        match self {
            Self::Acquire(asks) => {
                for ask in asks {
                    let part_us = ask.counter.part_us();
                    let (units, counted_us) = ask
                        .unspent
                        .as_ref()
                        .map_or((0, 0), |unspent| (unspent.units, unspent.time_us()));
                    command.arg(ask.quota).arg(part_us).arg(ask.cost);
                    command.arg(ask.extra).arg(ask.birth);
                    command.arg(units).arg(counted_us);
                }
            }
            Self::Refund(refunds) => {
                for refund in refunds {
                    command.arg(refund.counter.part_us()).arg(refund.cost);
                    command.arg(refund.charged_us).arg(refund.birth);
                }
            }
            Self::Restore(restores) => {
                for restore in restores {
                    command
                        .arg(restore.counter.part_us())
                        .arg(restore.grants.len());
                    for (time_us, units) in &restore.grants {
                        command.arg(*time_us).arg(*units);
                    }
                }
            }
        }
    }
}

/// A script's text and its hash.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) text: &'static str,
    pub(super) hash: LazyLock<String>,
}

macro_rules! source {
    ($file:literal) => {{
        const TEXT: &str = concat!(include_str!("window.lua"), include_str!($file));
        Source {
            text: TEXT,
            hash: LazyLock::new(|| Script::new(TEXT).get_hash().to_owned()),
        }
    }};
}

static ACQUIRE: Source = source!("acquire.lua");
static REFUND: Source = source!("refund.lua");
static RESTORE: Source = source!("restore.lua");

impl Reply {
    /// What a script has returned; none if no script of ours returns that.
    pub(super) fn read(value: Value) -> Option<Self> {
        let Value::Array(items) = value else {
            return None;
        };
        let (head, rest) = items.split_at_checked(2)?;
        let outcome = match integer(&head[1])? {
            1 => Outcome::Admitted,
            0 => Outcome::Denied,
            _ => Outcome::Lost,
        };
        let seen = |pair: &[Value]| {
            let [extra, Value::BulkString(packed)] = pair else {
                return None;
            };
            let stored = if packed.is_empty() {
                None
            } else {
                Some(Stored::read(packed)?)
            };
            let extra = integer(extra)?.try_into().ok()?;
            Some(Seen { extra, stored })
        };
        Some(Self {
            now_us: integer(&head[0])?.try_into().ok()?,
            outcome,
            counters: rest.chunks(2).map(seen).collect::<Option<_>>()?,
        })
    }

    pub(super) fn now_nanos(&self) -> u64 {
        self.now_us.saturating_mul(NANOS_PER_MICRO)
    }
}

impl Stored {
    fn read(packed: &[u8]) -> Option<Self> {
        let mut numbers = Numbers(packed);
        // The birth, and then two numbers for each bucket.
        let numbers_of_buckets = numbers.array()?.checked_sub(1)?;
        let len = numbers_of_buckets / 2;
        if numbers_of_buckets % 2 != 0 || len > Window::PLACES {
            return None;
        }
        let birth = numbers.number()?;
        let mut buckets = Buckets::new();
        for _ in 0..len {
            let time = numbers.number()?.saturating_mul(NANOS_PER_MICRO);
            let units = numbers.number()?;
            buckets.push(Bucket { time, units });
        }
        Some(Self { birth, buckets })
    }

    pub(super) fn window(&self, counter: &CounterId) -> Window {
        Window::of(counter.seconds, self.buckets.clone())
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

/// Reads the little of `MessagePack` that the scripts write: a list of integers that are not
/// negative.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn array(&mut self) -> Option<usize> {
        match self.bytes::<1>()?[0] {
            head @ 0x90..=0x9f => Some(usize::from(head & 0x0f)),
            0xdc => Some(usize::from(u16::from_be_bytes(self.bytes()?))),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        Some(match self.bytes::<1>()?[0] {
            small @ 0..=0x7f => small.into(),
            0xcc => self.bytes::<1>()?[0].into(),
            0xcd => u16::from_be_bytes(self.bytes()?).into(),
            0xce => u32::from_be_bytes(self.bytes()?).into(),
            0xcf => u64::from_be_bytes(self.bytes()?),
            _ => return None,
        })
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
}
