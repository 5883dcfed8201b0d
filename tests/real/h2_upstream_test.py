"""HTTP/2 towards upstreams: real servers, what RFC 9113 asks for, and attacks by an upstream, each by its name (raw frames)."""
import json
import re
import socket
import ssl
import struct
import subprocess
import threading
import time

import peers
import sallyport
from h2_test import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY, PUSH, RST, SETTINGS,
                     WINDOW, Bridge, Bystander, Client, Inflater, block, curl, frame, number, request, stats)
from mtls_test import Clients
from real import wait
from servers import ConnectProxy, free_port, nginx, reachable

TOKEN = "canary-h2up-90b4d1"
OK = [(":status", "200")]


class Wire:
    """One connection that the proxy made: frames in, in order."""

    def __init__(self, wire):
        self.wire, self.data, self.inflate, self.closed = wire, b"", Inflater(), False

    def send(self, *frames):
        self.wire.send(b"".join(frames))

    def fill(self, n):
        while len(self.data) < n:
            part = self.wire.recv(30)
            if not part:
                raise ConnectionError("ended")
            self.data += part
        out, self.data = self.data[:n], self.data[n:]
        return out

    def frame(self):
        """(kind, flags, stream, payload)"""
        head = self.fill(9)
        return head[3], head[4], int.from_bytes(head[5:9], "big"), self.fill(int.from_bytes(head[:3], "big"))


class Server:
    """Plays `script(server, wire, stream, fields)` for each request's head; `began(wire)` stands for our SETTINGS. A connection
    that chose HTTP/1.1 gets 200 for each request (`old`: their heads), once `hold` of them came. The first `stalls` connections
    get no byte."""

    def __init__(self, script, plain=False, alpn=("h2",), began=None, hold=0, stalls=0):
        self.script, self.plain, self.began, self.hold, self.stalls = script, plain, began, hold, stalls
        self.seen, self.frames, self.wires, self.ended, self.old, self.accepted = [], [], [], 0, [], []
        self.context = peers.server_context(sallyport.certs(), "ok")
        self.context.set_alpn_protocols(list(alpn))
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.sock.getsockname()[1]
        peers.each_connection(self.sock, self.serve)

    def serve(self, sock):
        wire = peers.Wire(sock)
        self.accepted.append(sock)
        try:
            if sock in self.accepted[:self.stalls]:
                while wire.recv(60):
                    pass
                return
            if not self.plain:
                wire.start_tls(self.context, server_side=True)
                while wire.tls.selected_alpn_protocol() == "http/1.1":
                    if not (came := peers.read_head(wire.recv)):
                        raise ConnectionError
                    head, _, body = came.partition(b"\r\n\r\n")
                    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                    while length and len(body) < int(length[1]):       # it may come in another read
                        more = wire.recv()
                        if not more:
                            raise ConnectionError
                        came, body = came + more, body + more
                    self.old.append(came)
                    wait(lambda: len(self.old) >= self.hold, 30, what="requests on as many connections")
                    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
            w = Wire(wire)
            self.wires.append(w)
            assert w.fill(len(PREFACE)) == PREFACE
            (self.began or (lambda w: w.send(frame(SETTINGS))))(w)
            while True:
                kind, flags, stream, payload = w.frame()
                self.frames.append((kind, flags, stream, payload))
                if kind == SETTINGS and not flags & ACK:
                    w.send(frame(SETTINGS, ACK))
                elif kind == PING and not flags & ACK:
                    w.send(frame(PING, ACK, 0, payload))
                elif kind == HEADERS:
                    while not flags & END_HEADERS:
                        _, flags, _, more = w.frame()
                        payload += more
                    fields = w.inflate.fields(payload)
                    self.seen.append(fields)
                    self.script(self, w, stream, fields)
        except (OSError, ConnectionError, TimeoutError, ValueError, AssertionError):
            pass
        finally:
            self.ended += 1
            wire.sock.close()

    def resets(self):
        return {s: int.from_bytes(p, "big") for k, _, s, p in self.frames if k == RST}


def head(stream, *fields, end=False):
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(*(fields or OK)))


def ok(server, w, stream, fields):
    w.send(head(stream), frame(DATA, END_STREAM, stream, b"ok"))


def arrange(t, server, **options):
    """The proxy, with `server` behind api.test, and an HTTP/1.1 server behind other.test."""
    s, up = t.proxy(serve=False, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}, credentials=[
        {"name": "api", "host": "api.test", "secrets": {"token": TOKEN}, **options}],
        domains=[{"host": "other.test"}])
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{server.port}",
            "--connect-to", f"other.test:443:127.0.0.1:{up.port}")
    return s


def raw(n, kind, flags=0, stream=0):
    return struct.pack(">I", n)[1:] + bytes([kind, flags]) + struct.pack(">I", stream)


