-- Times are microseconds since the Unix epoch.

CREATE TABLE tower_api_key_keys (
    -- What the other tables refer to: an integer keeps their rows, and every lookup, short.
    key_row           INTEGER PRIMARY KEY,
    -- `key_` and a ULID, so that text order is the order of issue.
    id                TEXT NOT NULL UNIQUE,
    version           INTEGER NOT NULL CHECK (version > 0),
    name              TEXT NOT NULL,
    owner             TEXT,
    prefix            TEXT NOT NULL,
    environment       TEXT NOT NULL,
    scopes            TEXT NOT NULL CHECK (json_valid(scopes)),
    limits            TEXT NOT NULL CHECK (json_valid(limits)),
    metadata          TEXT NOT NULL CHECK (json_valid(metadata)),
    allowed_addresses TEXT NOT NULL CHECK (json_valid(allowed_addresses)),
    enabled           INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at        INTEGER NOT NULL,
    expires_at        INTEGER,
    revoked_at        INTEGER
) STRICT;

-- Listings go down by id. Each filter has an index in that order, and the further columns let
-- SQLite check the other filters without the row, so that a page never reads the whole table.
CREATE INDEX tower_api_key_keys_by_owner
    ON tower_api_key_keys (owner, id, environment, enabled, expires_at, revoked_at)
    WHERE owner IS NOT NULL;
CREATE INDEX tower_api_key_keys_by_environment
    ON tower_api_key_keys (environment, id, enabled, expires_at, revoked_at);
CREATE INDEX tower_api_key_keys_enabled
    ON tower_api_key_keys (id, expires_at) WHERE revoked_at IS NULL AND enabled = 1;
CREATE INDEX tower_api_key_keys_disabled
    ON tower_api_key_keys (id, expires_at, environment) WHERE revoked_at IS NULL AND enabled = 0;
CREATE INDEX tower_api_key_keys_with_end
    ON tower_api_key_keys (id, expires_at, environment)
    WHERE revoked_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX tower_api_key_keys_revoked
    ON tower_api_key_keys (id, environment) WHERE revoked_at IS NOT NULL;

-- Kept in the order of the digests, so that a lookup descends one tree for the credential and one
-- for its key.
CREATE TABLE tower_api_key_credentials (
    digest       BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    key_row      INTEGER NOT NULL REFERENCES tower_api_key_keys (key_row),
    -- 1 for the key's oldest credential; two may be created in the same microsecond.
    position     INTEGER NOT NULL,
    pepper       TEXT,
    start        TEXT NOT NULL,
    imported     INTEGER NOT NULL CHECK (imported IN (0, 1)),
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    UNIQUE (key_row, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE tower_api_key_usage (
    key_row INTEGER NOT NULL REFERENCES tower_api_key_keys (key_row),
    hour    INTEGER NOT NULL,
    allowed INTEGER NOT NULL CHECK (allowed >= 0),
    denied  INTEGER NOT NULL CHECK (denied >= 0),
    PRIMARY KEY (key_row, hour)
) STRICT, WITHOUT ROWID;

-- The batches of use that were recorded within the last 24 hours. An instance that has not got the
-- answer gives its batch again, and it must not count twice.
CREATE TABLE tower_api_key_usage_batches (
    id          TEXT NOT NULL PRIMARY KEY,
    recorded_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000)
) STRICT, WITHOUT ROWID;

CREATE INDEX tower_api_key_usage_batches_by_time ON tower_api_key_usage_batches (recorded_at);

CREATE TRIGGER tower_api_key_usage_batches_are_pruned AFTER INSERT ON tower_api_key_usage_batches
BEGIN
    DELETE FROM tower_api_key_usage_batches
    WHERE recorded_at < NEW.recorded_at - 24 * 3600 * 1000000;
END;

CREATE TABLE tower_api_key_events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    key_row INTEGER NOT NULL REFERENCES tower_api_key_keys (key_row),
    at      INTEGER NOT NULL,
    action  TEXT NOT NULL,
    actor   TEXT
) STRICT;

CREATE INDEX tower_api_key_events_by_key ON tower_api_key_events (key_row);

-- The budgets of the keys that have one, and what is left of them. Apart from the keys: a balance
-- changes all the time, and is no change of its key. The other columns are the key's plan.
CREATE TABLE tower_api_key_credits (
    key_row       INTEGER PRIMARY KEY REFERENCES tower_api_key_keys (key_row),
    -- The version of the key that set the balance, and what to: null once the budget is taken away.
    since_version INTEGER NOT NULL CHECK (since_version >= 0),
    granted       INTEGER CHECK (granted >= 0),
    remaining     INTEGER NOT NULL CHECK (remaining >= 0),
    -- When the balance was set or refilled last.
    begun_at      INTEGER NOT NULL,
    refill_amount INTEGER CHECK (refill_amount > 0),
    refill_every  TEXT CHECK (refill_every IN ('day', 'month')),
    CHECK ((refill_amount IS NULL) = (refill_every IS NULL))
) STRICT;

