"""Numbers: /metrics on the control socket, read by Prometheus' own parser; /healthz; `sallyport top`."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import sallyport
from admin_test import Admin
from approval_test import Asked
from doors_test import as_user, world
from faults_test import with_oauth
from prometheus_client import parser
from real import wait


def fetch(s, path="/metrics", method="GET", **headers):
    """-> status, content type, text"""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20 * sallyport.SLOW)
    sock.connect(str(s.home / "control"))
    c = http.client.HTTPConnection("localhost")
    c.sock = sock
    c.request(method, path, headers=headers)
    r = c.getresponse()
    text = r.read().decode()
    c.close()
    return r.status, r.headers.get("Content-Type"), text


class Numbers:
    def __init__(self, text):
        self.families = {f.name: f for f in parser.text_string_to_metric_families(text)}
        self.samples = [x for f in self.families.values() for x in f.samples]
        assert len({(x.name, tuple(sorted(x.labels.items()))) for x in self.samples}) == len(self.samples), "each once"

    def get(self, name, **labels):
        return sum(x.value for x in self.samples if x.name == "sallyport_" + name and all(x.labels.get(k) == v for k, v in labels.items()))


def numbers(s):
    status, kind, text = fetch(s)
    assert status == 200 and kind == "text/plain; version=0.0.4; charset=utf-8", (status, kind, text)
    return Numbers(text)


def ended(s, n):
    """The numbers once n requests have ended: their records are written a moment after the answers."""
    wait(lambda: numbers(s).get("requests_total") >= n, 10, f"the end of {n} requests")
    return numbers(s)


def test_counts(t):
    """requests by decision, status, agent and credential, errors and times, as one sum over the workers, which the death of one does not make less"""
    s, up = world(t, workers=3)
    s.may_die = "yes"
    a, b = s.auth(s.tokens["a"]), s.auth(s.tokens["b"])
    before = numbers(s)
    assert before.get("workers_ready") == 3 and before.families["sallyport_requests"].type == "counter" and before.families["sallyport_request_seconds"].type == "histogram"
    for i in range(30):
        assert s.request(auth=a).status == 200
    for i in range(10):
        assert s.request(auth=b).status == 200
        assert s.request(auth=b, host="refused.test", wire=None).status == 403
    n = ended(s, 50)
    assert n.get("requests_total") == 50 and n.get("requests_total", decision="deny") == 10
    assert n.get("requests_total", decision="allow", status="2xx", credential="one") == 30 and n.get("requests_total", agent="b", status="2xx", credential="two") == 10
    assert n.get("requests_total", agent="b", decision="deny", status="4xx", credential="") == 10 and n.get("errors_total", code="host_not_allowed") == 10
    assert n.get("request_seconds_count") == 50 and n.get("first_byte_seconds_count") >= 40 and n.get("own_seconds_count") == 40
    for name in ("request_seconds", "first_byte_seconds", "own_seconds"):
        steps = [(float(x.labels["le"]), x.value) for x in n.samples if x.name == f"sallyport_{name}_bucket"]
        assert steps == sorted(steps) and steps[-1][0] == float("inf") and steps[-1][1] == n.get(name + "_count") and [v for _, v in steps] == sorted(v for _, v in steps)
        assert 0 <= n.get(name + "_sum") < 50 * 30
    pids = s.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    wait(lambda: len(s.worker_pids()) == 3 and pids[0] not in s.worker_pids(), 10, "another worker")
    done = 0
    while done < 10:                                                    # a connection of the dead one may break
        try:
            done += s.request(auth=a).status == 200
        except OSError:
            pass
    n = ended(s, 60)
    assert n.get("requests_total", status="2xx", credential="one") == 40 and n.get("requests_total", agent="b") == 20
    wait(lambda: numbers(s).get("workers_ready") == 3, 10)
    assert n.get("memory_bytes") > 100_000 or "asan" in str(t.binary)
    assert n.get("store_bytes") > 10_000 and n.get("disk_free_bytes") > 0 and n.get("build_info") == 1 and n.get("log_drops_total") == 0
    with socket.create_connection(("127.0.0.1", s.port)) as c:
        c.sendall(b"GET ")
        wait(lambda: numbers(s).get("connections") >= 2, 10, "an open connection")      # this one's is the control socket's
    up.stop()
    assert s.request(auth=b).status == 502
    n = ended(s, 61)
    assert n.get("errors_total", code="upstream_unreachable") == 1 and n.get("requests_total", status="5xx") == 1


def test_refreshes_and_questions(t):
    """tokens that are made anew, or cannot be; requests that wait for a person"""
    s, up, auth = with_oauth(t, workers=2)
    assert s.request().status == 200
    n = ended(s, 1)
    assert n.get("refreshes_total", result="ok") == 1 and n.get("refreshes_total", result="failed") == 0 and n.get("approvals_waiting") == 0
    auth.stop()
    s.cli("credential", "set", "cc", "client_secret=-", stdin="canary-fault-3")
    assert s.request().status in (502, 503)
    wait(lambda: numbers(s).get("refreshes_total", result="failed") == 1, 10, "a failure")
    s.cli("credential", "add", "plain", "--type", "bearer", "--host", "asks.test", "token=-", stdin="canary-metrics-1")
    s.cli("rule", "add", "careful", "--type", "s3", "deletes=ask")
    asked = Asked(s, method="DELETE", target="/b/1", host="asks.test", wire=None)
    wait(lambda: numbers(s).get("approvals_waiting") == 1, 10, "a question")
    s.cli("approval", "deny", json.loads(s.cli("approval", "list", "--json").stdout)[0]["id"])
    assert asked.status() == 403
    wait(lambda: numbers(s).get("approvals_waiting") == 0, 10)


def test_who(t):
    """the store's owner and root; others with a token of the scope metrics; no host, path or secret is in it; nothing of it at the proxy's port"""
    s, up = world(t)
    canary = s.request(target="/canary-path?canary-query", host="canary-host.test", wire=None)
    assert canary.status == 403
    ended(s, 1)
    text = fetch(s)[2]
    assert "canary" not in text and "api.test" not in text
    token = s.cli("token", "add", "prometheus", "--scope", "metrics").stdout.strip()
    other = s.cli("token", "add", "reader", "--scope", "read", "--scope", "write").stdout.strip()
    if os.getuid() == 0:
        s.home.chmod(0o711)
        if os.environ.get("TEST_TMP"):          # the folder of all tests: another user passes through it to this one's
            s.dir.parent.chmod(0o711)
        assert as_user(1234, lambda: fetch(s)[0]) == 403
        assert as_user(1234, lambda: fetch(s, Authorization="Bearer " + other)[0]) == 403
        assert as_user(1234, lambda: fetch(s, Authorization="Bearer sp_api_" + "x" * 43)[0]) == 403
        assert as_user(1234, lambda: fetch(s, Authorization="Bearer " + token)[0]) == 200
        s.home.chmod(0o700)
    assert fetch(s, method="POST")[0] == 405
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20 * sallyport.SLOW)
    c.request("GET", "/metrics", headers={"Authorization": "Bearer " + token})
    assert c.getresponse().status == 403, "the proxy's port"
    a = Admin(t, s)
    assert a.raw("GET", "/metrics")[0] == 401 and a.raw("GET", "/metrics", Authorization="Bearer " + other)[0] == 403
    status, headers, text = a.raw("GET", "/metrics", Authorization="Bearer " + token)
    assert status == 200 and Numbers(text).get("requests_total", decision="deny") >= 1
    assert a.raw("GET", "/api/v1/credentials", Authorization="Bearer " + token)[0] == 403
    s.cli("token", "remove", "prometheus")
    assert a.raw("GET", "/metrics", Authorization="Bearer " + token)[0] == 401


def test_names(t):
    """Prometheus' parser reads back whatever a name holds, and what is beyond the room for names as other"""
    s = t.bare()
    script = s.dir / "names.lua"
    script.write_text(r"""
      local metrics, name = require "metrics", 'a"b\\c\nd{e="f"} 1\ng'
      local row = { sum = 5 }
      for i = 0, 23 do row[i] = i end
      -- cells of no name are 256 bytes: a key, a kind, two names of 72, twelve counters; the first three are what had no room
      local beyond = ("\0"):rep(160) .. string.pack("=" .. ("I8"):rep(12), 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0)
      local host = { meters = function() return beyond .. ("\0"):rep(3 * 256 + 3 * 25 * 8), 1 << 30 end, beats = function() return "", 32 end }
      local read = metrics.read(host)
      read.requests[#read.requests + 1] = { agent = name, credential = "", refused = { [0] = 0, 0, 0, 0, 2, 0 }, allowed = { [0] = 1, 0, 0, 0, 0, 0 } }
      read.took, read.codes = { row, row, row }, { [name] = 4 }
      io.write(metrics.text(read, { version = "1" }))
    """)
    n = Numbers(s.cli("lua", str(script)).stdout)
    name = 'a"b\\c\nd{e="f"} 1\ng'
    assert n.get("requests_total", agent="other", credential="other", decision="allow", status="2xx") == 7 and n.get("requests_total") == 10
    assert n.get("requests_total", agent=name, decision="deny", status="4xx") == 2 and n.get("requests_total", agent=name, status="none") == 1 and n.get("errors_total", code=name) == 4
    assert n.get("own_seconds_count") == sum(range(24)) and n.get("own_seconds_bucket", le="0.004") == 0 + 1 + 2


