"""The issue's "Speed and memory": Sallyport beside HAProxy and nginx as TLS-to-TLS reverse proxies that add a header.

tests/bench/bench.py [--rounds N] [--seconds S] [--against BINARY] [WORD…]    only the parts whose name has one of the words

--against: another build of sallyport takes part in every round, and each row of `throughput` and `instructions` says new / old.

Each proxy has one worker, pinned to core 0; nginx as upstream and the load are on core 1. Rounds are interleaved:
each does every case with every peer, and a figure is the median of its rounds. CPU is the proxy's own, user and
system, from /proc. Ratios are within this run: absolute figures say little about another machine.

What differs by a few µs (`rules`) is taken in 200 short windows a round, those with and without it in turn, of CPU in ns;
a figure is the mean of the cheapest twentieth: whoever else is on the machine makes windows dearer, never cheaper.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import sallyport  # noqa: E402

LOAD, TICK = ROOT / "build/load", os.sysconf("SC_CLK_TCK")
PROXY_CORE, OTHER_CORE = "0", "1"
SECRET = "bench-secret-0123456789"

UPSTREAM = """
daemon off; worker_processes 1; pid {d}/up.pid; error_log {d}/up.err error; {user}
worker_rlimit_nofile 20000; events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600; client_max_body_size 0; client_body_buffer_size 128k;
  client_body_temp_path {d}/b1; proxy_temp_path {d}/b2; fastcgi_temp_path {d}/b3; uwsgi_temp_path {d}/b4; scgi_temp_path {d}/b5;
  sendfile on; tcp_nopush on; open_file_cache max=16; ssl_session_cache shared:s:4m;
  server {{
    listen 127.0.0.1:{up} ssl backlog=4096; ssl_certificate {certs}/ok.pem; ssl_certificate_key {certs}/ok.pem; root {d}/www;
    error_page 405 =200 $uri; location = /drop {{ return 204; }}
    location = /sink {{ proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_pass http://sink; }}      # answers when the whole body is there
  }}
  upstream sink {{ server 127.0.0.1:{sink}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{sink}; return 204; }}
}}
"""
NGINX = """
daemon off; worker_processes 1; pid {d}/px.pid; error_log {d}/px.err error; {user}
worker_rlimit_nofile 20000; events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600; client_max_body_size 0; client_body_buffer_size 128k;
  client_body_temp_path {d}/p1; proxy_temp_path {d}/p2; fastcgi_temp_path {d}/p3; uwsgi_temp_path {d}/p4; scgi_temp_path {d}/p5;
  ssl_session_cache shared:s:4m; proxy_request_buffering off; proxy_max_temp_file_size 0;
  upstream up {{ server 127.0.0.1:{up}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{px} ssl backlog=4096; ssl_certificate {certs}/ok.pem; ssl_certificate_key {certs}/ok.pem;
    location / {{ proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host www.test;
      proxy_set_header Authorization "Bearer {secret}"; proxy_ssl_session_reuse on; proxy_ssl_verify on; proxy_ssl_name www.test;
      proxy_ssl_server_name on; proxy_ssl_trusted_certificate {certs}/root.pem; }}
  }}
}}
"""
HAPROXY_HEAD = """
global
  nbthread 1
  maxconn 8192
  tune.ssl.cachesize 20000
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  http-reuse always
"""
HAPROXY = HAPROXY_HEAD + """frontend f
  bind 127.0.0.1:{px} ssl crt {certs}/ok.pem
  default_backend b
backend b
  http-request set-header Authorization "Bearer {secret}"
  server s 127.0.0.1:{up} ssl verify required ca-file {certs}/root.pem sni str(www.test) verifyhost www.test