# What an upstream does in place of an answer: (bytes, how often at most). Each ends its connection.
ATTACKS = {
    "CONTINUATION flood": lambda n: ([frame(HEADERS, 0, n, block(*OK)), frame(CONTINUATION, 0, n, block(("a", "b" * 1000)))], 20000),
    "empty CONTINUATION flood": lambda n: ([frame(HEADERS, 0, n, block(*OK)), frame(CONTINUATION, 0, n)], 20000),
    "HPACK bomb": lambda n: ([frame(HEADERS, END_HEADERS, n, block(*OK) + b"\x40" + number(1, 7) + b"b" + number(3900, 7) + b"v" * 3900 +
                                    b"\xbe" * 10000)], 20),
    "SETTINGS flood": lambda n: ([b"", frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100))], 20000),
    "PING flood": lambda n: ([b"", frame(PING, 0, 0, b"12345678")], 20000),
    "PING ACK flood": lambda n: ([b"", frame(PING, ACK, 0, b"12345678")], 20000),
    "PRIORITY flood": lambda n: ([b"", frame(PRIORITY, 0, n, b"\0\0\0\0\1")], 20000),
    "WINDOW_UPDATE flood": lambda n: ([b"", frame(WINDOW, 0, 0, struct.pack(">I", 1))], 20000),
    "empty DATA flood": lambda n: ([head(n), frame(DATA, 0, n)], 20000),
    "padded DATA flood": lambda n: ([head(n), frame(DATA, PADDED, n, b"\x20x" + b"\0" * 32)], 20000),
    "one-byte DATA flood": lambda n: ([head(n), frame(DATA, 0, n, b"x")], 20000),
    "flood of frames of an unknown type": lambda n: ([b"", frame(0xfa, 0, 0)], 20000),
    "flood of frames of an unknown type on a stream": lambda n: ([b"", frame(0x0b, 0xff, n, b"x")], 20000),
    "empty DATA flood on a stream that is over": lambda n: ([head(n, end=True), frame(DATA, 0, n)], 20000),
    "HEADERS flood on a stream that is over": lambda n: ([head(n, end=True), head(n, end=True)], 20000),
    "RST flood": lambda n: ([b"", frame(RST, 0, n, struct.pack(">I", 8))], 20000),
    "1xx flood": lambda n: ([b"", head(n, (":status", "103"), ("link", "x" * 900))], 20000),
    "a stream id never opened": lambda n: ([head(n + 100)], 1),
    "DATA on a stream never opened": lambda n: ([frame(DATA, 0, n + 100, b"x")], 1),
    "a stream id of the server's": lambda n: ([head(2)], 1),
    "PUSH_PROMISE": lambda n: ([frame(PUSH, END_HEADERS, n, struct.pack(">I", 2) + block((":method", "GET"), (":scheme", "https"),
                                                                                        (":authority", "api.test"), (":path", "/")))], 1),
    "SETTINGS that allow a push": lambda n: ([frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 1))], 1),
    "DATA before HEADERS": lambda n: ([frame(DATA, 0, n, b"x")], 1),
    "a frame over 16 KiB": lambda n: ([head(n), raw(16385, DATA, 0, n) + b"x" * 16385], 1),
    "a window over 2^31": lambda n: ([frame(WINDOW, 0, 0, struct.pack(">I", 0x7fffffff))], 1),
    "a window update of 0": lambda n: ([frame(WINDOW, 0, 0, b"\0\0\0\0")], 1),
    "CONTINUATION without HEADERS": lambda n: ([frame(CONTINUATION, END_HEADERS, n, block(*OK))], 1),
    "broken HPACK": lambda n: ([frame(HEADERS, END_HEADERS, n, b"\xff\xff\xff\xff\xff")], 1),
}


