-- One row an audit entry: who changed what, from where, to what effect.
--
-- Partitioned by day over the id, whose upper 48 bits are the time: a day past its retention goes as a whole. No DEFAULT
-- partition, since it would have to be scanned under a lock whenever a day is added; the writer makes what is missing.
-- Text compares bytewise (COLLATE "C"): exact, and cheaper to index than a language's order.
CREATE TABLE audit_entries (
    id            uuid        NOT NULL,
    "user"        text        NOT NULL COLLATE "C",
    action        text        NOT NULL COLLATE "C",
    resource      text        NOT NULL COLLATE "C",
    resource_name text        NOT NULL COLLATE "C",
    cluster       text        NOT NULL COLLATE "C",
    namespace     text        NOT NULL COLLATE "C",
    status_code   integer     NOT NULL,
    detail        jsonb       NOT NULL,
    ip            text        NOT NULL COLLATE "C",
    "timestamp"   timestamptz NOT NULL,
    outcome       text        NOT NULL COLLATE "C",
    evidence      text        NOT NULL COLLATE "C",
    source        text        NOT NULL COLLATE "C",
    audit_id      text        NOT NULL COLLATE "C",
    real_user     text        NOT NULL COLLATE "C",
    user_agent    text        NOT NULL COLLATE "C",
    api_group     text        NOT NULL COLLATE "C",
    object_uid    text        NOT NULL COLLATE "C",
    before_hash   bigint,
    after_hash    bigint,
    policy        text        NOT NULL COLLATE "C",
    position      bigint      NOT NULL,

    CONSTRAINT audit_entries_pkey PRIMARY KEY (id),
    CONSTRAINT action_is_known CHECK (action IN (
        'create', 'update', 'delete', 'start', 'end', 'login', 'logout', 'authenticate', 'enable', 'disable', 'revoke',
        'add', 'remove', 'purge', 'gap', 'export')),
    CONSTRAINT outcome_is_known CHECK (outcome IN ('confirmed', 'rejected', 'superseded', 'unconfirmed')),
    CONSTRAINT evidence_is_known CHECK (evidence IN ('audit', 'successor', 'probe', 'self', 'none')),
    CONSTRAINT source_is_known CHECK (source IN ('admission', 'audit', 'watch', 'chain', 'panel', 'ingest')),
    CONSTRAINT status_code_is_of_http CHECK (status_code BETWEEN 100 AND 599),
    -- The outcome's state machine: nobody knows the outcome without evidence, and evidence settles it.
    CONSTRAINT unconfirmed_is_without_evidence CHECK ((outcome = 'unconfirmed') = (evidence = 'none')),
    CONSTRAINT rejected_has_failed CHECK (outcome <> 'rejected' OR status_code >= 400),
    CONSTRAINT audit_evidence_names_its_event CHECK (evidence <> 'audit' OR audit_id <> '')
) PARTITION BY RANGE (id);

-- Each index costs every write, so each has a question that it answers; all of them end in the order of a page.
-- The first 256 characters are indexed: PostgreSQL refuses a row whose index entry is longer than 2,704 bytes, and the
-- API server bounds neither a user's name nor that of a ClusterRole.
-- Who: what did this user do?
CREATE INDEX audit_entries_user ON audit_entries (left("user", 256), id);
-- Where: what happened in this namespace? (and the reader who may see only that one)
CREATE INDEX audit_entries_namespace ON audit_entries (left(namespace, 256), id);
-- What: the history of one object. Its namespace is checked on the few rows found.
CREATE INDEX audit_entries_name ON audit_entries (left(resource_name, 256), id);
-- What kind: the part before the slash, so that a Deployment's scales belong to its history.
CREATE INDEX audit_entries_kind ON audit_entries (left(split_part(resource, '/', 1), 256), id);
-- What went wrong: few rows, and otherwise the whole table would be walked for them.
CREATE INDEX audit_entries_failures ON audit_entries (id) WHERE status_code >= 400;
-- What is new since position N: the order of arrival and change.
CREATE INDEX audit_entries_by_position ON audit_entries (position);

-- Positions are drawn under an advisory lock that is held until the commit. CACHE 1: a session that kept numbers for
-- later would give them out of order.
CREATE SEQUENCE audit_entries_position AS bigint CACHE 1;

-- What belongs to this database and to every replica that uses it. The cursor key is made here, by the database: 32
-- bytes, 244 of whose bits are random.
CREATE TABLE settings (
    name  text  NOT NULL CONSTRAINT settings_pkey PRIMARY KEY,
    value bytea NOT NULL
);
INSERT INTO settings (name, value)
VALUES ('cursor_key', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- When work that runs by the clock last finished, so that a missed night is caught up.
CREATE TABLE job_runs (
    job         text        NOT NULL CONSTRAINT job_runs_pkey PRIMARY KEY,
    finished_at timestamptz NOT NULL
);
