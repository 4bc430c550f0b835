"""Schema: the tables behind queue.db, their views, and how an older database becomes this one.

The migrations are sqlite-utils' (its table `_sqlite_migrations` keeps count); `PRAGMA user_version` repeats the
number, so that a database which is up to date costs no import of sqlite-utils. A database made by a newer
pysendmail is refused: nothing is guessed about tables that this code does not know.

Times are Unix epoch seconds in UTC, sizes are octets. The views `queue`, `history` and `bounces` are the stable
interface for people (`sqlite3 -readonly`, Datasette); the tables may change with any version.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pysendmail import __version__

VERSION = 3
# Of a database file: where `PRAGMA user_version` is kept (https://www.sqlite.org/fileformat.html, 1.3).
_HEADER_OCTETS = 100
_USER_VERSION = slice(60, 64)


class SchemaError(Exception):
    """The database cannot be used by this version; the text says why and what to do."""


# The first schema as one script: raw DDL, since partial indexes and views are beyond sqlite-utils' builders.
_FIRST = """
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
CREATE TABLE body (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES message(id) ON DELETE CASCADE,
    part INTEGER NOT NULL,
    octets BLOB NOT NULL,               -- CRLF lines, at most 256 KiB
    UNIQUE (message, part)
);
CREATE TABLE lane (                     -- whose turn it is goes round over these
    id INTEGER PRIMARY KEY,
    route TEXT NOT NULL,                -- smarthost names, in order, one a line
    uid INTEGER NOT NULL,
    destination TEXT NOT NULL,          -- domain of the recipient, lower case
    UNIQUE (route, uid, destination)
);
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
);
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
CREATE TABLE smarthost (
    name TEXT PRIMARY KEY,
    tls_seen_at REAL,                   -- TLS memory
    last_sent_at REAL
);

CREATE INDEX recipient_due ON recipient(lane, fresh, next_attempt_at) WHERE state = 'queued';
CREATE INDEX recipient_lane ON recipient(lane);
CREATE INDEX recipient_attempting ON recipient(message) WHERE state = 'attempting';
CREATE INDEX recipient_message ON recipient(message);
CREATE INDEX recipient_address ON recipient(address);
CREATE INDEX attempt_recipient ON attempt(recipient);
CREATE INDEX attempt_running ON attempt(recipient) WHERE outcome IS NULL;
CREATE INDEX message_owner ON message(uid, size) WHERE state = 'queued';
CREATE INDEX message_expiry ON message(expires_at) WHERE state = 'queued';
CREATE INDEX message_warning ON message(warn_at) WHERE state = 'queued' AND warn_at IS NOT NULL;
CREATE INDEX message_receiving ON message(id) WHERE state = 'receiving';
CREATE INDEX message_damaged ON message(id) WHERE state = 'damaged';
CREATE INDEX message_waiting ON message(id) WHERE state IN ('queued', 'damaged');
CREATE INDEX message_finished ON message(finished_at) WHERE state = 'done';
CREATE INDEX message_kept ON message(body_until) WHERE body_until IS NOT NULL;
CREATE INDEX report_about ON report(about);
CREATE INDEX report_at ON report(at);

CREATE VIEW bounces AS
SELECT about AS queue_id, strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS at, kind, sender, uid, recipient, outcome,
    status, reply, queue_id AS report_queue_id, reported_to, silence
