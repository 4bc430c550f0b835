-- Every statement that pysendmail runs on queue.db, each with a name and a sentence. Values are bound, never pasted.
-- What stands in [brackets] is there once for each of the rows that the statement is run for.

-- name: message_by_submission
-- The answer to a client that asks again: what its submission became.
SELECT queue_id, state FROM message WHERE submission = :submission;

-- name: last_queue_id
-- Queue ids sort by time; the newest one keeps them unique when the clock was set back.
SELECT max(queue_id) FROM message;

-- name: owned
-- How much of one user waits here.
SELECT count(*), coalesce(sum(size), 0) FROM message
WHERE uid = :uid AND state IN ('queued', 'damaged') AND state = 'queued';

-- name: add_message
-- A message that is being received; nobody sees it until `make_ready`.
INSERT INTO message (queue_id, kind, state, uid, sender, message_id, accepted_at, expires_at, about)
VALUES (:queue_id, :kind, 'receiving', :uid, '', '', 0, 0, :about);

-- name: add_part
-- One piece of a body, at most 256 KiB.
INSERT INTO body (message, part, octets) VALUES (:message, :part, :octets);

-- name: count_parts
SELECT count(*) FROM body WHERE message = :message;

-- name: drop_parts
DELETE FROM body WHERE message = :message AND part < :before;

-- name: renumber_parts
UPDATE body SET part = part - :by WHERE message = :message;

-- name: accept
-- C1 of a message that is all here.
INSERT INTO message (queue_id, kind, state, uid, about, submission, sender, message_id, envid, ret, smtputf8, eight_bit,
    size, header, accepted_at, expires_at, warn_at, pid, command, unit)
VALUES (:queue_id, :kind, 'queued', :uid, :about, :submission, :sender, :message_id, :envid, :ret, :smtputf8, :eight_bit,
    :size, :header, :now, :expires_at, :warn_at, :pid, :command, :unit);

-- name: make_ready
-- C1 of one whose body came before.
UPDATE message SET state = 'queued', submission = :submission, sender = :sender, message_id = :message_id, envid = :envid, ret = :ret,
    smtputf8 = :smtputf8, eight_bit = :eight_bit, size = :size, header = :header, accepted_at = :now,
    expires_at = :expires_at, warn_at = :warn_at, pid = :pid, command = :command, unit = :unit
WHERE id = :message;

-- name: add_lane
-- A lane is made by its first recipient.
INSERT INTO lane (route, uid, destination) VALUES (:route, :uid, :destination) ON CONFLICT DO NOTHING;

-- name: lane
SELECT route, uid, destination FROM lane WHERE id = :lane;

-- name: lane_id
SELECT id FROM lane WHERE route = :route AND uid = :uid AND destination = :destination;

-- name: add_recipient
INSERT INTO recipient (message, lane, address, original, orcpt, notify, state, next_attempt_at)
VALUES (:message, :lane, :address, :original, :orcpt, :notify, 'queued', :now);

-- name: forget_message
-- A submission that was broken off leaves nothing.
DELETE FROM message WHERE queue_id = :queue_id AND state = 'receiving';

-- name: forget_unfinished
-- What a crash left half received was never ours.
DELETE FROM message WHERE state = 'receiving';

-- name: lanes
-- Every lane that has something waiting. From one to the next: the index is not read through.
WITH RECURSIVE busy(id) AS (
    SELECT min(lane) FROM recipient WHERE state = 'queued'
    UNION ALL SELECT (SELECT min(lane) FROM recipient WHERE state = 'queued' AND lane > busy.id) FROM busy
    WHERE busy.id IS NOT NULL)
SELECT lane.id, lane.route, lane.uid, lane.destination FROM busy JOIN lane ON lane.id = busy.id;

-- name: lane_next
-- When the next recipient of a lane is due: the first new one or the first retry.
SELECT min(at) FROM (
    SELECT min(next_attempt_at) AS at FROM recipient WHERE state = 'queued' AND lane = :lane AND fresh = 1
    UNION ALL
    SELECT min(next_attempt_at) FROM recipient WHERE state = 'queued' AND lane = :lane AND fresh = 0);

