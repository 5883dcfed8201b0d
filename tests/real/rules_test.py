"""Traffic rules in bundles: what changes is obeyed by the next request, of every worker; what is counted is counted once."""
import json
import re
import shlex
import subprocess

import sallyport

API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-rules-1"}}
DENY = """return {{ kind = "rule", api = 1, name = "{0}", title = "t", on_request = function(req, ctx)
  if req.headers:get("x-ask") == "{0}" then return deny("{0} says no") end
end }}"""


def asked(s, **options):
    r = s.request(**options)
    return r.status, r.get("x-sallyport-error"), r.body.decode("utf-8", "replace")


def test_next_request(t):
    """a rule that is added, changed, disabled, moved or removed is obeyed by the next request, on the short way too"""
    s, up = t.proxy(workers=2, credentials=[API])
    s.policy("one", DENY.format("one"))
    s.policy("two", DENY.format("two"))
    no = {"X-Ask": "one"}
    for _ in range(6):      # each worker knows the way by now
        assert s.request(headers=no).status == 200
    s.cli("rule", "add", "first", "--type", "one")
    for _ in range(6):
        status, code, text = asked(s, headers=no)
        assert (status, code) == (403, "rule_denied") and "rule first: one says no" in text, text
    assert asked(s)[0] == 200
    s.cli("rule", "disable", "first")
    assert [s.request(headers=no).status for _ in range(6)] == [200] * 6
    s.cli("rule", "enable", "first")
    assert [s.request(headers=no).status for _ in range(6)] == [403] * 6
    s.policy("one", DENY.format("one").replace("one says no", "not any more").replace('get("x-ask") == "one"', 'get("x-ask")'))
    assert "not any more" in (got := asked(s, headers=no))[2], got
    s.cli("rule", "add", "second", "--type", "two")
    assert "rule first" in asked(s, headers={"X-Ask": "two"})[2]
    s.cli("rule", "move", "second", "1")
    assert "rule second" in asked(s, headers={"X-Ask": "two"})[2]
    assert [r["name"] for r in json.loads(s.cli("rule", "list", "--json").stdout)] == ["second", "first"]
    for name, fields in (("--host", "other.test"), ("--method", "DELETE"), ("--path", "/v2")):
        s.cli("rule", "set", "first", name, fields)
        assert s.request(headers=no).status == 200, name
        s.cli("rule", "remove", "first")
        s.cli("rule", "add", "first", "--type", "one")
    s.cli("rule", "set", "first", "--path", "/v2")
    for target in ("/v2/x", "/v2%2fx", "/v1/../v2", "/V2/../v2"):
        assert s.request(headers=no, target=target).status == 403, target
    s.cli("rule", "remove", "first")
    s.cli("rule", "remove", "second")
    assert s.request(headers=no).status == 200
    s.policy("memo", """return { kind = "rule", api = 1, name = "memo", title = "t", on_request = function(req, ctx)
      if ctx.memo.asked then return nil end
      ctx.memo.asked = true
      if req.headers:get("x-ask") == "one" then return deny("no") end
    end }""")
    s.cli("rule", "add", "memo", "--type", "memo")
    assert [s.request(headers={"X-Ask": "two"}).status for _ in range(8)] == [200] * 8
    assert [s.request(headers=no).status for _ in range(4)] == [403] * 4      # a memo is one request's
    s.policy("memo", """return { kind = "rule", api = 1, name = "memo", title = "t", on_request = function(req, ctx)
      local what = req.headers:get("x-ask")
      if not what then return nil end
      local time, n = ctx.time, ctx.count("k", 86400)
      if ctx.memo.asked then return deny("another request's memo") end
      ctx.memo.asked = true
      if n > 3 then return deny("it is the " .. n) end
    end }""")
    for n in range(1, 7):   # what leaves nothing behind is asked in a way of its own: between the two nothing is lost, or counted twice
        assert [s.request().status for _ in range(4)] == [200] * 4
        status, code, text = asked(s, headers=no)
        assert (status, code) == (200, None) if n <= 3 else status == 403 and f"it is the {n}" in text, (n, status, text)
    assert not s.leaks()


