"""The way back, against Python's own coders: each spelling of a secret that they write, cut in two at every byte, in one
streamed answer. A line is as long as it came, and nothing of the secret is in it that a reader of that spelling would find."""
import base64
import gzip
import html
import http.server
import os
import re
import subprocess
import time
import urllib.parse

import sallyport
import servers
from clients_test import environment

SECRET = 'k/"&]9z<%-0\\s+~canary-scrub-7'
RAW = SECRET.encode()


def forms():
    """(name, characters): the secret in one coding of the whole."""
    yield "plain", RAW
    yield "hexadecimal", RAW.hex().encode()
    yield "HEXADECIMAL", RAW.hex().upper().encode()
    for before in range(3):
        for name, code in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            yield f"{name} behind {before}", code(b"u:x"[:before] + RAW + b"?!"[:before])


def json_escape(c, how):
    plain = {'"': '\\"', "\\": "\\\\", "/": "\\/"}
    if how == "all" or (how == "some" and ord(c) % 3 == 0):
        return f"\\u{ord(c):04{'x' if ord(c) % 2 else 'X'}}"
    return plain.get(c, c)


def html_escape(c, how):
    if how == "all" or (how == "some" and ord(c) % 3 == 0):
        return f"&#x{ord(c):X};" if ord(c) % 2 else f"&#{ord(c)};"
    return html.escape(c)


def percent(b, how):
    out = b""
    for c in b:
        if how == "all" or (how == "some" and c % 3 == 0):
            out += f"%{c:02{'x' if c % 2 else 'X'}}".encode()
        else:
            out += urllib.parse.quote(bytes([c]), safe="").encode()
    return out


def spellings():
    """(name, bytes, what reads it back as Python does)"""
    for form, text in forms():
        chars = text.decode()
        yield f"{form}", text, lambda b: b
        for how in ("needed", "some", "all"):
            yield f"{form}, percent {how}", percent(text, how), urllib.parse.unquote_to_bytes
            yield f"{form}, percent twice {how}", percent(percent(text, how), "needed"), lambda b: urllib.parse.unquote_to_bytes(urllib.parse.unquote_to_bytes(b))
            yield f"{form}, JSON {how}", "".join(json_escape(c, how) for c in chars).encode(), \
                lambda b: re.sub(rb'\\(u[0-9a-fA-F]{4}|.)', lambda m: chr(int(m[1][1:], 16)).encode() if len(m[1]) > 1 else m[1], b)
            yield f"{form}, HTML {how}", "".join(html_escape(c, how) for c in chars).encode(), lambda b: html.unescape(b.decode(errors="replace")).encode()


PACKED = b" ".join(b"%d" % (i * i) for i in range(9000))
CASES = [(name, text, read, cut) for name, text, read in spellings() for cut in range(1, len(text))]


BOMB = gzip.compress(b"0" * (50 << 20))           # 1,000 times as long when it is unpacked


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.got.append(dict(self.headers))
        if self.path == "/splits":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            out = b""
            for _, text, _, cut in CASES:
                for part in (b"<" + text[:cut], text[cut:] + b">\n"):
                    out += b"%x\r\n%s\r\n" % (len(part), part)
            self.wfile.write(out + b"0\r\n\r\n")
            return
        if self.path == "/stall":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            part = b"data: " + b"x" * 900 + b"\n" + RAW[:20]  # each ends in what may become the secret
            try:
                for _ in range(30000):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                pass
            return
        if self.path == "/echo":
            body = b"%s, %s and %s" % (RAW, RAW.hex().encode(), RAW)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        body = BOMB if self.path == "/bomb" else gzip.compress(PACKED)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def arrange(t):
    server = servers.Recorder(Handler)
    s = t.bare()
    s.init()
    s.credential({"name": "key", "type": "api_key", "host": "api.test", "secrets": {"key": SECRET}, "fields": {"header": "X-Key"}})
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{server.server_port}")
    return s, server


def fetch(s, path, *flags):
    return subprocess.run(["curl", "-sS", "--max-time", "120", *flags, "https://api.test" + path], env=environment(s), capture_output=True, check=True).stdout


def wrong_splits(got):
    """What of the answer to /splits is not as it should be: (form, cut) -> line."""
    at, wrong = 0, {}
    shapes = {text for form, text in forms() if form == "plain" or form.startswith("hex")}
    for name, text, read, cut in CASES:
        line = got[at:at + len(text) + 3]
        at += len(text) + 3
        inner = line[1:-2]
        whole = read(inner)
        same = next((i for i, (a, b) in enumerate(zip(inner, text)) if a != b), len(text))
        later = sum(a == b for a, b in zip(inner[max(same, cut):], text[max(same, cut):]))
        left = len(text) - max(same, cut)
        padding = 30 if name.startswith("base64") else 0  # "=" and the characters of "?!", as they may be escaped: nothing of the secret
        # a beginning may have gone on: one of under 8 bytes at once, a longer one after 200 ms. Behind it as many characters
        # are overwritten; some are equal by chance
        # an escape that had begun goes on as one: all but its last two digits may be the same
        if line[:1] != b"<" or line[-2:] != b">\n" or same > max(cut, 28 if text[:1] in b"\\&" else 24) or later > 3 + left // 3 + padding or any(x in whole for x in shapes) \
                or RAW in base64_read(whole):
            wrong[name, cut] = line
    assert at == len(got), (at, len(got))
    return wrong


