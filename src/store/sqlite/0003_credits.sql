-- The budgets of the keys that have one, and what is left of them. Apart from the keys: a balance
-- changes without a new version of its key, and no trigger tells of it.

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
