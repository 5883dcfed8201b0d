"""One act, several ways: on the page, by the API, by the command that the page prints, and at the door where a person may answer there. Each
way has a copy of one box; behind each act the stores hold the same, and each has one record of kind `change` that says it in the same words."""
import html
import json
import re
import shlex
import subprocess
import time

import oauth_test
import sallyport
from admin_test import Admin
from api_test import Api
from approval_test import ASK as RULE
from approval_test import Asked, opened
from authorization_test import PASSWORD, Box
from proposal_test import own

SECRET, SECOND, OTHER = "canary-alike-1-0123456789", "canary-alike-2-0123456789", "canary-alike-3-0123456789"

# All records, with a secret's mark in its place, and what is concealed opened: copies have one key, so that equal secrets have equal marks.
DUMP = r"""
local store, json = require "store", require "json"
for _, db in ipairs { "meta", "policy", "credential", "state", "bundle", "agent", "user", "client", "gateway", "grant", "token", "proposal", "approval" } do
  local after
  repeat
    local page = store.each(db, "", after, 100)
    for _, row in ipairs(page) do
      after = row.key
      local r = assert(store.get(db, row.key), row.key)
      local secrets = {}
      for k, v in pairs(r.secrets or {}) do secrets[k] = store.mark(v) end
      r.secrets = secrets
      for _, k in ipairs { "said", "saw" } do r[k] = r[k] and json.decode(store.reveal(r[k])) or r[k] end
      for _, k in ipairs { "version", "epoch", "unverified" } do r[k] = nil end
      print(json.encode { db, row.key, r })
    end
  until #page < 100
end
"""
# Members that chance makes, each time anew.
CHANCE = {"id", "hash", "handle", "series"}
# What was answered by an authorization server is another text each time.
ANSWERED = ("state",)


class Way:
    """A box, or a copy of it: nothing is written meanwhile."""

    def __init__(self, t, s, name, copy=True):
        self.name, self.s = name, t.bare() if copy else s
        if copy:
            subprocess.run(["cp", "-a", "--sparse=always", s.home, self.s.home], check=True)
            self.s.canaries = s.canaries
        self.dump = self.s.dir / "dump.lua"
        self.dump.write_text(DUMP)
        self.seen = {r["request"] for r in self.records()}

    def records(self, kind="change"):
        return sallyport.rows(self.s.cli("log", "--json", "--kind", kind).stdout)

    def new(self):
        """The records of changes since the last look."""
        out = [r for r in self.records() if r["request"] not in self.seen]
        self.seen |= {r["request"] for r in out}
        return out

    def store(self):
        out = {}
        for line in self.s.cli("lua", "--store", self.dump).stdout.splitlines():
            db, key, record = json.loads(line)
            out.setdefault((db, key if db in ("approval", "proposal") else re.sub(r"[\w-]{32,}", "…", key)), []).append(record)
        for records in out.values():
            records.sort(key=lambda r: json.dumps({k: v for k, v in r.items() if isinstance(v, str) and k not in CHANCE}, sort_keys=True))
        return out


def differ(a, b, at=()):
    """Where two values differ, but for moments that are near and what chance made | None"""
    if isinstance(a, dict) and isinstance(b, dict):
        return next((d for k in sorted({*a, *b}, key=str) if (d := differ(a.get(k), b.get(k), (*at, k)))), None)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((d for i, (x, y) in enumerate(zip(a, b)) if (d := differ(x, y, (*at, i)))), None)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and min(a, b) > 1e9:
        return None if abs(a - b) < (300 if a < 1e11 else 300000) * sallyport.SLOW else (at, a, b)
    if isinstance(a, str) and isinstance(b, str) and len(a) == len(b) and (at[-1] in CHANCE or at[0][0] in ANSWERED):
        return None
    return None if a == b else (at, a, b)