def test_bundles(t):
    """a rule is its bundle's: what another bundle of the agent's allows is not asked about"""
    s, up = t.proxy(workers=1, credentials=[API], serve=False)
    s.cli("bundle", "add", "other")
    s.credential({**API, "name": "more", "host": "more.test", "bundle": "other", "secrets": {"token": "canary-rules-2"}})
    s.agent("b", bundles=["default", "other"])
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--connect-to", f"more.test:443:127.0.0.1:{up.port}")
    s.policy("one", DENY.format("one"))
    s.cli("rule", "add", "first", "--type", "one", "--bundle", "other")
    no, auth = {"X-Ask": "one"}, s.auth(name="b")
    assert s.request(headers=no, auth=auth).status == 200
    assert s.request(headers=no, host="more.test", auth=auth).status == 403
    d = json.loads(s.cli("explain", "--agent", "b", "--json", "--header", "X-Ask: one", "GET", "https://more.test/").stdout)
    assert d["decision"] == "deny" and d["code"] == "rule_denied" and d["rules"] == [
        {"name": "first", "type": "one", "says": "it refuses: one says no"}], d
    d = json.loads(s.cli("explain", "--agent", "b", "--json", "GET", "https://more.test/").stdout)
    assert d["decision"] == "allow" and d["rules"][0]["says"] == "it has nothing against it", d


def test_counted(t):
    """a limit is one for all workers, and each agent has its own"""
    s, up = t.proxy(workers=2, credentials=[API])
    s.agent("b")
    s.cli("rule", "add", "slowly", "--type", "rate", "requests=5", "window=3000000")
    got = [s.request().status for _ in range(9)]
    assert got == [200] * 5 + [429] * 4, got
    r = s.request()
    assert r.get("x-sallyport-error") == "too_many" and int(r.get("retry-after")) > 0 and b"rule slowly: 5 in" in r.body, r.body
    assert [s.request(auth=s.auth(name="b")).status for _ in range(6)] == [200] * 5 + [429]
    own = '''return { kind = "rule", api = 1, name = "orders", title = "t", fields = { { name = "most", type = "integer", default = 9 } },
      counters = function(rule) return { { label = "orders", key = "order of {} at 1", per = "%s", window = "month", limit = rule.most, unit = "orders", warn = 3 } } end,
      on_request = function(req, ctx) ctx.count("order of " .. req.host .. " at 1", "month", 3) end, examples = { {} } }'''
    wrong = s.dir / "orders.lua"
    wrong.write_text(own % "agent")
    refused = s.cli("policy", "test", str(wrong), check=False)
    assert refused.returncode == 1 and 'it counts under the key "order of api.example.com at 1", which `counters` does not say' in refused.stdout + refused.stderr, refused
    wrong.write_text((own % "host").replace("unit =", "unity ="))
    refused = s.cli("policy", "check", str(wrong), check=False)
    assert refused.returncode == 1 and "counters has a row with the key 'unity': did you mean unit?" in refused.stdout, refused
    wrong.write_text(own.replace("  counters = function", "  validate = function") % "host")
    assert "it counts, and does not say what" in s.cli("policy", "check", str(wrong), check=False).stdout
    wrong.write_text((own % "host").replace('"month", limit', '"day", limit'))
    assert "in the window month, and `counters` says day" in (refused := s.cli("policy", "put", str(wrong), check=False)).stderr, refused
    s.policy("orders", own % "host")
    s.cli("rule", "add", "ordered", "--type", "orders")
    s.cli("rule", "move", "ordered", "1")
    assert s.request().status == 429
    def counted(name): return json.loads(s.cli("rule", "counters", name, "--json").stdout)
    for _ in range(2):      # what looks counts nothing
        own = counted("slowly")
        assert [(c["of"], c["count"], c["refused"], c["limit"], c["state"]) for c in own["counters"]] == [("a", 5, 6, 5, "reached"), ("b", 5, 1, 5, "reached")], own
        own = counted("ordered")["counters"]
        assert [(c["of"], c["count"], c["state"], c["unit"]) for c in own] == [("api.test", 3, "near", "orders")], own
    assert "counted  api.test: 3 of 9 orders in a month, near its limit, until 20" in s.cli("rule", "show", "ordered").stdout
    assert "a: 5 of 5 requests, 6 refused +1" in s.cli("rule", "list").stdout
    s.cli("rule", "remove", "ordered")
    s.cli("rule", "set", "slowly", "requests=7")
    got = [s.request(auth=s.auth(name="b")).status for _ in range(3)]
    assert got[0] == 200 and got[-1] == 429, got
    s.cli("rule", "set", "slowly", "per=all", "requests=1000000")
    assert s.request().status == 200