def test_attacks(t):
    """floods and forbidden frames by an upstream, each by its name: its connection ends, other requests of the agent wait for 50 ms at most, memory is bounded"""
    doing = []

    def attack(server, w, n, fields):
        first, times = ATTACKS[doing[-1]](n)
        w.send(first[0] if times > 1 and len(first) > 1 else first[-1])
        at_once = min(times, 1 + 100_000 // len(first[-1]))     # a flood, on a machine that does much else, too
        for _ in range(0, times, at_once):
            w.send(first[-1] * at_once)

    server, wrong = Server(attack), []
    s = arrange(t, server)
    other = Bystander(s, Client(s, host="other.test"), authority="other.test")
    before = stats(s)

    def one(name):
        doing.append(name)
        c, ended, begin = Client(s), server.ended, time.monotonic()
        n = c.ask()
        while server.ended == ended and time.monotonic() - begin < 6 * sallyport.SLOW:
            other.turn()
        if server.ended == ended:
            said = "the connection goes on"
        else:
            try:
                c.until(lambda: n in c.ended or n in c.resets or c.closed, what="the end of the request")
                said = dict(c.heads.get(n, [[]])[-1]).get(":status")
                said = None if n in c.resets or said == ("200" if "is over" in name else "502") else f"status {said}"
            except AssertionError as e:
                said = str(e)[:300]
        c.close()
        return said
    for name in ATTACKS:
        wrong += [(name, said) for said in other.beside(lambda: one(name))]
    grown = stats(s) - before
    assert not wrong, wrong
    assert grown < 16 * 1024 * sallyport.SLOW, f"{grown} KiB more"


BAD_HEADS = {
    "no status": [("x", "y")],
    "two statuses": [(":status", "200"), (":status", "200")],
    "a status behind a field": [("x", "y"), (":status", "200")],
    "a status of two digits": [(":status", "20")],
    "a status that is no number": [(":status", "2x0")],
    "a request's pseudo-header": [(":status", "200"), (":path", "/")],
    "an unknown pseudo-header": [(":status", "200"), (":x", "y")],
    "101": [(":status", "101")],
    "upper case": [(":status", "200"), ("X-A", "b")],
    "a space in a name": [(":status", "200"), ("x a", "b")],
    "a colon in a name": [(":status", "200"), ("x:a", "b")],
    "an empty name": [(":status", "200"), ("", "b")],
    "CR LF in a value": [(":status", "200"), ("x", "a\r\nset-cookie: b")],
    "LF in a value": [(":status", "200"), ("x", "a\nb")],
    "NUL in a value": [(":status", "200"), ("x", "a\0b")],
    "a space before a value": [(":status", "200"), ("x", " b")],
    "a space behind a value": [(":status", "200"), ("x", "b ")],
    "connection": [(":status", "200"), ("connection", "close")],
    "transfer-encoding": [(":status", "200"), ("transfer-encoding", "chunked")],
    "keep-alive": [(":status", "200"), ("keep-alive", "timeout=5")],
    "upgrade": [(":status", "200"), ("upgrade", "websocket")],
    "proxy-connection": [(":status", "200"), ("proxy-connection", "close")],
    "two lengths": [(":status", "200"), ("content-length", "2"), ("content-length", "2")],
    "a length that is no number": [(":status", "200"), ("content-length", "+2")],
    "a length over what comes": [(":status", "200"), ("content-length", "3")],
    "a length below what comes": [(":status", "200"), ("content-length", "1")],
    "a head of 65 KiB": [(":status", "200"), *((f"x{i}", "v" * 1000) for i in range(66))],
    "101 fields": [(":status", "200"), *((f"x{i}", "v") for i in range(101))],
}


def test_heads(t):
    """malformed heads of answers by RFC 9113 8.2 and 8.3, a length that is not what comes: 502 or a reset, and the connection goes on"""
    doing = []

    def bad(server, w, n, fields):
        if not doing:
            return ok(server, w, n, fields)
        b = block(*BAD_HEADS[doing[-1]])
        w.send(frame(HEADERS, END_HEADERS if len(b) <= 16384 else 0, n, b[:16384]), *(frame(
            CONTINUATION, END_HEADERS if i + 16384 >= len(b) else 0, n, b[i:i + 16384]) for i in range(16384, len(b), 16384)))
        w.send(frame(DATA, END_STREAM, n, b"ok"))

    server, wrong = Server(bad), []
    s = arrange(t, server)
    c = Client(s)
    for name in BAD_HEADS:
        doing.append(name)
        a = c.answer(c.ask())
        if not isinstance(a, str) and a[0] != 502:
            wrong.append((name, a))
    doing.clear()
    assert not wrong, wrong
    assert c.status(c.ask()) == 200 and len(server.wires) == 1, len(server.wires)


def test_messages(t):
    """1xx, HEAD, 204, 304, trailers, a length, none; fields and methods as they came; one connection"""
    def answer(server, w, n, fields):
        path = dict(fields)[":path"]
        if path == "/early":
            w.send(head(n, (":status", "103"), ("link", "</a>")), head(n), frame(DATA, END_STREAM, n, b"late"))
        elif path == "/head":
            w.send(head(n, (":status", "200"), ("content-length", "5"), end=True))
        elif path in ("/204", "/304"):
            w.send(head(n, (":status", path[1:]), ("x", "y"), end=True))
        elif path == "/204late":
            w.send(head(n, (":status", "204")), frame(DATA, END_STREAM, n))
        elif path == "/length":
            w.send(head(n, (":status", "200"), ("content-length", "5")), frame(DATA, 0, n, b"he"), frame(DATA, END_STREAM, n, b"llo"))
        elif path == "/trailers":
            w.send(head(n), frame(DATA, 0, n, b"body"), head(n, ("x-sum", "7"), end=True))
        elif path == "/cookies":
            w.send(head(n, (":status", "200"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), end=True))
        elif path == "/refuses":                # RFC 9113 8.1: the answer is whole, and the body is not wanted
            w.send(head(n, (":status", "413"), end=True), frame(RST, 0, n, struct.pack(">I", 0)))
        else:
            ok(server, w, n, fields)

    server = Server(answer)
    s = arrange(t, server)
    c = Client(s)
    n = c.ask(("x-own", "1"), ("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"), path="/early?q=%2F")
    assert c.status(n) == 200
    got = dict(server.seen[0])
    assert got == {":method": "GET", ":scheme": "https", ":authority": "api.test", ":path": "/early?q=%2F", "x-own": "1",
                   "te": "trailers", "cookie": "a=1; b=2", "authorization": f"Bearer {TOKEN}"}, got
    n = c.ask(path="/early")
    assert c.answer(n)[2] == b"late" and dict(c.heads[n][0])[":status"] == "103", c.heads[n]
    status, fields, body, _ = c.answer(c.ask(path="/head", method="HEAD"))
    assert (status, fields["content-length"], body) == (200, "5", b"")
    for path, want in (("/204", 204), ("/304", 304), ("/204late", 204)):
        status, _, body, _ = c.answer(c.ask(path=path))
        assert (status, body) == (want, b""), (path, status, body)
    status, fields, body, _ = c.answer(c.ask(path="/length"))
    assert (fields["content-length"], body) == ("5", b"hello")
    _, fields, body, trailers = c.answer(c.ask(path="/trailers"))
    assert body == b"body" and trailers == {"x-sum": "7"} and "content-length" not in fields
    n = c.ask(path="/cookies")
    c.answer(n)
    assert [v for k, v in c.heads[n][0] if k == "set-cookie"] == ["a=1", "b=2"]
    assert c.status(c.ask(path="/refuses", method="POST", end=False)) == 413
    assert c.status(c.ask(path="/last")) == 200 and len(server.wires) == 1
    records = s.records()
    assert all(r["h2"] and r["upstream_h2"] for r in records), records
    assert s.request(target="/one").status == 502        # an HTTP/1.1 client: the server offers HTTP/2 alone


def test_one_connection(t):
    """40 requests share one connection; two agents have one each; an HTTP/1.1 client uses it where upstream-http=2 says so"""
    def script(server, w, n, fields):
        while dict(fields)[":path"] == "/old" and server.frames[-1][0] != DATA:        # else the answer may overtake the body
            server.frames.append(w.frame())
        ok(server, w, n, fields)

    server = Server(script)
    s = arrange(t, server, **{"upstream-http": "2"})
    c = Client(s)
    assert c.status(c.ask()) == 200
    ids = [c.ask(path=f"/{i}") for i in range(40)]
    assert [c.status(i) for i in ids] == [200] * 40 and len(server.wires) == 1, len(server.wires)
    r = s.request(target="/old", method="POST", body=b"abc")
    assert r.status == 200 and len(server.wires) == 1, (r.status, len(server.wires))
    assert [p for k, _, _, p in server.frames if k == DATA and p] == [b"abc"]
    s.agent("b")
    w = s.tunnel(auth=s.auth(name="b"))
    assert s.request(target="/other", wire=w).status == 200 and len(server.wires) == 2
    assert s.wait_record({"path": "/other", "agent": "b", "upstream_h2": True})
    c, had = Client(s, host="api.test"), len(server.wires)
    ids = [c.ask(path=f"/more{i}") for i in range(20)]
    assert [c.status(i) for i in ids] == [200] * 20 and len(server.wires) == had


def at_once(t, wait_for, **servers):
    """The proxy, and a client for each server, which is behind NAME.test. What waits for another's connection does so for a quarter
    of `wait_for`."""
    s, _ = t.proxy(serve=False, credentials=[{"name": "any", "host": "*.test", "secrets": {"token": TOKEN}}])
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--dial-timeout", wait_for,
            *(x for name, port in servers.items() for x in ("--connect-to", f"{name}.test:443:127.0.0.1:{port}")))
    return s, *(Client(s, host=f"{name}.test") for name in servers)