FROM report WHERE kind IN ('bounce', 'postmaster');
"""

# `recipient.attempted_at` says when the attempt under way began: it is a row only when it has ended, not one that is
# written twice. No look went by an address's index alone. A user's messages are listed in order. What is held and what
# is deferred is counted without a look at all that waits.
_SECOND = """
ALTER TABLE recipient ADD COLUMN attempted_at REAL;
UPDATE recipient SET attempted_at = (SELECT at FROM attempt WHERE recipient = recipient.id AND outcome IS NULL)
WHERE state = 'attempting';
DELETE FROM attempt WHERE outcome IS NULL;
DROP INDEX attempt_running;
DROP INDEX recipient_address;
DROP INDEX message_owner;
CREATE INDEX message_owner ON message(uid, id, state, size) WHERE state IN ('queued', 'damaged');
CREATE INDEX message_held ON message(id) WHERE state = 'queued' AND held = 1;
CREATE INDEX recipient_deferred ON recipient(message) WHERE state = 'queued' AND reply IS NOT NULL;
"""

# Which process a message is of; see `origin`. New columns of a view come last. Two views are made here for new queues,
# too: older ones have them since the first schema, without these columns.
_THIRD = """
ALTER TABLE message ADD COLUMN pid INTEGER;
ALTER TABLE message ADD COLUMN command TEXT;
ALTER TABLE message ADD COLUMN unit TEXT;
DROP VIEW IF EXISTS queue;
CREATE VIEW queue AS
SELECT m.queue_id, strftime('%Y-%m-%dT%H:%M:%SZ', m.accepted_at, 'unixepoch') AS accepted_at, m.kind, m.uid, m.sender,
    r.address AS recipient, r.state, m.size, r.attempts,
    strftime('%Y-%m-%dT%H:%M:%SZ', r.next_attempt_at, 'unixepoch') AS next_attempt_at, r.smarthost, r.status, r.reply,
    strftime('%Y-%m-%dT%H:%M:%SZ', m.expires_at, 'unixepoch') AS expires_at, m.message_id, m.pid, m.command, m.unit
FROM message m JOIN recipient r ON r.message = m.id
WHERE m.state = 'queued' AND r.state IN ('queued', 'held', 'attempting');
DROP VIEW IF EXISTS history;
CREATE VIEW history AS
SELECT m.queue_id, m.message_id, m.kind, m.uid, m.sender, r.address AS recipient,
    CASE WHEN r.finished_at IS NULL THEN NULL ELSE r.state END AS outcome,
    strftime('%Y-%m-%dT%H:%M:%SZ', m.accepted_at, 'unixepoch') AS accepted_at,
    strftime('%Y-%m-%dT%H:%M:%SZ', r.finished_at, 'unixepoch') AS finished_at,
    m.size, r.attempts, r.smarthost, r.code, r.status, r.reply, r.removed_by, m.pid, m.command, m.unit
FROM message m JOIN recipient r ON r.message = m.id
WHERE m.state IN ('queued', 'done');
"""


def may_be_older(path: Path) -> bool:
    """Whether the file at `path` looks as if `ensure` had something to do; asked without SQLite, before it is open."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(_HEADER_OCTETS)[_USER_VERSION]) != VERSION
    except FileNotFoundError:
        return True


def is_older(connection: sqlite3.Connection) -> bool:
    """Whether `ensure` has something to do: what this version asks for may not be there."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) < VERSION


def refuse_newer(connection: sqlite3.Connection) -> None:
    """Raises SchemaError for a database that is newer than this code."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        raise SchemaError(
            f"{file} was written by a newer pysendmail (schema {version}; {__version__} knows {VERSION}): "
            "install that version again; see pysendmail(8), RECOVERY"
        )


def ensure(connection: sqlite3.Connection) -> None:
    """Make the schema what this version wants. The caller holds queue.lock.

    Raises SchemaError for a database that is newer than this code.
    """
    refuse_newer(connection)
    if not is_older(connection):
        return
    # Imported only here: 125 ms that a queue which is up to date need not pay.
    from sqlite_utils import Database, Migrations

    migrations = Migrations("pysendmail")

    @migrations()
    def m0001_first(database: Database) -> None:
        _run(database.conn, _FIRST)

    @migrations()
    def m0002_attempts(database: Database) -> None:
        _run(database.conn, _SECOND)

    @migrations()
    def m0003_origin(database: Database) -> None:
        _run(database.conn, _THIRD)

    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(Database(connection, execute_plugins=False, recursive_triggers=False))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _run(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)
