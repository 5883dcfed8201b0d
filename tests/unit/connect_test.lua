-- lua/cli/authorization.lua: the consent's address, and the judgement of what comes back.
local connect, policy = require "cli.authorization", require "policy"
local secret, core, form, uri, http = require "secret", require "secret.core", require "form", require "uri", require "http"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local numbers = 0
local env = {
  secret = secret, core = core, form = form, uri = uri, http = http,
  random = function() numbers = numbers + 1; return "random-" .. numbers end,
  callback = function(address, port) return { address = address }, port == 0 and 4711 or port end,
}

local function asked(fields, spec)
  local view = { authorization_url = "https://login.test/auth", client_id = "id", scope_separator = " " }
  for k, v in pairs(fields or {}) do view[k] = v end
  return connect.ask(env, { view = view }, spec or { redirect_uri = connect.REDIRECT, scopes = { "a", "b" } })
end

local function query_of(url)
  local out = {}
  for _, p in ipairs(uri.parse_query(url:match("%?(.*)$"))) do
    out[p[1]] = out[p[1]] and out[p[1]] .. "|" .. p[2] or p[2]
  end
  return out
end

-- The code of a failure; nil: it was accepted.
local function judged(a, query)
  local code, why, detail = connect.judge(env, a, query)
  if code then
    is(secret.is(code), true)
    return nil
  end
  return why, detail
end

