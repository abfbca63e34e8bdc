//! A copy of the database that answers lookups, as long as it is not behind.
//!
//! A standby that has stopped replaying still answers, and a key that was revoked meanwhile is good
//! there. So the primary's position in its write-ahead log is sampled, and an answer of
//! the standby counts only when the standby has replayed a sample of the last [`MAX_LAG`]:
//!
//! ```text
//! primary   ──●─────────●─────────●─────────●──▶   a sample each second, while there are lookups
//!          too old   reference
//! standby   ──────────────────○                    it has replayed the reference: its answer counts
//! standby   ──────○                                it has not: the primary is asked
//! ```
//!
//! Positions are compared rather than times. Where the primary is idle, the last transaction that a
//! standby has replayed may be hours old, and nothing is missing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, timeout};

use super::lease::Lease;
use super::read;
use super::schema::Schema;
use crate::key::KeyDigest;
use crate::store::{StoreError, StoredKey};

/// The greatest age of the state from which the replica may answer.
pub(super) const MAX_LAG: Duration = Duration::from_secs(5);

/// The interval at which the primary's position is sampled, while there are lookups.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The time that a lookup may take before the primary is asked: short enough that the primary still
/// has time to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The time for which the replica is not asked after it has failed or was behind, so that not every
/// lookup waits for it first.
const REST: Duration = Duration::from_secs(5);

/// A server that is asked before the primary.
pub(super) struct Replica {
    pool: PgPool,
    shares_pool: bool,
    state: Mutex<State>,
}

struct State {
    role: Role,
    /// The primary's positions of the last [`MAX_LAG`], oldest first.
    samples: VecDeque<Sample>,
    next_sample_at: Instant,
    /// True once the log has said that the replica is not asked.
    is_reported: bool,
}

/// The role of the replica's server towards the primary, as the last probe has found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A standby of the primary, which replays its log.
    Standby,
    /// The primary itself, as where an address for readers has no other server.
    Primary,
    /// Not asked before this time, nor before a probe has found that the server is one of the two.
    Resting(Instant),
}

/// A position that the primary had at this time or later.
#[derive(Clone, Copy)]
struct Sample {
    taken: Instant,
    position: i64,
}

/// The answer of a server about itself.
struct Server {
    system: i64,
    /// None on a standby, whose timeline is the one that it follows.
    timeline: Option<String>,
    /// The end of what is on its disk, or of what it has replayed.
    position: Option<i64>,
}

impl Replica {
    pub(super) fn new(pool: PgPool, shares_pool: bool) -> Self {
        let now = Instant::now();
        Self {
            pool,
            shares_pool,
            state: Mutex::new(State {
                role: Role::Resting(now),
                samples: VecDeque::new(),
                next_sample_at: now,
                is_reported: false,
            }),
        }
    }

    /// Returns the replica's answer; none when the primary has to be asked instead.
    pub(super) async fn find(
        self: &Arc<Self>,
        primary: &PgPool,
        schema: &Schema,
        digest: &KeyDigest,
    ) -> Option<Option<StoredKey>> {
        let began = Instant::now();
        if self.state().takes_sample(began) {
            tokio::spawn(Arc::clone(self).probe(primary.clone()));
        }
        let (role, reference) = self.state().reference(began)?;
        let lookup = timeout(PATIENCE, read::find_replayed(&self.pool, schema, digest)).await;
        let (replayed, found) = match lookup.map_err(StoreError::unavailable) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) | Err(error) => {
                self.rest(&error.reason());
                return None;
            }
        };
        match (role, replayed) {
            (Role::Standby, Some(replayed)) if replayed >= reference.position => Some(found),
            // A younger reference than that says little: every standby is a moment behind.
            (Role::Standby, Some(_)) if began - reference.taken < SAMPLE_EVERY => None,
            (Role::Standby, Some(_)) => {
                self.rest("it is behind the primary");
                None
            }
            (Role::Primary, None) => Some(found),
            _ => {
                self.rest("its server has another role than before");
                None
            }
        }
    }

    pub(super) async fn close(&self) {
        if !self.shares_pool {
            self.pool.close().await;
        }
    }

    /// Samples the primary's position, and finds out whether a replica that has rested can be asked
    /// again. Not at the cost of a lookup: none waits for it.
    async fn probe(self: Arc<Self>, primary: PgPool) {
        let taken = Instant::now();
        let Ok(Ok(of_primary)) = timeout(SAMPLE_EVERY, server(&primary)).await else {
            // Without a sample the replica is not asked, which is all that follows.
            return;
        };
        let rested = {
            let mut state = self.state();
            if let Some(position) = of_primary.position {
                state.samples.push_back(Sample { taken, position });
            }
            matches!(state.role, Role::Resting(until) if until <= taken)
        };
        if !rested {
            return;
        }
        match timeout(PATIENCE, server(&self.pool)).await {
            Ok(Ok(of_replica)) => self.judge(&of_primary, &of_replica),
            Ok(Err(error)) => self.rest(&error.reason()),
            Err(late) => self.rest(&late.to_string()),
        }
    }

    fn judge(&self, of_primary: &Server, of_replica: &Server) {
        if of_replica.system != of_primary.system {
            return self.rest("it is no standby of the primary");
        }
        let Some(timeline) = &of_replica.timeline else {
            let mut state = self.state();
            let reference = state.samples.front().map(|sample| sample.position);
            if of_replica.position >= reference {
                state.role = Role::Standby;
                state.is_reported = false;
            }
            // Otherwise the next probe asks again, when the reference is older.
            return;
        };
        if Some(timeline) == of_primary.timeline.as_ref() {
            let mut state = self.state();
            state.role = Role::Primary;
            state.is_reported = false;
        } else {
            self.rest("it was promoted, and the primary is another server");
        }
    }

    fn rest(&self, reason: &str) {
        let mut state = self.state();
        state.role = Role::Resting(Instant::now() + REST);
        if !std::mem::replace(&mut state.is_reported, true) {
            tracing::warn!(
                reason,
                "the replica is not asked, the primary answers instead"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock is left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whether it is time for another sample, and counts it as taken.
    fn takes_sample(&mut self, now: Instant) -> bool {
        let is_due = self.next_sample_at <= now;
        if is_due {
            self.next_sample_at = now + SAMPLE_EVERY;
        }
        is_due
    }

    /// The replica's role and the oldest sample that is not too old; none where the replica is not
    /// to answer.
    fn reference(&mut self, now: Instant) -> Option<(Role, Sample)> {
        while let Some(oldest) = self.samples.front()
            && now - oldest.taken > MAX_LAG
        {
            self.samples.pop_front();
        }
        if matches!(self.role, Role::Resting(_)) {
            return None;
        }
        Some((self.role, *self.samples.front()?))
    }
}

/// The standby can replay what is on the primary's disk, and not yet what is only in its memory.
const SERVER: &str = "
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       CASE WHEN NOT pg_is_in_recovery()
           THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8)
       END AS timeline,
       (CASE WHEN pg_is_in_recovery()
           THEN pg_last_wal_replay_lsn()
           ELSE pg_current_wal_flush_lsn()
       END - '0/0'::pg_lsn)::bigint AS position";

async fn server(pool: &PgPool) -> Result<Server, StoreError> {
    let mut lease = Lease::of(pool).await?;
    let (system, timeline, position) = sqlx::query_as(SERVER)
        .fetch_one(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    Ok(Server {
        system,
        timeline,
        position,
    })
}
