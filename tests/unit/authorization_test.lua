--- The authorization server without its listener: requests as tables, a store of its own, people as browsers that follow redirects. Rows S and R are
-- those of the checklist of MCP's authorization specification (2025-03-26 to 2026-07-28).
local store = require "store"
local json = require "json"
local form = require "form"
local secret = require "secret"
local access = require "web.access"
local router = require "web.router"
local sessions = require "web.sessions"
local tokens = require "web.tokens"
local verify = require "web.verify"

local real_rounds = sessions.ROUNDS
sessions.ROUNDS = 10    -- here
local BOX = "https://box.test"
local CB = "https://client.test/cb"

local function put(db, key, plain, more)
  local op = { op = "put", db = db, key = key, plain = plain, fresh = true }
  for k, v in pairs(more or {}) do op[k] = v end
  assert(store.commit { op })
end

local clock, peers = 1700000000, 0

-- A box with a gateway, two tenants and Ada, who may set a password.
local function with_box(f)
  return function()
    local home = os.tmpname()
    os.remove(home)
    assert(store.open(home, { create = true }))
    clock, peers = clock + 100000, peers + 1
    put("meta", "set/public-url", { name = "public-url", value = BOX })
    for _, t in ipairs { "acme", "globex" } do put("agent", "a/" .. t, { name = t, kind = "tenant", bundles = { "default" } }) end
    put("gateway", "tools", { name = "tools", url = "https://up.test/mcp", read = { "get_*" },
      scopes = { { name = "entities:write", says = "Create and change entities", tools = { "create_*" } } } })
    put("user", "u/ada@box.test", { name = "ada@box.test", tenants = { acme = "member", globex = "viewer" } })
    local ok, err = xpcall(f, debug.traceback, home)
    store.close()
    os.execute("rm -rf '" .. home .. "'")
    assert(ok, err)
  end
end

local function header(answer, name)
  for _, h in ipairs(answer.headers) do
    if h[1]:lower() == name:lower() then return h[2] end
  end
end

-- One request. fields: header fields by their names in small letters.
local function ask(method, target, body, fields)
  local path, query = target:match("^([^?]*)%??(.*)$")
  fields = fields or {}
  if body then fields["content-type"] = fields["content-type"] or "application/x-www-form-urlencoded" end
  return router.handle { method = method, path = path, query = target:find("?", 1, true) and query or nil, body = body, secure = true,
    header = function(n) return fields[n:lower()] end, peer = "192.0.2." .. peers, now = clock, fetch = fields.fetch }
end

local function entities(s) return (s:gsub("&quot;", '"'):gsub("&#39;", "'"):gsub("&lt;", "<"):gsub("&gt;", ">"):gsub("&amp;", "&")) end

-- A browser: keeps cookies, follows redirects within the box, fills in the last page's forms.
local Browser = {}
Browser.__index = Browser
local function browser() return setmetatable({ jar = {} }, Browser) end