-- name: due
-- Whose turn it is in a lane: the longest due, of the new ones or of the retries, with all that an attempt needs.
SELECT r.id AS recipient, r.address, r.orcpt, r.notify, r.attempts, r.lane, r.message,
    EXISTS (SELECT 1 FROM recipient other WHERE other.message = r.message AND other.id != r.id) AS others,
    m.id, m.queue_id, m.kind, m.uid, m.sender, m.message_id, m.envid, m.ret, m.smtputf8, m.eight_bit, m.size, m.header,
    m.accepted_at, m.expires_at, m.warn_at, body.octets
FROM recipient r LEFT JOIN message m ON m.id = r.message LEFT JOIN body ON body.message = m.id AND body.part = 0
WHERE r.state = 'queued' AND r.lane = :lane AND r.fresh = :fresh AND r.next_attempt_at <= :now
ORDER BY r.next_attempt_at LIMIT :limit;

-- name: due_together
-- All due recipients of a message that go the same way travel together.
SELECT r.id AS recipient, r.address, r.orcpt, r.notify, r.attempts, r.lane
FROM recipient r JOIN lane ON lane.id = r.lane
WHERE r.message = :message AND r.state = 'queued' AND r.next_attempt_at <= :now AND lane.route = :route
ORDER BY r.id LIMIT :limit;

-- name: mark_attempting
UPDATE recipient SET state = 'attempting', smarthost = :smarthost, attempted_at = :now WHERE id IN ([:recipient]);

-- name: header
SELECT header FROM message WHERE id = :message;

-- name: parts
SELECT id, typeof(octets) AS kind FROM body WHERE message = :message AND part >= :part ORDER BY part LIMIT :limit;

-- name: set_damaged
-- A row that cannot be read is set aside; it hides nothing else. An id by which nobody could name it is given anew.
UPDATE message SET state = 'damaged', queue_id = CASE
    WHEN typeof(queue_id) = 'text' AND queue_id != '' AND trim(queue_id, :alphabet) = '' THEN queue_id
    ELSE :queue_id END
WHERE id = :message;

-- name: hold_damaged
UPDATE recipient SET state = 'held' WHERE message = :message AND state IN ('queued', 'attempting');

-- name: hold_recipient
UPDATE recipient SET state = 'held' WHERE id = :recipient AND state = 'queued';

-- name: to_be_tried
-- As recipients have it: of the messages' own rows none is read.
SELECT message FROM recipient INDEXED BY recipient_due WHERE state = 'queued'
UNION SELECT message FROM recipient INDEXED BY recipient_attempting WHERE state = 'attempting';

-- name: look_at_body
-- What a claim reads of it, and the rows that an end takes away; not what is on pages of their own.
SELECT CASE part WHEN 0 THEN octets ELSE typeof(octets) END FROM body WHERE message = :message;

-- name: queue_id_of
SELECT queue_id FROM message WHERE id = :message;

-- name: waiting_ids
-- What pages have, from an index that has all of it: no row of a message is read.
SELECT id FROM message INDEXED BY message_waiting
WHERE state IN ('queued', 'damaged') AND id > :after ORDER BY id LIMIT :limit;

-- name: waiting_ids_of
-- The same of one user's.
SELECT id FROM message INDEXED BY message_owner
WHERE state IN ('queued', 'damaged') AND uid = :uid AND id > :after ORDER BY id LIMIT :limit;

-- name: give_back
-- A claim that was not used leaves no trace.
UPDATE recipient SET state = CASE WHEN (SELECT held FROM message WHERE id = recipient.message) THEN 'held' ELSE 'queued' END
WHERE id = :recipient AND state = 'attempting';

-- name: running
-- What start-up finds marked was under way when the daemon died.
SELECT id, message, address FROM recipient WHERE state = 'attempting';

