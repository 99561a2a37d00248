-- Names of people are stored in one form, as the contract's TEXT_KIND_PERSON says; an image may
-- have several; and what was erased on request is not stored again for a while.

-- The form of the contract. Invisible characters are dropped here, because a name that has them
-- can no longer be asked for. normalize() needs a database in UTF-8.
CREATE FUNCTION pg_temp.normal_name(name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(nullif(left(btrim(regexp_replace(
        CASE WHEN getdatabaseencoding() = 'UTF8'
            THEN normalize(regexp_replace(name, '[\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5'
                '\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F'
                '\uFEFF\uFFA0\uFFF0-\uFFFB\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A'
                '\U000E0000-\U000E0FFF]', '', 'g'), NFC)
            ELSE name END,
        '[ \u00A0\u1680\u2000-\u200A\u202F\u205F\u3000]+', ' ', 'g')), 128), ''), 'unnamed')
$$;

-- Subjects: several for an image.
ALTER TABLE feedback.image_subjects DROP CONSTRAINT image_subjects_pkey;
CREATE TEMP TABLE named ON COMMIT DROP AS
    SELECT sha256, pg_temp.normal_name(subject) AS subject, named_at, subject AS before
    FROM feedback.image_subjects WHERE subject <> pg_temp.normal_name(subject);
UPDATE feedback.image_subjects SET subject = named.subject
FROM named WHERE image_subjects.sha256 = named.sha256 AND image_subjects.subject = named.before;
ALTER TABLE feedback.image_subjects ADD PRIMARY KEY (sha256, subject);

-- Annotators: those that become one have one vote on a pair, their latest, as if they had always
-- been one. Every label has its annotator in table annotators.
CREATE TEMP TABLE renamed ON COMMIT DROP AS
    SELECT annotator AS before, pg_temp.normal_name(annotator) AS annotator, met_at
    FROM feedback.annotators WHERE annotator <> pg_temp.normal_name(annotator);
INSERT INTO feedback.annotators (annotator, met_at)
    SELECT annotator, min(met_at) FROM renamed GROUP BY annotator
ON CONFLICT (annotator) DO UPDATE SET met_at = least(annotators.met_at, excluded.met_at);
DELETE FROM feedback.annotators USING renamed WHERE annotators.annotator = renamed.before;
ALTER TABLE feedback.labels DISABLE TRIGGER facts_stay;
UPDATE feedback.labels SET annotator = renamed.annotator
FROM renamed WHERE labels.annotator = renamed.before;
ALTER TABLE feedback.labels ENABLE TRIGGER facts_stay;
-- Without the rule, the next start derives every consensus again.
DELETE FROM feedback.consensus_rule WHERE EXISTS (SELECT FROM renamed);

-- Whoever leased or holds pairs need not have labelled any.
UPDATE feedback.leases SET annotator = pg_temp.normal_name(annotator)
WHERE annotator <> pg_temp.normal_name(annotator);
UPDATE feedback.candidates SET holders = ARRAY(
    SELECT DISTINCT pg_temp.normal_name(holder) FROM unnest(holders) AS holder
) WHERE EXISTS (
    SELECT FROM unnest(holders) AS holder WHERE holder <> pg_temp.normal_name(holder)
);

-- Makes digests of what must not be stored itself: without the key, a digest says nothing.
CREATE TABLE feedback.erasure_key (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    key      bytea NOT NULL CHECK (octet_length(key) = 64)
);
INSERT INTO feedback.erasure_key (key) VALUES (
    sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea)
    || sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea)
);

-- A digest of the image or subject that was asked for; NULL for a retention, and for what was
-- asked for before there were digests.
ALTER TABLE feedback.erasures ADD COLUMN asked_for bytea CHECK (octet_length(asked_for) = 32);

-- Digests of images, and of idempotency keys of labels, that were erased on request.
CREATE TABLE feedback.tombstones (
    digest    bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    erased_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tombstones_erased_at ON feedback.tombstones (erased_at);
