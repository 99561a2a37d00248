-- Which pairs to ask about: embeddings of all images, pairs prepared from them, and who was
-- handed what. Everything but the leases can be made anew.

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_available_extensions WHERE name = 'vector'
        AND string_to_array(coalesce(installed_version, default_version), '.')::integer[]
            >= '{0,5}'
    ) THEN
        RAISE EXCEPTION 'this Postgres has no pgvector 0.5 or newer: install it on the server '
            '(Debian''s package postgresql-NN-pgvector, or the image pgvector/pgvector)';
    END IF;
END $$;
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

-- For a walk over the images in the order they came in, many of them at the same moment.
DROP INDEX feedback.images_stored_at;
CREATE INDEX images_stored_at ON feedback.images (stored_at, sha256);

-- Model versions that the pool is embedded with: the newest one, and while it is not
-- complete the one before.
CREATE TABLE feedback.pool_versions (
    version_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_version text NOT NULL UNIQUE,
    dimensions    integer NOT NULL CHECK (dimensions BETWEEN 1 AND 2000),
    threshold     double precision NOT NULL,
    -- The curve from similarity to probability; NULL where nobody has measured one.
    slope         double precision,
    intercept     double precision,
    begun_at      timestamptz NOT NULL DEFAULT now(),
    -- Since when every image is embedded, and the index is there.
    complete_at   timestamptz,
    CHECK (num_nulls(slope, intercept) IN (0, 2))
);

-- One partition a version, embeddings_<version_id>, with an HNSW index of its own once it is
-- complete: versions have their own dimensions, never mix, and are dropped in no time.
CREATE TABLE feedback.embeddings (
    version_id integer NOT NULL REFERENCES feedback.pool_versions,
    sha256     bytea NOT NULL REFERENCES feedback.images ON DELETE CASCADE,
    -- Of unit length.
    embedding  vector NOT NULL,
    -- Share of the reference faces that are no better, 0..1.
    quality    real NOT NULL,
    PRIMARY KEY (version_id, sha256)
) PARTITION BY LIST (version_id);

-- Images that the embedder refuses are not sent again and again.
CREATE TABLE feedback.unembeddable (
    sha256        bytea PRIMARY KEY REFERENCES feedback.images ON DELETE CASCADE,
    model_version text NOT NULL,
    why           text NOT NULL
);

CREATE TYPE feedback.strategy AS ENUM ('uncertainty', 'disagreement', 'hard', 'random', 'gold');

-- Pairs that wait for people. A row goes when enough people were handed it and it is settled.
CREATE TABLE feedback.candidates (
    candidate_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_a      bytea NOT NULL REFERENCES feedback.images ON DELETE CASCADE,
    image_b      bytea NOT NULL REFERENCES feedback.images ON DELETE CASCADE,
    strategy     feedback.strategy NOT NULL,
    -- Higher ones are handed out first.
    score        double precision NOT NULL,
    -- How many people to ask, and who was asked already.
    wanted       integer NOT NULL CHECK (wanted >= 1),
    holders      text[] NOT NULL DEFAULT '{}',
    -- What a gold pair is known to be.
    truth        feedback.label,
    prepared_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (image_a < image_b),
    CHECK ((strategy = 'gold') = (truth IS NOT NULL)),
    UNIQUE (image_a, image_b)
) WITH (fillfactor = 70);

CREATE INDEX candidates_open ON feedback.candidates (strategy, score DESC, candidate_id)
    WHERE cardinality(holders) < wanted;
CREATE INDEX candidates_full ON feedback.candidates (candidate_id)
    WHERE cardinality(holders) >= wanted;
CREATE INDEX candidates_image_b ON feedback.candidates (image_b);

-- Who was handed which pair, by which strategy; kept, since it says which labels are a
-- random sample.
CREATE TABLE feedback.leases (
    lease_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image_a    bytea NOT NULL REFERENCES feedback.images ON DELETE CASCADE,
    image_b    bytea NOT NULL REFERENCES feedback.images ON DELETE CASCADE,
    annotator  text NOT NULL CHECK (length(annotator) BETWEEN 1 AND 128),
    strategy   feedback.strategy NOT NULL,
    leased_at  timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    -- NULL until it has run out; then, whether there was an answer.
    answered   boolean
);

CREATE INDEX leases_running ON feedback.leases (expires_at) WHERE answered IS NULL;
CREATE INDEX leases_image_a ON feedback.leases (image_a);
CREATE INDEX leases_image_b ON feedback.leases (image_b);
