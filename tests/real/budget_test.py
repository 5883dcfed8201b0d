"""budget and rate: what answers say of their cost is counted, whoever wrote them; what is in flight is reserved; a restart forgets nothing."""
import gzip
import json
import os
import re
import signal
import threading
import time

import sallyport
from real import wait

API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-budget-1"}}
LIMIT = 100000


def answer(body, kind="application/json", status="200 OK", more=""):
    if not isinstance(body, str):
        body = json.dumps(body)
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body.encode())}\r\n\r\n{body}"


def stream(*events, end=True):
    body = "".join(f"{len(e):x}\r\n{e}\r\n" for e in events)
    return {"steps": [f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{body}" + ("0\r\n\r\n" if end else ""),
                      *([] if end else [{"close": "ragged"}])]}


def sse(*objects):
    return [f"data: {json.dumps(o)}\n\n" for o in objects]


USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
FAKE = {"usage": {"input_tokens": 0, "output_tokens": 0}}
# name, the API's answer, tokens that it costs of a call with a bound of 500; None: all that were reserved
ANSWERS = [
    ("OpenAI", answer({"id": "x", "choices": [{"message": {"content": "hi"}}], "usage": USAGE}), 30),
    ("OpenAI's stream with usage", stream(*sse({"choices": [{"delta": {"content": "a"}}], "usage": None}, {"choices": [], "usage": USAGE}), "data: [DONE]\n\n"), 30),
    ("its stream without", stream(*sse({"choices": [{"delta": {"content": "a"}}]}), "data: [DONE]\n\n"), None),
    ("Responses", answer({"output": [], "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}}), 12),
    ("Responses' stream", stream(*sse({"type": "response.created", "response": {"usage": None}},
                                      {"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}}})), 12),
    ("Anthropic, with a tool whose input says usage", answer({"content": [{"type": "tool_use", "input": FAKE}], "usage": {
        "input_tokens": 8, "output_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}}), 22),
    ("Anthropic's stream", stream(*sse({"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}, {
        "type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": json.dumps(FAKE)}},
        {"type": "message_delta", "usage": {"output_tokens": 15}}, {"type": "message_stop"})), 40),
    ("Anthropic's stream that breaks off", stream(*sse({"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}), end=False), None),
    ("Gemini", answer({"candidates": [], "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 6, "thoughtsTokenCount": 10, "totalTokenCount": 20}}), 20),
    ("Gemini's stream", answer("[%s]" % ",\r\n".join(json.dumps({"usageMetadata": {"promptTokenCount": 4, "totalTokenCount": n}}) for n in (5, 9, 21))), 21),
    ("a text that says usage", answer({"choices": [{"message": {"content": json.dumps({"usage": {"total_tokens": 1}})}}], "usage": USAGE}), 30),
    ("a refusal", answer({"error": "no"}, status="400 Bad Request"), 0),
    ("an answer in pieces", {"steps": [answer({"usage": USAGE})[:-45], 0.05, answer({"usage": USAGE})[-45:-44], 0.05, answer({"usage": USAGE})[-44:]]}, 30),
    ("an object that is too long", answer({"usage": {**USAGE, "x": "y" * 3000}}), None),
]


def call(s, bound=500, **more):
    body = json.dumps({"model": "m", "max_tokens": bound}).encode()
    return s.request(method="POST", target="/v1/messages", body=body, headers={"Content-Type": "application/json"}, **more)


def left(s):
    """tokens that are left, as the rule itself says"""
    r = call(s, 10 * LIMIT)
    found = re.search(rb"of the budget of \d+ tokens (-?\d+) tokens is left", r.body)
    assert r.status == 403 and found, r.body
    return int(found[1])


def spent(s, n):
    wait(lambda: left(s) == LIMIT - n, 5, f"{n} tokens (left {left(s)})")


def test_usage(t):
    """tokens of OpenAI's, Anthropic's and Gemini's answers, JSON and streams"""
    s, up = t.proxy(workers=1, credentials=[API], upstream={"reply": [a for _, a, _ in ANSWERS]})
    s.cli("rule", "add", "spend", "--type", "budget", f"tokens={LIMIT}")
    total, reserved = 0, 500 + len(json.dumps({"model": "m", "max_tokens": 500})) // 3 + 1
    assert left(s) == LIMIT
    for name, _, cost in ANSWERS:
        try:
            r = call(s)
        except ConnectionError:
            pass
        total += reserved if cost is None else cost
        try:
            spent(s, total)
        except AssertionError as e:
            raise AssertionError(f"{name}: {e}")
    assert {r.get("accept-encoding") for r in up.requests if r.method == "POST"} == {"identity"}, [r.head for r in up.requests][:1]
    got = s.request(target="/v1/models")
    assert got.status == 200, got.head
    r = s.request(method="POST", target="/v1/x", body=b"x", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert r.status == 403 and b"cannot be read" in r.body, r.body
    # a rule may refuse an answer by its head: what the call costs was spent by then
    s.policy("inside", '''return { kind = "rule", api = 1, name = "inside", title = "t", on_request = function() end,
      on_response = function(res) if res.headers:get("x-inside") then return deny("this is for people alone") end end }''')
    s.cli("rule", "add", "inside", "--type", "inside")
    for status, cost in (("200 OK", reserved), ("429 Too Many Requests", 0)):
        up.reset({"reply": answer({"usage": USAGE}, status=status, more="X-Inside: 1\r\n")})
        r = call(s)
        assert r.status == 403 and b"for people alone" in r.body, r.body
        total += cost
        spent(s, total)
    for body in (b'{"model":"m","max_tokens":1,"max_tokens":2}', b"[1]"):
        assert s.request(method="POST", target="/v1/messages", body=body, headers={"Content-Type": "application/json"}).status == 403
    assert s.request(method="POST", target="/v1/messages", body=gzip.compress(b"{}"),
                     headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}).status == 403


def test_in_flight(t):
    """what is in flight is reserved, in every worker; at 80 % the log says so; money counts unknown models at the dearest"""
    s, up = t.proxy(workers=2, credentials=[API], upstream={"reply": {"steps": [1.5, answer({"usage": USAGE})]}})
    s.cli("rule", "add", "spend", "--type", "budget", "usd=1.00", "period=month")     # 0.60 a thousand tokens, so one call at a time
    got = []
    threads = [threading.Thread(target=lambda: got.append(call(s, 1000).status)) for _ in range(4)]
    [x.start() for x in threads]
    def stands():
        return {k: v for k, v in json.loads(s.cli("rule", "counters", "spend", "--json").stdout)["counters"][0].items() if k in ("of", "count", "reserved", "limit", "unit", "state")}
    seen = []
    wait(lambda: seen.append(stands()) or seen[-1].get("reserved", 0) > 0 or 200 in got, 5, "what is in flight")
    assert 200 in got or seen[-1] == {"of": "a", "count": 0, "reserved": 0.6018, "limit": 1, "unit": "USD", "state": "open"}, seen
    [x.join() for x in threads]
    assert sorted(got) == [200, 403, 403, 403], got
    wait(lambda: stands() == {"of": "a", "count": 0.0135, "reserved": 0, "limit": 1, "unit": "USD", "state": "open"}, 5, "what was spent")
    r = call(s, 1700)
    assert r.status == 403 and b"$0.99 is left" in r.body, r.body
    s.cli("rule", "set", "spend", "usd=0.61")
    assert call(s, 900).status == 200
    assert "ev=rule_warning" not in s.log()
    s.cli("rule", "set", "spend", "usd=0.04")
    assert call(s, 10).status == 200
    wait(lambda: 'ev=rule_warning rule=spend text="' in s.log(), 5, "a warning")
    assert stands()["state"] in ("near", "reached"), stands()
    assert call(s, 10).status in (200, 403)


def test_restart(t):
    """counters survive a restart, and a kill, but for its last second; rate's, where kept=true says so"""
    s, up = t.proxy(workers=2, credentials=[API], upstream={"reply": answer({"usage": USAGE})})
    flags = ("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    s.cli("rule", "add", "spend", "--type", "budget", f"tokens={LIMIT}")
    s.cli("rule", "add", "slow", "--type", "rate", "requests=3", "window=3000000", "kept=true", "--path", "/slow")
    s.cli("rule", "add", "fast", "--type", "rate", "requests=3", "window=3000000", "--path", "/fast")
    for _ in range(3):
        assert call(s).status == 200 and s.request(target="/slow").status == 200 and s.request(target="/fast").status == 200
    spent(s, 90)
    time.sleep(2.5)
    stood = s.cli("rule", "counters").stdout
    for how in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(s.group, how) if how == signal.SIGKILL else s.process.terminate()
        s.process.wait(40)
        # a worker that still ends resets who connects meanwhile
        kept = wait(lambda: "no server runs" in (out := s.cli("rule", "counters").stdout) and out, 10, "no server runs")
        assert "a: 90 of 100000 tokens in a day" in stood and "a: 90 of 100000 tokens in a day" in kept and "a: 3 of 3 requests in 50000m" in kept, (stood, kept)
        assert kept.count("a: at most 3 requests") == 1 and "what is not here is not known: no server runs" in kept, kept
        s.serve(*flags)
        assert left(s) == LIMIT - 90
        assert s.request(target="/slow").status == 429 and s.request(target="/fast").status == 200


def test_bytes(t):
    """rate with bytes: bodies of both ways count once a request has ended"""
    s, up = t.proxy(workers=1, credentials=[API], upstream={"reply": answer("x" * 1000, "text/plain")})
    s.cli("rule", "add", "traffic", "--type", "rate", "bytes=4000", "window=3000000")
    assert s.request(method="POST", body=b"y" * 900).status == 200
    assert s.request().status == 200
    wait(lambda: s.request(method="POST", body=b"y" * 1200).status == 200 or True, 1, "")
    time.sleep(0.2)
    r = s.request()
    assert r.status == 429 and b"4000 bytes in" in r.body, r.body


def test_share(t):
    """an agent that makes a rule count what it likes does not fill the counters for others"""
    s, up = t.proxy(workers=1, credentials=[API], upstream={"reply": answer("x", "text/plain")})
    s.agent("b")
    s.policy("wild", """return { kind = "rule", api = 1, name = "wild", title = "t",
      counters = function() return { { label = "others", key = "other {}", per = "agent", window = 3000000, limit = 2, unit = "requests" } } end, on_request = function(req, ctx)
      local n = tonumber(req.query:get("n"))
      if not n then return limit(2, 3000000) end
      for i = n, n + 2999 do ctx.count("k" .. i, 3000000) end end }""")
    s.cli("rule", "add", "wild", "--type", "wild")
    got = [s.request(target=f"/?n={3000 * i}").status for i in range(4)]
    assert got[:2] == [200, 200] and got[3] == 403, got       # its share: an eighth of all
    assert [s.request(auth=s.auth(name="b")).status for _ in range(3)] == [200, 200, 429]
    told = json.loads(s.cli("rule", "counters", "wild", "--json").stdout)["counters"]
    assert {c["of"]: (c.get("count"), c["state"]) for c in told} == {"a": (None, "unknown"), "b": (0, "open")}, told
    assert re.search("unknown of 2 requests.*: no room for another counter", s.cli("rule", "counters", "wild").stdout)
