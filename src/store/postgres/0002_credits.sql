-- The budgets of the keys that have one, and what is left of them. Apart from the keys: a balance
-- changes without a new version of its key, and no trigger tells of it.

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
