"""HTTP/2 towards agents: real clients, what RFC 9113 asks for, and attacks, each by its name (raw frames, HPACK without Huffman)."""
import base64
import ctypes
import hashlib
import json
import socket
import struct
import subprocess
import threading
import time

import peers
import sallyport
from real import wait
from servers import node, pump

TOKEN = "canary-h2-81f3c2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, CALM = 0, 1, 11


class NV(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("value", ctypes.c_void_p), ("namelen", ctypes.c_size_t),
                ("valuelen", ctypes.c_size_t), ("flags", ctypes.c_uint8)]


class Inflater:
    """HPACK by nghttp2's shared library, which curl brings."""

    def __init__(self):
        self.lib = ctypes.CDLL("libnghttp2.so.14")
        self.lib.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
        self.it = ctypes.c_void_p()
        assert self.lib.nghttp2_hd_inflate_new(ctypes.byref(self.it)) == 0

    def fields(self, block):
        out, nv, flags = [], NV(), ctypes.c_int()
        while True:
            n = self.lib.nghttp2_hd_inflate_hd2(self.it, ctypes.byref(nv), ctypes.byref(flags), block, ctypes.c_size_t(len(block)), 1)
            assert n >= 0, n
            block = block[n:]
            if flags.value & 2:
                out.append((ctypes.string_at(nv.name, nv.namelen).decode(), ctypes.string_at(nv.value, nv.valuelen).decode("latin-1")))
            if flags.value & 1:
                self.lib.nghttp2_hd_inflate_end_headers(self.it)
                return out


def number(n, prefix, bits=0):
    most = (1 << prefix) - 1
    if n < most:
        return bytes([bits | n])
    out, n = [bits | most], n - most
    while n >= 128:
        out, n = out + [n % 128 + 128], n // 128
    return bytes(out + [n])


def field(name, value):
    """A literal without indexing."""
    name, value = (x.encode("latin-1") if isinstance(x, str) else x for x in (name, value))
    return b"\0" + number(len(name), 7) + name + number(len(value), 7) + value


def block(*fields):
    return b"".join(field(n, v) for n, v in fields)


def request(method="GET", path="/", scheme="https", authority="api.test"):
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Client:
    """One connection: frames out, and what came of each stream."""

    def __init__(self, s, host="api.test", wire=None, settings=b"", preface=True):
        self.s, self.inflate, self.data, self.settings = s, Inflater(), b"", {}
        self.wire = wire or s.tunnel(host, context=s.client_context(alpn=["h2", "http/1.1"]))
        if wire is None:
            assert self.wire.tls.selected_alpn_protocol() == "h2"
        self.heads, self.bodies, self.resets, self.ended, self.goaway, self.closed, self.acks, self.id, self.window = \
            {}, {}, {}, set(), None, False, 0, 1, True
        if preface:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        try:
            self.wire.send(data)
        except (OSError, ConnectionError):
            self.closed = True

    def next_id(self):
        self.id += 2
        return self.id - 2

    def ask(self, *fields, end=True, **options):
        """Opens a stream -> its id."""
        n = self.next_id()
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), n, block(*request(**options), *fields)))
        return n

    def turn(self, timeout):
        try:
            part = self.wire.recv(timeout)
        except TimeoutError:
            return False
        except (OSError, ConnectionError):
            part = b""
        self.closed = self.closed or not part
        self.data += part
        while len(self.data) >= 9:
            n = int.from_bytes(self.data[:3], "big")
            if len(self.data) < 9 + n:
                break
            kind, flags, stream = self.data[3], self.data[4], int.from_bytes(self.data[5:9], "big")
            payload, self.data = self.data[9:9 + n], self.data[9 + n:]
            self.take(kind, flags, stream, payload)
        return bool(part)

    def take(self, kind, flags, stream, payload):
        if kind == HEADERS:
            assert flags & END_HEADERS and not flags & PADDED
            self.heads.setdefault(stream, []).append(self.inflate.fields(payload))
        elif kind == DATA:
            self.bodies[stream] = self.bodies.get(stream, b"") + payload
            if self.window and payload:
                self.send(b"".join(frame(WINDOW, 0, i, struct.pack(">I", len(payload))) for i in (0, stream)))
        elif kind == RST:
            self.resets[stream] = int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            self.settings.update(struct.unpack(">HI", payload[i:i + 6]) for i in range(0, len(payload), 6))
            self.send(frame(SETTINGS, ACK))
        elif kind == PING and flags & ACK:
            self.acks += 1
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)

    def until(self, condition, seconds=8, what="it"):
        end = time.monotonic() + seconds * sallyport.SLOW
        while not condition():
            assert time.monotonic() < end and not (self.closed and not condition()), \
                f"{what}: heads {self.heads}, resets {self.resets}, goaway {self.goaway}, closed {self.closed}"
            self.turn(max(0.01, end - time.monotonic()))

    def answer(self, stream):
        """(status, fields, body, trailers) of an answer that ended, or its reset."""
        self.until(lambda: stream in self.ended or stream in self.resets, what=f"the end of stream {stream}")
        final = [h for h in self.heads.get(stream, []) if not dict(h).get(":status", "2").startswith("1")]
        if not final:
            return f"reset {self.resets.get(stream)}"
        return int(dict(final[0])[":status"]), dict(final[0]), self.bodies.get(stream, b""), dict(final[1]) if final[1:] else {}

    def status(self, stream):
        a = self.answer(stream)
        return a if isinstance(a, str) else a[0]

    def lives(self):
        """Does the connection answer a PING?"""
        had = self.acks
        self.send(frame(PING, 0, 0, b"01234567"))
        self.until(lambda: self.acks > had or self.closed or self.goaway is not None, what="PING")
        return self.acks > had

    def close(self):
        self.wire.close()