"""


def children(pid):
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        for task in pathlib.Path(f"/proc/{p}/task").glob("*/children"):
            try:
                todo += map(int, task.read_text().split())
            except OSError:
                pass
    return out


def cpu(pid):
    """Seconds of user and system time of a process and its children, those that have ended included."""
    total = 0
    for p in children(pid):
        f = pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, f[11:13])) + (sum(map(int, f[13:15])) if p == pid else 0)
    return total / TICK


def resident(pid):
    """MB, counting a page shared by several processes once (Pss)."""
    total = 0
    for p in children(pid):
        total += int(re.search(r"Pss:\s+([0-9]+)", pathlib.Path(f"/proc/{p}/smaps_rollup").read_text())[1])
    return total / 1024


def pinned(core, argv, **options):
    return subprocess.Popen(["taskset", "-c", core, *map(str, argv)], stdin=subprocess.DEVNULL, **options)


class Bench:
    def __init__(self, against=None):
        self.against = against
        self.d = pathlib.Path(tempfile.mkdtemp(prefix="sallyport-bench-"))
        self.certs = sallyport.certs()
        self.quiet = open(self.d / "out", "ab")
        self.processes, self.peers = [], {}
        (self.d / "www").mkdir()
        (self.d / "www/1k").write_bytes(b"x" * 1024)
        (self.d / "www/64k").write_bytes(b"x" * 65536)
        with open(self.d / "www/big", "wb") as f:
            f.truncate(256 << 20)
        with open(self.d / "www/giant", "wb") as f:
            f.truncate(1 << 30)
        self.up = free_port()
        user = "user root;" if os.getuid() == 0 else ""
        self.fill = dict(d=self.d, certs=self.certs, up=self.up, sink=free_port(), user=user, secret=SECRET)
        self.conf("up.conf", UPSTREAM)
        self.start(OTHER_CORE, ["nginx", "-e", self.d / "up.err", "-c", self.d / "up.conf"], self.up)

    def conf(self, name, text, **more):
        (self.d / name).write_text(text.format(**{**self.fill, **more}))
        return self.d / name

    def start(self, core, argv, port):
        p = pinned(core, argv, stdout=self.quiet, stderr=self.quiet)
        self.processes.append(p)
        wait_port(port, p)
        return p

    def add_peers(self):
        self.peers["direct"] = (None, ["-t", f"127.0.0.1:{self.up}"])
        self.s = self.sallyport()
        self.peers["sallyport"] = (self.s.process.pid, self.through(self.s))
        if self.against:
            old = self.sallyport(binary=self.against)
            self.peers["before"] = (old.process.pid, self.through(old))
        port = free_port()
        p = self.start(PROXY_CORE, ["haproxy", "-f", self.conf("ha.cfg", HAPROXY, px=port)], port)
        self.peers["haproxy"] = (p.pid, ["-t", f"127.0.0.1:{port}"])
        port = free_port()
        p = self.start(PROXY_CORE, ["nginx", "-e", self.d / "px.err", "-c", self.conf("px.conf", NGINX, px=port)], port)
        self.peers["nginx"] = (p.pid, ["-t", f"127.0.0.1:{port}"])

    def sallyport(self, workers=1, before=None, binary=None, wrap=()):
        s = sallyport.Sallyport(binary or ROOT / "build/sallyport", workers)
        s.wrap = [*wrap]
        s.init()
        s.credential({"name": "www", "type": "bearer", "host": "www.test", "secrets": {"token": SECRET}})
        s.agent()
        if before:
            before(s)
        self.serve(s)
        self.processes.append(s.process)
        return s

    def serve(self, s):
        s.serve("--upstream-ca", self.certs / "root.pem", "--connect-to", f"www.test:443:127.0.0.1:{self.up}",
                "--connect-to", f"aws.test:443:127.0.0.1:{self.up}", timeout=60 if s.wrap else 15)
        for p in children(s.process.pid) if not s.wrap else []:     # instructions are the same on any core
            subprocess.run(["taskset", "-a", "-p", "-c", PROXY_CORE, str(p)], stdout=subprocess.DEVNULL, check=True)

    def through(self, s):
        return ["-x", f"127.0.0.1:{s.port}", "-u", s.tokens["a"], "-A", s.ca]

    def load(self, to, path, *flags, pid=None):
        """One run -> its figures, and the proxy's CPU per request in µs."""
        ca = [] if "-A" in to else ["-A", self.certs / "root.pem"]
        before = cpu(pid) if pid else 0
        r = subprocess.run(["taskset", "-c", OTHER_CORE, LOAD, *map(str, [*to, *ca, "-h", "www.test", *flags, path])],
                           capture_output=True, text=True)
        if r.returncode:
            raise SystemExit(f"bench: load ended with {r.returncode}: {r.stderr or r.stdout} ({' '.join(map(str, [*to, *flags, path]))})")
        figures = json.loads(r.stdout)
        if figures["refused"] > figures["requests"] / 100:      # the row is of refusals, then
            raise SystemExit(f"bench: {figures['refused']} of {figures['requests']} refused: {figures['why']} ({' '.join(map(str, [*to[:2], *flags, path]))})")
        if figures["failed"] or figures["refused"]:
            print(f"  ({' '.join(map(str, [*to[:2], *flags, path]))}: {figures['failed']} failed, {figures['refused']} refused: {figures['why']})")
        spent = cpu(pid) - before if pid else 0
        figures["cpu"] = spent / max(1, figures["requests"]) * 1e6
        figures["cpu_mb"] = spent / max(1e-9, figures["mb"]) * 1e3
        return figures

    def stop(self):
        for p in self.processes:
            p.terminate()
        for p in self.processes:
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
        shutil.rmtree(self.d, ignore_errors=True)


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, process):
    import socket
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"bench: {process.args} ended with {process.returncode}")
            time.sleep(0.02)
    raise SystemExit(f"bench: nothing listens on {port}")


CASES = [   # name, path, load's flags, unit of CPU
    ("kept alive, 1 connection", "/1k", ["-c", 1], "cpu"),
    ("kept alive, 32 connections", "/1k", ["-c", 32], "cpu"),
    ("new connection, full handshake", "/1k", ["-c", 8, "-n"], "cpu"),
    ("new connection, resumed", "/1k", ["-c", 8, "-n", "-r"], "cpu"),
    ("download of 256 MiB", "/big", ["-c", 1, "-k", 2, "-d", 60], "cpu_mb"),
    ("uploads of 64 KiB", "/sink", ["-c", 8, "-b", 65536], "cpu"),
]


def throughput(b, rounds, seconds):
    b.add_peers()
    got = {}
    for r in range(rounds):
        for name, path, flags, _ in CASES:
            for peer, (pid, to) in b.peers.items():
                if r == 0:                                  # one short run to fill pools and caches
                    b.load(to, path, *flags, *([] if "-k" in flags else ["-d", 0.3]))
                timed = flags if "-k" in flags else [*flags, "-d", seconds]
                got.setdefault((name, peer), []).append(b.load(to, path, *timed, pid=pid))
    med = {k: {f: statistics.median(x[f] for x in v) for f in ("rps", "mb", "p50", "p99", "cpu", "cpu_mb", "resumed", "handshakes", "seconds")}
           for k, v in got.items()}
    for name, _, _, unit in CASES:
        print(f"\n{name}\n  {'':10} {'requests/s':>11} {'MB/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU ' + ('µs/req' if unit == 'cpu' else 'ms/MB'):>11}")
        for peer in b.peers:
            m = med[name, peer]
            print(f"  {peer:10} {m['rps']:11.1f} {m['mb'] / m['seconds']:8.1f} {m['p50']:8.3f} {m['p99']:8.3f} {m[unit]:11.2f}"
                  + (f"   {m['resumed'] / max(1, m['handshakes']):.1%} resumed" if "resumed" in name else ""))
        if b.against:      # round by round, so that what the machine did meanwhile is in both
            each = [new[unit] / old[unit] for new, old in zip(got[name, "sallyport"], got[name, "before"])]
            print(f"  CPU, new / old: {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})")
    ours, theirs = (lambda n, f: med[n, "sallyport"][f]), (lambda n, f: med[n, "haproxy"][f])
    target("CPU per request, 32 kept alive, of HAProxy's", ours(CASES[1][0], "cpu") / theirs(CASES[1][0], "cpu"), 1.0)
    target("p50, 1 kept alive, of HAProxy's", ours(CASES[0][0], "p50") / theirs(CASES[0][0], "p50"), 1.1)
    target("CPU, full handshake, of HAProxy's", ours(CASES[2][0], "cpu") / theirs(CASES[2][0], "cpu"), 3.0)
    target("CPU, resumed, of our own full one", ours(CASES[3][0], "cpu") / ours(CASES[2][0], "cpu"), 0.2)
    target("CPU per MB, download, of HAProxy's", ours(CASES[4][0], "cpu_mb") / theirs(CASES[4][0], "cpu_mb"), 1.0)
    target("CPU, uploads of 64 KiB, of HAProxy's", ours(CASES[5][0], "cpu") / theirs(CASES[5][0], "cpu"), 0.9)
    print("\nresident after all that, MB: " + ", ".join(f"{peer} {resident(pid):.1f}" for peer, (pid, _) in b.peers.items() if pid))


