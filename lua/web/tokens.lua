--- Codes, access and refresh tokens of one connection: made, traded, rotated, ended.
-- sp_ac_ID.RANDOM          a code; c/ID has its hash and what was approved; it dies with its first use
-- sp_at_ID.RANDOM          an access token; f/ID has the hashes of the last few
-- sp_rt_ID.RANDOM.SEAL     a refresh token; f/ID has the hash of the newest and of the one before. The seal tells one that we made
--                          once from one that somebody made up, so that only the first ends the connection when it comes again.
-- A family (f/ID) counts while its grant names its rotation: the store notices an older grant that somebody puts back on the disk
-- (proxy.c, section table), so an older family does not count either.
-- What follows a refresh token is derived of it and of a number that chance made: whoever shows the old one within GRACE gets the
-- same answer once more, and nothing that the store keeps gives it to anybody else.
local access = require "web.access"
local changes = require "changes"
local M = {}

M.CODE_LIFE, M.ACCESS_LIFE, M.REFRESH_LIFE = 60, 3600, 60 * 86400
local GRACE, KEPT = 30, 4

local function store() return require "store" end

local function take_apart(text, prefix)
  local id, rest = text:match("^" .. prefix .. "(%x+)%.([%w_.-]+)$")
  if id and #text <= 200 then return id, rest end
end

--- Ends a connection, whatever others write meanwhile. context: changes.page's.
function M.finish(id, context)
  local ops = access.ending(id)
  ops.context = context
  return store().commit(ops)
end

-- The newest tokens of a connection, as its grant has them | nil
local function family_of(id, grant)
  local family = store().peek("token", "f/" .. id)
  return family and grant and family.rotation == grant.rotation and family or nil
end

--- The grant while all that it stands on stands: grant, user, role, when its tenant ends (Unix s, or nil) | nil. Its user and tenant are the same as then, and the user
-- has a role there.
function M.standing(id, now)
  local grant = store().peek("grant", "g/" .. id)
  if not grant then return nil end
  local user, tenant = access.user(grant.user), access.tenant(grant.tenant, now)
  if not user or user.id ~= grant.user_id or not tenant or tenant.id ~= grant.tenant_id then return nil end
  local role = access.role(user.tenants[grant.tenant])
  if not role then return nil end
  return grant, user, role, tenant.expires_at
end

-- ---- codes ---------------------------------------------------------------------------------------

