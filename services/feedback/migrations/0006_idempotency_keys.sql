-- What was made for a call, by the key that its caller gave it: a repetition is answered with
-- the same. Kept as long as the leases that it names, which is for ever. caller is the
-- annotator, content the SHA-256 of what was asked for. result is NULL only within the
-- transaction that takes the key.
CREATE TABLE feedback.idempotency_keys (
    caller          text NOT NULL CHECK (length(caller) BETWEEN 1 AND 128),
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 128),
    content         bytea NOT NULL CHECK (octet_length(content) = 32),
    result          jsonb,
    kept_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, idempotency_key)
);

-- A snapshot is given again while it is what a new one would be.
CREATE INDEX snapshots_max_label_id ON feedback.snapshots (max_label_id);
CREATE INDEX erasure_snapshots_snapshot_id ON feedback.erasure_snapshots (snapshot_id);