def target(what, value, bound, unit="", least=False):
    met = value >= bound if least else value <= bound
    print(f"  {'met   ' if met else 'MISSED'} {what}: {value:.3g}{unit} (to reach: {'at least' if least else 'at most'} {bound:g}{unit})", flush=True)


def memory(b, rounds, seconds):
    print("\nmemory")
    s = b.sallyport()
    worker = s.worker_pids()[0]
    b.load(b.through(s), "/1k", "-c", 1, "-k", 1)
    target("an idle worker, resident", rss(worker), 6, " MB")
    p = subprocess.Popen([LOAD, *map(str, [*b.through(s), "-h", "www.test", "-c", 1000, "-i", "-b", 65536, "-d", 120, "/64k"])],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    figures = json.loads(p.stdout.readline() or "{}")
    if not figures:
        raise SystemExit("bench: the idle tunnels could not be opened")
    time.sleep(2)
    target(f"{figures['requests']} idle tunnels after 64 KB both ways, whole worker", rss(worker), 20, " MB")
    p.stdin.close()
    p.wait()
    time.sleep(1)
    s = b.sallyport(before=lambda s: s.cli("set", "agent-tls", "openssl"))
    p = subprocess.Popen([LOAD, *map(str, [*b.through(s), "-h", "www.test", "-c", 1000, "-i", "-b", 65536, "-d", 120, "/64k"])],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    figures = json.loads(p.stdout.readline())
    time.sleep(2)
    print(f"         {figures['requests']} such with agent-tls openssl, whole worker: {rss(s.worker_pids()[0]):.1f} MB")
    p.stdin.close()
    p.wait()
    s.stop()
    for what, path, flags in [("down", "/giant", []), ("up", "/drop", ["-b", 1 << 30])]:
        s = b.sallyport()
        worker = s.worker_pids()[0]
        b.load(b.through(s), "/64k", "-c", 1, "-k", 4)
        b.load(b.through(s), "/drop", "-c", 1, "-k", 4, "-b", 65536)
        before, peak, stop = rss(worker), [0], threading.Event()

        def watch():
            while not stop.is_set():
                peak[0] = max(peak[0], rss(worker))
                time.sleep(0.02)
        thread = threading.Thread(target=watch)
        thread.start()
        b.load(b.through(s), path, "-c", 1, "-k", 1, "-d", 120, *flags)
        stop.set()
        thread.join()
        target(f"a body of 1 GiB {what} adds", peak[0] - before, 1, " MB")
        s.stop()


CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get_page","arguments":{"id":"01HZX3","limit":20}}}'
MCP = """
daemon off; worker_processes 1; pid {d}/mcp.pid; error_log {d}/mcp.err error; {user}
worker_rlimit_nofile 20000; events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600;
  client_body_temp_path {d}/m1; proxy_temp_path {d}/m2; fastcgi_temp_path {d}/m3; uwsgi_temp_path {d}/m4; scgi_temp_path {d}/m5;
  server {{ listen 127.0.0.1:{mcp}; location / {{ default_type application/json;
    return 200 '{{"jsonrpc":"2.0","id":7,"result":{{"content":[{{"type":"text","text":"did get_page"}}]}}}}'; }} }}
}}
"""


def call(way, body=CALL, kind=b"application/json"):
    """A call of a tool as its bytes. way: pid, port, the head's first lines"""
    return way[2] + b"Content-Type: %s\r\nAccept: application/json, text/event-stream\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)) + body


def calls(way, count, request=None, ends=b"}]}}"):
    """So many of the request, one after the other on one connection, each with an answer that ends so."""
    with connected(way[1]) as c:
        repeat(c, count, request or call(way), ends)


def connected(port):
    import socket
    c = socket.create_connection(("127.0.0.1", port))
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return c


def repeat(c, count, request, ends):
    for _ in range(count):
        c.sendall(request)
        data = b""
        while not data.endswith(ends):
            more = c.recv(65536)
            assert more and data[:12] in (b"", b"HTTP/1.1 200"), data
            data += more


def windows(ways, rounds, size=50):
    """µs of CPU a request in each of { name: (pid, connection, request, how its answer ends) } (see the head of this file). A window is long
    enough for what comes around, such as the collector's young cycles (one in about 20 requests)."""
    cost, cores = {name: [] for name in ways}, os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(OTHER_CORE)})
    for _, *way in ways.values():
        repeat(way[0], 300, *way[1:])                       # fills pools and caches
    for _ in range(200 * rounds):
        for name, (pid, c, request, ends) in ways.items():
            clock = ~pid << 3 | 2                           # a process's clock of the scheduler: linux/posix-timers.h
            before = time.clock_gettime_ns(clock)
            repeat(c, size, request, ends)
            cost[name].append((time.clock_gettime_ns(clock) - before) / size / 1e3)
    os.sched_setaffinity(0, cores)
    return {name: statistics.mean(sorted(each)[:10 * rounds]) for name, each in cost.items()}


