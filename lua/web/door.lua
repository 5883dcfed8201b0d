--- The door: a request of the world, that came in at a gateway. Whether it came as it may (Host, Origin, through which
-- proxy), what CORS says, and then the router's answer, or the request handed on as a tenant's.
local body_of, host, mcp = require "web.body", require "host", require "web.mcp"
local M = {}

local FORM_MAX = 64 << 10       -- bytes of a form or a registration
local MCP_MAX = 4 << 20         -- bytes of a message to an MCP server, which is judged whole
local FORWARDED_MAX = 32        -- addresses of X-Forwarded-For that are looked at
local KNOWN_MAX = 1000          -- tokens at their gateways that are known without a look at the store
local KNOWN_LIFE = 60           -- s

-- What a page of another site may read and call (CORS): no page of ours.
local function is_machine(path)
  return path:find("^/%.well%-known/") or path:find("^/oauth/%a+$") and path ~= "/oauth/authorize" or path:find("^/mcp/")
end

--- The authority of a URL as Host may write it: { ["box.example.org"] = true, ["box.example.org:443"] = true }
local hosts = setmetatable({}, { __mode = "v" })
local function hosts_of(url)
  local known = hosts[url]
  if not known then
    local scheme, authority = url:match("^(%a+)://(.+)$")
    known = { [authority] = true }
    if not authority:find(":%d+$") then known[authority .. (scheme == "https" and ":443" or ":80")] = true end
    hosts[url] = known
  end
  return known
end

-- An address as proxies write it: 192.0.2.1, 192.0.2.1:4711, [2001:db8::1]:4711
local function address(text)
  local addr = require "addr"
  return addr.parse(text) or addr.parse(text:match("^%[([%x:.]+)%]:?%d*$") or text:match("^([%d.]+):%d+$") or "")
end

local function trusts(trusted, at)
  for _, range in ipairs(trusted) do
    if require("addr").within(at, range) then return true end
  end
  return false
end

