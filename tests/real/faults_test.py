"""Processes that die, stop, or take all they can: the store stays whole, and everybody else is served."""
import contextlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time

import sallyport
from real import wait

# scrub=off: the upstream repeats each request, and more than ten hits in a minute would be too many
API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-fault-1"}, "fields": {"scrub": "off"}}
OAUTH = {"name": "cc", "type": "oauth_client_credentials", "host": "api.test",
         "fields": {"scrub": "off", "token_url": "https://auth.test/token", "client_id": "id"}, "secrets": {"client_secret": "canary-fault-2"}}


def auth_server(t, s, reply=None, **spec):
    from peers import Upstream
    up = Upstream({"reply": reply or {"body": '{"access_token":"canary-token-1","expires_in":3600}'}, **spec}, sallyport.certs())
    s.auth_up = up
    return up


def with_oauth(t, workers=2, reply=None, **spec):
    """A proxy with an OAuth credential -> (Sallyport, upstream, token endpoint)."""
    s, up = t.proxy(workers=workers, credentials=[OAUTH], serve=False)
    auth = auth_server(t, s, reply, **spec)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}",
            "--connect-to", f"auth.test:443:127.0.0.1:{auth.port}")
    return s, up, auth


def load(s, threads, stop, results, host="api.test"):
    """Requests in a loop until stop is set; results counts statuses and "error"."""
    def work():
        while not stop.is_set():
            try:
                got = s.request(target="/load", host=host, timeout=20).status
            except Exception:
                got = "error"
            results[got] = results.get(got, 0) + 1
    made = [threading.Thread(target=work) for _ in range(threads)]
    for m in made:
        m.start()
    return made


def test_worker_killed_under_load(t):
    """kill -9 of workers under load: they are replaced, requests go on"""
    s, up = t.proxy(workers=2, credentials=[API])
    s.may_die = "yes"
    stop, results = threading.Event(), {}
    threads = load(s, 4, stop, results)
    for _ in range(10):
        victim = random.choice(wait(lambda: s.worker_pids(), 5, "a worker"))
        os.kill(victim, signal.SIGKILL)
        wait(lambda: victim not in s.worker_pids() and len(s.worker_pids()) == 2, 5, "a new worker")
        time.sleep(0.1)
    stop.set()
    [x.join() for x in threads]
    assert results.get(200, 0) > results.get("error", 0), results
    assert s.request(target="/after").status == 200


def test_worker_that_hangs(t):
    """a worker that does not move for 10 s is killed and replaced, and the log says so"""
    s, up = t.proxy(workers=2, credentials=[API])
    s.may_die = "yes"
    victim = s.worker_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    wait(lambda: victim not in s.worker_pids() and len(s.worker_pids()) == 2, 16, "the hanging worker's end")
    assert str(victim) in s.log(), s.log()
    assert all(s.request(target="/after").status == 200 for _ in range(4))


def begin(s):
    """Starts the server and stops a worker before that is up. True: it was caught in time."""
    out = open(s.log_path, "ab")
    s.process = subprocess.Popen([s.binary, "serve", "--listen", "127.0.0.1:0", "--workers", "2"], env=s.env,
                                 stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 start_new_session=True)
    s.group = s.process.pid
    children, end = pathlib.Path(f"/proc/{s.process.pid}/task/{s.process.pid}/children"), time.monotonic() + 20 * sallyport.SLOW
    while time.monotonic() < end and s.process.poll() is None and "listening" not in s.log():
        found = children.read_text().split()
        for pid in found if len(found) > 1 else []:     # one alone is a helper of the command's
            try:
                os.kill(int(pid), signal.SIGSTOP)
                time.sleep(0.2)
                if "listening" not in s.log() and status(pid) == "T":
                    return True
                os.kill(int(pid), signal.SIGCONT)
            except OSError:
                pass            # it was no worker, and has ended
    s.process.kill()
    s.process.wait()
    s.log_path.write_text("")
    return False