def gateway(b, wrap=(), before=None):
    """A proxy with a door before an MCP server -> it, { "door" | "proxy": the way of `calls` }, what its key is"""
    port = free_port()
    s = sallyport.Sallyport(ROOT / "build/sallyport", 1)
    s.wrap = [*wrap]
    s.init()
    s.agent()
    s.cli("credential", "add", "tools", "--type", "bearer", "--host", "127.0.0.1", "--port", str(b.mcp), "--plain-http", "--address", "127.0.0.0/8", "token=-", stdin=SECRET)
    s.cli("set", "public-url", f"http://127.0.0.1:{port}")
    s.cli("tenant", "add", "acme")
    s.cli("gateway", "add", "tools", f"http://127.0.0.1:{b.mcp}/mcp", "--credential", "tools", "--read", "get_*")
    s.cli("gateway", "scope", "tools", "entities:write", "--tool", "create_*", "--says", "Create entities")
    key = s.cli("key", "add", "bench", "--tenant", "acme", "--role", "admin").stdout.strip()
    if before:
        before(s)
    s.serve("--gateway", f"127.0.0.1:{port}", timeout=280 if wrap else 15)
    b.processes.append(s.process)
    for p in children(s.process.pid) if not wrap else []:       # instructions are the same on any core
        subprocess.run(["taskset", "-a", "-p", "-c", PROXY_CORE, str(p)], stdout=subprocess.DEVNULL, check=True)
    nice = {int(pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[16]): p for p in s.worker_pids()}   # the door's is nicer
    return s, {"door": (nice[max(nice)], port, f"POST /mcp/tools HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n".encode()),
               "proxy": (nice[min(nice)], s.port, f"POST http://127.0.0.1:{b.mcp}/mcp HTTP/1.1\r\nHost: 127.0.0.1:{b.mcp}\r\n"
                         f"Proxy-Authorization: Bearer {s.tokens['a']}\r\n".encode())}


def worker_counted(b, name, n, tries=5):
    """Instructions of a worker's whole life with so many calls. On a busy machine valgrind makes it slow enough to be killed."""
    out = b.d / "callgrind"
    s, these = gateway(b, ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}.%p"])
    try:
        calls(these[name], n)
        s.stop()
        return int(re.search(r"^(?:totals|summary): ([0-9]+)", pathlib.Path(f"{out}.{these[name][0]}").read_text(), re.M)[1])
    except (AssertionError, OSError):
        s.stop()
        if tries == 1:
            raise
        return worker_counted(b, name, n, tries - 1)


def door(b, rounds, seconds):
    """A call of a tool through the door beside the same one through the outbound proxy."""
    print("\ntools/call through the door")
    b.mcp = free_port()
    b.start(OTHER_CORE, ["nginx", "-e", b.d / "mcp.err", "-c", b.conf("mcp.conf", MCP, mcp=b.mcp)], b.mcp)
    s, ways = gateway(b)
    cost = {"door": [], "proxy": []}
    for r in range(rounds + 1):
        for name, way in ways.items():
            before = cpu(way[0])
            calls(way, 500 if r == 0 else 20000)
            if r > 0:
                cost[name].append((cpu(way[0]) - before) / 20000 * 1e6)
    s.stop()
    med = {k: statistics.median(v) for k, v in cost.items()}
    print(f"  door {med['door']:.1f} µs of CPU a call, proxy {med['proxy']:.1f}")
    target("CPU of a call through the door, of the proxy's", med["door"] / med["proxy"], 1.6)
    if not shutil.which("valgrind"):
        return print("  instructions skipped: valgrind is not installed")
    each = {name: (worker_counted(b, name, 700) - worker_counted(b, name, 200)) / 500 for name in ways}
    print(f"  door {each['door']:,.0f} instructions a call, proxy {each['proxy']:,.0f}")
    target("instructions of a call through the door, of the proxy's", each["door"] / each["proxy"], 1.6)


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


def aws(host, payload, size=0):
    """load's flags for what an SDK sends; a body is always framed in signed chunks, for the figures to differ in our work alone"""
    fields = ["x-amz-date: 20260101T000000Z", f"x-amz-content-sha256: {payload}",
              "Authorization: AWS4-HMAC-SHA256 Credential=AKIAPLACEHOLDER00000/20260101/us-east-1/s3/aws4_request, "
              "SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=" + "0" * 64]
    fields += ["Content-Encoding: aws-chunked", f"x-amz-decoded-content-length: {size}"] if size else []
    return ["-h", host, *(["-b", size, "-s", 65536] if size else []), *(w for f in fields for w in ("-H", f))]


