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

CREATE INDEX tower_api_key_keys_by_owner
    ON tower_api_key_keys (owner, id) WHERE owner IS NOT NULL;

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

CREATE TABLE tower_api_key_events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    key_row INTEGER NOT NULL REFERENCES tower_api_key_keys (key_row),
    at      INTEGER NOT NULL,
    action  TEXT NOT NULL,
    actor   TEXT
) STRICT;

CREATE INDEX tower_api_key_events_by_key ON tower_api_key_events (key_row);