def each(s, number):
    """A signal to every child of the master that is still there."""
    for pid in s.worker_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_slow_start(t):
    """a worker that takes long to start: serve says so and waits, one that dies is replaced, and SIGTERM ends the wait"""
    s = t.bare(workers=2)
    s.init()
    wait(lambda: begin(s), 60, "a worker caught at its start")
    wait(lambda: "ev=start_slow ready=0" in s.log() or "ev=start_slow ready=1" in s.log(), 15, "a word about it")
    assert s.process.poll() is None
    each(s, signal.SIGKILL)
    s.may_die = "yes"
    wait(lambda: "listening proxy=" in s.log(), 20, "the server behind it")
    s.process.terminate()
    assert s.process.wait(40) == 0, s.log()
    s.log_path.write_text("")
    wait(lambda: begin(s), 60, "a worker caught at its start")
    s.process.terminate()
    each(s, signal.SIGCONT)
    assert s.process.wait(40) == 0 and "listening" not in s.log(), s.log()


def test_master_killed(t):
    """kill -9 of the master: the workers drain and exit, the store opens again"""
    s, up = t.proxy(workers=2, credentials=[API])
    workers = s.worker_pids()
    os.kill(s.process.pid, signal.SIGKILL)
    s.process.wait()
    wait(lambda: not any(pathlib.Path(f"/proc/{w}").exists() and "Z" not in status(w) for w in workers), 35, "the workers' end")
    s.process = None
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    assert s.request().status == 200


