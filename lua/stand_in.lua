--- Stand-ins: what an SDK in the sandbox holds in the place of client credentials, a refresh token or a private key,
-- and the answer that it gets where it goes for a token itself.
--
-- `credential sandbox-file NAME --agent A` makes the file. Each of its parts is derived for this agent and credential
-- and worth nothing anywhere else; of a private key the public half is kept, in state "k/NAME/AGENT" { n = modulus }.
-- A POST to the credential's token endpoint that presents one of them is answered here, in the server's place: with a
-- placeholder for a token. Requests that then carry it get the real one, as every request for the credential's hosts.
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
local PER_HOST_MAX = 64      -- credentials with their token endpoint on one host that one agent may hold

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

local function at(e, req)
  return e.port == req.port and e.scheme == req.scheme and e.host == req.host
    and (e.path == req.path or e.pattern and req.path:find(e.pattern) ~= nil)
end

--- Names of this agent's credentials whose token endpoint the request is for; nil: of none. `index` is config's: by host.
function M.named(index, items, agent, req)
  local out
  for _, entry in ipairs(index[req.host] or {}) do
    local own = items["credential/" .. entry.name]
    local held = false
    for bundle in pairs(own and own.bundles or {}) do held = held or agent.in_bundle[bundle] end
    if held and at(entry, req) and (not out or #out < PER_HOST_MAX) then
      out = out or {}
      out[#out + 1] = entry.name
    end
  end
  return out
end

-- ---- a token request -----------------------------------------------------------------------------

--- What was asked: parameters of a form or a JSON object, and of Basic (RFC 6749 2.3.1); nil: neither.
-- with = { json, uri, unbase64 }
function M.asked(with, content_type, body, authorization)
  local out = {}
  content_type = (content_type or ""):lower():match("^%s*([^;%s]*)")
  if content_type == "application/json" then
    local doc = with.json.decode(body)
    if type(doc) ~= "table" then return nil end
    for k, v in pairs(doc) do out[k] = type(v) == "string" and v or nil end
  elseif content_type == "application/x-www-form-urlencoded" then
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
  return out
end

local function any_equal(asked, parts)
  return asked.client_secret == parts.client_secret or asked.refresh_token == parts.refresh_token
end

--- Does this request present one of our stand-ins? true, and of an assertion its claims.
-- with = { claims = host.stand_in_claims, store, json }
function M.presents(with, asked, agent, name, parts)
  if any_equal(asked, parts) then return true end
  local signed = asked.assertion or asked.client_assertion or asked.bearer
  if not signed then return false end
  local key = with.store.peek("state", M.key_record(agent, name))
  local text = key and type(key.n) == "string" and with.claims(signed, key.n)
  local claims = text and with.json.decode(text)
  if type(claims) ~= "table" then return false end
  return true, claims
end

-- An ID token that a client may take apart (it reads `exp`): signed by nobody.
local function id_token(with, parts, claims)
  local function encode(t) return with.base64url(with.json.encode(t)) end
  return ("%s.%s.%s"):format(encode { alg = "RS256", typ = "JWT" }, encode(claims), with.base64url(parts.access_token))
end

--- Status and JSON text that stand for the server's answer. with = { json, base64url, sandbox, now }
function M.answer(with, pol, asked, parts, claims)
  if pol.stand_in and pol.stand_in.answer then
    local given = {}
    for k, v in pairs(parts) do given[k] = v end
    given.expires_at = with.now + LIFE
    local ok, out, status = with.sandbox.call(pol.name, pol.stand_in.answer, given, asked)
    if not ok or type(out) ~= "table" then return nil, ok and "answer is no table" or out end
    return math.type(status) == "integer" and status or 200, with.json.encode(out)
  end
  local out = {
    access_token = parts.access_token, token_type = "Bearer", expires_in = LIFE, scope = asked.scope,
    refresh_token = asked.refresh_token and parts.refresh_token or nil,
  }
  if claims and claims.target_audience then
    out = { id_token = id_token(with, parts, { aud = claims.target_audience, iss = claims.iss, sub = claims.iss,
      iat = with.now, exp = with.now + LIFE }) }
  end
  return 200, with.json.encode(out)
end

return M