-- Changes.
--
-- Instances read this table to forget what they know. Triggers keep it, so that plain SQL is noticed
-- as well. A note that a credential was used is no change.

CREATE TABLE tower_api_key_changes (
    -- Counts up by one and never starts again, so that a reader sees what it has missed.
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    key_id   TEXT NOT NULL,
    -- The first eight bytes of the digest of the credential that was changed, in hexadecimal.
    tag      TEXT,
    -- The version of a key whose row was deleted or replaced: the next row of that id goes on from
    -- there.
    version  INTEGER
) STRICT;

CREATE INDEX tower_api_key_changes_by_version
    ON tower_api_key_changes (key_id, version) WHERE version IS NOT NULL;

CREATE TRIGGER tower_api_key_changes_are_few AFTER INSERT ON tower_api_key_changes
BEGIN
    DELETE FROM tower_api_key_changes WHERE revision <= NEW.revision - 1000;
END;

-- A new key is noticed by its credential.
CREATE TRIGGER tower_api_key_key_is_updated
AFTER UPDATE OF key_row, id, name, owner, prefix, environment, scopes, limits, metadata,
    allowed_addresses, enabled, created_at, expires_at, revoked_at
ON tower_api_key_keys
BEGIN
    INSERT INTO tower_api_key_changes (key_id) SELECT OLD.id UNION SELECT NEW.id;
END;

CREATE TRIGGER tower_api_key_key_is_deleted AFTER DELETE ON tower_api_key_keys
BEGIN
    INSERT INTO tower_api_key_changes (key_id, version) VALUES (OLD.id, OLD.version);
END;

CREATE TRIGGER tower_api_key_credential_is_added AFTER INSERT ON tower_api_key_credentials
BEGIN
    INSERT INTO tower_api_key_changes (key_id, tag)
    SELECT id, lower(hex(substr(NEW.digest, 1, 8)))
    FROM tower_api_key_keys WHERE key_row = NEW.key_row;
END;

CREATE TRIGGER tower_api_key_credential_is_updated
AFTER UPDATE OF digest, key_row, position, pepper, start, imported, created_at, expires_at
ON tower_api_key_credentials
BEGIN
    INSERT INTO tower_api_key_changes (key_id, tag)
    SELECT id, lower(hex(substr(NEW.digest, 1, 8)))
    FROM tower_api_key_keys WHERE key_row IN (OLD.key_row, NEW.key_row);
END;

CREATE TRIGGER tower_api_key_credential_is_deleted AFTER DELETE ON tower_api_key_credentials
BEGIN
    INSERT INTO tower_api_key_changes (key_id, tag)
    SELECT id, lower(hex(substr(OLD.digest, 1, 8)))
    FROM tower_api_key_keys WHERE key_row = OLD.key_row;
END;

-- Versions.
--
-- A change that the store computes is applied only to the version that it was computed from. The
-- store raises the version itself; for all others triggers raise it. A revocation by plain SQL would
-- be overwritten otherwise by a change that was computed before.

-- Has a row only within the transactions in which the store itself changes keys.
CREATE TABLE tower_api_key_applying (
    applying INTEGER PRIMARY KEY CHECK (applying = 1)
) STRICT;

-- A version below 1 is left to the table's check.
CREATE TRIGGER tower_api_key_key_raises_version AFTER UPDATE ON tower_api_key_keys
WHEN NEW.version BETWEEN 1 AND OLD.version
    AND (NEW.key_row, NEW.id, NEW.version, NEW.name, NEW.owner, NEW.prefix, NEW.environment,
         NEW.scopes, NEW.limits, NEW.metadata, NEW.allowed_addresses, NEW.enabled, NEW.created_at,
         NEW.expires_at, NEW.revoked_at)
        IS NOT
        (OLD.key_row, OLD.id, OLD.version, OLD.name, OLD.owner, OLD.prefix, OLD.environment,
         OLD.scopes, OLD.limits, OLD.metadata, OLD.allowed_addresses, OLD.enabled, OLD.created_at,
         OLD.expires_at, OLD.revoked_at)
BEGIN
    UPDATE tower_api_key_keys SET version = OLD.version + 1 WHERE key_row = NEW.key_row;
END;

CREATE TRIGGER tower_api_key_credential_update_raises_version AFTER UPDATE ON tower_api_key_credentials
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
    AND (NEW.digest, NEW.key_row, NEW.position, NEW.pepper, NEW.start, NEW.imported, NEW.created_at,
         NEW.expires_at)
        IS NOT
        (OLD.digest, OLD.key_row, OLD.position, OLD.pepper, OLD.start, OLD.imported, OLD.created_at,
         OLD.expires_at)
