"""sallyport record and policy replay."""
import json
import os
import signal
import subprocess
import time

import sallyport
from real import wait

OK = {"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}


class Recording:
    """`sallyport record` beside the requests of a block"""

    def __init__(self, s, *options):
        self.s, self.file, self.options = s, s.dir / f"traffic-{time.monotonic_ns()}.jsonl", options

    def __enter__(self):
        self.process = subprocess.Popen([self.s.binary, "record", "--for", "5m", "--out", str(self.file), *self.options], env=self.s.env,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert "Recording until" in line, line
        return self

    def __exit__(self, *_):
        time.sleep(0.5 * sallyport.SLOW)
        self.s.cli("record", "--stop")
        out, err = self.process.communicate(timeout=30)
        self.err = err

    def lines(self):
        return [json.loads(x) for x in self.file.read_text().splitlines()]


def replay(s, *args, code=0):
    r = s.cli("policy", "replay", *args, "--json", check=False)
    assert r.returncode == code, (r.returncode, r.stdout[-2000:], r.stderr[-500:])
    return json.loads(r.stdout)


def arrange(t):
    s, up = t.proxy(serve=False, upstream=OK, workers=2)
    for name, host, more in (("api", "api.test", ()), ("two", "two.test", ("--path", "/v1", "--method", "GET")), ("mine", "api.test", ("--path", "/mine"))):
        s.cli("credential", "add", name, "--type", "bearer", "--host", host, "--env", name.upper() + "_TOKEN", "token=-", *more, stdin="canary-" + name)
        s.canaries.append("canary-" + name)
    s.cli("domain", "add", "default", "open.test")
    s.cli("set", "log-group", os.getgid())
    s.agent("b")
    hosts = ("api.test", "two.test", "open.test")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(x for h in hosts for x in ("--connect-to", f"{h}:443:127.0.0.1:{up.port}")))
    env = dict(l.split("=", 1) for l in s.cli("env", "--agent", "a", "--format", "docker").stdout.splitlines() if "=" in l)
    return s, up, env


def traffic(s, env):
    for target, host, method, headers in (
            ("/x?q=1&api_key=canary-query&next=%2Fa%3Ftoken%3Dcanary-query&a=1;sig=canary-query&to%256ben=canary-query&other=2", "api.test", "GET",
             {"Authorization": "Bearer " + env["API_TOKEN"], "X-Plain": "canary-header"}),
            ("/x", "api.test", "POST", {"Content-Type": "application/json"}), ("/mine/1", "api.test", "GET", {}), ("/v1/a", "two.test", "GET", {}),
            ("/v1/a", "two.test", "DELETE", {}), ("/v2", "two.test", "GET", {}), ("/v1/..%2fv2", "two.test", "GET", {}), ("/", "open.test", "GET", {}),
            ("/", "open.test", "POST", {}), ("/", "nowhere.test", "GET", {}), ("/v1/b", "two.test", "GET", {"X-Http-Method-Override": "DELETE"}),
            ("/y", "api.test", "GET", {"Authorization": "Bearer " + env["MINE_TOKEN"]})):
        s.request(method, target, host=host, headers=headers, body=b"{}" if method == "POST" else b"")
        s.request(method, target, host=host, headers=headers, body=b"{}" if method == "POST" else b"")


def test_record_and_replay(t):
    """what is kept, and that replay decides as the live proxy did"""
    s, up, env = arrange(t)
    traffic(s, env)             # warm: kept routes do not escape a recording
    s.canaries += ["canary-query", "canary-header"]
    with Recording(s) as rec:
        traffic(s, env)
        side = next(s.dir.rglob("*.traffic"))
        wait(lambda: side.stat().st_size)
        assert side.stat().st_mode & 0o777 == 0o600         # it is not the group's that reads the log
    lines = rec.lines()
    assert len(lines) == 24, len(lines)
    assert (rec.file.stat().st_mode & 0o777) == 0o600
    text = rec.file.read_text()
    assert "canary" not in text and "x-plain" in text and "?q=1&api_key=&next=&a=&to%256ben=&other=2" in text, text[:2000]
    first = next(l for l in lines if "q=1" in l["url"])
    assert first["agent"] == "a" and first["presents"] == {"api": "header=authorization"} and first["credential"] == "api" and first["decision"] == "allow", first
    assert next(l for l in lines if l["method"] == "POST" and "api.test" in l["url"])["length"] == 2
    assert next(l for l in lines if "nowhere" in l["url"])["code"] == "host_not_allowed"
    r = replay(s, rec.file)
    assert r["requests"] == 24 and r["otherwise"] == 0 and r["same"] >= 20, r
    # nothing of it is in the request log, and the file beside that is gone
    assert "traffic" not in s.cli("log", "--json").stdout and not list(s.dir.rglob("*.traffic"))
    # none of it is recorded behind the end
    traffic(s, env)
    assert len(rec.lines()) == 24
    # an agent alone; a header that is named
    with Recording(s, "--agent", "b", "--header", "X-Plain") as rec:
        s.request(headers={"X-Plain": "seen"})
        s.request(headers={"X-Plain": "seen"}, auth=s.auth(name="b"))
    assert [(l["agent"], l["values"]) for l in rec.lines()] == [("b", {"x-plain": "seen"})]
    # a later recording ends the one before, and that leaves it alone
    with Recording(s) as rec:
        with Recording(s) as later:
            rec.process.wait(30)
            s.request()
    assert not rec.lines() and len(later.lines()) == 1
    # what ends the command ends the recording
    for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with Recording(s) as rec:
            s.request()
            wait(lambda: rec.file.stat().st_size)
            rec.process.send_signal(n)
            assert rec.process.wait(30) == 0 and not list(s.dir.rglob("*.traffic"))
            assert "Nothing was recorded" in s.cli("record", "--stop").stderr
        assert len(rec.lines()) == 1 and "1 request was recorded" in rec.err, rec.err
    r = s.cli("record", "--for", "1m", "--out", rec.file, check=False)
    assert r.returncode == 1 and "existing" in r.stderr, r.stderr


DRAFT_RULE = """
return { kind = "rule", api = 1, name = "office", title = "No deletes of %(what)s", fields = { { name = "word", default = "v1" } },
  on_request = function(req, ctx)
    %(code)s
    if req.path:find(ctx.rule.word, 1, true) then return deny("not this") end
  end,
  examples = { { rule = {}, req = { method = "GET", url = "https://api.example.com/" }, want = "allow" } } }
"""


def test_drafts(t):
    """a draft of match, of a type and of a rule; what the record lacks is unknown"""
    s, up, env = arrange(t)
    with Recording(s) as rec:
        traffic(s, env)
    draft = s.dir / "match.lua"
    text = s.cli("policy", "show", "match").stdout
    draft.write_text(text)
    assert replay(s, draft, rec.file)["otherwise"] == 0
    draft.write_text(text.replace("decide = decide,", "decide = function(list, q, trace)\n    if q.method == 'POST' then return nil, 'method_not_allowed' end\n"
                                  "    return decide(list, q, trace)\n  end,", 1))
    r = replay(s, draft, rec.file, code=1)
    assert [(d["count"], d["method"], d["was"], d["now"]) for d in r["differences"]] == [(2, "POST", "allow credential api (default)", "deny method_not_allowed")], r
    office = s.dir / "office.lua"
    office.write_text(DRAFT_RULE % {"what": "paths", "code": ""})
    r = replay(s, office, rec.file, code=1)
    assert {(d["was"], d["now"]) for d in r["differences"]} == {("allow credential two (default)", "deny rule_denied")}, r
    assert r["otherwise"] == sum(d["count"] for d in r["differences"]) == 4, r
    r = replay(s, office, rec.file, "word=mine", "--bundle", "default", code=1)
    assert r["otherwise"] == 2 and r["differences"][0]["url"].endswith("/mine/1"), r
    office.write_text(DRAFT_RULE % {"what": "paths", "code": 'if req.headers:get("x-plain") == "x" then return deny("no") end'})
    r = replay(s, office, rec.file, "word=nothing")
    assert r["lacking"] == {**r["lacking"], "the header x-plain": 2} and r["otherwise"] == 0, r
    office.write_text(DRAFT_RULE % {"what": "bodies", "code": 'if req.has_body and req.json() then return deny("no") end'})
    r = replay(s, office, rec.file, "word=nothing")
    assert r["lacking"]["the body"] == 2 and r["otherwise"] == 0, r
    office.write_text(DRAFT_RULE % {"what": "paths", "code": 'ctx.count("x", 60)'})
    assert replay(s, office, rec.file, "word=nothing")["lacking"]["a counter"] >= 10
    office.write_text(DRAFT_RULE % {"what": "paths", "code": "do return 5 end"})
    assert replay(s, office, rec.file, "word=nothing", code=1)["differences"][0]["now"] == "deny rule_failed"
    # a type: what it calls a further key is refused
    bearer = s.dir / "bearer.lua"
    text = s.cli("policy", "show", "bearer").stdout
    bearer.write_text(text.replace('  kind   = "type",', '  kind   = "type",\n  mint = { { method = "GET", path = "/x", what = "a further key" } },', 1))
    assert bearer.read_text() != text
    r = replay(s, bearer, rec.file, code=1)
    assert any(d["now"] == "deny mint_denied" and d["url"].startswith("https://api.test/x") for d in r["differences"]), r
    out = s.cli("policy", "replay", bearer, rec.file, check=False)
    assert out.returncode == 1 and "WOULD BE" in out.stdout and "mint_denied" in out.stdout and "unknown" in out.stdout, out.stdout
    for bad, word in ((("policy", "replay", s.dir / "absent.jsonl"), "cannot read"), (("policy", "replay", bearer), "no request"),
                      (("policy", "replay", bearer, rec.file, "a=b"), "draft of a rule")):
        r = s.cli(*bad, check=False)
        assert r.returncode in (1, 2) and word in r.stderr, (bad, r.stderr)


def test_rules_and_counters(t):
    """a rule that stands and counts: its counters' answers are in the record"""
    s, up, env = arrange(t)
    s.cli("rule", "add", "few", "--type", "rate", "--bundle", "default", "--host", "api.test", "requests=5", "window=3600")
    with Recording(s) as rec:
        got = [s.request().status for _ in range(8)]
    assert got == [200] * 5 + [429] * 3, got
    r = replay(s, rec.file)
    assert r["same"] + r["unknown"] == 8 and r["otherwise"] == 0 and r["same"] >= 5, r


def test_pushes(t):
    """of a push the record has the commands, which git_branches read; its options are not kept"""
    s, up, env = arrange(t)
    s.cli("rule", "add", "branches", "--type", "git_branches", "--host", "api.test", "refs=agent/*")

    def line(command, more):
        return b"%04x%s" % (len(command) + len(more) + 5, command + b"\0" + more)

    zero, one = b"0" * 40, b"1" * 40
    with Recording(s) as rec:
        for command, more, options in ((zero + b" " + one + b" refs/heads/agent/x", b"report-status", b""), (zero + b" " + one + b" refs/heads/main", b"report-status", b""),
                                       (zero + b" " + one + b" refs/heads/agent/y", b"push-options", b"000asecret0000"[:14])):
            body = line(command, more) + b"0000" + options
            s.request("POST", "/a.git/git-receive-pack", headers={"Content-Type": "application/x-git-receive-pack-request"}, body=body)
    lines = rec.lines()
    assert [l["push"]["commands"][0]["ref"] for l in lines[:2]] == ["refs/heads/agent/x", "refs/heads/main"] and lines[0]["push"]["options"] == {}, lines
    assert "secret" not in rec.file.read_text() and "options" not in lines[2].get("push", {}), lines[2]
    r = replay(s, rec.file)
    assert r["same"] == 2 and r["unknown"] == 1, r
    s.cli("rule", "set", "branches", "refs=*")
    r = replay(s, rec.file, code=1)
    assert r["otherwise"] == 1 and r["differences"][0]["was"] == "deny rule_denied", r


def test_half_a_million(t):
    """500,000 records; how long it takes is printed, and bounded on a plain build alone"""
    if "asan" in t.binary:
        t.skip("its size is for the plain build")
    s, up, env = arrange(t)
    with Recording(s) as rec:
        traffic(s, env)
    lines = rec.file.read_text().splitlines()
    big = s.dir / "big.jsonl"
    with big.open("w") as f:
        for i in range(500000 // len(lines) + 1):
            f.write("\n".join(x.replace("/v1/a", f"/v1/a{i}") for x in lines) + "\n")
    began = os.times()
    out = s.cli("policy", "replay", big, "--json", timeout=120).stdout
    ended = os.times()
    r = json.loads(out)
    cpu = ended.children_user - began.children_user
    print(f"# {r['requests']} records in {cpu:.1f} s of CPU")
    assert r["requests"] >= 500000 and r["otherwise"] == 0, r
    assert cpu < 20, cpu        # 10 s on a quiet machine


def test_members(t):
    """of a body the record has the members that a rule declares, and no other; whether it names another method is not known"""
    s, up, env = arrange(t)
    s.cli("rule", "add", "closed", "--type", "hours", "--host", "api.test", "--path", "/items", "--method", "DELETE", "from=3:00", "to=3:01")
    with Recording(s) as rec:
        r = s.request("POST", "/items/1", headers={"Content-Type": "application/json"}, body=b'{"_method":"DELETE"}')
        assert r.status == 403 and b"names another method" in r.body, r.body
    r = replay(s, rec.file)
    assert r["lacking"] == {"whether its body names another method": 1}, r
    s.cli("rule", "add", "ours", "--type", "fields", "--host", "api.test", "member=to", "only=*@acme.com")
    with Recording(s) as rec:
        for body in (b'{"to":"a@acme.com","text":"canary-text"}', b'{"to":"b@evil.test"}', b'{"to":"c@acme.com"'):
            s.request("POST", "/mail", headers={"Content-Type": "application/json"}, body=body)
    s.canaries.append("canary-text")
    lines = rec.lines()
    assert lines[0]["members"] == {"ours": {"paths": ["to"], "kind": "json", "values": {"to": ["a@acme.com"]}}}, lines[0]
    assert "why" in lines[2]["members"]["ours"] and "canary-text" not in rec.file.read_text(), lines[2]
    r = replay(s, rec.file)
    assert r["same"] == 3 and r["otherwise"] == 0, r
    s.cli("rule", "set", "ours", "only=a@acme.com", "only=b@*")
    r = replay(s, rec.file, code=1)
    assert r["otherwise"] == 1 and r["same"] == 2 and r["differences"][0]["was"] == "deny rule_denied", r
    s.cli("rule", "set", "ours", "member=text")     # of which the record says nothing
    r = replay(s, rec.file)
    assert r["unknown"] == 2 and r["same"] == 1, r