ENGINES = """
daemon off; worker_processes 1; pid {d}/e.pid; error_log {d}/e.err error; {user}
worker_rlimit_nofile 20000; events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600; root {d}/www; error_page 405 =200 $uri; ssl_protocols TLSv1.2 TLSv1.3;
  ssl_certificate {certs}/ok.pem; ssl_certificate_key {certs}/ok.pem; client_body_temp_path {d}/e1; proxy_temp_path {d}/e2;
  fastcgi_temp_path {d}/e3; uwsgi_temp_path {d}/e4; scgi_temp_path {d}/e5; http2_max_concurrent_streams 128;
  server {{ listen 127.0.0.1:{kept} ssl backlog=4096; }}
  server {{ listen 127.0.0.1:{fresh} ssl backlog=4096; keepalive_timeout 0; ssl_session_tickets off; ssl_session_cache off; }}
  server {{ listen 127.0.0.1:{again} ssl backlog=4096; keepalive_timeout 0; ssl_session_cache shared:s:4m; }}
  server {{ listen 127.0.0.1:{h2} ssl http2 backlog=4096; location = /rpc {{ default_type application/grpc; return 200 "0123456789abcdef"; }} }}
}}
"""
RELAY = r"""
import socket, sys, threading
to, token = int(sys.argv[2]), sys.argv[3]
def copy(a, b):
    try:
        while data := a.recv(1 << 18):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve(a):
    b = socket.create_connection(("127.0.0.1", to))
    for s in (a, b):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if token:
        b.sendall(f"CONNECT www.test:443 HTTP/1.1\r\nHost: www.test:443\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode())
        while not (head := b.recv(1000)).endswith(b"\r\n\r\n"):
            assert head
    threading.Thread(target=copy, args=(b, a), daemon=True).start()
    copy(a, b)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def engines(b, rounds, seconds):
    """TLS by the system's OpenSSL on both sides, beside BearSSL and HAProxy; and HTTP/2, with h2load through a relay that opens the tunnel."""
    print("\nengines of TLS, and HTTP/2")
    ports = {name: free_port() for name in ("kept", "fresh", "again", "h2")}
    b.start(OTHER_CORE, ["nginx", "-e", b.d / "e.err", "-c", b.conf("e.conf", ENGINES, **ports)], ports["h2"])
    ports["h1"] = ports["h2"]
    fronts = {name: free_port() for name in ports}
    text = HAPROXY_HEAD + "".join(
        f"frontend f{name}\n  bind 127.0.0.1:{fronts[name]} ssl crt {{certs}}/ok.pem alpn h2,http/1.1\n  default_backend b{name}\nbackend b{name}\n"
        f"  http-request set-header Authorization \"Bearer {{secret}}\"\n  server s 127.0.0.1:{port} ssl verify required ca-file {{certs}}/root.pem "
        f"sni str(www.test) verifyhost www.test{' alpn h2' if name == 'h2' else ''}\n" for name, port in ports.items())
    ha = b.start(PROXY_CORE, ["haproxy", "-f", b.conf("e.ha", text)], fronts["h2"]).pid
    kinds = {"OpenSSL": (("agent-tls", "openssl"), ("upstream-tls", "openssl")), "BearSSL": (("upstream-tls", "bearssl"),)}

    def ours(name, kind):
        """-> a proxy before one of those servers"""
        was, b.up = b.up, ports[name]
        s = b.sallyport(before=lambda s: [s.cli("set", *pair) for pair in (*kinds[kind], *([("upstream-http", "1")] if name == "h1" else []))])
        b.up = was
        return s
    made = {(name, kind): ours(name, kind) for name in ports for kind in kinds}

    def way(name, kind):
        return (ha, ["-t", f"127.0.0.1:{fronts[name]}"]) if kind == "HAProxy" else (made[name, kind].process.pid, b.through(made[name, kind]))
    cases = [("full handshake", "kept", ["-c", 8, "-n"], 1.1), ("resumed handshake", "kept", ["-c", 8, "-n", "-r"], 1.1),
             ("unresumed upstream connection", "fresh", ["-c", 8], 1.2), ("resumed upstream connection", "again", ["-c", 8], 1.1)]
    cost = {}
    for r in range(rounds + 1):                             # the first fills pools and caches
        for what, name, flags, _ in cases:
            for kind in (*kinds, "HAProxy"):
                pid, to = way(name, kind)
                cost.setdefault((what, kind), []).append(b.load(to, "/1k", *flags, "-d", seconds if r else 1, pid=pid)["cpu"])
    relays = {}
    for name in ("h2", "h1"):
        for kind in (*kinds, "HAProxy"):
            port, (pid, to) = free_port(), way(name, kind)
            b.start(OTHER_CORE, [sys.executable, "-c", RELAY, port, to[1].split(":")[1], to[3] if kind != "HAProxy" else ""], port)
            relays[name, kind] = pid, port

    def h2load(name, kind, path, n, *flags):
        """-> µs of the proxy's CPU a request, µs that half of the requests took at most"""
        pid, port = relays[name, kind]
        before = cpu(pid)
        out = subprocess.run(["taskset", "-c", OTHER_CORE, "h2load", "-c1", f"-n{n}", f"--log-file={b.d}/h2.log", f"--connect-to=127.0.0.1:{port}", *flags, f"https://www.test{path}"],
                             capture_output=True, text=True).stdout
        assert f"status codes: {n} 2xx" in out, out
        took = [int(line.split()[2]) for line in (b.d / "h2.log").read_text().splitlines()]
        (b.d / "h2.log").unlink()
        return (cpu(pid) - before) / n * 1e6, statistics.median(took)
    (b.d / "message").write_bytes(b"\0\0\0\0\x20" + b"m" * 32)
    rpc = ["-m1", f"-d{b.d}/message", "-Hcontent-type: application/grpc", "-Hte: trailers"]
    for r in range(rounds + 1):
        for name in ("h2", "h1"):
            for kind in (*kinds, "HAProxy"):
                cost.setdefault((name, kind), []).append(h2load(name, kind, "/1k", 20000 if r else 500, "-m32")[0])
        for kind in kinds:
            for flags in (rpc, ["--h1", *rpc[:3]]):
                cost.setdefault(("p50 " + flags[0], kind), []).append(h2load("h2", kind, "/rpc", 3000 if r else 200, *flags)[1])
    for what in dict.fromkeys(what for what, _ in cost):
        print(f"  {what:30}" + ", ".join(f"{kind} {statistics.median(v[1:]):8.1f}" for (w, kind), v in cost.items() if w == what) + " µs")

    def ratio(what, kind, other=None, of="HAProxy"):
        """Round by round: what the machine did is in both."""
        return statistics.median(x / y for x, y in list(zip(cost[what, kind], cost[other or what, of]))[1:])
    for what, _, _, bound in cases:
        target(f"CPU, {what}, OpenSSL, of HAProxy's", ratio(what, "OpenSSL"), bound)
    for kind in kinds:
        target(f"CPU, HTTP/2 both ways, 32 streams, {kind}, of HAProxy's", ratio("h2", kind), 1.25)
        target(f"CPU, HTTP/2 to HTTP/1, 32 streams, {kind}, of HAProxy's", ratio("h1", kind), 1.3)
        target(f"p50 of an exchange of gRPC's shape, {kind}, of the same over HTTP/1", ratio("p50 -m1", kind, "p50 --h1", kind), 1.2)
    for s in made.values():
        s.stop()
    for kind in kinds:
        each = []
        for alpn in ("http/1.1", "h2"):
            s = ours("h2", kind)
            pid = s.worker_pids()[0]
            warm = idle_connections(s, alpn, 4)
            before = resident(pid)
            held = idle_connections(s, alpn, 500)
            time.sleep(1)
            each.append((resident(pid) - before) / len(held) * 1024)
            for sock in warm + held:
                sock.close()
            s.stop()
        print(f"  an idle connection, {kind}: HTTP/1.1 {each[0]:.1f} KB, HTTP/2 {each[1]:.1f} KB")
        target(f"an idle HTTP/2 connection beyond one of HTTP/1.1, {kind}", each[1] - each[0], 20, " KB")


