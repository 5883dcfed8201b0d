"""The JSON API (/api/v1): tokens and scopes, everything that the page does, its document, two editors, and what is hostile."""
import json
import os
import pathlib
import re
import subprocess
import threading
import urllib.parse

import jsonschema
import sallyport
from admin_test import Admin
from approval_test import OK, Asked
from proposal_test import ASK, own
from real import wait

PIP = sallyport.BUILD / "pip"
SECRET, OTHER = "canary-api-1-0123456789", "canary-api-2-0123456789"


class Api:
    """A program with a token. What is answered is held against the document, each time."""

    def __init__(self, t, s, *scopes, admin=None):
        self.s, self.admin = s, admin or Admin(t, s)
        self.token = self.new(*scopes) if scopes else None
        self.document = json.loads(self.raw("GET", "/openapi.json")[2])

    def new(self, *scopes, name=None):
        """-> another token's text"""
        name = name or "t%d" % len(json.loads(self.s.cli("token", "list", "--json").stdout))
        return self.s.cli("token", "add", name, *(x for scope in scopes for x in ("--scope", scope))).stdout.strip()

    def raw(self, method, path, body=None, token=None, **headers):
        token = token or self.token
        if token:
            headers.setdefault("Authorization", "Bearer " + token)
        if body is not None:
            headers.setdefault("Content_Type", "application/json")
        return self.admin.raw(method, "/api/v1" + path, body if body is None or isinstance(body, str) else json.dumps(body), **headers)

    def schema(self, method, path, status):
        for at, item in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", at), path.split("?")[0]) and method.lower() in item and ("{" not in at or path.split("?")[0] not in self.document["paths"]):
                r = item[method.lower()]["responses"].get(str(status))
                assert r, f"{method} {at}: {status} is not in the document"
                r = self.document["components"]["responses"][r["$ref"].rsplit("/", 1)[1]] if "$ref" in r else r
                return {**r["content"]["application/json"]["schema"], "components": self.document["components"]}
        return None

    def ask(self, method, path, body=None, want=200, **more):
        status, headers, text = self.raw(method, path, body, **more)
        value = json.loads(text)
        self.headers = headers
        schema = self.schema(method, path, status)
        if schema:
            jsonschema.Draft202012Validator(schema).validate(value)
        else:
            assert status in (404, 405), (method, path, status)
        assert status == want, (method, path, status, value)
        if status >= 400:
            assert set(value) == {"error", "message", "hint"}, value
        return value


def test_tokens(t):
    """a token is shown once and kept as a hash; each scope opens its own part; what is removed, ended or nobody's opens nothing; a change names the token"""
    s, up = t.proxy(workers=1, serve=False)
    a = Api(t, s)
    made = json.loads(s.cli("token", "add", "reader", "--scope", "read", "--json").stdout)
    assert re.fullmatch(r"sp_api_[\w-]{43}", made["token"]) and made["scopes"] == ["read"]
    assert s.cli("token", "add", "reader", "--scope", "read", check=False).returncode == 1
    assert "did you mean read?" in s.cli("token", "add", "x", "--scope", "reed", check=False).stderr
    assert s.cli("token", "add", "x", check=False).returncode == 2
    read, write, policy, metrics = made["token"], a.new("write"), a.new("policy"), a.new("metrics")
    s.canaries += [read, write]                                         # in no log, and not in the store
    for token, gets, writes, puts, roads in ((read, 200, 403, 403, 403), (write, 200, 201, 403, 403), (policy, 200, 403, 422, 200), (metrics, 403, 403, 403, 403)):
        a.token = token
        assert a.raw("GET", "/credentials")[0] == gets and a.raw("HEAD", "/credentials")[0] == gets
        assert a.raw("POST", "/bundles", {"name": "b" + token[-4:].strip("-_") + "x"})[0] == writes
        assert a.raw("PUT", "/policies/bearer", {"source": "return {}"})[0] == puts
        assert a.raw("PUT", "/settings/connect-to", {"value": ["a.test:443:127.0.0.1:1"]})[0] == roads
        assert a.raw("PUT", "/settings/echo", {"value": False})[0] == (200 if writes == 201 else 403)
        assert a.ask("PUT", "/settings/listen", {"value": "127.0.0.1:1"}, want=403)["error"] in ("command_line", "insufficient_scope")
    both = s.cli("token", "add", "people", "--scope", "write", "--scope", "operator").stdout.strip()
    s.cli("user", "add", "root@x.test", "--operator")
    s.cli("user", "add", "ada@x.test", "--approve")
    for method, path, body, good in (("POST", "/users", {"user": "eve@x.test", "operator": True}, 201), ("POST", "/users", {"user": "mal@x.test", "approve": True}, 201),
                                     ("PATCH", "/users/bob@x.test", {"operator": True}, 200), ("PATCH", "/users/bob@x.test", {"approve": True}, 200), ("PATCH", "/users/root@x.test", {"link": True}, 200),
                                     ("PATCH", "/users/ROOT@x.test", {"link": True}, 200), ("PATCH", "/users/root@x.test", {"no_totp": True}, 200), ("PATCH", "/users/ada@x.test", {"tenants": ["x="]}, 200),
                                     ("POST", "/users/Root@x.test/disable", None, 200), ("DELETE", "/users/root@x.test", None, 200), ("DELETE", "/users/ada@x.test", None, 200)):
        if "bob" in path:
            s.cli("user", "remove", "bob@x.test", check=False)
            a.token = write
            a.ask("POST", "/users", {"user": "bob@x.test"}, want=201)
            a.ask("PATCH", "/users/bob@x.test", {"totp": True})
        before = s.cli("user", "list", "--json").stdout
        for token in (write, read, policy, metrics):
            a.token = token
            assert a.ask(method, path, body, want=403)["error"] == "insufficient_scope", (method, path)
        assert s.cli("user", "list", "--json").stdout == before
        a.token = both
        a.ask(method, path, body, want=good)
    a.token = s.cli("token", "add", "operator", "--scope", "operator").stdout.strip()
    assert a.raw("GET", "/users")[0] == 403 and a.raw("POST", "/users", {"user": "x@x.test", "operator": True})[0] == 403, "it is beside write"
    assert "operator" in a.document["paths"]["/users"]["post"]["description"] and "operator" not in a.document["paths"]["/users"]["get"]["description"]
    a.token = None
    assert a.raw("GET", "/openapi.json")[0] == 200
    for shown in (None, "Bearer ", "Bearer x", "Bearer sp_api_" + "a" * 43, "Bearer " + read[:-1], "Bearer " + read + "a", "Basic " + read, read, "Bearer " + "x" * 5000,
                  f"Bearer {read}, Bearer {read}"):
        status, headers, text = a.raw("GET", "/credentials", Authorization=shown)
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and json.loads(text)["error"] == "token_needed", (shown, status)
    a.admin.sign_in()
    assert a.raw("GET", "/credentials", Cookie=a.admin.cookie)[0] == 401, "the page's cookie is nothing here"
    assert a.raw("GET", "/credentials", token=read, Host="evil.test")[0] == 421
    assert a.raw("GET", "/credentials", token=read, Host="localhost:" + a.admin.at.split(":")[1])[0] == 421
    short = s.cli("token", "add", "short", "--scope", "read", "--ttl", "1s").stdout.strip()
    wait(lambda: a.raw("GET", "/credentials", token=short)[0] == 401, 5, "its end")
    listed = s.cli("token", "list", "--json").stdout
    assert [x["state"] for x in json.loads(listed) if x["name"] == "short"] == ["expired"] and "sp_api_" not in listed
    s.cli("token", "remove", "reader")
    assert a.raw("GET", "/credentials", token=read)[0] == 401
    assert s.cli("token", "remove", "reader", check=False).returncode == 1
    changes = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    assert {(c["by"], c["door"]) for c in changes if c["command"] == "bundle add"} == {("token t1", "api")}, changes
    assert [c["changes"][0] for c in changes if c["command"] == "token remove"] == [{"record": "API token reader", "did": "removed"}]


def test_all_that_the_page_does(t):
    """each command that the page runs has an address; resources are made, listed, shown, changed and removed, and count at the next request; the document holds for each answer"""
    s, up = t.proxy(workers=2)
    s.canaries += [SECRET, OTHER]
    a = Api(t, s, "read", "write", "policy")
    script = s.dir / "page.lua"
    script.write_text('local cli, page = require "cli", require "web.commands"\nfor _, f in ipairs(cli.first_words()) do for _, c in ipairs(cli.commands_of(f)) do\n'
                      'if page.find(c.words) then print(c.words) end end end\n')
    page = set(s.cli("lua", str(script)).stdout.split("\n")) - {""}
    mine = {re.search(r"sallyport (.+)$", op["description"])[1] for item in a.document["paths"].values() for op in item.values()}
    assert page and page | {"connect"} == mine, page ^ mine      # a sign-in waits for a person: its two halves are the API's own
    assert a.ask("GET", "/credentials") == []
    made = a.ask("POST", "/credentials", {"name": "app", "type": "bearer", "hosts": ["api.test"], "fields": {"token": SECRET}}, want=201)
    assert made["hosts"] == ["api.test"] and made["secrets"] == ["token"] and any("Kept 'app'" in n for n in made["notes"])
    assert a.ask("POST", "/credentials", {"name": "app", "type": "bearer", "hosts": ["api.test"], "fields": {"token": SECRET}}, want=409)["error"] == "exists"
    token = a.ask("POST", "/agents", {"name": "helper"}, want=201)["token"]
    s.tokens["helper"] = token
    auth = s.auth(token)
    assert s.request(auth=auth).status == 200 and up.requests[-1].get("authorization") == "Bearer " + SECRET
    assert s.request(host="other.test", auth=auth, wire=None).status == 403
    s.wait_record({"host": "other.test"})
    assert [r["host"] for r in a.ask("GET", "/log?agent=helper&denied=true&newest=10")] == ["other.test"]
    assert s.request(host="api.stripe.com", auth=auth, wire=None).status == 403
    s.wait_record({"host": "api.stripe.com"})
    refused = {r["host"]: r for r in a.ask("GET", "/log/summary?since=1h")["refused_by_host"]}
    assert refused["api.stripe.com"]["presets"] == ["stripe"] and "presets" not in refused["other.test"], refused
    record = a.ask("GET", "/log?denied=true&newest=1")[0]
    assert a.ask("GET", "/log?text=" + record["request"]) == [record]
    assert a.ask("GET", "/explain?agent=helper&method=GET&url=" + urllib.parse.quote("https://other.test/", safe=""))["decision"] == "deny"
    a.ask("POST", "/bundles/default/domains", {"host": "other.test", "methods": ["GET"]}, want=201)
    assert s.request(host="other.test", auth=auth).status != 403
    a.ask("POST", "/rules", {"name": "ours", "type": "fields", "fields": {"member": "to", "only": ["*@acme.com"]}}, want=201)
    asked = {"agent": "helper", "method": "POST", "url": "https://api.test/", "headers": ["Content-Type: application/json"]}
    for to, decision in (("me@acme.com", "allow"), ("@evil.test", "deny")):
        assert a.ask("POST", "/explain", {**asked, "body": json.dumps({"to": to})})["decision"] == decision, to
    assert a.ask("POST", "/explain", {**asked, "body": "@/etc/hostname"})["code"] == "rule_denied"       # a text: no file is read
    assert a.ask("GET", "/explain?body=x&method=GET&url=" + urllib.parse.quote("https://api.test/", safe=""), want=400)
    a.ask("DELETE", "/rules/ours")
    assert [d["host"] for d in a.ask("GET", "/bundles/default/domains")] == ["other.test"]
    entry = "/bundles/default/domains/other.test"
    seen, tag = a.ask("GET", entry), a.headers["ETag"]
    assert (seen["methods"], seen["state"]) == (["GET"], "enabled")
    domain = lambda got: next(d for d in got["domains"] if d["host"] == "other.test")
    assert domain(a.ask("PATCH", entry, {"methods": ["POST"], "ports": [443, 8443]}, If_Match=tag))["methods"] == ["POST"]
    assert a.headers["ETag"] != tag and a.ask("PATCH", entry, {"ports": ["80"]}, want=412, If_Match=tag)["error"] == "changed_meanwhile"
    assert domain(a.ask("PATCH", entry, {"methods": [], "tunnel": "raw"}))["tunnel"] == "raw" and domain(a.ask("PATCH", entry, {"tunnel": False, "ports": []}))["tunnel"] is False
    assert a.ask("GET", entry) == seen | {"methods": ["GET", "HEAD", "OPTIONS"]}
    for what, status in (("disable", 403), ("enable", 200)):
        assert domain(a.ask("POST", entry + "/" + what))["state"] == what + "d" and (s.request(host="other.test", auth=auth, wire=None).status == 403) == (status == 403)
    for what, status in (("disable", 403), ("enable", 200)):
        assert a.ask("POST", "/bundles/default/" + what)["state"] == what + "d" and s.request(auth=auth, wire=None).status == status
    for what in ("disable", "enable"):
        assert a.ask("POST", "/agents/helper/" + what)["state"] == ("active" if what == "enable" else "disabled")
        said = a.ask("GET", "/explain?agent=helper&method=GET&url=https%3A%2F%2Fapi.test%2F")
        assert (said["decision"], said.get("message")) == (("allow", None) if what == "enable" else ("deny", "the agent helper is disabled")), said
    for bad in ({"ports": ["0"]}, {"clear": ["host"]}, {"tunnel": "yes"}, {}):
        a.ask("PATCH", entry, bad, want=400)
    for method, path, body in (("PATCH", "", {"ports": ["80"]}), ("POST", "/disable", None), ("DELETE", "", None), ("GET", "", None)):
        assert a.ask(method, "/bundles/default/domains/none.test" + path, body, want=404)["error"] == "not_found"
    for path, body in (("/credentials", {"name": "x", "type": "bearer", "hosts": []}), ("/agents/helper", {"bundles": []}), ("/settings/webhook-events", {"value": []})):
        assert "is empty" in a.ask("PUT" if "settings" in path else "PATCH" if "helper" in path else "POST", path, body, want=400)["message"]
    for path, body in (("/bundles/default/domains", {"host": "OTHER.test", "methods": ["PUT"]}), ("/roles", {"name": "some", "scopes": ["tools:read"]})):
        if path == "/roles":
            a.ask("POST", path, body, want=201)
        assert a.ask("POST", path, body, want=409)["error"] == "exists", "another's is not put away unseen"
        a.ask("POST", path, body, want=201, If_Match="*")
    a.ask("DELETE", "/bundles/default/domains/other.test")
    assert s.request(host="other.test", auth=auth, wire=None).status == 403
    a.ask("POST", "/credentials/app/disable")
    assert s.request(auth=auth).get("x-sallyport-error") is not None
    a.ask("POST", "/credentials/app/enable")
    assert a.ask("PATCH", "/credentials/app", {"methods": ["GET"], "env": ["APP_KEY"]})["methods"] == ["GET"]
    assert a.ask("GET", "/credentials/app")["env"] == ["APP_KEY"]
    assert a.ask("POST", "/agents/helper/environment", {"ttl": "1h"})["APP_KEY"]
    assert a.ask("PATCH", "/agents/helper", {"variables": {"COLOUR": "blue"}})["variables"] == {"COLOUR": "blue"}
    assert a.ask("GET", "/agents/helper")["variables"] == {"COLOUR": "blue"}
    a.ask("POST", "/bundles", {"name": "second"}, want=201)
    assert a.ask("POST", "/bundles/second/attach", {"credentials": ["app"]})["credentials"] == ["app"]
    assert a.ask("POST", "/bundles/second/detach", {"credentials": ["app"]})["credentials"] == []
    assert a.ask("PATCH", "/bundles/second", {"variables": {"A": "1"}})["variables"] == {"A": "1"}
    a.ask("DELETE", "/bundles/second")
    a.ask("POST", "/rules", {"name": "slow", "type": "rate", "fields": {"requests": 2, "window": 60}}, want=201)
    assert a.ask("PATCH", "/rules/slow", {"fields": {"requests": 1000}, "ask_again": False})["fields"]["requests"] == 1000
    for what in ("disable", "enable"):
        assert a.ask("POST", "/rules/slow/" + what)["state"] == what + "d"
    assert [(c["of"], c["count"], c["limit"]) for c in a.ask("GET", "/rules/slow/counters")["counters"]] == [("a", 0, 1000), ("helper", 0, 1000)]
    assert [c["rule"] for c in a.ask("GET", "/counters")] == ["slow"] and a.ask("GET", "/rules/none/counters", want=404)
    a.ask("DELETE", "/rules/slow")
    source = a.ask("GET", "/policies/bearer")["text"]
    mine = s.home / "bearer.lua"
    mine.write_text("a draft of the operator's")
    tried = a.ask("POST", "/policies/bearer/test", {"source": "return 1"})[0]
    assert tried["ok"] is False and str(s.home) not in json.dumps(tried) and "draft-" not in json.dumps(tried), tried
    tried = a.ask("POST", "/policies/bearer/try", {"method": "GET", "url": "https://api.test/x", "headers": ["Accept: text/plain"], "data": "@/etc/passwd", "fields": {"token": OTHER},
                                                   "source": source.replace('"Bearer "', '"Mine "', 1)})
    assert tried["after"]["headers"]["authorization"].startswith("Mine «token»") and tried["before"]["body"] == "@/etc/passwd" and tried["before"]["headers"]["accept"] == "text/plain", tried
    assert a.ask("POST", "/policies/bearer/try", {"method": "GET", "url": "https://api.test/x", "credential": "app"})["after"]["headers"]["authorization"] == "Bearer «token»"
    for body in ({"method": "get", "url": "https://api.test/x"}, {"method": "GET", "url": "/x"}, {"method": "GET"}):
        a.ask("POST", "/policies/bearer/try", body, want=400)
    for name in ("page.lua", "..%2fbearer.lua"):
        assert a.raw("POST", f"/policies/{name}/try", {"method": "GET", "url": "https://api.test/x"})[0] in (400, 404), "a file of this machine"
    assert a.ask("PUT", "/policies/bearer", {"source": source + "-- mine\n", "note": "mine"})["version"] == 1
    assert [x.name for x in s.home.glob("*.lua")] == ["bearer.lua"] and mine.read_text() == "a draft of the operator's" and not list(s.home.glob("draft-*"))
    assert "-- mine" in a.ask("GET", "/policies/bearer/diff")["text"] and len(a.ask("GET", "/policies/bearer/history")) == 2
    a.ask("POST", "/policies/bearer/use", {"version": "0"})
    assert a.ask("PUT", "/policies/bearer", {"source": "return {"}, want=422)["message"]
    assert a.ask("PUT", "/settings/answer-timeout", {"value": "5m"})["answer-timeout"]["set"]
    assert a.ask("DELETE", "/settings/answer-timeout") and not a.ask("GET", "/settings/answer-timeout")["set"]
    s.cli("set", "public-url", "https://box.test")
    a.ask("POST", "/gateways", {"name": "tools", "url": "https://api.test/mcp", "credential": "app"}, want=201)
    a.ask("PUT", "/gateways/tools/scopes/tools:some", {"tools": ["a_*"], "says": "Some tools"})
    assert a.ask("GET", "/gateways/tools")["scopes"][0]["name"] == "tools:some"
    a.ask("DELETE", "/gateways/tools/scopes/tools:some")
    a.ask("POST", "/tenants", {"name": "acme"}, want=201)
    assert a.ask("PATCH", "/tenants/acme", {"bundles": ["default", "default"], "variables": {"PLACE": "x"}})["variables"] == {"PLACE": "x"}
    assert a.ask("GET", "/bundles/default")["tenants"] == ["acme"] and "acme" not in a.ask("GET", "/bundles/default")["agents"], "a tenant is no agent"
    for method, path, body in (("PATCH", "", {"variables": {"A": "1"}}), ("POST", "/revoke", None), ("POST", "/disable", None), ("POST", "/environment", {}), ("DELETE", "", None), ("GET", "", None)):
        assert a.ask(method, "/agents/acme" + path, body, want=404)["error"] == "not_found", (method, path)
    assert a.ask("GET", "/tenants/acme")["variables"] == {"PLACE": "x"}
    assert a.ask("POST", "/users", {"user": "ada@example.org", "tenants": ["acme=viewer"]}, want=201)["link"]
    a.ask("GET", "/users/ADA@example.org")
    a.ask("PATCH", "/users/Ada@Example.org", {"totp": True}, If_Match=a.headers["ETag"])
    assert a.ask("GET", "/users/ada@example.org")["tenants"] == {"acme": "viewer"}
    a.ask("POST", "/roles", {"name": "few", "scopes": ["tools:read"]}, want=201)
    assert a.ask("POST", "/keys", {"name": "ci", "tenant": "acme", "role": "viewer"}, want=201)["token"].startswith("sk_")
    client = a.ask("POST", "/clients", {"name": "host", "redirect_uris": ["https://host.test/cb"]}, want=201)
    for path in ("/keys/ci", "/clients/" + client["id"], "/users/ada@example.org", "/roles/few", "/tenants/acme", "/gateways/tools"):
        assert a.ask("GET", path)
        a.ask("DELETE", path)
        a.ask("GET", path, want=404)
    assert a.ask("GET", "/status")["running"] and a.ask("GET", "/doctor") and a.ask("GET", "/connections") == []
    a.ask("POST", "/agents/helper/rotate")
    a.ask("POST", "/agents/helper/revoke")
    a.ask("DELETE", "/agents/helper")
    a.ask("DELETE", "/credentials/app")
    assert a.ask("GET", "/presets/github")["name"] == "github" and a.ask("GET", "/presets/nothing", want=404)


def test_proposals_and_questions(t):
    """an agent's proposal is approved with its secret and a narrower host, another is rejected with a reason; a held request is answered"""
    s, up = t.proxy(workers=1, upstream=OK)
    s.canaries += [SECRET]
    a = Api(t, s, "write")
    made = own(s, "POST", "/v1/proposals", ASK)[1]["id"]
    other = own(s, "POST", "/v1/proposals", {**ASK, "services": [{**ASK["services"][0], "name": "second"}]})[1]["id"]
    assert [p["id"] for p in a.ask("GET", "/proposals") if p["state"] == "pending"] and a.ask("GET", "/proposals/" + made)["services"][0]["host"] == "api.test"
    assert "STRIPE_KEY is missing" in a.ask("POST", f"/proposals/{made}/approve", {}, want=400)["message"]
    assert a.ask("POST", f"/proposals/{made}/approve", {"secrets": {"STRIPE_KEY": SECRET}, "hosts": ["stripe=api.test"], "methods": ["GET", "DELETE"]})["state"] == "applied"
    assert s.request().status == 200 and up.requests[-1].get("authorization") == "Bearer " + SECRET
    row = {"key": "STRIPE_KEY", "placeholder": "__the_key__", "in": ["query"]}
    bare = own(s, "POST", "/v1/proposals", {**ASK, "services": [{**ASK["services"][0], "name": "bare", "host": "bare.test", "substitutions": [row]}]})[1]["id"]
    assert "has to be named: query=NAME" in a.ask("POST", f"/proposals/{bare}/approve", {"secrets": {"STRIPE_KEY": SECRET}}, want=400)["message"]
    assert a.ask("POST", f"/proposals/{bare}/approve", {"secrets": {"STRIPE_KEY": SECRET}, "places": ["bare=query=k"]})["state"] == "applied"
    assert a.ask("GET", "/credentials/bare")["rows"][0]["place"] == ["query=k"]
    assert a.ask("POST", f"/proposals/{other}/reject", {"reason": "later"})["state"] == "rejected" and own(s, "GET", "/v1/proposals/" + other)[1]["reason"] == "later"
    a.ask("POST", f"/proposals/{other}/approve", {"secrets": {"STRIPE_KEY": SECRET}}, want=422)
    a.ask("POST", "/rules", {"name": "careful", "type": "s3", "fields": {"deletes": "ask"}}, want=201)
    asked = Asked(s, method="DELETE", target="/b/1")
    question = wait(lambda: a.ask("GET", "/approvals"), 20, "a question")[0]
    assert question["state"] == "open" and a.ask("GET", "/approvals/" + question["id"])["agent"] == "a"
    a.ask("POST", f"/approvals/{question['id']}/allow", {"for": "fortnight"}, want=400)
    assert a.ask("POST", f"/approvals/{question['id']}/allow", {"for": "once"})["state"] == "once" and asked.status() == 200
    by = [(c["by"], c["command"]) for c in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines()) if c.get("door") == "api"]
    assert {c for _, c in by} == {"proposal approve", "proposal reject", "rule add", "approval allow"} and {b for b, _ in by} == {"token t0"}, by


