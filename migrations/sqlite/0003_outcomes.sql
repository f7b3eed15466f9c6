-- Reads are actions too. SQLite cannot replace a CHECK, and to build the table anew would take as much disk again and
-- minutes of the only writer; so the text of the schema is changed in place, the way that SQLite documents for what does
-- not touch the rows (https://www.sqlite.org/lang_altertable.html, section 7). What is made below tells other
-- connections that the schema is another one.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, '''purge'', ''gap'', ''export'')', '''purge'', ''gap'', ''export'', ''get'', ''list'', ''watch'')')
WHERE type = 'table' AND name = 'audit_entries';
PRAGMA writable_schema = RESET;

-- What the API server's audit events tell of entries that are not there, which another replica may still hold: kept until
-- they come, or until nobody will bring them. Holds to what an entry holds to, since such a row can become one.
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
-- Who has waited too long, and who has just begun to.
CREATE INDEX awaited_entries_by_age ON awaited_entries (since);
