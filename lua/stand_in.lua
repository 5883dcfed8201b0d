--- Stand-ins: what an SDK in the sandbox holds in the place of client credentials, a refresh token or a private key,
-- and the answer that it gets where it goes for a token itself.
--
-- `credential sandbox-file NAME --agent A` makes the file. Each of its parts is derived for this agent and credential
-- and worth nothing anywhere else; of a private key the public half is kept, in state "k/NAME/AGENT" { n = modulus }.
-- A POST to the credential's token endpoint that presents one of them, or the placeholder that `env` gave the agent, is
-- answered here, in the server's place: with a placeholder for a token. Requests that then carry it get the real one,
-- as every request for the credential's hosts.
--
-- A type may say how it looks there; without `stand_in` a type that has `refresh` is an OAuth client at its token_url:
--   stand_in = {
--     url    = function(cred) -> the token endpoint, or a list; `*` in its path stands for one segment
--     answer = function(parts, asked) -> a table, sent as JSON, and a status (200); parts.plain: see below
--     file   = function(cred, parts) -> text          what `credential sandbox-file` writes
--     keys   = true                                   the file needs parts.private_key, an RSA key in PEM
--     format = "kubeconfig"                           it fetches none, and the file is that (lua/cli/kubeconfig.lua)
--   }
-- parts = { access_token, refresh_token, client_secret, id_token, private_key }, all stand-ins.
-- A type's `plain` (a list of names, with dots for members of members; or function(cred) -> such a list) says which
-- members of the real answer SDKs need beside the token (Salesforce's instance_url). Those, where they were no secrets, are
-- said here too; nothing else of the real answer is.
local M = {}

-- Seconds that a stand-in token claims to live. Long, but within what a client's 32-bit timer of milliseconds holds
-- (24.8 days): past that, timers fire at once and refresh without end.
local LIFE = 20 * 86400
local BODY_MAX = 64 * 1024   -- bytes of a token request; an assertion is a few KiB
local CLAIMS_MAX, SIGNATURE_MAX = 16384, 344   -- letters of an assertion's parts: its keys have 2,048 bits
M.TRIES_MAX = 64             -- credentials of an agent at one endpoint whose stand-ins are looked for: 100 µs each

M.LIFE, M.BODY_MAX = LIFE, BODY_MAX

-- ---- parts ---------------------------------------------------------------------------------------

local shapes = {
  ["api.anthropic.com"] = { access_token = "sk-ant-oat01-{93:url}AA", refresh_token = "sk-ant-ort01-{93:url}AA" },
  ["api.github.com"] = { access_token = "ghs_{36}" },
}

--- Every part of a credential for an agent but the private key. Clients look at prefixes before they send.
function M.parts(records, agent, rec)
  local out, by_host = {}, {}
  for _, h in ipairs(rec.hosts or {}) do by_host = shapes[h] or by_host end
  for _, part in ipairs { "access_token", "refresh_token", "client_secret" } do
    out[part] = records.stand_in(agent, rec.name, part, by_host[part])
  end
  return out
end

--- How the access token shows in a request: as it is, or inside the ID token that `answer` makes.
function M.shown(with, records, agent, rec)
  local text = M.parts(records, agent, rec).access_token
  return { text, with.base64url(text) }
end

--- Where the public half of a stand-in key is kept.
function M.key_record(agent, name) return "k/" .. name .. "/" .. agent end

-- ---- endpoints -----------------------------------------------------------------------------------

-- Token servers with several addresses: some SDK goes to another one than the credential (or the key's file) names.
-- Each server is a list of { hosts, paths }, all by https; "*." before a host stands for any name below it.
local SALESFORCE = { "login.salesforce.com", "test.salesforce.com", "*.my.salesforce.com" }
local PUBLIC_ENTRA = { "login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net",
  "*.login.microsoft.com", "*.r.login.microsoftonline.com" }   -- a region before them: MSAL's azure_region
local ENTRA_PATHS = { "/*/oauth2/v2.0/token", "/*/oauth2/token" }   -- "*": the tenant by id or name, common, organizations
local servers = {
  -- Google's libraries by age: accounts.google.com (oauth2client), v3 and v4 (gtoken, signet), oauth2.googleapis.com
  { { { "oauth2.googleapis.com", "oauth2.mtls.googleapis.com" }, { "/token" } },
    { { "www.googleapis.com" }, { "/oauth2/*/token" } }, { { "accounts.google.com" }, { "/o/oauth2/token" } } },
  -- MSAL's aliases of an authority, cloud by cloud
  { { PUBLIC_ENTRA, ENTRA_PATHS } },
  { { { "login.microsoftonline.us", "login.usgovcloudapi.net" }, ENTRA_PATHS } },
  { { { "login.partner.microsoftonline.cn", "login.chinacloudapi.cn" }, ENTRA_PATHS } },
  { { SALESFORCE, { "/services/oauth2/token" } } },                           -- simple-salesforce's `domain`
  { { { "slack.com", "www.slack.com" }, { "/api/oauth.v2.access", "/api/oauth.access", "/api/oauth.v2.user.access" } } },
  { { { "api.hubapi.com", "api.hubspot.com" }, { "/oauth/*/token" } } },
  { { { "api.dropboxapi.com", "api.dropbox.com", "www.dropbox.com" }, { "/oauth2/token", "/1/oauth2/token" } } },
  { { { "api.box.com" }, { "/oauth2/token" } },
    { { "www.box.com", "app.box.com", "account.box.com" }, { "/api/oauth2/token" } } },
  { { { "api.x.com", "api.twitter.com" }, { "/2/oauth2/token" } } },
  { { { "api-m.paypal.com", "api.paypal.com" }, { "/v1/oauth2/token" } } },
  { { { "api-m.sandbox.paypal.com", "api.sandbox.paypal.com" }, { "/v1/oauth2/token" } } },
  { { { "auth.atlassian.com", "api.atlassian.com" }, { "/oauth/token" } } },
  { { { "api.amazon.com", "api.amazon.co.uk", "api.amazon.co.jp" }, { "/auth/o2/token", "/auth/O2/token" } } },
  { { { "discord.com", "discordapp.com" }, { "/api/oauth2/token", "/api/*/oauth2/token" } } },
  { { { "graph.facebook.com" }, { "/oauth/access_token", "/*/oauth/access_token" } } },
  { { { "www.linkedin.com" }, { "/oauth/v2/accessToken", "/uas/oauth2/accessToken" } } },
  { { { "api.figma.com" }, { "/v1/oauth/token", "/v1/oauth/refresh" } }, { { "www.figma.com" }, { "/api/oauth/token" } } },
}

-- "/app/installations/*/access_tokens" -> a pattern for the whole path
local function path_pattern(path)
  if not path:find("*", 1, true) then return nil end
  return "^" .. path:gsub("[%-%.%+%[%]%(%)%$%^%%%?]", "%%%0"):gsub("%*", "[^/]+") .. "$"
end

local function path_covers(rule, path)
  local pattern = path_pattern(rule)
  return rule == path or pattern ~= nil and path:find(pattern) ~= nil
end

-- The server of `servers` that answers at this address; nil: none, or it has no other.
local function server_at(scheme, host, port, path)
  for i, groups in ipairs(scheme == "https" and port == 443 and servers or {}) do
    for _, group in ipairs(groups) do
      local found = false
      for _, rule in ipairs(group[1]) do found = found or require("variables").covers(rule, host) end
      for _, rule in ipairs(found and group[2] or {}) do
        if path_covers(rule, path) then return i end
      end
    end
  end
end

--- The token endpoints of a credential: { scheme, host, port, path, pattern, server } …, none for a type without tokens.
-- server: which of `servers` it is. with = { sandbox, parse_url }; view: the credential as its policy sees it, secrets or not.
function M.endpoints(with, pol, view)
  if not pol.refresh then return {} end
  local list = view.token_url
  if pol.stand_in and pol.stand_in.url then
    local ok, urls = with.sandbox.call(pol.name, pol.stand_in.url, view)
    list = ok and urls or nil
  end
  local out = {}
  for _, text in ipairs(type(list) == "table" and list or { list }) do
    local url = type(text) == "string" and with.parse_url((text:gsub("%*", "_star_")))
    if url then
      local path = url.path:gsub("_star_", "*")
      out[#out + 1] = {
        scheme = url.scheme, host = url.host, port = url.port, path = path, pattern = path_pattern(path),
        server = server_at(url.scheme, url.host, url.port, path),
      }
    end
  end
  return out
end

--- Credentials by token endpoint: requests for another path of such a host must cost no more than one look, however
-- many credentials fetch their tokens there. hosts[host or "*.below"] = { exact = { [key] = place }, patterns = { spot… } },
-- wild = hosts with a "*", servers[i] = the place of a server with several addresses, of[name] = the places of that
-- credential; place = { spots, server, names = { [name] = true } }, spot = { host, key, prefix, pattern, place }
function M.index() return { hosts = {}, of = {}, servers = {}, wild = 0 } end

local function prefix_of(e) return ("%s %d "):format(e.scheme, e.port) end

local function add_spot(index, place, e)
  local host = index.hosts[e.host]
  if not host then
    host = { exact = {}, patterns = {} }
    index.hosts[e.host] = host
    if e.host:sub(1, 1) == "*" then index.wild = index.wild + 1 end
  end
  local spot = { host = e.host, key = prefix_of(e) .. e.path, prefix = prefix_of(e), pattern = e.pattern, place = place }
  place.spots[#place.spots + 1] = spot
  host.exact[spot.key] = place
  if e.pattern then host.patterns[#host.patterns + 1] = spot end
end

local function place_at(index, e)
  local host = index.hosts[e.host]
  local place = index.servers[e.server] or not e.server and host and host.exact[prefix_of(e) .. e.path]
  if place then return place end
  place = { spots = {}, names = {}, server = e.server }
  if not e.server then
    add_spot(index, place, e)
    return place
  end
  index.servers[e.server] = place
  for _, group in ipairs(servers[e.server]) do
    for _, name in ipairs(group[1]) do
      for _, path in ipairs(group[2]) do
        add_spot(index, place, { scheme = "https", host = name, port = 443, path = path, pattern = path_pattern(path) })
      end
    end
  end
  return place
end

local function drop_place(index, place)
  if place.server then index.servers[place.server] = nil end
  for _, spot in ipairs(place.spots) do
    local host = index.hosts[spot.host]
    host.exact[spot.key] = nil
    for i = #host.patterns, 1, -1 do
      if host.patterns[i] == spot then table.remove(host.patterns, i) end
    end
    if next(host.exact) == nil then
      index.hosts[spot.host] = nil
      if spot.host:sub(1, 1) == "*" then index.wild = index.wild - 1 end
    end
  end
end

--- Puts a credential's endpoints in the place of what the index had for it; an empty list takes it out.
function M.put(index, name, endpoints)
  local before, now = index.of[name] or {}, {}
  for _, e in ipairs(endpoints) do
    local place = place_at(index, e)
    place.names[name] = true
    now[place] = true
  end
  for place in pairs(before) do
    if not now[place] then
      place.names[name] = nil
      if next(place.names) == nil then drop_place(index, place) end
    end
  end
  index.of[name] = next(now) and now or nil
end

-- What the index has for a host: its own, and those of "*." above it.
local function hosts_at(index, host)
  local out, dot = { index.hosts[host] }, index.wild > 0 and host:find(".", 1, true)
  while dot do
    out[#out + 1] = index.hosts["*" .. host:sub(dot)]
    dot = host:find(".", dot + 1, true)
  end
  return out
end

--- Is there a token endpoint at this host?
function M.has(index, host)
  return index.hosts[host] ~= nil or index.wild > 0 and #hosts_at(index, host) > 0
end

-- This agent's credentials at a place, in the order of their names; kept in `cache`, which lasts as long as the index.
local function held_at(place, items, agent, cache)
  local list = cache[place]
  if list then return list end
  list = {}
  for name in pairs(place.names) do
    local own, held = items["credential/" .. name], false
    for bundle in pairs(own and own.bundles or {}) do held = held or agent.in_bundle[bundle] end
    if held then list[#list + 1] = name end
  end
  table.sort(list)
  cache[place] = list
  return list
end

local function join(a, b)
  if not a then return b end
  local out = table.move(a, 1, #a, 1, {})
  return table.move(b, 1, #b, #out + 1, out)
end

--- Names of this agent's credentials whose token endpoint the request is for; nil: of none.
function M.named(index, items, agent, req, cache)
  local prefix, out, seen = prefix_of(req), nil, {}
  local function add(place)
    if place and not seen[place] then
      seen[place] = true
      out = join(out, held_at(place, items, agent, cache))
    end
  end
  for _, host in ipairs(hosts_at(index, req.host)) do
    add(host.exact[prefix .. req.path])
    for _, spot in ipairs(host.patterns) do
      if spot.prefix == prefix and req.path:find(spot.pattern) then add(spot.place) end
    end
  end
  return out and #out > 0 and out or nil
end

-- ---- a token request -----------------------------------------------------------------------------

--- What was asked: parameters of a form or a JSON object, and of Basic (RFC 6749 2.3.1); nil: neither.
-- with = { json, uri, decode = secret.decode }; of: body.of for the request, or its Content-Type
function M.asked(with, of, body, authorization)
  local out = {}
  if type(of) ~= "table" then of = require("body").of_type(of) end
  if of.why then return nil end
  if of.kind == "json" then
    local doc = with.json.decode(body)
    if type(doc) ~= "table" then return nil end
    for k, v in pairs(doc) do out[k] = type(v) == "string" and v or nil end
  elseif of.kind == "form" then
    for _, pair in ipairs(with.uri.parse_query(body) or {}) do
      if out[pair[1]] then return nil end  -- RFC 6749 3.2: not more than once
      out[pair[1]] = pair[2]
    end
  elseif body ~= "" then
    return nil
  end
  local scheme, rest = (authorization or ""):match("^(%a+) +(%S+)$")
  scheme = scheme and scheme:lower()
  if scheme == "basic" then
    local plain = with.decode("base64", rest)
    local id, password = (plain or ""):match("^([^:]*):(.*)$")
    if id then
      out.client_id, out.client_secret = with.uri.decode(id, true) or id, with.uri.decode(password, true) or password
    end
  elseif scheme == "bearer" then
    out.bearer = rest
  end
  for _, text in pairs(out) do
    if not utf8.len(text) then return nil end   -- some of it is said again, in JSON
  end
  return out
end

-- `held`: the placeholders that `env` gave this agent for the credential; any of them counts as well.
local function any_equal(asked, parts, held)
  for _, name in ipairs { "client_secret", "refresh_token" } do
    local text = asked[name]
    if text == parts[name] and text then return true end
    for _, h in ipairs(text and held or {}) do
      if h.text == text then return true end
    end
  end
  return false
end

-- The payload of a JWS in compact form (RFC 7515 3.1) that the key with modulus n signed with RS256; nil: it is none.
local function claims_of(with, jws, n)
  local head, payload, signature = jws:match("^([^.]*)%.([^.]*)%.([^.]*)$")
  if not head or #payload > CLAIMS_MAX or #signature > SIGNATURE_MAX then return nil end
  signature = with.decode("base64url", signature)
  return signature and with.verify("RS256", with.decode("hex", n) or "", "\1\0\1", head .. "." .. payload, signature) and with.decode("base64url", payload) or nil
end

--- Does this request present one of our stand-ins? true, and of an assertion its claims.
-- with = { verify = sign.verify, decode, store, json, held = records.held for this agent and credential }
function M.presents(with, asked, agent, name, parts)
  if any_equal(asked, parts, with.held) then return true end
  local signed = asked.assertion or asked.client_assertion or asked.bearer
  if not signed then return false end
  local key = with.store.peek("state", M.key_record(agent, name))
  local text = key and type(key.n) == "string" and claims_of(with, signed, key.n)
  local claims = text and with.json.decode(text)
  if type(claims) ~= "table" then return false end
  return true, claims
end

-- RFC 6749 5.1: what was asked for, as far as the token has it. real: what the server said of it, or nil.
local function granted(asked, view, real)
  local oauth = require "oauth"
  local own = oauth.scopes(real) or type(view.scopes) == "table" and view.scopes or {}
  if #own == 0 or not asked then return asked or real end
  local out = {}
  for scope in asked:gmatch("%S+") do
    if not oauth.missing({ scope }, own)[1] then out[#out + 1] = scope end
  end
  return table.concat(#out > 0 and out or own, " ")
end

-- An ID token that a client may take apart (it reads `exp`): signed by nobody.
local function id_token(with, parts, claims)
  local function encode(t) return with.base64url(with.json.encode(t)) end
  return ("%s.%s.%s"):format(encode { alg = "RS256", typ = "JWT" }, encode(claims), with.base64url(parts.access_token))
end

-- { ["team.id"] = "T1" } among the members of the answer, which stay what they are: true | nil
local function say_plain(out, plain)
  for name, value in pairs(plain or {}) do
    local t, last = out, nil
    for part in name:gmatch("[^.]+") do
      if last then
        if type(t[last]) ~= "table" then t[last] = t[last] == nil and {} or t[last] end
        t = t[last]
        if type(t) ~= "table" then break end
      end
      last = part
    end
    if type(t) == "table" and t[last] == nil then t[last] = value end
  end
end

--- Status and JSON text that stand for the server's answer. with = { json, base64url, sandbox, now }; view: the
-- credential as its policy sees it; plain: what the real answer said, by dotted name, of the members in the type's `plain`.
function M.answer(with, pol, view, asked, parts, claims, plain)
  if pol.stand_in and pol.stand_in.answer then
    local given = { plain = plain or {} }
    for k, v in pairs(parts) do given[k] = v end
    given.expires_at = with.now + LIFE
    local ok, out, status = with.sandbox.call(pol.name, pol.stand_in.answer, given, asked)
    if not ok or type(out) ~= "table" then return nil, ok and "answer is no table" or out end
    return math.type(status) == "integer" and status or 200, with.json.encode(out)
  end
  local out = {
    access_token = parts.access_token, token_type = "Bearer", expires_in = LIFE, scope = granted(asked.scope, view, plain and plain.scope),
    refresh_token = asked.refresh_token and parts.refresh_token or nil,
  }
  if claims and claims.target_audience then
    out = { id_token = id_token(with, parts, { aud = claims.target_audience, iss = claims.iss, sub = claims.iss,
      iat = with.now, exp = with.now + LIFE }) }
  end
  say_plain(out, plain)
  return 200, with.json.encode(out)
end

return M