def hold(n, began=None):
    """A server that answers the first n requests when all of them came, and one for /up when its body did, and later ones at
    once; and [the most that one connection had then]."""
    lock, held, most = threading.Lock(), [], [0]

    def script(server, w, i, fields):
        with lock:
            held.append((dict(fields)[":path"] == "/up", w, i))
            came = len(held)
        if came < n:
            return
        if came > n:
            return ok(server, w, i, fields)
        most[0] = max(sum(y is x for _, y, _ in held) for _, x, _ in held)
        for up, w, i in sorted(held, key=lambda one: one[0]):
            while up and w.frame()[:2] != (DATA, END_STREAM):
                pass
            ok(server, w, i, fields)

    return Server(script, began=began), most


def test_at_once(t):
    """32 requests at once that find no connection, one of them with a body to come: they wait for one dial, and share one connection, as later ones do"""
    server, _ = hold(32)
    s, c = at_once(t, "4m", api=server.port)
    ids = [c.ask(path=f"/{i}") for i in range(31)]
    up = c.ask(("content-length", "3"), path="/up", method="POST", end=False)
    assert [c.status(i) for i in ids] == [200] * 31
    c.send(frame(DATA, END_STREAM, up, b"abc"))
    assert c.status(up) == 200 and len(server.accepted) == 1, len(server.accepted)
    ids = [c.ask(path=f"/more{i}") for i in range(32)]
    assert [c.status(i) for i in ids] == [200] * 32 and len(server.accepted) == 1, len(server.accepted)
    wait(lambda: len(s.records()) == 64, what="the records")
    assert all(r["upstream_h2"] for r in s.records())


def test_at_once_apart(t):
    """two agents, and a server that never finishes their first handshakes: each agent's requests wait for its own dial, and share its own connection; a proxy that is told to end answers what waits, and ends"""
    server, _ = hold(14)
    server.stalls, seen, answer = 2, set(), server.script
    server.script = lambda server, w, n, fields: (seen.add((w, dict(fields)[":path"])), answer(server, w, n, fields))
    s, a = at_once(t, "4m", api=server.port)
    s.agent("b")
    b = Client(s, wire=s.tunnel("api.test", context=s.client_context(alpn=["h2"]), auth=s.auth(name="b")))
    first = [(c, c.ask(path="/first")) for c in (a, b)]
    wait(lambda: len(server.accepted) == 2, what="a dial of each agent")
    ids = [(c, c.ask(path=path)) for c, path in ((a, "/a"), (b, "/b")) for _ in range(7)]
    assert a.lives() and b.lives()              # all was read
    s.process.terminate()
    for c, n in first:
        c.send(frame(RST, 0, n, struct.pack(">I", 8)))  # another dials, for all of its agent
    assert [c.status(n) for c, n in ids] == [200] * 14
    assert len(server.accepted) == 4 and len(seen) == 2 == len({w for w, _ in seen}) and {p for _, p in seen} == {"/a", "/b"}, seen
    s.process.wait(20 * sallyport.SLOW)


