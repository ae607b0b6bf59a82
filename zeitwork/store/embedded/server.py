"""The embedded server's life: prepared, started, watched, restarted when it dies, stopped in order."""

from __future__ import annotations

import os
import pwd
import random
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from actors.model.errors import Failed, Problem, Unavailable
from zeitwork.store.embedded import binaries as wheel
from zeitwork.store.embedded import log as server_log
from zeitwork.store.embedded import postmaster, settings
from zeitwork.store.embedded.holding import refuse_replaced, take_lock
from zeitwork.store.problems import disk_full, full_disk
from zeitwork.store.system_user import POSTGRES_USER, require_user

#: Seconds: making a data directory; start with crash recovery; an orderly stop before it is made to.
INITDB_DEADLINE, START_DEADLINE, STOP_DEADLINE = 120.0, 120.0, 15.0
#: Seconds that leftovers of a killed process get for each step of being stopped.
LEFTOVER_PATIENCE = 10.0
#: First and largest wait in seconds between restarts of a server that keeps dying.
BACKOFF_FIRST, BACKOFF_MAX = 0.1, 30.0
#: A server that lived this long in seconds was well: its next death starts the back-off anew.
WELL_AFTER = 60.0
_POLL = 0.003
_ROTATE_EVERY = 60.0
#: Bytes that a unix socket's path may have.
_SOCKET_PATH_LIMIT = 107
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedServer:
    """One PostgreSQL server on one data directory, as a child of this process.

    ``directory`` keeps what must last (binaries, data, configuration, log), ``run`` the socket. Use it as::

        async with EmbeddedServer(paths.postgres, paths.run / "postgres").running() as server:
            nursery.start_soon(server.supervise)
            ... server.dsn ...

    Start it on the main thread: the kernel ends the server when the *thread* that started it ends.
    """

    def __init__(
        self,
        directory: Path,
        run: Path,
        *,
        user: str = POSTGRES_USER,
        overrides: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.directory = directory
        self.run = run
        self.restarts = 0
        #: Why the server is not running although it should be, None while it is.
        self.problem: Problem | None = None
        self._user = user
        self._overrides = dict(overrides or {})
        self._random = rng or random.Random()
        self._lock: int | None = None
        self._binaries: wheel.Binaries | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._log = structlog.get_logger().bind(part="postgres", directory=str(directory))

    @property
    def dsn(self) -> str:
        """How to connect: over the unix socket, as root."""
        return settings.dsn(self.run)

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.directory / "log" / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The server's PID, None while it is not running."""
        return self._process.pid if self._process is not None else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EmbeddedServer]:
        """Start, and stop in order at the end."""
        try:
            await self.start()
            yield self
        finally:
            with trio.CancelScope(shield=True):
                await self.stop()

    async def start(self) -> None:
        """Start the server and wait until it answers; make its data directory when there is none.

        Raises a `Problem` when the system user is missing, another process uses the directory, the disk is full, or
        with the server's own words.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded server must be started on the main thread")
        if os.geteuid() != 0:
            raise Unavailable("the embedded database needs root", fix="use sudo, or give --database-url")
        user = require_user(self._user)
        self._binaries = await trio.to_thread.run_sync(self._prepare, user)
        data = self._data
        if not data.exists():
            await self._initialise(user, data)
        with trio.move_on_after(START_DEADLINE) as scope:
            await self._launch(user)
        if scope.cancelled_caught:
            words = server_log.last_words(self.log_path, 0)
            await self._end_process(2.0)
            raise Failed(f"the embedded database was not ready within {START_DEADLINE:.0f} s: {words}")

    async def supervise(self) -> None:
        """Restart the server whenever it dies, until cancelled."""
        failures = 0
        while True:
            if self._process is not None:
                started = trio.current_time()
                status = await self._ended()
                self.problem = Unavailable(f"the embedded database ended with status {status}")
                words = server_log.last_words(self.log_path, 0)
                self._log.error("embedded postgres died", status=status, log=words)
                if trio.current_time() - started > WELL_AFTER:
                    failures = 0
            ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(failures, 16))
            await trio.sleep(self._random.uniform(ceiling / 2, ceiling))
            failures += 1
            try:
                await self.start()
            except Problem as problem:
                self.problem = problem
                self._log.error("embedded postgres could not be restarted", error=str(problem))
            else:
                self.restarts += 1
                self.problem = None
                self._log.info("embedded postgres restarted", pid=self.pid, restarts=self.restarts)

    async def stop(self, deadline: float = STOP_DEADLINE) -> None:
        """Stop the server in order (sessions ended, checkpoint written), by force after ``deadline`` seconds."""
        await self._end_process(deadline)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def _data(self) -> Path:
        assert self._binaries is not None
        return self.directory / f"data-{self._binaries.major}"

    def _prepare(self, user: pwd.struct_passwd) -> wheel.Binaries:
        """Make directories, binaries and configuration, and clear away what a killed process left. Blocks."""
        try:
            return self._prepare_files(user)
        except OSError as error:
            raise disk_full(error, self.directory) or Failed(
                f"the embedded database's files could not be prepared: {error}", field="data_dir"
            ) from error

    def _prepare_files(self, user: pwd.struct_passwd) -> wheel.Binaries:
        socket = self.run / f".s.PGSQL.{settings.PORT}"
        if len(os.fsencode(socket)) > _SOCKET_PATH_LIMIT:
            raise Failed(
                f"the path {socket} is too long for a socket", field="data_dir", fix="choose a shorter directory"
            )
        for path in (self.directory, self.log_path.parent, self.directory / "conf"):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.chmod(0o755)
        self._take_lock()
        refuse_replaced(self.directory)
        self.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.run.chmod(0o700)
        os.chown(self.run, user.pw_uid, user.pw_gid)
        for path in (self.directory / "data", socket):
            blocked = wheel.unreachable_parent(path, user.pw_uid, user.pw_gid)
            if blocked is not None:
                raise Failed(
                    f"the system user {user.pw_name} cannot pass {blocked}, so it cannot reach its data",
                    field="data_dir",
                    fix=f"chmod o+x {blocked}, or choose another --data-dir",
                )
        binaries = wheel.install(self.directory)
        data = self.directory / f"data-{binaries.major}"
        self._refuse_other_major(data)
        self._clear_leftovers(data, user)
        wheel.remove_others(self.directory, binaries)
        _write(self._hba, settings.HBA)
        _write(self._ident, settings.ident(user.pw_name))
        server_log.rotate(self.log_path)
        return binaries

    @property
    def _hba(self) -> Path:
        return self.directory / "conf" / "pg_hba.conf"

    @property
    def _ident(self) -> Path:
        return self.directory / "conf" / "pg_ident.conf"

    def _take_lock(self) -> None:
        """Hold the directory for as long as this process lives, so that no second one stops or shares our server."""
        if self._lock is not None:
            return
        self._lock = take_lock(self.directory)

    def _refuse_other_major(self, data: Path) -> None:
        others = sorted(path.name for path in self.directory.glob("data-*") if path.suffix != ".new" and path != data)
        if others and not data.exists():
            raise Failed(
                f"the data in {self.directory / others[-1]} was written by another major version of PostgreSQL "
                f"than the one installed ({data.name.removeprefix('data-')})",
                code="database-version",
                fix="install the version of Zeitwork that wrote it, and dump and restore",
            )

    def _clear_leftovers(self, data: Path, user: pwd.struct_passwd) -> None:
        """Stop a server that outlived the process that started it, and remove files that lie about one."""
        stale = (data / "postmaster.pid").exists()
        socket_left = (self.run / f".s.PGSQL.{settings.PORT}.lock").exists()
        if not stale and not socket_left:
            return
        count = postmaster.stop_leftover(data, user.pw_uid, patience=LEFTOVER_PATIENCE)
        if postmaster.servers(data, user.pw_uid):
            raise Failed(f"a leftover database server on {data} could not be stopped", fix="reboot the machine")
        if count:
            self._log.warning("leftover postgres stopped", processes=count)
        elif stale:
            self._log.info("stale postmaster.pid removed")
        postmaster.remove_stale_files(data, self.run, settings.PORT)

    async def _initialise(self, user: pwd.struct_passwd, data: Path) -> None:
        """Make the data directory; it appears under its name only when it is whole."""
        assert self._binaries is not None
        partial = data.with_name(data.name + ".new")
        try:
            await trio.to_thread.run_sync(_fresh_directory, partial, user.pw_uid, user.pw_gid)
        except OSError as error:
            raise disk_full(error, self.directory) or Failed(f"{partial} could not be made: {error}") from error
        argv = [
            *_setpriv(user),
            "--",
            str(self._binaries.initdb),
            f"--pgdata={partial}",
            f"--username={settings.SUPERUSER}",
            "--auth=peer",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        self._log.info("making the embedded database")
        with trio.move_on_after(INITDB_DEADLINE) as scope:
            try:
                done = await trio.run_process(
                    argv, capture_stdout=True, capture_stderr=True, check=False, cwd="/", env=_ENVIRONMENT
                )
            except OSError as error:
                raise Failed(f"initdb could not be started: {error}") from error
            if done.returncode != 0:
                words = (done.stderr + done.stdout).decode("utf-8", "replace").strip()
                if "No space left on device" in words:
                    raise full_disk(self.directory)
                telling = [line for line in words.splitlines() if "error:" in line or "FATAL" in line]
                raise Failed(f"initdb failed: {'; '.join(telling)[:600] or words[-600:]}")
            partial.rename(data)
        if scope.cancelled_caught:
            raise Failed(f"initdb did not end within {INITDB_DEADLINE:.0f} s")

    async def _launch(self, user: pwd.struct_passwd) -> None:
        assert self._binaries is not None
        values = settings.settings(self.run, self._hba, self._ident) | self._overrides
        argv = [*_setpriv(user), "--pdeathsig=INT", "--", str(self._binaries.postgres), "-D", str(self._data)]
        for name, value in values.items():
            argv += ["-c", f"{name}={value}"]
        start_of_log = server_log.size(self.log_path)
        try:
            process = _spawn(argv, self.log_path)
        except OSError as error:
            raise disk_full(error, self.directory) or Failed(
                f"the embedded database could not be started: {error}"
            ) from error
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        while True:
            status = process.poll()
            if status is not None:
                self._forget_process()
                words = server_log.last_words(self.log_path, start_of_log)
                if "No space left on device" in words:
                    raise full_disk(self.directory)
                raise Failed(f"the embedded database did not start: {words or f'status {status}'}")
            written = postmaster.read_pid_file(self._data)
            if written is not None and written.pid == process.pid and written.status == "ready":
                return
            await trio.sleep(_POLL)

    async def _ended(self) -> int:
        """Wait until the server has ended, rotating its log meanwhile; return its status."""
        assert self._pidfd is not None
        assert self._process is not None
        while True:
            with trio.move_on_after(_ROTATE_EVERY):
                await trio.lowlevel.wait_readable(self._pidfd)
                status = self._process.wait(timeout=5)
                self._forget_process()
                return status
            await trio.to_thread.run_sync(server_log.rotate, self.log_path)

    async def _end_process(self, deadline: float) -> None:
        process, pidfd = self._process, self._pidfd
        if process is None or pidfd is None:
            return
        for step, patience in ((signal.SIGINT, deadline), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            if process.poll() is None:
                process.send_signal(step)
            with trio.move_on_after(patience):
                await trio.lowlevel.wait_readable(pidfd)
            if process.poll() is not None:
                break
            self._log.warning("embedded postgres did not stop in time", signal=step.name, seconds=patience)
        self._forget_process()

    def _forget_process(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._process = self._pidfd = None


def _spawn(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the server, its output appended to ``log``.

    In a session of its own: Ctrl-C in a terminal must reach this process, which stops the server in order. Not with
    `trio.open_process`: it forks in a worker thread, and the parent-death signal follows the thread.
    """
    descriptor = server_log.open_log(log)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _setpriv(user: pwd.struct_passwd) -> list[str]:
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]


def _fresh_directory(path: Path, uid: int, gid: int) -> None:
    wheel.remove_tree(path)
    path.mkdir(mode=0o700)
    os.chown(path, uid, gid)


def _write(path: Path, content: str) -> None:
    if path.exists() and path.read_text() == content:
        return
    partial = path.with_name(path.name + ".new")
    partial.write_text(content)
    partial.chmod(0o644)
    partial.replace(path)