def test_tunnel(t):
    """what nobody can read is refused where a rule reads it; a rule on heads is asked about the tunnel"""
    s, up = t.proxy(workers=1, credentials=[])
    s.cli("domain", "add", "default", "api.test", "--tunnel")
    s.policy("heads", 'return { kind = "rule", api = 1, name = "heads", title = "t", on_request = function(req) '
             'if req.method == "CONNECT" then return deny("no tunnels") end end }')
    s.policy("bodies", 'return { kind = "rule", api = 1, name = "bodies", title = "t", body = {}, on_request = function(req) end }')
    for kind, why in (("heads", b"no tunnels"), ("bodies", b"nobody can see")):
        s.cli("rule", "add", kind, "--type", kind)
        wire = s.connect()
        wire.send(f"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n{s.auth()}\r\n".encode())
        head = wire.recv(5)
        assert b" 403 " in head and why in head, head
        s.cli("rule", "remove", kind)


def test_refused_commands(t):
    """what makes no rule is refused, with what to do"""
    s, up = t.proxy(workers=1, credentials=[API], serve=False)
    for args, part in ((("x", "--type", "bearer"), "it is a credential type"), (("x", "--type", "ratee", "requests=1"), "did you mean rate?"),
                       (("x",), "which type"), (("x", "--type", "rate"), "is missing"), (("x", "--type", "rate", "requests=-1"), "at least 0"),
                       (("x", "--type", "rate", "requests=1", "per=nobody"), "is one of"), (("x", "--type", "rate", "requests=1", "mint=allow"), "no mint"),
                       (("x", "--type", "rate", "requests=1", "--bundle", "nowhere"), "no bundle"), (("x y", "--type", "rate", "requests=1"), "name"),
                       (("x", "--type", "hours", "from=25:00"), "time of day"), (("x", "--type", "hours", "zone=Mars"), "offset")):
        r = s.cli("rule", "add", *args, check=False)
        assert r.returncode in (1, 2) and part in r.stderr, (args, r.returncode, r.stderr)
    s.cli("rule", "add", "slowly", "--type", "rate", "requests=1")
    assert "there is a rule" in s.cli("rule", "add", "slowly", "--type", "rate", "requests=1", check=False).stderr
    assert "did you mean" in s.cli("rule", "remove", "slowley", check=False).stderr