CREDENTIAL = {"name": "api", "host": "api.test", "secrets": {"token": TOKEN}}


def arrange(t, **options):
    return t.proxy(credentials=[CREDENTIAL], **options)


class Bridge:
    """A port behind which CONNECT was said already, for clients that know no proxy."""

    def __init__(self, s, host="api.test"):
        self.s, self.host, self.sock = s, host, socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        peers.each_connection(self.sock, self.serve)

    def serve(self, down):
        up = socket.create_connection(("127.0.0.1", self.s.port))
        up.sendall(f"CONNECT {self.host}:443 HTTP/1.1\r\nHost: {self.host}\r\n{self.s.auth()}\r\n".encode())
        peers.read_head(lambda: up.recv(1))
        other = threading.Thread(target=pump, args=(up, down), daemon=True)
        other.start()
        pump(down, up)
        other.join()


def echo(body):
    return json.loads(body)


def curl(s, *args):
    return subprocess.run(["curl", "-sS", "--max-time", str(10 * sallyport.SLOW), "--proxy", s.proxy_url(), "--cacert", str(s.ca), *args],
                          capture_output=True, text=True)


def test_curl(t):
    """curl --http2: one connection, many requests, each decided and logged by itself"""
    t.need("curl")
    s, up = arrange(t)
    r = curl(s, "--http2", "-w", "[%{http_version} %{response_code} %{num_connects}]", "https://api.test/a?b=c", "https://api.test/d")
    assert "[2 200 1]" in r.stdout and "[2 200 0]" in r.stdout, r
    assert [q.target for q in up.requests] == ["/a?b=c", "/d"] and all(q.get("authorization") == f"Bearer {TOKEN}" for q in up.requests)
    r = curl(s, "--http2", "-d", "x=1", "-w", "[%{http_version} %{response_code}]", "https://other.test/")
    assert "[2 403]" in r.stdout and '"error":"host_not_allowed"' in r.stdout, r
    r = curl(s, "--http1.1", "-w", "[%{http_version} %{response_code}]", "https://api.test/old")
    assert "[1.1 200]" in r.stdout, r
    records = s.records()
    assert [(r["path"], r["status"], r.get("h2", False)) for r in records] == \
        [("/a", 200, True), ("/d", 200, True), ("/", 403, True), ("/old", 200, False)], records