def test_at_once_few(t):
    """32 requests at once to a server that takes 4 streams: none of its connections sees a fifth, none is refused, all are in progress at once"""
    server, most = hold(32, began=lambda w: w.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 4))))
    s, c = at_once(t, "4m", few=server.port)
    ids = [c.ask(authority="few.test") for _ in range(32)]
    assert [c.status(i) for i in ids] == [200] * 32
    assert most[0] == 4 and 8 <= len(server.accepted) <= 29 and len(server.seen) == 32, (most, len(server.accepted), len(server.seen))


def test_at_once_not(t):
    """32 requests at once where no connection of HTTP/2 comes of the first dial: its server chose HTTP/1.1, and has 32 connections; it refuses"""
    server = Server(ok, alpn=("http/1.1",), hold=32)
    s, old, gone = at_once(t, "4m", old=server.port, gone=free_port())
    ids = [old.ask(authority="old.test") for _ in range(32)]
    answers = [old.answer(i) for i in ids]
    assert [(a[0], a[2]) for a in answers] == [(200, b"old")] * 32 and len(server.accepted) == 32, (answers, len(server.accepted))
    ids = [gone.ask(authority="gone.test") for _ in range(32)]
    answers = [gone.answer(i) for i in ids]
    assert all(a[0] == 502 and b"connection refused" in a[2] for a in answers), answers


def test_at_once_hangs(t):
    """a server that never finishes its first handshake: the others wait for a quarter of dial-timeout, and dial; what is cancelled leaves, or ends with its agent's connection"""
    hangs, left, goes = Server(ok, stalls=1), Server(ok, stalls=2), Server(ok, stalls=1)
    s, c = at_once(t, "4s", hangs=hangs.port)
    s2, b, d = at_once(t, "4m", left=left.port, goes=goes.port)

    def ask(client, server, host, dials):
        """8 streams, of which the first has begun to dial, and the last has a body to come"""
        first = client.ask(authority=host)
        wait(lambda: len(server.accepted) == dials, what="the dial")
        return first, [client.ask(authority=host) for _ in range(6)] + [client.ask(method="POST", authority=host, end=False)]

    def reset(*streams):
        return b"".join(frame(RST, 0, i, struct.pack(">I", 8)) for i in streams)

    hung, others = ask(c, hangs, "hangs.test", 1)
    first, waiting = ask(b, left, "left.test", 1)
    b.send(reset(*waiting, first))
    wait(lambda: left.ended == 1, what="the end of the first dial")
    assert b.lives() and len(left.accepted) == 1, len(left.accepted)
    ask(b, left, "left.test", 2)
    b.close()
    wait(lambda: left.ended == 2, what="the end of the second dial")
    b = Client(s2, host="left.test")
    assert b.status(b.ask(authority="left.test")) == 200 and len(left.accepted) == 3, len(left.accepted)
    first, waiting = ask(d, goes, "goes.test", 1)
    d.send(reset(first))                        # another dials, for all that wait
    assert [d.status(i) for i in waiting] == [200] * 7 and len(goes.accepted) == 2, len(goes.accepted)
    assert [c.status(i) for i in others] == [200] * 7 and len(hangs.accepted) >= 2
    c.send(reset(hung))
    wait(lambda: hangs.ended >= 1, what="the end of the connection that hangs")
    assert s.alive() and s2.alive()


def test_at_once_deaf(t):
    """a server that never sends SETTINGS: the second request waits for a quarter of dial-timeout, and dials; those behind it dial at once"""
    server = Server(lambda *_: None, began=lambda w: None)
    s, c = at_once(t, "16s", deaf=server.port)
    for i in range(6):
        n = c.ask(authority="deaf.test")
        wait(lambda: len(server.seen) == i + 1, 30, what=f"request {i}")
        since = since if i > 1 else time.monotonic()
    assert time.monotonic() - since < 16, "each of four waited for 4 s"
    assert len(server.accepted) == 6 and n not in c.ended, len(server.accepted)