def test_pages(t):
    """the commands on the manual page of each rule that is shipped are some, and each has examples"""
    s, up = t.proxy(workers=1, credentials=[API], serve=False)
    pages, n = sorted((sallyport.ROOT / "policies/rules").glob("*.lua")), 0
    for page in pages:
        found = re.findall(r"^--   sallyport rule add \S+ (.*)$", page.read_text(), re.M)
        assert found, page
        for args in found:
            n += 1
            s.cli("rule", "add", f"r{n}", *shlex.split(args))
        tested = s.cli("policy", "test", page.stem).stdout
        assert re.search(r"^ok +\S+ +[1-9]\d* examples", tested), (page, tested)
        # its page in the manual: the title, each line of its comment, each field with what is said of it, and what it reads
        text, shown = page.read_text(), s.cli("policy", "help", page.stem).stdout
        comment = re.match(r"(?:--[^\n]*\n)+", text)[0].splitlines()
        title = re.search(r'title = "([^"]+)"', text)[1]
        assert shown.startswith(f"# {page.stem}: {title}\n"), (page, shown[:200])
        for line in comment:
            words = re.sub(r"^---? ?", "", line).strip()
            assert words.rstrip(".") == title or words in shown, (page, words)
        fields = re.findall(r'{ name = "(\w+)"[^\n]*?help = "((?:[^"\\]|\\.)*)"', text[text.index("fields"):])
        for name, about in fields:
            row = re.search(rf"^\| {name} \| .* \| (.*) \|$", shown, re.M)
            assert row and row[1].replace("\\|", "|") == about.replace('\\"', '"'), (page, name, about, shown)
        of_page = re.findall(r"^\| (\w+) \|", shown.split("## Fields")[1].split("\n## ")[0], re.M)[1:]
        assert [f for f, _ in fields] == of_page and f"examples: sallyport policy test {page.stem}." in shown, (page, fields)
        assert ("what a push asks for" in shown) == ('reader = "pkt-line"' in text) and ("reads members of" in shown) == ("members =" in text), shown
    assert len(pages) >= 8 and len(json.loads(s.cli("rule", "list", "--json").stdout)) == n


GRAPHQL = '{"query":"mutation X { deleteRepo(id: 1) { ok } }"}'
PUSH = b"\0report-status0000PACK"