class World:
    """A page, an API and a command line, each with its copy of a box; with its door, which is the box itself."""

    def __init__(self, t, s, door=None):
        self.page, self.api, self.line = (Way(t, s, n) for n in ("page", "api", "line"))
        self.ways, self.door, self.ada = [self.page, self.api, self.line], None, None
        self.a, self.program = Admin(t, self.page.s).sign_in(), Api(t, self.api.s)
        self.program.token = s.tokens["all"]
        if door:
            self.door, self.ada = Way(t, s, "door", copy=False), door.ada
            self.ways.append(self.door)
        self.check("before")

    def check(self, what):
        """The stores are the same -> each way's new records."""
        stores = [w.store() for w in self.ways]
        for w, store in zip(self.ways[1:], stores[1:]):
            assert not (d := differ(stores[0], store)), f"{what}: page and {w.name} differ at {d}"
        return {w.name: w.new() for w in self.ways}

    def printed(self, secrets):
        """The words of the command that the page says is the same; each secret that it asks for is read from a file."""
        words = shlex.split(html.unescape(re.search(r"On the command line: <code>(.*?)</code>", self.a.html, re.S)[1]))
        for i, word in enumerate(words):
            if word.endswith("=-"):
                words[i] = f"{word[:-1]}@{self.line.s.secret_file(secrets[word[:-2]])}"
        return words[1:]

    def act(self, what, page, api, line=None, secrets=None, door=None, changes=1, want=200):
        """page(a) sends the form; api = (method, path, body); line: the command's words, where the page prints another; door(ada): where a person
        may do it there, else the door's copy gets the command."""
        page(self.a)
        assert self.a.status == 200, (what, self.a.status, self.a.page.text[:900])
        self.program.ask(*api, want=want)
        words = line or self.printed(secrets or {})
        self.line.s.cli(*words)
        if door:
            door(self.ada)
            assert self.ada.status == 200, (what, self.ada.status, self.ada.page)
        elif self.door:
            self.door.s.cli(*words)
        by = {"page": ("page", None), "api": ("api", "token all"), "line": ("command line", None), "door": ("gateway", "ada@example.org") if door else ("command line", None)}
        first = None
        for name, records in self.check(what).items():
            assert len(records) == changes, (what, name, records)
            for r in records:
                assert r["door"] == by[name][0] and by[name][1] in (None, r["by"]), (what, name, r)
            said = [(None if name == "door" and door else r.get("command"), r["changes"]) for r in records]
            first = first or said
            assert [x[1] for x in said] == [x[1] for x in first] and all(x[0] in (None, y[0]) for x, y in zip(said, first)), (what, name, said, first)


def form_of(a, at, **has):
    """The form of this page that goes there and has these fields."""
    return next(f for f in a.page.forms if f["action"].endswith(at) and has.items() <= f["fields"].items())


def do(at, **fields):
    """The form of a command, filled in."""
    def page(a):
        a.get("do/" + at)
        a.submit(form=form_of(a, "do/" + at.split("?")[0]), **{k.replace("__", "."): v for k, v in fields.items()})
    return page


def proposal(id, without=(), reject=False, **fields):
    """A proposal's form: what is asked for but without some of it | its rejection"""
    def page(a):
        a.get("proposals/" + id)
        form = [f for f in a.page.forms if f["action"].endswith("proposals/" + id)][reject]
        form["fields"] = {k: v for k, v in form["fields"].items() if k not in without}
        a.submit(form=form, **({"reject": "on"} if reject else {}), **fields)
    return page


def answered(kind, id, *fields):
    """The same at the door."""
    at = f"/approvals/{kind}/{id}"
    return lambda ada: ada.go(ada.base + at).submit(at, *fields)


def box(t):
    """A door with somebody who may answer there, a credential, and a token for programs"""
    b = Box(t, server=None)
    s, up = b.s, b.s.upstream
    s.cli("user", "set", "ada@example.org", "--approve")
    b.ada.go(b.base + "/approvals").submit("/login", ("user", "ada@example.org"), ("password", PASSWORD))
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{up.port}")
    s.tokens["all"] = s.cli("token", "add", "all", "--scope", "write,policy,operator").stdout.strip()
    s.cli("credential", "add", "app", "--type", "bearer", "--host", "api.test", f"token=@{s.secret_file(SECRET)}")
    return b


