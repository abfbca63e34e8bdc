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

CREATE INDEX keys_by_owner ON keys (owner, id) WHERE owner IS NOT NULL;

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

CREATE TABLE events (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_row bigint NOT NULL REFERENCES keys,
    at      timestamptz NOT NULL,
    action  text NOT NULL,
    actor   text
);

CREATE INDEX events_by_key ON events (key_row, seq);

-- What follows tells every instance which keys a transaction has changed, also one that was typed
-- into psql: `key_… tag …`, where a tag is the first 8 bytes of a credential's digest in hexadecimal
-- digits, or `*` for everything. PostgreSQL sends what a transaction tells when it commits.

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
CREATE FUNCTION tell(channel text, ids text[], digests bytea[]) RETURNS void
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

-- A new key needs no telling before it has a credential.
CREATE FUNCTION tell_of_keys() RETURNS trigger
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
    PERFORM tell(channel(TG_TABLE_SCHEMA), ids, digests);
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_of_credentials() RETURNS trigger
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
    PERFORM tell(channel(TG_TABLE_SCHEMA), ids, digests);
    RETURN NULL;
END
$$;

CREATE FUNCTION tell_of_everything() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(channel(TG_TABLE_SCHEMA), '*');
    RETURN NULL;
END
$$;

-- For each statement, not for each row: of a change of 100,000 keys PostgreSQL would else keep
-- 100,000 notes.
CREATE TRIGGER tell_updated AFTER UPDATE ON keys
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_keys();
CREATE TRIGGER tell_deleted AFTER DELETE ON keys
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_keys();
CREATE TRIGGER tell_truncated AFTER TRUNCATE ON keys
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_everything();

CREATE TRIGGER tell_inserted AFTER INSERT ON credentials
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_credentials();
CREATE TRIGGER tell_updated AFTER UPDATE ON credentials
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_credentials();
CREATE TRIGGER tell_deleted AFTER DELETE ON credentials
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_credentials();
CREATE TRIGGER tell_truncated AFTER TRUNCATE ON credentials
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_everything();