def test_explain_reads_bodies(t):
    """explain --body says what the proxy then decides: members of JSON, forms and multipart, pushes, what a rule reads itself, `_method`, a body over a rule's max"""
    s, up = t.proxy(workers=1, credentials=[API])
    s.policy("small", 'return { kind = "rule", api = 1, name = "small", title = "t", body = { max = 100 }, on_request = function(req) if req.body:find("no") then return deny("no") end end }')
    for i, (kind, *fields) in enumerate((("fields", "member=to", "only=*@acme.com"), ("llm", "models=gpt-*"), ("graphql", "operations=query"), ("mcp_tools", "allow=read_*"),
                                         ("git_branches", "refs=agent/*"), ("size", "bytes=10"), ("small",), ("rate", "requests=1000000"))):
        s.cli("rule", "add", f"r{i}", "--type", kind, "--path", f"/{kind}", *(("--method", "DELETE") if kind == "rate" else ()), *fields)
    of_json, form = "application/json", "application/x-www-form-urlencoded"
    push = [(f"{'1' * 40} {'2' * 40} refs/heads/{ref}".encode() + PUSH) for ref in ("agent/x", "main")]
    push = [b"%04x" % (len(b) - len(b"0000PACK") + 4) + b for b in push]
    tool = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%s"}}'
    part = '--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n--b--\r\n'
    cases = [("/fields", of_json, '{"to":"me@acme.com"}'), ("/fields", of_json, '{"to":["me@acme.com","you@evil.test"]}'), ("/fields", of_json, '{"to":"a@acme.com","to":"b@evil.test"}'),
             ("/fields", of_json, '{"to":'), ("/fields", form, "to=me%40acme.com"), ("/fields", form, "to=you%40evil.test&x=1"), ("/fields", "multipart/form-data; boundary=b", part % "to"),
             ("/fields", "multipart/form-data; boundary=b", part % "other"), ("/fields", "text/plain", "to"), ("/llm/v1/chat/completions", of_json, '{"model":"gpt-5"}'),
             ("/llm/v1/chat/completions", of_json, '{"model":"o1"}'), ("/graphql", of_json, '{"query":"{ viewer { login } }"}'), ("/graphql", of_json, GRAPHQL), ("/mcp_tools", of_json, tool % "read_x"),
             ("/mcp_tools", of_json, tool % "write_x"), ("/git_branches/r.git/git-receive-pack", "application/x-git-receive-pack-request", push[0]),
             ("/git_branches/r.git/git-receive-pack", "application/x-git-receive-pack-request", push[1]), ("/size", "text/plain", "short"), ("/size", "text/plain", "longer than ten"),
             ("/small", "text/plain", "yes"), ("/small", "text/plain", "no"), ("/small", "text/plain", "y" * 101), ("/rate", form, "_method=DELETE&a=1"), ("/rate", of_json, '{"_method":"DELETE"}'),
             ("/rate", of_json, '{"a":1}'), ("/other", of_json, GRAPHQL)]
    refused = 0
    for path, kind, body in cases:
        body = body if isinstance(body, bytes) else body.encode()
        (s.dir / "body").write_bytes(body)
        head = ("--agent", "a", "--header", f"Content-Type: {kind}")
        got = json.loads(s.cli("explain", *head, "--json", "--body", f"@{s.dir / 'body'}", "POST", f"https://api.test{path}").stdout)
        r = s.request("POST", path, headers={"Content-Type": kind}, body=body)
        pushed = b"unpack " in r.body       # git reads an answer of its own
        assert (got["decision"] == "deny") == (r.status >= 400 or pushed), (path, body, got, r.status, r.body)
        if got["decision"] == "deny":
            refused += 1
            assert pushed and "main" in got["message"] or (got["status"], got["code"]) == (r.status, r.get("x-sallyport-error")) and got["message"] in json.loads(r.body)["message"], (got, r.body)
        rule = [g["says"] for g in got["rules"] if g["type"] == path.split("/")[1]]
        assert path in ("/rate", "/other") or len(rule) == 1 and "reads the body" not in rule[0], got
        unread = json.loads(s.cli("explain", *head, "--json", "POST", f"https://api.test{path}").stdout)
        assert path in ("/rate", "/other", "/size") or [g["says"] for g in unread["rules"]] == ["it reads the body"], unread
    assert refused == 14, refused
    same = ("explain", "--agent", "a", "--header", f"Content-Type: {of_json}", "--json", "POST", "https://api.test/graphql", "--body")
    assert json.loads(s.cli(*same, GRAPHQL).stdout) == json.loads(s.cli(*same, "-", stdin=GRAPHQL).stdout)
    assert "no Content-Type" in s.cli("explain", "--body", "{}", "POST", "https://api.test/graphql").stderr
    s.cli("set", "body-max", "64k")
    for given, said in ((f"@{s.dir}/none", "there is no such file"), (f"@{s.dir}", "cannot read"), ("-", "it has more than 64k")):
        r = s.cli("explain", "--body", given, "POST", "https://api.test/", stdin="x" * 70000, check=False)
        assert r.returncode == 1 and said in r.stderr and not r.stdout, (given, r)
    for models, status in (("null", 200), ('["gpt-1"]', 200), ('["gpt-1","o1"]', 403)):     # a body that is over body-max streams
        body = f'{{"model":"gpt-5","models":{models},"x":"{"x" * 70000}"}}'.encode()
        r = s.request("POST", "/llm/v1/chat/completions", headers={"Content-Type": of_json}, body=body)
        assert r.status == status, (models, r.status, r.body)