def test_answers(t):
    """what rules and agents ask is answered on the page, by the API, by a command and at the door: one store, one record, the same words"""
    b = box(t)
    s = b.s
    s.policy("asks", RULE)
    s.cli("rule", "add", "asks", "--type", "asks")
    s.cli("set", "approval-wait", "1s")          # nobody waits any more: an answer is not spent
    for asked in [Asked(s, target=f"/v1/{i}", body=b"x" * i) for i in range(6)]:
        assert asked.status() == 403
    questions = sorted(opened(s, 6), key=lambda q: q["url"])

    def ask(*services, keys=()):
        status, made, _ = own(s, "POST", "/v1/proposals", {"services": services, "credentials": [k if isinstance(k, dict) else {"key": k} for k in keys], "user_message": "please"})
        assert status == 201, made
        return made["id"]
    bearer = lambda name, **more: {"name": name, "host": f"{name}.test", "auth": {"type": "bearer", "token": "K"}, **more}
    docs = {"name": "docs", "host": "*.docs.test", "auth": {"type": "passthrough"}}
    s.cli("domain", "add", "default", "old.test")
    whole = ask(bearer("one"), docs, {"action": "delete", "host": "old.test"}, keys="K")
    part = ask(bearer("two", host="*.two.test/v1"), docs, bearer("three"), keys="K")
    rows = ask({"name": "rows", "host": "rows.test", "auth": {"type": "basic", "username": "USER", "password": "PASS"}, "substitutions": [{"key": "USER", "placeholder": "__the_user__"}]}, keys=("USER", "PASS"))
    sent = ask({"name": "hook", "host": "hook.test", "auth": {"type": "basic", "username": "USER", "password": "PASS"}}, keys=({"key": "USER", "value": "bob"}, {"key": "PASS", "value": OTHER}))
    over = ask(bearer("app", host="new.test"), keys="K")
    account = ask(bearer("acc"), keys=({"key": "K", "type": "oauth", "oauth": {"token_url": "https://id.test/token", "authorization_url": "https://id.test/auth", "client_id": "c1"}},))
    no, never = ask(bearer("four"), keys="K"), ask(bearer("five"), keys="K")
    w = World(t, s, b)
    for q, span in zip(questions, ("once", "hour", "day", "always")):
        w.act(span, lambda a: (a.get("approvals/" + q["id"]), a.submit(form=form_of(a, "do/approval/allow", **{"o.for": span}))), ("POST", f"/approvals/{q['id']}/allow", {"for": span}),
              door=answered("q", q["id"], ("answer", span)))
    deny = lambda id: (lambda a: (a.get("approvals/" + id), a.submit(form=form_of(a, "do/approval/deny"))))
    last = questions[4]["id"]
    w.act("deny", deny(last), ("POST", f"/approvals/{last}/deny"), door=answered("q", last, ("answer", "deny")))
    time.sleep(1.1)       # so that each answer ends at another moment than the one before
    w.act("allowed though it was denied", do(f"approval/allow?a1={last}", o__for="once"), ("POST", f"/approvals/{last}/allow", {}))
    w.act("taken back", deny(questions[1]["id"]), ("POST", f"/approvals/{questions[1]['id']}/deny"))
    w.act("approved", proposal(whole, **{"k.K": SECOND}), ("POST", f"/proposals/{whole}/approve", {"secrets": {"K": SECOND}}), secrets={"K": SECOND},
          door=answered("p", whole, ("answer", "approve"), ("s.1", "on"), ("s.2", "on"), ("s.3", "on"), ("k.K", SECOND)))
    narrow = {"h.1": "x.two.test", "p.1": "/v1/read", "m.1": "get, post", "m.2": "GET", "h.2": "read.docs.test"}
    w.act("approved in part, and narrower", proposal(part, without=("s.3",), **narrow, **{"k.K": SECOND}),
          ("POST", f"/proposals/{part}/approve", {"only": ["two", "docs"], "hosts": ["two=x.two.test", "docs=read.docs.test"], "paths": ["two=/v1/read"], "methods": ["two=get, post", "docs=GET"], "secrets": {"K": SECOND}}),
          secrets={"K": SECOND}, door=answered("p", part, ("answer", "approve"), ("s.1", "on"), ("s.2", "on"), ("k.K", SECOND), *narrow.items()))
    w.act("with a place", proposal(rows, **{"k.USER": SECOND, "k.PASS": OTHER, "w.1.1": "path=/{}/**, query=u"}),
          ("POST", f"/proposals/{rows}/approve", {"secrets": {"USER": SECOND, "PASS": OTHER}, "places": ["rows=path=/{}/**, query=u"]}), secrets={"USER": SECOND, "PASS": OTHER},
          door=answered("p", rows, ("answer", "approve"), ("s.1", "on"), ("k.USER", SECOND), ("k.PASS", OTHER), ("w.1.1", "path=/{}/**, query=u")))
    w.act("with what the agent sent", proposal(sent, **{"u.USER": "on", "u.PASS": "on"}), ("POST", f"/proposals/{sent}/approve", {"use": ["USER", "PASS"]}),
          door=answered("p", sent, ("answer", "approve"), ("s.1", "on"), ("u.USER", "on"), ("u.PASS", "on")))
    w.act("changes a credential", proposal(over, **{"k.K": SECOND}), ("POST", f"/proposals/{over}/approve", {"secrets": {"K": SECOND}}), secrets={"K": SECOND})
    w.act("an account", proposal(account, **{"k.K.client_secret": SECOND}), ("POST", f"/proposals/{account}/approve", {"secrets": {"K.client_secret": SECOND}}), secrets={"K.client_secret": SECOND},
          door=answered("p", account, ("answer", "approve"), ("s.1", "on"), ("k.K.client_secret", SECOND)))
    w.act("rejected", proposal(no, reject=True, reason="not now"), ("POST", f"/proposals/{no}/reject", {"reason": "not now"}), door=answered("p", no, ("answer", "reject"), ("reason", "not now")))
    w.act("rejected without a word", proposal(never, reject=True), ("POST", f"/proposals/{never}/reject", {}), door=answered("p", never, ("answer", "reject")))


