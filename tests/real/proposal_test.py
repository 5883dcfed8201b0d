"""Proposals: an agent that is refused asks, a person approves in part or whole, on the command line or the page; nothing opens by wording."""
import base64
import http.client
import json
import re
import socket
import threading
import time

import sallyport
from admin_test import Admin
from servers import free_port

SECRET = "canary-proposal-0123456789"
ASK = {"services": [{"name": "stripe", "host": "api.test", "auth": {"type": "bearer", "token": "STRIPE_KEY"}}],
       "credentials": [{"key": "STRIPE_KEY", "description": "to read invoices", "obtain": "https://keys.test/new"}], "user_message": "I need invoices."}


def own(s, method, path, value=None, token=None, body=None, fields=""):
    """A request to the proxy itself -> status, object."""
    body = body if body is not None else json.dumps(value).encode() if value is not None else b""
    w = s.connect()
    w.send(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\nAuthorization: Bearer {token or s.tokens['a']}\r\n{fields}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    data = b""
    while True:
        part = w.recv(10 * sallyport.SLOW)
        if not part:
            break
        data += part
    w.close()
    head, _, text = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(text) if text.startswith(b"{") else text, head.decode()


def until(done):
    deadline = time.monotonic() + 90 * sallyport.SLOW
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_asked_and_approved(t):
    """refused, told how to ask, asked, approved with a secret: the next request carries it; the agent polls; the record of it names nothing secret"""
    s, up = t.proxy(workers=2, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    s.canaries.append(SECRET)
    r = s.request()
    hint = json.loads(r.body)
    assert r.status == 403 and hint["error"] == "host_not_allowed" and r.get("x-agent-vault-proxy-error") == "true", hint
    assert "POST /v1/proposals there asks a person for more" in hint["hint"], hint
    assert hint["proposal_hint"] == {"host": "api.test", "endpoint": "POST /v1/proposals", "supported_auth_types": ["bearer", "basic", "api-key", "custom", "passthrough"]}
    status, made, _ = own(s, "POST", "/v1/proposals", ASK)
    assert status == 201 and made["status"] == "pending" and made["vault"] == "default", made
    at = "/v1/proposals/" + made["id"]
    assert own(s, "GET", at)[1]["status"] == "pending" and s.request().status == 403
    shown = s.cli("proposal", "show", made["id"]).stdout
    assert "api.test" in shown and "https://keys.test/new" in shown and "every agent with the bundle default (a)" in shown and "gives nothing now" not in shown, shown
    s.cli("bundle", "disable", "default")
    assert "every agent with the bundle default (a), once it is enabled: it gives nothing now" in s.cli("proposal", "show", made["id"]).stdout
    status, refused, _ = own(s, "POST", "/v1/proposals", ASK)
    assert status == 403 and refused["message"] == "the bundle default, to which it would be added, is disabled" and "sallyport bundle enable default" in refused["hint"], refused
    r = json.loads(s.request().body)
    assert r["error"] == "host_not_allowed" and "sallyport bundle enable default" in r["hint"] and "proposal" not in str(r), r
    s.cli("bundle", "enable", "default")
    s.cli("agent", "disable", "a")
    assert "every agent with the bundle default (a (disabled))" in s.cli("proposal", "show", made["id"]).stdout
    s.cli("agent", "enable", "a")
    s.cli("tenant", "add", "acme", "--bundle", "default")
    assert "every agent with the bundle default (a) and, at the door, everybody in the tenant acme may send" in s.cli("proposal", "show", made["id"]).stdout, "a tenant is no agent"
    r = s.cli("proposal", "approve", made["id"], check=False)
    assert r.returncode == 2 and "STRIPE_KEY is missing" in r.stderr, r.stderr
    s.cli("proposal", "approve", made["id"], "STRIPE_KEY=-", stdin=SECRET)
    assert s.request().status == 200 and up.requests[-1].get("authorization") == "Bearer " + SECRET
    assert own(s, "GET", at)[1]["status"] == "applied"
    assert s.cli("proposal", "approve", made["id"], "STRIPE_KEY=-", stdin=SECRET, check=False).returncode == 1
    page = own(s, "GET", "/discover")[1]
    assert {"name": "stripe", "host": "api.test"} in page["services"] and page["available_credentials"] == ["STRIPE_KEY"] and page["vault"] == "default"
    status, pem, head = own(s, "GET", "/v1/mitm/ca.pem")
    assert status == 200 and b"BEGIN CERTIFICATE" in pem and re.search(r"X-MITM-Port: \d+", head), head
    changes = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    assert [c["command"] for c in changes if c.get("command", "").startswith("proposal")] == ["proposal approve"], changes
    assert [x["record"] for x in changes[-1]["changes"]] == ["credential stripe", f"proposal {made['id']} of agent a"], changes[-1]
    again = own(s, "POST", "/v1/proposals", {**ASK, "services": [{**ASK["services"][0], "host": "api.test/v2"}]})[1]["id"]
    assert "this changes the credential stripe, which goes to api.test now" in s.cli("proposal", "show", again).stdout, "services are merged by name"
    s.cli("credential", "set", "stripe", f"headers.X-More=@{s.secret_file(SECRET)}")
    r = s.cli("proposal", "approve", again, "STRIPE_KEY=-", stdin=SECRET + "2", check=False)
    assert r.returncode == 1 and "has secrets that are not typed here" in r.stderr and own(s, "GET", "/v1/proposals/" + again)[1]["status"] == "pending", r.stderr
    s.cli("credential", "set", "stripe", "--clear", "headers.x-more", "--method", "GET", "--address", "10.0.0.0/8", "--plain-http")
    s.cli("proposal", "approve", again, "STRIPE_KEY=-", stdin=SECRET + "2")
    assert s.request(target="/v2/x").status == 200 and up.requests[-1].get("authorization") == f"Bearer {SECRET}2" and s.request(target="/v1").status == 403
    kept = json.loads(s.cli("credential", "list", "--json").stdout)
    assert [(c["name"], c["methods"], c["paths"], c["ports"], c.get("addresses"), c.get("plain_http")) for c in kept] == [("stripe", ["GET"], ["/v2"], [443], None, None)], kept


def test_long_texts(t):
    """texts as long as they may be, in one line, in many, in letters of three bytes, and one character more"""
    s, up = t.proxy()
    for name, most in (("user_message", 5000), ("message", 2000)):
        for text in ("a", "\u20ac", "\\", " x", "\n"):
            status, made, _ = own(s, "POST", "/v1/proposals", ASK | {name: text * (most // len(text))})
            assert status == 201, (name, text, made)
        for text in ("a", "\u20ac"):
            status, made, _ = own(s, "POST", "/v1/proposals", ASK | {name: text * (most + 1)})
            assert status == 400 and f"at most {most} characters" in made["message"], made
    assert "ev=task_failed" not in s.log()


def test_kinds(t):
    """each kind of auth comes to be as it was asked, in part where the person says so, at the host that they say"""
    s, up = t.proxy(workers=1, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    s.canaries.append(SECRET)
    services = [{"name": "basic", "host": "basic.test", "auth": {"type": "basic", "username": "USER", "password": "PASS"}},
                {"name": "keyed", "host": "api.test/v1/*", "auth": {"type": "api-key", "key": "KEY", "header": "X-Key", "prefix": "k "}},
                {"name": "custom", "host": "custom.test:8443", "auth": {"type": "custom", "headers": {"X-Token": "Token {{ KEY }}"}}},
                {"name": "docs", "host": "docs.test", "auth": {"type": "passthrough"}},
                {"name": "named", "host": "api.test/named", "auth": {"type": "basic", "username": "KEY"}}]
    ask = {"services": services, "credentials": [{"key": k} for k in ("USER", "PASS", "KEY")]}
    first = own(s, "POST", "/v1/proposals", ask)[1]["id"]
    s.cli("proposal", "approve", first, "--only", "keyed,docs", "--host", "docs=read.test", "KEY=-", stdin=SECRET)
    assert s.request(target="/v1/x").status == 200 and up.requests[-1].get("x-key") == "k " + SECRET and s.request(target="/v2").status == 403
    entries = json.loads(s.cli("bundle", "show", "default", "--json").stdout)
    assert [d["host"] for d in entries["domains"]] == ["read.test"] and entries["credentials"] == ["keyed"]
    assert own(s, "GET", "/v1/proposals/" + first)[1]["reason"] == "in part: keyed, docs"
    second = own(s, "POST", "/v1/proposals", {**ask, "services": services[:1] + services[2:3] + services[4:]})[1]["id"]
    s.cli("proposal", "approve", second, "USER=ada", f"PASS=@{s.secret_file(SECRET)}", f"KEY=@{s.secret_file(SECRET)}", "--method", "GET", "--method", "basic=HEAD,PUT")
    basic, custom = (json.loads(s.cli("credential", "show", n, "--json").stdout) for n in ("basic", "custom"))
    assert basic["fields"]["username"] == "ada" and basic["methods"] == ["GET", "HEAD", "PUT"] and custom["methods"] == ["GET"] and custom["ports"] == [8443] and custom["fields"] == {"header": "x-token", "prefix": "Token "}, (basic, custom)
    named = json.loads(s.cli("credential", "show", "named", "--json").stdout)
    assert named["secrets"] == ["password", "secret_username"] and SECRET not in str(named), "a user name alone is the key"
    assert s.request(target="/named/x").status == 200 and up.requests[-1].get("authorization") == "Basic " + base64.b64encode(f"{SECRET}:".encode()).decode()
    third = own(s, "POST", "/v1/proposals", {"services": [{"name": "drive", "host": "drive.test", "auth": {"type": "bearer", "token": "DRIVE"}}],
        "credentials": [{"key": "DRIVE", "type": "oauth", "oauth": {"token_url": "https://id.test/token", "authorization_url": "https://id.test/auth", "client_id": "c1", "scopes": "read", "disable_pkce": True}}]})
    assert third[0] == 201, third
    assert "without PKCE" in s.cli("proposal", "show", third[1]["id"]).stdout
    assert "is signed in to at id.test, and its client secret goes to id.test" in s.cli("proposal", "show", third[1]["id"]).stdout
    r = s.cli("proposal", "approve", third[1]["id"])
    drive = json.loads(s.cli("credential", "show", "drive", "--json").stdout)
    assert drive["type"] == "oauth_authorization_code" and drive["fields"]["client_id"] == "c1" and drive["fields"]["pkce"] is False and "sallyport connect drive" in r.stderr, r.stderr
    several = {"services": [{"name": "several", "host": "api.test/several", "auth": {"type": "custom", "headers": {"X-B": "Token {{ B }}", "X-A": "{{A}}"}}},
                            {"name": "off", "host": "api.test/off", "auth": {"type": "bearer", "token": "A"}, "enabled": False}], "credentials": [{"key": "A"}, {"key": "B"}]}
    id = own(s, "POST", "/v1/proposals", several)[1]["id"]
    shown = s.cli("proposal", "show", id).stdout
    assert 'with A (header x-a), B (header x-b, behind "Token ") attached' in shown and "once somebody enables it" in shown, shown
    s.cli("proposal", "approve", id, f"A=@{s.secret_file(SECRET)}", f"B=@{s.secret_file(SECRET + 'b')}")
    assert s.request(target="/several/x", headers={"X-B": "mine"}).status == 200, "one credential, two headers"
    assert (up.requests[-1].get("x-a"), up.requests[-1].get("x-b")) == (SECRET, f"Token {SECRET}b")
    assert s.request(target="/off").status == 403, "made, and not in force"
    s.cli("credential", "enable", "off")
    assert s.request(target="/off").status == 200
    fourth = own(s, "POST", "/v1/proposals", ask)[1]["id"]
    assert s.cli("proposal", "approve", fourth, "--only", "none", check=False).returncode == 2
    s.cli("proposal", "reject", fourth, "--reason", "not now")
    assert own(s, "GET", "/v1/proposals/" + fourth)[1] | {"created_at": 0} == {"id": fourth, "status": "rejected", "vault": "default", "reason": "not now", "created_at": 0}


def test_rows_and_deletion(t):
    """substitutions at named places, or at places that a person names, with auth passthrough or auth's own key; one account is one credential; what is deleted leaves the agent's bundle alone; a comma in a path widens nothing"""
    s, up = t.proxy(workers=1, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    s.canaries.append(SECRET)
    rows = [{"key": "BOT", "placeholder": "__bot_token__", "in": ["path=/bot{}/**", "header=X-Bot"]}]
    ask = {"services": [{"name": "bot", "host": "api.test", "auth": {"type": "passthrough"}, "substitutions": rows}], "credentials": [{"key": "BOT"}]}
    id = own(s, "POST", "/v1/proposals", ask)[1]["id"]
    assert "BOT for __bot_token__ at path=/bot{}/**, header=X-Bot" in s.cli("proposal", "show", id).stdout
    s.cli("proposal", "approve", id, "BOT=-", stdin=SECRET)
    assert s.request(target="/bot__bot_token__/me", headers={"X-Bot": "__bot_token__", "X-Note": "__bot_token__"}).status == 200
    assert up.requests[-1].target == f"/bot{SECRET}/me" and up.requests[-1].get("x-bot") == SECRET and up.requests[-1].get("x-note") == "__bot_token__", up.requests[-1]
    both = {"services": [{"name": "both", "host": "both.test", "auth": {"type": "bearer", "token": "K"}, "substitutions": [{"key": "K", "placeholder": "__the_key__", "in": ["query=k"]}]}],
            "credentials": [{"key": "K"}]}
    s.cli("proposal", "approve", own(s, "POST", "/v1/proposals", both)[1]["id"], "K=-", stdin=SECRET)
    assert "__the_key__" in s.cli("credential", "show", "both", "--json").stdout
    # rows of other keys than auth's: both go out with one request
    for name, auth, field, want in (("legacy", {"type": "api-key", "key": "AUDIT", "header": "X-Audit", "prefix": "v1 "}, "x-audit", f"v1 {SECRET}"), ("mixed", {"type": "bearer", "token": "AUDIT"}, "authorization", f"Bearer {SECRET}")):
        id = own(s, "POST", "/v1/proposals", {"services": [{"name": name, "host": f"api.test/{name}", "auth": auth, "substitutions": [{"key": "API_KEY", "placeholder": "__api_key__", "in": ["query=api_key"]}]}],
                                              "credentials": [{"key": "AUDIT"}, {"key": "API_KEY"}]})[1]["id"]
        assert (("with AUDIT attached" if name == "mixed" else 'with AUDIT (header x-audit, behind "v1 ") attached') + ', and API_KEY for __api_key__ at query=api_key') in s.cli("proposal", "show", id).stdout
        s.cli("proposal", "approve", id, f"AUDIT=@{s.secret_file(SECRET)}", f"API_KEY=@{s.secret_file(SECRET + 'q')}")
        assert s.request(target=f"/{name}/x?api_key=__api_key__&b=__api_key__", headers={field: "mine"}).status == 200
        assert (up.requests[-1].target, up.requests[-1].get(field)) == (f"/{name}/x?api_key={SECRET}q&b=__api_key__", want), up.requests[-1]
    account = {"key": "DRIVE", "type": "oauth", "oauth": {"token_url": "https://id.test/token", "authorization_url": "https://id.test/auth", "client_id": "c1"}}
    three = [{"name": n, "host": f"{n}.test", "auth": {"type": "bearer", "token": "DRIVE"}} for n in ("drive", "docs", "mail")]
    assert "same port and path" in own(s, "POST", "/v1/proposals", {"services": three + [{**three[0], "name": "x", "host": "x.test/v1"}], "credentials": [account]})[1]["message"]
    id = own(s, "POST", "/v1/proposals", {"services": three, "credentials": [account]})[1]["id"]
    r = s.cli("proposal", "approve", id, "--path", "docs=/v1", check=False)
    assert r.returncode == 2 and "have one path" in r.stderr, "narrower for one of them alone would be narrower for none"
    s.cli("proposal", "approve", id)
    assert json.loads(s.cli("credential", "show", "drive", "--json").stdout)["hosts"] == ["drive.test", "docs.test", "mail.test"]
    comma = {"services": [{"name": "comma", "host": "comma.test/a,/", "auth": {"type": "bearer", "token": "K"}}], "credentials": [{"key": "K"}]}
    s.cli("proposal", "approve", own(s, "POST", "/v1/proposals", comma)[1]["id"], "K=-", stdin=SECRET)
    assert len(json.loads(s.cli("credential", "show", "comma", "--json").stdout)["paths"]) == 1
    unnamed_places(t, s, up)
    s.cli("bundle", "add", "other")
    s.cli("bundle", "attach", "other", "both")
    s.cli("domain", "add", "default", "docs.example")
    s.cli("domain", "add", "other", "theirs.example")
    for gone in ({"name": "nobody"}, {"host": "theirs.example"}):
        assert own(s, "POST", "/v1/proposals", {"services": [{"action": "delete", **gone}]})[0] == 400, gone
    end = own(s, "POST", "/v1/proposals", {"services": [{"action": "delete", "name": "both"}, {"action": "delete", "host": "docs.example"}]})[1]["id"]
    shown = s.cli("proposal", "show", end).stdout
    assert "may no longer use the credential both" in shown and "may no longer reach docs.example" in shown, shown
    s.cli("proposal", "approve", end)
    said = own(s, "POST", "/v1/proposals", {"services": [{"action": "delete", "host": "api.test"}]})[1]["message"]
    assert "several services, and name says which: bot, legacy, mixed, twilio-test" in said, said
    end = own(s, "POST", "/v1/proposals", {"services": [{"action": "delete", "host": "two.test"}]})[1]["id"]
    assert "may no longer use the credential two" in s.cli("proposal", "show", end).stdout, "as the documents of Agent Vault delete: by host alone"
    lists = {state: own(s, "GET", "/v1/proposals?status=" + state)[1]["proposals"] for state in ("pending", "applied", "rejected")}
    assert [[p["id"] for p in lists["pending"]], lists["rejected"]] == [[end], []] and len(lists["applied"]) > 4, lists
    assert json.loads(s.cli("credential", "show", "both", "--json").stdout)["bundles"] == ["other"] and json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"] == []


TWILIO = {"action": "set", "name": "twilio-test", "host": "api.test/2010-04-01/*", "description": "Twilio", "auth": {"type": "basic", "username": "TWILIO_ACCOUNT_SID", "password": "TWILIO_AUTH_TOKEN"},
          "substitutions": [{"key": "TWILIO_ACCOUNT_SID", "placeholder": "__sid__", "in": ["path"]}]}
TWILIO_KEYS = [{"action": "set", "key": "TWILIO_ACCOUNT_SID", "description": "Twilio Account SID"}, {"action": "set", "key": "TWILIO_AUTH_TOKEN", "description": "Twilio Auth Token"}]


def unnamed_places(t, s, up):
    """a place without a name, as skill files for Agent Vault write it, waits for a person to name it: no other kind of place, nothing without; the API, the command and the page do it alike"""
    def asked(*services, keys=TWILIO_KEYS):
        status, made, _ = own(s, "POST", "/v1/proposals", {"services": services, "credentials": keys})
        assert status == 201, made
        return made["id"]
    id = asked(TWILIO)
    shown = json.loads(s.cli("proposal", "show", id, "--json").stdout)["services"][0]
    assert shown["substitutions"][0]["unnamed"] == "path=/2010-04-01/{}/**" and "where you name it" in shown["says"], shown
    assert "with {} where the key stands, * for each part that changes and /** for the rest (path=/2010-04-01/{}/**)" in shown["substitutions"][0]["says"], shown
    assert "__sid__ may stand anywhere in path: name where" in s.cli("proposal", "show", id).stdout and "--place twilio-test=__sid__:PLACE" in s.cli("proposal", "show", id).stdout
    given = [f"TWILIO_ACCOUNT_SID=@{s.secret_file('AC0123456789')}", f"TWILIO_AUTH_TOKEN=@{s.secret_file(SECRET)}"]
    for place, why in ((None, "has to be named: path=/2010-04-01/{}/**"), ("path", "has to be named"), ("query=sid", "has to be named"), ("path=/{},query=sid", "has to be named"), ("path=/a", "has {} once"),
                       ("path=/a/{}:__other__", "has to be named"), ("path=/a/**", "has {} once"), ("__other__:path=/a/{}", "PLACEHOLDER:PLACE")):
        r = s.cli("proposal", "approve", id, *given, *(["--place", "twilio-test=" + place] if place else []), check=False)
        assert r.returncode == 2 and why in r.stderr, (place, r.stderr)
    assert s.cli("proposal", "approve", id, *given, "--place", "other=path=/{}", check=False).returncode == 2
    assert own(s, "GET", "/v1/proposals/" + id)[1]["status"] == "pending"
    s.cli("proposal", "approve", id, *given, "--place", "twilio-test=path=/2010-04-01/Accounts/{}/**")
    shown = json.loads(s.cli("proposal", "show", id, "--json").stdout)["services"][0]
    assert shown["substitutions"] == [{"key": "TWILIO_ACCOUNT_SID", "placeholder": "__sid__", "places": ["path=/2010-04-01/Accounts/{}/**"]}] and "__sid__ at path=/2010-04-01/Accounts/{}/**" in shown["says"], shown
    kept = json.loads(s.cli("credential", "show", "twilio-test", "--json").stdout)
    assert kept["rows"][0]["place"] == ["path=/2010-04-01/Accounts/{}/**"] and kept["rows"][0]["field"] == "secret_username", kept
    basic = "Basic " + base64.b64encode(f"AC0123456789:{SECRET}".encode()).decode()
    for target, want in (("/2010-04-01/Accounts/__sid__/Messages.json", "/2010-04-01/Accounts/AC0123456789/Messages.json"), ("/2010-04-01/__sid__", "/2010-04-01/__sid__")):
        assert s.request(target=target).status == 200
        assert (up.requests[-1].target, up.requests[-1].get("authorization")) == (want, basic), up.requests[-1]
    # in is left out: path and query, each named or left out; a preset names the places of its host
    two = {"name": "two", "host": "two.test", "auth": {"type": "passthrough"}, "substitutions": [{"key": "K", "placeholder": "__the_k__"}, {"key": "K", "placeholder": "__the_l__", "in": ["body", "header"]}]}
    bot = {**two, "name": "bots", "host": "api.telegram.org", "substitutions": two["substitutions"][:1]}
    id = asked(two, bot, keys=[{"key": "K"}])
    shown = json.loads(s.cli("proposal", "show", id, "--json").stdout)["services"]
    assert [r.get("unnamed") for r in shown[0]["substitutions"]] == ["path=/{}/** or query=NAME", "form=NAME or json=/POINTER or header=NAME"], shown
    assert shown[1]["substitutions"][0] | {"key": "K"} == {"key": "K", "placeholder": "__the_k__", "places": ["path=/bot{}/**", "path=/file/bot{}/**"]}, shown
    a = Admin(t, s).sign_in()
    a.get("proposals/" + id)
    assert "Where __the_l__ stands" in a.page.text and "At a place that the agent chooses" in a.page.text
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + id))
    a.submit(form=form, **{"k.K": SECRET, "w.1.1": "query=k"})
    assert a.status == 400 and "where __the_l__ stands has to be named" in a.page.text and SECRET not in a.html, a.page.text
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + id))
    assert form["fields"]["w.1.1"] == "query=k", "what was typed is still there"
    a.submit(form=form, **{"k.K": SECRET, "w.1.2": "json=/auth/key, header=X-Key"})
    assert "Approved: two, bots" in a.page.text, a.page.text
    rows = json.loads(s.cli("credential", "show", "two", "--json").stdout)["rows"]
    assert [r["place"] for r in rows] == [["query=k"], ["json=/auth/key", "header=X-Key"]], rows


def test_all_or_nothing(t):
    """an approval is one commit: where its third service cannot be made, or somebody took its name, nothing of it is there and it waits on; two people at once make it once"""
    s, up = t.proxy(workers=1)
    s.canaries.append(SECRET)
    services = [{"name": n, "host": f"{n}.test", "auth": {"type": "bearer", "token": "K"}} for n in ("one", "two", "three")] + [{"name": "docs", "host": "docs.test", "auth": {"type": "passthrough"}}]
    id = own(s, "POST", "/v1/proposals", {"services": services, "credentials": [{"key": "K"}]})[1]["id"]
    secret = f"K=@{s.secret_file(SECRET)}"

    def there():
        return sorted(c["name"] for c in json.loads(s.cli("credential", "list", "--json").stdout)), json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"]
    r = s.cli("proposal", "approve", id, secret, "--host", "three=not a host", check=False)
    assert r.returncode == 2 and "three: " in r.stderr and there() == ([], []), r.stderr
    s.cli("bundle", "add", "other")
    s.cli("credential", "add", "two", "--type", "bearer", "--host", "mine.test", "--bundle", "other", f"token=@{s.secret_file(SECRET)}")
    r = s.cli("proposal", "approve", id, secret, check=False)
    assert r.returncode == 1 and "two: " in r.stderr and there() == (["two"], []), r.stderr
    assert own(s, "GET", "/v1/proposals/" + id)[1]["status"] == "pending"
    s.cli("credential", "remove", "two")
    generation = [c["request"] for c in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines())]
    out = []
    people = [threading.Thread(target=lambda: out.append(s.cli("proposal", "approve", id, secret, check=False).returncode)) for _ in range(4)]
    for p in people:
        p.start()
    for p in people:
        p.join()
    assert sorted(out) == [0, 1, 1, 1] and there()[0] == ["one", "three", "two"], (out, there())
    new = [c for c in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines()) if c["request"] not in generation]
    assert [len(c["changes"]) for c in new] == [5], new


def test_bounds_and_strangers(t):
    """what is malformed is refused with its place; twenty wait for an agent and no more; another agent's is not there; seven days; hostile words are plain text"""
    s, up = t.proxy(workers=2)
    s.agent("other")
    base = ASK["services"][0]
    for change, why in (({"services": []}, "services is empty"), ({"services": [base] * 11}, "at most 10"), ({"services": [{**base, "host": "*"}]}, "services[0]: host"),
                        ({"services": [{**base, "host": "$EVIL.test"}]}, "host"), ({"services": [{**base, "host": "a b"}]}, "host"), ({"services": [{**base, "auth": {"type": "bearer"}}]}, "auth.token"),
                        ({"services": [{**base, "enabled": 0}]}, "enabled"), ({"services": [{**base, "auth": {"type": "passthrough"}, "enabled": False}], "credentials": []}, "enabled"),
                        *(({"services": [{**base, "auth": {"type": "custom", "headers": h}}]}, why) for h, why in (({}, "1 to 10 headers"), ([], "1 to 10 headers"), (["{{STRIPE_KEY}}"], "1 to 10 headers"),
                            ({"X-A": "{{STRIPE_KEY}}", "x-a": "{{STRIPE_KEY}}"}, "twice"), ({"X-A": "{{STRIPE_KEY}}", "X-B": "none"}, "behind it"), ({"X-A": "{{STRIPE_KEY}}", "X-B": "{{OTHER}}"}, "OTHER is none"),
                            ({f"X-{i}": "{{STRIPE_KEY}}" for i in range(11)}, "1 to 10 headers"))),
                        ({"credentials": [{"key": "STRIPE_KEY", "type": "oauth", "oauth": {"token_url": "https://id.test/", "disable_pkce": "yes"}}]}, "disable_pkce"),
                        ({"services": [{**base, "auth": {"type": "magic"}}]}, "auth.type"), ({"services": [{**base, "action": "delete"}], "credentials": []}, "there is no such service"), ({"services": [{"action": "delete"}], "credentials": []}, "name or host"),
                        ({"services": [{**base, "action": "put"}]}, "action"), ({"credentials": [{"key": "STRIPE_KEY", "action": "delete"}]}, "by a person alone"), ({"services": [{**base, "name": "../x"}]}, "name"),
                        ({"services": [base, base]}, "twice"), ({"services": [{**base, "auth": {"type": "bearer", "token": "OTHER"}}]}, "OTHER is none"), ({"services": "x"}, "services"),
                        ({"services": {"a": 1}}, "services"), ({"credentials": []}, "STRIPE_KEY is none"), ({"credentials": [{"key": "lower"}]}, "credentials[0]"),
                        ({"credentials": ASK["credentials"] + [{"key": "UNUSED"}]}, "no service uses"), ({"user_message": "x" * 5001}, "user_message"), ({"user_message": 5}, "user_message"),
                        ({"services": [{**base, "auth": {"type": "api-key", "key": "STRIPE_KEY", "header": "a\r\nb"}}]}, "header"),
                        *(({"services": [{**base, "auth": {"type": "api-key", "key": "STRIPE_KEY", "header": h}}]}, "no place for a secret") for h in ("Origin", "X-Request-Id", "Range", "referer")),
                        ({"services": [{**base, "auth": {"type": "custom", "headers": {"X-Key": "{{STRIPE_KEY}}", "If-None-Match": "{{STRIPE_KEY}}"}}}]}, "no place for a secret"),
                        ({"services": [{**base, "substitutions": [{"key": "K"}]}]}, "substitutions: placeholder"), ({"services": [{**base, "substitutions": {"key": "K"}}]}, "substitutions: it is a list"),
                        *(({"services": [{**base, "substitutions": [{"key": "STRIPE_KEY", "placeholder": "__stripe_key__", **where}]}]}, why) for where, why in (
                            ({"in": ["header=Origin"]}, "no place for a secret"), ({"in": ["path", "header=Origin"]}, "no place for a secret"), ({"in": ["cookie"]}, "header=NAME"), ({"in": ["path:x"]}, "a list of places"),
                            ({"in": ["query=a,path=/{}"]}, "a list of places"), ({"in": ["query=a"], "placeholder": "__a"}, "8"), ({"in": ["path"], "placeholder": "__a"}, "8"), ({"in": ["query=a"], "placeholder": "a:b:c:d:e:f"}, "letters"))),
                        ({"services": [{**base, "substitutions": [{"key": "OTHER", "placeholder": "__stripe_key__", "in": ["query=a"]}]}]}, "OTHER is none"),
                        ({"services": [{**base, "auth": {"type": "basic", "username": "USER", "password": "STRIPE_KEY"}, "substitutions": [{"key": "OTHER", "placeholder": "__stripe_key__", "in": ["query=a"]}]}]}, "api-key with header Authorization and prefix"),
                        ({"services": [{"name": "stripe", "host": "api.test", "enabled": True}], "credentials": []}, "auth is missing"), ({"services": [], "credentials": [{"key": "K", "value": "x"}]}, "say where it is to go"),
                        ({"services": [{**base, "auth": {"type": "custom", "headers": {"X-A": "Token {{ STRIPE_KEY }}, v=2"}}}]}, "let the whole of it be the credential"), ({"services": [{**base, "auth": {"type": "custom", "headers": {"X-A": "{{ STRIPE_KEY }}:{{ STRIPE_KEY }}"}}}]}, "X-A is a text and the name of one credential"),
                        ({"services": [{**base, "substitutions": [{"key": "STRIPE_KEY", "placeholder": "~tok", "in": ["query=a"]}]}]}, "__NAME__"),
                        ({"services": [{**base, "substitutions": [{"key": "OTHER", "placeholder": "__stripe_key__", "in": ["query=a"]}]}], "credentials": ASK["credentials"] + [{"key": "OTHER", "type": "oauth", "oauth": {"token_url": "https://id.test/"}}]}, "goes out as bearer"),
                        ({"credentials": [{"key": "STRIPE_KEY", "type": "oauth", "oauth": {"token_url": "http://evil.test/"}}]}, "https"),
                        ({"credentials": [{"key": "STRIPE_KEY", "type": "oauth", "oauth": {"token_url": "http://10.0.0.1/"}}]}, "https")):
        status, said, _ = own(s, "POST", "/v1/proposals", {**ASK, **change})
        assert status == 400 and why in said["message"], (change, status, said)
    for body in (b"", b"{", b"[]", b"null", b'{"services":[', b"\xff", b'"x"'):
        assert own(s, "POST", "/v1/proposals", body=body)[0] == 400, body
    assert own(s, "POST", "/v1/proposals", body=b" " * 70000)[0] == 413
    assert own(s, "POST", "/v1/proposals", ASK, token="sp_agt_" + "x" * 43)[0] in (403, 407)
    for method, path in (("PUT", "/v1/proposals"), ("DELETE", "/v1/proposals/12ab"), ("POST", "/v1/proposals/12ab"), ("POST", "/discover")):
        got = own(s, method, path, ASK)
        assert got[0] == 403 and got[1]["error"] == "method_not_allowed", (method, path, got)
    for path in ("/v1/proposals/", "/v1/proposals/zz", "/v1/admin/proposals/1/approve", "/v1/credentials"):
        assert own(s, "GET", path)[0] == 403, path
    kept = {**ASK, "credentials": [{**ASK["credentials"][0], "value": SECRET}], "user_message": "<x-canary>\u202e\x1b[31m hi\n\nthere"}
    s.canaries.append(SECRET)
    status, made, _ = own(s, "POST", "/v1/proposals", kept)
    assert status == 201 and "kept sealed" in made["message"]
    for value in (5, "", "a\nb", "\x00", "x" * 8193, ["x"]):
        kept_not = own(s, "POST", "/v1/proposals", {**ASK, "credentials": [{**ASK["credentials"][0], "value": value}]})
        assert kept_not[0] == (400 if value != "" else 201), (value, kept_not)
        if value == "":
            s.cli("proposal", "reject", kept_not[1]["id"])
    shown = s.cli("proposal", "show", made["id"]).stdout
    assert "\x1b" not in shown and "\u202e" not in shown and "hi" in shown, shown
    assert own(s, "GET", "/v1/proposals/" + made["id"], token=s.tokens["other"])[0] == 403
    for i in range(19):
        assert own(s, "POST", "/v1/proposals", ASK)[0] == 201, i
    status, _, head = own(s, "POST", "/v1/proposals", ASK)
    assert status == 429 and 7 * 86400 - 600 < int(re.search("(?i)retry-after: ([0-9]+)", head)[1]) <= 7 * 86400, head
    assert own(s, "POST", "/v1/proposals", ASK, token=s.tokens["other"])[0] == 201
    s.cli("proposal", "reject", made["id"])
    assert own(s, "POST", "/v1/proposals", ASK)[0] == 201
    for _ in range(30):
        ids = [p["id"] for p in json.loads(s.cli("proposal", "list", "--json").stdout) if p["state"] == "pending" and p["agent"] == "a"]
        if len(ids) < 20:
            break
        s.cli("proposal", "reject", ids[0])
        assert own(s, "POST", "/v1/proposals", ASK)[0] == 201
    assert len(own(s, "GET", "/v1/proposals")[1]["proposals"]) <= 41
    wide = own(s, "POST", "/v1/proposals", {**ASK, "services": [{**base, "host": "*.github.io"}]}, token=s.tokens["other"])[1]["id"]
    assert "careful" in s.cli("proposal", "show", wide).stdout
    sealed = s.dir / "sealed.lua"
    sealed.write_text('local n = 0 for _, row in ipairs(require("store").each("proposal", "", nil, 100)) do n = n + (next(row.record.sealed or {}) and 1 or 0) end print(n)')
    assert own(s, "POST", "/v1/proposals", kept, token=s.tokens["other"])[0] == 201
    assert s.cli("lua", "--store", sealed).stdout.strip() == "1", "the value of the one that was rejected went with it"
    s.set_clock(7 * 86400 + 60)
    assert own(s, "GET", "/v1/proposals/" + wide, token=s.tokens["other"])[1]["status"] == "expired"
    until(lambda: s.cli("lua", "--store", sealed).stdout.strip() == "0")


def test_value_sent(t):
    """a value that the agent sends along is sealed and shown nowhere; a person takes it by name, or types another; on the page and at each end it goes with the proposal"""
    s, up = t.proxy(workers=1, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    s.canaries += [SECRET, SECRET + "2"]
    ask = {"services": [{"name": "hook", "host": "api.test", "auth": {"type": "basic", "username": "USER", "password": "KEY"}}],
           "credentials": [{"key": "USER", "value": "ada"}, {"key": "KEY", "value": SECRET, "description": "what I made"}]}

    def asked(**more):
        return own(s, "POST", "/v1/proposals", {**ask, **more})[1]["id"]
    assert own(s, "POST", "/v1/proposals", {**ask, "credentials": [{"key": "USER", "value": "a\u202eb"}, ask["credentials"][1]]})[0] == 400
    id = asked()
    shown = json.loads(s.cli("proposal", "show", id, "--json").stdout)["credentials"]
    assert [(c["key"], c["value_sent"], c.get("value")) for c in shown] == [("USER", True, "ada"), ("KEY", True, None)], shown
    assert "the agent sent a value, so it knows it" in s.cli("proposal", "show", id).stdout and SECRET not in s.cli("proposal", "show", id).stdout + str(shown) + str(own(s, "GET", "/v1/proposals/" + id))
    r = s.cli("proposal", "approve", id, check=False)
    assert r.returncode == 2 and "KEY is missing" in r.stderr, "nobody takes it unasked"
    assert s.cli("proposal", "approve", id, "--use", "NONE", check=False).returncode == 2
    s.cli("proposal", "approve", id, "--use", "USER", "--use", "KEY")

    def goes_out(user, key):
        assert s.request().status == 200 and up.requests[-1].get("authorization") == "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()
    goes_out("ada", SECRET)
    assert "value_sent" not in s.cli("proposal", "show", id, "--json").stdout
    id = asked()
    s.cli("proposal", "approve", id, "--use", "USER", "--use", "KEY", "KEY=-", stdin=SECRET + "2")
    goes_out("ada", SECRET + "2")
    id = asked(credentials=[ask["credentials"][1], {"key": "USER"}])
    a = Admin(t, s).sign_in()
    a.get("proposals/" + id)
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + id))
    assert "u.KEY" not in form["fields"] and "u.USER" not in form["fields"] and "what I made" in a.page.text, form
    a.submit(form=form, **{"k.USER": "bob"})
    assert a.status == 400 and "KEY is missing" in a.page.text and SECRET not in a.html
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + id))
    a.submit(form=form, **{"k.USER": "bob", "u.KEY": "on"})
    assert "Approved: hook" in a.page.text and SECRET not in a.html, a.page.text
    goes_out("bob", SECRET)