def test_answer_h2(t):
    """an answer that a rule refuses by its head, to a client of HTTP/2, whose other streams go on; `explain` says what is asked"""
    t.need("curl")
    s, up = t.proxy(workers=1, credentials=[API])
    s.policy("teapot", 'return { kind = "rule", api = 1, name = "teapot", title = "t", on_request = function(req) end, '
             'on_response = function(res) if res.headers:get("content-type") == "application/json" then return deny("no JSON") end end }')
    args = ["curl", "-sS", "--http2", "--max-time", str(10 * sallyport.SLOW), "--proxy", s.proxy_url(), "--cacert", str(s.ca), "-w", "[%{http_version} %{response_code} %{num_connects}]"]
    r = subprocess.run([*args, "https://api.test/a"], capture_output=True, text=True)
    assert "[2 200 1]" in r.stdout, r
    s.cli("rule", "add", "judge", "--type", "teapot", "--path", "/a")
    assert "it is asked about the answer's head" in s.cli("explain", "GET", "https://api.test/a").stdout
    r = subprocess.run([*args, "https://api.test/a", "https://api.test/b", "-I", "https://api.test/a"], capture_output=True, text=True)
    assert "[2 403 1]" in r.stdout and "[2 200 0]" in r.stdout and "[2 403 0]" in r.stdout and "canary" not in r.stdout, r
    records = [(x["path"], x["status"], x["decision"], x["reason"]) for x in s.records()]
    assert records.count(("/a", 403, "deny", "rule judge")) == 2, records


COUNTED = """local n = 0
return { kind = "type", api = 1, name = "counted", title = "t", pure = true, fields = { { name = "token", secret = true, required = true } },
  apply = function(req, cred)
    n = n + 1
    req.headers:set("authorization", "Bearer " .. cred.token)
    req.headers:set("x-n", n)
  end }"""
# Says what it was shown, and spoils it for whoever gets it next.
SAYS = """return { kind = "rule", api = 1, name = "says", title = "t", body = {}, on_request = function(req, ctx)
  local body = req.json()
  if not body then return nil end
  if body.spoilt or ctx.memo.spoilt then return deny("what an earlier request showed") end
  body.spoilt, ctx.memo.spoilt = true, true
  if body.stop then return deny(("%s of %s: %s %s"):format(ctx.agent, ctx.credential, tostring(body.stop), req.path)) end
end }"""


def push(*refs):
    lines = [f"{'0' * 40} {'1' * 40} refs/heads/{ref}".encode() for ref in refs]
    lines[0] += b"\0 report-status"
    return b"".join(b"%04x%s" % (len(x) + 4, x) for x in lines) + b"0000PACK"