def test_http1(t):
    """a server that chooses HTTP/1.1, or knows no ALPN: 20 requests at once are answered, and later ones find the pooled connections"""
    s, up = t.proxy(credentials=[{"name": "api", "host": "api.test", "secrets": {"token": TOKEN}}], upstream={"alpn": ["http/1.1"], "reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    c = Client(s)
    ids = [c.ask(path=f"/{i}") for i in range(20)]
    assert [c.status(i) for i in ids] == [200] * 20
    had = up.connections
    assert had <= 20, had
    for i in range(5):
        assert c.status(c.ask(path=f"/later{i}")) == 200
    assert up.connections == had and not any("upstream_h2" in r for r in s.records())


def test_retries(t):
    """what the server has not begun is sent again once, on another connection: REFUSED_STREAM, GOAWAY; what it may have begun is not"""
    def script(server, w, n, fields):
        path, first = dict(fields)[":path"], len(server.wires) == 1
        if not first:
            return ok(server, w, n, fields)
        if path == "/refused":
            w.send(frame(RST, 0, n, struct.pack(">I", 7)))
        elif path == "/goaway":
            w.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
        elif path == "/begun":
            w.send(frame(GOAWAY, 0, 0, struct.pack(">II", n, 0)))
            raise ConnectionError
        elif path == "/cancelled":
            w.send(frame(RST, 0, n, struct.pack(">I", 8)))
        elif path == "/closes":
            raise ConnectionError

    for path, method, want, wires in (("/refused", "GET", 200, 2), ("/refused", "DELETE", 200, 2), ("/goaway", "PATCH", 200, 2),
                                      ("/begun", "POST", 502, 1), ("/cancelled", "GET", 502, 1), ("/closes", "GET", 502, 1)):
        server = Server(script)
        s = arrange(t, server)
        c = Client(s)
        status, fields, body, _ = c.answer(c.ask(path=path, method=method))
        assert (status, len(server.wires)) == (want, wires), (path, status, body, len(server.wires))
        if want == 502:
            assert fields["x-sallyport-error"] == "upstream_unreachable", fields
        s.stop()
    server = Server(lambda server, w, n, fields: w.send(frame(RST, 0, n, struct.pack(">I", 7))))     # and not for ever
    s = arrange(t, server)
    c = Client(s)
    status, _, body, _ = c.answer(c.ask())
    assert status == 502 and b"REFUSED_STREAM" in body and len(server.seen) == 2, (status, body, len(server.seen))


def test_http_1_1_required(t):
    """RFC 9113 7: a server that wants HTTP/1.1 is asked again over it, and no more over HTTP/2, by a reset or by GOAWAY; a body that is gone is not sent again"""
    def script(server, w, n, fields):
        w.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 13)) if fields[2][1].startswith("away") else frame(RST, 0, n, struct.pack(">I", 13)))

    server = Server(script, alpn=("h2", "http/1.1"))
    s, _ = t.proxy(serve=False, credentials=[{"name": "reset", "host": "*.test", "secrets": {"token": TOKEN}}])
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(x for h in ("api.test", "away.test", "post.test")
                                                               for x in ("--connect-to", f"{h}:443:127.0.0.1:{server.port}")))
    for host in ("api.test", "away.test"):
        c = Client(s, host=host)
        for path in ("/first", "/second"):
            status, _, body, _ = c.answer(c.ask(path=path, authority=host))
            assert (status, body) == (200, b"old"), (host, path, status, body)
        c.close()
    assert len(server.seen) == 2 and len(server.old) == 4, (server.seen, server.old)
    assert all(f"authorization: Bearer {TOKEN}".encode() in head for head in server.old), server.old
    assert not any("upstream_h2" in r for r in s.records()), s.records()
    c = Client(s, host="post.test")             # a body that streamed was not kept: the next request is right at once
    for want in (502, 200):
        n = c.ask(("content-length", "3"), method="POST", authority="post.test", end=False)
        c.send(frame(DATA, END_STREAM, n, b"abc"))
        a = c.answer(n)
        assert a[0] == want and (want == 200 or b"HTTP_1_1_REQUIRED" in a[2]), a
    assert len(server.seen) == 3 and server.old[-1].endswith(b"abc"), server.old[-1]


def test_tainted(t):
    """a connection that saw NTLM or Negotiate is no other request's: what runs is answered, what comes has another connection"""
    held = []

    def script(server, w, n, fields):
        path = dict(fields)[":path"]
        if path == "/slow":
            held.append((w, n))
        elif path == "/asks":
            w.send(head(n, (":status", "401"), ("www-authenticate", "Negotiate"), end=True))
        else:
            ok(server, w, n, fields)

    server = Server(script)
    s = arrange(t, server)
    c = Client(s)
    assert c.status(c.ask()) == 200
    slow = c.ask(path="/slow")
    wait(lambda: held, what="the slow request")
    assert c.status(c.ask(path="/asks")) == 401 and len(server.wires) == 1
    assert [c.status(c.ask(path="/next")) for _ in range(3)] == [200] * 3 and len(server.wires) == 2, len(server.wires)
    held[0][0].send(head(held[0][1]), frame(DATA, END_STREAM, held[0][1], b"late"))
    assert c.answer(slow)[2] == b"late"
    wait(lambda: server.ended == 1, what="the end of the connection that is tainted")
    assert c.status(c.ask(("authorization", "NTLM TlRMTVNTUAAB"), path="/sends")) == 200
    wait(lambda: server.ended == 2, what="the end of the second one")
    assert c.status(c.ask(path="/last")) == 200 and len(server.wires) == 3


def test_long_heads(t):
    """60 requests of 60 KiB each that wait for their answers: a head is kept once, wherever it is long"""
    held = []
    server = Server(lambda server, w, n, fields: held.append((w, n)))
    s = arrange(t, server)
    c, before, ids = Client(s), stats(s), []
    for i in range(60):
        n = c.next_id()
        ids.append(n)
        b = block(*request(path="/" + "p" * (i % 2 * 60_000)), *(() if i % 2 else [("x-long", "v" * 60_000)]))
        c.send(b"".join(frame(CONTINUATION if k else HEADERS, (0 if k else END_STREAM) | (END_HEADERS if k + 16384 >= len(b) else 0), n,
                              b[k:k + 16384]) for k in range(0, len(b), 16384)))
    wait(lambda: len(held) == 60, what="60 requests")
    grown = stats(s) - before
    for w, n in held:
        ok(server, w, n, None)
    assert [c.status(n) for n in ids] == [200] * 60
    assert "asan" in str(t.binary) or grown < 7 * 1024 * sallyport.SLOW, f"{grown} KiB more"


