--- sallyport explain for a request that comes in at the door: who it is, what their scopes allow, what the tool needs. What decides is
-- the door's own code (web.verify, web.mcp); here it is told apart why.
local access = require "web.access"
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"
local M = {}

local function now() return require("time").wall() end

local function need(name, prefix, what, text, list)
  local record = db.peek(name, prefix .. text, ("the %s '%s'"):format(what, report.clean(text)))
  if record then return record end
  local near = records.nearest(text, db.names(name, prefix))
  report.fail(("there is no %s '%s'"):format(what, report.clean(text)), near and ("did you mean %s?"):format(near) or ("sallyport %s"):format(list))
end

local function key_named(name)
  for key, k in db.each("grant", "k/") do
    if k and k.name == name then return key, k end
  end
  report.fail(("there is no key '%s'"):format(report.clean(name)), "sallyport key list")
end

-- The gateway whose address a URL is.
local function gateway_of(url)
  local issuer = access.issuer()
  if not issuer then report.fail("the door has no address yet", "sallyport set public-url https://box.example.org") end
  local bare = url:match("^[^?#]*")
  local name = require("web.oauth").gateway_of(bare)
  if name then return access.gateway(name) end
  local asked = bare:match("/mcp/([^/]+)/?$") or ""
  local near = records.nearest(asked, db.names("gateway", ""))
  report.fail(("no gateway is published at %s"):format(report.clean(bare)),
    near and ("did you mean %s/mcp/%s?"):format(issuer, near) or ("a request through the door is for %s/mcp/NAME: sallyport gateway list"):format(issuer))
end

-- Why a tenant, and a user in it, may do nothing there: text | nil; and the role's record.
local function trouble(door, tenant_id, user_id, role_name)
  local tenant = require("store").peek("agent", "a/" .. door.tenant)
  if not tenant or tenant.kind ~= "tenant" then return ("there is no tenant '%s'"):format(door.tenant) end
  if tenant.revoked then return ("the tenant '%s' is revoked"):format(door.tenant) end
  if tenant.expires_at and tenant.expires_at <= now() then return ("the tenant '%s' has expired"):format(door.tenant) end
  if tenant_id and tenant.id ~= tenant_id then return ("the tenant '%s' is another than the one that was approved"):format(door.tenant) end
  local user = door.user and require("store").peek("user", "u/" .. door.user)
  if door.user and not user then return ("there is no user '%s'"):format(door.user) end
  if user and user.disabled then return ("the user '%s' is disabled"):format(door.user) end
  if user and user_id and user.id ~= user_id then return ("the user '%s' is another than the one who approved"):format(door.user) end
  door.role = role_name or user and user.tenants[door.tenant]
  if not door.role then return ("the user '%s' is not in the tenant '%s'"):format(door.user, door.tenant) end
  local role = access.role(door.role)
  if not role then return ("there is no role '%s' any more"):format(door.role) end
  return nil, role
end

-- The connection that a client of this user has here: its grant | nil
local function connection_of(opt, user, gateway)
  local found
  for _, g in ipairs(access.connections_of(user)) do
    if g.client_key == opt.client and g.gateway == gateway.name and (not opt.tenant or g.tenant == opt.tenant) and (not found or g.created > found.created) then found = g end
  end
  return found
end