def idle_connections(s, alpn, n):
    """-> so many sockets in tunnels, each with one request behind it"""
    import socket
    import ssl
    context, held = ssl.create_default_context(cafile=s.ca), []
    context.set_alpn_protocols([alpn])
    for _ in range(n):
        sock = socket.create_connection(("127.0.0.1", s.port))
        sock.sendall(f"CONNECT www.test:443 HTTP/1.1\r\nHost: www.test:443\r\n{s.auth()}\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        tls = context.wrap_socket(sock, server_hostname="www.test")
        data = b""
        if alpn == "h2":
            head = b"\x82\x87\x04\x03/1k\x01\x08www.test"
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5) + bytes([0, 0, len(head), 1, 5, 0, 0, 0, 1]) + head)
        else:
            tls.sendall(b"GET /1k HTTP/1.1\r\nHost: www.test\r\n\r\n")
        while data.count(b"x") < 1024:
            more = tls.recv(65536)
            assert more, data
            data += more
        if alpn == "h2":
            tls.sendall(bytes(3) + b"\4\1" + bytes(4))
        held.append(tls)
    return held


def signing(b, rounds, seconds):
    """SigV4 beside bearer, chunk signing beside one SHA-256 pass: the same bytes to one upstream, through one server."""
    print("\nsigning")
    s = b.sallyport(before=lambda s: s.credential(
        {"name": "aws", "type": "aws_sigv4", "host": "aws.test", "fields": {"access_key_id": "AKIAREALKEY000000001",
         "region": "us-east-1", "service": "s3"}, "secrets": {"secret_access_key": "bench-aws-secret-0123456789"}}))
    worker, to, cost = s.worker_pids()[0], b.through(s), {}
    cases = [("GET of 1 KiB", "/1k", EMPTY, 0, ["-c", 32, "-d", seconds], "cpu"),
             ("PUT of 64 KiB", "/sink", CHUNKS, 65536, ["-c", 8, "-d", seconds], "cpu"),
             ("PUT of 256 MiB", "/sink", CHUNKS, 256 << 20, ["-c", 1, "-k", 2, "-d", 120], "cpu_mb")]
    kinds = [("bearer", "www.test", None), ("head signed", "aws.test", "UNSIGNED-PAYLOAD"), ("chunks signed", "aws.test", None)]
    peak = 0
    for r in range(rounds + 1):                             # the first fills pools and caches
        sha = subprocess.run(["taskset", "-c", PROXY_CORE, ROOT / "build/sha256", "256"], capture_output=True, text=True, check=True)
        cost.setdefault("sha", []).append(float(sha.stdout))
        for name, path, payload, size, flags, unit in cases:
            for kind, host, other in kinds if size else kinds[:2]:
                before, stop = rss(worker), threading.Event()
                highest = watch_rss(worker, stop)
                figures = b.load(to, path, *aws(host, payload if not size else other or payload, size), *flags, pid=s.process.pid)
                stop.set()
                cost.setdefault((name, kind), []).append(figures[unit])
                if r > 0 and size > 1 << 20 and kind == "chunks signed":
                    peak = max(peak, highest[0] - before)
    med = {k: statistics.median(v[1:]) for k, v in cost.items()}
    sha = med["sha"]
    for name, _, _, size, _, unit in cases:
        print(f"  {name:15}" + ", ".join(f"{kind} {med[name, kind]:8.2f}" for kind, _, _ in (kinds if size else kinds[:2])) +
              (" µs a request" if unit == "cpu" else " ms/MB"))
    print(f"  one SHA-256 pass of BearSSL {sha:.3f} ms/MB, {sha * 65.536:.1f} µs over 64 KiB")
    target("a signed GET, more than bearer", med["GET of 1 KiB", "head signed"] - med["GET of 1 KiB", "bearer"], 30, " µs")
    for name, pass_ in (("PUT of 64 KiB", sha * 65.536), ("PUT of 256 MiB", sha)):
        target(f"{name}, chunk signing, of one SHA-256 pass", (med[name, "chunks signed"] - med[name, "head signed"]) / pass_, 1.3)
    target("a PUT of 256 MiB in signed chunks adds", peak, 1, " MB")
    s.stop()


def watch_rss(pid, stop):
    """-> a list whose first member is the highest so far, until stop is set"""
    peak = [rss(pid)]

    def watch():
        while not stop.is_set():
            peak[0] = max(peak[0], rss(pid))
            time.sleep(0.02)
    threading.Thread(target=watch, daemon=True).start()
    return peak