def test_goaway(t):
    """a server that says GOAWAY: what runs is answered, what comes has another connection"""
    held = []

    def script(server, w, n, fields):
        if dict(fields)[":path"] == "/slow":
            held.append((w, n))
            w.send(head(n), frame(DATA, 0, n, b"a"), frame(GOAWAY, 0, 0, struct.pack(">II", n, 0)))
        else:
            ok(server, w, n, fields)

    server = Server(script)
    s = arrange(t, server)
    c = Client(s)
    n = c.ask(path="/slow")
    c.until(lambda: c.bodies.get(n) == b"a", what="the first byte")
    assert c.status(c.ask(path="/next")) == 200 and len(server.wires) == 2
    held[0][0].send(frame(DATA, END_STREAM, held[0][1], b"b"))
    assert c.answer(n)[2] == b"ab"
    wait(lambda: server.ended == 1, what="the end of the first connection")


def test_bounds(t):
    """a server that lets 3 streams be open at once never sees more of those that come later; these have connections of their own"""
    held, most = {}, [0]

    def script(server, w, n, fields):
        held.setdefault(w, []).append(n)
        most[0] = max(most[0], len(held[w]))
        if dict(fields)[":path"] == "/go":      # an answer to all that this connection holds
            for i in held.pop(w):
                ok(server, w, i, fields)

    server = Server(script, began=lambda w: w.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 3))))
    s = arrange(t, server)
    c = Client(s)
    assert c.status(c.ask(path="/go")) == 200
    ids = []
    for i in range(9):
        ids.append(c.ask(path=f"/{i}"))
        wait(lambda: sum(len(x) for x in held.values()) == i + 1, what="the request")
    assert most[0] <= 3 and len(server.wires) == 3, (most, len(server.wires))
    c.send(b"".join(frame(RST, 0, i, struct.pack(">I", 8)) for i in ids))
    wait(lambda: len(server.resets()) >= 3, what="the reset streams")


def test_windows(t):
    """a server whose windows never open, and a client whose do not: what waits is bounded, the idle time ends it, a client that leaves resets the stream"""
    big = b"z" * 16384

    def script(server, w, n, fields):
        if dict(fields)[":path"] == "/down":
            w.send(head(n))
            try:
                for _ in range(8):              # half of the stream's window
                    w.send(frame(DATA, 0, n, big))
            except OSError:
                pass
        elif dict(fields)[":path"] == "/":
            ok(server, w, n, fields)

    server = Server(script, began=lambda w: w.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))))
    s = arrange(t, server, **{"idle-timeout": "2s"})
    c = Client(s)
    assert c.status(c.ask()) == 200             # its SETTINGS have come
    n = c.ask(method="POST", path="/up", end=False)
    c.turn(0.5)
    c.send(frame(DATA, 0, n, b"u" * 16384) * 3)
    a = c.answer(n)
    assert a[0] == 504, a
    assert not [p for k, _, _, p in server.frames if k == DATA and p]
    wait(lambda: server.resets(), what="the reset stream")
    server = Server(script)
    s = arrange(t, server)
    before = stats(s)
    c = Client(s, settings=struct.pack(">HI", 4, 0))
    ids = [c.ask(path="/down") for _ in range(40)]
    c.until(lambda: len(c.heads) == 40, what="40 heads")
    time.sleep(0.3)
    grown = stats(s) - before           # 10 to 13 MB; what the sanitizer keeps of freed blocks makes 23 to 26 of them
    assert grown < (48 if "asan" in str(t.binary) else 16 * sallyport.SLOW) * 1024, f"{grown} KiB more"
    had = len(server.resets())
    c.send(b"".join(frame(RST, 0, i, struct.pack(">I", 8)) for i in ids[:20]))
    wait(lambda: len(server.resets()) >= had + 20, what="20 reset streams")
    assert set(list(server.resets().values())[had:had + 20]) == {8}


def test_silence(t):
    """a stream of gRPC may be silent longer than idle-timeout, with the head of its answer or without; another is cut then, and so is one of gRPC with bytes that wait"""
    held = []

    def script(server, w, n, fields):
        path = dict(fields)[":path"]
        if path == "/go":
            w.send(*[head(i) for i, begun in held if not begun], *[frame(DATA, 0, i, b"late") for i, _ in held],
                   *[head(i, ("grpc-status", "0"), end=True) for i, _ in held])
            ok(server, w, n, fields)
        elif path == "/stalls":
            w.send(head(n), frame(DATA, 0, n, b"z" * 16384))
        else:
            if path != "/mute":
                w.send(head(n))
            if path != "/other":
                held.append((n, path != "/mute"))

    server = Server(script)
    s = arrange(t, server, **{"idle-timeout": "1s"})
    c = Client(s, settings=struct.pack(">HI", 4, 5000))
    grpc = ("content-type", "application/grpc"), ("te", "trailers")
    ids = [c.ask(*grpc, method="POST", path=path, end=False) for path in ("/begun", "/mute")]
    c.until(lambda: ids[0] in c.heads and len(held) == 2, what="the head")
    c.window = False
    for path, fields in ("/other", ()), ("/stalls", grpc), ("/other", ()):
        n = c.ask(*fields, method="POST", path=path, end=False)
        c.until(lambda: n in c.resets, what=f"the end of {path}")
    c.window = True
    assert c.status(c.ask(path="/go")) == 200
    assert [c.answer(n)[2:] for n in ids] == [(b"late", {"grpc-status": "0"})] * 2 and not set(ids) & set(c.resets)
    c.send(b"".join(frame(RST, 0, n, struct.pack(">I", 8)) for n in ids))
    wait(lambda: len([r for r in s.records() if r["path"] in ("/begun", "/mute", "/other", "/stalls")]) == 5, what="the records")
    assert {(r["path"], r["error"]) for r in s.records() if r["path"] in ("/other", "/stalls")} == {
        ("/other", "client_timeout"), ("/stalls", "client_timeout")}, s.records()


