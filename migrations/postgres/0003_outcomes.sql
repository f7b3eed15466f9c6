-- What the API server's audit events tell of entries that are not there, which another replica may still hold: kept until
-- they come, or until nobody will bring them. Holds to what an entry holds to, since such a row can become one.
CREATE TABLE awaited_entries (LIKE audit_entries INCLUDING CONSTRAINTS);
ALTER TABLE awaited_entries
    DROP COLUMN position,
    ADD COLUMN since timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT awaited_entries_pkey PRIMARY KEY (id);
-- Who has waited too long, and who has just begun to.
CREATE INDEX awaited_entries_by_age ON awaited_entries (since);

-- Reads are actions too. NOT VALID, and it stays so: every row that is there passed the narrower check, so reading them
-- all again would prove nothing, and would hold the lock that stops every writer for as long as it takes.
ALTER TABLE audit_entries
    DROP CONSTRAINT action_is_known,
    ADD CONSTRAINT action_is_known CHECK (action IN (
        'create', 'update', 'delete', 'start', 'end', 'login', 'logout', 'authenticate', 'enable', 'disable', 'revoke',
        'add', 'remove', 'purge', 'gap', 'export', 'get', 'list', 'watch')) NOT VALID;
ALTER TABLE awaited_entries
    DROP CONSTRAINT action_is_known,
    ADD CONSTRAINT action_is_known CHECK (action IN (
        'create', 'update', 'delete', 'start', 'end', 'login', 'logout', 'authenticate', 'enable', 'disable', 'revoke',
        'add', 'remove', 'purge', 'gap', 'export', 'get', 'list', 'watch'));