def test_every_split(t):
    """each spelling of Python's coders, cut at every byte, is overwritten and as long as it was"""
    t.need("curl")
    s, server = arrange(t)
    # A machine that pauses for 200 ms within a text lets its beginning go on, wherever it was cut: what is wrong is so each time.
    wrong = wrong_splits(fetch(s, "/splits"))
    assert server.got[-1]["X-Key"].encode("latin-1").decode() == SECRET
    for _ in range(2):
        if wrong:
            again = wrong_splits(fetch(s, "/splits"))
            wrong = {case: line for case, line in wrong.items() if case in again}
    assert not wrong, (len(wrong), len(CASES), list(wrong.items())[:5])
    records = [r for r in s.records() if r.get("scrubbed")]
    assert records and records[-1]["scrubbed"] >= len(CASES), records


def base64_read(text):
    """All that the text says in Base64, at each alignment of its characters."""
    out = b""
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", text.translate(bytes.maketrans(b"-_", b"+/")))
    for skip in range(4):
        part = letters[skip:]
        out += base64.b64decode(part[:len(part) // 4 * 4]) + b"\n"
    return out


def test_packed(t):
    """an answer that is packed goes on byte for byte, and curl --compressed reads it"""
    t.need("curl")
    s, server = arrange(t)
    assert fetch(s, "/packed", "--compressed") == PACKED
    sent = {name.lower(): value for name, value in server.got[-1].items()}
    assert sent["accept-encoding"] in ("deflate, gzip", "gzip, deflate", "deflate,gzip", "gzip,deflate"), server.got[-1]
    assert gzip.decompress(fetch(s, "/packed", "-H", "Accept-Encoding: gzip")) == PACKED
    # no coding is taken off: so the body is what its ETag says, which stays a strong one
    head, _, body = fetch(s, "/packed", "-H", "Accept-Encoding: gzip", "-i", "--suppress-connect-headers").partition(b"\r\n\r\n")
    fields = head.lower().split(b"\r\n")
    assert {b'etag: "one"', b"content-encoding: gzip", b"content-length: %d" % len(body)} <= set(fields) and gzip.decompress(body) == PACKED, head


def test_bomb(t):
    """an answer that becomes more than 200 times as long ends: it is neither passed unsearched nor unpacked to its end"""
    t.need("curl")
    s, _ = arrange(t)
    got = subprocess.run(["curl", "-sS", "--max-time", "60", "-H", "Accept-Encoding: gzip", "https://api.test/bomb"], env=environment(s), capture_output=True)
    assert got.returncode != 0 and len(got.stdout) < len(BOMB), (got.returncode, len(got.stdout), got.stderr)
    record = s.wait_record({"error": "scrub_hit"})
    assert record["path"] == "/bomb", record
    assert fetch(s, "/packed", "--compressed") == PACKED


def test_limit(t):
    """the eleventh request in a minute whose answer repeats the secret, and each behind it, is answered 502; each has one record, and an
    answer counts once, however often it has it"""
    s, server = arrange(t)
    for _ in range(14):
        s.request("GET", "/echo", auth=s.auth())
    end = time.monotonic() + 10 * sallyport.SLOW
    while len(records := [r for r in s.records() if r.get("path") == "/echo"]) < 14 and time.monotonic() < end:
        time.sleep(0.1)
    assert len({r["request"] for r in records}) == len(records) == 14, records
    assert [(r["status"], r.get("error")) for r in records] == [(200, None)] * 10 + [(502, "scrub_limit")] * 4, records
    assert all(r["scrubbed"] == 3 for r in records[:10]), records
    assert len(server.got) == 14
    assert s.request("GET", "/packed", auth=s.auth()).status == 200


def test_what_is_short_is_said(t):
    """add, show and doctor say where a short secret is not looked for, and a longer one ends that"""
    s, _ = t.proxy(serve=False)
    words = {"seven77": ("under 8 bytes", "nothing is searched"), "fifteen-letters": ("under 16 bytes", "no body is searched"), "sixteen-letters!": (None, None)}
    for i, (secret, (said, shown)) in enumerate(words.items()):
        file = s.secret_file(secret)
        added = s.cli("credential", "add", f"c{i}", "--type", "bearer", "--host", f"h{i}.test", f"token=@{file}")
        note = added.stderr + added.stdout
        show, doctor = s.cli("credential", "show", f"c{i}").stdout, s.cli("doctor", check=False).stdout
        if said:
            assert f"token is {said}" in note and shown in show and f"c{i}: token is {said}" in doctor, (note, show, doctor)
        else:
            assert "bytes" not in note and "heads and bodies are searched for it\n" in show and f"c{i}:" not in doctor, (note, show, doctor)
    s.cli("credential", "set", "c0", f"token=@{s.secret_file('a longer one, of a machine')}")
    assert "under" not in s.cli("credential", "show", "c0").stdout
    s.cli("credential", "set", "c0", "scrub=head")
    assert "scrub=head" in s.cli("credential", "show", "c0").stdout and "c0: no answer's body" in s.cli("doctor", check=False).stdout


def test_client_that_does_not_read(t):
    """what is held when a client stops reading waits without processor time, and goes on when it reads again"""
    t.need("curl")
    s, server = arrange(t)
    with subprocess.Popen(["curl", "-sS", "--max-time", "120", "https://api.test/stall"], env=environment(s), stdout=subprocess.PIPE) as curl:
        got = len(curl.stdout.read(1000))
        time.sleep(1.5)         # the buffers between are full now
        before = ticks(s)
        time.sleep(2)
        used = (ticks(s) - before) / os.sysconf("SC_CLK_TCK")
        assert used < 0.5, f"{used} s in 2 s of waiting"
        while more := len(curl.stdout.read(1 << 16)):
            got += more
    assert curl.returncode == 0 and got == 30000 * 927, (curl.returncode, got)


def ticks(s):
    """Of processor time that the workers had."""
    return sum(int(n) for pid in s.worker_pids() for n in open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