-- name: add_attempt
-- An attempt has ended; while it runs, the recipient says so.
INSERT INTO attempt (recipient, at, smarthost, address, tls, code, status, reply, outcome, duration_s)
VALUES [(:recipient, :at, :smarthost, :address, :tls, :code, :status, :reply, :outcome, :duration_s)];

-- name: prune_attempts
-- A smarthost that is down for days must not grow a message's history without end.
DELETE FROM attempt WHERE recipient = :recipient AND id <= (
    SELECT id FROM attempt WHERE recipient = :recipient ORDER BY id DESC LIMIT 1 OFFSET :keep);

-- name: sent
-- C2 of recipients whom the smarthost took, whatever was to become of them. One set aside meanwhile stays so.
UPDATE recipient SET state = 'sent', fresh = 0, attempts = attempts + 1, next_attempt_at = NULL, code = column2,
    status = column3, reply = column4, finished_at = column5, removed_by = NULL
FROM (VALUES [(:recipient, :code, :status, :reply, :now)])
WHERE id = column1 AND state = 'attempting';

-- name: settle_recipient
UPDATE recipient SET state = :state, fresh = :fresh, attempts = :attempts, next_attempt_at = :next_attempt_at,
    code = :code, status = :status, reply = :reply, finished_at = :finished_at,
    removed_by = CASE WHEN :state = 'sent' THEN NULL ELSE removed_by END
WHERE id = :recipient;

-- name: message_state
SELECT id, queue_id, kind, uid, sender, message_id, envid, ret, smtputf8, eight_bit, size, accepted_at, expires_at,
    warn_at, held, forced_expire, header, about, state
FROM message WHERE id = :message;

-- name: recipient_state
SELECT id, message, lane, address, original, orcpt, notify, state, fresh, attempts, status, reply, smarthost,
    attempted_at, warned, removed_by
FROM recipient WHERE id = :recipient;

-- name: mark_removed
UPDATE recipient SET removed_by = :uid WHERE message = :message AND state IN ('queued', 'held', 'attempting');

-- name: removed_recipients
-- What somebody removed and is not being attempted (any more).
SELECT id, lane, address, original, orcpt, notify, attempts, reply, smarthost, removed_by
FROM recipient WHERE message = :message AND removed_by IS NOT NULL AND state IN ('queued', 'held') ORDER BY id;

-- name: open_recipients
SELECT count(*) FROM recipient WHERE message = :message AND state IN ('queued', 'held', 'attempting');

-- name: failed_recipients
SELECT count(*) FROM recipient WHERE message = :message AND state IN ('bounced', 'expired', 'discarded');

-- name: finish_sent
-- The end of messages of which nothing waits and nothing failed. A header may be a mebibyte; the history has its start.
UPDATE message SET state = 'done', finished_at = :now, warn_at = NULL, held = 0, body_until = NULL,
    header = substr(header, 1, :kept)
WHERE id IN ([:message]) AND state = 'queued' AND NOT EXISTS (
    SELECT 1 FROM recipient WHERE recipient.message = message.id
    AND recipient.state IN ('queued', 'held', 'attempting', 'bounced', 'expired', 'discarded'));

-- name: finished
-- Those of these messages that are at their end, and those of these recipients that `sent` has changed.
SELECT id FROM message WHERE id IN (SELECT value FROM json_each(:messages)) AND state = 'done';

-- name: taken
SELECT id FROM recipient
WHERE id IN (SELECT value FROM json_each(:recipients)) AND state = 'sent' AND finished_at >= :since;

-- name: finish_message
-- The header stays whole as long as the body is kept, for a new life.
UPDATE message SET state = 'done', finished_at = :now, warn_at = NULL, held = 0, body_until = :body_until,
    header = CASE WHEN :body_until IS NULL THEN substr(header, 1, :kept) ELSE header END
WHERE id = :message;

-- name: drop_body
DELETE FROM body WHERE message IN ([:message]);

-- name: set_warned
UPDATE recipient SET warned = 1 WHERE id = :recipient;