def test_h2load(t):
    """h2load: 3,000 requests on 3 connections with 40 streams each, none fails; nghttp uploads and is answered"""
    t.need("h2load", "nghttp")
    s, up = arrange(t, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + "k" * 1024})
    bridge = Bridge(s)
    r = subprocess.run(["h2load", "-n", "3000", "-c", "3", "-m", "40", f"--connect-to=127.0.0.1:{bridge.port}", "https://api.test/load"],
                       capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert "3000 succeeded, 0 failed" in r.stdout and "2xx" in r.stdout, r
    body = s.dir / "body"
    body.write_bytes(b"u" * 700_000)
    r = subprocess.run(["nghttp", "-v", "-d", str(body), f"https://127.0.0.1:{bridge.port}/up", "-H:authority: api.test"],
                       capture_output=True, text=True, timeout=30 * sallyport.SLOW)
    assert "END_STREAM" in r.stdout and len(up.requests[-1].body) == 700_000, r.stdout[-2000:]


def test_h2spec(t):
    """h2spec: all of generic, hpack and http2"""
    if not (sallyport.BUILD / "h2spec").exists():
        t.skip("h2spec was not built: build.sh builds it where Go's modules can be had")
    s, up = arrange(t, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    r = subprocess.run([sallyport.BUILD / "h2spec", "-t", "-k", "-h", "127.0.0.1", "-p", str(Bridge(s).port)], capture_output=True, text=True, timeout=200 * sallyport.SLOW)
    assert ", 0 failed" in r.stdout and "145 tests" in r.stdout, r.stdout[-3000:]


NODE = """
const http2 = require("http2"), net = require("net"), tls = require("tls"), fs = require("fs");
const [port, auth, ca] = process.argv.slice(1);
const sock = net.connect(+port, "127.0.0.1", () => sock.write("CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\n" + auth + "\\r\\n\\r\\n"));
sock.once("data", () => {
  const c = http2.connect("https://api.test", { createConnection: () => tls.connect({ socket: sock, servername: "api.test",
    ca: fs.readFileSync(ca), ALPNProtocols: ["h2"] }) });
  const ask = (fields, body) => new Promise((done, fail) => {
    const r = c.request(fields); let text = "", status;
    r.on("response", h => status = h[":status"]); r.on("data", d => text += d); r.on("error", fail);
    r.on("end", () => done([status, text])); r.end(body);
  });
  Promise.all(Array.from({ length: 60 }, (_, i) => ask({ ":method": "POST", ":path": "/n" + i }, "b".repeat(i * 1000))))
    .then(all => { console.log(JSON.stringify(all)); c.close(); process.exit(0); })
    .catch(e => { console.log("failed", e); process.exit(1); });
});
"""


def test_node(t):
    """Node's http2: 60 uploads at once on one connection"""
    found = node() or t.skip("node and its packages are not installed")
    s, up = arrange(t, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"})
    r = subprocess.run([found[0], "-e", NODE, str(s.port), s.auth().strip(), str(s.ca)], capture_output=True, text=True, timeout=30 * sallyport.SLOW)
    assert r.returncode == 0 and json.loads(r.stdout) == [[200, "{}"]] * 60, r
    assert sorted(len(q.body) for q in up.requests) == [i * 1000 for i in range(60)]


# Malformed requests (RFC 9113 8.1.1 to 8.3.1): the stream is reset, or answered 400; the server sees nothing, the connection lives.
OK = request()
MALFORMED = {
    "upper-case field name": OK + [("X-Upper", "1")],
    "a colon in a field name": OK + [("x:y", "1")],
    "a space in a field name": OK + [("x y", "1")],
    "an empty field name": OK + [("", "1")],
    "a control in a field name": OK + [("x\x01", "1")],
    "CR LF in a field name": OK + [("x: 1\r\ny", "1")],
    "bytes above ASCII in a field name": OK + [("x\xe9", "1")],
    "CR LF in a value": OK + [("x", "1\r\ny: 2")],
    "CR in a value": OK + [("x", "1\ry")],
    "LF in a value": OK + [("x", "1\ny: 2")],
    "NUL in a value": OK + [("x", "1\0")],
    "a space before a value": OK + [("x", " 1")],
    "a tab after a value": OK + [("x", "1\t")],
    "DEL in a value": OK + [("x", "1\x7f2")],
    "connection": OK + [("connection", "x-y")],
    "connection: close": OK + [("connection", "close")],
    "keep-alive": OK + [("keep-alive", "timeout=5")],
    "proxy-connection": OK + [("proxy-connection", "keep-alive")],
    "transfer-encoding: chunked (H2.TE)": OK + [("transfer-encoding", "chunked")],
    "transfer-encoding, other": OK + [("transfer-encoding", "identity")],
    "upgrade": OK + [("upgrade", "h2c")],
    "te that is not trailers": OK + [("te", "gzip")],
    "te: trailers, deflate": OK + [("te", "trailers, deflate")],
    "no :method": [f for f in OK if f[0] != ":method"],
    "no :scheme": [f for f in OK if f[0] != ":scheme"],
    "no :path": [f for f in OK if f[0] != ":path"],
    "no :authority and no host": [f for f in OK if f[0] != ":authority"],
    "two :method": OK + [("x", "1")] and [OK[0], *OK],
    "two :path": [*OK, (":path", "/2")],
    "two :authority": [*OK, (":authority", "api.test")],
    "two :scheme": [*OK, (":scheme", "https")],
    "a pseudo-header after a field": [OK[0], ("x", "1"), *OK[1:]],
    "an unknown pseudo-header": [*OK, (":other", "1")],
    ":status in a request": [*OK, (":status", "200")],
    ":protocol without CONNECT": [*OK, (":protocol", "websocket")],
    "an empty :path": request(path=""),
    "a :path without a slash": request(path="admin"),
    "a :path in absolute form": request(path="https://api.test/"),
    "* for GET": request(path="*"),
    "CR LF in :path": request(path="/ HTTP/1.1\r\nx: y\r\n\r\nGET /admin"),
    "a space in :path": request(path="/a HTTP/1.1"),
    "a tab in :path": request(path="/a\tb"),
    "NUL in :path": request(path="/a\0"),
    "a raw byte in :path": request(path="/\xe9"),
    "# in :path": request(path="/a#b"),
    "CR LF in :method": request(method="GET / HTTP/1.1\r\nx: y\r\n\r\nGET"),
    "a space in :method": request(method="GET /admin HTTP/1.1 GET"),
    "an empty :method": request(method=""),
    "CR LF in :authority": request(authority="api.test\r\nx: y"),
    "a user in :authority": request(authority="me@api.test"),
    "a path in :authority": request(authority="api.test/admin"),
    "a space in :authority": request(authority="api.test other"),
    "an empty :authority": request(authority=""),
    ":scheme http in TLS": request(scheme="http"),
    ":scheme ftp": request(scheme="ftp"),
    "CR LF in :scheme": request(scheme="https\r\nx: y"),
    ":scheme with a path (request splitting)": request(scheme="https://api.test/admin?"),
    ":authority of another host": request(authority="other.test"),
    ":authority of another port": request(authority="api.test:444"),
    "Host of another host": OK + [("host", "other.test")],
    "Host alone, of another host": [f for f in OK if f[0] != ":authority"] + [("host", "other.test")],
    "two Host fields": [f for f in OK if f[0] != ":authority"] + [("host", "api.test"), ("host", "api.test")],
    "Host with CR LF": [f for f in OK if f[0] != ":authority"] + [("host", "api.test\r\nx: y")],
    "content-length that is no number": OK + [("content-length", "1x")],
    "content-length with a sign": OK + [("content-length", "+0")],
    "content-length, empty": OK + [("content-length", "")],
    "two content-lengths": OK + [("content-length", "0"), ("content-length", "0")],
    "content-length without a body": OK + [("content-length", "5")],
    "content-length over 64 bits": OK + [("content-length", "18446744073709551616")],
    "CONNECT": [(":method", "CONNECT"), (":authority", "api.test:443")],
    "CONNECT with :path": request(method="CONNECT"),
    "CONNECT to another host": [(":method", "CONNECT"), (":authority", "other.test:443")],
    "CONNECT for a WebSocket with a length (RFC 8441)": request(method="CONNECT") + [(":protocol", "websocket"), ("content-length", "5")],
    "CONNECT for a WebSocket without a path": [(":method", "CONNECT"), (":scheme", "https"), (":authority", "api.test"), (":protocol", "websocket")],
    "CONNECT for a WebSocket of another host": request(method="CONNECT", authority="other.test") + [(":protocol", "websocket")],
    "CONNECT for a WebSocket, and upgrade": request(method="CONNECT") + [(":protocol", "websocket"), ("upgrade", "websocket")],
    "CONNECT for another protocol": request(method="CONNECT") + [(":protocol", "connect-udp")],
    "two :protocol": request(method="CONNECT") + [(":protocol", "websocket"), (":protocol", "websocket")],
    "TRACE": request(method="TRACE"),
    "101 fields": OK + [(f"x-{i}", "1") for i in range(101)],
}


def test_malformed(t):
    """malformed heads by RFC 9113 and the published downgrade attacks: reset or refused, and no server sees them"""
    s, up = arrange(t)
    c, wrong = Client(s), []
    for name, fields in MALFORMED.items():
        n = c.next_id()
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, n, block(*fields)))
        got = c.status(n)
        if got not in (f"reset {PROTOCOL_ERROR}", 400, 405, 421, 431):
            wrong.append((name, got))
        if c.goaway is not None or c.closed:
            wrong.append((name, f"the connection ended: {c.goaway}"))
            c = Client(s)
    assert not wrong and not up.requests, (wrong, [q.head for q in up.requests])
    n = c.ask(("x", "still here"))
    assert c.status(n) == 200 and len(up.requests) == 1
    # fields that one may believe to be wrong, and are not
    for fields in ([("te", "trailers")], [("x", "")], [("x", "a\tb")], [("host", "API.test")], [("x\x7c~", "\xff")]):
        n = c.ask(*fields)
        assert c.status(n) == 200, (fields, c.answer(n))
    n = c.ask(method="OPTIONS", path="*")
    assert c.status(n) in (200, 403), c.answer(n)


def test_websocket(t):
    """a WebSocket in a stream (RFC 8441): the server's handshake is HTTP/1.1's with the credential, bytes go both ways, each side may end it; what is no 101 opens nothing"""
    s, up = t.proxy(credentials=[{**CREDENTIAL, "fields": {"scrub": "head"}}])       # what goes both ways here is no frames
    up.websockets = 0

    def converse(wire):
        data = b""
        while b"\r\n\r\n" not in data:
            data += wire.recv(60)
        head = data.partition(b"\r\n\r\n")[0]
        up.requests.append(peers.Request(head, b"", b""))
        if not head.startswith(b"GET /chat "):
            return wire.send(b"HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\n{}" % (b"200 OK" if head.startswith(b"GET /no ") else b"503 Busy"))
        key = next(l.split()[1] for l in head.split(b"\r\n") if l.lower().startswith(b"sec-websocket-key:"))
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        up.websockets += 1
        try:
            while (part := wire.recv(60)) not in (b"", b"leave"):
                wire.send(part)
                if part in (b"cut", b"reset"):
                    if part == b"reset":
                        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return wire.sock.close()
                if part.endswith(b"last"):
                    return wire.send(b"bye")
        finally:
            up.websockets -= 1
    up._converse = converse
    c = Client(s)
    c.until(lambda: c.settings.get(8) == 1, what="SETTINGS_ENABLE_CONNECT_PROTOCOL")
    asked = request(method="CONNECT", path="/chat") + [(":protocol", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "https://api.test"),
                                                       ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")]
    def opened():
        n = c.next_id()
        c.send(frame(HEADERS, END_HEADERS, n, block(*asked)))
        c.until(lambda: n in c.heads or n in c.resets, what="an answer")
        return n
    n = opened()
    fields = dict(c.heads[n][0])
    assert fields[":status"] == "200" and fields["sec-websocket-protocol"] == "chat" and not {"sec-websocket-accept", "upgrade", "connection", "content-length"} & set(fields), fields
    head = up.requests[0].head.decode().lower()
    assert head.startswith("get /chat http/1.1\r\n") and f"authorization: bearer {TOKEN}" in head and "upgrade: websocket" in head, head
    assert head.count("sec-websocket-key:") == 1 and "aaaaaaaaaaaaaaaaaaaaaa==" not in head and "close" not in head, head
    for size in (5, 60_000, 1):          # what the server gets it sends back
        c.bodies.pop(n, None)
        for at in range(0, size, 16_000):
            c.send(frame(DATA, 0, n, b"x" * min(16_000, size - at)))
        c.until(lambda: len(c.bodies.get(n, b"")) == size, what=f"{size} bytes")
    c.send(frame(DATA, END_STREAM, n, b"last"))         # the client ends, as Chromium does with its Close; the server's comes still
    c.until(lambda: n in c.ended or n in c.resets, what="the end")
    assert n in c.ended and c.bodies[n].endswith(b"lastbye"), (c.bodies[n][-20:], c.resets)
    n = opened()
    c.send(frame(DATA, 0, n, b"leave"))                 # the server ends
    c.until(lambda: n in c.ended, what="the server's end")
    for said, end in (b"cut", "the server's TLS has no close_notify"), (b"reset", "its connection is reset"):
        n = opened()
        c.send(frame(DATA, 0, n, said))
        c.until(lambda: n in c.ended or n in c.resets, what=end)
        assert c.bodies[n] == said and n not in c.ended and c.resets[n] == 8, (end, c.bodies[n], c.resets)      # CANCEL (RFC 8441 5)
        context = s.client_context()
        context.options &= ~128                         # OP_IGNORE_UNEXPECTED_EOF, which some releases of Python set
        wire = s.tunnel("api.test", context=context)    # over HTTP/1.1 no close_notify comes either
        wire.send(b"GET /chat HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        assert peers.read_head(wire.recv).startswith(b"HTTP/1.1 101 ")
        wire.send(said)
        data = b""
        while more := wire.recv(10 * sallyport.SLOW):
            data += more
        assert (data, wire.eof) == (said, "reset" if said == b"reset" else "ragged"), (end, data, wire.eof)
    n = opened()
    c.send(frame(RST, 0, n, struct.pack(">I", 8)))
    wait(lambda: up.websockets == 0, 5, "the server hears of a stream that is cancelled")
    s.wait_record({"host": "api.test", "status": 101, "h2": True, "path": "/chat"})
    had = len(up.requests)
    for fields in [("content-length", "5"), *asked[5:]], [*asked[5:], ("content-length", "5")]:      # such a request has no body
        n = c.next_id()
        c.send(frame(HEADERS, END_HEADERS, n, block(*asked[:5], *fields)) + frame(DATA, 0, n, b"hello"))
        assert c.status(n) == f"reset {PROTOCOL_ERROR}", (c.heads.get(n), c.resets.get(n))
    assert len(up.requests) == had
    asked[3] = (":path", "/no")                          # 200 without an upgrade would be a WebSocket here
    n = opened()
    assert n in c.resets and n not in c.heads, (c.heads.get(n), c.resets)
    asked[3] = (":path", "/busy")
    n = opened()
    c.send(frame(DATA, 0, n, b"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"))
    assert c.status(n) == 503 and c.lives() and not [q for q in up.requests if b"smuggled" in q.head]
    c.close()


def test_bodies(t):
    """bodies whose length is said, wrong, or unknown; trailers both ways; 1xx; HEAD; cookies are one field"""
    s, up = arrange(t)
    c = Client(s)
    n = c.ask(("content-length", "5"), ("cookie", "a=1"), ("cookie", "b=2"), method="POST", end=False)
    c.send(frame(DATA, 0, n, b"hel") + frame(DATA, END_STREAM, n, b"lo"))
    status, fields, body, _ = c.answer(n)
    sent = up.requests[-1]
    assert status == 200 and echo(body)["body"] == "hello" and sent.get("content-length") == "5" and sent.get("cookie") == "a=1; b=2", sent.fields
    n = c.ask(("te", "trailers"), method="POST", end=False)
    c.send(frame(DATA, PADDED, n, b"\4hel\0\0\0\0") + frame(DATA, 0, n, b"lo") +
           frame(HEADERS, END_HEADERS | END_STREAM, n, block(("x-sum", "77"), ("authorization", "mine"))))
    assert echo(c.answer(n)[2])["body"] == "hello"
    assert b"x-sum: 77" in up.requests[-1].raw_body and b"mine" not in up.requests[-1].raw_body
    assert up.requests[-1].get("transfer-encoding") == "chunked" and up.requests[-1].get("content-length") is None
    # an empty DATA frame ends a body; a body behind a length that was met already does not come back as a request
    n = c.ask(method="POST", end=False)
    c.send(frame(DATA, END_STREAM, n))
    assert c.status(n) == 200 and up.requests[-1].body == b""
    for what, fields, data in (("more than its length (H2.CL)", [("content-length", "4")], b"helloGET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n"),
                               ("less than its length", [("content-length", "9")], b"hello"),
                               ("a length of 0 (H2.CL)", [("content-length", "0")], b"GET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n")):
        n, had = c.ask(*fields, method="POST", end=False), len(up.requests)
        c.send(frame(DATA, END_STREAM, n, data))
        got = c.status(n)
        assert got in (f"reset {PROTOCOL_ERROR}", 400) or what.startswith("a length of 0"), (what, got)
        assert not any("admin" in q.target for q in up.requests) and all(not q.body for q in up.requests[had:]), what
    for what, trailer in (("a pseudo-header", (":path", "/2")), ("transfer-encoding", ("transfer-encoding", "chunked")), ("CR LF", ("x", "1\r\n\r\nGET /"))):
        n = c.ask(method="POST", end=False)
        c.send(frame(DATA, 0, n, b"x") + frame(HEADERS, END_HEADERS | END_STREAM, n, block(trailer)))
        assert c.status(n) in (f"reset {PROTOCOL_ERROR}", 400), (what, c.answer(n))
    assert c.lives()
    up.reset({"reply": "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n"
                       "Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 9\r\nX-U: 8\r\n\r\n"})
    n = c.ask()
    status, fields, body, trailers = c.answer(n)
    assert (status, body, trailers) == (200, b"abcde", {"x-t": "9", "x-u": "8"}), c.answer(n)
    assert c.heads[n][0] == [(":status", "103"), ("link", "</x>")], c.heads[n]
    assert not {"connection", "x-hop", "keep-alive", "transfer-encoding"} & set(fields), fields
    up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"})
    status, fields, body, _ = c.answer(c.ask(method="HEAD"))
    assert (status, fields["content-length"], body) == (200, "1234", b"")
    for reply, want in (("HTTP/1.1 204 No Content\r\n\r\n", 204), ("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304)):
        up.reset({"reply": reply})
        status, _, body, _ = c.answer(c.ask())
        assert (status, body) == (want, b"")
    up.reset({"reply": {"steps": ["HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99999\r\n\r\nabc", 0.3, {"reset": True}]}})
    n = c.ask()
    c.until(lambda: n in c.resets)
    assert c.bodies.get(n, b"") == b"abc" and n not in c.ended and c.lives()
    assert s.wait_record({"error": "upstream_unreachable", "h2": True})


def test_large(t):
    """a head of 64 KiB and beyond is answered 431; 3 MiB each way in windows that the flow opens, 40 streams at once"""
    s, up = arrange(t)
    c = Client(s)
    for fields in ([(f"x-{i}", "v" * 4000) for i in range(17)], [("cookie", "a" * 50000), ("cookie", "b" * 20000), ("x-last", "1")]):
        n, big = c.next_id(), block(*OK, *fields)
        pieces = [big[i:i + 16384] for i in range(0, len(big), 16384)]
        c.send(frame(HEADERS, END_STREAM, n, pieces[0]) + b"".join(frame(CONTINUATION, 0, n, p) for p in pieces[1:-1]) +
               frame(CONTINUATION, END_HEADERS, n, pieces[-1]))
        status, fields, _, _ = c.answer(n)
        assert status == 431 and fields["x-sallyport-error"] == "head_too_large" and not up.requests, fields
    up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n" + "z" * 3145728})
    status, _, body, _ = c.answer(c.ask())
    assert status == 200 and len(body) == 3145728
    up.reset({})
    sent, n = b"", c.ask(("content-length", "300000"), method="POST", end=False)
    c.send(b"".join(frame(DATA, 0, n, b"y" * 15000) for _ in range(4)))           # within the first window
    c.credit = 5535
    plain = c.take

    def take(kind, flags, stream, payload):
        if kind == WINDOW and stream == n:
            c.credit += int.from_bytes(payload, "big")
        plain(kind, flags, stream, payload)
    c.take, left = take, 240000
    while left:
        c.until(lambda: c.credit > 0, what="a window")
        k = min(left, c.credit, 16384)
        c.send(frame(DATA, END_STREAM if k == left else 0, n, b"y" * k))
        c.credit, left = c.credit - k, left - k
    assert c.status(n) == 200 and len(up.requests[-1].body) == 300000
    up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + "w" * 200000})
    ids = [c.ask(path=f"/{i}") for i in range(40)]
    assert all(len(c.answer(i)[2]) == 200000 for i in ids)


def stats(s):
    pid = s.worker_pids()[0]
    return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")).split()[1])


class Bystander:
    """A request on another connection, beside an attack. `most`: the ms of a processor that the worker spent at most from what was
    sent before to its answer. So long it waits for the proxy; where the machine pauses, or does something else, nothing is added.
    `bound`: 50 ms, or what 150 requests cost here, if that is more."""

    def __init__(self, s, client, **options):
        self.client, self.options, self.wrong, self.most = client, options, False, 0
        self.clock = ~s.worker_pids()[0] << 3 | 2       # as clock_getcpuclockid(3)
        at = time.clock_gettime(self.clock)
        for _ in range(50):
            self.turn()
        self.bound = max(50 * sallyport.SLOW, 3000 * (time.clock_gettime(self.clock) - at))

    def turn(self, act=lambda: None):
        at = time.clock_gettime(self.clock)
        act()
        self.wrong = self.client.status(self.client.ask(**self.options)) != 200 or self.wrong
        self.most = max(self.most, 1000 * (time.clock_gettime(self.clock) - at))

    def beside(self, attack):
        """Runs `attack`, up to three times if another's request takes longer: a machine that pauses does so at any time. -> what is wrong"""
        for _ in range(3):
            self.most = 0
            said = attack()
            if said or self.wrong or self.most <= self.bound:
                break
        return ([said] if said else []) + (["another connection suffered"] if self.wrong else
                                           [f"another's request waited for {self.most} ms"] if self.most > self.bound else [])


def attack(c, send, times=20000, bystander=None):
    """Sends until the connection is closed to it; then the code of its GOAWAY. Some 100 KB at once: what a client may cost comes back
    with time, and a machine that does much else would make no flood of many small pieces."""
    sent = 0
    while sent < times:
        part = b""
        while len(part) < 100_000 and sent < times:
            part += send(sent)
            sent += 1
        if bystander:
            bystander.turn(lambda: c.send(part))
        else:
            c.send(part)
        c.turn(0.0001)
        if c.closed or c.goaway is not None:
            break
    c.until(lambda: c.closed or c.goaway is not None, what="the end of the connection")
    return c.goaway


def opened(c, n=None):
    """A stream that stays open, for frames that need one."""
    return c.ask(method="POST", end=False)


def reset(c, code=8):
    n = c.next_id()
    return frame(HEADERS, END_HEADERS | END_STREAM, n, block(*OK)) + frame(RST, 0, n, struct.pack(">I", code))


def made(c, last):
    """Made-you-reset: a request, and what has the server reset it."""
    n = c.next_id()
    return frame(HEADERS, END_HEADERS, n, block(*request(method="POST"))) + last.replace(b"stream", struct.pack(">I", n))


def headers_only(c, i, first):
    return frame(HEADERS, END_STREAM, first, block(*OK)) if i == 0 else frame(CONTINUATION, 0, first, field("x", "y") if i % 2 else b"")


ATTACKS = {
    "rapid reset (CVE-2023-44487)": lambda c: (lambda i: reset(c)),
    "made you reset by windows": lambda c: (lambda i: made(c, b"\0\0\4\x08\0stream" + struct.pack(">I", 2**31 - 1))),
    "made you reset by trailers": lambda c: (lambda i: made(c, b"\0\0\0\1\4stream")),
    "made you reset by a length": lambda c: (lambda i: made(c, b"\0\0\0\1\5stream") if i % 2 else
                                             frame(HEADERS, END_HEADERS | END_STREAM, c.next_id(), block(*OK, ("content-length", "1")))),
    "a window that does not grow": lambda c: (lambda i: made(c, b"\0\0\4\x08\0stream\0\0\0\0")),
    "CONTINUATION flood (CVE-2024-27316)": lambda c: (lambda i, n=c.next_id(): headers_only(c, i, n)),
    "SETTINGS flood": lambda c: (lambda i: frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535 + i % 2))),
    "empty SETTINGS flood": lambda c: (lambda i: frame(SETTINGS)),
    "PING flood": lambda c: (lambda i: frame(PING, 0, 0, b"abcdefgh")),
    "WINDOW_UPDATE flood": lambda c: (lambda i: frame(WINDOW, 0, 0, b"\0\0\0\1")),
    "WINDOW_UPDATE flood on a stream": lambda c: (lambda i, n=opened(c): frame(WINDOW, 0, n, b"\0\0\0\1")),
    "PRIORITY flood": lambda c: (lambda i: frame(PRIORITY, 0, 2 * (i % 200) + 1001, b"\0\0\0\0\x10")),
    "empty DATA frames": lambda c: (lambda i, n=opened(c): frame(DATA, 0, n)),
    "one-byte DATA frames": lambda c: (lambda i, n=opened(c): frame(DATA, 0, n, b"x")),
    "frames of an unknown type": lambda c: (lambda i: frame(0xfa, 0, 0)),
    "frames of an unknown type on a stream": lambda c: (lambda i, n=opened(c): frame(0x10, 0xff, n, b"x")),
    "empty DATA frames on a stream that was reset": lambda c: (lambda i, n=opened(c): frame(DATA if i else RST, 0, n, b"" if i else bytes(4))),
    "padding alone": lambda c: (lambda i, n=opened(c): frame(DATA, PADDED, n, b"\x07" + bytes(7))),
    "RST_STREAM flood": lambda c: (lambda i, n=c.ask(): frame(RST, 0, n, b"\0\0\0\0")),
    "10,000 streams opened and abandoned": lambda c: (lambda i: frame(HEADERS, END_HEADERS, c.next_id(), block(*request(method="POST")))),
    "a window over 2^31-1": lambda c: (lambda i: frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1))),
    "HPACK: an index that is not there": lambda c: (lambda i: frame(HEADERS, END_HEADERS | END_STREAM, c.next_id(), b"\xff\xff\xff\x7f")),
    "HPACK: a table that grows": lambda c: (lambda i: frame(HEADERS, END_HEADERS | END_STREAM, c.next_id(), b"\x3f\xe1\xff\x03" + block(*OK))),
    "HPACK: an integer without end": lambda c: (lambda i: frame(HEADERS, END_HEADERS | END_STREAM, c.next_id(), b"\x7f" + b"\xff" * 20)),
    "a PUSH_PROMISE from a client": lambda c: (lambda i: frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + block(*OK))),
    "a frame over 16 KiB": lambda c: (lambda i: frame(DATA, 0, 1, bytes(16385))),
    "an even stream": lambda c: (lambda i: frame(HEADERS, END_HEADERS | END_STREAM, 2, block(*OK))),
    "DATA on stream 0": lambda c: (lambda i: frame(DATA, 0, 0, b"x")),
    "another frame within a header block": lambda c: (lambda i, n=c.next_id(): frame(HEADERS, 0, n, block(*OK)) + frame(PING, 0, 0, bytes(8))),
}


