-- What was made for a call, by the key that its caller gave it: a repetition is answered with
-- the same. Kept as long as what it names, which is for ever. caller is the request's
-- requested_by, content the SHA-256 of what was asked for. result is NULL only within the
-- transaction that takes the key.
CREATE TABLE trainer.idempotency_keys (
    caller          text NOT NULL CHECK (length(caller) BETWEEN 1 AND 128),
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 128),
    content         bytea NOT NULL CHECK (octet_length(content) = 32),
    result          jsonb,
    kept_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, idempotency_key)
);
