-- How sure the annotator is, 0..1; part of what a label says.
ALTER TABLE feedback.labels ADD COLUMN sureness double precision
    CHECK (sureness BETWEEN 0 AND 1);

-- Who an image shows, where somebody has said so. A table of its own: an image is often
-- stored before it is known whom it shows, and a row of images never changes.
CREATE TABLE feedback.image_subjects (
    sha256   bytea PRIMARY KEY REFERENCES feedback.images ON DELETE CASCADE,
    subject  text NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),
    named_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX image_subjects_subject ON feedback.image_subjects (subject);

-- An erased image takes its pairs along; unique (image_a, image_b) finds them on one side only.
CREATE INDEX pairs_image_b ON feedback.pairs (image_b);
-- The oldest images, for retention by age.
CREATE INDEX images_stored_at ON feedback.images (stored_at);

-- The first label on an image that went with the erasure of the other image of its pair.
-- Whether a snapshot used an image is asked of its first label, also when that is gone.
CREATE TABLE feedback.image_uses (
    sha256         bytea PRIMARY KEY REFERENCES feedback.images ON DELETE CASCADE,
    first_label_id bigint NOT NULL
);

-- Erasures asked for. The id is the caller's, and all that stays of whom it was about.
CREATE TABLE feedback.erasures (
    request_id  text PRIMARY KEY CHECK (length(request_id) BETWEEN 1 AND 128),
    action      text NOT NULL CHECK (action IN ('erase_image', 'erase_subject', 'retention')),
    actor       text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
    -- What was erased so far.
    images      bigint NOT NULL DEFAULT 0,
    pairs       bigint NOT NULL DEFAULT 0,
    labels      bigint NOT NULL DEFAULT 0,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    -- NULL while something of it is left to do.
    finished_at timestamptz
);

CREATE INDEX erasures_unfinished ON feedback.erasures (asked_at) WHERE finished_at IS NULL;

-- The snapshots that may have given erased images to a training.
CREATE TABLE feedback.erasure_snapshots (
    request_id  text NOT NULL REFERENCES feedback.erasures,
    snapshot_id uuid NOT NULL REFERENCES feedback.snapshots,
    PRIMARY KEY (request_id, snapshot_id)
);

-- Objects that are to go, recorded before they do and forgotten once they have. While a
-- hash stands here nobody uploads it. request_id is '' for an object that has no row.
CREATE TABLE feedback.removals (
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    request_id text NOT NULL,
    -- Whoever removes it now, and since when: two must not do so one after the other.
    taken_by   uuid,
    taken_at   timestamptz,
    PRIMARY KEY (sha256, request_id)
);

CREATE INDEX removals_request ON feedback.removals (request_id);

-- Grows with each list of removals: an upload begun under another value looks again.
CREATE TABLE feedback.removal_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint NOT NULL
);

INSERT INTO feedback.removal_epoch (epoch) VALUES (0);

-- Who did what, besides labelling, which labels say themselves. Without biometric data.
CREATE TABLE feedback.audit (
    audit_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
    action     text NOT NULL CHECK (length(action) BETWEEN 1 AND 64),
    request_id text NOT NULL,
    detail     jsonb NOT NULL DEFAULT '{}'
);

CREATE TRIGGER facts_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON feedback.audit
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_change();

CREATE FUNCTION feedback.refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('feedback.erasing', true), '') <> 'on' THEN
        RAISE EXCEPTION '% holds facts: only an erasure removes them', TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER facts_remain BEFORE DELETE OR TRUNCATE ON feedback.images
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_removal();
CREATE TRIGGER facts_remain BEFORE DELETE OR TRUNCATE ON feedback.pairs
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_removal();
CREATE TRIGGER facts_remain BEFORE DELETE OR TRUNCATE ON feedback.labels
    FOR EACH STATEMENT EXECUTE FUNCTION feedback.refuse_removal();
