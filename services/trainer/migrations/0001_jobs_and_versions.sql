-- Work to do, and work done. `seq` orders jobs for the queue and for paging.
CREATE TABLE trainer.jobs (
    job_id           uuid PRIMARY KEY,
    seq              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind             text NOT NULL CHECK (kind IN ('train', 'import')),
    spec             jsonb NOT NULL,
    requested_by     text NOT NULL CHECK (length(requested_by) BETWEEN 1 AND 128),
    state            text NOT NULL DEFAULT 'queued'
                     CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    ended_at         timestamptz,
    progress         real NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    message          text NOT NULL DEFAULT 'waiting',
    model_version    text,
    gate             jsonb,
    -- The feedback a training froze when it first ran; a resumed one trains on the same.
    data_snapshot    text,
    cancelled_by     text,
    attempts         integer NOT NULL DEFAULT 0,
    not_before       timestamptz NOT NULL DEFAULT now(),
    -- Rises with every claim; a runner may write only while it holds the latest.
    fencing_token    bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    CHECK ((state = 'running') = (lease_expires_at IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL))
);

CREATE INDEX jobs_open ON trainer.jobs (seq) WHERE state IN ('queued', 'running');

CREATE TABLE trainer.job_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id   uuid NOT NULL REFERENCES trainer.jobs,
    at       timestamptz NOT NULL DEFAULT now(),
    state    text NOT NULL,
    progress real NOT NULL,
    message  text NOT NULL,
    figures  jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX job_events_of_job ON trainer.job_events (job_id, event_id);

-- Versions whose files are complete in the object store.
CREATE TABLE trainer.versions (
    model_version text PRIMARY KEY,
    seq           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    manifest      jsonb NOT NULL,
    -- NULL for an import: nobody judged it.
    gate          jsonb,
    job_id        uuid NOT NULL REFERENCES trainer.jobs
);

-- Which version served, since when, and who wanted it. The latest row serves. The
-- primary key lets one of two promotions made at the same time win.
CREATE TABLE trainer.serving_history (
    generation      bigint PRIMARY KEY CHECK (generation >= 1),
    model_version   text NOT NULL REFERENCES trainer.versions,
    who             text NOT NULL CHECK (length(who) BETWEEN 1 AND 128),
    why             text NOT NULL,
    gate_overridden boolean NOT NULL DEFAULT false,
    -- For a rollback: the earlier generation that it brought back.
    restores        bigint REFERENCES trainer.serving_history CHECK (restores < generation),
    at              timestamptz NOT NULL DEFAULT now()
);
