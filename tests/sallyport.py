"""The real binary on a data directory of its own: commands, a server, its log, and the search for canaries."""
import base64
import datetime
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import termios
import threading
import time
import zlib

import certs as certs_module
from peers import Upstream, Wire, parse_responses, read_head

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
SLOW = float(os.environ.get("SLOW", "1"))      # how much slower than a release build: stretches every wait


def certs():
    # made anew each week, and when what is made has changed
    return certs_module.make(BUILD / f"certs-{int(time.time() // 604800)}-{zlib.crc32(repr(certs_module.HOSTS).encode()):x}")


def rows(text):
    """What a listing with --json prints: one list, or an object a line."""
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def moment(text):
    """Unix seconds of a moment as --json shows it."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# Commands that a process may run one after the other: they read and change records, and end. Not those that read standard
# input, follow, start programs, or put another store in this one's place.
ONE_BY_ONE = ("agent", "bundle", "ca", "client", "connection", "credential", "doctor", "domain", "env", "explain", "gateway", "init", "key",
              "log", "policy", "role", "rule", "set", "status", "tenant", "user")
ALONE = ("-", "edit", "replay", "--follow", "--helpers")      # replay leaves its drafts in force


class Commands:
    """A process that runs commands one after the other, by tests/commands.lua. Under the sanitizers a process takes longer to
    begin and to end than most commands."""

    def __init__(self, binary, env):
        self.env, self.noted = dict(env), tempfile.TemporaryFile()
        self.process = subprocess.Popen([binary, "lua", str(ROOT / "tests/commands.lua")], env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.noted)

    def run(self, args, timeout):
        """As subprocess.run."""
        start = os.fstat(self.noted.fileno()).st_size
        self.process.stdin.write(json.dumps(args).encode() + b"\n")
        self.process.stdin.flush()
        out, deadline = self.process.stdout.fileno(), time.monotonic() + timeout
        data, sizes = b"", None
        while sizes is None or len(data) < sum(sizes):
            if not select.select([out], [], [], max(0, deadline - time.monotonic()))[0]:
                self.process.kill()
                raise subprocess.TimeoutExpired(args, timeout, data)
            piece = os.read(out, 1 << 20)
            if not piece:
                raise AssertionError(f"sallyport {' '.join(args)}: ended the process, {self.process.wait(10)}: {os.pread(self.noted.fileno(), 600, start)!r}")
            data += piece
            if sizes is None and b"\n" in data:
                head, data = data.split(b"\n", 1)
                code, *sizes = map(int, head.split())
        noted = os.pread(self.noted.fileno(), 1 << 20, start)         # what is logged is written by C
        texts = [t.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n") for t in (data[:sizes[0]], noted + data[sizes[0]:])]
        return subprocess.CompletedProcess(args, code, *texts)

    def end(self):
        try:
            self.process.communicate(b"\n", 10 * SLOW)      # a child of the tests' own may hold the pipe open
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.noted.close()


class Sallyport:
    one_by_one = True       # commands that may run so do, in one process; else each has a process of its own

    def __init__(self, binary, workers=1):
        self.dir = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("TEST_TMP")))
        self.home = self.dir / "home"
        self.binary, self.workers, self.process = str(binary), workers, None
        self.commands, self.turn = None, threading.Lock()
        self.wrap = []                           # a command that runs the server, such as valgrind
        self.canaries, self.tokens, self.extra = [], {}, []
        self.clock_file, self.resolve_file = self.dir / "clock", self.dir / "resolve"
        self.set_clock(0)
        self.resolve_file.write_text("")
        self.env = {**os.environ, "SALLYPORT_HOME": str(self.home), "SALLYPORT_TEST_CLOCK": str(self.clock_file),
                    "ASAN_OPTIONS": f"log_path={self.dir}/asan:verify_asan_link_order=0:detect_leaks=0:abort_on_error=0"
                                    ":malloc_context_size=6:quarantine_size_mb=16",     # what fits in less memory runs sooner
                    "UBSAN_OPTIONS": f"log_path={self.dir}/asan:print_stacktrace=1", "HOME": str(self.dir)}
        for name in list(self.env):
            if name.lower().endswith("_proxy"):
                del self.env[name]
        self.log_path = self.dir / "serve.log"

    # -- commands

    def cli(self, *args, check=True, stdin=None, timeout=30, env=None, cwd=None):
        if args[0] == "log":
            time.sleep(0.05 * SLOW)     # the server writes its records a moment after the answer
        r = self._one_by_one([str(a) for a in args], timeout * SLOW) if stdin is env is cwd is None else None
        r = r or subprocess.run([self.binary, *map(str, args)], env={**self.env, **(env or {})}, timeout=timeout * SLOW, cwd=cwd,
                                input=stdin, capture_output=True, text=True, errors="replace",
                                **({} if stdin is not None else {"stdin": subprocess.DEVNULL}))
        if check and r.returncode != 0:
            raise AssertionError(f"sallyport {' '.join(map(str, args))}: exit {r.returncode}: {r.stderr.strip()[-600:]}")
        return r

    def _one_by_one(self, args, timeout):
        """The command in the process that runs several; None: it needs its own."""
        if not self.turn.acquire(blocking=False):                    # another thread's command runs there
            return None
        try:
            known = self.one_by_one and args[0] in ONE_BY_ONE and not any(
                a in ALONE or a.endswith("=-") or a.startswith("--home") or not a.isprintable() for a in args)
            home = pathlib.Path(self.env.get("SALLYPORT_HOME", "."))
            try:
                known = known and home.stat().st_uid == os.getuid()      # root's commands become the owner, for good
            except OSError:
                known = known and args[0] == "init"
            if self.commands and (args[0] in ("init", "restore", "store") or self.commands.env != self.env or self.commands.process.poll() is not None):
                self.end_commands()
            if not known:
                return None
            self.commands = self.commands or Commands(self.binary, self.env)
            return self.commands.run(args, timeout)
        finally:
            self.turn.release()

    def end_commands(self):
        if self.commands:
            self.commands.end()
            self.commands = None

    def terminal(self, *args, answers=(), timeout=30, env=None, columns=None, program=None):
        """A command (or another program) at a terminal, which gets a line for each question: its exit code, and all that stood on the screen."""
        master, slave = pty.openpty()
        if columns:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen([program or self.binary, *map(str, args)], env={**self.env, **(env or {})}, stdin=slave, stdout=slave,
                                   stderr=slave, start_new_session=True)
        os.close(slave)
        os.write(master, "".join(a + "\n" for a in answers).encode())
        seen, end = b"", time.monotonic() + timeout * SLOW
        while time.monotonic() < end:
            if not select.select([master], [], [], 1)[0]:
                continue
            try:
                piece = os.read(master, 65536)
            except OSError:                      # EIO: nobody holds the other side
                break
            if not piece:
                break
            seen += piece
        process.kill() if time.monotonic() >= end else None
        os.close(master)
        return process.wait(10), seen.decode(errors="replace")

    def init(self):
        self.cli("init")
        self.ca = self.dir / "ca.pem"
        self.ca.write_text(self.cli("ca").stdout)
        assert "BEGIN CERTIFICATE" in self.ca.read_text(), "`sallyport ca` prints the certificate"

    def secret_file(self, value):
        path = self.dir / f"secret-{len(self.canaries)}"
        path.write_bytes(value.encode("latin-1"))
        path.chmod(0o600)
        if len(value) >= 6:
            self.canaries.append(value)
        return path

    @staticmethod
    def _flags(spec, names):
        out = []
        for name in names:
            value = spec.get(name, spec.get(name + "s", []))
            for v in value if isinstance(value, list) else [value]:
                out += [f"--{name}", str(v)]
        return out

    def credential(self, spec, verb="add"):
        args = ["credential", verb, spec.get("name", "api")]
        if verb == "add":
            args += ["--preset", spec["preset"]] if "preset" in spec else ["--type", spec.get("type", "bearer")]
        args += self._flags({"host": "api.test", **spec} if verb == "add" else spec,
                            ["host", "port", "method", "path", "bundle", "address", "seal-host", "env", "placeholder", "substitute",
                             "answer-timeout", "idle-timeout", "upstream-http"])
        args += ["--plain-http"] if spec.get("plain_http") else []
        for name, value in (spec.get("fields") or {}).items():
            for v in value if isinstance(value, list) else [value]:
                args.append(f"{name}={v}")
        for name, value in (spec.get("secrets") or {}).items():
            args.append(f"{name}=@{self.secret_file(value)}")
        return self.cli(*args)

    def domain(self, spec):
        self.cli("domain", "add", spec.get("bundle", "default"), spec["host"],
                 *self._flags(spec, ["method", "port", "path", "address"]), *(["--tunnel=raw"] if spec.get("tunnel") == "raw" else ["--tunnel"] if spec.get("tunnel") else []))

    def agent(self, name="a", bundles=(), ttl=None):
        args = ["agent", "add", name]
        for b in bundles:
            args += ["--bundle", b]
        token = self.cli(*args, *(["--ttl", ttl] if ttl else [])).stdout.strip()
        assert re.fullmatch(r"sp_agt_[A-Za-z0-9_-]{43,}", token), f"agent add prints a token alone, not {token!r}"
        self.tokens[name] = token
        self.canaries.append(token)
        return token

    def policy(self, name, source, check=True):
        path = self.dir / f"{name}.lua"
        path.write_text(source, "latin-1")
        return self.cli("policy", "put", path, check=check)

    def set_clock(self, offset, boot_ms=0):
        """Moves the wall clock, and what leases count."""
        new = self.clock_file.with_suffix(".new")
        new.write_text(f"{offset} {boot_ms}\n")
        new.rename(self.clock_file)

    # -- the server

    def serve(self, *flags, timeout=15, listen="127.0.0.1:0"):
        log = open(self.log_path, "ab")
        start = self.log_path.stat().st_size
        env = dict(self.env)
        if (BUILD / "resolve.so").exists():
            env.update(LD_PRELOAD=str(BUILD / "resolve.so"), TEST_RESOLVE=str(self.resolve_file))
        self.process = subprocess.Popen(
            [*self.wrap, self.binary, "serve", "--listen", listen, "--workers", str(self.workers), *map(str, flags)],
            env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.group = self.process.pid
        end = time.monotonic() + timeout * SLOW
        while True:
            match = re.search(rb"listening proxy=\S+?:([0-9]+) ", self.log_path.read_bytes()[start:])
            if match:
                self.port = int(match[1])
                return
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"serve did not begin to listen: {self.log()[-1500:]}")
            time.sleep(0.005)

    def log(self):
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def worker_pids(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    parent = f.read().rsplit(")", 1)[1].split()[1]
            except OSError:                      # it has ended meanwhile
                continue
            found += [int(pid)] if int(parent) == self.process.pid else []
        return sorted(found)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, wait=3):
        """Ends the server; what the sanitizers and it itself had to say about that is a failure."""
        problem = None
        self.end_commands()
        if self.process is not None:
            if self.process.poll() is not None and self.process.returncode not in (0, -9):
                problem = f"the server ended with {self.process.returncode}: {self.log()[-1500:]}"
            self.process.terminate() if self.process.poll() is None else None
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(self.group, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(10)
            self.process = None
        for path in self.dir.glob("asan.*"):
            problem = path.read_text("utf-8", "replace")[:3000]
        if "ev=worker_died" in self.log() or "ev=worker_killed" in self.log():
            problem = problem or getattr(self, "may_die", None) or f"a worker died: {self.log()[-1500:]}"
            problem = None if problem == "yes" else problem
        return problem

    def clean(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def records(self):
        """The records of requests, oldest first; those of kind `change` are commands' own."""
        return rows(self.cli("log", "--json", "--kind", "request").stdout)

    def wait_record(self, want, after=0, timeout=4):
        """The record after the first `after` that has all of `want`."""
        end = time.monotonic() + timeout * SLOW
        while True:
            records = self.records()[after:]
            for r in records:
                if all(str(r.get(k)).lower() == str(v).lower() for k, v in want.items()):
                    return r
            if time.monotonic() > end:
                raise AssertionError(f"no log record with {want}; there are {records[-3:]}")
            time.sleep(0.05)

    # -- clients

    def auth(self, token=None, name="a"):
        token = self.tokens[name] if token is None else token
        return "Proxy-Authorization: Basic " + base64.b64encode(f"x:{token}".encode()).decode() + "\r\n"

    def proxy_url(self, name="a"):
        return f"http://x:{self.tokens[name]}@127.0.0.1:{self.port}"

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), 10)
        return Wire(sock)

    def client_context(self, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if "alpn" in options:
            context.set_alpn_protocols(options["alpn"])
        return context

    def tunnel(self, host="api.test", port=443, auth=None, sni=None, context=None, timeout=10, session=None):
        """CONNECT, then TLS: a Wire on which to speak HTTP with the host."""
        wire = self.connect()
        shown = f"[{host}]" if ":" in host else host
        auth = self.auth() if auth is None else auth
        wire.send(f"CONNECT {shown}:{port} HTTP/1.1\r\nHost: {shown}:{port}\r\n{auth}\r\n".encode())
        head = read_head(lambda: wire.recv(timeout * SLOW))
        if b"\r\n\r\n" not in head:
            raise ConnectionError(f"closed before an answer to CONNECT: {head!r}")
        assert head.startswith(b"HTTP/1.1 200"), f"CONNECT was answered {head!r}"
        wire.start_tls(context or self.client_context(), name=sni or host, timeout=timeout * SLOW, session=session)
        return wire

    def request(self, method="GET", target="/", host="api.test", headers=None, body=b"", wire=None, timeout=15, **tunnel):
        """One request in a tunnel of its own (or on `wire`, which stays open) -> Response."""
        w = wire or self.tunnel(host, **tunnel)
        fields = {"Host": host, **(headers or {})}
        if body or method in ("POST", "PUT", "PATCH"):
            fields.setdefault("Content-Length", len(body))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items()) + "\r\n"
        try:
            w.send(head.encode("latin-1") + body)
            data, end = b"", time.monotonic() + timeout * SLOW
            while True:
                part = w.recv(max(0.01, end - time.monotonic()))
                data += part
                _, final, _ = parse_responses(data, [method], not part)
                if final and (final[0].complete or not part):
                    return final[0]
                if not part:
                    raise ConnectionError(f"closed ({w.eof}) after {data[:200]!r}")
        finally:
            if wire is None:
                w.close()

    # -- canaries

    def leaks(self, more=()):
        """Where a secret that went through can be read: every listing, log, raw file and process title."""
        found = []
        wanted = set()
        for c in [*self.canaries, *more]:
            raw = c.encode("latin-1")
            wanted |= {raw, base64.b64encode(raw).rstrip(b"="), raw.hex().encode()}
        places = {"the server's log": self.log_path.read_bytes() if self.log_path.exists() else b""}
        for args in (["log", "--json"], ["credential", "list", "--json"], ["agent", "list", "--json"],
                     ["policy", "list", "--json"], ["bundle", "list", "--json"], ["doctor"]):
            r = self.cli(*args, check=False)
            places["`" + " ".join(args) + "`"] = (r.stdout + r.stderr).encode("utf-8", "replace")
        for name in [c.get("name") for c in rows(self.cli("credential", "list", "--json").stdout)][:100]:
            r = self.cli("credential", "show", name, check=False)
            places[f"`credential show {name}`"] = (r.stdout + r.stderr).encode("utf-8", "replace")
        for path in self.dir.glob("home*/**/*"):
            if path.is_file():
                places[str(path.relative_to(self.dir))] = path.read_bytes()
        if self.process is not None:
            for pid in [self.process.pid, *self.worker_pids()]:
                for what in ("cmdline", "environ"):
                    try:
                        places[f"/proc/{pid}/{what}"] = pathlib.Path(f"/proc/{pid}/{what}").read_bytes()
                    except OSError:
                        pass
        for place, text in places.items():
            for secret in wanted:
                if secret in text:
                    found.append(f"{place} shows {secret[:16].decode('latin-1')}…")
        return found


def new(binary, workers=1, credentials=(), upstream=None, flags=(), serve=True, domains=(), types=None):
    """The usual arrangement for a program that tests: returns (Sallyport, Upstream)."""
    s = Sallyport(binary, workers)
    s.init()
    for c in credentials:
        s.credential(c)
    for d in domains:
        s.domain(d)
    s.agent()
    up = Upstream(upstream or {}, certs())
    s.upstream = up
    if serve:
        s.serve("--upstream-ca", certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", *flags)
    return s, up