def test_short_way(t):
    """what a rule reads of a body is this request's on the short way, too: another ref, body, tool, agent, credential and path is judged anew"""
    listed = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "read_page"}, {"name": "drop_page"}]}})
    s, up = t.proxy(workers=1, serve=False, upstream={"reply": f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(listed)}\r\n\r\n{listed}"})
    s.policy("counted", COUNTED)
    s.policy("says", SAYS)
    s.agent("b")
    for host in ("git", "json", "json2", "tools", "form"):
        s.credential({"name": host, "type": "counted", "host": f"{host}.test", "secrets": {"token": f"canary-short-{host}"}})
    s.cli("rule", "add", "pushes", "--type", "git_branches", "--host", "git.test", "refs=agent/*")
    s.cli("rule", "add", "says", "--type", "says", "--host", "json.test", "--host", "json2.test")
    s.cli("rule", "add", "at", "--type", "says", "--host", "json.test", "--path", "/kept")
    s.cli("rule", "add", "careful", "--type", "mcp_tools", "--host", "tools.test", "allow=read_*")
    s.cli("rule", "add", "to", "--type", "fields", "--host", "form.test", "member=to", "only=*@acme.com")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(x for h in ("git", "json", "json2", "tools", "form") for x in ("--connect-to", f"{h}.test:443:127.0.0.1:{up.port}")))
    wires = {}

    def post(host, body, target="/", kind="application/json", agent="a"):
        if (host, agent) not in wires:
            wires[host, agent] = s.tunnel(f"{host}.test", auth=s.auth(name=agent))
        return s.request(method="POST", host=f"{host}.test", target=target, headers={"Content-Type": kind}, body=body, wire=wires[host, agent])

    def short(host, *args, times=3, **options):
        """so many that go through, of which the type's apply sees at most one more than before"""
        seen = [post(host, *args, **options).status and up.requests[-1] for _ in range(times)]
        assert all(r.get("authorization") == f"Bearer canary-short-{host}" for r in seen), (host, args)
        assert seen[-1].get("x-n") == seen[0].get("x-n"), (host, args, "not the short way")
        return seen

    def no(part, host, *args, **options):
        before, r = len(up.requests), post(host, *args, **options)
        assert len(up.requests) == before and part in r.body.decode("latin-1"), (part, host, args, r.status, r.body)

    for at in ("/a.git/git-receive-pack", "/b.git/git-receive-pack"):
        what = dict(target=at, kind="application/x-git-receive-pack-request")
        short("git", push("agent/x"), **what)
        no("refs/heads/main may not be pushed to", "git", push("main"), **what)
        no("refs/heads/main may not be pushed to", "git", push("agent/x", "main"), **what)
        no("cannot be read", "git", b"0009hello0000", **what)
        assert short("git", push("agent/y"), **what)[-1].body == push("agent/y")
    short("git", push("main"), target="/git-upload-pack", kind="application/x-git-receive-pack-request")        # it is no push
    no("refs/heads/main may not", "git", push("main"), target="/a.git/git-receive-pack", kind="application/x-git-receive-pack-request")
    for host in ("json", "json2"):
        for agent in ("a", "b"):
            short(host, b'{"a": 1}', agent=agent)
            no(f"{agent} of {host}: true /x", host, b'{"stop": true}', target="/x", agent=agent)
            no(f"{agent} of {host}: 2 /y", host, b'{"stop": 2}', target="/y", agent=agent)
            short(host, b'{"a": 1}', target="/x", agent=agent)
    short("json", b'{"a": 1}', target="/kept")
    no("rule says: a of json: true /kept", "json", b'{"stop": true}', target="/kept")
    call = '{"jsonrpc":"2.0","id":1,"method":"%s","params":{"name":"%s"}}'
    for _ in range(2):
        short("tools", b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}')
        for _ in range(3):
            r = post("tools", b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}')
            assert [x["name"] for x in json.loads(r.body)["result"]["tools"]] == ["read_page"], r.body
        no("the tool drop_page is not allowed here", "tools", (call % ("tools/call", "drop_page")).encode())
        no("duplicate", "tools", b'{"method":"tools/list","method":"tools/call"}')
        short("tools", (call % ("tools/call", "read_page")).encode())
    for _ in range(2):
        short("form", b'{"to": "x@acme.com"}')
        no("rule to", "form", b'{"to": "x@evil.com"}')
        no("rule to", "form", b'{"to": ["x@acme.com", "x@evil.com"]}')
        short("form", b'{"to": "y@acme.com"}')
    # What waits for its body is not judged by what came meanwhile, nor goes a way that has ended.
    git = dict(target="/a.git/git-receive-pack", kind="application/x-git-receive-pack-request")
    slow = [s.tunnel("git.test"), s.tunnel("git.test")]
    bodies, before = [push("main"), push("agent/z")], len(up.requests)
    for wire, body in zip(slow, bodies):
        wire.send(f"POST {git['target']} HTTP/1.1\r\nHost: git.test\r\nContent-Type: {git['kind']}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:60])
    short("git", push("agent/x"), **git)
    no("refs/heads/main may not", "git", push("main", "agent/x"), **git)
    s.cli("rule", "add", "later", "--type", "hours", "--host", "git.test", "from=8:00", "to=18:00", "--path", "/none")
    for wire, body in zip(slow, bodies):
        wire.send(body[60:])
    heads = [wire.recv(15 * sallyport.SLOW) for wire in slow]
    assert b"refs/heads/main may not" in heads[0] and heads[1].startswith(b"HTTP/1.1 200") and b"read_page" in heads[1], heads
    assert [r.body for r in up.requests[before:]].count(push("agent/z")) == 1 and not any(r.body == push("main") for r in up.requests[before:])
    assert not s.leaks()