def test_ends_and_accounts(t):
    """connections, keys and tokens end, policies come and go back, an account is signed in to, tried and disconnected: page, API and command alike"""
    server = oauth_test.Server(t)
    b = box(t)
    s = b.s
    s.policy("mine", RULE.replace('"asks"', '"mine"'))
    s.cli("agent", "add", "helper", "--bundle", "default")
    for name in ("acc", "pasted", "kept"):
        s.cli("credential", "add", name, "--type", "oauth_authorization_code", "--host", "api.test", "--address", "127.0.0.0/8",
              *(f"{k}={v}" for k, v in server.fields("public").items() if name != "kept" or k != "revocation_url"))
    for name in ("pasted", "kept"):
        oauth_test.connect(s, name=name)
    s.cli("key", "add", "ci", "--tenant", "acme", "--role", "viewer")
    for _ in range(2):
        b.connected()
    first, second = (c["id"] for c in json.loads(s.cli("connection", "list", "--json").stdout))
    s.stop()
    w = World(t, s)
    w.act("connection revoke", do("connection/revoke?a1=" + first), ("DELETE", "/connections/" + first))
    w.act("key revoke", do("key/revoke?a1=ci"), ("DELETE", "/keys/ci"))
    w.act("key add", do("key/add", a1="cd", a2="acme", a3="viewer", **{"o.tenant": "acme", "o.role": "viewer"}), ("POST", "/keys", {"name": "cd", "tenant": "acme", "role": "viewer"}), want=201)
    w.act("agent rotate", do("agent/rotate?a1=helper"), ("POST", "/agents/helper/rotate"))

    def environment(a):
        a.get("environment?agent=helper")
        a.submit(form=form_of(a, "environment"), ttl="2h")
    w.act("environment", environment, ("POST", "/agents/helper/environment", {"ttl": "2h"}))
    w.act("agent revoke", do("agent/revoke?a1=helper"), ("POST", "/agents/helper/revoke"))
    w.act("agent add", do("agent/add", a1="new", **{"o.ttl": "7d"}), ("POST", "/agents", {"name": "new", "ttl": "7d"}), want=201)
    source = s.cli("policy", "show", "rate").stdout.strip() + "\n-- ours\n"
    (s.dir / "rate.lua").write_text(source)

    def keep(a):
        a.get("policies/rate")
        a.submit(form=a.page.forms[-1], source=source, keep="on")
    w.act("policy put", keep, ("PUT", "/policies/rate", {"source": source}), line=("policy", "put", s.dir / "rate.lua"))
    w.act("policy rollback", do("policy/rollback?a1=rate"), ("POST", "/policies/rate/rollback", {}))
    w.act("policy use", do("policy/use?a1=rate&a2=1"), ("POST", "/policies/rate/use", {"version": "1"}))
    w.act("policy remove", do("policy/remove?a1=mine"), ("DELETE", "/policies/mine"))
    w.act("credential test", do("credential/test?a1=app"), ("POST", "/credentials/app/test", {}), changes=0)
    said = [[{k: r.get(k) for k in ("agent", "credential", "decision", "method", "host", "path", "status")} for r in way.records("request") if r.get("credential") == "app"] for way in w.ways]
    assert said[0] and said[0] == said[1] == said[2], said
    assert [[r["door"] for r in way.records("request") if r.get("credential") == "app"] for way in w.ways] == [["page"], ["api"], ["command line"]]

    def sign_in(a):
        a.get("account/acc")
        a.submit(form=form_of(a, "account/acc"))
        at, status, page = oauth_test.Person().consent(next(link for link, text in a.page.links if text.startswith("Open ")))
        assert status == 200 and "The account is connected" in page, (at, status, page)
    sign_in(w.a)
    person = oauth_test.Person()
    person.consent(w.program.ask("POST", "/credentials/acc/consent", {})["url"])
    w.program.ask("POST", "/credentials/acc/consent/finish", {"answer": person.went[-1]})
    oauth_test.connect(w.line.s)
    records = w.check("connect")
    said = {name: [(r.get("command"), r.get("page"), r["changes"]) for r in got] for name, got in records.items()}
    assert said["page"] == said["api"] == said["line"] == [("connect", None, [{"record": "tokens of acc", "did": "added"}])], said
    for name in ("pasted", "kept"):
        w.act("disconnect " + name, do("disconnect?a1=" + name), ("POST", f"/credentials/{name}/disconnect", {}))