def test_attacks(t):
    """floods and resets, each by its name: the connection of the attacker ends, another agent's requests wait for 50 ms at most, memory is bounded"""
    s, up = arrange(t, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    s.agent("b")
    other = Bystander(s, Client(s, wire=s.tunnel(context=s.client_context(alpn=["h2"]), auth=s.auth(name="b"))))
    before, wrong = stats(s), []

    def one(begin):
        c = Client(s)
        c.window = False
        try:
            code = attack(c, begin(c), bystander=other)
            return f"ends with {code}" if code in (None, NO_ERROR) and not c.closed else None
        except AssertionError as e:
            return str(e)[:200]
        finally:
            c.close()
            other.turn()
    for name, begin in ATTACKS.items():
        wrong += [(name, said) for said in other.beside(lambda: one(begin))]
    c = Client(s)
    code = attack(c, lambda i: reset(c, NO_ERROR), times=1000)  # a reset is one, whatever its reason
    assert not wrong and (c.closed or code not in (None, NO_ERROR)), (wrong, code)
    grown = stats(s) - before
    assert grown < 16 * 1024 * sallyport.SLOW, f"{grown} KiB more"
    notes = [r for r in s.records() if r.get("error") == "client_h2"]
    assert notes and any("ENHANCE_YOUR_CALM" in r["reason"] for r in notes), notes


def test_bombs(t):
    """an HPACK bomb, and windows that never open: what waits is bounded"""
    s, up = arrange(t, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + "z" * 3000000})
    other, c = Client(s), Client(s)
    before = stats(s)
    for _ in range(20):             # an entry of 4,000 bytes, named 10,000 times
        n = c.next_id()
        bomb = block(*OK) + b"\x40" + number(1, 7) + b"b" + number(3900, 7) + b"v" * 3900 + b"\xbe" * 10000
        c.send(frame(HEADERS, END_HEADERS | END_STREAM, n, bomb))
        c.until(lambda: c.goaway is not None, what="the end of a connection that bombs")
        assert c.goaway == 11, c.goaway         # ENHANCE_YOUR_CALM
        c.close()
        c = Client(s)
    assert not up.requests and stats(s) - before < 8 * 1024 * sallyport.SLOW, stats(s) - before
    slow = Client(s, settings=struct.pack(">HI", 4, 0))         # an initial window of 0
    ids = [slow.ask(path=f"/{i}") for i in range(60)]
    wait(lambda: len(up.requests) == 60, what="60 requests")
    slow.until(lambda: len(slow.heads) == 60, what="60 heads")
    assert not slow.bodies
    assert stats(s) - before < 40 * 1024 * sallyport.SLOW, stats(s) - before
    assert other.status(other.ask(path="/other")) == 200
    slow.send(b"".join(frame(RST, 0, i, struct.pack(">I", 8)) for i in ids))
    wait(lambda: sum(r.get("error") == "client_closed" for r in s.records()) >= 60, what="60 records")


