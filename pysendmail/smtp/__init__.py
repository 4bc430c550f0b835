"""SMTP without I/O: replies, commands, the wire encoding and one mail transaction (RFC 5321).

Nothing here opens a socket, reads a clock or logs. Bytes go in, bytes and values come out, so that every
conversation can be replayed whole or one byte at a time.
"""
