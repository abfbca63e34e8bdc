-- Runs with the store's schema as the search path, which the functions keep.

CREATE TABLE keys (
    -- What the other tables refer to: a number keeps their rows, and every lookup, short.
    key_row           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- `key_` and a ULID, so that the order of the bytes is the order of issue, whatever the
    -- database's own collation is.
    id                text COLLATE "C" NOT NULL UNIQUE CHECK (id ~ '^key_[0-9A-Z]{26}$'),
    version           bigint NOT NULL CHECK (version > 0),
    name              text NOT NULL,
    owner             text COLLATE "C",
    prefix            text NOT NULL,
    environment       text COLLATE "C" NOT NULL,
    scopes            text[] NOT NULL,
    limits            jsonb NOT NULL CHECK (jsonb_typeof(limits) = 'array'),
    metadata          jsonb NOT NULL CHECK (jsonb_typeof(metadata) = 'object'),
    -- Not cidr, which refuses an address with a network's length.
    allowed_addresses inet[] NOT NULL,
    enabled           boolean NOT NULL,
    created_at        timestamptz NOT NULL CHECK (isfinite(created_at)),
    expires_at        timestamptz CHECK (isfinite(expires_at)),
    revoked_at        timestamptz CHECK (isfinite(revoked_at))
);

-- Listings go down by id. Each filter has an index in that order, so that a page never reads the
-- whole table; PostgreSQL checks the further columns in the index.
CREATE INDEX keys_by_owner ON keys (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX keys_by_environment ON keys (environment, id);
CREATE INDEX keys_enabled ON keys (id) WHERE revoked_at IS NULL AND enabled;
CREATE INDEX keys_disabled ON keys (id, environment) WHERE revoked_at IS NULL AND NOT enabled;
CREATE INDEX keys_with_end ON keys (id, expires_at, environment)
    WHERE revoked_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX keys_revoked ON keys (id, environment) WHERE revoked_at IS NOT NULL;

CREATE TABLE credentials (
    digest       bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    key_row      bigint NOT NULL REFERENCES keys,
    -- 1 for the key's oldest credential; two may be created in the same microsecond.
    position     integer NOT NULL,
    pepper       text,
    start        text NOT NULL,
    imported     boolean NOT NULL,
    created_at   timestamptz NOT NULL CHECK (isfinite(created_at)),
    expires_at   timestamptz CHECK (isfinite(expires_at)),
    last_used_at timestamptz CHECK (isfinite(last_used_at)),
    UNIQUE (key_row, position)
)
-- Room on each page for the next version of a row: a new `last_used_at`, every few seconds, then
-- touches no index.
WITH (fillfactor = 80);

CREATE TABLE usage (
    key_row bigint NOT NULL REFERENCES keys,
    hour    timestamptz NOT NULL,
    allowed bigint NOT NULL CHECK (allowed >= 0),
    denied  bigint NOT NULL CHECK (denied >= 0),
    PRIMARY KEY (key_row, hour)
)
WITH (fillfactor = 80);

-- The batches of use that were recorded within the last 24 hours. An instance that has not got the
-- answer gives its batch again, and it must not count twice.
CREATE TABLE usage_batches (
    id          text COLLATE "C" PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX usage_batches_by_time ON usage_batches (recorded_at);

CREATE TABLE events (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_row bigint NOT NULL REFERENCES keys,
    at      timestamptz NOT NULL,
    action  text NOT NULL,
    actor   text
);

CREATE INDEX events_by_key ON events (key_row, seq);

-- The budgets of the keys that have one, and what is left of them. Apart from the keys: a balance
-- changes all the time, and is no change of its key. The other columns are the key's plan.
CREATE TABLE credits (
    key_row       bigint PRIMARY KEY REFERENCES keys,
    -- The version of the key that set the balance, and what to: null once the budget is taken away.
    since_version bigint NOT NULL CHECK (since_version >= 0),
    granted       bigint CHECK (granted >= 0),
    remaining     bigint NOT NULL CHECK (remaining >= 0),
    -- When the balance was set or refilled last.
    begun_at      timestamptz NOT NULL CHECK (isfinite(begun_at)),
    refill_amount bigint CHECK (refill_amount > 0),
    refill_every  text CHECK (refill_every IN ('day', 'month')),
    CHECK ((refill_amount IS NULL) = (refill_every IS NULL))
)
-- Room on each page for the next version of a row, as balances change all the time.
WITH (fillfactor = 80);

-- Versions.
--
-- A change that the store computes is applied only to the version that it was computed from. The
-- store raises the version itself, and says in its transaction that it does
-- (`tower_api_key.applying`). For all others these triggers raise it: a revocation that was typed
-- into psql would be overwritten otherwise by a change that was computed before.

CREATE FUNCTION raise_version() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$$;

-- A version below 1 is left to the table's check.
CREATE TRIGGER raise_version BEFORE UPDATE ON keys
    FOR EACH ROW
    WHEN (NEW.version BETWEEN 1 AND OLD.version AND OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION raise_version();

-- A key that is deleted and inserted again, as when one is restored from a backup, is another state of
-- the same key. It would have an old version again otherwise. The id `*` stands for all keys of a
-- table that was truncated. Only plain SQL deletes keys.
CREATE TABLE deleted_keys (
    id      text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);

-- With the rights of the tables' owner: a role that deletes a key need know nothing of this table.
CREATE FUNCTION keep_versions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO deleted_keys SELECT '*', max(version) FROM keys HAVING count(*) > 0
        ON CONFLICT (id) DO UPDATE SET version = greatest(deleted_keys.version, excluded.version);
    ELSE
        INSERT INTO deleted_keys SELECT id, version FROM old_rows ORDER BY id
        ON CONFLICT (id) DO UPDATE SET version = greatest(deleted_keys.version, excluded.version);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION go_on_from_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    NEW.version := greatest(NEW.version, (
        SELECT max(version) + 1 FROM deleted_keys WHERE id IN (NEW.id, '*')
    ));
    RETURN NEW;
END
$$;

CREATE TRIGGER keep_versions_deleted AFTER DELETE ON keys
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keep_versions();
CREATE TRIGGER keep_versions_truncated BEFORE TRUNCATE ON keys
    FOR EACH STATEMENT EXECUTE FUNCTION keep_versions();
-- A version below 1 is left to the table's check.
CREATE TRIGGER go_on_from_version BEFORE INSERT ON keys
    FOR EACH ROW
    WHEN (NEW.version > 0
          AND current_setting('tower_api_key.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION go_on_from_version();

-- The trigger of the credentials notifies listeners, so the one of the keys need not
-- (`tower_api_key.raising`). Keys are locked in the order of their rows, as everywhere.
CREATE FUNCTION raise_versions(key_rows bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('tower_api_key.raising', 'on', true);
    WITH changed AS (
        SELECT key_row FROM keys WHERE key_row = ANY (key_rows) ORDER BY key_row FOR NO KEY UPDATE
    )
    UPDATE keys SET version = version + 1 FROM changed WHERE keys.key_row = changed.key_row;
    PERFORM set_config('tower_api_key.raising', 'off', true);
END
$$;

CREATE FUNCTION raise_versions_of_credentials() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM raise_versions(ARRAY (SELECT DISTINCT key_row FROM old_rows));
    ELSE
        -- Those that differ in more than `last_used_at`; a credential that was moved counts for
        -- both of its keys.
        PERFORM raise_versions(ARRAY (
            SELECT key_row FROM (
                (SELECT key_row, digest, position, pepper, start, imported, created_at, expires_at
                 FROM old_rows
                 EXCEPT
                 SELECT key_row, digest, position, pepper, start, imported, created_at, expires_at
                 FROM new_rows)
                UNION ALL
                (SELECT key_row, digest, position, pepper, start, imported, created_at, expires_at
                 FROM new_rows
                 EXCEPT
                 SELECT key_row, digest, position, pepper, start, imported, created_at, expires_at
                 FROM old_rows)
            ) AS changed
        ));
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION raise_all_versions() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM raise_versions(ARRAY (SELECT key_row FROM keys));
    RETURN NULL;
END
$$;

-- A budget is a part of its key, and nothing else notifies listeners of it.
CREATE FUNCTION raise_version_of_plan() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE keys SET version = version + 1 WHERE key_row IN (OLD.key_row, NEW.key_row);
    RETURN NULL;
END
$$;

CREATE TRIGGER raise_versions_updated AFTER UPDATE ON credentials
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT
    WHEN (current_setting('tower_api_key.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION raise_versions_of_credentials();
CREATE TRIGGER raise_versions_deleted AFTER DELETE ON credentials
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT
    WHEN (current_setting('tower_api_key.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION raise_versions_of_credentials();
CREATE TRIGGER raise_versions_truncated AFTER TRUNCATE ON credentials
    FOR EACH STATEMENT EXECUTE FUNCTION raise_all_versions();

CREATE TRIGGER raise_version_planned
    AFTER INSERT OR DELETE OR UPDATE OF key_row, since_version, granted, refill_amount, refill_every
    ON credits
    FOR EACH ROW
    WHEN (current_setting('tower_api_key.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION raise_version_of_plan();

-- Notifications.
--
-- Every instance is notified of the keys that a transaction has changed, also one that was typed
-- into psql: `key_… tag …`, where a tag is the first 8 bytes of a credential's digest in hexadecimal
-- digits, or `*` for everything. PostgreSQL sends a transaction's notifications when it commits.

-- No name is longer than 63 bytes.
CREATE FUNCTION channel(schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN schema_name = 'tower_api_key' THEN schema_name
        WHEN octet_length(convert_to(schema_name, 'UTF8')) <= 49 THEN 'tower_api_key.' || schema_name
        ELSE 'tower_api_key.' || left(encode(sha256(convert_to(schema_name, 'UTF8')), 'hex'), 32)
    END
$$;

-- `ids` and `digests` go in pairs: a key, and one of its credentials or null.
CREATE FUNCTION notify_changes(channel text, ids text[], digests bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- A bulk change: to forget everything costs listeners less than to read about each key. A key
    -- whose id is not known any more was deleted in the same statement.
    IF (
        SELECT count(*) > 1000 OR count(DISTINCT id) > 100 OR bool_or(id IS NULL)
        FROM unnest(ids) AS id
    ) THEN
        PERFORM pg_notify(channel, '*');
        RETURN;
    END IF;
    -- In parts of 100 credentials: a payload has to stay below 8000 bytes.
    PERFORM pg_notify(channel, concat_ws(' ', id, string_agg(tag, ' ')))
    FROM (
        SELECT id, tag, (row_number() OVER (PARTITION BY id ORDER BY tag) - 1) / 100 AS part
        FROM (
            SELECT DISTINCT id, encode(substr(digest, 1, 8), 'hex') AS tag
            FROM unnest(ids, digests) AS changed (id, digest)
        ) AS tagged
    ) AS parted
    GROUP BY id, part;
END
$$;

-- Nothing has to be notified of a new key before it has a credential.
CREATE FUNCTION notify_changed_keys() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    ids text[];
    digests bytea[];
BEGIN
    IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(id), array_agg(digest)
        INTO ids, digests
        FROM (
            SELECT id, digest
            FROM (SELECT key_row, id FROM old_rows UNION SELECT key_row, id FROM new_rows) AS changed
            LEFT JOIN credentials USING (key_row)
            LIMIT 1001
        ) AS few;
    ELSE
        SELECT array_agg(id), array_agg(NULL::bytea)
        INTO ids, digests
        FROM (SELECT id FROM old_rows LIMIT 1001) AS few;
    END IF;
    PERFORM notify_changes(channel(TG_TABLE_SCHEMA), ids, digests);
    RETURN NULL;
END
$$;

CREATE FUNCTION notify_changed_credentials() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    key_rows bigint[];
    digests bytea[];
    ids text[];
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        SELECT array_agg(key_row), array_agg(digest) INTO key_rows, digests
        FROM (SELECT key_row, digest FROM new_rows LIMIT 1001) AS few;
    WHEN 'DELETE' THEN
        SELECT array_agg(key_row), array_agg(digest) INTO key_rows, digests
        FROM (SELECT key_row, digest FROM old_rows LIMIT 1001) AS few;
    ELSE
        -- Those that differ in more than `last_used_at`, which changes all the time and decides
        -- nothing.
        SELECT array_agg(key_row), array_agg(digest) INTO key_rows, digests
        FROM (
            SELECT coalesce(o.key_row, n.key_row) AS key_row, digest
            FROM old_rows AS o
            FULL JOIN new_rows AS n USING (digest)
            WHERE (o.key_row, o.position, o.pepper, o.start, o.imported, o.created_at, o.expires_at)
                  IS DISTINCT FROM
                  (n.key_row, n.position, n.pepper, n.start, n.imported, n.created_at, n.expires_at)
            LIMIT 1001
        ) AS few;
    END CASE;
    SELECT array_agg(id), array_agg(digest) INTO ids, digests
    FROM unnest(key_rows, digests) AS changed (key_row, digest)
    LEFT JOIN keys USING (key_row);
    PERFORM notify_changes(channel(TG_TABLE_SCHEMA), ids, digests);
    RETURN NULL;
END
$$;

CREATE FUNCTION notify_everything() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(channel(TG_TABLE_SCHEMA), '*');
    RETURN NULL;
END
$$;

-- For each statement, not for each row: of a change of 100,000 keys PostgreSQL would else keep
-- 100,000 notes.
CREATE TRIGGER notify_updated AFTER UPDATE ON keys
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT
    WHEN (current_setting('tower_api_key.raising', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION notify_changed_keys();
CREATE TRIGGER notify_deleted AFTER DELETE ON keys
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_keys();
CREATE TRIGGER notify_truncated AFTER TRUNCATE ON keys
    FOR EACH STATEMENT EXECUTE FUNCTION notify_everything();

CREATE TRIGGER notify_inserted AFTER INSERT ON credentials
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_credentials();
CREATE TRIGGER notify_updated AFTER UPDATE ON credentials
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_credentials();
CREATE TRIGGER notify_deleted AFTER DELETE ON credentials
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION notify_changed_credentials();
CREATE TRIGGER notify_truncated AFTER TRUNCATE ON credentials
    FOR EACH STATEMENT EXECUTE FUNCTION notify_everything();

-- Also in a session whose `session_replication_role` is `replica`, as tools for replication and for
-- loading data set it: a change that nobody is notified of would be undone by the next one.
ALTER TABLE keys ENABLE ALWAYS TRIGGER raise_version;
ALTER TABLE keys ENABLE ALWAYS TRIGGER keep_versions_deleted;
ALTER TABLE keys ENABLE ALWAYS TRIGGER keep_versions_truncated;
ALTER TABLE keys ENABLE ALWAYS TRIGGER go_on_from_version;
ALTER TABLE keys ENABLE ALWAYS TRIGGER notify_updated;
ALTER TABLE keys ENABLE ALWAYS TRIGGER notify_deleted;
ALTER TABLE keys ENABLE ALWAYS TRIGGER notify_truncated;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER raise_versions_updated;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER raise_versions_deleted;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER raise_versions_truncated;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER notify_inserted;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER notify_updated;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER notify_deleted;
ALTER TABLE credentials ENABLE ALWAYS TRIGGER notify_truncated;
ALTER TABLE credits ENABLE ALWAYS TRIGGER raise_version_planned;

-- With the rights of the tables' owner: a role that records use need not be allowed to delete.
-- Rows that another transaction deletes at this moment are left to it.
CREATE FUNCTION prune_usage_batches() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM usage_batches WHERE id IN (
        SELECT id FROM usage_batches
        WHERE recorded_at < now() - interval '24 hours'
        ORDER BY recorded_at LIMIT 100
        FOR UPDATE SKIP LOCKED
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER prune_usage_batches AFTER INSERT ON usage_batches
    FOR EACH STATEMENT EXECUTE FUNCTION prune_usage_batches();