-- name: clear_warning
UPDATE message SET warn_at = NULL WHERE queue_id = :queue_id;

-- name: add_report
INSERT INTO report (at, kind, about, sender, uid, recipient, outcome, status, reply, queue_id, reported_to, silence)
VALUES (:now, :kind, :about, :sender, :uid, :recipient, :outcome, :status, :reply, :queue_id, :reported_to, :silence);

-- name: overdue
-- Messages past their lifetime whose recipients wait on a route. CROSS JOIN: from the few that are, never from the lanes.
SELECT r.id FROM message m CROSS JOIN recipient r ON r.message = m.id CROSS JOIN lane ON lane.id = r.lane
WHERE m.state = 'queued' AND m.expires_at <= :now AND m.held = 0 AND r.state = 'queued' AND lane.route = :route
ORDER BY m.expires_at LIMIT :limit;

-- name: unwarned
-- Messages that wait longer than warn_after on a route, and nobody was told.
SELECT r.id FROM message m CROSS JOIN recipient r ON r.message = m.id CROSS JOIN lane ON lane.id = r.lane
WHERE m.state = 'queued' AND m.warn_at IS NOT NULL AND m.warn_at <= :now AND m.held = 0 AND r.state = 'queued'
    AND r.warned = 0 AND lane.route = :route
ORDER BY m.warn_at LIMIT :limit;

-- name: prolong
-- A forward jump of the wall clock must not expire mail.
UPDATE message SET expires_at = expires_at + :jump, warn_at = warn_at + :jump WHERE state = 'queued';

-- name: clamp_due
-- A due time further off than the longest interval comes from a clock that was set back; none at all is damage.
UPDATE recipient SET next_attempt_at = :now WHERE id IN (
    SELECT id FROM recipient WHERE state = 'queued' AND lane = :lane AND fresh = 1 AND next_attempt_at > :horizon
    UNION ALL SELECT id FROM recipient WHERE state = 'queued' AND lane = :lane AND fresh = 0 AND next_attempt_at > :horizon
    UNION ALL SELECT id FROM recipient WHERE state = 'queued' AND lane = :lane AND fresh = 1 AND next_attempt_at IS NULL
    UNION ALL SELECT id FROM recipient WHERE state = 'queued' AND lane = :lane AND fresh = 0 AND next_attempt_at IS NULL);

-- name: shift_due
-- The wall clock was set back while we ran: due times follow it.
UPDATE recipient SET next_attempt_at = next_attempt_at + :jump WHERE state = 'queued';

-- name: flush
UPDATE recipient SET next_attempt_at = :now WHERE state = 'queued' AND next_attempt_at > :now;

-- name: flush_message
UPDATE recipient SET next_attempt_at = :now WHERE message = :message AND state = 'queued' AND next_attempt_at > :now;

-- name: message_lanes
SELECT DISTINCT lane FROM recipient WHERE message = :message;

-- name: find_message
SELECT id, uid, state, held FROM message WHERE queue_id = :queue_id;

-- name: recipient_ids
SELECT id FROM recipient WHERE message = :message ORDER BY id;

-- name: hold_message
UPDATE message SET held = :held WHERE id = :message;

-- name: hold_recipients
UPDATE recipient SET state = :held_state WHERE message = :message AND state = :free_state;

-- name: release_due
UPDATE recipient SET next_attempt_at = :now WHERE message = :message AND state = 'queued';

-- name: force_expire
UPDATE message SET forced_expire = 1 WHERE id = :message;

-- name: revive_message
-- `queue retry` of a failed message whose body is still kept: a new life, from the beginning.
UPDATE message SET state = 'queued', finished_at = NULL, body_until = NULL, forced_expire = 0, expires_at = :expires_at,
    warn_at = :warn_at
WHERE id = :message;

-- name: revive_recipients
UPDATE recipient SET state = 'queued', fresh = 1, attempts = 0, next_attempt_at = :now, finished_at = NULL, warned = 0
WHERE message = :message AND state IN ('bounced', 'expired', 'discarded');

