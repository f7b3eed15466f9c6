-- Each begins with
SELECT CAST(id AS text) AS entry_id, "user", action, resource, resource_name, cluster, namespace, status_code, CAST(detail AS text), ip, outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy, position FROM audit_entries WHERE true

-- all
-- sqlite
AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- older
-- sqlite
AND outcome <> 'superseded' AND id < ? ORDER BY id DESC LIMIT 51
-- postgres
AND outcome <> 'superseded' AND id < $1 ORDER BY id DESC LIMIT 51

-- newer
-- sqlite
AND outcome <> 'superseded' AND id > ? ORDER BY id ASC LIMIT 51
-- postgres
AND outcome <> 'superseded' AND id > $1 ORDER BY id ASC LIMIT 51

-- user
-- sqlite
AND "user" = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left("user", 256) = $1 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- long user
-- sqlite
AND "user" = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left("user", 256) = $1 AND "user" = $2 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- action
-- sqlite
AND action = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND action = $1 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- kind
-- sqlite
AND substr(resource, 1, instr(resource || '/', '/') - 1) = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left(split_part(resource, '/', 1), 256) = $1 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- kind and group
-- sqlite
AND substr(resource, 1, instr(resource || '/', '/') - 1) = ? AND api_group = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left(split_part(resource, '/', 1), 256) = $1 AND api_group = $2 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- subresource
-- sqlite
AND substr(resource, 1, instr(resource || '/', '/') - 1) = ? AND resource = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left(split_part(resource, '/', 1), 256) = $1 AND resource = $2 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- cluster
-- sqlite
AND cluster = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND cluster = $1 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- namespace
-- sqlite
AND namespace = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left(namespace, 256) = $1 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- name
-- sqlite
AND resource_name = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left(resource_name, 256) = $1 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- object
-- sqlite
AND namespace = ? AND resource_name = ? AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND left(namespace, 256) = $1 AND left(resource_name, 256) = $2 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- time
-- sqlite
AND outcome <> 'superseded' AND id >= ? AND id < ? ORDER BY id DESC LIMIT 51
-- postgres
AND outcome <> 'superseded' AND id >= $1 AND id < $2 ORDER BY id DESC LIMIT 51

-- success
-- sqlite
AND status_code < 400 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND status_code < 400 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- failure
-- sqlite
AND status_code >= 400 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51
-- postgres
AND status_code >= 400 AND outcome <> 'superseded' ORDER BY id DESC LIMIT 51

-- superseded
-- sqlite
AND outcome = ? ORDER BY id DESC LIMIT 51
-- postgres
AND outcome = $1 ORDER BY id DESC LIMIT 51

-- evidence
-- sqlite
AND outcome <> 'superseded' AND evidence = ? ORDER BY id DESC LIMIT 51
-- postgres
AND outcome <> 'superseded' AND evidence = $1 ORDER BY id DESC LIMIT 51
