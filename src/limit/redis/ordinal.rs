//! The ordinal of an instance, by which the rest of a quota is shared out in an outage.
//!
//! The shares of [`OutagePolicy::Local`] are seldom whole units. Rounded down, four shares of a quota
//! of 1 are nothing; rounded up, they are four quotas. So each instance takes an ordinal in Redis while
//! it can be asked, and shares end where those of the next ordinal begin:
//!
//! ```text
//! quota 6, 25 % each      0 ──── 1.5 ──── 3 ──── 4.5 ──── 6
//! ordinal                    0        1       2        3
//! whole units              1 (0‥1)  2 (1‥3) 1 (3‥4)  2 (4‥6)
//! ```
//!
//! The shares of different ordinals have no unit in common, so together they are never above the quota.
//! An instance without an ordinal rounds down, which is at most the share of any ordinal.
//!
//! An ordinal belongs to its instance for [`HOLD`] after the last renewal. The instance measures this
//! from before its call, so it stops using the ordinal before Redis gives it to another one.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::link::Link;
use super::lock;
use super::wire::CounterId;
use super::{Inner, OutagePolicy};

/// The time for which an ordinal is held after it was taken or renewed.
const HOLD: Duration = Duration::from_mins(10);

/// The time from one renewal to the next, and to the next attempt where all ordinals are taken.
const RENEWAL: Duration = Duration::from_secs(20);

/// The longest time for which a renewal waits for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The part of the time that an instance does not use, should its clock be slow: 1/1000, as for leases.
const DRIFT: u32 = 1_000;

/// The ordinal that an instance holds. Dropped, it gives the ordinal back.
pub(super) struct Ordinal {
    instance: String,
    /// The key of all ordinals in Redis.
    key: String,
    link: Arc<Link>,
    /// The number of instances among which a quota is shared out; 0 or 1 where it is not.
    instances: u32,
    /// The ordinal and the end of the time for which it is held.
    held: Mutex<Option<(u32, Instant)>>,
}

/// The part of each quota that an instance may use while Redis cannot be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share<'a> {
    /// From 1 to 100.
    pub(super) percent: u8,
    /// The ordinal of this instance; none where it is not known.
    pub(super) ordinal: Option<u32>,
    /// The beginning of the subject's keys, which is the same on all instances.
    pub(super) tag: &'a str,
}

impl Ordinal {
    /// An ordinal that is not taken yet, for the instances that `policy` reckons with.
    pub(super) fn new(policy: OutagePolicy, prefix: &str, link: Arc<Link>) -> Self {
        let instances = match policy {
            OutagePolicy::Local { percent } => 100 / u32::from(percent.clamp(1, 100)),
            OutagePolicy::Deny | OutagePolicy::Allow => 0,
        };
        let mut random = [0; 16];
        // Without randomness another instance might have the same name.
        let is_named = SysRng.try_fill_bytes(&mut random).is_ok();
        Self {
            instance: random.iter().fold(String::new(), |mut name, byte| {
                _ = write!(name, "{byte:02x}");
                name
            }),
            key: format!("{{{prefix}:instances}}"),
            link,
            instances: if is_named { instances } else { 0 },
            held: Mutex::default(),
        }
    }

    /// Returns the ordinal, while it is certain that no other instance has it.
    pub(super) fn held(&self) -> Option<u32> {
        let held = *lock(&self.held);
        held.filter(|(_, until)| Instant::now() < *until)
            .map(|(ordinal, _)| ordinal)
    }

    /// Takes an ordinal or renews it. Where Redis does not answer, the last one is held until its end.
    pub(super) async fn renew(&self) {
        if self.instances < 2 {
            return;
        }
        let sent = Instant::now();
        let asked = self.ask(HOLD);
        if let Ok(Ok(ordinal)) = timeout(PATIENCE, asked).await {
            *lock(&self.held) = ordinal.map(|ordinal| (ordinal, sent + HOLD - HOLD / DRIFT));
        }
    }

    async fn ask(&self, hold: Duration) -> Result<Option<u32>, redis::RedisError> {
        ask(&self.link, &self.key, &self.instance, self.instances, hold).await
    }
}