def test_document(t):
    """OpenAPI 3.1, by an independent validator; each command's answer has a schema"""
    s, up = t.proxy(workers=1, serve=False)
    a = Api(t, s)
    if not (PIP / "openapi_spec_validator").is_dir():
        t.skip("openapi-spec-validator is not installed")
    path = s.dir / "openapi.json"
    path.write_text(json.dumps(a.document))
    r = subprocess.run(["/usr/bin/python3", "-c", "import json, sys; from openapi_spec_validator import OpenAPIV31SpecValidator as V; V(json.load(open(sys.argv[1]))).validate()", str(path)],
                       env={"PYTHONPATH": str(PIP), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode == 0, r.stderr[-2000:]
    assert a.document["openapi"] == "3.1.0"
    names = [op["operationId"] for item in a.document["paths"].values() for op in item.values()]
    assert len(names) == len(set(names)) > 70
    bare = [op["operationId"] for item in a.document["paths"].values() for op in item.values()
            if next(r for status, r in op["responses"].items() if status[0] == "2")["content"]["application/json"]["schema"] == {"type": "object"}]
    assert set(bare) == {"get_settings", "get_settings_name", "put_settings_name", "delete_settings_name", "post_agents_name_environment"}, bare


def test_two_editors(t):
    """of two who change what they saw, one wins and the other is told (412), in this process and against the command line; an ETag holds while nothing changed"""
    s, up = t.proxy(workers=1, serve=False)
    s.canaries += [SECRET]
    a = Api(t, s, "write")
    a.ask("POST", "/credentials", {"name": "app", "type": "bearer", "hosts": ["api.test"], "fields": {"token": SECRET}}, want=201)
    a.ask("POST", "/rules", {"name": "slow", "type": "rate", "fields": {"requests": 2, "window": 60}}, want=201)
    for path, body in (("/credentials/app", {"methods": ["GET"]}), ("/bundles/default", {"variables": {"A": "1"}}), ("/settings/echo", {"value": "off"}), ("/rules/slow", {"fields": {"requests": 7}})):
        a.ask("GET", path)
        tag = a.headers["ETag"]
        assert a.raw("GET", path, If_None_Match=tag)[0] == 304 and a.raw("GET", path, If_None_Match='"other"')[0] == 200
        method = "PUT" if "settings" in path else "PATCH"
        a.ask(method, path, body, If_Match=tag)
        assert a.headers["ETag"] not in (None, tag), path
        assert a.ask(method, path, body, want=412, If_Match=tag)["error"] == "changed_meanwhile"
        a.ask(method, path, body, If_Match="*")
    for path, other in (("/bundles/default", ("agent", "add", "late")), ("/credentials/app", ("bundle", "attach", "more", "app"))):
        s.cli("bundle", "add", "more", check=False)
        a.ask("GET", path)
        tag = a.headers["ETag"]
        assert [a.raw("GET", path, If_None_Match=f)[0] for f in (tag, "W/" + tag, f'"x", {tag}', "*", tag[:-2] + '"', tag.split(".")[0] + '"', tag[1:-1])] == [304] * 4 + [200] * 3
        s.cli(*other)
        assert a.raw("GET", path, If_None_Match=tag)[0] == 200, "what is shown beside the record counts"
    a.ask("GET", "/bundles/default")
    tag = a.headers["ETag"]
    s.cli("agent", "add", "later")
    for weak in ("W/" + tag, tag[1:-1], '"x"'):
        a.ask("PATCH", "/bundles/default", {"variables": {"A": "2"}}, want=412, If_Match=weak)
    a.ask("PATCH", "/bundles/default", {"variables": {"A": "2"}}, If_Match=f'"x", {tag}')
    new = a.headers["ETag"]
    a.ask("GET", "/bundles/default")
    assert a.headers["ETag"] == new != tag
    a.ask("GET", "/credentials/app")
    tag = a.headers["ETag"]
    s.cli("credential", "set", "app", "--method", "POST")
    a.ask("PATCH", "/credentials/app", {"methods": ["PUT"]}, want=412, If_Match=tag)
    a.ask("DELETE", "/credentials/app", want=412, If_Match=tag)
    assert a.ask("GET", "/credentials/app")["methods"] == ["POST"]
    for n in range(6):
        a.ask("GET", "/credentials/app")
        tag, got = a.headers["ETag"], []
        both = [threading.Thread(target=lambda m=m: got.append(a.raw("PATCH", "/credentials/app", {"methods": [m]}, If_Match=tag)[0])) for m in ("A" + "X" * n, "B" + "X" * n)]
        for x in both:
            x.start()
        for x in both:
            x.join()
        assert sorted(got) == [200, 412], got
    # a command between the look at the version and the commit: it is checked in the commit itself
    script = s.dir / "late.lua"
    script.write_text('''local db, commands = require "cli.db", require "web.commands"
db.open { home = %s }
local version = require("store").peek("credential", "app").version
local got = commands.run({ "credential", "set", "app", "--method=LATE" }, { home = %s, expect = { "credential", "app", version - 1 } })
assert(got.changed and got.code == 1, tostring(got.changed))
got = commands.run({ "credential", "set", "app", "--method=LATE" }, { home = %s, expect = { "credential", "app", version } })
assert(not got.changed and got.code == 0)
''' % ((json.dumps(str(s.home)),) * 3))
    s.cli("lua", str(script))
    assert a.ask("GET", "/credentials/app")["methods"] == ["LATE"]


def test_secrets(t):
    """secrets go in and never come out; a change of where they go asks for them; no file, variable or program is read for one"""
    s, up = t.proxy(workers=1, serve=False)
    s.canaries += [SECRET, OTHER]
    a = Api(t, s, "write")
    hostile = s.dir / "elsewhere"
    hostile.write_text(OTHER)
    a.ask("POST", "/credentials", {"name": "app", "type": "bearer", "hosts": ["api.test"], "fields": {"token": SECRET}}, want=201)
    for change in ({"hosts": ["evil.test"]}, {"ports": ["8443"]}, {"plain_http": True}, {"addresses": ["10.0.0.0/8"]}, {"seal_hosts": ["evil.test"]}, {"preset": "github"},
                   {"fields": {"ca": "x"}}, {"fields": {"tls": "legacy"}}, {"clear": ["ca"]}, {"clear": ["method", "client_cert"]}, {"clear": ["preset"]},
                   {"substitutes": ["token:json=/note:__TOKEN__"]}, {"fields": {"mint": "allow"}}, {"fields": {"scrub": "off"}}):
        assert a.ask("PATCH", "/credentials/app", change, want=403)["error"] == "secret_needed", change
    assert a.ask("GET", "/credentials/app")["hosts"] == ["api.test"]
    assert a.ask("PATCH", "/credentials/app", {"hosts": ["api.test", "b.test"], "fields": {"token": OTHER}})["hosts"] == ["api.test", "b.test"]
    for text in ("@" + str(hostile), "env:PATH", "-"):
        a.ask("PATCH", "/credentials/app", {"fields": {"token": text}})
        for fields in ({"headers": {"X-Note": text}}, {"headers.X-Note": text}):
            status, _, body = a.raw("PATCH", "/credentials/app", {"fields": fields})
            assert status in (200, 400, 422) and OTHER not in body
    assert OTHER not in s.cli("credential", "show", "app", "--json").stdout
    for fields in ({"headers": {"X-Note": f"file:{hostile}"}}, {"headers.X-Note": "exec:env"}):
        assert "command line" in a.ask("PATCH", "/credentials/app", {"fields": fields}, want=400)["message"]
    assert "control byte" in a.ask("PATCH", "/credentials/app", {"fields": {"token": "two\nlines"}}, want=422)["message"]
    runs, folder = s.dir / "runs", s.dir / "helpers"
    folder.mkdir(mode=0o755)
    (folder / "vault").write_text(f"#!/bin/sh\necho run >> {runs}\necho {OTHER}\n")
    (folder / "vault").chmod(0o755)
    s.cli("set", "helpers", folder)
    s.cli("credential", "add", "far", "--type", "bearer", "--host", "api.test", "token=exec:vault")
    before, reader = len(runs.read_text().split()), a.new("read")
    looks = [threading.Thread(target=lambda: a.raw("GET", "/doctor", token=reader)) for _ in range(4)]
    for x in looks:
        x.start()
    for x in looks:
        x.join()
    a.admin.sign_in().get("")
    assert len(runs.read_text().split()) - before == 1, "a minute's looks run its programs once"
    for path in ("/credentials", "/credentials/app", "/log", "/doctor", "/status"):
        text = a.raw("GET", path)[2]
        assert SECRET not in text and OTHER not in text
    a.ask("POST", "/credentials", {"name": "hook", "type": "oauth_client_credentials", "hosts": ["c.test"],
                                   "fields": {"token_url": "https://c.test/t", "client_id": "me", "client_secret": SECRET}}, want=201)
    for change in ({"fields": {"token_url": "https://evil.test/t"}}, {"clear": ["token_url"]}):
        assert a.ask("PATCH", "/credentials/hook", change, want=403)["error"] == "secret_needed", change
    for name in ("add", "set"):
        refused = a.ask("POST" if name == "add" else "PATCH", "/credentials" + ("/runs" if name == "set" else ""), {"fields": {"program": "x", "arguments": "--all"}} | (
            {"name": "runs", "type": "command", "hosts": ["evil.test"]} if name == "add" else {}), want=422)
        assert "command line" in refused["message"], refused
        if name == "add":
            s.cli("credential", "add", "runs", "--type", "command", "--host", "api.test", "program=x")
    a.ask("PATCH", "/credentials/hook", {"fields": {"token_url": "https://c.test/t", "scopes": ["a", "b"]}})


def test_variables_that_were_there_before(t):
    """a variable that was set before a credential with it in a host came: whoever brings the secret is told where it goes, and it goes nowhere else by page or API from then on"""
    s, _ = t.proxy(workers=1)
    s.canaries += [SECRET]
    a = Api(t, s, "read", "write")
    a.ask("PATCH", "/bundles/default", {"variables": {"SITE": "theirs"}})
    a.ask("PATCH", "/agents/a", {"variables": {"SITE": "own"}})
    new = {"name": "led", "type": "bearer", "hosts": ["${SITE}.api.test"], "fields": {"token": SECRET}}
    made = a.ask("POST", "/credentials", new, want=201)
    assert any("variables say where its secret goes, as they are set now:\n  ${SITE} is theirs, for agents with default\n  ${SITE} is own, for the agent a" in n for n in made["notes"]), made
    for path, value in (("/bundles/default", "other"), ("/agents/a", "other")):
        assert "says where the secret of led goes" in a.ask("PATCH", path, {"variables": {"SITE": value}}, want=422)["message"]
    assert not any("variables" in n for n in a.ask("POST", "/credentials", {**new, "name": "still", "hosts": ["api.test"]}, want=201)["notes"])


def test_hostile(t):
    """bodies, names, paths and queries that are wrong are refused with a reason and change nothing"""
    s, up = t.proxy(workers=1, serve=False)
    a = Api(t, s, "write", "policy")
    before = s.cli("bundle", "list", "--json").stdout
    for body in ("", "[]", "1", "null", '"x"', "{", '{"name":"a"', '{"name":"a"}{}', '{"name":"a","name":"b"}', '{"name":null}', '{"name":["a"]}', '{"name":{}}', '{"name":true}',
                 '{"name":"--help"}', '{"name":"-x"}', '{"name":""}', '{"name":"a\\u0000b"}', '{"name":"a","more":1}', '{"nam":"a"}', '{"name":"a b"}', '{"name":"../x"}',
                 '{"name":"' + "x" * 300 + '"}', '{"name":' + "[" * 5000 + "]" * 5000 + "}", '{"name":"\ud800"}'.encode("utf-8", "surrogatepass").decode("latin1")):
        status, _, text = a.raw("POST", "/bundles", body)
        assert status == 400 and json.loads(text)["error"] == "bad_request", (body[:60], status, text)
    assert a.raw("POST", "/bundles", '{"name":"a"}', Content_Type="text/plain")[0] == 415
    assert a.raw("POST", "/bundles", "name=a", Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert a.admin.raw("POST", "/api/v1/bundles", "{}", length=2 << 20, Authorization="Bearer " + a.token)[0] == 413
    assert a.raw("POST", "/bundles?name=a", {"name": "a"})[0] == 400
    assert a.raw("GET", "/credentials", {"x": 1})[0] == 400
    for query in ("newest=0", "newest=1001", "newest=x", "newest=1e2", "nothing=1", "newest=1&newest=2", "denied=on", "agent=%00", "follow=true", "since=--help"):
        assert a.raw("GET", "/log?" + query)[0] == 400, query
    for path in ("", "/", "/nothing", "/credentials/", "//credentials", "/credentials//", "/credentials/a/b/c", "/credentials/%2e%2e%2fkey", "/policies/..", "/policies/..%2f..%2fkey",
                 "/credentials/%00", "/credentials/%", "/credentials/" + "x" * 300, "/bundles/default/domains/", "/tokens", "/settings/%0a", "/credentials/--help", "/settings/--default",
                 "/agents/%ff", "/lua", "/backup", "/serve"):
        assert a.raw("GET", path)[0] == 404, path
    for method, path in (("PUT", "/credentials"), ("DELETE", "/credentials"), ("POST", "/log"), ("PATCH", "/openapi.json"), ("GET", "/credentials/app/test"), ("POST", "/doctor")):
        status, headers, _ = a.raw(method, path)
        assert status in (404, 405) and (status == 404 or method not in headers["Allow"]), (method, path, status)
    assert a.raw("POST", "/policies/bearer.lua/test", {})[0] == 400, "it would be a file"
    for name in ("../x", "a/b", "key", "key.lua", "..", "a" * 200):
        assert a.raw("PUT", "/policies/" + urllib.parse.quote(name, safe=""), {"source": "return {}"})[0] in (400, 404, 422), name
    assert not list(s.home.glob("*.lua")) and (s.home / "key").exists()
    assert a.raw("PUT", "/policies/bearer", {"source": "x" * (2 << 20)})[0] == 413
    assert a.raw("PUT", "/policies/bearer", {"source": 1})[0] in (400, 422) and a.raw("PUT", "/policies/bearer", {})[0] == 400
    for value in ({"a": 1}, [["x"]], [None], ["--default"], "--default", None, [""] * 2, 1.5):
        assert a.raw("PUT", "/settings/answer-timeout", {"value": value})[0] == 400, value
    assert s.cli("bundle", "list", "--json").stdout == before
    hostile = '<script>alert(1)</script>"\u202e\x1b[2J'
    status, headers, text = a.raw("POST", "/bundles", {"name": hostile})
    assert status == 400 and "\x1b" not in text and headers["Content-Type"] == "application/json"


def test_fuzz(t):
    """what the document says may be sent, and what it says may not, by schemathesis: no fault, no answer that is not in the document (API_FUZZ=N: N examples of each)"""
    if "asan" in str(t.binary):
        t.skip("once, in the test build")
    if not (PIP / "schemathesis").is_dir():
        t.skip("schemathesis is not installed")
    s, up = t.proxy(workers=1, serve=False)
    a = Api(t, s, "read", "write", "policy")
    a.ask("POST", "/credentials", {"name": "app", "type": "bearer", "hosts": ["api.test"], "fields": {"token": SECRET}}, want=201)
    log = pathlib.Path(s.dir) / "schemathesis.out"
    r = subprocess.run(["/usr/bin/python3", "-m", "schemathesis.cli", "run", f"http://{a.admin.at}/api/v1/openapi.json", "--url", f"http://{a.admin.at}/api/v1", "-H", "Authorization: Bearer " + a.token,
                        "--phases", "fuzzing", "--max-examples", os.environ.get("API_FUZZ", "1"), "--seed", "16", "--workers", "1", "--generation-database", "none",
                        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance", "--suppress-health-check", "all"],
                       env={"PYTHONPATH": str(PIP), "PATH": "/usr/bin:/bin", "HOME": str(s.dir)}, cwd=s.dir, stdout=open(log, "w"), stderr=subprocess.STDOUT, timeout=(120 + 60 * int(os.environ.get("API_FUZZ", "1"))) * sallyport.SLOW)
    text = log.read_text()
    assert r.returncode == 0, text[-3000:]
    assert re.search(r"[1-9]\d* generated", text) or "No issues found" in text, text[-2000:]
    assert a.raw("GET", "/credentials")[0] == 200
