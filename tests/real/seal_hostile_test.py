"""Sealed texts in hostile hands: an agent that changes, moves and multiplies them, and an API that hands its secrets out in ways that no row
names. Whatever happens, the agent never reads the secret, and no upstream gets it for a request that the credential does not cover."""
import base64
import gzip
import json
import re
import urllib.parse

import sallyport
from real import wait

SECRET = "canary-minted-5b1e8f0c7d2a49"      # what the API hands out
TYPE = """
return { kind = "type", api = 1, name = "acme", title = "Acme",
  fields = { { name = "token", secret = true, required = true } },
  seal = {
    { method = "POST", path = "/mint", members = { "token" }, optional = { "refresh_token", "list/*/key", "header=X-Up", "cookie=sess" },
      ttl = "expires_in", opens = { "authorization", "header=X-Up", "query=tok", "form=refresh_token", "json=/a/b" } },
    { method = "POST", path = "/jwt", members = { "jwt" }, shape = "jwt" },
    { method = "POST", path = "/pre", members = { "token" }, prefix = "ghs_", ttl = 300, expired = 401 },
  },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
"""


class Box:
    def __init__(self, t, workers=1):
        self.s, self.up = t.proxy(workers=workers, serve=False)
        self.s.policy("acme", TYPE)
        self.s.credential({"name": "c1", "type": "acme", "secrets": {"token": "canary-acme-key-91d2"}})
        self.s.credential({"name": "c2", "type": "acme", "host": "www.test", "secrets": {"token": "canary-other-key-77aa"}})
        self.s.credential({"name": "c3", "type": "bearer", "host": "plain.test", "secrets": {"token": "canary-plain-key-30c1"}})
        self.s.domain({"host": "git.test", "method": ["GET", "POST"]})
        self.s.agent("b")
        to = [f for h in ("api.test", "www.test", "git.test", "plain.test") for f in ("--connect-to", f"{h}:443:127.0.0.1:{self.up.port}")]
        self.flags = ["--upstream-ca", sallyport.certs() / "root.pem", *to]
        self.s.serve(*self.flags)

    def say(self, body="", status="200 OK", headers=(), raw=None, close=False):
        """The next answers of the upstream."""
        body = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        fields = "".join(f"{h}\r\n" for h in headers)
        if not any(h.lower().startswith("content-type") for h in headers):
            fields += "Content-Type: application/json\r\n"
        if not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
            fields += f"Content-Length: {len(body)}\r\n"
        text = raw if raw is not None else f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body
        self.up.reset({"reply": [{"steps": [text.decode("latin-1"), *([{"close": "clean"}] if close else [])]}]})

    def ask(self, method="POST", target="/mint", host="api.test", headers=None, body=b"", agent="a", **more):
        r = self.s.request(method, target, host=host, headers=headers, body=body, auth=self.s.auth(name=agent), **more)
        self.quiet(r)
        return r

    def quiet(self, r, *more):
        text = r.head.encode("latin-1") + r.body if isinstance(r.head, str) else bytes(r.head) + r.body
        for secret in (SECRET, *more):
            raw = secret.encode()
            for form in (raw, base64.b64encode(raw).rstrip(b"="), raw.hex().encode(), urllib.parse.quote(secret, safe="").encode()):
                assert form not in text, f"the agent reads the secret: {text[:400]!r}"

    def mint(self, agent="a", **more):
        self.say({"token": SECRET, "expires_in": 300, **more})
        r = self.ask(agent=agent)
        assert r.status == 200, (r.status, r.body)
        text = json.loads(r.body)["token"]
        assert text != SECRET and re.fullmatch(r"[A-Za-z0-9_-]{60,}", text), text
        self.up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
        return text

    def use(self, text, **more):
        self.up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
        return self.ask(more.pop("method", "GET"), more.pop("target", "/me"), headers=more.pop("headers", {"Authorization": f"Bearer {text}"}), **more)

    def shown(self):
        """The Authorization of what the upstream got last; None: nothing."""
        return self.up.requests[-1].get("authorization") if self.up.requests else None

    def refused(self, r, code=None):
        assert not self.up.requests, f"the upstream was asked: {self.up.requests[-1].head}"
        assert r.status in (400, 401, 403) and (code is None or r.get("x-sallyport-error") == code), (r.status, r.get("x-sallyport-error"), r.body)