def health(s):
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20 * sallyport.SLOW)
    c.request("GET", "/healthz")
    r = c.getresponse()
    return r.status, r.read().decode()


def test_health(t):
    """/healthz: ready, or not with the reason, to anybody and nothing more (each reason: unit/metrics_test)"""
    s, up = t.proxy(workers=2)
    assert health(s) == (200, "ok\n")
    pid = s.worker_pids()[0]
    script = s.dir / "damage.lua"
    script.write_text('local db = require "cli.db"\ndb.open { home = %s }\nlocal r = db.peek("meta", "ca", "ca")\nlocal plain = db.plain(r)\nplain.pem = nil\n'
                      'db.change(function() return { { op = "put", db = "meta", key = "ca", plain = plain, version = r.version } } end)\n' % json.dumps(str(s.home)))
    s.cli("lua", str(script))
    status, text = health(s)
    assert (status, text) == (503, "ca_unavailable\n"), (status, text)
    assert pid in s.worker_pids()
    s.set_clock(-20 * 365 * 86400)
    assert health(s) == (503, "ca_unavailable\nclock_unset\n")


def test_top(t):
    """top: a screen of 80 columns and 24 lines with what happened; --once --json; without a server it says so; names cannot steer the terminal"""
    s, up = world(t)
    stop = threading.Event()

    def load():
        while not stop.is_set():
            s.request()
            time.sleep(0.02)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        ended(s, 3)
        o = json.loads(s.cli("top", "--once", "--json").stdout)
        text = s.cli("top", "--once").stdout
    finally:
        stop.set()
        thread.join()
    assert o["requests"] >= 3 and o["requests_per_second"] > 0 and o["ready"] == o["workers"] == 1 and o["busiest"][0]["credential"] == "one", o
    assert o["total"]["p50"] >= 1 and o["total"]["p50"] <= o["total"]["p99"] and o["own"]["p50"] >= 1 and o["errors"] == {}
    lines = text.split("\n")
    assert len(lines) <= 24 and all(len(x) <= 80 for x in lines), text
    assert re.search(r"^requests +\d+\.\d/s", text, re.M) and re.search(r"^\S+ +one +\d", text, re.M), text
    p = subprocess.Popen([t.binary, "--home", s.home, "top", "--json"], stdout=subprocess.PIPE, text=True)
    assert json.loads(p.stdout.readline())["version"] and p.poll() is None
    p.send_signal(signal.SIGINT)
    assert p.wait(10 * sallyport.SLOW) != 0
    s.stop()
    r = s.cli("top", "--once", check=False)
    assert r.returncode == 1 and "no server runs here" in r.stderr, r.stderr
