"""Rules that read a body as it streams (lua/reading.lua): what is refused never reaches the upstream whole."""
import email
import json
import time
import urllib.parse

import sallyport

API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-reading-1"}}
OK = {"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}
RULE = """return {{ kind = "rule", api = 1, name = "{0}", title = "t", reader = {{ "json", "form", "multipart" }}, members = {{ "to", "list.*.to", "deep.a" }},
  on_request = function(req, ctx)
    local found, why = req.members()
    if not found then return req.has_body and deny("unreadable: " .. why) or nil end
    for _, path in ipairs {{ "to", "list.*.to", "deep.a" }} do
      for _, v in ipairs(found.values[path] or {{}}) do
        if v ~= "a@acme.com" and not (found.kind == "multipart" and path ~= "to") then return {1} end
      end
    end
  end }}"""
PAD = b"x" * 300000
KINDS = {"json": "application/json", "form": "application/x-www-form-urlencoded", "multipart": "multipart/form-data; boundary=b"}


def part(name, content):
    return b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, content)


def bodies(evil):
    """long bodies of each kind, the decisive member last"""
    to = b"x@evil.test" if evil else b"a@acme.com"
    return {
        "json": b'{"note":"%s","list":[{"to":"a@acme.com"}],"deep":{"a":"%s"} }' % (PAD, to),
        "form": b"note=%s&deep[a]=%s" % (PAD, to.replace(b"@", b"%40")),
        "multipart": part(b"note", PAD) + part(b"to" if evil else b"t", b"y") + b"--b--\r\n",
    }


def world(t, does='deny("no mail there")', **options):
    s, up = t.proxy(workers=1, credentials=[API], upstream=OK, **options)
    s.policy("reads", RULE.format("reads", does))
    s.cli("rule", "add", "reads", "--type", "reads")
    return s, up


def chunks(body, size=5000):
    return b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size)) + b"0\r\n\r\n"


def post(s, kind, body, chunked=False, headers=None, host="api.test"):
    headers = {"Content-Type": KINDS.get(kind, kind), **(headers or {})}
    if not chunked:
        return s.request(method="POST", headers=headers, body=body)
    w = s.tunnel(host)
    fields = "".join(f"{n}: {v}\r\n" for n, v in headers.items())
    data = chunks(body)                 # its terminator comes alone, as from whoever has no more to say for now
    w.send(f"POST / HTTP/1.1\r\nHost: {host}\r\n{fields}Transfer-Encoding: chunked\r\n\r\n".encode() + data[:-5])
    w.send(data[-5:])
    head = w.recv(15)
    w.close()
    status = int(head.split(b" ")[1])
    return type("R", (), {"status": status, "body": head, "get": lambda self, n: None})()


def until(what, seconds=10):
    end = time.monotonic() + seconds * sallyport.SLOW
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_late(t):
    """a long body streams, and its end goes on once the rule has spoken; what it refuses the upstream never has whole"""
    s, up = world(t)
    s.cli("credential", "set", "api", "keep=access_token")      # or a form is read whole, for that key of the agent's own
    for kind in KINDS:
        for chunked in (False, True):
            up.reset(OK)
            body = bodies(False)[kind]
            r = post(s, kind, body, chunked)
            assert r.status == 200 and [x.body for x in up.requests] == [body], (kind, chunked, r.status, r.body)
            assert up.requests[0].get("authorization") == "Bearer canary-reading-1"
            up.reset(OK)
            body = bodies(True)[kind]
            r = post(s, kind, body, chunked)
            assert r.status == 403 and b"rule reads: no mail there" in r.body, (kind, chunked, r.status, r.body)
            if kind == "form" and chunked:      # nothing but the terminator would be left to hold back
                assert up.requests == [] and up.cut == [] and up.plaintext == 0
                continue
            until(lambda: up.cut)
            assert up.requests == [] and len(up.cut) == 1, (kind, chunked)
            got = up.cut[0].raw_body
            assert len(got) > 200000 and not got.endswith(b"0\r\n\r\n"), (kind, chunked)
            if kind == "json":
                assert b"} }" not in got, "the end of the value is held back"
            if kind == "multipart":
                assert b"--b--" not in got, "the last delimiter is held back"
            if kind == "form":
                assert len(got) < len(body), "the last piece is held back"
    record = s.records()[-1]
    assert record["decision"] == "deny" and record["error"] == "rule_denied" and record["reason"] == "rule reads", record
    s.cli("set", "body-max", "128k")
    r = post(s, "form", bodies(False)["form"], True)
    assert r.status == 413 and up.requests == [], r.body
    assert not s.leaks()