-- Who asks: door's members, what web.verify makes of it | nil, why
local function who(opt, gateway, door)
  local verify, time = require "web.verify", now()
  if opt.key then
    local key, k = key_named(opt.key)
    door.key, door.tenant, door.user = k.name, k.tenant, k.user
    door.snapshot = k.scopes
    local why, role = trouble(door, k.tenant_id, k.user_id, k.role)
    if k.expires_at and k.expires_at <= time then why = "the key has expired" end
    local other = k.gateways ~= nil
    for _, g in ipairs(k.gateways or {}) do other = other and g ~= gateway.name end
    return verify.of_key(key, gateway, time), why or other and "the key is not for this gateway" or nil, role
  end
  local user = opt.user and need("user", "u/", "user", access.user_name(opt.user) or opt.user, "user list")
  local client = opt.client and need("client", "c/", "client", opt.client, "client list")
  local grant = opt.connection and need("grant", "g/", "connection", opt.connection, "connection list")
    or client and user and connection_of(opt, user, gateway)
  if client then door.client = client.name or client.client end
  if grant then
    if user and grant.user ~= user.name then report.fail(("that connection is %s's"):format(grant.user)) end
    if opt.tenant and grant.tenant ~= opt.tenant then report.fail(("that connection acts as '%s'"):format(grant.tenant)) end
    local family = require("store").peek("token", "f/" .. grant.connection)
    local entry = family and family.access[#family.access]
    door.connection, door.tenant, door.user, door.client = grant.connection, grant.tenant, grant.user, grant.client_name or grant.client_key
    door.snapshot = entry and entry.scopes or grant.scopes
    local why, role = trouble(door, grant.tenant_id, grant.user_id)
    if grant.gateway ~= gateway.name then why = ("the connection is for the gateway '%s'"):format(grant.gateway) end
    if not family then why = why or "its tokens have ended" end
    if entry and entry.expires_at <= time then
      door.note = family.expires_at > time and family.refresh and "its access token has expired: the client renews it first" or "its tokens have expired: the client asks for a sign-in"
    end
    return family and verify.of_grant(grant.connection, door.snapshot, gateway, time), why, role
  end
  if not user or not opt.tenant then
    report.usage("a request through the door is somebody's", "--user U --tenant T, --connection ID, --user U --client CLIENT, or --key NAME")
  end
  door.user, door.tenant = user.name, need("agent", "a/", "tenant", opt.tenant, "tenant list").name
  door.note = client and "this client is not connected: as after a sign-in where all was approved" or "as after a sign-in where all was approved"
  local why, role = trouble(door)
  return role and verify.would(door.tenant, door.user, role, gateway), why, role
end

--- The request of `opt` (options of explain) for a gateway's address: door = what --json shows as `door`, and the gateway's record.
-- door.decision is "allow" or "deny", with status, code and why.
function M.judge(opt, method, url, ctx)
  local running = require("cli.home").running(ctx)
  access.public = running and running.flags and running.flags.public_url or nil
  local gateway = gateway_of(url)
  local verify = require "web.verify"
  local door = { gateway = gateway.name, upstream = gateway.url }
  local f, why, role = who(opt, gateway, door)
  local function deny(status, code, text)
    door.decision, door.status, door.code, door.why = "deny", status, code, text
    return door, gateway
  end
  local all = verify.scopes_of(gateway)
  door.role_allows = role and report.array(access.allowed(role, all)) or nil
  door.snapshot = door.snapshot and report.array(door.snapshot) or nil
  if not f then return deny(401, "invalid_token", why or "the token is not good here, or no longer") end
  door.scopes = report.array()
  for _, s in ipairs(all) do door.scopes[#door.scopes + 1] = f.scopes[s] and s or nil end
  if method ~= "POST" and method ~= "GET" and method ~= "DELETE" then return deny(405, "method_not_allowed", "an MCP server is asked with POST, GET and DELETE") end
  door.mcp_method, door.tool = opt.tool and "tools/call" or opt.mcp, opt.tool
  if method == "POST" and not door.mcp_method then door.note = door.note or "name what is asked for: --tool create_page, or --mcp resources/read" end
  if door.mcp_method and method ~= "POST" then report.usage("a message to an MCP server is a POST") end
  if door.mcp_method then
    local ok, needs = require("web.mcp").allowed(f, { method = door.mcp_method }, { name = opt.tool or "" })
    door.needs = report.array(type(needs) == "table" and needs or require("web.mcp").needs(f, door.mcp_method, opt.tool))
    if not ok and type(needs) ~= "table" then return deny(200, "method_not_found", "the door passes on no such method") end
    if not ok then return deny(403, "insufficient_scope", ("this connection may not: %s"):format(table.concat(needs, " "))) end
  end
  door.decision = "allow"
  return door, gateway
end

--- The lines that say it: { name, value }…
function M.lines(door)
  local function list(v) return v and (v[1] and table.concat(v, ", ") or "none") or nil end
  local scopes = list(door.scopes)
  if scopes and door.snapshot then scopes = ("%s (was given %s; the role allows %s now)"):format(scopes, list(door.snapshot), list(door.role_allows)) end
  return {
    { "door", ("gateway %s, for %s"):format(door.gateway, door.upstream) }, { "key", door.key }, { "user", door.user },
    { "client", door.client and door.client .. (door.connection and ", connection " .. door.connection or "") },
    { "tenant", door.tenant .. (door.role and (", as %s"):format(door.role) or "") }, { "scopes", scopes },
    { "tool", door.tool }, { "asks", not door.tool and door.mcp_method or nil }, { "needs", door.needs and (door.needs[1] and table.concat(door.needs, ", ") or "no scope") },
    { "why", door.why }, { "note", door.note },
  }
end

return M
