"""Exits: the codes of sysexits.h that our commands end with (sendmail(8)). It imports nothing, for all need it."""

EX_OK, EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_NOUSER, EX_UNAVAILABLE = 0, 64, 65, 66, 67, 69
EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 73, 74, 75, 77, 78