def test_short(t):
    """a short body is held: of what is refused nothing goes out"""
    s, up = world(t)
    for kind in KINDS:
        for chunked in (False, True):
            up.reset(OK)
            body = bodies(False)[kind].replace(PAD, b"x" * 20000)
            assert post(s, kind, body, chunked).status == 200 and up.requests[0].body == body
            up.reset(OK)
            r = post(s, kind, bodies(True)[kind].replace(PAD, b"x" * 20000), chunked)
            assert r.status == 403 and up.connections <= 1 and up.requests == [] and up.cut == [] and up.plaintext == 0, (kind, r.body)


def test_evasions(t):
    """what servers may read in other ways is unreadable, in a long body as in a short one"""
    s, up = world(t)
    deep = b'{"x":' + b"[" * 70 + b"]" * 70 + b"}"
    for name, kind, body, why in (
            ("spaces behind the value, while a lax server has it whole", "json", b'{"to":"x@evil.test"}' + b" " * 400000, "no mail there"),
            ("a second value behind the first", "json", b'{"note":"%s"}{"to":"x@evil.test"}' % PAD, None),
            ("a member twice", "json", b'{"to":"x@evil.test","note":"%s","to":"a@acme.com"}' % PAD, "twice"),
            ("a member twice, in other letters", "json", b'{"to":"a@acme.com","note":"%s","\\u0054O":"x"}' % PAD, "twice"),
            ("no UTF-8", "json", b'{"note":"%s\xff"}' % PAD, "no JSON"),
            ("half a surrogate", "json", b'{"note":"%s\\ud800"}' % PAD, "no JSON"),
            ("nested too deep", "json", b'{"note":"%s","y":%s}' % (PAD, deep), "too deep"),
            ("a member that is too long", "json", b'{"note":"%s","to":"%s"}' % (PAD, b"y" * 5000), "too long"),
            ("a comment", "json", b'{"note":"%s"/*,*/}' % PAD, "no JSON"),
            ("a BOM", "json", b'\xef\xbb\xbf{"note":"%s"}' % PAD, "no JSON"),
            ("cut off", "json", b'{"note":"%s"' % PAD, "no JSON"),
            ("a form within JSON", "form", b'{"a":"&to=x@evil.test&b=%s"}' % PAD, "is JSON to servers"),
            ("JSON as a form", "form", b' {"to":"x@evil.test","b":"%s"}' % PAD, "is JSON to servers"),
            ("any brackets as borders", "form", b"note=%s&[to]=x" % PAD, "no mail there"),
            ("a pair behind a semicolon", "form", b"note=%s&a=1;to=x" % PAD, "different ways"),
            ("a pair within a long value", "form", b"note=%s;to=x&a=1" % PAD, "different ways"),
            ("a step with a dot, in brackets", "form", b"note=%s&list[a.b][to]=x" % PAD, "no mail there"),
            ("what qs drops, and a key's quotes", "form", b"note=%s&deep[x]y['a']=x&deep['a']=x" % PAD, "no mail there"),
            ("a pair before a semicolon", "form", b"note=%s&to;x=a%%40acme.com" % PAD, "different ways"),
            ("PHP's list", "form", b"note=%s&to[0]=x" % PAD, "no mail there"),
            ("half an escape", "form", b"note=%s&to=%%4" % PAD, "malformed"),
            ("another type", "text/plain", b'{"to":"a@acme.com","note":"%s"}' % PAD, "Content-Type"),
            ("another charset", "application/json; charset=utf-16", b'{"note":"%s"}' % PAD, "UTF-8"),
            ("no last delimiter", "multipart", part(b"note", PAD), "more than one way"),
            ("two kinds of line ends", "multipart", part(b"note", PAD) + b'--b\nContent-Disposition: form-data; name="to"\n\nx\n--b--\n', "more than one way"),
            ("a name in another notation", "multipart", part(b"note", PAD) + b"--b\r\nContent-Disposition: form-data; name*=utf-8''t%6f\r\n\r\nx\r\n--b--\r\n", "no mail there")):
        for size in (len(PAD), 100):
            up.reset(OK)
            r = post(s, kind, body.replace(PAD, PAD[:size]), chunked=size % 3 == 1)
            assert r.status == 403, (name, size, r.status, r.body)
            if why:
                assert why.encode() in r.body, (name, size, r.body)
            assert up.requests == [], name
            if kind == "json" and up.cut:
                assert b"evil" not in up.cut[0].raw_body or b"twice" in r.body, (name, size)
    for size in (100, len(PAD)):
        r = post(s, "json", PAD[:size], headers={"Content-Encoding": "gzip"})
        assert r.status == 403 and b"Content-Encoding" in r.body, r.body
    assert s.request().status == 200, "no body, nothing to be read"


