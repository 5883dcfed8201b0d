--- OAuth clients: registered (RFC 7591), by a metadata document, or added by the operator; and how they prove who they are.
-- A registration is stored nowhere: the client's id is the registration with a seal behind it, and its secret follows from the
-- id and the store's key.
local access = require "web.access"
local page = require "web.page"
local redirect = require "web.redirect"
local M = {}

local REDIRECTS_MAX, SEALED_MAX = 10, 3000
local DOCUMENT_MAX, DOCUMENT_MS = 5120, 5000
local CACHE_MAX, CACHE_S = 64, 300      -- documents; seconds that one is kept whose answer does not say
local CACHE_MOST = 86400                -- whatever it says: a redirect URI that was taken away ends within a day
local methods = { none = "none", client_secret_basic = "secret", client_secret_post = "secret" }

-- The first text of a list that may be no redirect URI, and why; or nil: they all may.
local function bad_redirect(list)
  if type(list) ~= "table" or #list == 0 or #list > REDIRECTS_MAX then return true, ("redirect_uris has 1 to %d members"):format(REDIRECTS_MAX) end
  for _, uri in ipairs(list) do
    local ok, why = redirect.check(uri)
    if not ok then return true, why end
  end
end

local function has(list, word)
  for _, v in ipairs(type(list) == "table" and list or {}) do
    if v == word then return true end
  end
  return false
end

-- ---- registration --------------------------------------------------------------------------------

local function refused(code, why) return page.json(400, { error = code, error_description = why }) end

local echoed = { "client_name", "redirect_uris", "grant_types", "response_types", "application_type", "scope", "client_uri", "logo_uri", "contacts",
  "tos_uri", "policy_uri", "software_id", "software_version" }

--- POST /oauth/register: the answer (RFC 7591 3.2). No address in it is fetched; a scope is no limit.
function M.register(q)
  local m = require("json").decode(q.body or "")
  if type(m) ~= "table" or getmetatable(m) == "json.array" or #m > 0 then return refused("invalid_client_metadata", "the body is no JSON object") end
  for name, v in pairs(m) do
    if v == require("json").null then m[name] = nil end
  end
  local bad, why = bad_redirect(m.redirect_uris)
  if bad then return refused("invalid_redirect_uri", why) end
  local method = m.token_endpoint_auth_method or "client_secret_basic"       -- RFC 7591 2: what an absent one means
  if not methods[method] then return refused("invalid_client_metadata", "token_endpoint_auth_method is none, client_secret_basic or client_secret_post") end
  local grants, answers = m.grant_types or { "authorization_code" }, m.response_types or { "code" }
  if type(grants) ~= "table" or type(answers) ~= "table" or not has(grants, "authorization_code") or not has(answers, "code") then
    return refused("invalid_client_metadata", "grant_types has authorization_code, response_types has code")
  end
  for _, name in ipairs(grants) do
    if name ~= "authorization_code" and name ~= "refresh_token" then return refused("invalid_client_metadata", "a grant type is not offered") end
  end
  if m.client_name ~= nil and type(m.client_name) ~= "string" then return refused("invalid_client_metadata", "client_name is a text") end
  local text = require("json").encode { page.clean(m.client_name) or "", require("json").array(m.redirect_uris), methods[method] == "secret" and 1 or 0,
    has(grants, "refresh_token") and 1 or 0, access.id() }
  if #text > SEALED_MAX then return refused("invalid_client_metadata", "the registration is too long") end
  local body = require("secret").base64url(text)
  local id = "sp_r_" .. body .. "." .. access.hash("registration", body)
  local out = { client_id = id, client_id_issued_at = q.now, token_endpoint_auth_method = method, grant_types = grants, response_types = answers }
  for _, name in ipairs(echoed) do
    if out[name] == nil then out[name] = m[name] end
  end
  if methods[method] == "secret" then
    out.client_secret, out.client_secret_expires_at = "sp_cs_" .. access.hash("registered-secret", id), 0
  end
  return page.json(201, out)
end

local function sealed(id)
  local body, seal = id:match("^sp_r_([%w_-]+)%.(%w+)$")
  if not body or #id > 2 * SEALED_MAX or not access.same(seal, access.hash("registration", body)) then return nil end
  local m = require("json").decode(require("secret").decode("base64url", body))
  return { id = id, key = "sp_r_" .. access.hash("client", id):sub(1, 22), name = m[1] ~= "" and m[1] or nil, redirect_uris = m[2],
    secret = m[3] == 1 and "sp_cs_" .. access.hash("registered-secret", id) or nil, refreshes = m[4] == 1, source = "registered" }
end

-- ---- metadata documents --------------------------------------------------------------------------

local documents, cached = {}, 0

-- Is that an address of a metadata document? (draft-ietf-oauth-client-id-metadata-document 3)
local function document_url(id)
  if #id > 500 or id:find("[^\33-\126]") or id:find("[#@\\]") then return false end
  local p = redirect.check(id)
  return p and p.scheme == "https" and p.tail:find("^/[^?]") ~= nil or false
end