def test_opens(t):
    """a sealed text opens where its row says, for its agent, and nowhere else"""
    b = Box(t)
    text = b.mint()
    assert b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
    for shown, want in (("bearer " + text, f"bearer {SECRET}"), ("Token " + text, f"Token {SECRET}"), (text, SECRET),
                        ("Basic " + base64.b64encode(f"me:{text}".encode()).decode(), "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()),
                        ("Basic " + base64.b64encode(f"{text}:x".encode()).decode(), "Basic " + base64.b64encode(f"{SECRET}:x".encode()).decode())):
        assert b.use(text, headers={"Authorization": shown}).status == 200 and b.shown() == want, (shown[:20], b.shown())
    r = b.use(text, headers={"X-Up": text})
    assert b.up.requests[-1].get("x-up") == SECRET and b.shown() == "Bearer canary-acme-key-91d2", b.up.requests[-1].head
    r = b.use(text, target=f"/me?a=1&tok={text}&b=2", headers={})
    assert f"tok={SECRET}" in b.up.requests[-1].head.decode().split("\r\n")[0], b.up.requests[-1].head
    form = f"grant_type=refresh_token&refresh_token={text}".encode()
    r = b.use(text, method="POST", body=form, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert b.up.requests[-1].body == f"grant_type=refresh_token&refresh_token={SECRET}".encode(), b.up.requests[-1].body
    r = b.use(text, method="POST", body=json.dumps({"a": {"b": text, "c": 1}}).encode(), headers={"Content-Type": "application/json"})
    assert json.loads(b.up.requests[-1].body) == {"a": {"b": SECRET, "c": 1}}, b.up.requests[-1].body
    # elsewhere it is a text
    for more in ({"headers": {"X-Other": text}}, {"target": f"/me?other={text}", "headers": {}}, {"target": f"/{text}/x", "headers": {}},
                 {"headers": {"Cookie": f"tok={text}"}},
                 {"method": "POST", "body": json.dumps({"note": text}).encode(), "headers": {"Content-Type": "application/json"}}):
        assert b.use(text, **more).status == 200
        q = b.up.requests[-1]
        assert text.encode() in q.head + q.body and SECRET.encode() not in q.head + q.body, q.head
        assert b.shown() == "Bearer canary-acme-key-91d2"


def test_elsewhere(t):
    """another host, another agent, another credential, plain HTTP: refused by name, and nothing goes out"""
    b = Box(t)
    text = b.mint()
    b.refused(b.use(text, host="www.test"), "sealed_elsewhere")
    b.refused(b.use(text, host="git.test"), "sealed_elsewhere")
    b.refused(b.use(text, agent="b"), "sealed_elsewhere")
    b.refused(b.use(text, host="www.test", agent="b"), "sealed_elsewhere")
    b.s.cli("credential", "set", "c1", "--method", "GET", "--path", "/me")
    assert b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
    b.refused(b.use(text, target="/admin"), "sealed_elsewhere")
    b.refused(b.use(text, method="DELETE"), "sealed_elsewhere")
    for path in ("/me/../admin", "/me%2f..%2fadmin", "/me/..;/admin", "//admin", "/me\\..\\admin"):
        b.refused(b.use(text, target=path))


def test_changed(t):
    """cut, lengthened, flipped at each character, doubled, put into another case, sealed again"""
    b = Box(t)
    text = b.mint()
    for i in range(0, len(text), 3):
        other = text[:i] + ("A" if text[i] != "A" else "B") + text[i + 1:]
        b.use(other)
        assert not b.up.requests or SECRET.encode() not in b.up.requests[-1].head, i
    for other in (text[:-1], text[:-4], text + "A", text + text, text.swapcase(), text[1:], text.replace("_", "/").replace("-", "+") + "="):
        b.use(other)
        assert not b.up.requests or SECRET.encode() not in b.up.requests[-1].head, other
    for shown in (f"Bearer {text}, Bearer {text}", f"Bearer {text} {text}", f'Digest token="{text}"', f"Bearer  {text}"):
        b.use(text, headers={"Authorization": shown})
    # what the API hands out is a sealed text itself
    b.say({"token": text, "expires_in": 300})
    twice = json.loads(b.ask().body)["token"]
    assert twice != text
    b.use(twice)
    assert not b.up.requests or SECRET.encode() not in b.up.requests[-1].head, b.up.requests[-1].head


def test_one_error(t):
    """whatever is wrong with a text, the answer is the same to the byte, so that nothing is learnt of what it was sealed for"""
    b, other = Box(t), Box(t)
    text, theirs, abroad = b.mint(), b.mint("b"), other.mint()
    b.s.cli("credential", "add", "c9", "--type", "acme", "--host", "api.test", "--path", "/ninth", f"token=@{b.s.secret_file('canary-ninth-key-5518')}")
    b.say({"token": SECRET, "expires_in": 300})
    b.s.policy("acme", TYPE.replace("/mint", "/ninth/mint"))
    gone = json.loads(b.ask(target="/ninth/mint").body)["token"]
    b.s.policy("acme", TYPE)
    b.s.cli("credential", "remove", "c9")
    raw = bytearray(base64.urlsafe_b64decode(text[6:] + "=" * (-len(text[6:]) % 4)))
    assert text.startswith("Sp5eaL") and raw[0] == 1 and 69 + len(SECRET) + 16 == len(raw)

    def flip(at, bit=1):
        changed = raw[:]
        changed[at] ^= bit
        return text[:6] + base64.urlsafe_b64encode(changed).decode().rstrip("=")
    flips = {"shape": 1, "number of the key": 4, "random": 5, "last of the random": 28, "agent": 29, "last of the agent": 44, "credential": 45,
             "last of the credential": 60, "row": 65, "last of the row": 68, "secret": 69, "last of the secret": len(raw) - 17, "tag": len(raw) - 16,
             "last of the tag": len(raw) - 1}
    wrong = {"another agent's": theirs, "another box's": abroad, "of a credential that is gone": gone, "cut by 1": text[:-1], "cut by 2": text[:-2],
             "cut by 4": text[:-4], "cut to its shortest": text[:6 + 114], "longer": text + "A", "longer by 4": text + "AAAA",
             "a later end": flip(61, 128), **{name: flip(at) for name, at in flips.items()}}      # one that is over the text says itself
    assert b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
    b.s.cli("seal", "revoke", "--agent", "a")
    wrong["before an epoch moved"] = text
    answers = {}
    for name, bad in wrong.items():
        r = b.use(bad)
        b.refused(r, "sealed_elsewhere")
        said = json.loads(r.body)
        answers[name] = (r.status, tuple((k, v) for k, v in r.fields if k != "date"), r.body.replace(said["request"].encode(), b"ID"))
    assert len(set(answers.values())) == 1, [(name, a) for name, a in answers.items() if a != answers["tag"]][:3]


def test_dead(t):
    """after each move of an epoch what was sealed before is dead, for good"""
    b = Box(t)
    for move in ((("credential", "disable", "c1"), ("credential", "enable", "c1")), (("seal", "revoke", "--credential", "c1"),),
                 (("seal", "revoke", "--agent", "a"),), (("credential", "set", "c1", f"token=@{b.s.secret_file('canary-acme-key-second')}"),)):
        text = b.mint()
        assert b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
        for command in move:
            b.s.cli(*command)
        b.refused(b.use(text))
    text = b.mint()
    b.s.cli("credential", "remove", "c1")
    b.refused(b.use(text))
    b.s.credential({"name": "c1", "type": "acme", "secrets": {"token": "canary-acme-key-third"}})
    b.refused(b.use(text))
    text = b.mint()
    b.s.tokens["a"] = b.s.cli("agent", "rotate", "a").stdout.strip()
    b.refused(b.use(text))
    text = b.mint()
    b.s.set_clock(299)
    assert b.use(text).status == 200
    b.s.set_clock(302)
    r = b.use(text)
    b.refused(r, "sealed_expired")
    assert r.status == 403 and r.get("www-authenticate") is None, r.head
    b.say({"token": SECRET})
    text = json.loads(b.ask(target="/pre").body)["token"]
    assert text.startswith("ghs_") and b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
    b.s.set_clock(604)
    r = b.use(text)                              # its row says that the API's clients want to be told so
    b.refused(r, "sealed_expired")
    assert r.status == 401 and r.get("www-authenticate").startswith('Bearer error="invalid_token"'), r.head


def test_answers(t):
    """an API that hands its secret out in other ways than the row knows: sealed, or 502, never read"""
    b = Box(t)
    secret_forms = {
        "twice": f'{{"token":"x","token":"{SECRET}"}}', "twice, turned": f'{{"token":"{SECRET}","token":"x"}}',
        "escaped key": f'{{"\\u0074oken":"{SECRET}"}}', "other case": f'{{"Token":"{SECRET}"}}',
        "escaped value": '{"token":"' + "".join(f"\\u{ord(c):04x}" for c in SECRET) + '"}',
        "list": f'[{{"token":"{SECRET}"}}]', "deeper": f'{{"data":{{"token":"{SECRET}"}}}}', "number": '{"token":12345678901234567890}',
        "null": f'{{"token":null,"x":"{SECRET}"}}', "object": f'{{"token":{{"v":"{SECRET}"}}}}', "array": f'{{"token":["{SECRET}"]}}',
        "empty": '{"token":""}', "no json": f"token={SECRET}", "cut": f'{{"token":"{SECRET}"', "behind": f'{{"token":"{SECRET}"}} {{"token":"{SECRET}"}}',
        "bom": f'\ufeff{{"token":"{SECRET}"}}', "comment": f'/*{SECRET}*/{{"token":"{SECRET}"}}', "single": f"{{'token':'{SECRET}'}}",
        "repeated": f'{{"token":"{SECRET}","note":"it is {SECRET}","b64":"{base64.b64encode(SECRET.encode()).decode()}","hex":"{SECRET.encode().hex()}"}}',
        "key": f'{{"token":"{SECRET}","{SECRET}":1}}',
    }
    open_ones = {"deeper", "list"}   # no member that the row names: 502, and so is each below that is not sealed
    for name, body in secret_forms.items():
        b.say(body.encode())
        r = b.ask()
        assert r.status in (200, 502), (name, r.status)
        if name in open_ones | {"number", "object", "array", "no json", "cut", "single"}:
            assert r.status == 502 and r.get("x-sallyport-error") == "seal_failed", (name, r.status, r.body)
        assert SECRET.encode() not in r.body, name
    good = json.dumps({"token": SECRET})
    for name, headers, body in (
            ("gzip", ["Content-Encoding: gzip"], gzip.compress(good.encode())),
            ("deflate", ["Content-Encoding: deflate"], b"x"), ("brotli", ["Content-Encoding: br"], good.encode()),
            ("utf-16", ["Content-Type: application/json; charset=utf-16"], good.encode("utf-16")),
            ("html", ["Content-Type: text/html"], good.encode()), ("no type", ["Content-Type:"], good.encode()),
            ("large", [], json.dumps({"token": SECRET, "x": "y" * 1_100_000}).encode()),
            ("chunked", ["Transfer-Encoding: chunked"], f"{len(good):x}\r\n{good}\r\n0\r\nX-Trailer: {SECRET}\r\n\r\n".encode()),
            ("header", [f"X-Other: {SECRET}", f"Location: /x?t={SECRET}", f"Set-Cookie: a={SECRET}; Path=/"], good.encode()),
            ("reason", [], good.encode())):
        b.say(body, headers=headers, status=f"200 {SECRET}" if name == "reason" else "200 OK")
        r = b.ask()
        assert r.status in (200, 502), (name, r.status, r.body[:200])
    for status in ("201 Created", "202 Accepted", "206 Partial Content", "203 X", "299 X"):
        b.say({"token": SECRET}, status=status)
        r = b.ask(headers={"Range": "bytes=0-5"})
        assert r.status in (int(status[:3]), 502), (status, r.status)
    for status in ("302 Found", "400 Bad Request", "401 Unauthorized", "409 Conflict", "500 X"):
        b.say({"token": SECRET, "error": "x"}, status=status, headers=[f"Location: /mint?x={SECRET}"])
        assert b.ask().status == int(status[:3]), status
    for phrase in ("Early Hints", SECRET):
        b.say(raw=f"HTTP/1.1 103 {phrase}\r\nX-Up: {SECRET}\r\nLink: <{SECRET}>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {len(good)}\r\nContent-Type: application/json\r\n\r\n{good}".encode())
        r = b.ask()
        assert r.status in (103, 200, 502), r.status
    b.say(raw=f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{good}".encode(), close=True)
    assert b.ask().status == 200
    b.say({"token": SECRET, "refresh_token": SECRET + "2", "list": [{"key": SECRET + "3"}, {"key": SECRET + "4"}, {"other": 1}]},
          headers=[f"X-Up: {SECRET}5", f"Set-Cookie: sess={SECRET}6; HttpOnly", "Set-Cookie: other=1"])
    r = b.ask()
    assert r.status == 200, r.body
    got = json.loads(r.body)
    assert len({got["token"], got["refresh_token"], got["list"][0]["key"], got["list"][1]["key"], r.get("x-up")}) == 5, got
    b.use(r.get("x-up"), headers={"X-Up": r.get("x-up")})
    assert b.up.requests[-1].get("x-up") == SECRET + "5", b.up.requests[-1].head


def test_ways_around(t):
    """the call spelt in ways that servers take for the same one is sealed too, or refused"""
    b = Box(t)
    for target in ("/mint/", "/MINT", "//mint", "/mint?x=1", "/%6dint", "/./mint", "/mint/.", "/mint.json", "/mint;x=1", "/mint%20", "/x/../mint", "/mint%00", "/mint#x"):
        b.say({"token": SECRET})
        r = b.ask(target=target)
        assert r.status in (200, 400, 403, 502), (target, r.status)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):    # else the API may take it for the call
        b.use("", headers={name: "POST"}, target="/mint")
        assert b.up.requests[-1].get(name) is None, b.up.requests[-1].head
    for more in ({"headers": {"Accept-Encoding": "gzip"}}, {"headers": {"Range": "bytes=1-"}},
                 {"headers": {"If-None-Match": "*"}}, {"headers": {"TE": "trailers"}}, {"headers": {"Expect": "100-continue"}}):
        b.say({"token": SECRET})
        r = b.ask(**more)
        for q in b.up.requests:
            assert q.get("range") is None and q.get("if-none-match") is None and (q.get("accept-encoding") or "identity") == "identity", q.head


def test_many(t):
    """at most four are opened in a request; a kept connection serves both kinds; the log has no sealed text"""
    b = Box(t)
    texts = [b.mint() for _ in range(6)]
    assert b.use(texts[0], headers={"Authorization": "Bearer " + texts[0], "X-Up": texts[1]}, target=f"/me?tok={texts[2]}").status == 200
    b.use(texts[0], headers={"Authorization": "Bearer " + texts[0], "X-Up": texts[1]}, target="/me?" + "&".join(f"tok={x}" for x in texts))
    assert not b.up.requests or SECRET.encode() not in b.up.requests[-1].head
    b.up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    wire = b.s.tunnel("api.test")
    for text in (None, None, None, texts[0], None, texts[1]):
        b.s.request("GET", "/me", headers={"Authorization": f"Bearer {text}"} if text else {}, wire=wire)
        assert b.shown() == (f"Bearer {SECRET}" if text else "Bearer canary-acme-key-91d2"), (text, b.shown())
    # a decision that was kept for plain requests lets none through: fields that stay and values of the query had no say in it
    wire = b.s.tunnel("plain.test")
    for shown in ("plain", "plain", "plain", texts[0], "plain", texts[1]):
        for headers, target in (({"X-Up": shown}, "/me"), ({}, f"/me?tok={shown}")):
            before = len(b.up.requests)
            r = b.s.request("GET", target, host="plain.test", headers=headers, wire=wire)
            assert (r.status, r.get("x-sallyport-error")) == ((200, None) if shown == "plain" else (403, "sealed_elsewhere")), (shown[:9], r.status)
            assert len(b.up.requests) - before == (shown == "plain")
    b.use(texts[0], target=f"/a/{texts[0]}/b", headers={})
    b.s.wait_record({"path": "/a/sealed/b"})
    log = b.s.cli("log", "--json").stdout + b.s.log()
    assert not any(x in log for x in texts), "a log has a sealed text"


def test_large(t):
    """a large answer is read in turns: it is sealed as a small one is, others are served meanwhile, and its client may leave"""
    b = Box(t)
    full = "[" + "1," * 500_000 + "1]"                   # the slowest that JSON has
    for leaves in (False, True, False):
        b.say('{"token":"%s","list":%s}' % (SECRET, full))
        wire = b.s.tunnel("api.test", auth=b.s.auth(name="a"))
        wire.send(b"POST /mint HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n")
        wait(lambda: any(r.target == "/mint" for r in b.up.requests), 10, "the request")
        b.up.reset({"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
        assert b.ask("GET", "/me", agent="b").status == 200
        if leaves:
            wire.close()
        else:
            data = b""
            while len(data) < len(full) or not data.endswith(b"]}"):
                part = wire.recv(20 * sallyport.SLOW)
                assert part, data[:300]
                data += part
            assert data.startswith(b"HTTP/1.1 200") and SECRET.encode() not in data and b'{"token":"' in data
        assert b.ask("GET", "/me", agent="b").status == 200


def test_repeated(t):
    """what was opened does not come back: an echo has the sealed text in its place, in every coding; it works in each worker, and after a restart"""
    b = Box(t, workers=2)
    text = b.mint()
    for more in ({}, {"headers": {"X-Up": text}}, {"headers": {"Authorization": "Basic " + base64.b64encode(f"me:{text}".encode()).decode()}},
                 {"target": f"/me?tok={text}", "headers": {}}):
        b.use(text, **more)                      # opened at all
        assert SECRET.encode() in b.up.requests[-1].head or base64.b64encode(f"me:{SECRET}".encode()) in b.up.requests[-1].head, b.up.requests[-1].head
        b.up.reset({"reply": "echo"})
        r = b.ask("GET", more.get("target", "/me"), headers=more.get("headers", {"Authorization": f"Bearer {text}"}))
        assert r.status == 200 and (text.encode() in r.body or b"Basic" in r.body), r.body
    for _ in range(6):
        assert b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
    b.s.stop()
    b.s.serve(*b.flags)
    assert b.use(text).status == 200 and b.shown() == f"Bearer {SECRET}"