-- name: has_body
-- Whether the message can still be sent: its body is kept (an empty body has no parts and no need of them).
SELECT body_until IS NOT NULL FROM message WHERE id = :message;

-- name: reroute_lanes
-- What is being attempted, too: deferred, it would come back to a route that is no more.
SELECT m.id AS message, r.id, r.lane, r.address, m.sender, m.uid, lane.route
FROM (SELECT id, sender, uid FROM message WHERE state IN ('queued', 'damaged') AND id > :after ORDER BY id LIMIT :limit) m
LEFT JOIN recipient r ON r.message = m.id AND r.state IN ('queued', 'held', 'attempting')
LEFT JOIN lane ON lane.id = r.lane
ORDER BY m.id;

-- name: rename_lane
-- All that ever went that way is on another route now; not where there is such a lane already.
UPDATE OR IGNORE lane SET route = :route WHERE id = :lane;

-- name: move_lane
UPDATE recipient SET lane = :to WHERE lane = :lane AND state IN ('queued', 'held', 'attempting');

-- name: other_routes
SELECT id, uid, destination FROM lane WHERE route != :route;

-- name: reroute
UPDATE recipient SET lane = :lane WHERE id = :recipient;

-- name: prune_bodies
-- `but`: a JSON list of those that a damaged page keeps. So in the next ones.
SELECT id FROM message WHERE body_until IS NOT NULL AND body_until <= :before
    AND id NOT IN (SELECT value FROM json_each(:but)) LIMIT :limit;

-- name: prune_history
SELECT id FROM message WHERE state = 'done' AND finished_at <= :before AND body_until IS NULL
    AND id NOT IN (SELECT value FROM json_each(:but)) ORDER BY finished_at LIMIT :limit;

-- name: prune_reports
SELECT id FROM report WHERE at <= :before AND id NOT IN (SELECT value FROM json_each(:but)) ORDER BY at LIMIT :limit;

-- name: drop_message
DELETE FROM message WHERE id = :id;

-- name: drop_report
DELETE FROM report WHERE id = :id;

-- name: body_gone
UPDATE message SET body_until = NULL, header = substr(header, 1, :kept) WHERE id = :message;

-- name: last_lane
-- Where a page of lanes ends.
SELECT max(id) FROM (SELECT id FROM lane WHERE id > :after ORDER BY id LIMIT :limit);

-- name: prune_lanes
-- The lanes of a page that nothing is on.
DELETE FROM lane WHERE id > :after AND id <= :last
    AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.lane = lane.id);

-- name: next_prune
SELECT min(at) FROM (
    SELECT min(finished_at) + :keep_history AS at FROM message
    WHERE state = 'done' AND id NOT IN (SELECT value FROM json_each(:but))
    UNION ALL SELECT min(body_until) FROM message
    WHERE body_until IS NOT NULL AND id NOT IN (SELECT value FROM json_each(:but)));

-- name: smarthosts
SELECT name, tls_seen_at, last_sent_at FROM smarthost;

-- name: remember_tls
INSERT INTO smarthost (name, tls_seen_at) VALUES (:name, :at) ON CONFLICT (name) DO UPDATE SET tls_seen_at = :at;

-- name: remember_sent
INSERT INTO smarthost (name, last_sent_at) VALUES (:name, :at) ON CONFLICT (name) DO UPDATE SET last_sent_at = :at;

-- name: counts
-- What `status` and the systemd status line say of the queue, but for the oldest, each from an index that has nothing else.
SELECT
    (SELECT count(*) FROM message WHERE state = 'queued'),
    (SELECT count(DISTINCT message) FROM recipient WHERE state = 'queued' AND reply IS NOT NULL),
    (SELECT count(*) FROM message WHERE state = 'queued' AND held = 1),
    (SELECT count(DISTINCT message) FROM recipient WHERE state = 'attempting'),
    (SELECT count(*) FROM message WHERE body_until IS NOT NULL),
    (SELECT count(*) FROM message WHERE state = 'damaged');

