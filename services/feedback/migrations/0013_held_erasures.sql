-- Erasures by rule that would take more than the operator's daily share. Nothing is erased until
-- somebody approves it.
CREATE TABLE feedback.held_erasures (
    rule        text PRIMARY KEY CHECK (rule IN ('retention', 'orphans')),
    images      bigint NOT NULL,
    -- Images that were stored before; NULL for orphans.
    before      timestamptz,
    held_since  timestamptz NOT NULL DEFAULT now(),
    approved_by text CHECK (length(approved_by) BETWEEN 1 AND 128)
);

-- How many objects without a row were removed, for the share; forgotten after a day.
CREATE TABLE feedback.sweeps (
    swept_at timestamptz NOT NULL DEFAULT now(),
    objects  bigint NOT NULL
);
CREATE INDEX sweeps_swept_at ON feedback.sweeps (swept_at);

-- Images that retention erased in the last day.
CREATE INDEX erasures_by_retention ON feedback.erasures (asked_at) WHERE action = 'retention';
