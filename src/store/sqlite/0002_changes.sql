-- What was changed lately, by whomever: instances read it to forget what they know. Triggers keep
-- it, so that plain SQL is noticed as well. A note that a credential was used is no change.

CREATE TABLE tower_api_key_changes (
    -- Counts up by one and never starts again, so that a reader sees what it has missed.
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    key_id   TEXT NOT NULL,
    -- The first eight bytes of the digest of the credential that was changed, in hexadecimal.
    tag      TEXT
) STRICT;

CREATE TRIGGER tower_api_key_changes_are_few AFTER INSERT ON tower_api_key_changes
BEGIN
    DELETE FROM tower_api_key_changes WHERE revision <= NEW.revision - 1000;
END;

-- A new key is noticed by its credential.
CREATE TRIGGER tower_api_key_key_is_updated AFTER UPDATE ON tower_api_key_keys
BEGIN
    INSERT INTO tower_api_key_changes (key_id) VALUES (OLD.id);
END;

CREATE TRIGGER tower_api_key_key_is_deleted AFTER DELETE ON tower_api_key_keys
BEGIN
    INSERT INTO tower_api_key_changes (key_id) VALUES (OLD.id);
END;

CREATE TRIGGER tower_api_key_credential_is_added AFTER INSERT ON tower_api_key_credentials
BEGIN
    INSERT INTO tower_api_key_changes (key_id, tag)
    SELECT id, lower(hex(substr(NEW.digest, 1, 8)))
    FROM tower_api_key_keys WHERE key_row = NEW.key_row;
END;

CREATE TRIGGER tower_api_key_credential_is_updated
AFTER UPDATE OF digest, key_row, pepper, start, imported, created_at, expires_at
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