-- name: damaged
SELECT count(*) FROM message WHERE state = 'damaged';

-- name: oldest
-- The longest waiting message that nobody holds.
SELECT min(accepted_at) FROM (
    SELECT accepted_at FROM message WHERE state IN ('queued', 'damaged') AND state = 'queued' AND held = 0
    ORDER BY id LIMIT 1);

-- name: counts_of
-- The same of one user's, whose messages are few.
SELECT count(*),
    coalesce(sum(EXISTS (SELECT 1 FROM recipient WHERE message = m.id AND state = 'queued' AND reply IS NOT NULL)), 0),
    coalesce(sum(held = 1), 0),
    coalesce(sum(EXISTS (
        SELECT 1 FROM recipient INDEXED BY recipient_attempting WHERE message = m.id AND state = 'attempting')), 0),
    (SELECT count(*) FROM message WHERE body_until IS NOT NULL AND uid = :uid),
    min(CASE WHEN held = 0 THEN accepted_at END),
    (SELECT count(*) FROM message WHERE state = 'damaged')
FROM message m WHERE uid = :uid AND state IN ('queued', 'damaged') AND state = 'queued';

-- name: attempting_routes
-- What is being tried at this moment waits, too, until the attempt has ended.
SELECT DISTINCT lane.route, lane.uid FROM recipient r JOIN lane ON lane.id = r.lane WHERE r.state = 'attempting';

-- name: lost_reports
-- Bounces that nobody could be told of, since a time.
SELECT count(*) FROM report WHERE kind = 'postmaster' AND queue_id IS NULL AND at > :since;

-- name: page
-- One page of the queue for listings, so that a slow reader holds no long transaction.
SELECT id, queue_id, uid, sender, size, eight_bit, accepted_at, held, forced_expire, state
FROM message WHERE state IN ('queued', 'damaged') AND id > :after ORDER BY id LIMIT :limit;

-- name: page_of
-- The same of one user's.
SELECT id, queue_id, uid, sender, size, eight_bit, accepted_at, held, forced_expire, state
FROM message WHERE state IN ('queued', 'damaged') AND uid = :uid AND id > :after ORDER BY id LIMIT :limit;

-- name: history_page
-- Of so many messages those that are asked for: who has few, or none, holds up no other who looks.
SELECT id, queue_id, kind, about, uid, pid, command, unit, sender, message_id, size, accepted_at, expires_at, held,
    forced_expire, state
FROM message WHERE id > :after
    AND id <= (SELECT max(id) FROM (SELECT id FROM message WHERE id > :after ORDER BY id LIMIT :looked_at))
    AND state IN ('queued', 'done') AND (:uid IS NULL OR uid = :uid) AND accepted_at >= :since
    AND (:until IS NULL OR accepted_at <= :until)
    AND (:sender IS NULL OR lower(sender) = lower(:sender)
        OR (substr(:sender, 1, 1) = '@' AND lower(substr(sender, -length(:sender))) = lower(:sender)))
    AND (coalesce(:recipient, :outcome, :reason) IS NULL OR EXISTS (
        SELECT 1 FROM recipient WHERE message = message.id
        AND (:recipient IS NULL OR lower(address) = lower(:recipient) OR lower(original) = lower(:recipient)
            OR (substr(:recipient, 1, 1) = '@' AND lower(substr(address, -length(:recipient))) = lower(:recipient)))
        AND (:outcome IS NULL OR recipient.state = :outcome
            OR (:outcome = 'waiting' AND recipient.state IN ('queued', 'held', 'attempting')))
        AND (:reason IS NULL OR instr(lower(reply), lower(:reason)))))
ORDER BY id LIMIT :limit;

-- name: history_page_end
-- The last of the rows that it looked at, and how many these were.
SELECT max(id) AS id, count(*) AS looked_at FROM (SELECT id FROM message WHERE id > :after ORDER BY id LIMIT :looked_at);

-- name: one
SELECT id, queue_id, kind, about, uid, pid, command, unit, sender, message_id, size, eight_bit, accepted_at, expires_at,
    held, forced_expire, state, body_until