--- A code for what a user (a record) approved: { user, user_id, tenant, tenant_id, client, client_key, client_name, gateway, scopes, redirect_uri,
-- challenge, … }. -> code | nil, code of the store
function M.code(user, approved, now)
  local id, secret = access.connection_id(user), access.random()
  local ops = require("web.sessions").sweep("c/", now)
  local plain = { hash = access.hash("code", secret), expires_at = now + M.CODE_LIFE }
  for k, v in pairs(approved) do plain[k] = v end
  ops[#ops + 1] = { op = "put", db = "token", key = "c/" .. id, version = 0, plain = plain }
  local ok, why = store().commit(ops)
  if not ok then return nil, why end
  return "sp_ac_" .. id .. "." .. secret
end

local function seal(id, secret) return access.hash("refresh-seal", id .. "." .. secret):sub(1, 22) end

-- What comes after `text`, a code or refresh token, with `nonce`: access token, refresh token.
local function successors(id, text, nonce)
  local from = text .. "/" .. nonce
  local secret = access.hash("next-refresh", from)
  return "sp_at_" .. id .. "." .. access.hash("next-access", from), ("sp_rt_%s.%s.%s"):format(id, secret, seal(id, secret))
end

local function answer(access_token, refresh_token, entry, now)
  return { access_token = access_token, token_type = "Bearer", expires_in = entry.expires_at - now, scope = table.concat(entry.scopes, " "),
    refresh_token = refresh_token }
end

local function snapshot(role, approved, asked)
  local out, want = {}, asked and {} or nil
  for word in (asked or ""):gmatch("%S+") do want[word] = true end
  for _, s in ipairs(access.allowed(role, approved)) do
    if not want or want[s] then out[#out + 1] = s end
  end
  return out
end

local function has(list, word)
  for _, v in ipairs(list) do
    if v == word then return true end
  end
  return false
end

-- The resource of a request against that of the grant (RFC 8707 2.2): the same one, or none said.
local function other_target(resource, gateway)
  return resource ~= nil and require("web.oauth").gateway_of(resource) ~= gateway
end

local function by_client(q, client) return changes.page(q, "client " .. client.key, client.name) end

--- Trades a code (RFC 6749 4.1.3, OAuth 2.1 4.1.3). p: the parameters; client: who authenticated; q: the request. -> answer | nil, error
function M.trade(p, client, q)
  local now = q.now
  local id, secret = take_apart(p.code or "", "sp_ac_")
  if not id then return nil, "invalid_grant" end
  local hash = access.hash("code", secret)
  local pending = store().peek("token", "c/" .. id)
  if not pending then
    -- Its second use: what came of the first ends.
    local grant = store().peek("grant", "g/" .. id)
    if grant and access.same(grant.code, hash) then M.finish(id, by_client(q, client)) end
    return nil, "invalid_grant"
  end
  if not access.same(pending.hash, hash) then return nil, "invalid_grant" end
  local verifier = p.code_verifier or ""
  local good = pending.client_key == client.key and pending.redirect_uri == (p.redirect_uri or pending.redirect_uri) and pending.expires_at > now
    and #verifier >= 43 and #verifier <= 128 and not verifier:find("[^%w._~-]")
    and access.same(require("secret").base64url(require("secret").sha256(verifier)), pending.challenge)
  if good and other_target(p.resource, pending.gateway) then return nil, "invalid_target" end
  local user, tenant = access.user(pending.user), access.tenant(pending.tenant, now)
  local role = user and user.id == pending.user_id and tenant and tenant.id == pending.tenant_id and access.role(user.tenants[pending.tenant])
  if not good or not role or not access.gateway(pending.gateway) then
    store().commit { { op = "del", db = "token", key = "c/" .. id } }       -- one try
    return nil, "invalid_grant"
  end
  local nonce = access.random()
  local at, rt = successors(id, p.code, nonce)
  local refreshes = has(pending.scopes, "offline_access")
  local entry = { hash = access.hash("access", at), expires_at = now + M.ACCESS_LIFE, scopes = snapshot(role, pending.scopes) }
  local kept = store().peek("client", "c/" .. client.key)
  local ops = { context = changes.page(q, pending.user, pending.client_name),
    { op = "del", db = "token", key = "c/" .. id, version = pending.version },
    { op = "put", db = "grant", key = "g/" .. id, version = 0, fresh = true, plain = { connection = id, user = pending.user, user_id = pending.user_id,
      tenant = pending.tenant, tenant_id = pending.tenant_id, client = pending.client, client_key = client.key, client_name = pending.client_name,
      gateway = pending.gateway, scopes = pending.scopes, code = hash, rotation = 1, created = now } },
    { op = "put", db = "token", key = "f/" .. id, version = 0, plain = { access = { entry }, refresh = refreshes and access.hash("refresh", rt) or nil,
      rotation = 1, expires_at = now + M.REFRESH_LIFE } },
  }
  if not kept then
    ops[4] = { op = "put", db = "client", key = "c/" .. client.key, plain = { client = client.key, name = pending.client_name,
      redirect_uris = { pending.redirect_uri }, source = pending.source, created = now } }
  end
  local ok, why = store().commit(ops)
  if why == "conflict" then M.finish(id, by_client(q, client)) end      -- two at once: that is a second use as well
  if not ok then return nil, why == "conflict" and "invalid_grant" or "server_error" end
  return answer(at, refreshes and rt or nil, entry, now)
end

--- The connection of a refresh token that was made here, be it used up | nil
function M.made(text)
  local id, rest = take_apart(text, "sp_rt_")
  local secret, mark = (rest or ""):match("^(%w+)%.(%w+)$")
  return secret and access.same(mark, seal(id, secret)) and id or nil
end

--- Renews (RFC 6749 6, OAuth 2.1 4.3). -> answer | nil, error
function M.refresh(p, client, q)
  local now = q.now
  local text = p.refresh_token or ""
  local id = M.made(text)
  if not id then return nil, "invalid_grant" end
  local grant, _, role = M.standing(id, now)
  local family = family_of(id, grant)
  if not family or not grant or grant.client_key ~= client.key then return nil, "invalid_grant" end
  if other_target(p.resource, grant.gateway) then return nil, "invalid_target" end
  local hash = access.hash("refresh", text)
  local before = family.before
  if before and access.same(hash, before.hash) and now - before.at <= GRACE and now >= before.at then
    -- The answer was lost, or another process of the client was faster: the same again.
    local at, rt = successors(id, text, before.nonce)
    local entry = family.access[#family.access]
    if access.same(entry.hash, access.hash("access", at)) and access.same(family.refresh, access.hash("refresh", rt)) then
      return answer(at, rt, entry, now)
    end
  end
  if not access.same(hash, family.refresh) then
    M.finish(id, by_client(q, client))        -- one that was used up: somebody else has it (RFC 9700 4.14.2)
    return nil, "invalid_grant"
  end
  if family.expires_at <= now then return nil, "invalid_grant" end
  for word in (p.scope or ""):gmatch("%S+") do
    if not has(grant.scopes, word) then return nil, "invalid_scope" end
  end
  local nonce = access.random()
  local at, rt = successors(id, text, nonce)
  local entry = { hash = access.hash("access", at), expires_at = now + M.ACCESS_LIFE, scopes = snapshot(role, grant.scopes, p.scope) }
  local list = {}
  for _, e in ipairs(family.access) do
    if e.expires_at > now then list[#list + 1] = e end
  end
  list[#list + 1] = entry
  while #list > KEPT do table.remove(list, 1) end
  grant.rotation = (grant.rotation or 0) + 1
  local ok, why = store().commit {
    { op = "put", db = "token", key = "f/" .. id, version = family.version, plain = { access = list, refresh = access.hash("refresh", rt),
      before = { hash = hash, nonce = nonce, at = now }, rotation = grant.rotation, expires_at = now + M.REFRESH_LIFE } },
    { op = "put", db = "grant", key = "g/" .. id, version = grant.version, plain = grant },
  }
  if why == "conflict" then return nil, "again" end
  if not ok then return nil, "server_error" end
  return answer(at, rt, entry, now)
end

--- The access token's entry and connection: id, entry | nil.
function M.find(text, now)
  local id, secret = take_apart(text, "sp_at_")
  local family = secret and family_of(id, store().peek("grant", "g/" .. id))
  if not family then return nil end
  local hash = access.hash("access", text)
  for _, e in ipairs(family.access) do
    if e.expires_at > now and access.same(e.hash, hash) then return id, e end
  end
end

--- The connection of a token that counts, access or refresh: id, what it is, its entry | nil.
function M.owner(text, now)
  local id, entry = M.find(text, now)
  if id then return id, "access_token", entry end
  id = take_apart(text, "sp_rt_")
  local family = id and family_of(id, store().peek("grant", "g/" .. id))
  if family and family.refresh and access.same(family.refresh, access.hash("refresh", text)) then return id, "refresh_token", family end
end

return M
