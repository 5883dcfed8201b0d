"""body_parameter with curl and requests, against a server of Python's that keeps every byte it gets."""
import json
import re
import http.server
import threading
import urllib.parse

import sallyport
import servers
from clients_test import environment, run
from real import wait

KEY = "canary-param-9c40"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers at once, unless the server's `answer` is held back."""
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        assert "Transfer-Encoding" not in self.headers
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append((self.path, dict(self.headers), body))
        self.server.answer.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST

    def log_message(self, *_):
        pass


def arrange(t):
    server = servers.Recorder(Handler)
    server.answer = threading.Event()
    server.answer.set()
    s = t.bare()
    s.init()
    s.credential({"name": "param", "type": "body_parameter", "host": "api.test", "fields": {"name": "api_key"}, "secrets": {"value": KEY}})
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{server.server_port}")
    return s, server


def test_curl(t):
    """curl: form, JSON, JSON from a pipe (chunked), the query; multipart is refused"""
    t.need("curl")
    s, server = arrange(t)
    env = environment(s)
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    url = "https://api.test/search"
    assert run([*curl, url, "-d", "q=a b&api_key=placeholder", "-d", "n=1"], env) == "200"
    assert server.got[-1][2] == f"q=a b&api_key={KEY}&n=1".encode()
    text = '{ "query": "caf\u00e9 \\u00e9", "api_key":"placeholder", "n": 1.0 }'
    assert run([*curl, url, "-H", "Content-Type: application/json", "--data-binary", text], env) == "200"
    assert server.got[-1][2].decode() == text.replace("placeholder", KEY)
    big = '{"pad":"' + "x" * 300_000 + '","api_key":"placeholder"}'
    r = run([*curl, url, "-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-"], env, stdin=big)
    assert r == "200"
    assert server.got[-1][2].decode() == big.replace("placeholder", KEY)
    assert run([*curl, url + "?q=1&api_key=placeholder"], env) == "200"
    assert urllib.parse.parse_qsl(urllib.parse.urlsplit(server.got[-1][0]).query) == [("q", "1"), ("api_key", KEY)]
    count = len(server.got)
    assert run([*curl, url, "-F", "api_key=placeholder"], env) == "400"
    assert run([*curl, url, "-H", "Content-Type: application/json", "-d", "{"], env) == "400"
    assert len(server.got) == count
    server.shutdown()


SCRIPT = """
import requests
with requests.Session() as s:
    for i in range(3):
        assert s.post("https://api.test/j", json={"q": "\\u00e9", "api_key": "placeholder", "n": i}).status_code == 200
        assert s.post("https://api.test/f", data={"q": "a&b", "api_key": "placeholder"}).status_code == 200
        assert s.get("https://api.test/g", params={"api_key": "placeholder", "q": "1"}).status_code == 200
        r = s.post("https://api.test/m", files={"f": b"x"})
        assert r.status_code == 400 and "multipart/form-data" in r.json()["message"], r.text
"""


def test_requests(t):
    """requests on one connection: JSON, form, query and a refused upload in turn"""
    s, server = arrange(t)
    run(["/usr/bin/python3", "-c", SCRIPT], environment(s))
    assert len(server.got) == 9
    for path, headers, body in server.got:
        where = urllib.parse.urlsplit(path)
        assert b"placeholder" not in body and "placeholder" not in path
        if where.path == "/j":
            assert json.loads(body)["api_key"] == KEY and where.query == ""
        elif where.path == "/f":
            assert urllib.parse.parse_qs(body.decode(), strict_parsing=True) == {"q": ["a&b"], "api_key": [KEY]}
        else:
            assert urllib.parse.parse_qs(where.query)["api_key"] == [KEY] and body == b""
    server.shutdown()


def test_large_bodies(t):
    """40 bodies of 900 KB at once: each has the value, and other credentials have room beside them"""
    s, server = arrange(t)
    s.credential({"name": "other", "type": "basic", "host": "www.test", "fields": {"username": "u"}, "secrets": {"password": "canary-other-41"}})
    text = b'{"pad":"' + b"x" * 900_000 + b'","api_key":"placeholder"}'
    server.answer.clear()                                  # all are held, one beside the other
    statuses = []

    def post():
        statuses.append(s.request("POST", "/big", headers={"Content-Type": "application/json"}, body=text, timeout=40).status)

    threads = [threading.Thread(target=post) for _ in range(40)]
    for thread in threads:
        thread.start()
    wait(lambda: len(server.got) == 40, 30, "40 bodies at the server")
    assert s.cli("explain", "--agent", "a", "GET", "https://www.test/").returncode == 0
    r = s.request(host="www.test")                         # nothing answers there: but its credential went in
    assert r.status == 502 and r.get("x-sallyport-error") == "upstream_unreachable", (r.status, r.body)
    server.answer.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 40, statuses
    assert {body for _, _, body in server.got} == {text.replace(b"placeholder", KEY.encode())}
    server.shutdown()


def test_heavy(t):
    """clients that hang up while their long bodies are read: the worker lives, others are served, and memory goes back"""
    s, up = t.proxy(credentials=[{"name": "rows", "type": "substitute", "host": "api.test", "secrets": {"value": "canary-heavy-2"},
                                  "substitute": "value:json=/token:__HEAVY:1__"}], upstream={"reply": {"body": "ok"}})
    body = b'{"token":"__HEAVY:1__","a":[' + b"[[[[[[]]]]]]," * 1_200_000 + b"1]}"
    head = b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    pids = s.worker_pids()
    for i in range(6):
        w = s.tunnel("api.test")
        w.send(head + body)
        threading.Event().wait(0.1 * i)
        w.close()
        assert s.request("GET", "/x").status == 200
    got = s.request("POST", "/", headers={"Content-Type": "application/json"}, body=body, timeout=60)
    assert got.status == 200, (got.status, got.body[:300])
    assert s.worker_pids() == pids, s.log()[-500:]

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pids[0]}/status").read())[1]) >> 10

    if "asan" not in str(s.binary):                        # its allocator keeps what is freed
        wait(lambda: resident() < 48, 20, f"less than 48 MB, not {resident()}")