def test_concurrent(t):
    """more than 100 streams at once are refused, and the connection goes on; a stream that its client cancels ends its request"""
    s, up = arrange(t, upstream={"at_connect": "stall"})
    c = Client(s)
    c.turn(1)
    ids = [c.ask(path=f"/{i}") for i in range(100)]
    assert c.lives()
    c.send(b"".join(frame(RST, 0, i, struct.pack(">I", 8)) for i in ids[:50]))
    wait(lambda: sum(r.get("error") == "client_closed" for r in s.records()) == 50, what="50 records")
    up.reset({})
    assert c.lives() and not c.resets


def test_grpc_refusals(t):
    """a refusal of ours reaches a gRPC client as grpc-status and grpc-message, without a body"""
    s, up = arrange(t, domains=[{"host": "x.test"}])
    c = Client(s, host="other.test")
    kind = ("content-type", "application/grpc+proto")
    n = c.ask(kind, ("te", "trailers"), method="POST", authority="other.test", path="/p.Service/Method", end=False)
    status, fields, body, trailers = c.answer(n)
    assert (status, body, trailers, fields["grpc-status"]) == (200, b"", {}, "7") and "content-length" not in fields, fields
    assert "other.test:443 is not allowed for this agent" in fields["grpc-message"] and fields["x-sallyport-error"] == "host_not_allowed", fields
    assert s.wait_record({"path": "/p.Service/Method", "status": 403, "error": "host_not_allowed"})
    c = Client(s, host="other.test")
    assert c.status(c.ask(method="POST", authority="other.test")) == 403


