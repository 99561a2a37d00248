-- The false-match rates that an operator has set; the latest row is in force.
CREATE TABLE trainer.operating_points (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- NULL: every version serves at its own threshold.
    target_fmr double precision CHECK (target_fmr > 0 AND target_fmr <= 0.1),
    prior      double precision NOT NULL CHECK (prior > 0 AND prior < 1),
    who        text NOT NULL CHECK (length(who) BETWEEN 1 AND 128),
    why        text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    -- The first generation with it; NULL if no version served.
    generation bigint CHECK (generation >= 1)
);

-- The operating point of each generation. A change of it is a generation of its own, which restores
-- the version of the generation before.
ALTER TABLE trainer.serving_history ADD COLUMN target_fmr double precision;
ALTER TABLE trainer.serving_history ADD COLUMN prior double precision NOT NULL DEFAULT 0.5;

-- The target that was in force when the work on the job began.
ALTER TABLE trainer.jobs ADD COLUMN target_fmr double precision;