def test_shipped(t):
    """fields and llm read a body over body-max as it streams"""
    s, up = t.proxy(workers=1, credentials=[API], upstream=OK)
    s.cli("set", "body-max", "64k")
    s.cli("rule", "add", "ours", "--type", "fields", "--path", "/mail", "member=to", "only=*@acme.com", "must=true")
    s.cli("rule", "add", "models", "--type", "llm", "--path", "/v1", "models=claude-haiku-*", "max_tokens=100")
    for target, body, status, why in (
            ("/mail", b'{"file":"%s","to":["a@acme.com"]}', 200, b""),
            ("/mail", b'{"file":"%s","to":["a@acme.com","x@evil.test"]}', 403, b"may be *@acme.com alone"),
            ("/mail", b'{"file":"%s"}', 403, b"to is missing"),
            ("/v1/messages", b'{"messages":[{"image":"%s"}],"max_tokens":100,"model":"claude-haiku-1"}', 200, b""),
            ("/v1/messages", b'{"messages":[{"image":"%s"}],"max_tokens":101,"model":"claude-haiku-1"}', 403, b"over 100"),
            ("/v1/messages", b'{"messages":[{"image":"%s"}],"max_tokens":100,"model":"claude-opus-1"}', 403, b"claude-opus-1"),
            ("/v1/messages", b'{"messages":[{"image":"%s"}],"model":"claude-haiku-1"}', 403, b"how long"),
            ("/v1/messages/batches", b'{"requests":[{"image":"%s"}]}', 403, b"longer than body-max"),
            ("/v1/models/gemini:generateContent", b'{"x":"%s","generationConfig":{"maxOutputTokens":200}}', 403, b"")):
        up.reset(OK)
        r = s.request(method="POST", target=target, headers={"Content-Type": "application/json"}, body=body % PAD)
        assert r.status == status and why in r.body, (target, body, r.status, r.body)
        assert len(up.requests) == (status == 200), (target, body)


def test_asks(t):
    """a long body is held whole where the rule asks, and none of it goes on; one over body-max cannot be asked about"""
    s, up = world(t, 'ask("to whom")')
    s.cli("set", "approval-wait", "1s")
    for body in bodies(True)["json"], b'{"to":"x"}':
        r = post(s, "json", body)
        assert r.get("x-sallyport-error") == "approval_timeout" and up.requests == [], r.body
    s.cli("set", "body-max", "256k")
    r = post(s, "json", bodies(True)["json"])
    assert r.status == 413 and b"a person is to be asked" in r.body and up.requests == [], r.body