--- Seconds for which an answer with such a head may be kept by a cache that serves many (RFC 9111 4.2 and 5.2.2); 0: not at all. What
-- cannot be read counts as stale.
function M.fresh_for(head, now)
  local fields, life = {}, nil
  for line in head:gmatch("\r\n([^\r\n]+)") do
    local name, value = line:match("^([^:]+):[ \t]*(.*)$")
    name = (name or ""):lower()
    fields[name] = fields[name] and fields[name] .. ", " .. value or value
  end
  local said = {}
  for part in (fields["cache-control"] or ""):lower():gmatch("[^,]+") do
    local name, value = part:match("^%s*([%w-]+)(.*)$")
    if name == "no-store" or name == "no-cache" or name == "private" then return 0 end
    if name == "max-age" or name == "s-maxage" then
      local n = tonumber(value:match('^="?(%d+)"?%s*$'))
      said[name] = math.min(said[name] or math.huge, n or 0)
    end
  end
  life = said["s-maxage"] or said["max-age"]
  if not life and fields.expires then
    local at, from = require("dates").parse(fields.expires), require("dates").parse(fields.date) or now
    life = at and at - from or 0
  end
  if (fields.vary or ""):find("*", 1, true) then return 0 end
  local age = fields.age and (tonumber(fields.age:match("^%d+$")) or math.huge) or 0
  return math.max(0, math.min((life or CACHE_S) - age, CACHE_MOST)) // 1 | 0
end

-- Fetches and checks one: the client, the answer's head | nil, why. fetch(url, max, ms) -> status, text, head | nil
local function document(id, fetch)
  local status, text, head = fetch(id, DOCUMENT_MAX, DOCUMENT_MS)
  if status ~= 200 then return nil, "its metadata document could not be fetched" end
  local m = require("json").decode(text or "")
  if type(m) ~= "table" or m.client_id ~= id then return nil, "its metadata document names another client" end
  local method = m.token_endpoint_auth_method or "none"
  if method ~= "none" then return nil, "its metadata document asks for an authentication that is not offered" end
  local bad, why = bad_redirect(m.redirect_uris)
  if bad then return nil, "its metadata document has a bad redirect URI: " .. why end
  return { id = id, key = "sp_d_" .. access.hash("client", id):sub(1, 22), name = page.clean(m.client_name), redirect_uris = m.redirect_uris,
    refreshes = m.grant_types == nil or has(m.grant_types, "refresh_token"), source = "document" }, head or ""
end

local function fetched(q, id)
  local kept = documents[id]
  if kept and kept.till > q.now then return kept.client end
  local client, head = document(id, q.fetch or M.fetch)
  if not client then return nil, head end
  if cached >= CACHE_MAX then documents, cached = {}, 0 end
  if not documents[id] then cached = cached + 1 end
  documents[id] = { client = client, till = q.now + M.fresh_for(head, q.now) }
  return client
end

--- Through the address guard, like all that the proxy sends; follows no redirect.
function M.fetch(url, max, ms)
  local answer = require("route").client.request({ method = "GET", url = url, headers = { { "Accept", "application/json" } }, max = max,
    text = true, expect = {} }, require("time").now() + ms)
  if not answer then return nil end
  return answer.status, answer.text, answer.head
end

-- ---- who asks ------------------------------------------------------------------------------------

--- The client of an id: { id, key, name, redirect_uris, secret | secret_hash | nil, refreshes, source } | nil, why.
-- signed_in: a person has signed in, so that a document may be fetched; nil, "sign_in" before.
function M.find(q, id, signed_in)
  if type(id) ~= "string" or id == "" then return nil, "no client is named" end
  if id:sub(1, 5) == "sp_r_" then return sealed(id) end
  if id:sub(1, 8) == "https://" then
    if not document_url(id) then return nil, "its name is no address of a metadata document" end
    if not signed_in then return nil, "sign_in" end
    return fetched(q, id)
  end
  local c = #id <= 64 and id:find("^sp_cl_%x+$") and require("store").peek("client", "c/" .. id)
  if not c then return nil, "it was never added, or was removed" end
  return { id = id, key = id, name = c.name, redirect_uris = c.redirect_uris, secret_hash = c.secret_hash, refreshes = true, source = "operator" }
end

--- Who asks at the token endpoint (RFC 6749 2.3.1): the client's { id, key } | nil, answer. A client with a metadata document has
-- no secret: that the code or token is its own says the rest.
function M.authenticate(q, p)
  local header, id, secret = q.header "authorization", p.client_id, p.client_secret
  local function no(why)
    return nil, page.json(401, { error = "invalid_client", error_description = why }, header and { { "WWW-Authenticate", 'Basic realm="oauth"' } } or nil)
  end
  if header then
    local text = require("secret").decode("base64", header:match("^[Bb][Aa][Ss][Ii][Cc] +([%w+/=]+)%s*$") or "")
    local name, password = (text or ""):match("^([^:]*):(.*)$")
    local pair = name and require("form").parse(name:gsub("=", "%%3D"):gsub("&", "%%26") .. "=" .. password:gsub("=", "%%3D"):gsub("&", "%%26"))
    if not pair or #pair ~= 1 then return no "the Authorization field is no client's" end
    if secret then return nil, page.json(400, { error = "invalid_request", error_description = "a client authenticates in one way" }) end
    if id and id ~= pair[1][1] then return no "two clients are named" end
    id, secret = pair[1][1], pair[1][2]
  end
  local client
  if type(id) == "string" and id:sub(1, 8) == "https://" and document_url(id) then
    client = { id = id, key = "sp_d_" .. access.hash("client", id):sub(1, 22) }
  else
    client = M.find(q, id, false)
  end
  if not client then return no "no such client" end
  if secret == "" then secret = nil end
  local right = secret == nil
  if client.secret then right = access.same(secret, client.secret) end
  if client.secret_hash then right = secret ~= nil and access.same(access.hash("client-secret", secret), client.secret_hash) end
  if not right then return no "the client's secret is not that" end
  return client
end

return M
