//! What other processes change in the same file.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqlitePool;
use tokio::time::{Instant, sleep_until};

use crate::invalidation::{BusError, Invalidation, InvalidationBus, Subscription};

/// Reads the table of changes, which triggers keep, four times a second.
pub(super) struct Changes {
    pool: SqlitePool,
}

impl Changes {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }
}

/// How often is looked. A look is one short query on one page, which is in memory.
const INTERVAL: Duration = Duration::from_millis(250);

#[async_trait]
impl InvalidationBus for Changes {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let revision = sqlx::query_scalar::<_, i64>(LAST)
            .fetch_one(&self.pool)
            .await
            .map_err(BusError::new)?;
        Ok(Box::new(Reader {
            pool: self.pool.clone(),
            revision,
            unread: VecDeque::new(),
        }))
    }
}

struct Reader {
    pool: SqlitePool,
    /// The last one that was read.
    revision: i64,
    unread: VecDeque<Invalidation>,
}

#[async_trait]
impl Subscription for Reader {
    async fn next(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError> {
        loop {
            // A look that finds nothing new is the proof that nothing was missed.
            let late = Instant::now() >= until;
            if let (Some(read), false) = (self.unread.pop_front(), late) {
                return Ok(Some(read));
            }
            self.look().await?;
            if late {
                return Ok(None);
            }
            if self.unread.is_empty() {
                sleep_until(until.min(Instant::now() + INTERVAL)).await;
            }
        }
    }
}

impl Reader {
    async fn look(&mut self) -> Result<(), BusError> {
        let changes: Vec<(i64, String, Option<String>)> = sqlx::query_as(AFTER)
            .bind(self.revision)
            .fetch_all(&self.pool)
            .await
            .map_err(BusError::new)?;
        for (revision, key_id, tag) in changes {
            let text = tag.map_or_else(|| key_id.clone(), |tag| format!("{key_id} {tag}"));
            self.unread.push_back(match text.parse() {
                Ok(invalidation) if revision == self.revision + 1 => invalidation,
                // Some were dropped before they were read, or somebody wrote something else.
                _ => Invalidation::Everything,
            });
            self.revision = revision;
        }
        Ok(())
    }
}

const LAST: &str = "SELECT coalesce(max(revision), 0) FROM tower_api_key_changes";

const AFTER: &str = "
SELECT revision, key_id, tag FROM tower_api_key_changes WHERE revision > ?1 ORDER BY revision";

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}
