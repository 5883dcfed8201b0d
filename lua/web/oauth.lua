--- The authorization server (OAuth 2.1, RFC 8414, 9728, 8707, 9207, 7009, 7662): what stands below /oauth and /.well-known.
local access = require "web.access"
local clients = require "web.client"
local page = require "web.page"
local redirect = require "web.redirect"
local sessions = require "web.sessions"
local tokens = require "web.tokens"
local html = page.html
local M = {}

local ENOUGH = 8192     -- bytes of a query: ten times what clients send

-- ---- metadata ------------------------------------------------------------------------------------

local function only_gateway()
  local list = require("store").each("gateway", "", nil, 2) or {}
  return #list == 1 and list[1].record or nil
end

--- The gateway whose resource (RFC 8707) a text names: its name | nil. A scheme and host in capitals, and a slash behind, are the
-- same resource; nothing else is.
function M.gateway_of(resource)
  local scheme, authority, path = resource:match("^(%a+://)([^/]+)(/.*)$")
  local name = scheme and (scheme .. authority):lower() == access.issuer() and path:match("^/mcp/([%w._-]+)/?$")
  return name and access.gateway(name) and name or nil
end

--- RFC 8414 2.
function M.server()
  local at = access.issuer()
  local methods = { "none", "client_secret_basic", "client_secret_post" }
  local scopes, seen = {}, {}
  local function add(list)
    for _, s in ipairs(list or {}) do
      if not seen[s.name] then seen[s.name], scopes[#scopes + 1] = true, s.name end
    end
  end
  add(access.scopes)
  for _, g in access.each("gateway", "") do add(g.scopes) end
  return page.json(200, {
    issuer = at, authorization_endpoint = at .. "/oauth/authorize", token_endpoint = at .. "/oauth/token", registration_endpoint = at .. "/oauth/register",
    revocation_endpoint = at .. "/oauth/revoke", introspection_endpoint = at .. "/oauth/introspect", scopes_supported = scopes,
    response_types_supported = { "code" }, response_modes_supported = { "query" }, grant_types_supported = { "authorization_code", "refresh_token" },
    token_endpoint_auth_methods_supported = methods, revocation_endpoint_auth_methods_supported = methods,
    introspection_endpoint_auth_methods_supported = methods, code_challenge_methods_supported = { "S256" },
    authorization_response_iss_parameter_supported = true, client_id_metadata_document_supported = true,
  })
end

--- RFC 9728 2. name: the gateway's; "": the only one there is.
function M.resource(name)
  local g = name == "" and only_gateway() or access.gateway(name)
  if not g then return page.json(404, { error = "not_found" }) end
  local at = access.issuer()
  return page.json(200, { resource = at .. "/mcp/" .. g.name, authorization_servers = { at }, scopes_supported = require("web.verify").scopes_of(g),
    bearer_methods_supported = { "header" }, resource_name = g.name })
end

-- ---- authorize -----------------------------------------------------------------------------------

local function wrong(text)
  return page.says(400, "This request cannot go on", text .. " Go back to the program that sent you here, and connect it anew.")
end

-- The answer at the client's redirect URI: parameters behind those that it has (RFC 6749 4.1.2), and who answers (RFC 9207).
local function back(r, pairs_)
  local list = {}
  table.move(pairs_, 1, #pairs_, 1, list)
  if r.state then list[#list + 1] = { "state", r.state } end
  list[#list + 1] = { "iss", access.issuer() }
  return page.see(r.redirect_uri .. (r.redirect_uri:find("?", 1, true) and "&" or "?") .. require("form").encode(list))
end

local function refused(r, code, why) return back(r, { { "error", code }, { "error_description", why } }) end

-- Where a sign-in goes on: the request's own query, and nothing else of the world.
local function sign_in(query) return page.see("/login?" .. require("form").encode { { "next", query } }) end

--- The request of a query, judged: { client, redirect_uri, to (parts), state, challenge, gateway, scopes, offline } | nil, answer
local function read(q, query, signed_in)
  if #query > ENOUGH then return nil, wrong "It is too long." end
  local p, twice = page.params(query)
  if not p then return nil, wrong "It is malformed." end
  local client, why = clients.find(q, p.client_id, signed_in)
  if why == "sign_in" then return nil, sign_in(query) end
  if not client then return nil, wrong("The program that asks is not known here" .. (why and (": " .. why) or "") .. ".") end
  local uri = p.redirect_uri or #client.redirect_uris == 1 and client.redirect_uris[1] or nil
  local to = uri and redirect.match(uri, client.redirect_uris)
  twice = twice or {}
  if not to or twice.redirect_uri or twice.client_id then return nil, wrong "The address that the answer should go to is none of the client's." end
  local r = { client = client, redirect_uri = uri, to = to, state = not twice.state and p.state or nil, challenge = p.code_challenge }
  if next(twice) then return nil, refused(r, twice.resource and "invalid_target" or "invalid_request", "a parameter comes twice") end
  if p.response_type ~= "code" then return nil, refused(r, p.response_type and "unsupported_response_type" or "invalid_request", "response_type is code") end
  if p.response_mode and p.response_mode ~= "query" then return nil, refused(r, "invalid_request", "response_mode is query") end
  if p.request or p.request_uri then
    return nil, refused(r, p.request and "request_not_supported" or "request_uri_not_supported", "the parameters stand in the request itself")
  end
  if p.code_challenge_method ~= "S256" or not (r.challenge or ""):find("^[%w_-]+$") or #r.challenge ~= 43 then
    return nil, refused(r, "invalid_request", "PKCE is needed, with S256")
  end
  if p.prompt == "none" then return nil, refused(r, "interaction_required", "a person approves each time") end
  local only = only_gateway()
  r.gateway = access.gateway(p.resource and M.gateway_of(p.resource) or not p.resource and only and only.name or nil)
  if not r.gateway then return nil, refused(r, "invalid_target", "resource names none of the servers here") end
  local asked, known = {}, access.known(r.gateway)
  for word in (p.scope or ""):gmatch("%S+") do asked[word] = true end
  if client.refreshes then asked.offline_access = true end
  local none = true
  for _, s in ipairs(known) do none = none and not (s.name ~= "offline_access" and asked[s.name]) end
  r.scopes = {}
  for _, s in ipairs(known) do
    if asked[s.name] or none and (s.name ~= "offline_access" or not p.scope) then r.scopes[#r.scopes + 1] = s end
  end
  return r
end

-- The tenants in which this person has a role that exists: { name, role } …
local function tenants_of(user, now)
  local out = {}
  for name, role in pairs(user.tenants) do
    local r = access.role(role)
    if r and access.tenant(name, now) then out[#out + 1] = { name = name, role = r } end
  end
  table.sort(out, function(a, b) return a.name < b.name end)
  return out
end

local function consent(q, r, query, session, note)
  local tenants, picks, scopes = tenants_of(session.user, q.now), {}, {}
  for i, t in ipairs(tenants) do
    picks[i] = html('<label class="pick"><input type="radio" name="tenant" value="{name}" required{on}> {name} <small>{role}</small></label>',
      { name = t.name, role = t.role.name, on = #tenants == 1 and html(" checked") })
  end
  for _, s in ipairs(r.scopes) do
    local where = {}
    for _, t in ipairs(tenants) do where[#where + 1] = access.allows(t.role, s.name) and t.name or nil end
    if where[1] then
      scopes[#scopes + 1] = html('<label class="pick"><input type="checkbox" name="scope" value="{name}" checked> {says} <small>{name}{where}</small></label>',
        { name = s.name, says = s.says, where = #where < #tenants and "; only in " .. table.concat(where, ", ") })
    end
  end
  if not tenants[1] then
    return page.says(403, "Nothing to connect to", "You have signed in, but nobody has given you a tenant here. Ask who runs this box.")
  end
  local shown, origin = redirect.shown(r.to, r.redirect_uri)
  local warning = r.to.private and "The answer goes to a program on your device that this address opens. Any program can claim it: go on only if you have just started this."
    or r.to.loopback and "The answer goes to a program on your own computer. Go on only if you have just started this there."
  return page.page(200, "Connect to " .. r.gateway.name, html([[
{note}<p><strong><bdi>{client}</bdi></strong> wants to use <strong>{gateway}</strong> at {box} as you, <strong>{user}</strong>.</p>
<p>It calls itself that; nobody has checked the name. The answer goes to <strong>{host}</strong>.</p>{warning}
<form method="post" action="/consent"><input type="hidden" name="request" value="{query}"><input type="hidden" name="csrf" value="{csrf}">
<fieldset><legend>Act for</legend>{picks}</fieldset>
<fieldset><legend>It may</legend>{scopes}</fieldset>
<button class="go" name="do" value="approve">Approve</button><button name="do" value="deny" formnovalidate>Cancel</button></form>
<form method="post" action="/logout"><input type="hidden" name="csrf" value="{out}"><input type="hidden" name="next" value="{query}"><button>Sign in as somebody else</button></form>]], {
    note = note ~= nil and html('<p class="warn" role="alert">{note}</p>', { note = note }), client = r.client.name or "A program without a name",
    gateway = r.gateway.name, box = access.issuer():gsub("^https?://", ""), user = session.user.name, host = shown, query = query,
    csrf = sessions.csrf(session.key, "consent/" .. query), out = sessions.csrf(session.key, "logout"), picks = picks, scopes = scopes,
    warning = warning ~= nil and html('<p class="warn">{w}</p>', { w = warning }),
  }), nil, origin)
end

-- Somebody of whom a second factor is wanted sets it up first.
local function unready(session) return session.user.totp_wanted and not session.user.totp end

--- GET /oauth/authorize
function M.authorize(q)
  local query = q.query or ""
  local session = sessions.current(q)
  local r, answer = read(q, query, session ~= nil)
  if not r then return answer end
  if not session then return sign_in(query) end
  if unready(session) then return page.see("/login/totp?" .. require("form").encode { { "next", query } }) end
  return consent(q, r, query, session)
end

--- POST /consent
function M.decide(q)
  local p, twice, ticked = page.posted(q, "scope")
  local session = sessions.current(q)
  if not p or twice or not p.request then return wrong "The form was not filled in here." end
  if not session then return sign_in(p.request) end
  if unready(session) then return page.see "/login/totp" end
  if not sessions.csrf_ok(session.key, "consent/" .. p.request, p.csrf) then return wrong "The form was not filled in here." end
  local r, answer = read(q, p.request, true)
  if not r then return answer end
  if p["do"] ~= "approve" then return refused(r, "access_denied", "the person said no") end
  local tenant
  for _, t in ipairs(tenants_of(session.user, q.now)) do
    if t.name == p.tenant then tenant = t end
  end
  if not tenant then return consent(q, r, p.request, session, "Pick what to act for.") end
  local scopes = {}
  for _, s in ipairs(r.scopes) do
    for _, name in ipairs(ticked) do
      if name == s.name then
        scopes[#scopes + 1] = name
        break
      end
    end
  end
  if #access.allowed(tenant.role, scopes) == 0 then return consent(q, r, p.request, session, "Leave at least one thing ticked that is allowed there.") end
  local code, why = tokens.code(session.user, { user = session.user.name, user_id = session.user.id, tenant = tenant.name,
    tenant_id = access.tenant(tenant.name, q.now).id, client = r.client.id, client_key = r.client.key, client_name = r.client.name, source = r.client.source,
    gateway = r.gateway.name, scopes = scopes, redirect_uri = r.redirect_uri, challenge = r.challenge }, q.now)
  if not code then return refused(r, why == "full" and "temporarily_unavailable" or "server_error", "the answer could not be kept") end
  return back(r, { { "code", code } })
end

-- ---- token, revoke, introspect -------------------------------------------------------------------

local says = {
  invalid_grant = "the code or token is not good, was used, or has ended", invalid_target = "resource names another server than was approved",
  invalid_scope = "more than was approved", server_error = "the answer could not be kept; try again", again = "another request was faster; try again",
}

local function asked(q)
  local p, twice = page.posted(q)
  if not p or twice then
    return nil, page.json(400, { error = twice and twice.resource and "invalid_target" or "invalid_request", error_description = "the body is a form, each parameter once" })
  end
  local client, answer = clients.authenticate(q, p)
  if not client then return nil, answer end
  return p, client
end

--- POST /oauth/token
function M.token(q)
  local p, client = asked(q)
  if not p then return client end
  local trade = ({ authorization_code = tokens.trade, refresh_token = tokens.refresh })[p.grant_type]
  if not trade then return page.json(400, { error = p.grant_type and "unsupported_grant_type" or "invalid_request" }) end
  local answer, code = trade(p, client, q)
  if code == "again" then answer, code = trade(p, client, q) end        -- two processes of one client at once
  if answer then return page.json(200, answer) end
  local fault = code == "server_error" or code == "again"
  return page.json(fault and 503 or 400, { error = fault and "temporarily_unavailable" or code, error_description = says[code] },
    fault and { { "Retry-After", "1" } } or nil)
end

--- POST /oauth/revoke (RFC 7009): the connection ends, whichever of its tokens was shown. What is not the client's, or no token, is
-- answered alike.
function M.revoke(q)
  local p, client = asked(q)
  if not p then return client end
  if not p.token then return page.json(400, { error = "invalid_request", error_description = "token is missing" }) end
  local id = tokens.owner(p.token, q.now) or tokens.made(p.token)       -- also one whose successor's answer was lost
  local grant = id and require("store").peek("grant", "g/" .. id)
  if grant and grant.client_key == client.key then
    local ok = tokens.finish(id, require("changes").page(q, "client " .. client.key, client.name or grant.client_name))
    if not ok then return page.json(503, { error = "temporarily_unavailable" }, { { "Retry-After", "1" } }) end
  end
  return { status = 200, headers = { { "Cache-Control", "no-store" } }, body = "" }
end

--- POST /oauth/introspect (RFC 7662): of the client's own tokens.
function M.introspect(q)
  local p, client = asked(q)
  if not p then return client end
  local id, what, entry = tokens.owner(p.token or "", q.now)
  local grant, user, role = nil, nil, nil
  if id then grant, user, role = tokens.standing(id, q.now) end
  if not grant or grant.client_key ~= client.key then return page.json(200, { active = false }) end
  return page.json(200, { active = true, token_type = what == "access_token" and "Bearer" or nil, client_id = grant.client, username = user.name, sub = user.id,
    scope = table.concat(access.allowed(role, entry.scopes or grant.scopes), " "), exp = entry.expires_at, iss = access.issuer(),
    aud = access.issuer() .. "/mcp/" .. grant.gateway })
end

return M