def rss(pid):
    return int(re.search(r"VmRSS:\s+([0-9]+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def resumption(b, rounds, seconds):
    print("\nresumption with two workers")
    s = b.sallyport(workers=2)
    r = b.load(b.through(s), "/1k", "-c", 16, "-n", "-r", "-d", seconds)
    target("returning clients resumed", (r["resumed"] + 16) / r["handshakes"] * 100, 99, " %", least=True)   # each slot's first cannot
    s.stop()


def many(s, count):
    s.cli("lua", "--store", ROOT / "tests/bench/many.lua", count, timeout=120)


def deciding(b, rounds, seconds):
    print("\ndeciding with many credentials")
    few = b.sallyport(before=lambda s: many(s, 9))
    lots = b.sallyport(before=lambda s: many(s, 9999))
    for s in (few, lots):                                   # the index is there before it is timed
        b.load(b.through(s), "/1k", "-c", 32, "-d", 1)
    cost = {10: [], 10000: []}
    for _ in range(max(3, rounds)):
        for n, s in ((10, few), (10000, lots)):
            cost[n].append(b.load(b.through(s), "/1k", "-c", 32, "-d", seconds, pid=s.process.pid)["cpu"])
    target("CPU per request with 10,000, of that with 10", statistics.median(cost[10000]) / statistics.median(cost[10]), 1.2)
    print(f"  resident with 10,000: {rss(lots.worker_pids()[0]):.1f} MB a worker")
    times = []
    wire = lots.tunnel("www.test")
    lots.request(host="www.test", target="/1k", wire=wire)
    for i in range(5):
        lots.set_clock(0)
        host = f"new{i}.test"
        secret = lots.secret_file(SECRET)
        lots.cli("credential", "add", f"new{i}", "--type", "bearer", "--host", host, f"token=@{secret}")
        began, pause = time.monotonic(), 0
        while True:
            r = lots.request(host=host, target="/")
            if r.get("x-sallyport-error") != "host_not_allowed":
                break
        times.append((time.monotonic() - began) * 1e3)
        at = time.monotonic()
        lots.request(host="www.test", target="/1k", wire=wire)
        pause = max(pause, (time.monotonic() - at) * 1e3)
    target("one more credential in force after", statistics.median(times), 50, " ms")
    few.stop()
    lots.stop()


def arriving(b, rounds, seconds):
    """What an agent's first request costs where each of 10,000 credentials has a placeholder of its own for it"""
    print("\nan agent that comes")
    s = b.sallyport(before=lambda s: (s.cli("credential", "set", "www", "env=WWW_TOKEN"), many(s, 9999), [s.agent(f"new{i}") for i in range(5)]))
    worker = s.worker_pids()[0]
    b.load(b.through(s), "/1k", "-c", 1, "-k", 1)
    before, spent = rss(worker), cpu(worker)
    for i in range(5):
        assert s.request(host="www.test", target="/1k", auth=s.auth(None, f"new{i}")).status == 200
    target("CPU of its first request with 10,000 placeholders", (cpu(worker) - spent) / 5 * 1e3, 50, " ms")
    target("memory of its placeholders", (rss(worker) - before) / 5, 2, " MB")
    s.stop()


def searching(b, rounds, seconds):
    """What it costs to search the body of an answer for what was attached, and to seal a secret that it has."""
    print("\nsearching an answer")
    out = subprocess.run(["taskset", "-c", PROXY_CORE, ROOT / "build/scrub"], capture_output=True, text=True, check=True).stdout
    for body, secrets, ms in map(str.split, out.splitlines()):
        if body.startswith(("sealing", "opening")):
            body, old = body.split(",")
            target(f"{body} a token of {secrets} bytes, {old} old keys", float(ms), 20, " µs")
            continue
        what = f"{body}, {secrets} secret{'s' if secrets != '1' else ''}"
        if body in ("JSON", "random", "%-dense"):
            target(what, float(ms), 1.0 if secrets == "1" else 1.5, " ms/MB")
        else:                                               # nothing but escapes
            print(f"         {what}: {ms} ms/MB")


HEAD_RULE = """return { kind = "rule", api = 1, name = "head", title = "Reads the head", on_request = function(req, ctx)
  if req.method == "DELETE" or req.path:find("/admin", 1, true) or req.headers:get("x-unsafe") then return deny("not here") end
end }"""
TOOLS = [{"name": f"{'get' if i % 2 else 'drop'}_page_{i}", "description": "Does what its name says with a page, whose id it gets, and answers the page. " * 2,
          "inputSchema": {"type": "object", "properties": {"id": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["id"]}} for i in range(100)]
LIST = b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{}}'
PUSH = b"00770000000000000000000000000000000000000000 1111111111111111111111111111111111111111 refs/heads/agent/x\0 report-status0000PACK" + b"x" * 2000
RULES = """
daemon off; worker_processes 1; pid {d}/rules.pid; error_log {d}/rules.err error; {user}
worker_rlimit_nofile 20000; events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600; default_type application/json; client_body_buffer_size 128k;
  client_body_temp_path {d}/r1; proxy_temp_path {d}/r2; fastcgi_temp_path {d}/r3; uwsgi_temp_path {d}/r4; scgi_temp_path {d}/r5;
  server {{ listen 127.0.0.1:{mcp}; root {d}/www; error_page 405 =200 $uri; location /a.git/ {{ return 200 '{{"ok":[{{"a":[{{}}]}}]}}'; }} }}
}}
"""


def ruled(*given):
    """-> a function for `before`: a rule of each { name, flags… }, of a policy of the bench's own, or of one that is shipped"""
    def before(s):
        s.policy("head", HEAD_RULE)
        for name, *flags in given:
            s.cli("rule", "add", name, *flags)
    return before


def rules(b, rounds, seconds):
    """What a rule adds: one that reads the head, one of 50, one that reads a push's commands, one that filters a list of tools"""
    print("\ntraffic rules")
    cases = {"no rule": ruled(), "one rule": ruled(("r", "--type", "head")),
             "50, one matches": ruled(*((f"r{i}", "--type", "head", *(["--path", f"/v{i}", "--method", "POST"] if i % 2 else ["--host", f"h{i}.test"]))
                                        for i in range(49)), ("r", "--type", "head", "--path", "/1k"))}
    servers = {name: b.sallyport(before=before) for name, before in cases.items()}
    request = b"GET /1k HTTP/1.1\r\nHost: www.test\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n"
    cost = windows({name: (s.worker_pids()[0], idle_connections(s, "http/1.1", 1)[0], request, b"x" * 1024) for name, s in servers.items()}, rounds)
    for s in servers.values():
        s.stop()
    print("  µs of CPU a request: " + ", ".join(f"{name} {us:.1f}" for name, us in cost.items()))
    target("a rule that reads the head adds", cost["one rule"] - cost["no rule"], 4, " µs")
    target("50 rules of which one matches, of one", cost["50, one matches"] / cost["one rule"], 1.2)
    if shutil.which("valgrind"):
        each = {name: (counted(b, None, "/1k", ["-c", 1], 1500, before) - counted(b, None, "/1k", ["-c", 1], 500, before)) / 1000 for name, before in cases.items()}
        print("  instructions a request: " + ", ".join(f"{name} {n:,.0f}" for name, n in each.items()))
        target("50 rules of which one matches, of one, in instructions", each["50, one matches"] / each["one rule"], 1.2)
    b.mcp = free_port()
    (b.d / "www/mcp").write_text(json.dumps({"jsonrpc": "2.0", "id": 7, "result": {"tools": TOOLS, "_end": [[{"a": [{}]}]]}}))
    b.start(OTHER_CORE, ["nginx", "-e", b.d / "rules.err", "-c", b.conf("rules.conf", RULES, mcp=b.mcp)], b.mcp)
    for what, path, body, kind, flags in (
            ("a rule that reads pkt-line adds", b"/a.git/git-receive-pack", PUSH, b"application/x-git-receive-pack-request", ["--type", "git_branches", "refs=agent/*"]),
            ("a rule that filters a tools/list of 100 tools adds", b"/mcp", LIST, b"application/json", ["--type", "mcp_tools", "allow=get_*"])):
        ways, each = {}, []
        for name, before in (("no rule", None), ("with it", lambda s, flags=flags: s.cli("rule", "add", "r", *flags))):
            s, way = gateway(b, before=before)
            pid, port, head = way["proxy"]
            request = call((pid, port, head.replace(b"/mcp HTTP", path + b" HTTP")), body, kind)
            ways[name] = pid, connected(port), request, b"]}]]}}" if path == b"/mcp" else b"}]}]}"
            each.append(s)
        cost = windows(ways, rounds)
        for s in each:
            s.stop()
        print("  µs of CPU a request: " + ", ".join(f"{name} {us:.1f}" for name, us in cost.items()))
        target(what, cost["with it"] - cost["no rule"], 60, " µs")


def starting(b, rounds, seconds):
    print("\nstarting")
    times = []
    s = b.sallyport()
    for _ in range(max(5, rounds)):
        s.stop()
        began = time.monotonic()
        s.serve("--upstream-ca", b.certs / "root.pem", "--connect-to", f"www.test:443:127.0.0.1:{b.up}")
        assert s.request(host="www.test", target="/1k").status == 200
        times.append((time.monotonic() - began) * 1e3)
    s.stop()
    target("from start to the first proxied answer (client's handshake in Python included)", statistics.median(times), 50, " ms")


INSTRUCTIONS = [   # name, path, load's flags, requests of the shorter and the longer run
    ("kept alive", "/1k", ["-c", 1], 500, 1500),
    ("answer without a body", "/drop", ["-c", 1], 500, 1500),
    ("answer of 64 KiB", "/64k", ["-c", 1], 100, 300),
    ("full handshake and request", "/1k", ["-c", 1, "-n"], 20, 60),
    ("resumed and request", "/1k", ["-c", 1, "-n", "-r"], 50, 150),
    ("POST of 64 KiB", "/sink", ["-c", 1, "-b", 65536], 100, 300),
]


def counted(b, binary, path, flags, requests, before=None, tries=5):
    """User-mode instructions of a worker in its whole life, which ends after so many requests. A slow one may be killed, and has not told."""
    out = b.d / "callgrind"
    s = b.sallyport(binary=binary, before=before, wrap=["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}.%p"])
    while s.alive() and not s.worker_pids():
        time.sleep(0.05)
    worker = s.worker_pids()[0]
    figures = b.load(b.through(s), path, *flags, "-k", requests, "-d", 120)
    assert figures["requests"] == requests, figures
    s.stop()
    if tries > 1 and not pathlib.Path(f"{out}.{worker}").exists():
        return counted(b, binary, path, flags, requests, before, tries - 1)
    text = pathlib.Path(f"{out}.{worker}").read_text()
    return int(re.search(r"^(?:totals|summary): ([0-9]+)", text, re.M)[1])


def instructions(b, rounds, seconds):
    """Two runs of different length: their difference has no start and no end in it. Instructions do not scatter."""
    print("\nuser-mode instructions a request")
    if not shutil.which("valgrind"):
        return print("  skipped: valgrind is not installed")
    for name, path, flags, few, more in INSTRUCTIONS:
        each = [(counted(b, x, path, flags, more) - counted(b, x, path, flags, few)) / (more - few)
                for x in [None] + ([b.against] if b.against else [])]
        print(f"  {name:28}" + ", ".join(f"{n:12,.0f}" for n in each) + (f"   new / old {each[0] / each[1]:.3f}" if b.against else ""), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=3)
    p.add_argument("--against", type=pathlib.Path)
    p.add_argument("words", nargs="*", help="throughput, instructions, engines, signing, resumption, memory, door, deciding, arriving, starting, searching, rules")
    a = p.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.cpu_count() < 2:
        print("one core only: proxy and load share it, so that latencies say little")
        globals()["OTHER_CORE"] = "0"
    os.environ["TEST_TMP"] = tempfile.mkdtemp(prefix="sallyport-bench-")
    b = Bench(a.against and a.against.resolve())
    try:
        for part in (throughput, instructions, engines, signing, resumption, memory, door, deciding, arriving, starting, searching, rules):
            if not a.words or any(w in part.__name__ for w in a.words):
                part(b, a.rounds, a.seconds)
    finally:
        b.stop()
        shutil.rmtree(os.environ["TEST_TMP"], ignore_errors=True)


if __name__ == "__main__":
    main()