def test_bug(t):
    """a rule whose script fails at the end of a long body refuses it"""
    s, up = world(t, "nil + 1")
    r = post(s, "json", bodies(True)["json"])
    assert r.status == 403 and b"its script failed" in r.body and up.requests == [], r.body
    s.wait_record({"error": "rule_failed"})
    assert "ev=rule_failed rule=reads policy=reads" in s.log()


def test_whole(t):
    """where something else has a long body read whole, nothing of one that is refused goes out"""
    s, up = world(t)
    s.credential({"name": "sub", "type": "substitute", "host": "sub.test", "env": "SUB_KEY", "secrets": {"value": "canary-reading-2"}, "substitute": "value:json=/key"})
    s.stop()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"sub.test:443:127.0.0.1:{up.port}")
    for evil in (False, True):
        up.reset(OK)
        r = s.request(method="POST", host="sub.test", headers={"Content-Type": "application/json"}, body=bodies(evil)["json"])
        assert r.status == (403 if evil else 200) and len(up.requests) == (not evil), r.body
        assert up.cut == []


def test_early_answer(t):
    """an upstream that answers before the end of the body"""
    s, up = world(t)
    up.reset({"read": "none", "reply": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"})
    r = post(s, "json", bodies(True)["json"])
    assert r.status in (200, 403), r.status
    up.reset(OK)
    assert post(s, "json", bodies(False)["json"]).status == 200


def test_memory(t):
    """a long body costs no memory"""
    s, up = world(t)
    up.reset({"read": "none", "reply": [{"steps": [{"until": "the end"}, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"]}]})

    def peak():
        text = open(f"/proc/{s.worker_pids()[0]}/status").read()
        return int(text.split("VmRSS:")[1].split()[0])

    post(s, "json", b'{"note":"%s","end":"the end"}' % PAD)
    before, n = peak(), 24
    w = s.tunnel("api.test")
    w.send(b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b'{"a":[1,2,{"b":"%s"}]},' % (b"y" * 900)
    block = piece * (1 << 20 >> 10)
    w.send(b'9\r\n{"list":[\r\n')
    for _ in range(n):
        w.send(b"%x\r\n%s\r\n" % (len(block), block), timeout=120)
    during = peak()
    w.send(b'12\r\n1],"to":"the end"}\r\n0\r\n\r\n')
    assert b" 403 " in w.recv(60)
    w.close()
    assert during - before < 6000 or "asan" in str(t.binary), (before, during)     # whose allocator keeps what is freed


# ---- Python's readers beside ours

SCRIPT = """
local reading, args = require "reading", { ... }
for line in io.lines(args[1]) do
  local kind, hex = line:match("^(%S+) (%x*)$")
  local text = hex:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)
  local r, out = reading.new(kind, { "to" }, "b"), {}
  local ok = r:feed(text:sub(1, #text // 3), false) and r:feed(text:sub(#text // 3 + 1), true)
  for i, v in ipairs(ok and r.values.to or {}) do
    out[i] = type(v) == "string" and "s" .. v:gsub(".", function(c) return ("%02x"):format(c:byte()) end) or type(v) == "number" and ("n%.17g"):format(v)
      or type(v) == "boolean" and tostring(v) or v == require("json.core").null and "null" or "other"
  end
  print((ok and "ok " or "no ") .. table.concat(out, " "))
end
"""


def said(v):
    if isinstance(v, str):
        return "s" + v.encode().hex()
    if isinstance(v, bool) or v is None:
        return "null" if v is None else str(v).lower()
    return "n%.17g" % v if isinstance(v, (int, float)) else "other"


def python_json(data):
    """the values of `to` | None: no JSON, or not to everybody"""
    def constant(c):
        raise ValueError(c)
    fold = lambda k: k.split("\0")[0].replace("\u017f", "s").replace("\u212a", "k").lower()     # noqa: E731
    try:
        v = json.loads(data.decode(), object_pairs_hook=lambda p: {"pairs": p}, parse_constant=constant)
        json.dumps(v, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    found = [x for k, x in v["pairs"] if fold(k) == "to"] if isinstance(v, dict) else []
    out = []
    for x in found:
        out += [said(e) for e in x] if isinstance(x, list) and x else [said(x)]
    return None if len(found) > 1 or any("inf" in x for x in out) else out


def python_form(data):
    """the values of `to` that Python's reader finds"""
    return [said(v) for k, v in urllib.parse.parse_qsl(data.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="surrogateescape") if k == "to"]


def python_parts(data):
    message = email.message_from_bytes(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + data)
    if not message.is_multipart():
        return []
    return ["other" for p in message.get_payload() if p.get_param("name", header="content-disposition") == "to"]


def test_as_python_reads(t):
    """mutated bodies: what is read, Python's readers read with the same values; JSON that they take, and that is JSON to all, is read"""
    if "asan" in str(t.binary):
        t.skip("once, in the test build")
    seeds = {
        "json": [b'{"to":"a","z":{"to":[1,{"x":null}]},"q":-1.5e3}', b' {"to" : ["\\u00e9\\ud83d\\ude00", true, null, 12, [1]], "b":{"to":"no"} } ', b'{"list":[[],[{}]],"To":"\xc3\xa9"}'],
        "form": [b"to=a%40b&x=1&to=c+d", b"x=%F0%9F%98%80&to=&b", b"a[b]=1&to=2"],
        "multipart": [part(b"to", b"x") + part(b"y", b"--c") + b"--b--\r\n", part(b"x", b"") + part(b"to", b"1\r\n\r\n2") + b"--b--"],
    }
    bits = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u00", b"1", b"-", b"to", b"&", b"=", b"%", b"%74", b"+", b"--b", b"\r\n", b"\n", b"\0", b"\xff", b"\xc3", b" ", b'name="to"', b"null", b"1e5"]
    random, cases = __import__("random").Random(15), []
    for kind, texts in seeds.items():
        for _ in range(4000):
            data = bytearray(random.choice(texts))
            for _ in range(random.randint(0, 3)):
                at = random.randrange(len(data) + 1)
                how = random.randrange(4)
                if how == 0:
                    del data[at:at + random.randint(1, 6)]
                elif how == 1:
                    data[at:at] = random.choice(bits)
                elif how == 2:
                    bit = random.choice(bits)
                    data[at:at + len(bit)] = bit
                else:
                    data[at:at] = data[max(0, at - random.randint(1, 12)):at]
            cases.append((kind, bytes(data)))
    s, _ = t.proxy(serve=False)
    script, lines = s.dir / "as_python.lua", s.dir / "cases"
    script.write_text(SCRIPT)
    lines.write_text("".join(f"{kind} {data.hex()}\n" for kind, data in cases))
    got = s.cli("lua", script, lines).stdout.splitlines()
    assert len(got) == len(cases)
    read = dict.fromkeys(seeds, 0)
    for (kind, data), line in zip(cases, got):
        ok, values = line.startswith("ok"), line.split()[1:]
        read[kind] += ok
        if kind == "json":
            theirs = python_json(data)
            assert not ok or theirs == values, (data, line, theirs)
            assert ok or theirs is None, (data, line, theirs)
        elif kind == "form" and ok:
            theirs = python_form(data)
            assert all(v in values for v in theirs), (data, line, theirs)
        elif ok:
            assert len(values) >= len(python_parts(data)), (data, line, python_parts(data))
    assert all(n > 300 for n in read.values()), read
