BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'pysendmail','m0001_first','2026-11-22 08:45:46.780481+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'pysendmail','m0002_attempts','2026-11-22 12:01:09.318865+00:00');
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    recipient INTEGER NOT NULL REFERENCES recipient(id) ON DELETE CASCADE,
    at REAL NOT NULL,
    smarthost TEXT NOT NULL,
    address TEXT,                       -- the smarthost's IP address
    tls TEXT,                           -- none | TLSv1.3 ...
    code INTEGER,
    status TEXT,
    reply TEXT,
    outcome TEXT,                       -- null while it runs; sent | deferred | bounced | uncertain
    duration_s REAL
);
INSERT INTO "attempt" VALUES(1,1,1800000000.0,'main','192.0.2.1','none',250,'2.0.0','250 2.0.0 ok','sent',1.0);
INSERT INTO "attempt" VALUES(2,2,1800000000.0,'main','192.0.2.1','none',550,'5.1.1','550 5.1.1 unknown','bounced',1.0);
INSERT INTO "attempt" VALUES(3,3,1800000000.0,'main','192.0.2.1','none',451,'4.3.0','451 4.3.0 later','deferred',1.0);
INSERT INTO "attempt" VALUES(4,4,1800000000.0,'main','192.0.2.1','none',250,'2.0.0','250 2.0.0 ok','sent',1.0);
CREATE TABLE body (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES message(id) ON DELETE CASCADE,
    part INTEGER NOT NULL,
    octets BLOB NOT NULL,               -- CRLF lines, at most 256 KiB
    UNIQUE (message, part)
);
INSERT INTO "body" VALUES(1,2,0,X'6661696C65640D0A');
INSERT INTO "body" VALUES(2,4,0,X'68656C640D0A');
INSERT INTO "body" VALUES(3,5,0,X'72756E6E696E670D0A');
INSERT INTO "body" VALUES(4,6,0,X'66726573680D0A');
CREATE TABLE lane (                     -- whose turn it is goes round over these
    id INTEGER PRIMARY KEY,
    route TEXT NOT NULL,                -- smarthost names, in order, one a line
    uid INTEGER NOT NULL,
    destination TEXT NOT NULL,          -- domain of the recipient, lower case
    UNIQUE (route, uid, destination)
);
INSERT INTO "lane" VALUES(1,'main',1000,'example.org');
INSERT INTO "lane" VALUES(2,'main',1000,'example.net');
INSERT INTO "lane" VALUES(3,'main',1000,'example.com');
INSERT INTO "lane" VALUES(4,'main',1001,'example.net');
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id TEXT NOT NULL UNIQUE,
    submission BLOB UNIQUE,             -- the client's 128-bit id: asked again, the answer is the same
    kind TEXT NOT NULL,                 -- mail | bounce | delay | relayed | postmaster
    state TEXT NOT NULL,                -- receiving | queued | done | damaged
    held INTEGER NOT NULL DEFAULT 0,
    forced_expire INTEGER NOT NULL DEFAULT 0,
    uid INTEGER NOT NULL,
    sender TEXT NOT NULL,               -- reverse-path; '' is the null one
    message_id TEXT NOT NULL,
    envid TEXT NOT NULL DEFAULT '',
    ret TEXT NOT NULL DEFAULT '',       -- full | hdrs | ''
    smtputf8 INTEGER NOT NULL DEFAULT 0,
    eight_bit INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,    -- header section and body as sent
    header BLOB NOT NULL DEFAULT x'',   -- with Received, without the blank line
    about TEXT,                         -- queue id of the message that a report is about
    accepted_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    warn_at REAL,                       -- when a delay notice is due; null: sent or not wanted
    finished_at REAL,
    body_until REAL                     -- when the kept body of a failed message goes
);
INSERT INTO "message" VALUES(1,'OLD000000001',X'43434343434343434343434343434343','mail','done',0,0,1000,'alice@example.com','<1@example.com>','','',0,0,23,X'5375626A6563743A20746573740D0A',NULL,1800000000.0,1800001000.0,NULL,1800000000.0,NULL);
INSERT INTO "message" VALUES(2,'OLD000000003',X'45454545454545454545454545454545','mail','queued',0,0,1000,'alice@example.com','<1@example.com>','','',0,0,25,X'5375626A6563743A20746573740D0A',NULL,1800000000.0,1800001000.0,NULL,NULL,NULL);
INSERT INTO "message" VALUES(3,'8F80aA328OYv',NULL,'bounce','done',0,0,1000,'','<1@example.com>','','',0,0,24,X'5375626A6563743A20746573740D0A',NULL,1800000000.0,1800001000.0,NULL,1800000000.0,NULL);
INSERT INTO "message" VALUES(4,'OLD000000005',X'47474747474747474747474747474747','mail','queued',1,0,1000,'alice@example.com','<1@example.com>','','',0,0,23,X'5375626A6563743A20746573740D0A',NULL,1800000010.0,1800001010.0,NULL,NULL,NULL);
INSERT INTO "message" VALUES(5,'OLD000000007',X'49494949494949494949494949494949','mail','queued',0,0,1000,'alice@example.com','<1@example.com>','','',0,0,26,X'5375626A6563743A20746573740D0A',NULL,1800000020.0,1800001020.0,NULL,NULL,NULL);
INSERT INTO "message" VALUES(6,'OLD000000009',X'4B4B4B4B4B4B4B4B4B4B4B4B4B4B4B4B','mail','queued',0,0,1001,'alice@example.com','<1@example.com>','','',0,0,24,X'5375626A6563743A20746573740D0A',NULL,1800000020.0,1800001020.0,NULL,NULL,NULL);
INSERT INTO "message" VALUES(7,'OLDRECEIVING',NULL,'mail','receiving',0,0,1000,'','','','',0,0,0,X'',NULL,0.0,0.0,NULL,NULL,NULL);
CREATE TABLE recipient (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message INTEGER NOT NULL REFERENCES message(id) ON DELETE CASCADE,
    lane INTEGER NOT NULL REFERENCES lane(id),
    address TEXT NOT NULL,              -- forward-path after aliases
    original TEXT NOT NULL,             -- as submitted
    orcpt TEXT NOT NULL DEFAULT '',
    notify TEXT NOT NULL DEFAULT '',    -- words of RFC 3461, comma between
    state TEXT NOT NULL,                -- queued | held | attempting | sent | bounced | expired | discarded | removed
    fresh INTEGER NOT NULL DEFAULT 1,   -- 1 until the first attempt of its own has ended
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL,
    code INTEGER,
    status TEXT,
    reply TEXT,                         -- the last one, escaped and capped
    smarthost TEXT,                     -- that was tried last
    warned INTEGER NOT NULL DEFAULT 0,
    removed_by INTEGER,                 -- uid
    finished_at REAL
, attempted_at REAL);
INSERT INTO "recipient" VALUES(1,1,1,'bob@example.org','bob@example.org','','','sent',0,1,NULL,250,'2.0.0','250 2.0.0 ok','main',0,NULL,1800000000.0,NULL);
INSERT INTO "recipient" VALUES(2,2,1,'bob@example.org','bob@example.org','','','bounced',0,1,NULL,550,'5.1.1','550 5.1.1 unknown','main',0,NULL,1800000000.0,NULL);
INSERT INTO "recipient" VALUES(3,2,2,'carol@example.net','carol@example.net','','','queued',0,1,1800000100.0,451,'4.3.0','451 4.3.0 later','main',0,NULL,NULL,NULL);
INSERT INTO "recipient" VALUES(4,3,3,'alice@example.com','alice@example.com','','','sent',0,1,NULL,250,'2.0.0','250 2.0.0 ok','main',0,NULL,1800000000.0,NULL);
INSERT INTO "recipient" VALUES(5,4,1,'dave@example.org','dave@example.org','','','held',1,0,1800000010.0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "recipient" VALUES(6,5,1,'bob@example.org','bob@example.org','','','attempting',1,0,1800000020.0,NULL,NULL,NULL,'main',0,NULL,NULL,1800000020.0);
INSERT INTO "recipient" VALUES(7,5,1,'dave@example.org','dave@example.org','','','attempting',1,0,1800000020.0,NULL,NULL,NULL,'main',0,NULL,NULL,1800000020.0);
INSERT INTO "recipient" VALUES(8,6,4,'carol@example.net','carol@example.net','','','queued',1,0,1800000020.0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
CREATE TABLE report (                   -- every bounce, also the ones that could not be mailed
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,                 -- bounce | delay | relayed | postmaster
    about TEXT NOT NULL,                -- queue id of the message reported on
    sender TEXT NOT NULL,               -- its reverse-path
    uid INTEGER NOT NULL,               -- its owner
    recipient TEXT NOT NULL,
    outcome TEXT NOT NULL,              -- bounced | expired | discarded | deferred | sent
    status TEXT NOT NULL,
    reply TEXT NOT NULL,
    queue_id TEXT,                      -- of the report that was mailed; null: none
    reported_to TEXT,
    silence TEXT                        -- why none was mailed
);
INSERT INTO "report" VALUES(1,1800000000.0,'bounce','OLD000000003','alice@example.com',1000,'bob@example.org','bounced','5.1.1','550 5.1.1 unknown','8F80aA328OYv','alice@example.com',NULL);
CREATE TABLE smarthost (
    name TEXT PRIMARY KEY,
    tls_seen_at REAL,                   -- TLS memory
    last_sent_at REAL
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX recipient_due ON recipient(lane, fresh, next_attempt_at) WHERE state = 'queued';
CREATE INDEX recipient_lane ON recipient(lane);
CREATE INDEX recipient_attempting ON recipient(message) WHERE state = 'attempting';
CREATE INDEX recipient_message ON recipient(message);
CREATE INDEX attempt_recipient ON attempt(recipient);
CREATE INDEX message_expiry ON message(expires_at) WHERE state = 'queued';
CREATE INDEX message_warning ON message(warn_at) WHERE state = 'queued' AND warn_at IS NOT NULL;
CREATE INDEX message_receiving ON message(id) WHERE state = 'receiving';
CREATE INDEX message_damaged ON message(id) WHERE state = 'damaged';
CREATE INDEX message_waiting ON message(id) WHERE state IN ('queued', 'damaged');
CREATE INDEX message_finished ON message(finished_at) WHERE state = 'done';
CREATE INDEX message_kept ON message(body_until) WHERE body_until IS NOT NULL;
CREATE INDEX report_about ON report(about);
CREATE INDEX report_at ON report(at);
CREATE VIEW queue AS
SELECT m.queue_id, strftime('%Y-%m-%dT%H:%M:%SZ', m.accepted_at, 'unixepoch') AS accepted_at, m.kind, m.uid, m.sender,
    r.address AS recipient, r.state, m.size, r.attempts,
    strftime('%Y-%m-%dT%H:%M:%SZ', r.next_attempt_at, 'unixepoch') AS next_attempt_at, r.smarthost, r.status, r.reply,
    strftime('%Y-%m-%dT%H:%M:%SZ', m.expires_at, 'unixepoch') AS expires_at, m.message_id
FROM message m JOIN recipient r ON r.message = m.id
WHERE m.state = 'queued' AND r.state IN ('queued', 'held', 'attempting');
CREATE VIEW history AS
SELECT m.queue_id, m.message_id, m.kind, m.uid, m.sender, r.address AS recipient,
    CASE WHEN r.finished_at IS NULL THEN NULL ELSE r.state END AS outcome,
    strftime('%Y-%m-%dT%H:%M:%SZ', m.accepted_at, 'unixepoch') AS accepted_at,
    strftime('%Y-%m-%dT%H:%M:%SZ', r.finished_at, 'unixepoch') AS finished_at,
    m.size, r.attempts, r.smarthost, r.code, r.status, r.reply, r.removed_by
FROM message m JOIN recipient r ON r.message = m.id
WHERE m.state IN ('queued', 'done');
CREATE VIEW bounces AS
SELECT about AS queue_id, strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS at, kind, sender, uid, recipient, outcome,
    status, reply, queue_id AS report_queue_id, reported_to, silence
FROM report WHERE kind IN ('bounce', 'postmaster');
CREATE INDEX message_owner ON message(uid, id, state, size) WHERE state IN ('queued', 'damaged');
CREATE INDEX message_held ON message(id) WHERE state = 'queued' AND held = 1;
CREATE INDEX recipient_deferred ON recipient(message) WHERE state = 'queued' AND reply IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('message',7);
INSERT INTO "sqlite_sequence" VALUES('recipient',8);
INSERT INTO "sqlite_sequence" VALUES('report',1);
PRAGMA user_version = 2;
COMMIT;