BEGIN
    UPDATE tower_api_key_keys SET version = version + 1 WHERE key_row IN (OLD.key_row, NEW.key_row);
END;

CREATE TRIGGER tower_api_key_credential_delete_raises_version AFTER DELETE ON tower_api_key_credentials
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
BEGIN
    UPDATE tower_api_key_keys SET version = version + 1 WHERE key_row = OLD.key_row;
END;

CREATE TRIGGER tower_api_key_plan_insert_raises_version AFTER INSERT ON tower_api_key_credits
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
BEGIN
    INSERT INTO tower_api_key_changes (key_id)
    SELECT id FROM tower_api_key_keys WHERE key_row = NEW.key_row;
    UPDATE tower_api_key_keys SET version = version + 1 WHERE key_row = NEW.key_row;
END;

CREATE TRIGGER tower_api_key_plan_update_raises_version
AFTER UPDATE OF key_row, since_version, granted, refill_amount, refill_every ON tower_api_key_credits
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
BEGIN
    INSERT INTO tower_api_key_changes (key_id)
    SELECT id FROM tower_api_key_keys WHERE key_row IN (OLD.key_row, NEW.key_row);
    UPDATE tower_api_key_keys SET version = version + 1 WHERE key_row IN (OLD.key_row, NEW.key_row);
END;

CREATE TRIGGER tower_api_key_plan_delete_raises_version AFTER DELETE ON tower_api_key_credits
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
BEGIN
    INSERT INTO tower_api_key_changes (key_id)
    SELECT id FROM tower_api_key_keys WHERE key_row = OLD.key_row;
    UPDATE tower_api_key_keys SET version = version + 1 WHERE key_row = OLD.key_row;
END;

-- `REPLACE` removes the rows that are in the way of a new one. Triggers on `DELETE` are not run for
-- those unless the writer has switched `recursive_triggers` on, so the rows are noted before they go.

CREATE TRIGGER tower_api_key_key_insert_replaces BEFORE INSERT ON tower_api_key_keys
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
BEGIN
    INSERT INTO tower_api_key_changes (key_id, version)
    SELECT id, version FROM tower_api_key_keys WHERE id = NEW.id OR key_row = NEW.key_row;
END;

CREATE TRIGGER tower_api_key_key_update_replaces BEFORE UPDATE OF key_row, id ON tower_api_key_keys
BEGIN
    INSERT INTO tower_api_key_changes (key_id, version)
    SELECT id, version FROM tower_api_key_keys
    WHERE (id = NEW.id OR key_row = NEW.key_row) AND key_row <> OLD.key_row;
END;

CREATE TRIGGER tower_api_key_key_goes_on AFTER INSERT ON tower_api_key_keys
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
    AND EXISTS (
        SELECT 1 FROM tower_api_key_changes WHERE key_id = NEW.id AND version >= NEW.version
    )
BEGIN
    UPDATE tower_api_key_keys
    SET version = 1 + (
        SELECT max(version) FROM tower_api_key_changes WHERE key_id = NEW.id AND version IS NOT NULL
    )
    WHERE key_row = NEW.key_row;
END;

CREATE TRIGGER tower_api_key_credential_insert_replaces BEFORE INSERT ON tower_api_key_credentials
WHEN NOT EXISTS (SELECT 1 FROM tower_api_key_applying)
BEGIN
    INSERT INTO tower_api_key_changes (key_id, tag)
    SELECT k.id, lower(hex(substr(c.digest, 1, 8)))
    FROM tower_api_key_credentials AS c JOIN tower_api_key_keys AS k USING (key_row)
    WHERE c.digest = NEW.digest OR (c.key_row = NEW.key_row AND c.position = NEW.position);
    UPDATE tower_api_key_keys SET version = version + 1
    WHERE key_row IN (
        SELECT key_row FROM tower_api_key_credentials
        WHERE digest = NEW.digest OR (key_row = NEW.key_row AND position = NEW.position)
    );
END;

CREATE TRIGGER tower_api_key_credential_update_replaces
BEFORE UPDATE OF digest, key_row, position ON tower_api_key_credentials
BEGIN
    INSERT INTO tower_api_key_changes (key_id, tag)
    SELECT k.id, lower(hex(substr(c.digest, 1, 8)))
    FROM tower_api_key_credentials AS c JOIN tower_api_key_keys AS k USING (key_row)
    WHERE (c.digest = NEW.digest OR (c.key_row = NEW.key_row AND c.position = NEW.position))
        AND c.digest <> OLD.digest;
    UPDATE tower_api_key_keys SET version = version + 1
    WHERE key_row IN (
        SELECT key_row FROM tower_api_key_credentials
        WHERE (digest = NEW.digest OR (key_row = NEW.key_row AND position = NEW.position))
            AND digest <> OLD.digest
    );
END;
