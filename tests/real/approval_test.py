"""A person's word: a rule that asks holds the request until somebody answers, and lets through what was asked and nothing else."""
import json
import subprocess
import threading
import time

import sallyport

API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-approval-1"}}
ASK = """return { kind = "rule", api = 1, name = "asks", title = "t", on_request = function(req, ctx)
  if req.method == "GET" then return end
  return ask("it writes to " .. req.path:sub(1, 100), req.headers:get("x-key"))
end }"""


OK = {"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}


def world(t, workers=2, wait="45s"):
    s, up = t.proxy(workers=workers, credentials=[API], upstream=OK)
    s.policy("asks", ASK)
    s.cli("rule", "add", "asks", "--type", "asks")
    s.cli("set", "approval-wait", wait)
    return s, up


def questions(s):
    return json.loads(s.cli("approval", "list", "--json").stdout)


def until(what, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.05)
    raise AssertionError("it did not come")


class Asked(threading.Thread):
    """a request in a thread of its own"""

    def __init__(self, s, **options):
        super().__init__(daemon=True)
        self.s, self.options, self.answer = s, {"method": "POST", **options}, None
        self.start()

    def run(self):
        self.answer = self.s.request(timeout=60, **self.options)

    def status(self):
        self.join(60)
        assert self.answer, "no answer"
        return self.answer.status


def opened(s, n=1):
    return until(lambda: len(q := [x for x in questions(s) if x["state"] == "open"]) >= n and q)


def test_allowed(t):
    """a held request goes on when it is allowed, by whatever worker; others are not held up, and nothing of it was sent before"""
    s, up = world(t)
    a = Asked(s, target="/v1/x?q=1", body=b"hello")
    q = opened(s)[0]
    assert q["reason"] == "it writes to /v1/x" and q["agent"] == "a" and q["rule"] == "asks" and q["bytes"] == 5, q
    assert q["method"] == "POST" and q["url"] == "https://api.test/v1/x?q=1" and q["covers"] == "POST api.test/v1/x with api", q
    assert s.request().status == 200 and not [r for r in up.requests if r.method == "POST"]
    s.cli("approval", "allow", q["id"])
    assert a.status() == 200 and [r.body for r in up.requests if r.method == "POST"] == [b"hello"]
    assert questions(s) == []
    text = s.cli("log", "--json", "--kind", "change").stdout
    assert f"question {q['id']} of agent a, rule asks" in text, text
    assert not s.leaks()


def test_shown(t):
    """a person reads no key of the agent's own; a text that is cut says so, and an answer for longer covers no other that begins so"""
    s, up = world(t, wait="1s")
    r = s.request(method="POST", target="/v1/x?a=1&access_token=agents-own&b=2")
    assert r.get("x-sallyport-error") == "approval_timeout", r.head
    q = opened(s)[0]
    assert q["url"] == "https://api.test/v1/x?a=1&b=2", q
    s.cli("approval", "deny", q["id"])
    long = "/" + "x" * 1500
    for end in ("1", "2"):
        headers = {"Content-Type": "text/" + "y" * 1500}
        assert s.request(method="POST", target=long + end, body=b"x", headers=headers).get("x-sallyport-error") == "approval_timeout"
    one, two = opened(s, 2)
    for q in (one, two):
        assert "… (1518 bytes, SHA-256 " in q["url"] and "… (1502 bytes, SHA-256 " in q["covers"] and len(q["content_type"]) < 1200, q
    s.cli("approval", "allow", one["id"], "--for", "hour")
    assert s.request(method="POST", target=long + "1", body=b"y").status == 200
    assert s.request(method="POST", target=long + "2", body=b"y").get("x-sallyport-error") == "approval_timeout"
    # JSON has no bytes that are not UTF-8, a cut is between letters, and nothing unseen turns a line around
    for raw, shown in (("text/\xff\xfe", "text/\\xff\\xfe (7 bytes, SHA-256 "), ("text/" + "x" * 994 + "\xc3\xa9", "x… (1001 bytes, SHA-256 "), ("a/\xe2\x80\xaeb", "a/\\xe2\\x80\\xaeb (6 bytes")):
        for q in questions(s):
            s.cli("approval", "deny", q["id"])
        r = s.request(method="POST", target="/z", body=b"z", headers={"Content-Type": raw})
        assert r.get("x-sallyport-error") == "approval_timeout", (raw, r.head)
        q = opened(s)[0]
        assert shown in q["content_type"], q


def test_denied(t):
    """a refused one is refused, and the same again without asking"""
    s, up = world(t)
    a = Asked(s)
    q = opened(s)[0]
    s.cli("approval", "deny", q["id"])
    assert a.status() == 403 and b"a person refused it" in a.answer.body and a.answer.get("x-sallyport-error") == "rule_denied"
    assert s.request(method="POST").status == 403 and not [r for r in up.requests if r.method == "POST"]
    s.cli("approval", "deny", q["id"])


def test_timeout(t):
    """nobody answers: 403 approval_timeout, and an answer that comes later lets the same request through, once, and no other"""
    s, up = world(t, wait="1s")
    first = s.request(method="POST", body=b"one", headers={"X-Request-Id": "1", "Authorization": "Bearer x"})
    assert first.status == 403 and first.get("x-sallyport-error") == "approval_timeout", first.head
    q = opened(s)[0]
    assert q["id"].encode() in first.body and b"it writes to" in first.body and b"again" in first.body, first.body
    s.cli("approval", "allow", q["id"])
    for other in ({"body": b"two"}, {"body": b"one", "target": "/v1/x?a"}, {"body": b"one", "method": "PUT"},
                  {"body": b"one", "headers": {"X-Amz-Target": "Delete"}}, {"body": b"one", "headers": {"Destination": "/x"}}):
        assert s.request(**{"method": "POST", **other}).get("x-sallyport-error") == "approval_timeout", other
    same = {"method": "POST", "body": b"one", "headers": {"X-Request-Id": "2", "Traceparent": "00-1", "Date": "now", "Authorization": "Bearer y"}}
    assert s.request(**same).status == 200
    assert s.request(**same).get("x-sallyport-error") == "approval_timeout"
    assert len([r for r in up.requests if r.method in ("POST", "PUT")]) == 1


def test_longer(t):
    """for an hour, a day, always: what the person saw is covered, for this agent, and nothing else"""
    s, up = world(t, wait="1s")
    s.agent("b")

    def explained(target, headers, agent="a"):
        words = [f"--header={n}: {v}" for n, v in headers.items()]
        d = json.loads(s.cli("explain", "--json", "--agent", agent, *words, "POST", f"https://api.test{target}").stdout)
        return d["decision"], d.get("code"), d["rules"][0]["says"].split(":")[0]
    asks, covered = ("ask", "approval_timeout", "it asks a person"), ("allow", None, "a person has allowed it for longer")
    for span, key in (("hour", "the hour's"), ("day", None), ("always", "for ever")):
        headers = {"X-Key": key} if key else {}
        assert explained(f"/{span}", headers) == asks
        options = {"method": "POST", "target": f"/{span}", "headers": headers}
        a = Asked(s, **options, body=b"1")
        q = opened(s)[0]
        assert q["covers"] == (key or f"POST api.test/{span} with api"), q
        s.cli("approval", "allow", q["id"], "--for", span)
        assert a.status() == 200, a.answer.head
        assert [s.request(**options, body=b"%d" % i).status for i in range(4)] == [200] * 4
        other = {**options, "headers": {"X-Key": "another"}} if key else {**options, "target": f"/{span}/x"}
        assert s.request(**other).status == 403, other
        assert s.request(**options, auth=s.auth(name="b")).status == 403
        assert explained(f"/{span}", headers) == covered and explained(f"/{span}", headers, "b") == explained(f"/{span}/x", {"X-Key": "another"}) == asks
        for open_ in opened(s):
            s.cli("approval", "deny", open_["id"])
    shown = json.loads(s.cli("rule", "show", "asks", "--json").stdout)
    assert shown["exceptions"] == ["a: for ever"], shown
    s.cli("rule", "set", "asks", "--ask-again")
    assert s.request(method="POST", target="/always", headers={"X-Key": "for ever"}).status == 403
    hour = [q for q in questions(s) if q["state"] == "hour"][0]
    s.cli("approval", "deny", hour["id"])
    assert s.request(method="POST", target="/hour", headers={"X-Key": "the hour's"}).status == 403


def test_twice(t):
    """two requests that are the same, and one "once": one goes on"""
    s, up = world(t, wait="3s")
    both = [Asked(s), Asked(s)]
    q = opened(s)[0]
    time.sleep(0.5)
    assert len(opened(s)) == 1
    s.cli("approval", "allow", q["id"])
    assert sorted(x.status() for x in both) == [200, 403]
    assert len([r for r in up.requests if r.method == "POST"]) == 1
    # another rule that asks about the same request has a question of its own: an answer to one is none to the other
    s.cli("set", "approval-wait", "1s")
    s.cli("rule", "add", "also", "--type", "asks")
    for rules, allowed in (({"asks"}, {"asks"}), ({"also"}, set()), ({"asks", "also"}, {"asks", "also"})):
        assert s.request(method="POST", target="/both").get("x-sallyport-error") == "approval_timeout"
        ids = {q["rule"]: q["id"] for q in opened(s) if q["url"].endswith("/both")}
        assert set(ids) == rules, ids
        for rule in allowed:
            s.cli("approval", "allow", ids[rule])
    assert s.request(method="POST", target="/both").status == 200 and up.requests[-1].target == "/both"


def test_bounds(t):
    """an agent's questions and waiting requests are bounded; another agent's are its own, and who went leaves its place"""
    s, up = world(t, workers=1)
    s.agent("b")
    waiting = [Asked(s, target=f"/{i}") for i in range(8)]
    opened(s, 8)
    r = s.request(method="POST", target="/more")
    assert r.status == 429 and b"wait for a person" in r.body, r.body
    other = Asked(s, auth=s.auth(name="b"))
    q = [x for x in opened(s, 9) if x["agent"] == "b"][0]
    s.cli("approval", "allow", q["id"])
    assert other.status() == 200
    assert s.request().status == 200
    for x in opened(s):
        s.cli("approval", "deny", x["id"])
    assert [w.status() for w in waiting] == [403] * 8
    # who went leaves its place: the same eight questions are asked again, by clients that do not wait
    wires = []
    for i in range(16):
        wires.append(s.tunnel())
        wires[-1].send(f"POST /later/{i % 8} HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n".encode())
        if i == 7:
            opened(s, 8)
            assert s.request(method="POST", target="/more").status == 429
            for w in wires:
                w.close()
            time.sleep(0.5)
    last = Asked(s, target="/later/1")
    time.sleep(0.5)
    assert last.answer and last.answer.status == 429, "its place is taken by the eight that came again"


def test_large(t):
    """a body over body-max cannot be asked about"""
    s, up = world(t)
    s.cli("set", "body-max", "64k")
    r = s.request(method="POST", body=b"x" * 70000)
    assert r.status == 413 and b"a person is asked about it" in r.body, r.body


STREAMS = """return { kind = "rule", api = 1, name = "streams", title = "t", reader = "json", members = { "to" }, on_request = function(req)
  local found = req.members()
  for _, to in ipairs(found and found.values.to or {}) do
    if to ~= "us" then return ask("it writes to " .. to, "writing") end
  end
end }"""


def test_streams(t):
    """a rule that reads a body as it streams asks about one below body-max, and none of it goes on before; its digest is of the whole body"""
    s, up = t.proxy(workers=2, credentials=[API], upstream=OK)
    s.policy("streams", STREAMS)
    s.cli("rule", "add", "streams", "--type", "streams")
    s.cli("set", "approval-wait", "1s")
    body = b'{"text": "%s", "to": "them"}' % (b"x" * (1 << 20))
    other = body.replace(b"xx", b"xy", 1)
    head = {"method": "POST", "headers": {"Content-Type": "application/json"}}
    assert s.request(body=body.replace(b"them", b"us"), **head).status == 200
    before = len(up.requests)
    r = s.request(body=body, **head)
    assert (r.status, r.get("x-sallyport-error")) == (403, "approval_timeout") and b"it writes to them" in r.body, r.body
    s.cli("approval", "allow", opened(s)[0]["id"])
    assert s.request(body=other, **head).get("x-sallyport-error") == "approval_timeout" and len(up.requests) == before
    assert s.request(body=body, **head).status == 200 and up.requests[-1].body == body
    assert s.request(body=body, **head).status == 403          # once
    s.cli("approval", "allow", questions(s)[0]["id"], "--for", "hour")
    assert [s.request(body=x, **head).status for x in (body, other)] == [200, 200] and up.requests[-1].body == other
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(x), x) for x in (body[:300000], body[300000:])) + b"0\r\n\r\n"
    wire = s.tunnel()
    wire.send(b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces)
    assert wire.recv(15 * sallyport.SLOW).startswith(b"HTTP/1.1 200") and up.requests[-1].body == body
    s.cli("set", "body-max", "512k")
    r = s.request(body=body.replace(b"them", b"all"), **head)
    assert r.status == 413 and b"over body-max" in r.body, r.body
    assert s.request(body=body.replace(b"them", b"us"), **head).status == 200          # it streams, and nobody is asked