function Browser:go(method, target, body, more)
  local list = {}
  for n, v in pairs(self.jar) do list[#list + 1] = n .. "=" .. v end
  local fields = { cookie = table.concat(list, "; ") }
  for k, v in pairs(more or {}) do fields[k] = v end
  local a = ask(method, target, body, fields)
  for _, h in ipairs(a.headers) do
    if h[1] == "Set-Cookie" then
      local n, v, rest = h[2]:match("^([^=]+)=([^;]*);(.*)$")
      assert(n:find("^__Host%-") and rest:find("; Secure", 1, true) and rest:find("HttpOnly", 1, true) and rest:find("SameSite=Lax", 1, true)
        and rest:find("Path=/;", 1, true) and not rest:find("Domain"), h[2])
      self.jar[n] = v ~= "" and v or nil
    end
  end
  self.last = a
  local at = header(a, "Location")
  if a.status == 303 and at:sub(1, 1) == "/" then return self:go("GET", at, nil, more) end
  return a
end

-- The fields of the page's form that goes to `action`: { {name, value} … } of hidden inputs.
local function hidden(page, action)
  local list = {}
  local text = page.body:match('<form method="post" action="' .. action .. '">(.-)</form>')
  assert(text, page.body)
  for n, v in text:gmatch('<input type="hidden" name="([^"]*)" value="([^"]*)">') do list[#list + 1] = { n, entities(v) } end
  return list, text
end

function Browser:submit(action, values, more)
  local list = hidden(self.last, action)
  for _, v in ipairs(values) do list[#list + 1] = v end
  return self:go("POST", action, form.encode(list), more)
end

local function link_of(name)
  local url, ops = access.link(store.peek("user", "u/" .. name), clock)
  assert(store.commit(ops))
  return url:sub(#BOX + 1)
end

-- Ada at her browser, signed in.
local PASSWORD = "correct horse battery"
local function ada()
  local b = browser()
  assert(b:go("GET", link_of "ada@box.test").status == 200)
  local a = b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } })
  assert(a.status == 200 and a.body:find("Signed in as <strong>ada@box.test", 1, true), a.body)
  return b
end

local function register(more)
  local m = { client_name = "Client", redirect_uris = { CB }, grant_types = { "authorization_code", "refresh_token" }, response_types = { "code" },
    token_endpoint_auth_method = "none" }
  for k, v in pairs(more or {}) do m[k] = v end
  local a = ask("POST", "/oauth/register", json.encode(m), { ["content-type"] = "application/json" })
  return a.status == 201 and json.decode(a.body) or nil, a
end

local VERIFIER = ("v"):rep(43)
local CHALLENGE = secret.base64url(secret.sha256(VERIFIER))

local function request(client, more, without)
  local p = { response_type = "code", client_id = client.client_id, redirect_uri = CB, state = "st", code_challenge = CHALLENGE,
    code_challenge_method = "S256", resource = BOX .. "/mcp/tools" }
  for k, v in pairs(more or {}) do p[k] = v end
  for _, k in ipairs(without or {}) do p[k] = nil end
  local list = {}
  for k, v in pairs(p) do list[#list + 1] = { k, v } end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  return "/oauth/authorize?" .. form.encode(list)
end

-- The parameters that an answer's redirect carries.
local function carried(a)
  assert(a.status == 303, a.status .. a.body)
  local place = header(a, "Location")
  local out = { at = place:match("^[^?]*") }
  for _, p in ipairs(form.parse(place:match("%?(.*)$") or "")) do out[p[1]] = p[2] end
  return out
end

local function approve(b, client, more, scopes, tenant)
  local a = b:go("GET", request(client, more))
  assert(a.status == 200 and a.body:find("Approve", 1, true), a.status .. a.body)
  local values = { { "tenant", tenant or "acme" }, { "do", "approve" } }
  for _, s in ipairs(scopes or { "tools:read", "tools:execute", "offline_access" }) do values[#values + 1] = { "scope", s } end
  return carried(b:submit("/consent", values))
end

local function token(p, fields)
  local list = {}
  for k, v in pairs(p) do list[#list + 1] = { k, v } end
  local a = ask("POST", "/oauth/token", form.encode(list), fields)
  assert(header(a, "Cache-Control") == "no-store" and header(a, "Content-Type") == "application/json")
  return json.decode(a.body), a
end

local function trade(client, code, more)
  local p = { grant_type = "authorization_code", code = code, client_id = client.client_id, redirect_uri = CB, code_verifier = VERIFIER }
  for k, v in pairs(more or {}) do p[k] = v or nil end
  return token(p)
end

local function refresh(client, rt, more)
  local p = { grant_type = "refresh_token", refresh_token = rt, client_id = client.client_id }
  for k, v in pairs(more or {}) do p[k] = v end
  return token(p)
end

local function use(at, name) return ask("POST", "/mcp/" .. (name or "tools"), nil, { authorization = at and "Bearer " .. at }) end

local function good(at) return use(at).forward ~= nil end

-- A stream of what a request was handed on as.
local function stands(f, method, name) return verify.stands(f.connection, f.tenant, { gateway = f.gateway, mcp_method = method, mcp_name = name }) end

-- Ada connected: browser, client, tokens.
local function connected(more, scopes, tenant)
  local b, client = ada(), register(more)
  local got = approve(b, client, nil, scopes, tenant)
  local t, a = trade(client, got.code)
  assert(a.status == 200, a.body)
  return b, client, t, got
end

local function count(db, prefix)
  local n = 0
  for _ in access.each(db, prefix) do n = n + 1 end
  return n
end

return {
  ["S1 S2 the server's metadata has what clients fail without, and the issuer without a slash"] = with_box(function()
    local a = ask("GET", "/.well-known/oauth-authorization-server")
    local m = json.decode(a.body)
    assert(a.status == 200 and header(a, "Content-Type") == "application/json" and m.issuer == BOX)
    for name, path in pairs { authorization_endpoint = "authorize", token_endpoint = "token", registration_endpoint = "register",
      revocation_endpoint = "revoke", introspection_endpoint = "introspect" } do assert(m[name] == BOX .. "/oauth/" .. path, name) end
    assert(m.response_types_supported[1] == "code" and #m.code_challenge_methods_supported == 1 and m.code_challenge_methods_supported[1] == "S256")
    assert(table.concat(m.token_endpoint_auth_methods_supported, " ") == "none client_secret_basic client_secret_post" and m.revocation_endpoint_auth_methods_supported[3])
    assert(table.concat(m.grant_types_supported, " ") == "authorization_code refresh_token")
    assert(m.authorization_response_iss_parameter_supported == true and m.client_id_metadata_document_supported == true)
    local scopes = table.concat(m.scopes_supported, " ")
    assert(scopes:find("offline_access", 1, true) and scopes:find("entities:write", 1, true), scopes)
    assert(ask("GET", "/.well-known/oauth-authorization-server/mcp/tools").status == 404 and ask("POST", "/.well-known/oauth-authorization-server", "").status == 405)
    assert(ask("HEAD", "/.well-known/oauth-authorization-server").status == 200)
  end),

  ["S3 a registration answers 201 with what it was given, and stores nothing"] = with_box(function()
    local config = store.generation()
    local m, a = register { scope = "tools:execute", logo_uri = "https://never-fetched.test/", unknown_field = 1 }
    assert(header(a, "Cache-Control") == "no-store" and m.client_id:find("^sp_r_") and m.client_id_issued_at == clock and m.client_secret == nil)
    assert(m.redirect_uris[1] == CB and m.client_name == "Client" and m.scope == "tools:execute" and m.token_endpoint_auth_method == "none" and m.unknown_field == nil)
    local c = register { token_endpoint_auth_method = "client_secret_post" }
    assert(c.client_secret:find("^sp_cs_") and c.client_secret_expires_at == 0)
    for i = 1, 300 do assert(register { client_name = "n" .. i }) end
    local config2 = store.generation()
    assert(config == config2 and count("client", "") == 0 and count("token", "") == 0)
    for _, bad in ipairs { "", "[]", "7", "{", '{"redirect_uris":"x"}', '{"redirect_uris":{}}', '{"redirect_uris":[7]}', "null" } do
      assert(ask("POST", "/oauth/register", bad, { ["content-type"] = "application/json" }).status == 400, bad)
    end
    for field, v in pairs { token_endpoint_auth_method = "private_key_jwt", grant_types = { "implicit" }, response_types = { "token" }, client_name = 7 } do
      local _, no = register { [field] = v }
      assert(no.status == 400 and json.decode(no.body).error == "invalid_client_metadata", field)
    end
    assert(register { client_name = ("x"):rep(5000) }.client_id and select(2, register { redirect_uris = { "https://a.test/" .. ("x"):rep(600) } }).status == 400)
  end),

  ["S4 what may be registered as a redirect URI, and what matches it"] = with_box(function()
    local check, match = require("web.redirect").check, require("web.redirect").match
    for _, uri in ipairs { CB, "https://client.test", "https://client.test:8443/cb?x=1", "http://localhost/callback", "http://127.0.0.1:3000/cb", "http://[::1]/cb",
      "cursor://anysphere.cursor-mcp/oauth/callback", "com.example.app:/oauth" } do assert(check(uri), uri) end
    for _, uri in ipairs { "http://client.test/cb", "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "blob:https://a/b", "about:blank", "vbscript:x",
      "ws://a.test/", "wss://a.test/", "JavaScript:alert(1)", "view-source:https://a", "https://client.test/cb#x", "https://user@client.test/cb", "https://client.test@evil.test/cb",
      "https:client.test/cb", "https:/client.test/cb", "//client.test/cb", "/cb", "cb", "", "https://", "https:///cb", "https://client.test\\@evil.test/", "https://Client.test/cb",
      "https://client.test./cb", "https://client.test:/cb", "https://client.test:99999/cb", "https://client.test/../cb", "https://client.test/%2e%2e/cb", "https://client.test/a b",
      "https://client.test/\r\nx", "https://client.test/\226\128\174", "https://cl\195\175ent.test/", "http://localhost.evil.test/", "http://127.0.0.1.evil.test/", "http://2130706433/", "http://127.1/",
      "http://0x7f000001/", "https://client.test/%zz", "https://::1:80/", "https://2001:db8::1/cb", "https://[2001:db8::1/cb", "https://a:b:80/", "https://[client.test]/cb", "http://[::ffff:127.0.0.1]/cb", "HTTPS://client.test/cb",
      "https://client.test:0/cb", "https://client.test:0443/cb", "ms-msdt:/id", "search-ms:query", "chrome://settings", "urn:ietf:wg:oauth:2.0:oob", "intent://x", "smb://evil.test/x",
      "chrome-extension://abc/x", "res://x", "mhtml:https://x", "feed:javascript:x" } do
      assert(not check(uri), uri)
      local _, a = register { redirect_uris = { uri } }
      assert(a.status == 400 and json.decode(a.body).error == "invalid_redirect_uri", uri)
    end
    assert(match("http://localhost:53123/callback", { "http://localhost/callback" }) and match("http://[::1]:9/cb", { "http://[::1]:8/cb" }))
    for uri, registered in pairs { ["http://127.0.0.1/callback"] = "http://localhost/callback", ["http://localhost:1/callback/x"] = "http://localhost/callback",
      ["http://localhost/callback?x"] = "http://localhost/callback", ["https://localhost/callback"] = "http://localhost/callback", ["https://client.test:8443/cb"] = CB,
      ["https://client.test/cb/"] = CB, ["https://client.test/CB"] = CB, ["https://client.test/cb?"] = CB, ["https://evil.test/cb"] = CB, ["https://client.test.evil.test/cb"] = CB,
      ["https://client.test:443/cb"] = CB, ["https://client.test/cb%20"] = CB, ["cursor://other"] = "cursor://one", ["http://localhost:80@evil.test/callback"] = "http://localhost/callback" } do
      assert(not match(uri, { registered }), uri)
    end
  end),

  ["S5 an unknown client or a foreign redirect URI is answered here, never redirected; all else is redirected with iss and state"] = with_box(function()
    local client = register()
    for _, more in ipairs { { client_id = "nobody" }, { client_id = "" }, { client_id = client.client_id .. "x" }, { client_id = client.client_id:gsub("sp_r_.", "sp_r_A") },
      { redirect_uri = "https://evil.test/cb" }, { redirect_uri = CB .. "x" }, { redirect_uri = "https://client.test@evil.test/cb" }, { redirect_uri = "javascript:alert(1)" }, { redirect_uri = "//evil.test" } } do
      local a = ask("GET", request(client, more))
      assert(a.status == 400 and not header(a, "Location") and header(a, "Content-Security-Policy"), json.encode(more))
    end
    for code, more in pairs { unsupported_response_type = { response_type = "token" }, invalid_target = { resource = "https://box.test/mcp/other" },
      invalid_request = { code_challenge_method = "plain" }, interaction_required = { prompt = "none" }, request_uri_not_supported = { request_uri = "https://x.test" } } do
      local got = carried(ask("GET", request(client, more)))
      assert(got.at == CB and got.error == code and got.state == "st" and got.iss == BOX, code)
    end
    local twice = ask("GET", request(client) .. "&redirect_uri=" .. secret.form "https://evil.test")
    assert(twice.status == 400 and not header(twice, "Location"))
    for _, more in ipairs { "&state=2", "&scope=a&scope=b", "&x=1&x=2" } do     -- whatever else comes twice too
      for _, q in ipairs { "&redirect_uri=" .. secret.form "https://evil.test" .. more, more .. "&redirect_uri=" .. secret.form(CB), more .. "&client_id=x" } do
        local a = ask("GET", request(client) .. q)
        assert(a.status == 400 and not header(a, "Location"), q)
      end
    end
    local got = carried(ask("GET", request(client) .. "&state=2&x=1&x=2"))
    assert(got.error == "invalid_request" and got.state == nil and got.iss == BOX)
    assert(carried(ask("GET", request(client) .. "&resource=" .. secret.form(BOX .. "/mcp/tools"))).error == "invalid_target")
    assert(carried(ask("GET", request(client) .. "&scope=a&scope=b")).error == "invalid_request")
    assert(carried(ask("GET", request(client, nil, { "response_type" }))).error == "invalid_request")
    assert(ask("GET", "/oauth/authorize").status == 400 and ask("GET", "/oauth/authorize?" .. ("x"):rep(9000)).status == 400)
  end),

  ["S6 without PKCE by S256 nothing goes on (PKCE downgrade); without scope there is a default"] = with_box(function()
    local client = register()
    for _, without in ipairs { { "code_challenge" }, { "code_challenge_method" } } do
      assert(carried(ask("GET", request(client, nil, without))).error == "invalid_request")
    end
    for _, c in ipairs { "short", ("a"):rep(42), ("a"):rep(44), ("="):rep(43) } do assert(carried(ask("GET", request(client, { code_challenge = c }))).error == "invalid_request") end
    local b = ada()
    local code = approve(b, client, nil, { "tools:read" }).code
    assert(trade(client, code, { code_verifier = false }).error == "invalid_grant")
    assert(trade(client, code).error == "invalid_grant", "one try")
    for _, v in ipairs { CHALLENGE, ("w"):rep(43), "v", ("v"):rep(129) } do
      code = approve(b, client, nil, { "tools:read" }).code
      assert(trade(client, code, { code_verifier = v }).error == "invalid_grant", v)
    end
    local page = b:go("GET", request(client)).body
    for _, s in ipairs { "tools:read", "tools:execute", "resources:read", "prompts:read", "offline_access" } do assert(page:find('value="' .. s .. '"', 1, true), s) end
    assert(not page:find('value="entities:write"', 1, true), "a scope that no role of hers allows")
  end),

  ["S7 resource: unknown is invalid_target, absent is the only gateway, the token request cannot change it"] = with_box(function()
    local client = register()
    for _, r in ipairs { "https://evil.test/mcp/tools", BOX .. "/mcp/tools/x", BOX, BOX .. "/mcp/", BOX .. "/mcp/tools#x", BOX .. "/mcp/tools?x", "tools", BOX .. ":444/mcp/tools", "http://box.test/mcp/tools" } do
      assert(carried(ask("GET", request(client, { resource = r }))).error == "invalid_target", r)
    end
    local b = ada()
    assert(b:go("GET", request(client, { resource = "HTTPS://Box.test/mcp/tools/" })).status == 200 and b:go("GET", request(client, nil, { "resource" })).status == 200)
    put("gateway", "other", { name = "other", url = "https://other.test/mcp" })
    assert(carried(b:go("GET", request(client, nil, { "resource" }))).error == "invalid_target")
    local code = approve(b, client).code
    assert(trade(client, code, { resource = BOX .. "/mcp/other" }).error == "invalid_target")
    local t = trade(client, code, { resource = BOX .. "/mcp/tools/" })
    assert(t.access_token and good(t.access_token))
    local a = use(t.access_token, "other")
    assert(a.status == 401 and header(a, "WWW-Authenticate"):find('error="invalid_token"', 1, true), "a token of one gateway, used at another")
    assert(refresh(client, t.refresh_token, { resource = BOX .. "/mcp/other" }).error == "invalid_target" and refresh(client, t.refresh_token, { resource = BOX .. "/mcp/tools" }).access_token)
  end),

  ["S8 the consent page says who asks and where the answer goes; each scope can be unticked; it is no page to frame (clickjacking)"] = with_box(function()
    local b = ada()
    local client = register { redirect_uris = { CB, "http://127.0.0.1/cb", "cursor://x/y" } }
    local a = b:go("GET", request(client))
    local csp = header(a, "Content-Security-Policy")
    assert(a.status == 200 and header(a, "X-Frame-Options") == "DENY" and header(a, "Cache-Control") == "no-store" and header(a, "Referrer-Policy") == "no-referrer")
    assert(csp:find("default-src 'none'", 1, true) and csp:find("frame-ancestors 'none'", 1, true) and csp:find("form-action 'self' https://client.test;", 1, true)
      and csp:find("base%-uri 'none'"), csp)
    local style = a.body:match("<style>(.-)</style>")
    assert(csp:find("style-src 'sha256-" .. secret.base64(secret.sha256(style)) .. "'", 1, true) and not a.body:find("<script", 1, true) and not a.body:find("style=", 1, true))
    for _, text in ipairs { "Client", "<strong>client.test</strong>", "ada@box.test", 'value="acme"', 'value="globex"', "See the list of tools", "only in acme" } do
      assert(a.body:find(text, 1, true), text)
    end
    assert(not a.body:find('class="warn"', 1, true))
    a = b:go("GET", request(client, { redirect_uri = "http://127.0.0.1:4567/cb" }))
    assert(a.body:find("<strong>127.0.0.1:4567</strong>", 1, true) and a.body:find("your own computer", 1, true) and header(a, "Content-Security-Policy"):find("form-action 'self' http://127.0.0.1:4567;", 1, true))
    a = b:go("GET", request(client, { redirect_uri = "cursor://x/y" }))
    assert(a.body:find("<strong>cursor://x/y</strong>", 1, true) and a.body:find("Any program can claim it", 1, true) and header(a, "Content-Security-Policy"):find("form-action 'self' cursor:;", 1, true))
    local got = approve(b, client, { scope = "tools:read tools:execute unknown:scope" }, { "tools:read" })
    assert(got.at == CB and got.state == "st" and got.iss == BOX and got.code)
    local t = trade(client, got.code)
    assert(t.scope == "tools:read" and not t.refresh_token)
    b:go("GET", request(client))
    local denied = carried(b:submit("/consent", { { "do", "deny" } }))
    assert(denied.error == "access_denied" and denied.state == "st" and denied.iss == BOX and not denied.code)
    b:go("GET", request(client))
    assert(b:submit("/consent", { { "do", "approve" }, { "tenant", "acme" } }).body:find("Leave at least one thing ticked", 1, true))
    b:go("GET", request(client))
    assert(b:submit("/consent", { { "do", "approve" }, { "scope", "tools:read" } }).body:find("Pick what to act for", 1, true))
    b:go("GET", request(client))
    assert(b:submit("/consent", { { "do", "approve" }, { "scope", "tools:read" }, { "tenant", "initech" } }).status == 200)
  end),

  ["S9 a code is good once, for 60 s, for its client and its address; its replay ends what came of it (code injection, replay)"] = with_box(function()
    local b, client, t, got = connected()
    assert(good(t.access_token))
    assert(trade(client, got.code).error == "invalid_grant" and not good(t.access_token) and refresh(client, t.refresh_token).error == "invalid_grant")
    assert(count("grant", "") == 0 and count("token", "f/") == 0)
    local code = approve(b, client).code
    clock = clock + 61
    assert(trade(client, code).error == "invalid_grant")
    local other = register { client_name = "Other" }
    code = approve(b, client).code
    assert(trade(other, code).error == "invalid_grant" and trade(client, code).error == "invalid_grant", "injected into another client's flow")
    code = approve(b, client).code
    assert(trade(client, code, { redirect_uri = CB .. "x" }).error == "invalid_grant")
    for _, made_up in ipairs { "", "x", "sp_ac_" .. ("0"):rep(28) .. "." .. ("x"):rep(43), code:sub(1, -2) .. "_", code .. "x", "sp_ac_../x.y" } do
      assert(trade(client, made_up).error == "invalid_grant", made_up)
    end
    -- one that was guessed wrong does not spend it
    code = approve(b, client).code
    assert(trade(client, code:sub(1, -5) .. "AAAA").error == "invalid_grant" and trade(client, code).access_token)
  end),

  ["S10 the token answer: no-store, Bearer, expires_in, scope; errors are 400, or 401 with Basic where Basic was tried"] = with_box(function()
    local _, client, t = connected()
    assert(t.token_type == "Bearer" and t.expires_in == 3600 and t.scope == "tools:read tools:execute offline_access" and #t.access_token > 60)
    local no, a = token { grant_type = "password", client_id = client.client_id }
    assert(no.error == "unsupported_grant_type" and a.status == 400)
    no, a = token({ grant_type = "refresh_token", refresh_token = "x" }, { authorization = "Basic " .. secret.base64 "nobody:x" })
    assert(no.error == "invalid_client" and a.status == 401 and header(a, "WWW-Authenticate"):find("^Basic"))
    no, a = token { grant_type = "refresh_token", refresh_token = "x", client_id = "nobody" }
    assert(no.error == "invalid_client" and a.status == 401 and not header(a, "WWW-Authenticate"))
    a = ask("POST", "/oauth/token", "{}", { ["content-type"] = "application/json" })
    assert(a.status == 400 and json.decode(a.body).error == "invalid_request" and ask("GET", "/oauth/token").status == 405)
    a = ask("POST", "/oauth/token", "grant_type=refresh_token&grant_type=x")
    assert(a.status == 400)
  end),

  ["S11 clients prove themselves by none, Basic or post, both halves of Basic decoded, never twice"] = with_box(function()
    local b = ada()
    local c = register { token_endpoint_auth_method = "client_secret_basic" }
    local function with(fields, body)
      local code = approve(b, c, nil, { "tools:read" }).code
      local p = { grant_type = "authorization_code", code = code, redirect_uri = CB, code_verifier = VERIFIER }
      for k, v in pairs(body or {}) do p[k] = v end
      return token(p, fields)
    end
    local basic = "Basic " .. secret.base64(secret.form(c.client_id) .. ":" .. secret.form(c.client_secret))
    assert(with({ authorization = basic }).access_token and with(nil, { client_id = c.client_id, client_secret = c.client_secret }).access_token)
    assert(with({ authorization = basic }, { client_id = c.client_id }).access_token)
    assert(with({ authorization = basic }, { client_secret = c.client_secret }).error == "invalid_request")
    assert(with({ authorization = basic }, { client_id = "other" }).error == "invalid_client")
    assert(with(nil, { client_id = c.client_id }).error == "invalid_client", "a client with a secret, without it")
    assert(with(nil, { client_id = c.client_id, client_secret = c.client_secret .. "x" }).error == "invalid_client")
    for _, odd in ipairs { "Basic", "Basic !", "Bearer x", "Basic " .. secret.base64 "nocolon", "Basic " .. secret.base64(c.client_id .. ":") } do
      assert(with({ authorization = odd }).error == "invalid_client", odd)
    end
    -- one that the operator added, whose id has to be written in full and whose secret is a hash
    put("client", "c/sp_cl_00", { client = "sp_cl_00", name = "Typed", redirect_uris = { CB }, secret_hash = access.hash("client-secret", "s3 cret%+") })
    c = { client_id = "sp_cl_00" }
    assert(with({ authorization = "Basic " .. secret.base64("sp_cl_00:" .. secret.form "s3 cret%+") }).access_token)
    assert(with(nil, { client_id = "sp_cl_00", client_secret = "wrong" }).error == "invalid_client" and with(nil, { client_id = "sp_cl_00" }).error == "invalid_client")
    -- a public client that shows a secret is not the one that registered
    c = register()
    assert(with(nil, { client_id = c.client_id, client_secret = "x" }).error == "invalid_client")
  end),

  ["S12 each refresh gives a new token; an old one that comes again ends the family (refresh reuse); scopes narrow, never widen"] = with_box(function()
    local _, client, t = connected()
    local t2 = refresh(client, t.refresh_token)
    assert(t2.access_token ~= t.access_token and t2.refresh_token ~= t.refresh_token and good(t2.access_token) and good(t.access_token), "a call that runs is not cut")
    assert(refresh(client, t2.refresh_token, { scope = "tools:read admin:all" }).error == "invalid_scope")
    local t3 = refresh(client, t2.refresh_token, { scope = "tools:read" })
    assert(t3.scope == "tools:read" and use(t3.access_token).forward.scopes["tools:execute"] == nil)
    clock = clock + 31
    assert(refresh(client, t2.refresh_token).error == "invalid_grant")
    assert(refresh(client, t3.refresh_token).error == "invalid_grant" and not good(t3.access_token) and not good(t2.access_token) and count("grant", "") == 0)
    local _, c2, u = connected()
    for _, odd in ipairs { "", "x", u.refresh_token:sub(1, -2), u.refresh_token:gsub("%.(%w)", function(c) return c == "0" and ".1" or ".0" end, 1), "sp_rt_" .. ("0"):rep(28) .. ".x.y" } do
      assert(refresh(c2, odd).error == "invalid_grant", odd)
    end
    assert(good(u.access_token), "one that was made up ends nothing")
    assert(refresh(register { client_name = "Thief" }, u.refresh_token).error == "invalid_grant" and good(u.access_token), "another client's")
    clock = clock + tokens.REFRESH_LIFE + 1
    assert(refresh(c2, u.refresh_token).error == "invalid_grant")
  end),

  ["S13 the same old token within 30 s, its successor unused, gets the same answer: lost answers and two processes"] = with_box(function()
    local _, client, t = connected()
    local one = refresh(client, t.refresh_token)
    clock = clock + 30
    local two = refresh(client, t.refresh_token)
    assert(one.access_token == two.access_token and one.refresh_token == two.refresh_token and two.expires_in == one.expires_in - 30 and good(two.access_token))
    local three = refresh(client, one.refresh_token)
    assert(three.access_token and refresh(client, t.refresh_token).error == "invalid_grant", "the successor was used")
    assert(not good(three.access_token))
    -- nothing that the store keeps is a token, or makes one
    local text = {}
    for _, db in ipairs { "token", "grant", "client", "user" } do
      for key, record in access.each(db, "") do
        record.secrets = nil
        text[#text + 1] = key .. json.encode(record)
      end
    end
    text = table.concat(text)
    for _, x in ipairs { one.access_token, one.refresh_token, t.refresh_token, PASSWORD } do assert(not text:find(x:match("[^.]*$"), 1, true)) end
  end),

  ["S14 revocation: 200 for every token, ended with all of its connection, twice if need be; never another client's"] = with_box(function()
    local b, client, t = connected()
    local function revoke(c, x) return ask("POST", "/oauth/revoke", form.encode { { "token", x }, { "client_id", c.client_id } }) end
    assert(revoke(register { client_name = "x" }, t.access_token).status == 200 and good(t.access_token))
    for _, odd in ipairs { "nonsense", "sk_x", "sp_at_00.x" } do assert(revoke(client, odd).status == 200) end
    local a = revoke(client, t.refresh_token)
    assert(a.status == 200 and a.body == "" and not good(t.access_token) and revoke(client, t.access_token).status == 200)
    t = trade(client, approve(b, client).code)
    assert(revoke(client, t.access_token).status == 200 and refresh(client, t.refresh_token).error == "invalid_grant")
    t = trade(client, approve(b, client).code)
    local lost = refresh(client, t.refresh_token)       -- the client still has the old one
    assert(revoke(register { client_name = "x" }, t.refresh_token).status == 200 and revoke(client, t.refresh_token:sub(1, -2)).status == 200 and good(lost.access_token))
    assert(revoke(client, t.refresh_token).status == 200 and not good(lost.access_token) and refresh(client, lost.refresh_token).error == "invalid_grant")
    assert(revoke({ client_id = "nobody" }, "x").status == 401 and ask("POST", "/oauth/revoke", form.encode { { "client_id", client.client_id } }).status == 400)
  end),

  ["S15 access tokens last an hour, are hashes in the store, and carry what was approved and the role allowed"] = with_box(function()
    local _, client, t = connected(nil, { "tools:read", "tools:execute", "offline_access" }, "globex")
    assert(t.scope == "tools:read offline_access", "a viewer there: " .. t.scope)
    local f = use(t.access_token).forward
    assert(f.tenant == "globex" and f.user == "ada@box.test" and f.client == "Client" and f.url == "https://up.test/mcp" and f.scopes["tools:read"] and not f.scopes["tools:execute"])
    -- wider from the next rotation on; narrower at once
    local function role(name)
      local u = store.peek("user", "u/ada@box.test")
      u.tenants.globex = name
      assert(store.commit { { op = "put", db = "user", key = "u/ada@box.test", plain = u, moves = true } })
    end
    role "member"
    assert(not use(t.access_token).forward.scopes["tools:execute"])
    t = refresh(client, t.refresh_token)
    assert(t.scope == "tools:read tools:execute offline_access" and use(t.access_token).forward.scopes["tools:execute"])
    role "viewer"
    f = use(t.access_token).forward
    assert(not f.scopes["tools:execute"])
    assert(stands(f) and stands(f, "tools/call", "get_page") and stands(f, "tools/list") and stands(f, "subscriptions/listen") and not stands(f, "tools/call", "set_page"))
    assert(not verify.stands(f.connection, "acme", { gateway = f.gateway }) and not verify.stands(f.connection, f.tenant) and not verify.stands(f.connection, f.tenant, { gateway = "other" }))
    role(nil)
    assert(use(t.access_token).status == 401 and not stands(f))
    role "member"
    clock = clock + 3599
    assert(good(t.access_token))
    clock = clock + 1
    assert(use(t.access_token).status == 401)
  end),

  ["S16 a metadata document is fetched after the sign-in alone; huge, foreign, failing and private ones are refused"] = with_box(function()
    local id = "https://app.test/client.json"
    local fetches, doc = 0, nil
    local function fetch(url, max)
      fetches = fetches + 1
      assert(url == id or url:find("other", 1, true), url)
      if not doc then return nil end
      return doc.status or 200, #doc.text <= max and doc.text or nil, doc.head
    end
    local more = { fetch = fetch }
    local good_doc = { client_id = id, client_name = "App", redirect_uris = { "http://localhost/callback", CB }, token_endpoint_auth_method = "none" }
    doc = { text = json.encode(good_doc) }
    local client = { client_id = id }
    local a = ask("GET", request(client), nil, more)
    assert(a.status == 303 and header(a, "Location"):find("^/login%?next=") and fetches == 0)
    local b = ada()
    a = b:go("GET", request(client, { redirect_uri = "http://localhost:53123/callback" }), nil, more)
    assert(a.status == 200 and a.body:find(">App<", 1, true) and fetches == 1, a.body)
    b:submit("/consent", { { "tenant", "acme" }, { "scope", "tools:read" }, { "do", "approve" } }, more)
    local got = carried(b.last)
    local t = trade(client, got.code, { redirect_uri = "http://localhost:53123/callback" })
    assert(t.access_token and fetches == 1 and good(t.access_token))
    for _, bad in ipairs { { text = ("x"):rep(6000) }, { text = "{" }, { status = 302, text = "" }, { status = 500, text = "" }, { text = '{"client_id":"https://app.test/other.json"}' },
      { text = json.encode { client_id = id .. 2, redirect_uris = { CB } } } } do
      doc = bad
      a = b:go("GET", request { client_id = "https://app.test/other" .. #bad.text .. (bad.status or "") .. ".json" }, nil, more)
      assert(a.status == 400 and not header(a, "Location"), bad.text:sub(1, 80))
    end
    local at_start = fetches
    for _, odd in ipairs { "https://app.test", "https://app.test/", "https://user@app.test/c", "https://app.test/c#x", "http://app.test/c", "https://app.test/../c", "https://APP.test/c", "https://app.test/a b" } do
      assert(b:go("GET", request { client_id = odd }, nil, more).status == 400, odd)
    end
    assert(fetches == at_start)
    assert(count("client", "") == 1)
    -- what a redirect URI's owner took away counts as soon as they said
    for head, life in pairs { ["Cache-Control: max-age=30"] = 30, ["Cache-Control: no-store"] = 0, ["X: y"] = 300 } do
      local own = "https://app.test/other-" .. life
      doc = { text = json.encode { client_id = own, client_name = "App", redirect_uris = { CB } }, head = "HTTP/1.1 200 OK\r\n" .. head .. "\r\n\r\n" }
      local function looks(n)
        local before = fetches
        assert(b:go("GET", request { client_id = own }, nil, more).status == 200 and fetches - before == n, head)
      end
      looks(1)
      looks(life == 0 and 1 or 0)
      clock = clock + math.max(life, 1)
      looks(1)
    end
  end),

  ["S16 how long a metadata document is kept (RFC 9111): what its answer says, a day at most, and a cache of many's"] = with_box(function()
    local fresh = require("web.client").fresh_for
    for _, row in ipairs {
      { "", 300 }, { "Cache-Control: max-age=60", 60 }, { "cache-control:MAX-AGE=60", 60 }, { "Cache-Control: public, max-age=99999999", 86400 }, { "Cache-Control: max-age=0", 0 },
      { "Cache-Control: no-store, max-age=60", 0 }, { "Cache-Control: max-age=60\r\nCache-Control: no-store", 0 }, { "Cache-Control: no-cache", 0 }, { "Cache-Control: private", 0 },
      { 'Cache-Control: private="x"', 0 }, { "Cache-Control: max-age=600, s-maxage=10", 10 }, { "Cache-Control: max-age=60, max-age=600", 60 }, { 'Cache-Control: max-age="60"', 60 },
      { "Cache-Control: max-age=-1", 0 }, { "Cache-Control: max-age=x", 0 }, { "Cache-Control: max-age", 0 }, { "Cache-Control: must-revalidate", 300 },
      { "Cache-Control: max-age=100\r\nAge: 40", 60 }, { "Cache-Control: max-age=100\r\nAge: 400", 0 }, { "Cache-Control: max-age=100\r\nAge: x", 0 },
      { "Date: Tue, 14 Nov 2023 22:13:20 GMT\r\nExpires: Tue, 14 Nov 2023 22:14:20 GMT", 60 }, { "Expires: 0", 0 }, { "Expires: Tue, 14 Nov 2023 22:13:21 GMT", 1 },
      { "Cache-Control: max-age=9\r\nExpires: Tue, 14 Nov 2033 22:13:20 GMT", 9 }, { "Cache-Control: max-age=99\r\nVary: *", 0 }, { "Vary: Accept", 300 },
      { "Cache-Control: max-age=" .. ("9"):rep(400), 86400 }, { "Cache-Control: max-age=60\r\nX: " .. ("a"):rep(9000), 60 }, { "Cache-Control: max-age=60,,x=1 , no-cache ", 0 },
    } do
      local got = fresh("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" .. row[1] .. "\r\n\r\n", 1700000000)
      assert(math.type(got) == "integer" and got == row[2], row[1]:sub(1, 80) .. ": " .. got)
    end
  end),

  ["tokens, codes and links of before, put back on the disk, count no more"] = with_box(function()
    local function copy(key) return store.peek("token", key) end
    local function back(key, plain) assert(store.commit { { op = "put", db = "token", key = key, plain = plain } }) end
    local b, client = ada(), register()
    local got = approve(b, client)
    local id = store.each("token", "c/")[1].key:sub(3)
    local code = copy("c/" .. id)
    local t1 = trade(client, got.code)
    local family = copy("f/" .. id)
    local t2 = refresh(client, t1.refresh_token)
    local newest = copy("f/" .. id)
    clock = clock + 31
    back("f/" .. id, family)
    assert(use(t1.access_token).status == 401 and use(t2.access_token).status == 401)
    assert(refresh(client, t1.refresh_token).error == "invalid_grant" and refresh(client, t2.refresh_token).error == "invalid_grant")
    assert(json.decode(ask("POST", "/oauth/introspect", form.encode { { "client_id", client.client_id }, { "token", t1.access_token } }).body).active == false)
    back("f/" .. id, newest)
    assert(good(t1.access_token) and good(t2.access_token) and refresh(client, t2.refresh_token).refresh_token)
    back("c/" .. id, code)
    assert(trade(client, got.code).error == "invalid_grant" and use(t2.access_token).status == 401, "a code's second use ends what came of the first")
    -- a link that was used, and one that a newer one has ended
    local first = link_of "ada@box.test"
    local key = "l/" .. store.peek("user", "u/ada@box.test").id
    local older = copy(key)
    local second = link_of "ada@box.test"
    local newer = copy(key)
    local function opens(link)
      local c = browser()
      c:go("GET", link)
      return c:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } }).status == 200
    end
    back(key, older)
    assert(not opens(first))
    back(key, newer)
    assert(opens(second))
    back(key, newer)
    assert(not opens(second))
  end),

  ["S17 the scope of a registration is no limit of what may be asked for"] = with_box(function()
    local b, client = ada(), register { scope = "tools:execute" }
    local got = approve(b, client, { scope = "tools:execute prompts:read offline_access skills:read" }, { "tools:execute", "prompts:read", "offline_access" })
    assert(trade(client, got.code).scope == "tools:execute prompts:read offline_access")
  end),

  ["R1 the resource's metadata: canonical resource, this issuer, no offline_access; the root where there is one gateway"] = with_box(function()
    local a = ask("GET", "/.well-known/oauth-protected-resource/mcp/tools")
    local m = json.decode(a.body)
    assert(a.status == 200 and m.resource == BOX .. "/mcp/tools" and m.authorization_servers[1] == BOX and m.bearer_methods_supported[1] == "header" and m.resource_name == "tools")
    local scopes = table.concat(m.scopes_supported, " ")
    assert(scopes == "tools:read tools:execute resources:read prompts:read entities:write", scopes)
    assert(json.decode(ask("GET", "/.well-known/oauth-protected-resource").body).resource == m.resource)
    assert(ask("GET", "/.well-known/oauth-protected-resource/mcp/none").status == 404 and ask("GET", "/.well-known/oauth-protected-resource/mcp/tools/x").status == 404)
    put("gateway", "other", { name = "other", url = "https://other.test/mcp" })
    assert(ask("GET", "/.well-known/oauth-protected-resource").status == 404)
  end),

  ["R2 challenges: no error without a token, invalid_token for a bad one, 403 with all that is needed, 400 for nonsense"] = with_box(function()
    local a = use(nil)
    local h = header(a, "WWW-Authenticate")
    assert(a.status == 401 and h:find('^Bearer resource_metadata="https://box.test/.well%-known/oauth%-protected%-resource/mcp/tools"') and not h:find("error", 1, true)
      and h:find('scope="tools:read tools:execute resources:read prompts:read entities:write"', 1, true), h)
    for _, bad in ipairs { "x", "sp_at_" .. ("0"):rep(28) .. "." .. ("x"):rep(43), "sk_x", "sp_agt_x" } do
      a = use(bad)
      assert(a.status == 401 and header(a, "WWW-Authenticate"):find('error="invalid_token"', 1, true), bad)
    end
    for _, odd in ipairs { "Bearer ", "Bearer", "Bearer a b", 'Bearer "x"' } do assert(ask("POST", "/mcp/tools", nil, { authorization = odd }).status == 400, odd) end
    assert(ask("POST", "/mcp/tools", nil, { authorization = "Basic x" }).status == 401 and use(nil, "none").status == 404)
    local _, _, t = connected()
    local f = use(t.access_token).forward
    local ok, needed = verify.tool(f, "create_page")
    a = verify.challenge(f, needed)
    h = header(a, "WWW-Authenticate")
    assert(not ok and a.status == 403 and h:find('error="insufficient_scope"', 1, true) and h:find('scope="entities:write"', 1, true) and h:find("resource_metadata=", 1, true), h)
  end),

  ["R3 a token counts in the Authorization field alone, while it and all that it stands on lasts"] = with_box(function()
    local _, _, t = connected()
    assert(ask("POST", "/mcp/tools?access_token=" .. t.access_token).status == 401)
    assert(ask("POST", "/mcp/tools", form.encode { { "access_token", t.access_token } }).status == 401)
    assert(ask("POST", "/mcp/tools", nil, { authorization = "bearer " .. t.access_token }).forward)
    assert(use(t.refresh_token).status == 401, "a refresh token is no access token")
    local f = use(t.access_token).forward
    for _, change in ipairs {
      function() store.commit { { op = "put", db = "user", key = "u/ada@box.test", plain = { name = "ada@box.test", tenants = { acme = "member" }, disabled = true } } } end,
      function() put("user", "u/ada@box.test", { name = "ada@box.test", tenants = { acme = "member" } }) end,       -- another person of that name
    } do
      assert(stands(f) and good(t.access_token))
      change()
      assert(not stands(f) and use(t.access_token).status == 401)
      local _
      _, _, t = (function()
        put("user", "u/ada@box.test", { name = "ada@box.test", tenants = { acme = "member", globex = "viewer" } })
        return connected()
      end)()
      f = use(t.access_token).forward
    end
    put("agent", "a/acme", { name = "acme", kind = "tenant", bundles = {} })      -- another tenant of that name
    assert(not good(t.access_token) and not stands(f))
  end),

  ["R4 one challenge names all scopes of an operation; what each scope allows"] = with_box(function()
    local g = store.peek("gateway", "tools")
    g.scopes[2] = { name = "danger", says = "x", tools = { "*_all", "purge.[a]" } }
    store.commit { { op = "put", db = "gateway", key = "tools", plain = g } }
    g = store.peek("gateway", "tools")
    local function may(scopes, name)
      local set = {}
      for _, s in ipairs(scopes) do set[s] = true end
      local ok, needed = verify.tool({ record = g, scopes = set }, name)
      return ok or table.concat(needed, " ")
    end
    assert(may({ "tools:read" }, "get_page") == true and may({ "tools:read" }, "set_page") == "tools:execute" and may({ "tools:execute" }, "get_page") == true)
    assert(may({ "tools:execute" }, "create_page") == "entities:write" and may({ "entities:write" }, "create_page") == true)
    assert(may({ "tools:execute", "entities:write" }, "create_all") == "entities:write danger" and may({ "entities:write", "danger" }, "create_all") == true)
    assert(may({ "tools:execute" }, "purge.[a]") == "danger" and may({ "tools:execute" }, "purgex[a]") == true and may({}, "get_page") == "tools:read")
    assert(may({ "tools:read" }, "x\nget_page") == "tools:execute" and may({ "tools:execute" }, "create_\n") == "entities:write")
    local f = { record = g, scopes = { ["tools:execute"] = true } }
    assert(verify.method(f, "tools/list") and not verify.method(f, "resources/read") and verify.method(f, "initialize") and not verify.method(f, "prompts/get"))
  end),

  ["R5 sk_ keys stand beside tokens: as a user or a role, with their scopes, at their gateways, until they end"] = with_box(function()
    local function key(name, more)
      local text = "sk_" .. access.random()
      local plain = { name = name, tenant = "acme", tenant_id = access.tenant("acme", clock).id }
      for k, v in pairs(more) do plain[k] = v end
      put("grant", "k/" .. access.hash("key", text), plain)
      return text
    end
    local f = use(key("ci", { role = "viewer", scopes = { "tools:read", "tools:execute" } })).forward
    assert(f.tenant == "acme" and not f.user and f.scopes["tools:read"] and not f.scopes["tools:execute"] and stands(f))
    f = use(key("admin", { role = "admin" })).forward
    assert(f.scopes["entities:write"] and f.scopes["tools:execute"] and not f.scopes.offline_access)
    local u = store.peek("user", "u/ada@box.test")
    f = use(key("ada", { user = "ada@box.test", user_id = u.id })).forward
    assert(f.user == "ada@box.test" and f.scopes["tools:execute"])
    assert(use(key("old", { role = "viewer", expires_at = clock })).status == 401 and use(key("elsewhere", { role = "viewer", gateways = { "other" } })).status == 401)
    assert(use(key("nobody", { user = "ada@box.test", user_id = "00" })).status == 401 and use(key("none", { role = "none" })).status == 401)
    assert(use(key("soon", { role = "viewer", expires_at = clock + 9 })).forward.expires_at == clock + 9)
    store.commit { { op = "put", db = "agent", key = "a/acme", plain = { name = "acme", kind = "tenant", bundles = {}, revoked = true } } }
    assert(not stands(f))
  end),

  ["no role of a tenant gives anything over the box"] = with_box(function()
    for _, role in ipairs { "viewer", "member", "admin" } do
      local u = store.peek("user", "u/ada@box.test")
      u.tenants = { acme = role }
      store.commit { { op = "put", db = "user", key = "u/ada@box.test", plain = u } }
      local b = ada()
      local config = store.generation()
      for _, path in ipairs { "/admin", "/api/v1", "/api/v1/users", "/users", "/gateways", "/discover", "/ca.pem", "/mcp", "/mcp/", "/connections/x", "/oauth", "/login/x", "/consent/x", "//", "/../oauth/token" } do
        for _, method in ipairs { "GET", "POST", "PUT", "DELETE" } do
          local a = b:go(method, path, method ~= "GET" and "" or nil)
          assert(a.status == 404 or a.status == 405, path)
        end
      end
      assert(store.generation() == config)
      local f = { record = store.peek("gateway", "tools"), scopes = {} }
      for _, s in ipairs(access.allowed(access.role(role), verify.scopes_of(f.record))) do f.scopes[s] = true end
      assert((verify.tool(f, "create_x") == true) == (role == "admin"))
    end
  end),

  ["attack: forged forms (CSRF) at sign-in, consent, disconnection and sign-out"] = with_box(function()
    local b, client, t = connected()
    -- consent: no token, another request's token, another session's token
    b:go("GET", request(client))
    local mine = hidden(b.last, "/consent")
    local function with(list, change)
      local out = { { "tenant", "acme" }, { "scope", "tools:read" }, { "do", "approve" } }
      for _, p in ipairs(list) do
        local v = change[p[1]]
        if v ~= false then out[#out + 1] = { p[1], v or p[2] } end
      end
      return form.encode(out)
    end
    assert(header(b:go("POST", "/consent", with(mine, {})), "Location"):find(CB, 1, true) == 1)
    for _, change in ipairs { { csrf = false }, { csrf = "" }, { csrf = "x" }, { request = request(client, { state = "other" }):match("%?(.*)") }, { request = false } } do
      local a = b:go("POST", "/consent", with(mine, change))
      assert(a.status == 400 and not header(a, "Location"))
    end
    local mallory = ada()
    assert(mallory:go("POST", "/consent", with(mine, {})).status == 400, "a form of another session")
    assert(ask("POST", "/consent", with(mine, {})).status == 303 and header(ask("POST", "/consent", with(mine, {})), "Location"):find("^/login"))
    -- what is ended
    mallory:go("GET", "/connections")
    local rows = hidden(mallory.last, "/connections")
    assert(mallory:go("POST", "/connections", form.encode { rows[2] }).status == 400 and good(t.access_token))
    assert(mallory:go("POST", "/logout", "csrf=x").status == 400)
    -- sign-in: a form that this browser did not get
    local fresh = browser()
    fresh:go("GET", "/login")
    local list = hidden(fresh.last, "/login")
    list[#list + 1], list[#list + 2] = { "user", "ada@box.test" }, { "password", PASSWORD }
    assert(browser():go("POST", "/login", form.encode(list)).status == 400, "signs the victim in as the attacker")
    assert(fresh:go("POST", "/login", form.encode(list), { ["content-type"] = "text/plain" }).status == 400)
    assert(fresh:go("POST", "/login", form.encode(list)).status == 200)
    -- and rightly
    mallory = ada()
    mallory:go("GET", "/connections")
    assert(mallory:submit("/connections", {}).status == 200 and not good(t.access_token) and mallory.last.body:find("Nothing is connected", 1, true))
  end),

  ["attack: somebody else's connection cannot be ended, seen or used"] = with_box(function()
    local _, _, t = connected()
    put("user", "u/eve@box.test", { name = "eve@box.test", tenants = { acme = "member" } })
    local eve = browser()
    eve:go("GET", link_of "eve@box.test")
    local a = eve:submit("/login", { { "password", "another long one" }, { "again", "another long one" } })
    assert(a.body:find("Nothing is connected", 1, true))
    local id
    for _, g in access.each("grant", "g/") do id = g.connection end
    a = eve:go("POST", "/connections", form.encode { { "connection", id }, { "csrf", ("x"):rep(43) } })
    assert(a.status == 400 and good(t.access_token))
  end),

  ["attack: a session is never taken over (fixation), and ends with a sign-out, its password and its day"] = with_box(function()
    local b = browser()
    b.jar["__Host-sallyport"] = ("F"):rep(43)          -- planted
    b:go("GET", link_of "ada@box.test")
    b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } })
    local first = b.jar["__Host-sallyport"]
    assert(first ~= ("F"):rep(43))
    b:go("GET", "/login")
    b:submit("/login", { { "user", "ada@box.test" }, { "password", PASSWORD } })
    assert(b.jar["__Host-sallyport"] ~= first)
    local old = browser()
    old.jar["__Host-sallyport"] = first
    assert(old:go("GET", "/connections").body:find("Sign in", 1, true), "the old one has ended")
    local kept = b.jar["__Host-sallyport"]
    b:go("GET", "/connections")
    b:submit("/logout", {})
    assert(b.jar["__Host-sallyport"] == nil)
    b.jar["__Host-sallyport"] = kept
    assert(b:go("GET", "/connections").body:find("Sign in", 1, true))
    b = ada()
    clock = clock + sessions.LIFE
    assert(b:go("GET", "/connections").body:find("Sign in", 1, true))
    b = ada()
    local again = ada()         -- sets the password anew
    assert(b:go("GET", "/connections").body:find("Sign in", 1, true) and again:go("GET", "/connections").body:find("ada@box.test", 1, true))
  end),

  ["attack: names full of markup, directions and nothing are shown as text; lengths are bounded"] = with_box(function()
    local b = ada()
    for _, name in ipairs { '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "a\226\128\174b\226\129\166c\0\27[31m\13\10x", "\226\128\139\226\128\139", "x{client}{csrf}%1%%", ("n"):rep(4000), "Claude\239\187\191" } do
      local c = register { client_name = name }
      local a = b:go("GET", request(c))
      assert(a.status == 200 and not a.body:find("<script", 1, true) and not a.body:find("<img", 1, true))
      assert(not a.body:find("\226\128\174", 1, true) and not a.body:find("\226\129\166", 1, true) and not a.body:find("[%z\27\r]") and not a.body:find("\226\128\139", 1, true))
      assert(#a.body < 16384 and not a.body:find(("n"):rep(81), 1, true))
    end
    assert(b:go("GET", request((register { client_name = "\226\128\139" }))).body:find("A program without a name", 1, true))
    local a = b:go("GET", request(register {}, { state = '"><script>' }))
    assert(not a.body:find("<script", 1, true))
    a = browser():go("GET", "/login?next=" .. secret.form '"><script>alert(1)</script>')
    assert(not a.body:find("<script", 1, true))
    a = browser():go("GET", "/login?link=" .. secret.form '"><script>')
    assert(not a.body:find("<script", 1, true))
    assert(not pcall(require("web.page").html, "<p>{x}</p>", {}))
    local page = require "web.page"
    assert(page.page(200, "t", page.html("{x}", { x = { "<i>", page.html "<b>", { "&" } } })).body:find("&lt;i&gt;<b>&amp;", 1, true))
  end),

  ["attack: a client that registers another's name shares nothing with it"] = with_box(function()
    local b, first, t = connected { client_name = "Claude" }
    local thief = register { client_name = "Claude", redirect_uris = { "https://thief.test/cb" } }
    assert(thief.client_id ~= first.client_id)
    -- it is asked about anew, and the page says where the answer goes
    local a = b:go("GET", request(thief, { redirect_uri = "https://thief.test/cb" }))
    assert(a.status == 200 and a.body:find("<strong>thief.test</strong>", 1, true) and a.body:find("nobody has checked the name", 1, true), a.body)
    assert(b:go("GET", request(thief)).status == 400, "the address of the first one")
    local code = approve(b, first).code
    assert(trade(thief, code).error == "invalid_grant" and trade(thief, code, { redirect_uri = "https://thief.test/cb" }).error == "invalid_grant")
    assert(refresh(thief, t.refresh_token).error == "invalid_grant" and refresh(first, t.refresh_token).access_token)
  end),

  ["attack: a token of one gateway is nothing at another, a key of one neither"] = with_box(function()
    put("gateway", "other", { name = "other", url = "https://up.test/other" })
    local _, _, t = connected()
    assert(good(t.access_token))
    local a = use(t.access_token, "other")
    assert(a.status == 401 and header(a, "WWW-Authenticate"):find('error="invalid_token"', 1, true) and header(a, "WWW-Authenticate"):find("/mcp/other", 1, true))
    local key = "sk_" .. access.random()
    put("grant", "k/" .. access.hash("key", key), { name = "ci", tenant = "acme", tenant_id = store.peek("agent", "a/acme").id, role = "admin", gateways = { "tools" } })
    assert(good(key) and use(key, "other").status == 401)
  end),

  ["attack: no spelling of `next` leaves the box (open redirect)"] = with_box(function()
    ada()
    for _, n in ipairs { "https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)", "\r\nLocation: https://evil.test", "@evil.test", "%2f%2fevil.test", ("x"):rep(9000), "x y" } do
      local b = browser()
      local a = b:go("GET", "/login?" .. form.encode { { "next", n } })
      local list = hidden(a, "/login")
      list[#list + 1], list[#list + 2] = { "user", "ada@box.test" }, { "password", PASSWORD }
      local jar = {}
      for k, v in pairs(b.jar) do jar[#jar + 1] = k .. "=" .. v end
      a = ask("POST", "/login", form.encode(list), { cookie = table.concat(jar, "; ") })
      local at = header(a, "Location")
      assert(a.status == 303 and (at == "/connections" or at:find("^/oauth/authorize%?") == 1) and not at:find("[\r\n ]"), at)
    end
  end),

  ["mix-up: iss is on every answer, also beside a query that the client's address has"] = with_box(function()
    local client = register { redirect_uris = { CB .. "?tenant=a%20b" } }
    local b = ada()
    local got = approve(b, client, { redirect_uri = CB .. "?tenant=a%20b" }, { "tools:read" })
    assert(got.at == CB and got.tenant == "a b" and got.iss == BOX and got.code)
    assert(trade(client, got.code, { redirect_uri = CB .. "?tenant=a%20b" }).access_token)
  end),

  ["a link is spent by POST alone, once, within a day, and a newer one ends it"] = with_box(function()
    local first = link_of "ada@box.test"
    local b = browser()
    for _ = 1, 3 do assert(b:go("GET", first).status == 200) end
    local second = link_of "ada@box.test"
    b:go("GET", first)
    assert(b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } }).body:find("This link has ended", 1, true))
    b:go("GET", second)
    assert(b:submit("/login", { { "password", PASSWORD }, { "again", "other" } }).body:find("not the same", 1, true))
    for _, weak in ipairs { "short", "aaaaaaaaaaaa", "ada-ada-ada-1", ("x1"):rep(200) } do
      b:go("GET", second)
      assert(b:submit("/login", { { "password", weak }, { "again", weak } }).status == 400, weak)
    end
    b:go("GET", second)
    assert(b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } }).status == 200)
    b:go("GET", second)
    assert(b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } }).body:find("This link has ended", 1, true))
    local third = link_of "ada@box.test"
    clock = clock + access.LINK_LIFE
    b:go("GET", third)
    assert(b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } }).status == 400)
  end),

  ["guessing: attempts are counted before hashing, by account and address, and lock nobody out at home"] = with_box(function()
    local core, hashed = require "sign.core", 0
    local real = core.pbkdf2
    core.pbkdf2 = function(...) hashed = hashed + 1; return real(...) end
    local ok, err = pcall(function()
      ada()
      hashed = 0
      local function try(password, name)
        local b = browser()
        b:go("GET", "/login")
        return b:submit("/login", { { "user", name or "ada@box.test" }, { "password", password } })
      end
      assert(try(PASSWORD).status == 200)
      local home = peers
      assert(try("wrong").status == 403 and try("wrong", "nobody@box.test").status == 403 and hashed == 3, "a wrong name costs the same")
      local function told(a) return (a.body:gsub('value="%w*"', "")) end       -- but for the form's token
      assert(told(try "wrong") == told(try("wrong", "nobody@box.test")), "a wrong name is told nothing else")
      local refused
      for i = 1, 20 do refused = refused or try("wrong").status == 429 and i end
      assert(refused and refused < 12)
      local n = hashed
      local a = try(PASSWORD)
      assert(a.status == 429 and header(a, "Retry-After") and hashed == n)
      clock = clock + 901
      assert(try(PASSWORD).status == 200, "for good, nobody")
      -- from many addresses: strangers wait, she does not
      for i = 1, 130 do
        peers = 1000 + i
        try("wrong")
      end
      assert(try(PASSWORD).status == 429)
      peers = home
      assert(try(PASSWORD).status == 200)
      peers = 5000
      for i = 1, 60 do refused = try("wrong", "u" .. i .. "@box.test").status end
      assert(refused == 429, "one address, many names")
      -- who has the link is no stranger
      peers = 6000
      assert(try(PASSWORD).status == 429)
      local c = browser()
      c:go("GET", link_of "ada@box.test")
      a = c:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } })
      assert(a.status == 200, a.body)
      -- a flood of other names makes no room for another guess
      peers = 7000
      for i = 1, 11 do refused = try("wrong").status end
      assert(refused == 429)
      for i = 1, 5000 do sessions.attempt("n" .. i, "198.51." .. i // 250 .. "." .. i % 250, clock) end
      assert(try("wrong").status == 429 and not sessions.attempt("ada@box.test", "203.0.113.9", clock), "of the account")
      -- nor does it make an address wait that did nothing
      for i = 1, 40 do assert(sessions.attempt("other" .. i, "2001:db8:1:" .. i .. "::1", clock)) end
      assert(sessions.attempt("v6", "2001:db8:9::1", clock))
      for i = 1, 10 do sessions.attempt("v6", "2001:db8:9::" .. i, clock) end
      assert(not sessions.attempt("v6", "2001:db8:9::ffff", clock), "a network of IPv6 is one address")
      core.pbkdf2 = function() return nil, "busy" end
      peers = 6000
      assert(try(PASSWORD).status == 429)
    end)
    core.pbkdf2 = real
    assert(ok, err)
  end),

  ["an authenticator app: RFC 6238's vectors, asked for where it is wanted, each code once"] = with_box(function()
    for at, code in pairs { [59] = "287082", [1111111109] = "081804", [1234567890] = "005924", [20000000000] = "353130" } do
      assert(sessions.hotp("12345678901234567890", at // 30) == code, at)
    end
    local u = store.peek("user", "u/ada@box.test")
    u.totp_wanted = true
    store.commit { { op = "put", db = "user", key = "u/ada@box.test", plain = u } }
    local b = browser()
    b:go("GET", link_of "ada@box.test")
    local a = b:submit("/login", { { "password", PASSWORD }, { "again", PASSWORD } })
    local text = a.body:match("<code>(.-)</code>"):gsub(" ", "")
    assert(#text == 32 and text:find("^[A-Z2-7]+$"))
    local client = register()
    assert(b:go("GET", request(client)).body:find("authenticator app", 1, true), "nothing before it is set up")
    text = b.last.body:match("<code>(.-)</code>"):gsub(" ", "")
    local bits, n, key = 0, 0, {}
    for c in text:gmatch(".") do
      bits, n = bits << 5 | ("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"):find(c, 1, true) - 1, n + 5
      if n >= 8 then
        n = n - 8
        key[#key + 1], bits = string.char(bits >> n & 255), bits & (1 << n) - 1
      end
    end
    key = table.concat(key)
    assert(b:submit("/login/totp", { { "code", "000000" } }).status == 403)
    a = b:submit("/login/totp", { { "code", sessions.hotp(key, clock // 30) } })
    assert(a.status == 200 and a.body:find("Approve", 1, true), a.body)
    local function sign_in(code)
      local c = browser()
      c:go("GET", "/login")
      return c:submit("/login", { { "user", "ada@box.test" }, { "password", PASSWORD }, { "code", code } }).status
    end
    assert(sign_in(sessions.hotp(key, clock // 30)) == 403, "it was used")
    clock = clock + 30
    assert(sign_in "" == 403 and sign_in(sessions.hotp(key, clock // 30)) == 200 and sign_in(sessions.hotp(key, clock // 30)) == 403)
    clock = clock + 300
    assert(sign_in(sessions.hotp(key, clock // 30 - 2)) == 403 and sign_in(sessions.hotp(key, clock // 30 + 1)) == 200)
    assert(b:go("GET", "/login/totp").body:find("It is set up", 1, true))
    -- a link sets a password, and lets nobody in without the app's code
    b = browser()
    b:go("GET", link_of "ada@box.test")
    a = b:submit("/login", { { "password", PASSWORD .. "!" }, { "again", PASSWORD .. "!" } })
    assert(a.body:find("<h1>Sign in", 1, true) and not b.jar["__Host-sallyport"], a.body)
    local function second(code) return b:submit("/login", { { "user", "ada@box.test" }, { "password", PASSWORD .. "!" }, { "code", code } }).status end
    assert(second "" == 403)
    b:go("GET", "/login")
    clock = clock + 60
    assert(second(sessions.hotp(key, clock // 30)) == 200 and b.jar["__Host-sallyport"])
  end),

  ["passwords: the published vectors of PBKDF2-HMAC-SHA256, and enough rounds"] = function()
    local pbkdf2 = require("sign.core").pbkdf2
    -- the vectors of RFC 6070 with SHA-256, as published beside it
    assert(secret.hex(pbkdf2("password", "salt", 1)) == "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b")
    assert(secret.hex(pbkdf2("password", "salt", 4096)) == "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a")
    assert(real_rounds >= 600000)
  end,

  ["introspection tells a client of its own tokens alone"] = with_box(function()
    local _, client, t = connected()
    local function look(c, x) return json.decode(ask("POST", "/oauth/introspect", form.encode { { "token", x }, { "client_id", c.client_id } }).body) end
    local got = look(client, t.access_token)
    assert(got.active and got.username == "ada@box.test" and got.aud == BOX .. "/mcp/tools" and got.scope == t.scope and got.exp == clock + 3600 and got.iss == BOX)
    assert(look(client, t.refresh_token).active and not look(register { client_name = "x" }, t.access_token).active and not look(client, "x").active)
  end),

  ["a token of one box is nothing at another, nor is a client's id"] = with_box(function(home)
    local _, client, t = connected()
    store.close()
    assert(store.open(home .. "/other", { create = true }))
    put("meta", "set/public-url", { name = "public-url", value = BOX })
    put("gateway", "tools", { name = "tools", url = "https://up.test/mcp" })
    assert(use(t.access_token).status == 401 and ask("GET", request(client)).status == 400 and refresh(client, t.refresh_token).error == "invalid_client")
  end),

  ["nothing is answered before the door has an address"] = with_box(function()
    store.commit { { op = "del", db = "meta", key = "set/public-url" } }
    for _, path in ipairs { "/.well-known/oauth-authorization-server", "/login", "/oauth/authorize", "/mcp/tools" } do assert(ask("GET", path).status == 404) end
  end),

  ["OpenID: an ID token counts from this provider, for us, now, for this nonce, signed by a key of its JWKS; nothing else"] = with_box(function()
    local openid, sign, keys = require "web.openid", require "sign.core", dofile "tests/unit/keys.lua"
    local idp = "https://idp.test"
    local spki = { ES256 = sign.public_key(keys.p256), RS256 = sign.public_key(keys.rsa) }
    local function b64(x) return secret.base64url(x) end
    local set = { keys = { { kty = "EC", crv = "P-256", kid = "e", x = b64(spki.ES256:sub(-64, -33)), y = b64(spki.ES256:sub(-32)) },
      { kty = "RSA", kid = "r", use = "sig", n = b64(spki.RS256:sub(-261, -6)), e = b64("\1\0\1") }, { kty = "oct", kid = "o", k = b64 "secret" }, { kty = "RSA", kid = "x", use = "enc", n = "AQ", e = "AQ" } } }
    local p = { value = idp, client_id = "box" }
    local n = 0
    local function judge(claims, header, change)
      local h = { alg = "ES256", kid = "e" }
      for k, v in pairs(header or {}) do h[k] = v or nil end
      local c = { iss = idp, aud = "box", exp = clock + 300, iat = clock, nonce = "N", sub = "1" }
      for k, v in pairs(claims or {}) do c[k] = v end
      for k, v in pairs(c) do
        if v == false then c[k] = nil end
      end
      local signed = b64(json.encode(h)) .. "." .. b64(json.encode(c))
      local sig = ({ ES256 = function() return sign.signature("ES256", keys.p256, signed) end, RS256 = function() return sign.signature("RS256", keys.rsa, signed) end,
        HS256 = function() return require("sign").hmac("sha256", "secret", signed) end })[h.alg]
      local text = signed .. "." .. b64(sig and sig() or "x")
      n = n + 1
      local q = { now = clock, client = { request = function() return { status = 200, text = json.encode(set) } end } }
      local got, why = openid.claims(q, p, idp .. "/jwks" .. n, change and change(text) or text, "N")
      return got and true or why
    end
    assert(judge() == true and judge(nil, { alg = "RS256", kid = "r" }) == true and judge(nil, { kid = false }) == true and judge { aud = { "box" } } == true
      and judge { aud = { "a", "box" }, azp = "box" } == true)
    for why, list in pairs {
      iss = { { iss = idp .. "/" }, { iss = "https://evil.test" }, { iss = false } }, aud = { { aud = "other" }, { aud = { "other" } }, { aud = false }, { azp = "other" }, { aud = { "box", "a" } } },
      exp = { { exp = clock - 61 }, { exp = false }, { exp = "9" }, { iat = clock + 61 }, { nbf = clock + 61 } }, nonce = { { nonce = "M" }, { nonce = false } }, sub = { { sub = false }, { sub = "" }, { sub = 7 } },
    } do
      for _, c in ipairs(list) do assert(judge(c) == why, why .. json.encode(c)) end
    end
    for _, h in ipairs { { alg = "none" }, { alg = "HS256", kid = "o" }, { alg = "PS256" }, { alg = "ES512" }, { crit = json.array { "exp" } }, { alg = "es256" } } do
      assert(judge(nil, h) == "algorithm", json.encode(h))
    end
    for _, h in ipairs { { kid = "r" }, { alg = "RS256", kid = "e" }, { kid = "nobody" }, { alg = "RS256", kid = "x" } } do assert(judge(nil, h) == "signature", json.encode(h)) end
    assert(judge(nil, nil, function(t) return t:gsub("%.[%w_-]+%.", "." .. b64(json.encode { iss = idp, aud = "box", exp = clock + 9, nonce = "N", sub = "admin" }) .. ".") end) == "signature")
    for _, odd in ipairs { "", "a.b", "a.b.c", "a.b.c.d", ".." } do assert(judge(nil, nil, function() return odd end) == "malformed", odd) end
    local sig = sign.signature("RS256", keys.rsa, "data")
    local m, e = spki.RS256:sub(-261, -6), "\1\0\1"
    assert(sign.verify("RS256", m, e, "data", sig) and not sign.verify("RS256", m, e, "datb", sig) and not sign.verify("RS384", m, e, "data", sig) and not sign.verify("RS256", m, "\3", "data", sig))
    for _, bad in ipairs { "", "x", sig:sub(2), sig .. "x" } do assert(not sign.verify("RS256", m, e, "data", bad)) end
    for _, len in ipairs { 0, 1, 255, 513, 5000 } do assert(not sign.verify("RS256", ("n"):rep(len), e, "data", ("s"):rep(len)) and not sign.verify("ES256", ("n"):rep(len), ("n"):rep(len), "data", ("s"):rep(64))) end
    assert(not sign.verify("HS256", "k", "k", "data", "x") and not sign.verify("ES256", ("\0"):rep(32), ("\0"):rep(32), "data", ("\0"):rep(64)))
  end),
}
