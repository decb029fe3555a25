"""The full stack from the host: its secrets (`environment`), its state (`status`), its backups (`backup`).

Standard library only, and nothing of the package but its errors: it runs before anything is installed.
"""