def test_on_the_page(t):
    """the page shows what would be allowed, and approves a part of it, with the secret typed there"""
    s, up = t.proxy(workers=1, upstream={"reply": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"})
    s.canaries.append(SECRET)
    services = ASK["services"] + [{"name": "wide", "host": "*.github.io", "auth": {"type": "passthrough"}}]
    made = own(s, "POST", "/v1/proposals", {**ASK, "services": services, "user_message": "<x-canary onclick=x>"})[1]["id"]
    a = Admin(t, s).sign_in()
    assert "1 proposal of agents waits" in a.get().text
    a.click("Look")
    a.click(made)
    assert "Careful" in a.page.text and "I need" not in a.page.text and not any(tag == "x-canary" for tag, _ in a.page.tags)
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + made))
    del form["fields"]["s.2"]
    a.submit(form=form, **{"k.STRIPE_KEY": SECRET, "m.1": "TRACE"})
    assert a.status == 400 and "TRACE never" in a.page.text and SECRET not in a.html, a.page.text
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + made))
    assert form["fields"]["m.1"] == "TRACE" and "s.2" not in form["fields"], "what was typed is still there"
    page = a.submit(form=form, **{"m.1": "get, post"})
    assert a.status == 400 and "STRIPE_KEY is missing" in page.text, page.text
    form = next(f for f in a.page.forms if f["action"].endswith("proposals/" + made))
    a.submit(form=form, **{"k.STRIPE_KEY": SECRET})
    assert "Approved: stripe" in a.page.text and SECRET not in a.html, a.page.text
    page = a.get("proposals/" + made).text
    assert "Applied. These are" in page and "in part: stripe" in page and "this changes" not in page and "this changes" not in s.cli("proposal", "show", made).stdout, page
    assert s.request().status == 200 and up.requests[-1].get("authorization") == "Bearer " + SECRET and s.request(method="DELETE").status == 403
    assert json.loads(s.cli("credential", "show", "stripe", "--json").stdout)["methods"] == ["GET", "POST"]
    assert json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"] == []
    made = own(s, "POST", "/v1/proposals", ASK)[1]["id"]
    a.get("proposals/" + made)
    a.submit(form=[f for f in a.page.forms if f["action"].endswith("proposals/" + made)][1], reject="on", reason="no <b>")
    assert own(s, "GET", "/v1/proposals/" + made)[1]["reason"] == "no <b>"
    s.cli("bundle", "disable", "default")
    for path, status, h in (("allow", 200, ""), ("allow?host=&agent=a", 200, ""), ("allow?host=a%20b", 400, "a b"), ("allow?host=*", 400, "*"), ("allow?host=https://x.test/y", 400, "https://x.test/y")):
        a.get(path)
        assert a.status == status and not any("do/" in f["action"] for f in a.page.forms) and next(f for f in a.page.forms if f["action"].endswith("/allow"))["fields"]["host"] == h, (path, a.status, a.page.forms)
    a.get("allow?host=docs.test&agent=a")
    assert "The bundle default is disabled" in a.page.text and "sallyport bundle enable default" in a.page.text and not any("domain/add" in f["action"] for f in a.page.forms), a.page.text
    a.click("Enable it")
    a.submit()
    a.get("allow?host=docs.test&agent=a")
    a.submit(form=next(f for f in a.page.forms if "domain/add" in f["action"]))
    assert s.request(host="docs.test", wire=None).status != 403


