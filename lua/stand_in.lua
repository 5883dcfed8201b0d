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
--     answer = function(parts, asked) -> a table, sent as JSON, and a status (200)
--     file   = function(cred, parts) -> text          what `credential sandbox-file` writes
--     keys   = true                                   the file needs parts.private_key, an RSA key in PEM
--   }
-- parts = { access_token, refresh_token, client_secret, id_token, private_key }, all stand-ins.
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

-- "/app/installations/*/access_tokens" -> a pattern for the whole path
local function path_pattern(path)
  if not path:find("*", 1, true) then return nil end
  return "^" .. path:gsub("[%-%.%+%[%]%(%)%$%^%%%?]", "%%%0"):gsub("%*", "[^/]+") .. "$"
end

--- The token endpoints of a credential: { scheme, host, port, path, pattern } …, none for a type without tokens.
-- with = { sandbox, parse_url }; view: the credential as its policy sees it, secrets or not.
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
      }
    end
  end
  return out
end

--- Credentials by token endpoint: requests for another path of such a host must cost no more than one look, however
-- many credentials fetch their tokens there. hosts[host] = { exact = { [key] = place }, patterns = { place… } },
-- of[name] = the places of that credential; place = { host, key, prefix, pattern, names = { [name] = true } }
function M.index() return { hosts = {}, of = {} } end

local function prefix_of(e) return ("%s %d "):format(e.scheme, e.port) end

local function place_at(index, e)
  local host = index.hosts[e.host] or { exact = {}, patterns = {} }
  index.hosts[e.host] = host
  local key = prefix_of(e) .. e.path
  local place = host.exact[key]
  if not place then
    place = { host = e.host, key = key, prefix = prefix_of(e), pattern = e.pattern, names = {} }
    host.exact[key] = place
    if e.pattern then host.patterns[#host.patterns + 1] = place end
  end
  return place
end

local function drop_place(index, place)
  local host = index.hosts[place.host]
  host.exact[place.key] = nil
  for i = #host.patterns, 1, -1 do
    if host.patterns[i] == place then table.remove(host.patterns, i) end
  end
  if next(host.exact) == nil then index.hosts[place.host] = nil end
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
  local host = index.hosts[req.host]
  if not host then return nil end
  local prefix, out = prefix_of(req), nil
  local exact = host.exact[prefix .. req.path]
  if exact then out = held_at(exact, items, agent, cache) end
  for _, place in ipairs(host.patterns) do
    if place ~= exact and place.prefix == prefix and req.path:find(place.pattern) then
      out = join(out, held_at(place, items, agent, cache))
    end
  end
  return out and #out > 0 and out or nil
end

-- ---- a token request -----------------------------------------------------------------------------

--- What was asked: parameters of a form or a JSON object, and of Basic (RFC 6749 2.3.1); nil: neither.
-- with = { json, uri, unbase64 }; of: body.of for the request, or its Content-Type
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
    local plain = with.unbase64(rest)
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
  signature = with.unbase64(signature, true)
  return signature and with.signed(head .. "." .. payload, signature, n) and with.unbase64(payload, true) or nil
end

--- Does this request present one of our stand-ins? true, and of an assertion its claims.
-- with = { signed = host.stand_in_signed, unbase64, store, json, held = records.held for this agent and credential }
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

-- RFC 6749 5.1: what was asked for, as far as the account has it.
local function granted(asked, view)
  local own = type(view.scopes) == "table" and view.scopes or {}
  if #own == 0 or not asked then return asked end
  local has, out = {}, {}
  for _, scope in ipairs(own) do has[scope] = true end
  for scope in asked:gmatch("%S+") do
    if has[scope] then out[#out + 1] = scope end
  end
  return table.concat(#out > 0 and out or own, " ")
end

-- An ID token that a client may take apart (it reads `exp`): signed by nobody.
local function id_token(with, parts, claims)
  local function encode(t) return with.base64url(with.json.encode(t)) end
  return ("%s.%s.%s"):format(encode { alg = "RS256", typ = "JWT" }, encode(claims), with.base64url(parts.access_token))
end

--- Status and JSON text that stand for the server's answer. with = { json, base64url, sandbox, now }; view: the
-- credential as its policy sees it.
function M.answer(with, pol, view, asked, parts, claims)
  if pol.stand_in and pol.stand_in.answer then
    local given = {}
    for k, v in pairs(parts) do given[k] = v end
    given.expires_at = with.now + LIFE
    local ok, out, status = with.sandbox.call(pol.name, pol.stand_in.answer, given, asked)
    if not ok or type(out) ~= "table" then return nil, ok and "answer is no table" or out end
    return math.type(status) == "integer" and status or 200, with.json.encode(out)
  end
  local out = {
    access_token = parts.access_token, token_type = "Bearer", expires_in = LIFE, scope = granted(asked.scope, view),
    refresh_token = asked.refresh_token and parts.refresh_token or nil,
  }
  if claims and claims.target_audience then
    out = { id_token = id_token(with, parts, { aud = claims.target_audience, iss = claims.iss, sub = claims.iss,
      iat = with.now, exp = with.now + LIFE }) }
  end
  return 200, with.json.encode(out)
end

return M