async fn ask(
    link: &Link,
    key: &str,
    instance: &str,
    instances: u32,
    hold: Duration,
) -> Result<Option<u32>, redis::RedisError> {
    let hold = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
    let mut command = redis::cmd("EVAL");
    command.arg(include_str!("ordinal.lua")).arg(1).arg(key);
    command.arg(instance).arg(instances).arg(hold);
    let ordinal = link.number(&command).await?;
    Ok(ordinal.try_into().ok())
}

/// Renews the ordinal of a limiter for as long as there is one, where it has any.
pub(super) fn keep(limiter: &Arc<Inner>) {
    if limiter.ordinal.instances < 2 {
        return;
    }
    let limiter = Arc::downgrade(limiter);
    tokio::spawn(async move {
        loop {
            sleep(RENEWAL).await;
            let Some(limiter) = limiter.upgrade() else {
                return;
            };
            limiter.ordinal.renew().await;
        }
    });
}

impl Drop for Ordinal {
    fn drop(&mut self) {
        let (Some(_), Ok(runtime)) = (self.held(), Handle::try_current()) else {
            return;
        };
        let (key, instance) = (self.key.clone(), self.instance.clone());
        let (link, instances) = (Arc::clone(&self.link), self.instances);
        runtime.spawn(async move {
            let asked = ask(&link, &key, &instance, instances, Duration::ZERO);
            _ = timeout(PATIENCE, asked).await;
        });
    }
}

impl Share<'_> {
    /// The whole units of `quota` that this instance may use.
    ///
    /// The ordinals are shifted by a hash of the counter, so that not all small quotas have their units
    /// on the same instance.
    pub(super) fn units(&self, counter: &CounterId, quota: u64) -> u64 {
        let percent = u64::from(self.percent);
        let instances = 100 / percent;
        let ordinal = self.ordinal.map(u64::from);
        let Some(ordinal) = ordinal.filter(|ordinal| instances > 1 && *ordinal < instances) else {
            return quota * percent / 100;
        };
        let hash = u64::from(crc32fast::hash(counter.key(self.tag).as_bytes()));
        let place = (ordinal + hash % instances) % instances;
        let below = |place| place * percent * quota / 100;
        below(place + 1) - below(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::LimitSpace;

    #[test]
    fn shares_are_together_what_the_percentage_says_and_never_more() {
        for quota in [1, 2, 3, 5, 7, 99, 100, 101, 999_999_999_999_999] {
            for percent in 1..=100_u8 {
                let instances = 100 / u32::from(percent);
                for name in ["a", "b", "c", "d", "e"] {
                    let counter = CounterId {
                        name: name.into(),
                        space: LimitSpace::Key,
                        seconds: 60,
                    };
                    let share = |ordinal| {
                        let tag = "{test:key}";
                        let share = Share {
                            percent,
                            ordinal,
                            tag,
                        };
                        share.units(&counter, quota)
                    };
                    let all: u64 = (0..instances).map(|ordinal| share(Some(ordinal))).sum();
                    let exact = u64::from(percent) * u64::from(instances) * quota / 100;
                    assert_eq!(all, exact, "{quota} at {percent} %");
                    assert!(all <= quota);
                    let least = (0..instances).map(|ordinal| share(Some(ordinal))).min();
                    assert!(share(None) <= least.unwrap());
                    assert_eq!(share(Some(instances)), share(None), "one too many");
                }
            }
        }
    }

    #[test]
    fn small_quotas_have_their_units_on_different_instances() {
        let counter = CounterId {
            name: "minute".into(),
            space: LimitSpace::Key,
            seconds: 60,
        };
        let mut units = [0; 4];
        for key in 0..400 {
            for (ordinal, units) in (0..).zip(&mut units) {
                let share = Share {
                    percent: 25,
                    ordinal: Some(ordinal),
                    tag: &format!("{{test:key_{key}}}"),
                };
                *units += share.units(&counter, 1);
            }
        }
        assert_eq!(units.iter().sum::<u64>(), 400);
        assert!(units.iter().all(|units| *units > 50), "{units:?}");
    }
}