def test_by_whom(t):
    """an agent's token answers nothing: not on the page, the API, the control socket or at the door; who is disabled, revoked or gone asks for nothing, and what it asked for says so; a tenant asks for nothing"""
    s, up = t.proxy(workers=1, serve=False)
    port = free_port()
    s.cli("set", "public-url", f"http://127.0.0.1:{port}")
    s.cli("bundle", "add", "theirs")
    s.agent("other", bundles=["theirs"])
    s.cli("tenant", "add", "acme", "--bundle", "theirs")
    s.serve("--gateway", f"127.0.0.1:{port}")
    id = own(s, "POST", "/v1/proposals", ASK)[1]["id"]
    a = Admin(t, s).sign_in()
    token = s.tokens["a"]

    def by_socket(method, path, body="", host="localhost", **fields):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20 * sallyport.SLOW)
        sock.connect(str(s.home / "control"))
        head = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        data = b""
        while part := sock.recv(65536):
            data += part
        sock.close()
        return int(data.split()[1]), data.decode()

    def at_door(method, path, body="", **fields):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * sallyport.SLOW)
        c.request(method, path, body or None, fields)
        r = c.getresponse()
        text = r.read().decode()
        c.close()
        return r.status, text
    shown = {"Authorization": "Bearer " + token}
    other = {"Authorization": "Basic " + base64.b64encode(f"x:{token}".encode()).decode()}
    for path, body in (("", ""), (f"/{id}", ""), (f"/{id}/approve", json.dumps({"secrets": {"STRIPE_KEY": SECRET}})), (f"/{id}/reject", "{}")):
        method = "POST" if body else "GET"
        for fields in (shown, other, {"X-Api-Key": token, **shown}):
            assert by_socket(method, "/api/v1/proposals" + path, body, **fields)[0] == 401, (path, fields)
            assert a.raw(method, "/api/v1/proposals" + path, body or None, Content_Type="application/json", **fields)[0] == 401, (path, fields)
            assert at_door(method, "/api/v1/proposals" + path, body, **fields)[0] == 404
        # a browser behind a tunnel to that socket, and a page in it, is nobody
        assert by_socket(method, "/api/v1/proposals" + path, body, Origin="http://localhost")[0] == 401 and by_socket(method, "/api/v1/proposals" + path, body, host="127.0.0.1:1")[0] == 401
    for fields in (shown, other, {"Cookie": "sallyport=" + token}, {"Cookie": "session=" + token}):
        for path in (f"/proposals/{id}", f"/approvals/p/{id}", f"/s/{token[-43:]}/proposals/{id}", "/approvals"):
            for ask in (by_socket, at_door, lambda m, p, **f: a.raw(m, p, **f)[::2]):
                status, text = ask("GET", path, **fields)[:2]
                assert status in (303, 404, 421) and "api.test" not in text and "STRIPE" not in text, (path, fields, status, text)
    assert at_door("POST", f"/approvals/p/{id}", "answer=approve&s.1=on&k.STRIPE_KEY=x", **shown, **{"Content-Type": "application/x-www-form-urlencoded"})[0] in (303, 400, 403)
    for path in (f"/v1/proposals/{id}/approve", f"/v1/admin/proposals/{id}/approve", f"/v1/proposals/{id}/reject", f"/api/v1/proposals/{id}/approve", f"/approvals/p/{id}"):
        status, said, _ = own(s, "POST", path, {"vault": "default", "credentials": {"STRIPE_KEY": SECRET}})
        assert status == 403 and said["error"] in ("path_not_allowed", "method_not_allowed"), (path, status, said)
    for at in (a.at, f"127.0.0.1:{port}"):           # nor by way of the proxy
        w = s.connect()
        w.send(f"GET http://{at}/approvals/p/{id} HTTP/1.1\r\nHost: {at}\r\n{s.auth(token)}Connection: close\r\n\r\n".encode())
        assert w.recv(10 * sallyport.SLOW).split()[1] == b"403"
        w.close()
    assert own(s, "GET", "/v1/proposals/" + id)[1]["status"] == "pending"
    # another agent's, by whatever road
    for token_of in ("other",):
        assert own(s, "GET", "/v1/proposals/" + id, token=s.tokens[token_of])[0] == 403 and own(s, "GET", "/v1/proposals", token=s.tokens[token_of])[1]["proposals"] == []
        status, said, _ = own(s, "POST", "/v1/proposals", ASK, token=s.tokens[token_of], fields="X-Vault: default\r\n")
        assert status == 403 and said["error"] == "forbidden", said
    # a tenant has no token for the proxy, and none can be made
    for words in (("agent", "rotate", "acme"), ("env", "--agent", "acme"), ("agent", "add", "acme")):
        r = s.cli(*words, check=False)
        assert r.returncode != 0 and "sp_agt_" not in r.stdout, (words, r.stdout)
    key = s.cli("user", "add", "ada@x.test", "--tenant", "acme=admin").stdout and s.cli("key", "add", "ci", "--tenant", "acme", "--role", "admin").stdout.strip()
    s.canaries.append(key)
    assert own(s, "POST", "/v1/proposals", ASK, token=key)[0] in (403, 407) and at_door("POST", "/v1/proposals", json.dumps(ASK), Authorization="Bearer " + key)[0] == 404
    # who may not act asks for nothing, and a person reads so of what it asked before
    careful = lambda: json.loads(s.cli("proposal", "show", id, "--json").stdout)["services"][0].get("warning")
    assert careful() is None
    for words, why in ((("agent", "disable", "a"), "the agent a, who asks, is disabled"), (("agent", "enable", "a"), None), (("agent", "revoke", "a"), "the agent a, who asks, was revoked"), (("agent", "remove", "a"), "the agent a, who asks, is gone")):
        s.cli(*words)
        assert careful() == why, (words, careful())
        for method, path in (("POST", "/v1/proposals"), ("GET", "/v1/proposals/" + id), ("GET", "/v1/proposals")):
            assert own(s, method, path, ASK if method == "POST" else None, token=token)[0] == (407 if why else 201 if method == "POST" else 200), (words, method)
    s.cli("agent", "add", "a")
    assert careful() == "the agent a, who asks, is gone", "another of its name"
    a.get("proposals/" + id)
    assert "Careful: the agent a, who asks, is gone" in a.page.text, a.page.text


