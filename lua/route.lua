--- Which way a request goes: straight, or through the upstream proxy (the settings upstream-proxy, upstream-no-proxy).
-- That proxy looks names up, so the address guard sees none of their addresses. So a name that means something else in
-- each network is reached only where an entry names it exactly, and so is every name whose certificate we do not check.
--
-- route.new(settings) -> route | nil: no upstream proxy is set
-- route:way { host = canonical, port, tls = is the certificate checked, exact = does an entry name this very host,
--   addresses = the entry's own ranges | nil } -> true: through the proxy | false, why: straight
--   | nil, "address_blocked", message, hint
-- route.use(settings) makes it the one of this process; route.through is `way` of that one, route.active
-- tells whether there is one.
local M = {}
M.__index = M

-- Last labels of names that a public resolver does not know, or that are this or that in each network.
local LOCAL = {
  localhost = true,                             -- RFC 6761 6.3
  ["local"] = true,                             -- RFC 6762 3
  arpa = true,                                  -- reverse zones (RFC 1035 3.5, 3596 2.5), home.arpa (RFC 8375), …
  internal = true,                              -- ICANN, 2024; clouds' metadata lives there
  intranet = true, private = true, corp = true, home = true, lan = true,    -- RFC 6762, appendix G
  localdomain = true, domain = true, localhost4 = true, localhost6 = true,  -- what distributions and routers make up
}

--- Does this canonical name mean something else in each network: one label, or below one of those?
function M.is_local(name)
  local last = name:match("%.([^.]+)$")
  return not last or LOCAL[last] == true
end

-- ---- upstream-no-proxy ---------------------------------------------------------------------------

-- "[::1]:443", "::1", "10.0.0.0/8", "host:443" -> what stands before the port, the port | nil: it is none
local function split_port(text)
  local inner, after = text:match("^%[([^%]]*)%](.*)$")
  if inner then
    if after == "" then return inner, nil, true end
    return inner, after:match("^:(%d+)$") or false, true
  end
  local host, port = text:match("^([^:]*):(%d+)$")
  if host then return host, port end
  return text
end

--- One entry as it is kept, and as it is compared: text, { any | cidr | name, below = only what is below, port } | nil, why.
-- host, host:port: it and what is below it; .suffix, *.suffix: what is below it; an address or CIDR: hosts that are
-- written as addresses; *: every host.
function M.entry(given)
  local addr, http, records = require "addr", require "http", require "records"
  local text = given:match("^%s*(.-)%s*$")
  if text == "*" then return "*", { any = true } end
  local what, digits, bracketed = split_port(text)
  local port
  if digits == false then return nil, "that is no port: api.corp.example:8443, [fd00::1]:443" end
  if digits then
    port = records.port(digits)
    if not port then return nil, "a port is a number from 1 to 65535" end
  end
  local function shown(s) return s .. (port and ":" .. port or "") end
  local literal = addr.parse(what)
  if bracketed and not literal then return nil, "in brackets stands an IPv6 address: [fd00::1]:443" end
  if literal or what:find("/", 1, true) then
    local cidr, why = records.cidr(what)
    if not cidr then return nil, why end
    return shown(port and literal and require("errors").host(literal) or literal or cidr), { cidr = cidr, port = port }
  end
  local below = what:match("^%*?%.(.+)$")
  local name, why = http.canonical_host(below or what)
  if not name then
    return nil, ("%s (forms: host, host:port, .suffix, *.suffix, address, CIDR, *)"):format(why or "that is no host")
  end
  if addr.parse(name) then return M.entry(shown(name)) end
  return shown((below and "." or "") .. name), { name = name, below = below ~= nil, port = port }
end

-- Does one entry hold? host: canonical, an address where `literal`.
local function holds(e, host, port, literal)
  if e.port and e.port ~= port then return false end
  if e.any then return true end
  if e.cidr then return literal and require("addr").within(host, e.cidr) or false end
  if literal then return false end
  if not e.below and e.name == host then return true end
  return #host > #e.name and host:sub(-#e.name - 1) == "." .. e.name
end

--- Does one of the entries of a NO_PROXY hold? What is no entry counts for nothing.
function M.listed(texts, host, port)
  local literal = require("addr").parse(host) ~= nil
  for _, text in ipairs(texts) do
    local _, e = M.entry(text)
    if type(e) == "table" and holds(e, host, port, literal) then return true end
  end
  return false
end

-- ---- the way -------------------------------------------------------------------------------------

function M.new(settings)
  if not settings.upstream_proxy then return nil end
  local self = setmetatable({ proxy = settings.upstream_proxy, to = {}, straight = {} }, M)
  local records = require "records"
  for _, text in ipairs(settings.connect_to or {}) do self.to[#self.to + 1] = records.connect_parts(text) end
  for _, text in ipairs(settings.upstream_no_proxy or {}) do
    local kept, entry = M.entry(text)
    if kept then
      entry.text = kept
      self.straight[#self.straight + 1] = entry
    end
  end
  return self
end

-- Why a host does without the proxy; nil: it does not.
local function straight(self, spec, literal)
  for _, to in ipairs(self.to) do
    if (to[1] == "" or to[1] == spec.host) and (to[2] == "" or tonumber(to[2]) == spec.port) then return "connect-to" end
  end
  if spec.addresses and #spec.addresses > 0 then return "--address: its name is looked up here" end
  for _, e in ipairs(self.straight) do
    if holds(e, spec.host, spec.port, literal) then return "upstream-no-proxy " .. e.text end
  end
end

local HINT = "the operator can name it in place of a wildcard (--host %s), or reach it without that proxy: "
  .. "sallyport set upstream-no-proxy %s"

function M:way(spec)
  local host = spec.host
  local literal = require("addr").parse(host) ~= nil
  local why = straight(self, spec, literal)
  if why then return false, why end
  if spec.exact or literal and spec.tls then return true end
  local what = not literal and M.is_local(host) and "a name of its own network" or not spec.tls and "a host without a certificate to check"
  if not what then return true end
  local shown = require("errors").host(host)
  return nil, "address_blocked",
    ("%s is %s, and the upstream proxy would look it up: it is reached only where an entry names it exactly"):format(shown, what), HINT:format(shown, shown)
end

-- ---- of this process -----------------------------------------------------------------------------

local now     -- as C was configured: proxy.c's `via` and this change together

function M.use(settings) now = M.new(settings) end

function M.active() return now ~= nil end

--- As route:way; false where no upstream proxy is set.
function M.through(spec)
  if not now then return false end
  return now:way(spec)
end

--- http_client, whose requests go the way of their host. spec.exact: the operator named this very host.
M.client = {
  request = function(spec, deadline)
    local url = assert(require("http").parse_url(spec.url))
    local via, code = M.through { host = url.host, port = url.port, tls = url.scheme == "https", exact = spec.exact, addresses = spec.addresses }
    if via == nil then return nil, code, "not through the upstream proxy, which would look this name up" end
    local authority, rest = spec.url:match("://([^/?]+)(.*)$")
    spec.via, spec.host, spec.port, spec.secure, spec.authority = via, url.host, url.port, url.scheme == "https", authority
    spec.target = spec.target or rest
    return require("http_client").request(spec, deadline)
  end,
}

return M
