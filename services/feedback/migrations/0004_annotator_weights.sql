-- How far annotators can be relied on, estimated from labels, and what their answers weigh.
-- A weighting is never changed: what was judged by one can be judged by it again, for ever.

CREATE TABLE feedback.weightings (
    weighting_id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    estimated_at   timestamptz NOT NULL DEFAULT now(),
    -- What was stored when it was estimated, and the last entry of the trail then: both tell
    -- when it is time to estimate anew.
    labels         bigint NOT NULL,
    audit_id       bigint NOT NULL,
    -- What it was estimated from.
    votes          bigint NOT NULL,
    pairs          bigint NOT NULL,
    -- The log odds that a consensus must exceed.
    bar            double precision NOT NULL CHECK (bar >= 0),
    -- Log odds that a pair is genuine after one answer of an average annotator.
    odds_same      double precision NOT NULL,
    odds_different double precision NOT NULL,
    odds_unsure    double precision NOT NULL
);

CREATE TABLE feedback.annotator_weights (
    weighting_id   integer NOT NULL REFERENCES feedback.weightings ON DELETE CASCADE,
    annotator      text NOT NULL CHECK (length(annotator) BETWEEN 1 AND 128),
    -- Of their votes, those on pairs that tell something about them.
    overlap        bigint NOT NULL,
    -- Shares of the genuine and impostor pairs that they are estimated to call right.
    genuine_right  double precision NOT NULL CHECK (genuine_right BETWEEN 0 AND 1),
    impostor_right double precision NOT NULL CHECK (impostor_right BETWEEN 0 AND 1),
    -- NULL while the overlap is too small: they count as the average annotator then.
    odds_same      double precision,
    odds_different double precision,
    odds_unsure    double precision,
    CHECK (num_nulls(odds_same, odds_different, odds_unsure) IN (0, 3)),
    PRIMARY KEY (weighting_id, annotator)
);

CREATE TRIGGER facts_stay BEFORE UPDATE ON feedback.weightings
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_change();
CREATE TRIGGER facts_stay BEFORE UPDATE ON feedback.annotator_weights
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_change();

-- NULL where the majority judges.
ALTER TABLE feedback.snapshots
    ADD COLUMN weighting_id integer REFERENCES feedback.weightings;
ALTER TABLE feedback.consensus_rule
    ADD COLUMN weighting_id integer REFERENCES feedback.weightings;

CREATE INDEX snapshots_weighting ON feedback.snapshots (weighting_id)
    WHERE weighting_id IS NOT NULL;