def test_drain(t):
    """a server that drains says GOAWAY, answers what runs, and ends"""
    s, up = arrange(t, upstream={"delay": 0.5})
    c = Client(s)
    idle = Client(s)
    assert idle.lives()
    n = c.ask()
    wait(lambda: up.connections, what="the request")
    s.process.terminate()
    assert c.status(n) == 200
    c.until(lambda: c.goaway is not None and c.closed, what="GOAWAY")
    idle.until(lambda: idle.goaway is not None and idle.closed, what="GOAWAY")
    assert c.goaway == idle.goaway == NO_ERROR
    s.process.wait(10)


def test_plain(t):
    """prior knowledge: in a plain tunnel and on a Unix socket; the port itself speaks HTTP/1.1, and says so"""
    s, up = t.proxy(serve=False, upstream={"plain": True}, domains=[{"host": "plain.test", "port": 80}])
    path = s.dir / "socket"
    s.serve("--connect-to", f"plain.test:80:127.0.0.1:{up.port}", "--listen", f"unix:{path}")
    w = s.connect()
    w.send(f"CONNECT plain.test:80 HTTP/1.1\r\nHost: plain.test:80\r\n{s.auth()}\r\n".encode())
    assert peers.read_head(lambda: w.recv(5)).startswith(b"HTTP/1.1 200")
    c = Client(s, wire=w)
    assert c.status(c.ask(scheme="http", authority="plain.test", path="/tunnel")) == 200
    assert c.status(c.ask(scheme="https", authority="plain.test")) == 421
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    c = Client(s, wire=peers.Wire(sock))
    proxy = ("proxy-authorization", s.auth().split(": ")[1].strip())
    assert c.status(c.ask(proxy, scheme="http", authority="plain.test", path="/unix")) == 200
    assert c.status(c.ask(scheme="http", authority="plain.test", path="/nobody")) == 407
    assert c.status(c.ask(proxy, scheme="http", authority="other.test", path="/")) == 403
    n = c.next_id()
    c.send(frame(HEADERS, END_HEADERS, n, block((":method", "CONNECT"), (":authority", "plain.test:80"), proxy)))
    assert c.status(n) == 400
    assert [q.target for q in up.requests] == ["/tunnel", "/unix"] and all(r["h2"] for r in s.records() if r["method"] == "GET")
    direct = Client(s, wire=s.connect())
    direct.until(lambda: direct.goaway is not None, what="GOAWAY")
    assert direct.goaway == 13              # HTTP_1_1_REQUIRED


def test_stranger(t):
    """an agent that was removed: its open connection is answered 403 agent_unknown"""
    s, up = arrange(t)
    c = Client(s)
    assert c.status(c.ask()) == 200
    s.cli("agent", "remove", "a")
    status, fields, _, _ = c.answer(c.ask())
    assert status == 403 and fields["x-sallyport-error"] == "agent_unknown"
    assert len(up.requests) == 1
