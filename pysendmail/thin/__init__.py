"""The thin client's own folder, so that the stub can put it on sys.path without the rest of the package."""