local cases = {
  ["a pasted token that a worker exchanges just as it is given up stays; else all of it goes, and nothing newer"] = function()
    local function adopt(on_delete)
      local dbs, n, version = { credential = {}, state = {}, lease = {} }, 0, 0
      local store = {}
      function store.mark() return "mark" end
      function store.peek(db, key) return dbs[db][key] end
      function store.commit(ops)
        n = n + 1
        if n == 2 and on_delete then on_delete(dbs) end
        for _, op in ipairs(ops) do
          if op.version and op.version ~= (dbs[op.db][op.key] or { version = 0 }).version then return nil, "conflict" end
        end
        version = version + 1
        for _, op in ipairs(ops) do
          if op.plain then op.plain.version = version end
          dbs[op.db][op.key] = op.plain
        end
        return true, version
      end
      local now = 0
      local ok, code = connect.adopt({
        store = store, policies = { load = function() return { connect = true } end },
        config = { open = function() return {} end }, tokens = { fresh = function() return nil, "x", { error = "timeout" } end },
        time = { now = function() return now end, wall = function() return 1000 end, boot = function() return now end,
                 boot_id = function() return "b" end, sleep = function(ms) now = now + ms end },
      }, "c", { { op = "put", db = "credential", key = "c", version = 0, plain = { name = "c", type = "t" } } },
        { refresh_token = core.of "rt" })
      return ok, code, dbs
    end
    local ok, code, dbs = adopt()
    is(ok, nil)
    is(code, "timeout")
    is(dbs.credential.c, nil)
    is(dbs.state.c, nil)
    ok, code, dbs = adopt(function(d) d.state.c = { expires_at = 5000, version = 99 } end)
    is(ok, true)
    is(dbs.state.c.version, 99)
    is(dbs.credential.c.name, "c")
    ok, code, dbs = adopt(function(d) d.credential.c = nil; d.state.c = nil end)
    is(ok, nil)
  end,
  ["PKCE S256, the vector of RFC 7636 appendix B"] = function()
    is(connect.challenge(secret, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
  end,
  ["the consent's address has everything, and no secret"] = function()
    local a = asked({ audience = "api", resource = { "https://a.test", "https://b.test" }, params = { prompt = "consent", access_type = "offline" } })
    local q = query_of(a.url)
    is(q.response_type, "code")
    is(q.client_id, "id")
    is(q.redirect_uri, "http://127.0.0.1:7082/callback")
    is(q.scope, "a b")
    is(q.state, a.state)
    is(q.code_challenge, connect.challenge(secret, a.verifier))
    is(q.code_challenge_method, "S256")
    is(q.audience, "api")
    is(q.resource, "https://a.test|https://b.test")
    is(q.prompt, "consent")
    is(q.access_type, "offline")
    is(a.url:find(a.verifier, 1, true), nil)
    assert(a.state ~= a.verifier)
  end,
  ["an address that has a query keeps it; scopes are joined as the provider wants"] = function()
    local a = asked({ authorization_url = "https://login.test/auth?tenant=x", scope_separator = "," })
    is(query_of(a.url).tenant, "x")
    is(query_of(a.url).scope, "a,b")
    is(asked({}, { redirect_uri = connect.REDIRECT, scopes = {} }).url:find("scope=", 1, true), nil)
  end,
  ["state is compared, whatever else the answer says"] = function()
    local a = asked()
    is(judged(a, "code=x&state=" .. a.state), nil)
    is(judged(a, "code=x&state=other"), "wrong_state")
    is(judged(a, "code=x"), "wrong_state")
    is(judged(a, "error=access_denied&state=other"), "wrong_state")
    is(judged(a, ""), "wrong_state")
  end,
  ["nothing that matters may come twice (RFC 6749 3.1)"] = function()
    local a = asked()
    for _, name in ipairs { "code", "state", "iss", "error" } do
      is(judged(a, ("code=x&state=%s&%s=1&%s=2"):format(a.state, name, name)), "malformed_callback")
    end
  end,
  ["iss is the issuer, or of the consent's own origin where none is named (RFC 9207)"] = function()
    local a = asked { issuer = "https://login.test/tenant" }
    local ok = "code=x&state=" .. a.state
    is(judged(a, ok .. "&iss=https%3A%2F%2Flogin.test%2Ftenant"), nil)
    is(judged(a, ok .. "&iss=https%3A%2F%2Flogin.test%2Ftenant%2F"), "wrong_issuer")
    is(judged(a, ok .. "&iss=https%3A%2F%2Flogin.test"), "wrong_issuer")
    is(judged(a, ok), nil)
    a.require_iss = true
    is(judged(a, ok), "no_issuer")
    is(judged(a, "error=access_denied&state=" .. a.state), "no_issuer")
    local b = asked()
    ok = "code=x&state=" .. b.state
    is(judged(b, ok .. "&iss=https%3A%2F%2Flogin.test%2Fanything"), nil)
    is(judged(b, ok .. "&iss=https%3A%2F%2Flogin.test%3A444"), "wrong_issuer")
    is(judged(b, ok .. "&iss=http%3A%2F%2Flogin.test"), "wrong_issuer")
    is(judged(b, ok .. "&iss=https%3A%2F%2Fevil.test"), "wrong_issuer")
    is(judged(b, ok .. "&iss="), "wrong_issuer")
  end,
  ["a refusal is said with a registered code alone"] = function()
    local a = asked()
    local why, detail = judged(a, "error=access_denied&error_description=canary&state=" .. a.state)
    is(why, "denied")
    is(detail, "access_denied")
    why, detail = judged(a, "error=canary&state=" .. a.state)
    is(detail, "unregistered_error")
    is(judged(a, "state=" .. a.state), "no_code")
    is(judged(a, "code=&state=" .. a.state), "no_code")
  end,
  ["a pasted address, with spaces around it and a fragment behind; or CODE#STATE"] = function()
    local a = asked()
    local function pasted(text)
      local code, why = connect.pasted(env, a, text)
      return code and "ok" or why
    end
    is(pasted("  https://app.test/cb?code=x&state=" .. a.state .. "#_=_  "), "ok")
    is(pasted("x#" .. a.state), "ok")
    is(pasted("x#other"), "wrong_state")
    is(pasted("https://app.test/cb?code=x&state=other"), "wrong_state")
    is(pasted("https://app.test/cb"), "no_code")
    is(pasted("code"), "no_code")
    is(pasted(""), "no_code")
  end,
  ["a redirect address of another machine cannot be waited for; a port may be replaced"] = function()
    local function listen(address, port)
      local listener, shown = connect.listen(env, address, port)
      return listener and shown or shown
    end
    is(listen("https://app.test/cb"), "not_loopback")
    is(listen("http://app.test/cb"), "not_loopback")
    is(listen("https://127.0.0.1/cb"), "not_loopback")
    is(listen("urn:ietf:wg:oauth:2.0:oob"), "not_loopback")
    is(listen("http://0.0.0.0:80/cb"), "not_loopback")
    is(listen("http://127.0.0.1:7082/callback"), "http://127.0.0.1:7082/callback")
    is(listen("http://127.0.0.1:7082/callback", 0), "http://127.0.0.1:4711/callback")
    is(listen("http://localhost:9/cb?x=1", 10), "http://localhost:10/cb?x=1")
    is(listen("http://[::1]:9/cb", 0), "http://[::1]:4711/cb")
  end,
  ["a page of ours cannot be made to hold markup"] = function()
    assert(connect.page("<b>", "\"&<script>"):find("&lt;b&gt;", 1, true))
    is(connect.page("x", "<script>"):find("<script>", 1, true), nil)
  end,
  ["the listener is for loopback addresses alone"] = function()
    local host = require "host"
    for _, address in ipairs { "0.0.0.0", "10.0.0.1", "::", "localhost", "x" } do
      is(pcall(host.listen, { address = address, port = 0, handler = print }), false)
    end
    local _, port = host.listen { address = "127.0.0.1", port = 0, handler = print }
    assert(port > 0)
    local other = require("cli.callback").open({ listen = function() return nil, "in_use" end }, "127.0.0.1", port)
    is(other, nil)
    host.listen_close()
  end,
}

-- What the type itself says.
local pol = assert(policy.compile("oauth_authorization_code", require("sandbox").default_source "oauth_authorization_code"))
local function check(values)
  values.token_url, values.client_id = "https://login.test/token", "id"
  local ok, field, message = policy.check_credential(pol, values)
  return ok or ("%s %s"):format(tostring(field), tostring(message))
end

cases["the type refuses what cannot work"] = function()
  is(check {}, true)
  is(check { params = { prompt = "consent" } }, true)
  for _, name in ipairs { "state", "redirect_uri", "code_challenge", "scope", "response_type", "client_id", "response_mode" } do
    assert(check({ params = { [name] = "x" } }):find(name, 1, true))
  end
  for _, name in ipairs { "state", "client_id", "a b", "x&y" } do assert(check({ scope_parameter = name }):find("scope_parameter", 1, true)) end
  assert(check({ token_member = ".a" }):find("token_member", 1, true) and check({ token_member = "a/b" }):find("token_member", 1, true))
  is(check({ scope_parameter = "user_scope", token_member = "a.b_c" }), true)
  assert(check({ auth_method = "basic" }):find("client_secret", 1, true))
  assert(check({ auth_method = "private_key_jwt" }):find("private_key", 1, true))
  assert(check({ redirect_uri = "http://127.0.0.1/#x" }):find("redirect_uri", 1, true))
  assert(check({ redirect_uri = "callback" }):find("redirect_uri", 1, true))
  is(check { authorization_url = "https://login.test/#/auth" }, "authorization_url is not a URL")
end

cases["the client says who it is as the fields have it"] = function()
  local function client(fields)
    fields.token_url, fields.client_id = "https://login.test/token", "id"
    return policy.client(pol, policy.view(pol, fields))
  end
  is(client({}).method, "none")
  is(client({ client_secret = core.of "s" }).method, "basic")
  is(client({ client_secret = core.of "s", auth_method = "post" }).method, "post")
  is(client({ private_key = core.of "k" }).method, "private_key_jwt")
  is(client({ private_key = core.of "k", issuer = "https://login.test" }).audience, "https://login.test")
end

return cases