def test_drain(t):
    """a proxy that ends says GOAWAY to the server of an idle connection"""
    server = Server(ok)
    s = arrange(t, server)
    c = Client(s)
    assert c.status(c.ask()) == 200
    c.close()
    s.process.terminate()
    s.process.wait(10)
    wait(lambda: server.ended == 1, what="the end")


def test_real_servers(t):
    """nginx and nghttpd with HTTP/2: 2,000 requests by h2load, each answered whole; an upload and a download of 20 MB"""
    t.need("nginx", "h2load", "curl", "nghttpd")
    s, _ = t.proxy(serve=False, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": TOKEN}},
                                             {"name": "ng", "host": "ng.test", "secrets": {"token": TOKEN}}])
    port = free_port()
    _, directory = nginx(t, s.dir, more=f"listen 127.0.0.1:{port} ssl http2;")
    big = bytes(range(256)) * 80_000
    (directory / "www" / "big").write_bytes(big)
    ng = free_port()
    pem = sallyport.certs() / "ok.pem"
    t.start(["nghttpd", "-d", directory / "www", "--echo-upload", ng, pem, pem], s.dir / "nghttpd.log")
    wait(lambda: reachable(ng), what="nghttpd")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{port}",
            "--connect-to", f"ng.test:443:127.0.0.1:{ng}")
    for host in ("api.test", "ng.test"):
        bridge = Bridge(s, host)
        r = subprocess.run(["h2load", "-n", "2000", "-c", "2", "-m", "30", f"--connect-to=127.0.0.1:{bridge.port}",
                            f"https://{host}/hello.txt"], capture_output=True, text=True, timeout=60 * sallyport.SLOW)
        assert "2000 succeeded, 0 failed" in r.stdout and "2xx" in r.stdout, r.stdout
        out = s.dir / "out"
        r = curl(s, "--http2", "-o", str(out), f"https://{host}/big")
        assert out.read_bytes() == big, (r, out.stat())
    big = big[:1_000_000]
    (s.dir / "up").write_bytes(big)
    r = curl(s, "--http2", "--data-binary", f"@{s.dir / 'up'}", "-o", str(out), "-w", "%{response_code}", "https://ng.test/echo")
    assert r.stdout == "200" and out.read_bytes() == big, (r, out.stat())
    assert all(r.get("upstream_h2") for r in s.records())


SESSION = """return { kind = "type", api = 1, name = "session", title = "A session",
  fields = { { name = "token", secret = true, required = true } },
  seal = { { method = "POST", path = "/session", members = { "token" }, ttl = "expires_in" } },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end }
"""
JUDGE = """return { kind = "rule", api = 1, name = "judge", title = "looks at answers",
  on_request = function(req, ctx) end,
  on_response = function(res, ctx) if res.headers:get("x-kind") == "secret" then return deny("it is secret") end end }
"""


def test_ways(t):
    """through an upstream proxy, with a client certificate; a token that is sealed and opened, and an answer that a rule refuses"""
    made = "canary-made-h2-session"

    def script(server, w, n, fields):
        path = dict(fields)[":path"]
        if path == "/session":
            w.send(head(n), frame(DATA, END_STREAM, n, json.dumps({"token": made, "expires_in": 600}).encode()))
        elif path == "/secret":
            w.send(head(n, (":status", "200"), ("x-kind", "secret")), frame(DATA, END_STREAM, n, b"CONTENT"))
        else:
            ok(server, w, n, fields)

    server, s = Server(script), t.bare()
    s.init()
    clients = Clients(s.dir)
    server.context.verify_mode = ssl.CERT_REQUIRED
    server.context.load_verify_locations(clients.home / "ca.pem")
    s.agent()
    for name, text in (("session", SESSION), ("judge", JUDGE)):
        (s.dir / f"{name}.lua").write_text(text)
        s.cli("policy", "put", s.dir / f"{name}.lua")
    s.cli("credential", "add", "api", "--type", "session", "--host", "api.test", f"token=@{s.secret_file(TOKEN)}", "mint=seal", *clients.make("me"))
    s.cli("rule", "add", "judge", "--type", "judge")
    corp = ConnectProxy({"api.test": server.port})
    s.cli("set", "upstream-proxy", corp.url)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem")
    c = Client(s)
    status, _, body, _ = c.answer(c.ask(method="POST", path="/session"))
    sealed = json.loads(body)["token"]
    assert status == 200 and made not in sealed, (status, body)
    assert c.status(c.ask(("authorization", f"Bearer {sealed}"), path="/opened")) == 200
    assert dict(server.seen[-1])["authorization"] == f"Bearer {made}", server.seen[-1]
    status, fields, body, _ = c.answer(c.ask(path="/secret"))
    assert (status, fields["x-sallyport-error"]) == (403, "rule_denied") and b"CONTENT" not in body, (status, body)
    assert c.status(c.ask()) == 200 and len(server.wires) == len(corp.heads) == 1, (server.wires, corp.heads)
    assert all(r["upstream_h2"] for r in s.records())
