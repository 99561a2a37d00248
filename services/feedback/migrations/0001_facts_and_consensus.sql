CREATE TYPE feedback.label AS ENUM ('same', 'different', 'unsure');

-- Facts: rows that are written once and never changed.

CREATE TABLE feedback.images (
    sha256     bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    size_bytes integer NOT NULL CHECK (size_bytes > 0),
    media_type text NOT NULL,
    alignment  text NOT NULL CHECK (alignment IN ('aligned', 'landmarks', 'detect')),
    -- x and y of five points in turn; double precision gives back exactly what was sent.
    landmarks  double precision[],
    stored_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((alignment = 'landmarks') = (landmarks IS NOT NULL)),
    CHECK (cardinality(landmarks) = 10)
);

CREATE TABLE feedback.pairs (
    pair_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_a bytea NOT NULL REFERENCES feedback.images,
    image_b bytea NOT NULL REFERENCES feedback.images,
    -- One order only, so that the unique key sees a pair and its mirror image as one.
    CHECK (image_a < image_b),
    UNIQUE (image_a, image_b)
);

CREATE TABLE feedback.annotators (
    annotator text PRIMARY KEY CHECK (length(annotator) BETWEEN 1 AND 128),
    met_at    timestamptz NOT NULL DEFAULT now()
);

-- A later label of the same annotator on the same pair supersedes the earlier one;
-- both stay. labels.annotator has no foreign key: locking one popular row of
-- annotators for each label would make the submitters wait for one another.
CREATE TABLE feedback.labels (
    label_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id         bigint NOT NULL REFERENCES feedback.pairs,
    annotator       text NOT NULL CHECK (length(annotator) BETWEEN 1 AND 128),
    label           feedback.label NOT NULL,
    idempotency_key text NOT NULL UNIQUE CHECK (length(idempotency_key) BETWEEN 1 AND 128),
    model_version   text,
    similarity      double precision,
    threshold       double precision,
    labelled_at     timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nulls(model_version, similarity, threshold) IN (0, 3))
);

CREATE INDEX labels_current ON feedback.labels (pair_id, annotator, label_id DESC) INCLUDE (label);

CREATE FUNCTION feedback.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% holds facts: add a row that supersedes, do not change one', TG_TABLE_NAME;
END $$;

CREATE TRIGGER facts_stay BEFORE UPDATE ON feedback.images
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_change();
CREATE TRIGGER facts_stay BEFORE UPDATE ON feedback.pairs
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_change();
CREATE TRIGGER facts_stay BEFORE UPDATE ON feedback.labels
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_change();

-- Labels up to max_label_id, judged by the rule that held then.
CREATE TABLE feedback.snapshots (
    snapshot_id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    max_label_id  bigint NOT NULL,
    minimum_votes integer NOT NULL CHECK (minimum_votes >= 1),
    taken_at      timestamptz NOT NULL DEFAULT now()
);

-- Derived: kept up to date in the transaction that adds a label; can be made anew from labels.

CREATE TABLE feedback.pair_consensus (
    pair_id         bigint PRIMARY KEY REFERENCES feedback.pairs,
    -- NULL while people are divided or too few.
    consensus       feedback.label,
    confidence      double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    votes_same      integer NOT NULL,
    votes_different integer NOT NULL,
    votes_unsure    integer NOT NULL,
    last_labelled   timestamptz NOT NULL
) WITH (fillfactor = 90);

CREATE INDEX pair_consensus_listed ON feedback.pair_consensus (consensus, pair_id DESC);

-- The rule that pair_consensus was derived with; a changed setting derives it anew.
CREATE TABLE feedback.consensus_rule (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    minimum_votes integer NOT NULL CHECK (minimum_votes >= 1)
);

-- Sums over the slots are what is stored. Slots let transactions count without waiting
-- for one another: each takes the one of its backend's process id.
CREATE TABLE feedback.counters (
    slot            smallint PRIMARY KEY,
    images          bigint NOT NULL DEFAULT 0,
    labels          bigint NOT NULL DEFAULT 0,
    pairs_same      bigint NOT NULL DEFAULT 0,
    pairs_different bigint NOT NULL DEFAULT 0,
    pairs_undecided bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

INSERT INTO feedback.counters (slot) SELECT generate_series(0, 15);
