CREATE TABLE audit_entries (
    id            TEXT    NOT NULL PRIMARY KEY,
    "user"        TEXT    NOT NULL,
    action        TEXT    NOT NULL,
    resource      TEXT    NOT NULL,
    resource_name TEXT    NOT NULL,
    cluster       TEXT    NOT NULL,
    namespace     TEXT    NOT NULL,
    status_code   INTEGER NOT NULL,
    detail        TEXT    NOT NULL,
    ip            TEXT    NOT NULL,
    "timestamp"   TEXT    NOT NULL,
    outcome       TEXT    NOT NULL,
    evidence      TEXT    NOT NULL,
    source        TEXT    NOT NULL,
    audit_id      TEXT    NOT NULL,
    real_user     TEXT    NOT NULL,
    user_agent    TEXT    NOT NULL,
    api_group     TEXT    NOT NULL,
    object_uid    TEXT    NOT NULL,
    before_hash   INTEGER,
    after_hash    INTEGER,
    policy        TEXT    NOT NULL,
    position      INTEGER NOT NULL,

    CONSTRAINT id_is_canonical CHECK (length(id) = 36),
    CONSTRAINT timestamp_is_of_fixed_width CHECK (length("timestamp") = 24),
    CONSTRAINT action_is_known CHECK (action IN (
        'create', 'update', 'delete', 'start', 'end', 'login', 'logout', 'authenticate', 'enable', 'disable', 'revoke',
        'add', 'remove', 'purge', 'gap', 'export', 'get', 'list', 'watch')),
    CONSTRAINT outcome_is_known CHECK (outcome IN ('confirmed', 'rejected', 'superseded', 'unconfirmed')),
    CONSTRAINT evidence_is_known CHECK (evidence IN ('audit', 'successor', 'probe', 'self', 'none')),
    CONSTRAINT source_is_known CHECK (source IN ('admission', 'audit', 'watch', 'chain', 'panel', 'ingest')),
    CONSTRAINT status_code_is_of_http CHECK (status_code BETWEEN 100 AND 599),
    -- The outcome's state machine: nobody knows the outcome without evidence, and evidence settles it.
    CONSTRAINT unconfirmed_is_without_evidence CHECK ((outcome = 'unconfirmed') = (evidence = 'none')),
    CONSTRAINT rejected_has_failed CHECK (outcome <> 'rejected' OR status_code >= 400),
    CONSTRAINT audit_evidence_names_its_event CHECK (evidence <> 'audit' OR audit_id <> '')
) STRICT;

CREATE TABLE awaited_entries (
    id            TEXT    NOT NULL PRIMARY KEY,
    "user"        TEXT    NOT NULL,
    action        TEXT    NOT NULL,
    resource      TEXT    NOT NULL,
    resource_name TEXT    NOT NULL,
    cluster       TEXT    NOT NULL,
    namespace     TEXT    NOT NULL,
    status_code   INTEGER NOT NULL,
    detail        TEXT    NOT NULL,
    ip            TEXT    NOT NULL,
    "timestamp"   TEXT    NOT NULL,
    outcome       TEXT    NOT NULL,
    evidence      TEXT    NOT NULL,
    source        TEXT    NOT NULL,
    audit_id      TEXT    NOT NULL,
    real_user     TEXT    NOT NULL,
    user_agent    TEXT    NOT NULL,
    api_group     TEXT    NOT NULL,
    object_uid    TEXT    NOT NULL,
    before_hash   INTEGER,
    after_hash    INTEGER,
    policy        TEXT    NOT NULL,
    since         TEXT    NOT NULL,

    CONSTRAINT id_is_canonical CHECK (length(id) = 36),
    CONSTRAINT timestamp_is_of_fixed_width CHECK (length("timestamp") = 24),
    CONSTRAINT since_is_of_fixed_width CHECK (length(since) = 24),
    CONSTRAINT action_is_known CHECK (action IN (
        'create', 'update', 'delete', 'start', 'end', 'login', 'logout', 'authenticate', 'enable', 'disable', 'revoke',
        'add', 'remove', 'purge', 'gap', 'export', 'get', 'list', 'watch')),
    CONSTRAINT outcome_is_known CHECK (outcome IN ('confirmed', 'rejected', 'superseded', 'unconfirmed')),
    CONSTRAINT evidence_is_known CHECK (evidence IN ('audit', 'successor', 'probe', 'self', 'none')),
    CONSTRAINT source_is_known CHECK (source IN ('admission', 'audit', 'watch', 'chain', 'panel', 'ingest')),
    CONSTRAINT status_code_is_of_http CHECK (status_code BETWEEN 100 AND 599),
    CONSTRAINT unconfirmed_is_without_evidence CHECK ((outcome = 'unconfirmed') = (evidence = 'none')),
    CONSTRAINT rejected_has_failed CHECK (outcome <> 'rejected' OR status_code >= 400),
    CONSTRAINT audit_evidence_names_its_event CHECK (evidence <> 'audit' OR audit_id <> '')
) STRICT;

CREATE TABLE job_runs (
    job         TEXT NOT NULL PRIMARY KEY,
    finished_at TEXT NOT NULL
, removed TEXT NOT NULL DEFAULT '{}') STRICT;

CREATE TABLE leases (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    until  TEXT    NOT NULL,

    CONSTRAINT epoch_counts_from_one CHECK (epoch >= 1),
    CONSTRAINT until_is_of_fixed_width CHECK (length(until) = 24)
) STRICT;

CREATE TABLE positions (
    only INTEGER NOT NULL PRIMARY KEY CONSTRAINT one_row CHECK (only = 1),
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE INDEX audit_entries_by_position ON audit_entries (position);

CREATE INDEX audit_entries_failures ON audit_entries (id) WHERE status_code >= 400;

CREATE INDEX audit_entries_kind ON audit_entries (substr(resource, 1, instr(resource || '/', '/') - 1), id);

CREATE INDEX audit_entries_name ON audit_entries (resource_name, id);

CREATE INDEX audit_entries_namespace ON audit_entries (namespace, id);

CREATE INDEX audit_entries_policy ON audit_entries (policy, id);

CREATE INDEX audit_entries_user ON audit_entries ("user", id);

CREATE INDEX awaited_entries_by_age ON awaited_entries (since);
