"""How the embedded server is set: small, durable, reachable over one unix socket only."""

from __future__ import annotations

from pathlib import Path

#: Root's process connects as the owner of everything; the server's own user may too (for psql by hand).
HBA = "local all all peer map=zeitwork\n"
SUPERUSER = "zeitwork"
DATABASE = "postgres"
PORT = 5432


def ident(system_user: str) -> str:
    """Return the map of system users to database users."""
    return f"zeitwork root {SUPERUSER}\nzeitwork {system_user} {SUPERUSER}\n"


def settings(socket_directory: Path, hba: Path, ident_file: Path) -> dict[str, str]:
    """Return the server's settings; they are given on its command line, so that nothing in its data overrules them."""
    return {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
        "hba_file": str(hba),
        "ident_file": str(ident_file),
        "cluster_name": "zeitwork",
        # Footprint: one host's control data is megabytes, and the machine's memory belongs to its guests.
        "max_connections": "50",
        "shared_buffers": "32MB",
        "maintenance_work_mem": "16MB",
        "huge_pages": "off",
        "jit": "off",
        "io_method": "sync",
        "max_worker_processes": "2",
        "max_parallel_workers": "0",
        "max_parallel_workers_per_gather": "0",
        "max_logical_replication_workers": "0",
        "autovacuum_max_workers": "1",
        "autovacuum_worker_slots": "2",
        "max_wal_senders": "0",
        "wal_level": "minimal",
        "min_wal_size": "32MB",
        "max_wal_size": "256MB",
        "checkpoint_timeout": "15min",
        "log_checkpoints": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_line_prefix": "%m [%p] ",
        "log_timezone": "UTC",
        "timezone": "UTC",
        "lc_messages": "C",
    }


def dsn(socket_directory: Path) -> str:
    """Return the connection string of a server that listens in ``socket_directory``."""
    escaped = str(socket_directory).replace("\\", "\\\\").replace("'", "\\'")
    return f"host='{escaped}' port={PORT} user={SUPERUSER} dbname={DATABASE}"