def status(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_drain(t):
    """SIGTERM: what runs is finished, nothing new is taken, the server ends with 0"""
    s, up = t.proxy(credentials=[API], upstream={"delay": 1.0})
    got = []
    thread = threading.Thread(target=lambda: got.append(s.request(target="/slow").status))
    thread.start()
    wait(lambda: up.requests, 10, "the request at the upstream")
    s.process.terminate()
    thread.join(20)
    assert got == [200], got
    assert s.process.wait(20) == 0, s.log()
    try:
        s.connect().close()
        raise RuntimeError("it still listens")
    except OSError:
        pass


def test_one_server(t):
    """a second server on the same data directory is refused"""
    s, up = t.proxy(credentials=[API])
    r = s.cli("serve", "--listen", "127.0.0.1:0", check=False, timeout=10)
    assert r.returncode == 1 and r.stderr.strip(), (r.returncode, r.stderr)
    assert s.request().status == 200


def test_refresh_killed_at_every_step(t):
    """kill -9 of the worker at every step of a refresh: the old state or the new one whole, leases taken over"""
    rounds = 40 if sallyport.SLOW == 1 else 10
    s, up, auth = with_oauth(t, workers=2)
    s.may_die = "yes"
    clock = 0
    for i in range(rounds):
        clock += 4000                                      # the token has expired
        s.set_clock(clock)
        caller = threading.Thread(target=lambda: quietly(s))
        caller.start()
        time.sleep(i * 0.0015)                             # a little later in the refresh each time
        for w in s.worker_pids():
            try:
                os.kill(w, signal.SIGKILL)
            except ProcessLookupError:
                pass
        caller.join(20)
        end = time.monotonic() + 40 * sallyport.SLOW        # a dead owner's lease is waited for
        while True:
            try:
                r = s.request(target="/again", timeout=25)
                if r.status == 200:
                    break
                assert r.status == 503, r.body
            except (OSError, ConnectionError):
                pass
            assert time.monotonic() < end, f"round {i}: no answer after the kill: {s.log()[-500:]}"
            time.sleep(0.1)
        assert up.requests[-1].get("authorization") == "Bearer canary-token-1"
    r = s.cli("credential", "show", "cc")
    assert "damaged" not in r.stdout + r.stderr


def quietly(s):
    try:
        s.request(target="/killed", timeout=5)
    except Exception:
        pass


def test_commands_killed_while_writing(t):
    """kill -9 of commands that write, and of workers, in a loop: nothing committed is lost, nor its record in the log, nothing is torn"""
    s, up = t.proxy(workers=2, credentials=[API])
    s.may_die = "yes"
    kept = set()
    for i in range(30):
        name = f"c{i}"
        secret = s.secret_file(f"canary-written-{i}")
        p = subprocess.Popen([s.binary, "credential", "add", name, "--type", "bearer", "--host", f"h{i}.test", f"token=@{secret}"],
                             env=s.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if i % 3:
            time.sleep(random.uniform(0, 0.02))
            p.kill()
        if p.wait() == 0:
            kept.add(name)
        if i % 10 == 5:
            os.kill(wait(s.worker_pids, 5, "a worker")[0], signal.SIGKILL)
    names = {c["name"] for c in sallyport.rows(s.cli("credential", "list", "--json").stdout)}
    assert kept <= names, f"lost: {kept - names}"
    for name in names:
        assert s.cli("credential", "show", name).returncode == 0
    s.cli("tenant", "add", "last")          # what somebody left is written by the next one
    told = {c["record"] for r in sallyport.rows(s.cli("log", "--json", "--kind", "change").stdout) for c in r["changes"]}
    assert {f"credential {n}" for n in names} <= told, {f"credential {n}" for n in names} - told
    wait(lambda: len(s.worker_pids()) == 2, 5, "the new worker")
    assert s.request().status == 200


def test_command_stopped_while_writing(t):
    """kill -STOP of commands that hold the store: requests and tokens go on"""
    s, up, auth = with_oauth(t)
    stopped = []
    for i in range(12):
        secret = s.secret_file(f"canary-stopped-{i}")
        p = subprocess.Popen([s.binary, "credential", "add", f"s{i}", "--type", "bearer", "--host", f"s{i}.test", f"token=@{secret}"],
                             env=s.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(i * 0.002)
        p.send_signal(signal.SIGSTOP)
        stopped.append(p)
        try:
            assert s.request(timeout=20).status == 200, "requests go on while a command is stopped"
        finally:
            p.send_signal(signal.SIGCONT)
            p.wait(20)
    assert s.request().status == 200


def test_one_refresh_for_all(t):
    """100 requests over all workers on one expired token: one refresh"""
    s, up, auth = with_oauth(t, workers=2, delay=0.4)
    s.agent("b")                                           # one agent alone may have 64 in progress in a worker
    statuses = []

    def one(name):
        statuses.append(s.request(auth=s.auth(name=name)).status)
    threads = [threading.Thread(target=one, args=("ab"[i % 2],)) for i in range(100)]
    [x.start() for x in threads]
    [x.join(60) for x in threads]
    assert statuses == [200] * 100, statuses
    assert len(auth.requests) == 1, f"{len(auth.requests)} token requests"


def test_idle_connections(t):
    """thousands of idle connections: others are served, and past their share newcomers are told so, for a while"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 5000:
        t.skip("too few descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    s, up = t.proxy(workers=1, credentials=[API])
    s.stop()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--memory", "512M")
    tunnels = [s.tunnel() for _ in range(20)]
    idle = [socket.create_connection(("127.0.0.1", s.port), 10) for _ in range(1500)]
    assert s.request(timeout=20).status == 200
    idle += [socket.create_connection(("127.0.0.1", s.port), 10) for _ in range(700)]
    assert all(s.request(wire=w, timeout=20).status == 200 for w in tunnels), "whoever is known is unharmed"
    for sock in idle:
        sock.close()
    wait(lambda: answered(s) == 200, 5, "an answer")


def answered(s):
    try:
        return s.request(timeout=20).status
    except (AssertionError, OSError):
        return None


def burst(s, n, out, target="/", name="a", timeout=60):
    """n requests at once, each through a tunnel of its own: (status, error, Retry-After, when it ended) go to out."""
    def one(i):
        try:
            r = s.request(target=f"{target}{i}", auth=s.auth(name=name), timeout=timeout)
            out.append((r.status, r.get("x-sallyport-error"), r.get("retry-after"), time.monotonic()))
        except Exception as e:
            out.append((f"{type(e).__name__}: {e}", None, None, time.monotonic()))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    [x.start() for x in threads]
    return threads


def test_one_agent_taking_all(t):
    """an agent's requests above its share wait for their turn: 100 and 200 at once all succeed; another agent is served at once"""
    s, up = t.proxy(workers=1, credentials=[API], upstream={"delay": 2})
    s.agent("other")
    for n in (100, 200):
        up.delay, answers, most = 2, [], len(up.requests)
        threads = burst(s, n, answers)
        wait(lambda: len(up.requests) - most >= 64, 20, "a share of requests in progress")
        began = time.monotonic()
        up.delay = 0
        assert s.request(target="/other", auth=s.auth(name="other"), timeout=10).status == 200
        assert time.monotonic() - began < 2 * sallyport.SLOW
        up.delay = 2
        [x.join(60) for x in threads]
        assert [a[0] for a in answers] == [200] * n, [a for a in answers if a[0] != 200]


def test_turns(t):
    """`agent set --requests`: what comes above waits in the order it came; who hangs up leaves no gap; a drain lets those
    that wait have their turn; after 30 seconds it is 429 with Retry-After, and CONNECT itself never waits"""
    s, up = t.proxy(workers=1, credentials=[API], upstream={"delay": 0.3})
    assert s.cli("agent", "set", "a", "--requests", "0", check=False).returncode == 2
    s.cli("agent", "set", "a", "--requests", "1")
    tunnels = [s.tunnel() for _ in range(6)]
    for i, w in enumerate(tunnels):
        w.send(b"GET /turn%d HTTP/1.1\r\nHost: api.test\r\n\r\n" % i)
        time.sleep(0.05)
    tunnels[2].close()
    assert s.tunnel(), "a tunnel is no request yet"
    wait(lambda: len(up.requests) >= 5, 20, "five requests upstream")
    assert [r.target for r in up.requests] == [f"/turn{i}" for i in (0, 1, 3, 4, 5)], [r.target for r in up.requests]
    up.delay, answers = 40, []
    threads = burst(s, 1, answers, "/long")
    wait(lambda: len(up.requests) >= 6, 20, "the long one")
    began = time.monotonic()
    threads += burst(s, 2, answers, "/late")
    wait(lambda: len(answers) >= 2, 40, "429")
    assert all(a[:2] == (429, "too_many") and a[2] for a in answers) and time.monotonic() - began >= 29, (answers, began)
    s.cli("agent", "set", "a", "--requests", "2")                       # in force at the next request
    up.delay = 2
    threads += burst(s, 4, answers, "/drain")
    wait(lambda: len(up.requests) >= 7, 20, "one more upstream")
    time.sleep(min(sallyport.SLOW, 1.5))                                # the others have come, and the first is not answered
    s.process.terminate()
    wait(lambda: len(answers) >= 6, 20, "the drained ones")
    assert [a[0] for a in answers] == [429, 429, 200, 200, 200, 200], answers
    up.stop()
    [x.join(60) for x in threads]


def rss(pid):
    return int(re.search(r"VmRSS:\s+([0-9]+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def test_memory_after_a_burst(t):
    """a burst of 500 half heads of 30 KB leaves no memory behind when it is over"""
    if "asan" in str(t.binary):
        t.skip("the sanitizer's allocator keeps what is freed")
    s, _ = t.proxy(workers=1, credentials=[API])
    assert s.request().status == 200
    pid = s.worker_pids()[0]
    before, tunnels = rss(pid), []
    for _ in range(500):
        tunnels.append(s.tunnel(timeout=30))
        tunnels[-1].send(b"GET / HTTP/1.1\r\nHost: api.test\r\nX: " + b"a" * 30000)
    wait(lambda: rss(pid) > before + 15000, 20, "a burst")
    for w in tunnels:
        w.close()
    wait(lambda: rss(pid) < before + 5000, 30, f"memory given back ({before} KiB at the beginning)")
    assert s.request().status == 200


def test_big_bodies_at_constant_memory(t):
    """96 MiB down to a slow reader and 96 MiB up to a slow upstream add next to nothing to memory"""
    size = 96 << 20
    s, up = t.proxy(workers=1, credentials=[API], upstream={"reply": {"steps": [
        f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n", {"repeat": "x" * 65536, "times": size // 65536}]}})
    w = s.tunnel()
    w.send(b"GET /warm HTTP/1.1\r\nHost: api.test\r\n\r\n")
    pid, got, peak = s.worker_pids()[0], 0, 0
    got = len(w.recv())
    before = rss(pid)
    time.sleep(0.5)                                        # the peer's back-pressure must reach upstream
    while got < size:
        got += len(w.recv(20))
        peak = max(peak, rss(pid)) if got % 64 == 0 else peak
    peak = max(peak, rss(pid))
    limit = 1024 if sallyport.SLOW == 1 else 8192
    assert peak - before < limit, f"a download took {peak - before} KiB"
    up.reply = {"body": "ok"}
    w = s.tunnel()
    w.send(f"POST /up HTTP/1.1\r\nHost: api.test\r\nContent-Length: {size}\r\n\r\n".encode())
    for i in range(size // 65536):
        w.send(b"y" * 65536)
        if i % 256 == 0:
            peak = max(peak, rss(pid))
    data = b""
    while b"ok" not in data:
        data += w.recv(30)
    assert len(up.requests[-1].body) == size
    assert peak - before < limit, f"an upload took {peak - before} KiB"


def remembered(pid, secrets):
    """-> how often one of them lies in that process's memory, and where a core dump has it"""
    held, found, region = 0, [], None
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)", line)
        if m:
            region = (int(m[1], 16), int(m[2], 16), m[3], m[4])
        elif line.startswith("VmFlags:") and "r" in region[2] and "w" in region[2]:
            try:
                with open(f"/proc/{pid}/mem", "rb") as mem:
                    mem.seek(region[0])
                    data = mem.read(region[1] - region[0])
            except OSError:
                continue
            for secret in secrets:
                held += secret in data
                if secret in data and "dd" not in line.split():
                    found.append(region[3] or hex(region[0]))
    return held, found


def test_secrets_in_memory(t):
    """after a request, the secret is in memory only where a core dump does not go"""
    if os.getuid() != 0:
        t.skip("only root may read another process's memory")
    if sallyport.SLOW != 1:
        t.skip("the sanitizer keeps freed memory as it was")
    # each length has its own way through memcpy and a hash's last block; a key of over 64 bytes is hashed by HMAC (RFC 2104 2)
    kinds = [API | {"path": "/"}] + [
        {"name": name, "path": f"/{name}", "type": kind, "fields": fields, "secrets": {secret: f"canary-{name}-" + "k" * n}}
        for name, kind, secret, n, fields in (
            ("basic", "basic", "password", 3, {"username": "u", "scrub": "off"}), ("name", "api_key", "key", 9, {"header": "X-Key", "scrub": "off"}),
            ("row", "body_parameter", "value", 19, {"name": "key", "in": "json", "scrub": "off"}),
            ("hmac", "hmac", "key", 28, {"string": "{method}{body}", "set.x-sign": "{signature}"}),
            ("long", "hmac", "key", 88, {"string": "{method}{body}", "set.x-sign": "{signature}"}),
            ("aws", "aws_sigv4", "secret_access_key", 29, {"access_key_id": "AKIACANARYKEY0000000", "region": "us-east-1", "service": "s3"}))]
    s, up = t.proxy(workers=1, credentials=kinds)
    for kind in kinds:
        got = s.request("POST", kind["path"], headers={"Content-Type": "application/json"}, body=b'{"a":1}')
        assert got.status == 200, (kind, got)
        time.sleep(0.3)
        secret = next(iter(kind["secrets"].values())).encode()
        found = remembered(s.worker_pids()[0], {secret, secret[:12], secret[-12:]} - {b"k" * 12})[1]
        assert not found, f"the secret of {kind['name']} is in {found}"


def test_keys_of_sessions_in_memory(t):
    """agent-tls openssl: no key of a session, of TLS 1.3 or 1.2, lies where a core dump goes"""
    if os.getuid() != 0 or sallyport.SLOW != 1:
        t.skip("only root may read another process's memory; the sanitizer keeps freed memory as it was")
    s, up = t.proxy(workers=1, credentials=[API])
    s.cli("set", "agent-tls", "openssl")
    wires, keys = [], s.dir / "of-the-client"
    for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
        c = ssl.create_default_context(cafile=s.ca)
        c.minimum_version = c.maximum_version = version
        c.keylog_filename = str(keys)
        wires.append(s.tunnel(context=c))
        assert s.request(wire=wires[-1]).status == 200 and wires[-1].tls.version()[-1] == str(version.value - 0x301)
    secrets = {bytes.fromhex(line.split()[2]) for line in keys.read_text().splitlines() if line[0] != "#"}
    held, found = remembered(s.worker_pids()[0], secrets)
    assert len(secrets) >= 5 and held and not found, f"{held} of {len(secrets)} found, where a core dump goes: {found}"
    for w in wires:
        w.close()


def test_key_missing(t):
    """no key file, or another's: a clear error, nothing overwritten, and right again with the key back"""
    s, up = t.proxy(credentials=[API], serve=False)
    key = s.home / "key"
    text = key.read_bytes()
    before = (s.home / "store/data.mdb").read_bytes()
    for wrong in (None, os.urandom(len(text)), text[:-9] + b"AAAAAAAA\n", b""):
        key.unlink()
        if wrong is not None:
            key.write_bytes(wrong)
            key.chmod(0o600)
        r = s.cli("serve", "--listen", "127.0.0.1:0", check=False, timeout=10)
        assert r.returncode == 1 and "key" in r.stderr.lower(), (r.returncode, r.stderr)
        if wrong is None:
            assert not key.exists(), "a new key over an old store would lose every credential"
            key.write_bytes(b"x")
    key.write_bytes(text)
    key.chmod(0o600)
    assert (s.home / "store/data.mdb").read_bytes() == before
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    assert s.request().status == 200


def test_changed_on_disk(t):
    """a record changed on the disk is refused by name, the rest serves on"""
    s, up = t.proxy(serve=False, credentials=[API, {**API, "name": "evil", "host": "victim.test", "secrets": {"token": "canary-fault-3"}}])
    path = s.home / "store/data.mdb"
    raw = path.read_bytes()
    assert raw.count(b"victim.test"), "names and hosts are readable without the key"
    path.write_bytes(raw.replace(b"victim.test", b"attack.test"))
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}",
            "--connect-to", f"attack.test:443:127.0.0.1:{up.port}")
    assert s.request().status == 200
    r = s.request(host="attack.test")
    assert r.status in (403, 502, 503), r.status
    assert not [q for q in up.requests if "canary-fault-3" in q.head.decode()]


def test_backup_and_restore(t):
    """backup while serving, restore on another directory with the key; never over a running server"""
    s, up = t.proxy(credentials=[API])
    file = s.dir / "backup"
    s.cli("backup", file)
    assert b"canary-fault-1" not in file.read_bytes()
    r = s.cli("restore", file, check=False)
    assert r.returncode == 1 and r.stderr, "restore refuses while a server runs"
    s.cli("credential", "remove", "api")
    wait(lambda: s.request().status == 403, 3, "the removal")
    s.stop()
    s.cli("restore", file)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    assert s.request().status == 200


def test_full_disk(t):
    """a full disk: a command fails with a clear error, the server goes on, and all is well with room again"""
    if os.getuid() != 0:
        t.skip("only root may mount a small disk")
    s = t.bare()
    s.home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", s.home], capture_output=True).returncode:
        t.skip("mounting is not allowed here")
    try:
        from peers import Upstream
        s.init()
        s.credential(API)
        s.agent()
        s.upstream = up = Upstream({}, sallyport.certs())
        s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
        failed = None
        filler = s.home / "filler"
        with open(filler, "wb", buffering=0) as f:
            try:
                while f.write(b"\0" * 4096) == 4096:
                    pass
            except OSError:
                pass
        big = s.dir / "big"
        big.write_text("canary-full-" + "x" * 20000)
        for i in range(100):
            r = s.cli("credential", "add", f"x{i}", "--type", "bearer", "--host", f"x{i}.test", f"token=@{big}", check=False)
            if r.returncode:
                failed = r
                break
        assert failed is not None and failed.returncode == 1 and failed.stderr.strip(), failed
        assert s.request().status == 200
        filler.unlink()
        s.credential({**API, "name": "room", "host": "room.test"})
        assert s.request().status == 200
    finally:
        s.stop(1)
        subprocess.run(["umount", "-l", s.home])
