"""gRPC end to end: grpcio's client, the proxy's tunnel, grpcio's server; HTTP/2 on both sides."""
import json
import os
import pathlib
import subprocess
import sys
import threading

import sallyport
from clients_test import environment
from real import wait
from servers import node

TOKEN = "canary-grpc-5d10e7"
HELD = "placeholder-grpc"
PIP = sallyport.BUILD / "pip"
PEER = pathlib.Path(__file__).with_name("grpc_peer.py")


class Server:
    def __init__(self, t, *more):
        try:
            import grpc  # noqa: F401
        except ImportError:
            t.skip("python3-grpcio is not installed")
        self.process = subprocess.Popen([sys.executable, str(PEER), "serve", str(sallyport.certs() / "ok.pem"), *more],
                                        stdout=subprocess.PIPE, text=True)
        t.processes.append(self.process)
        self.port, self.events = int(self.process.stdout.readline()), []
        threading.Thread(target=lambda: [self.events.append(json.loads(line)) for line in self.process.stdout], daemon=True).start()

    def named(self, name):
        return [e for e in self.events if e["event"] == name]


class Client:
    def __init__(self, t, s, target="api.test:443", ca=None, metadata=(f"authorization=Bearer {HELD}",)):
        env = {**os.environ, "grpc_proxy": s.proxy_url(), "no_grpc_proxy": "", "no_proxy": "", "GRPC_VERBOSITY": "ERROR"}
        self.process = subprocess.Popen([sys.executable, str(PEER), "call", target, str(ca or s.ca), *metadata], env=env,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        t.processes.append(self.process)

    def begin(self, name, n=0, seconds=20):
        self.process.stdin.write(f"{name} {n} {seconds * sallyport.SLOW}\n")
        self.process.stdin.flush()

    def end(self):
        return json.loads(self.process.stdout.readline())

    def call(self, *args):
        self.begin(*args)
        return self.end()


def arrange(t, **credential):
    server = Server(t)
    s, _ = t.proxy(serve=False, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": TOKEN}, **credential}])
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{server.port}")
    return s, server, Client(t, s)


def test_shapes(t):
    """unary, client, server and bidirectional streams; the metadata's placeholder goes out as the credential, and never comes back"""
    s, server, c = arrange(t)
    a = c.call("unary", 1000)
    assert a["ok"] and a["head"]["x-head"] == "h" and a["trailers"]["x-trailer"] == "t", a
    wait(lambda: server.named("unary"), what="the server's word of the call")
    assert server.named("unary")[0]["authorization"] == f"Bearer {TOKEN}"
    assert "x-echo" not in a["trailers"], a         # a trailer that repeats the secret is dropped
    assert c.call("down", 50)["ok"] and c.call("up", 500)["ok"] and c.call("both", 40)["ok"]
    assert c.call("down", 0)["ok"] and c.call("up", 0)["ok"] and c.call("both", 0)["ok"] and c.call("unary", 0)["ok"]
    assert c.call("crowd", 30)["ok"]
    records = s.records()
    assert all(r["h2"] and r["upstream_h2"] and r["status"] == 200 for r in records), records
    assert {r["path"] for r in records} == {"/test.Echo/" + n for n in ("Unary", "Down", "Up", "Both")}


def test_errors(t):
    """a status without messages (Trailers-Only), one behind a message, and a method that is not there"""
    s, server, c = arrange(t)
    a = c.call("fail")
    assert (a["code"], a["details"]) == ("NOT_FOUND", "there is no such thing: 100% äöü"), a
    a = c.call("late")
    assert a["got"] == ["one"] and (a["code"], a["details"]) == ("DATA_LOSS", "half of it is gone"), a
    assert c.call("none")["code"] == "UNIMPLEMENTED"


def test_deadline_and_cancel(t):
    """grpc-timeout arrives; a deadline that passes, and a call that is cancelled, cancel the call at the server; others go on"""
    s, server, c = arrange(t)
    a = c.call("sleep", 0, 1)
    assert a["code"] == "DEADLINE_EXCEEDED" and a["seconds"] < 4 * sallyport.SLOW, a
    wait(lambda: server.named("cancelled"), what="the cancelled call at the server")
    wait(lambda: server.named("sleep"), what="the server's word of the call")
    assert 0 < server.named("sleep")[0]["left"] <= sallyport.SLOW
    assert c.call("cancel", 0, 0.5)["ok"]
    wait(lambda: len(server.named("cancelled")) == 2, what="the second one")
    assert c.call("unary", 10)["ok"]


def test_large(t):
    """messages of 16 MiB each way, at constant memory"""
    s, server, c = arrange(t)
    assert c.call("unary", 100_000)["ok"]
    before = memory(s)
    for _ in range(3):
        assert c.call("unary", 16 << 20, 40)["ok"]
    grown = memory(s) - before
    assert "asan" in str(t.binary) or grown < 6 * 1024 * sallyport.SLOW, f"{grown} KiB more"


def memory(s):
    return sum(int(line.split()[1]) for pid in s.worker_pids() for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))


def test_refusals(t):
    """what we refuse, and what has no HTTP/2, is a status with our reason and hint"""
    s, server, c = arrange(t)
    a = Client(t, s, target="other.test:443").call("unary", 1)
    assert a["code"] == "PERMISSION_DENIED" and "other.test:443 is not allowed for this agent" in a["details"], a
    server.process.terminate()
    server.process.wait(5)
    a = c.call("unary", 1)
    assert a["code"] == "UNAVAILABLE" and "api.test" in a["details"], a


def test_plain(t):
    """without TLS: a server by prior knowledge where upstream-http=2 says so; without it the reason is told"""
    server = Server(t, "plain")
    s, _ = t.proxy(serve=False, domains=[{"host": "plain.test", "port": 80, "method": ["GET", "POST"]}])
    s.serve("--connect-to", f"plain.test:80:127.0.0.1:{server.port}")
    c = Client(t, s, target="plain.test:80", ca="plain")
    a = c.call("unary", 1)
    assert a["code"] == "UNAVAILABLE" and "plain.test" in a["details"], a
    s.cli("set", "upstream-http", "2")
    wait(lambda: c.call("unary", 1).get("ok"), what="the setting")
    assert c.call("both", 10)["ok"] and s.records()[-1]["upstream_h2"]


def test_node(t):
    """@grpc/grpc-js: the shapes of a call with 4 MiB, an error, a deadline, a cancelled call"""
    found = node()
    if not found or not (found[1] / "node_modules/@grpc/grpc-js").exists():
        t.skip("node and its packages are not installed")
    s, server, c = arrange(t)
    env = {**os.environ, "grpc_proxy": s.proxy_url(), "no_grpc_proxy": "", "no_proxy": ""}
    r = subprocess.run([found[0], PEER.with_name("grpc_client.mjs"), found[1], "api.test:443", s.ca, f"authorization=Bearer {HELD}"], env=env,
                       capture_output=True, text=True, timeout=40 * sallyport.SLOW)
    assert r.returncode == 0, r
    out = json.loads(r.stdout)
    assert out["unary"] == 4 << 20 and out["down"] == [len(b"%d" % i) * (i * 1000 + 1) for i in range(20)], out
    assert out["up"] == "50000" and out["both"] == [f"M{i}" for i in range(10)], out
    assert out["fail"] == {"code": 5, "details": "there is no such thing: 100% äöü"}, out
    assert out["late"]["code"] == 4 and out["cancelled"]["code"] == 1, out
    wait(lambda: len(server.named("cancelled")) == 2, what="two cancelled calls at the server")
    assert server.named("unary")[0]["authorization"] == f"Bearer {TOKEN}"
    assert s.records() and all(r["h2"] and r["upstream_h2"] for r in s.records())


def test_go(t):
    """grpc-go's own interop server, client and cases: each passes, and each call's placeholder goes out as the credential"""
    binary, source = sallyport.BUILD / "grpc_go", PEER.with_name("grpc_go")
    if not binary.exists():         # it takes two minutes of a processor to compile, and 20 MB of modules
        t.skip(f"it is not built: go build -C {source.relative_to(sallyport.ROOT)} -o {binary}")
    server = subprocess.Popen([binary, "serve", sallyport.certs() / "ok.pem"], stdout=subprocess.PIPE, text=True)
    t.processes.append(server)
    port, seen = int(server.stdout.readline()), []
    reader = threading.Thread(target=lambda: seen.extend(server.stdout), daemon=True)
    reader.start()
    s, _ = t.proxy(serve=False, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": TOKEN}}])
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{port}")
    env = {**os.environ, "HTTPS_PROXY": s.proxy_url(), "NO_PROXY": "", "no_proxy": ""}
    r = subprocess.run([binary, "call", "api.test:443", s.ca, HELD], env=env, capture_output=True, text=True, timeout=90 * sallyport.SLOW)
    assert r.returncode == 0 and len(r.stdout.split()) == 14, r
    server.terminate()
    reader.join()
    assert len(seen) >= 14 and set(seen) == {f"[Bearer {TOKEN}]\n"}, seen
    records = s.records()
    assert len(records) >= len(seen) and all(r["h2"] and r["upstream_h2"] for r in records), records


def sdk(t, s, server, name):
    """What an SDK saw, with the environment that `sallyport env` makes, and what the server saw of it."""
    if not (PIP / "grpc").exists():
        t.skip("the SDKs of PyPI are not installed")
    before = len(server.named("served"))
    r = subprocess.run(["/usr/bin/python3", PEER.with_name("grpc_sdks.py"), name, "api.test:443", s.proxy_url(), s.ca], capture_output=True, text=True,
                       env={**environment(s), "PYTHONPATH": str(PIP)}, timeout=40 * sallyport.SLOW)
    assert r.returncode == 0, r
    served = server.named("served")[before:]
    assert served and all(e["authorization"] == f"Bearer {TOKEN}" for e in served), served
    return json.loads(r.stdout.splitlines()[-1]), [(e["method"].rsplit("/", 1)[1], e["n"]) for e in served]


def test_sdks(t):
    """google-cloud-secret-manager, OpenTelemetry's exporter and Temporal's SDK, each with a placeholder: calls and errors of the services arrive"""
    s, server, c = arrange(t)
    out, served = sdk(t, s, server, "google")
    assert (out["name"], out["data"]) == ("v", "opened") and out["error"] == ["NotFound", "no such secret"], out
    assert [m for m, _ in served] == ["AccessSecretVersion", "GetSecret"], served
    out, served = sdk(t, s, server, "otlp")
    assert out["flushed"] and [m for m, _ in served] == ["Export"] and served[0][1] > 5000, (out, served)
    out, served = sdk(t, s, server, "temporal")
    assert out == {"run": "run", "error": ["NOT_FOUND", "workflow not found"]}, out
    assert [m for m, _ in served] == ["GetSystemInfo", "StartWorkflowExecution", "SignalWorkflowExecution", "TerminateWorkflowExecution"], served
    assert all(r["h2"] and r["upstream_h2"] and r["status"] == 200 for r in s.records())