FROM message WHERE queue_id = :queue_id AND state != 'receiving';

-- name: page_recipients
SELECT r.id, r.address, r.original, r.state, r.attempts, r.next_attempt_at, r.code, r.status, r.reply, r.smarthost,
    r.attempted_at, r.finished_at, r.removed_by, lane.route
FROM recipient r JOIN lane ON lane.id = r.lane WHERE r.message = :message ORDER BY r.id;

-- name: waiting_recipients
-- Those of a page of messages, which come as a JSON list, that still wait; message by message, as the list has them.
SELECT r.message, r.id, r.address, r.state = 'attempting' AS under_way, r.attempts, r.next_attempt_at, r.reply, r.smarthost,
    r.lane
FROM json_each(:messages) one CROSS JOIN recipient r ON r.message = one.value
WHERE r.state IN ('queued', 'held', 'attempting') LIMIT :limit;

-- name: page_attempts
-- Those that have ended, the last first.
SELECT at, smarthost, address, tls, code, status, reply, outcome, duration_s
FROM attempt WHERE recipient = :recipient ORDER BY id DESC LIMIT :limit;

-- name: bounces_page
SELECT id, at, kind, about, sender, uid, recipient, outcome, status, reply, queue_id, reported_to, silence
FROM report WHERE id > :after
    AND id <= (SELECT max(id) FROM (SELECT id FROM report WHERE id > :after ORDER BY id LIMIT :looked_at))
    AND at >= :since AND (:until IS NULL OR at <= :until) AND (:uid IS NULL OR uid = :uid)
    AND (:about IS NULL OR about = :about)
    AND (:sender IS NULL OR lower(sender) = lower(:sender)
        OR (substr(:sender, 1, 1) = '@' AND lower(substr(sender, -length(:sender))) = lower(:sender)))
    AND (:recipient IS NULL OR lower(recipient) = lower(:recipient)
        OR (substr(:recipient, 1, 1) = '@' AND lower(substr(recipient, -length(:recipient))) = lower(:recipient)))
    AND (:outcome IS NULL OR outcome = :outcome) AND (:reason IS NULL OR instr(lower(reply), lower(:reason)))
    AND kind IN ('bounce', 'postmaster')
ORDER BY id LIMIT :limit;

-- name: bounces_page_end
-- As `history_page_end`.
SELECT max(id) AS id, count(*) AS looked_at FROM (SELECT id FROM report WHERE id > :after ORDER BY id LIMIT :looked_at);

-- name: newest
-- The last thing that this queue knows of.
SELECT max(at) FROM (
    SELECT max(accepted_at) AS at FROM message UNION ALL SELECT max(finished_at) FROM message
    UNION ALL SELECT max(at) FROM attempt);

-- name: objects
-- What a database consists of.
SELECT type, name FROM sqlite_master;

-- name: attempts_page
-- What a page of attempts, the newest first, gave: by the stretch of time in which each ended. Their ids go up with that.
SELECT min(id) AS first, min(ended_at) AS earliest, max(ended_at) AS latest, count(*) AS rows,
    CAST((ended_at - :since) / :width AS INTEGER) AS slot, ended_at >= :since AS wanted, smarthost, outcome,
    sum(ours) AS number, sum(CASE WHEN ours THEN delay_s ELSE 0 END) AS delay_s,
    max(CASE WHEN ours THEN delay_s ELSE 0 END) AS longest_s
FROM (SELECT a.id, a.at + coalesce(a.duration_s, 0) AS ended_at, a.smarthost, a.outcome,
        :uid IS NULL OR m.uid = :uid AS ours, max(a.at + coalesce(a.duration_s, 0) - m.accepted_at, 0) AS delay_s
    FROM (SELECT * FROM attempt WHERE id < :before ORDER BY id DESC LIMIT :limit) a
    JOIN recipient r ON r.id = a.recipient JOIN message m ON m.id = r.message)
GROUP BY wanted, slot, smarthost, outcome;
