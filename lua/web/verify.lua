--- The gateways as a protected resource: who asks (RFC 6750, RFC 9728), and what their scopes allow.
local access = require "web.access"
local page = require "web.page"
local M = {}

local USED_EVERY = 600          -- s between two notes of when a connection was used

local function store() return require "store" end

local function quoted(s) return '"' .. s:gsub('[\\"]', "\\%0") .. '"' end

local function metadata_url(name) return access.issuer() .. "/.well-known/oauth-protected-resource/mcp/" .. name end

--- All scopes that a gateway knows, but for offline_access, which is no business of the resource.
function M.scopes_of(gateway)
  local out = {}
  for _, s in ipairs(access.known(gateway)) do out[#out + 1] = s.name ~= "offline_access" and s.name or nil end
  return out
end

-- status, the gateway, an error's code, scopes
local function refuse(status, gateway, code, scopes, why)
  local field = "Bearer resource_metadata=" .. quoted(metadata_url(gateway.name))
  if code then field = field .. ", error=" .. quoted(code) end
  if scopes then field = field .. ", scope=" .. quoted(table.concat(scopes, " ")) end
  return page.json(status, { error = code or "unauthorized", error_description = why }, { { "WWW-Authenticate", field } })
end

local function set_of(list)
  local out = {}
  for _, s in ipairs(list) do out[s] = true end
  return out
end

-- What an sk_ key stands for: the parts of `forward` | nil.
local function of_key(key, gateway, now)
  local k = store().peek("grant", key)
  if not k or k.expires_at and k.expires_at <= now then return nil end
  local tenant, user = access.tenant(k.tenant, now), k.user and access.user(k.user)
  if not tenant or tenant.id ~= k.tenant_id or k.user and (not user or user.id ~= k.user_id) then return nil end
  local role = access.role(k.role or user.tenants[k.tenant])
  if not role then return nil end
  if k.gateways and not set_of(k.gateways)[gateway.name] then return nil end
  return { tenant = k.tenant, user = k.user, client = "key " .. k.name, connection = "key:" .. k.name, expires_at = k.expires_at,
    scopes = set_of(access.allowed(role, k.scopes or M.scopes_of(gateway))) }
end

-- The same of a connection. snapshot: the scopes that its access token was given.
local function of_grant(id, snapshot, gateway, now)
  local grant, user, role, till = require("web.tokens").standing(id, now)
  if not grant or grant.gateway ~= gateway.name then return nil end
  return { expires_at = till, tenant = grant.tenant, user = user.name, client = grant.client_name or grant.client_key, client_id = grant.client, connection = id,
    scopes = set_of(access.allowed(role, snapshot)) }
end

local function complete(f, gateway)
  f.gateway, f.url, f.record = gateway.name, gateway.url, gateway
  return f
end

--- As they are judged, of a key (its record's key) and of a connection with a snapshot: | nil.
function M.of_key(key, gateway, now)
  local f = of_key(key, gateway, now)
  return f and complete(f, gateway)
end

function M.of_grant(id, snapshot, gateway, now)
  local f = of_grant(id, snapshot, gateway, now)
  return f and complete(f, gateway)
end

--- What a connection could do that such a person approved whole.
function M.would(tenant, user, role, gateway)
  return complete({ tenant = tenant, user = user, scopes = set_of(access.allowed(role, M.scopes_of(gateway))) }, gateway)
end

-- When a connection was last used, for people's listings: now and then.
local function note_use(id, now)
  local kept = store().peek("token", "v/" .. id)
  if not kept or now - kept.at >= USED_EVERY then
    store().commit { { op = "put", db = "token", key = "v/" .. id, version = kept and kept.version or 0, plain = { at = now } } }
  end
end

--- A request for /mcp/NAME: { forward = … } | answer. Yields now and then.
function M.check(q, name)
  local gateway = access.gateway(name)
  if not gateway or not access.issuer() then return page.json(404, { error = "not_found" }) end
  local field = q.header "authorization"
  local scheme, token = (field or ""):match("^(%S+) *(.-) *$")
  if not field or (scheme or ""):lower() ~= "bearer" then return refuse(401, gateway, nil, M.scopes_of(gateway), "a token is needed") end
  if token == "" or token:find("[^%w._~+/=-]") then return refuse(400, gateway, "invalid_request", nil, "the Authorization field is malformed") end
  local f
  if token:sub(1, 3) == "sk_" then
    f = of_key("k/" .. access.hash("key", token), gateway, q.now)
  else
    local id, entry = require("web.tokens").find(token, q.now)
    f = id and of_grant(id, entry.scopes, gateway, q.now)
    if f then
      f.expires_at = math.min(entry.expires_at, f.expires_at or math.huge)
      note_use(id, q.now)
    end
  end
  if not f then return refuse(401, gateway, "invalid_token", M.scopes_of(gateway), "the token is not good here, or no longer") end
  return { forward = complete(f, gateway) }
end

--- Does a connection ("key:NAME": a key) still stand, for that tenant, and may it now what its stream was asked for? asked:
-- { gateway, mcp_method, mcp_name }. true | nil
function M.stands(connection, tenant, asked)
  local now, name, f = require("time").wall(), connection:match("^key:(.*)$"), nil
  local gateway = access.gateway(asked and asked.gateway)
  if not gateway then return nil end
  if not name then
    local grant = store().peek("grant", "g/" .. connection)
    f = grant and of_grant(connection, grant.scopes, gateway, now)
  else
    for key, k in access.each("grant", "k/") do
      if k.name == name then f = of_key(key, gateway, now) break end
    end
  end
  if not f or f.tenant ~= tenant then return nil end
  return require("web.mcp").goes_on(complete(f, gateway), asked.mcp_method, asked.mcp_name) or nil
end

M.matches = require("rules").matches

local function any(patterns, name)
  for _, p in ipairs(patterns or {}) do
    if M.matches(p, name) then return true end
  end
  return false
end

--- May it call the tool? true | nil, { all scopes that are needed }. A tool that a scope of the gateway names needs that one (and
-- each other that names it); else tools:execute, or tools:read where the operator said that it only reads.
function M.tool(f, name)
  local needed = {}
  for _, s in ipairs(f.record.scopes or {}) do
    if any(s.tools, name) then needed[#needed + 1] = s.name end
  end
  if not needed[1] then
    if any(f.record.read, name) and f.scopes["tools:read"] then return true end
    needed[1] = any(f.record.read, name) and "tools:read" or "tools:execute"
    if needed[1] == "tools:read" and f.scopes["tools:execute"] then return true end
  end
  for _, s in ipairs(needed) do
    if not f.scopes[s] then return nil, needed end
  end
  return true
end

-- What a method needs; tools/call is judged by its tool. Any that is not here needs nothing but a connection where it is one of
-- the protocol's own, and is refused elsewhere.
local methods = {
  ["tools/list"] = "tools:read", ["resources/list"] = "resources:read", ["resources/read"] = "resources:read",
  ["resources/templates/list"] = "resources:read", ["resources/subscribe"] = "resources:read", ["resources/unsubscribe"] = "resources:read",
  ["prompts/list"] = "prompts:read", ["prompts/get"] = "prompts:read",
}
-- Either of these scopes will do for a list.
local instead = { ["tools/list"] = "tools:execute" }

--- May it call the method? true | nil, { scopes }.
function M.method(f, method)
  local need = methods[method]
  if not need or f.scopes[need] or instead[method] and f.scopes[instead[method]] then return true end
  return nil, { need }
end

--- 403 (RFC 6750 3.1): what is needed, all of it.
function M.challenge(f, needed)
  return refuse(403, f.record, "insufficient_scope", needed, "this connection may not: " .. table.concat(needed, " "))
end

return M
