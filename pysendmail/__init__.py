"""pysendmail: the mail drop for machines that only send.

The path of a message, station by station:

    thin/client    argv and stdin cross a Unix socket (or open the queue themselves)
    submission     argv -> Envelope, stdin -> Message, aliases; refuses or accepts
    queue   (C1)   the message is ours: one durable commit, only then exit 0
    scheduler      which recipients are due, and whose turn it is
    session        one connection to a smarthost: TLS policy, AUTH, smtp/
    outcome        reply or fault -> sent, deferred, bounced, expired
    queue   (C2)   outcomes, next due times and the bounce, in one commit
"""

__version__ = "0.1.0"