READS = """return { kind = "rule", api = 1, name = "reads", title = "t", body = { max = 65536 }, on_request = function(req) return ask("it sends " .. #(req.body or "")) end }"""
PUSHES = """return { kind = "rule", api = 1, name = "pushes", title = "t", reader = "pkt-line", on_request = function(req) return ask("it pushes") end }"""


def test_seen(t):
    """a person sees the request as the rule saw it: fields, and the body, members or commands that it reads, bounded and marked where cut, hostile bytes made visible; no credential's secret, no key of the agent's own; it is in no list, log or standing answer, and leaves the store when the question ends"""
    secret = API["secrets"]["token"]
    s, up = t.proxy(workers=1, credentials=[{**API, "env": "API_KEY"}], upstream=OK)
    s.cli("set", "approval-wait", "45s")
    for name, source, path in (("asks", ASK, "/asks"), ("reads", READS, "/reads"), ("streams", STREAMS.replace('to ~= "us"', 'true').replace('return ask("it writes to " .. to', 'found.values.to = {} return ask("it writes"'), "/members"), ("pushes", PUSHES, "/r.git")):
        s.policy(name, source)
        s.cli("rule", "add", name, "--type", name, "--path", path)
    held = json.loads(s.cli("env", "--agent", "a", "--format", "json").stdout)["API_KEY"]
    old, new = "0" * 40, "a" * 40
    command = f"{old} {new} refs/heads/<x-canary>\0report-status\n".encode()
    own = {"X-Auth-Token": "agents-own-1", "Cookie": "sid=agents-own-2", "X-Bidi": "a\xe2\x80\xaeb", "X-Raw": "\xff\xfe", "X-Mark": "<x-canary>", "X-Long": "y" * 400}
    bodies = {"/reads": b'{"text": "<x-canary>\x1b[31m \xe2\x80\xae \xff", "more": "\r\n' + b"z" * 9000 + b'tail"}', "/asks": b"never shown",
              "/members": json.dumps({"to": ["them", 'x"\n\u202e', 5, None, {"a": 1}, "w" * 2000], "other": "not read"}).encode(), "/r.git/git-receive-pack": b"%04x%s0000PACK" % (len(command) + 4, command)}
    asked = {at: Asked(s, target=at, body=body, headers={"Authorization": "Bearer " + (held if at == "/asks" else "agents-own-3"), **own,
                       "Content-Type": "application/x-git-receive-pack-request" if "git" in at else "application/json"}) for at, body in bodies.items()}
    opened(s, 4)
    assert not any("saw" in q for q in questions(s)), "a list has none of it"

    def lies_open():
        raw = (s.home / "store" / "data.mdb").read_bytes()
        return [m for m in (b"x-canary", b"z" * 8, b"y" * 8, b"f" * 8, b"of-the-query") if m in raw]
    assert lies_open() == [], "a copy of the store says nothing of it"
    ids = {q["url"].split("test")[1]: q["id"] for q in questions(s)}
    shown = {at: json.loads(s.cli("approval", "show", id, "--json").stdout)["saw"] for at, id in ids.items()}
    text = json.dumps(shown) + "".join(s.cli("approval", "show", id).stdout for id in ids.values())
    assert secret not in text and "agents-own" not in text and s.tokens["a"] not in text and "never shown" not in text and "not read" not in text
    assert "\x1b" not in text and "\u202e" not in text and "\\u202e" not in text, text
    for at, saw in shown.items():
        fields = {h["name"]: h for h in saw["headers"]}
        assert fields["x-auth-token"] == {"name": "x-auth-token", "hidden": True} and fields["cookie"]["hidden"] and "proxy-authorization" not in fields, fields
        assert (fields["authorization"].get("value") == "Bearer " + held) == (at == "/asks") and fields["authorization"].get("hidden") == (None if at == "/asks" else True), fields
        assert fields["x-bidi"]["value"] == "a\\xe2\\x80\\xaeb" and fields["x-raw"]["value"] == "\\xff\\xfe" and fields["x-mark"]["value"] == "<x-canary>", fields
        assert fields["x-long"] == {"name": "x-long", "value": "y" * 300, "cut": True} and len(json.dumps(saw)) < 9000, fields
    saw = shown["/reads"]
    assert saw["body"].startswith('{"text": "<x-canary>\\x1b[31m \\xe2\\x80\\xae \\xff", "more": "\nzzz') and saw["body_cut"] and "tail" not in saw["body"] and len(saw["body"]) <= 3000, saw["body"][:200]
    assert set(shown["/asks"]) == {"headers"}, shown["/asks"]
    members = shown["/members"]["members"]
    assert [m["name"] for m in members] == ["to"] and members[0]["values"][:5] == ['"them"', '"x\\"\\x0a\\xe2\\x80\\xae"', "5", "null", "(an object or a list)"] and members[0]["values"][5].endswith("…") and "body" not in shown["/members"], members
    assert shown["/r.git/git-receive-pack"]["push"] == [f"create refs/heads/<x-canary> {old} to {new}"], shown
    people = s.cli("approval", "show", ids["/reads"]).stdout
    assert "field" in people and "(not shown: it may be a key)" in people and '| {"text"' in people and "(the body goes on)" in people and people.count("for longer") == 1, people
    s.cli("approval", "allow", ids["/members"], "--for", "hour")
    s.cli("approval", "allow", ids["/reads"])
    for at in ("/asks", "/r.git/git-receive-pack"):
        s.cli("approval", "deny", ids[at])
    assert asked["/members"].status() == asked["/reads"].status() == 200 and asked["/asks"].status() == 403
    assert {r.target: r.body for r in up.requests} == {at: bodies[at] for at in ("/members", "/reads")}
    hour = next(q for q in questions(s) if q["state"] == "hour")
    assert "saw" not in json.loads(s.cli("approval", "show", hour["id"], "--json").stdout)
    assert "x-canary" not in s.cli("log", "--json").stdout
    # many fields and one that a flood would push out of sight: the flood says so
    r = Asked(s, target="/reads?q=of-the-query", body=b"", headers={f"X-Flood-{i}": "f" * 200 for i in range(80)})
    saw = json.loads(s.cli("approval", "show", opened(s)[0]["id"], "--json").stdout)["saw"]
    assert saw["more_headers"] > 50 and len(json.dumps(saw)) < 6000, saw
    assert opened(s)[0]["url"].endswith("/reads?q=of-the-query") and lies_open() == []
    s.cli("approval", "deny", opened(s)[0]["id"])
    assert r.status() == 403
    s.set_clock(700)
    look = s.dir / "look.lua"
    look.write_text('local store, n = require "store", 0 for i = 0, 70 do local x = ("x\\0"):rep(i) assert(store.conceal(x) ~= store.conceal(x) and (i == 0 or store.reveal(store.conceal(x)) == x)) end assert(not store.reveal("") and not store.reveal(("x"):rep(22) .. "!")) for _, r in ipairs(require("store").each("approval", "", nil, 64)) do n = n + (r.record.saw and 1 or 0) end print(n)')
    until(lambda: s.cli("lua", "--store", look).stdout.strip() == "0")
    assert not s.leaks()


def test_restart(t):
    """a restart withdraws questions and answers "once", with a record; what was put back on the disk is no answer"""
    s, up = world(t, wait="1s")
    assert s.request(method="POST").status == 403
    q = opened(s)[0]
    s.cli("approval", "allow", q["id"])
    assert not s.stop()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    assert questions(s) == []
    assert f"question {q['id']}" in s.cli("log", "--json", "--kind", "change").stdout
    assert s.request(method="POST").get("x-sallyport-error") == "approval_timeout"


def test_follow(t):
    """--follow shows a question as it comes, and what became of it"""
    s, up = world(t, wait="1s")
    p = subprocess.Popen([s.binary, "approval", "list", "--follow", "--json"], stdout=subprocess.PIPE, text=True, env=s.env)
    try:
        assert s.request(method="POST").status == 403
        first = json.loads(p.stdout.readline())
        assert first["state"] == "open", first
        s.cli("approval", "deny", first["id"])
        assert json.loads(p.stdout.readline())["state"] == "denied"
    finally:
        p.kill()
        p.wait()