def test_largest(t):
    """as much as a proposal may have is shown everywhere, and can be approved; what could never be approved is refused at once; two services that open one host are one entry, and what is open there is named before it goes"""
    s, up = t.proxy(workers=1)
    s.canaries.append(SECRET)
    rows = [{"key": f"K{i}", "placeholder": f"__placeholder_{i}__", "in": [f"query=name_{i}_{j}" for j in range(4 if i < 2 else 3)]} for i in range(10)]
    services = [{"name": f"s{i}", "host": f"host-{i}.test", "auth": {"type": "passthrough"}, "substitutions": rows} for i in range(10)]
    large = {"services": services, "credentials": [{"key": f"K{i}", "description": "d" * 500, "obtain": "o" * 500, "obtain_instructions": "i" * 1000} for i in range(10)], "user_message": "m" * 5000, "message": "n" * 2000}
    status, made, _ = own(s, "POST", "/v1/proposals", large)
    assert status == 201 and len(json.dumps(large)) < 65536, made
    id = made["id"]
    assert s.cli("proposal", "show", id).stdout.count("__placeholder_9__") == 10
    a = Admin(t, s).sign_in()
    assert a.get("proposals/" + id).text.count("__placeholder_9__") == 10 and a.status == 200
    secret = s.secret_file(SECRET)
    s.cli("proposal", "approve", id, *(f"K{i}=@{secret}" for i in range(10)))
    assert [len(c["rows"]) for c in json.loads(s.cli("credential", "list", "--json").stdout)] == [10] * 10
    more = [{**rows[0], "in": [f"query=n{j}" for j in range(10)], "placeholder": f"__more_{i}__"} for i in range(4)]
    status, said, _ = own(s, "POST", "/v1/proposals", {"services": [{**services[0], "substitutions": more}], "credentials": [{"key": "K0"}]})
    assert status == 400 and "more than 32 places" in said["message"], said
    # one host, several services
    docs = lambda name, host, **more: {"name": name, "host": host, "auth": {"type": "passthrough"}, **more}
    entry = lambda: json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"]
    id = own(s, "POST", "/v1/proposals", {"services": [docs("en", "docs.test/en"), docs("de", "docs.test/de/*"), docs("wild", "*.more.test")]})[1]["id"]
    r = s.cli("proposal", "approve", id, "--method", "en=GET", check=False)
    assert r.returncode == 2 and "both are one entry" in r.stderr, r.stderr
    s.cli("proposal", "approve", id)
    assert [(d["host"], d.get("paths")) for d in entry()] == [("*.more.test", None), ("docs.test", ["/en", "/de"])], entry()
    s.cli("domain", "set", "default", "docs.test", "--method", "GET,POST")
    id = own(s, "POST", "/v1/proposals", {"services": [docs("all", "docs.test")]})[1]["id"]
    assert "this takes the place of what is open there now: GET, POST below /en, /de" in s.cli("proposal", "show", id).stdout, s.cli("proposal", "show", id).stdout
    s.cli("proposal", "approve", id)
    assert [(d["methods"], d.get("paths")) for d in entry() if d["host"] == "docs.test"] == [(["GET", "HEAD", "OPTIONS"], None)] and "takes the place" not in s.cli("proposal", "show", id).stdout
    id = own(s, "POST", "/v1/proposals", {"services": [docs("one", "x.test/a"), docs("two", "x.test:8443/b")]})[1]["id"]
    assert "same port" in s.cli("proposal", "approve", id, check=False).stderr and own(s, "GET", "/v1/proposals/" + id)[1]["status"] == "pending"