--- The client's address: the other end's, or what a trusted proxy says it was (the rightmost address that is not a
-- trusted proxy's, or the last trusted one before a text that is no address).
function M.client(peer, forwarded, trusted)
  if not forwarded then return peer end
  local at, left = peer, FORWARDED_MAX
  for text in forwarded:reverse():gmatch("[^,]+") do
    if not trusts(trusted, at) or left == 0 then break end
    local before = address(text:reverse():match("^%s*(.-)%s*$"))
    if not before then break end
    at, left = before, left - 1
  end
  return at
end

--- May a page of this origin ask? `site`: Sec-Fetch-Site, which no page can set. A form of a page that sends no referrer
-- has the origin "null" (Fetch, 3.2).
function M.origin_ok(origin, site, settings)
  if origin == nil or origin == settings.public_url then return true end
  if origin == "null" then return site == "same-origin" end
  for _, one in ipairs(settings.gateway_origins or {}) do
    if origin == one then return true end
  end
  return false
end

local function cors(origin, path)
  if not origin or origin == "null" or not is_machine(path) then return {} end
  return { { "Access-Control-Allow-Origin", origin }, { "Vary", "Origin" },
    { "Access-Control-Expose-Headers", "WWW-Authenticate, Mcp-Session-Id, Mcp-Protocol-Version" } }
end

local function preflight(req, fields)
  fields[#fields + 1] = { "Access-Control-Allow-Methods", "GET, POST, DELETE" }
  fields[#fields + 1] = { "Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, Last-Event-ID, "
    .. "Mcp-Session-Id, Mcp-Protocol-Version, Mcp-Method, Mcp-Name, *" }
  fields[#fields + 1] = { "Access-Control-Max-Age", "600" }
  req:respond(204, fields, "")
end

-- The request becomes the tenant's, for the gateway's URL. It counts as the tenant's before its body is read, which has to
-- find room among the tenant's own.
local function hand_on(self, req, forward, fields, came, behind)
  local tenant = self.config:agent_named(forward.tenant)
  if req:log { agent = forward.tenant, requests = tenant and tenant.requests, decision = "allow", behind = behind } == false then
    return req:fail(429, "too_many", "this tenant has its share of requests in use", "", { close = true, retry_after = 1 })
  end
  local body = body_of.read(self, req, MCP_MAX)
  if not body then return end
  local url = forward.parsed or require("http").parse_url(forward.url)
  forward.parsed = url
  if not url then return req:fail(502, "policy_failed", "this gateway's URL is malformed") end
  local what, answer, denied = mcp.judge(forward, req.method, came, type(body) == "string" and body or nil)
  if not req:hand_on { host = url.host, port = url.port, tls = url.scheme == "https", path = url.path, query = url.query,
    connection = forward.connection, fields = fields } then
    return req:fail(429, "too_many", "this connection has its share of requests or streams in use", "", { retry_after = 1 })
  end
  local about = what or denied
  local ours = req:mcp(mcp.view(forward), mcp.note(forward, about and about.method, about and about.name))
  if what and not ours then answer = mcp.unknown end
  if not answer and what.body then req:view().body = what.body end
  if not answer then return self:on_tenant(req, forward.tenant, forward.record and forward.record.credential) end
  req:respond(answer.status, answer.headers, answer.body)
  req:log { agent = forward.tenant, decision = "deny",      -- last: what is answered counts as allowed
    reason = answer.status == 403 and "insufficient_scope" or answer == mcp.unknown and "unknown_session" or "bad_request" }
end

-- What the router answered lately to who showed this at this path, while no record has changed: ending a connection, a
-- key, a user changes one. The key is a hash, for no token is to lie about. (One block of it: the path is compared.)
local lately
local function known_key(shown) return shown and host.sha256_hex(shown) end

local function known(self, key, path)
  local kept = key and lately and lately:get(key)
  if not kept or kept.generation ~= self.config.applied or kept.path ~= path then return nil end
  local now = self.time.wall()
  if kept.since <= now and now < kept.until_ then return kept.out end
end

local function note(self, key, path, out)
  local now = self.time.wall()
  lately = lately or require("config").cache(KNOWN_MAX)
  lately:put(key, { out = out, path = path, generation = self.config.applied, since = now,
    until_ = math.min(out.forward.expires_at or math.maxinteger, now + KNOWN_LIFE) })
end

--- A stream that goes on: does its connection (info.token) still stand, and may it still what was asked for?
-- info.mcp: the record's members of the request, as C keeps them.
function M.still(info)
  local again = require("web.router").again
  return not again or again { connection = info.token, tenant = info.agent, asked = require("json").decode("{" .. info.mcp:sub(2) .. "}") } ~= nil
end

-- Ends a request that is no message to a gateway: an error as elsewhere or, where a person looks on, a page that says it. The record is the same.
local function refuse(req, came, status, code, message, hint)
  if not (came.accept or ""):find("text/html", 1, true) then return req:fail(status, code, message, hint, { close = true }) end
  local function sentence(text) return (text:gsub("^%l", string.upper)) .. ". " end
  local out = require("web.page").says(status, "This request cannot go on", sentence(message) .. (hint and sentence(hint) or "") .. "Go back, and try again.")
  req:respond(status, out.headers, out.body)
  req:log { decision = "deny", reason = code, error = code }      -- last: what is answered counts as allowed. It brings X-Sallyport-Error
end

--- pipeline.request for a request of form "door".
function M.answer(self, req)
  local settings = self.config.settings
  local public = settings.public_url
  local came, peer = req:came()
  if not public then return refuse(req, came, 503, "injection_unavailable", "this door has no public-url") end
  if not hosts_of(public)[(came.host or ""):lower()] then
    return refuse(req, came, 421, "misdirected", "Host is not this door's", "a reverse proxy passes on the Host that it was asked for")
  end
  local origin, path = came.origin, req.path
  if not M.origin_ok(origin, came["sec-fetch-site"], settings) then
    return refuse(req, came, 403, "origin_refused", "pages of this origin may not ask here")
  end
  local fields = cors(origin, path)
  if req.method == "OPTIONS" then return preflight(req, fields) end
  local forwards = path:find("^/mcp/") ~= nil
  local body = not forwards and body_of.read(self, req, FORM_MAX, function(...) refuse(req, came, ...) end)
  if not forwards and not body then return end
  local key = forwards and known_key(came.authorization)
  local before = known(self, key, path)
  local client = M.client(peer, came["x-forwarded-for"], settings.trusted_proxy or {})
  local behind = client ~= peer and client or nil
  if before then return hand_on(self, req, before.forward, fields, came, behind) end
  local generation = self.config.applied
  local out = require("web.router").handle {
    pipeline = self, public = public, method = req.method, path = path, query = req.query, body = type(body) == "string" and body or nil,
    header = function(name) return came[name:lower()] end,
    peer = client,
    secure = public:find("^https:") ~= nil, now = self.time.wall(),
  }
  if out.forward and generation == self.config.applied then note(self, key, path, out) end
  if out.forward then return hand_on(self, req, out.forward, fields, came, behind) end
  for _, f in ipairs(out.headers or {}) do fields[#fields + 1] = f end
  req:respond(out.status, fields, out.body or "")
end

return M