def test_at_once(t):
    """a page, a program and commands answer one proposal at the same moment: one of them wins, the others are told, and one record is written; what was sent again changes nothing"""
    s, up = t.proxy(workers=2)
    s.canaries.append(SECRET)
    secret = s.secret_file(SECRET)
    a, b = Admin(t, s).sign_in(), Admin(t, s).sign_in()
    token = s.cli("token", "add", "all", "--scope", "write").stdout.strip()

    def changes():
        return [c for c in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines()) if any("proposal" in x["record"] for x in c["changes"])]
    for round_ in range(4):
        services = [{"name": f"{n}{round_}", "host": f"{n}{round_}.test", "auth": {"type": "bearer", "token": "K"}} for n in ("one", "two")]
        id = own(s, "POST", "/v1/proposals", {"services": services, "credentials": [{"key": "K"}]})[1]["id"]
        forms = []
        for page in (a, b):
            page.get("proposals/" + id)
            forms.append([f for f in page.page.forms if f["action"].endswith("proposals/" + id)])
        part = {**forms[1][0], "fields": {k: v for k, v in forms[1][0]["fields"].items() if k != "s.2"}}
        before, out = len(changes()), {}
        acts = {
            "page": lambda: (a.submit(form=forms[0][0], **{"k.K": SECRET}), "Approved" in a.page.text)[1],
            "in part": lambda: (b.submit(form=part, **{"k.K": SECRET}), "Approved" in b.page.text)[1],
            "program": lambda: a.raw("POST", f"/api/v1/proposals/{id}/approve", json.dumps({"secrets": {"K": SECRET}}), Authorization="Bearer " + token, Content_Type="application/json")[0] == 200,
            "command": lambda: s.cli("proposal", "approve", id, f"K=@{secret}", check=False).returncode == 0,
            "no": lambda: s.cli("proposal", "reject", id, check=False).returncode == 0,
        }
        people = [threading.Thread(target=lambda n=n, f=f: out.update({n: f()})) for n, f in acts.items()]
        for p in people:
            p.start()
        for p in people:
            p.join()
        won = [n for n, ok in out.items() if ok]
        there = sorted(c["name"] for c in json.loads(s.cli("credential", "list", "--json").stdout) if c["name"].endswith(str(round_)))
        want = {"no": [], "in part": [f"one{round_}"]}.get(won[0] if won else None, [f"one{round_}", f"two{round_}"])
        state = own(s, "GET", "/v1/proposals/" + id)[1]
        assert len(out) == 5 and len(won) == 1 and there == want and state["status"] == ("rejected" if won == ["no"] else "applied") and len(changes()) == before + 1, (out, there, state)
        # the same again, with what the pages had
        a.submit(form=forms[0][0], **{"k.K": SECRET})
        assert a.status in (400, 404) and "Approved:" not in a.page.text, (a.status, a.page.text)
        b.submit(form=forms[1][1], reject="on")
        assert b.status in (400, 404) and SECRET not in b.html, (b.status, b.page.text)
        assert a.raw("POST", f"/api/v1/proposals/{id}/approve", json.dumps({"only": [f"two{round_}"], "secrets": {"K": SECRET}}), Authorization="Bearer " + token, Content_Type="application/json")[0] == 422
        assert own(s, "GET", "/v1/proposals/" + id)[1] == state and len(changes()) == before + 1
